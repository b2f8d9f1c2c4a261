"""What a run's samples say: times and ratios with intervals, a verdict for each engine and model, means over models.

Everything that is printed, reported or gated comes from here, and here it comes from the samples alone. A ratio is the time of an engine divided
by the time of the base in the same rounds: above 1 the base is faster.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hasten.base.errors import InputError
from hasten.bench.results import Entry, Run, Subject
from hasten.bench.statistics import Interval, middle_interval
from hasten.bench.verdict import Verdict, compare, seconds_interval

WORDS = ("slower", "same", "undecided", "faster")  # than the base
WITHHELD = "withheld"  # the word where the machine check refused to let anything be concluded
BAND = 0.02
NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Line:
    """One engine on one subject. Where it failed there is no time; the base has no ratio and no word."""

    entry: Entry
    seconds: Interval | None = None
    ratio: Interval | None = None
    word: str = ""
    verdict: Verdict | None = None

    @property
    def says(self) -> str:
        """The word with what goes with it: `undecided (40 more)`: rounds that it is likely to take."""
        if self.entry.trouble:
            return "failed"
        needed = self.verdict.rounds_needed if self.verdict and self.word == "undecided" else None
        return self.word + (f" ({needed} more)" if needed else "")


@dataclass(frozen=True)
class Block:
    """All engines on one subject with one number of threads; the base comes first."""

    subject: Subject
    threads: int
    lines: list[Line]

    @property
    def name(self) -> str:
        return self.subject.label or self.subject.model

    @property
    def base(self) -> Line:
        return self.lines[0]

    def line(self, engine: str) -> Line | None:
        return next((line for line in self.lines if line.entry.engine == engine), None)

    def cautions(self) -> list[str]:
        """What the verdicts warn of, each with the engines that it is about."""
        found: dict[str, list[str]] = {}
        for line in self.lines:
            for caution in line.verdict.cautions if line.verdict else ():
                found.setdefault(caution, []).append(line.entry.engine)
        return [f"{', '.join(engines)}: {caution}" for caution, engines in found.items()]


@dataclass(frozen=True)
class Mean:
    """An engine over all subjects: the geometric mean of its ratios. The interval is that of the rounds' noise, for these models."""

    engine: str
    threads: int
    ratio: Interval
    least: float
    most: float
    words: Counter[str]

    @property
    def models(self) -> int:
        return sum(self.words.values())


