"""Expressions against NumPy: arithmetic of numbers and tensors, indexing, functions and methods, `hasten.op`."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from plain import check, same

import hasten
from hasten import Tensor
from hasten.ops.registry import find

Matrix = Tensor(("n", "m"))
Whole = Tensor(("n",), "int64")


def test_numbers() -> None:
    @hasten.function
    def f(a: int, b: int, x: float) -> tuple[int, int, int, float, float, float, int, int, bool, bool]:
        flags = a > b and not a == b
        return a // b, a % b, a - b * 3, a / b, x // 1.5, x % 1.5 + a, abs(a), min(a, b, 3), flags, a < b <= 3 or x != 2.5

    check(f, *[(a, b, x) for a in (-7, 0, 8) for b in (-3, 2) for x in (-2.5, 2.5)])


def test_conversions() -> None:
    @hasten.function
    def f(a: int, x: float) -> tuple[float, int, bool, bool, float, int]:
        return float(a), int(x), bool(a), bool(x), a * x, int(x * 3) - a

    check(f, (3, 2.75), (-3, -2.75), (0, 0.0))


def test_tensors_and_numbers(rng: np.random.Generator) -> None:
    @hasten.function
    def f(x: Matrix, y: Matrix, i: Whole, k: int, s: float) -> tuple[Matrix, Matrix, Matrix, Matrix, Tensor(("n",), "float64"), Whole, Whole]:
        return x * 2 + y / 3, -x**2, x - k * y, s * x, i / 2, i // 2 - k, (i + 7) % 5

    x, y = rng.standard_normal((2, 3, 4)).astype("f4")
    check(f, (x, y, rng.integers(-9, 9, 3), 3, 0.25))


def test_comparisons_and_bits(rng: np.random.Generator) -> None:
    @hasten.function
    def f(x: Matrix, y: Matrix, i: Whole) -> tuple[Tensor(("n", "m"), "bool"), Tensor(("n", "m"), "bool"), Whole, Tensor(("n",), "bool")]:
        return (x < y) | (x >= 1) & ~(x == y), (x > 0) ^ (y != 0), (i & 6) | ~i ^ 3, i != 2

    x, y = rng.standard_normal((2, 3, 4)).astype("f4")
    check(f, (x, y, rng.integers(-9, 9, 3)))


def test_indexing(rng: np.random.Generator) -> None:
    @hasten.function
    def f(x: Tensor(("n", "m", 4)), i: int, at: Tensor(("k",), "int64")):
        return (x[i], x[-1, i], x[1:, ::2], x[..., i], x[i, ..., 1:3], x[:, None, i:], x[::-1], x[:i, -2:], x[at], x[:, at, 0], x[i, i, i], x[i + 1 :, i])

    x = rng.standard_normal((5, 6, 4)).astype("f4")
    check(f, *[(x, i, np.array([0, 3, -1])) for i in (0, 1, 3)])


def test_constants_are_indexed(rng: np.random.Generator) -> None:
    table = rng.standard_normal((6, 2)).astype("f4")

    @hasten.function
    def f(i: int, n: int):
        return table[2], table[1:3, ::-1], table[i], table[i : i + n], table[..., 0], table[:, i - i]

    check(f, (0, 1), (3, 2), (5, 0))


def test_an_index_out_of_range_fails_the_run(rng: np.random.Generator) -> None:
    @hasten.function
    def f(x: Tensor(("n",)), i: int) -> float:
        return x[i].item()

    compiled = hasten.compile(f)
    with pytest.raises(hasten.ExecutionError, match="index"):
        compiled(np.zeros(3, np.float32), 3)


def test_functions_and_methods(rng: np.random.Generator) -> None:
    @hasten.function
    def f(x: Matrix):
        y = np.tanh(x) @ x.T
        rows = np.concatenate([x, x * 2], axis=1).sum(axis=0, keepdims=True)
        shaped = np.reshape(x, (-1, 2)).transpose((1, 0)).astype("float64")
        best = np.argmax(x, axis=1), x.argmax(), x.max(axis=0), np.mean(x), x.min().item()
        chosen = np.where(x > 0, x, 0.5) + np.maximum(x, 0.25) - np.minimum(x, 1)
        return (y, rows, shaped, *best, chosen, np.stack([x[0], x[1]], axis=1), np.zeros((2, x.shape[1]), np.float32), x.size, x.T.shape, np.expand_dims(x, 0))

    check(f, (rng.standard_normal((4, 6)).astype("f4"),))


def test_torch_functions(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")

    @hasten.function
    def f(x: Matrix) -> Matrix:
        return torch.softmax(torch.relu(x) + torch.sigmoid(x), dim=-1)

    x = rng.standard_normal((3, 5)).astype("f4")
    t = torch.from_numpy(x)
    same(hasten.compile(f)(x), torch.softmax(torch.relu(t) + torch.sigmoid(t), -1).numpy())


def test_onnx_operators(rng: np.random.Generator) -> None:
    w = rng.standard_normal((2, 4)).astype("f4")

    @hasten.function
    def f(x: Tensor(("t", 4))):
        top, at = hasten.op.TopK(x, [2], axis=-1)
        parts = hasten.op.Split(x, axis=-1, num_outputs=2)
        return top, at, hasten.op.Clip(x, -0.5, 0.5), parts[1], hasten.op.Cast(x, to="int32"), hasten.op.ReduceSum(x, [0], keepdims=0), hasten.op.Gemm(x, w, transB=1, alpha=0.5)

    x = rng.standard_normal((3, 4)).astype("f4")
    order = np.argsort(-x, -1)[..., :2]
    want = (np.take_along_axis(x, order, -1), order, np.clip(x, -0.5, 0.5), x[..., 2:], x.astype("i4"), x.sum(0), 0.5 * x @ w.T)
    same(hasten.compile(f)(x), want)


def test_optional_outputs(rng: np.random.Generator) -> None:
    w, r = rng.standard_normal((1, 16, 3)).astype("f4"), rng.standard_normal((1, 16, 4)).astype("f4")

    @hasten.function
    def f(x: Tensor(("t", 1, 3))):
        y, h, c = hasten.op.LSTM(x, w, r, hidden_size=4, outputs=3)
        return y, h, c

    node = onnx.helper.make_node("LSTM", ["x", "w", "r"], ["y", "h", "c"], hidden_size=4)
    graph = onnx.helper.make_graph([node], "g", [onnx.ValueInfoProto(name=n) for n in "xwr"], [onnx.ValueInfoProto(name=n) for n in "yhc"])
    x = rng.standard_normal((5, 1, 3)).astype("f4")
    y, h, _ = ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, {"x": x, "w": w, "r": r})
    got = hasten.compile(f)(x)
    same(got[:2], (y, h))
    assert got[2].shape == (1, 1, 4)


@pytest.mark.skipif(not onnx.defs.has("SwiGLU"), reason="this ONNX has no operator that is only defined by others")
def test_operators_that_are_defined_by_others(rng: np.random.Generator) -> None:
    @hasten.function
    def f(x: Matrix, y: Matrix) -> Matrix:
        return hasten.op.SwiGLU(x, y, alpha=0.5)

    assert find("", "SwiGLU") is None
    x, y = rng.standard_normal((2, 3, 4)).astype("f4")
    same(hasten.compile(f)(x, y), x / (1 + np.exp(-0.5 * x)) * y)


def test_onnx_models(rng: np.random.Generator) -> None:
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[N, 3] x, float[N, 3] y) => (float[N, 3] z, float[3] s) { z = Mul(x, y) s = ReduceSum<keepdims=0>(z, a) }'
    net = onnx.parser.parse_model(text)
    net.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "a"))

    @hasten.function
    def f(x: Tensor(("n", 3)), k: int):
        y = x
        for i in range(k):
            z, s = net(x + i, y)
            y = z - s
        return y

    def reference(x: np.ndarray, k: int) -> np.ndarray:
        y = x
        for i in range(k):
            z = (x + np.float32(i)) * y
            y = z - z.sum(0)
        return y

    x = rng.standard_normal((2, 3)).astype("f4")
    for k in (0, 1, 3):
        same(hasten.compile(f)(x, k), reference(x, k), 1e-4)


@pytest.mark.slow
def test_torch_modules(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    cell = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)).eval()

    @hasten.function
    def f(x: Tensor(("n", 4)), k: int) -> Tensor(("n", 4)):
        for _ in range(k):
            x = x + cell(x) * cell[0].bias[:4]
        return x

    compiled = hasten.compile(f)
    for n in (1, 5):
        x = rng.standard_normal((n, 4)).astype("f4")
        t = torch.from_numpy(x)
        with torch.no_grad():
            for _ in range(3):
                t = t + cell(t) * cell[0].bias[:4]
        same(compiled(x, 3), t.numpy(), 1e-4)
