"""Computed indices: Gather and its kin, OneHot, TensorScatter. Indices outside of the data fail the run."""

from __future__ import annotations

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.arguments import axis_of, need_elements, replace, scalar_of
from hasten.ops.registry import Node, operator, tensors


def gather_axis(cx: Context, x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """x taken at `indices` (any shape; negative ones count from the end) along one axis."""
    q, extent = indices.rank, x.shape[axis]
    shape = x.shape[:axis] + indices.shape + x.shape[axis + 1 :]
    line = _progression(cx, indices, extent)
    if line is not None:
        start, step = line
        return cx.view(shape, x, lambda i: (*i[:axis], start + (i[axis] * step if q else 0), *i[axis + q :]))

    need_elements(cx, extent, D.product(indices.shape))

    def element(i: Index) -> Expr:
        j = cx.index(indices.at(i[axis : axis + q]), extent, negative=True)
        return x.at((*i[:axis], j, *i[axis + q :]))

    return cx.map(shape, x.dtype, element)


def _progression(cx: Context, indices: Tensor, extent: DimLike) -> tuple[DimLike, int] | None:
    """(first, step) where constant indices of at most one axis are evenly spaced: then no index is loaded."""
    if indices.rank > 1:
        return None
    known = indices.array.reshape(-1).tolist() if indices.array is not None else cx.ints(indices)
    if not known or not all(isinstance(v, int) for v in known):
        return None
    values = [v for v in known if isinstance(v, int)]
    step = values[1] - values[0] if len(values) > 1 else 0
    if any(b - a != step for a, b in zip(values, values[1:], strict=False)):
        return None
    low, high = min(values), max(values)
    if low < 0 <= high:
        return None
    cx.require(high if low >= 0 else -low - 1, "<", extent, "an index of Gather is out of range", kind="index")
    return values[0] if low >= 0 else extent + values[0], step


@operator("Gather")
def gather(cx: Context, node: Node, x: Tensor, indices: Tensor) -> Tensor:
    tensors(node, x, indices)
    return gather_axis(cx, x, indices, axis_of(cx, node.attr("axis", 0), x.rank))


@operator("GatherElements")
def gather_elements(cx: Context, node: Node, x: Tensor, indices: Tensor) -> Tensor:
    tensors(node, x, indices)
    axis = axis_of(cx, node.attr("axis", 0), x.rank)
    if indices.rank != x.rank:
        raise ModelError(f"{node}: indices of {indices.rank} axes for data of {x.rank}")
    for k in range(x.rank):
        if k != axis:
            cx.require(indices.shape[k], "<=", x.shape[k], f"indices must not be larger than the data along axis {k}")
    need_elements(cx, x.shape[axis], D.product(indices.shape))
    return cx.map(indices.shape, x.dtype, lambda i: x.at(replace(i, axis, cx.index(indices.at(i), x.shape[axis], negative=True))))


@operator("GatherND")
def gather_nd(cx: Context, node: Node, x: Tensor, indices: Tensor) -> Tensor:
    tensors(node, x, indices)
    batch = node.attr("batch_dims", 0)
    depth = indices.shape[-1]
    if not isinstance(depth, int) or not 0 <= depth <= x.rank - batch:
        raise ModelError(f"{node}: the last axis of indices has size {depth}; it must be known and at most {x.rank - batch}")
    for k in range(batch):
        cx.require(indices.shape[k], "==", x.shape[k], f"batch axis {k} must agree")
    lead = indices.rank - 1
    for k in range(depth):
        need_elements(cx, x.shape[batch + k], D.product(indices.shape[:lead]))

    def element(i: Index) -> Expr:
        at = [cx.index(indices.at((*i[:lead], k)), x.shape[batch + k], negative=True) for k in range(depth)]
        return x.at((*i[:batch], *at, *i[lead:]))

    return cx.map(indices.shape[:-1] + x.shape[batch + depth :], x.dtype, element)


@operator("OneHot")
def one_hot(cx: Context, node: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    tensors(node, indices, depth, values)
    n = scalar_of(cx, depth)
    cx.require(0, "<=", n, "the depth must not be negative")
    axis = axis_of(cx, node.attr("axis", -1), indices.rank + 1)
    shape = indices.shape[:axis] + (n,) + indices.shape[axis:]

    def element(i: Index) -> Expr:
        at = E.cast(indices.at(i[:axis] + i[axis + 1 :]), "int64")
        hot = at.eq(E.index(i[axis])) | at.eq(E.index(i[axis] - n))
        return op("select", hot, values.at((1,)), values.at((0,)))

    return cx.map(shape, values.dtype, element)


@operator("TensorScatter")
def tensor_scatter(cx: Context, node: Node, past: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
    """A cache with `update` written at a position for each batch entry ("circular": wrapping around the end)."""
    tensors(node, past, update, starts)
    axis = axis_of(cx, node.attr("axis", -2), past.rank)
    if axis == 0:
        raise ModelError(f"{node}: the axis can't be that of the batch")
    total, n = past.shape[axis], update.shape[axis]
    cx.require(n, "<=", total, "the update must fit into the cache")

    def element(i: Index) -> Expr:
        first = E.index(0) if starts is None else E.cast(starts.at((i[0],)), "int64")
        since = E.index(i[axis]) - first
        if node.attr("mode", "linear") == "circular":
            since = op("floormod", since, E.index(total))
        inside = (since >= 0) & (since < E.index(n))
        j = cx.index(op("select", inside, since, 0), D.maximum(n, 1))
        return cx.load(update, replace(i, axis, j), inside, past.at(i))

    return cx.map(past.shape, past.dtype, element)
