"""The register tile that matrix products and convolutions share: rows (pixels) x vectors (output channels) of
accumulators.

A step multiplies one value of each row (broadcast) by `vectors` vectors of packed weights, contiguous per step.
Everything around the tile is the same for all kernels too: how many rows a tile has (`plan`), the walk over a run of
rows with smaller tiles at its end (`emit_blocks`), and giving finished accumulators to the caller's sink (`Epilogue`).

A sink is a callable `sink(f, acc, where, lanes, mask)` that emits text for one vector of results: `where` names the i64
indices of lane 0, `mask` (None: all lanes) tells which lanes exist; the sink must not touch memory for the others. A
sink may have a method `begin(f, column, lanes, mask)`, called before the rows of one vector of columns, for loads that
depend on the column alone (bias): the `V` given as `column` is the very one that the calls see in `where`.
A sink with the attribute `unroll = False` (a long one) is never emitted for every accumulator of a tile, but in a loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hasten.codegen.builder import Function, V, Var, vector
from hasten.codegen.isa import AVX512, Isa
from hasten.kernels.moves import FLOAT

Sink = Callable[[Function, V, dict[str, V], int, "V | None"], None]
MIN_CHAINS = 8  # independent accumulators that hide the latency of FMA
UNROLLED_SINK_STEPS = (
    160  # longer products give results through memory: the sink's text appears once, at 1 to 2% of time
)
CACHE_SETS, MAX_ROWS_OF_A_SET = 64, 4  # L1: 64 sets of 64 byte lines; rows whose addresses collide there


@dataclass(frozen=True)
class Shape:
    """`rows` x `vectors` accumulators of `lanes` floats; `splits` > 1 adds up every split-th step apart (latency)."""

    rows: int
    vectors: int
    lanes: int

    @property
    def splits(self) -> int:
        return max(1, min(4, MIN_CHAINS // (self.rows * self.vectors)))

    @property
    def width(self) -> int:
        return self.vectors * self.lanes


@dataclass(frozen=True)
class Plan:
    """How a product is cut: tiles of `vectors` x `lanes` columns, and of the row counts `rows` (descending)."""

    vectors: int
    lanes: int
    rows: tuple[int, ...]

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    @property
    def shapes(self) -> list[Shape]:
        return [Shape(r, self.vectors, self.lanes) for r in self.rows]


def most_rows(isa: Isa, vectors: int) -> int:
    """Rows that a tile with that many vectors may have without spilling.

    AVX-512 multiplies by a broadcast from memory; elsewhere the packed vectors of a step need registers, and so does the
    broadcast (NEON: two, so that the next one loads meanwhile), and without FMA the product.
    """
    if isa.level >= AVX512:
        return min((isa.registers - 4) // vectors, 28)
    others = vectors + (1 if isa.has_fma else 2) + (2 if isa.registers >= 32 else 0)
    return min((isa.registers - others) // vectors, 24 if isa.registers >= 32 else 10)


def plan(isa: Isa, columns: int | None, rows: int | None, *, slack: bool) -> Plan:
    """The tile for a product with that many columns and rows in a run (None: known at run time only).

    With `slack` a tile may compute rows behind the end of the run; without, smaller tiles down to one row are included,
    because the last tile is moved back to end with the run.
    """
    lanes = isa.lanes(32)
    while columns is not None and columns <= lanes // 2 and lanes > 4:
        lanes //= 2
    best = min(
        ((_cost(isa, v, lanes, columns, r, rows), -v, r, v) for v in (1, 2, 3, 4) for r in _row_counts(isa, v, rows)),
    )
    _, _, most, vectors = best
    return Plan(vectors, lanes, _tail(most, rows, slack))


def _row_counts(isa: Isa, vectors: int, rows: int | None) -> Sequence[int]:
    most = most_rows(isa, vectors)
    return range(1, min(most, rows) + 1) if rows else [most]


def _cost(isa: Isa, vectors: int, lanes: int, columns: int | None, most: int, rows: int | None) -> float:
    """Relative time of the product: FMAs issued, loads that FMAs do not hide, and an overhead for each tile."""
    n = columns or 16 * lanes
    panels = math.ceil(n / (vectors * lanes))
    total = rows or 1 << 10
    whole, rest = divmod(total, most)
    cost = whole * _tile_cost(vectors, most) + (_tile_cost(vectors, rest) * 1.05 if rest else 0.0)
    return panels * cost


def _tile_cost(vectors: int, rows: int) -> float:
    fmas = rows * vectors
    return max(fmas, MIN_CHAINS / 2) + 0.25 * (rows + vectors) + 0.5


def step_cycles(isa: Isa, plan: Plan, columns: int, rows: int) -> float:
    """Relative time of one step of the product of a run of `rows` rows by all columns: the estimate that chooses tiles, for the tiles
    that `emit_blocks` takes without overlap; 1 is a multiplication of whole vectors."""
    whole, rest = divmod(rows, plan.rows[0])
    last = _tile_cost(plan.vectors, next(r for r in reversed(plan.rows) if r >= rest)) if rest else 0.0
    return -(-columns // plan.width) * (whole * _tile_cost(plan.vectors, plan.rows[0]) + last) * plan.lanes / isa.lanes(32)


def _tail(most: int, rows: int | None, slack: bool) -> tuple[int, ...]:
    if rows is not None and rows >= most:
        rest = rows % most
        if rest == 0:
            return (most,)
        return (most,) if slack and most - rest <= most // 7 else (most, rest)
    if slack:
        return tuple(sorted({most, (most + 1) // 2}, reverse=True))
    return tuple(sorted({most, (most + 1) // 2, 4 if most > 8 else 2, min(3, most), min(2, most), 1}, reverse=True))


def aliases(row_bytes: int, rows: int) -> bool:
    """Whether too many of that many rows with that pitch fall into one set of the first level cache."""
    sets = [(r * row_bytes // 64) % CACHE_SETS for r in range(rows)]
    return max(map(sets.count, sets)) > MAX_ROWS_OF_A_SET


@dataclass(frozen=True)
class Rows:
    """The left operand: the value of row r at step k lies at base + r * row_bytes + k * step_bytes."""

    base: V
    row_bytes: int | V
    step_bytes: int | V = FLOAT

    def group_pointers(self, f: Function, rows: int) -> list[V]:
        """Every third row's pointer where the pitch is a run-time value: the rest is reached by x86's scaled index."""
        if isinstance(self.row_bytes, int):
            return [self.base]
        return [f.offset(self.base, self.row_bytes * g if g else 0) for g in range(0, rows, 3)]

    def pointer(self, f: Function, groups: list[V], row: int) -> V:
        if isinstance(self.row_bytes, int):
            return f.offset(groups[0], row * self.row_bytes)
        rest = row % 3
        return f.offset(groups[row // 3], (self.row_bytes * rest if rest > 1 else self.row_bytes) if rest else 0)


class Tile:
    """float32 accumulators in registers: multiply (any number of times), then results."""

    def __init__(self, f: Function, shape: Shape):
        self.f, self.shape, self.type = f, shape, vector("float", shape.lanes)
        self._acc = [self._zero() for _ in range(shape.splits)]

    def _zero(self) -> list[list[Var]]:
        return [[self.f.var(self.type, 0.0) for _ in range(self.shape.vectors)] for _ in range(self.shape.rows)]

    def multiply(self, a: Rows, b: V, count: V | int, b_bytes: int | V | None = None, keep: V | None = None, ahead: int = 0) -> None:
        """acc += a[:, :count] @ b[:count]; step k of b lies at b + k * b_bytes (default: packed). `keep`: gets b packed.
        `ahead`: so many steps of b before their use the cache is told."""
        f, splits = self.f, self.shape.splits
        pitch = b_bytes if b_bytes is not None else self.shape.width * FLOAT
        groups = a.group_pointers(f, self.shape.rows)
        if isinstance(count, int) and count <= 4:
            for i in range(count):
                self._step(a, groups, b, f.const("i64", i), pitch, i % splits, keep, ahead)
            return
        whole = count - count % splits
        with f.loop(0, whole, splits) as first:
            for split in range(splits):
                self._step(a, groups, b, first + split if split else first, pitch, split, keep, ahead)
        if splits > 1 and not (isinstance(count, int) and whole == count):
            with f.loop(whole, count) as left:
                self._step(a, groups, b, left, pitch, 0, keep, ahead)

    def _step(self, a: Rows, groups: list[V], b: V, k: V, pitch: int | V, split: int, keep: V | None, ahead: int) -> None:
        f = self.f
        here = [_advance(f, g, k, a.step_bytes) for g in groups]
        step = _advance(f, b, k, pitch)
        columns = [f.load(self.type, f.offset(step, v * self.shape.lanes * FLOAT)) for v in range(self.shape.vectors)]
        for v, column in enumerate(columns if keep is not None else ()):
            f.store(column, f.at(f.at(keep, k, self.shape.width * FLOAT), v, self.shape.lanes * FLOAT))  # type: ignore[arg-type]
        for v in range(self.shape.vectors if ahead else 0):
            line = f.offset(_advance(f, b, k + ahead, pitch), v * self.shape.lanes * FLOAT)
            f.intrinsic("llvm.prefetch", "void", [line, *(f.const("i32", x) for x in (0, 3, 1))], ["ptr"])  # to read, near, data
        for r, row in enumerate(self._acc[split]):
            value = f.splat(f.load("float", a.pointer(f, here, r)), self.shape.lanes)
            for acc, column in zip(row, columns, strict=True):
                acc.set(f.fma(value, column, acc.get()))

    def results(self) -> list[list[V]]:
        """The sums, [rows][vectors]."""
        return [[self._sum(r, v) for v in range(self.shape.vectors)] for r in range(self.shape.rows)]

    def _sum(self, r: int, v: int) -> V:
        parts = [split[r][v].get() for split in self._acc]
        while len(parts) > 1:
            parts = [sum(parts[i + 1 : i + 2], parts[i]) for i in range(0, len(parts), 2)]
        return parts[0]

    def save(self, buffer: V) -> None:
        """Store the results as [rows][vectors][lanes] floats."""
        for r, row in enumerate(self.results()):
            for v, value in enumerate(row):
                self.f.store(value, self.f.offset(buffer, (r * self.shape.vectors + v) * self.shape.lanes * FLOAT), 64)


def _advance(f: Function, p: V, k: V, step_bytes: int | V) -> V:
    return f.at(p, k, step_bytes) if isinstance(step_bytes, int) else f.offset(p, k * step_bytes)


@dataclass
class Epilogue:
    """Where results go: the sink, the names of its row and column index, the other indices, the first column behind the
    last one.

    `columns` is the number of columns (int: known), `base` and `row_base` what to add to a column or row index for the
    sink (first channel of a group, first row of a strip).
    """

    f: Function
    sink: Sink
    row: str
    column: str
    where: Mapping[str, V]
    columns: int | V
    base: V | None = None
    row_base: V | None = None

    def _index(self, row: V, column: V) -> dict[str, V]:
        return {**self.where, self.row: row, self.column: column}

    def _row(self, row: V) -> V:
        return row if self.row_base is None else self.row_base + row

    def _begin(self, column: V, lanes: int, mask: V | None) -> V:
        column = column if self.base is None else self.base + column
        hook: Any = getattr(self.sink, "begin", None)
        if hook is not None:
            hook(self.f, column, lanes, mask)
        return column

    def unrolled(self, tile: Tile, row: V, column: V) -> None:
        """All results of a tile whose rows and columns all exist, straight from registers."""
        lanes = tile.shape.lanes
        results = tile.results()
        columns = [self._begin(column + v * lanes, lanes, None) for v in range(tile.shape.vectors)]
        for r, values in enumerate(results):
            at = self._row(row + r)
            for value, c in zip(values, columns, strict=True):
                self.sink(self.f, value, self._index(at, c), lanes, None)

    def give(self, value: V, row: V, column: V) -> None:
        """One vector of results, all of whose columns exist."""
        c = self._begin(column, value.lanes, None)
        self.sink(self.f, value, self._index(self._row(row), c), value.lanes, None)

    def looped(self, shape: Shape, buffer: V, row: V, first: V | int, stop: V | int, column: V) -> None:
        """Rows [first, stop) of a saved tile, whose row 0 is `row`; columns that do not exist are left out."""
        f = self.f
        with f.loop(0, shape.vectors) as v:
            c = column + v * shape.lanes
            if isinstance(self.columns, int) and self.columns % shape.width == 0:
                self._rows(shape, buffer, row, first, stop, c, v, None)
            elif isinstance(self.columns, int) and self.columns % shape.lanes == 0:
                with f.when(c < self.columns):
                    self._rows(shape, buffer, row, first, stop, c, v, None)
            else:
                left = f.coerce(self.columns, "i64") - c
                with f.either(left >= shape.lanes) as other:
                    self._rows(shape, buffer, row, first, stop, c, v, None)
                    other.otherwise()
                    mask = f.iota("i32", shape.lanes) < f.cast(left, "i32")
                    with f.when(left > 0):
                        self._rows(shape, buffer, row, first, stop, c, v, mask)

    def _rows(self, shape: Shape, buffer: V, row: V, first: V | int, stop: V | int, c: V, v: V, mask: V | None) -> None:
        f = self.f
        c = self._begin(c, shape.lanes, mask)
        with f.loop(first, stop) as r:
            place = f.at(f.at(buffer, r, shape.width * FLOAT), v, shape.lanes * FLOAT)
            acc = f.load(vector("float", shape.lanes), place, 64 if shape.lanes >= 16 else shape.lanes * FLOAT)
            self.sink(f, acc, self._index(self._row(row + r), c), shape.lanes, mask)


@dataclass
class Blocks:
    """A walk over a run of rows in tiles.

    `overlap`: rows behind the run must not be read, so the last tile moves back; rows already given are not given
    again. `total` rows; `whole`: the caller knows that it is a multiple of the largest tile. `unrolled`: full tiles
    call the sink unrolled.
    """

    plan: Plan
    total: V | int
    overlap: bool
    unrolled: bool
    whole: bool = False


def emit_blocks(f: Function, walk: Blocks, column: V, compute: Callable[[Tile, V], None], epilogue: Epilogue) -> None:
    """Emit the walk: `compute(tile, start)` multiplies rows start, start + 1, ... by the panel whose first column is
    `column`.
    """
    shapes = walk.plan.shapes[:1] if walk.whole else walk.plan.shapes
    total = f.coerce(walk.total, "i64")
    buffer = f.alloca(shapes[0].rows * shapes[0].width * FLOAT)
    position, first_row = f.var("i64", 0), f.var("i64", 0)
    first, stop = f.var("i64", 0), f.var("i64", 0)
    with f.forever() as loop:
        now = position.get()
        loop.break_if(now >= total)
        results, done = f.label("results"), f.label("done")
        for i, shape in enumerate(shapes):
            smaller = f.label("smaller")
            if i + 1 < len(shapes):
                take, fits = f.label("take"), total - now > shapes[i + 1].rows
                f.branch(fits & (total >= shape.rows) if walk.overlap else fits, take, smaller)
                f.place(take)
            start = f.smin(now, total - shape.rows) if walk.overlap and not walk.whole else now
            t = Tile(f, shape)
            compute(t, start)
            position.set(start + shape.rows)
            if i == 0 and walk.unrolled:
                _emit_unrolled(f, walk, t, now, column, epilogue, done)
            t.save(buffer)
            first_row.set(start)
            first.set(now - start)
            stop.set(shape.rows if walk.whole else f.smin(total - start, shape.rows))
            f.jump(results)
            if i + 1 < len(shapes):
                f.place(smaller)
        f.place(results)
        epilogue.looped(shapes[0], buffer, first_row.get(), first.get(), stop.get(), column)
        f.place(done)


def _emit_unrolled(f: Function, walk: Blocks, t: Tile, now: V, column: V, epilogue: Epilogue, done: str) -> None:
    """Give a full tile's results from registers and go to `done`; fall through where the tile is partial."""
    width, columns = t.shape.width, epilogue.columns
    conditions = [] if walk.whole else [f.coerce(walk.total, "i64") - now >= t.shape.rows]
    if not (isinstance(columns, int) and columns % width == 0):
        conditions.append(f.coerce(columns, "i64") - column >= width)
    fast, slow = f.label("fast"), f.label("slow")
    full = f.const("i1", 1)
    for condition in conditions:
        full = full & condition
    f.branch(full, fast, slow)
    f.place(fast)
    epilogue.unrolled(t, now, column)
    f.jump(done)
    f.place(slow)


def unrolls(sink: Sink, steps: int | None) -> bool:
    """Whether full tiles of a product over that many steps give their results from registers."""
    return steps is not None and steps <= UNROLLED_SINK_STEPS and bool(getattr(sink, "unroll", True))


def split_range(f: Function, total: V, part: V, parts: V) -> tuple[V, V]:
    """The part-th of `parts` even pieces of range(total)."""
    return total * part / parts, total * (part + 1) / parts


def split_work(f: Function, thread: V, threads: V, rows: V, panels: V, few: V | None = None) -> tuple[tuple[V, V], tuple[V, V]]:
    """This thread's piece of rows x panels: rows alone, or panels first where there are `few` rows (default: too few to be even).

    Threads that get nothing have an empty range of rows.
    """
    few = rows < threads * 4 if few is None else few
    across = f.select(few, f.smax(f.smin(panels, threads), 1), 1)
    down = threads / across
    mine = f.select(thread < down * across, rows, f.const("i64", 0))
    return split_range(f, mine, thread % down, down), split_range(f, panels, thread / down, across)
