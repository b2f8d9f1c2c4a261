"""Decision trees as arrays: checked, brought to one kind of node, and packed for `kernels.tree`.

A node compares one feature with a threshold: the result is one of less, equal, greater, unordered (NaN), and `accept` has a bit for each
of the four that leads to the `true` child. So all of ONNX's modes, and where missing values go, are one 4-bit number. A leaf is its own
child. Models are not trusted: whatever a table says, every child exists and no path is endless, else ModelError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base.errors import ModelError

LESS, EQUAL, GREATER, UNORDERED = 1, 2, 4, 8
ACCEPT = {
    "BRANCH_LEQ": LESS | EQUAL,
    "BRANCH_LT": LESS,
    "BRANCH_GTE": GREATER | EQUAL,
    "BRANCH_GT": GREATER,
    "BRANCH_EQ": EQUAL,
    "BRANCH_NEQ": LESS | GREATER | UNORDERED,
    "BRANCH_MEMBER": EQUAL,
}
MODES = tuple(ACCEPT)  # as numbered by TreeEnsemble
MAX_NODES = 1 << 26  # child offsets in bytes fit 31 bits
DENSE_LIMIT = 64  # most targets for which every leaf stores a whole row of weights

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Forest:
    """Nodes as parallel arrays; `roots` are node numbers, one for each tree. Weights: leaf `weight_node[i]` gives `weight[i]` to target
    `weight_target[i]`."""

    threshold: Array
    feature: Array
    accept: Array
    true: Array
    false: Array
    leaf: Array
    roots: Array
    weight_node: Array
    weight_target: Array
    weight: Array

    @property
    def features(self) -> int:
        """Number of features that rows must have at least."""
        return int(self.feature.max(initial=-1)) + 1

    def checked(self, targets: int, where: str) -> Forest:
        """This forest, after making sure that walking through it ends and stays within its tables. Raises ModelError."""
        if not len(self.roots):
            raise ModelError(f"{where}: there is no tree")
        if len(self.leaf) > MAX_NODES:
            raise ModelError(f"{where}: {len(self.leaf)} nodes are more than {MAX_NODES}")
        if (self.feature < 0).any() or (self.feature >= 1 << 27).any():
            raise ModelError(f"{where}: the number of a feature is negative or too large")
        bad = (self.weight_target < 0) | (self.weight_target >= targets)
        if bad.any():
            raise ModelError(
                f"{where}: a leaf gives weight to target {int(self.weight_target[bad][0])}, there are {targets}"
            )
        if not self._acyclic():
            raise ModelError(f"{where}: a path through a tree is endless")
        return self

    def _acyclic(self) -> bool:
        branch = np.flatnonzero(~self.leaf)
        second = branch[self.true[branch] != self.false[branch]]
        parents = np.bincount(np.concatenate([self.true[branch], self.false[second]]), minlength=len(self.leaf))
        if parents.max(initial=0) <= 1 and not parents[self.roots].any():
            return True  # every node has one parent, and the roots have none: these are trees
        left, leaf = parents.tolist(), self.leaf.tolist()
        children = list(zip(self.true.tolist(), self.false.tolist(), strict=True))
        ready = [k for k, count in enumerate(left) if count == 0]
        done = 0
        while ready:
            k = ready.pop()
            done += 1
            if leaf[k]:
                continue
            for child in set(children[k]):
                left[child] -= 1
                if left[child] == 0:
                    ready.append(child)
        return done == len(leaf)


def one_length(where: str, tables: dict[str, Array]) -> None:
    """Raise ModelError unless all tables have as many entries."""
    sizes = {name: len(t) for name, t in tables.items()}
    if len(set(sizes.values())) > 1:
        raise ModelError(f"{where}: tables of different lengths: {', '.join(f'{n} has {s}' for n, s in sizes.items())}")


def _padded(values: Sequence[int] | None, count: int) -> Array:
    """As many flags as there are nodes; what isn't given is 0."""
    given = np.asarray(values or [], np.int64)[:count]
    return np.concatenate([given, np.zeros(count - len(given), np.int64)])


