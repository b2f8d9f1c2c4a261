"""Fourier transforms, windows, losses, random numbers, attention, linear attention: with symbolic sizes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent))
from both import both  # noqa: E402
from native import LEVELS, run_spec  # noqa: E402

import hasten  # noqa: E402
from hasten.kernels.linear_attention import LinearAttentionSpec  # noqa: E402
from hasten.kernels.scan import ScanSpec  # noqa: E402

RNG = np.random.default_rng(12)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def pairs(c: np.ndarray) -> np.ndarray:
    """A complex array as float32 with real and imaginary parts last."""
    return np.stack([c.real, c.imag], -1).astype(np.float32)


# --- Fourier transforms -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 8, 15, 600, 1031])
def test_dft(n: int) -> None:
    x = array(2, n, 3, 2)
    c = x[..., 0] + 1j * x[..., 1]
    axis = np.array(1, np.int64)
    inputs = {"x": x, "n": np.array(n, np.int64), "axis": axis}
    tolerance = {"rtol": 1e-4, "atol": 1e-4 * n**0.5}
    constants = ["n", "axis"] if n > 20 else []
    both("DFT", inputs, constants=constants, expected=[pairs(np.fft.fft(c, axis=1))], traced=n < 20, **tolerance)
    both("DFT", inputs, constants=constants, expected=[pairs(np.fft.ifft(c, axis=1))], traced=n < 20, inverse=1, **tolerance)
    real = {**inputs, "x": x[..., :1].copy()}
    want = [pairs(np.fft.rfft(x[..., 0], axis=1))]
    both("DFT", real, constants=constants, expected=want, traced=n < 20, onesided=1, **tolerance)


@pytest.mark.parametrize("length", [6, 9, 14])
def test_dft_cuts_and_fills_up(length: int) -> None:
    x = array(2, 9, 1)
    inputs = {"x": x, "n": np.array(length, np.int64)}
    for constants in ([], ["n"]):
        both("DFT", inputs, constants=constants, expected=[pairs(np.fft.fft(x[..., 0], n=length))], rtol=1e-4, atol=1e-4)
    spectrum = array(2, 6, 2)
    real = np.fft.irfft(spectrum[..., 0] + 1j * spectrum[..., 1], n=length)[..., None].astype(np.float32)
    for constants in ([], ["n"]):
        both("DFT", {"x": spectrum, "n": inputs["n"]}, constants=constants, expected=[real], inverse=1, onesided=1)


@pytest.mark.parametrize("onesided", [0, 1])
def test_stft(onesided: int) -> None:
    x, window, step = array(2, 100, 1), array(16), np.array(5, np.int64)
    frames = np.stack([x[:, 5 * k : 5 * k + 16, 0] * window for k in range(17)], 1)
    want = [pairs(np.fft.rfft(frames) if onesided else np.fft.fft(frames))]
    inputs = {"x": x, "step": step, "window": window}
    both("STFT", inputs, expected=want, constants=["step", "window"], rtol=1e-4, atol=1e-4, onesided=onesided)
    both("STFT", inputs, expected=want, rtol=1e-4, atol=1e-4, onesided=onesided)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_window(op: str, periodic: int) -> None:
    both(op, {"n": np.array(20, np.int64)}, periodic=periodic, atol=1e-6)


def test_mel_weights() -> None:
    inputs = [np.array(8, np.int64), np.array(64, np.int64), np.array(8192, np.int64), np.array(0, np.float32), np.array(4096, np.float32)]
    both("MelWeightMatrix", dict(zip("abcde", inputs, strict=True)))


# --- losses -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("op", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [None, 2])
def test_loss(op: str, reduction: str, weighted: bool, ignored: int | None) -> None:
    x, target = array(3, 5, 4), RNG.integers(0, 5, (3, 4)).astype(np.int64)
    weight = RNG.random(5, np.float32) + 0.1
    scores = x.astype(np.float64)
    if op.startswith("Soft"):
        scores = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    w = (weight if weighted else np.ones(5))[target] * (1.0 if ignored is None else target != ignored)
    losses = -np.take_along_axis(scores, target[:, None], 1)[:, 0] * w
    want = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / w.sum()}[reduction]
    inputs = {"x": x, "t": target, "w": weight if weighted else None}
    attributes: dict[str, Any] = {"reduction": reduction} | ({} if ignored is None else {"ignore_index": ignored})
    both(op, inputs, expected=[np.asarray(want, np.float32)], rtol=1e-4, **attributes)


def test_loss_checks_targets() -> None:
    from tracing import model_of

    inputs = {"x": array(2, 3), "t": np.array([0, 7], np.int64)}
    model = model_of(helper.make_node("NegativeLogLikelihoodLoss", ["x", "t"], ["y"]), inputs)
    with pytest.raises(hasten.HastenError):
        hasten.compile(model, host_ops=False).run(inputs)


# --- random numbers ---------------------------------------------------------------------------------------------------
def drawn(op: str, inputs: dict[str, np.ndarray], runs: int = 1, **attributes: Any) -> list[np.ndarray]:
    from tracing import model_of

    model = hasten.compile(model_of(helper.make_node(op, list(inputs), ["y"], **attributes), inputs), host_ops=False)
    return [np.array(model.run(inputs)["y"]) for _ in range(runs)]


@pytest.mark.parametrize("dtype", [1, 10, 11])
def test_random_distributions(dtype: int) -> None:
    n = 100_000
    (u,) = drawn("RandomUniform", {}, shape=[n], low=-1.0, high=3.0, seed=4.0, dtype=dtype)
    u = u.astype(np.float64)
    assert -1 <= u.min() < -0.99 and 2.99 < u.max() <= 3
    assert abs(u.mean() - 1) < 0.02 and abs(u.std() - 4 / 12**0.5) < 0.01
    (g,) = drawn("RandomNormal", {}, shape=[n // 10, 10], mean=2.0, scale=3.0, seed=4.0, dtype=dtype)
    g = g.astype(np.float64)
    assert abs(g.mean() - 2) < 0.05 and abs(g.std() - 3) < 0.03
    assert abs(((g - 2) ** 4).mean() / 81 - 3) < 0.15
    flat = g.reshape(-1)
    assert abs(np.corrcoef(flat[1:], flat[:-1])[0, 1]) < 0.02


def test_random_seeds() -> None:
    a, b = drawn("RandomNormal", {}, runs=2, shape=[100], seed=1.0)
    np.testing.assert_array_equal(a, b)
    (c,) = drawn("RandomNormal", {}, shape=[100], seed=2.0)
    assert not np.array_equal(a, c)
    d, e = drawn("RandomNormal", {}, runs=2, shape=[100])
    assert not np.array_equal(d, e)


def test_bernoulli_and_multinomial() -> None:
    (b,) = drawn("Bernoulli", {"p": np.full((100, 200), 0.3, np.float32)}, dtype=7, seed=1.0)
    assert b.dtype == np.int64 and set(np.unique(b)) == {0, 1} and abs(b.mean() - 0.3) < 0.02
    logits = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 1e-9]], np.float32))
    (m,) = drawn("Multinomial", {"x": logits}, sample_size=20_000, seed=3.0)
    assert m.dtype == np.int32 and m.shape == (2, 20_000)
    for row, want in zip(m, np.exp(logits), strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / 20_000, want, atol=0.02)


def test_dropout_in_training() -> None:
    from tracing import model_of

    x = np.ones((200, 300), np.float32)
    inputs = {"x": x, "r": np.array(0.25, np.float32), "t": np.array(True)}
    node = helper.make_node("Dropout", ["x", "r", "t"], ["y", "mask"], seed=3)
    results = hasten.compile(model_of(node, inputs), host_ops=False).run(inputs)
    assert abs(results["mask"].mean() - 0.75) < 0.01
    np.testing.assert_allclose(results["y"], np.where(results["mask"], 1 / 0.75, 0), rtol=1e-6)
    both("Dropout", {"x": x, "r": inputs["r"], "t": np.array(False)}, 2, expected=[x, x > 0])


# --- attention --------------------------------------------------------------------------------------------------------
def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("masked", [None, "bool", "float32"])
def test_attention(kv_heads: int, causal: int, masked: str | None) -> None:
    q, k, v = array(2, 4, 5, 8), array(2, kv_heads, 7, 8), array(2, kv_heads, 7, 6)
    mask = None if masked is None else (RNG.random((5, 7)) > 0.3) | (np.arange(7) == 0) if masked == "bool" else array(2, 1, 5, 7)
    wide = [np.repeat(t.astype(np.float64), 4 // kv_heads, 1) for t in (k, v)]
    logits = q @ wide[0].transpose(0, 1, 3, 2) / 8**0.5
    if mask is not None:
        logits = np.where(mask, logits, -np.inf) if masked == "bool" else logits + mask
    if causal:
        logits = np.where(np.arange(7) <= np.arange(5)[:, None], logits, -np.inf)
    want = (softmax(logits) @ wide[1]).astype(np.float32)
    both("Attention", {"q": q, "k": k, "v": v, "m": mask}, expected=[want], rtol=1e-4, is_causal=causal)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_linear_attention_kernel(level: str, dtype: str) -> None:
    batch, time, heads, groups, dk, dv = 2, 5, 4, 2, 3, 19
    inputs = [RNG.standard_normal(s).astype(dtype) for s in ((batch, time, heads * dk), (batch, time, groups * dk), (batch, time, groups * dv))]
    inputs.append(RNG.standard_normal((batch, groups, dk, dv)).astype(np.float32))
    inputs += [(-RNG.random((batch, time, groups))).astype(dtype), RNG.random((batch, time, 1)).astype(dtype)]
    names = ("q", "k", "v", "past", "decay", "beta")
    spec = LinearAttentionSpec(names, dtype, "float32", heads, groups, False, True, 0.0)
    results = [(dtype, (batch, time, heads * dv)), ("float32", (batch, groups, dk, dv))]
    got, status = run_spec(spec, inputs, results, level, threads=2)
    assert status == 0
    for a, b in zip(got, spec.reference(inputs, results), strict=True):
        np.testing.assert_allclose(a.astype("f4"), b.astype("f4"), rtol=5e-3 if dtype == "float16" else 1e-4, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", [(3, 7, 1), (2, 5, 21), (1, 0, 3), (0, 4, 2)])
def test_scan_kernel(level: str, shape: tuple[int, int, int]) -> None:
    for dtype in ("float32", "int64", "float16", "int32"):
        x = RNG.integers(-3, 4, shape).astype(dtype)
        for op in ("add", "mul"):
            spec = ScanSpec(dtype, op, exclusive=op == "mul", reverse=dtype == "int64")
            got, status = run_spec(spec, [x], [(dtype, shape)], level, threads=2)
            assert status == 0
            np.testing.assert_array_equal(got[0], spec.reference([x], [(dtype, shape)])[0])
