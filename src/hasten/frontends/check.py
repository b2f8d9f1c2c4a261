"""Structural checks of a model proto, before anything is built from it.

After `ModelChecker(model, reader).run()` the following holds, or a ModelError has named the node and the value: opset
versions are known; every value that is used is defined once in its scope; graphs have no cycles; operators of the
ONNX domains exist in their opset with the right number of inputs and outputs and attributes of the right types;
tensors are consistent; bodies of If, Loop and Scan have the right number of inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx.defs

from hasten.base.errors import ModelError, ResourceLimit, UnsupportedOperator
from hasten.frontends.tensors import MAX_ELEMENTS, TensorReader, data_type, element_count

MAX_NESTING = 24
MAX_OPERANDS = 1 << 13
MAX_INPUT_BYTES = 1 << 42

_A = onnx.AttributeProto
_KNOWN_ATTRIBUTE_TYPES = frozenset(_A.AttributeType.values()) - {_A.UNDEFINED}
_DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "softmax_precision", "stash_type")
_GRAPH_TYPES = (_A.GRAPH, _A.GRAPHS)
_Option = onnx.defs.OpSchema.FormalParameterOption


def domain_of(name: str) -> str:
    """ONNX's own domain has two spellings; this is the short one."""
    return "" if name == "ai.onnx" else name


def newest_opsets() -> dict[str, int]:
    """Newest opset version that the installed onnx knows, by domain."""
    newest: dict[str, int] = {"": onnx.defs.onnx_opset_version()}
    for domain, (_, last) in onnx.defs.C.schema_version_map().items():
        newest[domain_of(domain)] = max(last, newest.get(domain_of(domain), 0))
    return newest