def from_tables(
    where: str,
    tree: Sequence[int],
    node: Sequence[int],
    feature: Sequence[int],
    threshold: Array,
    modes: Sequence[Any],
    true: Sequence[int],
    false: Sequence[int],
    missing: Sequence[int] | None,
    weight_tree: Sequence[int],
    weight_node: Sequence[int],
    target: Sequence[int],
    weight: Array,
) -> Forest:
    """The tables of TreeEnsembleClassifier and TreeEnsembleRegressor: nodes are named by tree and number."""
    names = [m.decode() if isinstance(m, bytes) else str(m) for m in modes]
    t = {
        "tree": np.asarray(tree, np.int64),
        "node": np.asarray(node, np.int64),
        "feature": np.asarray(feature, np.int64),
        "threshold": np.asarray(threshold),
        "mode": np.asarray(names),
        "true": np.asarray(true, np.int64),
        "false": np.asarray(false, np.int64),
    }
    w = {
        "tree of weights": np.asarray(weight_tree, np.int64),
        "node of weights": np.asarray(weight_node, np.int64),
        "target": np.asarray(target, np.int64),
        "weight": np.asarray(weight),
    }
    one_length(where, t)
    one_length(where, w)
    unknown = set(names) - set(ACCEPT) - {"LEAF"}
    if unknown:
        raise ModelError(f"{where}: unknown mode {sorted(unknown)[0]!r} of a node")
    find = _Finder(where, t["tree"], t["node"])
    leaf = t["mode"] == "LEAF"
    own = np.arange(len(leaf))
    children = []
    for side in ("true", "false"):
        child = own.copy()
        child[~leaf] = find(t["tree"][~leaf], t[side][~leaf], f"{side} child")
        children.append(child)
    accept = np.array([ACCEPT.get(m, 0) for m in names], np.int64) | np.where(
        _padded(missing, len(leaf)) != 0, UNORDERED, 0
    )
    starts = np.ones(len(leaf), bool)
    starts[1:] = t["tree"][1:] != t["tree"][:-1]
    weighted = find(w["tree of weights"], w["node of weights"], "leaf with weights")
    keep = leaf[weighted]
    return Forest(
        t["threshold"],
        np.where(leaf, 0, t["feature"]),
        np.where(leaf, 0, accept),
        children[0],
        children[1],
        leaf,
        np.flatnonzero(starts),
        weighted[keep],
        w["target"][keep],
        w["weight"][keep],
    )


class _Finder:
    """Positions of nodes in the tables by (tree, number)."""

    def __init__(self, where: str, tree: Array, node: Array):
        self.where = where
        self.keys = self._key(tree, node)
        self.order = np.argsort(self.keys, kind="stable")
        self.sorted = self.keys[self.order]
        twice = np.flatnonzero(self.sorted[1:] == self.sorted[:-1])
        if len(twice):
            k = int(self.order[twice[0]])
            raise ModelError(f"{where}: node {int(node[k])} of tree {int(tree[k])} is defined twice")

    @staticmethod
    def _key(tree: Array, node: Array) -> Array:
        key = np.empty(len(tree), [("tree", np.int64), ("node", np.int64)])
        key["tree"], key["node"] = tree, node
        return key

    def __call__(self, tree: Array, node: Array, what: str) -> Array:
        if not len(tree):
            return np.zeros(0, np.int64)
        keys = self._key(tree, node)
        at = np.minimum(np.searchsorted(self.sorted, keys), max(len(self.sorted) - 1, 0))
        missing = np.ones(len(keys), bool) if not len(self.sorted) else self.sorted[at] != keys
        if missing.any():
            k = int(np.flatnonzero(missing)[0])
            raise ModelError(f"{self.where}: {what} {int(node[k])} of tree {int(tree[k])} does not exist")
        return self.order[at].astype(np.int64)


