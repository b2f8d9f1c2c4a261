"""Paired timing: engines take turns in short rounds, so that what disturbs one disturbs all.

In each round every engine is called for about `round_seconds`, in an order drawn anew, after a pause that lets the
worker threads of the one before fall asleep (a peer's spinning workers halve the speed of the next engine). An
engine's figure of a round is the median of its calls. Ratios are taken inside a round, where conditions were alike;
the result is the median over rounds with a bootstrap interval.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Call = Callable[[], object]

MAX_CALLS = 2000  # of one engine in one round
MIN_CALLS = 3


@dataclass(frozen=True)
class Interval:
    """A median with the ends of its 95% interval."""

    median: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"median": self.median, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Timing:
    """One engine: its seconds a call, round by round, and how often it was called in all."""

    name: str
    rounds: tuple[float, ...]
    calls: int

    @property
    def seconds(self) -> Interval:
        return interval(self.rounds)


@dataclass(frozen=True)
class Comparison:
    """The timings of all engines, taken together; the first is the one that the others are measured against."""

    timings: tuple[Timing, ...]

    @property
    def first(self) -> Timing:
        return self.timings[0]

    def ratio(self, name: str) -> Interval:
        """How many times longer `name` takes than the first engine: above 1, the first is faster."""
        peer = next(timing for timing in self.timings if timing.name == name)
        return interval([theirs / ours for theirs, ours in zip(peer.rounds, self.first.rounds, strict=True)])

    def to_dict(self) -> dict[str, Any]:
        return {
            timing.name: {
                "seconds": timing.seconds.to_dict(),
                "ratio": self.ratio(timing.name).to_dict(),
                "calls": timing.calls,
            }
            for timing in self.timings
        }


def interval(values: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> Interval:
    """The median and its 95% bootstrap interval (percentiles of medians of resampled values)."""
    import numpy as np

    sample = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).choice(sample, (resamples, sample.size))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Interval(float(np.median(sample)), float(low), float(high))


def paired(
    engines: Mapping[str, Call],
    *,
    rounds: int = 15,
    round_seconds: float = 0.1,
    pause: float = 0.02,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Times `engines` (name to a call without arguments) against each other.

    `progress` is called with the rounds done and their number. An engine is warmed up before its first round.
    """
    order = random.Random(seed)
    calls = {name: _calls_per_round(call, round_seconds) for name, call in engines.items()}
    medians: dict[str, list[float]] = {name: [] for name in engines}
    for done in range(rounds):
        if progress:
            progress(done, rounds)
        for name in order.sample(list(engines), len(engines)):
            time.sleep(pause)
            engines[name]()  # wakes workers and fills caches again
            medians[name].append(_median_seconds(engines[name], calls[name]))
    if progress:
        progress(rounds, rounds)
    return Comparison(tuple(Timing(name, tuple(medians[name]), rounds * calls[name]) for name in engines))


def _calls_per_round(call: Call, round_seconds: float) -> int:
    call()
    once = max(_median_seconds(call, MIN_CALLS), 1e-9)
    return max(MIN_CALLS, min(MAX_CALLS, int(round_seconds / once)))


def _median_seconds(call: Call, count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def geometric_mean(values: Sequence[float]) -> float:
    """The mean that ratios have; of positive values, at least one."""
    return statistics.geometric_mean(values)
