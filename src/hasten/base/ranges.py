"""`Dim`: what a caller promises of a size that a model leaves open (public as `hasten.Dim`). Expressions over sizes are `base.dims`."""

from __future__ import annotations

import math
import re
from dataclasses import KW_ONLY, dataclass

from hasten.base.errors import InputError

_TEXT = re.compile(r"(\d*):(\d*)(?::(\d+))?")


@dataclass(frozen=True)
class Dim:
    """A size from `low` to `high`, both included (None: no limit), and a multiple of `multiple_of`. Raises InputError where nothing fits.

    hasten.compile("encoder.onnx", dims={"length": hasten.Dim(1, 512, multiple_of=8)})
    """

    low: int = 0
    high: int | None = None
    _: KW_ONLY
    multiple_of: int = 1

    def __post_init__(self) -> None:
        numbers = (self.low, self.multiple_of) if self.high is None else (self.low, self.high, self.multiple_of)
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers) or self.multiple_of < 1:
            raise InputError(f"Dim{numbers}: sizes are ints from 0 on, and multiples are of an int from 1 on")
        if self.high is not None and self.high // self.multiple_of * self.multiple_of < self.low:
            raise InputError(f"no size is {self}")

    def __str__(self) -> str:
        limits = f"at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"
        parts = [limits] * bool(self.low or self.high is not None) + [f"a multiple of {self.multiple_of}"] * (self.multiple_of > 1)
        return " and ".join(parts) or "any size"

    def both(self, other: Dim) -> Dim:
        """What holds where both are promised. Raises InputError."""
        highs = [d.high for d in (self, other) if d.high is not None]
        return Dim(max(self.low, other.low), min(highs, default=None), multiple_of=math.lcm(self.multiple_of, other.multiple_of))

    def __contains__(self, size: int) -> bool:
        return self.low <= size and (self.high is None or size <= self.high) and size % self.multiple_of == 0


def parse(text: str) -> Dim | int:
    """`128`, or `LOW:HIGH` or `LOW:HIGH:MULTIPLE`, where LOW and HIGH may be left out. Raises InputError."""
    if text.isdigit():
        return int(text)
    found = _TEXT.fullmatch(text)
    if found is None:
        raise InputError(f"{text!r} is no size: say 128, or LOW:HIGH, or LOW:HIGH:MULTIPLE")
    low, high, multiple = found.groups()
    return Dim(int(low or 0), int(high) if high else None, multiple_of=int(multiple or 1))
