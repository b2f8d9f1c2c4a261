"""Attention in one pass against float64, at every instruction set level, with guard pages behind all buffers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from hasten.base import dtypes
from hasten.base.dims import evaluate
from hasten.codegen import isa as isa_module
from hasten.codegen import llvm
from hasten.codegen.builder import Module
from hasten.kernels.attention import AttentionSpec
from hasten.kernels.attention_scores import BLOCK, Window
from hasten.kernels.spec import Emission

EPS = float(np.finfo(np.float32).eps)


@dataclass
class Case:
    """Random operands; `mask` and `valid` are what the kernel gets, or None."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    mask: np.ndarray | None = None
    valid: np.ndarray | None = None

    @classmethod
    def random(cls, b, h, g, m, n, d, e, seed=0, sharp=1.0):
        rng = np.random.default_rng(seed)
        q, k, v = (rng.standard_normal(s, np.float32) for s in ((b, h, m, d), (b, g, n, d), (b, g, n, e)))
        return cls(q * np.float32(sharp), k, v)


def allowed(case: Case, window: Window | None) -> np.ndarray:
    """[B, H, M, N]: which keys count, by the definition."""
    (b, h, m, _), n = case.q.shape, case.k.shape[2]
    ok = np.ones((b, h, m, n), bool)
    keys = np.arange(n)
    if case.mask is not None:
        ok &= keys < case.mask.shape[3]
        if case.mask.dtype == bool:
            ok[..., : case.mask.shape[3]] &= case.mask
    if case.valid is not None:
        ok &= keys < case.valid[:, None, None, None]
    if window is not None:
        before = case.valid - m if window.at_end else np.full(b, window.before)
        place = (before[:, None] + np.arange(m))[:, None, :, None]
        ok &= (window.right < 0) | (keys <= place + window.right)
        ok &= (window.left < 0) | (keys >= place - window.left)
    return ok


def attention(case: Case, spec: AttentionSpec, dtype: type) -> np.ndarray:
    """The definition, computed in `dtype`."""
    repeat = case.q.shape[1] // case.k.shape[1]
    q, k, v = (x.astype(dtype) for x in (case.q, case.k.repeat(repeat, 1), case.v.repeat(repeat, 1)))
    scores = q @ k.swapaxes(2, 3) * dtype(spec.scale if spec.scale is not None else q.shape[3] ** -0.5)
    if spec.softcap:
        scores = np.tanh(scores / dtype(spec.softcap)) * dtype(spec.softcap)
    if case.mask is not None and case.mask.dtype != bool:
        scores[..., : case.mask.shape[3]] += case.mask
    scores[~allowed(case, spec.window)] = -np.inf
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isinf(top), 0, top))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, 1, total) @ v


