"""torch.compile(backend="hasten") beside eager PyTorch and torch.compile(backend="inductor"), for a small encoder over lengths that it never saw.

python benchmarks/dynamic/torch_door.py

One process, float32, the same threads for all. Each engine is compiled with dynamic=True and called at two lengths. Then 40 other lengths come, each
for the first time: the first call of each engine is timed, then rounds of one call of each engine in drawn order, whose ratios are taken inside
a round. Graphs that PyTorch's compiler gave out for compiling while the 40 lengths came are counted. What a call costs beside its work is
timed with a module of one Relu over 16 numbers. `hasten.compile` is the same encoder exported and called with tensors, without PyTorch's compiler.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import machine  # noqa: E402

import hasten  # noqa: E402
from hasten import dynamo  # noqa: E402
from hasten.bench.statistics import interval  # noqa: E402

WIDTH, HEADS, LAYERS = 192, 6, 4
WARM = (24, 57)  # lengths that every engine has seen
OURS = "hasten"

Engine = Callable[[Any], Any]


class Layer(nn.Module):
    """A layer of a transformer encoder: float32[batch, length, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        b, t, _ = x.shape
        q, k, v = self.qkv(self.before(x)).view(b, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.down(nn.functional.gelu(self.up(self.between(x))))


def engines(module: Any, example: Any, threads: int) -> dict[str, Engine]:
    """The module in all ways that are compared, each compiled and warm at lengths like the example's."""
    hint = torch.export.Dim("length", min=2, max=4096)
    exported = hasten.compile(module, example_inputs=(example,), dynamic_shapes=({1 if example.ndim == 3 else 0: hint},), threads=threads)
    return {
        OURS: torch.compile(module, backend=dynamo.backend, dynamic=True, options={"threads": threads, "fallback": False}),
        "eager": module,
        "inductor": torch.compile(module, backend="inductor", dynamic=True),
        "hasten.compile": exported,
    }


def sequence(length: int) -> Any:
    return torch.randn(1, length, WIDTH)


def over_lengths(found: dict[str, Engine], lengths: list[int], rounds: int) -> dict[str, Any]:
    """Ratios of each engine's time to ours, first calls, and graphs compiled, over `lengths`."""
    rng = random.Random(1)
    before = counters["stats"]["unique_graphs"]
    ratios: dict[str, list[float]] = {name: [] for name in found if name != OURS}
    first: dict[str, list[float]] = {name: [] for name in found}
    times: dict[str, list[float]] = {name: [] for name in found}
    for length in lengths:
        x = sequence(length)
        firsts = {name: timed(found[name], x) for name in rng.sample(list(found), len(found))}
        repeats: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(rounds):
            for name in rng.sample(list(found), len(found)):
                repeats[name].append(timed(found[name], x))
            for name, values in ratios.items():
                values.append(repeats[name][-1] / repeats[OURS][-1])
        for name, values in repeats.items():
            first[name].append(firsts[name] / statistics.median(values))
            times[name].append(statistics.median(values) / length * 1e6)
    return {
        "times_hastens": {name: spread(values) for name, values in ratios.items()},
        "first_call_to_repeat": {name: {**spread(values), "most": max(values)} for name, values in first.items()},
        "microseconds_per_position": {name: statistics.median(values) for name, values in times.items()},
        "graphs_compiled": counters["stats"]["unique_graphs"] - before,
    }


def timed(engine: Engine, x: Any) -> float:
    began = time.perf_counter()
    engine(x)
    return time.perf_counter() - began


def spread(values: list[float]) -> dict[str, float]:
    middle = interval(values)
    return {"median": middle.value, "low": middle.low, "high": middle.high}


def per_call(found: dict[str, Engine], rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of a call whose work is nothing."""
    rng = random.Random(2)
    x = torch.linspace(-1, 1, 16)[None]
    timers = {name: timeit.Timer(lambda engine=engine: engine(x)) for name, engine in found.items()}
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name in rng.sample(list(timers), len(timers)):
            timers[name].timeit(100)
            times[name].append(timers[name].timeit(1000) / 1000 * 1e6)
    return {name: spread(values) for name, values in times.items()}


def compare(found: dict[str, Engine], example: Any) -> float:
    """The largest difference of any engine from eager, relative to the largest value; also compiles what is compiled at the first call."""
    want = found["eager"](example)
    return max(float((torch.as_tensor(engine(example)) - want).abs().max() / want.abs().max()) for engine in found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="at each length")
    parser.add_argument("--threads", type=int, default=len(machine.cpus()))
    machine.add_arguments(parser)
    args = parser.parse_args()
    quiet = machine.Quiet(args.even_if_busy)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    lengths = random.Random(0).sample([n for n in range(8, 200) if n not in WARM], 4 if args.quick else 40)
    with torch.no_grad():
        encoder = engines(nn.Sequential(*(Layer() for _ in range(LAYERS))).eval(), sequence(WARM[0]), args.threads)
        errors = [compare(encoder, sequence(length)) for length in WARM for _ in range(3)]
        figures = over_lengths(encoder, lengths, 2 if args.quick else args.rounds)
        figures["largest_difference"] = max(errors + [compare(encoder, sequence(length)) for length in lengths[:4]])
        relu = engines(nn.ReLU(), torch.zeros(3, 16), args.threads)
        for n in (1, 3, 5, 1):
            compare(relu, torch.ones(n, 16))
        figures["microseconds_a_call"] = per_call(relu, 3 if args.quick else 20)
    assert figures["largest_difference"] < 1e-4
    show(figures)
    machine.write("dynamic/torch_door", quiet, figures, args)


def show(figures: dict[str, Any]) -> None:
    for name, row in figures["times_hastens"].items():
        print(f"{name:16} takes {row['median']:.2f} [{row['low']:.2f}, {row['high']:.2f}] times as long as torch.compile with hasten")
    for name, row in figures["first_call_to_repeat"].items():
        per = figures["microseconds_per_position"][name]
        print(f"{name:16} first call {row['median']:.2f} (at most {row['most']:.2f}) times a repeated one; {per:.1f} us per position")
    for name, row in figures["microseconds_a_call"].items():
        print(f"{name:16} {row['median']:6.2f} us [{row['low']:.2f}, {row['high']:.2f}] for a call that does nothing")
    print(f"graphs compiled for the lengths: {figures['graphs_compiled']}; largest difference from eager {figures['largest_difference']:.1e}")


if __name__ == "__main__":
    main()
