"""Passes that remove what computes nothing: identities, no-op nodes, pairs that cancel, repeated work.

Each takes the model's editor and returns the number of changes. None of them changes a result by a single bit, except
that adding zero turns -0.0 into 0.0 and dropping the addition does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from hasten.graph.edit import Editor, attribute, constant, control_graphs, input_of, ints, is_op, scalar, set_input
from hasten.graph.facts import Facts

_BIG = 1 << 31
_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"]
)
_SHAPE_OPS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def _is_dropout_off(node: ir.Node, facts: Facts) -> bool:
    training = input_of(node, 2)
    unused = len(node.outputs) < 2 or not (node.outputs[1].uses() or node.outputs[1].is_graph_output())
    return unused and (training is None or scalar(training) == 0)


def _is_same_cast(node: ir.Node, facts: Facts) -> bool:
    dtype = facts.dtype(node.inputs[0])
    return dtype is not None and dtype.value == attribute(node, "to")


def _is_same_cast_like(node: ir.Node, facts: Facts) -> bool:
    dtype = facts.dtype(node.inputs[0])
    return dtype is not None and dtype == facts.dtype(node.inputs[1])


def _is_identity_transpose(node: ir.Node, facts: Facts) -> bool:
    perm = attribute(node, "perm")
    if perm is None:
        return facts.rank(node.inputs[0]) in (0, 1)
    return list(perm) == list(range(len(perm)))


def _is_full_slice(node: ir.Node, facts: Facts) -> bool:
    starts, ends = ints(node.inputs[1]), ints(node.inputs[2])
    steps = [1] if input_of(node, 4) is None else ints(node.inputs[4])
    if starts is None or ends is None or steps is None:
        return False
    return all(s == 0 for s in starts) and all(e >= _BIG - 1 for e in ends) and all(s == 1 for s in steps)


def _is_empty_pad(node: ir.Node, facts: Facts) -> bool:
    pads = ints(node.inputs[1])
    return pads is not None and not any(pads)


def _is_neutral(node: ir.Node, facts: Facts) -> bool:
    """x + 0, x - 0, x * 1, x / 1, x ** 1 where the constant neither broadens the shape nor decides the type."""
    number = scalar(input_of(node, 1))
    if number is None or number != (0.0 if node.op_type in ("Add", "Sub") else 1.0):
        return False
    extra = constant(node.inputs[1])
    rank = facts.rank(node.inputs[0])
    assert extra is not None
    return extra.ndim == 0 or (rank is not None and extra.ndim <= rank)


def _is_same_expand(node: ir.Node, facts: Facts) -> bool:
    shape, rank = ints(node.inputs[1]), facts.rank(node.inputs[0])
    return shape is not None and all(dim == 1 for dim in shape) and rank is not None and len(shape) <= rank


def _is_single(node: ir.Node, facts: Facts) -> bool:
    return len(node.inputs) == 1


def _always(node: ir.Node, facts: Facts) -> bool:
    return True


_NO_OPS: dict[str, Callable[[ir.Node, Facts], bool]] = {
    "Identity": _always,
    "Dropout": _is_dropout_off,
    "Cast": _is_same_cast,
    "CastLike": _is_same_cast_like,
    "Transpose": _is_identity_transpose,
    "Slice": _is_full_slice,
    "Pad": _is_empty_pad,
    "Expand": _is_same_expand,
    "Add": _is_neutral,
    "Sub": _is_neutral,
    "Mul": _is_neutral,
    "Div": _is_neutral,
    "Pow": _is_neutral,
    "Concat": _is_single,
    "Sum": _is_single,
    "Max": _is_single,
    "Min": _is_single,
    "Mean": _is_single,
}


def remove_no_ops(edit: Editor) -> int:
    """Remove nodes that return their first input unchanged."""
    facts = Facts(edit.model)
    changes = 0
    for graph in control_graphs(edit.model.graph):
        for node in list(graph):
            check = _NO_OPS.get(node.op_type) if node.domain == "" else None
            if check is None or not node.inputs or node.inputs[0] is None or not check(node, facts):
                continue
            value = node.inputs[0]
            if node.outputs[0].is_graph_output() and not _may_take_name(value, graph):
                continue
            edit.replace(node, [value, *[None] * (len(node.outputs) - 1)])
            changes += 1
    return changes


def _may_take_name(value: ir.Value, graph: ir.Graph) -> bool:
    """Whether a value can become an output of the graph by taking the output's name."""
    producer = value.producer()
    return producer is not None and producer.graph is graph and not value.is_graph_output()


