"""Scattering: a copy of the data with updates written, or combined, at computed positions, in the order of the updates.

Every thread owns a range of the result: it copies it, then goes through all updates and applies those that fall there;
so the order of updates is kept and no two threads write to the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.dims import DimLike, product
from hasten.codegen.builder import V
from hasten.codegen.convert import load_value, store_value
from hasten.codegen.math import emit_op
from hasten.kernels.expr import OPS
from hasten.kernels.spec import Emission, KernelSpec
from hasten.vm.program import STATUS_INDEX

REDUCTIONS = {"none": "", "add": "add", "mul": "mul", "max": "max", "min": "min"}


@dataclass(frozen=True)
class _Scatter(KernelSpec):
    dtype: str
    index_dtype: str
    reduction: str

    def work(self, call: Any) -> DimLike:
        return call.operands[0].size + call.operands[2].size * 2  # type: ignore[no-any-return]

    def combine_arrays(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """What is stored where `old` lies."""
        if self.reduction == "none":
            return new
        compute = dtypes.to_numpy(dtypes.compute_type(self.dtype))
        meaning = OPS[REDUCTIONS[self.reduction]].meaning
        return np.asarray(meaning(old.astype(compute), new.astype(compute))).astype(old.dtype)

    def own(self, k: Emission, total: V) -> tuple[V, V]:
        """Copy this thread's part of the data; gives its range."""
        f = k.f
        begin, end = k.split(total)
        size = dtypes.dtype(self.dtype).size
        source, target = (f.at(k.arg[name], begin, size) for name in ("in0", "out0"))
        words = [target, source, (end - begin) * size, f.const("i1", 0)]
        f.intrinsic("llvm.memcpy", "void", words, ["ptr", "ptr", "i64"])
        return begin, end

    def apply(self, k: Emission, position: V, update: V) -> None:
        """out0[position] is combined with in2[update]."""
        f, size = k.f, dtypes.dtype(self.dtype).size
        target, source = f.at(k.arg["out0"], position, size), f.at(k.arg["in2"], update, size)
        if self.reduction == "none":
            storage = dtypes.dtype(self.dtype).storage
            f.store(f.load(storage, source), target)
            return
        old, new = load_value(f, self.dtype, target, 1), load_value(f, self.dtype, source, 1)
        value = emit_op(f, REDUCTIONS[self.reduction], dtypes.compute_type(self.dtype), [old, new])
        store_value(f, self.dtype, value, target)

    def index(self, k: Emission, at: V, extent: V) -> V:
        """Index number `at` of in1; negative ones count from the end. One out of range is reported, and is 0."""
        f = k.f
        place = f.at(k.arg["in1"], at, dtypes.dtype(self.index_dtype).size)
        raw = f.cast(load_value(f, self.index_dtype, place, 1), "i64")
        value = f.select(raw < 0, raw + extent, raw)
        good = value.ult(extent)
        with f.when(~good):
            k.fail(STATUS_INDEX)
        return f.select(good, value, 0)


@dataclass(frozen=True)
class ScatterElementsSpec(_Scatter):
    """in0: data, in1: indices, in2: updates, both of one shape; out0: data, in2[i] combined at [.., in1[i], ..]."""

    rank: int
    axis: int

    def dims(self, call: Any) -> dict[str, DimLike]:
        data, indices = call.operands[0].shape, call.operands[1].shape
        return {f"d{a}": d for a, d in enumerate(data)} | {f"n{a}": d for a, d in enumerate(indices)}

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        data, indices, updates = inputs
        out = data.copy()
        for i in np.ndindex(*indices.shape):
            at = list(i)
            at[self.axis] = int(indices[i])
            out[tuple(at)] = self.combine_arrays(out[tuple(at)], updates[i])
        return [out]

    def emit(self, k: Emission) -> None:
        f = k.f
        sizes = [k.arg[f"d{a}"] for a in range(self.rank)]
        strides = [f.const("i64", 1)]
        for d in reversed(sizes):
            strides.insert(0, strides[0] * d)
        begin, end = self.own(k, strides[0])

        def level(axis: int, position: V, update: V) -> None:
            if axis == self.rank:
                position = position + self.index(k, update, sizes[self.axis]) * strides[self.axis + 1]
                with f.when((position >= begin) & (position < end)):
                    self.apply(k, position, update)
                return
            with f.loop(0, k.arg[f"n{axis}"]) as i:
                inner = position if axis == self.axis else position + i * strides[axis + 1]
                level(axis + 1, inner, update * k.arg[f"n{axis}"] + i)

        zero = f.const("i64", 0)
        level(0, zero, zero)


@dataclass(frozen=True)
class ScatterNDSpec(_Scatter):
    """in0: data, in1: indices [..., depth], in2: updates: slices of the data; out0: data with slices combined."""

    depth: int

    def dims(self, call: Any) -> dict[str, DimLike]:
        data, indices = call.operands[0].shape, call.operands[1].shape
        return {f"d{a}": data[a] for a in range(self.depth)} | {
            "count": product(indices[:-1]),
            "slice": product(data[self.depth :]),
        }

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        data, indices, updates = inputs
        out = data.copy()
        for i in np.ndindex(*indices.shape[:-1]):
            at = tuple(int(v) for v in indices[i])
            out[at] = self.combine_arrays(out[at], updates[i])
        return [out]

    def emit(self, k: Emission) -> None:
        f, width = k.f, k.arg["slice"]
        rows = f.const("i64", 1)
        for a in range(self.depth):
            rows = rows * k.arg[f"d{a}"]
        begin, end = self.own(k, rows * width)
        with f.loop(0, k.arg["count"]) as n:
            row = f.const("i64", 0)
            for a in range(self.depth):
                extent = k.arg[f"d{a}"]
                row = row * extent + self.index(k, n * self.depth + a, extent)
            low = f.smax(begin - row * width, 0)
            high = f.smin(end - row * width, width)
            with f.loop(low, high) as j:
                self.apply(k, row * width + j, n * width + j)
