"""How models are computed: which kernels there are, in which formats values flow. What is fused is visible in the Program."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from compiling import LEVELS, kernels, lowered, parse  # noqa: E402

from hasten.base import dims as D  # noqa: E402
from hasten.lower.formats import Buffer, flat_offset, is_row_major, memory_order, row_major  # noqa: E402
from hasten.lower.schedule import invert, symbols  # noqa: E402


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


CONSTANTS: dict[str, Any] = {
    "w3": some(16, 16, 3, 3), "w1": some(16, 16, 1, 1), "half": some(8, 8, 1, 1), "dw": some(16, 1, 3, 3), "rgb": some(16, 3, 3, 3),
    "join": some(8, 32, 1, 1), "k": some(16, 32), "b": some(32), "s": some(16), "o": some(16), "mean": some(16), "var": np.abs(some(16)),
    "one": np.array([1]), "two": np.array([2]), "zero": np.array([0]), "big": np.array([1 << 40]), "scalar": np.float32(0.5), "six": np.float32(6),
    "index": np.array(0), "minus": np.array([-1]), "flat": np.array([0, -1]),
}  # fmt: skip
IMAGE = "g (float[n, 16, h, w] x) => (y)"
NHWC = "g (float[n, h, w, 16] x0) => (y)"
MATRIX = "g (float[n, 16] x) => (y)"
FROM_NHWC = "x = Transpose <perm = [0, 3, 1, 2]> (x0) "
TO_NHWC = " y = Transpose <perm = [0, 2, 3, 1]> (z)"


def how(text: str) -> list[str]:
    used = {n: a for n, a in CONSTANTS.items() if any(n == word.strip("(),") for word in text.replace("(", " ").replace(",", " ").split())}
    return [re.sub(r"(conv3x3)f\dx\d$", r"\1f", name) for name in kernels(lowered(parse(text, **used))[0])]  # f: Winograd, whichever tile pays


def table(rows: dict[str, tuple[str, list[str]]]) -> Any:
    return pytest.mark.parametrize("text, wanted", list(rows.values()), ids=list(rows))


@table({
    "conv_bn_relu": (f"{IMAGE} {{ a = Conv <pads = [1, 1, 1, 1]> (x, w3, s)  c = BatchNormalization(a, s, o, mean, var)  y = Relu(c) }}",
                     ["copy", "conv3x3f", "copy"]),
    "residual_block": (f"""{IMAGE} {{ a = Conv <pads = [1, 1, 1, 1]> (x, w3)  c = BatchNormalization(a, s, o, mean, var)  d = Relu(c)
                       e = Conv <pads = [1, 1, 1, 1]> (d, w3)  f = BatchNormalization(e, s, o, mean, var)  g1 = Add(f, d)  y = Relu(g1) }}""",
                       ["copy", "conv3x3f", "conv3x3f", "copy"]),
    "swish": (f"{IMAGE} {{ a = Conv(x, w1)  q = Sigmoid(a)  d = Mul(a, q)  y = Conv(d, w1) }}", ["copy", "conv1x1s1", "conv1x1s1", "copy"]),
    "hard_swish_depthwise": (f"""{IMAGE} {{ a = Conv(x, w1)  c = HardSwish(a)  d = Conv <pads = [1, 1, 1, 1], group = 16> (c, dw)
                             e = Clip(d, scalar, six)  y = Conv(e, w1) }}""", ["copy", "conv1x1s1", "depthwise3x3s1", "conv1x1s1", "copy"]),
    "channels_last_from_end_to_end": (f"{NHWC} {{ {FROM_NHWC} a = Conv(x, w1)  c = Relu(a)  z = Conv(c, w1) {TO_NHWC} }}",
                                      ["conv1x1s1", "conv1x1s1"]),
    "pictures_need_no_copy": ("g (float[n, 3, h, w] x) => (y) { y = Conv <strides = [2, 2]> (x, rgb) }", ["conv3x3s2", "copy"]),
    "pooling_keeps_the_format": (f"{NHWC} {{ {FROM_NHWC} a = Conv(x, w1)  p = MaxPool <kernel_shape = [2, 2]> (a)  z = Conv(p, w1) {TO_NHWC} }}",
                                 ["conv1x1s1", "reduce", "conv1x1s1"]),
    "split_needs_no_copy": (f"{NHWC} {{ {FROM_NHWC} a = Conv(x, w1)  p, q = Split <axis = 1, num_outputs = 2> (a)  z = Conv(q, half) {TO_NHWC} }}",
                            ["conv1x1s1", "conv1x1s1"]),
    "slice_needs_no_copy": (f"{NHWC} {{ {FROM_NHWC} a = Conv(x, w1)  q = Slice(a, one, big, two)  z = Conv(q, w1) {TO_NHWC} }}",
                            ["conv1x1s1", "conv1x1s1"]),
    "concat_in_place": (f"{NHWC} {{ {FROM_NHWC} a = Conv(x, w1)  c = Relu(a)  d = Conv(c, w1)  e = Concat <axis = 1> (c, d)  z = Conv(e, join) {TO_NHWC} }}",
                        ["conv1x1s1", "conv1x1s1", "conv1x1s1"]),
})  # fmt: skip
def test_convolutions(text: str, wanted: list[str]) -> None:
    assert how(text) == wanted


@table({
    "matmul_bias_gelu": ("g (float[n, t, 16] x) => (y) { a = MatMul(x, k)  c = Add(a, b)  y = Gelu(c) }", ["gemm"]),
    "gemm_relu": (f"{MATRIX} {{ a = Gemm(x, k, b)  y = Relu(a) }}", ["gemm"]),
    "flatten_first": ("g (float[n, 4, 4] x) => (y) { a = Reshape(x, flat)  y = MatMul(a, k) }", ["gemm"]),
    "sliced_operand": (f"{MATRIX} {{ q = Slice(x, one, big, zero)  y = MatMul(q, k) }}", ["gemm"]),
})  # fmt: skip
def test_products(text: str, wanted: list[str]) -> None:
    assert how(text) == wanted


@table({
    "softmax": (f"{MATRIX} {{ y = Softmax(x) }}", ["rows"]),
    "masked_softmax": ("g (float[n, 16] x, float[16] m) => (y) { a = Mul(x, scalar)  c = Add(a, m)  y = Softmax(c) }", ["rows"]),
    "layer_norm": (f"{MATRIX} {{ y = LayerNormalization(x, s, o) }}", ["rows"]),
    "rms_norm_by_hand": (f"""{MATRIX} {{ a = Mul(x, x)  c = ReduceMean <keepdims = 1> (a, one)  d = Add(c, scalar)  e = Sqrt(d)  f = Div(x, e)
                         y = Mul(f, s) }}""", ["rows"]),
    "reduce_with_prologue_and_epilogue": (f"{MATRIX} {{ a = Mul(x, x)  c = ReduceSum <keepdims = 0> (a, one)  d = Sqrt(c)  y = Relu(d) }}", ["reduce"]),
})  # fmt: skip
def test_rows(text: str, wanted: list[str]) -> None:
    assert how(text) == wanted


@table({
    "one_chain": (f"{MATRIX} {{ a = Exp(x)  c = Transpose <perm = [1, 0]> (a)  d = Neg(c)  e = Unsqueeze(d, zero)  y = Tanh(e) }}", ["map"]),
    "swish": (f"{MATRIX} {{ q = Sigmoid(x)  y = Mul(x, q) }}", ["map"]),
    "cheap_work_twice": (f"{MATRIX} {{ a = Neg(x)  c = Exp(a)  d = Sin(a)  y = Add(c, d) }}", ["map"]),
    "shapes_cost_nothing": (f"""{MATRIX} {{ q = Shape(x)  g1 = Gather(q, index)  u = Unsqueeze(g1, zero)  t = Concat <axis = 0> (u, minus)
                            r = Reshape(x, t)  y = Relu(r) }}""", ["map"]),
    "constants_are_folded": (f"{MATRIX} {{ c = Exp(s)  d = Add(c, o)  e = Softmax(d)  y = Mul(x, e) }}", ["map"]),
    "pads_are_fused": (f"{MATRIX} {{ p = Constant <value_ints = [0, 1, 0, 2]> ()  a = Relu(x)  c = Pad(a, p)  y = Neg(c) }}", ["map"]),
    "same_kernel_for_all_sizes": ("g (float[n, m] x, float[m, k0] z) => (p, q) { p = Relu(x)  q = Relu(z) }", ["map", "map"]),
})  # fmt: skip
def test_elementwise(text: str, wanted: list[str]) -> None:
    assert how(text) == wanted


def test_expensive_work_is_done_once() -> None:
    """What would be computed again for every element of something larger lies in memory."""
    found = how("g (float[n, 1] x, float[m] z) => (y) { a = Exp(x)  y = Add(a, z) }")
    assert found == ["map", "map"], "an exponential of n values must not be computed n * m times"


def test_equal_kernels_are_one() -> None:
    """Texts have no sizes: the same work on tensors of different sizes is one kernel."""
    program, low, _ = lowered(parse("g (float[n, 160] x, float[272, m] z, float[k] q) => (a, b, c) { a = Softplus(x)  b = Softplus(z)  c = Softplus(q) }"))
    assert kernels(program) == ["map", "map", "map"] and len(low.kernels) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_text_does_not_depend_on_dynamic_sizes(level: str) -> None:
    texts = [set(lowered(parse(f"g (float[{n}, {m}] x) => (y) {{ y = Softmax(x) }}"), level)[1].kernels) for n, m in ((100, 200), (37, 1001))]
    assert texts[0] == texts[1]


# --- inverting index functions ----------------------------------------------------------------------------------------
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_inverses(data: st.DataObject) -> None:
    """A chain of transposes and reshapes as an index function: `invert` gives its inverse or nothing."""
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    perm = data.draw(st.permutations(range(len(sizes))))
    shape = [sizes[p] for p in perm]
    groups: list[list[int]] = [[0]]
    for axis in range(1, len(shape)):
        if data.draw(st.booleans()):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    mine = symbols("o", shape)
    source = [int(np.prod([shape[a] for a in g])) for g in groups]
    index: list[D.DimLike] = []
    for g in groups:
        flat: D.DimLike = 0
        for a in g:
            flat = flat * shape[a] + mine[a]
        index.append(flat if source[len(index)] > 1 else 0)
    own = invert(index, mine, shape, source)
    if own is None:
        assert 1 in shape  # axes of one element may be left alone
        return
    for at in np.ndindex(*shape):
        env = {f"o${k}": v for k, v in enumerate(at)}
        there = tuple(D.evaluate(e, env) for e in index)
        assert tuple(own(there)) == at


@pytest.mark.parametrize("index", ["2*o", "o + 1", "o // 2", "o % 2", "0"])
def test_what_has_no_inverse(index: str) -> None:
    (o,) = symbols("o", [4])
    forms = {"2*o": o * 2, "o + 1": o + 1, "o // 2": D.floordiv(o, 2), "o % 2": D.mod(o, 2), "0": 0}
    assert invert([forms[index]], [o], [4], [4]) is None


# --- strides ----------------------------------------------------------------------------------------------------------
@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, "n", "m"]), min_size=1, max_size=5), st.data())
def test_memory_order(sizes: list[Any], data: st.DataObject) -> None:
    shape = [D.symbol(s) if isinstance(s, str) else s for s in sizes]
    order = data.draw(st.permutations(range(len(shape))))
    strides: list[D.DimLike] = [0] * len(shape)
    step: D.DimLike = 1
    for axis in reversed(order):
        strides[axis] = step
        step = step * shape[axis]
    buffer = Buffer("b", tuple(strides))
    found = memory_order(buffer, shape)
    assert sorted(found) == list(range(len(shape)))
    real = [k for k in found if shape[k] != 1]
    assert real == [k for k in order if shape[k] != 1]
    assert is_row_major(buffer, shape) == (real == sorted(real))


def test_row_major_offsets() -> None:
    n = D.symbol("n")
    b = Buffer("b", row_major((2, n, 3)), 5)
    i, j, k = symbols("i", (2, n, 3))
    assert flat_offset(b, (i, j, k)) == i * n * 3 + j * 3 + k + 5
    assert not is_row_major(b, (2, n, 3))
