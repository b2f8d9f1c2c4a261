"""Preparation of features (ai.onnx.ml): scaling, imputing, encoding, extraction. Models are in ops.tree, ops.linear and ops.svm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Stage, Tensor
from hasten.ops.registry import Node, NoNative, operator, tensors
from hasten.ops.scores import ML, text

CHAIN = 8  # keys up to which a lookup is a chain of comparisons


def per_feature(cx: Context, node: Node, x: Tensor, values: list[Any], name: str, dtype: str) -> Any:
    """A function from the index of an element to its value of an attribute that has one value, or one for each feature."""
    table = cx.const(np.array(values), dtype)
    if len(values) == 1:
        return lambda i: table.at((0,))
    cx.require(x.shape[-1], "==", len(values), f"{name} has a value for each of {len(values)} features")
    return lambda i: table.at(i[-1:])


@operator("Scaler", domain=ML)
def scaler(cx: Context, node: Node, x: Tensor) -> Tensor:
    """(x - offset) * scale."""
    tensors(node, x)
    offset, scale = node.attr("offset", None) or [0.0], node.attr("scale", None) or [1.0]
    kind = "float64" if x.dtype == "float64" else "float32"
    low, factor = (per_feature(cx, node, x, v, n, kind) for v, n in ((offset, "offset"), (scale, "scale")))
    return cx.map(x.shape, "float32", lambda i: E.cast((E.cast(x.at(i), kind) - low(i)) * factor(i), "float32"))


@operator("Normalizer", domain=ML)
def normalizer(cx: Context, node: Node, x: Tensor) -> Tensor:
    """Rows divided by their largest element, the sum of their absolute values, or their length; rows for which that is 0 stay."""
    tensors(node, x)
    norm = text(node.attr("norm", "MAX"))
    if norm not in ("MAX", "L1", "L2") or x.rank < 1:
        raise ModelError(f"{node}: norm {norm!r} of a tensor of {x.rank} axes")

    def at(o: Index, r: Index) -> Expr:
        return E.cast(x.at((*o, *r)), "float32")

    def part(o: Index, r: Index, p: dict[str, Expr]) -> Expr:
        e = at(o, r)
        return e if norm == "MAX" else op("abs", e) if norm == "L1" else e * e

    def final(o: Index, r: Index, p: dict[str, Expr]) -> Expr:
        e, n = at(o, r), p["n"]
        n = op("sqrt", n) if norm == "L2" else n
        return E.select(n.eq(0.0), e, e / n)

    kind = "max" if norm == "MAX" else "sum"
    return cx.nest(
        "float32", x.shape[:-1], x.shape[-1:], [Stage("n", kind, part)], final, x.shape, lambda o, r: (*o, *r)
    )


@operator("Binarizer", domain=ML)
def binarizer(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    limit = float(node.attr("threshold", 0.0))
    kind = dtypes.compute_type(x.dtype) if dtypes.is_float(x.dtype) else "float32"
    return cx.map(x.shape, x.dtype, lambda i: E.cast(limit < E.cast(x.at(i), kind), dtypes.compute_type(x.dtype)))


@operator("Imputer", domain=ML)
def imputer(cx: Context, node: Node, x: Tensor) -> Tensor:
    """Elements equal to one value (or NaN) are replaced."""
    tensors(node, x)
    kind = dtypes.compute_type(x.dtype)
    name, other = ("float", "floats") if dtypes.is_float(x.dtype) else ("int64", "int64s")
    values, old = node.attr(f"imputed_value_{other}", None), node.attr(f"replaced_value_{name}", 0)
    if not values:
        raise ModelError(f"{node}: imputed_value_{other} is missing for elements of {x.dtype}")
    if len(values) > 1 and isinstance(x.shape[-1], int) and len(values) != x.shape[-1]:
        values = values[:1]  # as ONNX Runtime does
    new = per_feature(cx, node, x, values, "imputed_value", x.dtype)

    def element(i: Index) -> Expr:
        e = x.at(i)
        gone = op("isnan", e) if math.isnan(old) else e.eq(E.const(old, kind))
        return E.select(gone, new(i), e)

    return cx.map(x.shape, x.dtype, element)


@operator("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(cx: Context, node: Node, x: Tensor, positions: Tensor) -> Tensor:
    """Elements of the last axis at the given positions; of a vector, as one row."""
    tensors(node, x, positions)
    picked = cx.reshape(positions, (positions.size,))
    lead = x.shape[:-1] if x.rank > 1 else (1,)

    def element(i: Index) -> Expr:
        at = cx.index(picked.at(i[-1:]), x.shape[-1])
        return x.at((*(i[:-1] if x.rank > 1 else ()), at))

    return cx.map((*lead, positions.size), x.dtype, element)


@operator("FeatureVectorizer", domain=ML)
def feature_vectorizer(cx: Context, node: Node, *xs: Tensor) -> Tensor:
    """Rows side by side as float32; each input is cut, or filled with zeros, to its number of features."""
    tensors(node, *xs)
    sizes = [int(v) for v in node.attr("inputdimensions", None) or []]
    if len(sizes) != len(xs) or any(s < 0 for s in sizes):
        raise ModelError(f"{node}: {len(xs)} inputs, inputdimensions {sizes}")
    parts = []
    for x, size in zip(xs, sizes, strict=True):
        rows = cx.reshape(x, (1, x.size) if x.rank < 2 else (x.shape[0], x.size if x.rank < 2 else _product(x)))
        parts.append(_fitted(cx, rows, size))
    return cx.concat(parts, 1)


def _product(x: Tensor) -> Any:
    total: Any = 1
    for d in x.shape[1:]:
        total = total * d
    return total


def _fitted(cx: Context, rows: Tensor, size: int) -> Tensor:
    have = rows.shape[1]

    def element(i: Index) -> Expr:
        inside = E.index(i[1]) < E.index(have)
        if isinstance(have, int) and have >= size:
            inside = E.const(True, "bool")
        return E.cast(cx.load(rows, i, inside), "float32")

    return cx.map((rows.shape[0], size), "float32", element)


# --- lookups ------------------------------------------------------------------------------------------------------------
class Lookup:
    """Finds elements among constant keys: `position(e)` is where e would be (int64, inside of the table), `found(e)` whether it is there."""

    def __init__(self, cx: Context, keys: np.ndarray, dtype: str):
        self.cx, self.dtype, self.kind = cx, dtype, dtypes.compute_type(dtype)
        last: dict[Any, int] = {(None if k != k else k): n for n, k in enumerate(keys.tolist())}  # a repeated key: the last one
        self.missing = last.pop(None, None)  # where NaN is
        self.keys = sorted(last)
        self.order = [last[k] for k in self.keys]
        self.bits = max(len(self.keys) - 1, 0).bit_length()
        padded = self.keys + self.keys[-1:] * ((1 << self.bits) - len(self.keys))
        self.table = cx.const(np.array(padded or [0]), dtype)

    def position(self, e: Expr) -> Expr:
        """By halving."""
        at = E.const(0, "int64")
        for k in reversed(range(self.bits)):
            middle = self._key(at + (1 << k) - 1)
            at = E.select(middle < e, at + (1 << k), at)
        return at

    def _key(self, at: Expr) -> Expr:
        return self.table.at((self.cx.index(at, 1 << self.bits),))

    def choose(self, values: np.ndarray, default: Any, to: str) -> Any:
        """A function from an element to its value, of dtype `to`."""
        fallback = E.const(default, to)
        row = [values[n].item() for n in self.order]
        spread = np.array([*row, *row[-1:] * ((1 << self.bits) - len(row))] or [default])
        results = self.cx.const(spread, to)

        def value(e: Expr) -> Expr:
            if len(row) <= CHAIN:
                result = fallback
                for key, v in zip(self.keys, row, strict=True):
                    result = E.select(e.eq(E.const(key, self.kind)), E.const(v, to), result)
            else:
                at = self.position(e)
                hit = self._key(at).eq(e)
                result = E.select(hit, results.at((self.cx.index(at, 1 << self.bits),)), fallback)
            if self.missing is not None and dtypes.is_float(self.dtype):
                result = E.select(op("isnan", e), E.const(values[self.missing].item(), to), result)
            return result

        return value


def _encoder_table(node: Node, name: str) -> np.ndarray:
    """Keys or values of a LabelEncoder. Raises NoNative where they are strings."""
    for suffix, kind in (("int64s", np.int64), ("floats", np.float32)):
        given = node.attr(f"{name}_{suffix}", None)
        if given:
            return np.array(given, kind)
    array = node.attr(f"{name}_tensor", None)
    if array is None or np.asarray(array).dtype.kind not in "iuf":
        raise NoNative(f"{name} are strings")
    return np.asarray(array).reshape(-1)


@operator("LabelEncoder", domain=ML)
def label_encoder(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    keys, values = _encoder_table(node, "keys"), _encoder_table(node, "values")
    if len(keys) != len(values):
        raise ModelError(f"{node}: {len(keys)} keys for {len(values)} values")
    if dtypes.from_numpy(keys.dtype) != x.dtype:
        raise ModelError(f"{node}: keys of {keys.dtype} for elements of {x.dtype}")
    to = dtypes.from_numpy(values.dtype)
    given = node.attr("default_tensor", None)
    if given is not None and np.asarray(given).size and np.asarray(given).dtype.kind in "iuf":
        default = np.asarray(given).reshape(-1)[0].item()
    else:
        default = node.attr("default_float", -0.0) if dtypes.is_float(to) else node.attr("default_int64", -1)
    value = Lookup(cx, keys, x.dtype).choose(values, default, to)
    return cx.map(x.shape, to, lambda i: value(x.at(i)))


@operator("OneHotEncoder", domain=ML)
def one_hot_encoder(cx: Context, node: Node, x: Tensor) -> Tensor:
    """A row of zeros with a one at the place of the element's category; unknown ones fail the run unless `zeros` is set."""
    tensors(node, x)
    categories = [int(v) for v in node.attr("cats_int64s", None) or []]
    if not categories:
        raise NoNative("categories are strings")
    count = len(categories)
    if not node.attr("zeros", 1):
        place = Lookup(cx, np.array(categories), "int64").choose(np.arange(count), -1, "int64")
        numbers = cx.const(np.arange(count + 1))  # never a single one, which would be known without a load

        def known(i: Index) -> Expr:
            at = cx.index(place(E.cast(x.at(i[:-1]), "int64")), count)
            return E.cast(numbers.at((at,)).eq(E.index(i[-1])), "float32")

        return cx.map((*x.shape, count), "float32", known)
    table = cx.const(np.array(categories))
    last = cx.const(np.array([v not in categories[k + 1 :] for k, v in enumerate(categories)]))

    def element(i: Index) -> Expr:
        hot = E.cast(x.at(i[:-1]), "int64").eq(table.at(i[-1:]))
        return E.cast(hot & last.at(i[-1:]) if len(set(categories)) < count else hot, "float32")

    return cx.map((*x.shape, count), "float32", element)
