"""Models in ONNX's text form, compiled and held against ONNX Runtime; and what the compiler made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import hasten
from hasten.codegen import isa as isas
from hasten.codegen.isa import Isa
from hasten.frontends import load_graph
from hasten.graph import prepare
from hasten.lower import compile as stages
from hasten.lower.graph import Options, Traced, trace_model
from hasten.lower.lowered import Lowered
from hasten.lower.report import Report
from hasten.vm import program as P

LEVELS = [n for n in ("portable", "avx2", "avx512") if n in isas.available()]


def parse(text: str, opset: int = 20, **constants: Any) -> onnx.ModelProto:
    """A model from `name (inputs) => (outputs) { nodes }`; constants become initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items())
    return model


def reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What ONNX Runtime answers, without its optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def same(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray], tolerance: float = 2e-5) -> None:
    assert list(got) == list(want)
    for name, w in want.items():
        g = got[name]
        assert g.shape == w.shape, f"{name}: shape {g.shape}, not {w.shape}"
        assert g.dtype == w.dtype, f"{name}: dtype {g.dtype}, not {w.dtype}"
        if w.dtype.kind == "f":
            scale = max(1.0, float(np.abs(w[np.isfinite(w)]).max(initial=0)))
            limit = tolerance if w.dtype.itemsize > 2 else 5e-3
            np.testing.assert_allclose(g.astype("f8"), w.astype("f8"), rtol=0, atol=limit * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(g, w, name)


def check(model: onnx.ModelProto, *feeds: Mapping[str, Any], levels: list[str] | None = None, **options: Any) -> Any:
    """Compile once per level, run every set of inputs, compare with ONNX Runtime. Gives the last compiled model."""
    options.setdefault("host_ops", False)
    compiled = None
    for level in levels or LEVELS[-1:]:
        for threads in (1, 3):
            compiled = hasten.compile(model, isa=level, threads=threads, **options)
            for f in feeds:
                same(compiled.run(f), reference(model, f))
    return compiled


def traced(model: onnx.ModelProto, level: str = "avx2", host_ops: bool = False) -> Traced:
    graph = load_graph(model)
    prepare(graph)
    return trace_model(graph, Options(host_ops, "highest", isas.get(level)))


def lowered(model: onnx.ModelProto, level: str = "avx2", threads: int = 1) -> tuple[P.Program, Lowered, Report]:
    """The Program with its memory planned, without compiling anything."""
    return stages.lower_model(traced(model, level), isas.get(level), threads, "highest")


def isa(level: str) -> Isa:
    return isas.get(level)


def walk(code: Any) -> Iterator[P.Instruction]:
    """All instructions, nested ones too, in the order of the text."""
    for i in code:
        yield i
        for part in ("then", "other", "body"):
            yield from walk(getattr(i, part, ()))


def kernels(program: P.Program) -> list[str]:
    """Names of the kernels called, without their hashes, in order."""
    return [i.kernel.rsplit("_", 1)[0] for i in walk(program.instructions) if isinstance(i, P.Call)]
