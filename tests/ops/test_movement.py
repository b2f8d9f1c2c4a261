"""Shapes, movement, indexing with symbolic sizes and arguments of the run: traces and compiled models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent))
from tracing import check, evaluate, model_of, reference, trace_node  # noqa: E402

import hasten  # noqa: E402
from hasten.base import dims as D  # noqa: E402
from hasten.base.errors import HastenError  # noqa: E402
from hasten.lower.graph import Options  # noqa: E402
from hasten.lower.trace import Context  # noqa: E402
from hasten.ops.movement import FAR, slice_bounds  # noqa: E402

RNG = np.random.default_rng(11)
X = RNG.random((2, 5, 4), np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def compare(op: str, inputs: dict[str, np.ndarray | None], outputs: int = 1, **attributes: Any) -> None:
    """With all inputs of the run and symbolic sizes, and with all but the first constant."""
    given = {n: x for n, x in inputs.items() if x is not None}
    node = helper.make_node(
        op, [n if x is not None else "" for n, x in inputs.items()], [f"o{k}" for k in range(outputs)], **attributes
    )
    want = reference(model_of(node, given, static=True), given)
    rest = [n for n in given if n != next(iter(given))]
    lengths_known = all(given[n].ndim == 1 for n in rest)
    for constants, static in ([rest, False], [[], True]) if lengths_known else ([rest, False],):
        model = model_of(node, given, constants, static)
        compiled = hasten.compile(model, host_ops=False, threads=1)
        native = list(compiled.run({i.name: given[i.name] for i in compiled.inputs}).values())
        for results in (evaluate(trace_node(model), given), native):
            for a, b in zip(results, want, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


SLICES = [(0, 3, 1), (1, FAR, 1), (-3, FAR, 1), (-3, -1, 1), (4, 1, -1), (-1, -(FAR + 1), -1), (0, 100, 2), (7, 9, 1),
          (-100, 100, 3), (-2, 0, -2), (FAR, -FAR, -3), (3, 1, 1), (5, 0, -1)]  # fmt: skip


def test_slice() -> None:
    for a, b, s in SLICES:
        compare("Slice", {"x": X, "s": ints(a), "e": ints(b), "axes": ints(1), "steps": ints(s)})
    compare("Slice", {"x": X, "s": ints(0, 1), "e": ints(-1, FAR), "axes": ints(-1, 0)})


@pytest.mark.parametrize("row", SLICES)
def test_slice_of_symbolic_sizes(row: tuple[int, int, int]) -> None:
    a, b, s = row
    n = D.symbol("n")
    start, count = slice_bounds(n, a, b, s)
    for size in range(8):
        # ONNX: with negative steps, starts are limited to [0, size - 1], ends to [-1, size - 1]
        down = range(max(min(a + size if a < 0 else a, size - 1), 0), max(b + size if b < 0 else b, -1), s)
        want = [i for i in down if i < size] if s < 0 else list(range(size))[a:b:s]
        got = D.evaluate(count, {"n": size})
        first = D.evaluate(start, {"n": size})
        assert [first + s * k for k in range(got)] == want, (size, row)


def test_simple_slices_have_simple_sizes() -> None:
    n, p, s = D.symbol("n"), D.symbol("p"), D.symbol("s")
    assert slice_bounds(n, 0, FAR, 1) == (0, n)
    assert slice_bounds(n, 0, 5, 1) == (0, D.minimum(n, 5))
    assert slice_bounds(n, 1, FAR, 1) == (1, D.maximum(0, n - 1))
    assert slice_bounds(n, 0, -1, 1) == (0, D.maximum(0, n - 1))
    assert slice_bounds(n, -1, -FAR, -1) == (n - 1, n)
    assert slice_bounds(p + s, p, FAR, 1) == (p, s)
    assert slice_bounds(p + s, -s, FAR, 1) == (p, s)
    assert slice_bounds(p + s, 0, p, 1) == (0, p)


def test_a_table_sliced_to_a_size_broadcasts_to_it() -> None:
    cx, s = Context(Options()), D.symbol("s")
    assert cx.broadcast_shapes((1, D.minimum(s, 512), 8), (2, s, 8)) == (2, s, 8)
    assert len(cx.checks) == 1


def test_pad() -> None:
    for pads in (ints(0, 1, 2, 0, 3, 1), ints(0, -1, 0, 0, 2, -2), ints(0, -1, -1, 0, -2, 0)):
        compare("Pad", {"x": X, "pads": pads, "v": np.array(3, np.float32)})
        for mode in ("edge", "reflect", "wrap"):
            compare("Pad", {"x": X, "pads": pads}, mode=mode)
    compare("Pad", {"x": X, "pads": ints(1, 2), "v": None, "axes": ints(-1)})
    compare("Pad", {"x": X.astype(np.int64), "pads": ints(1, 2), "v": None, "axes": ints(0)})


def test_split() -> None:
    compare("Split", {"x": X, "s": ints(1, 0, 4)}, 3, axis=1)
    compare("Split", {"x": X}, 2, axis=2, num_outputs=2)
    compare("Split", {"x": X}, 3, axis=1, num_outputs=3)


def test_reshapes() -> None:
    for shape in (ints(5, 8), ints(0, -1), ints(-1, 4), ints(2, 0, 2, 2), ints(-1)):
        compare("Reshape", {"x": X, "s": shape})
    compare("Reshape", {"x": np.zeros((0, 3), np.float32), "s": ints(3, 0)}, allowzero=1)
    compare("Unsqueeze", {"x": X, "a": ints(0, -1)})
    compare("Squeeze", {"x": X[:, :, None], "a": ints(2)})
    compare("Expand", {"x": X[:, :1], "s": ints(3, 1, 6, 1)})
    compare("Flatten", {"x": X}, axis=2)
    compare("Tile", {"x": X, "r": ints(1, 2, 3)})
    check("ConstantOfShape", {"s": ints(2, 0, 3)}, static=True)
    check("ConstantOfShape", {"s": ints(2, 3)}, constants=["s"])


def test_ranges() -> None:
    for row in ((1, 9, 2), (9, 1, -3), (3, 3, 1), (5, 1, 1)):
        for dtype in (np.int64, np.int32, np.float32, np.float64, np.int16):
            given = {n: np.array(v, dtype) for n, v in zip(("a", "b", "c"), row, strict=True)}
            node = helper.make_node("Range", list(given), ["o"])
            want = reference(model_of(node, given, static=True), given)[0]
            for constants in ([], ["a", "c"], ["a", "b", "c"]):
                model = model_of(node, given, constants)
                compiled = hasten.compile(model, host_ops=False, threads=1)
                got = compiled.run({i.name: given[i.name] for i in compiled.inputs})["o"]
                np.testing.assert_array_equal(got, want)
                np.testing.assert_array_equal(evaluate(trace_node(model), given)[0], want)


def test_gathers() -> None:
    for indices in (
        np.int64(2),
        ints(0, 2, 4),
        ints(4, 2, 0),
        ints(-1, 0),
        ints(3, 3, -5),
        np.array([[0, 1], [-1, 2]], np.int32),
    ):
        compare("Gather", {"x": X, "i": np.asarray(indices)}, axis=1)
    compare("GatherElements", {"x": X, "i": RNG.integers(-5, 5, (2, 3, 4))}, axis=1)
    compare("GatherND", {"x": X, "i": RNG.integers(-2, 2, (3, 2))})
    compare("GatherND", {"x": X, "i": RNG.integers(-4, 4, (2, 5, 3, 1))}, batch_dims=2)
    compare("OneHot", {"i": RNG.integers(-9, 9, (3, 4)), "d": np.array(6, np.int64), "v": np.float32([2, 5])}, axis=1)


def test_others() -> None:
    image = RNG.random((2, 12, 4, 6), np.float32)
    for mode in ("DCR", "CRD"):
        compare("DepthToSpace", {"x": image}, blocksize=2, mode=mode)
    compare("SpaceToDepth", {"x": image}, blocksize=2)
    compare("Transpose", {"x": image}, perm=[2, 0, 3, 1])
    compare("ReverseSequence", {"x": X, "n": ints(3, 5)}, batch_axis=0, time_axis=1)
    for upper in (0, 1):
        for k in (-2, 0, 3):
            compare("Trilu", {"x": X, "k": np.array(k, np.int64)}, upper=upper)
    compare("EyeLike", {"x": X[0]}, k=1, dtype=7)
    compare("Concat", {"a": X, "b": X[:, :2], "c": X[:, :0]}, axis=1)
    compare("Shape", {"x": X}, start=-2)
    compare("Size", {"x": X})


def test_indices_out_of_range_are_errors() -> None:
    for index in (5, -6, 2**40):
        node = helper.make_node("Gather", ["x", "i"], ["o"], axis=1)
        given = {"x": X, "i": ints(index)}
        compiled = hasten.compile(model_of(node, given), host_ops=False)
        with pytest.raises(HastenError):
            compiled.run(given)
        with pytest.raises(HastenError):
            hasten.compile(model_of(node, given, ["i"], True), host_ops=False).run({"x": X})
