"""An engine with one model in a process of its own, so that engines share neither threads nor allocators, and a crash is one result.

`Engine(...)` starts the process with `threads` threads on as many CPUs; `.steps(case)` runs a case and gives its outputs, `.seconds(n)` the
times of n calls of the case run last. Messages are pickles over the process's pipes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from cases import Case, run_steps

LIMIT = 600  # seconds for one answer


class EngineError(Exception):
    """The engine's process failed; the message is its last word."""


class Engine:
    """`name`: "hasten", with `options` of hasten.compile, or a peer of hasten.bench.peers."""

    def __init__(self, name: str, case: Case, threads: int, cpus: list[int], options: dict[str, Any] | None = None):
        self.name = name
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.said = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, env=environment
        )
        try:
            self.about: dict[str, Any] = self._ask((name, str(case.path), threads, cpus, options or {}))
        except EngineError:
            self.close()
            raise

    def steps(self, case: Case) -> list[dict[str, Any]]:
        """The outputs of every step of a case."""
        return self._ask(("steps", case))  # type: ignore[no-any-return]

    def seconds(self, count: int) -> list[float]:
        """Times of `count` calls with the first feeds of the last case, after one that isn't timed."""
        return self._ask(("time", count))  # type: ignore[no-any-return]

    def _ask(self, message: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        watch = threading.Timer(LIMIT, self.process.kill)
        watch.start()
        try:
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()
            good, answer = pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self.process.wait(20)
            self.said.seek(0)
            last = self.said.read().decode(errors="replace").strip().splitlines()[-1:]
            raise EngineError(f"{self.name}: the process ended with {code}: {' '.join(last)[:300]}") from None
        finally:
            watch.cancel()
        if not good:
            raise EngineError(f"{self.name}: {answer}")
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.said.close()


# --- in the process -----------------------------------------------------------------------------------------------------
def _start(name: str, path: str, threads: int, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What runs the model, and what there is to say about it."""
    if name != "hasten":
        from hasten.bench.peers import find

        return find(name).load(Path(path), threads, {}, None).run, {}
    import hasten

    model = hasten.compile(path, threads=threads, **options)
    report = model.report()
    return model.run, {
        "isa": report.isa, "kernels": report.kernels, "host_ops": report.host_ops, "from_cache": report.from_cache,
        "compile_seconds": round(report.compile_seconds, 3),
    }  # fmt: skip


def _answer(run: Any, state: dict[str, Any], message: Any) -> Any:
    if message[0] == "steps":
        state["feeds"] = message[1].feeds
        return run_steps(run, message[1])
    feeds, times = state["feeds"], []
    run(feeds)
    for _ in range(message[1]):
        began = time.perf_counter()
        run(feeds)
        times.append(time.perf_counter() - began)
    return times


def main() -> None:
    """Serve: the first message starts the engine."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what engines print goes elsewhere
    run: Any = None
    state: dict[str, Any] = {}
    while True:
        try:
            message = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if run is None:
                name, path, threads, allowed, options = message
                os.sched_setaffinity(0, allowed)
                run, answer = _start(name, path, threads, options)
            else:
                answer = _answer(run, state, message)
            pickle.dump((True, answer), out)
        except Exception as error:  # noqa: BLE001 - an engine's errors have no common class
            first = str(error).strip().partition("\n")[0]
            pickle.dump((False, f"{type(error).__name__}: {first[:300]}"), out)
        out.flush()


if __name__ == "__main__":
    main()
