"""Puts together again what tracing to ATen took apart: products of more than two axes, and attention.

Below autograd PyTorch knows products of matrices and of batches of matrices only: `x @ w` with three axes becomes view, mm, view, and
`scaled_dot_product_attention` becomes the kernel that one device would run. As views the sizes of such a graph are products of symbols,
which no epilogue can be fused through; as one operator they are just sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch

_aten = torch.ops.aten
_VIEWS = {_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default}
_PRODUCTS = {_aten.mm.default: 1, _aten.addmm.default: 1, _aten.bmm.default: 2}  # axes of the left operand that a product keeps apart
_KERNEL = _aten._scaled_dot_product_flash_attention_for_cpu.default
ATTENTION = _aten.scaled_dot_product_attention.default


def restore(graph: Any) -> None:
    """Rewrite a `torch.fx.Graph` of ATen operators in place; its nodes carry fake tensors as `meta["val"]`."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _VIEWS:
            _product(graph, node)
        elif node.target is _KERNEL:
            _attention(graph, node)
    graph.eliminate_dead_code()


def _product(graph: Any, node: Any) -> None:
    """view(mm(view(x), y)) -> x @ y, likewise with a bias and for batches, where that gives the same shape."""
    product = node.args[0]
    kept = _PRODUCTS.get(getattr(product, "target", None))
    if kept is None or len(product.users) != 1 or product.kwargs:
        return
    left, right = (_unflattened(operand, kept) for operand in product.args[-2:])
    if kept == 1:
        right = product.args[-1]
    elif not _same(_shape(left)[:-2], _shape(right)[:-2]):
        return
    if not _same(_shape(node), (*_shape(left)[:-1], _shape(right)[-1])):
        return
    with graph.inserting_before(node):
        whole = graph.call_function(_aten.matmul.default, (left, right))
        if product.target is _aten.addmm.default:
            whole.meta["val"] = node.meta["val"]
            whole = graph.call_function(_aten.add.Tensor, (whole, product.args[0]))
    whole.meta.update(node.meta)
    node.replace_all_uses_with(whole)


def _unflattened(node: Any, kept: int) -> Any:
    """What a view with the same last `kept` axes was made of; expansions that change nothing are passed over."""
    source = node
    if source.target in _VIEWS and _same(_shape(source)[-kept:], _shape(source.args[0])[-kept:]):
        source = source.args[0]
    if source.target is _aten.expand.default and _same(_shape(source), _shape(source.args[0])):
        source = source.args[0]
    return source


def _attention(graph: Any, node: Any) -> None:
    """The CPU's kernel for attention -> the operator that it is for, where only its first result is used."""
    firsts = [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]
    if len(firsts) != len(node.users):
        return
    query, key, value, *rest = node.args
    dropout, causal = rest + [0.0, False][len(rest) :]
    with graph.inserting_before(node):
        whole = graph.call_function(
            ATTENTION,
            (query, key, value, node.kwargs.get("attn_mask"), dropout, causal),
            {"scale": node.kwargs.get("scale")},
        )
    for first in firsts:
        whole.meta.update(first.meta)
        first.replace_all_uses_with(whole)


def _shape(node: Any) -> Sequence[Any]:
    return tuple(node.meta["val"].shape)


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether shapes are known to be equal, by their expressions: comparing symbolic sizes would add a guard to the compiled function."""
    return len(a) == len(b) and all(expression(x) == expression(y) for x, y in zip(a, b, strict=True))


def expression(size: Any) -> Any:
    """A size as something that can be compared and looked up without consequences."""
    return size.node.expr if isinstance(size, torch.SymInt) else size
