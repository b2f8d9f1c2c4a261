"""A recursive network over real trees, one tree at a time (bars N6 and N9 of the published system, docs/dynamic.md).

python benchmarks/dynamic/tree.py [sentiment] [deep]

sentiment  the Tree-LSTM of treelstm.py on test trees of the treebank: time per token on every engine in a process of its own, as ratios; the
           classes of all roots of the test part must be those that PyTorch finds; the share of time that is not the kernels'.
deep       right-linear trees of growing depth, a fold over a list, and a tail call beside the loop that does the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import machine  # noqa: E402
import numpy as np  # noqa: E402
import treelstm  # noqa: E402
from encoder import turns  # noqa: E402
from installed import installed  # noqa: E402

import hasten  # noqa: E402
from hasten.bench.peer import EngineSpec  # noqa: E402
from hasten.bench.process import Engine, EngineError  # noqa: E402
from hasten.bench.statistics import interval  # noqa: E402
from hasten.profile.record import record  # noqa: E402

Data = dict[str, Any]
BASE, REFERENCE = "tree_hasten", "tree_recursion"
PEERS = {"tree_hasten": "HASTEN", "tree_recursion": "RECURSION", "tree_levels": "LEVELS", "tree_dynet": "DYNET"}
GOALS = {"tree_recursion": 6.0, "tree_levels": 1.5, "tree_dynet": 1.5}  # times as fast
SHARE_GOAL = 0.15  # of the time at most that kernels do not take
LOOP_GOAL = 1.1  # times the loop's time at most that the tail call takes
CLOSE = 1e-4
DEPTHS = (100, 1_000, 10_000)
STEPS = 5_000


def sentiment(args: argparse.Namespace) -> Data:
    count = 20 if args.quick else 400
    trees = treelstm.trees("test")[:count]
    tokens = sum(sum(1 for _ in treelstm.words(tree)) for tree in trees)
    items = [{"tree": np.array(k)} for k in range(count)]
    weights = args.weights
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        treelstm.train(weights)
    with installed(HERE, {name: f"treelstm:{peer}" for name, peer in PEERS.items()}), ExitStack() as stack:
        engines, answers, errors = {}, {}, {}
        for name in sorted(PEERS, key=lambda name: name != REFERENCE):
            spec = EngineSpec.parse(f"{name}:trees={count}")
            engine = stack.enter_context(Engine(spec, weights, args.threads, machine.cpus()[: args.threads], args.cache))
            try:
                engine.load(items[0])
                answers[name] = [answer["y"] for answer in engine.sequence(items, keep=True)[1]]
            except EngineError as error:
                print(f"left out: {error}")
                continue
            errors[name] = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(answers[name], answers.get(REFERENCE, answers[name]), strict=True))
            if errors[name] > CLOSE:
                print(f"left out: {name}: its answers are {errors[name]:.1e} from PyTorch's")
                continue
            engines[name] = engine
        times: dict[str, list[int]] = {name: [] for name in engines}
        for name in turns(engines, args.rounds or (2 if args.quick else 12)):
            times[name].append(sum(engines[name].sequence(items)[0]))
    rows = {}
    for name, ns in times.items():
        found = interval([theirs / ours for theirs, ours in zip(ns, times[BASE], strict=True)])
        rows[name] = {"us_per_token": statistics.median(ns) / tokens / 1e3, "ratio": found.value, "low": found.low, "high": found.high,
                      "goal": GOALS.get(name), "error": errors[name]}  # fmt: skip
        print(f"{name:16} {rows[name]['us_per_token']:8.2f} us a token, Hasten is {found.value:.2f} times as fast [{found.low:.2f}, {found.high:.2f}]")
    return {"trees": count, "tokens": tokens, "engines": rows, **whole_test(args), **shares(args)}


def whole_test(args: argparse.Namespace) -> Data:
    """Roots of the whole test part: right ones, and those that PyTorch finds, too."""
    module = treelstm.load(args.weights)
    model = treelstm.model(module, args.threads)
    everything = treelstm.plan(treelstm.trees("test"))
    import torch

    with torch.inference_mode():
        h = module(module.words(torch.from_numpy(everything.leaves)), treelstm._tensors(everything))
        theirs = module.out(h[torch.from_numpy(everything.roots)]).argmax(1).numpy()
    trees = treelstm.trees("test")
    ours = np.array([model(treelstm.value(tree, iter(treelstm.vectors(module, tree)))).argmax() for tree in trees])
    right = float((ours == everything.labels[everything.roots]).mean())
    print(f"{len(trees)} test trees: {int((ours == theirs).sum())} roots with PyTorch's class, {right:.3f} right")
    return {"test": {"trees": len(trees), "same": int((ours == theirs).sum()), "right": right}}


def shares(args: argparse.Namespace) -> Data:
    """What kernels do not take of a call with one thread, for a tree of the median size."""
    module = treelstm.load(args.weights)
    model = treelstm.model(module, 1)
    tree = sorted(treelstm.trees("test"), key=lambda tree: tree.nodes)[len(treelstm.trees("test")) // 2]
    value = treelstm.value(tree, iter(treelstm.vectors(module, tree)))
    profile = record(model, {"tree": value}, seconds=2.0)
    parts = profile.parts()  # by instructions, each of which is marked: kernels timed apart run longer than in a call
    share = 1 - parts["kernels"] / sum(parts.values())
    print(f"a tree of {tree.nodes} nodes: {profile.least_call * 1e6:.0f} us, {share:.1%} of it not in kernels (goal {SHARE_GOAL:.0%})")
    return {"share": {"nodes": tree.nodes, "microseconds": profile.least_call * 1e6, "not_kernels": share, "goal": SHARE_GOAL}}


Row = hasten.Tensor((1, 16))
List = hasten.adt("List", End=[], Cell=[Row, "List"])
MIX = np.linspace(-0.3, 0.3, 256, dtype=np.float32).reshape(16, 16)


@hasten.function
def deep_sum(xs: List) -> Row:  # type: ignore[valid-type]
    """Not a tail call: every cell waits for the rest."""
    match xs:
        case List.End():
            return np.zeros((1, 16), np.float32)
        case List.Cell(x, rest):
            return np.tanh(deep_sum(rest) @ MIX + x)


@hasten.function
def fold(xs: List, total: Row) -> Row:  # type: ignore[valid-type]
    match xs:
        case List.End():
            return total
        case List.Cell(x, rest):
            return fold(rest, np.tanh(total @ MIX + x))


@hasten.function
def tail(n: int, total: Row) -> Row:  # type: ignore[valid-type]
    if n == 0:
        return total
    return tail(n - 1, np.tanh(total @ MIX))


@hasten.function
def loop(n: int, total: Row) -> Row:  # type: ignore[valid-type]
    while n > 0:
        total = np.tanh(total @ MIX)
        n = n - 1
    return total


def deep(args: argparse.Namespace) -> Data:
    model, folded, jumps, loops = (hasten.compile(f, threads=1) for f in (deep_sum, fold, tail, loop))
    rng, start = np.random.default_rng(0), np.full((1, 16), 0.5, np.float32)
    rows: Data = {"depths": {}}
    for depth in DEPTHS:
        cells = [rng.standard_normal((1, 16)).astype(np.float32) for _ in range(depth)]
        xs: Any = List.End()
        want = np.zeros((1, 16))
        for x in cells:
            xs, want = List.Cell(x, xs), np.tanh(want @ MIX.astype(np.float64) + x)
        assert np.abs(model(xs) - want).max() < CLOSE
        rows["depths"][depth] = least(lambda xs=xs: model(xs)) / depth * 1e9
        print(f"depth {depth:6}: {rows['depths'][depth]:.0f} ns a level")
    cells = cells[:STEPS]
    xs = List.End()
    for x in reversed(cells):
        xs = List.Cell(x, xs)
    want = start.astype(np.float64)
    for x in cells:
        want = np.tanh(want @ MIX.astype(np.float64) + x)
    assert np.abs(folded(xs, start) - want).max() < CLOSE
    assert np.array_equal(jumps(STEPS, start), loops(STEPS, start))
    calls = {"tail": lambda: jumps(STEPS, start), "loop": lambda: loops(STEPS, start)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name in turns(calls, args.rounds or (3 if args.quick else 30)):
        times[name].append(least(calls[name], 1))
    found = interval([a / b for a, b in zip(times["tail"], times["loop"], strict=True)])
    rows["fold_ns"] = least(lambda: folded(xs, start)) / STEPS * 1e9
    rows["tail_over_loop"] = {"ratio": found.value, "low": found.low, "high": found.high, "goal": LOOP_GOAL}
    each = " and ".join(f"{statistics.median(ns) / STEPS * 1e9:.0f}" for ns in times.values())
    print(f"a fold: {rows['fold_ns']:.0f} ns a cell; a tail call and a round of the loop {each} ns")
    print(f"tail calls take {found.value:.3f} times the loop's time [{found.low:.3f}, {found.high:.3f}] (goal {LOOP_GOAL})")
    return rows


def least(call: Callable[[], object], times: int = 5) -> float:
    """Seconds of the quickest call."""
    found = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        call()
        found = min(found, time.perf_counter() - began)
    return found


PARTS: dict[str, Callable[[argparse.Namespace], Data]] = {"sentiment": sentiment, "deep": deep}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--threads", type=int, default=min(2, len(machine.cpus())))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--weights", type=Path, default=Path(tempfile.gettempdir()) / "hasten-treelstm.pt", help="trained when it is not there")
    machine.add_arguments(parser)
    args = parser.parse_args()
    quiet = machine.Quiet(args.even_if_busy)
    with tempfile.TemporaryDirectory(prefix="hasten-tree-") as folder:
        args.cache = Path(folder)
        found = {part: PARTS[part](args) for part in args.parts or PARTS}
    del args.cache
    machine.write("dynamic/tree", quiet, {"threads": args.threads, **found}, args)


if __name__ == "__main__":
    main()
