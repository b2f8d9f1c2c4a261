"""Resize: every axis on its own (two linear ones together).

A view where positions are plain arithmetic, with tables of taps where sizes are known, with computed coordinates else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Stage, Tensor
from hasten.ops import resize_taps as R
from hasten.ops.arguments import axes_of, need_elements, replace, resized, sizes_of
from hasten.ops.indexing import gather_axis
from hasten.ops.registry import Node, operator, tensors

UNROLLED = 8  # taps of an axis up to which they are written out
Tap = tuple[DimLike, Expr]


@dataclass
class _Axis:
    """One axis to resize. scale: a number, or an Expr of the run; ratio: the scale as a fraction where it is one."""

    axis: int
    n: DimLike
    out: DimLike
    scale: float | Callable[[], Expr]
    ratio: Fraction | None
    roi: tuple[Callable[[], Expr], Callable[[], Expr]] | None
    known_roi: tuple[float, float] | None


def _static(d: DimLike) -> int:
    assert isinstance(d, int)
    return d


@dataclass
class _Resize:
    """The attributes of a Resize node."""

    cx: Context
    mode: str
    coordinates: str
    rounding: str
    antialias: bool
    exclude: bool
    a: float
    outside: float
    compute: str  # float dtype of coordinates and weights

    def number(self, value: float) -> Expr:
        return E.const(float(value), self.compute)

    def size(self, d: DimLike) -> Expr:
        return E.cast(E.index(d), self.compute)

    def scale(self, ax: _Axis) -> Expr:
        return E.cast(ax.scale(), self.compute) if callable(ax.scale) else self.number(ax.scale)

    def position(self, ax: _Axis, o: DimLike) -> Expr:
        """The coordinate of output position o, computed at run time."""
        roi = None if ax.roi is None else tuple(E.cast(v(), self.compute) for v in ax.roi)
        sizes = self.size(o), self.scale(ax), self.size(ax.n), self.size(ax.out)
        return R.coordinate(R.EXPRS, self.coordinates, *sizes, roi)  # type: ignore[no-any-return,arg-type]

    def positions(self, ax: _Axis) -> np.ndarray | None:
        """All coordinates where they are known when compiling."""
        if not isinstance(ax.n, int) or not isinstance(ax.out, int) or callable(ax.scale):
            return None
        if self.coordinates == "tf_crop_and_resize" and ax.known_roi is None:
            return None
        y = np.arange(ax.out, dtype=np.float64)
        with np.errstate(all="ignore"):
            x = R.coordinate(R.NUMPY, self.coordinates, y, ax.scale, float(ax.n), float(ax.out), ax.known_roi)
        positions: np.ndarray = np.nan_to_num(np.broadcast_to(x, y.shape))
        return positions

    def index(self, position: Expr, n: DimLike) -> DimLike:
        """The position of a float, limited to [0, n)."""
        inside = op("select", position >= 0.0, op("min", position, self.size(n) - 1), 0.0)  # NaN: 0
        return self.cx.index(E.cast(inside, "int64"), n)

    # --- one axis -------------------------------------------------------------------------------------------------
    def apply(self, x: Tensor, ax: _Axis) -> Tensor:
        """x resized along one axis."""
        result = self.nearest(x, ax) if self.mode == "nearest" else self.interpolate(x, [ax])
        return result if self.coordinates != "tf_crop_and_resize" else self.outer(result, ax)

    def outer(self, x: Tensor, ax: _Axis) -> Tensor:
        """The extrapolation value where the coordinate lies outside of the input."""

        def element(i: Index) -> Expr:
            at = self.position(ax, i[ax.axis])
            inside = (at >= 0.0) & (at <= self.size(ax.n) - 1)
            value = x.at(i)
            return op("select", inside, value, E.cast(self.number(self.outside), value.dtype))

        return self.cx.map(x.shape, x.dtype, element)

    def nearest(self, x: Tensor, ax: _Axis) -> Tensor:
        shape = replace(x.shape, ax.axis, ax.out)
        exact = None if ax.ratio is None else R.exact_coordinate(self.coordinates, D.symbol("o", ax.out), ax.ratio, ax.n, ax.out)
        if exact is not None:
            return self.cx.view(shape, x, lambda i: replace(i, ax.axis, self._exact_nearest(ax, i[ax.axis])))
        known = self.positions(ax)
        if known is not None:
            at = np.clip(R.nearest(R.NUMPY, self.rounding, known), 0, max(_static(ax.n) - 1, 0)).astype(np.int64)
            return gather_axis(self.cx, x, self.cx.const(at), ax.axis)

        def element(i: Index) -> Expr:
            at = R.nearest(R.EXPRS, self.rounding, self.position(ax, i[ax.axis]))
            return x.at(replace(i, ax.axis, self.index(at, ax.n)))

        return self.cx.map(shape, x.dtype, element)

    def _exact_nearest(self, ax: _Axis, o: DimLike) -> DimLike:
        exact = R.exact_coordinate(self.coordinates, o, ax.ratio, ax.n, ax.out)  # type: ignore[arg-type]
        assert exact is not None
        at = R.exact_nearest(self.rounding, *exact)
        return at if D.in_range(at, ax.n) else D.minimum(D.maximum(at, 0), ax.n - 1)

    # --- interpolation --------------------------------------------------------------------------------------------
    def interpolate(self, x: Tensor, axes: list[_Axis]) -> Tensor:
        """x with linear or cubic interpolation along the axes (all of few taps where there are several)."""
        taps = [self.taps(ax) for ax in axes]
        if any(t is None for t in taps):
            (ax,) = axes
            return self.summed(x, ax)
        shape = x.shape
        for ax in axes:
            shape = replace(shape, ax.axis, ax.out)

        def element(i: Index) -> Expr:
            def along(k: int, index: Index) -> Expr:
                if k == len(axes):
                    return E.cast(x.at(index), self.compute)
                total: Expr | None = None
                for at, weight in taps[k](i[axes[k].axis]):  # type: ignore[misc]
                    term = weight * along(k + 1, replace(index, axes[k].axis, at))
                    total = term if total is None else total + term
                assert total is not None
                return total

            return along(0, i)

        return self.cx.map(shape, self.compute, element)

    def taps(self, ax: _Axis) -> Callable[[DimLike], list[Tap]] | None:
        """The taps of an output position, written out; None where they are too many or not known in number."""
        exact = ax.ratio is not None and not self.antialias and not self.exclude and self.mode == "linear"
        if exact and R.exact_coordinate(self.coordinates, 0, ax.ratio, ax.n, ax.out) is not None:  # type: ignore[arg-type]
            return lambda o: self._exact_taps(ax, o)
        known = self.positions(ax)
        if known is not None:
            at, weights = self.table(ax, known)
            if at.shape[1] > UNROLLED:
                return None
            places = [self.cx.const(np.ascontiguousarray(at[:, k])) for k in range(at.shape[1])]
            factors = [self.cx.const(np.ascontiguousarray(weights[:, k]), self.compute) for k in range(at.shape[1])]
            return lambda o: [(self.cx.index(p.at((o,)), ax.n), w.at((o,))) for p, w in zip(places, factors, strict=True)]
        return None if self.antialias else lambda o: self._computed_taps(ax, o)

    def table(self, ax: _Axis, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and weights of all taps, computed now."""
        assert isinstance(ax.scale, float)
        return R.table(self.mode, known, _static(ax.n), ax.scale, self.antialias, self.a, self.exclude)

    def _exact_taps(self, ax: _Axis, o: DimLike) -> list[Tap]:
        exact = R.exact_coordinate(self.coordinates, o, ax.ratio, ax.n, ax.out)  # type: ignore[arg-type]
        assert exact is not None
        numerator, denominator = exact
        low = D.floordiv(numerator, denominator)
        part = D.mod(numerator, denominator)
        if isinstance(part, int) and part == 0:
            return [(self._limit(low, ax.n), self.number(1.0))]
        share = self.size(part) * (1.0 / denominator)
        return [(self._limit(low, ax.n), 1.0 - share), (self._limit(low + 1, ax.n), share)]

    @staticmethod
    def _limit(at: DimLike, n: DimLike) -> DimLike:
        return at if D.in_range(at, n) else D.minimum(D.maximum(at, 0), n - 1)

    def _computed_taps(self, ax: _Axis, o: DimLike) -> list[Tap]:
        half, weight = R.KERNELS[self.mode]
        x = self.position(ax, o)
        low = op("floor", x)
        places = [low + float(k) for k in range(1 - half, half + 1)]
        weights = [weight(R.EXPRS, p - x, self.a) for p in places]
        if self.exclude:
            inside = [(p >= 0.0) & (p < self.size(ax.n)) for p in places]
            weights = [op("select", c, w, 0.0) for c, w in zip(inside, weights, strict=True)]
            total = weights[0]
            for w in weights[1:]:
                total = total + w
            weights = [w / total for w in weights]
        return [(self.index(p, ax.n), w) for p, w in zip(places, weights, strict=True)]

    def summed(self, x: Tensor, ax: _Axis) -> Tensor:
        """Many taps: a sum over them, divided by the sum of the weights."""
        half, weight = R.KERNELS[self.mode]
        shape = replace(x.shape, ax.axis, ax.out)
        known = self.positions(ax)
        if known is not None:
            at, weights = self.table(ax, known)
            places, factors = self.cx.const(at), self.cx.const(weights, self.compute)

            def term(i: Index, r: Index) -> Expr:
                spot = (i[ax.axis], r[0])
                value = x.at(replace(i, ax.axis, self.cx.index(places.at(spot), ax.n)))
                return E.cast(value, self.compute) * factors.at(spot)

            return self.cx.reduce("sum", self.compute, shape, (at.shape[1],), term)
        reach = self._reach(ax, half)

        def tap(i: Index, r: Index) -> tuple[Expr, Expr]:
            position = self.position(ax, i[ax.axis])
            place = op("floor", position) + self.size(r[0]) - self.size(reach - 1)
            w = weight(R.EXPRS, (place - position) * op("min", self.scale(ax), 1.0), self.a)
            if self.exclude:
                w = op("select", (place >= 0.0) & (place < self.size(ax.n)), w, 0.0)
            return place, w

        def weighted(i: Index, r: Index, p: dict[str, Expr]) -> Expr:
            place, w = tap(i, r)
            return E.cast(x.at(replace(i, ax.axis, self.index(place, ax.n))), self.compute) * w

        stages = [Stage("sum", "sum", weighted), Stage("total", "sum", lambda i, r, p: tap(i, r)[1])]
        return self.cx.nest(self.compute, shape, (reach * 2,), stages, lambda i, p: p["sum"] / p["total"])

    def _reach(self, ax: _Axis, half: int) -> DimLike:
        if not callable(ax.scale):
            return R.reach(half, ax.scale, True)
        return D.maximum(half, D.ceildiv(ax.n * half, D.maximum(ax.out, 1)) + 1)


