"""Elementary functions of float32 in vectors: range reduction and polynomials, with Cephes' constants or fitted ones.

Each emitter takes a Function and values of type float (any lanes) and gives the result. Errors are measured and bounded
in tests/codegen/test_math.py. Numbers below the smallest normal one (1.2e-38) count as zero, as results of `exp` and
`exp2` and as arguments of `log`: kernels run with denormals flushed. `pow`, `sin`, `cos` and `tan` do their sensitive
part in double; beyond |x| = 2^20, `sin`, `cos` and `tan` ask libm.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hasten.codegen.builder import Function, V
from hasten.codegen.math_common import (
    clamp_keeping_nan,
    copysign,
    each_lane,
    fabs,
    fma,
    from_bits,
    polynomial,
    sqrt,
    to_bits,
    trunc,
    where_rare,
)

_INFINITY, _NAN = math.inf, math.nan
_LN2, _LOG2E, _HALF_PI = math.log(2), math.log2(math.e), math.pi / 2
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # the high part has 9 bits: its products with exponents are exact
# of doubles: the high part has 33 bits
_HALF_PI_HIGH, _HALF_PI_LOW = 1.57079632673412561417, 6.07710050650619224932e-11
_SHIFT32, _SHIFT64 = 1.5 * 2.0**23, 1.5 * 2.0**52  # x + _SHIFT has round(x) in its low bits
_SHIFT64_BITS = 0x4338000000000000
_EXP_LOW, _EXP_HIGH = -87.33654022216797, 88.72283172607422  # logarithms of the smallest normal and the largest number
_TINY = 2.0**-126
_SQRT_HALF_BITS = 0x3F3504F3
_SQRT_HALF_BITS64 = 0x3FE6A09E667F3BCD
_BIG = 2.0**25  # from here on 1 + x is x

# Constants from the term of the lowest degree up. Relative errors are those of the whole function before rounding.
# (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2: minimax, 2^-28; and with the error of expm1 in mind, 2^-31
_EXP = (0.4999999404, 0.1666652113, 0.04166828096, 0.008368690498, 0.001381949056)
_EXPM1 = (0.5, 0.1666666567, 0.04166649282, 0.008333543316, 0.001393234706, 0.0001976425701)
# (2^r - 1) / r for |r| <= 1/2: minimax, 2^-32
_EXP2 = (0.6931471825, 0.2402265072, 0.05550405011, 0.00961808674, 0.001333795022, 0.0001545217965, 1.433003035e-05)
# 2^r for |r| <= 1/2: minimax, 2^-29
_EXP2_SHORT = (1.0, 0.6931471825, 0.2402264625, 0.05550328642, 0.009618489072, 0.00133999309, 0.0001534581243)
# (log(1 + r) - r + r^2 / 2) / r^3 for sqrt(1/2) <= 1 + r <= sqrt(2): minimax, 2^-30
_LOG = (0.3333331347, -0.2500000894, 0.2000207305, -0.1666799635, 0.142203182, -0.1240599826, 0.1188365519,
        -0.1167192608, 0.06751427054)  # fmt: skip
# erf(x) / x in x^2 for |x| <= 3.93: rational, 2^-25.6; those floats whose rounding costs least
_ERF_P = (1.82689023, 0.308886528, 0.0854695514, 0.00611933693, 0.000461116579, 3.30603302e-06)
_ERF_Q = (1.6190393, 0.813422382, 0.184987426, 0.0242814384, 0.00188652612, 6.15301324e-05)
# (sin(r) / r - 1) / r^2 and (cos(r) - 1 + r^2 / 2) / r^4 for |r| <= pi / 4: Cephes
_SIN = (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4)
_COS = (4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5)
# (asin(x) / x - 1) / x^2 for |x| <= 1/2: Cephes
_ASIN = (1.6666752422e-1, 7.4953002686e-2, 4.5470025998e-2, 2.4181311049e-2, 4.2163199048e-2)
# (atan(x) / x - 1) / x^2 in x^2 for |x| <= 1: minimax, 2^-31
_ATAN = (-0.3333332837, 0.1999971569, -0.1428034306, 0.1106123328, -0.08821462095, 0.06763648987, -0.04498325661,
         0.02277761698, -0.007425363176, 0.001134522143)  # fmt: skip
# (sinh(x) / x - 1) / x^2 for |x| <= 1: Cephes
_SINH = (1.66667160211e-1, 8.33028376239e-3, 2.03721912945e-4)
# of doubles, minimax: log2(m) / s in s^2 where s = (m - 1) / (m + 1), 2^-37; 2^r for |r| <= 1/2, 2^-34
_LOG2_64 = (2.885390081790048, 0.9617966733682309, 0.5770835830070097, 0.411672687343722, 0.3407329932431587)
_EXP2_64 = (0.9999999999595618, 0.6931471805568324, 0.24022651213498092, 0.055504109063258665, 0.009618025613318034,
            0.0013333478473685416, 0.00015469729214118296, 1.5303700711365693e-05)  # fmt: skip


# --- exponentials -----------------------------------------------------------------------------------------------------
def _reduce_exp(f: Function, x: V) -> tuple[V, V]:
    """r, and a number whose low bits are n (plus a constant), with x = n ln(2) + r."""
    shifted = fma(f, x, _LOG2E, _SHIFT32)
    n = shifted - _SHIFT32
    return fma(f, n, -_LN2_LOW, fma(f, n, -_LN2_HIGH, x)), shifted


def _limited(f: Function, x: V, y: V, low: float, high: float) -> V:
    """y where low <= x <= high, else 0 below and infinity above; NaN stays."""
    y = f.select(x < low, f.const(x.type, 0), y)
    return f.select(x <= high, y, x * 3e38)


def _exp_parts(f: Function, x: V, exponent: int, high: float) -> V:
    """exp(x) * 2^exponent."""
    r, shifted = _reduce_exp(f, x)
    p = fma(f, polynomial(f, r, _EXP), r * r, r) + 1.0
    scaled = from_bits(f, to_bits(f, p) + ((to_bits(f, shifted) + exponent) << 23))
    return _limited(f, x, scaled, _EXP_LOW, high)


def exp(f: Function, x: V) -> V:
    return _exp_parts(f, x, 0, _EXP_HIGH)


def exp2(f: Function, x: V) -> V:
    shifted = x + _SHIFT32
    r = x - (shifted - _SHIFT32)
    p = fma(f, polynomial(f, r, _EXP2), r, 1.0)
    y = from_bits(f, to_bits(f, p) + (to_bits(f, shifted) << 23))
    return _limited(f, x, y, -126.0, 127.99999237060547)


def exp2_negative(f: Function, x: V) -> V:
    """exp2(x) for x <= 0, in fewer operations; NaN stays."""
    shifted = x + _SHIFT32
    p = polynomial(f, x - (shifted - _SHIFT32), _EXP2_SHORT)
    return f.select(x < -126.0, f.const(x.type, 0), from_bits(f, to_bits(f, p) + (to_bits(f, shifted) << 23)))


def _half_expm1(f: Function, x: V) -> V:
    """(exp(x) - 1) / 2 as 2^n (exp(r) - 1) + (2^n - 1), halved so that 2^128 does not overflow; -20 <= x <= 88.73."""
    r, shifted = _reduce_exp(f, x)
    q = fma(f, polynomial(f, r, _EXPM1), r * r, r)
    half = from_bits(f, (to_bits(f, shifted) << 23) + (126 << 23))
    return fma(f, half, q, half - 0.5)


def expm1(f: Function, x: V) -> V:
    low = f.const(x.type, -20)
    half = _half_expm1(f, f.select(low > x, low, x))  # NaN stays
    return copysign(f, f.select(x <= _EXP_HIGH, half + half, x * 3e38), x)


def tanh(f: Function, x: V) -> V:
    """e / (e + 2) with e = exp(2 x) - 1: accurate near 0 and near 1."""
    half = _half_expm1(f, clamp_keeping_nan(f, x + x, -20.0, 20.0))
    return copysign(f, half / (half + 1.0), x)


# --- logarithms -------------------------------------------------------------------------------------------------------
def _log_exponent(f: Function, x: V) -> V:
    """e with sqrt(1/2) <= x / 2^e < sqrt(2), as an integer."""
    return (to_bits(f, x) - _SQRT_HALF_BITS) >> 23


def _log_sum(f: Function, r: V, e: V) -> V:
    """log(1 + r) + e ln(2)."""
    e, z = f.cast(e, "float"), r * r
    y = fma(f, e, _LN2_LOW, polynomial(f, r, _LOG) * r * z)
    return fma(f, e, _LN2_HIGH, fma(f, z, -0.5, y) + r)


def _log_limits(f: Function, u: V, y: V) -> V:
    """y, but what the logarithm of u is where u is zero, negative, infinite or NaN."""
    unordered_or_negative = f.emit(f"{(u < 0.0).type}", f"fcmp ult {u.type} {u.name}, {f.const(u.type, 0).name}")
    outside = f.select(unordered_or_negative, f.const(u.type, _NAN), -_INFINITY)
    return f.select(u.eq(_INFINITY), u, f.select(u >= _TINY, y, outside))


def log(f: Function, x: V) -> V:
    e = _log_exponent(f, x)
    mantissa = from_bits(f, to_bits(f, x) - (e << 23))
    return _log_limits(f, x, _log_sum(f, mantissa - 1.0, e))


def log1p(f: Function, x: V) -> V:
    """With 1 + x = 2^e (1 + r): r is computed from x itself, so that nothing of a small x is lost."""
    u = x + 1.0
    e = _log_exponent(f, u)
    scale = from_bits(f, (127 << 23) - (e << 23))
    r = fma(f, x, scale, scale - 1.0)
    mantissa = from_bits(f, to_bits(f, u) - (e << 23))
    y = _log_sum(f, f.select(x < _BIG, r, mantissa - 1.0), e)
    return copysign(f, _log_limits(f, u, y), x)


# --- erf and the hyperbolic functions ---------------------------------------------------------------------------
def erf(f: Function, x: V) -> V:
    x = clamp_keeping_nan(f, x, -3.93, 3.93)
    z = x * x
    return clamp_keeping_nan(f, x * polynomial(f, z, _ERF_P) / polynomial(f, z, _ERF_Q), -1.0, 1.0)


def _half_exp(f: Function, a: V) -> V:
    return _exp_parts(f, a, -1, _EXP_HIGH + _LN2)


def sinh(f: Function, x: V) -> V:
    a, z = fabs(f, x), x * x
    half = _half_exp(f, a)
    small = fma(f, polynomial(f, z, _SINH) * z, x, x)
    return f.select(a < 1.0, small, copysign(f, half - 0.25 / half, x))


def cosh(f: Function, x: V) -> V:
    half = _half_exp(f, fabs(f, x))
    return half + 0.25 / half


def asinh(f: Function, x: V) -> V:
    a = fabs(f, x)
    z = a * a
    big = a > _BIG
    y = log1p(f, f.select(big, a, a + z / (sqrt(f, z + 1.0) + 1.0)))
    return copysign(f, f.select(big, y + _LN2, y), x)


def acosh(f: Function, x: V) -> V:
    t = x - 1.0
    big = x > _BIG
    y = log1p(f, f.select(big, x, t + sqrt(f, fma(f, t, t, t + t))))
    return f.select(x < 1.0, f.const(x.type, _NAN), f.select(big, y + _LN2, y))


def atanh(f: Function, x: V) -> V:
    a = fabs(f, x)
    return copysign(f, log1p(f, (a + a) / (1.0 - a)) * 0.5, x)


# --- trigonometric functions ------------------------------------------------------------------------------------------
_CODY_WAITE_LIMIT = 2.0**20


def _quadrant(f: Function, x: V) -> tuple[V, V]:
    """r and q with x = q pi/2 + r, |r| <= pi/4; q modulo 2^32. For |x| <= 2^20, with double's precision."""
    wide = f.cast(x, "double")
    shifted = fma(f, wide, 1 / _HALF_PI, _SHIFT64)
    n = shifted - _SHIFT64
    r = fma(f, n, -_HALF_PI_LOW, fma(f, n, -_HALF_PI_HIGH, wide))
    return f.cast(r, "float"), f.cast(to_bits(f, shifted), "i32")


