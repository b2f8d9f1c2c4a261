"""The right operand of a product where it is no constant: read in place, or packed panel by panel into scratch.

A panel of rows (unit stride along n) is packed by the first tile of A's rows that is multiplied by it, on the way; a panel
of columns (unit stride along k) is transposed first. One or two rows of A are too few for either: they read rows in
blocks as wide as the registers allow, and columns as they lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from hasten.codegen.builder import Function, V, vector
from hasten.kernels import moves, tile
from hasten.kernels.moves import FLOAT
from hasten.kernels.tile import Blocks, Epilogue, Plan, Rows, Shape, Tile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hasten.kernels.gemm import GemmProblem

FEW_ROWS = 2  # of A: then reading B is what takes the time
AHEAD = 16  # steps that rows of B are asked for before their use: they lie too far apart for the machine to guess
AHEAD_WIDE = 4

Left = Callable[["V | int"], Rows]


class Right:
    """Products with a matrix [K, N] by panels of columns; one packed panel lies in scratch."""

    def __init__(self, f: Function, problem: GemmProblem, plan: Plan, arg: Mapping[str, V], k: int | V, n: int | V):
        self.f, self.problem, self.plan, self.k, self.n = f, problem, plan, k, n
        self.packed = arg["scratch"]
        self.pitch = arg["bs_k"] * FLOAT if problem.b == "rows" else arg["bs_n"] * FLOAT  # bytes
        self.type = vector("float", plan.lanes)

    def multiply(self, left: Left, walk: Blocks, matrix: V, panels: tuple[V, V], epilogue: Epilogue) -> None:
        """Rows of A (`left(r)` begins at row r; walk.total of them) by the panels [panels[0], panels[1])."""
        f, rows = self.f, _i64(self.f, walk.total)
        if self.problem.b == "columns":
            with f.loop(*panels) as panel:
                self._columns(left, walk, matrix, panel * self.plan.width, rows, epilogue)
            return
        first = f.var("i64", panels[0])
        if self.problem.a == "rows":
            for count in range(1, FEW_ROWS + 1):
                with f.when(rows.eq(count)):
                    first.set(self._wide(left, matrix, panels, count, epilogue))
        with f.loop(first.get(), panels[1]) as panel:
            self._rows(left, walk, matrix, panel * self.plan.width, rows, epilogue)

    def _full(self, column: V, width: int) -> V:
        """Whether the columns [column, column + width) all exist."""
        return _i64(self.f, self.n) - column >= width

    # --- unit stride along n --------------------------------------------------------------------------------------------
    def _rows(self, left: Left, walk: Blocks, matrix: V, column: V, rows: V, epilogue: Epilogue) -> None:
        """One panel: read in place by a single tile; packed by the first of several; packed beforehand where it is narrow."""
        f, shape = self.f, self.plan.shapes[0]
        source, full = f.at(matrix, column, FLOAT), self._full(column, shape.width)
        direct, done = full & (rows <= shape.rows), f.var("i64", 0)
        with f.when(~direct), f.either(full) as other:
            t = Tile(f, shape)
            t.multiply(left(0), source, self.k, self.pitch, keep=self.packed, ahead=AHEAD)
            buffer = f.alloca(shape.rows * shape.width * FLOAT)
            t.save(buffer)
            zero = f.const("i64", 0)
            epilogue.looped(shape, buffer, zero, zero, shape.rows, column)
            done.set(shape.rows)
            other.otherwise()
            self._pack(source, column)
        start = done.get()
        b = f.select(direct, source, self.packed)
        pitch = f.select(direct, self.pitch, shape.width * FLOAT)
        base = start if epilogue.row_base is None else epilogue.row_base + start
        rest = replace(walk, total=rows - start)
        tile.emit_blocks(f, rest, column, lambda t, r: t.multiply(left(start + r), b, self.k, pitch), replace(epilogue, row_base=base))

    def _pack(self, source: V, column: V) -> None:
        """The last columns, missing ones zero."""
        f, lanes, width = self.f, self.plan.lanes, self.plan.width
        count = f.cast(_i64(f, self.n) - column, "i32")
        masks = [f.iota("i32", lanes) + v * lanes < count for v in range(self.plan.vectors)]
        with f.loop(0, self.k) as k:
            row, target = f.offset(source, k * self.pitch), f.at(self.packed, k, width * FLOAT)
            for v, mask in enumerate(masks):
                f.store(f.masked_load(self.type, f.offset(row, v * lanes * FLOAT), mask), f.offset(target, v * lanes * FLOAT))

    def _wide(self, left: Left, matrix: V, panels: tuple[V, V], rows: int, epilogue: Epilogue) -> V:
        """All of few rows by blocks of many panels, for long runs of memory; returns the first panel that is left."""
        f, plan = self.f, self.plan
        together = max(1, f.isa.registers // 2 // plan.vectors // rows)
        shape = Shape(rows, plan.vectors * together, plan.lanes)
        whole = f.smin((panels[1] - panels[0]) / together, (_i64(f, self.n) - panels[0] * plan.width) / shape.width)
        whole = f.smax(whole, 0)
        buffer = f.alloca(rows * shape.width * FLOAT)
        with f.loop(0, whole) as block:
            column = panels[0] * plan.width + block * shape.width
            t = Tile(f, shape)
            t.multiply(left(0), f.at(matrix, column, FLOAT), self.k, self.pitch, ahead=AHEAD_WIDE)
            t.save(buffer)
            with f.loop(0, rows) as r, f.loop(0, shape.vectors) as v:
                value = f.load(self.type, f.at(buffer, r * shape.vectors + v, plan.lanes * FLOAT))
                epilogue.give(value, r, column + v * plan.lanes)
        return panels[0] + whole * together

    # --- unit stride along k --------------------------------------------------------------------------------------------
    def _columns(self, left: Left, walk: Blocks, matrix: V, column: V, rows: V, epilogue: Epilogue) -> None:
        f, done = self.f, self.f.label("panel")
        if self.problem.a == "rows":
            with f.when((rows <= FEW_ROWS) & self._full(column, self.plan.width)):
                self._dots(left, rows, matrix, column, epilogue)
                f.jump(done)
        self._transpose(matrix, column)
        tile.emit_blocks(f, walk, column, lambda t, r: t.multiply(left(r), self.packed, self.k), epilogue)
        f.place(done)

    def _dots(self, left: Left, rows: V, matrix: V, column: V, epilogue: Epilogue) -> None:
        """A few rows by a panel of B's columns as they lie in memory: sums along k in vectors, added up at the end."""
        f, lanes, t = self.f, self.plan.lanes, self.type
        whole = self.k - self.k % lanes
        tail = f.iota("i32", lanes) < f.cast(_i64(f, self.k) - whole, "i32")
        with f.loop(0, self.plan.vectors) as v, f.loop(0, rows) as r:
            first = column + v * lanes
            b = Rows(f.offset(matrix, first * self.pitch), self.pitch)
            groups = b.group_pointers(f, lanes)
            row = left(r).base
            sums = [f.var(t, 0.0) for _ in range(lanes)]

            def step(k: V | int, mask: V | None) -> None:
                def read(p: V) -> V:
                    place = f.at(p, k, FLOAT)
                    return f.load(t, place) if mask is None else f.masked_load(t, place, mask)

                value = read(row)  # noqa: B023
                for j, total in enumerate(sums):  # noqa: B023
                    total.set(f.fma(value, read(b.pointer(f, groups, j)), total.get()))  # noqa: B023

            with f.loop(0, whole, lanes) as k:
                step(k, None)
            if not isinstance(self.k, int) or whole != self.k:
                step(whole, tail)
            epilogue.give(moves.add_lanes(f, [s.get() for s in sums]), r, first)

    def _transpose(self, matrix: V, column: V) -> None:
        """Pack a panel: lanes x lanes blocks are transposed in registers. Missing columns repeat the last one."""
        f, lanes, width, t = self.f, self.plan.lanes, self.plan.width, self.type
        last = _i64(f, self.n) - 1
        blocks = self.k - self.k % lanes
        with f.loop(0, self.plan.vectors) as v:
            first = column + v * lanes
            source = [f.offset(matrix, f.smin(first + j, last) * self.pitch) for j in range(lanes)]
            target = f.at(self.packed, v, lanes * FLOAT)
            with f.loop(0, blocks, lanes) as k:
                loaded = [f.load(t, f.at(s, k, FLOAT)) for s in source]
                for i, value in enumerate(moves.transpose(f, loaded)):
                    f.store(value, f.at(target, k + i, width * FLOAT))
            with f.loop(blocks, self.k) as k:
                scalars = [f.load("float", f.at(s, k, FLOAT)) for s in source]
                f.store(f.pack(scalars), f.at(target, k, width * FLOAT))


def _i64(f: Function, x: int | V) -> V:
    return f.coerce(x, "i64")
