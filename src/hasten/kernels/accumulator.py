"""The running value of a reduction in a nest: a number, or the best one so far and where it was, in one lane or in many."""

from __future__ import annotations

from collections.abc import Sequence

from hasten.codegen import math as M
from hasten.codegen.builder import Function, V, vector
from hasten.kernels.problem import StageProblem


class Accumulator:
    """Running value of one stage: a number, or for the arg kinds the best value and where it was."""

    def __init__(self, f: Function, stage: StageProblem, lanes: int):
        self.f, self.lanes, self.dtype = f, lanes, stage.expr.dtype
        self.arg = stage.kind.startswith("arg")
        self.kind = ("max" if "max" in stage.kind else "min") if self.arg else {"sum": "add", "prod": "mul"}.get(stage.kind, stage.kind)
        self.latest = stage.kind.endswith("last")
        t = vector(M.llvm_type(self.dtype), lanes)
        self.value = f.var(t, f.const(t, M.identity(self.kind, self.dtype)))
        self.where = f.var(vector("i64", lanes), f.const(vector("i64", lanes), -1)) if self.arg else None

    def add_all(self, rounds: Sequence[tuple[V, V]]) -> None:
        """Add several (value, position)."""
        xs = [x for x, _ in rounds]
        if self.where is None and self.kind in ("max", "min") and self.dtype.startswith("float") and len(xs) > 1:
            self.add(M.extreme_of(self.f, self.kind, xs), rounds[0][1])
            return
        for x, position in rounds:
            self.add(x, position)

    def add(self, x: V, position: V, mask: V | None = None) -> None:
        f = self.f
        if self.where is None:
            old = self.value.get()
            new = M.emit_op(f, self.kind, self.dtype, [old, x])
            self.value.set(new if mask is None else f.select(mask, new, old))
            return
        better = self._better(x, self.value.get(), self.where.get())
        if mask is not None:
            better = better & mask
        self.value.set(f.select(better, x, self.value.get()))
        self.where.set(f.select(better, f.splat(position, self.lanes), self.where.get()))

    def _better(self, x: V, old: V, where: V) -> V:
        """x wins: larger (smaller), or equal where the last one counts, or NaN, or the first of all."""
        f = self.f
        pair = [old, x] if self.kind == "max" else [x, old]
        wins = M.emit_op(f, "le" if self.latest else "lt", self.dtype, pair)
        if self.dtype.startswith("float"):
            nan = M.emit_op(f, "isnan", self.dtype, [x])
            wins = wins | (nan if self.latest else nan & ~M.emit_op(f, "isnan", self.dtype, [old]))
        return wins | (where < 0)

    def result(self) -> V:
        return self.value.get() if self.where is None else self.where.get()

    def horizontal(self, rest: Accumulator) -> None:
        """Add all lanes to the scalar `rest`."""
        f = self.f
        if self.where is None:
            lanes = M.reduce_lanes(f, self.kind, self.dtype, self.value.get())
            rest.value.set(M.emit_op(f, self.kind, self.dtype, [lanes, rest.value.get()]))
            return
        values, wheres = self.value.get(), self.where.get()
        for k in range(self.lanes):
            x, position = f.extract(values, k), f.extract(wheres, k)
            best, where = rest.value.get(), rest.where.get()  # type: ignore[union-attr]
            wins = (position >= 0) & ((where < 0) | self._before(x, position, best, where))
            rest.value.set(f.select(wins, x, best))
            rest.where.set(f.select(wins, position, where))  # type: ignore[union-attr]

    def _before(self, x: V, position: V, best: V, where: V) -> V:
        f = self.f
        pair = [best, x] if self.kind == "max" else [x, best]
        strictly = M.emit_op(f, "lt", self.dtype, pair)
        same = M.emit_op(f, "eq", self.dtype, pair)
        if self.dtype.startswith("float"):
            nan_x, nan_best = M.emit_op(f, "isnan", self.dtype, [x]), M.emit_op(f, "isnan", self.dtype, [best])
            strictly = strictly | (nan_x & ~nan_best)
            same = same | (nan_x & nan_best)
        return strictly | (same & (position > where if self.latest else position < where))
