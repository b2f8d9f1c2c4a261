"""Pooling, padding and resizing in row-major and channels-last memory: edges and what lies within, at every ISA level, with threads."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from compiling import LEVELS, check, parse  # noqa: E402

import hasten  # noqa: E402

POOLS = {
    "max 3x3 s2": "MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>",
    "max 2x2": "MaxPool<kernel_shape=[2,2], strides=[2,2]>",
    "max 2x2 ceil": "MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>",
    "max 5x5": "MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>",
    "max 3x3 same": 'MaxPool<kernel_shape=[3,3], strides=[2,1], auto_pad="SAME_UPPER">',
    "mean 3x3": "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>",
    "mean 3x3 s2": "AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>",
    "mean 4x1": "AveragePool<kernel_shape=[4,1], strides=[3,1], pads=[2,0,1,0]>",
}  # fmt: skip
RESIZES = {
    "half pixel x2": 'mode="linear", coordinate_transformation_mode="half_pixel"',
    "asymmetric x2": 'mode="linear", coordinate_transformation_mode="asymmetric"',
    "nearest x2": 'mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"',
    "nearest half pixel x2": 'mode="nearest", coordinate_transformation_mode="half_pixel"',
}  # fmt: skip
QUICK = {"max 3x3 s2", "mean 3x3", "half pixel x2"}  # at every level in quick runs
SIZES = [(2, 9, 41), (1, 4, 3), (1, 21, 16), (1, 34, 70)]


def everywhere(names: Iterable[str]) -> list[Any]:
    """Every name at every level; those that others stand for are slow."""
    return [pytest.param(n, level, marks=() if level == LEVELS[-1] or n in QUICK else pytest.mark.slow) for n in names for level in LEVELS]


def images(rng: np.random.Generator, channels: int) -> list[dict[str, Any]]:
    return [{"x": rng.standard_normal((n, channels, h, w)).astype(np.float32)} for n, h, w in SIZES]


def behind(operator: str, channels: int, last: bool, rng: np.random.Generator, **constants: Any) -> Any:
    """The operator on an input, or on what a convolution has stored with its channels last."""
    if not last:
        return parse(f"g (float[n,{channels},h,w] x) => (float[n,{channels},r,q] y) {{ y = {operator} }}".replace("$", "x"), **constants)
    w = rng.standard_normal((channels, channels, 1, 1)).astype(np.float32)
    text = f"g (float[n,{channels},h,w] x) => (float[n,{channels},r,q] y) {{ c = Conv(x, k) t = {operator} y = Relu(t) }}"
    return parse(text.replace("$", "c"), k=w, **constants)


@pytest.mark.parametrize("channels, last", [(3, False), (10, True), (24, True), (70, True)])
@pytest.mark.parametrize("name, level", everywhere(POOLS))
def test_pools(name: str, channels: int, last: bool, level: str, rng: np.random.Generator) -> None:
    check(behind(f"{POOLS[name]}($)", channels, last, rng), *images(rng, channels), levels=[level])


@pytest.mark.parametrize("channels, last", [(3, False), (24, True)])
@pytest.mark.parametrize("name, level", everywhere(RESIZES))
def test_resizes(name: str, channels: int, last: bool, level: str, rng: np.random.Generator) -> None:
    model = behind(f"Resize<{RESIZES[name]}>($, , s)", channels, last, rng, s=np.array([1, 1, 2, 2], np.float32))
    check(model, *images(rng, channels), levels=[level])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels, last", [(3, False), (24, True)])
def test_padding(channels: int, last: bool, level: str, rng: np.random.Generator) -> None:
    model = behind("Pad($, p)", channels, last, rng, p=np.array([0, 0, 1, 20, 0, 0, 2, 3]))
    check(model, *images(rng, channels), levels=[level])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_nan_wins(kernel: int, level: str, rng: np.random.Generator) -> None:
    """In every window that has one, wherever in it, beside infinities."""
    x = rng.standard_normal((1, 20, 12, 37)).astype(np.float32)
    x[rng.random(x.shape) < 0.02] = np.nan
    x[rng.random(x.shape) < 0.05] = np.inf
    x[rng.random(x.shape) < 0.2] = -np.inf
    model = parse(f"g (float[1,20,12,37] x) => (float[1,20,p,q] y) {{ y = MaxPool<kernel_shape=[{kernel},{kernel}]>(x) }}")
    got = hasten.compile(model, isa=level, threads=1)(x)
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (2, 3))
    np.testing.assert_array_equal(got, windows.max((4, 5)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_few_channels_beside_many(channels: int, level: str, rng: np.random.Generator) -> None:
    """Pooled images of few channels, read row-major, in the memory of a Concat that a convolution stores into channels-last."""
    text = f"""g (float[n,{channels},h,w] x) => (float[n,7,p,q] y) {{
        a = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)
        b = Conv<strides=[2,2], pads=[1,1,1,1]>(x, k)
        c = Concat<axis=1>(b, a)
        y = Conv(c, l)
    }}"""
    k = rng.standard_normal((9, channels, 3, 3)).astype(np.float32) / 5
    check(parse(text, k=k, l=rng.standard_normal((7, 9 + channels, 1, 1)).astype(np.float32)), *images(rng, channels), levels=[level])
