"""How ONNX's operators are said in torch: `OPERATORS`, a table of functions of a `Call` and the node's inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from hasten.bench.peers.torch_graph import HALVES, Call, Untranslatable, Value, tensor_of
from hasten.bench.peers.torch_windows import WINDOWS

Translate = Callable[..., Any]


# --- elementwise --------------------------------------------------------------------------------------------------------------
def _plain(function: Callable[..., Any]) -> Translate:
    """An operator that is one function of its inputs."""
    return lambda c, *inputs: c(function, *inputs)


def _binary(function: Callable[..., Any]) -> Translate:
    """With numbers in place of known tensors of one element: quicker, and easier to fuse."""

    def translate(c: Call, a: Value, b: Value) -> Any:
        return c(function, *_with_number(a, b))

    return translate


def _with_number(a: Value, b: Value) -> tuple[Any, Any]:
    def number(value: Value, other: Value) -> Any:
        simple = value.known and value.example.numel() == 1 and value.rank <= other.rank and not other.known
        return value.example.item() if simple and value.example.dtype == other.example.dtype else value

    return number(a, b), number(b, a)


def _fold(function: Callable[..., Any]) -> Translate:
    """A binary function over any number of inputs."""

    def translate(c: Call, *inputs: Value) -> Any:
        result = inputs[0]
        for value in inputs[1:]:
            result = c(function, result, value)
        return result

    return translate


def _div(c: Call, a: Value, b: Value) -> Any:
    if a.example.is_floating_point():
        return c(torch.div, *_with_number(a, b))
    return c(torch.div, a, b, rounding_mode="trunc")


def _mod(c: Call, a: Value, b: Value) -> Any:
    return c(torch.fmod if c.get("fmod", 0) else torch.remainder, a, b)


def _pow(c: Call, a: Value, b: Value) -> Any:
    result = c(torch.pow, a, b.constant() if b.known and b.example.numel() == 1 and b.rank <= a.rank else b)
    return result if result.example.dtype == a.example.dtype else c(torch.Tensor.to, result, a.example.dtype)


def _clip(c: Call, x: Value, low: Value | None = None, high: Value | None = None) -> Any:
    if c.opset < 11:
        return c(torch.clamp, x, c.get("min"), c.get("max")) if c.attributes else x
    bounds: list[Any] = [bound.constant() if bound is not None and bound.known else bound for bound in (low, high)]
    if any(isinstance(bound, Value) for bound in bounds):
        bounds = [bound if bound is None or isinstance(bound, Value) else c.builder.constant(bound, x.example.dtype) for bound in bounds]
    return c(torch.clamp, x, *bounds) if any(bound is not None for bound in bounds) else x


def _cast(c: Call, x: Value) -> Any:
    from onnx import helper

    name = helper.tensor_dtype_to_np_dtype(c.get("to")).name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise Untranslatable(f"to {name}")
    dtype = torch.float32 if dtype in HALVES else dtype
    return x if x.example.dtype == dtype else c(torch.Tensor.to, x, dtype)


def _prelu(c: Call, x: Value, slope: Value) -> Any:
    if slope.known and x.rank > 1 and slope.example.numel() in (1, x.shape[1]) and slope.rank <= x.rank:
        along = (slope.shape if slope.rank == x.rank else (1,) * (x.rank - slope.rank) + slope.shape)[1]
        if slope.example.numel() in (1, along):
            return c(F.prelu, x, c(torch.reshape, slope, (-1,)))
    return c(torch.where, c(torch.lt, x, 0), c(torch.mul, x, slope), x)


def _gelu(c: Call, x: Value) -> Any:
    return c(F.gelu, x, approximate=c.get("approximate", "none"))


def _hard_sigmoid(c: Call, x: Value) -> Any:
    alpha, beta = c.get("alpha", 0.2), c.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:  # what torch has a kernel for
        return c(F.hardsigmoid, x)
    return c(torch.clamp, c(torch.add, c(torch.mul, x, alpha), beta), 0, 1)


def _where(c: Call, condition: Value, a: Value, b: Value) -> Any:
    return c(torch.where, condition, a, b)


# --- shapes and movement ------------------------------------------------------------------------------------------------------
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


def _axes(c: Call, given: Value | None) -> list[int] | None:
    """Axes of an attribute, or of an input as newer opsets have it."""
    axes = given.constant() if given is not None else c.get("axes")
    return None if axes is None else list(axes)


def _squeeze(c: Call, x: Value, axes: Value | None = None) -> Any:
    gone = _axes(c, axes)
    away = {at for at, size in enumerate(x.shape) if size == 1} if gone is None else {axis % x.rank for axis in gone}
    return c(torch.reshape, x, tuple(size for at, size in enumerate(x.shape) if at not in away))


def _unsqueeze(c: Call, x: Value, axes: Value | None = None) -> Any:
    added = _axes(c, axes) or []
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


# --- reductions and normalisations --------------------------------------------------------------------------------------------
def _reduction(function: Callable[..., Any]) -> Translate:
    def translate(c: Call, x: Value, axes: Value | None = None) -> Any:
        over = _axes(c, axes)
        if over == [] or over is None and c.get("noop_with_empty_axes", 0):
            return x
        return c(function, x, tuple(range(x.rank)) if over is None else tuple(over), bool(c.get("keepdims", 1)))

    return translate


def _l2(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.linalg.vector_norm(x, 2, axes, keep)


def _sum_square(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.sum(x * x, axes, keep)


def _arg(function: Callable[..., Any]) -> Translate:
    def translate(c: Call, x: Value) -> Any:
        if c.get("select_last_index", 0):
            raise Untranslatable("select_last_index")
        return c(function, x, c.get("axis", 0), bool(c.get("keepdims", 1)))

    return translate


def _softmax(function: Callable[..., Any]) -> Translate:
    """Before opset 13 over all axes from `axis` on."""

    def translate(c: Call, x: Value) -> Any:
        if c.opset >= 13:
            return c(function, x, c.get("axis", -1))
        axis = c.get("axis", 1) % x.rank
        if math.prod(x.shape[axis + 1 :]) == 1:
            return c(function, x, axis)
        flat = c(torch.reshape, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
        return c(torch.reshape, c(function, flat, 1), x.shape)

    return translate


def _layer_norm(c: Call, x: Value, scale: Value, bias: Value | None = None) -> Any:
    axis = c.get("axis", -1) % x.rank
    shape = x.shape[axis:]
    full = [None if value is None else c(torch.Tensor.expand, value, shape) for value in (scale, bias)]
    return c(F.layer_norm, x, shape, *full, c.get("epsilon", 1e-5))


def _instance_norm(c: Call, x: Value, scale: Value, bias: Value) -> Any:
    return c(F.instance_norm, x, None, None, scale, bias, True, 0.0, c.get("epsilon", 1e-5))


def _group_norm(c: Call, x: Value, scale: Value, bias: Value) -> Any:
    if c.opset < 21:
        raise Untranslatable("a scale for each group")
    return c(F.group_norm, x, c.get("num_groups"), scale, bias, c.get("epsilon", 1e-5))


# --- matrix products and recurrences ------------------------------------------------------------------------------------------
def _matmul(c: Call, a: Value, b: Value) -> Any:
    if b.known and b.rank == 2 and a.rank >= 2:
        return c(F.linear, a, c(_turned, b))
    return c(torch.matmul, a, b)


def _turned(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.t().contiguous()


def _gemm(c: Call, a: Value, b: Value, bias: Value | None = None) -> Any:
    alpha, beta = c.get("alpha", 1.0), c.get("beta", 1.0)
    if c.get("transA", 0):
        a = c(torch.t, a)
    if alpha != 1:
        b = c(torch.mul, b, alpha)
    if bias is not None and beta != 1:
        bias = c(torch.mul, bias, beta)
    columns = b if c.get("transB", 0) else c(_turned, b)
    if bias is None or bias.shape == columns.shape[:1]:
        return c(F.linear, a, columns, bias)
    return c(torch.add, c(F.linear, a, columns), bias)


def _einsum(c: Call, *inputs: Value) -> Any:
    return c(torch.einsum, c.get("equation"), list(inputs))


def _recurrent(function: Callable[..., Any], gates: Sequence[int], states: int, activations: tuple[str, ...]) -> Translate:
    """LSTM and GRU by torch's own; `gates`: where torch's gates lie among ONNX's. `activations`: torch's."""

    def translate(c: Call, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None, *more: Value | None) -> Any:
        direction, size = c.get("direction", "forward"), c.get("hidden_size")
        usual = c.get("layout", 0) == 0 and direction != "reverse" and not any(c.get(name) for name in ("clip", "input_forget"))
        usual = usual and tuple(name.decode() for name in c.get("activations", ())) in ((), activations, 2 * activations)
        if not usual or lengths is not None and not lengths.known or any(value is not None for value in more[states:]):
            raise Untranslatable("a form that torch's does not have")
        if lengths is not None and set(lengths.constant()) != {x.shape[0]}:
            raise Untranslatable("sequences of different lengths")
        if states == 1 and not c.get("linear_before_reset", 0):
            raise Untranslatable("linear_before_reset=0")
        directions = w.shape[0]
        weights = []
        for d in range(directions):
            both = c(torch.zeros, 2 * len(gates) * size) if bias is None else c(torch.select, bias, 0, d)
            halves = c(torch.split, both, len(gates) * size)
            parts = (c(torch.select, w, 0, d), c(torch.select, r, 0, d), *halves)
            weights += [c(_reordered, part, len(gates), list(gates)) for part in parts]
        zeros = c.builder.constant(torch.zeros(directions, x.shape[1], size))
        start = [(more[at] if at < len(more) else None) or zeros for at in range(states)]
        y, *last = c(function, x, start if states == 2 else start[0], weights, True, 1, 0.0, False, directions == 2, False)
        steps, batch = x.shape[:2]
        return c(torch.permute, c(torch.reshape, y, (steps, batch, directions, size)), (0, 2, 1, 3)), *last

    return translate


def _reordered(tensor: torch.Tensor, count: int, order: list[int]) -> torch.Tensor:
    return torch.cat([tensor.chunk(count)[at] for at in order]).contiguous()


def _identity(c: Call, x: Value, *_: Value | None) -> Value:
    return x


OPERATORS: dict[str, Translate] = {
    **{name: _plain(function) for name, function in {
        "Abs": torch.abs, "Acos": torch.acos, "Asin": torch.asin, "Atan": torch.atan, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf, "Exp": torch.exp,
        "Floor": torch.floor, "HardSwish": F.hardswish, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not,
        "Reciprocal": torch.reciprocal, "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
        "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tanh": torch.tanh, "And": torch.logical_and, "Or": torch.logical_or,
        "IsNaN": torch.isnan,
    }.items()},
    **{name: _binary(function) for name, function in {
        "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Equal": torch.eq, "Greater": torch.gt, "Less": torch.lt, "GreaterOrEqual": torch.ge,
        "LessOrEqual": torch.le,
    }.items()},
    **{name: _fold(function) for name, function in {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}.items()},
    **{name: _reduction(function) for name, function in {
        "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin, "ReduceL2": _l2, "ReduceLogSumExp": torch.logsumexp,
        "ReduceSumSquare": _sum_square,
    }.items()},
    "Div": _div, "Mod": _mod, "Pow": _pow, "Clip": _clip, "Cast": _cast, "PRelu": _prelu, "Gelu": _gelu, "HardSigmoid": _hard_sigmoid, "Where": _where,
    "LeakyRelu": lambda c, x: c(F.leaky_relu, x, c.get("alpha", 0.01)), "Elu": lambda c, x: c(F.elu, x, c.get("alpha", 1.0)),
    "Selu": lambda c, x: c(F.selu, x), "Identity": _identity, "Dropout": _identity,
    "Constant": _constant, "ConstantOfShape": _constant_of_shape, "Shape": _shape, "Size": lambda c, x: c.builder.constant(x.example.numel(), torch.int64),
    "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose, "Concat": _concat, "Split": _split,
    "Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements, "Expand": _expand, "Tile": _tile, "Range": _range, "Pad": _pad,
    "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
    "ArgMax": _arg(torch.argmax), "ArgMin": _arg(torch.argmin), "Softmax": _softmax(torch.softmax), "LogSoftmax": _softmax(torch.log_softmax),
    "LayerNormalization": _layer_norm, "InstanceNormalization": _instance_norm, "GroupNormalization": _group_norm,
    "MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum,
    "LSTM": _recurrent(torch.lstm, (0, 2, 3, 1), 2, ("Sigmoid", "Tanh", "Tanh")), "GRU": _recurrent(torch.gru, (1, 0, 2), 1, ("Sigmoid", "Tanh")),
    **WINDOWS,
}  # fmt: skip
