"""Doing harm to `hasten compile`, its output and its cache: kills, full disks, altered files. What was found is returned
as rows; tests demand that nothing is broken, the benchmark counts."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = str(Path(__file__).resolve().parents[2] / "src")


def command(*arguments: str | Path, cache: Path, **options: Any) -> subprocess.Popen[str]:
    """`hasten ARGUMENTS` in a process of its own."""
    path = os.pathsep.join([SOURCES, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "HASTEN_CACHE_DIR": str(cache), "PYTHONPATH": path, "NO_COLOR": "1"}
    line = [sys.executable, "-c", "from hasten.cli import main; main()", *map(str, arguments)]
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finished(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str]:
    """Exit code and stderr."""
    _, errors = process.communicate(timeout=seconds)
    return process.returncode, errors


def feeds_for(model: Any, seed: int = 0, size: int = 16) -> dict[str, np.ndarray]:
    """Random inputs; sizes that are free are `size`."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for info in model.inputs:
        shape = [d if isinstance(d, int) else size for d in info.shape]
        data = rng.standard_normal(shape) if info.dtype.startswith("float") else rng.integers(0, 2, shape)
        feeds[info.name] = data.astype(info.dtype)
    return feeds


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)


def interrupted_compiles(
    model: Path, folder: Path, kills: int, seed: int = 0, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Kill `hasten compile` at random moments with SIGINT, SIGTERM and SIGKILL in turn. After each kill the output is
    absent, or whole and right; the cache must serve the next compile. Returns counts; "broken" lists what was wrong."""
    import hasten

    rnd = random.Random(seed)
    cache, output = folder / "cache", folder / "out" / "model.hasten"
    output.parent.mkdir(parents=True)
    times = []
    for _ in range(2):  # cold, then from the cache
        began = time.perf_counter()
        assert finished(command("compile", model, "-o", output, cache=folder / "first"))[0] == 0
        times.append(time.perf_counter() - began)
    reference = hasten.load(output)
    feeds = feeds_for(reference)
    expected = reference.run(feeds)
    output.unlink()
    counts: Counter[str] = Counter()
    broken: list[str] = []
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    for kill in range(kills):
        if kill % 4 == 0:  # cold again
            _remove(cache)
        process = command("compile", model, "-o", output, cache=cache)
        time.sleep(rnd.uniform(0.0, times[1] if any(cache.rglob("*")) and kill % 4 == 3 else times[0]))
        which = signals[kill % 3]
        process.send_signal(which)
        code, errors = finished(process)
        state = "finished" if code == 0 else "killed"
        counts[state] += 1
        if output.exists():
            counts["output there"] += 1
            if not same(hasten.load(output).run(feeds), expected):
                broken.append(f"kill {kill}: the output gives wrong answers")
            output.unlink()
        elif code == 0:
            broken.append(f"kill {kill}: success without output")
        left = [p.name for p in output.parent.iterdir()]
        if left and which != signal.SIGKILL:
            broken.append(f"kill {kill} ({which.name}): {left} left behind")
        for path in output.parent.iterdir():
            path.unlink()
        if "Traceback" in errors and "cli/app.py" in errors:  # while modules are imported, it is Python that tells
            broken.append(f"kill {kill} ({which.name}): traceback: {errors[-500:]}")
        tell(f"kill {kill}: {which.name}, exit {code}")
    for attempt in ("compile after all kills", "second compile"):
        if finished(command("compile", model, "-o", output, cache=cache))[0] != 0:
            broken.append(f"{attempt} failed")
        elif not same(hasten.load(output).run(feeds), expected):
            broken.append(f"{attempt} gives wrong answers")
    return {"kills": kills, **counts, "broken": broken}


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def small_files(limit: int) -> Callable[[], None]:
    """For a child: no file may grow beyond `limit` bytes, as on a disk that is full."""

    def apply() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return apply


def altered_files(path: Path, flips: int, seed: int = 0) -> dict[str, Any]:
    """Flip single bits of a .hasten file all over it, and cut it off; every such file must be refused."""
    import hasten

    rnd = random.Random(seed)
    data = path.read_bytes()
    size = len(data)
    places = [rnd.randrange(size) for _ in range(flips)] + [*range(0, 64, 3), 64, size - 1]
    cuts = [0, 1, 8, 63, 64, 65, 4096, size // 2, size - 1] + [rnd.randrange(size) for _ in range(20)]
    altered = path.with_name("altered.hasten")
    refused, accepted, other = 0, [], []
    for kind, number in [("flip", p) for p in places] + [("cut", c) for c in cuts] + [("longer", 1), ("longer", 4096)]:
        changed = bytearray(data)
        if kind == "flip":
            changed[number] ^= 1 << rnd.randrange(8)
        elif kind == "cut":
            del changed[number:]
        else:
            changed += bytes(number)
        altered.write_bytes(changed)
        try:
            hasten.load(altered)
            accepted.append((kind, number))
        except hasten.CorruptFile:
            refused += 1
        except Exception as error:  # noqa: BLE001 - whatever else comes is what is looked for
            other.append((kind, number, repr(error)))
        altered.unlink()
    return {"files": len(places) + len(cuts) + 2, "refused": refused, "accepted": accepted, "other": other}
