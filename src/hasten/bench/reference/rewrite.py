"""An ONNX model in which every floating-point number is a float64: what it computes then is its meaning, but for 1e-16."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

REMARKS = {
    "rounds to integers, where the smallest difference may become a whole step": {
        "QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "Round", "Floor", "Ceil", "Sign",
    },
    "chooses by comparing, so that values nearly equal may change places": {
        "ArgMax", "ArgMin", "TopK", "NonMaxSuppression", "Hardmax", "Unique", "NonZero",
    },
    "draws random numbers, which no other engine draws": {
        "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
    },
}  # fmt: skip
MACHINE_LEARNING = "ai.onnx.ml"
DTYPES = ("to", "dtype", "output_datatype", "output_dtype")  # attributes that name a dtype
DEFAULT_FLOAT = {"HannWindow": "output_datatype", "HammingWindow": "output_datatype", "BlackmanWindow": "output_datatype", "MelWeightMatrix": "output_datatype",
                 "RandomNormal": "dtype", "RandomUniform": "dtype"}  # fmt: skip  # whose dtype is float32 where they do not say it


def in_double(model: Any) -> Any:
    """A copy of the ModelProto `model` (constants inside) in float64, functions inlined. Inputs and outputs become double, too."""
    import onnx
    import onnx.inliner

    result = onnx.inliner.inline_local_functions(model) if model.functions else _copy(model)
    _graph(result.graph)
    return result


def remarks(model: Any) -> list[str]:
    """Why results of this model may differ by more than rounding."""
    found: dict[str, set[str]] = {}
    for node in nodes(model.graph):
        for text, operators in REMARKS.items():
            if node.op_type in operators:
                found.setdefault(text, set()).add(node.op_type)
        if node.domain == MACHINE_LEARNING:
            found.setdefault("is computed in float32", set()).add(node.op_type)
    return [f"{', '.join(sorted(operators))} {text}" for text, operators in found.items()]


def nodes(graph: Any) -> Iterator[Any]:
    """All nodes, those of graphs inside nodes, too."""
    for node in graph.node:
        yield node
        for inner in _graphs(node):
            yield from nodes(inner)


def _copy(model: Any) -> Any:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _graphs(node: Any) -> Iterable[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _graph(graph: Any) -> None:
    for tensor in graph.initializer:
        _tensor(tensor)
    for sparse in graph.sparse_initializer:
        _tensor(sparse.values)
    for value in (*graph.input, *graph.output):
        _type(value.type)
    del graph.value_info[:]
    for node in graph.node:
        _node(node)
        for inner in _graphs(node):
            _graph(inner)


def _floats() -> tuple[int, ...]:
    from onnx import TensorProto

    return TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


def _tensor(tensor: Any) -> None:
    import numpy as np
    from onnx import numpy_helper

    if tensor.data_type in _floats():
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _type(kind: Any) -> None:
    """A tensor's type, or that of the elements of a sequence or an optional."""
    from onnx import TensorProto

    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        part = getattr(kind, which)
        if part.elem_type in _floats():
            part.elem_type = TensorProto.DOUBLE
    elif which in ("sequence_type", "optional_type"):
        _type(getattr(kind, which).elem_type)


def _node(node: Any) -> None:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    for attribute in node.attribute:
        if attribute.HasField("t"):
            _tensor(attribute.t)
        elif attribute.name in DTYPES and attribute.i in _floats():
            attribute.i = TensorProto.DOUBLE
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(np.array(value, np.float64))))
    given = {attribute.name for attribute in node.attribute}
    if node.op_type == "ConstantOfShape" and "value" not in given:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float64))))
    if node.op_type in DEFAULT_FLOAT and DEFAULT_FLOAT[node.op_type] not in given:
        node.attribute.append(helper.make_attribute(DEFAULT_FLOAT[node.op_type], TensorProto.DOUBLE))
