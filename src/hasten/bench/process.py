"""The parent's side of an engine's process: start it, ask it, stop it while others have their turn, end it.

The process sleeps (SIGSTOP, its children too) except while it answers, so that an engine whose threads spin disturbs nobody. An engine that crashes,
hangs or refuses is an EngineError; nothing of it is left: its process group is killed, and the kernel kills it when the parent itself dies.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import hasten
from hasten.base.errors import HastenError
from hasten.bench.peer import EngineSpec, Feeds
from hasten.bench.worker import LENGTH

LIMIT = 300.0  # seconds for one answer
PARTING = 5.0  # seconds to end by itself
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "TBB_NUM_THREADS", "HASTEN_NUM_THREADS")
LAST_WORDS = 2000  # bytes of what the process printed last


class EngineError(HastenError):
    """An engine failed: it refused the model, crashed, or did not answer in time."""


@dataclass(frozen=True)
class Loaded:
    """A model is ready: what the engine says of itself, its first answer and when it came (monotonic ns), bytes resident before loading."""

    about: dict[str, str]
    outputs: dict[str, Any]
    answered_ns: int
    base_bytes: int


@dataclass(frozen=True)
class Warm:
    """`calls` until times were steady (or the time was up), and nanoseconds of a call then."""

    calls: int
    steady: bool
    call_ns: int


@dataclass(frozen=True)
class Turn:
    """`loops` calls back to back, in nanoseconds; `cpu_ns` of all threads of the process and of children that ended; `wait_ns`: how long
    threads were ready and did not run, added up."""

    loops: int
    wall_ns: int
    cpu_ns: int
    began_ns: int
    wait_ns: int


@dataclass(frozen=True)
class Usage:
    """Most resident bytes so far, and the CPUs that any of its threads may run on."""

    peak_bytes: int
    cpus: frozenset[int]


class Engine:
    """The engine `spec` in a process with `threads` threads on `cpus`, for the file `model`; `cache` as in `Peer.load`.

    A context manager. To be used, and ended, by the thread that made it: the kernel kills the process when that thread ends.
    """

    def __init__(self, spec: EngineSpec, model: Path, threads: int, cpus: Iterable[int], cache: Path | None = None, *, limit: float = LIMIT):
        self.spec, self.model, self.threads, self.cpus = spec, model, threads, frozenset(cpus)
        self._cache, self._limit = cache, limit
        self._feeds: Feeds = {}
        self._start()

    def _start(self) -> None:
        self._said = tempfile.TemporaryFile()
        ours, theirs = os.pipe(), os.pipe()  # (read, write): answers, requests
        self._read, self._write = ours[0], theirs[1]
        for pipe in (self._read, self._write):
            os.set_blocking(pipe, False)
        allowed = ",".join(map(str, sorted(self.cpus)))
        command = [sys.executable, "-P", "-m", "hasten.bench.worker", str(theirs[0]), str(ours[1]), str(os.getpid()), allowed]
        self.began_ns = time.monotonic_ns()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said, pass_fds=(theirs[0], ours[1]),
                env=_environment(self.threads), start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(theirs[0])
            os.close(ours[1])

    def load(self, feeds: Feeds) -> Loaded:
        """Load the model and answer `feeds` once; they are the inputs of all that is timed."""
        self._feeds = feeds
        cache = str(self._cache) if self._cache else None
        return Loaded(*self._ask("load", self.spec.peer, dict(self.spec.options), str(self.model), self.threads, cache, dict(feeds)))

    def restart(self) -> Loaded:
        """The same in a fresh process."""
        self.close()
        self._start()
        return self.load(self._feeds)

    def outputs(self, feeds: Feeds | None = None) -> dict[str, Any]:
        """The answer to `feeds`, without to those of `load`."""
        return self._ask("outputs", None if feeds is None else dict(feeds))

    def warm(self, seconds: float) -> Warm:
        """Call until times are steady."""
        return Warm(*self._ask("warm", seconds))

    def turn(self, loops: int) -> Turn:
        """Time `loops` calls, after some that are not timed."""
        return Turn(loops, *self._ask("turn", loops))

    def sequence(self, items: Sequence[Feeds], carry: Mapping[str, str] | None = None, *, keep: bool = False) -> tuple[list[int], list[dict[str, Any]]]:
        """One call with each of the inputs in turn, whose shapes may differ: nanoseconds of each call, and the answers if `keep`. `carry` names, for each
        output that is state, the input that takes it in the next call; the first item has all inputs."""
        times, answers = self._ask("sequence", [dict(item) for item in items], dict(carry or {}), keep)
        return times, answers

    def probe(self, seconds: float) -> tuple[int, int]:
        """Nanoseconds of a call with the inputs of `load`, and with inputs never seen before."""
        return self._ask("probe", seconds)

    def about(self) -> dict[str, str]:
        """What the engine says of itself now."""
        return self._ask("about")

    def usage(self) -> Usage:
        """Memory, and CPUs that threads may run on."""
        return Usage(*self._ask("usage"))

    def close(self) -> None:
        """End the process and its children."""
        for pipe in (self._write, self._read):
            with contextlib.suppress(OSError):
                os.close(pipe)
        self._write = self._read = -1
        self._signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PARTING)
        self._kill()
        self._said.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._kill()
        self.close()

    # --- messages -------------------------------------------------------------------------------------------------------------
    def _ask(self, name: str, *arguments: Any) -> Any:
        data = pickle.dumps((name, arguments), 5)
        deadline = _Deadline(self._limit)
        self._signal(signal.SIGCONT)
        try:
            self._push(LENGTH.pack(len(data)) + data, deadline)
            (size,) = LENGTH.unpack(self._pull(LENGTH.size, deadline))
            good, answer = pickle.loads(self._pull(size, deadline))
        except TimeoutError:
            self._kill()
            raise EngineError(f"{self.spec}: no answer to {name!r} within {self._limit:g} seconds; its process was killed.") from None
        except OSError:  # EOF and broken pipes
            raise EngineError(f"{self.spec}: {self._end()}") from None
        self._stop()
        if not good:
            raise EngineError(f"{self.spec}: {answer}")
        return answer

    def _push(self, data: bytes, deadline: _Deadline) -> None:
        view = memoryview(data)
        while view:
            deadline.wait(self._write, select.POLLOUT)
            view = view[os.write(self._write, view) :]

    def _pull(self, size: int, deadline: _Deadline) -> bytes:
        parts = []
        while size:
            deadline.wait(self._read, select.POLLIN)
            part = os.read(self._read, min(size, 1 << 20))
            if not part:
                raise BrokenPipeError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    # --- the process ----------------------------------------------------------------------------------------------------------
    def _stop(self) -> None:
        """Send the process to sleep; on return it sleeps, or has ended (which the next request finds out)."""
        self._signal(signal.SIGSTOP)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _signal(self, number: int) -> None:
        """To the process and its children: it leads a group of its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _end(self) -> str:
        """How the process ended, with what it printed last."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PARTING)
        self._kill()
        code = self._process.returncode
        how = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - LAST_WORDS))
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        return f"its process {how}" + (f"; its last words: {lines[-1][:300]}" if lines else " without a word") + "."


class _Deadline:
    """A time until which pipes are waited for."""

    def __init__(self, seconds: float):
        self._until = time.monotonic() + seconds

    def wait(self, pipe: int, event: int) -> None:
        """Until the pipe is ready. Raises TimeoutError when the time is up."""
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0.0, self._until - time.monotonic()) * 1000):
            raise TimeoutError


def _environment(threads: int) -> Mapping[str, str]:
    """Of the process: numbers of threads, and where this Hasten lies."""
    home = str(Path(hasten.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
