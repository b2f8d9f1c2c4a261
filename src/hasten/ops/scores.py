"""What ai.onnx.ml's models do with their scores: post transforms, labels of the best class, the second class of binary classifiers.

Where the standard is silent, these are the rules of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, HostCall, Index, Object, Stage, Tensor, Value
from hasten.ops.registry import Node, NoNative

ML = "ai.onnx.ml"
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")  # as numbered by TreeEnsemble
NEAR_ZERO = 1e-7


def text(value: Any) -> str:
    """A string attribute as str."""
    return value.decode() if isinstance(value, bytes) else str(value)


def transform_of(node: Node) -> str:
    """The attribute post_transform as a name."""
    value = node.attr("post_transform", "NONE")
    name = TRANSFORMS[value] if isinstance(value, int) and 0 <= value < len(TRANSFORMS) else text(value)
    if name not in TRANSFORMS:
        raise ModelError(f"{node}: unknown post_transform {name!r}")
    return name


def logistic(x: Expr) -> Expr:
    v = 1 / (1 + op("exp", -op("abs", x)))
    return E.select(x < 0, 1 - v, v)


def probit(x: Expr) -> Expr:
    """The quantile function of the normal distribution, by the approximation of ONNX Runtime."""
    a = 2 * x - 1
    log = op("log", (1 - a) * (1 + a))
    v = 2 / (3.14159 * 0.147) + 0.5 * log
    root = op("sqrt", op("sqrt", v * v - log * (1 / 0.147)) - v)
    return 1.41421356 * E.select(a < 0, -root, root)


ELEMENTWISE: dict[str, Callable[[Expr], Expr]] = {"NONE": lambda x: x, "LOGISTIC": logistic, "PROBIT": probit}


def as_float32(cx: Context, x: Tensor) -> Tensor:
    return x if x.dtype == "float32" else cx.map(x.shape, "float32", lambda i: E.cast(x.at(i), "float32"))


def transformed(cx: Context, scores: Tensor, transform: str, dtype: str = "float32") -> Tensor:
    """Scores [n, classes] after the post transform."""
    scores = as_float32(cx, scores)
    if transform == "NONE" and dtype == "float32":
        return scores
    if transform in ELEMENTWISE:
        return cx.map(scores.shape, dtype, lambda i: E.cast(ELEMENTWISE[transform](scores.at(i)), dtype))
    skip = transform == "SOFTMAX_ZERO"

    def part(e: Expr, largest: Expr) -> Expr:
        value = op("exp", e - largest)
        return E.select(NEAR_ZERO < op("abs", e), value, 0.0) if skip else value

    def final(o: Index, r: Index, p: dict[str, Expr]) -> Expr:
        e = scores.at((*o, *r))
        value = op("exp", e - p["max"])
        if skip:
            value = E.select(NEAR_ZERO < op("abs", e), value, e * op("exp", -p["max"]))
        return E.cast(value / p["sum"], dtype)

    stages = [
        Stage("max", "max", lambda o, r, p: scores.at((*o, *r))),
        Stage("sum", "sum", lambda o, r, p: part(scores.at((*o, *r)), p["max"])),
    ]
    return cx.nest(dtype, scores.shape[:1], scores.shape[1:], stages, final, scores.shape, lambda o, r: (*o, *r))


class Labels:
    """The labels of a classifier: integers, or strings, which a host op makes of class numbers."""

    def __init__(self, node: Node, ints: str, strings: str):
        self.node = node
        self.strings = [text(v) for v in node.attr(strings, None) or []]
        self.ints = [] if self.strings else [int(v) for v in node.attr(ints, None) or []]

    @property
    def count(self) -> int:
        return len(self.strings) or len(self.ints)

    def of(self, cx: Context, classes: Tensor) -> Value:
        """The labels [n] of class numbers [n]."""
        if self.strings:
            return self._texts(cx, classes)
        if self.ints == list(range(len(self.ints))):
            return classes
        table = cx.const(np.array(self.ints, np.int64))
        return cx.map(classes.shape, "int64", lambda i: table.at((cx.index(classes.at(i), len(self.ints)),)))

    def _texts(self, cx: Context, classes: Tensor) -> Object:
        if not cx.options.host_ops:
            raise NoNative("labels are strings")
        import onnx

        names = list(range(len(self.strings)))
        node = onnx.helper.make_node(
            "LabelEncoder", ["x"], ["y"], domain=ML, keys_int64s=names, values_strings=self.strings
        )
        graph = onnx.helper.make_graph([node], "host", [onnx.ValueInfoProto(name="x")], [onnx.ValueInfoProto(name="y")])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(ML, 4)])
        call = HostCall(f"labels of {self.node}", "LabelEncoder", model.SerializeToString(), [classes])
        result = Object("tensor(string)", call)
        call.results = [result]
        return result


def best_class(cx: Context, scores: Tensor, known: Callable[[Index, Index], Expr] | None = None) -> Tensor:
    """int64 [n]: the class with the highest score, the first of several; `known`: which have a score at all."""

    def score(o: Index, r: Index) -> Expr:
        e = scores.at((*o, *r))
        return e if known is None else E.select(known(o, r), e, float("-inf"))

    return cx.nest(
        "int64",
        scores.shape[:1],
        scores.shape[1:],
        [Stage("best", "argmax", lambda o, r, p: score(o, r))],
        lambda o, p: p["best"],
    )


def pair(cx: Context, n: Any, fn: Callable[[Index], tuple[Expr, Expr]]) -> Tensor:
    """float32 [n, 2] from the two scores of a row."""

    def element(i: Index) -> Expr:
        first, second = fn(i[:1])
        if isinstance(i[1], int):
            return second if i[1] else first
        return E.select(E.index(i[1]).eq(0), first, second)

    return cx.map((n, 2), "float32", element)


def rows_of(cx: Context, node: Node, x: Tensor) -> Tensor:
    """The input as [rows, features]: a vector is one row."""
    if x.rank not in (1, 2):
        raise ModelError(f"{node}: the input has {x.rank} axes; it must be a row of features or a table of rows")
    return cx.reshape(x, (1, *x.shape)) if x.rank == 1 else x
