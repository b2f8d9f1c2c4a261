"""Operators that ONNX defines by a body: the body takes the node's place and computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from hasten.frontends import load_graph
from hasten.graph import expand_schema_function, prepare

NEWEST = onnx.defs.onnx_opset_version()
CASES = {
    "Mish": ("g (float[2,3] x) => (float[2,3] y) { y = Mish(x) }", ()),
    "Selu": ("g (float[2,3] x) => (float[2,3] y) { y = Selu<alpha=2.0>(x) }", ()),
    "LayerNormalization": ("g (float[2,3] x) => (float[2,3] y) { y = LayerNormalization(x, w) }", ("w",)),
    "GroupNormalization": (
        "g (float[2,6,4] x) => (float[2,6,4] y) { y = GroupNormalization<num_groups=2>(x, v, v) }",
        ("v",),
    ),
    "Softmax": ("g (float[2,3] x) => (float[2,3] y) { a = Relu(x) y = Softmax(a) }", ()),
    "Attention": ("g (float[1,2,4,8] x) => (float[1,2,4,8] y) { y = Attention(x, x, x) }", ()),
    "Clip": ("g (float[2,3] x) => (float[2,3] y) { y = Clip(x, low) }", ("low",)),
    "HardSwish": ("g (float[2,3] x) => (float[2,3] y) { a = HardSwish(x) y = Neg(a) }", ()),
}


@pytest.mark.parametrize("op_type", CASES)
def test_expand(op_type: str, rng: np.random.Generator) -> None:
    text, names = CASES[op_type]
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {NEWEST}]> {text}')
    arrays = {"w": rng.random(3, np.float32), "v": rng.random(6, np.float32), "low": np.float32(0.1)}
    for name in names:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(arrays[name]), name))
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": rng.standard_normal(shape).astype(np.float32)}
    want = ReferenceEvaluator(proto).run(None, feeds)[0]

    model = load_graph(proto)
    prepare(model)
    node = next(node for node in model.graph if node.op_type == op_type)
    kinds: list[Any] = [
        (ir.DataType.FLOAT, tuple(v.shape) if v is not None and v.shape else shape) for v in node.inputs
    ]
    body = expand_schema_function(node, kinds, model)
    assert body and all(inner.graph is model.graph for inner in body)
    assert op_type not in {inner.op_type for inner in model.graph}
    assert "Constant" not in {inner.op_type for inner in body}
    done = ir.to_proto(model)
    assert [info.name for info in done.graph.output] == ["y"]
    np.testing.assert_allclose(ReferenceEvaluator(done).run(None, feeds)[0], want, 1e-5, 1e-5)


def test_no_body() -> None:
    model = load_graph(
        onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Exp(x) }')
    )
    node = model.graph[0]
    assert expand_schema_function(node, [(ir.DataType.FLOAT, [2])], model) is None
    assert list(model.graph) == [node]
