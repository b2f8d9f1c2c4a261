"""How Hasten takes harm: damaged and hostile models, kills, full disks, altered files, many threads, processes and calls.

    python benchmarks/robustness.py [--fuzz 400] [--kills 24] [--calls 10000] [--seed 1]

Prints one line per question and writes benchmarks/results/robustness.json. Exit code 1 where anything is broken.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "robustness.json"
sys.path[:0] = [str(ROOT / "tests" / "robust"), str(ROOT / "src")]

FEEDS = """
import numpy as np
def feeds(model):
    rng = np.random.default_rng(0)
    out = {}
    for i in model.inputs:
        shape = [d if isinstance(d, int) else {size} for d in i.shape or ()]
        if np.prod([max(d, 1) for d in shape], dtype=object) > 10_000_000:
            return None
        kind = np.dtype(i.dtype) if i.shape is not None else np.dtype("float32")
        out[i.name] = (rng.standard_normal(shape) if kind.kind == "f" else rng.integers(0, 2, shape)).astype(kind)
    return out
"""


# --- damaged models -----------------------------------------------------------------------------------------------------
def _flip(data: bytearray, rnd: random.Random) -> None:
    for _ in range(rnd.choice([1, 2, 8, 40])):
        data[rnd.randrange(len(data))] ^= 1 << rnd.randrange(8)


def _cut(data: bytearray, rnd: random.Random) -> None:
    del data[rnd.randrange(len(data)) :]


def _remove(data: bytearray, rnd: random.Random) -> None:
    at = rnd.randrange(len(data))
    del data[at : at + rnd.choice([1, 2, 16, 300])]


def _repeat(data: bytearray, rnd: random.Random) -> None:
    at = rnd.randrange(len(data))
    data[at:at] = data[at : at + rnd.choice([1, 8, 200])]


def _head(data: bytearray, rnd: random.Random) -> None:
    for _ in range(6):
        data[rnd.randrange(min(3000, len(data)))] = rnd.randrange(256)


def _varint(data: bytearray, rnd: random.Random) -> None:
    """A number becomes a huge one: what dims and attributes are made of."""
    at = rnd.randrange(min(6000, len(data)))
    data[at : at + 1] = b"\xff\xff\xff\xff\xff\xff\x7f"


DAMAGES: dict[str, Callable[[bytearray, random.Random], None]] = {
    "flip": _flip, "cut": _cut, "remove": _remove, "repeat": _repeat, "head": _head, "varint": _varint,
}  # fmt: skip


def damaged(models: list[Path], cases: int, seed: int) -> Iterator[tuple[str, bytes, int]]:
    """Name, bytes, and the size to give to free dims."""
    rnd = random.Random(seed)
    for case in range(cases):
        path, how = models[case % len(models)], rnd.choice(list(DAMAGES))
        data = bytearray(path.read_bytes())
        DAMAGES[how](data, rnd)
        yield f"{case} {path.name} {how}", bytes(data), rnd.choice([0, 1, 3, 16, 33])


def fuzz(models: list[Path], cases: int, seed: int, seconds: float = 60) -> dict[str, Any]:
    """Every damaged model in a sandbox."""
    from sandbox import GIB, Sandbox

    counts: collections.Counter[str] = collections.Counter()
    errors: collections.Counter[str] = collections.Counter()
    broken, peak, slowest = [], 0, 0.0
    with Sandbox() as box:
        for name, data, size in damaged(models, cases, seed):
            verdict = box.attempt(data, FEEDS.replace("{size}", str(size)), seconds=seconds, keep=False)
            counts[verdict.kind] += 1
            if verdict.error:
                errors[verdict.error] += 1
            peak, slowest = max(peak, verdict.peak), max(slowest, verdict.seconds)
            if not verdict.fine or verdict.error == "CompileError":
                broken.append(f"{name}: {verdict}")
    return {"cases": cases, **counts, "errors": dict(errors), "peak_gib": round(peak / GIB, 2), "slowest_seconds": round(slowest, 1), "broken": broken}


def tables() -> dict[str, Any]:
    """The hostile models, failing runs and strange values of the tests."""
    from cases import empty, failing, surviving
    from hostile import hostile
    from sandbox import Sandbox

    result: dict[str, Any] = {"broken": []}
    with Sandbox() as box:
        for name, cases in (("hostile", hostile()), ("failing", failing()), ("empty", empty()), ("strange", surviving())):
            counts: collections.Counter[str] = collections.Counter()
            for case in cases:
                verdict = box.attempt(case.model, dict(case.feeds), keep=False)
                counts[verdict.kind] += 1
                if not verdict.fine or (case.error and verdict.error not in case.error.split("|")):
                    result["broken"].append(f"{name}, {case.name}: {verdict}")
            result[name] = {"cases": len(cases), **counts}
    return result


# --- the whole ----------------------------------------------------------------------------------------------------------
def measure(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All parts in turn: name and figures; "broken" lists what is wrong."""
    from damage import altered_files, interrupted_compiles
    from endurance import MODELS, growth_of_calls, growth_of_models, many_processes, many_threads

    import hasten

    examples = ROOT / "examples" / "models"
    small = examples / "face_mtcnn_pnet.onnx"
    yield "damaged models", fuzz([small, examples / "classify_mnist_cnn.onnx", examples / "face_yunet_n.onnx"], args.fuzz, args.seed)
    yield "tables of bad input", tables()
    yield "interrupted compiles", interrupted_compiles(small, folder / "kills", args.kills, args.seed)
    hasten.compile(small).save(folder / "m.hasten")
    altered = altered_files(folder / "m.hasten", 300, args.seed)
    yield "altered .hasten files", {**altered, "broken": altered["accepted"] + altered["other"]}
    wrong = many_threads(small, 8, 40)
    yield "eight threads", {"threads": 8, "calls": 320, "wrong": wrong, "broken": ["wrong answers"] * bool(wrong)}
    crowd = many_processes(small, folder / "crowd", 8)
    bad = [k for k in ("failed", "different", "temporary") if crowd[k]] + ["copies"] * (crowd["entries"] != crowd["entries_of_one"])
    yield "eight processes, one cache", {**crowd, "broken": bad}
    for kind in MODELS:
        found = growth_of_calls(kind, args.calls)
        yield f"calls: {kind}", {**found, "broken": ["memory grows"] * (found["growth"] > 2 << 20)}
    models = growth_of_models(200)
    grows = models["growth"] > 8 << 20 or models["images_after"] > models["images_before"]
    yield "models made and dropped", {**models, "broken": ["memory grows"] * grows}


def line(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    facts = ", ".join(f"{key} {_short(value)}" for key, value in found.items() if key not in ("broken", "errors", "accepted", "other", "model"))
    return f"{'ok ' if not found['broken'] else 'BAD'}  {name:28} {facts}"


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 1 << 20:
        return f"{value / (1 << 20):.1f} MiB"
    return " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("fuzz", 400), ("kills", 24), ("calls", 10_000), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    results: dict[str, Any] = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for part in ("kills", "crowd"):
            (Path(folder) / part).mkdir()
        os.environ["HASTEN_CACHE_DIR"] = str(Path(folder) / "cache")
        for name, found in measure(args, Path(folder)):
            results[name] = found
            print(line(name, found), flush=True)
            for row in found["broken"]:
                print("     ", str(row)[:300])
    import hasten

    RESULTS.parent.mkdir(exist_ok=True)
    summary = {"hasten": hasten.__version__, "options": vars(args), "minutes": round((time.perf_counter() - began) / 60, 1), "results": results}
    RESULTS.write_text(json.dumps(summary, indent=1) + "\n")
    return int(any(found["broken"] for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
