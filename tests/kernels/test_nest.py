"""The general kernel by itself: reductions over any axes in any type, lanes across and along, tails, nothing at all.

Every buffer ends where its page ends and the next page faults, so that a load or store outside is a crash, not luck.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.codegen import isa as isa_module
from hasten.codegen import link, llvm
from hasten.kernels import expr as E
from hasten.kernels import nest
from hasten.kernels.nest import NestProblem, StageProblem, StoreProblem
from hasten.vm.image import LoadedImage

QUICK = {"float16", "int8", "int64", "bool"}  # of all types, those that are tried at every level in quick runs
LEVELS = [name for name in ("portable", "avx2", "avx512") if name in isa_module.available()]
SENTINEL = 0x5A


class Nest:
    """A compiled problem. `run` gives the buffers after all threads have done their parts, one after another."""

    def __init__(self, problem: NestProblem, level: str, guarded: Any):
        isa = isa_module.get(level)
        self.made = nest.emit(problem, isa)
        self.guarded = guarded
        text = self.made.text.replace("KERNEL", "kernel")
        self.image = LoadedImage.from_memory(link.link([llvm.compile_text(text, isa)], ["kernel"]))
        self.call = self.image.function("kernel", None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

    def run(self, buffers: Mapping[str, np.ndarray], results: Mapping[str, tuple[str, Sequence[int]]], threads: int = 1,
            **env: int) -> tuple[dict[str, np.ndarray], int]:  # fmt: skip
        """Results by name, as arrays of (dtype, shape); and the status."""
        memory: dict[str, Any] = {}
        for name, a in buffers.items():
            memory[name] = self.guarded(a.nbytes, a.itemsize)
            memory[name].array((a.nbytes,), np.uint8)[:] = np.frombuffer(a.tobytes(), np.uint8)
        for name, (dt, shape) in results.items():
            size = dtypes.dtype(dt).size
            memory[name] = self.guarded(int(np.prod(shape, dtype=np.int64)) * size, size)
            memory[name].array((memory[name].nbytes,), np.uint8)[:] = SENTINEL
        status = ctypes.c_int64(0)
        words = [ctypes.addressof(status)]
        for kind, what in self.made.words.rows:
            words.append(memory[str(what)].pointer if kind == "ptr" else D.evaluate(what, env))  # type: ignore[arg-type]
        array = (ctypes.c_int64 * len(words))(*words)
        for thread in range(threads):
            self.call(array, thread, threads)
        assert all(m.intact() for m in memory.values()), "written in front of a buffer"
        out = {n: memory[n].array((memory[n].nbytes,), np.uint8).copy().view(dtypes.to_numpy(dt)).reshape(shape)
               for n, (dt, shape) in results.items()}  # fmt: skip
        return out, status.value


def flat(index: Sequence[D.DimLike], shape: Sequence[D.DimLike]) -> D.DimLike:
    offset: D.DimLike = 0
    for i, n in zip(index, shape, strict=True):
        offset = offset * n + i
    return offset


def loops(*names: str) -> tuple[list[D.Dim], tuple[tuple[str, D.DimLike], ...]]:
    """Index symbols i$a, ... with the extents a, ..."""
    pairs = tuple((f"i${n}", D.symbol(n)) for n in names)
    return [D.symbol(s, n) for s, n in pairs], pairs


# --- reductions -------------------------------------------------------------------------------------------------------
KINDS = ("sum", "prod", "max", "min", "argmax", "argmin", "argmax_last", "argmin_last")
AXES = [axes for n in (1, 2, 3) for axes in itertools.combinations(range(3), n)]
SIZES = [(1, 1, 1), (3, 5, 7), (2, 1, 33), (1, 17, 2), (4, 3, 16), (0, 3, 5), (3, 0, 2), (2, 5, 0), (19, 2, 1), (2, 2, 64)]


def reductions(dtype: str, axes: Sequence[int], kinds: Sequence[str] = KINDS) -> NestProblem:
    """Every kind of reduction of x[a, b, c] over `axes`, in one kernel."""
    index, pairs = loops("a", "b", "c")
    x = E.load("x", [flat(index, [n for _, n in pairs])], dtype)
    keep = [k for k in range(3) if k not in axes]
    place = flat([index[k] for k in keep], [pairs[k][1] for k in keep])
    arg = {k: "int64" if k.startswith("arg") else dtypes.compute_type(dtype) for k in kinds}
    return NestProblem(
        tuple(pairs[k] for k in keep), tuple(pairs[k] for k in axes), tuple(StageProblem(k, k, x) for k in kinds),
        tuple(StoreProblem(E.param(k, arg[k]), "int64" if k.startswith("arg") else dtype, k, place) for k in kinds),
    )  # fmt: skip


def meaning(x: np.ndarray, axes: tuple[int, ...], kind: str) -> np.ndarray:
    """In float64 for floats; where nothing is reduced, the identity, and -1 for positions."""
    keep = [k for k in range(x.ndim) if k not in axes]
    rows = x.transpose(keep + list(axes)).reshape(*[x.shape[k] for k in keep], -1) if x.size else None
    if rows is None:
        shape = [x.shape[k] for k in keep]
        floats = x.dtype.kind not in "iub"
        low, high = (-np.inf, np.inf) if floats else (0, 1) if x.dtype.kind == "b" else (np.iinfo(x.dtype).min, np.iinfo(x.dtype).max)
        return np.full(shape, {"sum": 0, "prod": 1, "max": low, "min": high}.get(kind, -1))
    if kind in ("sum", "prod"):
        if x.dtype.kind == "b":
            return rows.any(-1) if kind == "sum" else rows.all(-1)
        wide = rows if rows.dtype.kind in "iu" else rows.astype(np.float64)
        return getattr(wide, kind)(-1, dtype=wide.dtype)  # type: ignore[no-any-return]
    if kind in ("max", "min"):
        return getattr(rows, kind)(-1)  # type: ignore[no-any-return]
    pick = np.argmax if "max" in kind else np.argmin
    wide = rows.astype(np.float64) if rows.dtype.kind not in "iub" else rows
    return rows.shape[-1] - 1 - pick(wide[..., ::-1], -1) if kind.endswith("last") else pick(wide, -1)


def values(rng: np.random.Generator, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Few different values (many ties), near 1 for floats (so that products stay finite)."""
    dt = dtypes.to_numpy(dtype)
    if dt.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtypes.is_int(dtype):
        return rng.integers(1 if dt.kind == "u" else -3, 4, shape).astype(dt)
    return rng.choice(np.array([0.5, -1.0, 1.0, 2.0, -2.0]), shape).astype(dt)


