"""How long each kernel of a run takes.

The Program is interpreted once, and what every kernel was called with is kept. The same calls are then made again in every round: in their order,
in the same memory, with nothing between them, so that the caches and the pool's workers find what they find in a native run. Kernels are functions of
what lies in memory, so every round does the same. Not so where host ops take part, or where sizes are read from memory that random numbers got into:
there every round is interpreted, caches are colder, workers may be asleep when a kernel begins, and short kernels look slower than they are
(`Recording.replayed` tells which it was).

Whole native calls are timed in the same rounds, so what is no kernel (allocation, sizes, checks, the call itself) is the difference.

A model of one thread is timed by that thread's own time on the CPU: what other work takes away from it in between does not count, so profiles can be
taken on busy machines. With several threads the clock on the wall is all there is.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hasten.base.errors import ExecutionError
from hasten.vm import abi
from hasten.vm.callpath import Model, NativeModel
from hasten.vm.interpreter import InterpretedModel, Run
from hasten.vm.program import Call, Host, Program, Read
from hasten.vm.runtime import Runtime, loaded_runtime

FEWEST_ROUNDS = 5
FRESH_SEED = "seed_"  # how kernels are called that take a seed from the clock (kernels.seed)
Clock = Callable[[], int]
"""Nanoseconds."""


@dataclass(frozen=True)
class Step:
    """A kernel called, or a host op run. `number` counts the Program's Calls (Hosts) in the order of its text; `sizes` are the integers known
    then; `threads` those that shared the kernel."""

    instruction: Call | Host
    number: int
    threads: int
    sizes: Mapping[str, int]


@dataclass
class Recording:
    """The steps of a run in order; for each round and step its start and end (nanoseconds, without the time of timing itself); and for each round the
    seconds of a whole call of the model."""

    steps: list[Step]
    replayed: bool
    rounds: list[list[tuple[int, int]]] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)


def record(model: Model, values: Mapping[str, Any], rounds: int | None = None, seconds: float = 1.0) -> Recording:
    """Time the kernels of `model` on inputs by name: in as many rounds, or for about so many seconds and at least five rounds.

    Raises as a call of the model does.
    """
    interpreted, arrays = _interpreted(model), model.signature.convert(model.signature.from_names(values))
    runtime = interpreted.runtime
    clock = time.thread_time_ns if model.threads == 1 else time.perf_counter_ns
    cost = _cost_of_timing(runtime, clock)
    first = _Recorded(interpreted, arrays, clock)
    first.outputs()
    replayed = _repeats(model.program)
    recording = Recording(first.steps, replayed)
    stop = time.perf_counter() + seconds
    while len(recording.rounds) < (rounds or FEWEST_ROUNDS) or (rounds is None and time.perf_counter() < stop):
        stamps = first.replay() if replayed else _stamps(_Recorded(interpreted, arrays, clock), first.steps)
        recording.rounds.append([(start, max(start, end - cost)) for start, end in stamps])
        began = clock()
        model.call(*arrays)
        recording.calls.append((clock() - began) / 1e9)
    return recording


def _repeats(program: Program) -> bool:
    """Whether the same calls in the same memory do the same again."""
    instructions = list(abi.everything(program))
    random = any(isinstance(i, Call) and i.kernel.startswith(FRESH_SEED) for i in instructions)
    return not program.host_ops and not (random and any(isinstance(i, Read) for i in instructions))


def _interpreted(model: Model) -> InterpretedModel:
    """The same model for the interpreter."""
    if isinstance(model, InterpretedModel):
        return model
    runtime = loaded_runtime()
    assert isinstance(model, NativeModel) and runtime is not None
    return InterpretedModel(model.program, model.image, model.constants, runtime, model.threads)


def _stamps(run: _Recorded, steps: list[Step]) -> list[tuple[int, int]]:
    """One more interpreted run, which must do the same."""
    run.outputs()
    if [s.instruction for s in run.steps] != [s.instruction for s in steps]:
        raise ExecutionError("this model does other work in every run (random numbers decide what it does), so its kernels have no typical time")
    return run.stamps


def _cost_of_timing(runtime: Runtime, clock: Clock) -> int:
    """Nanoseconds that a kernel without work seems to take: a function of the run-time library that only reads a number plays it."""
    empty = runtime.image.address(abi.WORKERS)
    least = 1 << 62
    for _ in range(500):
        start = clock()
        runtime.invoke(empty, None, 1)
        least = min(least, clock() - start)
    return least


class _Recorded(Run):
    """A run that keeps its steps, and the memory that they work in."""

    def __init__(self, model: InterpretedModel, inputs: list[Any], clock: Clock):
        super().__init__(model, inputs)
        self.clock = clock
        self.steps: list[Step] = []
        self.stamps: list[tuple[int, int]] = []
        self.kept: list[tuple[int, ctypes.Array[ctypes.c_int64], int]] = []  # kernel, argument words, threads
        self.owners: set[int] = set()
        self.memory: list[object] = []
        order = list(abi.everything(model.program))
        self.numbers = {id(i): n for kind in (Call, Host) for n, i in enumerate(i for i in order if isinstance(i, kind))}

    def invoke(self, i: Call, words: ctypes.Array[ctypes.c_int64], threads: int) -> None:
        self._step(i, threads)
        for arg in i.args:
            if isinstance(arg, str) and id(owner := self.buffers[arg].owner) not in self.owners:
                self.owners.add(id(owner))
                self.memory.append(owner)
        self.kept.append((self.model.kernels[i.kernel], words, threads))
        start = self.clock()
        super().invoke(i, words, threads)
        self.stamps.append((start, self.clock()))

    def on_host(self, i: Host, operands: list[Any]) -> Sequence[Any]:
        self._step(i, 1)
        start = self.clock()
        results = super().on_host(i, operands)
        self.stamps.append((start, self.clock()))
        return results

    def _step(self, i: Call | Host, threads: int) -> None:
        known = self.steps[-1].sizes if self.steps else None
        self.steps.append(Step(i, self.numbers[id(i)], threads, known if known == self.integers else dict(self.integers)))

    def replay(self) -> list[tuple[int, int]]:
        """Make all kernel calls again; start and end of each."""
        now, invoke = self.clock, self.model.runtime.invoke
        stamps = []
        for kernel, words, threads in [(kernel, ctypes.addressof(words), threads) for kernel, words, threads in self.kept]:
            start = now()
            invoke(kernel, words, threads)
            stamps.append((start, now()))
        self.check_status()
        return stamps
