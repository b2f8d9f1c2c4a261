"""Packing of constant weights for the tiles at compile time: bfloat16 planes in pairs of k.

A float32 value is the sum of its planes: high = bfloat16(x), middle = bfloat16(x - high), low = bfloat16(x - high -
middle), each rounded to nearest even. Three planes hold 24 bits and their signs: x itself. Values beyond bfloat16's
largest (only 2^-9 below float32's) keep their first 8 bits instead of becoming infinite; weights must be finite.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

PAIRS, COLUMNS, STEP = 16, 16, 32  # a tile of B: 16 pairs of k by 16 columns; 32 values of k
LARGEST = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)


def split_planes(x: np.ndarray, planes: int) -> np.ndarray:
    """float32 [...] -> bfloat16 [planes, ...], whose sum is x up to the last plane's rounding."""
    rest = np.clip(np.asarray(x, np.float32), -LARGEST, LARGEST)
    parts = []
    for _ in range(planes):
        parts.append(rest.astype(ml_dtypes.bfloat16))
        rest = rest - parts[-1].astype(np.float32)
    return np.stack(parts)


def pack_tiles(b: np.ndarray, planes: int, tiles: int) -> np.ndarray:
    """[..., taps, K, N] float32 -> [..., panels, taps, ceil(K / 32), planes, tiles, 16 pairs, 16 columns, 2] as uint16.

    A panel is `tiles` (1 or 2) tiles of 16 columns; missing columns and values of k are zero.
    """
    *batch, taps, k, n = b.shape
    steps, width = -(-k // STEP), tiles * COLUMNS
    panels = -(-n // width)
    padded = np.zeros((*batch, taps, steps * STEP, panels * width), np.float32)
    padded[..., :k, :n] = b
    cut = padded.reshape(*batch, taps, steps, PAIRS, 2, panels, tiles, COLUMNS)
    split = split_planes(cut, planes)  # plane, batch..., taps, steps, pairs, 2, panels, tiles, columns
    o = len(batch) + 1
    taps_, steps_, pairs, odd, panel, tile, column = range(o, o + 7)
    order = (*range(1, o), panel, taps_, steps_, 0, tile, pairs, column, odd)
    return np.ascontiguousarray(split.transpose(order)).view(np.uint16)