def from_links(
    where: str,
    roots: Sequence[int],
    feature: Sequence[int],
    threshold: Array,
    modes: Array,
    true: Sequence[int],
    true_leaf: Sequence[int],
    false: Sequence[int],
    false_leaf: Sequence[int],
    missing: Sequence[int] | None,
    target: Sequence[int],
    weight: Array,
    members: Array | None,
) -> Forest:
    """The tables of TreeEnsemble: inner nodes and leaves are numbered apart; sets of members follow each other, parted by NaN."""
    t = {
        "feature": np.asarray(feature, np.int64),
        "threshold": np.asarray(threshold).reshape(-1),
        "mode": np.asarray(modes).reshape(-1).astype(np.int64),
        "true": np.asarray(true, np.int64),
        "trueleaf": np.asarray(true_leaf, np.int64),
        "false": np.asarray(false, np.int64),
        "falseleaf": np.asarray(false_leaf, np.int64),
    }
    w = {"target": np.asarray(target, np.int64), "weight": np.asarray(weight).reshape(-1)}
    one_length(where, t)
    one_length(where, w)
    inner, leaves = len(t["feature"]), len(w["target"])
    if ((t["mode"] < 0) | (t["mode"] >= len(MODES))).any():
        raise ModelError(f"{where}: unknown mode of a node")
    children = []
    for side in ("true", "false"):
        to_leaf = t[side + "leaf"] != 0
        bad = (t[side] < 0) | (t[side] >= np.where(to_leaf, leaves, inner))
        if bad.any():
            raise ModelError(f"{where}: {side} child {int(t[side][bad][0])} does not exist")
        children.append(t[side] + np.where(to_leaf, inner, 0))
    start = np.asarray(roots, np.int64)
    if ((start < 0) | (start >= inner)).any():
        raise ModelError(f"{where}: a root does not exist")
    accept = np.array([ACCEPT[m] for m in MODES], np.int64)[t["mode"]] | np.where(
        _padded(missing, inner) != 0, UNORDERED, 0
    )
    forest = Forest(
        np.concatenate([t["threshold"], np.zeros(leaves, t["threshold"].dtype)]),
        np.concatenate([t["feature"], np.zeros(leaves, np.int64)]),
        np.concatenate([accept, np.zeros(leaves, np.int64)]),
        np.concatenate([children[0], inner + np.arange(leaves)]),
        np.concatenate([children[1], inner + np.arange(leaves)]),
        np.arange(inner + leaves) >= inner,
        start,
        inner + np.arange(leaves),
        w["target"],
        w["weight"],
    )
    return _spread_members(where, forest, np.flatnonzero(t["mode"] == MODES.index("BRANCH_MEMBER")), members)


def _spread_members(where: str, forest: Forest, nodes: Array, members: Array | None) -> Forest:
    """Nodes that ask for membership in a set become chains of comparisons with one member each."""
    if not len(nodes):
        return forest
    sets: list[list[float]] = [[]]
    for v in np.asarray([] if members is None else members).reshape(-1).tolist():
        if v != v:
            sets.append([])
        else:
            sets[-1].append(v)
    if len(sets) < len(nodes) or any(sets[len(nodes) :]):
        raise ModelError(f"{where}: {len(nodes)} nodes need a set of members each, the model has {len(sets)}")
    threshold, feature, accept = forest.threshold.tolist(), forest.feature.tolist(), forest.accept.tolist()
    true, false = forest.true.tolist(), forest.false.tolist()
    for k, values in zip(nodes.tolist(), sets, strict=False):
        if not values:
            accept[k] &= UNORDERED
        outside, at = false[k], k
        for n, v in enumerate(values):
            threshold[at] = v
            if n + 1 < len(values):
                false[at] = len(feature)
                at = len(feature)
                for column, value in (
                    (threshold, 0.0),
                    (feature, feature[k]),
                    (accept, accept[k]),
                    (true, true[k]),
                    (false, outside),
                ):
                    column.append(value)
    more = len(feature) - len(forest.leaf)
    return Forest(
        np.array(threshold, forest.threshold.dtype),
        np.array(feature, np.int64),
        np.array(accept, np.int64),
        np.array(true, np.int64),
        np.array(false, np.int64),
        np.concatenate([forest.leaf, np.zeros(more, bool)]),
        forest.roots,
        forest.weight_node,
        forest.weight_target,
        forest.weight,
    )