def describe(node: onnx.NodeProto) -> str:
    """How messages name a node: its name and operator, or its first output when it has no name."""
    label = node.name or (f"-> {node.output[0]}" if node.output else "without name")
    return f"node {label!r} ({node.op_type})"


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of a node."""
    for attribute in node.attribute:
        if attribute.type == _A.GRAPH:
            yield attribute.g
        elif attribute.type == _A.GRAPHS:
            yield from attribute.graphs


class ModelChecker:
    """Checks one model; `unsorted` tells afterwards whether some graph lists nodes before their inputs."""

    def __init__(self, model: onnx.ModelProto, reader: TensorReader) -> None:
        self.model = model
        self.reader = reader
        self.unsorted = False
        self._functions: dict[tuple[str, str, str], onnx.FunctionProto] = {}
        self._opsets: dict[str, int] = {}
        self._newest = newest_opsets()

    def run(self) -> None:
        model = self.model
        if not model.HasField("graph"):
            raise ModelError("the file holds no graph; it is empty, damaged, or not an ONNX model")
        if not 1 <= model.ir_version <= onnx.IR_VERSION:
            raise ModelError(
                f"the model has IR version {model.ir_version}; the installed onnx {onnx.__version__} knows "
                f"1 to {onnx.IR_VERSION}. Update onnx, or save the model for an older version"
            )
        self._opsets = self._read_opsets(model.opset_import, "the model", model.ir_version)
        self._register_functions()
        self._graph(model.graph, [], 0, top=True)
        for key, function in self._functions.items():
            self._function(key, function)

    def _read_opsets(self, imports: object, where: str, ir_version: int = onnx.IR_VERSION) -> dict[str, int]:
        versions: dict[str, int] = {}
        for entry in imports:  # type: ignore[attr-defined]
            domain = domain_of(entry.domain)
            if domain in versions and versions[domain] != entry.version:
                raise ModelError(f"{where} imports two versions of opset {domain or 'ai.onnx'!r}")
            versions[domain] = entry.version
            newest = self._newest.get(domain)
            if entry.version < 1 or (newest is not None and entry.version > newest):
                raise ModelError(
                    f"{where} uses opset {entry.version} of {domain or 'ai.onnx'!r}; the installed onnx "
                    f"{onnx.__version__} knows 1 to {newest}. Update onnx, or convert the model"
                )
        if not versions and ir_version < 3:
            versions[""] = 1
        if not versions:
            raise ModelError(f"{where} imports no operator set; it is truncated or damaged")
        return versions

    def _register_functions(self) -> None:
        for function in self.model.functions:
            key = (domain_of(function.domain), function.name, function.overload)
            if not function.name:
                raise ModelError("a function of the model has no name")
            if key in self._functions:
                raise ModelError(f"function {function.name!r} of domain {function.domain!r} is defined twice")
            self._functions[key] = function

    def _function(self, key: tuple[str, str, str], function: onnx.FunctionProto) -> None:
        where = f"function {key[0] or 'ai.onnx'}::{key[1]}"
        outer, self._opsets = self._opsets, self._read_opsets(function.opset_import, where)
        body = onnx.GraphProto(name=function.name)
        body.node.extend(function.node)
        body.input.extend(onnx.ValueInfoProto(name=name) for name in function.input)
        body.output.extend(onnx.ValueInfoProto(name=name) for name in function.output)
        self._graph(body, [], 0, in_function=True)
        self._opsets = outer

    def _graph(
        self,
        graph: onnx.GraphProto,
        scopes: list[set[str]],
        depth: int,
        *,
        top: bool = False,
        in_function: bool = False,
    ) -> set[str]:
        """Check one graph; returns the names that it takes from outer scopes."""
        if depth > MAX_NESTING:
            raise ResourceLimit(f"graphs are nested more than {MAX_NESTING} deep")
        defined = self._definitions(graph, top, in_function)
        self._outputs(graph, defined, top)
        chain = [*scopes, defined]
        captured: set[str] = set()
        needs: list[set[str]] = []
        for node in graph.node:
            used = {name for name in node.input if name}
            self._node(node, in_function)
            for inner in subgraphs(node):
                used |= self._graph(inner, chain, depth + 1, in_function=in_function)
            for name in used:
                if not any(name in scope for scope in chain):
                    raise ModelError(f"{describe(node)}: its input {name!r} is not defined anywhere")
            needs.append(used & defined)
            captured |= used - defined
        self._order(graph, needs)
        return captured

    def _definitions(self, graph: onnx.GraphProto, top: bool, in_function: bool) -> set[str]:
        where = f"graph {graph.name!r}"
        _texts(
            where,
            graph.name,
            *(i.name for i in graph.input),
            *(i.name for i in graph.output),
            *(i.name for i in graph.value_info),
            *(t.name for t in graph.initializer),
        )
        inputs: set[str] = set()
        for info in graph.input:
            if not info.name or info.name in inputs:
                raise ModelError(
                    f"{where}: input {info.name!r} is defined twice" if info.name else f"{where}: an input has no name"
                )
            inputs.add(info.name)
        constants: set[str] = set()
        names = [(t.name, t) for t in graph.initializer] + [(s.values.name, None) for s in graph.sparse_initializer]
        for name, tensor in names:
            if name in constants:
                raise ModelError(f"{where}: initializer {name!r} is defined twice")
            if not name:
                raise ModelError(f"{where}: an initializer has no name")
            constants.add(name)
            if tensor is not None:
                self.reader.check(tensor, f"initializer {name!r}")
        for info in graph.input:
            if top and info.name not in constants:
                self._input_type(info)
            elif not in_function:
                self._value_type(info.type, f"input {info.name!r}")
        for info in [*graph.output, *graph.value_info]:
            self._value_type(info.type, f"value {info.name!r}")
        defined = inputs | constants
        for node in graph.node:
            for name in node.output:
                if name and name in defined:
                    raise ModelError(f"{describe(node)}: its output {name!r} is defined twice in {where}")
                if name:
                    defined.add(name)
        return defined

    def _outputs(self, graph: onnx.GraphProto, defined: set[str], top: bool) -> None:
        seen: set[str] = set()
        for info in graph.output:
            if info.name not in defined:
                raise ModelError(f"graph {graph.name!r}: its output {info.name!r} is produced by no node")
            if top and info.name in seen:
                raise ModelError(f"graph {graph.name!r}: two outputs have the name {info.name!r}")
            seen.add(info.name)
        if top and not seen:
            raise ModelError(f"graph {graph.name!r} has no outputs; there is nothing to compute")

    def _input_type(self, info: onnx.ValueInfoProto) -> None:
        where = f"input {info.name!r}"
        if info.type.WhichOneof("value") is None:
            raise ModelError(f"{where}: its type is not given")
        self._value_type(info.type, where)
        if info.type.HasField("tensor_type"):
            dtype = data_type(info.type.tensor_type.elem_type, where)
            dims = [d.dim_value for d in info.type.tensor_type.shape.dim if d.HasField("dim_value") and d.dim_value > 0]
            if dtype.name != "STRING" and element_count(dims, where) * dtype.bitwidth > 8 * MAX_INPUT_BYTES:
                raise ResourceLimit(f"{where}: a tensor of shape {dims} needs more memory than any machine has")

    def _value_type(self, kind: onnx.TypeProto, where: str, depth: int = 0) -> None:
        which = kind.WhichOneof("value")
        if depth > MAX_NESTING:
            raise ResourceLimit(f"{where}: its type is nested too deep")
        if which in ("tensor_type", "sparse_tensor_type"):
            inner = getattr(kind, which)
            if depth == 0 and inner.elem_type == 0:
                return
            data_type(inner.elem_type, where)
            if len(inner.shape.dim) > 64:
                raise ResourceLimit(f"{where}: a rank of {len(inner.shape.dim)} passes the limit of 64")
            for dim in inner.shape.dim:
                _texts(where, dim.dim_param)
                if dim.dim_value > MAX_ELEMENTS:
                    raise ResourceLimit(f"{where}: a dimension of {dim.dim_value} elements is impossible")
        elif which in ("sequence_type", "optional_type"):
            self._value_type(getattr(kind, which).elem_type, where, depth + 1)
        elif which == "map_type":
            data_type(kind.map_type.key_type, where)
            self._value_type(kind.map_type.value_type, where, depth + 1)
        elif which is None and depth:
            raise ModelError(f"{where}: the type of its elements is not given")
        elif which is not None:
            raise ModelError(f"{where}: values of kind {which} are not supported")

    def _node(self, node: onnx.NodeProto, in_function: bool) -> None:
        _texts(
            describe(node),
            node.name,
            node.op_type,
            node.domain,
            node.overload,
            *node.input,
            *node.output,
            *(attribute.name for attribute in node.attribute),
        )
        domain = domain_of(node.domain)
        if len(node.input) > MAX_OPERANDS:
            raise ResourceLimit(f"{describe(node)}: {len(node.input)} inputs pass the limit of {MAX_OPERANDS}")
        if not node.op_type:
            raise ModelError(f"{describe(node)}: it names no operator")
        local = (domain, node.op_type, node.overload) in self._functions
        if domain not in self._opsets and not local:
            raise ModelError(f"{describe(node)}: the model does not import the operator set {domain or 'ai.onnx'!r}")
        schema = None
        if not local and domain in self._newest:
            if not onnx.defs.has(node.op_type, self._opsets[domain], domain):
                raise UnsupportedOperator(
                    f"{describe(node)}: opset {self._opsets[domain]} of {domain or 'ai.onnx'!r} "
                    f"has no operator {node.op_type!r}"
                )
            schema = onnx.defs.get_schema(node.op_type, self._opsets[domain], domain)
            self._arity(node, schema)
        self._attributes(node, schema, in_function)
        self._bodies(node)

    def _arity(self, node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> None:
        for kind, names, low, high in (
            ("inputs", node.input, schema.min_input, schema.max_input),
            ("outputs", node.output, schema.min_output, schema.max_output),
        ):
            if not low <= len(names) <= high:
                wanted = f"{low}" if low == high else f"{low} to {'any number' if high > 1 << 30 else high}"
                raise ModelError(f"{describe(node)}: has {len(names)} {kind}, the operator takes {wanted}")
        for formal, name in zip(schema.inputs, node.input, strict=False):
            if not name and formal.option == _Option.Single:
                raise ModelError(f"{describe(node)}: its input {formal.name!r} must not be left out")

    def _attributes(self, node: onnx.NodeProto, schema: onnx.defs.OpSchema | None, in_function: bool) -> None:
        seen: set[str] = set()
        for attribute in node.attribute:
            where = f"{describe(node)}, attribute {attribute.name!r}"
            if attribute.name in seen:
                raise ModelError(f"{where}: is given twice")
            seen.add(attribute.name)
            if attribute.ref_attr_name and not in_function:
                raise ModelError(f"{where}: refers to a function's attribute outside of any function")
            formal = schema.attributes.get(attribute.name) if schema else None
            if schema and formal is None and attribute.name != "consumed_inputs":
                raise ModelError(f"{where}: the operator has no such attribute")
            if attribute.type == _A.UNDEFINED and formal is not None:
                attribute.type = formal.type.value  # files of IR version 1 do not say the type
            if attribute.type not in _KNOWN_ATTRIBUTE_TYPES:
                raise ModelError(f"{where}: unknown attribute type {attribute.type}")
            if formal is not None and attribute.type != formal.type.value:
                raise ModelError(
                    f"{where}: is of type {_A.AttributeType.Name(attribute.type)}, "
                    f"the operator takes {formal.type.name}"
                )
            if not attribute.ref_attr_name:
                self._attribute_value(attribute, where)
                if attribute.name in _DTYPE_ATTRIBUTES and attribute.type == _A.INT and attribute.i:
                    data_type(attribute.i, where)
        for name, formal in (schema.attributes if schema else {}).items():
            if formal.required and name not in seen:
                raise ModelError(f"{describe(node)}: the attribute {name!r} is missing")

    def _attribute_value(self, attribute: onnx.AttributeProto, where: str) -> None:
        kind = attribute.type
        if kind == _A.TENSOR:
            self.reader.check(attribute.t, where)
        elif kind == _A.TENSORS:
            for tensor in attribute.tensors:
                self.reader.check(tensor, where)
        elif kind == _A.TYPE_PROTO:
            self._value_type(attribute.tp, where)
        elif kind == _A.STRINGS:
            for text in attribute.strings:
                _decode(text, where)
        elif kind == _A.STRING:
            _decode(attribute.s, where)
        elif kind in _GRAPH_TYPES and kind == _A.GRAPH and not attribute.HasField("g"):
            raise ModelError(f"{where}: holds no graph")

    def _bodies(self, node: onnx.NodeProto) -> None:
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("If", "Loop", "Scan"):
            return
        for body in subgraphs(node):
            given, got = len(node.input), len(body.output)
            if node.op_type == "If":
                inputs, outputs = 0, range(len(node.output), len(node.output) + 1)
            elif node.op_type == "Loop":
                inputs = max(given, 2)
                outputs = range(max(inputs - 1, len(node.output) + 1), 1 << 30)
            else:
                skip = 1 if self._opsets.get("", 9) < 9 else 0
                inputs = given - skip
                outputs = range(len(node.output), 1 << 30)
            if len(body.input) != inputs:
                raise ModelError(f"{describe(node)}: its body {body.name!r} has {len(body.input)} inputs, not {inputs}")
            if got not in outputs:
                raise ModelError(f"{describe(node)}: its body {body.name!r} has {got} outputs, not {outputs.start}")

    def _order(self, graph: onnx.GraphProto, needs: list[set[str]]) -> None:
        """Sets `unsorted` if nodes come before what they need; refuses cycles."""
        producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
        before = [{producer[name] for name in used if name in producer} for used in needs]
        if all(source < i for i, sources in enumerate(before) for source in sources):
            return
        self.unsorted = True
        users: list[list[int]] = [[] for _ in before]
        for i, sources in enumerate(before):
            for source in sources:
                users[source].append(i)
        waiting = [len(sources) for sources in before]
        ready = [i for i, count in enumerate(waiting) if count == 0]
        done = 0
        while ready:
            done += 1
            for user in users[ready.pop()]:
                waiting[user] -= 1
                if waiting[user] == 0:
                    ready.append(user)
        if done < len(before):
            stuck = next(i for i, count in enumerate(waiting) if count)
            raise ModelError(f"{describe(graph.node[stuck])}: depends on its own output; the graph has a cycle")


def _texts(where: str, *texts: str | bytes) -> None:
    """Names that are not valid UTF-8 come out of protobuf as bytes."""
    for text in texts:
        if isinstance(text, bytes):
            raise ModelError(f"{where}: the name {text[:60]!r} is not valid UTF-8 text; the file is damaged")


def _decode(text: bytes, where: str) -> None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{where}: is not valid UTF-8 text") from None
