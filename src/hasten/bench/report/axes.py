"""Logarithmic axes: where a value lies, and which values are worth a tick."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

MOST_TICKS = 9
STEPS = (  # of one decade, from fine to coarse
    tuple(1 + i / 100 for i in range(900)),
    tuple(1 + i / 50 for i in range(450)),
    tuple(1 + i / 20 for i in range(180)),
    (*(1 + i / 10 for i in range(15)), *(2.5 + i / 4 for i in range(30))),
    (1, 1.2, 1.4, 1.7, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
    (1, 1.5, 2, 3, 4, 5, 7),
    (1, 2, 5),
    (1, 3),
    (1,),
)


@dataclass(frozen=True)
class LogAxis:
    """From `low` to `high`, both positive, drawn from the coordinate `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, *, margin: float = 0.06) -> LogAxis:
        """An axis with all finite positive values on it and some room at both ends."""
        logs = [math.log(value) for value in values if 0 < value < math.inf] or [0.0]
        low, high = min(logs), max(logs)
        room = max((high - low) * margin, 0.01)
        return cls(math.exp(low - room), math.exp(high + room), start, end)

    def at(self, value: float) -> float:
        """The coordinate of a value; what lies outside is drawn at the end."""
        if value <= 0:
            return self.start
        part = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, most: int = MOST_TICKS) -> list[float]:
        """Round values on the axis, as many as fit."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in STEPS:
            values = [step * 10.0**decade for decade in range(first, last + 1) for step in steps]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) <= most:
                return inside
        every = math.ceil(len(inside) / most)
        return inside[::every]
