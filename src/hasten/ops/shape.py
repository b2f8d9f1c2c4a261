"""Sizes and reshapes: Shape, Reshape, Squeeze, Expand, Range and what only renames the elements of a tensor."""

from __future__ import annotations

import math

import numpy as np

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Tensor
from hasten.ops.arguments import axes_of, axis_of, from_run, known_axes, scalar_of, sizes_of
from hasten.ops.registry import Node, NoNative, operator, tensors
from hasten.ops.shuffle import woven


def ints_tensor(cx: Context, values: list[DimLike] | tuple[DimLike, ...], dtype: str = "int64") -> Tensor:
    """A one-dimensional tensor of the given dims."""

    def element(i: tuple[DimLike, ...]) -> Expr:
        k = i[0]
        if isinstance(k, int):
            e = E.index(values[k])
        else:
            e = E.index(values[-1])
            for n in reversed(range(len(values) - 1)):
                e = op("select", E.index(k).eq(n), E.index(values[n]), e)
        return E.cast(e, dtype)

    if all(isinstance(v, int) for v in values):
        return cx.const(np.array(values, np.int64), dtype)
    return cx.map((len(values),), dtype, element)


def scalar_tensor(cx: Context, value: DimLike, dtype: str = "int64") -> Tensor:
    """A tensor of no axes with the value of a dim."""
    return cx.map((), dtype, lambda i: E.cast(E.index(value), dtype))


