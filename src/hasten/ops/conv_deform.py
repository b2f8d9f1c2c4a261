"""Deformable convolution: every tap samples the input at its position plus an offset, with linear interpolation, zero
outside."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.conv import conv_axes
from hasten.ops.elementwise import refuse_complex
from hasten.ops.geometry import Axes
from hasten.ops.registry import Node, operator, tensors


def sample_linear(cx: Context, x: Tensor, lead: Sequence[DimLike], where: Sequence[Expr]) -> Expr:
    """x[lead, where...] at real positions, linear between the 2^n neighbours, zero outside."""
    sizes = x.shape[len(lead) :]
    corners: list[
        list[tuple[DimLike, Expr, Expr]]
    ] = []  # per axis: index, guard, weight of the lower and of the upper neighbour
    for p, n in zip(where, sizes, strict=True):
        low = op("floor", p)
        part = p - low
        axis = []
        for step, weight in ((0, 1 - part), (1, part)):
            exact = low + step
            inside = ~(exact < 0) & (exact < E.cast(E.index(n), exact.dtype))
            safe = E.cast(E.select(inside, exact, 0), "int64")
            axis.append((cx.index(safe, D.maximum(n, 1)), inside, weight))
        corners.append(axis)
    total: Expr | None = None
    for picks in itertools.product(*corners):
        guard, weight = picks[0][1], picks[0][2]
        for _, g, w in picks[1:]:
            guard, weight = guard & g, weight * w
        value = cx.load(x, (*lead, *(i for i, _, _ in picks)), guard) * weight
        total = value if total is None else total + value
    assert total is not None
    return total


def deformed_columns(cx: Context, x: Tensor, offset: Tensor, mask: Tensor | None, axes: Axes, groups: int) -> Tensor:
    """Samples [N, C, taps..., outputs...] of x at the windows' positions moved by `offset`, times `mask`."""
    kernel, rank = [a.kernel for a in axes], len(axes)
    outs = offset.shape[2:]
    moved = cx.reshape(offset, (x.shape[0], groups, *kernel, rank, *outs))
    masks = None if mask is None else cx.reshape(mask, (x.shape[0], groups, *kernel, *outs))
    per_group = D.floordiv(x.shape[1], groups)

    def element(i: Index) -> Expr:
        n, c, taps, o = i[0], i[1], i[2 : 2 + rank], i[2 + rank :]
        g = D.floordiv(c, per_group)
        where = []
        for k, a in enumerate(axes):
            shift = moved.at((n, g, *taps, k, *o))
            where.append(E.cast(E.index(a.position(o[k], taps[k])), shift.dtype) + shift)
        value = sample_linear(cx, x, (n, c), where)
        return value if masks is None else value * masks.at((n, g, *taps, *o))

    return cx.map((x.shape[0], x.shape[1], *kernel, *outs), x.dtype, element)


@operator("DeformConv")
def deform_conv(
    cx: Context, node: Node, x: Tensor, w: Tensor, offset: Tensor, b: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    tensors(node, x, w, offset, b, mask)
    refuse_complex(cx, x)
    axes, group = conv_axes(cx, node, x, w), int(node.attr("group", 1))
    for a, n in zip(axes, offset.shape[2:], strict=True):
        cx.require(a.out, "==", n, f"{cx.where()}: one offset for every output position")
    columns = deformed_columns(cx, x, offset, mask, axes, int(node.attr("offset_group", 1)))
    channels, per_group = w.shape[1], D.floordiv(w.shape[0], group)

    def product(o: Index, r: Index) -> Expr:
        c = r[0] if group == 1 else D.floordiv(o[1], per_group) * channels + r[0]
        return columns.at((o[0], c, *r[1:], *o[2:])) * w.at((o[1], *r))

    outer = (x.shape[0], w.shape[0], *offset.shape[2:])
    y = cx.reduce("sum", x.dtype, outer, tuple(w.shape[1:]), product)
    return y if b is None else cx.map(outer, x.dtype, lambda i: y.at(i) + b.at((i[1],)))
