"""What convolutions and matrix products on AMX tiles share: splitting float32 into bfloat16 planes, and blocks of tiles.

The left operand lies in scratch as planes [plane][block of 32 k][pixel][32]: 16 neighbouring pixels are one tile whose
rows are cache lines, and a filter tap is an address offset. The right operand lies packed (kernels.amx_packing). A block
of 2 x 2 accumulator tiles (32 pixels by 32 columns; at the edges 1 x 2, 2 x 1 or 1 x 1) takes `products` tile products
of planes for every step of 32 k:

    6 ("bf16x6"): all products of three planes but those below 2^-24: float32's accuracy
    3 ("bf16x3"): two planes without low times low: 16 bits of each value
    1 ("bf16")

Values without finite planes. An infinity times the zero or opposite middle plane of a finite value would be NaN, so
infinities, NaN and the few finite values that bfloat16 rounds to infinity are zero in the planes of split forms, and the
splitting loop notes that it saw one. Only then a further plane holds all values as plain bfloat16 (the finite ones
among the special values truncated to their first 8 bits), each block is computed once more from it, and outputs of that
second product that are infinite or NaN are added to the first. So results are infinite or NaN where float32's are.

Subnormal numbers: the tiles take them as zero, whatever the mode of the CPU. Planes below 2^-126 are lost with them, so
a value smaller than about 2^-110 keeps fewer than 24 bits; absolute errors from this are below 2^-126 times the other
factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hasten.codegen.builder import Function, V, Var
from hasten.codegen.isa import Isa
from hasten.kernels.amx_packing import COLUMNS, STEP
from hasten.kernels.amx_tile import ROW_BYTES, ROWS, TILE_BYTES, Tiles
from hasten.kernels.moves import FLOAT
from hasten.kernels.tile import Shape

PLANES = {1: 1, 3: 2, 6: 3}  # bfloat16 planes by number of products
# (plane of A, plane of B). One operand changes at a time, so a step loads 4, 8 and 14 tiles. Six products end with high
# times high: where one product dwarfs the others, adding what is small to it afterwards would round it six times (errors
# up to ten times float32's were seen).
ORDER = {1: ((0, 0),), 3: ((1, 0), (0, 0), (0, 1)), 6: ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0))}
ALGORITHM = {1: "bf16", 3: "bf16x3", 6: "bf16x6"}
PIXELS = 2 * ROWS  # of a block
SLACK_BYTES = PIXELS * ROW_BYTES  # behind the last plane: what the last block reads beyond its pixels

HALF = 16  # values split at once
_FLOATS, _INTS, _SHORTS = "<16 x float>", "<16 x i32>", "<16 x i16>"
_LARGEST_BELOW = 0x7F7F7FFF  # bits of the largest float that bfloat16 does not round to infinity
_INFINITY, _MAGNITUDE = 0x7F800000, 0x7FFFFFFF


def stored_planes(products: int) -> int:
    """Planes in scratch: split forms have one more, for the values without finite planes."""
    return PLANES[products] + (products > 1)


def column_tiles(columns: int | None) -> int:
    """Tiles side by side in a panel of the right operand."""
    return 1 if columns is not None and columns <= COLUMNS else 2


# --- splitting ----------------------------------------------------------------------------------------------------------
class Splitter:
    """Splits vectors of 16 floats into planes, as 16-bit integers; `special` remembers values without finite planes."""

    def __init__(self, f: Function, isa: Isa, products: int):
        self.f, self.isa, self.products = f, isa, products
        self._seen: Var | None = f.var("i16", 0) if products > 1 else None

    def forget(self) -> None:
        if self._seen is not None:
            self._seen.set(0)

    def special(self) -> V:
        """Whether a value without finite planes was split since the last `forget`; i1."""
        assert self._seen is not None
        return self._seen.get().ne(0)

    def planes(self, x: V) -> list[V]:
        """The planes of x, high first. One plane: plain bfloat16, special values kept."""
        f = self.f
        if self._seen is None:
            return [self.whole(x)]
        special = self._is_special(x)
        self._seen.set(self._seen.get() | f.bitcast(special, "i16"))
        rest = f.select(special, 0.0, x)
        parts = []
        for left in range(PLANES[self.products], 0, -1):
            parts.append(self._rounded(rest))
            if left > 1:
                rest = rest - self._widened(parts[-1])
        return parts

    def whole(self, x: V) -> V:
        """x as bfloat16: special values truncated, NaN kept NaN."""
        f = self.f
        bits = f.bitcast(x, _INTS)
        cut = f.select(x.is_nan(), 0x7FC0, bits.lshr(16))
        return f.select(self._is_special(x), f.cast(cut, "i16"), self._rounded(x))

    def _is_special(self, x: V) -> V:
        return (self.f.bitcast(x, _INTS) & _MAGNITUDE) > _LARGEST_BELOW

    def _rounded(self, x: V) -> V:
        """To nearest, ties to even; x is finite."""
        f = self.f
        if self.isa.has_bf16:
            return f.bitcast(f.cast(x, "bfloat"), _SHORTS)
        bits = f.bitcast(x, _INTS)
        return f.cast((bits + (bits.lshr(16) & 1) + 0x7FFF).lshr(16), "i16")

    def _widened(self, part: V) -> V:
        return self.f.bitcast(self.f.cast(part, "i32", signed=False) << 16, _FLOATS)


def join(f: Function, low: V, high: V) -> V:
    """Two vectors of 16 shorts as one line of 32."""
    return f.shuffle(low, high, list(range(2 * HALF)))


def load_step(f: Function, source: V, count: int | V) -> tuple[V, V]:
    """Up to 32 floats from `source` as two vectors, missing ones zero; `count` >= 1 may exceed 32."""
    if isinstance(count, int) and count >= STEP:
        return f.load(_FLOATS, source), f.load(_FLOATS, f.offset(source, HALF * FLOAT))
    halves = []
    for first in (0, HALF):
        place = f.offset(source, first * FLOAT)
        if isinstance(count, int):
            left = count - first
            mask = f.constants("i1", [i < left for i in range(HALF)])
            whole, none = left >= HALF, left <= 0
            halves.append(f.const(_FLOATS, 0.0) if none else f.load(_FLOATS, place) if whole else f.masked_load(_FLOATS, place, mask))
        else:
            halves.append(f.masked_load(_FLOATS, place, f.iota("i32", HALF) + first < f.cast(count, "i32")))
    return halves[0], halves[1]


@dataclass
class Strip:
    """The split left operand in scratch: [plane][block][pixel] lines of 32 bfloat16.

    plane_bytes, block_bytes: strides. `special`: whether plane number PLANES[products] is filled and must be used.
    """

    base: V
    plane_bytes: V
    block_bytes: V
    special: V | None = None


def store_step(f: Function, splitter: Splitter, values: tuple[V, V], place: V, plane_bytes: V, whole: bool) -> None:
    """Write 32 values as one line in each plane from `place` on; `whole`: as plain bfloat16, in one plane."""
    split = [[splitter.whole(v)] if whole else splitter.planes(v) for v in values]
    for p, (low, high) in enumerate(zip(*split, strict=True)):
        f.store(join(f, low, high), f.offset(place, plane_bytes * p) if p else place, ROW_BYTES)


# --- blocks -------------------------------------------------------------------------------------------------------------
@dataclass
class Sum:
    """What a block sums over: `taps` offsets (bytes, i64 words at `table`; None: one tap, no offset) of `blocks` steps."""

    blocks: int | V
    taps: int = 1
    table: V | None = None


@dataclass
class Right:
    """The packed right operand: steps of `planes` planes; `whole`: the plane that is all of the value as bfloat16."""

    planes: int
    whole: int = 0


Give = Callable[[V, V, V], None]


class Blocks:
    """Emits runs of pixels by one panel of columns."""

    def __init__(self, f: Function, isa: Isa, tiles: Tiles, products: int, columns: int, right: Right):
        self.f, self.tiles, self.products, self.columns, self.right = f, tiles, products, columns, right
        lanes = min(isa.lanes(32), COLUMNS)
        self.shape = Shape(PIXELS, columns * COLUMNS // lanes, lanes)  # of results in the buffer
        self.step_bytes = right.planes * columns * TILE_BYTES
        self.pitch = columns * ROW_BYTES
        self._buffer = f.alloca(PIXELS * self.pitch)
        self._second = f.alloca(PIXELS * self.pitch) if products > 1 else None

    def run(self, strip: Strip, total: Sum, first: V, length: V, b: V, give: Give) -> None:
        """Pixels first, first + 1, ... of the strip times the panel at b.

        `give(buffer, start, count)` emits what becomes of `count` pixels from first + start on: rows of `shape`.
        """
        f = self.f
        with f.loop(0, length, PIXELS) as start:
            base = f.at(strip.base, first + start, ROW_BYTES)
            left = length - start
            with f.either(left > ROWS) as other:
                self._multiply(strip, total, base, b, 2)
                other.otherwise()
                self._multiply(strip, total, base, b, 1)
            if strip.special is not None:
                with f.when(strip.special):
                    self._second_product(strip, total, base, b)
            give(self._buffer, start, f.smin(left, PIXELS))

    def _multiply(self, strip: Strip, total: Sum, base: V, b: V, rows: int) -> None:
        self._clear(rows)

        def step(a: V, right: V) -> None:
            loaded: dict[str, int] = {}
            for i, j in ORDER[self.products]:
                if loaded.get("a") != i:
                    plane = self.f.offset(a, strip.plane_bytes * i) if i else a
                    self._load_left(plane, rows)
                if loaded.get("b") != j:
                    self._load_right(right, j)
                loaded.update(a=i, b=j)
                self._dots(rows)

        self._steps(strip, total, base, b, step)
        self._save(self._buffer, rows)

    def _second_product(self, strip: Strip, total: Sum, base: V, b: V) -> None:
        """Of the values as plain bfloat16; what is not finite in it is added to the results."""
        f, whole = self.f, PLANES[self.products]
        assert self._second is not None
        self._clear(2)

        def step(a: V, right: V) -> None:
            self._load_left(f.offset(a, strip.plane_bytes * whole), 2)
            self._load_right(right, self.right.whole)
            self._dots(2)

        self._steps(strip, total, base, b, step)
        self._save(self._second, 2)
        with f.loop(0, PIXELS * self.pitch, ROW_BYTES) as i:
            place = f.offset(self._buffer, i)
            value = f.load(_FLOATS, f.offset(self._second, i), ROW_BYTES)
            finite = (f.bitcast(value, _INTS) & _MAGNITUDE) < _INFINITY
            f.store(f.load(_FLOATS, place, ROW_BYTES) + f.select(finite, 0.0, value), place, ROW_BYTES)

    def _steps(self, strip: Strip, total: Sum, base: V, b: V, step: Callable[[V, V], None]) -> None:
        """The loops over taps and blocks of 32 k."""
        f = self.f

        def blocks(a: V, right: V) -> None:
            if total.blocks == 1:
                step(a, right)
                return
            with f.loop(0, total.blocks) as c:
                step(f.offset(a, strip.block_bytes * c), f.at(right, c, self.step_bytes))

        if total.table is None:
            blocks(base, b)
            return
        with f.loop(0, total.taps) as tap:
            offset = f.load("i64", f.at(total.table, tap, 8))
            blocks(f.offset(base, offset), f.at(b, tap * total.blocks, self.step_bytes))

    # --- tiles: accumulators 2 x + y, left 4 + x, right 6 + y -----------------------------------------------------------
    def _clear(self, rows: int) -> None:
        for x in range(rows):
            for y in range(self.columns):
                self.tiles.zero(2 * x + y)

    def _load_left(self, p: V, rows: int) -> None:
        for x in range(rows):
            self.tiles.load(4 + x, self.f.offset(p, x * TILE_BYTES), ROW_BYTES)

    def _load_right(self, p: V, plane: int) -> None:
        for y in range(self.columns):
            self.tiles.load(6 + y, self.f.offset(p, (plane * self.columns + y) * TILE_BYTES), ROW_BYTES)

    def _dots(self, rows: int) -> None:
        for x in range(rows):
            for y in range(self.columns):
                self.tiles.dot(2 * x + y, 4 + x, 6 + y)

    def _save(self, buffer: V, rows: int) -> None:
        for x in range(rows):
            for y in range(self.columns):
                self.tiles.store(2 * x + y, self.f.offset(buffer, x * ROWS * self.pitch + y * ROW_BYTES), self.pitch)
