"""What is known of values without full type inference: element types and ranks, from graph inputs and constants
forwards.

Declared types of intermediate values are not used (files lie about them). Unknown means None; whoever asks must then
leave the graph as it is, or write nodes that are right for every type. The real inference, with symbolic shapes,
belongs to `ops`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import onnx
import onnx.defs
import onnx_ir as ir

from hasten.graph.edit import all_graphs, attribute, input_of, ints

_SAME_RANK = frozenset(
    """
    Abs Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization BitwiseNot Cast CastLike Ceil Celu Clip
    Concat Conv ConvInteger ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Dropout Elu Erf Exp Floor
    Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool MaxPool
    MeanVarianceNormalization Mish Neg Not PRelu Pad QLinearConv QuantizeLinear RMSNormalization Reciprocal Relu
    Resize ReverseSequence Round ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin Sinh Slice Softmax Softplus
    Softsign SpaceToDepth Split Sqrt Swish Tan Tanh ThresholdedRelu Tile TopK Trilu Upsample
""".split()
)
_BROADCAST = frozenset(
    """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min
    Mod Mul Or Pow Sub Sum Where Xor
""".split()
)
_REDUCE = frozenset(
    [
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "ArgMax",
        "ArgMin",
    ]
)
_FIXED_RANK = {"Flatten": 2, "Gemm": 2, "Shape": 1, "NonZero": 2, "Size": 0, "NonMaxSuppression": 2}

Ranks = Callable[[ir.Value | None], int | None]


def _squeezed(node: ir.Node, rank: Ranks, sign: int) -> int | None:
    old = rank(node.inputs[0])
    axes = ints(input_of(node, 1)) or attribute(node, "axes")
    return old + sign * len(axes) if old is not None and axes is not None else None


def _matmul(node: ir.Node, rank: Ranks) -> int | None:
    a, b = rank(node.inputs[0]), rank(node.inputs[1])
    return max(a, b) if a is not None and b is not None and min(a, b) >= 2 else None


def _shape_length(node: ir.Node, rank: Ranks) -> int | None:
    length = _length(input_of(node, 0 if node.op_type == "ConstantOfShape" else 1), rank)
    if node.op_type != "Expand" or length is None:
        return length
    old = rank(node.inputs[0])
    return max(old, length) if old is not None else None


def _length(value: ir.Value | None, rank: Ranks, depth: int = 0) -> int | None:
    """Number of elements of a vector, followed through the arithmetic that models do on shapes."""
    fixed = ints(value)
    if fixed is not None:
        return len(fixed)
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or depth > 8:
        return None
    if node.op_type in ("Cast", "Identity"):
        return _length(node.inputs[0], rank, depth + 1)
    if node.op_type == "Concat":
        parts = [_length(part, rank, depth + 1) for part in node.inputs]
        return sum(part for part in parts if part is not None) if None not in parts else None
    if node.op_type == "Shape":
        dims = rank(node.inputs[0])
        return None if dims is None else len(range(dims)[attribute(node, "start", 0) : attribute(node, "end")])
    if node.op_type == "Slice":
        return _sliced_length(node, rank, depth)
    if node.op_type == "Unsqueeze":
        return 1 if rank(node.inputs[0]) == 0 else None
    if node.op_type == "Gather":
        indices = ints(node.inputs[1])
        return len(indices) if indices is not None and rank(node.inputs[1]) == 1 else None
    return None


def _sliced_length(node: ir.Node, rank: Ranks, depth: int) -> int | None:
    whole, starts, ends = _length(node.inputs[0], rank, depth + 1), ints(node.inputs[1]), ints(node.inputs[2])
    steps = [1] if input_of(node, 4) is None else ints(node.inputs[4])
    if whole is None or starts is None or ends is None or not len(starts) == len(ends) == 1 or steps != [1]:
        return None
    return len(range(whole)[starts[0] : ends[0]])


def _gathered(node: ir.Node, rank: Ranks) -> int | None:
    data, indices = rank(node.inputs[0]), rank(node.inputs[1])
    return data + indices - 1 if data is not None and indices is not None else None


_RANK_RULES: dict[str, Callable[[ir.Node, Ranks], int | None]] = {
    "Transpose": lambda node, rank: len(attribute(node, "perm", ())) or rank(node.inputs[0]),
    "Squeeze": lambda node, rank: _squeezed(node, rank, -1),
    "Unsqueeze": lambda node, rank: _squeezed(node, rank, 1),
    "MatMul": _matmul,
    "Reshape": _shape_length,
    "Expand": _shape_length,
    "ConstantOfShape": _shape_length,
    "Gather": _gathered,
}


class Facts:
    """Element types and ranks of the values of a model, as of the moment it is made."""

    def __init__(self, model: ir.Model) -> None:
        self._dtypes: dict[ir.Value, ir.DataType] = {}
        self._ranks: dict[ir.Value, int] = {}
        for graph in all_graphs(model.graph):
            for value in [*graph.inputs, *graph.initializers.values()]:
                self._declared(value)
            for node in graph:
                self._node(node)

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """The element type of a tensor, if known."""
        return None if value is None else self._dtypes.get(value)

    def rank(self, value: ir.Value | None) -> int | None:
        """The number of dims of a tensor, if known."""
        return None if value is None else self._ranks.get(value)

    def _declared(self, value: ir.Value) -> None:
        if isinstance(value.type, ir.TensorType):
            self._dtypes[value] = value.type.dtype
            if value.shape is not None:
                self._ranks[value] = len(value.shape)

    def _node(self, node: ir.Node) -> None:
        if node.domain != "" or not node.outputs:
            return
        for index, dtype in enumerate(self._output_dtypes(node)):
            if dtype is not None:
                self._dtypes[node.outputs[index]] = dtype
        rank = self._output_rank(node)
        if rank is not None and rank >= 0:
            many = node.outputs if node.op_type in ("Split", "MaxPool", "TopK", "Dropout") else node.outputs[:1]
            for value in many:
                self._ranks[value] = rank

    def _output_rank(self, node: ir.Node) -> int | None:
        op = node.op_type
        if op in _SAME_RANK:
            return self.rank(input_of(node, 0))
        if op in _BROADCAST:
            ranks = [self.rank(value) for value in node.inputs]
            known = [rank for rank in ranks if rank is not None]
            return max(known) if known and len(known) == len(ranks) else None
        if op in _REDUCE:
            return self.rank(node.inputs[0]) if attribute(node, "keepdims", 1) == 1 else None
        if op in _FIXED_RANK:
            return _FIXED_RANK[op]
        if op == "Constant" and (value := attribute(node, "value")) is not None:
            return len(value.shape)
        rule = _RANK_RULES.get(op)
        return rule(node, self.rank) if rule else None

    def _output_dtypes(self, node: ir.Node) -> list[ir.DataType | None]:
        if node.op_type in ("Cast", "EyeLike", "RandomUniformLike", "RandomNormalLike") and "to" in node.attributes:
            to = attribute(node, "to")
            return [ir.DataType(to) if isinstance(to, int) else None]
        if node.op_type in ("Constant", "ConstantOfShape"):
            tensor = attribute(node, "value")
            return [tensor.dtype if tensor is not None else ir.DataType.FLOAT if node.op_type != "Constant" else None]
        names, fixed = _signature(node.op_type)
        bound: dict[str, ir.DataType] = {}
        for index, value in enumerate(node.inputs):
            dtype = self.dtype(value)
            if dtype is not None and names:
                bound.setdefault(names[min(index, len(names) - 1)], dtype)
        results: list[ir.DataType | None] = []
        for index in range(len(node.outputs)):
            kind = fixed[min(index, len(fixed) - 1)] if fixed else ""
            results.append(_TYPE_NAMES.get(kind) or bound.get(kind))
        return results


_TYPE_NAMES = {
    f"tensor({'float' if d.name == 'FLOAT' else d.name.lower()})": d for d in ir.DataType if d.name != "UNDEFINED"
}


@functools.cache
def _signature(op_type: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Type variables of an operator's inputs and outputs; a variable that allows one type only becomes that type."""
    try:
        schema = onnx.defs.get_schema(op_type, onnx.defs.onnx_opset_version(), "")
    except onnx.defs.SchemaError:
        return (), ()
    single = {
        c.type_param_str: c.allowed_type_strs[0] for c in schema.type_constraints if len(c.allowed_type_strs) == 1
    }
    return (
        tuple(single.get(p.type_str, p.type_str) for p in schema.inputs),
        tuple(single.get(p.type_str, p.type_str) for p in schema.outputs),
    )
