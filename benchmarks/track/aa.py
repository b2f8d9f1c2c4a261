"""Whether the track itself can be trusted: engines of known speed, with other work that comes and goes.

python benchmarks/track/aa.py [PART...]

aa        an engine against itself, both in fresh processes, beside a process that is busy and idle in turns of random length: how often the two are
          called different. The same samples are judged by a t-test and by Mann and Whitney's test, once at the end, for comparison.
slower    an engine that does 3% more work, under the same load: how often that is found within a minute, and after how long.
order     three engines listed forwards and backwards: ratios must agree within their intervals.
restless  a third engine with a thread that never rests: it sleeps out of turn, so the ratio of the other two stays.
busy      two processes that never rest: the machine check must refuse.
pyperf    whole programs, beside pyperf's times of the same programs: ratios must agree within their intervals.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import engines
import machine
import numpy as np

from hasten.bench.experiment import Task, measure
from hasten.bench.machine import Watch, choose_cpus
from hasten.bench.peer import EngineSpec
from hasten.bench.process import Engine
from hasten.bench.results import Entry
from hasten.bench.rounds import Design, Seat, play
from hasten.bench.verdict import Verdict, compare

Data = dict[str, Any]
STEPS = 40_000  # of a loop: about a millisecond
SLOWER = 1.03
MINUTE = 58.0  # seconds of rounds; starting both engines takes the rest
MODEL = Path(__file__).resolve().parents[2] / "examples" / "models" / "rl_go1_policy.onnx"
PROGRAMS = (1_000_000, 1_500_000)  # steps of a loop in whole programs


def spin(steps: int, more: str = "") -> EngineSpec:
    return EngineSpec.parse(f"spin:steps={steps}{more}")


def contest(specs: Sequence[EngineSpec], design: Design) -> list[Entry]:
    """Rounds of engines in fresh processes."""
    with ExitStack() as stack:
        seats = []
        for spec in specs:
            engine = stack.enter_context(Engine(spec, MODEL, 1, choose_cpus(1)))
            loaded = engine.load({})
            seats.append(Seat(engine, Entry(str(spec), 1), loaded.base_bytes, (loaded.answered_ns - engine.began_ns) / 1e9))
        for seat in seats:
            seat.settle(design)
        play(seats, design, Watch(1), on_round=lambda number, share: None, on_check=lambda check: None)
        if trouble := [seat.entry.trouble for seat in seats if seat.entry.trouble]:
            sys.exit(trouble[0])
    return [seat.entry for seat in seats]


def shown(verdict: Verdict) -> Data:
    return {"word": verdict.word, "ratio": verdict.ratio.value, "low": verdict.ratio.low, "high": verdict.ratio.high, "rounds": verdict.rounds}


# --- parts ------------------------------------------------------------------------------------------------------------------
def aa(args: argparse.Namespace) -> Data:
    """`runs` contests of two equals; `different` is what must be rare."""
    from scipy.stats import mannwhitneyu, ttest_ind

    words: list[str] = []
    others = {"t-test": 0, "Mann-Whitney": 0}
    with engines.load(1):
        for number in range(args.runs):
            first, second = contest([spin(STEPS), spin(STEPS)], Design(seconds=args.aa_seconds, seed=number))
            a, b = ([s.seconds for s in entry.samples] for entry in (first, second))
            words.append(compare(first.samples, second.samples).word)
            others["t-test"] += ttest_ind(a, b, equal_var=False).pvalue < 0.05
            others["Mann-Whitney"] += mannwhitneyu(a, b).pvalue < 0.05
            tell("aa", number + 1, args.runs, f"{words.count('a') + words.count('b')} different, {words.count('same')} same")
    different = words.count("a") + words.count("b")
    return {
        "runs": args.runs, "seconds_each": args.aa_seconds, "different": different, "same": words.count("same"), "undecided": words.count("undecided"),
        "share_different": different / args.runs, "goal": 0.05, "others_different": {name: int(count) for name, count in others.items()},
    }  # fmt: skip


def slower(args: argparse.Namespace) -> Data:
    """An engine that does 3% more."""
    found, times, ratios = 0, [], []
    with engines.load(1):
        for number in range(args.slow_runs):
            began = time.monotonic()
            one, more = contest([spin(STEPS), spin(round(STEPS * SLOWER))], Design(seconds=MINUTE, seed=number))
            times.append(time.monotonic() - began)
            verdict = compare(one.samples, more.samples)
            found += verdict.word == "a"
            ratios.append(verdict.ratio.value)
            tell("slower", number + 1, args.slow_runs, f"{found} found; {times[-1]:.0f} s, {verdict}, ratio {1 / verdict.ratio.value:.4f}")
    return {
        "runs": args.slow_runs, "true_ratio": SLOWER, "found": found, "share_found": found / args.slow_runs, "goal": 0.8,
        "median_ratio": 1 / statistics.median(ratios), "median_seconds": statistics.median(times), "most_seconds": max(times),
    }  # fmt: skip


def order(args: argparse.Namespace) -> Data:
    """Ratios of three engines, listed forwards and backwards."""
    pairs = []
    for number in range(args.repeats):
        specs = [spin(STEPS), spin(round(STEPS * 1.2)), spin(round(STEPS * 0.9))]
        design = Design(seconds=args.pair_seconds, least_rounds=200, seed=number)
        forwards, backwards = contest(specs, design), contest(specs[::-1], design)[::-1]
        for k in (1, 2):
            pairs.append((shown(compare(forwards[0].samples, forwards[k].samples)), shown(compare(backwards[0].samples, backwards[k].samples))))
            tell("order", len(pairs), 2 * args.repeats, f"{pairs[-1][0]['ratio']:.4f} and {pairs[-1][1]['ratio']:.4f}")
    return {"pairs": pairs, "agree": sum(inside(a, b) for a, b in pairs), "of": len(pairs)}


def restless(args: argparse.Namespace) -> Data:
    """The ratio of two engines, alone and with a third whose thread spins."""
    pairs = []
    for number in range(args.repeats):
        design = Design(seconds=args.pair_seconds, least_rounds=200, seed=number)
        two = [spin(STEPS), spin(round(STEPS * 1.1))]
        alone, beside = contest(two, design), contest([*two, spin(STEPS, ",restless=1")], design)
        pairs.append((shown(compare(alone[0].samples, alone[1].samples)), shown(compare(beside[0].samples, beside[1].samples))))
        tell("restless", number + 1, args.repeats, f"{pairs[-1][0]['ratio']:.4f} and {pairs[-1][1]['ratio']:.4f}")
    return {"pairs": pairs, "agree": sum(inside(a, b) for a, b in pairs), "of": len(pairs)}


def busy(args: argparse.Namespace) -> Data:
    """Looks at the machine with both cores busy, and a whole measurement."""
    free = Watch(1).check().free_cpus
    with engines.load(len(os.sched_getaffinity(0)), always=True):
        looks = [Watch(1).check() for _ in range(10)]
        run = measure([Task(MODEL, {"obs": np.zeros((1, 48), np.float32)})], [EngineSpec("hasten")], [1], Design(seconds=1))
    tell("busy", 10, 10, f"{run.status}: {run.cautions}")
    return {"free_before": free, "refused": sum(bool(look.refusals) for look in looks), "of": len(looks), "status": run.status, "cautions": run.cautions}


def pyperf(args: argparse.Namespace) -> Data:
    """Whole programs: pyperf and the track in turns, so that neither has the better half of the time."""
    programs = [[sys.executable, "-S", "-E", "-c", f"for _ in range({steps}): pass"] for steps in PROGRAMS]
    specs = [EngineSpec("command", "", {"words": subprocess.list2cmdline(words)}) for words in programs]
    theirs: list[list[float]] = [[], []]
    ours: list[list[float]] = [[], []]
    design = Design(seconds=args.pair_seconds, least_rounds=10_000)
    for number in range(args.repeats):
        for times, words in zip(theirs, programs, strict=True):
            times += pyperf_seconds(words)
        for times, entry in zip(ours, contest(specs, replace(design, seed=number)), strict=True):
            times += [sample.seconds for sample in entry.samples]
        tell("pyperf", number + 1, args.repeats, f"{statistics.median(ours[0]) * 1e3:.1f} ms, pyperf {statistics.median(theirs[0]) * 1e3:.1f} ms")
    pair = (shown(compare(*ours)), bootstrap_ratio(*theirs))
    seconds = {"track": [statistics.median(t) for t in ours], "pyperf": [statistics.median(t) for t in theirs]}
    return {"pair": pair, "median_seconds": seconds, "agree": overlap(*pair)}


def pyperf_seconds(words: Sequence[str]) -> list[float]:
    """A call of the program, as pyperf times it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times.json"
        command = [sys.executable, "-m", "pyperf", "command", "--quiet", "--processes=5", "--values=3", "--warmups=1", "-o", str(path)]
        done = subprocess.run([*command, f"--affinity={min(choose_cpus(1))}", "--", *words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"pyperf does not run ({done.stderr.strip()[-200:]}): pip install pyperf")
        runs = json.loads(path.read_text())["benchmarks"][0]["runs"]
    return [value for run in runs for value in run.get("values", ())]


def bootstrap_ratio(a: Sequence[float], b: Sequence[float]) -> Data:
    """The ratio of medians of separate samples, with a 95% interval."""
    rng = np.random.default_rng(0)
    middles = [np.median(rng.choice(np.asarray(x), (2000, len(x))), axis=1) for x in (a, b)]
    low, high = np.percentile(middles[0] / middles[1], [2.5, 97.5])
    return {"ratio": float(np.median(a) / np.median(b)), "low": float(low), "high": float(high), "values": len(a)}


def inside(a: Data, b: Data) -> bool:
    """Whether two measurements of one ratio are no further apart than the interval of the less certain one."""
    return any(one["low"] <= other["ratio"] <= one["high"] < math.inf for one, other in ((a, b), (b, a)))


def overlap(a: Data, b: Data) -> bool:
    return bool(a["low"] <= b["high"] and b["low"] <= a["high"] < math.inf)


def tell(part: str, done: int, of: int, words: str) -> None:
    print(f"{part:9} {done:4} of {of}: {words}", flush=True)


PARTS: dict[str, Callable[[argparse.Namespace], Data]] = {"aa": aa, "slower": slower, "order": order, "restless": restless, "busy": busy, "pyperf": pyperf}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without")
    parser.add_argument("--runs", type=int, default=200, help="of an engine against itself")
    parser.add_argument("--aa-seconds", type=float, default=2.0, help="of rounds in each of them, at most")
    parser.add_argument("--slow-runs", type=int, default=25)
    parser.add_argument("--pair-seconds", type=float, default=6.0, help="of rounds in the other parts")
    parser.add_argument("--repeats", type=int, default=5, help="of the other parts")
    machine.add_arguments(parser)
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        sys.exit(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if args.quick:
        args.runs, args.slow_runs, args.repeats = 5, 2, 1
    quiet = machine.Quiet(args.even_if_busy)
    with engines.spinning():
        figures = {name: part(args) for name, part in PARTS.items() if not args.parts or name in args.parts}
    machine.write("track", quiet, figures, args)


if __name__ == "__main__":
    main()
