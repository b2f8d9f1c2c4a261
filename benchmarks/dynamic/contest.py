"""Engines in processes of their own that go through the same calls, in turns: what the programs here share."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import machine
from encoder import turns

from hasten.bench.peer import EngineSpec
from hasten.bench.process import Engine, EngineError
from hasten.bench.statistics import interval

Data = dict[str, Any]
Feeds = Mapping[str, Any]
BASE = "hasten"


def started(names: Sequence[str], model: Path, first: Feeds, threads: int, folder: Path, stack: ExitStack) -> dict[str, Engine]:
    """Every engine with the model loaded and the first call made, its cache in `folder`; one that refuses is left out, and says why."""
    found = {}
    for text in names:
        cache = folder / "".join(c if c.isalnum() else "_" for c in text)
        cache.mkdir(parents=True, exist_ok=True)
        engine = stack.enter_context(Engine(EngineSpec.parse(text), model, threads, machine.cpus()[:threads], cache))
        try:
            engine.load(first)
        except EngineError as error:
            print(f"left out: {error}")
            continue
        found[text] = engine
    return found


def race(engines: Mapping[str, Engine], calls: Sequence[Feeds], carry: Mapping[str, str], rounds: int) -> dict[str, list[int]]:
    """Nanoseconds of all calls for each round; in each, every engine has its turn in drawn order."""
    times: dict[str, list[int]] = {name: [] for name in engines}
    for name in turns(engines, rounds):
        times[name].append(sum(engines[name].sequence(calls, carry)[0]))
    return times


def compared(times: Mapping[str, Sequence[int]], units: int, errors: Mapping[str, float], told: str) -> dict[str, Data]:
    """For each engine microseconds of one of `units`, how many times as fast Hasten is (the median over the rounds, with its interval), its error."""
    rows: dict[str, Data] = {}
    for name, ns in times.items():
        found = interval([theirs / ours for theirs, ours in zip(ns, times[BASE], strict=True)])
        rows[name] = {"us": statistics.median(ns) / units / 1e3, "ratio": found.value, "low": found.low, "high": found.high, "error": errors[name]}
        print(f"{told} {name:22} {rows[name]['us']:10.1f} us, Hasten is {found.value:5.2f} times as fast [{found.low:.2f}, {found.high:.2f}], "
              f"error {errors[name]:.1e}")  # fmt: skip
    return rows