def check_reductions(made: Nest, dtype: str, axes: tuple[int, ...], x: np.ndarray, threads: int) -> None:
    shape = [x.shape[k] for k in range(3) if k not in axes]
    results = {k: ("int64" if k.startswith("arg") else dtype, shape) for k in KINDS}
    got, status = made.run({"x": x}, results, threads, a=x.shape[0], b=x.shape[1], c=x.shape[2])
    assert status == 0
    for kind in KINDS:
        with np.errstate(all="ignore"):
            want = meaning(x, axes, kind).astype(got[kind].dtype)
        g = got[kind]
        message = f"{kind} of {x.shape} over {axes}"
        if kind in ("sum", "prod") and dtypes.is_float(dtype):
            np.testing.assert_allclose(g.astype("f8"), want.astype("f8"), rtol=2.0 ** -6 if dtypes.dtype(dtype).size < 4 else 1e-5, err_msg=message)
        else:
            np.testing.assert_array_equal(g, want, message)


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_float32_over_all_axes(axes: tuple[int, ...], level: str, rng: np.random.Generator, guarded: Any) -> None:
    made = Nest(reductions("float32", axes), level, guarded)
    for shape in SIZES:
        for threads in (1, 3):
            check_reductions(made, "float32", axes, values(rng, "float32", shape), threads)


