"""Determinants of small matrices: elimination with the largest pivot of each column, one matrix after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.dims import DimLike, product
from hasten.codegen.builder import V
from hasten.codegen.math import llvm_type
from hasten.codegen.math_common import fabs
from hasten.kernels.spec import Emission, KernelSpec


@dataclass(frozen=True)
class DeterminantSpec(KernelSpec):
    """in0: [batch, n, n] of `dtype` (float32 or float64); out0: [batch]."""

    dtype: str

    def dims(self, call: Any) -> dict[str, DimLike]:
        batch, n, _ = call.operands[0].shape
        return {"batch": batch, "n": n}

    def scratch(self, call: Any) -> DimLike:
        return product(call.operands[0].shape[1:]) * dtypes.dtype(self.dtype).size

    def work(self, call: Any) -> DimLike:
        batch, n, _ = call.operands[0].shape
        return batch * n * n * n  # type: ignore[no-any-return]

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        return [np.asarray(np.linalg.det(inputs[0])).astype(inputs[0].dtype)]

    def emit(self, k: Emission) -> None:
        f, n, size = k.f, k.arg["n"], dtypes.dtype(self.dtype).size
        t, work = llvm_type(self.dtype), k.arg["scratch"]
        begin, end = k.split(k.arg["batch"])
        with f.loop(begin, end) as matrix:
            with f.loop(0, n * n) as i:
                f.store(f.load(t, f.at(k.arg["in0"], matrix * n * n + i, size)), f.at(work, i, size))
            result = f.var(t, 1.0)
            with f.loop(0, n) as column:
                pivot = self._pivot(k, column)
                with f.when(pivot.ne(column)):
                    result.set(-result.get())
                    self._swap(k, pivot, column)
                top = f.load(t, f.at(work, column * n + column, size))
                result.set(result.get() * top)
                with f.when(top.ne(0.0)), f.loop(column + 1, n) as row:
                    factor = f.load(t, f.at(work, row * n + column, size)) / top
                    with f.loop(column, n) as j:
                        place = f.at(work, row * n + j, size)
                        f.store(f.load(t, place) - factor * f.load(t, f.at(work, column * n + j, size)), place)
            f.store(result.get(), f.at(k.arg["out0"], matrix, size))

    def _pivot(self, k: Emission, column: V) -> V:
        """The row, from `column` on, with the largest entry in that column."""
        f, n, size = k.f, k.arg["n"], dtypes.dtype(self.dtype).size
        t = llvm_type(self.dtype)
        best, row = f.var(t, -1.0), f.var("i64", column)
        with f.loop(column, n) as r:
            entry = fabs(f, f.load(t, f.at(k.arg["scratch"], r * n + column, size)))
            with f.when(entry > best.get()):
                best.set(entry)
                row.set(r)
        return row.get()

    def _swap(self, k: Emission, a: V, b: V) -> None:
        f, n, size = k.f, k.arg["n"], dtypes.dtype(self.dtype).size
        t = llvm_type(self.dtype)
        with f.loop(0, n) as j:
            p, q = (f.at(k.arg["scratch"], r * n + j, size) for r in (a, b))
            x, y = f.load(t, p), f.load(t, q)
            f.store(y, p)
            f.store(x, q)
