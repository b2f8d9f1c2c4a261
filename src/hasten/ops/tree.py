"""Ensembles of decision trees: TreeEnsembleClassifier, TreeEnsembleRegressor, TreeEnsemble.

The trees become tables of constants for one kernel (kernels.tree), which aggregates the weights of leaves; base values, post transforms and
labels are elementwise work on its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.kernels.forest import Forest, from_links, from_tables, pack
from hasten.kernels.tree import INITIAL, tree_spec
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.registry import Node, operator, tensors
from hasten.ops.scores import (
    ML,
    Labels,
    as_float32,
    best_class,
    logistic,
    pair,
    probit,
    rows_of,
    text,
    transform_of,
    transformed,
)

FUNCTIONS = ("AVERAGE", "SUM", "MIN", "MAX")  # as numbered by TreeEnsemble
ROW_TYPES = ("float32", "float64", "float16", "int32", "int64")


def floats(node: Node, name: str) -> np.ndarray:
    """Numbers given as `name` or, in float64, as `name`_as_tensor; empty where neither is there."""
    tensor = node.attr(f"{name}_as_tensor", None)
    if tensor is not None:
        return np.asarray(tensor).reshape(-1)
    return np.asarray(node.attr(name, None) or [], np.float32)


def read_forest(node: Node, kind: str) -> Forest:
    """The attributes of TreeEnsembleClassifier (kind "class") or TreeEnsembleRegressor ("target")."""
    return from_tables(
        str(node),
        node.attr("nodes_treeids", []),
        node.attr("nodes_nodeids", []),
        node.attr("nodes_featureids", []),
        floats(node, "nodes_values"),
        node.attr("nodes_modes", []),
        node.attr("nodes_truenodeids", []),
        node.attr("nodes_falsenodeids", []),
        node.attr("nodes_missing_value_tracks_true", None),
        node.attr(f"{kind}_treeids", []),
        node.attr(f"{kind}_nodeids", []),
        node.attr(f"{kind}_ids", []),
        floats(node, f"{kind}_weights"),
    )


def aggregate(cx: Context, node: Node, x: Tensor, forest: Forest, targets: int, function: str) -> Tensor:
    """[rows, targets]: the aggregate of the weights of the leaves reached; 0 for a target that got none. Sums are in the type of
    thresholds: float64 where those or the rows are."""
    if x.dtype not in ROW_TYPES:
        raise ModelError(f"{node}: rows of {x.dtype}")
    if function not in FUNCTIONS:
        raise ModelError(f"{node}: unknown aggregate function {function!r}")
    forest = forest.checked(targets, str(node))
    cx.require(forest.features, "<=", x.shape[1], "the trees ask for features that the rows do not have")
    value = "float64" if "float64" in (x.dtype, str(forest.threshold.dtype), str(forest.weight.dtype)) else "float32"
    kind = function if function in INITIAL else "SUM"
    packed = pack(forest, targets, value, INITIAL[kind])
    tables = [cx.const(t) for t in (packed.nodes, packed.roots, packed.weights, packed.starts, packed.targets)]
    spec = tree_spec(packed, x.dtype, value, targets, kind)
    total = cx.kernel(spec, [x, *tables], [(value, (x.shape[0], targets))])[0]
    if function == "AVERAGE":
        return cx.map(total.shape, value, lambda i: total.at(i) / len(forest.roots))
    if kind == "SUM":
        return total
    return cx.map(total.shape, value, lambda i: E.select(total.at(i).eq(INITIAL[kind]), 0.0, total.at(i)))


def with_base(cx: Context, scores: Tensor, base: Sequence[float]) -> Tensor:
    """Scores plus one base value for each target."""
    if not any(base):
        return scores
    table = cx.const(np.array(base), scores.dtype)
    return cx.map(scores.shape, scores.dtype, lambda i: scores.at(i) + table.at(i[1:]))


def regression(cx: Context, node: Node, x: Tensor, forest: Forest, targets: int, function: str, dtype: str) -> Tensor:
    """Targets [rows, targets]. Of a single target, only PROBIT is applied (as ONNX Runtime does)."""
    base = [float(v) for v in floats(node, "base_values")]
    scores = with_base(
        cx, aggregate(cx, node, x, forest, targets, function), base if len(base) == targets else [0.0] * targets
    )
    transform = transform_of(node)
    if targets == 1 and transform != "PROBIT":
        return cx.map(scores.shape, dtype, lambda i: E.cast(scores.at(i), dtype)) if scores.dtype != dtype else scores
    if transform == "NONE" and dtype == "float64":
        return scores
    return transformed(cx, scores, transform, dtype)


@operator("TreeEnsembleRegressor", domain=ML)
def tree_ensemble_regressor(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    targets = int(node.attr("n_targets", 1))
    if targets < 1:
        raise ModelError(f"{node}: n_targets is {targets}")
    function = text(node.attr("aggregate_function", "SUM"))
    return regression(cx, node, rows_of(cx, node, x), read_forest(node, "target"), targets, function, "float32")


@operator("TreeEnsemble", domain=ML)
def tree_ensemble(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    if "float" not in x.dtype:
        raise ModelError(f"{node}: rows of {x.dtype}")
    targets, number = int(node.attr("n_targets", 1)), int(node.attr("aggregate_function", 1))
    if targets < 1 or not 0 <= number < len(FUNCTIONS):
        raise ModelError(f"{node}: n_targets is {targets}, aggregate_function {number}")

    def numbers(name: str, default: Any = None) -> np.ndarray | None:
        array = node.attr(name, default)
        if array is None:
            return None
        array = np.asarray(array)
        return array.astype(np.float32) if array.dtype.name == "float16" else array

    forest = from_links(
        str(node),
        node.attr("tree_roots"),
        node.attr("nodes_featureids"),
        _needed(numbers("nodes_splits")),
        np.asarray(node.attr("nodes_modes")),
        node.attr("nodes_truenodeids"),
        node.attr("nodes_trueleafs"),
        node.attr("nodes_falsenodeids"),
        node.attr("nodes_falseleafs"),
        node.attr("nodes_missing_value_tracks_true", None),
        node.attr("leaf_targetids"),
        _needed(numbers("leaf_weights")),
        numbers("membership_values"),
    )
    return regression(cx, node, rows_of(cx, node, x), forest, targets, FUNCTIONS[number], x.dtype)


def _needed(array: np.ndarray | None) -> np.ndarray:
    return np.zeros(0, np.float32) if array is None else array


# --- classification -----------------------------------------------------------------------------------------------------
@operator("TreeEnsembleClassifier", domain=ML)
def tree_ensemble_classifier(cx: Context, node: Node, x: Tensor) -> list[Any]:
    tensors(node, x)
    labels = Labels(node, "classlabels_int64s", "classlabels_strings")
    if not labels.count:
        raise ModelError(f"{node}: there are no class labels")
    classes, x = labels.count, rows_of(cx, node, x)
    forest = read_forest(node, "class").checked(classes, str(node))
    base = [float(v) for v in floats(node, "base_values")]
    reached, extended, targets = _coverage(node, forest, classes)
    total = aggregate(cx, node, x, extended, targets, "SUM")

    def known(i: Index, k: int) -> Expr:
        """Whether class k got any score in this row."""
        state = reached[k]
        return E.const(state > 0, "bool") if state <= 1 else total.at((*i, state)).ne(0.0)

    transform = transform_of(node)
    if classes <= 2:
        return _binary(cx, total, labels, base, transform, known, _Weights(forest))
    scores = cx.view((x.shape[0], classes), total, lambda i: i) if targets > classes else total
    base = (base + [0.0] * classes)[:classes]
    given = len(floats(node, "base_values"))
    scores = with_base(cx, scores, base)
    partial = [k for k in range(given, classes) if reached[k] != 1]

    def counts(o: Index, r: Index) -> Expr:
        result = E.const(True, "bool")
        for k in partial:
            result = E.select(E.index(r[0]).eq(k), known(o, k), result)
        return result

    best = best_class(cx, scores, counts if partial else None)
    return [labels.of(cx, best), transformed(cx, scores, transform)]


def _coverage(node: Node, forest: Forest, classes: int) -> tuple[list[int], Forest, int]:
    """Which classes get a score. For each class: 1 always, 0 never, else the number of an additional target of the returned forest, which
    counts."""
    if classes == 1:
        return [1], forest, 1
    starts = np.zeros(len(forest.leaf), np.int64)
    starts[forest.roots] = 1
    tree = np.cumsum(starts) - 1
    leaves = np.bincount(tree[forest.leaf], minlength=len(forest.roots))
    entries = np.unique(np.stack([forest.weight_target, forest.weight_node]), axis=1)
    reached = [0] * classes
    extra: list[np.ndarray] = []
    targets = classes
    for k in np.unique(entries[0]).tolist():
        nodes = entries[1][entries[0] == k]
        if (np.bincount(tree[nodes], minlength=len(leaves)) == leaves).any():
            reached[k] = 1
        else:
            reached[k] = targets
            extra.append(np.stack([np.full(len(nodes), targets), nodes]))
            targets += 1
    if not extra:
        return reached, forest, classes
    more = np.concatenate(extra, axis=1)
    grown = Forest(
        forest.threshold,
        forest.feature,
        forest.accept,
        forest.true,
        forest.false,
        forest.leaf,
        forest.roots,
        np.concatenate([forest.weight_node, more[1]]),
        np.concatenate([forest.weight_target, more[0]]),
        np.concatenate([forest.weight, np.ones(more.shape[1], forest.weight.dtype)]),
    )
    return reached, grown, targets


class _Weights:
    """What a binary classifier's rules ask of its weights."""

    def __init__(self, forest: Forest):
        self.one_class = len(np.unique(forest.weight_target)) == 1
        self.positive = bool((forest.weight >= 0).all())


