"""What a measurement is: the records that rounds fill, the store keeps, reports read and verdicts judge.

    Run          one invocation: machine, design, cautions
    └── Subject  one model with one set of inputs
        └── Entry    one engine with it: what it said, how right it is, what it cost to start
            └── Sample   one turn of it in one round

Times are integers in nanoseconds, sizes in bytes. Ratios are never stored: they follow from samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["complete", "interrupted", "refused"]


@dataclass(frozen=True)
class Sample:
    """One turn: `loops` calls back to back took `wall_ns` and `cpu_ns` (all threads of the process) together. For `wait_ns` of the wall time the engine
    was ready to run and other processes had its CPU; that is known, and not counted, for engines on one CPU."""

    round: int
    position: int  # in the order of this round, from 0
    loops: int
    wall_ns: int
    cpu_ns: int
    began_ns: int  # on the monotonic clock
    wait_ns: int = 0

    @property
    def seconds(self) -> float:
        """Wall seconds of one call, without those that other processes took."""
        return (self.wall_ns - self.wait_ns) / self.loops / 1e9


@dataclass
class Entry:
    """One engine on one subject. `trouble` says why there are no samples, in words for the user."""

    engine: str  # its EngineSpec as text
    threads: int
    about: dict[str, str] = field(default_factory=dict)  # Runner.describe()
    trouble: str = ""
    error: float | None = None  # largest difference from the reference, relative to the largest value of that output
    error_output: str = ""
    cold_start_ns: int | None = None  # from an empty cache to the first answer, in a fresh process, imports included
    warm_start_ns: int | None = None  # the same again, with what the first start left behind
    peak_bytes: int | None = None  # most resident memory of the process
    model_bytes: int | None = None  # the same, less what the process had before it loaded the model
    warmup_calls: int = 0  # before times were steady
    samples: list[Sample] = field(default_factory=list)


@dataclass
class Subject:
    """One model with one set of inputs. `reference`: what `Entry.error` is measured against ("float64", or the engine that stands in)."""

    model: str
    sha256: str
    label: str
    inputs: dict[str, str]  # name -> "float32[1, 3, 224, 224]"
    reference: str = ""
    reference_note: str = ""  # why there is no float64 reference
    entries: list[Entry] = field(default_factory=list)

    def entry(self, engine: str, threads: int | None = None) -> Entry:
        """The entry of an engine (with that number of threads); KeyError where it has none."""
        for entry in self.entries:
            if entry.engine == engine and threads in (None, entry.threads):
                return entry
        raise KeyError(engine)


@dataclass
class Run:
    """One invocation of the harness. `design`: rounds, seeds, pauses, band, whatever another run needs to be the same."""

    id: str  # a UUID
    began: str  # ISO 8601, UTC
    revision: str  # of the git checkout, "" outside one
    machine: dict[str, Any] = field(default_factory=dict)
    design: dict[str, Any] = field(default_factory=dict)
    status: Status = "complete"
    cautions: list[str] = field(default_factory=list)  # what the machine check found; a refusal's reasons
    subjects: list[Subject] = field(default_factory=list)
    ended: str = ""
