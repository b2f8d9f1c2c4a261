"""Pooling of regions of interest: RoiAlign and MaxRoiPool.

How many samples a bin takes may depend on its region; the loops then run to the largest number of all regions, read
at run time, and what is
beyond a region's own number is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.dtypes import compute_type
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Stage, Tensor
from hasten.ops.arguments import need_elements
from hasten.ops.registry import Node, operator, tensors

Region = Callable[[DimLike], Expr]  # a number of region r


def largest(cx: Context, count: DimLike, value: Region, most: DimLike) -> DimLike:
    """The largest of a whole number over all regions as a size that the run reads, at least 1 and at most `most`."""

    def limited(o: Index, r: Index) -> Expr:
        e = value(r[0])
        limit = E.cast(E.index(most), e.dtype)
        return E.cast(op("min", op("max", E.select(op("isnan", e), 1, e), 1), limit), "int64")

    found = cx.reduce("max", "int64", (), (count,), limited)
    return D.minimum(D.maximum(cx.read_int(found, signed=False), 1), most)


def whole(e: Expr, least: float, most: DimLike) -> Expr:
    """e, limited to [least, most], as int64."""
    return E.cast(op("min", op("max", e, least), E.cast(E.index(most), e.dtype)), "int64")


class _Align:
    """One axis of RoiAlign: where the samples of output bin `b` lie."""

    def __init__(self, cx: Context, node: Node, rois: Tensor, column: int, size: DimLike, bins: int):
        self.rois, self.column, self.size, self.bins = rois, column, size, bins
        self.scale = float(node.attr("spatial_scale", 1.0))
        self.half = str(node.attr("coordinate_transformation_mode", "half_pixel")).lower() == "half_pixel"
        self.ratio = int(node.attr("sampling_ratio", 0))
        self.most = size * 2 + 2  # samples along one axis of a bin: more only for regions far larger than the image
        self.samples: DimLike = self.ratio or largest(cx, rois.shape[0], self._adaptive, self.most)

    def _edge(self, r: DimLike, k: int) -> Expr:
        e = self.rois.at((r, self.column + k)) * self.scale
        return e - 0.5 if self.half else e

    def extent(self, r: DimLike) -> Expr:
        e = self._edge(r, 2) - self._edge(r, 0)
        return e if self.half else op("max", e, 1)

    def _adaptive(self, r: DimLike) -> Expr:
        return op("ceil", self.extent(r) / self.bins)

    def grid(self, r: DimLike) -> Expr:
        """The number of samples of region r along this axis, a whole number >= 0 as a float."""
        e = self.extent(r)
        if self.ratio:
            return E.const(float(self.ratio), e.dtype)
        return op("min", op("max", self._adaptive(r), 0), E.cast(E.index(self.most), e.dtype))

    def sample(self, r: DimLike, b: DimLike, s: DimLike) -> Expr:
        """The position of sample s of bin b."""
        step = self.extent(r) / self.bins
        dt = step.dtype
        return self._edge(r, 0) + E.cast(E.index(b), dt) * step + (E.cast(E.index(s), dt) + 0.5) * step / self.grid(r)

    def neighbours(self, cx: Context, position: Expr) -> tuple[Expr, list[tuple[DimLike, Expr]]]:
        """Whether the position counts, and the two elements beside it with their weights."""
        dt, last = position.dtype, E.cast(E.index(self.size - 1), position.dtype)
        valid = ~(position < -1) & (position <= E.cast(E.index(self.size), dt))
        p = op("min", op("max", E.select(valid, position, 0), 0), last)
        low = op("floor", p)
        part = p - low
        index = E.cast(low, "int64")
        above = op("min", index + 1, E.index(self.size - 1))
        return valid, [(cx.index(index, self.size), 1 - part), (cx.index(above, self.size), part)]


@operator("RoiAlign")
def roi_align(cx: Context, node: Node, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """Every region [x1, y1, x2, y2] as a grid of bins: the average (or maximum) of linear interpolations in each."""
    tensors(node, x, rois, batch)
    bins = (int(node.attr("output_height", 1)), int(node.attr("output_width", 1)))
    rows = _Align(cx, node, rois, 1, x.shape[2], bins[0])
    columns = _Align(cx, node, rois, 0, x.shape[3], bins[1])
    for k in (0, 2, 3):
        need_elements(cx, x.shape[k], rois.shape[0])
    average, dt = str(node.attr("mode", "avg")).lower() == "avg", compute_type(x.dtype)

    def value(o: Index, r: Index, _: dict[str, Expr]) -> Expr:
        region, image = o[0], cx.index(batch.at((o[0],)), x.shape[0])
        inside = (E.cast(E.index(r[0]), dt) < rows.grid(region)) & (E.cast(E.index(r[1]), dt) < columns.grid(region))
        good_y, beside_y = rows.neighbours(cx, rows.sample(region, o[2], r[0]))
        good_x, beside_x = columns.neighbours(cx, columns.sample(region, o[3], r[1]))
        terms = [x.at((image, o[1], y, c)) * (wy * wx) for y, wy in beside_y for c, wx in beside_x]
        total = terms[0]
        for t in terms[1:]:
            total = total + t if average else op("max", total, t)
        total = E.select(good_y & good_x, total, 0)
        return E.select(inside, total, 0 if average else -math.inf)

    def final(o: Index, p: dict[str, Expr]) -> Expr:
        count = rows.grid(o[0]) * columns.grid(o[0])
        if average:
            return p["r"] / op("max", count, 1)
        return E.select(count < 1, 0, p["r"])

    outer, inner = (rois.shape[0], x.shape[1], *bins), (rows.samples, columns.samples)
    return cx.nest(x.dtype, outer, inner, [Stage("r", "sum" if average else "max", value)], final)


class _Bins:
    """One axis of MaxRoiPool: the input positions of output bin `b`."""

    def __init__(self, cx: Context, node: Node, rois: Tensor, column: int, size: DimLike, bins: int):
        self.rois, self.column, self.size, self.bins = rois, column, size, bins
        self.scale = float(node.attr("spatial_scale", 1.0))
        self.positions = largest(cx, rois.shape[0], lambda r: op("ceil", self.extent(r) / bins) + 1, size)

    def _edge(self, r: DimLike, k: int) -> Expr:
        """Rounded, halves away from zero."""
        e = self.rois.at((r, self.column + k)) * self.scale
        return op("sign", e) * op("floor", op("abs", e) + 0.5)

    def extent(self, r: DimLike) -> Expr:
        return op("max", self._edge(r, 2) - self._edge(r, 0) + 1, 1)

    def span(self, r: DimLike, b: DimLike) -> tuple[Expr, Expr]:
        """First position and the one behind the last, int64 in [0, size]."""
        step, first = self.extent(r) / self.bins, self._edge(r, 0)
        begin = op("floor", E.cast(E.index(b), step.dtype) * step) + first
        end = op("ceil", E.cast(E.index(b + 1), step.dtype) * step) + first
        return whole(begin, 0, self.size), whole(end, 0, self.size)


@operator("MaxRoiPool")
def max_roi_pool(cx: Context, node: Node, x: Tensor, rois: Tensor) -> Tensor:
    """Every region [image, x1, y1, x2, y2] as a grid of bins: the maximum of each, 0 where a bin is empty."""
    tensors(node, x, rois)
    bins = [int(d) for d in node.attr("pooled_shape")]
    rows = _Bins(cx, node, rois, 2, x.shape[2], bins[0])
    columns = _Bins(cx, node, rois, 1, x.shape[3], bins[1])
    need_elements(cx, x.shape[0], rois.shape[0])

    def value(o: Index, r: Index, _: dict[str, Expr]) -> Expr:
        image = cx.index(E.cast(rois.at((o[0], 0)), "int64"), x.shape[0])
        at: list[DimLike] = []
        guard: Expr | None = None
        for axis, b, k in ((rows, o[2], r[0]), (columns, o[3], r[1])):
            begin, end = axis.span(o[0], b)
            place = begin + E.index(k)
            inside = place < end
            at.append(cx.index(E.select(inside, place, 0), axis.size))
            guard = inside if guard is None else guard & inside
        return cx.load(x, (image, o[1], *at), guard, -math.inf)

    def final(o: Index, p: dict[str, Expr]) -> Expr:
        (top, bottom), (left, right) = rows.span(o[0], o[2]), columns.span(o[0], o[3])
        return E.select((bottom <= top) | (right <= left), 0, p["r"])

    outer, inner = (rois.shape[0], x.shape[1], *bins), (rows.positions, columns.positions)
    return cx.nest(x.dtype, outer, inner, [Stage("r", "max", value)], final)
