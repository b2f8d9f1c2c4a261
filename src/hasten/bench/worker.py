"""The process of one engine: loads a model, answers, times its own calls.

Started by `hasten.bench.process` as `python -m hasten.bench.worker READ WRITE PARENT CPUS`: two pipes for messages (what an engine prints cannot
damage them), the process whose death ends this one, the CPUs to run on. The numbers of threads are in the environment before Python starts. A
message is a pickle behind its length; a request names a method of `Worker`, an answer is (True, result) or (False, what went wrong). Answers are made
of tuples, dictionaries and arrays alone, because the package `hasten` of this process may be replaced by another revision's.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import os
import pickle
import resource
import signal
import statistics
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hasten.bench.inputs import nudged, overwrite, own

LENGTH = struct.Struct("<Q")  # ahead of every message

BATCH_NS = 2_000_000  # calls that are timed together while an engine warms up
STEADY_BATCHES = 5  # so many batches without a new best: warm
BETTER = 0.98  # of the best so far is a new best
WAKE_NS = 1_000_000  # calls that are not timed after a pause: caches fill, threads wake
PROBES = (2, 15)  # least and most calls with inputs never seen before


class Worker:
    """What the parent may ask for; `hasten.bench.process.Engine` says what the answers mean."""

    def __init__(self) -> None:
        self._run: Any = None
        self._runner: Any = None
        self._feeds: dict[str, Any] = {}
        self._nudges = 0  # changed inputs so far: no two are alike

    def load(self, peer: str, options: Mapping[str, str], model: str, threads: int, cache: str | None, feeds: Mapping[str, Any]) -> tuple[Any, ...]:
        """Load, and answer once."""
        from hasten.bench import peers

        before = memory("VmRSS")
        self._feeds = dict(feeds)
        self._runner = peers.find(peer).load(Path(model), threads, options, Path(cache) if cache else None)
        self._run = self._runner.run
        outputs = own(self._run(self._feeds))
        answered = time.monotonic_ns()
        return self.about(), outputs, answered, before

    def outputs(self, feeds: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to `feeds`, written into the arrays that are there, as a service does it; to the feeds of `load` without."""
        if feeds is None:
            return own(self._run(self._feeds))
        kept = own(self._feeds)
        try:
            overwrite(self._feeds, feeds)
            return own(self._run(self._feeds))
        finally:
            overwrite(self._feeds, kept)

    def warm(self, seconds: float) -> tuple[int, bool, int]:
        """Call until no batch is faster than the best by more than 2% for five batches, or `seconds` have passed: calls until then, whether times are
        steady, nanoseconds of a call."""
        until, best, wall, size = time.monotonic_ns() + seconds * 1e9, math.inf, 0, 1
        since = calls = needed = 0
        while since < STEADY_BATCHES and time.monotonic_ns() < until:
            wall = self._call(size)
            calls += size
            if wall * 2 < BATCH_NS:  # too short to judge
                size *= 2
            elif wall / size < best * BETTER:
                since, needed = 0, calls
                best = wall / size
            else:
                since += 1
        return needed, since >= STEADY_BATCHES, max(1, round(min(best, wall / size)))

    def turn(self, loops: int, wake_ns: int = WAKE_NS) -> tuple[int, int, int, int]:
        """Calls that are not timed until `wake_ns` have passed (at least one), then `loops` that are: nanoseconds of wall time, of CPU time (all
        threads, and children that ended), when it began, and for how long threads were ready and did not run. No garbage is collected meanwhile."""
        run, feeds = self._run, self._feeds
        gc.disable()
        try:
            woken = time.monotonic_ns() + wake_ns
            while wake_ns:
                run(feeds)
                if time.monotonic_ns() >= woken:
                    break
            waited, cpu, began = _waited_ns(), _cpu_ns(), time.monotonic_ns()
            for _ in itertools.repeat(None, loops):
                run(feeds)
            ended = time.monotonic_ns()
            return ended - began, _cpu_ns() - cpu, began, _waited_ns() - waited
        finally:
            gc.enable()

    def sequence(self, items: Sequence[Mapping[str, Any]], carry: Mapping[str, str], keep: bool) -> tuple[list[int], list[dict[str, Any]]]:
        """One call with each of the inputs in turn, whose shapes may differ; `carry` names, for each output that is state, the input that takes
        it in the next call: nanoseconds of each call, and the answers if they are to be kept."""
        call, reused = getattr(self._runner, "answer", self._run), getattr(self._runner, "reuses_outputs", False)
        state: dict[str, Any] = {}
        times, answers = [], []
        gc.disable()
        try:
            for item in items:
                feeds = {**item, **state}
                began = time.monotonic_ns()
                outputs = call(feeds)
                state = {given: outputs[made].copy() if reused else outputs[made] for made, given in carry.items()}
                times.append(time.monotonic_ns() - began)
                if keep:
                    answers.append(own(outputs))
        finally:
            gc.enable()
        return times, answers

    def probe(self, seconds: float) -> tuple[int, int]:
        """Nanoseconds (medians) of a call with inputs seen before, and with inputs never seen: far apart, they betray remembered answers."""
        kept = own(self._feeds)
        seen: list[int] = []
        fresh: list[int] = []
        until = time.monotonic_ns() + round(seconds * 1e9)
        try:
            for step in range(PROBES[1]):
                self._nudges += 1
                overwrite(self._feeds, nudged(kept, self._nudges))
                fresh.append(self._call())
                for times in ([], seen):  # the first call with the old inputs would be new to a memory of one
                    overwrite(self._feeds, kept)
                    times.append(self._call())
                if step + 1 >= PROBES[0] and time.monotonic_ns() > until:
                    break
        finally:
            overwrite(self._feeds, kept)
        return round(statistics.median(seen)), round(statistics.median(fresh))

    def _call(self, loops: int = 1) -> int:
        """Nanoseconds of calls, without those in which they had to wait for a CPU and did not work."""
        wall, cpu, _, waited = self.turn(loops, 0)
        return wall - min(waited, max(0, wall - cpu))

    def about(self) -> dict[str, str]:
        """What the engine says of itself now."""
        return dict(self._runner.describe())

    def usage(self) -> tuple[int, frozenset[int]]:
        """Most resident bytes so far, and the CPUs that any thread may run on."""
        return memory("VmHWM"), frozenset().union(*map(_affinity, os.listdir("/proc/self/task")))


