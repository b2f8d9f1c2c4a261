"""Pooling and regions of interest against onnxruntime, with symbolic sizes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from both import both  # noqa: E402

RNG = np.random.default_rng(9)
X = RNG.standard_normal((2, 3, 9, 11)).astype(np.float32)
ROIS = np.concatenate([RNG.uniform(-2, 5, (5, 2)), RNG.uniform(5, 14, (5, 2))], 1).astype(np.float32)
IMAGES = np.array([0, 1, 1, 0, 1], np.int64)

POOLS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 9, 11), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 3, 9, 11), {"kernel_shape": [2, 3]}),
    ((2, 3, 9, 11), {"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1}),
    ((2, 3, 9, 11), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 2], "ceil_mode": 1}),
    ((2, 3, 9, 11), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((2, 3, 9, 11), {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 1, 1, 1]}),
    ((1, 4, 13), {"kernel_shape": [4], "strides": [3]}),
    ((1, 2, 5, 6, 7), {"kernel_shape": [2, 3, 2], "pads": [1, 1, 0, 0, 1, 1]}),
]


def array(shape: tuple[int, ...]) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case", POOLS, ids=str)
def test_max_pool(case: tuple[tuple[int, ...], dict[str, Any]]) -> None:
    both("MaxPool", {"x": array(case[0])}, 2, **case[1])
    both("MaxPool", {"x": array(case[0])}, 2, storage_order=1, **case[1])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float64"])
def test_max_pool_of_other_dtypes(dtype: str) -> None:
    x = RNG.integers(0, 100, (1, 2, 6, 6)).astype(dtype)
    both("MaxPool", {"x": x}, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


@pytest.mark.parametrize("case", POOLS, ids=str)
@pytest.mark.parametrize("include", [0, 1])
def test_average_pool(case: tuple[tuple[int, ...], dict[str, Any]], include: int) -> None:
    both("AveragePool", {"x": array(case[0])}, count_include_pad=include, **case[1])


@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(p: int) -> None:
    both("LpPool", {"x": X}, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1], p=p)
    both("GlobalLpPool", {"x": X}, p=p)


@pytest.mark.parametrize("op", ["GlobalMaxPool", "GlobalAveragePool"])
def test_global_pool(op: str) -> None:
    both(op, {"x": X})
    both(op, {"x": array((2, 3, 4, 5, 6))})


def test_max_unpool() -> None:
    values, places = array((1, 2, 2, 2)), np.array([[[[0, 5], [10, 15]], [[16, 19], [24, 31]]]], np.int64)
    want = np.zeros((1, 2, 4, 4), np.float32)
    want.reshape(-1)[places.reshape(-1)] = values.reshape(-1)
    both("MaxUnpool", {"x": values, "i": places}, expected=[want], kernel_shape=[2, 2], strides=[2, 2])


def test_max_unpool_checks_indices() -> None:
    from onnx import helper
    from tracing import model_of

    import hasten

    inputs = {"x": array((1, 1, 1, 1)), "i": np.array([[[[99]]]], np.int64)}
    node = helper.make_node("MaxUnpool", ["x", "i"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    with pytest.raises(hasten.HastenError):
        hasten.compile(model_of(node, inputs), host_ops=False).run(inputs)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("transform", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(mode: str, transform: str, ratio: int) -> None:
    attributes = {"mode": mode, "coordinate_transformation_mode": transform, "sampling_ratio": ratio}
    inputs = {"x": X, "rois": ROIS, "images": IMAGES}
    both("RoiAlign", inputs, output_height=2, output_width=3, spatial_scale=0.9, **attributes)


def test_max_roi_pool() -> None:
    rois = np.concatenate([IMAGES[:, None], ROIS], 1).astype(np.float32)
    both("MaxRoiPool", {"x": X, "rois": rois}, pooled_shape=[2, 3], spatial_scale=0.9)
