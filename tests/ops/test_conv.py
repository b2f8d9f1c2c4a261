"""Convolutions of all kinds against onnxruntime, with symbolic sizes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from both import both  # noqa: E402

RNG = np.random.default_rng(5)


def random(*shape: int, dtype: str = "float32") -> np.ndarray:
    if dtype.startswith(("int", "uint")):
        info = np.iinfo(dtype)
        return RNG.integers(info.min, info.max + 1, shape).astype(dtype)
    return RNG.standard_normal(shape).astype(dtype)


CONVS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 9, 11), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 4, 9, 8), (6, 2, 3, 2), {"group": 2, "strides": [2, 1], "pads": [0, 1, 2, 0]}),
    ((1, 6, 7, 7), (6, 1, 3, 3), {"group": 6, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ((1, 4, 7, 7), (8, 1, 3, 3), {"group": 4, "strides": [2, 2]}),
    ((2, 5, 13), (3, 5, 4), {"strides": [3], "dilations": [2]}),
    ((1, 2, 5, 6, 7), (3, 2, 2, 3, 2), {"strides": [1, 2, 2], "pads": [1, 0, 0, 0, 1, 1]}),
    ((1, 3, 8, 9), (2, 3, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ((1, 3, 8, 9), (2, 3, 4, 2), {"auto_pad": "SAME_LOWER", "strides": [3, 1]}),
    ((1, 3, 8, 9), (2, 3, 4, 2), {"auto_pad": "VALID"}),
    ((1, 16, 6, 6), (32, 16, 1, 1), {}),
]  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv(case: tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], bias: bool) -> None:
    shape, filters, attributes = case
    inputs = {"x": random(*shape), "w": random(*filters), "b": random(filters[0]) if bias else None}
    both("Conv", inputs, constants=["w", "b"] if bias else ["w"], rtol=1e-4, atol=1e-4, **attributes)


def test_conv_with_filters_of_the_run() -> None:
    inputs = {"x": random(1, 3, 9, 8), "w": random(4, 3, 3, 3), "b": random(4)}
    both("Conv", inputs, rtol=1e-4, atol=1e-4, pads=[1, 1, 1, 1], strides=[2, 2])


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_conv_of_other_floats(dtype: str) -> None:
    tolerance = 1e-2 if dtype == "float16" else 1e-6
    inputs = {"x": random(1, 3, 9, 8, dtype=dtype), "w": random(4, 3, 3, 3, dtype=dtype)}
    both("Conv", inputs, constants=["w"], rtol=tolerance, atol=tolerance, pads=[1, 1, 1, 1])


def test_conv_integer() -> None:
    inputs = {
        "x": random(1, 4, 7, 6, dtype="uint8"),
        "w": random(6, 2, 3, 3, dtype="int8"),
        "xz": np.array(7, "uint8"),
        "wz": np.array(3, "int8"),
    }
    both("ConvInteger", inputs, group=2, strides=[2, 1])
    both("ConvInteger", inputs, constants=["w", "xz", "wz"], group=2)


@pytest.mark.parametrize("per_channel", [False, True])
def test_qlinear_conv(per_channel: bool) -> None:
    scale = (RNG.random(5, np.float32) + 0.5) * 0.01 if per_channel else np.array(0.01, np.float32)
    zero = np.zeros(5, "int8") if per_channel else np.array(0, "int8")
    inputs = {
        "x": random(1, 3, 7, 6, dtype="uint8"), "xs": np.array(0.02, np.float32), "xz": np.array(120, "uint8"),
        "w": random(5, 3, 3, 3, dtype="int8"), "ws": scale.astype(np.float32), "wz": zero,
        "ys": np.array(0.05, np.float32), "yz": np.array(100, "uint8"),
        "b": RNG.integers(-1000, 1000, 5).astype(np.int32),
    }  # fmt: skip
    both("QLinearConv", inputs, constants=["w", "ws", "wz", "xs", "xz", "ys", "yz", "b"], pads=[1, 1, 0, 1])


TRANSPOSED: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 3, 5, 6), (3, 4, 3, 3), {}),
    ((2, 3, 5, 6), (3, 4, 3, 3), {"strides": [2, 3], "pads": [1, 0, 1, 2], "output_padding": [1, 2]}),
    ((1, 4, 5, 6), (4, 2, 4, 2), {"group": 2, "strides": [2, 2]}),
    ((1, 3, 5, 6), (3, 2, 3, 2), {"strides": [2, 2], "dilations": [2, 3]}),
    ((1, 3, 5, 6), (3, 2, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 3, 5, 6), (3, 2, 3, 3), {"strides": [3, 2], "output_shape": [16, 14]}),
    ((1, 3, 7), (3, 2, 4), {"strides": [2], "pads": [1, 1]}),
    ((1, 2, 3, 4, 5), (2, 2, 2, 2, 3), {"strides": [2, 2, 2]}),
]  # fmt: skip


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_conv_transpose(case: tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]) -> None:
    shape, filters, attributes = case
    outputs = filters[1] * attributes.get("group", 1)
    inputs = {"x": random(*shape), "w": random(*filters), "b": random(outputs)}
    both("ConvTranspose", inputs, constants=["w", "b"], rtol=1e-4, atol=1e-4, **attributes)


def test_deform_conv() -> None:
    x, w = random(1, 4, 7, 6), random(4, 2, 3, 2)
    offset, mask = random(1, 2 * 3 * 2 * 2, 4, 5) * 2, np.abs(random(1, 2 * 3 * 2, 4, 5))
    inputs = {"x": x, "w": w, "o": offset, "b": random(4), "m": mask}
    attributes = {"group": 2, "offset_group": 2, "strides": [2, 1], "pads": [1, 0, 1, 0]}
    both("DeformConv", inputs, rtol=1e-4, atol=1e-4, **attributes)


def test_padding_beyond_the_filter_is_checked() -> None:
    from onnx import helper
    from tracing import model_of

    import hasten

    x, w = random(1, 1, 3, 3), random(1, 1, 5, 5)
    with pytest.raises(hasten.HastenError):
        model = model_of(helper.make_node("Conv", ["x", "w"], ["y"]), {"x": x, "w": w}, ["w"])
        hasten.compile(model, host_ops=False).run({"x": x})
