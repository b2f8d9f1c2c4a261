"""Attention in one pass: softmax(scale * q k' + mask) v, without the matrix of all scores in memory.

A tile of queries walks over its keys in blocks: scores of the tile by a block go to scratch that stays in the first
level cache, their running maximum and sum are brought up to date (Milakov and Gimelshein 2018; Dao et al. 2022), and the
weights are multiplied by the block's values. Keys (transposed) and values are packed into scratch once for each head, in
panels as wide as a register tile; queries, keys, values and masks are read at any strides, and results go to a sink.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.codegen.builder import V, vector
from hasten.codegen.convert import load_value
from hasten.codegen.isa import Isa
from hasten.kernels import moves, tile
from hasten.kernels.attention_scores import BLOCK, LOG2E, Softmax, Window
from hasten.kernels.moves import FLOAT
from hasten.kernels.spec import Emission, KernelSpec
from hasten.kernels.tile import Rows, Shape, Tile

VECTORS = 2  # of a tile's columns
FLOPS_PER_NS = 40  # a cautious figure for one core: only used to decide whether sharing among threads pays
SLACK = 64  # bytes between parts of scratch, and behind the last one


@dataclass(frozen=True)
class AttentionSpec(KernelSpec):
    """q [B, H, M, D], k [B, G, N, D], v [B, G, N, E], each of the G heads serving H / G neighbouring ones of q; a mask
    [B, H, M, N'] if `mask` names its dtype (bool: which keys count; floats are added; keys from N' on don't count); the
    number of keys that count in each batch [B] (int64) if `valid` -> [B, H, M, E], float32.

    `stored`: dtypes of q, k and v; `size`, `value_size`: D and E, None where only the run knows; `scale` None:
    1 / sqrt(D); `softcap` c > 0: c tanh(score / c) before the mask. `window`: which keys count by position. A query
    for which no key counts gets zeros.
    """

    isa: Isa
    stored: tuple[str, str, str]
    size: int | None
    value_size: int | None
    scale: float | None
    softcap: float = 0.0
    mask: str = ""
    valid: bool = False
    window: Window | None = None

    @property
    def accumulates(self) -> bool:
        return True

    @property
    def axes(self) -> tuple[str, ...]:
        return ("b", "h", "m", "e")

    @property
    def lane_axis(self) -> str:
        return "e"

    @property
    def masked(self) -> bool:
        """Whether there may be queries for which no key counts."""
        return bool(self.mask) or self.valid or self.window is not None

    def wants(self, operand: int) -> str:
        return "plain" if self.valid and operand == 3 + bool(self.mask) else "lanes:3"

    def dims(self, call: Any) -> dict[str, DimLike]:
        q, k, v = (call.operands[i].shape for i in range(3))
        sizes = {"batch": q[0], "heads": q[1], "shared": k[1], "m": q[2], "n": k[2], "d": q[3], "e": v[3]}
        if self.mask:
            sizes["mask_keys"] = call.operands[3].shape[3]
        if self.window is not None:
            sizes["before"] = self.window.before
        return sizes

    @property
    def shapes(self) -> list[Shape]:
        """Tiles by their number of queries, the largest first."""
        most, lanes = tile.most_rows(self.isa, VECTORS), self.isa.lanes(32)
        return [Shape(rows, VECTORS, lanes) for rows in (most, most * 4 // 7, most * 2 // 7)]

    def parts(self, n: DimLike, d: DimLike, e: DimLike) -> list[tuple[str, DimLike]]:
        """Parts of a thread's scratch, and their floats."""
        rows, width = self.shapes[0].rows, self.shapes[0].width
        return [
            ("maximum", rows), ("sum", rows), ("rescale", rows), ("top", rows * BLOCK // VECTORS), ("queries", rows * d),
            ("scores", rows * (BLOCK + width)),
            ("result", D.ceildiv(e, width) * (rows * width)), ("keys", D.ceildiv(n, width) * width * d), ("values", D.ceildiv(e, width) * width * n),
        ]  # fmt: skip

    def scratch(self, call: Any) -> DimLike:
        s = self.dims(call)
        total: DimLike = 0
        for _, floats in self.parts(s["n"], s["d"], s["e"]):
            total = total + floats * FLOAT + SLACK
        return total

    def operations(self, call: Any) -> DimLike:
        s = self.dims(call)
        return s["batch"] * s["heads"] * s["m"] * s["n"] * (s["d"] + s["e"]) * 2

    def work(self, call: Any) -> DimLike:
        return D.floordiv(self.operations(call), FLOPS_PER_NS)

    def describe(self) -> dict[str, str]:
        return {"algorithm": "streaming attention"}

    def emit(self, k: Emission) -> None:
        _Attention(self, k).emit()


class _Attention:
    def __init__(self, spec: AttentionSpec, k: Emission):
        self.spec, self.k, self.f, self.arg = spec, k, k.f, k.arg
        self.shapes, self.lanes, self.width = spec.shapes, spec.shapes[0].lanes, spec.shapes[0].width
        self.type = vector("float", self.lanes)
        self.d: int | V = spec.size if spec.size is not None else k.arg["d"]
        self.e: int | V = spec.value_size if spec.value_size is not None else k.arg["e"]
        self.panels = (self.e + (self.width - 1)) // self.width  # of values
        self.pitch = BLOCK + self.width  # of scores: no multiple of 4 KiB
        self.place = self._places()
        self.softmax = Softmax(self.f, spec, self.place, self.pitch)

    def _places(self) -> dict[str, V]:
        """Where the parts of this thread's scratch begin."""
        f, rows, width = self.f, self.shapes[0].rows, self.width
        floats: dict[str, int | V] = {
            "maximum": rows, "sum": rows, "rescale": rows, "top": rows * BLOCK // VECTORS, "queries": self.d * rows, "scores": rows * self.pitch,
            "result": self.panels * (rows * width), "keys": (self.arg["n"] + (width - 1)) // width * width * self.d,
        }  # fmt: skip
        places, at = {}, self.arg["scratch"]
        for name, count in floats.items():
            places[name] = at
            end = f.to_int(f.at(at, count, FLOAT)) + (SLACK - 1)
            at = f.to_ptr(end & -SLACK)
        return {**places, "values": at}

    # --- the walk -----------------------------------------------------------------------------------------------------
    def emit(self) -> None:
        """This thread's tiles of queries, of all heads; keys and values are packed where their head changes."""
        f, arg, most = self.f, self.arg, self.shapes[0].rows
        tiles = (arg["m"] + (most - 1)).udiv(most)
        begin, end = self.k.split(arg["batch"] * arg["heads"] * tiles)
        serving = arg["heads"].udiv(f.smax(arg["shared"], 1))
        packed = f.var("i64", -1)
        with f.loop(begin, end) as unit:
            head = unit.udiv(tiles)
            batch = head.udiv(arg["heads"])
            h, shared = head - batch * arg["heads"], head.udiv(serving)
            keys = self._keys(batch)
            with f.when(shared.ne(packed.get())):
                packed.set(shared)
                self._pack(batch, shared - batch * arg["shared"], keys)
            first = (unit - head * tiles) * most
            self._tile(batch, h, first, f.smin(arg["m"] - first, most), keys)

    def _keys(self, batch: V) -> V:
        """How many keys of a batch can count at all."""
        f, keys = self.f, self.arg["n"]
        if self.spec.mask:
            keys = f.smin(keys, self.arg["mask_keys"])
        if self.spec.valid:
            given = f.load("i64", f.at(self.arg[f"in{3 + bool(self.spec.mask)}"], batch, 8))
            keys = f.smax(f.smin(keys, given), 0)
        return keys

    def _tile(self, batch: V, head: V, first: V, count: V, keys: V) -> None:
        """Queries first, first + 1, ... of one head."""
        f = self.f
        self._load_queries(batch, head, first, count)
        self.softmax.begin(count)
        low, high, offset = self.softmax.bounds(self.arg, first, count, keys, batch, self.width)
        with f.loop(low, high, BLOCK) as block:
            length = f.smin(high - block, BLOCK)
            self._by_rows(count, lambda shape: self._multiply_keys(shape, block, length))
            self.softmax.rows(self.arg, batch, head, first, count, block, length, offset)
            self._by_rows(count, lambda shape: self._multiply_values(shape, block, length, block.eq(low)))
        self._give(batch, head, first, count, high > low)

    def _by_rows(self, count: V, emit: Any) -> None:
        """`emit` with the smallest tile that has `count` rows."""
        f, done = self.f, self.f.label("done")
        for shape, less in zip(self.shapes, self.shapes[1:], strict=False):
            smaller, here = f.label("smaller"), f.label("here")
            f.branch(count > less.rows, here, smaller)
            f.place(here)
            emit(shape)
            f.jump(done)
            f.place(smaller)
        emit(self.shapes[-1])
        f.place(done)

    # --- operands -----------------------------------------------------------------------------------------------------
    def _row(self, operand: int, batch: V, head: V) -> V:
        """Where row 0 of one head begins, in elements."""
        return batch * self.arg[f"in{operand}_s0"] + head * self.arg[f"in{operand}_s1"]

    def _load(self, operand: int, index: V, mask: V | None = None, lanes: int = 0) -> V:
        """Values of an operand as floats."""
        stored = self.spec.stored[operand]
        lanes = lanes or self.lanes
        place = self.f.at(self.arg[f"in{operand}"], index, dtypes.dtype(stored).size)
        return load_value(self.f, stored, place, lanes, mask)

    def _vectors(self, total: int | V, emit: Any) -> None:
        """emit(index, mask) for vectors that cover `total` elements; mask None: all lanes exist."""
        f, whole = self.f, total - total % self.lanes
        with f.loop(0, whole, self.lanes) as i:
            emit(i, None)
        if isinstance(total, int) and total % self.lanes == 0:
            return
        at, left = f.coerce(whole, "i64"), f.coerce(total - whole, "i64")
        with f.when(left > 0):
            emit(at, f.iota("i32", self.lanes) < f.cast(left, "i32"))

    def _store(self, value: V, place: V, mask: V | None) -> None:
        if mask is None:
            self.f.store(value, place)
        else:
            self.f.masked_store(value, place, mask)

    def _load_queries(self, batch: V, head: V, first: V, count: V) -> None:
        """A tile's queries, scaled."""
        f, scale = self.f, self._scale()
        start = self._row(0, batch, head)
        with f.loop(0, count) as r:
            row = start + (first + r) * self.arg["in0_s2"]
            target = f.at(self.place["queries"], self.d * r if isinstance(self.d, V) else r * self.d, FLOAT)
            self._vectors(self.d, lambda i, mask: self._store(self._load(0, row + i, mask) * scale, f.at(target, i, FLOAT), mask))  # noqa: B023

    def _scale(self) -> V:
        f, spec = self.f, self.spec
        unit = 1.0 if self.softmax.changes else LOG2E
        if spec.scale is not None:
            return f.const(self.type, spec.scale * unit)
        if isinstance(self.d, int):
            return f.const(self.type, self.d**-0.5 * unit)
        root = f.intrinsic("llvm.sqrt", "float", [f.cast(self.d, "float")])
        return f.splat(f.const("float", unit) / root, self.lanes)

    def _pack(self, batch: V, shared: V, keys: V) -> None:
        """Keys as [panel][D][width], values as [panel][N][width]; keys behind the last one repeat it."""
        f, first = self.f, self._row(1, batch, shared)
        with f.loop(0, (keys + (self.width - 1)).udiv(self.width)) as panel, f.loop(0, VECTORS) as v:
            column = panel * self.width + v * self.lanes
            rows = [first + f.smin(column + j, keys - 1) * self.arg["in1_s2"] for j in range(self.lanes)]
            target = f.at(f.at(self.place["keys"], panel * self.d, self.width * FLOAT), v, self.lanes * FLOAT)
            self._transpose(rows, target)
        start = self._row(2, batch, shared)
        with f.loop(0, keys) as n:
            row = start + n * self.arg["in2_s2"]

            def copy(i: V, mask: V | None) -> None:
                panel = i.udiv(self.width)
                place = f.at(f.at(self.place["values"], panel * self.arg["n"] + n, self.width * FLOAT), i - panel * self.width, FLOAT)  # noqa: B023
                f.store(self._load(2, row + i, mask), place)  # noqa: B023

            self._vectors(self.e, copy)

    def _transpose(self, rows: list[V], target: V) -> None:
        """Rows of D elements as columns of a panel."""
        f, lanes = self.f, self.lanes

        def block(i: V, mask: V | None) -> None:
            columns = moves.transpose(f, [self._load(1, row + i, mask) for row in rows])
            if mask is None:
                for j, column in enumerate(columns):
                    f.store(column, f.at(target, i + j, self.width * FLOAT))
                return
            for j, column in enumerate(columns[: self.d % lanes] if isinstance(self.d, int) else columns):
                with f.when(i + j < self.d):
                    f.store(column, f.at(target, i + j, self.width * FLOAT))

        self._vectors(self.d, block)

    # --- products -----------------------------------------------------------------------------------------------------
    def _multiply_keys(self, shape: Shape, block: V, length: V) -> None:
        """Scores of a tile's queries by keys [block, block + length)."""
        f, lanes = self.f, self.lanes
        queries = Rows(self.place["queries"], self.d * FLOAT)
        first = block.udiv(self.width)
        with f.loop(0, (length + (self.width - 1)).udiv(self.width)) as p:
            b = f.at(self.place["keys"], (first + p) * self.d, self.width * FLOAT)
            target = f.at(self.place["scores"], p, self.width * FLOAT)

            def product(vectors: int) -> None:
                t = Tile(f, Shape(shape.rows, vectors, lanes))
                t.multiply(queries, b, self.d, self.width * FLOAT)  # noqa: B023
                for r, row in enumerate(t.results()):
                    if not self.softmax.changes:
                        self.softmax.observe(r, p, row)
                    for v, value in enumerate(row):
                        f.store(value, f.offset(target, (r * self.pitch + v * lanes) * FLOAT))  # noqa: B023

            with f.either(length - p * self.width > lanes) as other:
                product(VECTORS)
                other.otherwise()
                product(1)

    def _multiply_values(self, shape: Shape, block: V, length: V, first: V) -> None:
        """result = result * rescale + weights * values of the keys [block, block + length)."""
        f, lanes = self.f, self.lanes
        weights = Rows(self.place["scores"], self.pitch * FLOAT)
        with f.loop(0, self.panels) as p:
            b = f.at(self.place["values"], p * self.arg["n"] + block, self.width * FLOAT)
            target = f.at(self.place["result"], p, self.shapes[0].rows * self.width * FLOAT)
            t = Tile(f, shape)
            t.multiply(weights, b, length)
            results = t.results()
            with f.either(first) as other:
                self._each(shape, target, lambda r, v, old: results[r][v])
                other.otherwise()
                scale = [f.splat(f.load("float", f.offset(self.place["rescale"], r * FLOAT)), lanes) for r in range(shape.rows)]
                self._each(shape, target, lambda r, v, old: f.fma(f.load(self.type, old), scale[r], results[r][v]))

    def _each(self, shape: Shape, target: V, value: Any) -> None:
        for r in range(shape.rows):
            for v in range(VECTORS):
                place = self.f.offset(target, (r * self.width + v * self.lanes) * FLOAT)
                self.f.store(value(r, v, place), place)

    def _give(self, batch: V, head: V, first: V, count: V, some: V) -> None:
        """Results divided by their sums, to the sink; zeros where no key counts."""
        f, sink, width = self.f, self.k.sink, self.width
        assert sink is not None
        with f.loop(0, count) as r:
            total = f.load("float", f.at(self.place["sum"], r, FLOAT))
            none = (total.eq(0.0) | ~some) if self.spec.masked else ~some
            factor = f.splat(f.const("float", 1.0) / f.select(none, f.const("float", 1.0), total), self.lanes)
            line = f.at(self.place["result"], r, width * FLOAT)

            def give(i: V, mask: V | None) -> None:
                panel = i.udiv(width)
                place = f.at(f.at(line, panel, self.shapes[0].rows * width * FLOAT), i - panel * width, FLOAT)  # noqa: B023
                value = f.select(f.splat(some, self.lanes), f.load(self.type, place) * factor, f.const(self.type, 0.0))  # noqa: B023
                sink(f, value, {"b": batch, "h": head, "m": first + r, "e": i}, self.lanes, mask)  # noqa: B023

            self._vectors(self.e, give)
