"""Attention as exporters write it, two products with a softmax between them, becomes the operator Attention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph.edit import Editor, attribute, is_op, scalar
from hasten.graph.facts import Facts
from hasten.graph.patterns import closed, nodes_of


def fuse_attention(edit: Editor) -> int:
    """softmax(q k^T scale + mask) v over tensors of rank 4 (batch, heads, sequence, size), or of rank 3 with batch and
    heads as one, becomes Attention."""
    facts = Facts(edit.model)
    changes = 0
    for node in nodes_of(edit, "Softmax"):
        changes += _fuse_attention_at(edit, node, facts)
    return changes


def _fuse_attention_at(edit: Editor, softmax: ir.Node, facts: Facts) -> int:
    interior = {softmax}
    last = _weighted(softmax, interior)
    if last is None:
        return 0
    scores, masks = _take_masks(softmax.inputs[0], interior, facts)
    scale, scores = _take_scale(scores, interior)
    product = scores.producer() if scores is not None else None
    if product is None or not is_op(product, "MatMul"):
        return 0
    interior.add(product)
    query_scale, query = _take_scale(product.inputs[0], interior)
    key_scale, transposed = _take_scale(product.inputs[1], interior)
    key_node, value = transposed.producer() if transposed is not None else None, last.inputs[1]
    rank = facts.rank(value)
    if key_node is None or not is_op(key_node, "Transpose") or rank not in (3, 4) or facts.rank(query) != rank:
        return 0
    perm = list(attribute(key_node, "perm", ()))
    axis = attribute(softmax, "axis", -1)
    if len(perm) != rank or axis not in (-1, rank - 1) or (masks and rank == 3) or not closed(interior, last):
        return 0
    key = key_node.inputs[0]
    behind = {key_node}
    further_scale, further = _take_scale(key, behind)
    if len(behind) > 1 and closed(interior | behind, last):
        key, key_scale = further, key_scale * further_scale
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    if perm != swapped:
        key = edit.value_before(last, "Transpose", [key], {"perm": [perm[k] for k in swapped]})
    inputs = [query, key, value]
    if rank == 3:
        first = edit.constant(np.array([0]), f"{last.name}/first")
        inputs = [edit.value_before(last, "Unsqueeze", [x, first], {}) for x in inputs]
    if masks:
        mask = masks[0]
        for other in masks[1:]:
            mask = edit.value_before(last, "Add", [mask, other], {})
        inputs.append(mask)
    attributes = {"scale": scale * query_scale * key_scale}
    result = edit.value_before(last, "Attention", inputs, attributes)
    if rank == 3:
        result = edit.value_before(last, "Squeeze", [result, first], {})
    edit.replace(last, [result])
    return 1


def _weighted(softmax: ir.Node, interior: set[ir.Node]) -> ir.Node | None:
    """The product of the weights with the values: the only use of the softmax, perhaps behind a node that makes zeros of
    the NaNs of rows without any key (PyTorch's exporter), as Attention does."""
    uses = [use.node for use in softmax.outputs[0].uses()]
    weights = softmax.outputs[0]
    if len(uses) == 2:
        nan, where = sorted(uses, key=lambda node: node.op_type)
        if not is_op(nan, "IsNaN") or not is_op(where, "Where") or scalar(where.inputs[1]) != 0.0:
            return None
        if where.inputs[0] is not nan.outputs[0] or where.inputs[2] is not weights:
            return None
        interior |= {nan, where}
        weights = where.outputs[0]
        uses = [use.node for use in weights.uses()]
    if len(uses) != 1 or not is_op(uses[0], "MatMul") or uses[0].inputs[0] is not weights:
        return None
    return uses[0]


def _take_masks(value: ir.Value | None, interior: set[ir.Node], facts: Facts) -> tuple[ir.Value | None, list[ir.Value]]:
    """(scores, what is added to them)."""
    masks: list[ir.Value] = []
    while value is not None:
        add = value.producer()
        if add is None or not is_op(add, "Add"):
            break
        inner = next((v for v in add.inputs if _is_scores(v)), None) or next((v for v in add.inputs if _is_masked(v)), None)
        mask = next((v for v in add.inputs if v is not inner), None)
        if inner is None or mask is None or facts.rank(mask) not in (2, 3, 4):
            break
        interior.add(add)
        masks.append(mask)
        value = inner
    return value, masks


def _is_masked(value: ir.Value | None) -> bool:
    """Whether a value is a sum with a MatMul, perhaps scaled."""
    add = value.producer() if value is not None else None
    return add is not None and is_op(add, "Add") and any(_is_scores(v) for v in add.inputs)


def _is_scores(value: ir.Value | None) -> bool:
    """Whether a value is a MatMul, perhaps scaled."""
    _, value = _take_scale(value, set())
    return value is not None and is_op(value.producer(), "MatMul")


def _take_scale(value: ir.Value | None, interior: set[ir.Node]) -> tuple[float, ir.Value | None]:
    """(factor, the value without it) for a product or quotient with a positive constant."""
    node = value.producer() if value is not None else None
    if node is not None and is_op(node, "Mul", "Div"):
        number = scalar(node.inputs[1])
        if number is not None and number > 0 and np.isfinite(number):
            interior.add(node)
            return (number if node.op_type == "Mul" else 1.0 / number), node.inputs[0]
        number = scalar(node.inputs[0]) if node.op_type == "Mul" else None
        if number is not None and number > 0:
            interior.add(node)
            return number, node.inputs[1]
    return 1.0, value
