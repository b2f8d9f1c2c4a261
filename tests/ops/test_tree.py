"""Ensembles of trees against ONNX Runtime: random forests of all modes, aggregates, transforms and kinds of classifiers."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
from tracing import evaluate, reference, trace_node  # noqa: E402

import hasten  # noqa: E402
from hasten.kernels.forest import ACCEPT  # noqa: E402

ML = "ai.onnx.ml"
BRANCHES = [m for m in ACCEPT if m != "BRANCH_MEMBER"]


class Grower:
    """Random trees as the tables of the TreeEnsemble operators."""

    def __init__(self, rng: np.random.Generator, features: int, modes: list[str], missing: bool = False):
        self.rng, self.features, self.modes, self.missing = rng, features, modes, missing
        self.t: dict[str, list[Any]] = {
            k: []
            for k in (
                "treeids",
                "nodeids",
                "featureids",
                "values",
                "modes",
                "truenodeids",
                "falsenodeids",
                "missing_value_tracks_true",
            )
        }
        self.leaves: list[tuple[int, int]] = []

    def grow(self, tree: int, depth: int) -> None:
        self.count = 0
        self._node(tree, depth)

    def _node(self, tree: int, depth: int) -> int:
        at, number = len(self.t["treeids"]), self.count
        self.count += 1
        leaf = depth == 0 or (number > 0 and self.rng.random() < 0.2)
        row = {
            "treeids": tree,
            "nodeids": number,
            "featureids": 0 if leaf else int(self.rng.integers(self.features)),
            "values": 0.0 if leaf else float(self.rng.integers(-2, 3)),
            "modes": "LEAF" if leaf else str(self.rng.choice(self.modes)),
            "truenodeids": 0,
            "falsenodeids": 0,
            "missing_value_tracks_true": int(self.missing and self.rng.random() < 0.5),
        }
        for name, value in row.items():
            self.t[name].append(value)
        if leaf:
            self.leaves.append((tree, number))
        else:
            self.t["truenodeids"][at] = self._node(tree, depth - 1)
            self.t["falsenodeids"][at] = self._node(tree, depth - 1)
        return number

    def attributes(self, kind: str, entries: list[tuple[int, int, int, float]]) -> dict[str, Any]:
        """Attributes with the weights (tree, node, target, weight)."""
        columns = list(zip(*entries, strict=True))
        names = ("treeids", "nodeids", "ids", "weights")
        return {f"nodes_{k}": v for k, v in self.t.items()} | {
            f"{kind}_{n}": list(c) for n, c in zip(names, columns, strict=True)
        }


def model_of(op: str, x: np.ndarray, outputs: int, version: int = 3, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], [f"y{k}" for k in range(outputs)], domain=ML, **attributes)
    dt = helper.np_dtype_to_tensor_dtype(x.dtype)
    shape = ["n", *x.shape[1:]] if x.ndim > 1 else list(x.shape)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", dt, shape)], [onnx.ValueInfoProto(name=n) for n in node.output]
    )
    opsets = [helper.make_opsetid(ML, version), helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    for o, kind in zip(
        model.graph.output, [TensorProto.INT64, TensorProto.FLOAT] if outputs == 2 else [TensorProto.FLOAT], strict=True
    ):
        o.type.tensor_type.elem_type = kind
    return model


def compare(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        if b.dtype.kind == "i":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def check(model: onnx.ModelProto, x: np.ndarray) -> None:
    """Meaning and native code agree with ONNX Runtime."""
    want = reference(model, {"x": x})
    compare(evaluate(trace_node(model), {"x": x}), want)
    compare(list(hasten.compile(model, threads=1, host_ops=False).run({"x": x}).values()), want)


def rows(rng: np.random.Generator, n: int, features: int, dtype: str = "float32") -> np.ndarray:
    x = rng.integers(-3, 4, (n, features)).astype(dtype)
    if "float" in dtype:
        x += rng.choice([0.0, 0.5], x.shape).astype(dtype)
    return x


def grown(rng: np.random.Generator, trees: int, modes: list[str], missing: bool = False, features: int = 5) -> Grower:
    g = Grower(rng, features, modes, missing)
    for t in range(trees):
        g.grow(t, 5)
    return g


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("modes", [*([m] for m in BRANCHES), BRANCHES], ids=lambda m: "mixed" if len(m) > 1 else m[0])
def test_modes(rng: np.random.Generator, modes: list[str], dtype: str) -> None:
    g = grown(rng, 11, modes, missing=True)
    entries = [(t, n, 0, float(rng.normal())) for t, n in g.leaves]
    x = rows(rng, 83, 5, dtype)
    x[rng.random(x.shape) < 0.1] = np.nan
    check(model_of("TreeEnsembleRegressor", x, 1, n_targets=1, **g.attributes("target", entries)), x)


AGGREGATES = list(
    itertools.product(("SUM", "AVERAGE", "MIN", "MAX"), (1, 3), ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"))
)


@pytest.mark.parametrize(("function", "targets", "transform"), AGGREGATES)
def test_regressor(rng: np.random.Generator, function: str, targets: int, transform: str) -> None:
    g = grown(rng, 9, ["BRANCH_LEQ"])
    base = rng.normal(size=targets).astype("f4").tolist() if rng.random() < 0.5 else []
    # ONNX Runtime forgets the base value of a target that no leaf speaks for
    entries = [(t, n, t % targets if base else int(rng.integers(targets)), float(rng.normal())) for t, n in g.leaves]
    x = rows(rng, 21, 5)
    attributes = g.attributes("target", entries) | ({"base_values": base} if base else {})
    check(
        model_of(
            "TreeEnsembleRegressor",
            x,
            1,
            n_targets=targets,
            aggregate_function=function,
            post_transform=transform,
            **attributes,
        ),
        x,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32"])
@pytest.mark.parametrize("dense", [True, False])
def test_classifier(rng: np.random.Generator, dense: bool, dtype: str) -> None:
    g = grown(rng, 12, ["BRANCH_LT"])
    classes = int(rng.integers(3, 12))
    if dense:
        entries = [(t, n, c, float(rng.random())) for t, n in g.leaves for c in range(classes)]
    else:
        entries = [(t, n, t % classes, float(rng.normal())) for t, n in g.leaves]
    x = rows(rng, 70, 5, dtype)
    labels = (np.arange(classes) if rng.random() < 0.5 else rng.permutation(classes) * 7).tolist()
    check(
        model_of(
            "TreeEnsembleClassifier",
            x,
            2,
            classlabels_int64s=labels,
            post_transform="SOFTMAX",
            **g.attributes("class", entries),
        ),
        x,
    )


def test_classes_without_score(rng: np.random.Generator) -> None:
    """A class that no leaf of a row speaks for can't win, not even against negative scores."""
    g = grown(rng, 3, ["BRANCH_LT"])
    entries = [(t, n, int(rng.integers(5)), -float(rng.random())) for t, n in g.leaves]
    x = rows(rng, 100, 5)
    check(
        model_of("TreeEnsembleClassifier", x, 2, classlabels_int64s=list(range(5)), **g.attributes("class", entries)), x
    )


