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

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen.builder import Function, V
from hasten.codegen.isa import Isa
from hasten.kernels import moves, tile
from hasten.kernels.gemm_right import Right
from hasten.kernels.moves import FLOAT
from hasten.kernels.packing import pack_panels
from hasten.kernels.tile import Blocks, Epilogue, Plan, Rows, Sink

STRIP_BYTES = {True: 384 << 10, False: 4 << 20}  # of A, for a packed B (both stay in the second level cache) and another
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
    strip = max(most, STRIP_BYTES[problem.b == "packed"] // ((pitch or k or 1) * FLOAT) // most * most) if limited and k else None
    return _Layout(plan, copies, pitch if most > 1 else 0, strip)


def gemm_scratch_bytes(problem: GemmProblem, isa: Isa, m: DimLike, n: DimLike, k: DimLike) -> DimLike:
    """Bytes of scratch for each thread (64-byte aligned)."""
    layout = _layout(problem, isa)
    total: DimLike = 0
    if layout.copies:
        assert layout.strip is not None and layout.pitch is not None
        total = D.minimum(D.ceildiv(m, layout.tallest) * layout.tallest, layout.strip) * (layout.pitch * FLOAT)
    if problem.b != "packed":
        total = total + k * (layout.plan.width * FLOAT)
    return total


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
        self.strip = arg["scratch"]
        self.right: Right | None = None
        if problem.b != "packed":
            self.right = Right(f, problem, self.plan, arg, self.k, self.n)
            self.strip = f.at(arg["scratch"], self.k, self.plan.width * FLOAT)

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

        def left(start: V | int) -> Rows:
            return Rows(f.offset(a, start * (pitch * FLOAT)), pitch * FLOAT, step)

        if self.right is None:
            with f.loop(columns[0], columns[1]) as panel:
                b = f.at(matrix, panel * self.k, self.plan.width * FLOAT)
                tile.emit_blocks(f, walk, panel * self.plan.width, lambda t, start: t.multiply(left(start), b, self.k), epilogue)  # noqa: B023
        else:
            self.right.multiply(left, walk, matrix, columns, epilogue)

    def _copy_rows(self, a: V, rows: V) -> V:
        f, k, pitch = self.f, self.problem.k, self.layout.pitch
        assert k is not None and pitch is not None
        with f.loop(0, rows) as r:
            moves.copy_floats(
                f, self.isa, f.at(self.strip, r, pitch * FLOAT), f.at(a, r * self.arg["as_m"], FLOAT), k
            )
        return self.strip
