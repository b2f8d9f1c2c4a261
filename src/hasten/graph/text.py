"""A graph as readable text: one line a node, the same text for the same graph, for dumps, `inspect` and messages.

    %y: float32[n,64,h,w] = Conv(%x, %w: float32[64,3,3,3], _, kernel_shape=[3, 3])  # conv1

Types come from `value.meta["hasten.type"]` (any object with a str) when the tracer has set it, else from the declared
type.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

_INDENT = "  "
_SHORT = 8


def to_text(model: ir.Model) -> str:
    """The whole model: opsets, inputs, constants, nodes (bodies indented), outputs."""
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(model.opset_imports.items()))
    lines = [f"model {model.graph.name or ''} (opset {opsets})"]
    for function in model.functions.values():
        lines.append(f"function {function.domain}::{function.name}({_names(function.inputs)})")
        lines += _graph_lines(function.graph, _INDENT, header=False)
    lines += _graph_lines(model.graph, "", header=True)
    return "\n".join(lines) + "\n"


def _graph_lines(graph: ir.Graph, indent: str, *, header: bool) -> list[str]:
    lines = [f"{indent}input {value_text(value)}" for value in graph.inputs]
    if header:
        lines += [f"{indent}const {value_text(value)}{_contents(value)}" for value in graph.initializers.values()]
    for node in graph:
        lines += node_lines(node, indent)
    return [*lines, f"{indent}return {_names(graph.outputs)}"]


def node_lines(node: ir.Node, indent: str = "") -> list[str]:
    """One line for a node, followed by the indented lines of the graphs inside it."""
    arguments = [_argument(value) for value in node.inputs]
    inner: list[str] = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) and not attribute.is_ref():
            graphs = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else attribute.value
            for graph in graphs:
                inner.append(f"{indent}{_INDENT}{name}:")
                inner += _graph_lines(graph, indent + 2 * _INDENT, header=True)
        else:
            arguments.append(f"{name}={attribute_text(attribute)}")
    outputs = ", ".join(value_text(value) for value in node.outputs)
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    comment = f"  # {node.name}" if node.name else ""
    return [f"{indent}{outputs} = {op}({', '.join(arguments)}){comment}", *inner]


def value_text(value: ir.Value) -> str:
    """%name: type, or %name alone when nothing is known."""
    if not value.name:
        return "_"
    kind = type_text(value)
    return f"%{value.name}: {kind}" if kind else f"%{value.name}"


def type_text(value: ir.Value) -> str:
    """float32[n,64]; empty when unknown."""
    known = value.meta.get("hasten.type")
    if known is not None:
        return str(known)
    if value.type is None:
        return ""
    name = str(value.type) if not isinstance(value.type, ir.TensorType) else dtype_text(value.type.dtype)
    if value.shape is None or not isinstance(value.type, ir.TensorType):
        return name
    dims = [str(dim) if isinstance(dim, int) else (dim.value or "?") for dim in value.shape]
    return f"{name}[{','.join(dims)}]"


def dtype_text(dtype: ir.DataType) -> str:
    """NumPy's name of an element type."""
    return {"FLOAT": "float32", "DOUBLE": "float64", "STRING": "str"}.get(dtype.name, dtype.name.lower())


def attribute_text(attribute: ir.Attr) -> str:
    """An attribute's value in a few words."""
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    return _plain(attribute.value)


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_plain(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, (int, str, bytes)):
        return repr(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        shape = ",".join(str(dim) for dim in value.shape)
        return f"{dtype_text(value.dtype)}[{shape}]{_few(value)}"
    return str(getattr(value, "type", value))


def _argument(value: ir.Value | None) -> str:
    if value is None or not value.name:
        return "_"
    few = _contents(value) if value.is_initializer() else ""
    return f"%{value.name}{few}"


def _contents(value: ir.Value) -> str:
    tensor = value.const_value
    return f" = {text}" if tensor is not None and (text := _few(tensor)) else ""


def _few(tensor: ir.TensorProtocol) -> str:
    if tensor.size > _SHORT or tensor.dtype == ir.DataType.STRING:
        return ""
    numbers = tensor.numpy().reshape(-1).tolist()
    text = ", ".join(f"{x:.6g}" if isinstance(x, float) else str(x) for x in numbers)
    return text if tensor.numpy().ndim == 0 else f"[{text}]"


def _names(values: Any) -> str:
    return ", ".join(f"%{value.name}" for value in values)
