"""TopK, Unique, NonZero, NonMaxSuppression: native kernels against their references, nodes against onnxruntime."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from native import LEVELS, check_spec  # noqa: E402
from tracing import check  # noqa: E402

from hasten.base import dtypes  # noqa: E402
from hasten.kernels.nms import PackBoxesSpec, SelectBoxesSpec  # noqa: E402
from hasten.kernels.nonzero import NonZeroSpec  # noqa: E402
from hasten.kernels.topk import TopKSpec  # noqa: E402
from hasten.kernels.unique import UniqueSpec  # noqa: E402

I64 = "int64"


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, distinct: int = 9) -> np.ndarray:
    """Random values with many equal ones."""
    x = rng.integers(0 if dtype.startswith("u") or dtype == "bool" else -distinct, distinct, shape)
    return (x * (0.5 if dtypes.is_float(dtype) else 1)).astype(dtypes.to_numpy(dtype))


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "uint64", "uint32"]
)
@pytest.mark.parametrize("largest", [True, False])
def test_topk(dtype: str, largest: bool) -> None:
    rng = np.random.default_rng(5)
    for shape, axis, k in [
        ((3, 17), 1, 5),
        ((2, 9, 4), 1, 9),
        ((31,), 0, 1),
        ((4, 3), 0, 2),
        ((2, 5), 1, 0),
        ((0, 5), 1, 2),
    ]:
        x = values(rng, shape, dtype)
        out = shape[:axis] + (k,) + shape[axis + 1 :]
        check_spec(TopKSpec(dtype, axis, largest), [x], [(dtype, out), (I64, out)], threads=2)


@pytest.mark.parametrize("level", LEVELS)
def test_topk_special_values(level: str) -> None:
    x = np.array([[0.0, -0.0, np.nan, np.inf, -np.inf, -np.nan, 1e-40, -1e-40, 3e38]], np.float32)
    for largest in (True, False):
        values, index = check_spec(TopKSpec("float32", 1, largest), [x], [("float32", (1, 9)), (I64, (1, 9))], level)
        assert list(index[0][:2]) == ([2, 5] if largest else [4, 7])
    x = np.array([2**63 - 1, -(2**63), 0, -1], np.int64)
    check_spec(TopKSpec("int64", 0, False), [x], [(I64, (4,)), (I64, (4,))], level)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "int8", "int64", "bool", "float16"])
def test_unique(dtype: str, ordered: bool) -> None:
    rng = np.random.default_rng(6)
    for shape in [(1, 40, 1), (2, 13, 3), (1, 1, 1), (1, 0, 1), (3, 6, 0)]:
        x = values(rng, shape, dtype, 2)
        m = shape[1]
        results = [(dtype, shape), (I64, (m,)), (I64, (m,)), (I64, (m,)), (I64, (1,))]
        from native import run_spec

        got, status = run_spec(UniqueSpec(dtype, ordered), [x], results)
        want = UniqueSpec(dtype, ordered).reference([x], results)
        n = int(want[4][0])
        assert status == 0 and int(got[4][0]) == n
        np.testing.assert_array_equal(got[0][:, :n].astype("f8"), want[0][:, :n].astype("f8"))
        for a, b in ((got[1], want[1]), (got[3], want[3])):
            np.testing.assert_array_equal(a[:n], b[:n])
        np.testing.assert_array_equal(got[2], want[2])


@pytest.mark.parametrize("dtype", ["float32", "bool", "int64", "float16", "uint8"])
def test_nonzero(dtype: str) -> None:
    x = values(np.random.default_rng(7), (3, 5, 4), dtype, 2)
    count = int(np.count_nonzero(x.astype("f8")))
    check_spec(NonZeroSpec(dtype, 3), [x], [(I64, (3, count))])


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("threshold", [True, False])
def test_nms(center: bool, threshold: bool) -> None:
    rng = np.random.default_rng(8)
    boxes = rng.random((2, 30, 4), np.float32)
    scores = np.round(rng.random((2, 3, 30)), 1).astype(np.float32)
    inputs = [boxes, scores, np.float32([0.3])] + ([np.float32([0.4])] if threshold else [])
    spec = SelectBoxesSpec(center, threshold)
    shapes = [(I64, (6, 7)), (I64, (6,))]
    from native import run_spec

    (picked, counts), status = run_spec(spec, inputs, shapes, threads=3)
    want = spec.reference(inputs, shapes)
    assert status == 0
    np.testing.assert_array_equal(counts, want[1])
    for p in range(6):
        np.testing.assert_array_equal(picked[p, : counts[p]], want[0][p, : counts[p]])
    check_spec(PackBoxesSpec(), [picked, counts, scores], [(I64, (int(counts.sum()), 3))])
    given = {"boxes": boxes, "scores": scores, "most": np.array([7], np.int64), "iou": np.float32([0.3])}
    if threshold:
        given["limit"] = np.float32([0.4])
    check("NonMaxSuppression", given, center_point_box=int(center))


def test_run_time_k() -> None:
    x = np.random.default_rng(9).random((4, 11), np.float32)
    check("TopK", {"x": x, "k": np.array([3], np.int64)}, 2)
    check("TopK", {"x": x, "k": np.array([11], np.int64)}, 2, largest=0, axis=1)


def test_data_dependent_sizes() -> None:
    x = np.array([[1, 0, 2], [0, 0, 3]], np.float32)
    check("NonZero", {"x": x})
    check("Compress", {"x": x, "c": np.array([False, True])}, axis=0)
    check("Compress", {"x": x, "c": np.array([False, True, True, False, True])})
    check("Compress", {"x": x, "c": np.array([True, False, True])}, constants=["c"], axis=1)
    check("Unique", {"x": x}, 4)
    check("Unique", {"x": x}, 4, axis=1, sorted=0)
