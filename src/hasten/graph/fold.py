"""Constants: Constant nodes and nested initializers move to the main graph, nodes of constants are computed, dead
code goes.

Each pass takes the model's editor and returns the number of changes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.base.errors import ModelError
from hasten.graph.edit import Editor, attribute, constant, control_graphs, is_op, remove_dead
from hasten.graph.evaluate import evaluate


def hoist_constants(edit: Editor) -> int:
    """All constants become initializers of the main graph; bodies use them as values of the outer scope."""
    changes = 0
    main = edit.model.graph
    for graph in control_graphs(main):
        for node in list(graph):
            if is_op(node, "Constant"):
                edit.replace(node, [edit.tensor(*constant_tensor(edit, node))])
                changes += 1
        if graph is not main:
            changes += _hoist_initializers(edit, graph)
    return changes


def _hoist_initializers(edit: Editor, graph: ir.Graph) -> int:
    held = list(graph.initializers.values())
    for value in held:
        assert value.name is not None and value.const_value is not None
        del graph.initializers[value.name]
        if value.is_graph_input():
            continue
        new = edit.tensor(value.const_value, edit.unique(value.name))
        for user, index in tuple(value.uses()):
            user.replace_input_with(index, new)
        for i, output in enumerate(graph.outputs):
            if output is value:
                copy = ir.node("Identity", [new], name=edit.unique(f"{value.name}/copy"))
                copy.outputs[0].name = edit.unique(value.name)
                graph.append(copy)
                graph.outputs[i] = copy.outputs[0]
    return len(held)


def constant_tensor(edit: Editor, node: ir.Node) -> tuple[ir.TensorProtocol, str]:
    name = edit.unique(node.outputs[0].name or node.name or "constant")
    found = next((a for a in node.attributes.values() if a.name.startswith("value")), None)
    if found is None or len(node.attributes) != 1:
        raise ModelError(f"node {node.name!r} (Constant): it must have exactly one value")
    if found.name == "value":
        tensor = found.as_tensor()
        if isinstance(tensor, ir.StringTensor):
            return ir.StringTensor(list(tensor.string_data()), shape=ir.Shape(tensor.shape), name=name), name
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name), name
    if found.name in ("value_string", "value_strings"):
        single = found.name == "value_string"
        texts = [found.value] if single else list(found.value)
        data = [text.encode() if isinstance(text, str) else text for text in texts]
        return ir.StringTensor(data, shape=ir.Shape([] if single else [len(data)]), name=name), name
    dtype = np.float32 if found.name.startswith("value_float") else np.int64
    return ir.Tensor(np.asarray(found.value, dtype), name=name), name


def fold_constants(edit: Editor) -> int:
    """Compute nodes whose inputs are all constant; what would grow too large or fails stays as it is."""
    changes = 0
    for graph in control_graphs(edit.model.graph):
        for node in list(graph):
            if node.domain or not node.inputs or not _foldable_inputs(node):
                continue
            outputs = evaluate(node, [constant(value) for value in node.inputs])
            if outputs is None or len(outputs) < len(node.outputs) or _is_plain_output(node):
                continue
            values = [
                edit.constant(array, value.name or f"{node.name}/folded")
                for array, value in zip(outputs, node.outputs, strict=False)
            ]
            edit.replace(node, values)
            changes += 1
    return changes


def _foldable_inputs(node: ir.Node) -> bool:
    given = [value for value in node.inputs if value is not None]
    return bool(given) and all(constant(value) is not None for value in given)


def _is_plain_output(node: ir.Node) -> bool:
    """An Identity that only gives a constant the name of an output."""
    return node.op_type == "Identity" and node.outputs[0].is_graph_output()


def remove_unused(edit: Editor) -> int:
    """Dead nodes, initializers that nobody uses, and outputs at the end of a node that nobody uses."""
    main = edit.model.graph
    changes = remove_dead(main)
    for name, value in list(main.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del main.initializers[name]
            changes += 1
    return changes


def inline_constant_if(edit: Editor) -> int:
    """An If whose condition is known becomes the nodes of the branch that is taken."""
    changes = 0
    for graph in control_graphs(edit.model.graph):
        for node in list(graph):
            if not is_op(node, "If") or node.graph is not graph:
                continue
            condition = constant(node.inputs[0])
            if condition is None or condition.size != 1:
                continue
            taken: ir.Graph = attribute(node, "then_branch" if condition.reshape(-1)[0] else "else_branch")
            _splice(edit, node, taken)
            changes += 1
    return changes


def _splice(edit: Editor, node: ir.Node, branch: ir.Graph) -> None:
    """Move the nodes of a branch in front of its If node, and let their values stand for its outputs."""
    graph = node.graph
    assert graph is not None
    outputs = list(branch.outputs)
    branch.outputs.clear()
    inner = list(branch)
    branch.remove(inner)
    graph.insert_before(node, inner)
    edit.replace(node, outputs)


def own_outputs(edit: Editor) -> int:
    """Every output of every graph is computed by a node of that graph, and by one output only (through Identity)."""
    changes = 0
    for graph in control_graphs(edit.model.graph):
        seen: set[ir.Value] = set()
        for index, value in enumerate(list(graph.outputs)):
            producer = value.producer()
            if producer is not None and producer.graph is graph and value not in seen:
                seen.add(value)
                continue
            changes += 1
            copy = ir.node("Identity", [value], name=edit.unique(f"{value.name}/output"))
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            if graph is edit.model.graph and not value.is_graph_input() and value not in seen:
                name = value.name
                value.name = edit.unique(f"{name}/value")
                copy.outputs[0].name = name
            else:
                copy.outputs[0].name = edit.unique(f"{value.name}/output")
            graph.append(copy)
            graph.outputs[index] = copy.outputs[0]
    return changes
