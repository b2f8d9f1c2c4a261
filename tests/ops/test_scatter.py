"""ScatterElements and ScatterND: native kernels against their references, nodes against onnxruntime."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from native import LEVELS, check_spec, run_spec  # noqa: E402
from tracing import check  # noqa: E402

from hasten.base import dtypes  # noqa: E402
from hasten.kernels.scatter import REDUCTIONS, ScatterElementsSpec, ScatterNDSpec  # noqa: E402
from hasten.vm.program import STATUS_INDEX  # noqa: E402


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "float16", "bfloat16", "bool", "int4"])
def test_kernels(dtype: str, reduction: str) -> None:
    if dtype in ("bool", "int4") and reduction != "none":
        return
    rng = np.random.default_rng(1)

    def values(shape: tuple[int, ...]) -> np.ndarray:
        return rng.integers(0, 5, shape).astype(dtypes.to_numpy(dtype))

    for shape, axis, n in [
        ((5, 7), 0, (9, 7)),
        ((5, 7), 1, (4, 3)),
        ((2, 3, 4), 1, (2, 5, 4)),
        ((6,), 0, (11,)),
        ((3, 0), 0, (3, 0)),
    ]:
        indices = rng.integers(-shape[axis], shape[axis], n).astype(np.int64)
        data, updates = values(shape), values(n)
        spec = ScatterElementsSpec(dtype, "int64", reduction, len(shape), axis)
        check_spec(spec, [data, indices, updates], [(dtype, shape)], threads=3)
    for shape, depth, lead in [((5, 7), 1, (4,)), ((5, 7), 2, (3, 4)), ((4, 3, 6), 2, (5,)), ((5,), 0, (2,))]:
        indices = (
            np.stack([rng.integers(-shape[a], shape[a], lead) for a in range(depth)], -1)
            if depth
            else np.zeros((*lead, 0))
        )
        data, updates = values(shape), values(lead + shape[depth:])
        spec = ScatterNDSpec(dtype, "int32", reduction, depth)
        check_spec(spec, [data, indices.astype(np.int32), updates], [(dtype, shape)], threads=2)


@pytest.mark.parametrize("level", LEVELS)
def test_wild_indices_stay_inside(level: str) -> None:
    data, updates = np.zeros((3, 4), np.float32), np.ones((2, 4), np.float32)
    indices = np.array([[2**62, -5, 3, -(2**63)], [0, 1, 2, -3]], np.int64)
    spec = ScatterElementsSpec("float32", "int64", "none", 2, 0)
    assert run_spec(spec, [data, indices, updates], [("float32", (3, 4))], level)[1] == STATUS_INDEX
    nd = ScatterNDSpec("float32", "int64", "add", 1)
    assert (
        run_spec(nd, [data, np.array([[7], [-4]], np.int64), updates], [("float32", (3, 4))], level)[1] == STATUS_INDEX
    )


def test_nodes() -> None:
    rng = np.random.default_rng(2)
    data, updates = rng.random((4, 5), np.float32), rng.random((3, 5), np.float32)
    indices = np.stack([rng.permutation(4)[:3] for _ in range(5)], 1).astype(np.int64)
    for reduction in REDUCTIONS:
        check("ScatterElements", {"x": data, "i": indices, "u": updates}, axis=0, reduction=reduction)
        check("ScatterND", {"x": data, "i": np.array([[0], [3], [0]], np.int64), "u": updates}, reduction=reduction)
