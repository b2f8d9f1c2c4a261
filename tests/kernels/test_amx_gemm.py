"""Matrix products on (emulated) tiles against float64, with guard pages behind all buffers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from hasten.base.dims import evaluate, symbol
from hasten.codegen import isa as isa_module
from hasten.kernels.amx_gemm import amx_gemm_scratch_bytes, emit_amx_gemm, pack_amx_gemm_weights
from hasten.kernels.gemm import GemmProblem, gemm_args

LEVELS = [name for name in ("amx", "amx-emulated") if name in isa_module.available()]
# largest error relative to sum |a b|: 2^-9 of each factor, 2^-16 of each, and float32's own rounding
BOUND = {1: 2.1 * 2.0**-8, 3: 3 * 2.0**-16, 6: 8 * 2.0**-24}


@dataclass
class Data:
    a: np.ndarray
    b: np.ndarray


def normal(batch: int, m: int, k: int, n: int, rng: np.random.Generator) -> Data:
    return Data(rng.standard_normal((batch, m, k), np.float32), rng.standard_normal((batch, k, n), np.float32))


def multiply(kernel, guarded, level, data: Data, problem: GemmProblem, products: int, threads: int = 1) -> np.ndarray:
    (batch, m, k), n = data.a.shape, data.b.shape[2]

    def emit(f, isa, arg, thread, count):
        def sink(f, acc, where, lanes, mask):
            p = f.at(arg["c"], ((where["g"] + where["b"]) * arg["m"] + where["m"]) * arg["n"] + where["n"], 4)
            if mask is None:
                f.store(acc, p)
            else:
                f.masked_store(acc, p, mask)

        emit_amx_gemm(f, problem, products, isa, arg, thread, count, sink)

    compiled = kernel(level, [*gemm_args(problem), ("c", "ptr")], emit)
    pitch = k + 3
    a = np.zeros((batch, m, pitch), np.float32)
    a[:, :, :k] = data.a
    a = a.reshape(-1)[: max(0, a.size - 3)]
    if problem.b == "packed":
        b = pack_amx_gemm_weights(problem, products, data.b)
        words = {"bs_g": int(np.prod(b.shape[1:]))}
    elif problem.b == "rows":
        b, words = data.b, {"bs_g": k * n, "bs_k": n}
    else:
        b, words = np.ascontiguousarray(data.b.transpose(0, 2, 1)), {"bs_g": k * n, "bs_n": k}
    scratch = guarded(int(evaluate(amx_gemm_scratch_bytes(problem, products, m, n, k), {})), 64)
    scratch.array([scratch.nbytes // 4])[...] = np.nan
    c = guarded.of(np.full((batch, m, n), 77, np.float32))
    sizes = {"groups": batch, "batch": 1, "m": m, "n": n, "k": k, "as_g": m * pitch, "as_m": pitch}
    compiled.run(threads, a=guarded.of(a), b=guarded.of(b), scratch=scratch, c=c, **sizes, **words)
    return c.array((batch, m, n))


def check(got: np.ndarray, data: Data, products: int) -> None:
    a, b = data.a.astype(np.float64), data.b.astype(np.float64)
    if got.size:
        error = np.abs(got - a @ b)
        limit = BOUND[products] * (np.abs(a) @ np.abs(b)) + 1e-30
        assert (error <= limit).all(), f"largest error {np.nanmax(error / limit):.3g} of the bound"


SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 13, 64, 64), (1, 17, 33, 16), (2, 31, 40, 100), (1, 49, 300, 48), (1, 64, 31, 32)]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("products", [1, 3, 6])
@pytest.mark.parametrize("b", ["packed", "rows", "columns"])
def test_static_sizes(level, kernel, guarded, b, products, rng):
    for i, (batch, m, k, n) in enumerate(SHAPES):
        data = normal(batch, m, k, n, rng)
        check(multiply(kernel, guarded, level, data, GemmProblem(k, n, b), products, 1 + i % 3), data, products)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("b", ["packed", "rows", "columns"])
def test_run_time_sizes(level, kernel, guarded, b, rng):
    for shape in ((2, 35, 19, 23), (1, 30, 64, 64), (1, 5, 0, 4), (1, 0, 4, 4), (0, 4, 4, 4)):
        data = normal(*shape, rng)
        check(multiply(kernel, guarded, level, data, GemmProblem(None, None, b), 6, 2), data, 6)


@pytest.mark.parametrize("b", ["packed", "rows"])
def test_several_strips(kernel, guarded, b, rng):
    """A's planes are larger than the share of the cache that strips have."""
    data = normal(1, 150, 1500, 20, rng)
    check(multiply(kernel, guarded, LEVELS[-1], data, GemmProblem(1500, 20, b), 6, 2), data, 6)


