"""Sizes, times and counts in words that people read."""

from __future__ import annotations


def size_text(count: int) -> str:
    """Bytes in powers of 1024: `1.2 MiB`."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def time_text(seconds: float) -> str:
    """`31.4 us`, `5.27 ms`, `2.1 s`."""
    for limit, factor, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < 0.9995 * limit:  # 999.7 us is 1 ms
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


def count_text(count: int, noun: str) -> str:
    """`1 kernel`, `31 kernels`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
