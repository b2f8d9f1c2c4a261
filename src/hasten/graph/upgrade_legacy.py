"""Upgrade rules for operators whose meaning changed, so that one node may become several.

Each rule is right for unknown shapes: where a rank is needed it is computed in the graph, and constant folding
removes the arithmetic when the shapes are known.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph.edit import attribute, constant, input_of, set_attribute, set_input, take
from hasten.graph.upgrade import Context, fail, rule

_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")


@rule(*_ARITHMETIC, below=7)
def legacy_broadcast(node: ir.Node, context: Context) -> None:
    """Before opset 7 the second operand was aligned at `axis` of the first; now operands are aligned at the end."""
    broadcast, axis = take(node, "broadcast", 0), take(node, "axis")
    a, b = node.inputs
    if not broadcast or axis is None or a is None or b is None:
        return
    set_input(node, 1, align_at(node, context, a, b, axis))


@rule("PRelu", below=7)
def prelu_slope_per_channel(node: ir.Node, context: Context) -> None:
    """A slope vector belonged to axis 1; a single slope was shared."""
    x, slope = node.inputs
    assert x is not None and slope is not None
    array = constant(slope)
    rank = array.ndim if array is not None else context.facts.rank(slope)
    if (array is not None and array.size == 1) or (rank is not None and rank != 1):
        return
    set_input(node, 1, align_at(node, context, x, slope, 1))


def align_at(node: ir.Node, context: Context, a: ir.Value, b: ir.Value, axis: int) -> ir.Value:
    """`b` with ones appended to its shape, so that its first dim meets dim `axis` of `a`."""
    edit, facts = context.edit, context.facts
    rank_a, rank_b = facts.rank(a), facts.rank(b)
    if rank_a is not None and rank_b is not None:
        start = axis + rank_a if axis < 0 else axis
        ones = rank_a - start - rank_b
        if ones < 0:
            raise fail(node, f"cannot align an operand of rank {rank_b} at axis {axis} of one of rank {rank_a}")
        if ones == 0:
            return b
        axes = edit.ints(range(rank_b, rank_b + ones), f"{node.name}/axes")
        return edit.value_before(node, "Unsqueeze", [b, axes])
    shape_a, shape_b = edit.value_before(node, "Shape", [a]), edit.value_before(node, "Shape", [b])
    ranks = [edit.value_before(node, "Shape", [shape]) for shape in (shape_a, shape_b)]
    rest = edit.value_before(node, "Sub", ranks)
    if axis >= 0:
        rest = edit.value_before(node, "Sub", [rest, edit.ints([axis], f"{node.name}/axis")])
    else:  # counted from the end: -axis dims of `a` remain from there
        rest = edit.value_before(node, "Sub", [edit.ints([-axis], f"{node.name}/axis"), ranks[1]])
    ones_tensor = ir.tensor(np.ones(1, np.int64))
    tail = edit.value_before(node, "ConstantOfShape", [rest], {"value": ones_tensor})
    shape = edit.value_before(node, "Concat", [shape_b, tail], {"axis": 0})
    return edit.value_before(node, "Reshape", [b, shape])


@rule("Softmax", "LogSoftmax", "Hardmax", below=13)
def softmax_of_matrix(node: ir.Node, context: Context) -> None:
    """Before opset 13 the input was flattened to a matrix at `axis`; the result took the old shape."""
    axis = attribute(node, "axis", 1)
    x = node.inputs[0]
    assert x is not None
    rank = context.facts.rank(x)
    if axis == -1 or (rank is not None and axis % max(rank, 1) == rank - 1):
        set_attribute(node, "axis", -1)
        return
    edit = context.edit
    shape = edit.value_before(node, "Shape", [x])
    matrix = edit.value_before(node, "Flatten", [x], {"axis": axis})
    result = edit.value_before(node, node.op_type, [matrix], {"axis": -1}, suffix="rows")
    edit.replace(node, [edit.value_before(node, "Reshape", [result, shape], {"allowzero": 1})])


@rule("GroupNormalization", below=21)
def group_norm_per_channel(node: ir.Node, context: Context) -> None:
    """Scale and bias were per group; now they are per channel."""
    groups = attribute(node, "num_groups")
    edit = context.edit
    channels = edit.value_before(node, "Shape", [node.inputs[0]], {"start": 1, "end": 2})
    count = edit.ints([groups], f"{node.name}/groups")
    per_group = edit.value_before(node, "Div", [channels, count])
    shape = edit.value_before(node, "Concat", [count, per_group], {"axis": 0})
    one, flat = edit.ints([1], f"{node.name}/axis"), edit.ints([-1], f"{node.name}/flat")
    for index in (1, 2):
        column = edit.value_before(node, "Unsqueeze", [node.inputs[index], one])
        matrix = edit.value_before(node, "Expand", [column, shape])
        set_input(node, index, edit.value_before(node, "Reshape", [matrix, flat]))


@rule("Scan", below=9)
def scan_over_batch(node: ir.Node, context: Context) -> None:
    """Scan-8 had a batch axis in front of everything: an outer Scan over it, around the Scan over the sequence."""
    if input_of(node, 0) is not None:
        raise fail(node, "gives each sequence its own length (opset 8), which newer opsets do not have")
    body: ir.Graph = attribute(node, "body")
    scans = attribute(node, "num_scan_inputs")
    states = len(node.inputs) - 1 - scans
    directions = attribute(node, "directions")
    values = [ir.Value(name=context.edit.unique(f"{node.name}/batch_{i}")) for i in range(len(node.inputs) - 1)]
    node.attributes.pop("body")
    attributes = {"body": body, "num_scan_inputs": scans}
    if directions:
        attributes["scan_input_directions"] = list(directions)
    inner = ir.node(
        "Scan", values, attributes, num_outputs=len(node.outputs), name=context.edit.unique(f"{node.name}/one")
    )
    for i, output in enumerate(inner.outputs):
        output.name = context.edit.unique(f"{node.name}/one:{i}")
    outer_body = ir.Graph(values, list(inner.outputs), nodes=[inner], name=f"{node.name}/batch")
    outer = context.edit.before(
        node,
        "Scan",
        list(node.inputs[1:]),
        {"body": outer_body, "num_scan_inputs": len(values)},
        outputs=len(node.outputs),
    )
    assert states >= 0
    context.edit.replace(node, list(outer.outputs))


@rule("Tile", below=6)
def tile_one_axis(node: ir.Node, context: Context) -> None:
    """Tile-1 repeated along one axis, both given as inputs."""
    rank, axis, tiles = context.facts.rank(node.inputs[0]), constant(input_of(node, 2)), constant(input_of(node, 1))
    if rank is None or axis is None or tiles is None:
        raise fail(node, "is in the form of opset 1 with a shape or axis that is not known; convert the model")
    repeats = np.ones(rank, np.int64)
    repeats[int(axis.reshape(-1)[0])] = int(tiles.reshape(-1)[0])
    set_input(node, 1, context.edit.constant(repeats, f"{node.name}/repeats"))
    node.resize_inputs(2)
