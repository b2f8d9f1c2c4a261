"""Matrix products on AMX tiles: C[g, b, m, n] = sum over k of A[g, b, m, k] * B[g, b, k, n], float32, results given to a sink.

Strips of A's rows are split into bfloat16 planes in scratch once and used for all panels of B (kernels.amx_block says
how products of planes make a float32 product). B is a packed constant, or a run-time matrix that is split and packed
panel by panel. Sizes and strides are run-time words (elements); the words are those of kernels.gemm.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen.builder import Function, V, Var
from hasten.codegen.isa import Isa
from hasten.kernels import amx_block, moves, tile
from hasten.kernels.amx_block import PIXELS, PLANES, SLACK_BYTES, Blocks, Right, Splitter, Strip, Sum
from hasten.kernels.amx_packing import COLUMNS, PAIRS, STEP, pack_tiles
from hasten.kernels.amx_tile import ROW_BYTES, TILE_BYTES, Tiles
from hasten.kernels.gemm import Batch, GemmProblem
from hasten.kernels.moves import FLOAT
from hasten.kernels.tile import Epilogue, Sink

STRIP_BYTES = 512 << 10  # of A's planes: a share of the second level cache
SHORT = 2  # bytes of a bfloat16


def pack_amx_gemm_weights(problem: GemmProblem, products: int, b: np.ndarray) -> np.ndarray:
    """B given as [..., K, N] float32, finite -> [..., panels, 1, steps, planes, tiles, 16, 16, 2] as uint16."""
    tiles = amx_block.column_tiles(problem.n)
    return pack_tiles(np.asarray(b, np.float32)[..., None, :, :], PLANES[products], tiles)


def amx_gemm_scratch_bytes(problem: GemmProblem, products: int, m: DimLike, n: DimLike, k: DimLike) -> DimLike:
    """Bytes of scratch for each thread (64-byte aligned)."""
    steps = D.ceildiv(k, STEP)
    most = D.maximum(steps * (PIXELS * ROW_BYTES), _plane_budget(products)) + steps * ROW_BYTES
    needed = (D.ceildiv(m, PIXELS) * PIXELS + 1) * steps * ROW_BYTES
    total = D.minimum(most, needed) * amx_block.stored_planes(products) + SLACK_BYTES
    if problem.b != "packed":
        panel = amx_block.stored_planes(products) * amx_block.column_tiles(problem.n) * TILE_BYTES
        total = total + steps * panel
    return total


def _plane_budget(products: int) -> int:
    return STRIP_BYTES // PLANES[products] // ROW_BYTES * ROW_BYTES


def emit_amx_gemm(
    f: Function,
    problem: GemmProblem,
    products: int,
    isa: Isa,
    arg: Mapping[str, V],
    thread: V,
    threads: V,
    sink: Sink,
) -> None:
    """Emit the product into `f`, whose argument words (kernels.gemm.GEMM_ARGS) are loaded as arg[name].

    A has unit stride along k (problem.a == "rows"). The sink sees indices g, b, m, n.
    """
    assert problem.a == "rows", "the tiles read A by rows"
    _Gemm(f, problem, products, isa, arg, sink).emit(thread, threads)


class _Gemm:
    def __init__(self, f: Function, problem: GemmProblem, products: int, isa: Isa, arg: Mapping[str, V], sink: Sink):
        self.f, self.problem, self.products, self.isa, self.arg, self.sink = f, problem, products, isa, arg, sink
        self.k: int | V = problem.k if problem.k is not None else arg["k"]
        self.n: int | V = problem.n if problem.n is not None else arg["n"]
        self.steps: int | V = (self.k + (STEP - 1)) // STEP
        self.columns = amx_block.column_tiles(problem.n)
        self.packed = problem.b == "packed"
        planes = PLANES[products] if self.packed else amx_block.stored_planes(products)
        self.right = Right(planes, 0 if self.packed else planes - 1)
        self.left_splitter = Splitter(f, isa, products)

    def emit(self, thread: V, threads: V) -> None:
        """This thread's blocks of rows (over all batches) x panels, a strip of rows at a time."""
        f, m = self.f, self.arg["m"]
        tiles = Tiles(f, self.isa)
        self.blocks = Blocks(f, self.isa, tiles, self.products, self.columns, self.right)
        self.packer = None if self.packed else _Packer(self)
        blocks = (m + (PIXELS - 1)) / PIXELS
        panels = (f.coerce(self.n, "i64") + (self.columns * COLUMNS - 1)) / (self.columns * COLUMNS)
        rows, columns = tile.split_work(f, thread, threads, self.arg["groups"] * self.arg["batch"] * blocks, panels)
        most = f.smax(_plane_budget(self.products) / f.smax(f.coerce(self.steps, "i64") * TILE_BYTES * 2, 1), 1)
        most = f.smin(most, blocks)
        unit = f.var("i64", rows[0])
        with f.forever() as loop:
            now = unit.get()
            loop.break_if(now >= rows[1])
            number = now / blocks
            block = now - number * blocks
            count = f.smin(f.smin(blocks - block, rows[1] - now), most)
            first = block * PIXELS
            self._strip(Batch.of(self.arg, number), first, f.smin(count * PIXELS, m - first), most * PIXELS, columns)
            unit.set(now + count)
        tiles.release()

    def _strip(self, batch: Batch, first: V, rows: V, most: V, columns: tuple[V, V]) -> None:
        """Rows first, first + 1, ... of one batch by this thread's panels; the strip has room for `most` rows."""
        f, arg = self.f, self.arg
        block_bytes = (most + 1) * ROW_BYTES
        strip = Strip(arg["scratch"], block_bytes * self.steps, block_bytes)
        source = f.at(arg["a"], batch.a + first * arg["as_m"], FLOAT)
        self.left_splitter.forget()
        self._split_rows(strip, source, rows, whole=False)
        filled = self._begin_special(strip, source, rows)
        matrix = f.at(arg["b"], batch.b, SHORT if self.packed else FLOAT)
        width = self.columns * COLUMNS
        total = Sum(self.steps)
        with f.loop(columns[0], columns[1]) as panel:
            column = panel * width
            if self.packer is None:
                b = f.at(matrix, panel * self.steps, self.blocks.step_bytes)
            else:
                b = self.packer.pack(matrix, column, strip)
                self._also_special(strip, filled, source, rows, matrix, column)
            epilogue = Epilogue(f, self.sink, "m", "n", batch.where, self.n, row_base=first)

            def give(buffer: V, start: V, count: V) -> None:
                epilogue.looped(self.blocks.shape, buffer, start, 0, count, column)  # noqa: B023

            self.blocks.run(strip, total, f.const("i64", 0), rows, b, give)

    def _split_rows(self, strip: Strip, source: V, rows: V, whole: bool) -> None:
        """Split rows of A into the strip's planes, or all of their values into the plane behind those."""
        f = self.f
        target = f.offset(strip.base, strip.plane_bytes * PLANES[self.products]) if whole else strip.base
        with f.loop(0, rows) as r:
            row, line = f.at(source, r * self.arg["as_m"], FLOAT), f.at(target, r, ROW_BYTES)

            def step(c: V, count: int | V) -> None:
                values = amx_block.load_step(f, f.at(row, c * STEP, FLOAT), count)  # noqa: B023
                place = f.offset(line, strip.block_bytes * c)  # noqa: B023
                amx_block.store_step(f, self.left_splitter, values, place, strip.plane_bytes, whole)

            with f.loop(0, self.k // STEP) as c:
                step(c, STEP)
            if not isinstance(self.k, int):
                with f.when((self.k % STEP).ne(0)):
                    step(self.k // STEP, self.k % STEP)
            elif self.k % STEP:
                step(f.const("i64", self.k // STEP), self.k % STEP)

    # --- values without finite planes (see kernels.amx_block) -----------------------------------------------------------
    def _begin_special(self, strip: Strip, source: V, rows: V) -> Var | None:
        """After splitting a strip. With a packed B, strip.special is settled; else a variable tells whether A's
        further plane is filled."""
        f = self.f
        if self.products == 1:
            return None
        if self.packed:
            strip.special = self.left_splitter.special()
            with f.when(strip.special):
                self._split_rows(strip, source, rows, whole=True)
            return None
        return f.var("i1", 0)

    def _also_special(self, strip: Strip, filled: Var | None, source: V, rows: V, matrix: V, column: V) -> None:
        """After packing a panel of a run-time B: fill both further planes where either operand asks for it."""
        f = self.f
        if filled is None or self.packer is None:
            return
        strip.special = self.left_splitter.special() | self.packer.splitter.special()
        with f.when(strip.special):
            with f.when(~filled.get()):
                self._split_rows(strip, source, rows, whole=True)
            filled.set(1)
            self.packer.emit(matrix, column, whole=True)


class _Packer:
    """Splits and packs panels of a run-time B into scratch: [step][plane][tile][16 pairs][16][2]."""

    def __init__(self, gemm: _Gemm):
        self.f, self.gemm = gemm.f, gemm
        self.splitter = Splitter(gemm.f, gemm.isa, gemm.products)
        self.plane_bytes = gemm.columns * TILE_BYTES
        self._lines = gemm.f.alloca(gemm.right.planes * TILE_BYTES) if gemm.problem.b == "columns" else None
        self._target: V | None = None

    def pack(self, matrix: V, column: V, strip: Strip) -> V:
        """Split the panel whose first column is `column`; returns where it lies: behind the strip."""
        f = self.f
        stored = amx_block.stored_planes(self.gemm.products)
        self._target = f.offset(strip.base, strip.plane_bytes * stored + SLACK_BYTES)
        self.splitter.forget()
        self.emit(matrix, column, whole=False)
        return self._target

    def emit(self, matrix: V, column: V, whole: bool) -> None:
        if self.gemm.problem.b == "columns":
            self._columns(matrix, column, whole)
        else:
            self._rows(matrix, column, whole)

    def _split(self, value: V, whole: bool) -> list[tuple[int, V]]:
        """(number of the plane, its part of the value)."""
        if whole:
            return [(self.gemm.right.whole, self.splitter.whole(value))]
        return list(enumerate(self.splitter.planes(value)))

    def _rows(self, matrix: V, column: V, whole: bool) -> None:
        """B with unit stride along n: two rows of 16 columns are interleaved."""
        f, g = self.f, self.gemm
        assert self._target is not None
        pitch = g.arg["bs_k"]
        steps_pairs = g.steps * PAIRS
        with f.loop(0, g.columns) as y:
            first = column + y * COLUMNS
            exists = f.iota("i32", COLUMNS) < f.cast(f.smin(f.coerce(g.n, "i64") - first, COLUMNS), "i32")
            source, target = f.at(matrix, first, FLOAT), f.at(self._target, y, TILE_BYTES)
            with f.loop(0, steps_pairs) as pair:
                line = f.at(f.at(target, pair / PAIRS, g.blocks.step_bytes), pair % PAIRS, ROW_BYTES)
                halves = []
                for odd in (0, 1):
                    k = pair * 2 + odd
                    mask = exists & f.splat(k < g.k, COLUMNS)
                    value = f.masked_load(f"<{COLUMNS} x float>", f.at(source, k * pitch, FLOAT), mask)
                    halves.append(self._split(value, whole))
                for (plane, even), (_, odd_part) in zip(*halves, strict=True):
                    word = f.cast(even, "i32", signed=False) | (f.cast(odd_part, "i32", signed=False) << 16)
                    f.store(word, f.offset(line, plane * self.plane_bytes), ROW_BYTES)

    def _columns(self, matrix: V, column: V, whole: bool) -> None:
        """B with unit stride along k: lines of 16 columns are split, then pairs of k transposed. Missing columns
        repeat the last one."""
        f, g = self.f, self.gemm
        assert self._target is not None and self._lines is not None
        last = f.coerce(g.n, "i64") - 1
        with f.loop(0, g.columns) as y, f.loop(0, g.steps) as c:
            k = c * STEP
            target = f.at(f.at(self._target, c, g.blocks.step_bytes), y, TILE_BYTES)
            planes: list[int] = []
            with f.loop(0, COLUMNS) as j:
                index = f.smin(column + y * COLUMNS + j, last)
                place = f.at(matrix, index * g.arg["bs_n"] + k, FLOAT)
                count = STEP if isinstance(g.k, int) and g.k % STEP == 0 else f.smin(g.k - k, STEP)
                parts = [self._split(v, whole) for v in amx_block.load_step(f, place, count)]
                line = f.at(self._lines, j, ROW_BYTES)
                for (plane, low), (_, high) in zip(*parts, strict=True):
                    f.store(amx_block.join(f, low, high), f.offset(line, plane * TILE_BYTES), ROW_BYTES)
                    planes.append(plane)
            for plane in planes:
                lines = f.offset(self._lines, plane * TILE_BYTES)
                words = [f.load(f"<{COLUMNS} x i32>", f.offset(lines, j * ROW_BYTES), ROW_BYTES) for j in range(COLUMNS)]
                for pair, word in enumerate(moves.transpose(f, words)):
                    f.store(word, f.offset(target, plane * self.plane_bytes + pair * ROW_BYTES), ROW_BYTES)
