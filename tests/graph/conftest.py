"""Before/after tests of passes: a model in ONNX's text form is prepared, and both forms must give the same numbers.

The original runs in ONNX Runtime (the only one that knows every old opset), the prepared one in ONNX's reference
evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from hasten.frontends import load_graph
from hasten.graph import prepare

Arrays = Mapping[str, np.ndarray]


def parse(text: str, opset: int = 17, **constants: np.ndarray) -> onnx.ModelProto:
    """A model from `name (inputs) => (outputs) { nodes }`; constants become initializers."""
    ir_version = 3 if opset < 9 else 8
    model = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]> {text}')
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        if ir_version == 3:
            model.graph.input.append(
                onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            )
    return model


def run_runtime(model: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return list(onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, dict(feeds)))


class Prepared:
    """A prepared model with its operators in order."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model

    @property
    def ops(self) -> list[str]:
        return [node.op_type for node in self.model.graph]

    def node(self, op_type: str) -> ir.Node:
        return next(node for node in self.model.graph if node.op_type == op_type)

    def run(self, feeds: Arrays) -> list[np.ndarray]:
        proto = ir.to_proto(self.model)
        for value, info in zip(self.model.graph.outputs, proto.graph.output, strict=True):
            assert value.name == info.name
        if "ConvTranspose" in self.ops:  # the reference evaluator does not take groups
            del proto.opset_import[:]
            proto.opset_import.add(version=21)
            return run_runtime(proto, feeds)
        return list(ReferenceEvaluator(proto).run(None, dict(feeds)))


@pytest.fixture
def same(rng: np.random.Generator) -> Callable[..., Prepared]:
    """same(model or text, opset=.., x=array, ...) prepares the model, compares both forms, returns the prepared one.

    Arrays named like inputs of the graph are fed; all others become initializers. Float inputs that are not given are
    random.
    """

    def check(
        source: Any,
        opset: int = 17,
        *,
        tolerance: float = 1e-5,
        skip: Sequence[str] = (),
        expect: Any = None,
        **arrays: np.ndarray,
    ) -> Prepared:
        model = source if isinstance(source, onnx.ModelProto) else parse(source, opset)
        names = {info.name for info in model.graph.input}
        if not isinstance(source, onnx.ModelProto):
            model = parse(source, opset, **{k: v for k, v in arrays.items() if k not in names})
        feeds = {k: v for k, v in arrays.items() if k in names}
        held = {tensor.name for tensor in model.graph.initializer}
        for info in model.graph.input:
            if info.name not in feeds and info.name not in held:
                shape = [dim.dim_value or 3 for dim in info.type.tensor_type.shape.dim]
                feeds[info.name] = rng.standard_normal(shape).astype(np.float32)
        want = run_runtime(model, feeds) if expect is None else expect(feeds)
        graph = load_graph(model)
        prepare(graph, skip=skip)
        done = Prepared(graph)
        for got, wanted in zip(done.run(feeds), want, strict=True):
            assert got.shape == wanted.shape and got.dtype == wanted.dtype
            np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
        return done

    return check
