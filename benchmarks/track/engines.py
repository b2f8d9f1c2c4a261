"""Engines of known speed, and load, to try the track with.

`spin:steps=N` counts to N in each call. With `restless=1` it has a thread that never rests. `command:words=...` runs a program to its end in each call
(words parted by spaces). `python engines.py SEED [WAIT]` is other work: busy and idle in turns of random length, or, with WAIT 0, always busy.
"""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from installed import installed  # noqa: E402

TURN = 0.3  # mean seconds of load, and of rest


class Runner:
    """Calls `work`, whose result nobody needs."""

    def __init__(self, work: Any):
        self._work = work

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self._work()
        return {}

    def describe(self) -> dict[str, str]:
        return {}


class Spin:
    name = "spin"
    package = "numpy"

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        steps = int(options["steps"])
        if options.get("restless"):
            threading.Thread(target=_restless, daemon=True).start()

        def work() -> None:
            for _ in range(steps):
                pass

        return Runner(work)


class Command:
    name = "command"
    package = "numpy"

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        words = shlex.split(options["words"])
        return Runner(lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL))


def _restless() -> None:
    """Busy without Python's lock."""
    data = bytes(1 << 24)
    while True:
        hashlib.sha256(data)


SPIN, COMMAND = Spin(), Command()


def spinning() -> AbstractContextManager[None]:
    """Engines' processes find `spin` and `command`."""
    return installed(HERE, {"spin": "engines:SPIN", "command": "engines:COMMAND"})


@contextmanager
def load(processes: int, *, always: bool = False) -> Iterator[None]:
    """Other work in so many processes, which end with this one."""
    more = ["0"] if always else []
    running = [subprocess.Popen([sys.executable, __file__, str(seed), *more], stdin=subprocess.PIPE) for seed in range(processes)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _work(seed: int, rest: float) -> None:
    """Until the parent is gone: its end of the pipe closes with it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    drawn = random.Random(seed)
    while True:
        until = time.monotonic() + drawn.expovariate(1 / TURN)
        while time.monotonic() < until:
            for _ in range(10_000):
                pass
        time.sleep(drawn.expovariate(1 / rest) if rest else 0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _work(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else TURN)
