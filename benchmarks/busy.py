"""Two threads on a machine whose CPUs are all kept busy by other processes: they must not collapse beside one thread.

python benchmarks/busy.py [NAME ...]

Before the rounds, one process for each CPU begins to count and goes on to the end. In each round every model runs for a while with one thread and with
two, in random order; the figure is how many times faster two are, over rounds. The models are networks of zoo.py that take more
than 10 ms and, where the data folder is there, trained ones that take less.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import machine
import trained
import zoo

import hasten
from hasten.bench.statistics import interval

NETWORKS = ("mobilenet_v2", "resnet18", "minilm_l6")
TRAINED = ("face_yunet", "ocr_rec", "segment_selfie")
GOAL = 0.9  # of one thread's speed


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """That many processes that never rest."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def cases(names: list[str], folder: Path) -> Iterator[trained.Case]:
    for name in names or NETWORKS:
        if name in zoo.NETWORKS:
            yield next(zoo.cases_of(name, folder, (1,), first_only=True))
    data = trained.data_folder()
    if data:
        yield from trained.load(data, names or TRAINED, first_only=True)


def rate(call: Callable[[], object], seconds: float) -> float:
    """Calls a second."""
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        call()
        calls += 1
    return calls / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names; default: three networks and three trained models")
    parser.add_argument("--rounds", type=int, help="default: 15")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each model and number of threads in a round")
    machine.add_arguments(parser)
    args = parser.parse_args()
    quiet = machine.Quiet(args.even_if_busy)
    rng, models = random.Random(0), {}
    with tempfile.TemporaryDirectory(prefix="hasten-busy-") as folder:
        for case in cases(args.names, Path(folder)):
            for threads in (1, 2):
                model = hasten.compile(str(case.path), threads=threads)
                models[case.model, threads] = lambda model=model, feeds=case.feeds: model.run(feeds)
                models[case.model, threads]()
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in models}
    with neighbours(len(machine.cpus())):
        for _ in range(args.rounds or (2 if args.quick else 15)):
            for key in rng.sample(list(models), len(models)):
                rates[key].append(rate(models[key], args.seconds))
    figures = {}
    for name in dict.fromkeys(name for name, _ in models):
        found = interval([two / one for one, two in zip(rates[name, 1], rates[name, 2], strict=True)])
        figures[name] = {"ratio": found.value, "low": found.low, "high": found.high, "goal": GOAL}
        print(f"{name:24} two threads {found.value:.2f} times one [{found.low:.2f}, {found.high:.2f}] (goal {GOAL})")
    machine.write("busy", quiet, {"models": figures}, args)


if __name__ == "__main__":
    main()
