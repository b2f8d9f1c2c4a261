"""Linear models and support vector machines (ai.onnx.ml): products with constants, and what classifiers make of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.coupling import CouplingSpec
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.matmul import matmul
from hasten.ops.registry import Node, operator, tensors
from hasten.ops.scores import (
    ML,
    Labels,
    as_float32,
    best_class,
    logistic,
    pair,
    rows_of,
    text,
    transform_of,
    transformed,
)


def table_of(node: Node, name: str, rows: int, columns: int | None = None) -> np.ndarray:
    """A float attribute as a matrix. Raises ModelError where it has not as many values."""
    values = np.asarray(node.attr(name, None) or [], np.float32)
    if rows < 1 or values.size % rows or values.size == 0 or (columns is not None and values.size != rows * columns):
        raise ModelError(
            f"{node}: {name} has {values.size} values, which do not make {rows} rows"
            + (f" of {columns}" if columns else "")
        )
    return values.reshape(rows, -1)


def product(cx: Context, x: Tensor, weights: np.ndarray, added: np.ndarray | None) -> Tensor:
    """x @ weights.T + added, for weights [targets, features]."""
    cx.require(x.shape[1], "==", weights.shape[1], f"{cx.where()}: rows have {weights.shape[1]} features")
    y = matmul(cx, as_float32(cx, x), cx.const(np.ascontiguousarray(weights.T)))
    if added is None or not added.any():
        return y
    table = cx.const(np.broadcast_to(added.astype(np.float32), (len(weights),)))
    return cx.map(y.shape, "float32", lambda i: y.at(i) + table.at(i[1:]))


def second_class(cx: Context, scores: Tensor, transform: str, opposite: bool) -> Tensor:
    """[n, 2] from the scores [n, 1] of the second class: the first one has 1 - s, or (opposite) -s."""

    def both(i: Index) -> tuple[Expr, Expr]:
        s = scores.at((*i, 0))
        if transform == "LOGISTIC":
            return logistic(-s), logistic(s)
        return (-s if opposite else 1 - s), s

    return pair(cx, scores.shape[0], both)


# --- linear models ------------------------------------------------------------------------------------------------------
@operator("LinearRegressor", domain=ML)
def linear_regressor(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    x = rows_of(cx, node, x)
    targets = int(node.attr("targets", 1))
    added = np.asarray(node.attr("intercepts", None) or [], np.float32)
    y = product(cx, x, table_of(node, "coefficients", targets), added if len(added) == targets else None)
    transform = transform_of(node)
    return y if targets == 1 and transform != "PROBIT" else transformed(cx, y, transform)


@operator("LinearClassifier", domain=ML)
def linear_classifier(cx: Context, node: Node, x: Tensor) -> list[Any]:
    tensors(node, x)
    x = rows_of(cx, node, x)
    labels = Labels(node, "classlabels_ints", "classlabels_strings")
    added = np.asarray(node.attr("intercepts", None) or [], np.float32)
    classes = len(added) or max(labels.count, 1)
    scores = product(cx, x, table_of(node, "coefficients", classes), added if len(added) else None)
    transform = transform_of(node)
    if classes > 1:
        if labels.count < classes:
            raise ModelError(f"{node}: {labels.count} labels for {classes} classes")
        return [labels.of(cx, best_class(cx, scores)), transformed(cx, scores, transform)]
    number = cx.map(x.shape[:1], "int64", lambda i: E.cast(0.0 < scores.at((*i, 0)), "int64"))
    two = labels.count == 2
    label = labels.of(cx, number) if two else number
    if transform == "PROBIT" or not two:
        return [label, transformed(cx, scores, transform if transform == "PROBIT" else "NONE")]
    return [label, second_class(cx, scores, transform, False)]


# --- support vector machines --------------------------------------------------------------------------------------------
def kernel_values(cx: Context, node: Node, x: Tensor, vectors: np.ndarray) -> Tensor:
    """[n, vectors]: the kernel function of every row and support vector."""
    kind = text(node.attr("kernel_type", "LINEAR"))
    gamma, coef0, degree = (float(v) for v in [*(node.attr("kernel_params", None) or []), 0.0, 0.0, 0.0][:3])
    if kind == "RBF":
        table, x = cx.const(vectors), as_float32(cx, x)
        cx.require(x.shape[1], "==", vectors.shape[1], f"{node}: rows have {vectors.shape[1]} features")

        def part(o: Index, r: Index) -> Expr:
            d = x.at((o[0], r[0])) - table.at((o[1], r[0]))
            return d * d

        distance = cx.reduce("sum", "float32", (x.shape[0], len(vectors)), x.shape[1:], part)
        return cx.map(distance.shape, "float32", lambda i: op("exp", distance.at(i) * -gamma))
    dot = product(cx, x, vectors, None)
    if kind == "LINEAR":
        return dot
    if kind not in ("POLY", "SIGMOID"):
        raise ModelError(f"{node}: unknown kernel_type {kind!r}")

    def value(i: Index) -> Expr:
        e = dot.at(i) * gamma + coef0
        if kind == "SIGMOID":
            return op("tanh", e)
        return e * e if degree == 2 else e * e * e if degree == 3 else op("pow", e, degree)

    return cx.map(dot.shape, "float32", value)


@operator("SVMRegressor", domain=ML)
def svm_regressor(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    x = rows_of(cx, node, x)
    vectors = int(node.attr("n_supports", 0))
    rho = table_of(node, "rho", 1)[0]
    if vectors > 0:
        values = kernel_values(cx, node, x, table_of(node, "support_vectors", vectors))
        y = product(cx, values, table_of(node, "coefficients", 1, vectors), rho[:1])
    else:
        y = product(cx, x, table_of(node, "coefficients", 1), rho[:1])
    if not node.attr("one_class", 0):
        return y
    return cx.map(y.shape, "float32", lambda i: E.select(0.0 < y.at(i), E.const(1.0, "float32"), -1.0))


@operator("SVMClassifier", domain=ML)
def svm_classifier(cx: Context, node: Node, x: Tensor) -> list[Any]:
    tensors(node, x)
    x = rows_of(cx, node, x)
    labels = Labels(node, "classlabels_ints", "classlabels_strings")
    if not labels.count:
        raise ModelError(f"{node}: there are no class labels")
    counts = [int(v) for v in node.attr("vectors_per_class", None) or []]
    if sum(counts) > 0:
        return _svc(cx, node, x, labels, counts)
    scores = product(cx, x, table_of(node, "coefficients", labels.count), table_of(node, "rho", 1)[0, :1])
    best = best_class(cx, scores)
    if labels.count == 2:
        positive = min(node.attr("coefficients")) >= 0
        top = cx.reduce("max", "float32", x.shape[:1], (2,), lambda o, r: scores.at((*o, *r)))

        def chosen(i: Index) -> Expr:
            win = 0.5 <= top.at(i) if positive else 0.0 < top.at(i)
            return best.at(i) if node.attr("prob_a", None) else E.select(win, E.const(1, "int64"), best.at(i))

        return [labels.of(cx, cx.map(x.shape[:1], "int64", chosen)), transformed(cx, scores, transform_of(node))]
    return [labels.of(cx, best), transformed(cx, scores, transform_of(node))]


def _svc(cx: Context, node: Node, x: Tensor, labels: Labels, counts: list[int]) -> list[Any]:
    """One classifier for each pair of classes; the class with most votes wins."""
    classes, total = labels.count, sum(counts)
    if len(counts) != classes or min(counts) < 0:
        raise ModelError(f"{node}: vectors_per_class is {counts} for {classes} classes")
    coefficients = (
        table_of(node, "coefficients", classes - 1, total) if classes > 1 else np.zeros((1, total), np.float32)
    )
    pairs = list(itertools.combinations(range(classes), 2))
    rho, starts = node.attr("rho", None) or [], np.cumsum([0, *counts])
    if len(rho) < len(pairs):
        raise ModelError(f"{node}: rho has {len(rho)} values for {len(pairs)} pairs of classes")
    weights = np.zeros((max(len(pairs), 1), total), np.float32)
    for row, (i, j) in enumerate(pairs):
        for c, other in ((i, j - 1), (j, i)):
            weights[row, starts[c] : starts[c + 1]] = coefficients[other, starts[c] : starts[c + 1]]
    values = kernel_values(cx, node, x, table_of(node, "support_vectors", total))
    scores = product(cx, values, weights, np.asarray(rho[: max(len(pairs), 1)] or [0.0], np.float32))
    n, transform = x.shape[0], transform_of(node)
    label = labels.of(cx, best_class(cx, _votes(cx, scores, pairs, classes)))
    if node.attr("prob_a", None) and pairs:
        return [label, transformed(cx, _probabilities(cx, node, scores, pairs, classes), transform)]
    if len(pairs) > 1:
        return [label, transformed(cx, scores, transform)]
    if not pairs:
        return [label, cx.map((n, 1), "float32", lambda i: E.const(0.0, "float32"))]
    return [label, second_class(cx, scores, transform, transform == "NONE")]


def _votes(cx: Context, scores: Tensor, pairs: list[tuple[int, int]], classes: int) -> Tensor:
    """[n, classes]: how many pairs each class wins."""
    sides = [cx.const(np.array([p[s] for p in pairs] or [0])) for s in (0, 1)]

    def vote(o: Index, r: Index) -> Expr:
        winner = E.select(0.0 < scores.at((o[0], r[0])), sides[0].at(r), sides[1].at(r))
        return E.cast(winner.eq(E.index(o[1])), "float32")

    return cx.reduce("sum", "float32", (scores.shape[0], classes), (max(len(pairs), 1),), vote)


def _probabilities(cx: Context, node: Node, scores: Tensor, pairs: list[tuple[int, int]], classes: int) -> Tensor:
    """[n, classes]: probabilities that agree best with those of all pairs."""
    tables = [cx.const(table_of(node, name, 1)[0][: len(pairs)]) for name in ("prob_a", "prob_b")]
    for t in tables:
        cx.require(t.shape[0], "==", len(pairs), f"{node}: prob_a and prob_b have a value for each pair of classes")

    def one(i: Index) -> Expr:
        p = 1 - logistic(scores.at(i) * tables[0].at(i[1:]) + tables[1].at(i[1:]))
        return op("min", op("max", p, 1e-7), 1 - 1e-7)

    each = cx.map(scores.shape, "float32", one)
    return cx.kernel(CouplingSpec(classes), [each], [("float32", (scores.shape[0], classes))])[0]
