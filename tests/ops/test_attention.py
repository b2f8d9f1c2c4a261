"""Attention as exporters write it: one kernel, whose result lies where the next product wants it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hasten


def block(heads: int, size: int, masked: bool, opset: int = 17) -> tuple[onnx.ModelProto, np.ndarray]:
    """q, k, v [batch, length, heads * size] (and a mask [batch, 1, 1, length]) through attention and a dense layer; its weights."""
    width, nodes = heads * size, []
    weights = np.random.default_rng(1).standard_normal((width, 24), np.float32)

    def add(op: str, inputs: list[str], output: str, **attributes: object) -> None:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))

    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        add("Reshape", [name, "split"], f"{name}4")
        add("Transpose", [f"{name}4"], f"{name}t", perm=perm)
    add("MatMul", ["qt", "kt"], "raw")
    add("Div", ["raw", "root"], "scores")
    if masked:
        add("Add", ["scores", "mask"], "masked")
    add("Softmax", ["masked" if masked else "scores"], "weights", axis=-1)
    add("MatMul", ["weights", "vt"], "heads")
    add("Transpose", ["heads"], "side", perm=[0, 2, 1, 3])
    add("Reshape", ["side", "joined"], "flat")
    add("MatMul", ["flat", "w"], "y")
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "length", width]) for n in "qkv"]
    if masked:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 1, 1, "length"]))
    constants = {"split": np.array([0, 0, heads, size]), "joined": np.array([0, 0, width]), "root": np.float32(size**0.5), "w": weights}
    graph = helper.make_graph(
        nodes, "block", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(x), n) for n, x in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), weights


@pytest.mark.parametrize("masked", [False, True], ids=["", "mask"])
def test_exported_attention(masked: bool) -> None:
    model, weights = block(4, 24, masked)
    compiled = hasten.compile(model, threads=2, host_ops=False, isa="portable")
    rows = [n for n in compiled.report().nodes if n.kind == "kernel"]
    assert [n.algorithm for n in rows] == ["streaming attention", "register-tiled product"], "and nothing is copied"
    rng = np.random.default_rng(2)
    given = {n: rng.standard_normal((2, 19, 96), np.float32) for n in "qkv"}
    if masked:
        given["mask"] = np.where(rng.random((2, 1, 1, 19)) < 0.7, 0, -1e4).astype(np.float32)
    q, k, v = (given[n].astype("f8").reshape(2, 19, 4, 24).transpose(0, 2, 1, 3) for n in "qkv")
    scores = q @ k.swapaxes(2, 3) / 24**0.5 + given.get("mask", 0)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    want = (p / p.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(2, 19, 96) @ weights.astype("f8")
    np.testing.assert_allclose(compiled.run(given)["y"], want, rtol=1e-5, atol=3e-5)


def test_probabilities_that_are_an_output_are_stored() -> None:
    model, _ = block(2, 8, False)
    model.graph.output.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, None))
    compiled = hasten.compile(model, host_ops=False, isa="portable")
    assert "streaming attention" not in {n.algorithm for n in compiled.report().nodes}
    given = {n: np.random.default_rng(3).standard_normal((1, 5, 16), np.float32) for n in "qkv"}
    np.testing.assert_allclose(compiled.run(given)["weights"].sum(-1), 1, rtol=1e-6)


def test_heads_are_multiplied_where_they_lie() -> None:
    """The two products of attention without the pattern (softmax over queries): neither of them copies q, k or v."""
    model, _ = block(2, 16, False)
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.attribute[0].i = 2
    compiled = hasten.compile(model, host_ops=False, isa="portable")
    assert not [n.region for n in compiled.report().nodes if n.region.startswith("copy")]
    given = {n: np.random.default_rng(4).standard_normal((3, 9, 32), np.float32) for n in "qkv"}
    q, k, v = (given[n].astype("f8").reshape(3, 9, 2, 16).transpose(0, 2, 1, 3) for n in "qkv")
    p = np.exp(q @ k.swapaxes(2, 3) / 4)
    want = (p / p.sum(2, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(3, 9, 32)
    _, weights = block(2, 16, False)
    np.testing.assert_allclose(compiled.run(given)["y"], want @ weights.astype("f8"), rtol=1e-5, atol=3e-5)
