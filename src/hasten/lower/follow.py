"""Following small integer tensors symbolically: the value of a scalar Expr as a dim, where that is possible at compile time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Union

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.kernels.expr import Expr

if TYPE_CHECKING:
    from hasten.lower.trace import Context

Known = Union[DimLike, float, "Scaled", None]


class Scaled:
    """dim * factor, a float on its way back to an integer (Resize's sizes)."""

    def __init__(self, dim: DimLike, factor: float):
        self.dim, self.factor = dim, factor


def to_dim(cx: Context, e: Expr) -> DimLike | None:
    """The value of e as an int or dim; None where only the run can tell."""
    value = _value(cx, e)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        return None  # wraps around at run time
    if isinstance(value, Scaled):
        return value.dim * int(value.factor) if value.factor == int(value.factor) else None
    return value


def _value(cx: Context, e: Expr) -> Known:
    if e.kind == "const":
        return e.value
    if e.kind == "index":
        return e.index[0]
    if e.kind == "load":
        t = e.source
        if e.guard is not None or e.binds or not all(isinstance(i, int) for i in e.index):
            return None
        known = cx.ints(t)
        if known is None:
            return None
        position = 0
        for d, i in zip(t.shape, e.index, strict=True):
            position = position * d + i
        return known[position] if 0 <= position < len(known) else None
    if e.kind != "op":
        return None
    args = [_value(cx, a) for a in e.args]
    if any(a is None for a in args):
        return _partial_select(cx, e)
    if any(isinstance(a, (float, Scaled)) for a in args) or e.dtype.startswith("float"):
        return _float(e, args)
    return _FOLLOW[e.name](*args) if e.name in _FOLLOW else None


_ROUNDING: dict[str, Callable[[float], int]] = {"floor": math.floor, "trunc": math.trunc, "ceil": math.ceil, "round": round, "cast": int}
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "mul": lambda a, b: a * b, "div": lambda a, b: a / b if b else math.nan, "add": lambda a, b: a + b, "sub": lambda a, b: a - b,
}  # fmt: skip


def _partial_select(cx: Context, e: Expr) -> Known:
    if e.name == "select":
        cond = _value(cx, e.args[0])
        if isinstance(cond, (int, bool)):
            return _value(cx, e.args[1 if cond else 2])
    return None


def _float(e: Expr, args: list[Known]) -> Known:
    a = args[0]
    if e.name == "cast" or e.name in ("floor", "trunc", "ceil", "round"):
        if isinstance(a, Scaled):
            if e.name in ("cast", "floor", "trunc") and (e.dtype.startswith("int") or e.name != "cast"):
                return D.scale_floor(a.dim, a.factor)
            return a if e.name == "cast" else None
        if isinstance(a, float):
            if e.name == "cast" and not e.dtype.startswith(("int", "uint")):
                return a
            return _ROUNDING[e.name](a) if math.isfinite(a) else None
        return Scaled(a, 1.0) if e.name == "cast" and isinstance(a, D.Dim) else a
    if len(args) == 2 and e.name in ("mul", "div", "add", "sub"):
        b = args[1]
        if isinstance(a, (int, float)) and isinstance(b, (int, float)):
            return float(_ARITHMETIC[e.name](a, b))
        if e.name == "mul":
            scaled, factor = (a, b) if isinstance(a, (Scaled, D.Dim)) else (b, a)
            scaled = Scaled(scaled, 1.0) if isinstance(scaled, D.Dim) else scaled
            if isinstance(factor, (int, float)) and isinstance(scaled, Scaled):
                return Scaled(scaled.dim, scaled.factor * factor)
        if e.name == "div" and isinstance(b, (int, float)) and b:
            scaled = Scaled(a, 1.0) if isinstance(a, D.Dim) else a
            return Scaled(scaled.dim, scaled.factor / b) if isinstance(scaled, Scaled) else None
        left, right = _whole(a), _whole(b)
        if e.name in ("add", "sub") and left is not None and right is not None:
            return left + right if e.name == "add" else left - right
        if e.name == "div" and left is not None and right is not None:
            exact = D.floordiv(left, right)
            return exact if exact * right == left else None
    return None


def _whole(a: Known) -> DimLike | None:
    if isinstance(a, Scaled):
        return a.dim if a.factor == 1.0 else None
    return int(a) if isinstance(a, float) and a.is_integer() else a if isinstance(a, (int, D.Dim)) else None


def _div(a: DimLike, b: DimLike) -> DimLike | None:
    """Integers divide towards zero: floor division where neither side is negative."""
    if isinstance(a, int) and isinstance(b, int):
        return (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1) if b else None
    return D.floordiv(a, b) if D.nonnegative(a) and D.nonnegative(b) else None


def _known_less(a: DimLike, b: DimLike) -> int | None:
    if D.nonnegative(b - a - 1):
        return 1
    return 0 if D.nonnegative(a - b) else None


def _equal(a: DimLike, b: DimLike) -> int | None:
    known = D.known_equal(a, b)
    return None if known is None else int(known)


def _absolute(a: DimLike) -> DimLike | None:
    return abs(a) if isinstance(a, int) else a if D.nonnegative(a) else None


def _not(a: DimLike) -> int | None:
    return int(not a) if isinstance(a, (int, bool)) and a in (0, 1) else None


_FOLLOW: dict[str, Callable[..., Known]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": _div, "neg": lambda a: -a,
    "floormod": lambda a, b: D.mod(a, b) if D.nonnegative(b) else None,
    "fmod": lambda a, b: D.mod(a, b) if D.nonnegative(a) and D.nonnegative(b) else None,
    "max": D.maximum, "min": D.minimum, "abs": _absolute, "cast": lambda a: a, "saturate": lambda a: a,
    "eq": _equal, "ne": lambda a, b: None if _equal(a, b) is None else 1 - _equal(a, b),  # type: ignore[operator]
    "lt": _known_less, "le": lambda a, b: None if _known_less(b, a) is None else 1 - _known_less(b, a),  # type: ignore[operator]
    "not": _not, "and": lambda a, b: a & b if isinstance(a, int) and isinstance(b, int) else None,
    "or": lambda a, b: a | b if isinstance(a, int) and isinstance(b, int) else None,
    "select": lambda c, a, b: (a if c else b) if isinstance(c, (int, bool)) else (a if a == b else None), "bounds": lambda a, n: a,
}  # fmt: skip
