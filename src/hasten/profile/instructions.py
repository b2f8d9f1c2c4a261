"""The instructions of a run with their times: kernels, and all that is around them: sizes and checks, memory, values, control.

A native driver that notes when each instruction begins and ends runs the model in every round. Between two notes all time belongs to one instruction: the
innermost that is open. So nothing is counted twice, and the times of If, While and Invoke are their own, without what happens inside.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hasten.vm import program as P
from hasten.vm.callpath import NativeModel
from hasten.vm.instructions import ROW_OF
from hasten.vm.listing import Line, Listing

if TYPE_CHECKING:
    from hasten.api import CompiledModel
    from hasten.profile.timed import Marks, Timed

FEWEST_ROUNDS = 5
GROUPS: dict[str, tuple[type, ...]] = {
    "kernels": (P.Call,),
    "sizes and checks": (P.Let, P.Read, P.Check),
    "memory": (P.Arena, P.Alloc, P.Retain, P.Release, P.View, P.Output),
    "values": (P.Move, P.Pack, P.Tag, P.Field),
    "control": (P.If, P.While, P.Invoke, P.Return),
}
"""What instructions are for; host ops have no native driver."""
_GROUP_OF = {kind: name for name, kinds in GROUPS.items() for kind in kinds}


@dataclass(frozen=True)
class InstructionTime:
    """One instruction over a run. number, depth, text, note: as in `hasten.vm.listing`; function: "" for the main code; calls: how often it began;
    seconds: its own, the median over the rounds."""

    number: int
    depth: int
    function: str
    name: str
    group: str
    text: str
    note: str
    calls: int
    seconds: float

    @property
    def kernel(self) -> str:
        """Of a Call."""
        return self.text.split(" ")[1] if self.name == "Call" else ""


@dataclass(frozen=True)
class Span:
    """An instruction of one run: its number, its start after that of the run, and its seconds with what happens inside."""

    number: int
    start: float
    seconds: float


@dataclass(frozen=True)
class Instructions:
    """`rows` in the order of the Program; `spans` of a typical run; `cut_off`: the run has more instructions than are noted."""

    rows: tuple[InstructionTime, ...]
    spans: tuple[Span, ...]
    cut_off: bool

    def groups(self) -> dict[str, float]:
        """Seconds by what instructions are for."""
        found = dict.fromkeys(GROUPS, 0.0)
        for row in self.rows:
            found[row.group] += row.seconds
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the run."""
        return {"groups": self.groups(), "cut_off": self.cut_off, "instructions": [asdict(row) for row in self.rows]}


def time_instructions(model: CompiledModel, inputs: Mapping[str, Any], *, rounds: int | None = None, seconds: float = 1.0) -> Instructions | None:
    """Run a model on `inputs` in as many rounds, or for about so many seconds; None for one that has no native driver. Raises as a call does."""
    from hasten.codegen import isa as isas
    from hasten.profile.timed import Timed

    if not isinstance(model.driver, NativeModel):
        return None
    timed = Timed(model.driver, isas.get(model.report().isa))
    arrays = timed.model.signature.convert(timed.model.signature.from_names(inputs))
    listing = model.disassemble()
    runs: list[Marks] = []
    stop = time.perf_counter() + seconds
    while len(runs) < (rounds or FEWEST_ROUNDS) or (rounds is None and time.perf_counter() < stop):
        runs.append(timed.run(arrays))
    return gather(timed, listing, runs)


def gather(timed: Timed, listing: Listing, runs: list[Marks]) -> Instructions:
    """The times of all runs by instruction, and the spans of the one with the median time."""
    lines = [("", line) for line in listing.code] + [(name, line) for name, part in listing.functions.items() for line in part]
    spent = np.array([_own(run, timed.cost, lines) for run in runs]) * timed.tick
    typical = runs[int(np.argsort([run.ticks[-1] - run.ticks[0] for run in runs])[len(runs) // 2])]
    begun = np.bincount(typical.at[typical.begins], minlength=len(lines))
    rows = tuple(_row(function, line, int(begun[n]), float(np.median(spent[:, n]))) for n, (function, line) in enumerate(lines))
    return Instructions(rows, tuple(_spans(typical, timed.tick, lines)), typical.cut_off)


def _row(function: str, line: Line, calls: int, seconds: float) -> InstructionTime:
    kind = type(line.instruction)
    return InstructionTime(line.number, line.depth, function, ROW_OF[kind].name, _GROUP_OF[kind], line.text, line.note, calls, seconds)


def _own(marks: Marks, cost: float, lines: list[tuple[str, Line]]) -> np.ndarray[Any, Any]:
    """Ticks of each instruction's own."""
    owners = np.array([path[-1] if path else len(lines) for _, path in _open(marks, lines)][:-1], np.int64)
    ticks = np.maximum(np.diff(marks.ticks) - cost, 0)
    return np.bincount(owners, ticks, len(lines) + 1)[: len(lines)]


def _open(marks: Marks, lines: list[tuple[str, Line]]) -> Iterator[tuple[int, list[int]]]:
    """After each mark, how many of those that were open still are, and what is open now, outermost first (the same list again and again)."""
    path: list[int] = []
    for at, begins in zip(marks.at.tolist(), marks.begins.tolist(), strict=True):
        if begins:
            _leave(path, lines)
            kept = len(path)
            path.append(at)
        else:
            while path and path.pop() != at:  # with it the Return that ended it
                pass
            kept = len(path)
        yield kept, path


def _leave(path: list[int], lines: list[tuple[str, Line]]) -> None:
    """A tail call that is open when something begins has ended the activation that it was in."""
    last = lines[path[-1]][1].instruction if path else None
    if isinstance(last, P.Invoke) and last.tail:
        while path and not _waits(lines[path[-1]][1].instruction):
            path.pop()


def _waits(i: P.Instruction) -> bool:
    return isinstance(i, P.Invoke) and not i.tail


def _spans(marks: Marks, tick: float, lines: list[tuple[str, Line]]) -> Iterator[Span]:
    """In the order of their ends."""
    times = ((marks.ticks - marks.ticks[:1]) * tick).tolist()
    begun: list[tuple[int, float]] = []
    for now, (kept, path) in zip(times, _open(marks, lines), strict=True):
        while len(begun) > kept:
            number, start = begun.pop()
            yield Span(number, start, now - start)
        if len(path) > kept:
            begun.append((path[-1], now))
    while begun:
        number, start = begun.pop()
        yield Span(number, start, times[-1] - start)