# --- packing ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Packed:
    """Tables as `kernels.tree` reads them.

    nodes: int32 [n, 4] (float32 thresholds) or [n, 8] (float64): the bits of the threshold, feature (and accept << 27 where nodes differ in
    it), and the byte offsets of the true and the false child. The threshold of a leaf holds its weight (form "scalar") or, as an int32, its
    number among the leaves.
    roots: int32 byte offsets. form "dense": weights [leaves, targets]; "sparse": leaf k has entries starts[k] to starts[k + 1] of
    `targets` and `weights`.
    """

    form: str
    nodes: Array
    roots: Array
    weights: Array
    starts: Array
    targets: Array
    accept: int  # of all inner nodes; -1 where they differ in it
    levels: int  # rough number of steps to a leaf


RECORD = {"float32": 16, "float64": 32}


def pack(forest: Forest, targets: int, value: str, neutral: float) -> Packed:
    """Pack a checked forest for thresholds and sums of dtype `value`; `neutral` is the weight of a leaf that has none."""
    count, dt = len(forest.leaf), np.dtype(value)
    size = RECORD[value]
    leaves = np.flatnonzero(forest.leaf)
    number = np.zeros(count, np.int64)
    number[leaves] = np.arange(len(leaves))
    rows = number[forest.weight_node]
    order = np.argsort(rows, kind="stable")
    form = "scalar" if targets == 1 else "sparse"
    if targets > 1 and targets <= DENSE_LIMIT and len(leaves) * targets <= 2 * len(forest.weight):
        form = "dense"
    payload = np.zeros(count, dt)
    weights, starts, columns = np.zeros(0, dt), np.zeros(0, np.int32), np.zeros(0, np.int32)
    if form == "sparse":
        weights, columns = forest.weight[order].astype(dt), forest.weight_target[order].astype(np.int32)
        starts = np.searchsorted(rows[order], np.arange(len(leaves) + 1)).astype(np.int32)
    else:
        table = np.full((len(leaves), targets), neutral, dt)
        table[rows, forest.weight_target] = 0
        np.add.at(table, (rows, forest.weight_target), forest.weight.astype(dt))
        weights = table if form == "dense" else weights
        if form == "scalar":
            payload[leaves] = table[:, 0]
    nodes = np.zeros((count, size // 4), np.int32)
    words = dt.itemsize // 4
    threshold = np.where(forest.leaf, payload, forest.threshold.astype(dt)).astype(dt)
    nodes[:, :words] = threshold.view(np.int32).reshape(count, words)
    if form != "scalar":
        nodes[leaves, :words] = 0
        nodes[leaves, 0] = number[leaves]
    kinds = np.unique(forest.accept[~forest.leaf])
    mixed = forest.accept << 27 if len(kinds) > 1 else 0
    nodes[:, words] = (forest.feature | mixed).astype(np.uint32).view(np.int32)
    nodes[:, words + 1] = forest.true * size
    nodes[:, words + 2] = forest.false * size
    levels = int(np.log2(max(2, count / max(1, len(forest.roots))))) + 1
    weights, starts, columns = (t if t.size else np.zeros(1, t.dtype) for t in (weights, starts, columns))
    return Packed(
        form,
        nodes,
        (forest.roots * size).astype(np.int32),
        weights,
        starts,
        columns,
        -1 if len(kinds) > 1 else int(kinds.sum()),
        levels,
    )
