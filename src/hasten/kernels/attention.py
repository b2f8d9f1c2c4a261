"""Attention in one pass: softmax(scale * q k' + mask) v, without the matrix of all scores in memory.

This is what operators ask for; kernels.attention_tile says how it is done. Queries, keys, values and masks are read at
any strides, and results go to a sink.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen.isa import Isa
from hasten.kernels import attention_tile, tile
from hasten.kernels.attention_scores import BLOCK, VECTORS, Window
from hasten.kernels.attention_tile import SLACK
from hasten.kernels.moves import FLOAT
from hasten.kernels.spec import Emission, KernelSpec
from hasten.kernels.tile import Shape

FLOPS_PER_NS = 40  # a cautious figure for one core: only used to decide whether sharing among threads pays


@dataclass(frozen=True)
class AttentionSpec(KernelSpec):
    """q [B, H, M, D], k [B, G, N, D], v [B, G, N, E], each of the G heads serving H / G neighbouring ones of q; a mask
    [B, H, M, N'] if `mask` names its dtype (bool: which keys count; floats are added; keys from N' on don't count); the
    number of keys that count in each batch [B] (int64) if `valid` -> [B, H, M, E], float32.

    `stored`: dtypes of q, k and v; `size`, `value_size`: D and E, None where only the run knows; `scale` None:
    1 / sqrt(D); `softcap` c > 0: c tanh(score / c) before the mask. `window`: which keys count by position. A query
    for which no key counts gets zeros.
    """

    isa: Isa
    stored: tuple[str, str, str]
    size: int | None
    value_size: int | None
    scale: float | None
    softcap: float = 0.0
    mask: str = ""
    valid: bool = False
    window: Window | None = None

    @property
    def accumulates(self) -> bool:
        return True

    @property
    def axes(self) -> tuple[str, ...]:
        return ("b", "h", "m", "e")

    @property
    def lane_axis(self) -> str:
        return "e"

    @property
    def masked(self) -> bool:
        """Whether there may be queries for which no key counts."""
        return bool(self.mask) or self.valid or self.window is not None

    def wants(self, operand: int) -> str:
        return "plain" if self.valid and operand == 3 + bool(self.mask) else "lanes:3"

    def dims(self, call: Any) -> dict[str, DimLike]:
        q, k, v = (call.operands[i].shape for i in range(3))
        sizes = {"batch": q[0], "heads": q[1], "shared": k[1], "m": q[2], "n": k[2], "d": q[3], "e": v[3]}
        if self.mask:
            sizes["mask_keys"] = call.operands[3].shape[3]
        if self.window is not None:
            sizes["before"] = self.window.before
        return sizes

    @property
    def shapes(self) -> list[Shape]:
        """Tiles by their number of queries, the largest first: 12, 8, 4, or 5, 3, 1. A few registers less than products
        have, because LLVM keeps constants of the exponentials in some."""
        most, lanes = tile.most_rows(self.isa, VECTORS), self.isa.lanes(32)
        most -= most // 6
        return [Shape(rows, VECTORS, lanes) for rows in (most, most * 2 // 3, most // 3)]

    def parts(self, n: DimLike, d: DimLike, e: DimLike) -> list[tuple[str, DimLike]]:
        """Parts of a thread's scratch, and their floats."""
        rows, width = self.shapes[0].rows, self.shapes[0].width
        return [
            ("maximum", rows), ("sum", rows), ("rescale", rows), ("top", rows * BLOCK // VECTORS), ("queries", rows * d),
            ("scores", rows * (BLOCK + width)),
            ("result", D.ceildiv(e, width) * (rows * width)), ("keys", D.ceildiv(n, width) * width * d), ("values", D.ceildiv(e, width) * width * n),
        ]  # fmt: skip

    def scratch(self, call: Any) -> DimLike:
        s = self.dims(call)
        total: DimLike = 0
        for _, floats in self.parts(s["n"], s["d"], s["e"]):
            total = total + floats * FLOAT + SLACK
        return total

    def operations(self, call: Any) -> DimLike:
        s = self.dims(call)
        return s["batch"] * s["heads"] * s["m"] * s["n"] * (s["d"] + s["e"]) * 2

    def work(self, call: Any) -> DimLike:
        return D.floordiv(self.operations(call), FLOPS_PER_NS)

    def describe(self) -> dict[str, str]:
        return {"algorithm": "streaming attention"}

    def emit(self, k: Emission) -> None:
        attention_tile.Attention(self, k).emit()
