"""The value of one node with constant inputs, in NumPy, for constant folding.

`evaluate(node, arrays)` returns the output arrays, or None when the operator is not one that is folded, the result
would be too large, or the values are impossible (the run reports that then, not the compiler). Sizes are bounded
before computing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  (gives NumPy bfloat16 and the small floats)
import numpy as np
import onnx_ir as ir

from hasten.graph.edit import attribute

MAX_BYTES = 64 << 20
MAX_GROWTH = 4
SMALL_BYTES = 64 << 10

Arrays = Sequence[np.ndarray | None]
Evaluator = Callable[[ir.Node, Arrays], Any]


class TooLarge(Exception):
    """The result would pass the limits of folding."""


def evaluate(node: ir.Node, arrays: Arrays) -> list[np.ndarray] | None:
    """Outputs of a node of ONNX's own domain in its newest form, or None to leave it as it is."""
    if node.domain != "" or not (node.op_type in _TABLE or node.op_type in _BY_REFERENCE):
        return None
    limit = _limit(arrays)
    try:
        with np.errstate(all="ignore"):
            if node.op_type in _TABLE:
                results = _TABLE[node.op_type](node, _Limited(arrays, limit))
            else:
                _broadcast_bytes(arrays, limit)
                results = _by_reference(node, arrays)
    except (
        TooLarge,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        OverflowError,
        ZeroDivisionError,
        MemoryError,
        AttributeError,
        RuntimeError,
        NotImplementedError,
        AssertionError,
    ):
        return None
    if results is None:
        return None
    outputs = [np.asarray(result) for result in (results if isinstance(results, list) else [results])]
    if sum(output.nbytes for output in outputs) > limit or any(o.dtype.kind in "OUS" for o in outputs):
        return None
    return outputs


def _limit(arrays: Arrays) -> int:
    given = sum(array.nbytes for array in arrays if array is not None)
    return min(MAX_BYTES, max(SMALL_BYTES, MAX_GROWTH * given))


class _Limited(list[Any]):
    """The inputs of a node, with the number of bytes that its result may have."""

    def __init__(self, arrays: Arrays, limit: int) -> None:
        super().__init__(arrays)
        self.limit = limit

    def room(self, shape: Sequence[int], dtype: Any) -> tuple[int, ...]:
        """The shape, if a result of that shape is allowed."""
        dims = tuple(int(dim) for dim in shape)
        if any(dim < 0 for dim in dims):
            raise ValueError("negative dimension")
        if math.prod(dims) * np.dtype(dtype).itemsize > self.limit:
            raise TooLarge
        return dims

    def get(self, index: int) -> np.ndarray | None:
        return self[index] if index < len(self) else None

    def ints(self, index: int) -> list[int] | None:
        array = self.get(index)
        return None if array is None else [int(x) for x in array.reshape(-1)]


def _broadcast_bytes(arrays: Arrays, limit: int) -> None:
    given = [array for array in arrays if array is not None]
    shape = np.broadcast_shapes(*(array.shape for array in given))
    if math.prod(shape) * max(array.itemsize for array in given) > limit:
        raise TooLarge


def _elementwise(function: Callable[..., Any]) -> Evaluator:
    def run(node: ir.Node, x: _Limited) -> Any:
        _broadcast_bytes(x, x.limit)
        return function(*x)

    return run  # type: ignore[return-value]


def _folded(function: Callable[[Any, Any], Any]) -> Evaluator:
    return _elementwise(lambda *arrays: functools.reduce(function, arrays))


def _divide(a: np.ndarray, b: np.ndarray) -> Any:
    if a.dtype.kind not in "iu":
        return a / b
    if not np.all(b):
        raise ZeroDivisionError
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype) if a.dtype.kind == "i" else a // b


def _power(a: np.ndarray, b: np.ndarray) -> Any:
    if a.dtype.kind in "iu" and b.dtype.kind in "iu" and np.any(b < 0):
        raise ValueError("negative power of an integer")
    return np.power(a, b).astype(a.dtype)


