"""Real models beside ONNX Runtime: the same answers, and in which time.

python benchmarks/models.py                          all models of the data folder (HASTEN_DATA), all settings, 1 and 2 threads
python benchmarks/models.py face ocr --quick         models whose names contain one of these, a few rounds, nothing written
python benchmarks/models.py --check                  answers only

Each engine runs in a process of its own, with the same number of threads on the same CPUs, and keeps the model. Outputs of every case (all
shapes, state carried over steps) are compared before the first case is timed. Engines take turns in short rounds, in an order drawn anew,
after a pause that lets a peer's spinning threads fall asleep; an engine's figure of a round is the median of its calls, the ratio is taken
inside the round, and the table shows the median ratio with its 95% bootstrap interval. Above 1, Hasten is faster.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import machine
import numpy as np
from cases import Case, data_folder, load
from engine import Engine, EngineError

from hasten.bench.statistics import Interval, geometric_mean, interval
from hasten.codegen import isa

PEER = "onnxruntime"
PAUSE = 0.02  # seconds before each turn
MOST_CALLS, LEAST_CALLS = 2000, 3  # of an engine in a round


@dataclass(frozen=True)
class Setting:
    """Options of hasten.compile that are measured, the ISA they need, and the geometric mean of ratios that the project wants of them."""

    options: dict[str, Any] = field(default_factory=dict)
    needs: str = "portable"
    goal: float | None = None


SETTINGS = {
    "default": Setting(goal=1.1 if machine.has_amx() else None),
    "high": Setting({"precision": "high"}, "amx", 1.4),
    "avx512 strict": Setting({"isa": "avx512", "precision": "strict"}, "avx512", 0.8),
    "avx2": Setting({"isa": "avx2"}, "avx2"),
}


@dataclass
class Outcome:
    """One model under one setting with one number of threads; `trouble` says why there are no times."""

    model: str
    setting: str
    threads: int
    cases: int = 0
    difference: float = 0.0
    trouble: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    milliseconds: float = 0.0
    peer_milliseconds: float = 0.0
    ratios: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> Interval:
        return interval(self.ratios)

    def to_dict(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"model": self.model, "setting": self.setting, "threads": self.threads, "cases": self.cases,
                                   "difference": self.difference, **self.about}  # fmt: skip
        if self.trouble:
            return {**figures, "trouble": self.trouble}
        if self.ratios:
            figures |= {"hasten_ms": self.milliseconds, f"{PEER}_ms": self.peer_milliseconds, "ratio": interval_dict(self.ratio), "rounds": len(self.ratios)}
        return figures


def main() -> None:
    args = parse()
    folder = data_folder()
    if folder is None:
        print("skipped: the models of the data folder are needed, and HASTEN_DATA names no folder with models/ in it.")
        print("`make bench` times the models that come with the project.")
        return
    quiet = machine.Quiet(args.even_if_busy or args.check)
    settings = [name for name in args.settings if _available(name)]
    outcomes: list[Outcome] = []
    rng = random.Random(0)
    for _, group in groupby(load(folder, args.models, args.quick), key=lambda case: case.model):
        cases = list(group)
        for threads in args.threads:
            for outcome in measure(cases, settings, threads, args, rng):
                outcomes.append(outcome)
                print(line(outcome), flush=True)
    means = summarize(outcomes, settings, args.threads)
    if not args.check:
        machine.write("models", quiet, {"means": means, "models": [o.to_dict() for o in outcomes]}, args)
    sys.exit(any(o.trouble for o in outcomes))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="parts of model names; default: all")
    parser.add_argument("--settings", nargs="*", default=None, choices=list(SETTINGS), help="default: all that this machine can run")
    parser.add_argument("--threads", nargs="*", type=int, default=None, help="default: 1 and 2")
    parser.add_argument("--rounds", type=int, default=None, help="default: 11")
    parser.add_argument("--round-seconds", type=float, default=0.15, help="of each engine in a round")
    parser.add_argument("--check", action="store_true", help="compare answers only")
    machine.add_arguments(parser)
    args = parser.parse_args()
    most = len(machine.cpus())
    args.settings = args.settings or (["default"] if args.quick else list(SETTINGS))
    args.threads = [n for n in args.threads or ([1] if args.quick else [1, 2]) if n <= most]
    args.rounds = args.rounds or (3 if args.quick else 11)
    return args


def _available(name: str) -> bool:
    needs = SETTINGS[name].needs
    if needs in isa.available():
        return True
    print(f"{name}: left out, this machine has no {needs}")
    return False


def measure(cases: list[Case], settings: Sequence[str], threads: int, args: argparse.Namespace, rng: random.Random) -> list[Outcome]:
    """One model: the peer once, Hasten under each setting."""
    outcomes = [Outcome(cases[0].model, name, threads) for name in settings]
    allowed = machine.cpus()[:threads]
    try:
        peer = Engine(PEER, cases[0], threads, allowed)
    except EngineError as error:
        for outcome in outcomes:
            outcome.trouble = str(error)
        return outcomes
    try:
        wanted = [peer.steps(case) for case in cases]
        for outcome in outcomes:
            _measure_one(outcome, cases, wanted, peer, allowed, args, rng)
    finally:
        peer.close()
    return outcomes


def _measure_one(outcome: Outcome, cases: list[Case], wanted: list[Any], peer: Engine, allowed: list[int], args: Any, rng: random.Random) -> None:
    options = SETTINGS[outcome.setting].options
    try:
        ours = Engine("hasten", cases[0], outcome.threads, allowed, options)
    except EngineError as error:
        outcome.trouble = str(error)
        return
    try:
        outcome.about = ours.about
        for case, want in zip(cases, wanted, strict=True):
            outcome.difference = max(outcome.difference, case.check(ours.steps(case), want, options.get("precision") == "medium"))
            outcome.cases += 1
        if not args.check:
            for engine in (ours, peer):
                engine.steps(cases[0])
            _time(outcome, ours, peer, args, rng)
    except (EngineError, AssertionError) as error:
        failed = cases[min(outcome.cases, len(cases) - 1)].label
        outcome.trouble = f"{failed}: {error}"
    finally:
        ours.close()


def _time(outcome: Outcome, ours: Engine, peer: Engine, args: Any, rng: random.Random) -> None:
    engines = [ours, peer]
    once = {e.name: max(1e-9, statistics.median(e.seconds(LEAST_CALLS))) for e in engines}
    calls = {name: max(LEAST_CALLS, min(MOST_CALLS, int(args.round_seconds / seconds))) for name, seconds in once.items()}
    medians: dict[str, list[float]] = {e.name: [] for e in engines}
    for _ in range(args.rounds):
        for engine in rng.sample(engines, len(engines)):
            time.sleep(PAUSE)
            medians[engine.name].append(statistics.median(engine.seconds(calls[engine.name])))
    outcome.ratios = [theirs / mine for mine, theirs in zip(medians[ours.name], medians[peer.name], strict=True)]
    outcome.milliseconds = statistics.median(medians[ours.name]) * 1e3
    outcome.peer_milliseconds = statistics.median(medians[peer.name]) * 1e3


def line(o: Outcome) -> str:
    """One outcome for the terminal."""
    head = f"{o.model:24} {o.setting:13} {o.threads} thr "
    if o.trouble:
        return f"{head} FAILED {o.trouble}"
    text = f"{head} {o.cases} cases, difference {o.difference:.0e}"
    if o.ratios:
        r = o.ratio
        text += f", {o.milliseconds:9.3f} ms, {PEER} {o.peer_milliseconds:9.3f} ms: {r.value:5.2f}x [{r.low:.2f}, {r.high:.2f}]"
    hosts = o.about.get("host_ops")
    return text + (f", {len(hosts)} host ops" if hosts else "")


def interval_dict(found: Interval) -> dict[str, float]:
    return {"median": found.value, "low": found.low, "high": found.high}


def mean_interval(outcomes: Sequence[Outcome], resamples: int = 1000) -> Interval:
    """The geometric mean over models of the median ratios; its interval by resampling each model's rounds."""
    rng = np.random.default_rng(0)
    logs = np.zeros(resamples)
    for o in outcomes:
        logs += np.log(np.median(rng.choice(np.asarray(o.ratios), (resamples, len(o.ratios))), axis=1))
    low, high = np.exp(np.percentile(logs / len(outcomes), [2.5, 97.5]))
    return Interval(geometric_mean([o.ratio.value for o in outcomes]), float(low), float(high))


