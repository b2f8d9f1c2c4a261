"""Many threads, many processes, many calls: right answers, one copy of each object, and memory that stays flat."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cases import build, f32, node
from damage import SOURCES, feeds_for, same


def resident() -> int:
    """Bytes of memory that this process has in RAM."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def mapped_images() -> int:
    """Mappings that hold code of no file on disk: images of models."""
    with open("/proc/self/maps") as file:
        return sum(1 for line in file if " r-xp " in line and ("memfd" in line or line.rstrip().endswith(" 0")))


# --- models -------------------------------------------------------------------------------------------------------------
def native_model() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    feeds = {"x": f32(16, 32)}
    return build([node("MatMul", ["x", "w"], ["t"]), node("Softmax", ["t"], ["y"])], feeds, {"w": f32(32, 24)}), feeds


def data_dependent_model() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The size of the result is known to the run only: memory from the heap."""
    feeds = {"x": f32(64, 32)}
    nodes = [node("NonZero", ["x"], ["n"]), node("Cast", ["n"], ["c"], to=1), node("Mul", ["c", "c"], ["y"])]
    return build(nodes, feeds), feeds


def failing_model() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Fails after it took memory: an index is out of range."""
    feeds = {"x": f32(64, 32), "i": np.array([3, 99, 5], np.int64)}
    return build([node("Exp", ["x"], ["e"]), node("Gather", ["e", "i"], ["g"]), node("NonZero", ["g"], ["y"])], feeds), feeds


def host_model() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """With an operator that runs outside of native code."""
    feeds = {"x": f32(8, 8)}
    nodes = [node("Neg", ["x"], ["n"]), node("SequenceConstruct", ["n", "x"], ["s"]), node("ConcatFromSequence", ["s"], ["y"], axis=0)]
    return build(nodes, feeds), feeds


def loop_model() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Rounds that make memory grow and go again."""
    feeds = {"x": f32(1, 8), "m": np.array(5, np.int64)}
    info = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Concat", ["v", "v"], ["w"], axis=0)],
        "body",
        [info("i", 7, []), info("go", 9, []), onnx.ValueInfoProto(name="v")],
        [info("on", 9, []), onnx.ValueInfoProto(name="w")],
    )
    return build([node("Loop", ["m", "", "x"], ["y"], body=body)], feeds, shapes={"m": []}), feeds


MODELS = {"native": native_model, "data-dependent": data_dependent_model, "failing": failing_model, "host ops": host_model, "loop": loop_model}


# --- what is measured ---------------------------------------------------------------------------------------------------
def growth_of_calls(kind: str, calls: int) -> dict[str, Any]:
    """Resident memory over many calls of one model, in steps: bytes after warming up and at the end."""
    import hasten

    proto, feeds = MODELS[kind]()
    model = hasten.compile(proto.SerializeToString())
    failures = 0

    def rounds(count: int) -> None:
        nonlocal failures
        for _ in range(count):
            try:
                model.run(feeds)
            except hasten.HastenError:
                failures += 1

    rounds(max(calls // 10, 200))
    gc.collect()
    failures, before = 0, resident()
    rounds(calls)
    gc.collect()
    return {"model": kind, "calls": calls, "failures": failures, "before": before, "after": resident(), "growth": resident() - before}


def growth_of_models(times: int) -> dict[str, Any]:
    """Compile (from the cache), run and drop a model again and again."""
    import hasten

    proto, feeds = native_model()
    data = proto.SerializeToString()

    def once() -> None:
        hasten.compile(data).run(feeds)

    for _ in range(10):
        once()
    gc.collect()
    images, before = mapped_images(), resident()
    for _ in range(times):
        once()
    gc.collect()
    return {"models": times, "images_before": images, "images_after": mapped_images(), "growth": resident() - before}


def many_threads(path: Path, threads: int, calls: int) -> int:
    """Wrong answers of many threads that call one model with inputs of different sizes at once."""
    import hasten

    model = hasten.compile(path)
    jobs = [feeds_for(model, seed, 12 + 4 * (seed % 5)) for seed in range(threads)]
    expected = [model.run(feeds) for feeds in jobs]
    wrong: list[int] = []
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        start.wait()
        for turn in range(calls):
            which = (number + turn) % threads
            if not same(model.run(jobs[which]), expected[which]):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(wrong)


_PROCESS = """
import sys, numpy as np
sys.path[:0] = {paths!r}
import hasten
from damage import feeds_for
model = hasten.compile({model!r}, cache_dir={cache!r})
result = model.run(feeds_for(model))
np.save({out!r}, np.concatenate([np.ravel(v).astype(np.float64) for v in result.values()]))
"""


def many_processes(model: Path, folder: Path, processes: int) -> dict[str, Any]:
    """Processes that compile one model into one empty cache at once: failures, different answers, entries in the cache
    (and how many a single process makes), temporary files left."""
    import hasten

    cache, alone = folder / "cache", folder / "alone"
    hasten.compile(model, cache_dir=alone)
    code = [
        _PROCESS.format(paths=[SOURCES, str(Path(__file__).parent)], model=str(model), cache=str(cache), out=str(folder / f"{n}.npy"))
        for n in range(processes)
    ]
    running = [subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, text=True) for text in code]
    errors = [errors for p in running if (errors := p.communicate(timeout=300)[1]) and p.returncode]
    answers = [np.load(folder / f"{n}.npy") for n in range(processes) if (folder / f"{n}.npy").exists()]
    names = sorted(p.name for p in cache.rglob("*") if p.is_file())
    return {
        "processes": processes,
        "failed": processes - len(answers),
        "errors": errors[:1],
        "different": sum(not np.array_equal(a, answers[0]) for a in answers),
        "entries": len(names),
        "entries_of_one": sum(p.is_file() for p in alone.rglob("*")),
        "temporary": sum(name.startswith(".tmp-") for name in names),
    }
