"""Packing of constant weights at compile time (NumPy): panels of columns, contiguous per step of the sum."""

from __future__ import annotations

import numpy as np


def pack_panels(b: np.ndarray, width: int) -> np.ndarray:
    """[..., K, N] -> [..., ceil(N / width), K, width] contiguous; missing columns are zero."""
    *batch, k, n = b.shape
    panels = -(-n // width)
    padded = np.zeros((*batch, k, panels * width), b.dtype)
    padded[..., :n] = b
    return np.ascontiguousarray(np.moveaxis(padded.reshape(*batch, k, panels, width), -2, -3))


def filter_matrix(w: np.ndarray, group: int) -> np.ndarray:
    """Filters [O, C / group, kh, kw] -> [group, kh * kw * C / group, O / group], channels fastest among the rows."""
    o, c, kh, kw = w.shape
    grouped = w.reshape(group, o // group, c, kh, kw)
    return np.ascontiguousarray(grouped.transpose(0, 3, 4, 2, 1).reshape(group, kh * kw * c, o // group))


def pack_channels(w: np.ndarray, lanes: int) -> np.ndarray:
    """Filters [C, 1, kh, kw] -> [kh * kw, C rounded up to lanes], missing channels zero."""
    c = w.shape[0]
    packed = np.zeros((w.shape[2] * w.shape[3], -(-c // lanes) * lanes), w.dtype)
    packed[:, :c] = w.reshape(c, -1).T
    return packed
