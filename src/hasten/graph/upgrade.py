"""Brings every operator to the newest form that the installed onnx knows: one table of small rules, keyed by
operator.

A rule says below which opset it applies; a node takes all rules between the opset it was written for and the newest,
in order. What a rule writes is already in the newest form. Rules live in this module (attributes that became inputs,
defaults that changed) and in `upgrade_legacy` (operators whose meaning changed: broadcasting, softmax, batch axes,
...).

After `upgrade(model)`: `model.opset_imports[""]` is `onnx.defs.onnx_opset_version()`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx_ir as ir

from hasten.base.errors import ModelError
from hasten.graph.edit import Editor, all_graphs, attribute, constant, input_of, set_attribute, set_input, take
from hasten.graph.facts import Facts


@dataclass
class Context:
    """What rules may use: the editor and what is known of values."""

    edit: Editor

    @functools.cached_property
    def facts(self) -> Facts:
        """Worked out when the first rule asks; later nodes are not in it."""
        return Facts(self.edit.model)

    def number(self, value: float, like: ir.Value, anchor: ir.Node, base: str) -> ir.Value:
        """A scalar constant of the same element type as `like`."""
        dtype = self.facts.dtype(like)
        if dtype is not None:
            return self.edit.like(value, dtype, base)
        plain = self.edit.like(value, ir.DataType.FLOAT, base)
        return self.edit.value_before(anchor, "CastLike", [plain, like])


Rule = Callable[[ir.Node, Context], None]


@dataclass
class RuleTable:
    """Rules by operator, each with the opset version from which it is no longer needed."""

    rules: dict[str, list[tuple[int, Rule]]] = field(default_factory=dict)

    def rule(self, *op_types: str, below: int) -> Callable[[Rule], Rule]:
        def register(function: Rule) -> Rule:
            for op_type in op_types:
                self.rules.setdefault(op_type, []).append((below, function))
            return function

        return register

    def next(self, op_type: str, version: int) -> tuple[int, Rule] | None:
        """The rule to apply to a node that is in the form of `version`, None when it is in the newest form."""
        later = [entry for entry in self.rules.get(op_type, ()) if entry[0] > version]
        return min(later, key=lambda entry: entry[0]) if later else None


TABLE = RuleTable()
rule = TABLE.rule

_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)


def fail(node: ir.Node, why: str) -> ModelError:
    """The error for a node that has no newest form."""
    return ModelError(f"node {node.name!r} ({node.op_type}): {why}")


def upgrade(model: ir.Model) -> int:
    """Bring all nodes of a model (functions already inlined) to the newest opset; returns the number of rewrites."""
    declared = model.opset_imports.get("", 1)
    newest = onnx.defs.onnx_opset_version()
    if declared > newest:
        raise ModelError(
            f"the model uses opset {declared}; the installed onnx {onnx.__version__} knows up to {newest}. "
            "Update onnx, or convert the model"
        )
    nodes = [node for graph in all_graphs(model.graph) for node in graph]
    return upgrade_nodes(model, Editor(model), nodes)


def upgrade_nodes(model: ir.Model, editor: Editor, nodes: Iterable[ir.Node]) -> int:
    """Upgrade some nodes; each is in the form of `node.version`, or of the model's opset when that is None."""
    from hasten.graph import upgrade_legacy  # noqa: F401  (registers its rules)

    context = Context(editor)
    changes = 0
    declared = model.opset_imports.get("", onnx.defs.onnx_opset_version())
    for node in nodes:
        if node.domain == "":
            changes += _upgrade_node(node, node.version or declared, context)
        node.version = None
    model.opset_imports[""] = onnx.defs.onnx_opset_version()
    return changes


def _upgrade_node(node: ir.Node, version: int, context: Context) -> int:
    changes = 0
    node.attributes.pop("consumed_inputs", None)
    while node.graph is not None and (found := TABLE.next(node.op_type, version)):
        version, apply = found
        apply(node, context)
        changes += 1
    return changes


def attribute_to_input(node: ir.Node, context: Context, name: str, index: int, default: Any = None) -> None:
    """Move an integer list (or integer) attribute to an int64 input."""
    value = take(node, name, default)
    if value is None:
        return
    array = np.asarray(value, np.int64)
    set_input(node, index, context.edit.constant(array, f"{node.name}/{name}"))