@operator("Shape")
def shape(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    picked = x.shape[slice(node.attr("start", None), node.attr("end", None))]
    return ints_tensor(cx, picked)


@operator("Size")
def size(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    return scalar_tensor(cx, x.size)


# --- reshapes ---------------------------------------------------------------------------------------------------------
def reshape_target(cx: Context, old: tuple[DimLike, ...], wanted: tuple[DimLike, ...], allowzero: bool, values: Tensor | None = None) -> list[DimLike]:
    """The shape that Reshape means: 0 copies a size unless `allowzero`, -1 is what remains.

    Sizes derived from the shapes of inputs mean themselves, also where they are 0; values that only the run knows
    may be 0 or -1 as well (`values`: the tensor of all of them)."""
    dims = list(wanted)
    for k, d in enumerate(dims):
        if isinstance(d, int) and d == 0 and not allowzero:
            if k >= len(old):
                raise ModelError(f"{cx.where()}: size 0 copies axis {k}, but the input has {len(old)} axes only")
            dims[k] = old[k]
    rest = [k for k, d in enumerate(dims) if isinstance(d, int) and d == -1]
    if len(rest) > 1:
        raise ModelError(f"{cx.where()}: only one size of {list(wanted)} can be -1")
    if values is not None:
        for k, d in enumerate(dims):
            if from_run(cx, d):
                dims[k] = _resolved(cx, values, k, old, tuple(wanted), allowzero, not rest)
    for k in rest:
        dims[k] = D.floordiv(D.product(old), D.product([d for n, d in enumerate(dims) if n != k]))
    return dims


def _resolved(cx: Context, values: Tensor, k: int, old: tuple[DimLike, ...], wanted: tuple[DimLike, ...], allowzero: bool,
              infers: bool) -> DimLike:  # fmt: skip
    """Size number k where only the run knows it. infers: it may be the one that is -1."""

    def value(n: int) -> Expr:
        d = wanted[n]
        v = E.cast(values.at((n,)), "int64") if from_run(cx, d) else E.index(d)
        return v if allowzero or n >= len(old) else op("select", v.eq(0), E.index(old[n]), v)

    def element(i: tuple[DimLike, ...]) -> Expr:
        mine, others = value(k), E.index(1)
        if not infers:
            return mine
        for n in range(len(wanted)):
            others = others * value(n) if n != k else others
        return op("select", mine.eq(-1), E.index(D.product(old)) / others, mine)

    return cx.read_int(cx.map((1,), "int64", element), signed=False)


@operator("Reshape")
def reshape(cx: Context, node: Node, x: Tensor, target: Tensor) -> Tensor:
    tensors(node, x, target)
    wanted = sizes_of(cx, target, signed=True)
    return woven(cx, cx.reshape(x, reshape_target(cx, x.shape, wanted, bool(node.attr("allowzero", 0)), target)))


@operator("Flatten")
def flatten(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    axis = node.attr("axis", 1)
    axis = axis + x.rank if axis < 0 else axis
    if not 0 <= axis <= x.rank:
        raise ModelError(f"{node}: axis {axis} is out of range for a tensor of {x.rank} axes")
    return cx.reshape(x, (D.product(x.shape[:axis]), D.product(x.shape[axis:])))


@operator("Squeeze")
def squeeze(cx: Context, node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    tensors(node, x, axes)
    if axes is not None and cx.ints(axes) is None:
        return cx.reshape(x, _without(_chosen(cx, axes, x.rank), x.shape, len(sizes_of(cx, axes, signed=True))))
    picked = known_axes(cx, axes, x.rank)
    if picked is None:
        picked = [k for k, d in enumerate(x.shape) if D.known_equal(d, 1)]
        for k, d in enumerate(x.shape):  # the rank of the result can't depend on the run
            if k not in picked:
                cx.require(d, "!=", 1, f"axis {k} has size 1: Squeeze without axes is compiled for what is known to be 1")
    for k in picked:
        cx.require(x.shape[k], "==", 1, f"squeezed axis {k} must have size 1")
    return drop_axes(cx, x, picked)


def _chosen(cx: Context, axes: Tensor, rank: int) -> list[DimLike]:
    """For every axis 1 where `axes`, known at run time only, names it, else 0."""
    out: list[DimLike] = [0] * rank
    for a in sizes_of(cx, axes, signed=True):
        out = [D.if_equal(a, k, 1, D.if_equal(a, k - rank, 1, o)) for k, o in enumerate(out)]
    return out


def _without(dropped: list[DimLike], shape: tuple[DimLike, ...], count: int) -> list[DimLike]:
    """The shape without the axes whose entry of `dropped` is 1, `count` of them."""
    out: list[DimLike] = [1] * (len(shape) - count)
    before: DimLike = 0  # axes kept so far
    for d, gone in zip(shape, dropped, strict=True):
        out = [D.if_equal(gone, 1, o, D.if_equal(before, m, d, o)) for m, o in enumerate(out)]
        before = before + 1 - gone
    return out


def _with(inserted: list[DimLike], shape: tuple[DimLike, ...]) -> list[DimLike]:
    """The shape with a size 1 wherever `inserted` is 1."""
    out: list[DimLike] = []
    before: DimLike = 0  # axes of the input so far
    for new in inserted:
        mine: DimLike = 1
        for k, d in enumerate(shape):
            mine = D.if_equal(before, k, d, mine)
        out.append(D.if_equal(new, 1, 1, mine))
        before = before + 1 - new
    return out


def drop_axes(cx: Context, x: Tensor, axes: list[int]) -> Tensor:
    """x without axes of size 1."""
    keep = [k for k in range(x.rank) if k not in axes]
    if len(keep) == x.rank:
        return x
    position = {k: n for n, k in enumerate(keep)}
    return cx.view(
        [x.shape[k] for k in keep],
        x,
        lambda i: [i[position[k]] if k in position else 0 for k in range(x.rank)],
        flat=True,
    )


def insert_axes(cx: Context, x: Tensor, axes: list[int]) -> Tensor:
    """x with axes of size 1 inserted at the positions `axes` of the result."""
    keep = [k for k in range(x.rank + len(axes)) if k not in axes]
    out: list[DimLike] = [1] * (x.rank + len(axes))
    for k, d in zip(keep, x.shape, strict=True):
        out[k] = d
    return cx.view(out, x, lambda i: [i[k] for k in keep], flat=True) if axes else x


@operator("Unsqueeze")
def unsqueeze(cx: Context, node: Node, x: Tensor, axes: Tensor) -> Tensor:
    tensors(node, x, axes)
    values = cx.ints(axes)
    if values is None:
        return cx.reshape(x, _with(_chosen(cx, axes, x.rank + len(sizes_of(cx, axes, signed=True))), x.shape))
    return insert_axes(cx, x, axes_of(cx, values, x.rank + len(values)))


@operator("Expand")
def expand(cx: Context, node: Node, x: Tensor, target: Tensor) -> Tensor:
    tensors(node, x, target)
    return cx.broadcast_to(x, cx.broadcast_shapes(x.shape, sizes_of(cx, target)))


# --- made from sizes --------------------------------------------------------------------------------------------------
@operator("Constant")
def constant(cx: Context, node: Node) -> Tensor:
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for name, kind in kinds.items():
        if name in node.attributes:
            return cx.const(np.array(node.attributes[name], kind))
    array = node.attributes.get("value")
    if not isinstance(array, np.ndarray) or dtypes.from_numpy(array.dtype) == "string":
        raise NoNative("a constant that is no tensor of numbers")
    return cx.const(array)


@operator("ConstantOfShape")
def constant_of_shape(cx: Context, node: Node, target: Tensor) -> Tensor:
    tensors(node, target)
    value = node.attr("value", np.zeros(1, np.float32)).reshape(())
    sizes = sizes_of(cx, target)
    for d in sizes:
        cx.require(0, "<=", d, "sizes must not be negative")
    return cx.broadcast_to(cx.const(value), sizes)


@operator("Range")
def range_(cx: Context, node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    tensors(node, start, limit, delta)
    ends = [cx.ints(t) for t in (start, limit, delta)]
    if all(v is not None for v in ends):
        first, last, step = (v[0] for v in ends if v is not None)
        if isinstance(step, int) and step == 0:
            raise ModelError(f"{node}: delta must not be 0")
        up, down = D.maximum(D.ceildiv(last - first, step), 0), D.maximum(D.ceildiv(first - last, -step), 0)
        count = D.if_less(0, step, up, down)
        return cx.map((count,), start.dtype, lambda i: E.cast(E.index(first + i[0] * step), start.dtype))
    if dtypes.is_int(start.dtype) and (ends[0], ends[2]) == ((0,), (1,)):
        return cx.map((scalar_of(cx, limit),), start.dtype, lambda i: E.cast(E.index(i[0]), start.dtype))
    arrays = [t.array for t in (start, limit, delta)]
    if all(a is not None for a in arrays):
        a, b, c = (float(v.reshape(())) for v in arrays if v is not None)
        count = max(math.ceil((b - a) / c), 0) if c else 0
    else:
        count = cx.read_int(_range_count(cx, start, limit, delta), signed=False)
    one = (0,) * start.rank, (0,) * delta.rank

    def element(i: tuple[DimLike, ...]) -> Expr:
        first = start.at(one[0])
        return first + E.cast(E.index(i[0]), first.dtype) * delta.at(one[1])

    return cx.map((count,), start.dtype, element)


def _range_count(cx: Context, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """How many steps there are, computed at run time in float64 (integers beyond 2**53 are no sizes)."""

    def count(i: tuple[DimLike, ...]) -> Expr:
        a, b, c = (E.cast(t.at((0,) * t.rank), "float64") for t in (start, limit, delta))
        n = op("ceil", (b - a) / c)
        return E.cast(op("select", (n > 0) & ~op("isinf", n), n, 0.0), "int64")

    return cx.map((1,), "int64", count)


@operator("EyeLike")
def eye_like(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    number = node.attr("dtype", None)
    dt = dtypes.BY_ONNX[number].name if number else x.dtype
    k = node.attr("k", 0)
    return cx.map(x.shape, dt, lambda i: E.cast(E.index(i[1]).eq(E.index(i[0] + k)), dt))


@operator("Trilu")
def trilu(cx: Context, node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    tensors(node, x, k)
    shift = 0 if k is None else scalar_of(cx, k, signed=True)

    def element(i: tuple[DimLike, ...]) -> Expr:
        row, column = E.index(i[-2] + shift), E.index(i[-1])
        keep = row <= column if node.attr("upper", 1) else column <= row
        return op("select", keep, x.at(i), 0)

    return cx.map(x.shape, x.dtype, element)


@operator("Concat")
def concat(cx: Context, node: Node, *parts: Tensor) -> Tensor:
    tensors(node, *parts)
    axis = axis_of(cx, node.attr("axis"), parts[0].rank)
    kept = [p for p in parts if not (isinstance(p.shape[axis], int) and p.shape[axis] == 0)]
    return cx.concat(kept or parts[:1], axis)