def float32_kind(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.einsum("bmk,bkn->bmn", a, b)


def same_kind(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)])


@pytest.mark.parametrize("products", [1, 3, 6])
@pytest.mark.parametrize("b", ["packed", "rows", "columns"])
def test_special_values(kernel, guarded, b, products, rng):
    """Infinities and NaN give what float32 gives, and leave the other results as accurate as they were."""
    data = normal(1, 40, 50, 40, rng)
    data.a[0, 3, 7], data.a[0, 4, 8], data.a[0, 20, 0], data.a[0, 35, 49] = np.inf, -np.inf, np.nan, np.inf
    data.b[0, 7, 5] = 0.0  # infinity times zero
    data.b[0, 7, 6] = 1.0  # whose middle plane is zero
    data.a[0, 5, 1], data.a[0, 5, 2] = np.inf, -np.inf
    data.b[0, 49, :20] = 0.5
    if b != "packed":
        data.b[0, 11, 3], data.b[0, 12, 38] = np.inf, np.nan
        data.a[0, 0, 11] = 0.0
    got = multiply(kernel, guarded, LEVELS[-1], data, GemmProblem(50, 40, b), products)
    same_kind(got, float32_kind(data.a, data.b))
    clean = np.isfinite(got)
    a, w = np.nan_to_num(data.a, posinf=0, neginf=0), np.nan_to_num(data.b, posinf=0, neginf=0)
    exact, scale = (x.astype(np.float64) @ y.astype(np.float64) for x, y in ((a, w), (np.abs(a), np.abs(w))))
    assert (np.abs(got[clean] - exact[clean]) <= BOUND[products] * scale[clean]).all()


@pytest.mark.parametrize("products", [3, 6])
def test_largest_floats_stay_finite(kernel, guarded, products, rng):
    data = normal(1, 20, 32, 16, rng)
    data.a[0, 2] = 0.0
    data.a[0, 2, 9] = np.finfo(np.float32).max
    data.b[0, 9] = np.linspace(-0.9, 0.9, 16)
    got = multiply(kernel, guarded, LEVELS[-1], data, GemmProblem(32, 16), products)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("exponent", [-100, -120, -140])
def test_values_near_and_below_the_smallest_normal_number(kernel, guarded, exponent, rng):
    """Planes below 2^-126 are taken as zero: errors up to that, times the other factor."""
    data = normal(1, 32, 64, 16, rng)
    data.a *= np.float32(2.0**exponent)
    got = multiply(kernel, guarded, LEVELS[-1], data, GemmProblem(64, 16), 6)
    a, b = data.a.astype(np.float64), data.b.astype(np.float64)
    limit = BOUND[6] * (np.abs(a) @ np.abs(b)) + 2.0**-126 * (4 + 2 * np.abs(b).sum(axis=1, keepdims=True))
    assert (np.abs(got - a @ b) <= limit).all()


def test_scratch_is_a_symbolic_size():
    m, k = symbol("m"), symbol("k")
    problem = GemmProblem(None, None, "rows")
    expression = amx_gemm_scratch_bytes(problem, 6, m, 5, k)
    assert evaluate(expression, {"m": 70, "k": 90}) == amx_gemm_scratch_bytes(problem, 6, 70, 5, 90)
