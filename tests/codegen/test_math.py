"""Operations, functions and conversions of `codegen.math` at every ISA level of this machine.

Functions of floats are compared with a wider type's results; `python tests/codegen/test_math.py` prints the largest
errors found. Conversions are compared with NumPy, ml_dtypes and ONNX's reference for every code there is.
"""

import ctypes
import itertools
import math
import mmap
import warnings

import ml_dtypes
import numpy as np
import pytest

from hasten.base import dtypes
from hasten.codegen import isa as isas
from hasten.codegen import link, llvm
from hasten.codegen import math as vmath
from hasten.codegen.builder import Module
from hasten.kernels.expr import OPS
from hasten.vm.image import LoadedImage
from hasten.vm.native import fpmode

LEVELS = [name for name in isas.available() if not name.startswith("amx")]
INTS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
COMPUTE = ["float32", "float64", "bool", *INTS]
SMALL_FLOATS = ["float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
                "float4_e2m1fn", "float8_e8m0fnu"]  # fmt: skip
NARROW_INTS = ["int4", "uint4", "int2", "uint2"]
UNARY = {"neg", "abs", "sign", "not", "isnan", "isinf", "floor", "ceil", "trunc", "round", "sqrt"} | set(
    vmath.FLOAT_UNARY["float32"]
)
LIBM = {"acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "erf", "exp2", "expm1", "fmod",
        "log1p", "pow", "sin", "sincos", "sinh", "tan", "tanh"}  # fmt: skip
ALLOWED_IMPORTS = {"memcpy", "memset", "memmove"} | LIBM | {name + "f" for name in LIBM}


