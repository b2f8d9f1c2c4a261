"""Matrix products against float64, at every instruction set level, with guard pages behind all buffers."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.base.dims import evaluate
from hasten.codegen import isa as isa_module
from hasten.kernels.gemm import (
    GemmProblem,
    emit_gemm,
    gemm_args,
    gemm_operations,
    gemm_scratch_bytes,
    pack_gemm_weights,
)

SHAPES = [
    (1, 1, 1, 1),
    (1, 1, 33, 70),
    (2, 3, 5, 7),
    (1, 13, 64, 64),
    (1, 14, 17, 32),
    (2, 31, 40, 100),
    (1, 49, 300, 48),
    (3, 8, 9, 16),
]


class Case:
    """One product with random data. Pitches are wider than needed, so that reading beside a row would be seen."""

    def __init__(self, batch: int, m: int, k: int, n: int, seed: int):
        rng = np.random.default_rng(seed)
        self.batch, self.m, self.k, self.n = batch, m, k, n
        self.groups = 2 if batch % 2 == 0 else 1
        self.a = rng.standard_normal((batch, m, k), np.float32)
        self.b = rng.standard_normal((batch, k, n), np.float32)
        a, b = self.a.astype(np.float64), self.b.astype(np.float64)
        self.want, self.scale = a @ b, np.abs(a) @ np.abs(b)


def store_sink(f, arg, begin_calls=None):
    """C[g, b, m, n] contiguous, with a bias along n."""
    state = {}

    class Sink:
        def begin(self, f, column, lanes, mask):
            t = f"<{lanes} x float>"
            p = f.at(arg["bias"], column, 4)
            state[column.name] = f.load(t, p) if mask is None else f.masked_load(t, p, mask)

        def __call__(self, f, acc, where, lanes, mask):
            value = acc + state[where["n"].name]
            at = ((where["g"] * arg["batch"] + where["b"]) * arg["m"] + where["m"]) * arg["n"] + where["n"]
            p = f.at(arg["c"], at, 4)
            if mask is None:
                f.store(value, p)
            else:
                f.masked_store(value, p, mask)

    return Sink()


def run_case(kernel, guarded, bound, level, case, problem, threads):
    isa = isa_module.get(level)
    words = [*gemm_args(problem), ("c", "ptr"), ("bias", "ptr")]

    def emit(f, isa, arg, thread, count):
        emit_gemm(f, problem, isa, arg, thread, count, store_sink(f, arg))

    compiled = kernel(level, words, emit)
    pitch = problem.a_pitch or case.k + 3
    if problem.a == "columns":
        a = np.zeros((case.batch, case.k, case.m + 2), np.float32)
        a[:, :, : case.m] = case.a.transpose(0, 2, 1)
        a_words = {"as_b": case.k * (case.m + 2), "as_k": case.m + 2}
        last = a.reshape(-1)[: max(0, a.size - 2)]
    else:
        a = np.zeros((case.batch, case.m, pitch), np.float32)
        a[:, :, : case.k] = case.a
        a_words = {"as_b": case.m * pitch, "as_m": pitch}
        last = a.reshape(-1)[: max(0, a.size - (pitch - case.k))]
    if problem.b == "packed":
        b = pack_gemm_weights(problem, isa, case.b)
        b_words = {"bs_b": int(np.prod(b.shape[1:]))}
    elif problem.b == "rows":
        b, b_words = case.b, {"bs_b": case.k * case.n, "bs_k": case.n}
    else:
        b, b_words = np.ascontiguousarray(case.b.transpose(0, 2, 1)), {"bs_b": case.k * case.n, "bs_n": case.k}
    a_words["as_g"], b_words["bs_g"] = (s * (case.batch // case.groups) for s in (a_words["as_b"], b_words["bs_b"]))
    bias = np.random.default_rng(1).standard_normal(case.n, np.float32)
    scratch = guarded(int(evaluate(gemm_scratch_bytes(problem, isa, case.m, case.n, case.k), {})), 64)
    c = guarded.of(np.full(case.want.shape, np.nan, np.float32))
    compiled.run(
        threads,
        a=guarded.of(last),
        b=guarded.of(b),
        scratch=scratch,
        groups=case.groups,
        batch=case.batch // case.groups,
        m=case.m,
        n=case.n,
        k=case.k,
        c=c,
        bias=guarded.of(bias),
        **a_words,
        **b_words,
    )
    got = c.array(case.want.shape)
    if got.size:
        error = np.abs(got - (case.want + bias))
        limit = bound(case.k, case.scale + np.abs(bias))
        assert (error <= limit).all(), f"largest error {np.nanmax(error / limit):.3g} of the bound"


@pytest.mark.parametrize("b", ["packed", "rows", "columns"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_static_k_and_n(level, kernel, guarded, bound, shape, b):
    case = Case(*shape, seed=len(b))
    run_case(kernel, guarded, bound, level, case, GemmProblem(case.k, case.n, b), 1 + case.m % 3)


@pytest.mark.parametrize("b", ["rows", "columns", "packed"])
def test_run_time_sizes(level, kernel, guarded, bound, b):
    for shape in ((2, 5, 19, 23), (1, 30, 64, 64)):
        run_case(kernel, guarded, bound, level, Case(*shape, seed=3), GemmProblem(None, None, b), 2)


@pytest.mark.parametrize(
    "shape", [(1, 1, 64, 40), (1, 49, 32, 64), (1, 28, 24, 33), (2, 5, 24, 33), (1, 197, 16, 16)], ids=str
)
def test_known_rows_and_pitch(level, kernel, guarded, bound, shape):
    case = Case(*shape, seed=4)
    for threads in (1, 3):
        run_case(
            kernel, guarded, bound, level, case, GemmProblem(case.k, case.n, m=case.m, a_pitch=case.k + 5), threads
        )


def test_transposed_left_operand(level, kernel, guarded, bound):
    for shape in ((2, 17, 21, 40), (1, 3, 64, 16)):
        for b in ("packed", "rows"):
            run_case(
                kernel, guarded, bound, level, Case(*shape, seed=5), GemmProblem(shape[2], shape[3], b, "columns"), 2
            )


def test_pitch_that_collides_in_the_cache_is_copied(level, kernel, guarded, bound):
    case = Case(1, 40, 1024, 20, seed=6)
    run_case(kernel, guarded, bound, level, case, GemmProblem(1024, 20, a_pitch=1024), 2)


@pytest.mark.parametrize("shape", [(0, 4, 4, 4), (1, 0, 4, 4), (1, 4, 4, 0), (1, 4, 0, 4)], ids=str)
def test_nothing_to_do(kernel, guarded, bound, shape):
    run_case(kernel, guarded, bound, "portable", Case(*shape, seed=7), GemmProblem(None, None, "rows"), 2)


def test_operations():
    assert gemm_operations(GemmProblem(None, None), 2, 3, 4, 5) == 240
