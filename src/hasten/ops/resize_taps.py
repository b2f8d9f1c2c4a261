"""Where Resize reads: coordinates in the input, and the taps (positions and weights) of every output position.

The formulas are written once, for NumPy arrays (sizes known when compiling: taps become tables) and for Exprs alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.kernels import expr as E

MODES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)


@dataclass(frozen=True)
class Ops:
    """Operations that NumPy and Exprs spell differently."""

    choose: Callable[[Any, Any, Any], Any]
    equal: Callable[[Any, Any], Any]
    floor: Callable[[Any], Any]
    ceil: Callable[[Any], Any]
    abs: Callable[[Any], Any]


NUMPY = Ops(np.where, lambda a, b: np.asarray(a) == b, np.floor, np.ceil, np.abs)
EXPRS = Ops(
    E.select,
    lambda a, b: a.eq(b),
    lambda a: E.op("floor", a),
    lambda a: E.op("ceil", a),
    lambda a: E.op("abs", a),
)


def coordinate(ops: Ops, mode: str, y: Any, scale: Any, n: Any, out: Any, roi: tuple[Any, Any] | None) -> Any:
    """The position, in an input of n elements, of output position y of `out`; all numbers are floats."""
    if mode == "asymmetric":
        return y / scale
    if mode == "align_corners":
        width = scale * n
        single = ops.equal(width, 1)
        return ops.choose(single, 0.0 * y, y * (n - 1) / ops.choose(single, 1.0 + 0 * width, width - 1))
    if mode == "tf_crop_and_resize":
        assert roi is not None
        width = scale * n
        span, single = (roi[1] - roi[0]) * (n - 1), ops.equal(width, 1)
        step = span / ops.choose(single, 1.0 + 0 * width, width - 1)
        return ops.choose(single, span / 2 + 0 * y, y * step) + roi[0] * (n - 1)
    x = (y + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return ops.choose(ops.equal(scale * n, 1), -0.5 + 0 * x, x)
    if mode == "half_pixel_symmetric":
        return n / 2 * (1 - out / (scale * n)) + x
    return x


_NEAREST: dict[str, Callable[[Ops, Any], Any]] = {
    "round_prefer_floor": lambda ops, x: ops.ceil(x - 0.5),
    "round_prefer_ceil": lambda ops, x: ops.floor(x + 0.5),
    "floor": lambda ops, x: ops.floor(x),
    "ceil": lambda ops, x: ops.ceil(x),
}


def nearest(ops: Ops, rounding: str, x: Any) -> Any:
    """The position chosen for coordinate x, not yet limited to the input."""
    return _NEAREST[rounding](ops, x)


# --- exact arithmetic on sizes ------------------------------------------------------------------------------------
def exact_coordinate(mode: str, o: DimLike, ratio: Fraction, n: DimLike, out: DimLike) -> tuple[DimLike, int] | None:
    """(numerator, denominator) of the coordinate where the denominator is a constant; ratio: the scale."""
    p, q = ratio.numerator, ratio.denominator
    if mode == "asymmetric":
        return o * q, p
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and isinstance(out, int) and out > 1):
        return o * (2 * q) + (q - p), 2 * p
    if mode == "align_corners" and isinstance(n, int) and isinstance(out, int) and ratio * n == out:
        return (o * (n - 1), out - 1) if out > 1 else (0, 1)
    return None


def exact_nearest(rounding: str, numerator: DimLike, denominator: int) -> DimLike:
    """`nearest` of a fraction."""
    if rounding == "floor":
        return D.floordiv(numerator, denominator)
    if rounding == "ceil":
        return D.ceildiv(numerator, denominator)
    if rounding == "round_prefer_floor":
        return D.ceildiv(numerator * 2 - denominator, denominator * 2)
    return D.floordiv(numerator * 2 + denominator, denominator * 2)


# --- weights --------------------------------------------------------------------------------------------------------
def linear_weight(ops: Ops, distance: Any, a: float) -> Any:
    """The triangle of width 2."""
    d = ops.abs(distance)
    return ops.choose(d < 1, 1 - d, 0 * d)


def cubic_weight(ops: Ops, distance: Any, a: float) -> Any:
    """Keys' cubic of width 4."""
    d = ops.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return ops.choose(d <= 1, near, ops.choose(d < 2, far, 0 * d))


KERNELS: dict[str, tuple[int, Callable[[Ops, Any, float], Any]]] = {
    "linear": (1, linear_weight),
    "cubic": (2, cubic_weight),
}


def reach(half_width: int, scale: float, antialias: bool) -> int:
    """How many positions before (and behind) the coordinate can have a weight."""
    return math.ceil(half_width / min(scale, 1.0)) if antialias else half_width


def table(
    mode: str, x: np.ndarray, n: int, scale: float, antialias: bool, a: float, exclude: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(positions int64 [out, taps], weights float64 [out, taps]) for coordinates x in an input of n elements."""
    half, weight = KERNELS[mode]
    shrink = min(scale, 1.0) if antialias else 1.0
    taps = reach(half, scale, antialias)
    at = np.floor(x).astype(np.int64)[:, None] + np.arange(1 - taps, taps + 1)
    weights = weight(NUMPY, (at - x[:, None]) * shrink, a)
    if exclude:
        weights = np.where((at < 0) | (at >= n), 0.0, weights)
    if exclude or antialias:
        total = weights.sum(1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    used = np.flatnonzero((weights != 0).any(0))
    keep = slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)
    return np.clip(at, 0, max(n - 1, 0))[:, keep], weights[:, keep]
