"""Softmax of lines against float64: every length around whole vectors, special values, threads, small floats."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import hasten

EPS = float(np.finfo(np.float32).eps)


def softmax(x: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        e = np.exp(x.astype("f8") - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def compiled(level: str, kind: int = TensorProto.FLOAT) -> hasten.CompiledModel:
    ends = [helper.make_tensor_value_info(n, kind, ["rows", "n"]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], axis=-1)], "g", ends[:1], ends[1:])
    return hasten.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), isa=level, threads=2)


def test_lengths(level: str) -> None:
    model, rng = compiled(level), np.random.default_rng(1)
    assert {n.algorithm for n in model.report().nodes} == {"softmax in three passes"}
    for n in (*range(1, 36), 63, 64, 65, 200, 1027):
        x = (rng.standard_normal((7, n)) * 10).astype(np.float32)
        # a few roundings of the exponent's argument (up to 60 here), one of each operation
        np.testing.assert_allclose(model(x), softmax(x), rtol=80 * EPS, atol=1e-38)


def test_special_values(level: str) -> None:
    x = np.zeros((5, 40), np.float32)
    x[0, 3], x[1, 5], x[2, 7], x[3, :39] = np.inf, np.nan, -np.inf, -np.inf
    x[4] = np.linspace(-3e38, 3e38, 40)
    got = compiled(level)(x)
    assert np.isnan(got[0, 3]) and np.isnan(got[1]).all()
    np.testing.assert_allclose(got[2:], softmax(x)[2:], rtol=1e-6)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_small_floats(kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    x = np.random.default_rng(2).standard_normal((3, 50)).astype(dtype)
    got = compiled("avx2", kind)(x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype("f4"), softmax(x.astype("f4")), rtol=2.0**-8)
