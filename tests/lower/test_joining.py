"""Depthwise convolutions computed with the 1x1 convolutions around them: same results as ONNX Runtime, and only where nothing else reads what
lies between."""

import sys
from pathlib import Path

import numpy as np
import pytest

from hasten.kernels import dense_separable

sys.path.insert(0, str(Path(__file__).parent))
from compiling import LEVELS, check, kernels, lowered, parse  # noqa: E402

FILTERS = {"e": (24, 9, 1, 1), "d": (24, 1, 3, 3), "d5": (24, 1, 5, 5), "p": (9, 24, 1, 1), "q": (21, 9, 1, 1), "d21": (21, 1, 3, 3)}
DEPTHWISE = "Conv<group = 24, pads = [1, 1, 1, 1]>"
BLOCK = "a = Conv(x, e, b24)  b = Relu(a)  c = {} (b, {}, b24)  f = Relu(c)  g1 = Conv(f, p, b9)"
CASES = {
    "bottleneck": (BLOCK.format(DEPTHWISE, "d") + "  y = Add(g1, x)", ["bottleneck3x3s1"]),
    "stride": (BLOCK.format("Conv<group = 24, pads = [0, 1, 2, 1], strides = [2, 2]>", "d") + "  y = Relu(g1)", ["bottleneck3x3s2"]),
    "5x5": (BLOCK.format("Conv<group = 24, pads = [2, 2, 2, 2]>", "d5") + "  y = Sigmoid(g1)", ["bottleneck5x5s1"]),
    "swish": (f"a = Conv(x, e)  s = Sigmoid(a)  b = Mul(a, s)  c = {DEPTHWISE} (b, d)  y = HardSwish(c)", ["expanded3x3s1"]),
    "separable": ("a = Conv<group = 9, pads = [1, 1, 1, 1]> (x, d9, b9)  b = Clip(a, zero, six)  y = Conv(b, q)", ["separable3x3s1"]),
    "odd channels": ("a = Conv(x, q)  b = Relu(a)  c = Conv<group = 21, pads = [1, 1, 1, 1]> (b, d21)  y = LeakyRelu(c)", ["expanded3x3s1"]),
    "a residual between": (f"r = Relu(x)  a = Conv(x, e)  t = Conv(r, e)  b = Add(a, t)  c = {DEPTHWISE} (b, d)  y = Relu(c)", ["conv1x1s1", "expanded3x3s1"]),
    "a chain": ("a = Conv<group = 9, pads = [1, 1, 1, 1]> (x, d9)  b = Conv(a, d99)  c = Conv<group = 9, pads = [1, 1, 1, 1]> (b, d9)  y = Conv(c, q)",
                ["separable3x3s1", "separable3x3s1"]),
    "another reader": (f"a = Conv(x, e)  b = Relu(a)  c = {DEPTHWISE} (b, d)  y = Add(b, c)", ["conv1x1s1", "depthwise3x3s1"]),
    "a gate": ("a = Conv<group = 9, pads = [1, 1, 1, 1]> (x, d9)  g1 = GlobalAveragePool(a)  s = Sigmoid(g1)  b = Mul(a, s)  y = Conv(b, q)", None),
    "padded 1x1": ("a = Conv<pads = [1, 1, 1, 1]> (x, e)  c = Conv<group = 24> (a, d)  y = Relu(c)", ["conv1x1s1", "depthwise3x3s1"]),
    "dilated": ("a = Conv(x, e)  c = Conv<group = 24, dilations = [2, 2], pads = [2, 2, 2, 2]> (a, d)  y = Relu(c)", ["conv1x1s1", "depthwise3x3s1"]),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_tensors_too(monkeypatch):
    monkeypatch.setattr(dense_separable, "LEAST_BYTES", (0, 0))
    monkeypatch.setattr(dense_separable, "LEAST_ROWS", 0)


def model(text: str, rng: np.random.Generator, sizes: str = "n, 9, h, w"):
    shapes = FILTERS | {"d9": (9, 1, 3, 3), "d99": (9, 9, 1, 1)}
    constants = {name: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for name, s in shapes.items()}
    constants |= {"b9": rng.standard_normal(9).astype(np.float32), "b24": rng.standard_normal(24).astype(np.float32)}
    constants |= {"zero": np.float32(0), "six": np.float32(6)}
    used = {name: c for name, c in constants.items() if any(mark + name + end in text for mark in ("(", " ") for end in (",", ")"))}
    return parse(f"g (float[{sizes}] x) => (float[n, m, i, j] y) {{ {text} }}", **used)


@pytest.mark.parametrize("name", CASES)
def test_same_as_onnxruntime(name, rng):
    text, expected = CASES[name]
    feeds = [{"x": rng.standard_normal((n, 9, h, w), np.float32)} for n, h, w in ((1, 6, 17), (2, 13, 5), (1, 3, 3))]
    made = model(text, rng)
    check(made, *feeds, levels=LEVELS if name in ("bottleneck", "odd channels") else None)
    found = [k for k in kernels(lowered(made)[0]) if k != "copy"]
    assert found == expected if expected else not any("separable" in k for k in found)


def test_known_sizes(rng):
    """Tiles that fit the width, strips that go round, more threads than rows."""
    for h, w in ((40, 56), (2, 20)):
        made = model(CASES["stride"][0], rng, f"1, 9, {h}, {w}")
        check(made, {"x": rng.standard_normal((1, 9, h, w), np.float32)})


def test_report(rng):
    """One row with the work of all three, and the others' names."""
    report = lowered(model(CASES["bottleneck"][0], rng, "1, 9, 40, 40"))[2]
    row = next(n for n in report.nodes if n.region.startswith("bottleneck"))
    sums = 40 * 40 * 2 * (9 * 24 + 24 * 9 + 24 * 9)
    elementwise = 40 * 40 * (24 * 2 + 24 * 2 + 9 * 2)  # bias and Relu twice, bias and residual
    assert int(row.operations) == sums + elementwise
    weights = 4 * (9 * 24 + 24 * 9 + 24 * 16 + 24 + 24 + 9)  # packed: 9 columns take a vector
    assert int(row.written) == 40 * 40 * 9 * 4
    assert abs(int(row.bytes) - int(row.written) - 2 * 40 * 40 * 9 * 4 - weights) < 4096, "the input twice (convolution, residual) and weights"
    assert {n.op for n in report.nodes if n.fused_node == row.name} == {"Conv", "Relu"}


def test_small_tensors_remain_between_two_kernels(rng, monkeypatch):
    monkeypatch.undo()
    few = kernels(lowered(model(CASES["bottleneck"][0], rng, "1, 9, 20, 20"))[0])
    assert [k for k in few if k != "copy"] == ["conv1x1s1", "depthwise3x3s1", "conv1x1s1"]
    assert "bottleneck3x3s1" in kernels(lowered(model(CASES["bottleneck"][0], rng, "1, 9, 120, 120"))[0])
