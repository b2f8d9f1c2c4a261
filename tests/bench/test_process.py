"""Engines' processes: they answer, sleep, crash, hang and end as they should, and nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hasten.bench.experiment import Task
from hasten.bench.peer import EngineSpec
from hasten.bench.process import Engine, EngineError

CPU = min(os.sched_getaffinity(0))
pytestmark = pytest.mark.usefixtures("fakes")


def engine(task: Task, text: str, **more: object) -> Engine:
    return Engine(EngineSpec.parse(text), task.model, 1, {CPU}, **more)  # type: ignore[arg-type]


def state(pid: int) -> str:
    """One letter; "" where the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def test_answers_and_times(doubling: Task, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with engine(doubling, "fake:steps=2000", cache=tmp_path / "cache") as fake:
        loaded = fake.load(doubling.feeds)
        np.testing.assert_array_equal(loaded.outputs["y"], [2, -4, 6, 8])
        assert loaded.about == {"threads": "1", "OMP_NUM_THREADS": "1", "cpus": f"[{CPU}]", "starts before": "0"}
        assert loaded.answered_ns > fake.began_ns and loaded.base_bytes > 1 << 20
        np.testing.assert_array_equal(fake.outputs({"x": np.ones(4, np.float32)})["y"], [2, 2, 2, 2])
        np.testing.assert_array_equal(fake.outputs()["y"], [2, -4, 6, 8])  # the feeds are as before
        warm = fake.warm(1.0)
        turn = fake.turn(10)
        assert warm.calls > 0 and warm.call_ns > 0
        assert turn.loops == 10 and turn.wall_ns > 0 and turn.cpu_ns > 0 and fake.began_ns < turn.began_ns < time.monotonic_ns()
        assert fake.usage().cpus == {CPU} and fake.usage().peak_bytes >= loaded.base_bytes
        seen, fresh = fake.probe(0.01)
        assert seen > 0 and fresh > 0


def test_a_sequence_of_inputs_and_state(doubling: Task) -> None:
    with engine(doubling, "fake") as fake:
        fake.load(doubling.feeds)
        items = [{"x": np.full(size, size, np.float32)} for size in (1, 5, 3)]
        times, answers = fake.sequence(items, keep=True)
        assert len(times) == 3 and min(times) > 0
        assert [answer["y"].tolist() for answer in answers] == [[2.0], [10.0] * 5, [6.0] * 3]
        times, answers = fake.sequence([items[0], {}, {}], {"y": "x"}, keep=True)
        assert [answer["y"].tolist() for answer in answers] == [[2.0], [4.0], [8.0]]
        assert fake.sequence(items)[1] == []


def test_starts_again(doubling: Task) -> None:
    with engine(doubling, "fake") as fake:
        fake.load(doubling.feeds)
        first = fake._process.pid
        np.testing.assert_array_equal(fake.restart().outputs["y"], [2, -4, 6, 8])
        assert state(first) == "" and state(fake._process.pid) == "T" and fake._process.pid != first
        assert fake.turn(3).loops == 3


def test_sleeps_out_of_turn_and_ends(doubling: Task) -> None:
    with engine(doubling, "fake") as fake:
        fake.load(doubling.feeds)
        pid = fake._process.pid
        assert state(pid) == "T"
        fake.turn(1)
        assert state(pid) == "T"
    assert state(pid) == ""


def test_what_engines_print_damages_nothing(doubling: Task) -> None:
    with engine(doubling, "fake:fault=prints") as fake:
        fake.load(doubling.feeds)
        fake.turn(20)
        np.testing.assert_array_equal(fake.outputs()["y"], [2, -4, 6, 8])


def test_a_crash_is_told_with_its_last_words(doubling: Task) -> None:
    with engine(doubling, "fake:fault=crash,at=1") as fake:
        fake.load(doubling.feeds)
        with pytest.raises(EngineError, match="fake:fault=crash,at=1: its process was ended by signal SIGABRT; its last words: the abacus is on fire"):
            fake.turn(1)
        with pytest.raises(EngineError, match="SIGABRT"):  # and stays told
            fake.turn(1)


def test_a_hanging_engine_is_killed(doubling: Task) -> None:
    with engine(doubling, "fake:fault=hang", limit=0.7) as fake:
        with pytest.raises(EngineError, match="no answer to 'load' within 0.7 seconds; its process was killed"):
            fake.load(doubling.feeds)
        assert state(fake._process.pid) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fake:fault=raises", "ArithmeticError: a bead is missing look under the table"),
        ("fake:fault=refuses", "ValueError: doubling.onnx is not to my taste"),
        ("abacus", "there is no peer 'abacus'"),
    ],
)
def test_refusals_leave_the_process_alive(doubling: Task, text: str, words: str) -> None:
    with engine(doubling, text) as fake:
        with pytest.raises(EngineError, match=words):
            fake.load(doubling.feeds)
        assert state(fake._process.pid) == "T"


PARENT = """
import sys, time
from pathlib import Path
from hasten.bench.peer import EngineSpec
from hasten.bench.process import Engine
import numpy
engine = Engine(EngineSpec("fake"), Path(sys.argv[1]), 1, {int(sys.argv[2])})
engine.load({"x": numpy.ones(4, numpy.float32)})
print(engine._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_engine_outlives_its_parent(doubling: Task, end: signal.Signals) -> None:
    source = str(Path(__file__).resolve().parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], source])}
    command = [sys.executable, "-c", PARENT, str(doubling.model), str(CPU)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.send_signal(end)
        parent.wait(30)
    until = time.monotonic() + 30
    while state(pid) not in ("", "Z") and time.monotonic() < until:  # its new parent may be slow to notice
        time.sleep(0.01)
    assert state(pid) in ("", "Z")
