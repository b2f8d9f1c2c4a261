"""How a thread computes attention: tiles of queries walk over the keys of their head.

A tile takes its keys in blocks: scores of the tile by a block go to scratch that stays in the first level cache, their
running maximum and sum are brought up to date (Milakov and Gimelshein 2018; Dao et al. 2022), and the weights are
multiplied by the block's values. Keys (transposed) and values are packed into scratch once for each head, in panels as
wide as a register tile. One or two queries are too few for that: they read keys and values as they lie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hasten.base import dtypes
from hasten.codegen.builder import V, vector
from hasten.codegen.convert import load_value
from hasten.kernels import moves
from hasten.kernels.attention_scores import BLOCK, LOG2E, VECTORS, Softmax
from hasten.kernels.moves import FLOAT
from hasten.kernels.spec import Emission
from hasten.kernels.tile import Rows, Shape, Tile

if TYPE_CHECKING:
    from hasten.kernels.attention import AttentionSpec

SLACK = 64  # bytes between parts of scratch, and behind the last one
FEW_QUERIES = 2  # up to so many, packing would take longer than the products


class Attention:
    """Emits one AttentionSpec."""

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
        plain = spec.stored[1:] == ("float32", "float32") and isinstance(self.d, int) and isinstance(self.e, int)
        self.few = k.arg["m"] <= FEW_QUERIES if plain and self.e % self.width == 0 else None

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
            rows = [self._row(operand, batch, shared - batch * arg["shared"]) for operand in (1, 2)]
            with f.when(shared.ne(packed.get()) if self.few is None else shared.ne(packed.get()) & ~self.few):
                packed.set(shared)
                self._pack(rows[0], rows[1], keys)
            first = (unit - head * tiles) * most
            self._tile(batch, h, first, f.smin(arg["m"] - first, most), keys, rows)

    def _keys(self, batch: V) -> V:
        """How many keys of a batch can count at all."""
        f, keys = self.f, self.arg["n"]
        if self.spec.mask:
            keys = f.smin(keys, self.arg["mask_keys"])
        if self.spec.valid:
            given = f.load("i64", f.at(self.arg[f"in{3 + bool(self.spec.mask)}"], batch, 8))
            keys = f.smax(f.smin(keys, given), 0)
        return keys

    def _tile(self, batch: V, head: V, first: V, count: V, keys: V, rows: list[V]) -> None:
        """Queries first, first + 1, ... of one head; row 0 of its keys and values lies at `rows`."""
        f = self.f
        self._load_queries(batch, head, first, count)
        self.softmax.begin(count)
        low, high, offset = self.softmax.bounds(self.arg, first, count, keys, batch, self.width)
        with f.loop(low, high, BLOCK) as block:
            length = f.smin(high - block, BLOCK)
            self._either(lambda: self._dot_keys(rows[0], count, block, length), count, lambda shape: self._multiply_keys(shape, block, length))
            self.softmax.rows(self.arg, batch, head, first, count, block, length, offset)
            start = block.eq(low)
            self._either(
                lambda: self._add_values(rows[1], count, block, length, start),
                count,
                lambda shape: self._multiply_values(shape, block, length, start),
            )
        self._give(batch, head, first, count, high > low)

    def _either(self, few: Callable[[], None], count: V, tiles: Callable[[Shape], None]) -> None:
        """The form for few queries, or that by tiles."""
        if self.few is None:
            self._by_rows(count, tiles)
            return
        with self.f.either(self.few) as other:
            few()
            other.otherwise()
            self._by_rows(count, tiles)

    def _by_rows(self, count: V, emit: Callable[[Shape], None]) -> None:
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

    def _vectors(self, total: int | V, emit: Callable[[V, V | None], None]) -> None:
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

    def _pack(self, first: V, start: V, keys: V) -> None:
        """Keys as [panel][D][width], values as [panel][N][width]; keys behind the last one repeat it."""
        f = self.f
        with f.loop(0, (keys + (self.width - 1)).udiv(self.width)) as panel, f.loop(0, VECTORS) as v:
            column = panel * self.width + v * self.lanes
            rows = [first + f.smin(column + j, keys - 1) * self.arg["in1_s2"] for j in range(self.lanes)]
            target = f.at(f.at(self.place["keys"], panel * self.d, self.width * FLOAT), v, self.lanes * FLOAT)
            self._transpose(rows, target)
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

    def _each(self, shape: Shape, target: V, value: Callable[[int, int, V], V]) -> None:
        for r in range(shape.rows):
            for v in range(VECTORS):
                place = self.f.offset(target, (r * self.width + v * self.lanes) * FLOAT)
                self.f.store(value(r, v, place), place)

    # --- products for few queries -------------------------------------------------------------------------------------
    def _dot_keys(self, start: V, count: V, block: V, length: V) -> None:
        """Scores by keys as they lie in memory: sums along D in vectors, a vector of keys at a time."""
        f, lanes = self.f, self.lanes
        assert isinstance(self.d, int)
        with f.loop(0, (length + (self.width - 1)).udiv(self.width)) as p:
            keys = []
            for j in range(self.width):
                key = block + f.smin(p * self.width + j, length - 1)
                keys.append(f.at(self.arg["in1"], start + key * self.arg["in1_s2"], FLOAT))
            with f.loop(0, count) as r:
                query = f.at(self.place["queries"], r, self.d * FLOAT)
                scores = []
                for v in range(VECTORS):
                    sums = [f.var(self.type, 0.0) for _ in range(lanes)]

                    def step(i: V, mask: V | None) -> None:
                        def read(p: V) -> V:
                            place = f.at(p, i, FLOAT)
                            return f.load(self.type, place) if mask is None else f.masked_load(self.type, place, mask)

                        value = read(query)  # noqa: B023
                        for total, key in zip(sums, keys[v * lanes :], strict=False):  # noqa: B023
                            total.set(f.fma(value, read(key), total.get()))

                    self._vectors(self.d, step)
                    scores.append(moves.add_lanes(f, [s.get() for s in sums]))
                    f.store(scores[v], f.at(f.at(self.place["scores"], r * self.pitch + v * lanes, FLOAT), p, self.width * FLOAT))
                if not self.softmax.changes:
                    self.softmax.observe(r, p, scores)

    def _add_values(self, start: V, count: V, block: V, length: V, first: V) -> None:
        """result = result * rescale + weights * values as they lie in memory."""
        f, shape = self.f, Shape(1, VECTORS, self.lanes)
        with f.loop(0, self.panels) as p, f.loop(0, count) as r:
            b = f.at(self.arg["in2"], start + block * self.arg["in2_s2"] + p * self.width, FLOAT)
            t = Tile(f, shape)
            t.multiply(Rows(f.at(self.place["scores"], r, self.pitch * FLOAT), 0), b, length, self.arg["in2_s2"] * FLOAT)
            results, scale = t.results(), f.splat(f.load("float", f.at(self.place["rescale"], r, FLOAT)), self.lanes)
            line = f.at(f.at(self.place["result"], p, self.shapes[0].rows * self.width * FLOAT), r, self.width * FLOAT)
            for v, value in enumerate(results[0]):
                place = f.offset(line, v * self.lanes * FLOAT)
                before = f.select(f.splat(first, self.lanes), f.const(self.type, 0.0), f.load(self.type, place) * scale)
                f.store(value + before, place)

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
