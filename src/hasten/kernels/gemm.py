"""Matrix products: C[g, b, m, n] = sum over k of A[g, b, m, k] * B[g, b, k, n], float32, results given to a sink.

B is a packed constant, or a run-time matrix that is packed panel by panel into scratch where that pays. A is read in
place where its row pitch is known and harmless for the cache, else strips of its rows are copied to scratch. Sizes and
strides are run-time words (elements): with two batch axes, attention's heads are read where they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hasten.base.dims import DimLike
from hasten.codegen.builder import Function, V, vector
from hasten.codegen.isa import Isa
from hasten.kernels import moves, tile
from hasten.kernels.moves import FLOAT
from hasten.kernels.packing import pack_panels
from hasten.kernels.tile import Blocks, Epilogue, Plan, Rows, Sink

STRIP_BYTES = 384 << 10  # of A: stays in the second level cache beside a panel of B
MOST_DOT_ROWS = 2  # rows of A for which columns of B are not transposed first
PAD = 16  # elements added to a row pitch that aliases


@dataclass(frozen=True)
class GemmProblem:
    """What is known when the kernel is made.

    k, n, m: sizes; None where only the run knows (m is usually None; a known m chooses tiles that fit it).
    b: "packed" (constant, `pack_gemm_weights`), "rows" (unit stride along n) or "columns" (unit stride along k).
    a: "rows" (unit stride along k) or "columns" (unit stride along m).
    a_pitch: stride of A along m in elements where known (a == "rows").
    """

    k: int | None
    n: int | None
    b: Literal["packed", "rows", "columns"] = "packed"
    a: Literal["rows", "columns"] = "rows"
    m: int | None = None
    a_pitch: int | None = None


GEMM_ARGS: tuple[tuple[str, str], ...] = (
    ("a", "ptr"),
    ("b", "ptr"),
    ("scratch", "ptr"),
    ("groups", "i64"),
    ("batch", "i64"),
    ("m", "i64"),
    ("n", "i64"),
    ("k", "i64"),
    ("as_g", "i64"),
    ("as_b", "i64"),
    ("as_m", "i64"),
    ("as_k", "i64"),
    ("bs_g", "i64"),
    ("bs_b", "i64"),
    ("bs_k", "i64"),
    ("bs_n", "i64"),
)


def gemm_args(problem: GemmProblem) -> tuple[tuple[str, str], ...]:
    """The template's argument words: matrices, scratch (this thread's own), sizes, strides in elements.

    Words that the problem makes static or meaningless are not read. bs_b of packed weights: elements of one packed
    matrix, or 0.
    """
    return GEMM_ARGS


@dataclass(frozen=True)
class Batch:
    """One of the products: its index on both batch axes, and where its operands begin (elements)."""

    where: dict[str, V]
    a: V
    b: V

    @classmethod
    def of(cls, arg: Mapping[str, V], number: V) -> Batch:
        """Product `number` of groups x batch."""
        g = number.udiv(arg["batch"])
        b = number - g * arg["batch"]
        return cls({"g": g, "b": b}, *(g * arg[f"{x}s_g"] + b * arg[f"{x}s_b"] for x in "ab"))


def gemm_plan(problem: GemmProblem, isa: Isa) -> Plan:
    return tile.plan(isa, problem.n, problem.m, slack=False)


def pack_gemm_weights(problem: GemmProblem, isa: Isa, b: np.ndarray) -> np.ndarray:
    """B given as [..., K, N] float32 -> [..., panels, K, width]."""
    return pack_panels(np.asarray(b, np.float32), gemm_plan(problem, isa).width)


def gemm_operations(problem: GemmProblem, batch: DimLike, m: DimLike, n: DimLike, k: DimLike) -> DimLike:
    """Floating point operations (a multiplication and an addition count as two)."""
    return batch * m * n * k * 2


@dataclass(frozen=True)
class _Layout:
    """What the template decided: tile, whether strips of A are copied, their pitch in elements and rows."""

    plan: Plan
    copies: bool
    pitch: int | None
    strip: int | None

    @property
    def tallest(self) -> int:
        return self.plan.rows[0]


def _layout(problem: GemmProblem, isa: Isa) -> _Layout:
    plan = gemm_plan(problem, isa)
    most = plan.rows[0]
    k, pitch = problem.k, problem.a_pitch
    copies = problem.a == "rows" and k is not None and most > 1
    copies = copies and (pitch is None or tile.aliases(pitch * FLOAT, most))
    if copies:
        assert k is not None
        pitch = k + PAD if tile.aliases(k * FLOAT, most) else k
    limited = copies or (problem.b == "packed" and k is not None)
    strip = max(most, STRIP_BYTES // ((pitch or k or 1) * FLOAT) // most * most) if limited and k else None
    return _Layout(plan, copies, pitch if most > 1 else 0, strip)


def gemm_scratch_bytes(problem: GemmProblem, isa: Isa, m: DimLike, n: DimLike, k: DimLike) -> DimLike:
    """Bytes of scratch for each thread (64-byte aligned)."""
    layout = _layout(problem, isa)
    total: DimLike = _strip_bytes(layout)
    if problem.b != "packed":
        total = total + k * (layout.plan.width * FLOAT)
    return total


def _strip_bytes(layout: _Layout) -> int:
    if not layout.copies:
        return 0
    assert layout.strip is not None and layout.pitch is not None
    return (layout.strip * layout.pitch * FLOAT + 63) // 64 * 64


def emit_gemm(
    f: Function, problem: GemmProblem, isa: Isa, arg: Mapping[str, V], thread: V, threads: V, sink: Sink
) -> None:
    """Emit the product into `f`, whose argument words are loaded as arg[name]. The sink sees indices g, b, m, n."""
    _Gemm(f, problem, isa, arg, thread, threads, sink).emit()


class _Gemm:
    def __init__(
        self, f: Function, problem: GemmProblem, isa: Isa, arg: Mapping[str, V], thread: V, threads: V, sink: Sink
    ):
        self.f, self.problem, self.isa, self.arg, self.sink = f, problem, isa, arg, sink
        self.thread, self.threads = thread, threads
        self.layout = _layout(problem, isa)
        self.plan = self.layout.plan
        self.k: int | V = problem.k if problem.k is not None else arg["k"]
        self.n: int | V = problem.n if problem.n is not None else arg["n"]
        self.scratch = arg["scratch"]

    def emit(self) -> None:
        """This thread's blocks of rows (over all batches) x panels."""
        f, most, width = self.f, self.layout.tallest, self.plan.width
        blocks = (self.arg["m"] + (most - 1)) / most
        panels = (f.coerce(self.n, "i64") + (width - 1)) / width
        units = self.arg["groups"] * self.arg["batch"] * blocks
        rows, columns = tile.split_work(f, self.thread, self.threads, units, panels)
        unit = f.var("i64", rows[0])
        with f.forever() as loop:
            now = unit.get()
            loop.break_if(now >= rows[1])
            number = now / blocks
            block = now - number * blocks
            count = f.smin(blocks - block, rows[1] - now)
            if self.layout.strip is not None:
                count = f.smin(count, self.layout.strip // most)
            first = block * most
            self._strip(Batch.of(self.arg, number), first, f.smin(count * most, self.arg["m"] - first), columns)
            unit.set(now + count)

    def _strip(self, batch: Batch, first: V, rows: V, columns: tuple[V, V]) -> None:
        """Rows first, first + 1, ... of one batch by this thread's panels."""
        f, p, arg = self.f, self.problem, self.arg
        pitch: int | V = self.layout.pitch if self.layout.pitch is not None else arg["as_m"]
        a = f.at(arg["a"], batch.a, FLOAT)
        step: int | V = FLOAT
        if p.a == "columns":
            a, pitch, step = f.at(a, first, FLOAT), 1, arg["as_k"] * FLOAT
        else:
            a = f.at(a, first * arg["as_m"], FLOAT)
            if self.layout.copies:
                a = self._copy_rows(a, rows)
        matrix = f.at(arg["b"], batch.b, FLOAT)
        epilogue = Epilogue(f, self.sink, "m", "n", batch.where, self.n, row_base=first)
        whole = p.m is not None and p.m % self.layout.tallest == 0
        unrolled = tile.unrolls(self.sink, p.k)
        walk = Blocks(self.plan, rows, overlap=True, unrolled=unrolled, whole=whole)
        with f.loop(columns[0], columns[1]) as panel:
            column = panel * self.plan.width
            done = f.label("panel")
            if p.a == "rows" and p.b == "columns":
                with f.when((rows <= MOST_DOT_ROWS) & (f.coerce(self.n, "i64") - column >= self.plan.width)):
                    self._dots(
                        f.at(arg["a"], batch.a + first * arg["as_m"], FLOAT), rows, matrix, column, epilogue
                    )
                    f.jump(done)
            b, b_bytes = self._panel(matrix, panel, column, rows)

            def compute(t: tile.Tile, start: V) -> None:
                left = f.offset(a, start * (pitch * FLOAT))
                t.multiply(Rows(left, pitch * FLOAT, step), b, self.k, b_bytes)

            tile.emit_blocks(f, walk, column, compute, epilogue)
            f.place(done)

    def _dots(self, a: V, rows: V, matrix: V, column: V, epilogue: Epilogue) -> None:
        """A few rows by a panel of B's columns as they lie in memory: sums along k in vectors, added up at the end."""
        f, lanes, arg = self.f, self.plan.lanes, self.arg
        t = vector("float", lanes)
        whole = self.k - self.k % lanes
        tail = f.iota("i32", lanes) < f.cast(f.coerce(self.k, "i64") - whole, "i32")
        with f.loop(0, self.plan.vectors) as v, f.loop(0, rows) as r:
            first = column + v * lanes
            b = Rows(f.at(matrix, first * arg["bs_n"], FLOAT), arg["bs_n"] * FLOAT)
            groups = b.group_pointers(f, lanes)
            row = f.at(a, r * arg["as_m"], FLOAT)
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

    def _copy_rows(self, a: V, rows: V) -> V:
        f, k, pitch = self.f, self.problem.k, self.layout.pitch
        assert k is not None and pitch is not None
        with f.loop(0, rows) as r:
            moves.copy_floats(
                f, self.isa, f.at(self.scratch, r, pitch * FLOAT), f.at(a, r * self.arg["as_m"], FLOAT), k
            )
        return self.scratch

    # --- the right operand --------------------------------------------------------------------------------------------
    def _panel(self, matrix: V, panel: V, column: V, rows: V) -> tuple[V, V | int | None]:
        """Where the panel lies and its step in bytes (None: packed)."""
        f, width = self.f, self.plan.width
        if self.problem.b == "packed":
            return f.at(matrix, panel * self.k, width * FLOAT), None
        packed = f.offset(self.scratch, _strip_bytes(self.layout))
        if self.problem.b == "columns":
            self._transpose_panel(matrix, column, packed)
            return packed, None
        source = f.at(matrix, column, FLOAT)
        if isinstance(self.n, int) and self.n % width == 0:
            full = f.const("i1", 1)
        else:
            full = f.coerce(self.n, "i64") - column >= width
        direct = full & (rows <= self.layout.tallest)
        with f.when(~direct):
            self._pack_panel(source, column, packed)
        pitch = f.select(direct, self.arg["bs_k"] * FLOAT, width * FLOAT)
        return f.select(direct, source, packed), pitch

    def _pack_panel(self, source: V, column: V, packed: V) -> None:
        """Rows of B: `width` columns of each step, missing ones zero."""
        f, lanes = self.f, self.plan.lanes
        t = vector("float", lanes)
        masks = None
        if not (isinstance(self.n, int) and self.n % self.plan.width == 0):
            left = f.cast(f.coerce(self.n, "i64") - column, "i32")
            masks = [f.iota("i32", lanes) + v * lanes < left for v in range(self.plan.vectors)]
        with f.loop(0, self.k) as k:
            row, target = f.at(source, k * self.arg["bs_k"], FLOAT), f.at(packed, k, self.plan.width * FLOAT)
            for v in range(self.plan.vectors):
                place = f.offset(row, v * lanes * FLOAT)
                value = f.masked_load(t, place, masks[v]) if masks else f.load(t, place)
                f.store(value, f.offset(target, v * lanes * FLOAT))

    def _transpose_panel(self, matrix: V, column: V, packed: V) -> None:
        """Columns of B: lanes x lanes blocks are transposed in registers. Missing columns repeat the last one."""
        f, lanes, width = self.f, self.plan.lanes, self.plan.width
        t = vector("float", lanes)
        last = f.coerce(self.n, "i64") - 1
        blocks = self.k - self.k % lanes
        with f.loop(0, self.plan.vectors) as v:
            first = column + v * lanes
            source = [f.at(matrix, f.smin(first + j, last) * self.arg["bs_n"], FLOAT) for j in range(lanes)]
            target = f.at(packed, v, lanes * FLOAT)
            with f.loop(0, blocks, lanes) as k:
                loaded = [f.load(t, f.at(s, k, FLOAT)) for s in source]
                for i, value in enumerate(moves.transpose(f, loaded)):
                    f.store(value, f.at(target, k + i, width * FLOAT))
            with f.loop(blocks, self.k) as k:
                scalars = [f.load("float", f.at(s, k, FLOAT)) for s in source]
                f.store(f.pack(scalars), f.at(target, k, width * FLOAT))
