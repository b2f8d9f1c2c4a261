"""Positions of the elements that are not zero, in row-major order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.codegen.convert import load_value
from hasten.kernels.spec import Emission, KernelSpec


@dataclass(frozen=True)
class NonZeroSpec(KernelSpec):
    """in0: a tensor of `rank` axes; out0: int64 [rank, count], where count is that of its nonzero elements."""

    dtype: str
    rank: int

    def dims(self, call: Any) -> dict[str, DimLike]:
        shape = call.operands[0].shape
        return {f"d{a}": d for a, d in enumerate(shape)} | {"count": call.results[0].shape[1]}

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        x = inputs[0].astype(dtypes.to_numpy(dtypes.compute_type(self.dtype)))
        return [np.array(np.nonzero(x), np.int64).reshape(self.rank, -1)]

    def emit(self, k: Emission) -> None:
        f, arg = k.f, k.arg
        sizes = [arg[f"d{a}"] for a in range(self.rank)]
        total = f.const("i64", 1)
        for d in sizes:
            total = total * d
        found = f.var("i64", 0)
        mine = f.select(k.thread.eq(0), total, 0)
        with f.loop(0, mine) as i:
            value = load_value(f, self.dtype, f.at(arg["in0"], i, dtypes.dtype(self.dtype).size), 1)
            hit = value if value.type == "i1" else value.ne(0)
            with f.when(hit & (found.get() < arg["count"])):
                rest = i
                for a in reversed(range(self.rank)):
                    place = f.at(arg["out0"], arg["count"] * a + found.get(), 8)
                    f.store(rest.urem(sizes[a]), place)
                    rest = rest.udiv(sizes[a])
                found.set(found.get() + 1)