def run(kernel, guarded, level, case: Case, spec: AttentionSpec, threads: int = 1, layout: str = "bhsd") -> np.ndarray:
    """The kernel's result. layout "bshd": heads lie beside each other in each row, as projections leave them."""
    isa = isa_module.get(level)
    spec = replace(spec, isa=isa)
    operands = [x for x in (case.q, case.k, case.v, case.mask, case.valid) if x is not None]
    views = []
    for x in operands:
        if x.ndim == 4 and layout == "bshd" and len(views) < 3:
            views.append(guarded.of(np.ascontiguousarray(x.transpose(0, 2, 1, 3))))
        else:
            views.append(guarded.of(np.ascontiguousarray(x)))
    strides = []
    for x in operands:
        at = np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) if layout == "bshd" and x.ndim == 4 and len(strides) < 3 else x
        strides.append(tuple(s // x.itemsize for s in at.strides))
    call = SimpleNamespace(operands=operands, strides=strides)
    sizes = {name: int(evaluate(d, {})) for name, d in spec.dims(call).items()}
    words = [(f"in{i}", "ptr") for i in range(len(operands))] + [("out", "ptr"), ("scratch", "ptr"), *((n, "i64") for n in sizes)]
    words += [(f"in{i}_s{a}", "i64") for i, s in enumerate(strides) for a in range(len(s))]

    def emit(f, isa, arg, thread, count):
        def sink(f, value, where, lanes, mask):
            at = ((where["b"] * arg["heads"] + where["h"]) * arg["m"] + where["m"]) * arg["e"] + where["e"]
            place = f.at(arg["out"], at, 4)
            if mask is None:
                f.store(value, place)
            else:
                f.masked_store(value, place, mask)

        spec.emit(Emission(f, isa, arg, thread, count, sink, call))

    compiled = kernel(level, words, emit)
    shape = (*case.q.shape[:3], case.v.shape[3])
    out = guarded.of(np.full(shape, np.nan, np.float32))
    scratch = guarded(int(evaluate(spec.scratch(call), {})) // 64 * 64, 64)
    scratch.array((scratch.nbytes // 4,))[...] = np.nan
    given = {f"in{i}": v for i, v in enumerate(views)}
    given |= {f"in{i}_s{a}": s for i, row in enumerate(strides) for a, s in enumerate(row)}
    compiled.run(threads, **given, **sizes, out=out, scratch=scratch)
    return out.array(shape)


def spec_of(case: Case, static: bool = True, **options) -> AttentionSpec:
    stored = tuple(dtypes.from_numpy(x.dtype) for x in (case.q, case.k, case.v))
    sizes = (case.q.shape[3], case.v.shape[3]) if static else (None, None)
    mask = "" if case.mask is None else dtypes.from_numpy(case.mask.dtype)
    return AttentionSpec(isa_module.get("portable"), stored, *sizes, options.pop("scale", None), mask=mask, valid=case.valid is not None, **options)


def check(kernel, guarded, level, case: Case, threads: int = 1, layout: str = "bhsd", static: bool = True, **options) -> None:
    """The error is at most twice that of the definition computed in float32 (and a few roundings of the largest value)."""
    spec = spec_of(case, static, **options)
    got = run(kernel, guarded, level, case, spec, threads, layout)
    want, plain = attention(case, spec, np.float64), attention(case, spec, np.float32)
    scale = np.abs(case.v).max() if case.v.size else 1.0
    limit = 2 * np.abs(plain - want).max(initial=0) + 4 * EPS * scale
    error = np.abs(got - want)
    assert (error <= limit).all(), f"error {np.nanmax(error):.3g}, limit {limit:.3g}, NaN {np.isnan(got).sum()}"


@pytest.mark.parametrize("shape", [(2, 3, 3, 17, 33, 64, 64), (1, 2, 1, 9, BLOCK + 37, 40, 24)], ids=str)
def test_shapes(level, kernel, guarded, shape):
    check(kernel, guarded, level, Case.random(*shape), threads=3, layout="bshd")


SHAPES = [
    (1, 1, 1, 1, 1, 1, 1), (1, 2, 2, 14, 16, 32, 32), (1, 4, 2, 5, 40, 80, 80), (1, 4, 1, 31, 70, 128, 128), (1, 2, 1, 9, BLOCK + 37, 64, 16),
    (1, 1, 1, 3, 3 * BLOCK, 7, 5), (2, 1, 1, 29, 19, 33, 65),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("static", [True, False], ids=["static", "run time"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_more_shapes(level, kernel, guarded, shape, static):
    check(kernel, guarded, level, Case.random(*shape), threads=1 + shape[3] % 3, static=static)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_layouts_and_threads(level, kernel, guarded, layout):
    for threads in (1, 2, 5):
        check(kernel, guarded, level, Case.random(2, 4, 2, 37, 50, 32, 48), threads, layout)


@pytest.mark.parametrize("m", [1, 2])
def test_few_queries(level, kernel, guarded, m):
    check(kernel, guarded, level, Case.random(2, 4, 2, m, BLOCK + 19, 40, 64), 3, "bshd", window=Window(-1, 0, BLOCK))


@pytest.mark.slow
def test_few_queries_and_many_keys(level, kernel, guarded):
    case = Case.random(1, 2, 2, 2, 3 * BLOCK + 5, 64, 32, sharp=5.0)
    check(kernel, guarded, level, case)
    case.mask = np.random.default_rng(5).random((1, 2, 2, 3 * BLOCK)) < 0.5
    check(kernel, guarded, level, case)
    check(kernel, guarded, level, Case.random(1, 1, 1, 1, 1, 16, 32))


def test_run_time_sizes(kernel, guarded):
    check(kernel, guarded, "portable", Case.random(1, 2, 1, 11, 30, 19, 10), static=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bool", "float32", "float16"])
def test_masks(level, kernel, guarded, kind):
    for m, n, keys, seed in ((20, 45, 45, 1), (6, 300, 280, 2)):
        case, rng = Case.random(2, 2, 2, m, n, 16, 16, seed), np.random.default_rng(seed)
        mask = rng.random((2, 2, m, keys)) < 0.6
        mask[0, 1, 3] = False  # a query for which no key counts
        case.mask = mask if kind == "bool" else np.where(mask, rng.standard_normal(mask.shape), -np.inf).astype(kind)
        check(kernel, guarded, level, case, 2)


WINDOWS = [Window(-1, 0), Window(3, 2), Window(-1, 0, 13), Window(40, -1), Window(0, 0, 5), Window(-1, 0, -3)]


@pytest.mark.slow
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows(level, kernel, guarded, window):
    for m, n in ((33, 46), (30, BLOCK + 80)):
        check(kernel, guarded, level, Case.random(1, 2, 1, m, n, 16, 16, m), 2, window=window)


@pytest.mark.slow
def test_lengths_of_batches(level, kernel, guarded):
    case = Case.random(4, 2, 2, 9, 60, 24, 24)
    case.valid = np.array([60, 9, 0, 31])
    check(kernel, guarded, level, case, 3)
    check(kernel, guarded, level, case, window=Window(-1, 0, 0, True))


@pytest.mark.slow
def test_scale_and_soft_cap(level, kernel, guarded):
    check(kernel, guarded, level, Case.random(1, 2, 2, 20, 40, 32, 32), scale=0.5, softcap=3.0)


@pytest.mark.slow
def test_sharp_and_large_scores(level, kernel, guarded):
    """Maxima that change from block to block, weights that vanish."""
    case = Case.random(1, 1, 1, 15, 3 * BLOCK + 5, 64, 32, sharp=20.0)
    case.k[:, :, ::97] *= 3
    check(kernel, guarded, level, case)
    case.k[...] = -np.abs(case.k) * 50
    case.q[...] = np.abs(case.q)
    check(kernel, guarded, level, case)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_small_floats_are_read_in_place(level, kernel, guarded, kind):
    case = Case.random(1, 2, 2, 20, 35, 24, 24)
    dtype = dtypes.to_numpy(kind)
    case.q, case.k, case.v = (x.astype(dtype) for x in (case.q, case.k, case.v))
    check(kernel, guarded, level, case, 2)


def test_nothing_to_do(kernel, guarded):
    for shape in ((0, 1, 1, 4, 4, 4, 4), (1, 1, 1, 0, 4, 4, 4), (1, 1, 1, 4, 0, 4, 4)):
        check(kernel, guarded, "portable", Case.random(*shape))


def test_everything_at_once(level, kernel, guarded):
    case, rng = Case.random(2, 4, 2, 16, BLOCK + 20, 24, 40), np.random.default_rng(3)
    case.mask = np.where(rng.random((2, 4, 16, BLOCK + 11)) < 0.8, rng.standard_normal((2, 4, 16, BLOCK + 11)), -np.inf).astype("f4")
    case.mask[0, 1, 3] = -np.inf  # a query for which no key counts
    case.valid = np.array([BLOCK + 20, 30])
    check(kernel, guarded, level, case, 2, "bshd", scale=0.3, softcap=2.0, window=Window(200, 5, 0, True))


def test_nan_stays_in_its_row(level, kernel, guarded):
    case = Case.random(1, 1, 1, 10, 20, 16, 16)
    case.q[0, 0, 4, 3] = np.nan
    got = run(kernel, guarded, level, case, spec_of(case))
    assert np.isnan(got[0, 0, 4]).all()
    assert np.isfinite(np.delete(got, 4, 2)).all()


@pytest.mark.parametrize("mask", ["", "float32"], ids=["", "mask"])
@pytest.mark.parametrize("size", [32, 64])
def test_nothing_is_spilled_in_the_products(size, mask):
    """Compiled for AVX-512: no vector register goes to the stack in a loop with as many multiplications as a tile has."""
    isa = isa_module.get("avx512", cross=True)
    spec = AttentionSpec(isa, ("float32",) * 3, size, size, None, mask=mask)
    module = Module(isa)
    f = module.function("kernel", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
    call = SimpleNamespace(operands=[np.empty((1, 2, 30, size)) for _ in range(3 + bool(mask))])
    words = [f"in{i}_s{a}" for i in range(len(call.operands)) for a in range(4)] + list(spec.dims(call))
    pointers = [f"in{i}" for i in range(len(call.operands))] + ["scratch", "out"]
    arg = {name: f.load("i64" if i >= len(pointers) else "ptr", f.at(f.args[0], i, 8)) for i, name in enumerate(pointers + words)}

    def sink(f, value, where, lanes, mask):
        f.store(value, f.at(arg["out"], where["m"] * size + where["e"], 4))

    spec.emit(Emission(f, isa, arg, f.args[1], f.args[2], sink, call))
    f.ret()
    loops = re.findall(r"^(\.LBB\w+):((?:\n(?!\.LBB).*)*?)\n\tj\w+\t\1$", llvm.assembly(module.text(), isa), re.MULTILINE)
    tiles = [body for _, body in loops if body.count("vfmadd") == spec.shapes[0].rows * spec.shapes[0].vectors]
    assert tiles
    assert not [line for body in tiles for line in body.splitlines() if "mm" in line and "rsp" in line]