def _sin_cos(f: Function, r: V) -> tuple[V, V]:
    z = r * r
    s = fma(f, polynomial(f, z, _SIN) * z, r, r)
    c = fma(f, polynomial(f, z, _COS), z * z, fma(f, z, -0.5, 1.0))
    return s, c


def _beyond(f: Function, x: V) -> V:
    return ~(fabs(f, x) <= _CODY_WAITE_LIMIT)


def _wave(f: Function, x: V, symbol: str, shift: int) -> V:
    """sin(x + shift pi/2)."""
    r, q = _quadrant(f, x)
    q = q + shift
    s, c = _sin_cos(f, r)
    y = to_bits(f, f.select((q & 1).ne(0), c, s)) ^ ((q & 2) << 30)
    return where_rare(f, _beyond(f, x), from_bits(f, y), lambda: each_lane(f, symbol, [x]))


def sin(f: Function, x: V) -> V:
    return _wave(f, x, "sinf", 0)


def cos(f: Function, x: V) -> V:
    return _wave(f, x, "cosf", 1)


def tan(f: Function, x: V) -> V:
    r, q = _quadrant(f, x)
    s, c = _sin_cos(f, r)
    odd = (q & 1).ne(0)
    y = f.select(odd, -c, s) / f.select(odd, s, c)
    return where_rare(f, _beyond(f, x), y, lambda: each_lane(f, "tanf", [x]))


