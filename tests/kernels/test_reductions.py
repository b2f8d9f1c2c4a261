"""Long reductions take several vectors at once: every size around the edges of these rounds, along both axes, at every level."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import hasten
from hasten.codegen import isa as isas

LEVELS = [n for n in ("portable", "avx2", "avx512") if n in isas.available()]
TEXT = """m (float[n, c] x) => (float[n, 1] along, float[1, c] across, float[n, 1] most, float[1, c] least, float[n, 1] square, int64[n, 1] where) {
    along = ReduceSum(x, last)  across = ReduceSum(x, first)  most = ReduceMax(x, last)  least = ReduceMin(x, first)
    square = ReduceSumSquare(x, last)  where = ArgMax<axis = 1>(x) }"""


def model() -> onnx.ModelProto:
    found = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {TEXT}')
    found.graph.initializer.extend(numpy_helper.from_array(np.array([a]), n) for n, a in (("last", 1), ("first", 0)))
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_sizes(level: str, rng: np.random.Generator) -> None:
    compiled = hasten.compile(model(), isa=level, threads=1)
    for n, c in [(1, 1), (3, 15), (20, 16), (17, 33), (64, 63), (2, 64), (65, 65), (33, 127), (5, 130), (129, 3), (40, 300)]:
        x = rng.standard_normal((n, c)).astype("f4")
        got, exact = compiled.run({"x": x}), x.astype("f8")
        eps = 2.0**-24 * np.sqrt(max(n, c)) * 4  # rounding of a sum in any order, with random signs
        for name, want, scale in (("along", exact.sum(1, keepdims=True), np.abs(exact).sum(1, keepdims=True)),
                                  ("across", exact.sum(0, keepdims=True), np.abs(exact).sum(0, keepdims=True)),
                                  ("square", (exact**2).sum(1, keepdims=True), (exact**2).sum(1, keepdims=True))):  # fmt: skip
            assert (np.abs(got[name] - want) <= eps * scale + 1e-7).all(), (name, n, c)
        np.testing.assert_array_equal(got["most"], x.max(1, keepdims=True))
        np.testing.assert_array_equal(got["least"], x.min(0, keepdims=True))
        np.testing.assert_array_equal(got["where"], x.argmax(1)[:, None])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("place", [0, 40, 63, 64, 129])
def test_nan_wins(level: str, place: int) -> None:
    x = np.ones((2, 130), "f4")
    x[0, place] = np.nan
    got = hasten.compile(model(), isa=level, threads=1).run({"x": x})
    assert np.isnan(got["most"][0, 0]) and got["most"][1, 0] == 1 and np.isnan(got["least"][0, place]) and np.isnan(got["least"]).sum() == 1