def memory(line: str) -> int:
    """Bytes that /proc/self/status tells: VmRSS, VmHWM."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(line + ":"):
            return int(text.split()[1]) * 1024
    raise KeyError(line)


def _cpu_ns() -> int:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time_ns() + round((children.ru_utime + children.ru_stime) * 1e9)


def _waited_ns() -> int:
    """For how long threads of the process were ready and did not run, added up; 0 where Linux doesn't say."""
    return sum(map(_thread_waited_ns, os.listdir("/proc/self/task")))


def _thread_waited_ns(thread: str) -> int:
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def _affinity(thread: str) -> set[int]:
    try:
        return os.sched_getaffinity(int(thread))
    except ProcessLookupError:  # ended meanwhile
        return set()


def die_with(parent: int) -> None:
    """Let the kernel kill this process when the parent ends, however it ends."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def send(pipe: Any, message: Any) -> None:
    """One message into a pipe."""
    data = pickle.dumps(message, 5)
    pipe.write(LENGTH.pack(len(data)) + data)
    pipe.flush()


def receive(pipe: Any) -> Any:
    """One message of a pipe. Raises EOFError where the other side is gone."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    return pickle.loads(pipe.read(LENGTH.unpack(head)[0]))


def serve(requests: Any, answers: Any) -> None:
    """Answer until the parent closes its pipe."""
    worker = Worker()
    while True:
        try:
            name, arguments = receive(requests)
        except EOFError:
            return
        try:
            answer = True, getattr(worker, name)(*arguments)
        except Exception as error:  # an engine's errors have no common class
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = " ".join(lines[:2])[:500]
            answer = False, said if type(error).__module__.startswith("hasten.") else f"{type(error).__name__}: {said}"
        send(answers, answer)


def main() -> None:
    read, write, parent, cpus = sys.argv[1:]
    die_with(int(parent))
    os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with os.fdopen(int(read), "rb") as requests, os.fdopen(int(write), "wb") as answers:
        serve(requests, answers)


if __name__ == "__main__":
    main()
