"""LLVM text of the operations of `kernels.expr.OPS`, of conversions, and of reductions across lanes.

`emit_op` takes values of any number of lanes; a dtype's name says how its bits are meant ("uint8" and "int8" are both
i8). The tables at the end list what exists: OPERATIONS for every dtype, and the float functions of `math_float` and
`math_double`. All of it works at every ISA level, never traps, and leaves no other undefined symbols than libm's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hasten.base import dtypes
from hasten.codegen import convert, math_double, math_float
from hasten.codegen.builder import Function, Number, V, bits_of, vector
from hasten.codegen.convert import load_value, store_value
from hasten.codegen.math_common import (
    ceil,
    copysign,
    extreme,
    extreme_of,
    fabs,
    floor,
    is_constant,
    llvm_type,
    round_even,
    sqrt,
    trunc,
)

__all__ = ["emit_op", "extreme_of", "identity", "llvm_type", "load_value", "reduce_lanes", "store_value"]

Emitter = Callable[[Function, str, list[V]], V]


def emit_op(f: Function, name: str, dtype: str, args: list[V], to: str | None = None) -> V:
    """The value of operation `name` of arguments of compute dtype `dtype` (of "select": of the second and third).

    name: a row of OPS, or "cast" or "saturate" with the target dtype `to`. Scalars beside vectors
    are splatted; comparisons give i1 for each lane. Raises KeyError for an operation that the dtype does not have.
    """
    if name == "cast" or name == "saturate":
        assert to is not None, f"{name} needs the dtype to convert to"
        return (convert.cast if name == "cast" else convert.saturate)(f, dtype, args[0], to)
    kinds, emitter = OPERATIONS[name]
    if _kind(dtype) not in kinds:
        raise KeyError(f"there is no {name} of {dtype}")
    lanes = max(a.lanes for a in args)
    return emitter(f, dtype, [f.splat(a, lanes) for a in args])


def _kind(dtype: str) -> str:
    return dtypes.dtype(dtype).kind


def _text(f: Function, instruction: str, args: list[V]) -> V:
    return f.emit(args[0].type, f"{instruction} {args[0].type} " + ", ".join(a.name for a in args))


def _compare(f: Function, predicate: str, a: V, b: V) -> V:
    return f.emit(vector("i1", a.lanes), f"{predicate} {a.type} {a.name}, {b.name}")


# --- arithmetic -------------------------------------------------------------------------------------------------------
def _instruction(of_float: str, of_int: str, of_bool: str) -> Emitter:
    names = {"f": of_float, "i": of_int, "u": of_int, "b": of_bool}
    return lambda f, dtype, args: _text(f, names[_kind(dtype)], args)


def _comparison(of_float: str, of_signed: str, of_unsigned: str) -> Emitter:
    names = {"f": f"fcmp {of_float}", "i": f"icmp {of_signed}", "u": f"icmp {of_unsigned}", "b": f"icmp {of_unsigned}"}
    return lambda f, dtype, args: _compare(f, names[_kind(dtype)], *args)


def _extreme(name: str, of_bool: str) -> Emitter:
    def emit(f: Function, dtype: str, args: list[V]) -> V:
        kind = _kind(dtype)
        if kind == "b":
            return _text(f, of_bool, args)
        if kind != "f":
            return f.intrinsic(f"llvm.{'s' if kind == 'i' else 'u'}{name}", args[0].type, args)
        return extreme(f, name, *args)

    return emit


def _neg(f: Function, dtype: str, args: list[V]) -> V:
    return -args[0]


def _abs(f: Function, dtype: str, args: list[V]) -> V:
    x = args[0]
    if _kind(dtype) == "f":
        return fabs(f, x)
    return f.smax(x, -x) if _kind(dtype) == "i" else x


def _sign(f: Function, dtype: str, args: list[V]) -> V:
    x = args[0]
    if _kind(dtype) == "f":
        one = copysign(f, f.const(x.type, 1), x)
        return f.select(_compare(f, "fcmp one", x, f.const(x.type, 0)), one, x + 0.0)  # -0 becomes 0
    positive = f.cast(_compare(f, "icmp ne" if _kind(dtype) == "u" else "icmp sgt", x, f.const(x.type, 0)), x.type)
    return positive if _kind(dtype) == "u" else positive - f.cast(x < 0, x.type)


def _shift(left: bool) -> Emitter:
    """Counts from the width on (also negative ones) shift everything out."""

    def emit(f: Function, dtype: str, args: list[V]) -> V:
        x, count = args
        width = bits_of(x.type)
        fits = _compare(f, "icmp ult", count, f.const(count.type, width))
        if not left and _kind(dtype) == "i":
            return x >> f.select(fits, count, width - 1)
        safe = f.select(fits, count, 0)
        return f.select(fits, x << safe if left else x.lshr(safe), 0)

    return emit


# --- division ---------------------------------------------------------------------------------------------------------
def _quotient(f: Function, dtype: str, a: V, b: V) -> V:
    """a / b towards zero for integers, 0 where b is 0; wraps for the one quotient that has no number."""
    signed = _kind(dtype) == "i"
    zero = b.eq(0)
    trivial = zero | b.eq(-1) if signed else zero
    safe = f.select(trivial, 1, b)
    q = _vector_quotient(f, signed, a, safe)
    if signed:
        q = f.select(b.eq(-1), -a, q)
    return f.select(zero, 0, q)


def _vector_quotient(f: Function, signed: bool, a: V, b: V) -> V:
    """Vectors up to 32 bits by division of floats, whose quotients are never rounded up to the next integer."""
    bits = bits_of(a.type)
    if a.lanes == 1 or bits == 64 or is_constant(b):
        return a // b if signed else a.udiv(b)
    t = "float" if bits <= 16 else "double"
    q = f.cast(a, t, signed) / f.cast(b, t, signed)
    wide = f.cast(q, "i32" if bits <= 16 else f"i{bits}", signed or bits <= 16)
    return f.cast(wide, a.type)


def _div(f: Function, dtype: str, args: list[V]) -> V:
    return args[0] / args[1] if _kind(dtype) == "f" else _quotient(f, dtype, *args)


def _fmod(f: Function, dtype: str, args: list[V]) -> V:
    """The remainder with the sign of the dividend; 0 for integers where the divisor is 0."""
    a, b = args
    if _kind(dtype) == "f":
        return FLOAT_BINARY[dtype]["fmod"](f, a, b)
    return f.select(b.eq(0), 0, a - _quotient(f, dtype, a, b) * b)


def _floormod(f: Function, dtype: str, args: list[V]) -> V:
    """The remainder with the sign of the divisor."""
    a, b = args
    r = _fmod(f, dtype, args)
    if _kind(dtype) == "u":
        return r
    if _kind(dtype) == "i":
        return f.select(r.ne(0) & ((r ^ b) < 0), r + b, r)
    zero = f.const(a.type, 0)
    adjusted = f.select((r < 0.0) ^ (b < 0.0), r + b, r)
    return f.select(r.eq(0.0), copysign(f, zero, b), adjusted)


def _pow(f: Function, dtype: str, args: list[V]) -> V:
    if dtype in FLOAT_BINARY:
        return FLOAT_BINARY[dtype]["pow"](f, *args)
    return _int_pow(f, dtype, *args)


def _int_pow(f: Function, dtype: str, base: V, exponent: V) -> V:
    """Squaring, wrapping; a negative exponent gives what is left of 1 / base^n: 0, or 1 or -1 for those bases."""
    signed = _kind(dtype) == "i"
    one = f.const(base.type, 1)
    result, power, rest = f.var(base.type, one), f.var(base.type, base), f.var(base.type, exponent)
    if signed:
        rest.set(f.select(exponent < 0, exponent & 1, exponent))  # enough for 1 and -1
    with f.forever() as loop:
        left = rest.get()
        loop.break_if(~_any(f, left.ne(0)))
        now = power.get()
        result.set(f.select((left & 1).ne(0), result.get() * now, result.get()))
        power.set(now * now)
        rest.set(left.lshr(1))
    value = result.get()
    if not signed:
        return value
    unit = base.eq(1) | base.eq(-1)
    return f.select((exponent < 0) & ~unit, 0, value)


def _any(f: Function, mask: V) -> V:
    return mask if mask.lanes == 1 else f.intrinsic("llvm.vector.reduce.or", "i1", [mask], [mask.type])


# --- tests, choices, rounding, functions ------------------------------------------------------------------------------
def _is_nan(f: Function, dtype: str, args: list[V]) -> V:
    x = args[0]
    return x.is_nan() if _kind(dtype) == "f" else f.const(vector("i1", x.lanes), False)


def _is_inf(f: Function, dtype: str, args: list[V]) -> V:
    x = args[0]
    return fabs(f, x).eq(math.inf) if _kind(dtype) == "f" else f.const(vector("i1", x.lanes), False)


def _select(f: Function, dtype: str, args: list[V]) -> V:
    return f.select(*args)


def _rounding(emitter: Callable[[Function, V], V]) -> Emitter:
    return lambda f, dtype, args: emitter(f, args[0]) if _kind(dtype) == "f" else args[0]


def _function(name: str) -> Emitter:
    def emit(f: Function, dtype: str, args: list[V]) -> V:
        return FLOAT_UNARY[dtype][name](f, args[0])

    return emit


def _binary_function(name: str) -> Emitter:
    def emit(f: Function, dtype: str, args: list[V]) -> V:
        return FLOAT_BINARY[dtype][name](f, *args)

    return emit


FLOAT_UNARY = {"float32": math_float.UNARY, "float64": math_double.UNARY}
FLOAT_BINARY = {"float32": math_float.BINARY, "float64": math_double.BINARY}

# Name: kinds of dtypes that have it (f, i, u, b as in base.dtypes), and its text. Of bools, "add" is "or" and so on as
# in NumPy; rounding leaves integers as they are.
OPERATIONS: dict[str, tuple[str, Emitter]] = {
    "add": ("fiub", _instruction("fadd", "add", "or")),
    "sub": ("fiub", _instruction("fsub", "sub", "xor")),
    "mul": ("fiub", _instruction("fmul", "mul", "and")),
    "div": ("fiu", _div),
    "floormod": ("fiu", _floormod),
    "fmod": ("fiu", _fmod),
    "pow": ("fiu", _pow),
    "neg": ("fiu", _neg),
    "abs": ("fiub", _abs),
    "sign": ("fiu", _sign),
    "max": ("fiub", _extreme("max", "or")),
    "min": ("fiub", _extreme("min", "and")),
    "and": ("iub", _instruction("", "and", "and")),
    "or": ("iub", _instruction("", "or", "or")),
    "xor": ("iub", _instruction("", "xor", "xor")),
    "not": ("iub", lambda f, dtype, args: ~args[0]),
    "shl": ("iu", _shift(left=True)),
    "shr": ("iu", _shift(left=False)),
    "lt": ("fiub", _comparison("olt", "slt", "ult")),
    "le": ("fiub", _comparison("ole", "sle", "ule")),
    "eq": ("fiub", _comparison("oeq", "eq", "eq")),
    "ne": ("fiub", _comparison("une", "ne", "ne")),
    "isnan": ("fiub", _is_nan),
    "isinf": ("fiub", _is_inf),
    "select": ("fiub", _select),
    "floor": ("fiub", _rounding(floor)),
    "ceil": ("fiub", _rounding(ceil)),
    "trunc": ("fiub", _rounding(trunc)),
    "round": ("fiub", _rounding(round_even)),
    "sqrt": ("f", lambda f, dtype, args: sqrt(f, args[0])),
    **{name: ("f", _function(name)) for name in math_float.UNARY},
    "atan2": ("f", _binary_function("atan2")),
}


# --- across lanes -----------------------------------------------------------------------------------------------------
def reduce_lanes(f: Function, kind: str, dtype: str, v: V) -> V:
    """The scalar sum, product, maximum or minimum (NaN wins), "and" or "or" of all lanes; kind is the row of OPS.

    Halves are combined with halves, so that sums are pairwise.
    """
    while v.lanes > 1 and v.lanes % 2 == 0:
        half = v.lanes // 2
        low = f.shuffle(v, None, range(half)) if half > 1 else f.extract(v, 0)
        high = f.shuffle(v, None, range(half, 2 * half)) if half > 1 else f.extract(v, 1)
        v = emit_op(f, kind, dtype, [low, high])
    result = f.extract(v, 0)
    for i in range(1, v.lanes):
        result = emit_op(f, kind, dtype, [result, f.extract(v, i)])
    return result


def identity(kind: str, dtype: str) -> Number:
    """The number that changes nothing in a reduction of that kind: 0 of "add", minus infinity of a float "max" ..."""
    row = dtypes.dtype(dtype)
    if row.kind == "b":
        return kind in ("mul", "min", "and")
    if kind in ("max", "min") and row.kind == "f":
        return -math.inf if kind == "max" else math.inf
    lowest = -(1 << (row.bits - 1)) if row.kind == "i" else 0
    highest = (1 << (row.bits - (row.kind == "i"))) - 1
    all_ones = -1 if row.kind == "i" else highest
    return {"add": 0, "mul": 1, "max": lowest, "min": highest, "and": all_ones, "or": 0, "xor": 0}[kind]