def _binary(
    cx: Context, total: Tensor, labels: Labels, base: list[float], transform: str, known: Any, weights: _Weights
) -> list[Any]:
    """One or two classes. A score for the first class only stands for the second one, too; the rules are those of ONNX Runtime."""
    n, two = total.shape[0], labels.count == 2
    single = two and weights.one_class  # all weights are for one class
    limit = 0.5 if single and weights.positive else 0.0

    def plus(e: Expr, k: int) -> Expr:
        return e + base[k] if base[k] else e

    def scores(i: Index) -> tuple[Expr, Expr, Expr, Expr]:
        """Scores of both classes, the decisive score, and whether there are two."""
        first = total.at((*i, 0))
        if not two:
            first = plus(first, 0) if base else first
            return first, first, first, E.const(False, "bool")
        second, has = total.at((*i, 1)), known(i, 1)
        lone = E.select(known(i, 0), first, 0.0)
        if len(base) == 2:
            both = plus(first, 1)
            a, b = E.select(has, -both, plus(first, 0)), E.select(has, both, plus(second, 1))
            return a, b, E.select(has, both, E.select(known(i, 0), a, 0.0)), E.const(True, "bool")
        if len(base) == 1:
            first = plus(first, 0)
            lone = E.select(known(i, 0), first, 0.0)
        return first, second, E.select(has, second, lone), has

    def spread(s: Expr) -> tuple[Expr, Expr]:
        """Both scores from a single one."""
        if transform == "PROBIT":
            return probit(s), E.const(0.0, "float32")
        if not single and base:
            return s, E.const(0.0, "float32")
        if transform == "LOGISTIC":
            return logistic(-s), logistic(s)
        return (1 - s, s) if limit else (-s, s)

    number = cx.map((n,), "int64", lambda i: E.cast(limit < scores(i)[2], "int64"))
    y = labels.of(cx, number) if single or labels.strings and two else number  # without labels, where no class is alone
    if not two:
        scored = as_float32(cx, cx.map((n, 1), total.dtype, lambda i: scores(i[:1])[0]))
        return [y, transformed(cx, scored, transform if transform == "PROBIT" else "NONE")]

    def alone(i: Index) -> tuple[Expr, Expr]:
        return spread(E.cast(scores(i)[0], "float32"))

    def given(i: Index) -> tuple[Expr, Expr]:
        """Scores of both classes; a class without any has 0, whatever its base value."""
        a, b, _, _ = scores(i)
        return tuple(E.select(known(i, k), E.cast(e, "float32"), 0.0) for k, e in enumerate((a, b)))  # type: ignore[return-value]

    separate = transformed(cx, pair(cx, n, given), transform)
    always = scores((0,))[3] if len(base) == 2 else known((0,), 1)
    if always.kind == "const":
        return [y, separate if always.value else pair(cx, n, alone)]
    lone = pair(cx, n, alone)
    return [y, cx.map((n, 2), "float32", lambda i: E.select(scores(i[:1])[3], separate.at(i), lone.at(i)))]
