"""Running single nodes through tracing and the NumPy meaning of the trace, with any inputs symbolic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hasten.base import dims as D
from hasten.frontends import load_graph
from hasten.graph import prepare
from hasten.lower.evaluate import Evaluation
from hasten.lower.graph import Options, Traced, trace_model
from hasten.lower.trace import Tensor

OPSET = 24


def model_of(
    node: onnx.NodeProto, inputs: Mapping[str, np.ndarray], constants: Sequence[str] = (), static: bool = False
) -> onnx.ModelProto:
    """A model of one node; inputs in `constants` are initializers, the others have symbolic sizes unless `static`."""

    def kind(name: str, x: np.ndarray) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(x.dtype),
            [d if static else f"{name}_{k}" for k, d in enumerate(x.shape)],
        )

    graph = helper.make_graph(
        [node], "g", [kind(n, x) for n, x in inputs.items() if n not in constants],
        [onnx.ValueInfoProto(name=n) for n in node.output if n],
        [onnx.numpy_helper.from_array(np.asarray(inputs[n]), n) for n in constants])  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=11)


def trace_node(model: onnx.ModelProto) -> Traced:
    graph = load_graph(model)
    prepare(graph)
    return trace_model(graph, Options(host_ops=False))


def evaluate(traced: Traced, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs for concrete inputs; run-time checks of sizes are asserted."""
    sizes: dict[str, int] = {}
    for name, t in traced.inputs:
        assert isinstance(t, Tensor)
        for d, n in zip(t.shape, inputs[name].shape, strict=True):
            if (symbol := D.as_symbol(d)) is not None:
                sizes[symbol] = n
    ev = Evaluation(traced.cx, inputs, sizes)
    for left, op, right, message, _ in traced.cx.checks:
        a, b = ev.size(left), ev.size(right)
        assert {"==": a == b, "!=": a != b, "<": a < b, "<=": a <= b}[op], f"{message}: {a} {op} {b}"
    return [ev.of(t) for _, t in traced.outputs if isinstance(t, Tensor)]


def reference(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime says."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})  # type: ignore[no-any-return]


def check(
    op: str,
    inputs: Mapping[str, np.ndarray | None],
    outputs: int = 1,
    constants: Sequence[str] = (),
    static: bool = False,
    expected: Sequence[np.ndarray] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    **attributes: Any,
) -> None:
    """Trace `op` of the inputs (in order; None: omitted) and compare with onnxruntime or `expected`."""
    names = ["" if x is None else n for n, x in inputs.items()]
    given = {n: x for n, x in inputs.items() if x is not None}
    node = helper.make_node(op, names, [f"out{k}" for k in range(outputs)], **attributes)
    model = model_of(node, given, constants, static)
    got = evaluate(trace_node(model), given)
    want = reference(model, given) if expected is None else list(expected)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape, f"shape {a.shape}, not {b.shape}"
        assert a.dtype == b.dtype
        if b.dtype.kind in "iub":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a.astype("f8"), b.astype("f8"), rtol=rtol, atol=atol)