BINARY = list(
    itertools.product(("one", "zero", "both", "either"), (0, 1, 2), ("NONE", "LOGISTIC", "SOFTMAX"), (True, False))
)


@pytest.mark.parametrize(("kind", "base", "transform", "positive"), BINARY)
def test_binary(rng: np.random.Generator, kind: str, base: int, transform: str, positive: bool) -> None:
    if kind == "either" and base == 1:
        pytest.skip("ONNX Runtime leaves a score unwritten")
    g = grown(rng, 4, ["BRANCH_LEQ"])
    entries = []
    for t, n in g.leaves:
        chosen = {"one": [1], "zero": [0], "both": [0, 1], "either": [int(rng.integers(2))]}[kind]
        entries += [(t, n, c, float(rng.random() / 3 if positive else rng.normal())) for c in chosen]
    x = rows(rng, 40, 5)
    attributes = g.attributes("class", entries) | ({"base_values": [0.25, -0.5][:base]} if base else {})
    check(
        model_of("TreeEnsembleClassifier", x, 2, classlabels_int64s=[3, 8], post_transform=transform, **attributes), x
    )


def test_ensemble_of_links(rng: np.random.Generator) -> None:
    """TreeEnsemble: sets of members, several targets, float64."""
    tensor = onnx.numpy_helper.from_array
    for dtype in ("float32", "float64"):
        x = rows(rng, 30, 3, dtype)
        x[0, 0] = np.nan
        model = model_of(
            "TreeEnsemble",
            x,
            1,
            5,
            n_targets=2,
            aggregate_function=1,
            post_transform=0,
            tree_roots=[0, 2],
            nodes_featureids=[0, 1, 2],
            nodes_splits=tensor(np.array([0, 0.5, 0], dtype)),
            nodes_modes=tensor(np.array([6, 0, 6], np.uint8)),
            nodes_truenodeids=[1, 0, 3],
            nodes_trueleafs=[0, 1, 1],
            nodes_falsenodeids=[2, 1, 0],
            nodes_falseleafs=[1, 1, 1],
            nodes_missing_value_tracks_true=[1, 0, 0],
            leaf_targetids=[0, 1, 0, 1],
            leaf_weights=tensor(np.array([5.0, 12.0, -12.0, 1.5], dtype)),
            membership_values=tensor(np.array([1.0, 2.0, -3.0, np.nan, 0.0, 1.0], dtype)),
        )
        model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        first = np.where(np.isin(x[:, 0], [1, 2, -3]) | np.isnan(x[:, 0]), np.where(x[:, 1] <= 0.5, 0, 1), 2)
        second = np.where(np.isin(x[:, 2], [0, 1]), 3, 0)
        want = np.zeros((30, 2), dtype)
        for leaf in (first, second):
            np.add.at(
                want, (np.arange(30), np.array([0, 1, 0, 1])[leaf]), np.array([5.0, 12.0, -12.0, 1.5], dtype)[leaf]
            )
        compare(evaluate(trace_node(model), {"x": x}), [want])
        compare(list(hasten.compile(model, threads=1, host_ops=False).run({"x": x}).values()), [want])


