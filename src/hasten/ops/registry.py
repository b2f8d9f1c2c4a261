"""The table of operators. One entry = one function that builds lazy tensors; it is type rule, shape rule and lowering in one.

    @operator("Relu")
    def relu(cx, node, x):
        return cx.map(x.shape, x.dtype, lambda i: op("max", x.at(i), 0))

The function gets the trace context, the node (attributes), and one argument per input of the node (None where omitted); variadic operators
take `*inputs`. It returns a Tensor, or a list with one entry per output. Graphs are in the newest opset (see graph.upgrade).
An operator that raises `NoNative(reason)` for this particular use runs as a host op.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hasten.base.errors import ModelError
from hasten.lower.trace import Tensor, Value

Rule = Callable[..., Any]
OPERATORS: dict[tuple[str, str], Rule] = {}
REQUIRED = object()


class NoNative(Exception):
    """This use of the operator has no native kernel; the message says why."""


@dataclass
class Node:
    """A node as operators see it: attributes as Python values (tensors as NumPy arrays, graphs as onnx_ir graphs)."""

    op_type: str
    domain: str = ""
    name: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    n_outputs: int = 1
    outputs: tuple[str, ...] = ()  # names; "" where unused
    trace_subgraph: Callable[..., Any] | None = None  # (graph, inputs) -> list of values: control flow

    def attr(self, name: str, default: Any = REQUIRED) -> Any:
        """An attribute's value (ModelError where a required one is missing)."""
        if name in self.attributes:
            return self.attributes[name]
        if default is REQUIRED:
            raise ModelError(f"{self}: attribute {name!r} is missing")
        return default

    def wants(self, output: int) -> bool:
        """Whether optional output number `output` is used."""
        return output < len(self.outputs) and bool(self.outputs[output])

    def __str__(self) -> str:
        return f"{self.op_type} {self.name!r}" if self.name else f"{self.op_type} -> {', '.join(self.outputs)}"


def operator(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for one or several operators."""

    def register(rule: Rule) -> Rule:
        for name in names:
            key = (domain, name)
            assert key not in OPERATORS, f"operator {name} is defined twice"
            OPERATORS[key] = rule
        return rule

    return register


def find(domain: str, name: str) -> Rule | None:
    """The rule of an operator (the default domain is "" or "ai.onnx")."""
    load_all()
    return OPERATORS.get(("" if domain == "ai.onnx" else domain, name))


def load_all() -> None:
    """Import every operator family once."""
    import importlib
    import pkgutil

    import hasten.ops as room

    for module in sorted(m.name for m in pkgutil.iter_modules(room.__path__)):
        importlib.import_module(f"hasten.ops.{module}")


def tensors(node: Node, *values: Value | None) -> None:
    """Raise NoNative unless all given values are tensors."""
    for v in values:
        if v is not None and not isinstance(v, Tensor):
            raise NoNative(f"{node.op_type} of a {v.kind}")