TYPES = ["float64", "float16", "bfloat16", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@pytest.mark.parametrize("axes", [(0,), (2,)], ids=["across", "along"])
@pytest.mark.parametrize("dtype, level", [
    pytest.param(d, n, marks=() if n == LEVELS[-1] or d in QUICK and n == LEVELS[0] else pytest.mark.slow) for d in TYPES for n in LEVELS
])  # fmt: skip
def test_types(dtype: str, axes: tuple[int, ...], level: str, rng: np.random.Generator, guarded: Any) -> None:
    made = Nest(reductions(dtype, axes), level, guarded)
    for shape in SIZES:
        check_reductions(made, dtype, axes, values(rng, dtype, shape), 2)


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_nan_and_infinity(dtype: str, axes: tuple[int, ...], level: str, rng: np.random.Generator, guarded: Any) -> None:
    """NaN wins in max and min, and is where argmax and argmin point: the first one, or the last."""
    made = Nest(reductions(dtype, axes), level, guarded)
    for shape in SIZES:
        for share in (0.05, 0.5, 1.0):
            x = values(rng, dtype, shape)
            x[rng.random(shape) < share] = np.nan
            x[rng.random(shape) < 0.2] = np.inf
            x[rng.random(shape) < 0.2] = -np.inf
            check_reductions(made, dtype, axes, x, 1)


@pytest.mark.parametrize("dtype", ["int8", "float32", *(pytest.param(d, marks=pytest.mark.slow) for d in ("int64", "uint64"))])
@pytest.mark.parametrize("axes", [(0,), (2,)], ids=["across", "along"])
def test_extremes(dtype: str, axes: tuple[int, ...], level: str, guarded: Any) -> None:
    """The identity of max and min is found among the values, too: it must be found where it is."""
    dt = dtypes.to_numpy(dtype)
    low, high = (-np.inf, np.inf) if dt.kind == "f" else (np.iinfo(dt).min, np.iinfo(dt).max)
    made = Nest(reductions(dtype, axes), level, guarded)
    for fill in (low, high):
        for shape in ((3, 2, 40), (40, 2, 3)):
            check_reductions(made, dtype, axes, np.full(shape, fill, dt), 1)
            x = np.full(shape, fill, dt)
            x[1, :, 1] = high if fill == low else low
            check_reductions(made, dtype, axes, x, 1)


def test_single_position(level: str, guarded: Any) -> None:
    """The largest value at every position in turn: main part, tail, every lane."""
    made = Nest(reductions("float32", (2,)), level, guarded)
    for n in (1, 2, 15, 16, 17, 31, 33, 50):
        for at in range(n):
            x = np.zeros((1, 1, n), np.float32)
            x[..., at] = 1
            results = {k: ("int64" if k.startswith("arg") else "float32", (1, 1)) for k in KINDS}
            got, _ = made.run({"x": x}, results, a=1, b=1, c=n)
            assert got["argmax"].item() == got["argmax_last"].item() == at
            assert got["sum"].item() == got["max"].item() == 1


# --- maps -------------------------------------------------------------------------------------------------------------
LENGTHS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100]


@pytest.mark.parametrize("dtype", [d for d, row in dtypes.DTYPES.items() if row.storage])
def test_copies_of_every_type(dtype: str, level: str, rng: np.random.Generator, guarded: Any) -> None:
    (i,), pairs = loops("n")
    made = Nest(NestProblem(pairs, stores=(StoreProblem(E.load("x", [i], dtype), dtype, "y", i),)), level, guarded)
    size, bits = dtypes.dtype(dtype).size, dtypes.dtype(dtype).bits
    for n in LENGTHS:
        raw = rng.integers(0, 2 if dtype == "bool" else 2 ** min(bits, 8), (n, size)).astype(np.uint8)
        if dtype.startswith("int") and bits < 8:  # as ml_dtypes holds them: the value's bits, sign extended or not
            raw = raw % (2 ** (bits - 1))
        x = raw.reshape(-1).view(dtypes.to_numpy(dtype))
        for threads in (1, 4):
            got, _ = made.run({"x": x}, {"y": (dtype, (n,))}, threads, n=n)
            same = np.array_equal(got["y"].view(np.uint8), x.view(np.uint8))
            with np.errstate(invalid="ignore"):
                assert same or np.array_equal(got["y"].astype("f8"), x.astype("f8"), equal_nan=True)