SOUND: dict[str, list[Any]] = {
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [0, 0, 0],
    "nodes_values": [0.5, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
    "target_treeids": [0, 0],
    "target_nodeids": [1, 2],
    "target_ids": [0, 0],
    "target_weights": [1.0, 2.0],
}
BROKEN: dict[str, dict[str, list[Any]]] = {
    "does not exist": {"nodes_truenodeids": [7, 0, 0]},
    "endless": {"nodes_truenodeids": [0, 0, 0]},
    "different lengths": {"nodes_values": [0.5]},
    "leaf with weights 9": {"target_nodeids": [1, 9]},
    "target 4": {"target_ids": [0, 4]},
    "negative or too large": {"nodes_featureids": [-1, 0, 0]},
    "features that the rows do not have": {"nodes_featureids": [2, 0, 0]},
    "unknown mode": {"nodes_modes": ["BRANCH_NEAR", "LEAF", "LEAF"]},
    "defined twice": {"nodes_nodeids": [0, 1, 1]},
    "no tree": {name: [] for name in SOUND},
}


@pytest.mark.parametrize("message", BROKEN)
def test_damaged_trees(message: str) -> None:
    """Whatever the tables say, compiling refuses it with a ModelError."""
    tables = {name: value for name, value in (SOUND | BROKEN[message]).items() if value}
    model = model_of("TreeEnsembleRegressor", np.zeros((1, 2), "f4"), 1, n_targets=1, **tables)
    with pytest.raises(hasten.ModelError, match=message):
        hasten.compile(model, threads=1)


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "table"), [("tab_rf_digits", "tab_digits_256"), ("tab_xgb_movielens", "tab_movielens_2048")]
)
def test_real_models(data: Path, name: str, table: str) -> None:
    """Labels are those of ONNX Runtime, for any number of rows and threads."""
    model = onnx.load(data / "models" / f"{name}.onnx")
    x = np.load(data / "inputs" / f"{table}.npz")["x"]
    want = reference(model, {"x": x})
    for threads in (1, 2):
        compiled = hasten.compile(model, threads=threads, host_ops=False)
        compare(list(compiled.run({"x": x}).values()), want)
        for n in (1, 8, 67):
            compare(list(compiled.run({"x": x[:n]}).values()), [w[:n] for w in want])
