"""How far two engines' outputs are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """The largest difference of all outputs, relative to the largest value of its output; infinite where they cannot be
    compared, with the reason."""

    relative: float
    output: str
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"output {self.output!r}: {self.reason}"
        return f"{self.relative:.1e} of the largest value" + (f" (output {self.output!r})" if self.relative else "")


def largest_difference(got: Mapping[str, Any], want: Mapping[str, Any]) -> Difference:
    """The worst over all outputs of `want`; NaN must meet NaN and infinity infinity."""
    worst = Difference(0.0, next(iter(want), ""))
    for name, reference in want.items():
        if name not in got:
            return Difference(math.inf, name, "missing")
        found = _difference(name, got[name], reference)
        if found.relative > worst.relative:
            worst = found
    return worst


def _difference(name: str, got: Any, want: Any) -> Difference:
    import numpy as np

    if isinstance(want, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(want):
            return Difference(math.inf, name, "sequences of different lengths")
        parts = [_difference(name, a, b) for a, b in zip(got, want, strict=True)]
        return max(parts, key=lambda part: part.relative, default=Difference(0.0, name))
    if got is None or want is None:
        return Difference(0.0, name) if got is want else Difference(math.inf, name, "present and absent")
    a, b = np.asarray(got), np.asarray(want)
    if a.shape != b.shape:
        return Difference(math.inf, name, f"shapes {a.shape} and {b.shape}")
    if a.dtype.kind in "OUS" or b.dtype.kind in "OUS":
        return Difference(0.0, name) if np.array_equal(a, b) else Difference(math.inf, name, "different texts")
    return _numeric_difference(name, a.astype(np.float64), b.astype(np.float64))


def _numeric_difference(name: str, a: Any, b: Any) -> Difference:
    import numpy as np

    fine = np.isfinite(b)
    if not np.array_equal(a[~fine], b[~fine], equal_nan=True) or not np.isfinite(a[fine]).all():
        return Difference(math.inf, name, "NaN or infinity in different places")
    if not fine.any():
        return Difference(0.0, name)
    apart, largest = float(np.abs(a[fine] - b[fine]).max()), float(np.abs(b[fine]).max())
    return Difference(apart / max(largest, 1e-6), name)