@dataclass(frozen=True)
class Summary:
    """A run, judged. `engines`: as they are first met, the base first."""

    run: Run
    base: str
    engines: list[str]
    blocks: list[Block] = field(default_factory=list)
    means: list[Mean] = field(default_factory=list)

    @property
    def threads(self) -> list[int]:
        return sorted({block.threads for block in self.blocks})

    def of_threads(self, threads: int) -> list[Block]:
        return [block for block in self.blocks if block.threads == threads]

    @property
    def measured(self) -> bool:
        """Whether anything was: an engine has samples."""
        return any(line.seconds for block in self.blocks for line in block.lines)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: no samples, no infinities."""
        run = self.run
        return plain({
            "run": run.id, "began": run.began, "ended": run.ended, "status": run.status, "revision": run.revision, "base": self.base,
            "cautions": run.cautions, "machine": run.machine, "design": run.design,
            "means": [_mean_dict(mean) for mean in self.means],
            "models": [_block_dict(block) for block in self.blocks],
        })  # fmt: skip

    def verdicts(self) -> Iterator[dict[str, Any]]:
        """As `Store.finish` takes them."""
        for block in self.blocks:
            for line in block.lines[1:]:
                if line.ratio:
                    yield {"entry": line.entry, "base": block.base.entry, "word": line.word, "facts": plain(line.verdict.to_dict()) if line.verdict else {}}


def summarise(run: Run, base: str | None = None) -> Summary:
    """Judge a run. `base`: the engine that others are measured against; without, the first Hasten, else the first engine.

    Raises InputError where the run has no such engine.
    """
    engines = list(dict.fromkeys(entry.engine for subject in run.subjects for entry in subject.entries))
    if base is None:
        base = next((name for name in engines if name.partition(":")[0] == "hasten"), engines[0] if engines else "hasten")
    elif engines and base not in engines:
        raise InputError(f"run {run.id[:8]} has no engine {base!r}; it has {', '.join(engines) or 'none'}.")
    blocks = [_block(run, subject, threads, base) for subject in run.subjects for threads in sorted({entry.threads for entry in subject.entries})]
    order = [base, *(name for name in engines if name != base)]
    means = [mean for threads in sorted({b.threads for b in blocks}) for name in order[1:] if (mean := _mean(blocks, name, threads))]
    return Summary(run, base, order, blocks, means)


def _block(run: Run, subject: Subject, threads: int, base: str) -> Block:
    entries = [entry for entry in subject.entries if entry.threads == threads]
    first = next((entry for entry in entries if entry.engine == base), Entry(base, threads, trouble="not measured"))
    return Block(subject, threads, [_line(run, first, None), *(_line(run, entry, first) for entry in entries if entry is not first)])


def _line(run: Run, entry: Entry, base: Entry | None) -> Line:
    if entry.trouble or not entry.samples:
        return Line(entry)
    seconds = seconds_interval(entry.samples)
    if base is None or base.trouble or not log_ratios(base, entry):
        return Line(entry, seconds)
    verdict = compare(entry.samples, base.samples, band=float(run.design.get("band") or BAND))
    word = {"a": "faster", "b": "slower"}.get(verdict.word, verdict.word)
    return Line(entry, seconds, verdict.ratio, WITHHELD if run.status == "refused" else word, verdict)


def _mean(blocks: list[Block], engine: str, threads: int) -> Mean | None:
    found = [(block.base, line, line.ratio) for block in blocks if block.threads == threads and (line := block.line(engine)) and line.ratio]
    if not found:
        return None
    log = math.fsum(math.log(ratio.value) for *_, ratio in found) / len(found)
    half = NORMAL_95 * math.sqrt(math.fsum(deviation(base.entry, line.entry) ** 2 for base, line, _ in found)) / len(found)
    values = [ratio.value for *_, ratio in found]
    interval = Interval(math.exp(log), math.exp(log - half), math.exp(min(log + half, 700)))
    return Mean(engine, threads, interval, min(values), max(values), Counter(line.word for _, line, _ in found))


def log_ratios(base: Entry, entry: Entry) -> list[float]:
    """Of the rounds in which both had their turn."""
    theirs = {sample.round: sample.seconds for sample in base.samples}
    return [math.log(sample.seconds / theirs[sample.round]) for sample in entry.samples if sample.round in theirs]


def deviation(base: Entry, entry: Entry) -> float:
    """The standard deviation of the logarithm of the median ratio, from its interval at this number of rounds; infinite with too few of them."""
    interval = middle_interval(log_ratios(base, entry), sequential=False)
    return (interval.high - interval.low) / 2 / NORMAL_95


def plain(value: Any) -> Any:
    """For JSON, which knows no infinity: null."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _interval_dict(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"value": interval.value, "low": interval.low, "high": interval.high}


def _mean_dict(mean: Mean) -> dict[str, Any]:
    return {"engine": mean.engine, "threads": mean.threads, "ratio": _interval_dict(mean.ratio), "least": mean.least, "most": mean.most,
            "models": mean.models, "words": dict(mean.words)}  # fmt: skip


def _block_dict(block: Block) -> dict[str, Any]:
    subject = block.subject
    engines = []
    for line in block.lines:
        entry = {name: value for name, value in vars(line.entry).items() if name not in ("samples", "threads")}
        engines.append({**entry, "rounds": len(line.entry.samples), "seconds": _interval_dict(line.seconds),
                        "ratio": _interval_dict(line.ratio), "verdict": line.word})  # fmt: skip
    return {"model": subject.model, "label": subject.label, "sha256": subject.sha256, "inputs": subject.inputs, "reference": subject.reference,
            "reference_note": subject.reference_note, "threads": block.threads, "engines": engines}  # fmt: skip