# --- harness: many small loops in one image ---------------------------------------------------------------------------
class Kernels:
    """Functions `out[i] = body(in0[i], in1[i], ...)`, compiled together for one level."""

    def __init__(self, level):
        self.module = Module(isas.get(level) if isinstance(level, str) else level)
        self.types = {}

    def add(self, name, inputs, output, lanes, body, flush=False):
        """inputs, output: stored dtypes; body(f, values) gives the value to store."""
        f = self.module.function(name, [*((f"p{i}", "ptr") for i in range(len(inputs) + 1)), ("n", "i64")])
        *pointers, out, n = f.args
        saved = fpmode.flush_denormals(f) if flush else None
        with f.loop(0, n, lanes) as i:
            at = [f.at(p, i, dtypes.dtype(t).size) for p, t in zip(pointers, inputs, strict=True)]
            values = [vmath.load_value(f, t, p, lanes) for p, t in zip(at, inputs, strict=True)]
            vmath.store_value(f, output, body(f, values), f.at(out, i, dtypes.dtype(output).size))
        fpmode.restore(f, saved)
        f.ret()
        self.types[name] = (inputs, output)

    def add_op(self, name, op, dtype, lanes, to=None, out=None, flush=False):
        inputs = ["bool", dtype, dtype] if op == "select" else [dtype] * (1 if op in UNARY or to else 2)
        output = out or to or ("bool" if OPS[op].result == "bool" else dtype)
        self.add(name, inputs, output, lanes, lambda f, v: vmath.emit_op(f, op, dtype, v, to), flush)

    def load(self):
        self.image = link.link([llvm.compile_text(self.module.text(), self.module.isa)], list(self.types))
        self.loaded = LoadedImage.from_memory(self.image)
        return self

    def __call__(self, name, *arrays):
        inputs, output = self.types[name]
        n = arrays[0].size
        padded = [np.ascontiguousarray(np.resize(a, -(-n // 64) * 64)) for a in arrays]
        for a, t in zip(padded, inputs, strict=True):
            assert a.dtype == dtypes.to_numpy(t), (name, a.dtype, t)
        out = np.empty(padded[0].size, dtypes.to_numpy(output))
        f = self.loaded.function(name, None, *[ctypes.c_void_p] * (len(padded) + 1), ctypes.c_int64)
        f(*(a.ctypes.data for a in padded), out.ctypes.data, out.size)
        return out[:n]


def supported(dtype):
    return [op for op, (kinds, _) in vmath.OPERATIONS.items() if dtypes.dtype(dtype).kind in kinds]


_CACHE = {}


def operations(level):
    """Every operation of every compute type with 1, 4 and 16 lanes."""
    if level not in _CACHE:
        k = Kernels(level)
        for dtype, lanes in itertools.product(COMPUTE, (1, 4, 16)):
            for op in supported(dtype):
                k.add_op(f"{op}_{dtype}_{lanes}", op, dtype, lanes)
        _CACHE[level] = k.load()
    return _CACHE[level]


@pytest.fixture(params=LEVELS)
def level(request):
    return request.param


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def same(got, want, what):
    """Equal values, where NaN equals NaN and zeros count with their signs only for floats."""
    wrong = ~((got == want) | ((got != got) & (want != want)))
    assert not wrong.any(), f"{what}: {wrong.sum()} differ, first {got[wrong][:5]} instead of {want[wrong][:5]}"


# --- accuracy of float functions --------------------------------------------------------------------------------------
SPECIALS = np.array([
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e30, -1e30,
    88.7, 88.73, -87.3, -88, 104, -104, 9.01, 9.03, 3.92, 3.94, 2.0**20, 2.0**21, 1e5, 0.70710677, 0.7071068,
    1.4142135, 1.4142137, 1.17549435e-38, 3.4028235e38, -3.4028235e38, 0.99999994, 1.0000001,
])  # fmt: skip

# op: intervals that random arguments come from; largest error in units of the last place (ulp): float32, float64.
# The bounds are the largest errors that `table` found on about 10^6 arguments, rounded up. In float64 only exp, log and
# sqrt are ours: the bounds of the others are those that glibc's manual states for libm.
ACCURACY = {
    "exp": ([(-88, 89), (-1, 1), (-1e-3, 1e-3)], 1.0, 1.0),
    "exp2": ([(-127, 129), (-1, 1), (-1e-3, 1e-3)], 1.2, 1.5),
    "expm1": ([(-30, 89), (-1, 1), (-1e-3, 1e-3)], 1.5, 2.5),
    "log": ([(0, 1e38), (0, 10), (0.5, 2), (0.99, 1.01)], 1.0, 1.0),
    "log1p": ([(-1, 1), (0, 1e38), (-1e-3, 1e-3), (0, 100)], 1.5, 2.5),
    "tanh": ([(-10, 10), (-1, 1), (-1e-3, 1e-3)], 2.6, 2.5),
    "erf": ([(-5, 5), (-1, 1), (-1e-3, 1e-3)], 7.5, 1.5),  # 5.5 with FMA
    "sin": ([(-10, 10), (-1e4, 1e4), (-1e6, 1e6), (-1e-3, 1e-3), (-1e30, 1e30)], 1.6, 1.5),
    "cos": ([(-10, 10), (-1e4, 1e4), (-1e6, 1e6), (-1e-3, 1e-3), (-1e30, 1e30)], 1.6, 1.5),
    "tan": ([(-10, 10), (-1e4, 1e4), (-1e6, 1e6), (-1e-3, 1e-3), (-1e30, 1e30)], 3.6, 1.5),
    "asin": ([(-1, 1), (-1e-3, 1e-3), (0.9, 1)], 2.5, 1.5),
    "acos": ([(-1, 1), (-1e-3, 1e-3), (0.9, 1)], 1.5, 1.5),
    "atan": ([(-10, 10), (-1, 1), (-1e-3, 1e-3), (-1e6, 1e6)], 2.0, 1.5),
    "sinh": ([(-90, 90), (-1, 1), (-1e-3, 1e-3), (-3, 3)], 2.0, 2.5),
    "cosh": ([(-90, 90), (-1, 1), (-1e-3, 1e-3), (-3, 3)], 1.6, 2.5),
    "asinh": ([(-1e38, 1e38), (-10, 10), (-1, 1), (-1e-3, 1e-3)], 2.0, 2.5),
    "acosh": ([(1, 1e38), (1, 10), (1, 1.01)], 2.2, 3.5),
    "atanh": ([(-1, 1), (-1e-3, 1e-3), (0.9, 1)], 2.2, 2.5),
    "sqrt": ([(0, 1e38), (0, 4)], 0.5, 0.501),
}
WIDER = {"float32": np.float64, "float64": np.longdouble}
BITS = {"float32": 24, "float64": 53}
_TAKES_LONG = {"erf": np.vectorize(math.erf, otypes=[np.float64])}


def reference(op, dtype, *arrays):
    """The result in the next wider type."""
    wide = [a.astype(WIDER[dtype]) for a in arrays]
    return _TAKES_LONG[op](*wide) if op in _TAKES_LONG else OPS[op].meaning(*wide)


def ulps(got, want, dtype):
    """Distance in units of the last place of the float type; 0 for equal infinities, NaNs and flushed denormals.

    Zero also stands for numbers near the smallest normal one: a step on the way to them may have been flushed.
    """
    info = np.finfo(dtype)
    want = np.asarray(want)
    narrow = want.astype(dtype)
    top = np.where(np.isinf(narrow), narrow, want)  # beyond the largest number: infinity
    scale = np.ldexp(np.ones_like(want), np.maximum(np.frexp(want)[1] - BITS[dtype], info.minexp - info.nmant))
    error = np.abs(got.astype(want.dtype) - want) / scale
    equal = (got == top) | (np.isnan(got) & np.isnan(want)) | ((got == 0) & (np.abs(want) < 4 * info.tiny))
    return np.where(equal, 0, np.where(np.isfinite(error), error, np.inf))


def arguments(dtype, intervals, count, seed=0):
    rng = np.random.default_rng(seed)
    parts = [rng.uniform(low, high, count) for low, high in intervals]
    for low, high in intervals:
        parts.append(np.exp(rng.uniform(math.log(max(low, 1e-30)), math.log(high), count)))
    x = np.concatenate([SPECIALS, *parts]).astype(dtype)
    return x[(np.abs(x) >= np.finfo(dtype).tiny) | (x == 0) | np.isnan(x)]


def measure(kernels, op, dtype, lanes, count):
    """Largest error in ulp, and where."""
    x = arguments(dtype, ACCURACY[op][0], count)
    error = ulps(kernels(f"{op}_{dtype}_{lanes}", x), reference(op, dtype, x), dtype)
    worst = int(np.argmax(error))
    return float(error[worst]), float(x[worst])


def binary_arguments(count, dtype):
    """Pairs for pow: ordinary ones, large powers near 1, negative bases with integers, all pairs of specials."""
    rng = np.random.default_rng(1)
    edge = np.array([0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 2.5, np.inf, -np.inf, np.nan, 1e9, -1e9, 1e10 + 1, 1e-9])
    a, b = (v.ravel() for v in np.meshgrid(edge, edge))
    whole = rng.integers(-20, 20, count).astype(float)
    x = np.concatenate([a, rng.uniform(0, 50, count), 1 + rng.uniform(-1e-3, 1e-3, count), rng.uniform(-9, 9, count)])
    y = np.concatenate([b, rng.uniform(-20, 20, count), rng.uniform(-5e4, 5e4, count), whole])
    return x.astype(dtype), y.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions(level, dtype):
    kernels = operations(level)
    for op, (_, *bounds) in ACCURACY.items():
        for lanes, count in ((1, 500), (4, 500), (16, 20000)):
            error, where = measure(kernels, op, dtype, lanes, 500 if op == "erf" else count)
            bound = bounds[dtype == "float64"]
            assert error <= bound, f"{op} of {dtype}, {lanes} lanes: {error} ulp at {where!r}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("op", "bound"), [("pow", 0.6), ("atan2", 2.2)])
def test_functions_of_two(level, dtype, op, bound):
    kernels = operations(level)
    x, y = binary_arguments(5000, dtype)
    for lanes in (1, 4, 16):
        got = kernels(f"{op}_{dtype}_{lanes}", x, y)
        error = ulps(got, reference(op, dtype, x, y), dtype)
        worst = int(np.argmax(error))
        assert error[worst] <= bound, f"{op}({x[worst]!r}, {y[worst]!r}) = {got[worst]!r}: {error[worst]} ulp"


def test_odd_functions_keep_small_numbers_and_signs(level):
    kernels = operations(level)
    x = np.array([0.0, -0.0, 1e-20, -1e-20], np.float32)
    for op in ("tanh", "erf", "asin", "atan", "sinh", "asinh", "atanh", "expm1", "log1p"):
        got = kernels(f"{op}_float32_4", x)
        want = reference(op, "float32", x).astype(np.float32)
        np.testing.assert_allclose(got, want, rtol=2e-7, err_msg=op)
        assert (np.signbit(got) == np.signbit(x)).all(), op


# --- operations with one exact result ---------------------------------------------------------------------------------
_PYTHON = {  # of integers, before wrapping; division by zero gives 0
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "floormod": lambda a, b: 0 if b == 0 else a % b,
    "fmod": lambda a, b: 0 if b == 0 else abs(a) % abs(b) * (1 if a >= 0 else -1),
    "max": max,
    "min": min,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: (a > 0) - (a < 0),
    "not": lambda a: ~a,
}


def int_pairs(dtype, count=400):
    info = np.iinfo(dtype)
    edges = [v for v in (0, 1, 2, 3, 7, -1, -2, -7, 100) if info.min <= v <= info.max]
    edges += [info.min, info.min + 1, info.max, info.max - 1]
    rng = np.random.default_rng(2)
    some = rng.integers(info.min, info.max, count, dtype=dtype, endpoint=True)
    small = rng.integers(max(info.min, -20), 20, count, dtype=dtype)
    values = np.concatenate([np.array(edges, dtype), some, small])
    pairs = list(itertools.product(edges, edges)) + list(zip(values, rng.permutation(values), strict=True))
    a, b = zip(*pairs, strict=True)
    return np.array(a, dtype), np.array(b, dtype)


def wrapped(values, dtype):
    bits = np.iinfo(dtype).bits
    return np.array([int(v) % (1 << bits) for v in values], f"uint{bits}").view(dtype)


def bounded_power(a, b, bits):
    """a ** b modulo 2^bits; a negative power is what is left of the fraction."""
    if b >= 0:
        return pow(a, b, 1 << bits)
    return a**-b if a in (1, -1) else 0


@pytest.mark.parametrize("dtype", INTS)
def test_integers(level, dtype):
    kernels = operations(level)
    a, b = int_pairs(dtype)
    bits = np.iinfo(dtype).bits
    x, y = [int(v) for v in a], [int(v) for v in b]
    count = [v if 0 <= v < bits else bits for v in y]
    want = {op: [f(*v) for v in (zip(x, strict=True) if op in UNARY else zip(x, y, strict=True))]
            for op, f in _PYTHON.items()}  # fmt: skip
    want["pow"] = [bounded_power(*v, bits) for v in zip(x, y, strict=True)]
    want["shl"] = [v << c for v, c in zip(x, count, strict=True)]
    want["shr"] = [v >> c for v, c in zip(x, count, strict=True)]
    for op in ("floor", "ceil", "trunc", "round"):
        want[op] = x
    for op in ("isnan", "isinf"):
        want[op] = [False] * len(x)
    assert set(want) | {"select"} == set(supported(dtype))
    for op, values in want.items():
        result = np.array(values, bool) if OPS[op].result == "bool" else wrapped(values, dtype)
        for lanes in (1, 4, 16):
            same(kernels(f"{op}_{dtype}_{lanes}", *([a] if op in UNARY else [a, b])), result, f"{op} {dtype} {lanes}")


def test_bools(level):
    kernels = operations(level)
    a, b = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    same_as = {"add": a | b, "sub": a ^ b, "mul": a & b, "max": a | b, "min": a & b, "abs": a, "isnan": a & ~a,
               "isinf": a & ~a, "floor": a, "ceil": a, "trunc": a, "round": a}  # fmt: skip
    for op, lanes in itertools.product(supported("bool"), (1, 4, 16)):
        if op != "select":
            want = same_as[op] if op in same_as else OPS[op].meaning(*([a] if op in UNARY else [a, b]))
            same(kernels(f"{op}_bool_{lanes}", *([a] if op in UNARY else [a, b])), want, f"{op} {lanes}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exact_operations_of_floats(level, dtype):
    kernels = operations(level)
    rng = np.random.default_rng(3)
    edge = np.array([0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1, -1, 3, 0.1, 2**22 + 0.5, 2**23 + 1, 2**52 + 1, 1e30, -1e30,
                     np.inf, -np.inf, np.nan])  # fmt: skip
    a, b = (v.ravel() for v in np.meshgrid(edge, edge))
    a = np.concatenate([a, rng.normal(0, 100, 500), rng.integers(-99, 99, 500) / 2]).astype(dtype)
    b = np.concatenate([b, rng.normal(0, 3, 500), rng.integers(-9, 9, 500)]).astype(dtype)
    comparisons = ("lt", "le", "eq", "ne", "isnan", "isinf")
    for op in ("add", "sub", "mul", "div", "floormod", "fmod", "neg", "abs", "sign", "max", "min", *comparisons,
               "floor", "ceil", "trunc", "round"):  # fmt: skip
        args = [a] if op in UNARY else [a, b]
        want = OPS[op].meaning(*args)
        for lanes in (1, 4, 16):
            got = kernels(f"{op}_{dtype}_{lanes}", *args)
            same(got, want, f"{op} {lanes}")
            if op not in ("max", "min") and got.dtype != bool:  # there -0 and 0 are equal
                signed = ~np.isnan(want)
                assert (np.signbit(got) == np.signbit(want))[signed].all(), f"{op} {lanes}: sign of zero"


@pytest.mark.parametrize("dtype", COMPUTE)
def test_select(level, dtype):
    rng = np.random.default_rng(4)
    condition = rng.integers(0, 2, 64).astype(bool)
    a, b = (rng.integers(0, 2 if dtype == "bool" else 100, 64).astype(dtype) for _ in range(2))
    for lanes in (1, 4, 16):
        same(operations(level)(f"select_{dtype}_{lanes}", condition, a, b), np.where(condition, a, b), f"{lanes}")


def test_an_operation_that_a_dtype_lacks():
    f = Module(isas.get("portable", cross=True)).function("f", [])
    with pytest.raises(KeyError, match="sqrt of int32"):
        vmath.emit_op(f, "sqrt", "int32", [f.const("i32", 1)])


# --- conversions ------------------------------------------------------------------------------------------------------
MEMORY_CASES = [(1, False), (4, False), (16, False), (64, False), (16, True)]  # lanes, denormals flushed


def conversions(level):
    """Loads and stores of every dtype, casts between all compute types, and casts and saturations to small types."""
    key = level, "conversions"
    if key not in _CACHE:
        k = Kernels(level)
        for stored, (lanes, flush) in itertools.product(SMALL_FLOATS + NARROW_INTS, MEMORY_CASES):
            name = f"{stored}_{lanes}_{flush}"
            k.add(f"load_{name}", [stored], dtypes.compute_type(stored), lanes, lambda f, v: v[0], flush)
            k.add(f"store_{name}", [dtypes.compute_type(stored)], stored, lanes, lambda f, v: v[0], flush)
        for dtype, to in itertools.product(COMPUTE, COMPUTE + SMALL_FLOATS + NARROW_INTS):
            for op, lanes in (("cast", 1), ("cast", 16), ("saturate", 16)):
                out = dtypes.compute_type(to)
                k.add_op(f"{op}_{dtype}_{to}_{lanes}", op, dtype, lanes, to, out)
        _CACHE[key] = k.load()
    return _CACHE[key]


def all_codes(stored):
    row = dtypes.dtype(stored)
    return np.arange(1 << (8 * row.size)).astype(f"uint{8 * row.size}").view(dtypes.to_numpy(stored))


def difficult_floats(stored):
    """Every number of the format, the ties between neighbours, what lies beside the ties, and random bits."""
    codes = all_codes(stored).astype(np.float32)
    finite = np.unique(codes[np.isfinite(codes)]).astype(np.float64)
    ties = ((finite[:-1] + finite[1:]) / 2).astype(np.float32)
    beside = [np.nextafter(ties, np.float32(v)) for v in (-np.inf, np.inf)]
    end = np.float32(finite[-1]) * np.array([1, 1.01, 1.03, 1.0333, 1.05, 1.0625, 1.07, 1.25, 1.5, 2], np.float32)
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 1 << 32, 20000, dtype=np.uint32).view(np.float32)
    special = np.array([np.inf, -np.inf, np.nan, 0, -0.0, 1e-45, -1e-45, 1e-40, 3e38], np.float32)
    return np.concatenate([codes, ties, *beside, end, -end, bits, special])


def equal_codes(got, want, what):
    """Bit for bit; NaNs of IEEE formats may differ in their payload."""
    plain = f"uint{8 * got.dtype.itemsize}"
    wrong = got.view(plain) != want.view(plain)
    if got.dtype.name in ("float16", "bfloat16"):
        wrong &= ~(np.isnan(got.astype(np.float32)) & np.isnan(want.astype(np.float32)))
    assert not wrong.any(), f"{what}: {got.view(plain)[wrong][:5]} instead of {want.view(plain)[wrong][:5]}"


@pytest.mark.parametrize("stored", SMALL_FLOATS)
def test_small_floats_in_memory(level, stored):
    kernels = conversions(level)
    codes, floats = all_codes(stored), difficult_floats(stored)
    codes = codes[: 1 << dtypes.dtype(stored).bits]  # the upper bits of a 4-bit float mean nothing
    for lanes, flush in MEMORY_CASES:
        got = kernels(f"load_{stored}_{lanes}_{flush}", codes)
        want = codes.astype(np.float32)
        same(got.view(np.int32)[~np.isnan(want)], want.view(np.int32)[~np.isnan(want)], f"load {stored} {lanes}")
        assert np.isnan(got[np.isnan(want)]).all()
        got = kernels(f"store_{stored}_{lanes}_{flush}", floats)
        equal_codes(got, floats.astype(dtypes.to_numpy(stored)), f"store {stored} {lanes}")


@pytest.mark.parametrize("stored", NARROW_INTS)
def test_narrow_integers_in_memory(level, stored):
    kernels, compute = conversions(level), dtypes.compute_type(stored)
    codes, values = all_codes(stored), np.arange(256).astype(np.uint8).view(compute)
    for lanes in (1, 4, 16, 64):
        same(kernels(f"load_{stored}_{lanes}_False", codes), codes.astype(compute), f"load {lanes}")
        equal_codes(kernels(f"store_{stored}_{lanes}_False", values), values.astype(dtypes.to_numpy(stored)), "store")


def float_arguments(dtype):
    rng = np.random.default_rng(6)
    edges = [s * v + d for s in (1, -1) for v in (0, 1, 2, 7, 8, 15, 127, 128, 255, 256, 32767, 32768, 65535, 65536)
             for d in (0, 0.25, 0.5, 0.75, -0.5)]  # fmt: skip
    edges += [s * 2.0**p for p in (31, 32, 63, 64, 100) for s in (1, -1)]
    edges += [2.0**31 - 128, 2.0**31 - 1, 2.0**32 - 256, 2.0**63 - 2.0**39, np.inf, -np.inf, np.nan, 1e-40, 0.1]
    return np.concatenate([edges, rng.normal(0, 1e3, 300), rng.normal(0, 1e10, 300), rng.normal(0, 9, 300)]).astype(
        dtype
    )


def clipped(x, dtype):
    """Truncation and saturation to an integer dtype, exactly; NaN is 0."""
    info = np.iinfo(dtype)
    return np.array([0 if v != v else int(min(max(v, info.min), info.max)) if math.isinf(v)
                     else min(max(int(v), info.min), info.max) for v in x.tolist()], dtype)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_casts_from_floats(level, dtype):
    kernels, x = conversions(level), float_arguments(dtype)
    for to in INTS:
        for op in ("cast_{}_{}_1", "cast_{}_{}_16", "saturate_{}_{}_16"):
            same(kernels(op.format(dtype, to), x), clipped(x, to), op.format(dtype, to))
    for to in NARROW_INTS:
        compute, narrow = dtypes.compute_type(to), dtypes.to_numpy(to)
        info = ml_dtypes.iinfo(narrow)
        want = clipped(x, "int32").astype(compute).astype(narrow).astype(compute)
        for lanes in (1, 16):
            same(kernels(f"cast_{dtype}_{to}_{lanes}", x), want, f"cast {to} {lanes}")
        want = clipped(np.clip(x, info.min, info.max), compute)
        same(kernels(f"saturate_{dtype}_{to}_16", x), want, f"saturate {to}")
    for to, lanes in itertools.product(("float32", "float64", "bool"), (1, 16)):
        same(kernels(f"cast_{dtype}_{to}_{lanes}", x), x.astype(to), f"cast {to} {lanes}")
    limited = np.clip(x, -np.finfo("f4").max, np.finfo("f4").max).astype("f4")
    same(kernels(f"saturate_{dtype}_float32_16", x), limited, "saturate float32")


@pytest.mark.parametrize("to", SMALL_FLOATS)
def test_casts_to_small_floats(level, to):
    """The rounded number itself; saturation as ONNX's reference has it."""
    from onnx.numpy_helper import saturate_cast, to_float8e8m0

    kernels, narrow = conversions(level), dtypes.to_numpy(to)
    floats = difficult_floats(to)
    doubles = np.concatenate([floats.astype(float), np.nextafter(floats.astype(float), 0), float_arguments("float64")])
    for dtype, x in (("float32", floats), ("float64", doubles)):
        for lanes in (1, 16):
            same(kernels(f"cast_{dtype}_{to}_{lanes}", x), x.astype(narrow).astype("f4"), f"cast {dtype} {lanes}")
        want = to_float8e8m0(x) if to == "float8_e8m0fnu" else saturate_cast(x, narrow)
        same(kernels(f"saturate_{dtype}_{to}_16", x), want.astype("f4"), f"saturate {dtype}")


@pytest.mark.parametrize("dtype", [*INTS, "bool"])
def test_casts_from_integers(level, dtype):
    kernels = conversions(level)
    x = np.array([False, True]) if dtype == "bool" else int_pairs(dtype)[0]
    for lanes in (1, 16):
        for to in COMPUTE:
            same(kernels(f"cast_{dtype}_{to}_{lanes}", x), x.astype(to), f"cast {to} {lanes}")
        for to in SMALL_FLOATS + NARROW_INTS:
            compute, narrow = dtypes.compute_type(to), dtypes.to_numpy(to)
            want = x.astype("f4").astype(narrow) if to in SMALL_FLOATS else x.astype(compute).astype(narrow)
            same(kernels(f"cast_{dtype}_{to}_{lanes}", x), want.astype(compute), f"cast {to} {lanes}")
    for to in INTS + NARROW_INTS:
        info = ml_dtypes.iinfo(dtypes.to_numpy(to))
        want = np.array([min(max(int(v), int(info.min)), int(info.max)) for v in x], dtypes.compute_type(to))
        same(kernels(f"saturate_{dtype}_{to}_16", x), want, f"saturate {to}")


# --- masks, reductions, imports ---------------------------------------------------------------------------------------
def test_masks_protect_memory(level):
    """The last elements before a page that may not be touched."""
    k = Kernels(level)
    stored = ["float32", "float64", "bool", "int8", "int64", "float16", "bfloat16", "float8_e4m3fn", "int4"]
    for t, lanes in itertools.product(stored, (1, 8, 16)):
        f = k.module.function(f"{t}_{lanes}", [("x", "ptr"), ("y", "ptr"), ("n", "i64")])
        x, y, n = f.args
        mask = f.iota("i64", lanes) < n
        vmath.store_value(f, t, vmath.load_value(f, t, x, lanes, mask), y, mask)
        k.types[f.name] = ([t, t], t)
    loaded = k.load().loaded
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    room = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    page = np.frombuffer(room, np.uint8)
    assert libc.mprotect(page.ctypes.data + mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
    try:
        for t, lanes in itertools.product(stored, (1, 8, 16)):
            size = dtypes.dtype(t).size
            for n in sorted({0, 1, lanes // 2, lanes}):
                first, second = mmap.PAGESIZE - n * size, mmap.PAGESIZE // 2 - n * size
                page[: mmap.PAGESIZE] = 0
                page[first : mmap.PAGESIZE] = 1
                f = loaded.function(f"{t}_{lanes}", None, *[ctypes.c_void_p] * 2, ctypes.c_int64)
                f(page.ctypes.data + first, page.ctypes.data + second, n)
                assert (page[second : second + n * size] == 1).all()
                page[second : second + n * size] = 0
                assert not page[:first].any(), "wrote beyond the mask"
                page[first : mmap.PAGESIZE] = 0
                f(page.ctypes.data + second, page.ctypes.data + first, n)
    finally:
        libc.mprotect(page.ctypes.data + mmap.PAGESIZE, mmap.PAGESIZE, 3)


_REDUCTIONS = {"add": np.sum, "mul": np.prod, "max": np.max, "min": np.min, "and": np.bitwise_and.reduce,
               "or": np.bitwise_or.reduce}  # fmt: skip


def test_reductions(level):
    k = Kernels(level)
    cases = [(kind, t, lanes) for kind, t, lanes in itertools.product(_REDUCTIONS, COMPUTE, (1, 2, 12, 16))
             if kind in supported(t)]  # fmt: skip
    for kind, t, lanes in cases:
        f = k.module.function(f"{kind}_{t}_{lanes}", [("x", "ptr"), ("y", "ptr")])
        x, y = f.args
        start = f.const(vmath.llvm_type(t), vmath.identity(kind, t))
        total = vmath.reduce_lanes(f, kind, t, vmath.load_value(f, t, x, lanes))
        vmath.store_value(f, t, vmath.emit_op(f, kind, t, [start, total]), y)
        k.types[f.name] = ([t], t)
    loaded = k.load().loaded
    rng = np.random.default_rng(7)
    for kind, t, lanes in cases:
        for with_nan in (False, True) if t.startswith("float") and kind in ("max", "min") else (False,):
            x = rng.integers(0, 2, lanes).astype(bool) if t == "bool" else rng.integers(1, 100, lanes).astype(t)
            if t.startswith("float"):
                x = x / 7 - 1
                x[-1] = np.nan if with_nan else x[-1]
            x, y = x.astype(t), np.empty(1, t)
            loaded.function(f"{kind}_{t}_{lanes}", None, *[ctypes.c_void_p] * 2)(x.ctypes.data, y.ctypes.data)
            want = _REDUCTIONS[kind](x, **({"dtype": t} if kind in ("add", "mul") else {}))
            np.testing.assert_allclose(y[0], want, rtol=1e-5, err_msg=f"{kind} {t} {lanes}")


def test_imports_are_functions_of_libm(level):
    for kernels in (operations(level), conversions(level)):
        assert set(kernels.image.imports) <= ALLOWED_IMPORTS


def test_imports_are_functions_of_libm_on_other_machines():
    k = Kernels(isas.get("neon", cross=True))
    for dtype in COMPUTE:
        for op in supported(dtype):
            k.add_op(f"{op}_{dtype}", op, dtype, 4)
        for to in COMPUTE + SMALL_FLOATS + NARROW_INTS:
            k.add_op(f"cast_{dtype}_{to}", "cast", dtype, 4, to, dtypes.compute_type(to))
    image = link.link([llvm.compile_text(k.module.text(), k.module.isa)], list(k.types))
    assert set(image.imports) <= ALLOWED_IMPORTS


def test_scalars_beside_vectors(level):
    k = Kernels(level)
    k.add(
        "twice", ["float32"], "float32", 8, lambda f, v: vmath.emit_op(f, "mul", "float32", [v[0], f.const("float", 2)])
    )
    x = np.arange(16, dtype=np.float32)
    same(k.load()("twice", x), 2 * x, "twice")


def test_flushed_denormals_do_not_disturb(level):
    k = Kernels(level)
    for op in ("exp", "log", "log1p", "tanh", "erf", "sin", "expm1"):
        k.add_op(op, op, "float32", 16, flush=True)
    k.load()
    for op in ("exp", "log", "log1p", "tanh", "erf", "sin", "expm1"):
        x = arguments("float32", ACCURACY[op][0], 300)
        error = ulps(k(op, x), reference(op, "float32", x), "float32")
        assert error.max() <= ACCURACY[op][1], f"{op}: {error.max()} ulp at {x[np.argmax(error)]}"


def table(count=200_000):
    """The largest errors of every function, level and type, as lines of text."""
    lines = [f"{'function':10}" + "".join(f"{d + ' ' + v:>20}" for d in BITS for v in LEVELS)]
    for op in ACCURACY:
        found = [measure(operations(v), op, d, 16, count)[0] for d in BITS for v in LEVELS]
        lines.append(f"{op:10}" + "".join(f"{e:20.2f}" for e in found))
    for op in ("pow", "atan2"):
        cells = []
        for d, v in itertools.product(BITS, LEVELS):
            x, y = binary_arguments(count, d)
            cells.append(ulps(operations(v)(f"{op}_{d}_16", x, y), reference(op, d, x, y), d).max())
        lines.append(f"{op:10}" + "".join(f"{e:20.2f}" for e in cells))
    return lines


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        print("\n".join(table()))
