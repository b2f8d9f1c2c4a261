"""A real encoder over real sentences of all lengths, one at a time (bars N1, N2 and N3 of the published system, docs/dynamic.md).

python benchmarks/dynamic/encoder.py [lengths] [unseen] [static]

lengths  MiniLM over sentences of the treebank in their order, on every engine in a process of its own, rounds in turn: time per token, as ratios.
         `padded` is the same engine with every sentence padded to the longest.
unseen   the first call with each of 40 lengths that the engine has not seen, beside the next calls with it, and what was compiled meanwhile.
static   Hasten's model of any length beside its models of 16 single lengths: whole calls, and kernels alone.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import machine  # noqa: E402
import minilm  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
from installed import installed  # noqa: E402

import hasten  # noqa: E402
from hasten.bench.peer import EngineSpec  # noqa: E402
from hasten.bench.process import Engine, EngineError  # noqa: E402
from hasten.bench.statistics import geometric_mean, interval  # noqa: E402
from hasten.profile.record import record  # noqa: E402

Data = dict[str, Any]
BASE = "hasten"
ENGINES = (BASE, "onnxruntime", "openvino:shapes=any", "openvino:precision=default,shapes=any", "torch_eager", "torch_dynamic")
GOALS = {"onnxruntime": 1.15, "openvino:shapes=any": 1.0, "torch_eager": 1.3, "torch_dynamic": 1.3, "padded": 1.4}  # times as fast, per token
FIRST_GOALS = {"median": 1.2, "most": 2.0}
STATIC_GOALS = {"each at 128": 1.10, "kernels at 128": 1.03, "mean": 1.08}
CLOSE = 1e-4  # to PyTorch's answers, relative to the largest
SHAPES = (8, 12, 17, 19, 24, 31, 32, 33, 48, 57, 64, 80, 96, 100, 128, 192)  # of `static`


def feeds(ids: Any) -> dict[str, Any]:
    return {"ids": ids}


def contest(args: argparse.Namespace, folder: Path, stack: ExitStack) -> dict[str, Engine]:
    """Every engine in its process, with the model loaded."""
    path, found = folder / "minilm.onnx", {}
    minilm.export(path)
    for text in args.engines:
        cache = folder / "".join(c if c.isalnum() else "_" for c in text)
        cache.mkdir()
        engine = stack.enter_context(Engine(EngineSpec.parse(text), path, args.threads, machine.cpus()[: args.threads], cache))
        try:
            engine.load(feeds(minilm.sentences("dev")[0]))
        except EngineError as error:
            print(f"left out: {error}")
            continue
        found[text] = engine
    return found


def lengths(args: argparse.Namespace) -> Data:
    drawn = random.Random(1).sample(minilm.sentences(), 8 if args.quick else 200)
    longest = max(ids.shape[1] for ids in drawn)
    padded = [feeds(np.pad(ids, ((0, 0), (0, longest - ids.shape[1])))) for ids in drawn]
    plain = [feeds(ids) for ids in drawn]
    tokens = sum(ids.shape[1] for ids in drawn)
    with tempfile.TemporaryDirectory(prefix="hasten-encoder-") as folder, ExitStack() as stack:
        engines = contest(args, Path(folder), stack)
        wanted = [answer["y"] for answer in engines["torch_eager"].sequence(plain[:20], keep=True)[1]]
        errors = {name: worst(engine.sequence(plain[:20], keep=True)[1], wanted) for name, engine in engines.items()}
        work = {name: (engine, plain) for name, engine in engines.items()} | {"padded": (engines[BASE], padded)}
        times: dict[str, list[int]] = {name: [] for name in work}
        for engine, items in work.values():
            engine.sequence(items)  # every length has been seen
        for name in turns(work, args.rounds or (2 if args.quick else 12)):
            times[name].append(sum(work[name][0].sequence(work[name][1])[0]))
    rows = {}
    for name, ns in times.items():
        found = interval([theirs / ours for theirs, ours in zip(ns, times[BASE], strict=True)])
        rows[name] = {"us_per_token": statistics.median(ns) / tokens / 1e3, "ratio": found.value, "low": found.low, "high": found.high,
                      "goal": GOALS.get(name), "error": errors.get(name)}  # fmt: skip
        error = f", {errors[name]:.1e} from PyTorch" if name in errors else ""
        print(f"{name:40} {rows[name]['us_per_token']:7.2f} us a token, Hasten is {found.value:.2f} times as fast [{found.low:.2f}, {found.high:.2f}]{error}")
    assert errors[BASE] <= CLOSE
    return {"sentences": len(drawn), "tokens": tokens, "longest": longest, "engines": rows}


def worst(answers: Sequence[Data], wanted: Sequence[Any]) -> float:
    """The largest difference, relative to the largest value."""
    return max(float(np.abs(answer["y"] - want).max() / np.abs(want).max()) for answer, want in zip(answers, wanted, strict=True))


def turns(names: Any, rounds: int) -> list[str]:
    """Every name once in each round, in drawn order."""
    rng = random.Random(2)
    return [name for _ in range(rounds) for name in rng.sample(list(names), len(names))]


def unseen(args: argparse.Namespace) -> Data:
    vocabulary, rng = 30522, np.random.default_rng(3)
    sizes = sorted(rng.choice(np.arange(5, 129), 10 if args.quick else 40, replace=False).tolist())
    random.Random(4).shuffle(sizes)
    rows: Data = {}
    with tempfile.TemporaryDirectory(prefix="hasten-encoder-") as folder, ExitStack() as stack:
        engines = contest(args, Path(folder), stack)
        before = {name: compilations(name, engine, Path(folder)) for name, engine in engines.items()}
        for name, engine in engines.items():
            engine.sequence([feeds(rng.integers(999, vocabulary, (1, n))) for n in (3, 130)] * 5)  # warm, at lengths that do not come again
            ratios = []
            for size in sizes:
                ns, _ = engine.sequence([feeds(rng.integers(999, vocabulary, (1, size))) for _ in range(8)])
                ratios.append(ns[0] / statistics.median(ns[3:]))
            rows[name] = {"median": statistics.median(ratios), "most": max(ratios), "goals": FIRST_GOALS if name == BASE else None}
            after, known = compilations(name, engine, Path(folder)), before[name]
            rows[name]["compilations"] = None if after is None or known is None else after - known
            print(f"{name:40} first call over the next ones: median {rows[name]['median']:.2f}, most {rows[name]['most']:.2f}, "
                  f"compilations {rows[name]['compilations']}")  # fmt: skip
    return {"lengths": len(sizes), "engines": rows}


def compilations(name: str, engine: Engine, folder: Path) -> int | None:
    """How many there were so far: of torch.compile what it tells, of Hasten the objects in its cache, to which every compiled kernel is added."""
    if name == BASE:
        return sum(path.is_file() for path in (folder / BASE).rglob("*"))
    told = engine.about().get("compilations")
    return None if told is None else int(told)


def static(args: argparse.Namespace) -> Data:
    sizes = SHAPES[:3] if args.quick else SHAPES
    rng, rows = np.random.default_rng(5), {}
    machine.pin(args.threads)
    with tempfile.TemporaryDirectory(prefix="hasten-encoder-") as folder:
        path = Path(folder) / "minilm.onnx"
        minilm.export(path)
        dynamic = hasten.compile(str(path), threads=args.threads)
        for size in sizes:
            ids = rng.integers(999, 30522, (1, size))
            fixed = hasten.compile(of_length(path, size), threads=args.threads)
            calls = {"dynamic": lambda ids=ids: dynamic(ids), "fixed": lambda ids=ids, fixed=fixed: fixed(ids)}
            whole = ratio(calls, args.rounds or (3 if args.quick else 30))
            kernels = kernel_seconds(dynamic, ids) / kernel_seconds(fixed, ids)
            rows[size] = {**whole, "kernels": kernels}
            print(f"length {size:4}: dynamic over static {whole['ratio']:.3f} [{whole['low']:.3f}, {whole['high']:.3f}], kernels alone {kernels:.3f}")
    mean = geometric_mean([row["ratio"] for row in rows.values()])
    print(f"geometric mean {mean:.3f} (goal {STATIC_GOALS['mean']})")
    return {"lengths": rows, "mean": mean, "goals": STATIC_GOALS}


def of_length(path: Path, size: int) -> onnx.ModelProto:
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = size
    for entry in model.graph.output:
        entry.type.tensor_type.shape.dim[1].dim_value = size
    del model.graph.value_info[:]
    return model


def kernel_seconds(model: Any, ids: Any) -> float:
    return sum(kernel.least for kernel in record(model, feeds(ids), seconds=0.5).kernels)


def ratio(calls: dict[str, Callable[[], object]], rounds: int) -> Data:
    """Of the two calls' times, in rounds of drawn order."""
    times: dict[str, list[int]] = {name: [] for name in calls}
    for name in turns(calls, 2 + rounds):
        began = time.perf_counter_ns()
        for _ in range(5):
            calls[name]()
        times[name].append(time.perf_counter_ns() - began)
    found = interval([a / b for a, b in zip(times["dynamic"][2:], times["fixed"][2:], strict=True)])
    return {"ratio": found.value, "low": found.low, "high": found.high}


PARTS: dict[str, Callable[[argparse.Namespace], Data]] = {"lengths": lengths, "unseen": unseen, "static": static}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--threads", type=int, default=min(2, len(machine.cpus())))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--engines", nargs="*", default=ENGINES)
    machine.add_arguments(parser)
    args = parser.parse_args()
    quiet = machine.Quiet(args.even_if_busy)
    with installed(HERE, {"torch_eager": "minilm:EAGER", "torch_dynamic": "minilm:COMPILED"}):
        found = {part: PARTS[part](args) for part in args.parts or PARTS}
    machine.write("dynamic/encoder", quiet, {"threads": args.threads, **found}, args)


if __name__ == "__main__":
    main()
