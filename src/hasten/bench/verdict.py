"""What samples say: a is better, b is better, they are the same, or it isn't decided yet.

Smaller samples are better (times, bytes, errors). The interval of the ratio decides, against a band of ratios that nobody minds:

    a, b       the whole interval lies beyond the band, and the better one wins more rounds than it loses
    same       the whole interval lies inside the band
    undecided  else, with an estimate of the rounds that are still missing

Intervals of paired rounds hold at any time of looking (see hasten.bench.statistics), so asking after each round is allowed. Both wrong words
together have probability at most `alpha`. Without a band (None), where samples have no scale on which ratios mean anything, "better" also asks that
P(a better than b) may exceed `gamma` (Bouthillier and others, MLSys 2021, appendix C.6), and "same" that it cannot; with a band, `gamma` is only the
share of rounds below which a caution says that noise is larger than the difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hasten.base.errors import InputError
from hasten.bench.results import Sample
from hasten.bench.statistics import TICK, Interval, chance_interval, evidence, exact_interval, middle_interval, rank_interval

Word = Literal["a", "b", "same", "undecided"]

FEW = 8  # rounds: with fewer no interval has ends
MOST = 1_000_000  # rounds: more is never


@dataclass(frozen=True)
class Verdict:
    """`word`: the better side, "same" or "undecided". `ratio`: a divided by b (below 1, a is better), at the median; `chance`: that a is better in a
    round, ties half; `effect`: the logarithm of the ratio in units of its spread over rounds; `rounds_needed`: rounds still missing, if they go on as
    they were, None where more of the same would not help."""

    word: Word
    ratio: Interval
    chance: Interval
    effect: float
    rounds: int
    rounds_needed: int | None = None
    cautions: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.word == "undecided":
            return self.word + (f", about {self.rounds_needed} more rounds" if self.rounds_needed else "")
        return "the same" if self.word == "same" else f"{self.word} is better"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    a_samples: Sequence[float] | Sequence[Sample], b_samples: Sequence[float] | Sequence[Sample], *, paired: bool = True, band: float | None = 0.02,
    gamma: float = 0.75, alpha: float = 0.05, sequential: bool = True,
) -> Verdict:  # fmt: skip
    """Judges two engines by one positive number of each for each round: plain numbers, of which position i of both is the same round where `paired`, or
    Samples, which know their round and count where both have it.

    `sequential`: the number of rounds was not fixed before. Separate (not paired) samples are always taken as fixed. Raises InputError for samples
    that are not positive or do not pair.
    """
    a, b = _numbers(a_samples, b_samples, paired)
    if paired and len(a) != len(b):
        raise InputError(f"paired samples come in pairs; there are {len(a)} of a and {len(b)} of b.")
    if not all(0 < x < math.inf for x in (*a, *b)):
        raise InputError("samples are positive and finite: times, sizes, errors.")
    return _paired(a, b, band, gamma, alpha, sequential) if paired else _separate(a, b, band, gamma, alpha)


def seconds_interval(samples: Sequence[Sample], alpha: float = 0.05) -> Interval:
    """The median of a call's seconds over rounds. It speaks of these rounds, under the load that they met."""
    return middle_interval([sample.seconds for sample in samples], alpha)


def _numbers(a: Sequence[Any], b: Sequence[Any], paired: bool) -> tuple[list[float], list[float]]:
    if not any(isinstance(sample, Sample) for sample in (*a, *b)):
        return list(a), list(b)
    if not paired:
        return [sample.seconds for sample in a], [sample.seconds for sample in b]
    mine, theirs = ({sample.round: sample.seconds for sample in samples} for samples in (a, b))
    rounds = sorted(mine.keys() & theirs.keys())
    return [mine[r] for r in rounds], [theirs[r] for r in rounds]


def _paired(a: Sequence[float], b: Sequence[float], band: float | None, gamma: float, alpha: float, sequential: bool) -> Verdict:
    logs = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    wins = sum(0.5 if log == 0 else float(log < 0) for log in logs)
    chance = (chance_interval if sequential else exact_interval)(wins, len(logs), alpha)
    middle = middle_interval(logs, alpha, sequential=sequential)
    word = _word(middle, chance, band, gamma)
    needed = None if word != "undecided" or band is None else _missing(logs, math.log1p(band), alpha)
    return Verdict(word, _exponential(middle), chance, _effect(logs), len(logs), needed, _cautions(word, len(logs), chance, band, gamma))


