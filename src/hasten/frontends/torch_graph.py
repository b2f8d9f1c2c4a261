"""ATen graphs become models: what `torch.compile` gives to a backend, after autograd and functionalization.

The graph is made an `ExportedProgram`, as if it came from `torch.export`, and takes the same way into Hasten as those. Before that, products
and attention are put together again (`torch_restore`), and sizes that PyTorch passes as integers beside the tensors are read from the
tensors, so that they are sizes for Hasten, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch.export import ExportedProgram
from torch.export import graph_signature as S
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature

from hasten.base.errors import UnsupportedOperator
from hasten.frontends.torch import failing, program_model
from hasten.frontends.torch_arrays import to_array
from hasten.frontends.torch_restore import ATTENTION, expression, restore


@dataclass(frozen=True)
class AtenGraph:
    """A graph as a model, and how a call's arguments and results belong to it.

    weights: number of an input of `model` -> position of the argument that `with_weights` makes a constant of it. feeds: for each of the
    other inputs the position of its argument. results: for each result of the graph ("model", number of the model's output), ("argument",
    position) or ("constant", value). values: for each output of the model what PyTorch says of it: a fake tensor or a symbolic number.
    """

    model: ir.Model
    weights: dict[int, int]
    feeds: list[int]
    results: list[tuple[str, Any]]
    values: list[Any]

    def with_weights(self, tensors: Mapping[int, Any]) -> ir.Model:
        """The model with these tensors (by position of the argument) as constants. Their memory is shared, not copied."""
        model = self.model.clone()
        inputs = list(model.graph.inputs)
        for number, position in self.weights.items():
            value = inputs[number]
            value.const_value = ir.tensor(to_array(tensors[position].detach()), name=value.name)
            model.graph.inputs.remove(value)
            model.graph.initializers.add(value)
        return model


def aten_graph(module: Any, constant: Collection[int]) -> AtenGraph:
    """Translate a functional ATen graph; `module` (a `torch.fx.GraphModule`) is changed and must not be run any more.

    constant: positions of the arguments that become constants. Raises UnsupportedOperator for what a model cannot express, ModelError for what
    PyTorch's exporter cannot.
    """
    with failing("export this graph"):
        return _translate(module, constant)


def _translate(module: Any, constant: Collection[int]) -> AtenGraph:
    graph = module.graph
    restore(graph)
    _without_unused(module)
    _refuse_random(graph)
    placeholders = graph.find_nodes(op="placeholder")
    results, outputs = _results(graph, placeholders)
    _sizes_from_tensors(placeholders)
    positions = [k for k, node in enumerate(placeholders) if node.users]
    for node in placeholders:
        if not node.users:
            graph.erase_node(node)
    program = _program(module, [placeholders[k] for k in positions], outputs)
    weights = {number: k for number, k in enumerate(positions) if k in constant}
    values = [node.meta["val"] for node in outputs]
    return AtenGraph(program_model(program, "graph"), weights, [k for k in positions if k not in constant], results, values)


def _refuse_random(graph: Any) -> None:
    for node in graph.nodes:
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if random and not (node.target is ATTENTION and node.args[4] == 0):  # attention: only with dropout
            raise UnsupportedOperator(f"{node.target} draws from PyTorch's random numbers")


def _results(graph: Any, placeholders: list[Any]) -> tuple[list[tuple[str, Any]], list[Any]]:
    """Where each result comes from, and the nodes that the model computes, each once; these become the graph's outputs."""
    output = graph.output_node()
    results: list[tuple[str, Any]] = []
    nodes: list[Any] = []
    for value in output.args[0]:
        if not isinstance(value, torch.fx.Node):
            results.append(("constant", value))
        elif value.op == "placeholder":
            results.append(("argument", placeholders.index(value)))
        else:
            if value not in nodes:
                nodes.append(value)
            results.append(("model", nodes.index(value)))
    if not nodes:
        raise UnsupportedOperator("the graph computes nothing")
    output.args = (tuple(nodes),)
    return results, nodes