def merge_shape_ops(edit: Editor) -> int:
    """Transpose of Transpose, Cast of Cast that loses nothing, and Reshape of any op that only reshapes."""
    changes = 0
    for graph in control_graphs(edit.model.graph):
        for node in list(graph):
            source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
            if source is None or source.domain != "" or node.domain != "":
                continue
            if node.op_type == "Transpose" and source.op_type == "Transpose":
                changes += _merge_transposes(node, source)
            elif node.op_type == "Reshape" and source.op_type in _SHAPE_OPS:
                changes += _merge_reshape(node, source)
    return changes


def _merge_transposes(node: ir.Node, source: ir.Node) -> int:
    outer, inner = attribute(node, "perm"), attribute(source, "perm")
    if outer is None or inner is None or len(outer) != len(inner):
        return 0
    node.attributes["perm"] = ir.AttrInt64s("perm", [inner[axis] for axis in outer])
    node.replace_input_with(0, source.inputs[0])
    return 1


def _merge_reshape(node: ir.Node, source: ir.Node) -> int:
    """Only the last shape counts, unless it copies dims (zeros) of the shape before."""
    target = ints(node.inputs[1])
    if target is None or 0 in target:
        return 0
    node.replace_input_with(0, source.inputs[0])
    return 1


def drop_empty_inputs(edit: Editor) -> int:
    """Empty constants for the optional inputs of Resize, and missing inputs at the end of a node, are left out."""
    changes = 0
    for graph in control_graphs(edit.model.graph):
        for node in graph:
            if is_op(node, "Resize"):
                for index in (1, 2, 3):
                    array = constant(input_of(node, index))
                    if array is not None and array.size == 0:
                        set_input(node, index, None)
                        changes += 1
            while node.inputs and node.inputs[-1] is None:
                node.resize_inputs(len(node.inputs) - 1)
                changes += 1
    return changes


def share_repeated(edit: Editor) -> int:
    """Nodes with the same operator, inputs and attributes become one, and so do equal small constants."""
    changes = _share_constants(edit)
    for graph in control_graphs(edit.model.graph):
        seen: dict[Any, ir.Node] = {}
        for node in list(graph):
            key = _key(node)
            if key is None:
                continue
            first = seen.setdefault(key, node)
            if first is node or any(value.is_graph_output() for value in node.outputs):
                continue
            edit.replace(node, list(first.outputs))
            changes += 1
    return changes


def _key(node: ir.Node) -> Any:
    if node.op_type in _RANDOM:
        return None
    attributes = []
    for name, found in sorted(node.attributes.items()):
        if found.is_ref() or found.type not in _PLAIN_ATTRIBUTES:
            return None
        value = found.value
        if found.type == ir.AttributeType.TENSOR:
            if value.size > 64 or value.dtype == ir.DataType.STRING:
                return None
            value = (value.dtype, tuple(value.shape), value.numpy().tobytes())
        attributes.append((name, tuple(value) if isinstance(value, (list, tuple)) else value))
    return (
        node.domain,
        node.op_type,
        tuple(id(v) if v is not None else None for v in node.inputs),
        tuple(attributes),
        len(node.outputs),
    )


_PLAIN_ATTRIBUTES = frozenset(
    ir.AttributeType[name] for name in ("INT", "INTS", "FLOAT", "FLOATS", "STRING", "STRINGS", "TENSOR")
)


def _share_constants(edit: Editor) -> int:
    changes = 0
    seen: dict[Any, ir.Value] = {}
    for value in list(edit.model.graph.initializers.values()):
        array = constant(value)
        if array is None or array.nbytes > 1024 or value.is_graph_output():
            continue
        assert value.const_value is not None and value.name is not None
        key = (value.const_value.dtype, array.shape, np.ascontiguousarray(array).tobytes())
        first = seen.setdefault(key, value)
        if first is not value:
            for user, index in tuple(value.uses()):
                user.replace_input_with(index, first)
            del edit.model.graph.initializers[value.name]
            changes += 1
    return changes
