"""Reads ONNX models: `load_graph` turns a path, bytes, a ModelProto or an onnx_ir.Model into one checked
onnx_ir.Model.

A model file is untrusted input. Whatever is wrong with it becomes a ModelError (or ResourceLimit) that says where;
nothing outside of the model's folder is read, and nothing is allocated before its size was checked against what the
file holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from hasten.base.errors import HastenError, ModelError, ResourceLimit
from hasten.frontends.check import ModelChecker, subgraphs
from hasten.frontends.tensors import TensorReader

MAX_FILE_BYTES = (1 << 31) - 1
MAP_TYPE_KEY = "hasten.map_type"

_DAMAGE = (
    UnicodeDecodeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    RuntimeError,
    RecursionError,
    NotImplementedError,
    AssertionError,
    AttributeError,
)


def load_graph(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model,
    *,
    base_dir: str | os.PathLike[str] | None = None,
) -> ir.Model:
    """Read and check a model; returns a model of its own that later stages may change.

    model: a path, serialized bytes, a `ModelProto` or an `onnx_ir.Model` (neither is modified).
    base_dir: folder of external data when `model` is not a path (a path's own folder is used otherwise).

    In the result every constant is in memory or mapped (`value.const_value.numpy()` costs nothing), nodes are sorted,
    initializers are never graph inputs, sparse tensors are dense, and every operator has the inputs, outputs and
    attribute types that its opset asks for. Errors: ModelError, UnsupportedOperator, ResourceLimit.
    """
    try:
        if isinstance(model, ir.Model):
            return _from_ir(model)
        if isinstance(model, onnx.ModelProto):
            proto = onnx.ModelProto()
            proto.CopyFrom(model)
            return _from_proto(proto, base_dir)
        if isinstance(model, (bytes, bytearray, memoryview)):
            return _from_proto(_parse(bytes(model), "the given bytes"), base_dir)
        if isinstance(model, (str, os.PathLike)):
            path = os.fspath(model)
            return _from_proto(_parse(_read(path), repr(path)), base_dir or os.path.dirname(os.path.abspath(path)))
    except HastenError:
        raise
    except MemoryError:
        raise ResourceLimit("there is not enough memory to read this model") from None
    except _DAMAGE as error:
        raise ModelError(f"the model is damaged: {_root_cause(error)}") from error
    raise ModelError(f"a model is a path, bytes, an onnx.ModelProto or an onnx_ir.Model, not {type(model).__name__}")


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error)[:300]}"


def _read(path: str) -> bytes:
    if not os.path.exists(path):
        raise ModelError(f"there is no model file {path!r}")
    if not os.path.isfile(path):
        raise ModelError(f"{path!r} is not a regular file; give the path of an .onnx file")
    size = os.path.getsize(path)
    if size == 0:
        raise ModelError(f"the model file {path!r} is empty")
    if size > MAX_FILE_BYTES:
        raise ResourceLimit(
            f"the model file {path!r} has {size} bytes; protobuf allows {MAX_FILE_BYTES}. Save it with external data"
        )
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ModelError(f"cannot read the model file {path!r}: {error.strerror}") from None


def _parse(data: bytes, source: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # protobuf's DecodeError; its implementations do not agree where it lives
        raise ModelError(f"{source} is not an ONNX model: it is truncated, damaged, or of another format") from None
    return proto


def _from_proto(proto: onnx.ModelProto, folder: str | os.PathLike[str] | None) -> ir.Model:
    reader = TensorReader(folder)
    checker = ModelChecker(proto, reader)
    checker.run()
    if proto.ir_version < 3 and not proto.opset_import:
        proto.opset_import.add(version=1)
    for graph in _graphs(proto):
        _normalize(graph, reader)
    tensors: list[ir.TensorProtocol] = []
    _detach_tensors(proto, reader, tensors)
    model = ir.from_proto(proto)
    _attach_tensors(model, tensors)
    return _finish(model, sort=checker.unsorted)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """All graphs of a model, outermost first: the main graph, nested graphs, nested graphs of functions."""
    stack = [proto.graph]
    stack += [graph for function in proto.functions for node in function.node for graph in subgraphs(node)]
    while stack:
        graph = stack.pop()
        yield graph
        stack += [inner for node in graph.node for inner in subgraphs(node)]


def _normalize(graph: onnx.GraphProto, reader: TensorReader) -> None:
    """Bring what onnx_ir does not take into a form it takes: sparse tensors, map types, negative dims, repeated
    outputs.
    """
    for sparse in graph.sparse_initializer:
        graph.initializer.append(reader.densify(sparse, f"sparse initializer {sparse.values.name!r}"))
    graph.ClearField("sparse_initializer")
    for info in [*graph.input, *graph.output, *graph.value_info]:
        _normalize_type(info)
    constants = {tensor.name for tensor in graph.initializer}
    kept = [info for info in graph.input if info.name not in constants]
    if len(kept) != len(graph.input):  # up to IR version 3 every initializer was repeated as an input
        kept = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in kept]
        del graph.input[:]
        graph.input.extend(kept)
    _split_repeated_outputs(graph)


def _normalize_type(info: onnx.ValueInfoProto) -> None:
    if _has_map(info.type):
        info.metadata_props.add(key=MAP_TYPE_KEY, value=_type_text(info.type))
        info.ClearField("type")
        return
    if info.type.HasField("tensor_type"):
        if info.type.tensor_type.elem_type == 0:
            info.ClearField("type")
            return
        for dim in info.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 0:
                dim.ClearField("dim_value")


def _has_map(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    return which == "map_type" or (
        which in ("sequence_type", "optional_type") and _has_map(getattr(kind, which).elem_type)
    )


def _type_text(kind: onnx.TypeProto) -> str:
    """Types as ONNX writes them: seq(map(int64,tensor(float)))."""
    which = kind.WhichOneof("value")
    if which == "map_type":
        key = ir.DataType(kind.map_type.key_type).name.lower()
        return f"map({key},{_type_text(kind.map_type.value_type)})"
    if which == "sequence_type":
        return f"seq({_type_text(kind.sequence_type.elem_type)})"
    if which == "optional_type":
        return f"optional({_type_text(kind.optional_type.elem_type)})"
    return f"tensor({ir.DataType(kind.tensor_type.elem_type).name.lower()})"


def _split_repeated_outputs(graph: onnx.GraphProto) -> None:
    """A body may return one value twice; each output gets a value of its own through Identity."""
    taken = {name for node in graph.node for name in node.output}
    taken |= {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    seen: set[str] = set()
    for info in graph.output:
        if info.name in seen:
            copy = next(f"{info.name}/{i}" for i in range(2, len(taken) + 3) if f"{info.name}/{i}" not in taken)
            graph.node.add(op_type="Identity", input=[info.name], output=[copy])
            info.name = copy
            taken.add(copy)
        seen.add(info.name)


def _detach_tensors(proto: onnx.ModelProto, reader: TensorReader, tensors: list[ir.TensorProtocol]) -> None:
    """Read all tensors; an int32 index into `tensors` takes the place of each, so that no payload is held twice."""
    for graph in _graphs(proto):
        for tensor in graph.initializer:
            _detach(tensor, f"initializer {tensor.name!r}", reader, tensors)
    nodes = [node for graph in _graphs(proto) for node in graph.node]
    nodes += [node for function in proto.functions for node in function.node]
    for node in nodes:
        for attribute in node.attribute:
            where = f"node {node.name!r} ({node.op_type}), attribute {attribute.name!r}"
            if attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                attribute.t.CopyFrom(reader.densify(attribute.sparse_tensor, where))
                attribute.ClearField("sparse_tensor")
                attribute.type = onnx.AttributeProto.TENSOR
                attribute.name = "value" if attribute.name == "sparse_value" else attribute.name
            if attribute.type == onnx.AttributeProto.TENSOR and not attribute.ref_attr_name:
                _detach(attribute.t, where, reader, tensors)
            for tensor in attribute.tensors:
                _detach(tensor, where, reader, tensors)


def _detach(tensor: onnx.TensorProto, where: str, reader: TensorReader, tensors: list[ir.TensorProtocol]) -> None:
    tensors.append(reader.read(tensor, where))
    name = tensor.name
    tensor.Clear()
    tensor.name = name
    tensor.data_type = onnx.TensorProto.INT32
    tensor.int32_data.append(len(tensors) - 1)


def _attach_tensors(model: ir.Model, tensors: list[ir.TensorProtocol]) -> None:
    def restored(placeholder: ir.TensorProtocol) -> ir.TensorProtocol:
        return tensors[int(placeholder.numpy())]

    graphs = [*model.graphs(), *(f.graph for f in model.functions.values())]
    graphs += [inner for f in model.functions.values() for inner in f.graph.subgraphs()]
    done: set[int] = set()
    for graph in graphs:
        if id(graph) in done:
            continue
        done.add(id(graph))
        for value in graph.initializers.values():
            assert value.const_value is not None
            value.const_value = restored(value.const_value)
            value.type = ir.TensorType(value.const_value.dtype)
            value.shape = ir.Shape(value.const_value.shape.numpy())
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    node.attributes[name] = ir.AttrTensor(name, restored(attribute.as_tensor()))
                elif attribute.type == ir.AttributeType.TENSORS:
                    node.attributes[name] = ir.AttrTensors(name, [restored(t) for t in attribute.as_tensors()])


def _from_ir(model: ir.Model) -> ir.Model:
    """A clone with constants in memory; the same checks as for files, on a copy without the payloads."""
    copy = model.clone()
    for graph in copy.graphs():
        for value in list(graph.initializers.values()):
            if value.const_value is None:
                raise ModelError(f"initializer {value.name!r} has no value")
            if value.is_graph_input():
                graph.inputs.remove(value)
            if not isinstance(value.const_value, ir.StringTensor):
                value.const_value = ir.Tensor(value.const_value.numpy(), dtype=value.const_value.dtype, name=value.name)
            value.type = ir.TensorType(value.const_value.dtype)
            value.shape = ir.Shape(value.const_value.shape.numpy())
    ModelChecker(_skeleton(copy), TensorReader()).run()
    return _finish(copy, sort=True)


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto whose initializers are empty, for checking."""
    held = [(value, value.const_value) for graph in model.graphs() for value in graph.initializers.values()]
    try:
        for value, _ in held:
            value.const_value = ir.tensor([], dtype=ir.DataType.FLOAT, name=value.name)
        return ir.to_proto(model)
    finally:
        for value, tensor in held:
            value.const_value = tensor


def _finish(model: ir.Model, *, sort: bool) -> ir.Model:
    if sort:
        try:
            model.graph.sort()
        except ValueError as error:
            raise ModelError(f"graph {model.graph.name!r} has a cycle: {error}") from None
    return model