def _asin_core(f: Function, x: V, z: V) -> V:
    """asin(x) for |x| <= 1/2 and z = x^2."""
    return fma(f, polynomial(f, z, _ASIN) * z, x, x)


def asin(f: Function, x: V) -> V:
    """Above 1/2: pi/2 - 2 asin(sqrt((1 - x) / 2))."""
    a = fabs(f, x)
    far = a > 0.5
    z = f.select(far, fma(f, a, -0.5, 0.5), x * x)
    core = _asin_core(f, f.select(far, sqrt(f, z), a), z)
    return copysign(f, f.select(far, _HALF_PI - (core + core), core), x)


def acos(f: Function, x: V) -> V:
    a = fabs(f, x)
    far = a > 0.5
    z = f.select(far, fma(f, a, -0.5, 0.5), x * x)
    core = _asin_core(f, f.select(far, sqrt(f, z), x), z)
    twice = core + core
    return f.select(far, f.select(x > 0.0, twice, math.pi - twice), _HALF_PI - core)


def _atan_core(f: Function, t: V) -> V:
    """atan(t) for 0 <= t <= 1."""
    z = t * t
    return fma(f, polynomial(f, z, _ATAN) * z, t, t)


def atan(f: Function, x: V) -> V:
    a = fabs(f, x)
    steep = a > 1.0
    core = _atan_core(f, f.select(steep, 1.0 / a, a))
    return copysign(f, f.select(steep, _HALF_PI - core, core), x)


