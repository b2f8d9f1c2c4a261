"""Resize, GridSample and AffineGrid with known, symbolic and run-time sizes."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

sys.path.insert(0, str(Path(__file__).parent))
from tracing import evaluate, model_of, trace_node  # noqa: E402

MODES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
ROUNDING = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
RNG = np.random.default_rng(3)


def compare(
    op: str, inputs: dict[str, np.ndarray | None], constants: list[str], static: bool, **attributes: object
) -> None:
    given = {n: x for n, x in inputs.items() if x is not None}
    node = helper.make_node(op, [n if x is not None else "" for n, x in inputs.items()], ["y"], **attributes)
    model = model_of(node, given, constants, static)
    want = ReferenceEvaluator(model).run(None, {n: x for n, x in given.items() if n not in constants})[0]
    (got,) = evaluate(trace_node(model), given)
    assert got.shape == want.shape and got.dtype == want.dtype
    one = {"uint8": 1, "int32": 1, "float16": 0.13}.get(want.dtype.name, 1e-4)  # ties may be rounded either way
    np.testing.assert_allclose(got.astype("f8"), want.astype("f8"), rtol=1e-4, atol=one)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("coordinates", MODES)
def test_scales(coordinates: str, static: bool) -> None:
    x = RNG.random((1, 2, 5, 6), np.float32)
    for scales in ([1, 1, 2, 2], [1, 1, 0.5, 3], [1, 1, 1.5, 0.6]):
        given = {"x": x, "roi": None, "scales": np.array(scales, np.float32)}
        common = {"coordinate_transformation_mode": coordinates}
        for mode, antialias, exclude in itertools.product(["linear", "cubic"], [0, 1], [0, 1]):
            compare(
                "Resize", given, ["scales"], static, mode=mode, antialias=antialias, exclude_outside=exclude, **common
            )


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("rounding", ROUNDING)
def test_nearest(coordinates: str, rounding: str, static: bool) -> None:
    x = RNG.random((1, 1, 6, 4), np.float32)
    for scales in ([1, 1, 2, 2], [1, 1, 0.5, 3], [1, 1, 1.5, 0.625]):
        given = {"x": x, "roi": None, "scales": np.array(scales, np.float32)}
        attributes = {"nearest_mode": rounding, "coordinate_transformation_mode": coordinates}
        compare("Resize", given, ["scales"], static, mode="nearest", **attributes)


@pytest.mark.parametrize("constants", [[], ["sizes"]])
@pytest.mark.parametrize("static", [True, False])
def test_sizes(constants: list[str], static: bool) -> None:
    x = RNG.random((1, 2, 6, 8), np.float32)
    for sizes in ([1, 2, 12, 16], [1, 2, 4, 11], [1, 2, 1, 8]):
        for mode, coordinates in itertools.product(["nearest", "linear", "cubic"], MODES[::2]):
            given = {"x": x, "roi": None, "scales": None, "sizes": np.array(sizes, np.int64)}
            compare("Resize", given, constants, static, mode=mode, coordinate_transformation_mode=coordinates)
    for policy in ("not_larger", "not_smaller"):
        given = {"x": x, "roi": None, "scales": None, "sizes": np.array([9, 9], np.int64)}
        compare("Resize", given, constants, static, mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy)


@pytest.mark.parametrize("constants", [[], ["scales", "roi"]])
def test_crop_and_resize(constants: list[str]) -> None:
    x = RNG.random((1, 1, 4, 5), np.float32)
    given = {"x": x, "roi": np.float32([0, 0, 0.2, -0.1, 1, 1, 0.9, 1.2]), "scales": np.float32([1, 1, 1.5, 0.8])}
    for mode in ("nearest", "linear", "cubic"):
        attributes = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
        compare("Resize", given, constants, True, mode=mode, **attributes)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float64])
def test_dtypes(dtype: type) -> None:
    x = RNG.integers(0, 200, (1, 1, 5, 5)).astype(dtype)
    for mode in ("nearest", "linear", "cubic"):
        compare("Resize", {"x": x, "roi": None, "scales": np.float32([1, 1, 2, 1.6])}, ["scales"], False, mode=mode)


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("aligned", [0, 1])
def test_grid_sample(mode: str, padding: str, aligned: int) -> None:
    x = RNG.random((2, 2, 4, 5), np.float32)
    grid = (RNG.random((2, 3, 4, 2), np.float32) * 4 - 2).astype(np.float32)
    compare("GridSample", {"x": x, "grid": grid}, [], False, mode=mode, padding_mode=padding, align_corners=aligned)
    if mode != "cubic":
        x = RNG.random((1, 2, 3, 4, 5), np.float32)
        grid = (RNG.random((1, 2, 3, 2, 3), np.float32) * 3 - 1.5).astype(np.float32)
        compare("GridSample", {"x": x, "grid": grid}, [], False, mode=mode, padding_mode=padding, align_corners=aligned)


def test_wild_grids_stay_inside() -> None:
    grid = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20], np.float32).reshape(1, 1, 3, 2)
    for padding in ("zeros", "border", "reflection"):
        for mode in ("linear", "nearest", "cubic"):
            node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode, padding_mode=padding)
            given = {"x": np.ones((1, 1, 2, 2), np.float32), "grid": grid}
            evaluate(trace_node(model_of(node, given)), given)
