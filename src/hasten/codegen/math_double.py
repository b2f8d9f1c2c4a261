"""Elementary functions of float64: `exp` and `log` in vectors, the others by libm, one call a lane.

Errors are bounded in tests/codegen/test_math.py. As in float32, denormals count as zero in `exp` and `log`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hasten.codegen.builder import Function, V
from hasten.codegen.math_common import each_lane, fma, from_bits, polynomial, to_bits

# The high part of ln(2) has 32 bits: its products with exponents are exact.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_SHIFT, _SHIFT_BITS = 1.5 * 2.0**52, 0x4338000000000000
_EXP_LOW, _EXP_HIGH = -708.3964185322641, 709.782712893384
_TINY = 2.0**-1022
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD

# (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2: minimax, 2^-61
_EXP = (0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333326084, 0.0013888888888883711,
        0.0001984126987500228, 2.480158732567746e-05, 2.755725517000089e-06, 2.755727347871858e-07,
        2.5105312729622103e-08, 2.09147553258932e-09)  # fmt: skip
# (log(m) - 2 s) / s^3 in s^2, where s = (m - 1) / (m + 1): fdlibm
_LOG = (6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
        1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01)  # fmt: skip


def exp(f: Function, x: V) -> V:
    shifted = fma(f, x, math.log2(math.e), _SHIFT)
    n = shifted - _SHIFT
    r = fma(f, n, -_LN2_LOW, fma(f, n, -_LN2_HIGH, x))
    p = fma(f, polynomial(f, r, _EXP), r * r, r) + 1.0
    y = from_bits(f, to_bits(f, p) + (to_bits(f, shifted) << 52))
    y = f.select(x < _EXP_LOW, f.const(x.type, 0), y)
    return f.select(x <= _EXP_HIGH, y, x * 1e308)


def log(f: Function, x: V) -> V:
    e = (to_bits(f, x) - _SQRT_HALF_BITS) >> 52
    r = from_bits(f, to_bits(f, x) - (e << 52)) - 1.0
    k = from_bits(f, e + _SHIFT_BITS) - _SHIFT
    s = r / (r + 2.0)
    z = s * s
    half_square = r * r * 0.5
    inner = fma(f, s, half_square + z * polynomial(f, z, _LOG), k * _LN2_LOW)
    y = fma(f, k, _LN2_HIGH, r - (half_square - inner))
    outside = f.select((x < 0.0) | x.is_nan(), f.const(x.type, math.nan), -math.inf)
    return f.select(x.eq(math.inf), x, f.select(x >= _TINY, y, outside))


def _libm(name: str) -> Callable[[Function, V], V]:
    return lambda f, x: each_lane(f, name, [x])


def _libm2(name: str) -> Callable[[Function, V, V], V]:
    return lambda f, x, y: each_lane(f, name, [x, y])


_FROM_LIBM = ("exp2", "expm1", "log1p", "tanh", "erf", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
              "asinh", "acosh", "atanh")  # fmt: skip

UNARY: dict[str, Callable[[Function, V], V]] = {"exp": exp, "log": log, **{name: _libm(name) for name in _FROM_LIBM}}
BINARY: dict[str, Callable[[Function, V, V], V]] = {name: _libm2(name) for name in ("pow", "atan2", "fmod")}
