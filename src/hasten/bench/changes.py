"""What changed between two runs: the base of each beside a peer that was measured in the same rounds, so that another machine or another load is no change.

The change of a model is (base / peer now) / (base / peer then), each a median over rounds; the interval follows from both deviations, on logarithms.
"Slower" is said so that among all models together it is wrong with 5% probability at most (Holm 1979, Scand. J. Stat. 6:65).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Literal

from hasten.bench.results import Entry
from hasten.bench.statistics import Interval, middle_interval
from hasten.bench.summary import NORMAL_95, Block, Summary, deviation, log_ratios

Word = Literal["slower", "same", "faster", "not slower", "undecided", "missing"]

ALPHA = 0.05
GOOD = frozenset({"same", "faster", "not slower"})


@dataclass(frozen=True)
class Result:
    """A base on one model: the logarithm of its median time beside the peer's (of its seconds where there is no peer), and the deviation of that."""

    model: str
    sha256: str
    inputs: dict[str, str]
    threads: int
    engine: str
    peer: str
    log: float
    deviation: float
    rounds: int

    @property
    def key(self) -> tuple[str, int, str]:
        return self.model, self.threads, self.engine


@dataclass(frozen=True)
class Change:
    """Of one model. `ratio`: how many times as long as before; none where the model is missing, for a reason in words."""

    model: str
    threads: int
    engine: str
    word: Word
    ratio: Interval | None = None
    reason: str = ""


def results(summary: Summary, peer: str | None = None) -> list[Result]:
    """The base on each model beside `peer`; by default beside the first engine that was measured there, "" for no peer at all."""
    found = []
    for block in summary.blocks:
        others = [line.entry for line in block.lines[1:] if line.ratio and peer in (None, line.entry.engine)]
        base = block.base.entry
        if block.base.seconds and (others or peer == ""):
            found.append(_result(block, base, others[0] if others and peer != "" else None))
    return found


def _result(block: Block, base: Entry, peer: Entry | None) -> Result:
    subject = block.subject
    if peer is None:
        logs = [math.log(sample.seconds) for sample in base.samples]
        interval = middle_interval(logs, sequential=False)
        middle, spread, name = median(logs), (interval.high - interval.low) / 2 / NORMAL_95, ""
    else:
        logs = log_ratios(peer, base)
        middle, spread, name = median(logs), deviation(peer, base), peer.engine
    return Result(block.name, subject.sha256, subject.inputs, block.threads, base.engine, name, middle, spread, len(logs))


def compare(then: Sequence[Result], now: Sequence[Result], band: float) -> list[Change]:
    """Judge each of `then`; what it has and `now` has not, or not with the same peer, file and inputs, is missing."""
    newer = {result.key: result for result in now}
    pairs = [(old, newer.get(old.key)) for old in then]
    edge = math.log1p(band)
    found = [(old, new, new.log - old.log, math.hypot(new.deviation, old.deviation)) for old, new in pairs if new and not _unlike(old, new)]
    doubts = [_doubt((change - edge), spread) for _, _, change, spread in found]
    slower = _holm(doubts)
    judged = {old.key: _change(old, change, spread, slow, edge) for (old, _, change, spread), slow in zip(found, slower, strict=True)}
    return [judged.get(old.key) or Change(*old.key, "missing", reason=_unlike(old, new)) for old, new in pairs]


def _change(old: Result, change: float, spread: float, slow: bool, edge: float) -> Change:
    low, high = change - NORMAL_95 * spread, change + NORMAL_95 * spread
    word: Word = "slower" if slow else "undecided"
    if not slow and high <= edge:
        word = "faster" if high < -edge else "same" if low >= -edge else "not slower"
    return Change(*old.key, word, Interval(math.exp(change), math.exp(max(low, -700)), math.exp(high) if high < 700 else math.inf))


def _unlike(old: Result, new: Result | None) -> str:
    """Why a result can't be held to an older one."""
    if new is None:
        return "it was not measured, or failed"
    if new.sha256 != old.sha256:
        return "the model's file is another one now"
    if new.inputs != old.inputs:
        return "its inputs are others now"
    if new.peer != old.peer:
        return f"it was measured beside {old.peer or 'no peer'} then, beside {new.peer or 'no peer'} now"
    return ""


def _doubt(excess: float, spread: float) -> float:
    """The probability of a change this far beyond the band, were it at its edge."""
    if not math.isfinite(spread):
        return 1.0
    return 1 - NormalDist().cdf(excess / spread) if spread > 0 else float(excess <= 0)


def _holm(doubts: Sequence[float]) -> list[bool]:
    """Which of several doubts are small enough together."""
    refuted = [False] * len(doubts)
    for rank, index in enumerate(sorted(range(len(doubts)), key=doubts.__getitem__)):
        if doubts[index] > ALPHA / (len(doubts) - rank):
            break
        refuted[index] = True
    return refuted