def atan2(f: Function, y: V, x: V) -> V:
    """The angle of (x, y), as C has it: the signs of zeros count, infinities have angles."""
    ay, ax = fabs(f, y), fabs(f, x)
    steep = ay > ax
    low, high = f.select(steep, ax, ay), f.select(steep, ay, ax)
    t = f.select(high.eq(0.0), f.const(x.type, 0), low / high)
    t = f.select(low.eq(_INFINITY), f.const(x.type, 1), t)
    angle = _atan_core(f, t)
    angle = f.select(steep, _HALF_PI - angle, angle)
    angle = f.select(to_bits(f, x) < 0, math.pi - angle, angle)
    return f.select(_either_nan(f, x, y), x + y, copysign(f, angle, y))


def _either_nan(f: Function, a: V, b: V) -> V:
    return f.emit((a < b).type, f"fcmp uno {a.type} {a.name}, {b.name}")


# --- power ------------------------------------------------------------------------------------------------------------
def _log2_wide(f: Function, x: V) -> V:
    """log2 of positive floats, infinity and NaN, in double, with 37 good bits; minus infinity for 0."""
    wide = f.cast(x, "double")
    e = (to_bits(f, wide) - _SQRT_HALF_BITS64) >> 52
    m = from_bits(f, to_bits(f, wide) - (e << 52))
    s = (m - 1.0) / (m + 1.0)
    exponent = from_bits(f, e + _SHIFT64_BITS) - _SHIFT64
    y = fma(f, polynomial(f, s * s, _LOG2_64), s, exponent)
    y = f.select(wide < _INFINITY, y, wide)
    return f.select(wide.eq(0.0), f.const(y.type, -_INFINITY), y)


