"""What all forms of a report say in the same words."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from typing import Any

from hasten.base.units import count_text, size_text, time_text
from hasten.bench.results import Run
from hasten.bench.statistics import Interval
from hasten.bench.summary import Line, Mean, Summary

TONE = {"slower": "good", "same": "even", "undecided": "open", "faster": "bad", "withheld": "open"}  # an engine that is slower is good news of the base
READING = {
    "slower": "the engine takes longer than {base}: both the ratio and the share of rounds say so with 95% confidence",
    "faster": "the engine takes less time than {base}, likewise",
    "same": "the whole interval of the ratio lies within the band of {band:.0%} around 1: no difference that matters",
    "undecided": "neither can be said yet; in brackets stand the rounds that it is likely to take still",
    "withheld": "the machine was too busy for a verdict: times are shown, nothing is concluded from them",
    "failed": "the engine gave no answer, or none that may be timed; the reason stands with the model",
}
STATUS = {"complete": "", "interrupted": "Interrupted: what follows is what had been measured until then.",
          "refused": "Refused: the machine check found that times taken here mean little. Nothing is concluded from them."}  # fmt: skip


def title(summary: Summary) -> str:
    """`28 models, 5 engines, 1 and 2 threads`."""
    models = len({id(block.subject) for block in summary.blocks})
    threads = " and ".join(map(str, summary.threads)) + (" thread" if summary.threads == [1] else " threads")
    return f"{count_text(models, 'model')}, {count_text(len(summary.engines), 'engine')}, {threads}"


def mean_says(mean: Mean, base: str) -> str:
    """`onnxruntime takes 1.62 times as long as hasten (1.60 to 1.64; 28 models, 0.97 to 4.1)`."""
    interval = interval_text(mean.ratio, 2) if bounded(mean.ratio) else "too few rounds for an interval"
    return (f"{mean.engine} takes {mean.ratio.value:.2f} times as long as {base} "
            f"({interval}; {count_text(mean.models, 'model')}, {mean.least:.2f} to {mean.most:.2f})")  # fmt: skip


def tally(mean: Mean) -> str:
    """`24 slower, 3 same, 1 faster`."""
    return ", ".join(f"{mean.words[word]} {word}" for word in TONE if mean.words[word])


def error_text(line: Line) -> str:
    error = line.entry.error
    if error is None:
        return ""
    return "none" if error == 0 else "no match" if error == float("inf") else f"{error:.1e}"


def start_text(line: Line) -> str:
    """Cold and warm start."""
    times = (line.entry.cold_start_ns, line.entry.warm_start_ns)
    return " / ".join("\N{EN DASH}" if ns is None else time_text(ns / 1e9) for ns in times) if any(times) else ""


def memory_text(line: Line) -> str:
    """The peak of the process, and the model's part of it."""
    entry = line.entry
    if entry.peak_bytes is None:
        return ""
    return size_text(entry.peak_bytes) + (f" ({size_text(entry.model_bytes)})" if entry.model_bytes is not None else "")


def cautions(run: Run) -> list[str]:
    """What the checks during the run found, then what holds on this machine at all times."""
    standing = run.machine.get("cautions")
    return [*run.cautions, *(map(str, standing) if isinstance(standing, list) else ())]


def command(run: Run) -> str:
    """The command line that measures the same again; empty where the run does not know it."""
    words = run.design.get("command") or ()
    return shlex.join(map(str, words)) if isinstance(words, (list, tuple)) else str(words)


def facts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as flat pairs of name and text."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from facts(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        yield name, ", ".join(map(str, value)) if value else "none"
    elif isinstance(value, float):
        yield name, f"{value:.4g}"
    elif isinstance(value, int) and name.endswith("_bytes"):
        yield name.removesuffix("_bytes"), size_text(value)
    elif value not in (None, "", {}):
        yield name, str(value)


def bounded(interval: Interval) -> bool:
    """Whether there were rounds enough for an interval."""
    return interval.low > 0 and math.isfinite(interval.high)


def interval_text(interval: Interval | None, digits: int = 3) -> str:
    """`1.60 to 1.64`; a dash where there were too few rounds to say."""
    if interval is None:
        return ""
    return "\N{EN DASH}" if not bounded(interval) else f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"
