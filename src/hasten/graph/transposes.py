"""Moves Transpose nodes towards the outputs, past nodes that do not care about the order of dims, so that pairs meet
and
cancel: models converted from channels-last frameworks carry one around every activation.

One rule, for a node f whose variable inputs are all Transpose by the same permutation p: f(T(a), T(b), c) = T(f'(a,
b, c')) where constants and axes of f are permuted too. A Transpose that others use stays, so it is only moved when
all its users can take part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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

_ELEMENTWISE = frozenset(
    """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater
    GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or
    PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh
    ThresholdedRelu Where Xor
    """.split()
)
_REDUCE = frozenset(["ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"])
_MAX_USERS = 4

Perm = Sequence[int]


def sink_transposes(edit: Editor) -> int:
    """Move every Transpose as far towards the outputs as it goes; returns the number of moves."""
    changes = 0
    for graph in control_graphs(edit.model.graph):
        for node in list(graph):
            if node.graph is graph and node.domain == "" and _may_sink(node):
                perm = _common_perm(node)
                if perm is not None:
                    changes += _sink(edit, node, perm)
    return changes


def _may_sink(node: ir.Node) -> bool:
    return node.op_type in _ELEMENTWISE or node.op_type in _REDUCE or node.op_type in _BY_OPERATOR


def _transpose_of(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and is_op(node, "Transpose") and attribute(node, "perm") else None


def _common_perm(node: ir.Node) -> Perm | None:
    """The permutation of the Transposes in front of a node, if all have the same and may be moved."""
    found: Perm | None = None
    for value in node.inputs:
        source = _transpose_of(value)
        if source is None:
            continue
        perm = attribute(source, "perm")
        if (found is not None and list(perm) != list(found)) or not _all_users_follow(source):
            return None
        found = perm
    return found


def _all_users_follow(source: ir.Node) -> bool:
    """Whether moving past all users leaves the Transpose without work."""
    users = [use.node for use in source.outputs[0].uses()]
    if source.outputs[0].is_graph_output() or len(users) > _MAX_USERS:
        return False
    if len(set(users)) == 1:
        return True
    return all(
        user.graph is source.graph and (user.op_type in _ELEMENTWISE or is_op(user, "Transpose", "Concat"))
        for user in users
    )


def _inverse(perm: Perm) -> list[int]:
    return [int(i) for i in np.argsort(perm)]


def _sink(edit: Editor, node: ir.Node, perm: Perm) -> int:
    new_inputs = _operands(edit, node, perm) if node.op_type in _ELEMENTWISE or node.op_type == "Concat" else None
    if new_inputs is None and (node.op_type in _ELEMENTWISE or node.op_type == "Concat"):
        return 0
    after: list[int] | None = list(perm)
    if node.op_type not in _ELEMENTWISE:
        prepare = _reduce if node.op_type in _REDUCE else _BY_OPERATOR[node.op_type]
        after = prepare(edit, node, perm)
        if after is None:
            return 0
    if new_inputs is None:
        source = _transpose_of(node.inputs[0])
        if source is None:
            return 0
        new_inputs = [source.inputs[0], *node.inputs[1:]]
    copy = edit.before(node, node.op_type, new_inputs, outputs=len(node.outputs), suffix="untransposed")
    for found in node.attributes.values():
        copy.attributes[found.name] = found
    identity = after == sorted(after or [])
    results: list[ir.Value | None] = []
    for value in copy.outputs:
        results.append(value if identity else edit.value_before(node, "Transpose", [value], {"perm": after}))
    edit.replace(node, results)
    copy.name = node.name
    return 1


def _operands(edit: Editor, node: ir.Node, perm: Perm) -> list[ir.Value | None] | None:
    """The inputs of an elementwise node as they are before the Transpose; None when one of them cannot be."""
    results: list[ir.Value | None] = []
    for value in node.inputs:
        source, array = _transpose_of(value), constant(value)
        if value is None:
            results.append(None)
        elif source is not None:
            results.append(source.inputs[0])
        elif array is not None and array.size == 1 and array.ndim <= len(perm):
            results.append(value)
        elif array is not None and array.ndim <= len(perm) and array.nbytes <= 1 << 24:
            full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
            moved = np.ascontiguousarray(full.transpose(_inverse(perm)))
            assert value.const_value is not None
            results.append(edit.constant(moved, f"{value.name}/permuted", value.const_value.dtype))
        else:
            reshaped = _reshaped(edit, value, perm)
            if reshaped is None:
                return None
            results.append(reshaped)
    return results


def _reshaped(edit: Editor, value: ir.Value, perm: Perm) -> ir.Value | None:
    """A Reshape to a shape with one dim that is not 1: the same values under the permuted shape."""
    node = value.producer()
    if node is None or not is_op(node, "Reshape"):
        return None
    target = ints(node.inputs[1])
    if target is None or len(target) != len(perm) or 0 in target or sum(dim != 1 for dim in target) > 1:
        return None
    moved = edit.ints([target[axis] for axis in _inverse(perm)], f"{node.name}/permuted")
    return edit.value_before(node, "Reshape", [node.inputs[0], moved], {"allowzero": 1}, suffix="permuted")


def _axes(numbers: Sequence[int], perm: Perm) -> list[int] | None:
    rank = len(perm)
    if any(not -rank <= axis < rank for axis in numbers):
        return None
    return [perm[axis] for axis in numbers]


def _concat(edit: Editor, node: ir.Node, perm: Perm) -> list[int] | None:
    if any(_transpose_of(value) is None for value in node.inputs):
        return None
    axes = _axes([attribute(node, "axis")], perm)
    if axes is None:
        return None
    set_attribute(node, "axis", axes[0])
    return list(perm)


def _reduce(edit: Editor, node: ir.Node, perm: Perm) -> list[int] | None:
    axes = ints(input_of(node, 1))
    moved = _axes(axes, perm) if axes else None
    if moved is None:
        return None
    set_input(node, 1, edit.ints(moved, f"{node.name}/axes"))
    if attribute(node, "keepdims", 1):
        return list(perm)
    kept = [axis for axis in perm if axis not in moved]
    return [sorted(kept).index(axis) for axis in kept]


def _pad(edit: Editor, node: ir.Node, perm: Perm) -> list[int] | None:
    pads, rank = ints(node.inputs[1]), len(perm)
    if pads is None or len(pads) != 2 * rank or input_of(node, 3) is not None:
        return None
    order = _inverse(perm)
    moved = [pads[axis] for axis in order] + [pads[rank + axis] for axis in order]
    set_input(node, 1, edit.ints(moved, f"{node.name}/pads"))
    return list(perm)


def _slice(edit: Editor, node: ir.Node, perm: Perm) -> list[int] | None:
    starts = ints(node.inputs[1])
    axes = ints(input_of(node, 3)) if input_of(node, 3) is not None else list(range(len(starts or [])))
    moved = _axes(axes, perm) if axes is not None and starts is not None else None
    if moved is None:
        return None
    set_input(node, 3, edit.ints(moved, f"{node.name}/axes"))
    return list(perm)


def _split(edit: Editor, node: ir.Node, perm: Perm) -> list[int] | None:
    axes = _axes([attribute(node, "axis", 0)], perm)
    if axes is None:
        return None
    set_attribute(node, "axis", axes[0])
    return list(perm)


_BY_OPERATOR: dict[str, Callable[[Editor, ir.Node, Perm], list[int] | None]] = {
    "Concat": _concat,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
}
