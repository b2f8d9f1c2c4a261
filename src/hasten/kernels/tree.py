"""Ensembles of decision trees: one walk from the root to a leaf for every row and tree.

A step is loads, a comparison and a choice between two addresses, without branches; its latency is hidden by `LANES` walks side by side:
of several rows through the same tree where there are enough rows (blocks of rows, so that a tree stays in the first cache while all rows of
the block pass), of one row through several trees where there are few. Leaves are their own children, so that walks that have ended stay.
Sums are taken tree after tree, so results do not depend on the number of rows or threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.codegen.builder import Function, V, vector
from hasten.codegen.convert import load_value
from hasten.kernels.forest import RECORD, Packed
from hasten.kernels.spec import Emission, KernelSpec

LANES = 8
BLOCK = 64  # rows that pass through one tree after another
FEATURE_BITS = 27
# LLVM's comparisons, by the set of results for which they hold (bits of kernels.forest: less, equal, greater, unordered)
PREDICATES = (
    "false",
    "olt",
    "oeq",
    "ole",
    "ogt",
    "one",
    "oge",
    "ord",
    "uno",
    "ult",
    "ueq",
    "ule",
    "ugt",
    "une",
    "uge",
    "true",
)
AGGREGATES = ("SUM", "MIN", "MAX")
INITIAL = {"SUM": 0.0, "MIN": float("inf"), "MAX": float("-inf")}


@dataclass(frozen=True)
class TreeSpec(KernelSpec):
    """in0: rows [n, features] of `dtype`; in1: nodes; in2: roots; in3: weights; in4: starts; in5: targets (see forest.Packed).
    out0: [n, targets] of dtype `value`: the aggregate of the weights of the leaves that a row reaches, starting from INITIAL."""

    dtype: str
    value: str
    form: str
    targets: int
    accept: int
    aggregate: str
    levels: int

    def dims(self, call: Any) -> dict[str, DimLike]:
        rows, features = call.operands[0].shape
        return {"rows": rows, "features": features, "trees": call.operands[2].shape[0]}

    def work(self, call: Any) -> DimLike:
        return call.operands[0].shape[0] * (call.operands[2].shape[0] * self.levels)  # type: ignore[no-any-return]

    def operations(self, call: Any) -> DimLike:
        return self.work(call)

    def describe(self) -> dict[str, str]:
        return {"algorithm": f"{LANES} walks at once, {self.form} leaves"}

    # --- meaning ----------------------------------------------------------------------------------------------------------
    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        x, nodes, roots, weights, starts, columns = inputs
        value = np.dtype(self.value)
        words = value.itemsize // 4
        x = x.astype(value)
        threshold = np.ascontiguousarray(nodes[:, :words]).view(value)[:, 0]
        code = nodes[:, words].view(np.uint32)
        out = np.full((len(x), self.targets), INITIAL[self.aggregate], value)
        combine = {"SUM": np.add, "MIN": np.minimum, "MAX": np.maximum}[self.aggregate]
        for root in roots:
            at = np.full(len(x), root // RECORD[self.value])
            while True:
                a, b = x[np.arange(len(x)), code[at] & (1 << FEATURE_BITS) - 1], threshold[at]
                relation = np.select([a < b, a == b, a > b], [1, 2, 4], 8)
                accept = code[at] >> FEATURE_BITS if self.accept < 0 else self.accept
                taken = (relation & accept) != 0
                after = np.where(taken, nodes[at, words + 1], nodes[at, words + 2]) // RECORD[self.value]
                if (after == at).all():
                    break
                at = after
            if self.form == "scalar":
                out[:, 0] = combine(out[:, 0], threshold[at])
            elif self.form == "dense":
                out = combine(out, weights[nodes[at, 0]])
            else:
                for row, leaf in enumerate(nodes[at, 0]):
                    for e in range(starts[leaf], starts[leaf + 1]):
                        out[row, columns[e]] = combine(out[row, columns[e]], weights[e])
        return [out]

    # --- code -------------------------------------------------------------------------------------------------------------
    def emit(self, k: Emission) -> None:
        f, arg = k.f, k.arg
        begin, end = k.split(arg["rows"])
        with f.loop(begin, end, BLOCK) as start:
            stop = f.smin(start + BLOCK, end)
            whole = start + ((stop - start) & -LANES)
            with f.loop(start, stop) as row:
                self._clear(k, row)
            with f.when(whole > start), f.loop(0, arg["trees"]) as tree:
                root = self._root(k, tree)
                with f.loop(start, whole, LANES) as row:
                    rows = [row + lane for lane in range(LANES)]
                    leaves = self._walk(k, [root] * LANES, [self._row(k, r) for r in rows])
                    for r, leaf in zip(rows, leaves, strict=True):
                        self._combine(k, r, [leaf])
            with f.loop(whole, stop) as row:
                self._trees(k, row)

    def _trees(self, k: Emission, row: V) -> None:
        """One row through all trees, several at once."""
        f, x = k.f, self._row(k, row)
        whole = k.arg["trees"] & -LANES
        with f.loop(0, whole, LANES) as tree:
            roots = [self._root(k, tree + lane) for lane in range(LANES)]
            self._combine(k, row, self._walk(k, roots, [x] * LANES))
        with f.loop(whole, k.arg["trees"]) as tree:
            self._combine(k, row, self._walk(k, [self._root(k, tree)], [x]))

    @property
    def _size(self) -> int:
        return np.dtype(self.value).itemsize

    @property
    def _type(self) -> str:
        return "float" if self.value == "float32" else "double"

    def _root(self, k: Emission, tree: V) -> V:
        return k.f.cast(k.f.load("i32", k.f.at(k.arg["in2"], tree, 4)), "i64")

    def _row(self, k: Emission, row: V) -> V:
        return k.f.at(k.arg["in0"], row * k.arg["features"], dtypes.dtype(self.dtype).size)

    def _walk(self, k: Emission, roots: Sequence[V], rows: Sequence[V]) -> list[V]:
        """Byte offsets of the leaves that the rows reach from the roots."""
        f = k.f
        places = [f.var("i64", root) for root in roots]
        with f.forever() as loop:
            moved: V | None = None
            for place, row in zip(places, rows, strict=True):
                middle = self._step(k, place.get(), row)
                last = self._step(k, middle, row)
                place.set(last)
                change = middle ^ last
                moved = change if moved is None else moved | change
            assert moved is not None
            loop.break_if(moved.eq(0))
        return [place.get() for place in places]

    def _step(self, k: Emission, place: V, row: V) -> V:
        """From a node to its child."""
        f, size = k.f, self._size
        node = f.offset(k.arg["in1"], place)
        threshold = f.load(self._type, node)
        code = f.load("i32", f.offset(node, size))
        feature = code & (1 << FEATURE_BITS) - 1 if self.accept < 0 else code
        x = load_value(f, self.dtype, f.at(row, f.cast(feature, "i64"), dtypes.dtype(self.dtype).size), 1)
        taken = self._taken(f, f.cast(x, self._type), threshold, code)
        child = f.select(taken, f.load("i32", f.offset(node, size + 4)), f.load("i32", f.offset(node, size + 8)))
        return f.cast(child, "i64")

    def _taken(self, f: Function, x: V, threshold: V, code: V) -> V:
        def holds(accept: int) -> V:
            return f.emit("i1", f"fcmp {PREDICATES[accept]} {x.type} {x.name}, {threshold.name}")

        if self.accept >= 0:
            return holds(self.accept)
        relation = f.select(
            holds(1), f.const("i32", 1), f.select(holds(2), f.const("i32", 2), f.select(holds(4), f.const("i32", 4), 8))
        )
        return (code.lshr(FEATURE_BITS) & relation).ne(0)

    # --- leaves -----------------------------------------------------------------------------------------------------------
    def _chunks(self, k: Emission) -> list[tuple[int, int]]:
        """(first target, number) of the vectors of a row of weights."""
        out, at = [], 0
        widest = k.isa.lanes(8 * self._size)
        while at < self.targets:
            width = min(widest, 1 << ((self.targets - at).bit_length() - 1))
            out.append((at, width))
            at += width
        return out

    def _result(self, k: Emission, row: V, target: V | int = 0) -> V:
        base = k.f.at(k.arg["out0"], row * self.targets, self._size)
        return k.f.at(base, target, self._size)

    def _clear(self, k: Emission, row: V) -> None:
        f, initial = k.f, INITIAL[self.aggregate]
        if self.form == "sparse":
            with f.loop(0, self.targets) as target:
                f.store(f.const(self._type, initial), self._result(k, row, target))
            return
        for at, width in self._chunks(k):
            f.store(f.const(vector(self._type, width), initial), self._result(k, row, at))

    def _combine(self, k: Emission, row: V, leaves: Sequence[V]) -> None:
        """Let the weights of leaves, one after another, enter the row's result."""
        f, size = k.f, self._size
        nodes = [f.offset(k.arg["in1"], leaf) for leaf in leaves]
        if self.form == "scalar":
            target = self._result(k, row)
            total = f.load(self._type, target)
            for node in nodes:
                total = self._fold(f, total, f.load(self._type, node))
            f.store(total, target)
            return
        numbers = [f.cast(f.load("i32", node), "i64") for node in nodes]
        if self.form == "dense":
            rows = [f.at(k.arg["in3"], number * self.targets, size) for number in numbers]
            for at, width in self._chunks(k):
                t = vector(self._type, width)
                target = self._result(k, row, at)
                total = f.load(t, target)
                for source in rows:
                    total = self._fold(f, total, f.load(t, f.at(source, at, size)))
                f.store(total, target)
            return
        for number in numbers:
            first = f.cast(f.load("i32", f.at(k.arg["in4"], number, 4)), "i64")
            last = f.cast(f.load("i32", f.at(k.arg["in4"], number + 1, 4)), "i64")
            with f.loop(first, last) as e:
                column = f.cast(f.load("i32", f.at(k.arg["in5"], e, 4)), "i64")
                target = self._result(k, row, column)
                f.store(
                    self._fold(f, f.load(self._type, target), f.load(self._type, f.at(k.arg["in3"], e, size))), target
                )

    def _fold(self, f: Function, total: V, weight: V) -> V:
        if self.aggregate == "SUM":
            return total + weight
        return f.smin(weight, total) if self.aggregate == "MIN" else f.smax(weight, total)


def tree_spec(packed: Packed, dtype: str, value: str, targets: int, aggregate: str) -> TreeSpec:
    """The kernel for packed tables and rows of `dtype`."""
    return TreeSpec(dtype, value, packed.form, targets, packed.accept, aggregate, packed.levels)
