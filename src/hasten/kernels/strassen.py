"""Products by constant matrices with an eighth fewer multiplications: one level of Strassen's algorithm.

Rows, steps and columns are halved; seven products of halves and some sums replace eight products (V. Strassen, Gaussian
elimination is not optimal, 1969). What makes it pay here:

- The sums of the right side are made when the model is compiled; those of the left side once for a strip of rows, as
  seven planes in scratch, and all columns use them.
- The seven products of a tile stay in the first level cache until they are combined and go through the epilogue.
- Steps are cut into blocks, each of which is one product of its own (`BLOCK`), so sums are short, which more than makes
  up for the error that Strassen's sums add: `benchmarks/kernel_accuracy.py` holds it to the bound of "highest".

Few rows take another way through the same packed matrices: a1 b11 + a2 b21 = (a1 + a2) b11 + a2 (b21 - b11), and
a1 b12 + a2 b22 = (a1 + a2) b22 + a1 (b12 - b22), four products of halves as in the plain algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hasten.base.dims import DimLike
from hasten.codegen.builder import Function, V, vector
from hasten.codegen.isa import Isa
from hasten.kernels import tile
from hasten.kernels.moves import FLOAT
from hasten.kernels.tile import Epilogue, Rows, Shape, Sink

BLOCK = 256  # steps that go into one Strassen product: its seven products sum up half as many
LEAST_BLOCK = 128  # below, combining costs more than is saved
PLANES_BYTES = 288 << 10  # of a strip's left operands: a share of the second level cache
MOST_ROWS = 64  # of half a strip
LEAST_ROWS = 24  # of the left side for which seven products pay

# Products are numbered 0 to 6. Signed quarters (1: 11, 2: 12, 3: 21, 4: 22) that make up their operands, and signed
# products (1 to 7) that make up the quarters of the result.
LEFT = ((1, 4), (3, 4), (1,), (4,), (1, 2), (3, -1), (2, -4))
RIGHT = ((1, 4), (1,), (2, -4), (3, -1), (4,), (1, 2), (3, 4))
RESULT = ((1, 4, -5, 7), (3, 5), (2, 4), (1, -2, 3, 6))
# The same for few rows: quarters 1 and 2 are the halves of the rows; (plane, right operand) of each half's products.
FEW_LEFT = ((1, 2), (1,), (2,))
FEW_PRODUCTS = (((0, 1), (2, 3)), ((0, 4), (1, 2)))


@dataclass(frozen=True)
class StrassenProblem:
    """A [M, k] (rows contiguous) times a packed matrix [k, n]."""

    k: int
    n: int

    @property
    def blocks(self) -> int:
        """How many blocks the steps are cut into; 0 where they can't be."""
        fits = (b for b in range(-(-self.k // BLOCK), self.k // LEAST_BLOCK + 1) if b and self.k % (2 * b) == 0)
        return next(fits, 0)

    @property
    def chunk(self) -> int:
        """Blocks whose planes are in scratch at a time: a divisor of their number."""
        return next(c for c in (3, 2, 1) if self.blocks % c == 0)

    @property
    def half(self) -> int:
        """Steps of one of the seven products."""
        return self.k // (2 * self.blocks)


def applies(problem: StrassenProblem, isa: Isa) -> bool:
    """Whether the sizes can be halved into whole tiles, blocks and vectors."""
    return problem.blocks > 0 and problem.half % isa.lanes(32) == 0 and _vectors(problem, isa) > 0


def _vectors(problem: StrassenProblem, isa: Isa) -> int:
    """Vectors of columns in a tile; 0 where none divide the half of the columns."""
    fits = [v for v in (2, 3, 1) if problem.n % (2 * v * isa.lanes(32)) == 0]
    return fits[0] if problem.n >= 4 * isa.lanes(32) and fits else 0


def _shapes(problem: StrassenProblem, isa: Isa) -> list[Shape]:
    """Tiles by their rows, descending: every count in the upper half, so that hardly a row is computed for nothing."""
    vectors = _vectors(problem, isa)
    most = tile.most_rows(isa, vectors)
    rows = [*range(most, most // 2, -1), *(r for r in (4, 2, 1) if r <= most // 2)]
    return [Shape(r, vectors, isa.lanes(32)) for r in rows]


def _half_rows(problem: StrassenProblem) -> int:
    """Most rows of half a strip."""
    return max(16, min(MOST_ROWS, PLANES_BYTES // (len(LEFT) * problem.chunk * problem.half * FLOAT)))


def pack_strassen_weights(problem: StrassenProblem, isa: Isa, b: np.ndarray) -> np.ndarray:
    """B [k, n] float32 -> [panels of half the columns, 7, blocks, half, width]."""
    width = _shapes(problem, isa)[0].width
    quarters = np.asarray(b, np.float64).reshape(problem.blocks, 2, problem.half, 2, problem.n // 2)
    quarter = [quarters[:, i, :, j] for i in (0, 1) for j in (0, 1)]
    operands = np.stack([sum(np.sign(q) * quarter[abs(q) - 1] for q in signed) for signed in RIGHT])
    panels = operands.astype(np.float32).reshape(len(RIGHT), problem.blocks, problem.half, -1, width)
    return np.ascontiguousarray(panels.transpose(3, 0, 1, 2, 4))


def weight_bytes(problem: StrassenProblem) -> int:
    """Of the packed matrix."""
    return len(RIGHT) * (problem.k // 2) * (problem.n // 2) * FLOAT


def strassen_scratch_bytes(problem: StrassenProblem, isa: Isa) -> DimLike:
    """Bytes of scratch for each thread (64-byte aligned): planes, the products of a tile, its results."""
    planes = _planes(problem) * _plane_rows(problem, isa) * problem.half * FLOAT
    panels = problem.n // 2 // _shapes(problem, isa)[0].width if problem.blocks > problem.chunk else 1
    return planes + (len(RIGHT) + panels * len(RESULT)) * _column_bytes(problem, isa)


def _plane_rows(problem: StrassenProblem, isa: Isa) -> int:
    return max(_half_rows(problem), LEAST_ROWS) + _shapes(problem, isa)[0].rows


def _planes(problem: StrassenProblem) -> int:
    """Left operands that are in scratch at a time."""
    return max(len(LEFT) * problem.chunk, len(FEW_LEFT) * problem.blocks)


def _column_bytes(problem: StrassenProblem, isa: Isa) -> int:
    """Of one product of a strip by a panel."""
    return (_plane_rows(problem, isa) * _shapes(problem, isa)[0].width * FLOAT + 63) // 64 * 64


def emit_strassen(f: Function, problem: StrassenProblem, isa: Isa, arg: Mapping[str, V], thread: V, threads: V, sink: Sink) -> None:
    """Emit the product into `f`: words a, b, scratch, m, as_m as in kernels.gemm. The sink sees indices g, b, m, n."""
    _Strassen(f, problem, isa, arg, sink).emit(thread, threads)


class _Strassen:
    def __init__(self, f: Function, problem: StrassenProblem, isa: Isa, arg: Mapping[str, V], sink: Sink):
        self.f, self.problem, self.arg, self.sink = f, problem, arg, sink
        self.shapes = _shapes(problem, isa)
        self.type = vector("float", isa.lanes(32))
        self.lanes, self.width, self.most = isa.lanes(32), self.shapes[0].width, self.shapes[0].rows
        self.plane_rows = _plane_rows(problem, isa)
        self.plane_bytes = self.plane_rows * problem.half * FLOAT
        self.products = f.offset(arg["scratch"], _planes(problem) * self.plane_bytes)
        self.column_bytes = _column_bytes(problem, isa)
        self.results = f.offset(self.products, len(RIGHT) * self.column_bytes)
        self.panels = f.const("i64", problem.n // 2 // self.width)

    def emit(self, thread: V, threads: V) -> None:
        f, m = self.f, self.arg["m"]
        with f.either(m < LEAST_ROWS) as many:
            self._few(m, thread, threads)
            many.otherwise()
            most = 2 * _half_rows(self.problem)
            strips = (m + (most - 1)) / most
            half = (m + strips * 2 - 1) / (strips * 2)
            mine, columns = tile.split_work(f, thread, threads, strips, self.panels)
            with f.loop(mine[0], mine[1]) as strip:
                first = strip * half * 2
                with f.when(first < m):
                    self._strip(first, half, f.smin(half * 2, m - first), columns)

    # --- seven products -----------------------------------------------------------------------------------------------
    def _strip(self, first: V, half: V, count: V, columns: tuple[V, V]) -> None:
        """Rows [first, first + count), the upper `half` of them against the lower ones."""
        f = self.f
        rows, tiles = self._tiling(half)
        last = self.arg["m"] - 1

        def quarters(row: V) -> list[V]:
            upper, lower = f.smin(first + row, last), f.smin(first + half + row, last)  # rows behind the last one repeat it
            return [self._row(upper), self._row(lower)]

        blocks, chunk = self.problem.blocks, self.problem.chunk
        with f.loop(0, blocks, chunk) as begin:
            self._planes(LEFT, quarters, rows * tiles, begin, chunk)
            with f.loop(columns[0], columns[1]) as panel:
                with f.loop(0, len(RIGHT)) as p:
                    for shape in self.shapes:
                        if shape.rows > self.most // 2:
                            with f.when(rows.eq(shape.rows)):
                                self._product(shape, p, panel, begin, tiles)
                results = f.at(self.results, panel if blocks > chunk else 0, len(RESULT) * self.column_bytes)
                self._combine(rows * tiles, results, begin)
                with f.when((begin + chunk).eq(blocks)), f.loop(0, len(RESULT)) as q:
                    lower = q / 2
                    self._give(self._place(results, q), panel, q % 2, first + lower * half, f.smin(count - lower * half, half))

    def _tiling(self, rows: V) -> tuple[V, V]:
        """Rows of a tile, and how many tiles: as few as can be, all alike."""
        tiles = (rows + (self.most - 1)) / self.most
        return (rows + (tiles - 1)) / tiles, tiles

    def _product(self, shape: Shape, p: V, panel: V, begin: V, tiles: V) -> None:
        """One of the seven products for all rows of a strip: a block of the right operand stays in the first level cache for all tiles.

        Blocks are summed up apart from the steps within them: that keeps errors small.
        """
        f = self.f
        with f.loop(0, self.problem.chunk) as block, f.loop(0, tiles) as i:
            place = f.at(self._place(self.products, p), i, shape.rows * shape.width * FLOAT)
            t = tile.Tile(f, shape)
            self._multiply(t, (block * len(LEFT) + p, i * shape.rows), (p, panel, begin + block))
            with f.either(block.eq(0)) as later:
                t.save(place)
                later.otherwise()
                for n, value in enumerate(v for values in t.results() for v in values):
                    where = f.offset(place, n * self.lanes * FLOAT)
                    f.store(value + f.load(self.type, where), where)

    def _combine(self, rows: V, results: V, begin: V) -> None:
        """The quarters of the result from the seven products, added to those of the chunks before."""
        f = self.f
        with f.loop(0, rows * self.shapes[0].vectors) as e:
            at = [f.at(self._place(self.products, f.const("i64", p)), e, self.lanes * FLOAT) for p in range(len(RIGHT))]
            products = [f.load(self.type, p) for p in at]
            for q, signed in enumerate(RESULT):
                place, total = f.at(self._place(results, f.const("i64", q)), e, self.lanes * FLOAT), _sum(products, signed)
                if self.problem.blocks > self.problem.chunk:
                    before = f.var(self.type, 0.0)
                    with f.when(begin > 0):
                        before.set(f.load(self.type, place))
                    total = total + before.get()
                f.store(total, place)

    # --- few rows -----------------------------------------------------------------------------------------------------
    def _few(self, m: V, thread: V, threads: V) -> None:
        f = self.f
        rows, tiles = self._tiling(m)
        begin, end = tile.split_range(f, self.panels, thread, threads)
        with f.when(begin < end):
            self._planes(FEW_LEFT, lambda row: [self._row(f.smin(row, m - 1))], rows * tiles, f.const("i64", 0), self.problem.blocks)
        with f.loop(begin, end) as panel, f.loop(0, tiles) as i, f.loop(0, len(FEW_PRODUCTS)) as side:
            row = i * rows
            below = 0
            for shape in reversed(self.shapes):
                with f.when((rows > below) & (rows <= shape.rows)):
                    self._chain(shape, side, panel, row)
                below = shape.rows
            self._give(self._place(self.results, side), panel, side, row, f.smin(m - row, rows))

    def _chain(self, shape: Shape, side: V, panel: V, row: V) -> None:
        """The two products that make a tile of one half of the columns."""
        f = self.f
        t = tile.Tile(f, shape)
        with f.loop(0, self.problem.blocks) as block, f.loop(0, 2) as term:
            choice = side * 2 + term
            plane, right = (self._pick([pair[i] for pairs in FEW_PRODUCTS for pair in pairs], choice) for i in (0, 1))
            self._multiply(t, (block * len(FEW_LEFT) + plane, row), (right, panel, block))
        t.save(self._place(self.results, side))

    def _pick(self, values: Sequence[int], index: V) -> V:
        chosen = self.f.const("i64", values[0])
        for i, value in enumerate(values[1:], 1):
            chosen = self.f.select(index.eq(i), self.f.const("i64", value), chosen)
        return chosen

    # --- what both share ----------------------------------------------------------------------------------------------
    def _row(self, row: V) -> V:
        return self.f.at(self.arg["a"], row * self.arg["as_m"], FLOAT)

    def _planes(self, signed: Sequence[tuple[int, ...]], quarters: Callable[[V], list[V]], rows: V, begin: V, count: int) -> None:
        """The left operands of all products, for `count` blocks: [blocks][planes][rows][half] floats."""
        f, half = self.f, self.problem.half
        with f.loop(0, rows) as row:
            sources = quarters(row)
            with f.loop(0, count) as block, f.loop(0, half, self.lanes) as k:
                step = (begin + block) * (2 * half) + k
                parts = [f.load(self.type, f.at(s, step + h * half, FLOAT)) for s in sources for h in (0, 1)]
                place = f.at(f.at(self.arg["scratch"], block, len(signed) * self.plane_bytes), row * half + k, FLOAT)
                for p, terms in enumerate(signed):
                    f.store(_sum(parts, terms), f.offset(place, p * self.plane_bytes))

    def _multiply(self, t: tile.Tile, left: tuple[V, V], right_: tuple[V, V, V]) -> None:
        """Add the product of rows from `left` (plane, row) on and of a packed right operand (which of the seven, panel, block)."""
        f, p, (plane, row), (right, panel, block) = self.f, self.problem, left, right_
        a = f.at(f.at(self.arg["scratch"], plane, self.plane_bytes), row, p.half * FLOAT)
        b = f.at(self.arg["b"], (panel * len(RIGHT) + right) * p.blocks + block, p.half * self.width * FLOAT)
        t.multiply(Rows(a, p.half * FLOAT), b, p.half)

    def _place(self, base: V, number: V) -> V:
        return self.f.at(base, number, self.column_bytes)

    def _give(self, place: V, panel: V, side: V, row: V, stop: V) -> None:
        """Rows [0, stop) of results to the sink, for the panel in one half of the columns."""
        f = self.f
        zero = f.const("i64", 0)
        epilogue = Epilogue(f, self.sink, "m", "n", {"g": zero, "b": zero}, self.problem.n)
        epilogue.looped(self.shapes[0], place, row, 0, stop, panel * self.width + side * (self.problem.n // 2))


def _sum(values: Sequence[V], signed: Sequence[int]) -> V:
    """The sum of signed values, numbered from 1; the first is not negative."""
    total = values[signed[0] - 1]
    for s in signed[1:]:
        total = total + values[s - 1] if s > 0 else total - values[-s - 1]
    return total