STRIDED = {
    "every second": (lambda i, n: i * 2, lambda x, n: x[: 2 * n : 2], lambda n: 2 * n),
    "backwards": (lambda i, n: n - 1 - i, lambda x, n: x[::-1], lambda n: n),
    "the same": (lambda i, n: 0 * i + 3, lambda x, n: x[[3] * n], lambda n: 4),
    "halves": (lambda i, n: D.floordiv(i, 2), lambda x, n: np.repeat(x, 2)[:n], lambda n: (n + 1) // 2),
    "modulo": (lambda i, n: D.mod(i, 3), lambda x, n: x[np.arange(n) % 3], lambda n: 3),
    "not below": (lambda i, n: D.maximum(i - 2, 0), lambda x, n: x[np.maximum(np.arange(n) - 2, 0)], lambda n: max(1, n - 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "float64", "float16"])
def test_loads_anywhere(name: str, dtype: str, level: str, rng: np.random.Generator, guarded: Any) -> None:
    where, pick, room = STRIDED[name]
    (i,), pairs = loops("n")
    made = Nest(NestProblem(pairs, stores=(StoreProblem(E.load("x", [where(i, D.symbol("n"))], dtype), dtype, "y", i),)), level, guarded)
    for n in LENGTHS:
        x = values(rng, dtype, (room(n),)) if dtype != "uint8" else rng.integers(0, 255, room(n)).astype(np.uint8)
        got, _ = made.run({"x": x}, {"y": (dtype, (n,))}, n=n)
        np.testing.assert_array_equal(got["y"], pick(x, n)[:n])


@pytest.mark.parametrize("step", [2, 3, -1])
def test_stores_anywhere(step: int, level: str, rng: np.random.Generator, guarded: Any) -> None:
    """Only the elements meant are written."""
    (i,), pairs = loops("n")
    n_ = D.symbol("n")
    place = i * step if step > 0 else n_ - 1 - i
    made = Nest(NestProblem(pairs, stores=(StoreProblem(E.load("x", [i], "float32"), "float32", "y", place),)), level, guarded)
    for n in LENGTHS[1:]:
        x = rng.standard_normal(n).astype(np.float32)
        room = (n - 1) * abs(step) + 1
        got, _ = made.run({"x": x}, {"y": ("float32", (room,))}, n=n)
        want = np.frombuffer(bytes([SENTINEL]) * (room * 4), np.float32).copy()
        want[:: abs(step)] = x if step > 0 else x[::-1]
        np.testing.assert_array_equal(got["y"].view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))), ids=str)
def test_transposes(perm: tuple[int, ...], level: str, rng: np.random.Generator, guarded: Any) -> None:
    index, pairs = loops("a", "b", "c")
    source = flat(index, [n for _, n in pairs])
    target = flat([index[p] for p in perm], [pairs[p][1] for p in perm])
    for order in (range(3), perm):
        problem = NestProblem(tuple(pairs[k] for k in order), stores=(StoreProblem(E.load("x", [source], "float32"), "float32", "y", target),))
        made = Nest(problem, level, guarded)
        for shape in SIZES:
            x = rng.standard_normal(shape).astype(np.float32)
            for threads in (1, 5):
                got, _ = made.run({"x": x}, {"y": ("float32", [shape[p] for p in perm])}, threads, a=shape[0], b=shape[1], c=shape[2])
                np.testing.assert_array_equal(got["y"], x.transpose(perm))


def test_several_stores(level: str, rng: np.random.Generator, guarded: Any) -> None:
    (i,), pairs = loops("n")
    x = E.load("x", [i], "float32")
    stores = (StoreProblem(x * 2.0, "float32", "y", i), StoreProblem(E.cast(x, "int64"), "int64", "z", i), StoreProblem(x < 0.0, "bool", "b", i))
    made = Nest(NestProblem(pairs, stores=stores), level, guarded)
    for n in LENGTHS:
        v = (rng.standard_normal(n) * 5).astype(np.float32)
        got, _ = made.run({"x": v}, {"y": ("float32", (n,)), "z": ("int64", (n,)), "b": ("bool", (n,))}, 2, n=n)
        np.testing.assert_array_equal(got["y"], v * 2)
        np.testing.assert_array_equal(got["z"], v.astype(np.int64))
        np.testing.assert_array_equal(got["b"], v < 0)


def test_rank_zero(level: str, guarded: Any) -> None:
    made = Nest(NestProblem((), stores=(StoreProblem(E.load("x", [0], "float32") + 1.0, "float32", "y", 0),)), level, guarded)
    for threads in (1, 3):
        got, _ = made.run({"x": np.array([2.0], np.float32)}, {"y": ("float32", (1,))}, threads)
        assert got["y"].item() == 3


