"""Softmax of contiguous lines: every exponential is computed once, kept in scratch while the line's sum is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.codegen import math as M
from hasten.codegen.builder import V, vector
from hasten.codegen.convert import load_value
from hasten.codegen.isa import Isa
from hasten.codegen.math_float import exp2_negative
from hasten.kernels.moves import FLOAT
from hasten.kernels.spec import Emission, KernelSpec

CHAINS = 4  # maxima side by side, that hide each other's latency
SHORTEST = 64  # elements: shorter lines are left to the generic nest, which runs lanes across lines where that pays


@dataclass(frozen=True)
class SoftmaxSpec(KernelSpec):
    """x [R, N] of dtype `stored` (compute type float32), N contiguous -> exp(x - max) / sum(exp(x - max)) of each line."""

    isa: Isa
    stored: str

    @property
    def accumulates(self) -> bool:
        return True

    @property
    def axes(self) -> tuple[str, ...]:
        return ("r", "n")

    @property
    def lane_axis(self) -> str:
        return "n"

    def wants(self, operand: int) -> str:
        return "lanes:1"

    def dims(self, call: Any) -> dict[str, DimLike]:
        lines, n = call.operands[0].shape
        return {"lines": lines, "n": n}

    def scratch(self, call: Any) -> DimLike:
        return self.dims(call)["n"] * FLOAT + self.isa.vector_bytes

    def operations(self, call: Any) -> DimLike:
        d = self.dims(call)
        return d["lines"] * d["n"] * 20

    def work(self, call: Any) -> DimLike:
        d = self.dims(call)
        return d["lines"] * d["n"]

    def describe(self) -> dict[str, str]:
        return {"algorithm": "softmax in three passes"}

    def emit(self, k: Emission) -> None:
        begin, end = k.split(k.arg["lines"])
        with k.f.loop(begin, end) as line:
            _Line(self, k, line).emit()


class _Line:
    def __init__(self, spec: SoftmaxSpec, k: Emission, line: V):
        self.spec, self.k, self.f, self.line = spec, k, k.f, line
        self.lanes, self.n = spec.isa.lanes(32), k.arg["n"]
        self.type = vector("float", self.lanes)

    def emit(self) -> None:
        f, lanes = self.f, self.lanes
        top = f.splat(self._largest(), lanes)
        total = f.var(self.type, 0.0)

        def weigh(i: V, mask: V | None) -> None:
            weight = exp2_negative(f, (self._load(i, mask) - top) * math.log2(math.e))
            weight = weight if mask is None else f.select(mask, weight, f.const(self.type, 0.0))
            f.store(weight, f.at(self.k.arg["scratch"], i, FLOAT))
            total.set(total.get() + weight)

        self._vectors(f.const("i64", 0), weigh)
        factor = f.splat(f.const("float", 1.0) / M.reduce_lanes(f, "add", "float32", total.get()), lanes)

        def give(i: V, mask: V | None) -> None:
            assert self.k.sink is not None
            value = f.load(self.type, f.at(self.k.arg["scratch"], i, FLOAT)) * factor
            self.k.sink(f, value, {"r": self.line, "n": i}, lanes, mask)

        self._vectors(f.const("i64", 0), give)

    def _largest(self) -> V:
        """The largest element; NaNs don't count here: their exponentials make the sum NaN."""
        f, lanes = self.f, self.lanes
        tops = [f.var(self.type, -math.inf) for _ in range(CHAINS)]
        whole = self.n - self.n.urem(lanes * CHAINS)
        with f.loop(0, whole, lanes * CHAINS) as i:
            for c, top in enumerate(tops):
                top.set(f.smax(self._load(i + c * lanes, None), top.get()))

        def rest(i: V, mask: V | None) -> None:
            x = self._load(i, mask)
            x = x if mask is None else f.select(mask, x, f.const(self.type, -math.inf))
            tops[0].set(f.smax(x, tops[0].get()))

        self._vectors(whole, rest)
        found = tops[0].get()
        for other in tops[1:]:
            found = f.smax(found, other.get())
        return M.reduce_lanes(f, "max", "float32", found)

    def _load(self, i: V, mask: V | None) -> V:
        start = self.line * self.k.arg["in0_s0"] + i
        return load_value(self.f, self.spec.stored, self.f.at(self.k.arg["in0"], start, dtypes.dtype(self.spec.stored).size), self.lanes, mask)

    def _vectors(self, first: V, emit: Callable[[V, V | None], None]) -> None:
        """emit(index, mask) for the vectors from `first` on; mask None: all lanes exist."""
        f, whole = self.f, self.n - self.n.urem(self.lanes)
        with f.loop(first, whole, self.lanes) as i:
            emit(i, None)
        with f.when(whole < self.n):
            emit(whole, f.iota("i32", self.lanes) < f.cast(self.n - whole, "i32"))
