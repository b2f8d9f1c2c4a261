"""Channel shuffles and parts that are copied together, against ONNX Runtime, at every ISA level, with threads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from compiling import LEVELS, check, kernels, lowered, parse  # noqa: E402

SIZES = [(1, 5, 7), (2, 9, 4)]
TYPES = {"float": np.float32, "double": np.float64, "float16": np.float16, "int64": np.int64, "uint8": np.uint8}


def unit(half: int, groups: int = 2, convolutions: bool = True) -> Any:
    """ShuffleNet's unit: one half passes by, the other one is convolved; then they are shuffled, and split again."""
    c = half * groups
    conv = "b = Conv(r, k)" if convolutions else "b = Relu(r)"
    text = f"""
    g (float[n,{c},h,w] x) => (float[n,{c},h,w] y, float[n,{half},h,w] z)
    <int64[{groups}] parts = {{{", ".join([str(half)] * groups)}}}> {{
        p = Conv(x, q)
        {", ".join(f"s{k}" for k in range(groups))} = Split<axis = 1>(p, parts)
        r = Relu(s1)
        {conv}
        m = Concat<axis = 1>({", ".join(["s0", "b", *(f"s{k}" for k in range(2, groups))])})
        hw = Shape<start = 2>(m)
        lead = Constant<value = int64[3] {{0, {groups}, {half}}}>()
        to = Concat<axis = 0>(lead, hw)
        v = Reshape(m, to)
        t = Transpose<perm = [0, 2, 1, 3, 4]>(v)
        back = Constant<value = int64[2] {{0, {c}}}>()
        whole = Concat<axis = 0>(back, hw)
        y0 = Reshape(t, whole)
        y = Relu(y0)
        u = Slice(y0, from, to_end, axis)
        z = Neg(u)
    }}"""
    rng = np.random.default_rng(half)
    q = rng.standard_normal((c, c, 1, 1)).astype(np.float32) / c
    k = rng.standard_normal((half, half, 1, 1)).astype(np.float32) / half
    return parse(text, q=q, k=k, **{"from": np.array([c - half]), "to_end": np.array([c]), "axis": np.array([1])})


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("half", [1, 13, 40])
def test_units(half: int, level: str, rng: np.random.Generator) -> None:
    check(unit(half), *({"x": rng.standard_normal((n, half * 2, h, w)).astype(np.float32)} for n, h, w in SIZES), levels=[level])


@pytest.mark.parametrize("groups, convolutions", [(3, True), (2, False)])
def test_other_units(groups: int, convolutions: bool, rng: np.random.Generator) -> None:
    """Three parts are moved as views are; elementwise parts are not stored between one another."""
    model = unit(12, groups, convolutions)
    check(model, *({"x": rng.standard_normal((n, 12 * groups, h, w)).astype(np.float32)} for n, h, w in SIZES))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["float", "int64", *(pytest.param(n, marks=pytest.mark.slow) for n in ("double", "float16", "uint8"))])
def test_shuffles_of_inputs(name: str, level: str, rng: np.random.Generator) -> None:
    """Along the last axis and along one before, row-major."""
    for half in (21, 4):
        text = f"""
        g ({name}[n,{half}] a, {name}[n,{half}] b, {name}[n,{half},s] d, {name}[n,{half},s] e) => ({name}[n,{2 * half}] y, {name}[n,{2 * half},s] z)
        <int64[3] to = {{0, 2, {half}}}, int64[2] back = {{0, {2 * half}}}, int64[4] to4 = {{0, 2, {half}, -1}}, int64[3] back3 = {{0, {2 * half}, -1}}> {{
            m = Concat<axis = 1>(a, b)  v = Reshape(m, to)  t = Transpose<perm = [0, 2, 1]>(v)  y = Reshape(t, back)
            m3 = Concat<axis = 1>(d, e)  v3 = Reshape(m3, to4)  t3 = Transpose<perm = [0, 2, 1, 3]>(v3)  z = Reshape(t3, back3)
        }}"""
        feeds = {k: rng.integers(0, 100, (3, half)).astype(TYPES[name]) for k in "ab"}
        feeds |= {k: rng.integers(0, 100, (3, half, 6)).astype(TYPES[name]) for k in "de"}
        check(parse(text), feeds, levels=[level])


def test_a_unit_is_one_copy() -> None:
    """Both halves in one pass; nothing else is copied to be concatenated, shuffled or split than the convolutions' inputs and the outputs."""
    assert kernels(lowered(unit(24))[0]) == ["copy", "conv1x1s1", "copy", "conv1x1s1", "concat", "map", "map"]


@pytest.mark.parametrize("level", LEVELS)
def test_parts_of_one_size_together(level: str, rng: np.random.Generator) -> None:
    """Maps of several resolutions, resized and laid side by side."""
    text = """g (float[n,6,h,w] x) => (float[n,18,h,w] y) {
        a = Conv(x, k)
        b = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a)
        c = MaxPool<kernel_shape = [4,4], strides = [4,4]>(a)
        e = Resize<mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "asymmetric">(b, , two)
        f = Resize<mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "asymmetric">(c, , four)
        d = Concat<axis = 1>(e, a, f)
        y = Conv(d, l)
    }"""
    shapes = {"k": (6, 6, 1, 1), "l": (18, 18, 1, 1)}
    weights = {name: rng.standard_normal(s).astype(np.float32) / 6 for name, s in shapes.items()}
    scales = {name: np.array([1, 1, s, s], np.float32) for name, s in (("two", 2), ("four", 4))}
    feeds = [{"x": rng.standard_normal((n, 6, 8 * h, 4 * w)).astype(np.float32)} for n, h, w in ((1, 1, 1), (2, 2, 5))]
    check(parse(text, **weights, **scales), *feeds, levels=[level])


def test_many_parts() -> None:
    """More parts than one kernel copies."""
    names = [f"a{k}" for k in range(19)]
    text = f"g ({', '.join(f'float[n,5] {a}' for a in names)}) => (float[n,m] y) {{ y = Concat<axis = 1>({', '.join(names)}) }}"
    check(parse(text), {a: np.full((3, 5), k, np.float32) for k, a in enumerate(names)})
