"""One node with random inputs: the trace's NumPy meaning and the compiled model, with symbolic and with static sizes, against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from tracing import evaluate, model_of, reference, trace_node

import hasten


def same(got: Sequence[np.ndarray], want: Sequence[np.ndarray], rtol: float, atol: float) -> None:
    """Shapes and dtypes equal, integers equal, floats near."""
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape, f"shape {a.shape}, not {b.shape}"
        assert a.dtype == b.dtype
        if b.dtype.kind in "iub":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a.astype("f8"), b.astype("f8"), rtol=rtol, atol=atol)


def answer(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """onnxruntime's results (of an older opset where it has no kernel for ours), else those of ONNX's reference implementation."""
    older = onnx.ModelProto()
    older.CopyFrom(model)
    older.opset_import[0].version, older.ir_version = 17, 8
    for m in (model, older):
        try:
            return reference(m, inputs)
        except Exception as e:  # onnxruntime's exceptions have no common base
            if not any(text in str(e) for text in ("NOT_IMPLEMENTED", "not a registered function", "No Op registered")):
                raise
    from onnx.reference import ReferenceEvaluator

    return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, dict(inputs))]  # type: ignore[arg-type]


def both(
    op: str,
    inputs: Mapping[str, np.ndarray | None],
    outputs: int = 1,
    constants: Sequence[str] = (),
    expected: Sequence[np.ndarray] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    traced: bool = True,
    opset: int = 0,
    **attributes: Any,
) -> None:
    """Inputs in order (None: omitted); those in `constants` are initializers. expected: instead of onnxruntime's answer."""
    given = {n: x for n, x in inputs.items() if x is not None}
    names = ["" if x is None else n for n, x in inputs.items()]
    node = helper.make_node(op, names, [f"out{k}" for k in range(outputs)], **attributes)
    want = list(expected) if expected is not None else answer(model_of(node, given, constants, True), given)
    for static in (False, True):
        model = model_of(node, given, constants, static)
        model.opset_import[0].version = opset or model.opset_import[0].version
        compiled = hasten.compile(model, host_ops=False, threads=2)
        same(list(compiled.run({i.name: given[i.name] for i in compiled.inputs}).values()), want, rtol, atol)
        if traced and not static:
            same(evaluate(trace_node(model), given), want, rtol, atol)
