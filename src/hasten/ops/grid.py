"""GridSample and AffineGrid: sampling at computed coordinates, in any number of spatial axes."""

from __future__ import annotations

from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops import resize_taps as R
from hasten.ops.arguments import sizes_of
from hasten.ops.registry import Node, operator, tensors

_MODES = {"bilinear": "linear", "linear": "linear", "bicubic": "cubic", "cubic": "cubic", "nearest": "nearest"}


class _Sampler:
    """Coordinates, padding and pixels along one axis of n elements."""

    def __init__(self, cx: Context, n: DimLike, padding: str, aligned: bool, dtype: str):
        self.cx, self.n, self.padding, self.aligned, self.dtype = cx, n, padding, aligned, dtype
        self.size = E.cast(E.index(n), dtype)

    def denormalised(self, v: Expr) -> Expr:
        """The position of a coordinate in [-1, 1]."""
        return (v + 1.0) * (self.size - 1) * 0.5 if self.aligned else ((v + 1.0) * self.size - 1.0) * 0.5

    def reflected(self, x: Expr) -> Expr:
        """x reflected at the borders until it lies inside."""
        low, span = (0.0, self.size - 1) if self.aligned else (-0.5, self.size)
        t = x - low
        t = t - 2.0 * span * op("floor", t / (2.0 * span))
        inside = low + (span - op("abs", span - t))
        return op("select", span > 0.0, inside, 0.0)

    def padded(self, x: Expr) -> Expr:
        """A position moved into the borders, as the padding says."""
        if self.padding == "border":
            return op("min", op("max", x, 0.0), self.size - 1)
        return self.reflected(x) if self.padding == "reflection" else x

    def pixel(self, place: Expr) -> tuple[DimLike, Expr | None]:
        """(index, guard) of an integral position."""
        guard = (place >= 0.0) & (place < self.size) if self.padding == "zeros" else None
        place = self.padded(place)
        inside = op("select", place >= 0.0, op("min", place, self.size - 1), 0.0)  # NaN: 0
        return self.cx.index(E.cast(inside, "int64"), self.n), guard

    def taps(self, v: Expr, mode: str) -> list[tuple[DimLike, Expr | None, Expr | None]]:
        """(index, guard, weight) of what is read for the normalised coordinate v."""
        x = self.denormalised(v)
        if mode == "nearest":
            return [(*self.pixel(self.padded(op("round", x))), None)]
        if mode == "cubic" and self.padding == "border" and not self.aligned:  # half a pixel beyond the border stays
            x = op("select", (x < -0.5) | (x > self.size - 0.5), self.padded(x), x)
        else:
            x = self.padded(x)
        half, weight = R.KERNELS[mode]
        low = op("floor", x)
        places = [low + float(k) for k in range(1 - half, half + 1)]
        return [(*self.pixel(p), weight(R.EXPRS, p - x, -0.75)) for p in places]


@operator("GridSample")
def grid_sample(cx: Context, node: Node, x: Tensor, grid: Tensor) -> Tensor:
    tensors(node, x, grid)
    mode, padding = _MODES.get(str(node.attr("mode", "linear"))), str(node.attr("padding_mode", "zeros"))
    if mode is None or padding not in ("zeros", "border", "reflection"):
        raise ModelError(f"{node}: unknown mode or padding_mode")
    spatial = x.rank - 2
    cx.require(grid.shape[-1], "==", spatial, "the grid must have one coordinate for each spatial axis")
    cx.require(grid.shape[0], "==", x.shape[0], "the grid must have the batch of the input")
    for d in x.shape[2:]:
        cx.require(1, "<=", d, "GridSample needs an input that isn't empty")
    dtype = "float64" if x.dtype == "float64" else "float32"
    samplers = [_Sampler(cx, d, padding, bool(node.attr("align_corners", 0)), dtype) for d in x.shape[2:]]

    def element(i: Index) -> Expr:
        at = (i[0], *i[2:])
        taps = [s.taps(E.cast(grid.at((*at, spatial - 1 - k)), dtype), mode) for k, s in enumerate(samplers)]

        def along(k: int, index: Index, guard: Expr) -> Expr:
            if k == spatial:
                value = cx.load(x, index, guard)
                return value if mode == "nearest" else E.cast(value, dtype)
            total: Expr | None = None
            for place, ok, weight in taps[k]:
                term = along(k + 1, (*index, place), guard if ok is None else guard & ok)
                term = term if weight is None else weight * term
                total = term if total is None else total + term
            assert total is not None
            return total

        return along(0, i[:2], E.const(True, "bool"))

    return cx.map(x.shape[:2] + grid.shape[1:-1], x.dtype, element)


@operator("AffineGrid")
def affine_grid(cx: Context, node: Node, theta: Tensor, size: Tensor) -> Tensor:
    tensors(node, theta, size)
    spatial = sizes_of(cx, size)[2:]
    aligned, rank = bool(node.attr("align_corners", 0)), len(spatial)
    cx.require(theta.shape[1], "==", rank, "theta must have a row for each spatial axis")
    cx.require(theta.shape[2], "==", rank + 1, "theta must have a column for each spatial axis, and one more")
    dtype = "float64" if theta.dtype == "float64" else "float32"

    def element(i: Index) -> Expr:
        row = i[-1]
        total = theta.at((i[0], row, rank))
        for k, d in enumerate(spatial):
            n, at = E.cast(E.index(d), dtype), E.cast(E.index(i[1 + k]), dtype)
            step = at * 2.0 / op("max", n - 1, 1.0) - 1.0 if aligned else (at * 2.0 + 1.0) / n - 1.0
            total = total + theta.at((i[0], row, rank - 1 - k)) * step
        return total

    return cx.map((theta.shape[0], *spatial, rank), theta.dtype, element)
