"""Groups of nodes that together are one known operator become that operator: Gelu, HardSwish, LayerNormalization,
RMSNormalization; graph.attention does the same for Attention.

A pattern applies only when nobody outside of it uses what it computes on the way. Activations are recognized by their
formula (see `algebra`), normalizations by their structure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from hasten.graph.algebra import Formula, Polynomial, operands, results, same
from hasten.graph.edit import Editor, attribute, constant, control_graphs, input_of, ints, is_op, scalar
from hasten.graph.facts import Facts

_TANH_INNER: Polynomial = {("x",): math.sqrt(2 / math.pi), ("x", "x", "x"): math.sqrt(2 / math.pi) * 0.044715}
_GELU: Polynomial = {("x",): 0.5, ("t", "x"): 0.5}


def nodes_of(edit: Editor, *op_types: str) -> Iterator[ir.Node]:
    for graph in control_graphs(edit.model.graph):
        for node in list(graph):
            if is_op(node, *op_types) and node.graph is graph:
                yield node


def closed(interior: set[ir.Node], root: ir.Node) -> bool:
    """Whether only nodes of the pattern use what its nodes compute (the root's output may go anywhere)."""
    inside = interior | {root}
    return all(
        not value.is_graph_output() and all(use.node in inside for use in value.uses())
        for node in interior - {root}
        for value in node.outputs
    )


def fuse_gelu(edit: Editor) -> int:
    """0.5 x (1 + erf(x / sqrt 2)) and its tanh approximation become Gelu."""
    changes = 0
    for node in nodes_of(edit, "Erf", "Tanh"):
        erf = node.op_type == "Erf"
        wanted: Polynomial = {("x",): math.sqrt(0.5)} if erf else _TANH_INNER
        changes += _fuse_activation(edit, node, wanted, _GELU, "Gelu", {"approximate": "none" if erf else "tanh"})
    return changes


def fuse_hard_swish(edit: Editor) -> int:
    """x clip(x + 3, 0, 6) / 6 and x hardsigmoid(x) with slope 1/6 become HardSwish."""
    changes = 0
    for node in nodes_of(edit, "Clip", "HardSigmoid"):
        if node.op_type == "Clip":
            if (scalar(input_of(node, 1)), scalar(input_of(node, 2))) == (0.0, 6.0):
                changes += _fuse_activation(edit, node, {("x",): 1.0, (): 3.0}, {("t", "x"): 1 / 6}, "HardSwish", {})
        elif abs(attribute(node, "alpha", 0.2) - 1 / 6) < 1e-5 and abs(attribute(node, "beta", 0.5) - 0.5) < 1e-6:
            changes += _fuse_activation(edit, node, {("x",): 1.0}, {("t", "x"): 1.0}, "HardSwish", {})
    return changes


def _fuse_activation(
    edit: Editor, seed: ir.Node, inner: Polynomial, outer: Polynomial, op_type: str, attributes: dict[str, str]
) -> int:
    """seed computes t = f(inner polynomial of x); a result that is the outer polynomial of x and t becomes one node."""
    argument, t = seed.inputs[0], seed.outputs[0]
    candidates = [argument, *operands(argument)] if argument is not None else []
    for x in candidates:
        formula = Formula({x: "x"})
        if not same(formula.of(argument), inner):
            continue
        for result in results(t):
            whole = Formula({x: "x", t: "t"})
            root = result.producer()
            if root is None or root.graph is not seed.graph or not same(whole.of(result), outer):
                continue
            if closed(formula.interior | whole.interior | {seed}, root):
                edit.replace(root, [edit.value_before(root, op_type, [x], attributes)])
                return 1
    return 0


def fuse_layer_norm(edit: Editor) -> int:
    """(x - mean) / sqrt(variance + eps) * scale + bias becomes LayerNormalization; without the mean,
    RMSNormalization.
    """
    facts = Facts(edit.model)
    changes = 0
    for node in nodes_of(edit, "Sqrt", "Pow"):
        if node.op_type == "Sqrt" or scalar(node.inputs[1]) == -0.5:
            changes += _fuse_norm(edit, node, facts)
    return changes


def _fuse_norm(edit: Editor, root: ir.Node, facts: Facts) -> int:
    moment = _second_moment(root)
    if moment is None:
        return 0
    centered, epsilon, mean = moment
    sub = centered.producer()
    x, interior = centered, {mean, mean.inputs[0].producer(), root.inputs[0].producer(), root}  # type: ignore[union-attr]
    if is_op(sub, "Sub") and sub is not None and (first := _mean_of(sub.inputs[1], sub.inputs[0])) is not None:
        if ints(input_of(first, 1)) != ints(input_of(mean, 1)):
            return 0
        x = sub.inputs[0]  # type: ignore[assignment]
        interior |= {sub, first}
    axis = _trailing_axis(mean, facts.rank(x))
    normal = _normalized(centered, root, interior)
    if axis is None or normal is None:
        return 0
    scale_node, scale = _by_vector(normal, "Mul", -axis)
    if scale_node is None or scale is None:
        return 0
    interior.add(normal.producer())
    last, inputs = scale_node, [x, scale]
    if x is not centered:
        bias_node, bias = _by_vector(scale_node.outputs[0], "Add", -axis)
        if bias_node is not None and bias is not None:
            interior.add(scale_node)
            last, inputs = bias_node, [x, scale, bias]
    if not closed({n for n in interior if n is not None}, last):
        return 0
    op_type = "RMSNormalization" if x is centered else "LayerNormalization"
    vectors = [_shaped(edit, value, -axis) for value in inputs[1:]]
    edit.replace(last, [edit.value_before(last, op_type, [x, *vectors], {"axis": axis, "epsilon": epsilon})])
    return 1


def _second_moment(root: ir.Node) -> tuple[ir.Value, float, ir.Node] | None:
    """(d, eps, the mean) when a root is taken of mean(d * d) + eps."""
    add = root.inputs[0].producer() if root.inputs[0] is not None else None
    if add is None or not is_op(add, "Add"):
        return None
    for variance, other in (add.inputs, add.inputs[::-1]):
        epsilon = scalar(other)
        mean = variance.producer() if variance is not None else None
        if epsilon is None or not is_op(mean, "ReduceMean") or mean is None or mean.inputs[0] is None:
            continue
        square = mean.inputs[0].producer()
        if square is None or attribute(mean, "keepdims", 1) != 1:
            continue
        base = square.inputs[0]
        squared = (is_op(square, "Mul") and base is square.inputs[1]) or (
            is_op(square, "Pow") and scalar(square.inputs[1]) == 2.0
        )
        if squared and base is not None:
            return base, epsilon, mean
    return None


def _mean_of(value: ir.Value | None, x: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if is_op(node, "ReduceMean") and node is not None and node.inputs[0] is x else None


def _trailing_axis(mean: ir.Node, rank: int | None) -> int | None:
    """The first axis, negative, when the mean is over the last axes; None otherwise."""
    axes = ints(input_of(mean, 1))
    if not axes:
        return None
    if any(axis >= 0 for axis in axes):
        if rank is None:
            return None
        axes = [axis - rank if axis >= 0 else axis for axis in axes]
    return -len(axes) if sorted(axes) == list(range(-len(axes), 0)) else None


def _normalized(centered: ir.Value, root: ir.Node, interior: set[ir.Node | None]) -> ir.Value | None:
    """The value that is centered / root, however it is written."""
    divisor, inverted = root.outputs[0], root.op_type == "Pow"
    if not inverted:
        for use in divisor.uses():
            if is_op(use.node, "Div") and use.node.inputs[0] is centered and use.node.inputs[1] is divisor:
                return use.node.outputs[0]
            one_over = is_op(use.node, "Div") and scalar(use.node.inputs[0]) == 1.0
            if is_op(use.node, "Reciprocal") or one_over:
                interior.add(use.node)
                divisor, inverted = use.node.outputs[0], True
                break
    for use in divisor.uses() if inverted else ():
        if is_op(use.node, "Mul") and centered in use.node.inputs:
            return use.node.outputs[0]
    return None


def _by_vector(value: ir.Value, op_type: str, dims: int) -> tuple[ir.Node | None, ir.Value | None]:
    """(node, constant) when the only use of a value combines it with a constant over its last dims."""
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output() or not is_op(uses[0].node, op_type):
        return None, None
    node = uses[0].node
    other = node.inputs[1 - uses[0].idx]
    array = constant(other)
    if array is None or array.ndim < dims or any(dim != 1 for dim in array.shape[:-dims]) or array.size == 1:
        return None, None
    return node, other


def _shaped(edit: Editor, value: ir.Value | None, dims: int) -> ir.Value | None:
    """A constant without leading dims of size 1."""
    array = constant(value)
    if value is None or array is None or array.ndim == dims:
        return value
    return edit.constant(array.reshape(array.shape[-dims:]), f"{value.name}/vector")
