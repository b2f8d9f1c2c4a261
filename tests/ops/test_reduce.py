"""Reductions, softmax, scans against onnxruntime, with symbolic sizes and axes known to the run only."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from both import both  # noqa: E402

RNG = np.random.default_rng(7)
X = RNG.standard_normal((3, 5, 4)).astype(np.float32)
OPS = ["Sum", "Prod", "Max", "Min", "Mean", "L1", "L2", "SumSquare", "LogSumExp", "LogSum"]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("name", OPS)
def test_reduce(name: str) -> None:
    x = np.abs(X) if name == "LogSum" else X
    for axes, keep in ((ints(1), 1), (ints(-1, 0), 1), (ints(0), 1), (None, 1), (ints(0, 1, 2), 1)):
        inputs = {"x": x, "axes": axes}
        for constants in ([], ["axes"]) if axes is not None else ([],):
            both("Reduce" + name, inputs, constants=constants, rtol=1e-5, atol=1e-5, keepdims=keep)
    both("Reduce" + name, {"x": x, "axes": ints(-1, 0)}, constants=["axes"], rtol=1e-5, atol=1e-5, keepdims=0)


@pytest.mark.parametrize("name", ["Sum", "Max", "Min", "Mean", "Prod"])
@pytest.mark.parametrize("dtype", ["int32", "int64", "float64", "float16"])
def test_reduce_of_other_dtypes(name: str, dtype: str) -> None:
    x = RNG.integers(-5, 6, (3, 4, 5)).astype(dtype)
    both("Reduce" + name, {"x": x, "axes": ints(1)}, constants=["axes"], rtol=1e-3, atol=1e-3)


def test_no_axes_and_noop() -> None:
    both("ReduceSum", {"x": X, "axes": ints()}, expected=[X], noop_with_empty_axes=1)
    both("ReduceSumSquare", {"x": X}, expected=[X * X], noop_with_empty_axes=1)


def test_large_sums_are_exact_enough() -> None:
    x = RNG.random((3, 100_003), np.float32)
    both("ReduceSum", {"x": x, "axes": ints(1)}, constants=["axes"], expected=[x.sum(1, dtype="f8", keepdims=True).astype("f4")], rtol=3e-6)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_arg(op: str, last: int) -> None:
    x = RNG.integers(0, 3, (4, 7, 5)).astype(np.float32)
    for axis, keep in ((0, 1), (1, 0), (-1, 1)):
        both(op, {"x": x}, axis=axis, keepdims=keep, select_last_index=last)
    both(op, {"x": x.astype(np.int32)}, axis=1, select_last_index=last)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax(op: str) -> None:
    for axis in (0, 1, -1):
        both(op, {"x": X * 5}, axis=axis)
    both(op, {"x": RNG.standard_normal((2, 1000)).astype(np.float32) * 50})
    both(op, {"x": X.astype(np.float64)}, axis=1)


def test_softmax_of_large_numbers() -> None:
    x = np.array([[1e30, 1.0, -1e30], [-1e30, -1e30, -1e30]], np.float32)
    both("Softmax", {"x": x}, expected=[np.array([[1, 0, 0], [1 / 3] * 3], np.float32)])


def test_lp_normalization() -> None:
    for p in (1, 2):
        norm = np.linalg.norm(X, ord=p, axis=1, keepdims=True)
        both("LpNormalization", {"x": X}, expected=[X / norm], axis=1, p=p)
    zero = np.zeros((2, 3), np.float32)
    both("LpNormalization", {"x": zero}, expected=[zero], axis=1)


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_cumsum(exclusive: int, reverse: int) -> None:
    x = RNG.standard_normal((3, 6, 21)).astype(np.float32)
    for axis in (0, 1, -1):
        for constants in ([], ["axis"]):
            inputs = {"x": x, "axis": np.array(axis, np.int64)}
            both("CumSum", inputs, constants=constants, exclusive=exclusive, reverse=reverse)
    both("CumSum", {"x": x.astype(np.int64), "axis": np.array(1, np.int64)}, exclusive=exclusive, reverse=reverse)
