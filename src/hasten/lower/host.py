"""Result types of host ops: ONNX's own inference on the single node, or what the model declares."""

from __future__ import annotations

import onnx_ir as ir

from hasten.base import dtypes
from hasten.lower.trace import Tensor, Value

Kind = str | tuple[str, tuple[int | None, ...]]  # a readable object type, or dtype and shape (None: known at run time)

SCALARS: dict[str, Kind] = {"SequenceLength": ("int64", ()), "OptionalHasElement": ("bool", ())}


def result_types(model: ir.Model, node: ir.Node, inputs: list[Value | None]) -> list[Kind]:
    """One entry per output: "sequence(float32)" and the like for objects (also for tensors whose rank isn't known), else dtype and shape."""
    if any(v is not None and not isinstance(v, Tensor) for v in inputs) or not any(v is not None for v in inputs):
        # ONNX's inference does not survive inputs without a type
        return [SCALARS[node.op_type]] if node.op_type in SCALARS else [_declared(v) for v in node.outputs]
    import onnx

    proto = ir.to_proto(node)
    infos = []
    for name, v in zip(proto.input, inputs, strict=False):
        if isinstance(v, Tensor):
            shape = [d if isinstance(d, int) else None for d in v.shape]
            infos.append(onnx.helper.make_tensor_value_info(name, dtypes.dtype(v.dtype).onnx, shape))
    outputs = [onnx.ValueInfoProto(name=n) for n in proto.output if n]
    graph = onnx.helper.make_graph([proto], "host", infos, outputs)
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()]
    try:
        found = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph, opset_imports=opsets)).graph
    except Exception:  # noqa: BLE001  (inference is only a hint here: without it the results are objects)
        found = graph
    known = {v.name: v.type for v in [*found.output, *found.value_info]}
    return [_kind(known.get(n)) for n in proto.output]


def _declared(v: ir.Value) -> Kind:
    """What the model says about a value; of its sizes only their number is believed."""
    if v.type is None:
        return "unknown"
    if not isinstance(v.type, ir.TensorType):
        return type(v.type).__name__.removesuffix("Type").lower()
    dt = dtypes.BY_ONNX.get(int(v.type.dtype))
    if dt is None or dt.kind in "sc" or v.shape is None:
        return f"tensor({dt.name if dt else 'unknown'})"
    return dt.name, (None,) * len(v.shape)


def _kind(t: object) -> Kind:
    if t is None or not t.WhichOneof("value"):  # type: ignore[attr-defined]
        return "unknown"
    which = t.WhichOneof("value")  # type: ignore[attr-defined]
    if which != "tensor_type":
        return which.removesuffix("_type")
    tensor = t.tensor_type  # type: ignore[attr-defined]
    dt = dtypes.BY_ONNX.get(tensor.elem_type)
    if dt is None or dt.kind in "sc" or not tensor.HasField("shape"):
        return f"tensor({dt.name if dt else 'unknown'})"
    return dt.name, tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