@rule("Squeeze", "Unsqueeze", "ReduceSum", below=13)
@rule(*_REDUCTIONS, below=18)
def axes_to_input(node: ir.Node, context: Context) -> None:
    attribute_to_input(node, context, "axes", 1)


@rule("Clip", below=11)
def clip_limits_to_inputs(node: ir.Node, context: Context) -> None:
    for index, name in ((1, "min"), (2, "max")):
        value = take(node, name)
        if value is not None and abs(value) < 3.402823e38:
            set_input(node, index, context.number(value, node.inputs[0], node, f"{node.name}/{name}"))  # type: ignore[arg-type]


@rule("Slice", below=10)
def slice_attributes_to_inputs(node: ir.Node, context: Context) -> None:
    for index, name in ((1, "starts"), (2, "ends"), (3, "axes")):
        attribute_to_input(node, context, name, index)


@rule("Pad", below=2)
def pad_paddings(node: ir.Node, context: Context) -> None:
    set_attribute(node, "pads", list(take(node, "paddings", ())))


@rule("Pad", below=11)
def pad_attributes_to_inputs(node: ir.Node, context: Context) -> None:
    attribute_to_input(node, context, "pads", 1, ())
    value = take(node, "value", 0.0)
    if value:
        set_input(node, 2, context.number(value, node.inputs[0], node, f"{node.name}/value"))  # type: ignore[arg-type]


@rule("TopK", below=10)
def topk_k_to_input(node: ir.Node, context: Context) -> None:
    attribute_to_input(node, context, "k", 1)
    value = constant(node.inputs[1])
    if value is not None:
        set_input(node, 1, context.edit.ints([int(value.reshape(-1)[0])], f"{node.name}/k"))


@rule("Split", below=13)
def split_sizes_to_input(node: ir.Node, context: Context) -> None:
    attribute_to_input(node, context, "split", 1)


@rule("Split", below=18)
def split_count(node: ir.Node, context: Context) -> None:
    if input_of(node, 1) is None:
        set_attribute(node, "num_outputs", len(node.outputs))


@rule("Reshape", below=5)
def reshape_shape_to_input(node: ir.Node, context: Context) -> None:
    attribute_to_input(node, context, "shape", 1, ())


@rule("Cast", below=6)
def cast_name_to_code(node: ir.Node, context: Context) -> None:
    name = attribute(node, "to")
    if isinstance(name, str):
        try:
            set_attribute(node, "to", ir.DataType[name.upper()].value)
        except KeyError:
            raise fail(node, f"casts to the unknown type {name!r}") from None


@rule("Dropout", below=12)
def dropout_to_identity(node: ir.Node, context: Context) -> None:
    """Up to opset 11 inference drops nothing; a mask, if asked for, is all true."""
    values: list[ir.Value | None] = [node.inputs[0]]
    if len(node.outputs) > 1:
        mask = node.outputs[1]
        used = bool(mask.uses()) or mask.is_graph_output()
        values.append(_all_true(node, context) if used else None)
    context.edit.replace(node, values)


def _all_true(node: ir.Node, context: Context) -> ir.Value:
    shape = context.edit.value_before(node, "Shape", [node.inputs[0]])
    true = ir.tensor(np.ones(1, np.bool_))
    return context.edit.value_before(node, "ConstantOfShape", [shape], {"value": true})


@rule("BatchNormalization", below=9)
def batch_norm_attributes(node: ir.Node, context: Context) -> None:
    if take(node, "spatial", 1) == 0:
        raise fail(node, "normalizes every position apart (spatial=0), which newer opsets do not have")
    take(node, "is_test")


@rule("BatchNormalization", below=14)
def batch_norm_training(node: ir.Node, context: Context) -> None:
    """More than one output meant training; the last two outputs were dropped from the operator."""
    if len(node.outputs) == 1:
        return
    if any(value.uses() or value.is_graph_output() for value in node.outputs[3:]):
        raise fail(node, "uses saved statistics of training, which newer opsets do not have")
    node.resize_outputs(min(3, len(node.outputs)))
    set_attribute(node, "training_mode", 1)


