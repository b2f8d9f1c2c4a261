"""TopK, Unique, and what selects elements by their values: NonZero, Compress, NonMaxSuppression."""

from __future__ import annotations

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.nms import PackBoxesSpec, SelectBoxesSpec
from hasten.kernels.nonzero import NonZeroSpec
from hasten.kernels.topk import TopKSpec
from hasten.kernels.unique import UniqueSpec
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.arguments import axis_of, replace, scalar_of
from hasten.ops.registry import Node, operator, tensors


@operator("TopK")
def top_k(cx: Context, node: Node, x: Tensor, count: Tensor) -> list[Tensor]:
    tensors(node, x, count)
    if x.rank == 0:
        raise ModelError(f"{node}: the input needs at least one axis")
    axis = axis_of(cx, node.attr("axis", -1), x.rank)
    k = scalar_of(cx, count)
    cx.require(0, "<=", k, "k must not be negative")
    cx.require(k, "<=", x.shape[axis], f"k must not be greater than the size {x.shape[axis]} of the axis")
    shape = replace(x.shape, axis, k)
    return cx.kernel(TopKSpec(x.dtype, axis, bool(node.attr("largest", 1))), [x], [(x.dtype, shape), ("int64", shape)])


@operator("Unique")
def unique(cx: Context, node: Node, x: Tensor) -> list[Tensor]:
    tensors(node, x)
    axis = node.attr("axis", None)
    if axis is None:
        items: tuple[DimLike, DimLike, DimLike] = (1, x.size, 1)
    else:
        axis = axis_of(cx, axis, x.rank)
        items = (D.product(x.shape[:axis]), x.shape[axis], D.product(x.shape[axis + 1 :]))
    m = items[1]
    spec = UniqueSpec(x.dtype, bool(node.attr("sorted", 1)))
    results = [(x.dtype, items), ("int64", (m,)), ("int64", (m,)), ("int64", (m,)), ("int64", (1,))]
    distinct, first, inverse, counts, number = cx.kernel(spec, [cx.reshape(x, items)], results)
    n = cx.read_int(number, signed=False)
    if axis is None:
        values = cx.view((n,), distinct, lambda i: (0, i[0], 0))
    else:
        whole = cx.reshape(distinct, x.shape)
        values = cx.view(replace(x.shape, axis, n), whole, lambda i: i)
    return [values, cx.view((n,), first, lambda i: i), inverse, cx.view((n,), counts, lambda i: i)]


def nonzero_positions(cx: Context, x: Tensor) -> Tensor:
    """int64 [rank, count]: the positions of the elements of x that are not 0, in row-major order."""
    if x.array is not None:
        return cx.const(np.array(np.nonzero(x.array), np.int64).reshape(x.rank, -1))

    def one(o: Index, i: Index) -> E.Expr:
        value = x.at(i)
        return E.cast(value if value.dtype == "bool" else value.ne(0), "int64")

    number = cx.reduce("sum", "int64", (), x.shape, one)
    n = cx.read_int(number, signed=False)
    return cx.kernel(NonZeroSpec(x.dtype, x.rank), [x], [("int64", (x.rank, n))])[0]


@operator("NonZero")
def nonzero(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    return nonzero_positions(cx, x if x.rank else cx.reshape(x, (1,)))


@operator("Compress")
def compress(cx: Context, node: Node, x: Tensor, condition: Tensor) -> Tensor:
    from hasten.ops.indexing import gather_axis

    tensors(node, x, condition)
    axis = node.attr("axis", None)
    if axis is None:
        x, axis = cx.reshape(x, (x.size,)), 0
    axis = axis_of(cx, axis, x.rank)
    cx.require(condition.shape[0], "<=", x.shape[axis], "the condition must not be longer than the axis")
    chosen = nonzero_positions(cx, condition)
    return gather_axis(cx, x, cx.view(chosen.shape[1:], chosen, lambda i: (0, i[0])), axis)


@operator("NonMaxSuppression")
def non_max_suppression(
    cx: Context,
    node: Node,
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    overlap: Tensor | None = None,
    threshold: Tensor | None = None,
) -> Tensor:
    tensors(node, boxes, scores, most, overlap, threshold)
    cx.require(boxes.shape[-1], "==", 4, "boxes have 4 numbers")
    cx.require(boxes.shape[0], "==", scores.shape[0], "boxes and scores are of as many images")
    cx.require(boxes.shape[1], "==", scores.shape[2], "boxes and scores are of as many boxes")
    limit: DimLike = 0 if most is None else D.maximum(scalar_of(cx, most), 0)
    pairs = scores.shape[0] * scores.shape[1]
    operands = [boxes, scores, cx.const(np.zeros(1, np.float32)) if overlap is None else overlap]
    if threshold is not None:
        operands.append(threshold)
    spec = SelectBoxesSpec(bool(node.attr("center_point_box", 0)), threshold is not None)
    shapes = [("int64", (pairs, D.minimum(limit, boxes.shape[1]))), ("int64", (pairs,))]
    picked, counts = cx.kernel(spec, operands, shapes)
    total = cx.reduce("sum", "int64", (), (pairs,), lambda o, i: counts.at(i))
    n = cx.read_int(total, signed=False)
    return cx.kernel(PackBoxesSpec(), [picked, counts, scores], [("int64", (n, 3))])[0]
