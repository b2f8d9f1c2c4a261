"""Code for 64-bit ARM runs: small and trained models and a set of kernels, cross-compiled and emulated by qemu, against
ONNX Runtime here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import ARM_FILES, QEMU_ARM, Outcome, build, example_feeds, near, parse, reference

from hasten.deploy import toolchain

CROSS = any(map(shutil.which, toolchain.TARGETS["aarch64-linux"].compilers))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(QEMU_ARM is None, reason="needs qemu-aarch64 (Debian: qemu-user)"),
    pytest.mark.skipif(not CROSS or not ARM_FILES.is_dir(), reason="needs a cross compiler with its C library (Debian: gcc-aarch64-linux-gnu)"),
]
Models = dict[str, Callable[[], bytes]]
RUN_FAILED = 105


def run(model: bytes | Path, feeds: dict[str, np.ndarray[Any, Any]], folder: Path, precision: str = "highest", **how: int) -> Outcome:
    """One emulated run of a model compiled for two threads."""
    program = build(model, folder, target="aarch64-linux", threads=2, precision=precision, runner=[str(QEMU_ARM), "-L", str(ARM_FILES)])
    return program.run(list(feeds.values()), **how)


@pytest.mark.parametrize("name", ["classify_mnist_cnn", "face_mtcnn_pnet", "face_ultraface_rfb320", "face_yunet_n", "rl_go1_policy",
                                  "vad_silero_16k_sequence"])  # fmt: skip
def test_trained_models(name: str, example_models: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    model, feeds = example_models / f"{name}.onnx", example_feeds(name, rng)
    done = run(model, feeds, tmp_path / "l", threads=2, callers=2)
    assert done.code == 0, done.said
    near(done.outputs, reference(model, feeds), 1e-4)


def test_threads_and_callers(models: Models, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 90, 80)).astype("f4")
    done = run(models["picture"](), {"x": x}, tmp_path / "l", threads=2, callers=3, rounds=6)
    assert done.code == 0, done.said
    near(done.outputs, reference(models["picture"](), {"x": x}))


def test_failures_loops_and_sizes_of_the_run(models: Models, tmp_path: Path, rng: np.random.Generator) -> None:
    failed = run(models["rows"](), {"x": np.ones((4, 40), "f4"), "which": np.array([0, 1, 2, 9])}, tmp_path / "r")
    assert failed.code == RUN_FAILED and "an index is out of range" in failed.said
    x = rng.standard_normal(33).astype("f4")
    np.testing.assert_array_equal(run(models["found"](), {"x": x}, tmp_path / "f").outputs[0], np.argwhere(x > 0))
    np.testing.assert_array_equal(run(models["powers"](), {"n": np.array(5), "x": x}, tmp_path / "p").outputs[0], x * 32)


# --- kernels: as many as fit into one model, for each kind ---------------------------------------------------------------
def product(rng: np.random.Generator, sizes: list[tuple[int, int, int]]) -> tuple[bytes, dict[str, np.ndarray[Any, Any]]]:
    """Matrix products rows x inner x columns, the second operand constant."""
    feeds, weights, lines = {}, {}, []
    for i, (m, k, n) in enumerate(sizes):
        feeds[f"x{i}"] = rng.standard_normal((m, k)).astype("f4")
        weights[f"w{i}"] = rng.standard_normal((k, n)).astype("f4") / np.sqrt(k).astype("f4")
        lines.append(f"y{i} = MatMul(x{i}, w{i})")
    inputs = ", ".join(f"float[a{i}, {k}] x{i}" for i, (_, k, _) in enumerate(sizes))
    outputs = ", ".join(f"float[a{i}, {n}] y{i}" for i, (_, _, n) in enumerate(sizes))
    return parse(f"m ({inputs}) => ({outputs}) {{ {' '.join(lines)} }}", **weights), feeds


CONVOLUTIONS = {  # name: channels, filters, kernel, groups, attributes, height and width
    "first layer": (3, 16, 3, 1, "strides=[2, 2], pads=[1, 1, 1, 1]", (33, 31)),
    "dense": (32, 48, 3, 1, "pads=[1, 1, 1, 1]", (15, 14)),
    "pointwise": (40, 24, 1, 1, "pads=[0, 0, 0, 0]", (9, 13)),
    "strided pointwise": (16, 20, 1, 1, "strides=[2, 2]", (9, 13)),
    "five by five": (8, 10, 5, 1, "pads=[2, 2, 2, 2]", (12, 12)),
    "dilated": (8, 16, 3, 1, "dilations=[2, 2], pads=[2, 2, 2, 2]", (11, 10)),
    "grouped": (24, 36, 3, 3, "pads=[1, 1, 1, 1]", (8, 9)),
    "depthwise": (37, 37, 3, 37, "pads=[1, 1, 1, 1]", (14, 17)),
    "depthwise, strided": (64, 64, 5, 64, "strides=[2, 2], pads=[2, 2, 2, 2]", (14, 17)),
}


@pytest.mark.parametrize("precision", ["strict", "highest", "high"])
def test_products(precision: str, tmp_path: Path, rng: np.random.Generator) -> None:
    sizes = [(1, 64, 64), (1, 37, 19), (4, 128, 10), (7, 33, 65), (31, 100, 1), (50, 17, 3), (64, 256, 96), (12, 1, 40)]
    model, feeds = product(rng, sizes)
    done = run(model, feeds, tmp_path / "l", precision, threads=2)
    assert done.code == 0, done.said
    near(done.outputs, reference(model, feeds))


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_convolutions(precision: str, tmp_path: Path, rng: np.random.Generator) -> None:
    feeds, weights, lines, inputs, outputs = {}, {}, [], [], []
    for i, (channels, filters, size, groups, attributes, (h, w)) in enumerate(CONVOLUTIONS.values()):
        feeds[f"x{i}"] = rng.standard_normal((1 + i % 2, channels, h, w)).astype("f4")
        weights[f"w{i}"] = rng.standard_normal((filters, channels // groups, size, size)).astype("f4") / np.float32(size * np.sqrt(channels / groups))
        weights[f"b{i}"] = rng.standard_normal(filters).astype("f4")
        lines.append(f"c{i} = Conv<group={groups}, {attributes}>(x{i}, w{i}, b{i}) y{i} = Relu(c{i})")
        inputs.append(f"float[n{i}, {channels}, h{i}, v{i}] x{i}")
        outputs.append(f"float[n{i}, {filters}, p{i}, q{i}] y{i}")
    model = parse(f"m ({', '.join(inputs)}) => ({', '.join(outputs)}) {{ {' '.join(lines)} }}", **weights)
    done = run(model, feeds, tmp_path / "l", precision, threads=2)
    assert done.code == 0, done.said
    near(done.outputs, reference(model, feeds))


def test_batched_products_and_attention(tmp_path: Path, rng: np.random.Generator) -> None:
    model = parse(
        "m (float[b, h, n, 24] q, float[b, h, m, 24] k, float[b, h, m, 24] v) => (float[b, h, n, 24] y) {"
        " t = Transpose<perm=[0, 1, 3, 2]>(k)  s = MatMul(q, t)  scaled = Mul(s, scale)  p = Softmax<axis=-1>(scaled)  y = MatMul(p, v) }",
        scale=np.float32(24**-0.5),
    )
    feeds = {name: rng.standard_normal((2, 3, n, 24)).astype("f4") for name, n in (("q", 17), ("k", 29), ("v", 29))}
    done = run(model, feeds, tmp_path / "l", threads=2)
    assert done.code == 0, done.said
    near(done.outputs, reference(model, feeds))


def test_reductions_and_normalisation(tmp_path: Path, rng: np.random.Generator) -> None:
    model = parse(
        "m (float[n, 45] x, float[n, 6, h, w] image) => (float[n, 45] y, float[n, 45] s, float[n] most, float[n, 6, a, b] pooled,"
        " float[n, 6, c, d] mean, float[n, 6, h, w] i, int64[n] where, float[n, 45] total) {"
        " y = LayerNormalization<axis=-1>(x, gain, bias)  s = Softmax<axis=0>(x)  most = ReduceMax<keepdims=0>(x, last)"
        " pooled = MaxPool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]>(image)"
        " mean = AveragePool<kernel_shape=[2, 3]>(image)  i = InstanceNormalization(image, six, one)"
        " where = ArgMax<axis=1, keepdims=0>(x)  total = CumSum(x, axis) }",
        gain=rng.standard_normal(45).astype("f4"), bias=rng.standard_normal(45).astype("f4"), last=np.array([1]), axis=np.array(1),
        six=np.ones(6, "f4"), one=np.full(6, 0.5, "f4"),
    )  # fmt: skip
    feeds = {"x": rng.standard_normal((5, 45)).astype("f4"), "image": rng.standard_normal((5, 6, 11, 13)).astype("f4")}
    done = run(model, feeds, tmp_path / "l", threads=2)
    assert done.code == 0, done.said
    near(done.outputs, reference(model, feeds))


def test_functions_and_types(tmp_path: Path, rng: np.random.Generator) -> None:
    """Float functions, halves, integers with division and shifts, comparisons, conversions that saturate or round."""
    floats = ["Exp", "Tanh", "Sigmoid", "Erf", "Sqrt", "Sin", "Cos", "Atan", "Softplus", "Gelu", "Floor", "Round", "Sign", "Reciprocal"]
    lines = [f"f{i} = {op}(x)" for i, op in enumerate(floats)]
    outputs = [f"float[n] f{i}" for i in range(len(floats))]
    lines += [
        "half = Cast<to=10>(x)  back = Cast<to=1>(half)  brain = Cast<to=16>(x)  b = Cast<to=1>(brain)",
        "quotient = Div(p, q)  rest = Mod(p, q)  double = Cast<to=11>(x)  root = Sqrt(double)  near = Cast<to=6>(x)",
        "q8 = QuantizeLinear(x, scale, zero)  dq = DequantizeLinear(q8, scale, zero)  above = Greater(x, one)  chosen = Where(above, x, one)",
        "power = Pow(x, one)",
    ]
    outputs += ["float[n] back", "float[n] b", "int64[m] quotient", "int64[m] rest", "double[n] root", "int32[n] near", "uint8[n] q8",
                "float[n] dq", "bool[n] above", "float[n] chosen", "float[n] power", "float16[n] half"]  # fmt: skip
    model = parse(
        f"m (float[n] x, int64[m] p, int64[m] q) => ({', '.join(outputs)}) {{ {' '.join(lines)} }}",
        scale=np.float32(0.05), zero=np.uint8(7), one=np.float32(1),
    )  # fmt: skip
    x = np.concatenate([rng.uniform(0.001, 9, 37), [0.5, 1.5, 2.5, 1e-3, 80.0]]).astype("f4")
    feeds = {"x": x, "p": rng.integers(-99, 99, 23), "q": rng.choice([-7, -2, -1, 1, 3, 10], 23)}
    done = run(model, feeds, tmp_path / "l", threads=2)
    assert done.code == 0, done.said
    want = reference(model, feeds)
    for mine, theirs in zip(done.outputs, want, strict=True):
        assert mine.shape == theirs.shape
        if theirs.dtype.kind == "f":
            np.testing.assert_allclose(mine.astype("f8"), theirs.astype("f8"), rtol=2e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(mine, theirs)


def test_movement_and_sorting(tmp_path: Path, rng: np.random.Generator) -> None:
    model = parse(
        "m (float[n, c, h, w] x) => (float[h, n, w, c] t, float[n, c, a, b] r, float[n, c, h, k] top, int64[n, c, h, k] where,"
        " float[n, c, p, q] padded, float[n, c, u, v] slice, float[n, c, y, z] shuffled) {"
        " t = Transpose<perm=[2, 0, 3, 1]>(x)  r = Resize<mode=\"linear\">(x, none, scales)  top, where = TopK<axis=-1>(x, three)"
        " padded = Pad<mode=\"reflect\">(x, pads)  slice = Slice(x, from, to, axes, steps)  shuffled = DepthToSpace<blocksize=2>(x) }",
        none=np.zeros(0, "f4"), scales=np.array([1, 1, 2, 1.5], "f4"), three=np.array([3]), pads=np.array([0, 0, 1, 2, 0, 0, 2, 1]),
        **{"from": np.array([-1, 1]), "to": np.array([-100, 9]), "axes": np.array([2, 3]), "steps": np.array([-2, 3])},
    )  # fmt: skip
    feeds = {"x": rng.standard_normal((2, 8, 7, 10)).astype("f4")}
    done = run(model, feeds, tmp_path / "l", threads=2)
    assert done.code == 0, done.said
    near(done.outputs, reference(model, feeds))


def test_recurrent(tmp_path: Path, rng: np.random.Generator) -> None:
    def floats(*shape: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(shape) / 4).astype("f4")

    model = parse(
        "m (float[t, n, 20] x) => (float[t, 2, n, 24] y, float[t, 1, n, 12] z) {"
        " y, h, c = LSTM<hidden_size=24, direction=\"bidirectional\">(x, w, r, b)  z, g = GRU<hidden_size=12>(x, w2, r2, b2) }",
        w=floats(2, 96, 20), r=floats(2, 96, 24), b=floats(2, 192), w2=floats(1, 36, 20), r2=floats(1, 36, 12), b2=floats(1, 72),
    )  # fmt: skip
    feeds = {"x": floats(9, 3, 20) * 4}
    done = run(model, feeds, tmp_path / "l", threads=2)
    assert done.code == 0, done.said
    near(done.outputs, reference(model, feeds))