# --- the operator ---------------------------------------------------------------------------------------------------
@operator("Resize")
def resize(
    cx: Context,
    node: Node,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    tensors(node, x, roi, scales, sizes)
    compute = "float64" if x.dtype == "float64" else "float32"
    plan = _Resize(
        cx,
        node.attr("mode", "nearest"),
        node.attr("coordinate_transformation_mode", "half_pixel"),
        node.attr("nearest_mode", "round_prefer_floor"),
        bool(node.attr("antialias", 0)),
        bool(node.attr("exclude_outside", 0)),
        float(node.attr("cubic_coeff_a", -0.75)),
        float(node.attr("extrapolation_value", 0.0)),
        compute,
    )
    if plan.mode not in ("nearest", "linear", "cubic") or plan.coordinates not in R.MODES:
        raise ModelError(f"{node}: unknown mode {plan.mode!r} or {plan.coordinates!r}")
    axes = axes_of(cx, node.attr("axes", None) or range(x.rank), x.rank)
    rows = _axes(cx, node, plan, x, axes, roi, scales, sizes)
    moving = [ax for ax in rows if not _unchanged(plan, ax)]
    pair = plan.mode == "linear" and len(moving) == 2 and plan.coordinates != "tf_crop_and_resize" and not plan.antialias
    result = x
    if pair:
        result = plan.interpolate(x, moving)
    else:
        for ax in moving:
            result = plan.apply(result, ax)
    return _finish(cx, result, x.dtype)


def _finish(cx: Context, t: Tensor, dtype: str) -> Tensor:
    """t in the dtype of the input: integers are rounded and limited."""
    if t.dtype == dtype:
        return t
    if dtypes.is_float(dtype):
        return cx.map(t.shape, dtype, lambda i: E.cast(t.at(i), dtype))
    return cx.map(t.shape, dtype, lambda i: E.saturate(op("round", t.at(i)), dtype))


def _unchanged(plan: _Resize, ax: _Axis) -> bool:
    crop = plan.coordinates == "tf_crop_and_resize" and ax.known_roi != (0.0, 1.0)
    return ax.ratio == 1 and D.known_equal(ax.n, ax.out) is True and not crop


def _axes(cx: Context, node: Node, plan: _Resize, x: Tensor, axes: list[int], roi: Tensor | None, scales: Tensor | None,
          sizes: Tensor | None) -> list[_Axis]:  # fmt: skip
    count = len(axes)
    rois: list[tuple[Callable[[], Expr], Callable[[], Expr]] | None] = [None] * count
    known: list[tuple[float, float] | None] = [None] * count
    if plan.coordinates == "tf_crop_and_resize":
        if roi is None:
            raise ModelError(f"{node}: tf_crop_and_resize needs the input roi")
        for k in range(count):
            rois[k] = (lambda k=k: roi.at((k,)), lambda k=k: roi.at((k + count,)))  # type: ignore[misc]
            if roi.array is not None:
                known[k] = (float(roi.array[k]), float(roi.array[k + count]))
    if scales is not None and not (isinstance(scales.size, int) and scales.size == 0):
        rows = _from_scales(cx, x, axes, scales)
    elif sizes is not None:
        rows = _from_sizes(cx, node, x, axes, sizes)
    else:
        raise ModelError(f"{node}: needs scales or sizes")
    for a, (out, *_) in zip(axes, rows, strict=True):
        need_elements(cx, x.shape[a], out)
    return [_Axis(a, x.shape[a], *row, rois[k], known[k]) for k, (a, row) in enumerate(zip(axes, rows, strict=True))]


Row = tuple[DimLike, "float | Callable[[], Expr]", "Fraction | None"]


def _from_scales(cx: Context, x: Tensor, axes: list[int], scales: Tensor) -> list[Row]:
    """(output size, scale, exact scale) of every axis."""
    whole = cx.ints(scales)
    if scales.array is None and whole is not None and all(isinstance(v, int) for v in whole):
        scales = cx.const(np.array(whole, np.float32))
    if scales.array is None:
        dims = [x.shape[a] for a in axes]
        scales = resized(cx, scales, len(axes)) if not isinstance(scales.shape[0], int) else scales
        wanted = cx.map((len(axes),), "int64", lambda i: E.cast(op("floor", scales.at(i) * _pick(i[0], dims)), "int64"))
        outs = [cx.read_size(wanted, k) for k in range(len(axes))]
        return [(o, lambda k=k: scales.at((k,)), None) for k, o in enumerate(outs)]  # type: ignore[misc]
    rows: list[Row] = []
    for a, s in zip(axes, scales.array.reshape(-1), strict=True):
        n, value = x.shape[a], np.float32(s)
        out = int(np.floor(np.float32(n) * value)) if isinstance(n, int) else D.scale_floor(n, float(str(value)))
        ratio = Fraction(float(value))
        rows.append((out, float(value), ratio if max(ratio.numerator, ratio.denominator) <= 4096 else None))
    return rows


def _pick(k: DimLike, dims: list[DimLike]) -> Expr:
    """dims[k] as float32."""
    e = E.index(dims[-1])
    for n in reversed(range(len(dims) - 1)):
        e = op("select", E.index(k).eq(n), E.index(dims[n]), e)
    return E.cast(e, "float32")


def _from_sizes(cx: Context, node: Node, x: Tensor, axes: list[int], sizes: Tensor) -> list[Row]:
    outs = list(sizes_of(cx, sizes, len(axes)))
    dims = [x.shape[a] for a in axes]
    policy = node.attr("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        return _keep_ratio(cx, dims, outs, "min" if policy == "not_larger" else "max")
    return [(o, *_ratio(n, o)) for n, o in zip(dims, outs, strict=True)]


def _ratio(n: DimLike, o: DimLike) -> tuple[float | Callable[[], Expr], Fraction | None]:
    """out / in: a number where it is known, also of unknown sizes where one is a multiple of the other."""
    if isinstance(n, int) and isinstance(o, int):
        return (o / n if n else 1.0), Fraction(o, n) if n and o else None
    times, part = D.floordiv(o, n), D.floordiv(n, o)
    if isinstance(times, int) and times > 0 and D.known_equal(n * times, o):
        return float(times), Fraction(times)
    if isinstance(part, int) and part > 0 and D.known_equal(o * part, n):
        return 1.0 / part, Fraction(1, part)
    return (lambda: E.cast(E.index(o), "float32") / E.cast(E.index(n), "float32")), None


def _keep_ratio(cx: Context, dims: list[DimLike], outs: list[DimLike], kind: str) -> list[Row]:
    """One scale for all axes: the smallest or largest of those asked for."""
    if all(isinstance(d, int) for d in (*dims, *outs)):
        ratios = [Fraction(_static(o), _static(n)) for n, o in zip(dims, outs, strict=True)]
        s = float(min(ratios) if kind == "min" else max(ratios))
        return [(int(s * _static(n) + 0.5), s, None) for n in dims]

    def scale() -> Expr:
        terms = [E.cast(E.index(o), "float32") / E.cast(E.index(n), "float32") for n, o in zip(dims, outs, strict=True)]
        total = terms[0]
        for t in terms[1:]:
            total = op(kind, total, t)
        return total

    wanted = cx.map((len(dims),), "int64", lambda i: E.cast(op("floor", scale() * _pick(i[0], dims) + 0.5), "int64"))
    return [(cx.read_size(wanted, k), scale, None) for k in range(len(dims))]
