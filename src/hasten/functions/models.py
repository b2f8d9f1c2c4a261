"""Calls of whole models in a function: torch modules, exported for the types of the arguments, and ONNX models. Their graphs are read into the caller."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.functions.scope import Scope
from hasten.lower.graph import trace_into
from hasten.lower.trace import Tensor, Value

SAMPLE = 7  # stands for a size that the run knows where a torch module is exported


def is_model(x: Any) -> bool:
    """Whether x is a torch module or an ONNX model."""
    return _is_module(x) or any((c.__module__.split(".")[0], c.__name__) in (("onnx", "ModelProto"), ("onnx_ir", "Model")) for c in type(x).__mro__)


def _is_module(x: Any) -> bool:
    return any(c.__module__.startswith("torch.") and c.__name__ in ("Module", "ExportedProgram") for c in type(x).__mro__)


def call_model(scope: Scope, at: ast.Call, model: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The outputs of a model: its only one, or a tuple. Raises SourceError."""
    if kwargs:
        raise scope.error(at, "models take their inputs by position here")
    inputs = [scope.as_tensor(at, a) for a in args]
    name = type(model).__name__
    graph = scope.guarded(at, name, None, lambda: _graph(scope, model, inputs))
    found = scope.guarded(at, name, None, lambda: trace_into(scope.cx, graph, inputs))
    return found[0] if len(found) == 1 else tuple(found)


def _graph(scope: Scope, model: Any, inputs: list[Tensor]) -> Any:
    """A model as a prepared graph, once for each kind of inputs."""
    from hasten.frontends import load_graph
    from hasten.graph import prepare

    key = (id(model), tuple((x.dtype, tuple(d if isinstance(d, int) else None for d in x.shape)) for x in inputs))
    if key not in scope.world.graphs:
        graph = _exported(model, inputs) if _is_module(model) else load_graph(model)
        prepare(graph)
        scope.world.graphs[key] = (model, graph)  # the model, too: its identity is the key
    return scope.world.graphs[key][1]


def _exported(module: Any, inputs: list[Tensor]) -> Any:
    import torch

    from hasten.frontends.torch import export_module

    samples = [np.zeros([d if isinstance(d, int) else SAMPLE for d in x.shape], dtypes.to_numpy(x.dtype)) for x in inputs]
    open_sizes = [{k: torch.export.Dim.AUTO for k, d in enumerate(x.shape) if not isinstance(d, int)} or None for x in inputs]
    return export_module(module, tuple(map(torch.from_numpy, samples)), tuple(open_sizes) if any(open_sizes) else None)


def call_operator(scope: Scope, at: ast.Call, op: str, inputs: list[Value | None], attributes: dict[str, Any], outputs: int) -> Any:
    """An operator that is defined by others: its function body in ONNX, read as a model of one node."""
    from onnx import TensorProto, defs, helper

    from hasten.frontends import load_graph
    from hasten.graph import prepare

    names = [f"x{k}" if x is not None else "" for k, x in enumerate(inputs)]
    made = [f"y{k}" for k in range(outputs)]
    given = {k: helper.np_dtype_to_tensor_dtype(x) if isinstance(x, np.dtype) else x for k, x in attributes.items()}
    node = helper.make_node(op, names, made, **given)
    present = [x for x in inputs if isinstance(x, Tensor)]
    infos = [helper.make_tensor_value_info(n, dtypes.dtype(x.dtype).onnx, [d if isinstance(d, int) else f"{n}_{k}" for k, d in enumerate(x.shape)])
             for n, x in zip(filter(None, names), present, strict=True)]  # fmt: skip
    results = [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in made]
    graph = helper.make_graph([node], op, infos, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", defs.onnx_opset_version())])

    def run() -> list[Value]:
        loaded = load_graph(model)
        prepare(loaded)
        return trace_into(scope.cx, loaded, present)

    found = scope.guarded(at, op, None, run)
    return found if outputs > 1 else found[0]


