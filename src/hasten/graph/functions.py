"""Functions become nodes: model-local functions are inlined, and operators that ONNX itself defines by a body can be
expanded.

`inline_functions` leaves a model without functions; each inlined node remembers the opset that its function was
written for (`node.version`), so that the upgrade reads it rightly. `expand_schema_function` is for the core: it
replaces one node by the body that the ONNX specification gives for its operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx.defs
import onnx_ir as ir
from onnx_ir import _cloner
from onnx_ir.passes.common import InlinePass

from hasten.base.errors import ModelError, ResourceLimit
from hasten.graph.edit import Editor, bodies, is_op
from hasten.graph.fold import constant_tensor

MAX_INLINED_NODES = 1_000_000

Key = tuple[str, str, str]


def inline_functions(model: ir.Model) -> int:
    """Inline all model-local functions; returns the number of functions. Recursion is a ModelError."""
    count = len(model.functions)
    if not count:
        return 0
    _check_growth(model)
    version = model.opset_imports.get("")
    for function in model.functions.values():
        _prepare_body(function)
        for domain, number in function.opset_imports.items():
            model.opset_imports.setdefault(domain, number)
        function.opset_imports.update(model.opset_imports)
    try:
        InlinePass()(model)
    except (ValueError, ir.passes.PassError, ir.passes.PreconditionError, AssertionError) as error:
        raise ModelError(f"a function of the model cannot be inlined: {error}") from error
    model.functions.clear()
    if version is None:
        model.opset_imports.setdefault("", 1)
    return count


def _prepare_body(function: ir.Function) -> None:
    """Note each node's opset on it, and give every output of the function a value of its own."""
    for node in function.all_nodes():
        node.version = function.opset_imports.get(node.domain)
    seen: set[ir.Value] = set(function.inputs)
    for index, value in enumerate(function.outputs):
        if value in seen:
            copy = ir.node("Identity", [value], name=f"{function.name}/output{index}")
            function.append(copy)
            function.outputs[index] = copy.outputs[0]
        seen.add(function.outputs[index])


def _check_growth(model: ir.Model) -> None:
    """Size of the model after inlining, without doing it: nested calls can grow exponentially."""
    sizes: dict[Key, int] = {}
    open_calls: set[Key] = set()

    def size_of(key: Key) -> int:
        if key in sizes:
            return sizes[key]
        if key in open_calls or len(open_calls) > 200:
            raise ModelError(f"function {key[0]}::{key[1]} calls itself; ONNX functions must not be recursive")
        open_calls.add(key)
        sizes[key] = total(model.functions[key].all_nodes())
        open_calls.discard(key)
        return sizes[key]

    def total(nodes: object) -> int:
        count = 0
        for node in nodes:  # type: ignore[attr-defined]
            key = node.op_identifier()
            count += size_of(key) if key in model.functions else 1
            if count > MAX_INLINED_NODES:
                raise ResourceLimit(f"inlining the model's functions would make more than {MAX_INLINED_NODES} nodes")
        return count

    total(model.graph.all_nodes())


