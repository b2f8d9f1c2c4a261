"""A fresh seed for every run: random operators without a `seed` attribute start from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hasten.kernels.spec import Emission, KernelSpec


@dataclass(frozen=True)
class SeedSpec(KernelSpec):
    """out0: one uint64, from the cycle counter and the result's address. `stream` tells the nodes of one model
    apart."""

    stream: int

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        return [np.random.default_rng().integers(0, 2**63, size=results[0][1], dtype=np.uint64)]

    def emit(self, k: Emission) -> None:
        f = k.f
        with f.when(k.thread.eq(0)):
            cycles = f.intrinsic("llvm.readcyclecounter", "i64", [], [])
            f.store(
                cycles * 0x9E3779B97F4A7C1 + f.to_int(k.arg["out0"]) + self.stream * 0x632BE59BD9B4E01, k.arg["out0"]
            )
