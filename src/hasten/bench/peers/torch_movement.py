"""ONNX's constants, shapes and movements of elements in torch: a part of the table in `torch_operators`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from hasten.bench.peers.torch_graph import Call, Untranslatable, Value, tensor_of


def _constant(c: Call) -> Value:
    for name, value in c.attributes.items():
        if name == "value":
            return Value(tensor_of(value))
        if name in ("value_float", "value_floats", "value_int", "value_ints"):
            return c.builder.constant(value, torch.float32 if "float" in name else torch.int64)
    raise Untranslatable("constants of this kind")


def _constant_of_shape(c: Call, shape: Value) -> Value:
    value = tensor_of(c.get("value")) if c.get("value") is not None else torch.zeros(1)
    return Value(value.reshape(-1)[0].expand(shape.constant()).contiguous())


def _shape(c: Call, x: Value) -> Value:
    return c.builder.constant(list(x.shape)[c.get("start", 0) : c.get("end", x.rank)], torch.int64)


def _reshape(c: Call, x: Value, shape: Value) -> Any:
    sizes = shape.constant()
    if not c.get("allowzero", 0):
        sizes = [x.shape[at] if size == 0 else size for at, size in enumerate(sizes)]
    return c(torch.reshape, x, tuple(sizes))


def _flatten(c: Call, x: Value) -> Any:
    axis = c.get("axis", 1)
    axis += x.rank if axis < 0 else 0
    return c(torch.reshape, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def axes_of(c: Call, given: Value | None) -> list[int] | None:
    """Axes of an attribute, or of an input as newer opsets have it."""
    axes = given.constant() if given is not None else c.get("axes")
    return None if axes is None else list(axes)


def _squeeze(c: Call, x: Value, axes: Value | None = None) -> Any:
    gone = axes_of(c, axes)
    away = {at for at, size in enumerate(x.shape) if size == 1} if gone is None else {axis % x.rank for axis in gone}
    return c(torch.reshape, x, tuple(size for at, size in enumerate(x.shape) if at not in away))


def _unsqueeze(c: Call, x: Value, axes: Value | None = None) -> Any:
    added = axes_of(c, axes) or []
    rank = x.rank + len(added)
    places, sizes = {axis % rank for axis in added}, iter(x.shape)
    return c(torch.reshape, x, tuple(1 if at in places else next(sizes) for at in range(rank)))


def _transpose(c: Call, x: Value) -> Any:
    return c(torch.permute, x, tuple(c.get("perm", range(x.rank)[::-1])))


def _concat(c: Call, *parts: Value) -> Any:
    return c(torch.cat, list(parts), c.get("axis"))


def _split(c: Call, x: Value, sizes: Value | None = None) -> Any:
    axis = c.get("axis", 0)
    parts = sizes.constant() if sizes is not None else c.get("split")
    if parts is None:
        count = c.get("num_outputs", len(c.node.output))
        each = -(-x.shape[axis] // count)
        parts = [min(each, x.shape[axis] - each * at) for at in range(count)]
    return c(torch.split, x, list(parts), axis)


def _slice(c: Call, x: Value, *given: Value | None) -> Any:
    starts, ends = (c.get("starts"), c.get("ends")) if c.opset < 10 else (given[0].constant(), given[1].constant())  # type: ignore[union-attr]
    axes = c.get("axes") if c.opset < 10 else given[2].constant() if len(given) > 2 and given[2] is not None else None
    steps = given[3].constant() if len(given) > 3 and given[3] is not None else [1] * len(starts)
    for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps, strict=True):
        size = x.shape[axis]
        places = range(*slice(start, end if not (step < 0 and end < -size) else None, step).indices(size))
        if step < 0:
            x = c(torch.index_select, x, axis, c.builder.constant(list(places), torch.int64))
        elif len(places) != size:
            x = _sliced(c, x, axis, places.start, places.stop, step)
    return x


def _sliced(c: Call, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Any:
    return c(torch.ops.aten.slice.Tensor, x, axis, start, max(start, stop), step)


def _gather(c: Call, x: Value, index: Value) -> Any:
    axis = c.get("axis", 0) % x.rank
    if index.known:
        index = Value(torch.where(index.example < 0, index.example + x.shape[axis], index.example))
        if index.rank == 0:
            return c(torch.select, x, axis, int(index.example))
    else:
        index = c(torch.where, c(torch.lt, index, 0), c(torch.add, index, x.shape[axis]), index)
    if x.rank == 2 and axis == 0 and x.example.is_floating_point():
        return c(F.embedding, index, x)
    flat = c(torch.index_select, x, axis, c(torch.reshape, index, (-1,)))
    return c(torch.reshape, flat, (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _gather_elements(c: Call, x: Value, index: Value) -> Any:
    axis = c.get("axis", 0) % x.rank
    return c(torch.gather, x, axis, c(torch.where, c(torch.lt, index, 0), c(torch.add, index, x.shape[axis]), index))


def _expand(c: Call, x: Value, shape: Value) -> Any:
    return c(torch.Tensor.expand, x, tuple(torch.broadcast_shapes(x.shape, tuple(shape.constant()))))


def _tile(c: Call, x: Value, times: Value) -> Any:
    return c(torch.Tensor.repeat, x, tuple(times.constant()))


def _range(c: Call, start: Value, limit: Value, step: Value) -> Value:
    return Value(torch.arange(start.constant(), limit.constant(), step.constant(), dtype=start.example.dtype))


def _pad(c: Call, x: Value, pads: Value | None = None, value: Value | None = None, axes: Value | None = None) -> Any:
    amounts = c.get("pads") if pads is None else pads.constant()
    fill = c.get("value", 0.0) if value is None else value.constant()
    if isinstance(fill, list):
        (fill,) = fill
    where = [axis % x.rank for axis in axes.constant()] if axes is not None else list(range(x.rank))
    before, after = [0] * x.rank, [0] * x.rank
    for at, axis in enumerate(where):
        before[axis], after[axis] = amounts[at], amounts[len(where) + at]
    mode = c.get("mode", "constant")
    if mode == "constant":
        return c(F.pad, x, [n for at in reversed(range(x.rank)) for n in (before[at], after[at])], mode, fill)
    if not any(before[:2] + after[:2]) and 3 <= x.rank <= 5 and mode in ("reflect", "edge"):
        pairs = [n for at in reversed(range(2, x.rank)) for n in (before[at], after[at])]
        return c(F.pad, x, pairs, "replicate" if mode == "edge" else mode)
    for axis, size in enumerate(x.shape):
        if before[axis] or after[axis]:
            places = torch.nn.functional.pad(torch.arange(size, dtype=torch.float64)[None, None], (before[axis], after[axis]), _MIRRORS[mode])
            x = c(torch.index_select, x, axis, c.builder.constant(places.flatten().tolist(), torch.int64))
    return x


_MIRRORS = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _depth_to_space(c: Call, x: Value) -> Any:
    batch, channels, height, width = x.shape
    block = c.get("blocksize")
    if c.get("mode", "DCR") == "CRD":
        return c(F.pixel_shuffle, x, block)
    parts = c(torch.reshape, x, (batch, block, block, channels // block**2, height, width))
    return c(torch.reshape, c(torch.permute, parts, (0, 3, 4, 1, 5, 2)), (batch, channels // block**2, height * block, width * block))


def _space_to_depth(c: Call, x: Value) -> Any:
    batch, channels, height, width = x.shape
    block = c.get("blocksize")
    parts = c(torch.reshape, x, (batch, channels, height // block, block, width // block, block))
    return c(torch.reshape, c(torch.permute, parts, (0, 3, 5, 1, 2, 4)), (batch, channels * block**2, height // block, width // block))


MOVEMENT: dict[str, Callable[..., Any]] = {
    "Constant": _constant, "ConstantOfShape": _constant_of_shape, "Shape": _shape, "Size": lambda c, x: c.builder.constant(x.example.numel(), torch.int64),
    "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose, "Concat": _concat, "Split": _split,
    "Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements, "Expand": _expand, "Tile": _tile, "Range": _range, "Pad": _pad,
    "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
}  # fmt: skip
