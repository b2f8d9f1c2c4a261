"""Passes that fold arithmetic into the weights next to it: BatchNormalization, bias, scale, and zero padding.

Weights are recomputed in float64 and rounded once to their own type. A fold is skipped when it would overflow or
underflow the type, or when the value in between is used elsewhere. Folding never crosses a border where padding would
see the change.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph.edit import (
    Editor,
    attribute,
    constant,
    control_graphs,
    input_of,
    ints,
    is_op,
    set_attribute,
    set_input,
)

_LINEAR = ("Conv", "ConvTranspose", "Gemm")
_FLOATS = (np.float16, np.float32, np.float64)


def single_user(value: ir.Value) -> bool:
    """Whether a value has exactly one use and is not an output."""
    return len(value.uses()) == 1 and not value.is_graph_output()


class Linear:
    """A Conv, ConvTranspose or Gemm with constant weights: its weight by output channel, and its bias."""

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        self.weight = constant(input_of(node, 1))
        self.bias = constant(input_of(node, 2))

    @staticmethod
    def of(value: ir.Value | None) -> Linear | None:
        """The linear node that computes a value which nobody else uses, if its weights are constant."""
        node = value.producer() if value is not None else None
        if node is None or value is None or not is_op(node, *_LINEAR) or not single_user(value):
            return None
        found = Linear(node)
        return found if found.usable() else None

    def usable(self) -> bool:
        weight, bias = self.weight, self.bias
        if weight is None or weight.dtype.type not in _FLOATS or weight.ndim < 2:
            return False
        if input_of(self.node, 2) is not None and bias is None:
            return False
        if self.node.op_type == "Gemm":
            plain = attribute(self.node, "alpha", 1.0) == 1.0 and attribute(self.node, "beta", 1.0) == 1.0
            return plain and weight.ndim == 2 and (bias is None or bias.shape in ((self.channels,), (1, self.channels)))
        return self.channels > 0 and (bias is None or bias.shape == (self.channels,))

    @property
    def channels(self) -> int:
        """Number of output channels."""
        assert self.weight is not None
        op, shape = self.node.op_type, self.weight.shape
        if op == "Gemm":
            return int(shape[0] if attribute(self.node, "transB", 0) else shape[1])
        return int(shape[0] if op == "Conv" else shape[1] * attribute(self.node, "group", 1))

    @property
    def rank(self) -> int:
        """Rank of the output."""
        assert self.weight is not None
        return self.weight.ndim

    def scaled(self, scale: np.ndarray) -> np.ndarray:
        """The weights (float64) with each output channel multiplied by its scale."""
        assert self.weight is not None
        weight, op = self.weight.astype(np.float64), self.node.op_type
        if op == "ConvTranspose":
            groups, per_group = attribute(self.node, "group", 1), weight.shape[1]
            by_group = scale.reshape(groups, 1, per_group, *[1] * (weight.ndim - 2))
            grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
            result = (grouped * by_group).reshape(weight.shape)
        elif op == "Gemm" and not attribute(self.node, "transB", 0):
            result = weight * scale
        else:
            result = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        return np.asarray(result)

    def apply(self, edit: Editor, scale: np.ndarray | None, shift: np.ndarray) -> bool:
        """Make the node compute old * scale + shift (per channel, float64); False if the type cannot hold it."""
        assert self.weight is not None
        dtype = self.weight.dtype
        bias = np.zeros(self.channels) if self.bias is None else self.bias.reshape(-1).astype(np.float64)
        new_bias = (bias if scale is None else bias * scale) + shift
        with np.errstate(all="ignore"):
            weight = self.weight if scale is None else self.scaled(scale).astype(dtype)
            new_bias = new_bias.astype(dtype)
        if not (np.all(np.isfinite(weight)) and np.all(np.isfinite(new_bias))):
            return False
        name = self.node.name or self.node.op_type
        if scale is not None:
            if _loses_precision(self.scaled(scale), weight):
                return False
            set_input(self.node, 1, edit.constant(weight, f"{name}/weight"))
        set_input(self.node, 2, edit.constant(new_bias, f"{name}/bias"))
        return True


def _loses_precision(exact: np.ndarray, rounded: np.ndarray) -> bool:
    """Whether weights that matter fell below the smallest normal number of their type."""
    tiny = float(np.finfo(rounded.dtype).tiny)
    magnitude = np.abs(exact)
    return bool(np.any((magnitude < tiny) & (magnitude > 0) & (magnitude > 1e-7 * magnitude.max(initial=0.0))))


def fold_batch_norm(edit: Editor) -> int:
    """BatchNormalization (inference, constant statistics) after a linear node goes into its weights."""
    changes = 0
    for graph in control_graphs(edit.model.graph):
        for node in list(graph):
            if not is_op(node, "BatchNormalization") or attribute(node, "training_mode", 0) or len(node.outputs) > 1:
                continue
            parameters = [constant(value) for value in node.inputs[1:5]]
            linear = Linear.of(node.inputs[0])
            if linear is None or any(p is None or p.shape != (linear.channels,) for p in parameters):
                continue
            gamma, beta, mean, variance = (p.astype(np.float64) for p in parameters if p is not None)
            with np.errstate(all="ignore"):
                scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
            if linear.apply(edit, scale, beta - mean * scale):
                edit.replace(node, [linear.node.outputs[0]])
                changes += 1
    return changes


def fold_channel_arithmetic(edit: Editor) -> int:
    """Adding, subtracting, multiplying or dividing by a constant per channel after a linear node goes into its
    weights.
    """
    changes = 0
    for graph in control_graphs(edit.model.graph):
        for node in list(graph):
            if is_op(node, "Add", "Sub", "Mul", "Div") and len(node.inputs) == 2:
                changes += _fold_arithmetic(edit, node)
    return changes


def _fold_arithmetic(edit: Editor, node: ir.Node) -> int:
    left, right = node.inputs
    swapped = constant(left) is not None
    if swapped and node.op_type in ("Sub", "Div"):
        return 0
    variable, fixed = (right, left) if swapped else (left, right)
    array, linear = constant(fixed), Linear.of(variable)
    if linear is None or array is None or array.dtype != linear.weight.dtype:  # type: ignore[union-attr]
        return 0
    per_channel = _per_channel(array, linear.rank, linear.channels)
    if per_channel is None:
        return 0
    with np.errstate(all="ignore"):
        if node.op_type in ("Mul", "Div"):
            scale = per_channel if node.op_type == "Mul" else 1.0 / per_channel
            done = linear.apply(edit, scale, np.zeros(linear.channels))
        else:
            done = linear.apply(edit, None, per_channel if node.op_type == "Add" else -per_channel)
    if done:
        edit.replace(node, [linear.node.outputs[0]])
    return int(done)


def _per_channel(array: np.ndarray, rank: int, channels: int) -> np.ndarray | None:
    """A constant as one float64 number per channel (axis 1), None when it varies along another axis or broadens."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(dim != 1 for axis, dim in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (channels,))


