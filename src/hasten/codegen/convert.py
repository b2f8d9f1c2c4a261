"""Conversions: between compute types, and between values in registers and what lies in memory.

Small floats (float16, bfloat16, float8, float4) are float32 in registers and their codes in memory; the codes are read
and made by integer arithmetic (half by F16C where the ISA has it), so that no call of a run-time library is needed and
flushed denormals make no difference. Results are those of NumPy and ml_dtypes: rounding to nearest, half to even; too
large numbers become infinity, or NaN in formats without it (float4: the largest number). 4-bit and 2-bit integers are
8-bit ones in registers and take a byte in memory, whose upper bits are ignored when read and zero when written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hasten.base import dtypes
from hasten.codegen.builder import Function, V, bits_of, vector
from hasten.codegen.math_common import clamp_keeping_nan, from_bits, to_bits

Special = Literal["ieee", "fn", "fnuz", "finite"]


@dataclass(frozen=True)
class Format:
    """A small float: 1 sign bit, `exponent` bits with `bias`, `mantissa` bits.

    special: "ieee": infinities and NaNs as in IEEE 754; "fn": no infinity, NaN is all ones; "fnuz": no infinity, no
    negative zero, whose code is NaN; "finite": neither infinity nor NaN. `largest` is the largest finite number.
    """

    exponent: int
    mantissa: int
    bias: int
    special: Special
    largest: float

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def magnitude(self) -> int:
        """Mask of everything but the sign."""
        return (1 << (self.bits - 1)) - 1

    @property
    def overflow(self) -> int:
        """The first code beyond the largest number: infinity, NaN or none at all."""
        full = ((1 << self.exponent) - 1) << self.mantissa
        return {"ieee": full, "fn": self.magnitude}.get(self.special, self.magnitude + 1)


FORMATS = {
    "float16": Format(5, 10, 15, "ieee", 65504.0),
    "bfloat16": Format(8, 7, 127, "ieee", (2 - 2.0**-7) * 2.0**127),
    "float8_e4m3fn": Format(4, 3, 7, "fn", 448.0),
    "float8_e4m3fnuz": Format(4, 3, 8, "fnuz", 240.0),
    "float8_e5m2": Format(5, 2, 15, "ieee", 57344.0),
    "float8_e5m2fnuz": Format(5, 2, 16, "fnuz", 57344.0),
    "float4_e2m1fn": Format(2, 1, 1, "finite", 6.0),
}
_NARROW_INTS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}


# --- small floats: codes to float and back; codes are i32 with zeros above their bits ---------------------------------
def _decode(f: Function, fmt: Format, code: V) -> V:
    """The float whose code is `code`: the bits moved to their place, the exponent rebiased."""
    if fmt.bias == 127:
        return from_bits(f, code << (32 - fmt.bits))
    magnitude = code & fmt.magnitude
    sign = (code & (1 << (fmt.bits - 1))) << (32 - fmt.bits)
    moved = magnitude << (23 - fmt.mantissa)
    rebias = (127 - fmt.bias) << 23
    # A denormal code is read as 2^(1 - bias) (1 + mantissa); subtracting 2^(1 - bias) lets the hardware normalise it.
    denormal = from_bits(f, moved + (rebias + (1 << 23))) - 2.0 ** (1 - fmt.bias)
    value = f.select(magnitude < (1 << fmt.mantissa), to_bits(f, denormal), moved + rebias)
    if fmt.special == "ieee":
        value = f.select(magnitude < fmt.overflow, value, moved | 0x7F800000)
    elif fmt.special == "fn":
        value = f.select(magnitude.eq(fmt.magnitude), 0x7FC00000, value)
    elif fmt.special == "fnuz":
        value = f.select(code.eq(fmt.magnitude + 1), 0x7FC00000, value)
    return from_bits(f, value | sign)


def _round_magnitude(f: Function, fmt: Format, a: V) -> V:
    """The code of a, the bits of a float without its sign, as if the format had exponents without end."""
    shift = 23 - fmt.mantissa
    rounded = (a + ((1 << (shift - 1)) - 1) + (a.lshr(shift) & 1)).lshr(shift)
    if fmt.bias == 127:
        return rounded
    # Below the normal numbers: an addition to a number whose last place is the smallest denormal rounds.
    anchor = f.const(vector("float", a.lanes), 2.0 ** (24 - fmt.mantissa - fmt.bias))
    denormal = to_bits(f, from_bits(f, a) + anchor) - to_bits(f, anchor)
    return f.select(a < ((128 - fmt.bias) << 23), denormal, rounded - ((127 - fmt.bias) << fmt.mantissa))


def _encode(f: Function, fmt: Format, x: V) -> V:
    """The code of the number of `fmt` nearest to the float x."""
    bits = to_bits(f, x)
    a = bits & 0x7FFFFFFF
    sign = bits.lshr(32 - fmt.bits) & (1 << (fmt.bits - 1))
    nan = a > 0x7F800000
    code = _round_magnitude(f, fmt, a)
    if fmt.special == "ieee":
        quiet = fmt.overflow | (1 << (fmt.mantissa - 1))
        return f.select(nan, quiet, code if fmt.bias == 127 else f.smin(code, fmt.overflow)) | sign
    if fmt.special == "fn":  # all numbers that are too large, and NaN
        return f.smin(code, fmt.magnitude) | sign
    if fmt.special == "fnuz":
        signed = f.select(code.eq(0), code, code | sign)
        return f.select(code < fmt.overflow, signed, fmt.overflow)
    # ml_dtypes gives the zero of the other sign for NaN
    return f.select(nan, sign ^ (1 << (fmt.bits - 1)), f.smin(code, fmt.magnitude) | sign)


# --- float8_e8m0fnu: powers of two without sign; the smallest, 2^-127, is a denormal float ----------------------------
def _decode_e8m0(f: Function, code: V) -> V:
    value = f.select(code.eq(255), 0x7FC00000, code << 23)
    return from_bits(f, f.select(code.eq(0), 1 << 22, value))


def _encode_e8m0(f: Function, x: V) -> V:
    """As ml_dtypes: to nearest, the middle up (among denormals: down); zero and negative numbers are NaN."""
    bits = to_bits(f, x)
    rounded = (bits + f.select(bits < (1 << 23), f.const(bits.type, 0x3FFFFF), 0x400000)).lshr(23)
    return f.select((bits > 0) & (bits < 0x7F800000), rounded, 255)


def _saturate_e8m0(f: Function, x: V) -> V:
    """As ONNX by default: |x| rounded up, to the largest power at most; infinity is NaN."""
    a = to_bits(f, x) & 0x7FFFFFFF
    up = f.smin((a + 0x7FFFFF).lshr(23), 254)
    return _decode_e8m0(f, f.select(a >= 0x7F800000, 255, up))


# --- codes and values of every stored type ----------------------------------------------------------------------------
def _to_code(f: Function, stored: str, x: V) -> V:
    """The stored integer (i8 or i16) of a float x."""
    storage = vector(dtypes.dtype(stored).storage, x.lanes)
    if stored == "float16" and f.isa.has_f16c:
        return f.bitcast(f.cast(x, "half"), storage)
    code = _encode_e8m0(f, x) if stored == "float8_e8m0fnu" else _encode(f, FORMATS[stored], x)
    return f.cast(code, storage)


def _from_code(f: Function, stored: str, code: V) -> V:
    """The float of a stored integer."""
    if stored == "float16" and f.isa.has_f16c:
        return f.cast(f.bitcast(code, vector("half", code.lanes)), "float")
    wide = f.cast(code, "i32", signed=False)
    return _decode_e8m0(f, wide) if stored == "float8_e8m0fnu" else _decode(f, FORMATS[stored], wide)


def _wrap(f: Function, x: V, to: str) -> V:
    """An i8 reduced to the range of a 4-bit or 2-bit integer."""
    rest = 8 - _NARROW_INTS[to]
    return x & ((1 << _NARROW_INTS[to]) - 1) if to.startswith("u") else (x << rest) >> rest


def _is_small_float(name: str) -> bool:
    return name in FORMATS or name == "float8_e8m0fnu"


def load_value(f: Function, stored: str, p: V, lanes: int, mask: V | None = None, align: int | None = None) -> V:
    """`lanes` consecutive elements of dtype `stored` at p, in the compute type of `stored`.

    mask: i1 for each lane; memory behind clear lanes isn't touched, and their values are those of zero bytes. align: in
    bytes, one element by default.
    """
    raw = _load_raw(f, vector(dtypes.dtype(stored).storage, lanes), p, mask, align)
    if stored == "bool":
        return raw.ne(0)
    if stored in _NARROW_INTS:
        return _wrap(f, raw, stored)
    return _from_code(f, stored, raw) if _is_small_float(stored) else raw


def store_value(f: Function, stored: str, value: V, p: V, mask: V | None = None, align: int | None = None) -> None:
    """Stores value, of the compute type of `stored`, as consecutive elements of dtype `stored` at p.

    mask: i1 for each lane; memory behind clear lanes isn't touched. align: in bytes, one element by default.
    """
    if stored == "bool":
        value = f.cast(value, "i8")
    elif stored in _NARROW_INTS:
        value = value & ((1 << _NARROW_INTS[stored]) - 1)
    elif _is_small_float(stored):
        value = _to_code(f, stored, value)
    if mask is None:
        f.store(value, p, align)
    elif value.lanes == 1:
        with f.when(mask):
            f.store(value, p, align)
    else:
        f.masked_store(value, p, mask, align)


def _load_raw(f: Function, t: str, p: V, mask: V | None, align: int | None) -> V:
    if mask is None:
        return f.load(t, p, align)
    if mask.lanes > 1:
        return f.masked_load(t, p, mask, align)
    result = f.var(t, 0)
    with f.when(mask):
        result.set(f.load(t, p, align))
    return result.get()


# --- conversions of values --------------------------------------------------------------------------------------------
def cast(f: Function, dtype: str, x: V, to: str) -> V:
    """x of compute dtype `dtype` as `to`, in the compute type of `to`, with ONNX's and NumPy's meaning.

    Floats to integers truncate; out of range they saturate (4-bit and 2-bit: wrap), NaN is 0. Integers wrap. Anything
    to bool is x != 0. To a small float: rounded to its numbers, still a float.
    """
    source, target = dtypes.dtype(dtype), dtypes.dtype(to)
    if to == "bool":
        return x if dtype == "bool" else x.ne(0)
    if target.kind == "f":
        return _cast_to_float(f, dtype, x, to)
    storage = target.storage
    if source.kind == "f":
        narrow = to in _NARROW_INTS
        x = float_to_int(f, x, 32 if narrow else target.bits, narrow or target.kind == "i")
        source = dtypes.dtype("int32")
    x = f.cast(x, storage, signed=source.kind == "i")
    return _wrap(f, x, to) if to in _NARROW_INTS else x


def _cast_to_float(f: Function, dtype: str, x: V, to: str) -> V:
    signed = dtypes.dtype(dtype).kind == "i"
    if to in ("float32", "float64"):
        return f.cast(x, "float" if to == "float32" else "double", signed)
    if dtype == "float64" and to == "float16":
        x = _narrow_to_odd(f, x)
    x = f.cast(x, "float", signed)
    return _from_code(f, to, _to_code(f, to, x))


def _narrow_to_odd(f: Function, x: V) -> V:
    """A double as the float towards zero from it, with the last bit set where that lost something.

    Rounding the result once more is then as good as rounding x (to nearest alone would round ties twice).
    """
    near = f.cast(x, "float")
    back = f.cast(near, "double")
    bits = to_bits(f, near)
    away = (to_bits(f, back) & 0x7FFFFFFFFFFFFFFF) > (to_bits(f, x) & 0x7FFFFFFFFFFFFFFF)
    odd = (bits - f.cast(away, "i32")) | 1
    return from_bits(f, f.select((x < back) | (x > back), odd, bits))


def float_to_int(f: Function, x: V, bits: int, signed: bool) -> V:
    """Truncation towards zero to integers of `bits` bits, saturating; NaN is 0."""
    t = vector(f"i{bits}", x.lanes)
    low, high = _int_range(bits, signed)
    digits = {32: 24, 64: 53}[bits_of(x.type)]
    excess = high.bit_length() - digits  # bits of the largest integer that the float type has no room for
    largest = high if excess <= 0 else high >> excess << excess
    limited = clamp_keeping_nan(f, f.select(x.is_nan(), f.const(x.type, 0), x), low, largest)
    result = f.cast(f.cast(limited, "i32"), t) if bits <= 16 else f.cast(limited, t, signed)
    return result if excess <= 0 else f.select(x > largest, high, result)


def _int_range(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def saturate(f: Function, dtype: str, x: V, to: str) -> V:
    """As `cast`, with x first limited to the finite numbers of `to`; NaN stays NaN, and is 0 as an integer."""
    source, target = dtypes.dtype(dtype), dtypes.dtype(to)
    if to == "bool" or source.kind == "b":
        return cast(f, dtype, x, to)
    if target.kind in "iu":
        low, high = _int_range(target.bits, target.kind == "i")
        if source.kind == "f":
            if to not in _NARROW_INTS:
                return cast(f, dtype, x, to)  # saturates as it is
            x = clamp_keeping_nan(f, x, low, high)
        else:
            x = _clamp_int(f, x, source.kind == "i", low, high)
        return cast(f, dtype, x, to)
    if to == "float8_e8m0fnu":
        return _saturate_e8m0(f, cast(f, dtype, x, "float32"))
    if source.kind != "f":
        dtype, x = "float32", cast(f, dtype, x, "float32")
    largest = FORMATS[to].largest if to in FORMATS else 3.4028234663852886e38 if to == "float32" else None
    if largest is not None:
        x = clamp_keeping_nan(f, x, -largest, largest)
    return cast(f, dtype, x, to)


def _clamp_int(f: Function, x: V, signed: bool, low: int, high: int) -> V:
    """An integer limited to [low, high] as far as its own type goes beyond."""
    own_low, own_high = _int_range(bits_of(x.type), signed)
    kind = "s" if signed else "u"
    if low > own_low:
        x = f.intrinsic(f"llvm.{kind}max", x.type, [x, f.const(x.type, low)])
    if high < own_high:
        x = f.intrinsic(f"llvm.{kind}min", x.type, [x, f.const(x.type, high)])
    return x
