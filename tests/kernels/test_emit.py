"""Evaluating expressions in kernels: index arithmetic, operations, casts, in one lane and in many, against their meaning in Python."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.codegen import isa as isa_module
from hasten.codegen import link, llvm
from hasten.kernels import expr as E
from hasten.kernels import nest
from hasten.kernels.emit import LITERAL_LIMIT, Words
from hasten.kernels.expr import OPS, Expr
from hasten.kernels.nest import NestProblem, StoreProblem
from hasten.vm.image import LoadedImage

LEVELS = [name for name in ("portable", "avx2", "avx512") if name in isa_module.available()]
N = 37  # elements: vectors and a tail at every level


def evaluate(values: list[tuple[Expr, str]], level: str, arrays: dict[str, np.ndarray] | None = None, extent: D.DimLike = N,
             **env: int) -> tuple[list[np.ndarray], int]:  # fmt: skip
    """Each (Expr of loop index i, stored dtype) for all i; and the status."""
    i = D.symbol("i", extent)
    stores = tuple(StoreProblem(v, dt, f"y{k}", i) for k, (v, dt) in enumerate(values))
    made = nest.emit(NestProblem((("i", extent),), stores=stores), isa_module.get(level))
    image = LoadedImage.from_memory(link.link([llvm.compile_text(made.text.replace("KERNEL", "kernel"), isa_module.get(level))], ["kernel"]))
    call = image.function("kernel", None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    n = D.evaluate(extent, env)
    out = [np.zeros(n, dtypes.to_numpy(dt)) for _, dt in values]
    memory = {**(arrays or {}), **{f"y{k}": a for k, a in enumerate(out)}}
    status = ctypes.c_int64(0)
    words = [ctypes.addressof(status)]
    words += [memory[str(w)].ctypes.data if kind == "ptr" else D.evaluate(w, env) for kind, w in made.words.rows]  # type: ignore[arg-type]
    call((ctypes.c_int64 * len(words))(*words), 0, 1)
    return out, status.value


# --- index arithmetic -------------------------------------------------------------------------------------------------
@st.composite
def dims(draw: st.DrawFn) -> D.DimLike:
    """Random arithmetic on the loop index i and the sizes n, m."""
    i, n, m = D.symbol("i", D.symbol("n")), D.symbol("n"), D.symbol("m")
    leaf = st.one_of(st.sampled_from([i, i, n, m]), st.integers(-20, 20))

    def grow(inner: st.SearchStrategy[D.DimLike]) -> st.SearchStrategy[D.DimLike]:
        two = [(lambda a, b: a + b), (lambda a, b: a - b), (lambda a, b: a * b), D.maximum, D.minimum]
        by = st.one_of(st.integers(1, 9), st.sampled_from([n, m]))
        return st.one_of(
            st.builds(lambda f, a, b: f(a, b), st.sampled_from(two), inner, inner),
            st.builds(lambda f, a, b: f(a, b), st.sampled_from([D.floordiv, D.mod]), inner, by),
            st.builds(lambda f, a, b, x, y: f(a, b, x, y), st.sampled_from([D.if_equal, D.if_less]), inner, inner, inner, inner),
            st.builds(lambda a, f: D.scale_floor(a, f), inner, st.sampled_from([0.5, 1.5, 0.3])),
        )

    return draw(st.recursive(leaf, grow, max_leaves=8))


@pytest.mark.parametrize("level", LEVELS)
def test_index_arithmetic(level: str) -> None:
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(dims(), min_size=8, max_size=8), st.integers(1, 50), st.integers(0, 9))
    def run(chosen: list[D.DimLike], n: int, m: int) -> None:
        chosen = [d for d in chosen if isinstance(d, D.Dim)]
        assume(chosen)
        got, status = evaluate([(E.index(d), "int64") for d in chosen], level, extent=D.symbol("n"), n=n, m=m)
        assert status == 0
        for d, g in zip(chosen, got, strict=True):
            assert g.tolist() == [D.evaluate(d, {"i": k, "n": n, "m": m}) for k in range(n)], str(d)

    run()


def test_long_sizes_are_arguments() -> None:
    """What no loop changes is computed once, before the kernel is called."""
    n, m = D.symbol("n"), D.symbol("m")
    i = D.symbol("i", n)
    size = D.floordiv(n * m + 7, 4) * m
    made = nest.emit(NestProblem((("i", n),), stores=(StoreProblem(E.index(i * size + m), "int64", "y", i),)), isa_module.get("avx2"))
    assert ("int", size) in made.words.rows and "sdiv" not in made.text


def test_small_numbers_are_in_the_text() -> None:
    words = Words()
    assert words.add("ptr", "a") == "w0" and words.add("int", D.symbol("n")) == "w1" and words.add("ptr", "a") == "w0"
    for value in (LITERAL_LIMIT, -LITERAL_LIMIT, LITERAL_LIMIT + 1, 1000):
        i = D.symbol("i", D.symbol("n"))
        made = nest.emit(NestProblem((("i", D.symbol("n")),), stores=(StoreProblem(E.index(i * value), "int64", "y", i),)), isa_module.get("avx2"))
        assert (("int", value) in made.words.rows) == (abs(value) > LITERAL_LIMIT)


# --- operations -------------------------------------------------------------------------------------------------------
FLOATS, INTS = ("float32", "float64"), ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
UNARY_FLOAT = ("neg", "abs", "sign", "floor", "ceil", "trunc", "round", "sqrt", "isnan", "isinf")  # those that are exact
BINARY = ("add", "sub", "mul", "max", "min", "lt", "le", "eq", "ne")
INTEGER = ("div", "floormod", "fmod", "and", "or", "xor")


def samples(dtype: str, rng: np.random.Generator) -> np.ndarray:
    dt = dtypes.to_numpy(dtype)
    if dt.kind == "b":
        return rng.integers(0, 2, N).astype(bool)
    if dt.kind in "iu":
        info = np.iinfo(dt)
        x = rng.integers(info.min, info.max, N, dtype=dt, endpoint=True)
        x[:8] = np.array([0, 1, info.max, info.min, 2, 3, info.max - 1, 5], object).astype(dt)
        return rng.permutation(x)
    x = (rng.standard_normal(N) * 10).astype(dt)
    x[:12] = [0.0, -0.0, np.inf, -np.inf, np.nan, 0.5, -0.5, 1.5, 2.5, -2.5, 1e30, -1e-30]
    return rng.permutation(x)


def load(name: str, dtype: str) -> Expr:
    return E.load(name, [D.symbol("i", N)], dtype)


def agree(got: np.ndarray, want: np.ndarray, what: str) -> None:
    np.testing.assert_array_equal(got, want, what)
    if got.dtype.kind == "f" and what.split()[0] not in ("max", "min", "sign"):
        fine = ~np.isnan(want)
        np.testing.assert_array_equal(np.signbit(got[fine]), np.signbit(want[fine]), what)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", FLOATS + INTS + ("bool",))
def test_exact_operations(dtype: str, level: str, rng: np.random.Generator) -> None:
    a, b = samples(dtype, rng), samples(dtype, rng)
    kind = dtypes.to_numpy(dtype).kind
    if kind == "b":
        names: list[str] = ["and", "or", "xor", "not", "eq", "ne"]
    elif kind == "f":
        names = [*BINARY, *UNARY_FLOAT, "div"]
    else:
        b[b == 0] = 1
        names = [*BINARY, *INTEGER, "not", *(["neg", "abs", "sign"] if kind == "i" else [])]
        if kind == "i":  # the one quotient that has no value
            b[(a == np.iinfo(dtype).min) & (b == -1)] = 1
    x, y = load("a", dtype), load("b", dtype)
    one = {"not", *UNARY_FLOAT}
    exprs = [(E.op(n, x) if n in one else E.op(n, x, y)) for n in names]
    stored = ["bool" if OPS[n].result == "bool" else dtype for n in names]
    got, status = evaluate(list(zip(exprs, stored, strict=True)), level, {"a": a, "b": b})
    assert status == 0
    with np.errstate(all="ignore"):
        for n, g in zip(names, got, strict=True):
            want = OPS[n].meaning(a) if n in one else OPS[n].meaning(a, b)
            agree(g, np.asarray(want).astype(g.dtype), f"{n} {dtype}")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", INTS)
def test_shifts(dtype: str, level: str, rng: np.random.Generator) -> None:
    a = samples(dtype, rng)
    bits = dtypes.dtype(dtype).bits
    b = rng.integers(0, bits, N).astype(dtype)
    got, _ = evaluate([(E.op(n, load("a", dtype), load("b", dtype)), dtype) for n in ("shl", "shr")], level, {"a": a, "b": b})
    agree(got[0], OPS["shl"].meaning(a, b), "shl")
    agree(got[1], OPS["shr"].meaning(a, b), "shr")


@pytest.mark.parametrize("level", LEVELS)
def test_integer_division_by_zero(level: str, rng: np.random.Generator) -> None:
    """No trap, whatever the operands."""
    for dtype in ("int32", "int64", "uint8"):
        info = np.iinfo(dtype)
        a = rng.choice(np.array([0, 1, info.max, info.min], dtype), N)
        b = rng.choice(np.array([0, 1, info.max, info.min] + ([-1] if info.min else []), dtype), N)
        x, y = load("a", dtype), load("b", dtype)
        got, _ = evaluate([(E.op(n, x, y), dtype) for n in ("div", "floormod", "fmod")], level, {"a": a, "b": b})
        np.testing.assert_array_equal(got[0], OPS["div"].meaning(a, b))
        fine = (b != 0) & ~((info.min < 0) & (a == info.min) & (b == np.array(-1).astype(dtype)))
        with np.errstate(all="ignore"):
            for g, name in zip(got[1:], ("floormod", "fmod"), strict=True):
                np.testing.assert_array_equal(g[fine], OPS[name].meaning(a, np.where(fine, b, 1))[fine])


NUMBERS = FLOATS + INTS + ("bool",)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("source", NUMBERS)
def test_casts(source: str, level: str, rng: np.random.Generator) -> None:
    """Between all types, for values that the target can hold."""
    a = samples(source, rng)
    if dtypes.is_float(source):
        a = np.where(np.isfinite(a) & (np.abs(a) < 100), np.abs(a), 3).astype(a.dtype)
    got, _ = evaluate([(E.cast(load("a", source), t), t) for t in NUMBERS], level, {"a": a})
    for target, g in zip(NUMBERS, got, strict=True):
        np.testing.assert_array_equal(g, a.astype(g.dtype), f"{source} to {target}")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("target", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_rounding_to_small_floats(target: str, level: str, rng: np.random.Generator) -> None:
    """A cast inside an expression rounds as a store does."""
    a = np.concatenate([rng.standard_normal(20) * 3, [0, -0.0, 1.0, 1.0625, 448, 1e-3, 0.1, 5e-5], rng.standard_normal(9) / 50]).astype(np.float32)
    x = load("a", "float32")
    got, _ = evaluate([(E.cast(x, target), "float32"), (x, target)], level, {"a": a})
    want = a.astype(dtypes.to_numpy(target))
    np.testing.assert_array_equal(got[0], want.astype(np.float32))
    np.testing.assert_array_equal(got[1].astype("f4"), want.astype("f4"))


@pytest.mark.parametrize("level", LEVELS)
def test_saturation(level: str) -> None:
    a = np.array([0, -0.4, 0.6, 127.4, 128.5, -128.6, 255.4, 256, 1e10, -1e10, np.inf, -np.inf] + [3.0] * (N - 12), np.float32)
    x = E.op("round", load("a", "float32"))
    got, _ = evaluate([(E.saturate(x, t), t) for t in ("int8", "uint8", "int16", "int32")], level, {"a": a})
    for t, g in zip(("int8", "uint8", "int16", "int32"), got, strict=True):
        info = np.iinfo(t)
        want = np.clip(np.rint(a.astype("f8")), info.min, info.max)
        np.testing.assert_array_equal(g.astype("f8"), want, t)


@pytest.mark.parametrize("level", LEVELS)
def test_select(level: str, rng: np.random.Generator) -> None:
    a, b = samples("float32", rng), samples("float32", rng)
    x, y = load("a", "float32"), load("b", "float32")
    got, _ = evaluate([(E.select(x < y, x, y), "float32"), (E.select(x < y, 1.0, y), "float32"), (E.select(E.const(True, "bool"), x, y), "float32")],
                      level, {"a": a, "b": b})  # fmt: skip
    for g, w in zip(got, (np.where(a < b, a, b), np.where(a < b, np.float32(1), b), a), strict=True):
        np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("level", LEVELS)
def test_shared_parts_are_computed_once(level: str) -> None:
    """A DAG of 40 doublings: exponential work, were it a tree."""
    x = load("a", "float64")
    for _ in range(40):
        x = x + x
    a = np.ones(N)
    got, _ = evaluate([(x, "float64")], level, {"a": a})
    np.testing.assert_array_equal(got[0], 2.0**40)


# --- building expressions ---------------------------------------------------------------------------------------------
def test_types_must_agree() -> None:
    with pytest.raises(TypeError, match="float32.*float64"):
        load("a", "float32") + load("b", "float64")


def test_numbers_take_the_type_beside_them() -> None:
    assert (load("a", "int8") + 1).args[1].dtype == "int8"
    assert (1 - load("a", "float64")).args[0].dtype == "float64"
    assert (load("a", "float16") * 2).dtype == "float32"


@pytest.mark.parametrize("name, value", list(itertools.product(("and", "or"), (True, False))))
def test_bools_fold(name: str, value: bool) -> None:
    x = load("a", "bool")
    folded = E.op(name, x, E.const(value, "bool"))
    keeps = value == (name == "and")
    assert folded is x if keeps else folded.kind == "const" and folded.value == value


def test_free_symbols() -> None:
    i, n = D.symbol("i", 5), D.symbol("n")
    e = E.load("x", [i * n], "float32") + E.cast(E.index(D.symbol("m")), "float32")
    assert E.free_symbols(e) == {"i", "n", "m"}
    bound: Any = E.load("x", [D.symbol("g")], "float32", binds=(("g", E.index(i)),))
    assert E.free_symbols(bound) == {"i"}