def fold_input_scale(edit: Editor) -> int:
    """A constant factor per input channel in front of a Conv goes into its weights (zero padding stays zero)."""
    changes = 0
    for graph in control_graphs(edit.model.graph):
        for node in list(graph):
            source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
            if not is_op(node, "Conv") or source is None or not is_op(source, "Mul", "Div"):
                continue
            changes += _fold_scale_before(edit, node, source)
    return changes


def _fold_scale_before(edit: Editor, node: ir.Node, source: ir.Node) -> int:
    weight, x = constant(node.inputs[1]), node.inputs[0]
    swapped = constant(source.inputs[0]) is not None
    factor = constant(source.inputs[0 if swapped else 1])
    if weight is None or factor is None or x is None or not single_user(x) or weight.dtype.type not in _FLOATS:
        return 0
    if (swapped and source.op_type == "Div") or weight.ndim < 3 or factor.dtype != weight.dtype:
        return 0
    groups = attribute(node, "group", 1)
    scale = _per_channel(factor, weight.ndim, weight.shape[1] * groups)
    if scale is None or weight.shape[0] % groups:
        return 0
    with np.errstate(all="ignore"):
        scale = 1.0 / scale if source.op_type == "Div" else scale
        by_group = scale.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        exact = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:]) * by_group
        new = exact.reshape(weight.shape).astype(weight.dtype)
    if not np.all(np.isfinite(new)) or _loses_precision(exact.reshape(weight.shape), new):
        return 0
    set_input(node, 1, edit.constant(new, f"{node.name}/weight"))
    set_input(node, 0, source.inputs[1 if swapped else 0])
    return 1


def fold_pad(edit: Editor) -> int:
    """Zero padding of the spatial dims goes into the Conv, or the AveragePool that counts padding, behind it."""
    changes = 0
    for graph in control_graphs(edit.model.graph):
        for node in list(graph):
            source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
            if is_op(node, "Conv", "AveragePool") and is_op(source, "Pad") and source is not None:
                changes += _fold_pad_into(node, source)
    return changes


def _fold_pad_into(node: ir.Node, source: ir.Node) -> int:
    rank = _spatial_rank(node)
    pads = _zero_pads(source, rank)
    if rank is None or pads is None or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return 0
    old = list(attribute(node, "pads", [0] * (2 * rank)))
    if node.op_type == "AveragePool":
        kernel = list(attribute(node, "kernel_shape"))
        if attribute(node, "ceil_mode", 0) or (any(old) and not attribute(node, "count_include_pad", 0)):
            return 0
        if any(low + high >= size for low, high, size in zip(pads, old, [*kernel, *kernel], strict=True)):
            return 0
        set_attribute(node, "count_include_pad", 1)
    node.attributes.pop("auto_pad", None)
    set_attribute(node, "pads", [a + b for a, b in zip(old, pads, strict=True)])
    node.replace_input_with(0, source.inputs[0])
    return 1


def _spatial_rank(node: ir.Node) -> int | None:
    if node.op_type == "AveragePool":
        return len(attribute(node, "kernel_shape"))
    weight = constant(node.inputs[1])
    return None if weight is None else weight.ndim - 2


def _zero_pads(source: ir.Node, spatial: int | None) -> list[int] | None:
    """The pads of the spatial dims when a Pad adds zeros there and nowhere else, else None."""
    pads, value = ints(source.inputs[1]), input_of(source, 2)
    if (
        spatial is None
        or pads is None
        or attribute(source, "mode", "constant") != "constant"
        or min(pads, default=0) < 0
    ):
        return None
    fill = constant(value)
    if value is not None and (fill is None or np.any(fill != 0)):
        return None
    rank = spatial + 2
    axes = list(range(rank)) if input_of(source, 3) is None else ints(source.inputs[3])
    if axes is None or len(pads) != 2 * len(axes):
        return None
    low, high = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        if not -rank <= axis < rank:
            return None
        low[axis], high[axis] = pads[index], pads[index + len(axes)]
    return None if low[0] or low[1] or high[0] or high[1] else [*low[2:], *high[2:]]
