"""Small tools that every pass uses to change a graph: constants, new nodes with unique names, replacing nodes.

Attributes are read with `attribute(node, name, default)`, written with plain Python values through `ir.node`'s
conversion. A graph output keeps its name whatever happens to the node that computes it: `replace` sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

_MISSING = object()


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The plain value of an attribute (int, float, str, tuple, tensor, graph), or `default` when it is absent."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def take(node: ir.Node, name: str, default: Any = None) -> Any:
    """Remove an attribute and return its value."""
    found = node.attributes.pop(name, None)
    return default if found is None else found.value


def set_attribute(node: ir.Node, name: str, value: Any) -> None:
    """Set an attribute from a plain value (int, float, str or a non-empty list of them, tensor)."""
    node.attributes[name] = ir.convenience.convert_attribute(name, value)


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """The input at `index`; None when it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Set the input at `index`, lengthening the list of inputs where needed."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether a node is one of these operators of ONNX's own domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant value, None when it is not constant (or absent, or text)."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    if value.const_value.dtype == ir.DataType.STRING:
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number of a constant with one element, else None."""
    array = constant(value)
    return None if array is None or array.size != 1 or array.dtype.kind == "c" else float(array.reshape(-1)[0])


def ints(value: ir.Value | None) -> list[int] | None:
    """The integers of a constant vector (or scalar), else None."""
    array = constant(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    return [int(x) for x in array.reshape(-1)]


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs in a node's attributes."""
    for found in node.attributes.values():
        if found.is_ref():
            continue
        if found.type == ir.AttributeType.GRAPH:
            yield found.as_graph()
        elif found.type == ir.AttributeType.GRAPHS:
            yield from found.as_graphs()


def all_graphs(graph: ir.Graph) -> list[ir.Graph]:
    """A graph and all graphs nested in it, outermost first."""
    found = [graph]
    for current in found:
        for node in current:
            found.extend(bodies(node))
    return found


_CONTROL = ("If", "Loop", "Scan", "SequenceMap")


def control_graphs(graph: ir.Graph) -> list[ir.Graph]:
    """A graph and the graphs nested in it through control flow, outermost first.

    Graphs that other operators carry (a score function, say) are not among them: whoever runs such an operator takes
    its graph as a whole, so it must not come to use values of the outer scope.
    """
    found = [graph]
    for current in found:
        for node in current:
            if is_op(node, *_CONTROL):
                found.extend(bodies(node))
    return found


class Editor:
    """Makes nodes and constants with names that are unique in the whole model."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._names: set[str] = set()
        for graph in all_graphs(model.graph):
            self.note(graph)

    def note(self, graph: ir.Graph) -> None:
        """Remember the names of one graph as taken."""
        self._names.update(v.name for v in graph.inputs if v.name)
        self._names.update(graph.initializers)
        for node in graph:
            self._names.update(v.name for v in node.outputs if v.name)
            if node.name:
                self._names.add(node.name)

    def unique(self, base: str) -> str:
        """`base` itself, or `base` with the first free number behind it."""
        name, number = base, 1
        while name in self._names:
            number += 1
            name = f"{base}_{number}"
        self._names.add(name)
        return name

    def constant(self, array: np.ndarray, base: str, dtype: ir.DataType | None = None) -> ir.Value:
        """A new initializer of the main graph; nested graphs use it as a value of the outer scope."""
        name = self.unique(base)
        return self.tensor(ir.Tensor(np.asarray(array), dtype=dtype, name=name), name)

    def tensor(self, tensor: ir.TensorProtocol, name: str) -> ir.Value:
        """A new initializer that holds a tensor; `name` must be unique already."""
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)  # type: ignore[arg-type]
        self.model.graph.initializers[name] = value
        return value

    def ints(self, numbers: Iterable[int], base: str) -> ir.Value:
        """An int64 vector as an initializer."""
        return self.constant(np.asarray(list(numbers), np.int64), base)

    def like(self, number: float, dtype: ir.DataType, base: str) -> ir.Value:
        """A scalar of a given dtype as an initializer."""
        return self.constant(np.asarray(number).astype(dtype.numpy()), base, dtype)

    def before(
        self,
        anchor: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: int = 1,
        suffix: str = "",
    ) -> ir.Node:
        """A new node right before `anchor`, named after it."""
        base = anchor.name or (anchor.outputs[0].name if anchor.outputs else None) or anchor.op_type
        base = f"{base}/{suffix or op_type}"
        node = ir.node(op_type, inputs, attributes or {}, num_outputs=outputs)
        node.name = self.unique(base)
        node.meta["hasten.origin"] = anchor.meta.get("hasten.origin", anchor.name)
        for i, output in enumerate(node.outputs):
            output.name = self.unique(f"{base}:{i}")
        graph = anchor.graph
        assert graph is not None
        graph.insert_before(anchor, node)
        return node

    def value_before(
        self,
        anchor: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        suffix: str = "",
    ) -> ir.Value:
        """The only output of a new node right before `anchor`."""
        return self.before(anchor, op_type, inputs, attributes, suffix=suffix).outputs[0]

    def replace(self, node: ir.Node, values: Sequence[ir.Value | None]) -> None:
        """Let `values` stand for the outputs of `node`, then remove the node. A None needs an unused output."""
        for old, new in zip(node.outputs, values, strict=True):
            if new is not None:
                self.redirect(old, new, node)
        graph = node.graph
        assert graph is not None
        graph.remove(node, safe=True)

    def redirect(self, old: ir.Value, new: ir.Value, anchor: ir.Node) -> None:
        """All uses of `old` become uses of `new`; a graph output keeps its name (through Identity where it must)."""
        owner = old.graph if old.is_graph_output() else None
        if owner is not None:
            new = self._as_output(old, new, owner, anchor)
            for i, output in enumerate(owner.outputs):
                if output is old:
                    owner.outputs[i] = new
        for user, index in tuple(old.uses()):
            if user is not anchor:
                user.replace_input_with(index, new)

    def _as_output(self, old: ir.Value, new: ir.Value, owner: ir.Graph, anchor: ir.Node) -> ir.Value:
        """`new` made fit to be an output of `owner` under the name of `old`."""
        producer = new.producer()
        name, kind, shape = old.name, old.type, old.shape
        own = producer is not None and producer.graph is owner and not new.is_graph_output()
        old.name = self.unique(f"{name}/replaced")
        if not own:
            new = self.value_before(anchor, "Identity", [new])
        new.name = name
        new.type, new.shape = kind, shape
        return new


def remove_dead(graph: ir.Graph) -> int:
    """Remove nodes whose outputs nobody uses, in this graph and the graphs nested in it; returns how many."""
    count = 0
    outputs = {id(value) for value in graph.outputs}
    for node in reversed(graph):
        if not any(id(v) in outputs or v.uses() for v in node.outputs):
            detach_bodies(node)
            graph.remove(node, safe=True)
            count += 1
            continue
        for body in bodies(node):
            count += remove_dead(body)
    return count


def detach_bodies(node: ir.Node) -> None:
    """Let the graphs inside a node that is going away stop using values of the outer scope."""
    for body in bodies(node):
        for inner in body:
            detach_bodies(inner)
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
