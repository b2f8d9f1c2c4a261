"""Results that are written over an operand: right at every level, for any sizes, by any number of threads."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from compiling import LEVELS, check, lowered, parse, walk  # noqa: E402

from hasten.vm import program as P  # noqa: E402


def in_place(model: onnx.ModelProto) -> list[str]:
    """Kernels of which an operand lies where the result does, or another operand does."""
    program, _, _ = lowered(model)
    place = {i.buffer: i.offset for i in walk(program.instructions) if isinstance(i, P.View) and i.base == "arena"}
    found = []
    for i in walk(program.instructions):
        if isinstance(i, P.Call):
            mine = [place[a] for a in i.args if isinstance(a, str) and a in place]
            if len(set(mine)) < len(mine):
                found.append(i.kernel.rsplit("_", 1)[0])
    return found


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


SIZES = [(1, 5, 7), (2, 16, 33), (3, 9, 18)]
CONVOLUTIONS = {  # attributes, channels, shape of the filter
    "3x3": ("pads=[1, 1, 1, 1]", 24, (24, 24, 3, 3)),
    "1x1": ("pads=[0, 0, 0, 0]", 33, (33, 33, 1, 1)),
    "5x5": ("pads=[2, 2, 2, 2]", 7, (7, 7, 5, 5)),
    "wide": ("pads=[1, 1, 1, 1]", 64, (64, 64, 3, 3)),
    "depthwise": ("pads=[1, 1, 1, 1], group=20", 20, (20, 1, 3, 3)),
    "grouped": ("pads=[1, 1, 1, 1], group=4", 32, (32, 8, 3, 3)),
}


QUICK = ("1x1", "depthwise")


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in CONVOLUTIONS])
def test_residual_of_a_convolution(kind: str, rng: np.random.Generator) -> None:
    attributes, c, shape = CONVOLUTIONS[kind]
    m = parse(f"""g (float[n, {c}, h, w] x) => (y) {{
        a = Sigmoid(x)  b = Conv <{attributes}> (a, u)  c = Relu(b)  d = Conv <{attributes}> (c, v)  e = Add(d, b)
        f = Conv <{attributes}> (e, u)  y = Tanh(f) }}""", u=weights(rng, *shape), v=weights(rng, *shape))  # fmt: skip
    assert in_place(m)
    check(m, *({"x": rng.standard_normal((n, c, h, w), np.float32)} for n, h, w in SIZES), levels=LEVELS)


def test_residual_of_kernels_that_are_computed_as_one(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, 3, h, w] x) => (y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, t)  b = Conv (a, u)  c = Relu(b)  d = Conv <pads = [1, 1, 1, 1], group = 48> (c, v)  e = Relu(d)
        f = Conv (e, w1)  y0 = Add(f, a)  y = GlobalAveragePool(y0) }""",
              t=weights(rng, 16, 3, 3, 3), u=weights(rng, 48, 16, 1, 1), v=weights(rng, 48, 1, 3, 3), w1=weights(rng, 16, 48, 1, 1))  # fmt: skip
    check(m, *({"x": rng.standard_normal((n, 3, h, w), np.float32)} for n, h, w in ((1, 7, 9), (2, 120, 131))), levels=LEVELS)


@pytest.mark.parametrize("k", [5, 40, 130])
def test_residual_of_a_product(k: int, rng: np.random.Generator) -> None:
    m = parse(f"""g (float[n, {k}] x) => (y) {{
        a = MatMul(x, u)  b = Relu(a)  c = MatMul(b, u)  d = Add(a, c)  e = MatMul(d, u)  f = Mul(e, d)  y = MatMul(f, u) }}""",
              u=weights(rng, k, k))  # fmt: skip
    check(m, *({"x": rng.standard_normal((n, k), np.float32)} for n in (1, 7, 30, 65)), levels=LEVELS)
    assert in_place(m)


def test_rows_are_normalised_where_they_lie(rng: np.random.Generator) -> None:
    """Every element of a row is read before the first one is written."""
    m = parse("""g (float[n, 48] x) => (y) {
        a = MatMul(x, u)  b = LayerNormalization(a, s)  c = MatMul(b, u)  d = Softmax <axis = 0> (c)  y = MatMul(d, u) }""",
              u=weights(rng, 48, 48), s=rng.standard_normal(48).astype(np.float32))  # fmt: skip
    assert in_place(m)
    check(m, *({"x": rng.standard_normal((n, 48), np.float32)} for n in (1, 6, 50)), levels=LEVELS)


def test_transposes_are_not_done_in_place(rng: np.random.Generator) -> None:
    m = parse("""g (float[40, 40] x) => (y) {
        a = MatMul(x, u)  t = Transpose <perm = [1, 0]> (a)  b = Sub(a, t)  y = MatMul(b, u) }""", u=weights(rng, 40, 40))  # fmt: skip
    assert not in_place(m)
    check(m, {"x": rng.standard_normal((40, 40), np.float32)}, levels=LEVELS)


def test_a_value_that_every_round_reads_stays(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, 16] x, int64 trips) => (y) {
        a = MatMul(x, u)
        y = Loop (trips, , x) <body = b (int64 i, bool go, float[n, 16] s) => (bool on, float[n, 16] next) {
            on = Identity(go)  p = MatMul(s, u)  next = Add(p, a) }> }""", u=weights(rng, 16, 16))  # fmt: skip
    check(m, {"x": rng.standard_normal((5, 16), np.float32), "trips": np.array(4)}, levels=LEVELS)