@rule("Concat", below=4)
def concat_default_axis(node: ir.Node, context: Context) -> None:
    set_attribute(node, "axis", attribute(node, "axis", 1))


@rule("Selu", below=6)
def selu_old_defaults(node: ir.Node, context: Context) -> None:
    set_attribute(node, "alpha", attribute(node, "alpha", 1.6732))
    set_attribute(node, "gamma", attribute(node, "gamma", 1.0507))


@rule("LpPool", "GlobalLpPool", "LpNormalization", below=2)
def p_is_integer(node: ir.Node, context: Context) -> None:
    p = attribute(node, "p", 2.0)
    if float(p) != int(p):
        raise fail(node, f"takes a norm of the fractional order {p}")
    set_attribute(node, "p", int(p))


@rule("RNN", "GRU", "LSTM", below=7)
def recurrent_output_sequence(node: ir.Node, context: Context) -> None:
    take(node, "output_sequence")


@rule("Upsample", below=7)
def upsample_two_scales(node: ir.Node, context: Context) -> None:
    width, height = take(node, "width_scale", 1.0), take(node, "height_scale", 1.0)
    set_attribute(node, "scales", [1.0, 1.0, float(height), float(width)])
    if attribute(node, "mode", "nearest") == "bilinear":
        set_attribute(node, "mode", "linear")


@rule("Upsample", below=9)
def upsample_scales_to_input(node: ir.Node, context: Context) -> None:
    scales = np.asarray(take(node, "scales", ()), np.float32)
    set_input(node, 1, context.edit.constant(scales, f"{node.name}/scales"))


@rule("Upsample", below=10)
def upsample_to_resize(node: ir.Node, context: Context) -> None:
    node.op_type = "Resize"


@rule("Resize", below=11)
def resize_asymmetric(node: ir.Node, context: Context) -> None:
    """Resize-10 knew one meaning: x / scale, rounded down for nearest."""
    scales = node.inputs[1]
    set_input(node, 1, None)
    set_input(node, 2, scales)
    mode = attribute(node, "mode", "nearest")
    set_attribute(node, "mode", "linear" if mode == "bilinear" else mode)
    set_attribute(node, "coordinate_transformation_mode", "asymmetric")
    if mode == "nearest":
        set_attribute(node, "nearest_mode", "floor")


@rule("Resize", below=13)
def resize_half_pixel_for_nn(node: ir.Node, context: Context) -> None:
    """(x + 0.5) / scale rounded down is the half-pixel coordinate rounded with halves up."""
    if attribute(node, "coordinate_transformation_mode") != "tf_half_pixel_for_nn":
        return
    if attribute(node, "mode", "nearest") != "nearest" or attribute(node, "nearest_mode") != "floor":
        raise fail(node, "uses tf_half_pixel_for_nn with a rounding that newer opsets do not have")
    set_attribute(node, "coordinate_transformation_mode", "half_pixel")
    set_attribute(node, "nearest_mode", "round_prefer_ceil")


@rule("Scatter", below=11)
def scatter_to_elements(node: ir.Node, context: Context) -> None:
    node.op_type = "ScatterElements"


@rule("Scatter", below=29)
def scatter_deprecated(node: ir.Node, context: Context) -> None:
    node.op_type = "ScatterElements"


@rule("GridSample", below=20)
def grid_sample_mode_names(node: ir.Node, context: Context) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = attribute(node, "mode", "bilinear")
    set_attribute(node, "mode", names.get(mode, mode))


@rule("RoiAlign", below=16)
def roi_align_without_offset(node: ir.Node, context: Context) -> None:
    """RoiAlign-10 did not shift coordinates by half a pixel; that became a choice, and not the default."""
    set_attribute(node, "coordinate_transformation_mode", "output_half_pixel")


@rule("DFT", below=20)
def dft_axis_to_input(node: ir.Node, context: Context) -> None:
    axis = np.asarray(take(node, "axis", 1), np.int64)
    set_input(node, 2, context.edit.constant(axis, f"{node.name}/axis"))


@rule("Gemm", below=7)
def gemm_broadcast_flag(node: ir.Node, context: Context) -> None:
    take(node, "broadcast")
