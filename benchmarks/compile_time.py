"""How long a first start takes, a second one, and loading a file.

python benchmarks/compile_time.py

ResNet-50 (random weights: times don't depend on them) on one CPU, every start a fresh process:
    cold       with an empty cache: import, compile, first answer
    warm       the same again, with the cache that the cold start left
    load       hasten.load of the saved file, and of one with 26 MB of weights, with the imports that the first load of a process does; a
               second one without them (again_s); how much private memory it takes (weights are mapped)
    import     `import hasten`, and what of it is NumPy's
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import machine
from networks import classifiers

GOALS = {"cold compile": 10.0, "warm start": 0.3, "load of 26 MB": 0.05, "import hasten": 0.2}  # seconds

START = """
import time; began = time.perf_counter()
import sys, json, os
sys.path[:0] = json.loads(os.environ["BENCH_PATH"])
import numpy; numpy_s = time.perf_counter() - began
import hasten; import_s = time.perf_counter() - began
path, saved, shape, isa = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4] or None
def private():
    rows = [line.split() for line in open("/proc/self/smaps_rollup")]
    return sum(int(r[1]) for r in rows if r[0] in ("Private_Dirty:",)) / 1024
memory = private(); t = time.perf_counter()
model = hasten.load(path) if path.endswith(".hasten") else hasten.compile(path, threads=1, isa=isa)
start_s = time.perf_counter() - t; memory = private() - memory
t = time.perf_counter(); y = model(numpy.zeros(shape, numpy.float32)); first_s = time.perf_counter() - t
if saved: model.save(saved)
again_s = 0.0
if path.endswith(".hasten"):
    t = time.perf_counter(); hasten.load(path); again_s = time.perf_counter() - t
r = model.report()
print(json.dumps({"numpy_s": numpy_s, "import_s": import_s, "start_s": start_s, "again_s": again_s,
                  "first_run_s": first_s, "total_s": time.perf_counter() - began,
                  "private_mb": memory, "from_cache": r.from_cache, "isa": r.isa, "kernels": r.kernels, "constants_bytes": r.constants_bytes,
                  "image_bytes": r.image_bytes, "modules": [m for m in ("onnx", "onnx_ir", "llvmlite") if m in sys.modules]}))
"""


def start(path: Path, cache: Path, shape: tuple[int, ...], saved: Path | None = None, isa: str = "") -> dict[str, Any]:
    """One fresh process that starts a model and runs it once."""
    environment = {**os.environ, "HASTEN_CACHE_DIR": str(cache), "BENCH_PATH": json.dumps([p for p in sys.path if p.endswith("src")])}
    for name in ("HASTEN_DUMP", "HASTEN_ISA", "HASTEN_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    command = [sys.executable, "-c", START, str(path), str(saved or ""), json.dumps(shape), isa]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"a start of {path.name} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", default="", help="compile for this instruction set instead of the machine's best")
    parser.add_argument("--repeats", type=int, default=None, help="of warm starts, loads and imports; default: 7")
    machine.add_arguments(parser)
    args = parser.parse_args()
    quiet = machine.Quiet(args.even_if_busy)
    machine.pin(1)
    repeats = args.repeats or (2 if args.quick else 7)
    with tempfile.TemporaryDirectory() as folder:
        figures, sizes = measure(Path(folder), args.isa, repeats, 1 if args.quick else 3)
    for name, row in figures.items():
        goal = f" (goal {row['goal']} s)" if row.get("goal") else ""
        extra = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("seconds", "goal"))
        print(f"{name:16} {row['seconds']:8.3f} s{goal}  {extra}")
    print("sizes: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
    machine.write("compile_time", quiet, {"figures": figures, "sizes": sizes}, args)


def measure(folder: Path, isa: str, repeats: int, colds: int) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """All figures (medians of seconds), and sizes."""
    resnet, small = folder / "resnet50.onnx", folder / "perceptron.onnx"
    resnet.write_bytes(classifiers.resnet50()[0].SerializeToString())
    small.write_bytes(classifiers.perceptron()[0].SerializeToString())
    resnet_saved, small_saved = resnet.with_suffix(".hasten"), small.with_suffix(".hasten")
    image, row = (1, 3, 224, 224), (1, 1472)
    start(small, folder / "first", row)  # Python keeps its compiled modules
    cold = [start(resnet, folder / f"cache{k}", image, resnet_saved, isa) for k in range(colds)]
    cache = folder / "cache0"
    warm = [start(resnet, cache, image, isa=isa) for _ in range(repeats)]
    start(small, cache, row, small_saved, isa)
    big_loads = [start(resnet_saved, cache, image) for _ in range(repeats)]
    small_loads = [start(small_saved, cache, row) for _ in range(repeats)]
    assert all(run["from_cache"] for run in warm) and not any(run["from_cache"] for run in cold), "the cache was not used as expected"
    loads = big_loads + small_loads
    assert not any(run["modules"] for run in loads), f"loading imported {loads[0]['modules']}"
    first = cold[0]
    figures = {
        "cold compile": _row("cold compile", cold, "start_s", isa=first["isa"], kernels=first["kernels"]),
        "cold total": _row("", cold, "total_s", first_run_s=round(median(cold, "first_run_s"), 3)),
        "warm start": _row("warm start", warm, "start_s"),
        "warm total": _row("", warm, "total_s", first_run_s=round(median(warm, "first_run_s"), 3)),
        f"load of {_mb(resnet_saved):.0f} MB": _row("", big_loads, "start_s", **_loaded(big_loads)),
        f"load of {_mb(small_saved):.0f} MB": _row("load of 26 MB", small_loads, "start_s", **_loaded(small_loads)),
        "import hasten": _row("import hasten", loads, "import_s", numpy_s=round(median(loads, "numpy_s"), 3)),
    }
    sizes = {"onnx_mb": round(_mb(resnet), 1), "hasten_mb": round(_mb(resnet_saved), 1),
             "constants_mb": round(first["constants_bytes"] / 1e6, 1), "image_kb": round(first["image_bytes"] / 1e3, 1)}  # fmt: skip
    return figures, sizes


def _row(goal: str, runs: list[dict[str, Any]], key: str, **extra: Any) -> dict[str, Any]:
    seconds = [run[key] for run in runs]
    return {"seconds": statistics.median(seconds), "least": round(min(seconds), 4), "goal": GOALS.get(goal), "starts": len(runs), **extra}


def _loaded(runs: list[dict[str, Any]]) -> dict[str, float]:
    """A second load in the same process, and the memory that the first one took."""
    return {"again_s": round(median(runs, "again_s"), 4), "private_mb": round(median(runs, "private_mb"), 1)}


def _mb(path: Path) -> float:
    return path.stat().st_size / 1e6


if __name__ == "__main__":
    main()
