"""Einsum: products of any number of tensors with repeated labels summed, contracted two at a time through `matmul`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels.expr import Expr
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.elementwise import refuse_complex
from hasten.ops.matmul import matmul
from hasten.ops.registry import Node, operator, tensors

Labels = tuple[str, ...]


@operator("Einsum")
def einsum_node(cx: Context, node: Node, *xs: Tensor) -> Tensor:
    tensors(node, *xs)
    refuse_complex(cx, *xs)
    return einsum(cx, str(node.attr("equation")), *xs)


def einsum(cx: Context, equation: str, *xs: Tensor) -> Tensor:
    """NumPy's einsum: labels are letters, "..." stands for broadcast axes."""
    terms, result = parse(equation, [x.rank for x in xs])
    sizes: dict[str, DimLike] = {}
    for term, x in zip(terms, xs, strict=True):
        for label, size in zip(term, x.shape, strict=True):
            sizes[label] = cx.broadcast_shapes((size,), (sizes.get(label, 1),))[0]
    for label in result:
        if label not in sizes:
            raise ModelError(f"{cx.where()}: the label {label} of the result is in no operand of {equation!r}")
    parts = [_expanded(cx, t, x, sizes) for t, x in zip(terms, xs, strict=True)]
    while len(parts) > 2:
        later = {label for term, _ in parts[2:] for label in term} | set(result)
        keep = tuple(dict.fromkeys(label for term, _ in parts[:2] for label in term if label in later))
        parts[:2] = [(keep, _contract(cx, parts[:2], keep, sizes))]
    return _contract(cx, parts, result, sizes)


def parse(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """The labels of every operand and of the result; axes of an ellipsis get the labels "0", "1", ... counted from
    the last."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    words = left.split(",")
    if len(words) != len(ranks):
        raise ModelError(f"Einsum: {equation!r} has {len(words)} operands, {len(ranks)} are given")
    hidden = 0
    terms: list[Labels] = []
    for word, rank in zip(words, ranks, strict=True):
        extra = rank - len(word.replace("...", ""))
        if extra < 0 or (extra and "..." not in word):
            raise ModelError(f"Einsum: {word!r} of {equation!r} doesn't fit an operand of rank {rank}")
        hidden = max(hidden, extra)
        terms.append(_labels(word, extra))
    if arrow:
        return terms, _labels(right, hidden)
    counts = Counter(label for word in words for label in word if label.isalpha())
    return terms, (*_labels("...", hidden), *sorted(label for label, n in counts.items() if n == 1))


def _labels(word: str, hidden: int) -> Labels:
    head, dots, tail = word.partition("...")
    return (*head, *(str(k) for k in reversed(range(hidden)) if dots), *tail)


def _expanded(cx: Context, term: Labels, x: Tensor, sizes: dict[str, DimLike]) -> tuple[Labels, Tensor]:
    """Every label once (repeated ones are diagonals), and every axis of its label's full size unless it is 1 for
    good."""
    once = tuple(dict.fromkeys(term))
    if once != term:
        shape = [sizes[label] for label in once]
        x = cx.view(shape, x, lambda i: [i[once.index(label)] for label in term])
        return once, x
    shape = [d if isinstance(d, int) and d == 1 else sizes[label] for label, d in zip(term, x.shape, strict=True)]
    return term, cx.broadcast_to(x, shape)


def _contract(cx: Context, parts: list[tuple[Labels, Tensor]], result: Labels, sizes: dict[str, DimLike]) -> Tensor:
    """The product of one or two operands, summed over the labels that aren't in the result."""
    if len(parts) == 2 and parts[0][1].rank and parts[1][1].rank:
        product = _matrix_product(cx, parts, result, sizes)
        if product is not None:
            return product
    summed = tuple(dict.fromkeys(label for term, _ in parts for label in term if label not in result))
    outer, inner = [sizes[label] for label in result], [sizes[label] for label in summed]

    def element(o: Index, r: Index) -> Expr:
        at = dict(zip(result, o, strict=True)) | dict(zip(summed, r, strict=True))
        value: Expr | None = None
        for term, x in parts:
            e = x.at(
                [0 if isinstance(d, int) and d == 1 else at[label] for label, d in zip(term, x.shape, strict=True)]
            )
            value = e if value is None else value * e
        assert value is not None
        return value

    if not summed:
        return cx.map(outer, parts[0][1].dtype, lambda o: element(o, ()))
    return cx.reduce("sum", parts[0][1].dtype, outer, inner, element)


def _matrix_product(
    cx: Context, parts: list[tuple[Labels, Tensor]], result: Labels, sizes: dict[str, DimLike]
) -> Tensor | None:
    """Two operands as one batched matrix product; None where a label is summed in one operand only, or nothing is
    summed."""
    (la, a), (lb, b) = parts
    shared = [label for label in la if label in lb]
    batch = [label for label in shared if label in result]
    k = [label for label in shared if label not in result]
    m = [label for label in la if label not in lb]
    n = [label for label in lb if label not in la]
    if not k or any(label not in result for label in m + n):
        return None
    if any(axis_size(a, la, label) != sizes[label] or axis_size(b, lb, label) != sizes[label] for label in k):
        return None

    def arranged(x: Tensor, labels: Labels, groups: Sequence[list[str]]) -> Tensor:
        x = cx.transpose(x, [labels.index(label) for label in (*batch, *groups[0], *groups[1])])
        shape: list[DimLike] = list(x.shape[: len(batch)])
        for group in groups:
            size: DimLike = 1
            for label in group:
                size = size * sizes[label]
            shape.append(size)
        return cx.reshape(x, shape)

    y = matmul(cx, arranged(a, la, (m, k)), arranged(b, lb, (k, n)))
    order = (*batch, *m, *n)
    y = cx.reshape(y, [*y.shape[: len(batch)], *(sizes[label] for label in (*m, *n))])
    return cx.transpose(y, [order.index(label) for label in result])


def axis_size(x: Tensor, labels: Labels, label: str) -> DimLike:
    """The size of a labelled axis."""
    return x.shape[labels.index(label)]