def _cast(node: ir.Node, x: _Limited) -> Any:
    to = ir.DataType(attribute(node, "to"))
    if to == ir.DataType.STRING or x[0].dtype.kind in "OUS" or to.bitwidth < 16 and to.name.startswith("FLOAT"):
        return None
    target = to.numpy()
    x.room(x[0].shape, target)
    if x[0].dtype.kind == "f" and np.dtype(target).kind in "iu" and not np.all(np.isfinite(x[0])):
        return None
    return x[0].astype(target)


def _reshape(node: ir.Node, x: _Limited) -> Any:
    target = x.ints(1) or []
    if not attribute(node, "allowzero", 0):
        target = [x[0].shape[i] if dim == 0 else dim for i, dim in enumerate(target)]
    return x[0].reshape(target)


def _slice(node: ir.Node, x: _Limited) -> Any:
    starts, ends = x.ints(1) or [], x.ints(2) or []
    axes = x.ints(3) or list(range(len(starts)))
    steps = x.ints(4) or [1] * len(starts)
    index = [slice(None)] * x[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x[0].shape[axis]
        stop: int | None = end
        if step < 0 and end < -size:
            stop = None
        index[axis] = slice(start, stop, step)
    return x[0][tuple(index)]


def _gather(node: ir.Node, x: _Limited) -> Any:
    data, indices = x[0], x[1]
    axis = attribute(node, "axis", 0) % max(data.ndim, 1)
    size = data.shape[axis]
    if np.any(indices < -size) or np.any(indices >= size):
        return None
    x.room(data.shape[:axis] + indices.shape + data.shape[axis + 1 :], data.dtype)
    return np.take(data, indices, axis=axis)


def _split(node: ir.Node, x: _Limited) -> Any:
    axis, sizes = attribute(node, "axis", 0), x.ints(1)
    if sizes is None:
        count, total = attribute(node, "num_outputs"), x[0].shape[axis]
        part = -(-total // count)
        sizes = [part] * (count - 1) + [total - part * (count - 1)]
    if sum(sizes) != x[0].shape[axis] or min(sizes) < 0:
        return None
    return list(np.split(x[0], np.cumsum(sizes)[:-1], axis))


def _expand(node: ir.Node, x: _Limited) -> Any:
    shape = np.broadcast_shapes(x[0].shape, tuple(x.ints(1) or ()))
    return np.broadcast_to(x[0], x.room(shape, x[0].dtype)).copy()


def _tile(node: ir.Node, x: _Limited) -> Any:
    repeats = x.ints(1) or []
    x.room([dim * times for dim, times in zip(x[0].shape, repeats, strict=True)], x[0].dtype)
    return np.tile(x[0], repeats)


def _constant_of_shape(node: ir.Node, x: _Limited) -> Any:
    tensor = attribute(node, "value")
    value = tensor.numpy().reshape(-1)[0] if tensor is not None else np.float32(0)
    return np.full(x.room(x.ints(0) or [], value.dtype), value)


def _range(node: ir.Node, x: _Limited) -> Any:
    start, limit, delta = (array.reshape(-1)[0] for array in x)
    count = max(0, math.ceil((float(limit) - float(start)) / float(delta)))
    x.room([count], x[0].dtype)
    return (start + np.arange(count) * delta).astype(x[0].dtype)


def _pad(node: ir.Node, x: _Limited) -> Any:
    if attribute(node, "mode", "constant") != "constant":
        return None
    pads, axes = x.ints(1) or [], x.ints(3)
    axes = list(range(x[0].ndim)) if axes is None else axes
    widths = [(0, 0)] * x[0].ndim
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    x.room([dim + low + high for dim, (low, high) in zip(x[0].shape, widths, strict=True)], x[0].dtype)
    value = x.get(2)
    return np.pad(x[0], widths, constant_values=0 if value is None else value.reshape(-1)[0])


def _shape(node: ir.Node, x: _Limited) -> Any:
    return np.asarray(x[0].shape[attribute(node, "start", 0) : attribute(node, "end")], np.int64)


def _unsqueeze(node: ir.Node, x: _Limited) -> Any:
    return np.expand_dims(x[0], tuple(x.ints(1) or ()))


def _squeeze(node: ir.Node, x: _Limited) -> Any:
    axes = x.ints(1)
    return np.squeeze(x[0], None if axes is None else tuple(axes))


def _flatten(node: ir.Node, x: _Limited) -> Any:
    axis = attribute(node, "axis", 1)
    return x[0].reshape(math.prod(x[0].shape[:axis]), -1) if x[0].size else None


def _matmul(node: ir.Node, x: _Limited) -> Any:
    a, b = x[0], x[1]
    if a.ndim < 2 or b.ndim < 2 or a.size * b.shape[-1] > 1 << 28:
        return None
    x.room((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)
    return np.matmul(a, b).astype(a.dtype)


def _reduction(function: Callable[..., Any]) -> Evaluator:
    def run(node: ir.Node, x: _Limited) -> Any:
        axes = x.ints(1)
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return x[0]
        result = function(x[0], axis=tuple(axes) if axes else None, keepdims=bool(attribute(node, "keepdims", 1)))
        return np.asarray(result).astype(x[0].dtype)

    return run  # type: ignore[return-value]


def _concat(node: ir.Node, x: _Limited) -> Any:
    return np.concatenate(x, axis=attribute(node, "axis")) if len({a.dtype for a in x}) == 1 else None


_TABLE: dict[str, Callable[[ir.Node, _Limited], Any]] = {
    "Identity": lambda node, x: x[0],
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(_divide),
    "Pow": _elementwise(_power),
    "Neg": _elementwise(np.negative),
    "Abs": _elementwise(np.abs),
    "Sqrt": _elementwise(np.sqrt),
    "Exp": _elementwise(np.exp),
    "Log": _elementwise(np.log),
    "Floor": _elementwise(np.floor),
    "Ceil": _elementwise(np.ceil),
    "Equal": _elementwise(np.equal),
    "Greater": _elementwise(np.greater),
    "Less": _elementwise(np.less),
    "GreaterOrEqual": _elementwise(np.greater_equal),
    "LessOrEqual": _elementwise(np.less_equal),
    "And": _elementwise(np.logical_and),
    "Or": _elementwise(np.logical_or),
    "Xor": _elementwise(np.logical_xor),
    "Not": _elementwise(np.logical_not),
    "Where": _elementwise(np.where),
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Sum": _folded(np.add),
    "Reciprocal": _elementwise(lambda a: (1 / a).astype(a.dtype)),
    "Relu": _elementwise(lambda a: np.maximum(a, a.dtype.type(0))),
    "Sign": _elementwise(np.sign),
    "Tanh": _elementwise(np.tanh),
    "Sin": _elementwise(np.sin),
    "Cos": _elementwise(np.cos),
    "Cast": _cast,
    "Reshape": _reshape,
    "Transpose": lambda node, x: np.transpose(x[0], attribute(node, "perm")).copy(),
    "Slice": _slice,
    "Gather": _gather,
    "Split": _split,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Size": lambda node, x: np.asarray(x[0].size, np.int64),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Flatten": _flatten,
    "MatMul": _matmul,
    "Concat": _concat,
    "CastLike": lambda node, x: x[0].astype(x[1].dtype) if x[1].dtype.kind in "fiub" else None,
    "ReduceSum": _reduction(np.sum),
    "ReduceMax": _reduction(np.max),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceMean": _reduction(np.mean),
}

# Results of these are not larger than their broadcast inputs; the reference implementation is fast enough for them.
_BY_REFERENCE = frozenset(
    """
    Acos Acosh Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Celu Clip Cosh Elu Erf Gelu
    HardSigmoid HardSwish IsInf IsNaN LeakyRelu Mean Mish Mod Round Selu Sigmoid Sinh Softplus Softsign Tan
    ThresholdedRelu
""".split()
)


def _by_reference(node: ir.Node, arrays: Arrays) -> list[np.ndarray]:
    import onnx.defs
    from onnx.reference import ReferenceEvaluator

    names = [f"i{index}" if array is not None else "" for index, array in enumerate(arrays)]
    proto = onnx.NodeProto(op_type=node.op_type, input=names, output=[f"o{i}" for i in range(len(node.outputs))])
    proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
    evaluator = ReferenceEvaluator(proto, opsets={"": onnx.defs.onnx_opset_version()})
    return list(evaluator.run(None, {name: array for name, array in zip(names, arrays, strict=True) if name}))
