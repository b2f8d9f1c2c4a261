"""The shapes of benchmarks/kernels/sweep.py: each is a valid graph with a name of its own, and stands for its kernel alone."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

import hasten

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "kernels"
SMALL = 1 << 19  # elements of inputs and weights up to which a shape is tried here


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kernel_sweep_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SHAPES = load("shapes")


def test_names_are_unique() -> None:
    names = [(s.family, s.name) for s in SHAPES.SHAPES]
    assert len(set(names)) == len(names)
    assert {"gemm", "conv", "depthwise", "attention", "memory"} == set(SHAPES.FAMILIES)
    assert [s.family for s in SHAPES.chosen(["conv"], ["first"])] == ["conv"] * 3


def small() -> list[object]:
    found = [s for s in SHAPES.SHAPES if sum(math.prod(size) for size in (*s.inputs.values(), *s.constants.values())) <= SMALL]
    return [pytest.param(s, id=f"{s.family} {s.name}") for s in found if s.family in ("conv", "depthwise")]


def test_graphs_are_valid() -> None:
    for shape in SHAPES.SHAPES:
        if sum(math.prod(size) for size in shape.constants.values()) <= SMALL:
            onnx.checker.check_model(onnx.shape_inference.infer_shapes(shape.model(), strict_mode=True))


@pytest.mark.slow
@pytest.mark.parametrize("shape", small())
def test_a_layer_is_one_kernel(shape) -> None:  # type: ignore[no-untyped-def]
    """Nothing is copied before or behind it (a transposed convolution is one for each place in a stride, and a map that weaves them)."""
    compiled = hasten.compile(shape.model(), isa="avx2", precision="strict", threads=1)
    kernels = [n.region for n in compiled.report().nodes if n.kind == "kernel"]
    assert len(kernels) == 1 or shape.name.startswith("transposed")
    assert np.isfinite(compiled.run(shape.feeds())["y"]).all()
