"""The pool, calls from many threads, fork, denormals, Python's lock, and how many threads there are."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.base import dims as D
from hasten.base.errors import ExecutionError, InputError
from hasten.vm import program as P
from hasten.vm import runtime

N = D.symbol("N")


def doubling(work: D.DimLike) -> P.Program:
    return P.Program(
        [P.TensorSpec("x", "float32", (N,), "x")],
        [P.TensorSpec("y", "float32", (N,), "y")],
        [],
        [
            P.Arena("s", N * 4),
            P.Alloc("y", N * 4, "output"),
            P.Call("k_double", ("x", "s", N), work),
            P.Call("k_double", ("s", "y", N), work),
            P.Output(0, "y", (N,)),
        ],
    )


def marking(work: int) -> P.Program:
    body = [
        P.Alloc("y", 64, "output"),
        *(P.Call("k_put", ("y", n, 0)) for n in range(8)),
        P.Call("k_mark", ("y",), work),
        P.Output(0, "y", (8,)),
    ]
    return P.Program([], [P.TensorSpec("y", "int64", (8,), "y")], [], body)


@pytest.mark.parametrize(
    ("work", "want"), [(0, [1]), (9_999, [1]), (10_000, [2, 2]), (16_000, [3, 3, 3]), (10**9, [4] * 4)]
)
def test_threads_by_work(toolbox: Any, work: int, want: list[int]) -> None:
    want = want + [0] * (8 - len(want))
    for model in toolbox.both(marking(work), threads=4):
        for _ in range(200):
            assert model().tolist() == want
    assert runtime.load_runtime(toolbox.runtime).workers() >= min(len([w for w in want if w]) - 1, 3)


def test_many_callers(toolbox: Any) -> None:
    model = toolbox.model(doubling(N * 100), threads=3)
    errors: list[BaseException] = []

    def caller(seed: int) -> None:
        try:
            random = np.random.default_rng(seed)
            for _ in range(150):
                x = random.random(int(random.integers(0, 5000)), np.float32)
                np.testing.assert_array_equal(model(x), x * 4)
                if seed % 4 == 0:
                    model.trim()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def test_more_threads_than_cpus_after_sleep(toolbox: Any) -> None:
    model = toolbox.model(doubling(10**9), threads=16)
    x = np.arange(1001, dtype=np.float32)
    for pause in (0, 0, 0.001, 0.02, 0, 0.02):
        time.sleep(pause)
        np.testing.assert_array_equal(model(x), x * 4)


def test_fork(toolbox: Any) -> None:
    model = toolbox.model(doubling(10**9), threads=4)
    x = np.arange(5000, dtype=np.float32)
    assert (model(x) == x * 4).all()
    child = os.fork()
    if child == 0:  # the child has none of the workers
        good = runtime.load_runtime(toolbox.runtime).workers() == 0 and (model(x) == x * 4).all()
        os._exit(0 if good and runtime.load_runtime(toolbox.runtime).workers() == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (model(x) == x * 4).all()


def test_workers_block_signals(toolbox: Any) -> None:
    toolbox.model(marking(10**9), threads=4)()
    masks = []
    for task in Path("/proc/self/task").iterdir():
        lines = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        if int(task.name) != os.getpid():
            masks.append(int(lines["SigBlk"], 16))
    assert sum(1 for mask in masks if mask & 0x4002 == 0x4002) >= 3  # SIGINT and SIGTERM


@pytest.mark.parametrize("work", [0, 10**9])
def test_denormals_are_flushed_and_the_mode_restored(toolbox: Any, work: int) -> None:
    tiny = np.full(4096, 1e-40, np.float32)
    for model in toolbox.both(doubling(work), threads=3):
        assert not model(tiny).any()
        assert (tiny * np.float32(2) > 0).all(), "the caller's mode must not change"


def test_mode_restored_after_failure(toolbox: Any) -> None:
    program = doubling(0)
    program.instructions.insert(0, P.Call("k_status", (1,)))
    model = toolbox.model(program)
    with pytest.raises(ExecutionError):
        model(np.ones(3, np.float32))
    assert np.float32(1e-40) * np.float32(2) > 0


def test_long_calls_release_the_lock(toolbox: Any) -> None:
    body = [P.Alloc("y", 4, "output"), P.Call("k_wait", ("x", "y"), 10**6), P.Output(0, "y", (1,))]
    program = P.Program([P.TensorSpec("x", "float32", (1,), "x")], [P.TensorSpec("y", "float32", (1,), "y")], [], body)
    for model in toolbox.both(program):
        x = np.zeros(1, np.float32)
        timer = threading.Timer(0.05, x.fill, [3.0])
        timer.start()
        assert model(x)[0] == 3


# --- how many ---------------------------------------------------------------------------------------------------------
def test_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "usable_cpus", lambda: 6)
    assert runtime.thread_count() == 6
    assert runtime.thread_count(3) == 3
    monkeypatch.setenv("HASTEN_NUM_THREADS", "2")
    assert runtime.thread_count() == 2 and runtime.thread_count(5) == 5
    for bad in ("0", "-1", "many", "1000"):
        monkeypatch.setenv("HASTEN_NUM_THREADS", bad)
        with pytest.raises(InputError):
            runtime.thread_count()
    with pytest.raises(InputError, match="threads=0"):
        runtime.thread_count(0)


def test_quota_of_cgroups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert runtime.cgroup_quota(tmp_path, own) is None
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("250000 100000\n")
    assert runtime.cgroup_quota(tmp_path, own) == 2.5
    own.write_text("4:cpu,cpuacct:/job\n")
    job = tmp_path / "cpu" / "job"
    job.mkdir(parents=True)
    (job / "cpu.cfs_quota_us").write_text("50000\n")
    (job / "cpu.cfs_period_us").write_text("100000\n")
    assert runtime.cgroup_quota(tmp_path, own) == 0.5
    assert runtime.cgroup_quota(tmp_path, tmp_path / "nothing") is None
