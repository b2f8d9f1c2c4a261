"""What reports say of a kernel's operations and bytes: counted by hand for small models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hasten
from hasten.base.dims import evaluate, parse
from hasten.lower.report import NodeReport

EXP = 12  # operations of an exp, see kernels.expr.OPS
DIVISION = 8


def graph(nodes: list[Any], inputs: dict[str, list[Any]], outputs: list[str], constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    g = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()],
    )  # fmt: skip
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def rows(model: onnx.ModelProto, **sizes: int) -> dict[str, tuple[int, int, int]]:
    """operations, bytes, written of every kernel, by the kernel's kind."""
    report = hasten.compile(model, isa="avx2", precision="strict", threads=1).report()
    return {n.region.rpartition("_")[0]: numbers(n, sizes) for n in report.nodes if n.kind == "kernel"}


def numbers(n: NodeReport, sizes: dict[str, int]) -> tuple[int, int, int]:
    return tuple(evaluate(parse(f), sizes) for f in (n.operations, n.bytes, n.written))  # type: ignore[return-value]


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_elementwise() -> None:
    found = rows(graph([helper.make_node("Mul", ["x", "y"], ["t"]), helper.make_node("Add", ["t", "x"], ["z"])], {"x": ["n", 5], "y": ["n", 5]}, ["z"]), n=7)
    assert found == {"map": (2 * 35, 3 * 35 * 4, 35 * 4)}  # a product and a sum; x and y read once, z written


def test_broadcast_operand_counts_once() -> None:
    found = rows(graph([helper.make_node("Mul", ["x", "s"], ["z"])], {"x": ["n", 5], "s": [5]}, ["z"]), n=7)
    assert found == {"map": (35, (35 + 5 + 35) * 4, 35 * 4)}


def test_function_counts_as_its_instructions() -> None:
    assert rows(graph([helper.make_node("Exp", ["x"], ["z"])], {"x": ["n"]}, ["z"]), n=100) == {"map": (EXP * 100, 800, 400)}


def test_slice_reads_its_part() -> None:
    nodes = [helper.make_node("Slice", ["x", "from", "to"], ["t"]), helper.make_node("Neg", ["t"], ["z"])]
    limits = {"from": np.array([0, 2]), "to": np.array([100, 4])}
    assert rows(graph(nodes, {"x": [8, 5]}, ["z"], limits)) == {"map": (16, 2 * 16 * 4, 16 * 4)}


def test_gather_reads_no_more_than_the_table() -> None:
    g = helper.make_graph(
        [helper.make_node("Gather", ["table", "i"], ["z"])], "g", [helper.make_tensor_value_info("i", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)], [numpy_helper.from_array(values(10, 4), "table")],
    )  # fmt: skip
    model = helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (few,) = rows(model, n=3).values()
    (many,) = rows(model, n=300).values()
    assert few[1:] == (3 * 8 + 3 * 4 * 4 + 3 * 4 * 4, 3 * 4 * 4)
    assert many[1:] == (300 * 8 + 10 * 4 * 4 + 300 * 4 * 4, 300 * 4 * 4)


def test_reduction() -> None:
    found = rows(graph([helper.make_node("ReduceSum", ["x", "axes"], ["z"], keepdims=0)], {"x": [6, 20]}, ["z"], {"axes": np.array([1])}))
    assert found == {"reduce": (6 * 20, (6 * 20 + 6) * 4, 6 * 4)}


def test_softmax() -> None:
    (operations, moved, written) = rows(graph([helper.make_node("Softmax", ["x"], ["z"], axis=1)], {"x": [6, 20]}, ["z"]))["rows"]
    largest, sums, results = 1, 1 + EXP + 1, 1 + EXP + 1  # of an element: max; subtract, exp, add; subtract, exp, multiply
    assert operations == 120 * (largest + sums + results) + 6 * DIVISION  # by the reciprocal of a row's sum
    assert (moved, written) == (2 * 120 * 4, 120 * 4)


@pytest.mark.parametrize("rest", ["", "Relu"])
def test_convolution(rest: str) -> None:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1])] + ([helper.make_node(rest, ["c"], ["z"])] if rest else [])
    found = rows(graph(nodes, {"x": ["n", 16, 10, 12]}, ["z" if rest else "c"], {"w": values(32, 16, 3, 3), "b": values(32)}), n=2)
    (conv,) = (v for k, v in found.items() if k.startswith("conv"))
    outputs = 2 * 32 * 10 * 12
    assert conv[0] == 2 * outputs * 16 * 9 + outputs * (2 if rest else 1)  # products and sums; the bias; Relu
    assert conv[1] == (2 * 16 * 10 * 12 + 32 * 16 * 9 + 32 + outputs) * 4
    assert conv[2] == outputs * 4


def test_product() -> None:
    found = rows(graph([helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Add", ["t", "r"], ["z"])],
                       {"x": ["n", 64], "r": ["n", 32]}, ["z"], {"w": values(64, 32)}), n=48)  # fmt: skip
    (product,) = (v for k, v in found.items() if k.startswith("gemm"))
    assert product == (2 * 48 * 64 * 32 + 48 * 32, (48 * 64 + 64 * 32 + 2 * 48 * 32) * 4, 48 * 32 * 4)  # a residual is added in the kernel


def test_recurrence() -> None:
    sizes = {"w": (1, 32, 5), "r": (1, 32, 8)}
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["", "z", ""], hidden_size=8)]
    found = rows(graph(nodes, {"x": [6, 3, 5]}, ["z"], {n: values(*s) for n, s in sizes.items()}))
    recurrent = max(v[0] for v in found.values())
    assert recurrent == 6 * 3 * 4 * 8 * 8 * 2  # steps, batch, gates, units, the state's units
