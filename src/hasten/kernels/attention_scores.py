"""The softmax of attention while the keys stream by: masks, running maxima and sums of a tile of queries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.codegen import math as M
from hasten.codegen.builder import Function, V, vector
from hasten.codegen.convert import load_value
from hasten.codegen.math_float import exp2_negative
from hasten.kernels.moves import FLOAT

if TYPE_CHECKING:
    from hasten.kernels.attention import AttentionSpec

MINUS_INFINITY, LOG2E = -math.inf, math.log2(math.e)
BLOCK = 256  # keys whose scores are in scratch at once
VECTORS = 2  # of a tile's columns


@dataclass(frozen=True)
class Window:
    """Keys that count by position: query i stands at i + `before`, or (`at_end`) where the last query meets the last valid
    key; a key counts from `left` places before that to `right` places behind it (-1: without limit)."""

    left: int
    right: int
    before: DimLike = 0
    at_end: bool = False


class Softmax:
    """Scores of a tile of queries become weights, a block of keys at a time.

    Parts of scratch: "scores" [rows, pitch] in and out; for each row "maximum" and "sum" so far, and "rescale": what
    results so far have to be multiplied by, and "top": the largest scores of a block.
    """

    def __init__(self, f: Function, spec: AttentionSpec, place: Mapping[str, V], pitch: int):
        self.f, self.spec, self.place, self.pitch = f, spec, place, pitch
        self.lanes, self.width = spec.shapes[0].lanes, spec.shapes[0].width
        self.panels = BLOCK // self.width
        self.type = vector("float", self.lanes)
        # scores that nothing is done to are logarithms to base 2: the queries' scale sees to that
        self.changes = bool(spec.mask) or spec.softcap > 0 or spec.window is not None

    def begin(self, count: V) -> None:
        """Forget what came before."""
        f = self.f
        with f.loop(0, count) as r:
            f.store(f.const("float", MINUS_INFINITY), f.at(self.place["maximum"], r, FLOAT))
            f.store(f.const("float", 0.0), f.at(self.place["sum"], r, FLOAT))

    def bounds(self, arg: Mapping[str, V], first: V, count: V, keys: V, batch: V, unit: int) -> tuple[V, V, V]:
        """The keys [low, high) that count for any query of the tile, low a multiple of `unit`; and the place of query 0."""
        f, window = self.f, self.spec.window
        low, high, offset = f.const("i64", 0), keys, f.const("i64", 0)
        if window is None:
            return low, high, offset
        offset = arg["before"]
        if window.at_end:
            offset = f.load("i64", f.at(arg[f"in{3 + bool(self.spec.mask)}"], batch, 8)) - arg["m"]
        if window.right >= 0:
            high = f.smin(keys, first + count + offset + window.right)
        if window.left >= 0:
            low = f.smax(first + offset - window.left, 0)
            low = low - low.urem(unit)
        return low, high, offset

    def observe(self, r: int | V, panel: V, scores: list[V]) -> None:
        """Vectors of row r and a panel of the block as they come from the product. Those behind the last key are like the
        last key's."""
        top = scores[0]
        for x in scores[1:]:
            top = self.f.smax(x, top)
        self.f.store(top, self.f.at(self._tops(r), panel, self.lanes * FLOAT), FLOAT)

    def _tops(self, r: V | int) -> V:
        """The largest scores of row r, lane by lane: of each panel of the block, or (where scores change) of all."""
        return self.f.at(self.place["top"], r, self.panels * self.lanes * FLOAT)

    def rows(self, arg: Mapping[str, V], batch: V, head: V, first: V, count: V, block: V, length: V, offset: V) -> None:
        """Weights of keys [block, block + length) for queries first, first + 1, ...

        Three loops over the rows: what one row waits for is computed while another one goes on.
        """
        f = self.f
        whole = length - length.urem(self.lanes)
        exists = f.iota("i32", self.lanes) < f.cast(length - whole, "i32")
        if self.changes:
            mask_base = batch * arg["in3_s0"] + head * arg["in3_s1"] if self.spec.mask else None
            with f.loop(0, count) as r:
                mask_row = None if mask_base is None else mask_base + (first + r) * arg["in3_s2"]

                def score(x: V, i: V, lane_mask: V | None) -> V:
                    return self._score(x, arg, mask_row, block + i, first + r + offset, lane_mask)  # noqa: B023

                self._change(r, score, whole, length, exists)
        panels = f.const("i64", 1) if self.changes else (length + (self.width - 1)).udiv(self.width)
        with f.loop(0, count) as r:
            self._settle(r, panels)
        with f.loop(0, count) as r:
            self._weights(r, whole, length, exists)

    def _line(self, r: V) -> V:
        return self.f.at(self.place["scores"], r, self.pitch * FLOAT)

    def _change(self, r: V, score: Callable[[V, V, V | None], V], whole: V, length: V, exists: V) -> None:
        """Soft cap and masks of one row; its largest scores."""
        f, line, top = self.f, self._line(r), self.f.var(self.type, MINUS_INFINITY)
        with f.loop(0, whole, self.lanes) as i:
            x = score(f.load(self.type, f.at(line, i, FLOAT)), i, None)
            f.store(x, f.at(line, i, FLOAT))
            top.set(f.smax(x, top.get()))
        with f.when(whole < length):
            x = score(f.load(self.type, f.at(line, whole, FLOAT)), whole, exists)
            x = f.select(exists, x, f.const(self.type, MINUS_INFINITY))
            f.store(x, f.at(line, whole, FLOAT))
            top.set(f.smax(x, top.get()))
        f.store(top.get(), self._tops(r))

    def _settle(self, r: V, panels: V) -> None:
        """The maximum so far, and what it does to results that were made with the one before."""
        f, maximum, tops = self.f, self.f.at(self.place["maximum"], r, FLOAT), self._tops(r)
        before, top = f.load("float", maximum), f.var(self.type, f.load(self.type, tops))
        with f.loop(1, panels) as p:
            top.set(f.smax(f.load(self.type, f.at(tops, p, self.lanes * FLOAT)), top.get()))
        now = f.smax(self._fold(top.get(), f.smax), before)
        f.store(now, maximum)
        f.store(self._weight(before - self._base(now)), f.at(self.place["rescale"], r, FLOAT))

    def _weight(self, difference: V) -> V:
        """exp of a difference of scores."""
        return exp2_negative(self.f, difference * LOG2E if self.changes else difference)

    def _base(self, maximum: V) -> V:
        """What is subtracted from scores: 0 where no key counts, so that all weights are zero."""
        f = self.f
        return f.select(maximum.eq(MINUS_INFINITY), f.const("float", 0.0), maximum) if self.spec.masked else maximum

    def _weights(self, r: V, whole: V, length: V, exists: V) -> None:
        """exp(score - maximum) of one row, and their sum so far."""
        f, lanes, line, added = self.f, self.lanes, self._line(r), self.f.var(self.type, 0.0)
        base = f.splat(self._base(f.load("float", f.at(self.place["maximum"], r, FLOAT))), lanes)

        def weigh(i: V, mask: V | None) -> None:
            place = f.at(line, i, FLOAT)
            weight = self._weight(f.load(self.type, place) - base)
            f.store(weight, place)
            added.set(added.get() + (weight if mask is None else f.select(mask, weight, f.const(self.type, 0.0))))

        with f.loop(0, whole, lanes) as i:
            weigh(i, None)
        with f.when(whole < length):
            weigh(whole, exists)
        total, factor = f.at(self.place["sum"], r, FLOAT), f.load("float", f.at(self.place["rescale"], r, FLOAT))
        f.store(f.load("float", total) * factor + self._fold(added.get(), lambda a, b: a + b), total)

    def _score(self, x: V, arg: Mapping[str, V], mask_row: V | None, key: V, position: V, exists: V | None) -> V:
        """A vector of scores with soft cap and masks; lane 0 is `key`, the query stands at `position`."""
        f, spec, lanes = self.f, self.spec, self.lanes
        if spec.softcap > 0:
            x = M.emit_op(f, "tanh", "float32", [x / spec.softcap]) * spec.softcap
        if mask_row is not None:
            place = f.at(arg["in3"], mask_row + key, dtypes.dtype(spec.mask).size)
            mask = load_value(f, spec.mask, place, lanes, exists)
            x = f.select(mask, x, f.const(self.type, MINUS_INFINITY)) if spec.mask == "bool" else x + f.cast(mask, "float")
        if spec.window is not None:
            there = f.iota("i64", lanes) + f.splat(key - position, lanes)
            if spec.window.right >= 0:
                x = f.select(there <= spec.window.right, x, f.const(self.type, MINUS_INFINITY))
            if spec.window.left >= 0:
                x = f.select(there >= -spec.window.left, x, f.const(self.type, MINUS_INFINITY))
        return x

    def _fold(self, x: V, combine: Callable[[V, V], V]) -> V:
        """All lanes combined into one."""
        f = self.f
        while x.lanes > 2:
            half = x.lanes // 2
            x = combine(f.shuffle(x, None, range(half)), f.shuffle(x, None, range(half, 2 * half)))
        return combine(f.extract(x, 0), f.extract(x, 1))
