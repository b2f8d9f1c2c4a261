"""BitCast: the same bits under another dtype. A copy of bytes; 4-bit and 2-bit values keep only their own bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.codegen.builder import vector
from hasten.kernels.spec import Emission, KernelSpec


@dataclass(frozen=True)
class BitCastSpec(KernelSpec):
    """in0: any tensor of elements of `size` bytes; out0: dtype `to`, of the same size."""

    size: int
    to: str

    def dims(self, call: Any) -> dict[str, DimLike]:
        return {"n": call.results[0].size}

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        raw = np.ascontiguousarray(inputs[0]).view(np.dtype(f"u{self.size}"))
        bits = dtypes.dtype(self.to).bits
        if bits < 8 and self.to != "bool":
            raw = (raw & (2**bits - 1)).astype(np.uint8)
        return [raw.view(dtypes.to_numpy(self.to)).reshape(results[0][1])]

    def emit(self, k: Emission) -> None:
        f, element = k.f, f"i{8 * self.size}"
        lanes = max(1, k.isa.vector_bytes // self.size)
        bits = dtypes.dtype(self.to).bits
        begin, end = k.split(k.arg["n"])
        whole = begin + (end - begin).udiv(lanes) * lanes

        def copy(t: str, i: Any) -> None:
            value = f.load(t, f.at(k.arg["in0"], i, self.size), align=self.size)
            f.store(value & (2**bits - 1) if bits < 8 else value, f.at(k.arg["out0"], i, self.size), align=self.size)

        with f.loop(begin, whole, lanes) as i:
            copy(vector(element, lanes), i)
        with f.loop(whole, end) as i:
            copy(element, i)
