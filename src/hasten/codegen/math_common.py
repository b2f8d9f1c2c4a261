"""What the files of vector math share: polynomials, bit views, rounding without SSE4.1, calls of libm for each lane.

Everything takes and gives values (`V`) of any number of lanes, and works at every level of the ISA: nothing here needs
FMA, and no operation becomes a call of the compiler's run-time library. Constants are Python floats, rounded to the
type of the value beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hasten.codegen.builder import Function, V, _mangle, bits_of, element_of, vector
from hasten.codegen.isa import PORTABLE

Term = V | float


def llvm_type(dtype: str) -> str:
    """LLVM's element type of the compute dtype: "float32" -> "float", "bool" -> "i1", "uint8" -> "i8"."""
    fixed = {"float32": "float", "float64": "double", "bool": "i1"}
    return fixed.get(dtype) or "i" + dtype.removeprefix("u").removeprefix("int")


def fma(f: Function, a: Term, b: Term, c: Term) -> V:
    """a * b + c; numbers take the type of the value among them."""
    t = next(x.type for x in (a, b, c) if isinstance(x, V))
    return f.fma(f.coerce(a, t), f.coerce(b, t), f.coerce(c, t))


def polynomial(f: Function, x: V, coefficients: Sequence[float]) -> V:
    """Horner's scheme; coefficients from the constant term up."""
    value: Term = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        value = fma(f, value, x, c)
    assert isinstance(value, V)
    return value


def int_like(x: V) -> str:
    """The integer type with the lanes and bits of x."""
    return vector(f"i{bits_of(x.type)}", x.lanes)


def to_bits(f: Function, x: V) -> V:
    return f.bitcast(x, int_like(x))


def from_bits(f: Function, x: V) -> V:
    """The float or double whose bits x is."""
    return f.bitcast(x, vector({32: "float", 64: "double"}[bits_of(x.type)], x.lanes))


def fabs(f: Function, x: V) -> V:
    return f.intrinsic("llvm.fabs", x.type, [x])


def sqrt(f: Function, x: V) -> V:
    return f.intrinsic("llvm.sqrt", x.type, [x])


def copysign(f: Function, magnitude: V, sign: V) -> V:
    return f.intrinsic("llvm.copysign", magnitude.type, [magnitude, sign])


def clamp_keeping_nan(f: Function, x: V, low: float, high: float) -> V:
    """x limited to [low, high]; NaN stays (the operand order is that of minps and maxps, which return the second)."""
    lo, hi = f.const(x.type, low), f.const(x.type, high)
    x = f.select(lo > x, lo, x)
    return f.select(hi < x, hi, x)


def extreme(f: Function, name: str, a: V, b: V) -> V:
    """The maximum ("max") or minimum ("min"); NaN where one is NaN. Of two zeros it may give either ("nsz").

    One instruction beside a constant or on AArch64, three otherwise.
    """
    symbol = f"llvm.{name}imum.{_mangle(a.type)}"
    f.module.declare(symbol, a.type, [a.type, b.type])
    return f.emit(a.type, f"call nsz {a.type} @{symbol}({a!r}, {b!r})")


def extreme_of(f: Function, name: str, xs: Sequence[V]) -> V:
    """The maximum or minimum of several floats; NaN where one is NaN. On x86 that is an instruction for each, and one for every two that
    looks for NaN: half of what `extreme` takes for each pair."""
    best = xs[0]
    if f.module.isa.architecture != "x86_64":
        for x in xs[1:]:
            best = extreme(f, name, best, x)
        return best
    for x in xs[1:]:
        best = f.select(best > x if name == "max" else best < x, best, x)
    numbers: V | None = None
    for a, b in zip(xs[::2], [*xs[1::2], xs[-1]], strict=False):
        pair = f.emit(vector("i1", a.lanes), f"fcmp ord {a.type} {a.name}, {b.name}")
        numbers = pair if numbers is None else numbers & pair
    assert numbers is not None
    return f.select(numbers, best, math.nan)


def any_lane(f: Function, mask: V) -> V:
    """i1: whether some lane of a mask is set."""
    return mask if mask.lanes == 1 else f.intrinsic("llvm.vector.reduce.or", "i1", [mask], [mask.type])


def each_lane(f: Function, symbol: str, args: Sequence[V]) -> V:
    """The C function `symbol` applied to every lane: a scalar call, or a loop in a function of the module."""
    t = element_of(args[0].type)
    if args[0].lanes == 1:
        return f.call(symbol, t, args)
    size, lanes = bits_of(t) // 8, args[0].lanes
    slots = [f.alloca(size * lanes) for _ in args]
    for slot, a in zip(slots, args, strict=True):
        f.store(a, slot)
    f.call(_lane_loop(f, symbol, t, len(args)), "void", [*slots, f.const("i64", lanes)])
    return f.load(args[0].type, slots[0])


def _lane_loop(f: Function, symbol: str, t: str, arguments: int) -> str:
    """Defines, once a module, `void each_<symbol>(ptr in and out, ptr..., i64 n)` and gives its name."""
    name = f"each_{symbol}"
    if all(g.name != name for g in f.module._functions):
        pointers = [(f"p{i}", "ptr") for i in range(arguments)]
        g = f.module.function(name, [*pointers, ("n", "i64")], attributes="noinline nounwind", internal=True)
        size = bits_of(t) // 8
        with g.loop(0, g.args[-1]) as i:
            loaded = [g.load(t, g.at(p, i, size)) for p in g.args[:-1]]
            g.store(g.call(symbol, t, loaded), g.at(g.args[0], i, size))
        g.ret()
    return name


def where_rare(f: Function, mask: V, common: V, rare: Callable[[], V]) -> V:
    """`rare()` in the lanes of mask, `common` in the others; `rare` is not computed where no lane needs it."""
    result = f.var(common.type, common)
    with f.when(any_lane(f, mask)):
        result.set(f.select(mask, rare(), result.get()))
    return result.get()


def _has_rounding(f: Function) -> bool:
    """Whether one instruction rounds: SSE2 alone has none."""
    return not (f.isa.is_x86 and f.isa.level == PORTABLE)


def round_even(f: Function, x: V) -> V:
    """Nearest integer, half to even; the sign of zero, infinities and NaN stay."""
    if _has_rounding(f):
        return f.intrinsic("llvm.roundeven", x.type, [x])
    exact = 2.0 ** {32: 23, 64: 52}[bits_of(x.type)]  # from here on every number is an integer
    magnitude = fabs(f, x)
    rounded = copysign(f, (magnitude + exact) - exact, x)
    return f.select(magnitude < exact, rounded, x)


def floor(f: Function, x: V) -> V:
    if _has_rounding(f):
        return f.intrinsic("llvm.floor", x.type, [x])
    nearest = round_even(f, x)
    return copysign(f, nearest - f.select(nearest > x, f.const(x.type, 1), 0.0), x)


def ceil(f: Function, x: V) -> V:
    return f.intrinsic("llvm.ceil", x.type, [x]) if _has_rounding(f) else -floor(f, -x)


def trunc(f: Function, x: V) -> V:
    return f.intrinsic("llvm.trunc", x.type, [x]) if _has_rounding(f) else copysign(f, floor(f, fabs(f, x)), x)


def is_constant(x: V) -> bool:
    return not x.name.startswith("%")
