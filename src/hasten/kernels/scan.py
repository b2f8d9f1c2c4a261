"""Running sums and products along the middle axis of a row-major tensor [lines, n, inner].

Lanes run along `inner`; where that is 1 the lines are taken one at a time. Small floats are accumulated as float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.codegen.builder import V, vector
from hasten.codegen.convert import load_value, store_value
from hasten.codegen.math import emit_op
from hasten.codegen.math_common import llvm_type
from hasten.kernels.spec import Emission, KernelSpec

NEUTRAL = {"add": 0, "mul": 1}
FUNCTIONS = {"add": np.add, "mul": np.multiply}


@dataclass(frozen=True)
class ScanSpec(KernelSpec):
    """in0 -> out0, both of `dtype`: out[k] = in[0] op ... op in[k]; exclusive: without in[k]; reverse: from the end."""

    dtype: str
    op: str
    exclusive: bool
    reverse: bool

    def dims(self, call: Any) -> dict[str, DimLike]:
        return dict(zip(("lines", "n", "inner"), call.operands[0].shape, strict=True))

    def work(self, call: Any) -> DimLike:
        return call.operands[0].size * 2  # type: ignore[no-any-return]

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        compute = dtypes.to_numpy(dtypes.compute_type(self.dtype))
        x = inputs[0].astype(compute)
        x = x[:, ::-1] if self.reverse else x
        y = FUNCTIONS[self.op].accumulate(x, axis=1, dtype=compute)
        if self.exclusive and y.shape[1]:
            y = np.concatenate([np.full_like(y[:, :1], NEUTRAL[self.op]), y[:, :-1]], 1)
        return [(y[:, ::-1] if self.reverse else y).astype(inputs[0].dtype)]

    def emit(self, k: Emission) -> None:
        """Units of work are blocks of lanes of a line."""
        f, arg = k.f, k.arg
        compute = dtypes.compute_type(self.dtype)
        lanes = max(1, k.isa.vector_bytes // dtypes.dtype(compute).size)
        blocks = (arg["inner"] + (lanes - 1)).udiv(lanes)
        begin, end = k.split(arg["lines"] * blocks)
        with f.loop(begin, end) as unit:
            line = unit.udiv(f.smax(blocks, 1))
            first = (unit - line * blocks) * lanes
            left = arg["inner"] - first
            start = line * arg["n"] * arg["inner"] + first
            with f.either(left >= lanes) as rest:
                self._line(k, start, lanes)
                rest.otherwise()
                with f.loop(0, left) as j:
                    self._line(k, start + j, 1)

    def _line(self, k: Emission, start: V, lanes: int) -> None:
        """`lanes` neighbouring scans beginning at element `start`."""
        f, arg = k.f, k.arg
        compute, size = dtypes.compute_type(self.dtype), dtypes.dtype(self.dtype).size
        running = f.var(vector(llvm_type(compute), lanes), f.const(vector(llvm_type(compute), lanes), NEUTRAL[self.op]))
        with f.loop(0, arg["n"]) as i:
            position = arg["n"] - 1 - i if self.reverse else i
            at = start + position * arg["inner"]
            value = load_value(f, self.dtype, f.at(arg["in0"], at, size), lanes)
            before = running.get()
            after = emit_op(f, self.op, compute, [before, value])
            running.set(after)
            store_value(f, self.dtype, before if self.exclusive else after, f.at(arg["out0"], at, size))
