"""An ONNX model as a torch.fx.GraphModule, for given inputs.

    convert(model, feeds) -> GraphModule

The graph is walked once with the inputs at hand. Every operator (`torch_operators`) is computed on them and, where its result depends on an input's
elements, recorded; what depends on constants and shapes alone is computed here for good. So the module has static shapes and no shape arithmetic in
it, and its weights are parameters. Branches whose condition is known are inlined; loops, and shapes made by data, are Untranslatable.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hasten.base.errors import InputError

HALVES = (torch.float16, torch.bfloat16)


class Untranslatable(InputError):
    """The model, or these inputs, ask for something that has no torch module here."""


@dataclass(eq=False)
class Value:
    """A tensor of the model: `example` is what it is for the inputs at hand, `node` what computes it; without a node it is always that."""

    example: torch.Tensor
    node: torch.fx.Node | None = None

    @property
    def known(self) -> bool:
        return self.node is None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.example.shape)

    @property
    def rank(self) -> int:
        return self.example.ndim

    def constant(self) -> Any:
        """As Python numbers. Raises Untranslatable where it depends on the inputs' elements."""
        if not self.known:
            raise Untranslatable("a shape or an index depends on the elements of the inputs")
        return self.example.tolist()


class Builder:
    """What operators record into. 16-bit floats are widened: torch's CPU kernels for them are few, and other engines compute in float32 too."""

    def __init__(self) -> None:
        self.graph = torch.fx.Graph()
        self.module = torch.nn.Module()
        self.uses: dict[str, int] = {}  # of each value of the model, by nodes
        self._registered: dict[int, torch.fx.Node] = {}
        self._kept: list[Value] = []  # so that ids stay unique

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`function` on Values (also in lists) and plain arguments: a Value, or a tuple of them; recorded unless all Values are known."""
        found: list[Value] = []

        def example_of(value: Value) -> torch.Tensor:
            found.append(value)
            return value.example

        example = function(*_map(args, example_of), **_map(kwargs, example_of))
        if all(value.known for value in found):
            return _map_tensors(example, lambda tensor, _: Value(tensor))
        node = self.graph.call_function(function, _map(args, self.reference), _map(kwargs, self.reference))
        if isinstance(example, torch.Tensor):
            return Value(example, node)
        return _map_tensors(example, lambda tensor, at: Value(tensor, self.graph.call_function(operator.getitem, (node, at))))

    def constant(self, value: Any, dtype: torch.dtype | None = None) -> Value:
        """A known Value of numbers or a tensor."""
        return Value(torch.as_tensor(value, dtype=dtype))

    def reference(self, value: Value) -> torch.fx.Node:
        """What stands for a Value in the graph: a known one becomes a parameter of the module (a buffer if it has no floats)."""
        if value.node is not None:
            return value.node
        if id(value) not in self._registered:
            name = f"constant_{len(self._registered)}"
            tensor = value.example.detach()
            if tensor.is_floating_point():
                self.module.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
            else:
                self.module.register_buffer(name, tensor)
            self._registered[id(value)] = self.graph.get_attr(name)
            self._kept.append(value)
        return self._registered[id(value)]


def _map(structure: Any, function: Callable[[Value], Any]) -> Any:
    """The structure with `function` of each Value in it."""
    if isinstance(structure, Value):
        return function(structure)
    if isinstance(structure, (list, tuple)):
        return type(structure)(_map(part, function) for part in structure)
    if isinstance(structure, dict):
        return {key: _map(part, function) for key, part in structure.items()}
    return structure


def _map_tensors(result: Any, function: Callable[[torch.Tensor, int], Value]) -> Any:
    """A result of one tensor, or of several."""
    if isinstance(result, torch.Tensor):
        return function(result, 0)
    return tuple(function(tensor, at) for at, tensor in enumerate(result))


def convert(model: Any, feeds: Mapping[str, Any]) -> torch.fx.GraphModule:
    """The ModelProto as a module: inputs in the order of the model's, without those that have initializers; a tuple of outputs.

    Raises Untranslatable.
    """
    import onnx.inliner

    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    builder = Builder()
    values = _constants(model.graph)
    for entry in model.graph.input:
        if entry.name not in values:
            values[entry.name] = _placeholder(builder, entry.name, feeds)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    with torch.inference_mode():
        _walk(builder, model.graph, values, opset)
    outputs = [values[entry.name] for entry in model.graph.output]
    builder.graph.output(tuple(builder.reference(value) for value in outputs))
    builder.graph.eliminate_dead_code()
    return torch.fx.GraphModule(builder.module, builder.graph)


def _placeholder(builder: Builder, name: str, feeds: Mapping[str, Any]) -> Value:
    import numpy as np

    if name not in feeds:
        raise Untranslatable(f"input {name!r} is not among the feeds")
    array = np.asarray(feeds[name])
    if array.dtype.kind not in "fiub":
        raise Untranslatable(f"input {name!r} has dtype {array.dtype}, which torch has no tensors of")
    value = Value(torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape).copy()))
    if is_setting(array):
        builder.graph.placeholder(f"input_{len(builder.graph.nodes)}")
        return value
    value.node = builder.graph.placeholder(f"input_{len(builder.graph.nodes)}")
    if value.example.dtype in HALVES:
        value = builder.call(torch.Tensor.to, value, torch.float32)
    return value


def is_setting(array: Any) -> bool:
    """Whether an input is taken for a setting, such as a sample rate, whose value is built into the module: torch would have a Python int for it."""
    return array.ndim == 0 and array.dtype.kind in "iub"


def tensor_of(proto: Any) -> torch.Tensor:
    """A TensorProto; 16-bit floats widened. Raises Untranslatable for texts."""
    import numpy as np
    from onnx import numpy_helper

    array = numpy_helper.to_array(proto)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise Untranslatable(f"constants of dtype {array.dtype}")
    wide = array.astype(np.float32) if array.dtype.itemsize == 2 and array.dtype.kind not in "iu" else array
    return torch.from_numpy(np.array(wide, order="C"))


def _constants(graph: Any) -> dict[str, Value]:
    if graph.sparse_initializer:
        raise Untranslatable("sparse initializers")
    return {tensor.name: Value(tensor_of(tensor)) for tensor in graph.initializer}


def _walk(builder: Builder, graph: Any, values: dict[str, Any], opset: int) -> None:
    """Compute and record the nodes; `values` gets their results."""
    from hasten.bench.peers.torch_operators import OPERATORS

    for name in (*_names(graph), *(entry.name for entry in graph.output)):
        builder.uses[name] = builder.uses.get(name, 0) + 1
    for node in graph.node:
        attributes = attributes_of(node)
        if node.op_type == "If":
            results: Any = _branch(builder, node, attributes, values, opset)
        elif node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise Untranslatable(f"operator {node.domain + '::' if node.domain else ''}{node.op_type}")
        else:
            inputs = [values[name] if name else None for name in node.input]
            results = _apply(OPERATORS[node.op_type], Call(builder, node, attributes, opset), inputs)
        results = results if isinstance(results, tuple) else (results,)
        values.update((name, value) for name, value in zip(node.output, results, strict=False) if name)


@dataclass(frozen=True)
class Call:
    """A node while it is translated."""

    builder: Builder
    node: Any
    attributes: Mapping[str, Any]
    opset: int

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.builder.call(function, *args, **kwargs)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)


def _apply(translate: Callable[..., Any], call: Call, inputs: list[Value | None]) -> Any:
    try:
        return translate(call, *inputs)
    except Untranslatable as error:
        raise Untranslatable(f"{call.node.op_type} {call.node.name!r}: {error}") from None
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        said = str(error).strip().partition("\n")[0]
        raise Untranslatable(f"{call.node.op_type} {call.node.name!r}: {type(error).__name__}: {said}") from error


def _branch(builder: Builder, node: Any, attributes: Mapping[str, Any], values: dict[str, Any], opset: int) -> Any:
    """The branch of an If whose condition is known, inlined."""
    (condition,) = (values[name] for name in node.input)
    if not condition.known:
        raise Untranslatable(f"If {node.name!r}: the branch depends on the elements of the inputs")
    graph = attributes["then_branch" if bool(condition.example) else "else_branch"]
    inner = {**values, **_constants(graph)}
    _walk(builder, graph, inner, opset)
    return tuple(inner[entry.name] for entry in graph.output)


def _names(graph: Any) -> Iterable[str]:
    for node in graph.node:
        yield from node.input
        for value in attributes_of(node).values():
            if hasattr(value, "node"):
                yield from _names(value)


def attributes_of(node: Any) -> dict[str, Any]:
    """Attributes as Python values; tensors and graphs stay protobufs, texts become str."""
    from onnx import helper

    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}