def summarize(outcomes: Sequence[Outcome], settings: Sequence[str], threads: Sequence[int]) -> list[dict[str, Any]]:
    """The geometric means, printed and returned."""
    means: list[dict[str, Any]] = []
    print()
    for name in settings:
        for count in threads:
            mine = [o for o in outcomes if o.setting == name and o.threads == count]
            timed = [o for o in mine if o.ratios]
            failed = sum(bool(o.trouble) for o in mine)
            row: dict[str, Any] = {"setting": name, "threads": count, "models": len(mine), "failed": failed, "goal": SETTINGS[name].goal}
            text = f"{name:13} {count} thr: {len(mine) - failed} of {len(mine)} models right"
            if timed:
                mean, least = mean_interval(timed), min(o.ratio.value for o in timed)
                ahead = sum(o.ratio.value > 1 for o in timed)
                row |= {"ratio": interval_dict(mean), "least": least, "ahead": ahead}
                text += f", {mean.value:.2f}x [{mean.low:.2f}, {mean.high:.2f}] {PEER}, least {least:.2f}x, ahead on {ahead}"
                if SETTINGS[name].goal:
                    text += f" (goal {SETTINGS[name].goal}x)"
            means.append(row)
            print(text)
    return means


if __name__ == "__main__":
    main()