def _exp2_narrow(f: Function, z: V) -> V:
    """2^z for a double z, rounded to float."""
    z = clamp_keeping_nan(f, z, -200.0, 200.0)
    shifted = z + _SHIFT64
    r = z - (shifted - _SHIFT64)
    p = to_bits(f, polynomial(f, r, _EXP2_64)) + (to_bits(f, shifted) << 52)
    return f.cast(f.select(z.is_nan(), z, from_bits(f, p)), "float")


def pow(f: Function, x: V, y: V) -> V:
    """C's powf: 2^(y log2|x|) in double, then the sign and the special cases."""
    a = fabs(f, x)
    magnitude = _exp2_narrow(f, f.cast(y, "double") * _log2_wide(f, a))
    half = y * 0.5
    whole = trunc(f, y).eq(y)
    odd = whole & trunc(f, half).ne(half)
    negative = to_bits(f, x) < 0
    signed = f.select(negative & odd, -magnitude, magnitude)
    invalid = (x < 0.0) & (a < _INFINITY) & ~whole & ~_either_nan(f, x, y)
    signed = f.select(invalid, f.const(x.type, _NAN), signed)
    one = y.eq(0.0) | x.eq(1.0) | (a.eq(1.0) & fabs(f, y).eq(_INFINITY))
    return f.select(one, f.const(x.type, 1), signed)


def fmod(f: Function, a: V, b: V) -> V:
    """The remainder of a / b with the sign of a; exact.

    A quotient below 2^28 is truncated rightly in double, and its product with b is exact there; others are libm's.
    """
    wide_a, wide_b = f.cast(a, "double"), f.cast(b, "double")
    q = trunc(f, wide_a / wide_b)
    r = copysign(f, f.cast(wide_a - q * wide_b, "float"), a)
    common = (fabs(f, q) < 2.0**28) & (fabs(f, b) < _INFINITY)
    return where_rare(f, ~common, r, lambda: each_lane(f, "fmodf", [a, b]))


UNARY: dict[str, Callable[[Function, V], V]] = {
    "exp": exp, "exp2": exp2, "expm1": expm1, "log": log, "log1p": log1p, "tanh": tanh, "erf": erf,
    "sin": sin, "cos": cos, "tan": tan, "asin": asin, "acos": acos, "atan": atan,
    "sinh": sinh, "cosh": cosh, "asinh": asinh, "acosh": acosh, "atanh": atanh,
}  # fmt: skip
BINARY: dict[str, Callable[[Function, V, V], V]] = {"pow": pow, "atan2": atan2, "fmod": fmod}
