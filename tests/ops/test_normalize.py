"""Normalisations against onnxruntime, with symbolic sizes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from both import both  # noqa: E402

RNG = np.random.default_rng(8)
X = RNG.standard_normal((2, 6, 5, 7)).astype(np.float32) * 3 + 2
C = [RNG.random(6, np.float32) + 0.5 for _ in range(4)]


def test_batch_normalization() -> None:
    inputs = dict(zip("xsbmv", [X, *C], strict=True))
    both("BatchNormalization", inputs, constants=list("sbmv"))
    both("BatchNormalization", inputs, epsilon=0.1)
    both("BatchNormalization", inputs | {"x": X[:, :, 0, 0].copy()})


def test_batch_normalization_in_training() -> None:
    mean, variance = X.mean((0, 2, 3)), X.var((0, 2, 3))
    view = (1, 6, 1, 1)
    y = (X - mean.reshape(view)) / np.sqrt(variance.reshape(view) + 1e-5) * C[0].reshape(view) + C[1].reshape(view)
    want = [y, C[2] * 0.8 + mean * 0.2, C[3] * 0.8 + variance * 0.2]
    inputs = dict(zip("xsbmv", [X, *C], strict=True))
    expected = [w.astype(np.float32) for w in want]
    both("BatchNormalization", inputs, 3, expected=expected, training_mode=1, momentum=0.8, rtol=1e-4, atol=1e-4)


def test_instance_normalization() -> None:
    both("InstanceNormalization", {"x": X, "s": C[0], "b": C[1]}, rtol=1e-4, atol=1e-4)
    both("InstanceNormalization", {"x": X[:, :, 0].copy(), "s": C[0], "b": C[1]}, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_layer_normalization(axis: int) -> None:
    shape = X.shape[axis:]
    scale, bias = (RNG.random(shape, np.float32) for _ in range(2))
    both("LayerNormalization", {"x": X, "s": scale, "b": bias}, axis=axis, rtol=1e-4, atol=1e-4)
    both("LayerNormalization", {"x": X, "s": scale}, 3, axis=axis, epsilon=0.01, rtol=1e-4, atol=1e-4)


def test_layer_normalization_far_from_zero() -> None:
    """The variance is made from differences: a mean of 1e4 leaves its digits alone."""
    x = (RNG.standard_normal((4, 64)) + 1e4).astype(np.float32)
    wide = x.astype(np.float64)
    want = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    ones = np.ones(64, np.float32)
    both("LayerNormalization", {"x": x, "s": ones}, expected=[want.astype(np.float32)], rtol=2e-3, atol=2e-3)


def test_rms_normalization() -> None:
    scale = RNG.random((5, 7), np.float32)
    wide = X.astype(np.float64)
    want = wide / np.sqrt((wide**2).mean((2, 3), keepdims=True) + 1e-5) * scale
    both("RMSNormalization", {"x": X, "s": scale}, expected=[want.astype(np.float32)], axis=2)


def test_group_normalization() -> None:
    grouped = X.reshape(2, 3, -1).astype(np.float64)
    flat = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + 1e-5)
    want = flat.reshape(X.shape) * C[0].reshape(1, 6, 1, 1) + C[1].reshape(1, 6, 1, 1)
    inputs = {"x": X, "s": C[0], "b": C[1]}
    both("GroupNormalization", inputs, expected=[want.astype(np.float32)], num_groups=3, rtol=1e-4, atol=1e-4)


def test_mean_variance_normalization() -> None:
    both("MeanVarianceNormalization", {"x": X}, axes=[0, 2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attributes", [{"size": 3}, {"size": 4, "alpha": 0.02, "beta": 0.5, "bias": 2.0}, {"size": 5, "beta": 0.6}])
def test_lrn(attributes: dict[str, float]) -> None:
    square = np.pad(X.astype(np.float64) ** 2, ((0, 0), (8, 8), (0, 0), (0, 0)))
    n = int(attributes["size"])
    total = sum(square[:, 8 - (n - 1) // 2 + k :][:, :6] for k in range(n))
    base = attributes.get("bias", 1.0) + attributes.get("alpha", 1e-4) / n * total
    both("LRN", {"x": X}, expected=[(X / base ** attributes.get("beta", 0.75)).astype(np.float32)], **attributes)