def expand_schema_function(
    node: ir.Node, input_types: Sequence[tuple[ir.DataType, Sequence[int | None] | None] | None], model: ir.Model
) -> list[ir.Node] | None:
    """Replace a node by the body that ONNX gives for its operator; the new nodes in order, or None if there is no body.

    input_types: (dtype, shape or None) per input, None for an input that is left out. The body is brought to the newest
    opset, its values get unique names, and the values that stood for the node's outputs keep their names.
    """
    from hasten.graph.upgrade import upgrade_nodes

    found = _schema_body(node, input_types)
    if found is None:
        return None
    function, versions, names = found
    graph = node.graph
    assert graph is not None
    editor = Editor(model)
    mapping: dict[ir.Value, ir.Value | None] = {}
    for index, formal in enumerate(function.inputs):
        mapping[formal] = node.inputs[index] if index < len(node.inputs) else None
    defaults = _default_attributes(node) | {a.name: a for a in function.attributes.values() if a.value is not None}

    def rename(inner: ir.Node) -> None:
        inner.name = editor.unique(f"{node.name}/{inner.op_type}")
        inner.version = versions.get(inner.domain)
        inner.meta["hasten.origin"] = node.meta.get("hasten.origin", node.name)
        for value in [*inner.outputs, *(v for body in bodies(inner) for v in body.inputs)]:
            if value.name:
                value.name = editor.unique(f"{node.name}/{value.name}")

    cloner = _cloner.Cloner(
        attr_map={**defaults, **node.attributes},
        value_map=mapping,
        metadata_props={},
        post_process=rename,
        resolve_ref_attrs=True,
    )
    first, last = editor.before(node, "Identity", [None]), ir.node("Identity", [None])
    graph.insert_after(node, last)
    for inner in function:
        graph.insert_before(node, cloner.clone_node(inner))
    by_name = {value.name: mapping[value] for value in function.outputs}
    names += [""] * (len(node.outputs) - len(names))
    editor.replace(node, [by_name.get(name) for name in names[: len(node.outputs)]])
    new = _between(graph, first, last)
    upgrade_nodes(model, editor, [*new, *(n for outer in new for body in bodies(outer) for n in body.all_nodes())])
    for inner in _between(graph, first, last):
        if is_op(inner, "Constant"):
            editor.replace(inner, [editor.tensor(*constant_tensor(editor, inner))])
    nodes = _between(graph, first, last)
    graph.remove([first, last], safe=True)
    return nodes


def _between(graph: ir.Graph, first: ir.Node, last: ir.Node) -> list[ir.Node]:
    """The nodes of a graph between two of its nodes."""
    nodes = list(graph)
    return nodes[nodes.index(first) + 1 : nodes.index(last)]


def _schema_body(
    node: ir.Node, input_types: Sequence[tuple[ir.DataType, Sequence[int | None] | None] | None]
) -> tuple[ir.Function, dict[str, int], list[str]] | None:
    """(body, opset versions it is written for, names of the operator's outputs in it), or None."""
    if not onnx.defs.has(node.op_type, node.domain):
        return None
    schema = onnx.defs.get_schema(node.op_type, node.domain)
    body: onnx.FunctionProto | None = None
    if schema.has_function:
        body = schema.function_body
    elif schema.has_context_dependent_function and all(
        kind is not None for kind in input_types
    ):  # ONNX's code crashes on unknown types
        types = [_type_bytes(kind) for kind in input_types]
        data = schema.get_context_dependent_function(ir.to_proto(node).SerializeToString(), types)
        body = onnx.FunctionProto.FromString(data) if data else None
    if body is None or not body.node:
        return None
    versions = {entry.domain: entry.version for entry in body.opset_import} or {"": schema.since_version}
    names, produced = list(body.output), {name for inner in body.node for name in inner.output} | set(body.input)
    del body.output[:]  # a body made for few outputs does not compute the others
    body.output.extend(name for name in names if name in produced)
    return ir.serde.deserialize_function(body), versions, names


def _default_attributes(node: ir.Node) -> dict[str, ir.Attr]:
    """The defaults of the operator's attributes: bodies refer to them by name."""
    schema = onnx.defs.get_schema(node.op_type, node.domain)
    given = [formal.default_value for formal in schema.attributes.values() if formal.default_value.name]
    return {proto.name: ir.serde.deserialize_attribute(proto) for proto in given}


def _type_bytes(kind: tuple[ir.DataType, Sequence[int | None] | None] | None) -> bytes:
    proto = onnx.TypeProto()
    if kind is not None:
        proto.tensor_type.elem_type = kind[0].value
        if kind[1] is not None:
            proto.tensor_type.shape.SetInParent()
            for dim in kind[1]:
                entry = proto.tensor_type.shape.dim.add()
                if dim is not None:
                    entry.dim_value = dim
    data: bytes = proto.SerializeToString()
    return data