def _separate(a: Sequence[float], b: Sequence[float], band: float | None, gamma: float, alpha: float) -> Verdict:
    """The interval of the ratio of medians from those of both medians, each with half of the error: wider than need be, and exact."""
    if not (a and b):
        return Verdict("undecided", Interval(math.nan, 0.0, math.inf), Interval(0.5, 0.0, 1.0), 0.0, 0)
    mine, theirs = (middle_interval([math.log(x) for x in samples], alpha / 2, sequential=False) for samples in (a, b))
    middle = Interval(mine.value - theirs.value, mine.low - theirs.high, mine.high - theirs.low)
    chance = rank_interval(a, b, alpha)
    deviations = [math.log(x) - mine.value for x in a] + [math.log(x) - theirs.value for x in b]
    cautions = ("the samples are of different rounds: what changed between them counts as a difference",)
    effect = _in_spreads(middle.value, deviations)
    return Verdict(_word(middle, chance, band, gamma), _exponential(middle), chance, effect, min(len(a), len(b)), None, cautions)


def _word(middle: Interval, chance: Interval, band: float | None, gamma: float) -> Word:
    """See the head of this file; `middle` is of logarithms."""
    if band is None:
        if chance.low > 0.5:
            return "a" if chance.high > gamma else "same"
        if chance.high < 0.5:
            return "b" if chance.low < 1 - gamma else "same"
        return "same" if 1 - gamma <= chance.low and chance.high <= gamma else "undecided"
    edge = math.log1p(band)
    if middle.high < -edge and chance.low > 0.5:
        return "a"
    if middle.low > edge and chance.high < 0.5:
        return "b"
    return "same" if -edge <= middle.low and middle.high <= edge else "undecided"


def _missing(logs: Sequence[float], edge: float, alpha: float) -> int | None:
    """Rounds until one word can be said, if rounds go on as they were: shares of rounds beyond the edges of the band stay as they are."""
    count = len(logs)
    if count < FEW:
        return FEW - count
    above, below = sum(log > edge for log in logs) / count, sum(log < -edge for log in logs) / count
    ways = [[1 - below], [1 - above], [above, below]]  # a, b, same: shares that must be shown to be less than a half
    best = min(max(_rounds_to_show(share, alpha) for share in shares) for shares in ways)
    return max(1, math.ceil(best) - count) if best < MOST else None


def _rounds_to_show(share: float, alpha: float) -> float:
    """Rounds in which the sequence refutes a half, when this share of them is won; infinite where it is no less than a half."""
    if share >= 0.5:
        return math.inf
    low, high = 1, FEW
    while high < MOST and evidence(share * high, high, 0.5) < -math.log(alpha):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if evidence(share * middle, middle, 0.5) >= -math.log(alpha) else (middle, high)
    return high


def _effect(logs: Sequence[float]) -> float:
    if not logs:
        return 0.0
    middle = statistics.median(logs)
    return _in_spreads(middle, [log - middle for log in logs])


def _in_spreads(middle: float, deviations: Sequence[float]) -> float:
    """In units of the spread: 1.4826 times the median of absolute deviations, a standard deviation where noise is normal; at least a clock's tick."""
    return middle / max(TICK, 1.4826 * statistics.median(map(abs, deviations)))


def _exponential(logs: Interval) -> Interval:
    return Interval(*(math.exp(x) if x < 700 else math.inf for x in (logs.value, logs.low, logs.high)))


def _cautions(word: Word, rounds: int, chance: Interval, band: float | None, gamma: float) -> tuple[str, ...]:
    found = []
    won = max(chance.value, 1 - chance.value)
    if word in ("a", "b") and band is not None and won < gamma:
        found.append(f"the better one won only {won:.0%} of the rounds: noise is larger than the difference")
    if rounds < FEW:
        found.append(f"{rounds} rounds are too few for an interval; {FEW} are the least")
    return tuple(found)