# --- rows: stages, then a store for every inner index -----------------------------------------------------------------
@pytest.mark.parametrize("along", [True, False], ids=["along", "across"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_softmax(along: bool, dtype: str, level: str, rng: np.random.Generator, guarded: Any) -> None:
    """Rows of memory (lanes along), or columns (lanes across)."""
    (i, r), pairs = loops("rows", "cols")
    offset = flat([i, r], [n for _, n in pairs]) if along else flat([r, i], [pairs[1][1], pairs[0][1]])
    compute = dtypes.compute_type(dtype)
    x = E.load("x", [offset], dtype)
    e = E.op("exp", x - E.param("m", compute))
    stages = (StageProblem("m", "max", x), StageProblem("s", "sum", e))
    made = Nest(NestProblem(pairs[:1], pairs[1:], stages, (StoreProblem(e / E.param("s", compute), dtype, "y", offset),), True), level, guarded)
    for shape in [(1, 1), (3, 5), (5, 16), (2, 33), (17, 2), (40, 7), (0, 5), (4, 0), (1, 100)]:
        v = rng.standard_normal(shape).astype(dtype)
        memory = v if along else np.ascontiguousarray(v.T)
        for threads in (1, 3):
            got, _ = made.run({"x": memory}, {"y": (dtype, memory.shape)}, threads, rows=shape[0], cols=shape[1])
            w = np.exp(v.astype("f8") - v.max(-1, keepdims=True, initial=-np.inf).astype("f8"))
            want = w / w.sum(-1, keepdims=True)
            np.testing.assert_allclose(got["y"].astype("f8"), want if along else want.T, atol=2e-3 if dtype == "float16" else 1e-6)


def test_inner_loops_of_one_round(level: str, guarded: Any) -> None:
    """A softmax over an axis of size 1: no inner loop is left."""
    (i,), pairs = loops("n")
    x = E.load("x", [i], "float32")
    for outer, inner in ((pairs, (("r", 1),)), ((), (("r", 1),)), ((("q", 1),), pairs)):
        problem = NestProblem(outer, inner, (StageProblem("m", "max", x),), (StoreProblem(x - E.param("m", "float32"), "float32", "y", i),), True)
        if outer == ():
            problem = NestProblem(outer, inner, (StageProblem("m", "max", E.load("x", [0], "float32")),),
                                  (StoreProblem(E.param("m", "float32"), "float32", "y", 0),), True)  # fmt: skip
        got, _ = Nest(problem, level, guarded).run({"x": np.full(5, 2, np.float32)}, {"y": ("float32", (5,))}, n=5)
        assert got["y"][0] == (2 if outer == () else 0)


# --- guards, computed indices -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "uint8", "float64", "bfloat16"])
def test_guarded_loads_touch_nothing_outside(dtype: str, level: str, rng: np.random.Generator, guarded: Any) -> None:
    """Padding: elements outside of x are the default; their addresses may be unmapped."""
    (i,), pairs = loops("m")
    n, before = D.symbol("n"), D.symbol("before")
    at = i - before
    guard = ~(E.index(at) < 0) & (E.index(at) < E.index(n))
    value = E.load("x", [at], dtype, guard=guard, default=7)
    made = Nest(NestProblem(pairs, stores=(StoreProblem(value, dtype, "y", i),)), level, guarded)
    for n_, b, a in [(5, 2, 3), (1, 0, 40), (0, 3, 3), (33, 5000, 5000), (16, 0, 0), (7, 1, 0)]:
        x = values(rng, dtype, (n_,))
        got, _ = made.run({"x": x}, {"y": (dtype, (n_ + a + b,))}, n=n_, before=b, m=n_ + a + b)
        np.testing.assert_array_equal(got["y"].astype("f8"), np.pad(x.astype("f8"), (b, a), constant_values=7))


def test_guard_of_a_whole_row(level: str, rng: np.random.Generator, guarded: Any) -> None:
    """A guard that is the same for all lanes is a branch around the load."""
    (i, j), pairs = loops("a", "b")
    at = i - 1
    guard = ~(E.index(at) < 0)
    value = E.load("x", [at * D.symbol("b") + j], "float32", guard=guard, default=-1.0)
    made = Nest(NestProblem(pairs, stores=(StoreProblem(value + value, "float32", "y", i * D.symbol("b") + j),)), level, guarded)
    for a, b in ((1, 1), (3, 17), (2, 40), (4, 3)):
        x = rng.standard_normal((a - 1, b)).astype(np.float32)
        got, _ = made.run({"x": x}, {"y": ("float32", (a, b))}, 2, a=a, b=b)
        np.testing.assert_array_equal(got["y"], np.concatenate([np.full((1, b), -2), x * 2]).astype(np.float32))


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_computed_indices(dtype: str, level: str, rng: np.random.Generator, guarded: Any) -> None:
    """Gather: indices from memory, forced into range, with a status where they were outside."""
    (i,), pairs = loops("n")
    rows = D.symbol("rows")
    at = E.cast(E.load("at", [i], dtype), "int64")
    bound = E.Expr("op", "int64", name="bounds", args=(at, E.index(rows)))
    value = E.load("x", [D.symbol("g", rows)], "float32", binds=(("g", bound),))
    made = Nest(NestProblem(pairs, stores=(StoreProblem(value, "float32", "y", i),)), level, guarded)
    x = rng.standard_normal(9).astype(np.float32)
    for n in LENGTHS:
        where = rng.integers(0, 9, n).astype(dtype)
        got, status = made.run({"x": x, "at": where}, {"y": ("float32", (n,))}, 3, n=n, rows=9)
        np.testing.assert_array_equal(got["y"], x[where])
        assert status == 0
    info = np.iinfo(dtype)
    for bad in (9, -1, int(info.max), int(info.min)):
        for position in (0, 16, 19):
            where = np.zeros(20, dtype)
            where[position] = bad
            _, status = made.run({"x": x, "at": where}, {"y": ("float32", (20,))}, n=20, rows=9)
            assert status == 1


# --- merging loops ----------------------------------------------------------------------------------------------------
def test_loops_are_merged() -> None:
    index, pairs = loops("a", "b", "c")
    offset = flat(index, [n for _, n in pairs])
    p = nest.merge(NestProblem(pairs, stores=(StoreProblem(E.load("x", [offset], "float32"), "float32", "y", offset),)))
    assert len(p.outer) == 1 and p.outer[0][1] == D.symbol("a") * D.symbol("b") * D.symbol("c")


def test_loops_of_one_round_go() -> None:
    index, pairs = loops("a", "b")
    one = D.symbol("i$one", 1)
    offset = (index[0] * D.symbol("b") + index[1]) * 1 + one
    p = nest.merge(NestProblem((*pairs, ("i$one", 1)), stores=(StoreProblem(E.load("x", [offset], "float32"), "float32", "y", offset),)))
    assert len(p.outer) == 1


def test_transposed_loops_stay() -> None:
    (i, j), pairs = loops("a", "b")
    a, b = D.symbol("a"), D.symbol("b")
    p = nest.merge(NestProblem(pairs, stores=(StoreProblem(E.load("x", [i * b + j], "float32"), "float32", "y", j * a + i),)))
    assert len(p.outer) == 2
    broadcast = E.load("x", [i * b + j], "float32") + E.load("z", [j], "float32")
    p = nest.merge(NestProblem(pairs, stores=(StoreProblem(broadcast, "float32", "y", i * b + j),)))
    assert len(p.outer) == 2


def test_same_text_for_all_sizes() -> None:
    def texts(*sizes: tuple[D.DimLike, D.DimLike]) -> set[str]:
        found = set()
        for n, m in sizes:
            i, j = D.symbol("i", n), D.symbol("j", m)
            load = E.load("x", [j * n + i], "float32")
            problem = NestProblem((("i", n), ("j", m)), stores=(StoreProblem(load, "float32", "y", i * m + j),))
            found.add(nest.emit(problem, isa_module.get("avx2")).text)
        return found

    assert len(texts((100, 50), (33, 999))) == 1
    assert len(texts((D.symbol("n"), D.symbol("m")), (D.symbol("n") * 3, D.symbol("k") * 5))) == 1