def _sizes_from_tensors(placeholders: list[Any]) -> None:
    """Use a tensor's size in the place of each integer argument that is one."""
    places: dict[Any, tuple[Any, int]] = {}
    for node in placeholders:
        if isinstance(node.meta["val"], torch.Tensor):
            for axis, size in enumerate(node.meta["val"].shape):
                places.setdefault(expression(size), (node, axis))
    graph = placeholders[-1].graph
    for node in placeholders:
        place = places.get(expression(node.meta["val"])) if isinstance(node.meta["val"], torch.SymInt) else None
        if place is not None and node.users:
            with graph.inserting_after(placeholders[-1]):
                size = graph.call_function(torch.ops.aten.sym_size.int, place)
            size.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(size)


def _program(module: Any, inputs: list[Any], outputs: list[Any]) -> ExportedProgram:
    """The graph as `torch.export` would give it, all inputs being the user's."""
    constants = _lifted(module)
    module.graph.lint()
    module.recompile()
    lifted = [S.InputSpec(S.InputKind.CONSTANT_TENSOR, S.TensorArgument(name=name), name) for name in constants]
    tree = torch.utils._pytree.tree_structure
    calls = ModuleCallSignature([], [], tree((tuple(range(len(inputs))), {})), tree(tuple(range(len(outputs)))))
    return ExportedProgram(
        root=module,
        graph=module.graph,
        graph_signature=S.ExportGraphSignature(
            lifted + [S.InputSpec(S.InputKind.USER_INPUT, _argument(node), None) for node in inputs],
            [S.OutputSpec(S.OutputKind.USER_OUTPUT, _argument(node), None) for node in outputs],
        ),
        state_dict={},
        range_constraints={},
        module_call_graph=[ModuleCallEntry("", calls)],
        constants=constants,
    )


def _lifted(module: Any) -> dict[str, Any]:
    """Tensors that are the graph's own become its first inputs, as exported programs have them; by name."""
    constants: dict[str, Any] = {}
    for node in list(module.graph.find_nodes(op="get_attr")):
        tensor = getattr(module, node.target)
        if not isinstance(tensor, torch.Tensor):
            continue
        with module.graph.inserting_before(next(iter(module.graph.nodes))):
            place = module.graph.placeholder(f"constant_{len(constants)}")
        place.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(place)
        module.graph.erase_node(node)
        constants = {place.name: tensor, **constants}
    return constants


def _without_unused(module: Any) -> None:
    """Nested graphs (of cond, while_loop, ...) lose the inputs that none of them reads: PyTorch passes them all sizes that it met."""
    for node in module.graph.nodes:
        nested = [getattr(module, a.target) for a in node.args if getattr(a, "op", "") == "get_attr"]
        if not nested or not isinstance(node.args[-1], (tuple, list)):
            continue
        *front, operands = node.args
        places = [m.graph.find_nodes(op="placeholder")[-len(operands) :] for m in nested]
        unread = [k for k in range(len(operands)) if not any(p[k].users for p in places)]
        for m, p in zip(nested, places, strict=True):
            for k in unread:
                m.graph.erase_node(p[k])
            m.recompile()
        node.args = (*front, tuple(a for k, a in enumerate(operands) if k not in unread))
    module.graph.eliminate_dead_code()


def _argument(node: Any) -> Any:
    value = node.meta["val"]
    for kind, argument in _ARGUMENTS.items():
        if isinstance(value, kind):
            return argument(name=node.name)
    raise UnsupportedOperator(f"a graph with an argument or result of type {type(value).__name__}")


_ARGUMENTS: dict[Any, Any] = {
    torch.Tensor: S.TensorArgument,
    torch.SymInt: S.SymIntArgument,
    torch.SymFloat: S.SymFloatArgument,
    torch.SymBool: S.SymBoolArgument,
}
