"""The kernels of a run with their times, and the nodes of the model that they compute."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from hasten.base.dims import DimLike, evaluate, parse
from hasten.base.errors import CompileError
from hasten.lower.report import NodeReport, Report, fused_names
from hasten.profile.instructions import Instructions, time_instructions
from hasten.vm.program import Call, Host

if TYPE_CHECKING:
    from hasten.api import CompiledModel
    from hasten.vm.replay import Recording, Step


@dataclass(frozen=True)
class KernelTime:
    """A kernel at one place of the Program, over one run of the model: in a loop it has several calls there.

    node, op, algorithm, precision, format: as in `CompiledModel.report()`; fused: nodes computed in it besides. operations, read, written (bytes)
    and the times (seconds) are those of all calls together; `seconds` is the median over the rounds, `least` the smallest. threads: the most
    that shared a call.
    """

    node: str
    op: str
    kernel: str
    fused: tuple[str, ...]
    algorithm: str
    precision: str
    format: str
    calls: int
    threads: int
    operations: int
    read: int
    written: int
    seconds: float
    least: float

    @property
    def bytes(self) -> int:
        return self.read + self.written

    @property
    def kind(self) -> str:
        """The kernel's name without what tells it from others of its kind; of a host op the operator."""
        return self.kernel.rpartition("_")[0] or self.op

    @property
    def title(self) -> str:
        """The node, or for a copy that no node asked for its kernel's kind."""
        return self.node or self.op

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Event:
    """A step of one run, for a trace: which KernelTime it belongs to (by its number there), its start after that of the run, and its seconds."""

    kernel: int
    start: float
    seconds: float
    threads: int


@dataclass(frozen=True)
class Profile:
    """A model's run. `kernels`, the slowest first; `call`, `least_call`: seconds of a whole native call, median and least; `run`: the run whose
    kernels took the median time, step by step; `replayed`: see `hasten.vm.replay`; `instructions`: None for models without a native driver."""

    isa: str
    precision: str
    threads: int
    rounds: int
    replayed: bool
    call: float
    least_call: float
    kernels: tuple[KernelTime, ...]
    run: tuple[Event, ...]
    instructions: Instructions | None = None

    @property
    def busy(self) -> float:
        """Seconds of all kernels of a run."""
        return sum(k.seconds for k in self.kernels)

    @property
    def around(self) -> float:
        """Seconds of a call that no kernel takes: sizes, checks, memory, the call itself. Of the least times, which other work disturbs least."""
        return max(0.0, self.least_call - sum(k.least for k in self.kernels))

    def parts(self) -> dict[str, float]:
        """Seconds of a call by what they are for: its instructions by groups, and the call itself; empty where not all instructions are timed."""
        if self.instructions is None or self.instructions.cut_off:
            return {}
        groups = self.instructions.groups()
        return groups | {"the call itself": max(0.0, self.call - sum(groups.values()))}

    def share(self, kernel: KernelTime) -> float:
        """A kernel's part of the time of all kernels."""
        return kernel.seconds / max(1e-12, self.busy)

    def kinds(self) -> list[tuple[str, int, float]]:
        """The kinds of kernels, each with the number of its kernels and their seconds, the slowest first."""
        found: dict[str, list[float]] = {}
        for k in self.kernels:
            found.setdefault(k.kind, []).append(k.seconds)
        return sorted(((kind, len(spent), sum(spent)) for kind, spent in found.items()), key=lambda row: -row[2])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the run."""
        kernels = [k.to_dict() | {"share": self.share(k)} for k in self.kernels]
        more = {} if self.instructions is None else {"parts": self.parts()} | self.instructions.to_dict()
        return {"isa": self.isa, "precision": self.precision, "threads": self.threads, "rounds": self.rounds, "replayed": self.replayed,
                "call_seconds": self.call, "least_call_seconds": self.least_call, "kernel_seconds": self.busy, "around_seconds": self.around,
                "kinds": [{"kind": kind, "kernels": count, "seconds": spent} for kind, count, spent in self.kinds()], "kernels": kernels} | more  # fmt: skip


def record(model: CompiledModel, inputs: Mapping[str, Any], *, rounds: int | None = None, seconds: float = 1.0) -> Profile:
    """Run a model on `inputs` ({name: array}) in as many rounds, or for about so many seconds, and tell what each kernel took."""
    recording = model.profile(inputs, rounds=rounds, seconds=seconds)
    instructions = time_instructions(model, inputs, rounds=rounds, seconds=seconds / 4)
    return replace(assemble(model.report(), model.threads, recording), instructions=instructions)


def assemble(report: Report, threads: int, recording: Recording) -> Profile:
    """The steps of a recording, gathered by their place in the Program and named by the report's rows."""
    places: dict[tuple[type, int], list[int]] = {}
    for position, step in enumerate(recording.steps):
        places.setdefault((type(step.instruction), step.number), []).append(position)
    rows = {Call: [n for n in report.nodes if n.kind == "kernel"], Host: [n for n in report.nodes if n.kind == "host"]}
    fused = fused_names(report.nodes)
    times = {}
    for (kind, number), positions in places.items():
        row = rows[kind][number]
        instruction = recording.steps[positions[0]].instruction
        if isinstance(instruction, Call) and instruction.kernel != row.region:
            raise CompileError(f"call {number} of the program is {instruction.kernel}, and the report has {row.region} there")
        spent = [sum(stamps[p][1] - stamps[p][0] for p in positions) / 1e9 for stamps in recording.rounds]
        times[(kind, number)] = _kernel_time(row, fused, [recording.steps[p] for p in positions], spent)
    order = sorted(times, key=lambda key: -times[key].seconds)
    totals = [sum(end - start for start, end in stamps) for stamps in recording.rounds]
    return Profile(report.isa, report.precision, threads, len(recording.rounds), recording.replayed, statistics.median(recording.calls),
                   min(recording.calls), tuple(times[key] for key in order), _run(recording, totals, order))  # fmt: skip


def _kernel_time(row: NodeReport, fused: Mapping[tuple[str, str], list[str]], steps: list[Step], spent: list[float]) -> KernelTime:
    counts = [sum(_evaluate(parse(formula), s.sizes) for s in steps) for formula in (row.operations, row.bytes, row.written)]
    return KernelTime(row.name, row.op, row.region, tuple(fused.get((row.region, row.name), ())), row.algorithm, row.precision, row.format, len(steps),
                      max(s.threads for s in steps), counts[0], counts[1] - counts[2], counts[2], statistics.median(spent), min(spent))  # fmt: skip


def _evaluate(formula: DimLike, sizes: Mapping[str, int]) -> int:
    """0 where the formula has a size that the run never computes."""
    try:
        return evaluate(formula, sizes)
    except KeyError:
        return 0


def _run(recording: Recording, totals: list[int], order: list[tuple[type, int]]) -> tuple[Event, ...]:
    """The round with the median time."""
    typical = sorted(range(len(totals)), key=totals.__getitem__)[len(totals) // 2]
    stamps = recording.rounds[typical]
    begin = stamps[0][0] if stamps else 0
    rank = {key: n for n, key in enumerate(order)}
    return tuple(Event(rank[(type(s.instruction), s.number)], (start - begin) / 1e9, (end - start) / 1e9, s.threads)
                 for s, (start, end) in zip(recording.steps, stamps, strict=True))  # fmt: skip
