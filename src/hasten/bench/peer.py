"""What an engine must offer to be measured: the interface of `hasten.bench.peers`, one file for each engine.

A peer lives in a process of its own (`hasten.bench.worker`), pinned to the CPUs of the measurement; nothing here may be imported with side
effects on other engines. Third parties add peers through the entry-point group `hasten.peers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hasten.base.errors import InputError

Feeds = Mapping[str, Any]


class Runner(Protocol):
    """A model that an engine has loaded."""

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Outputs by the names of the model's outputs; computed anew in every call, ready when the call returns."""

    # Optional: `answer(feeds)`, a call like `run` for callers whose arrays and shapes are others at every call, where binding them would not pay;
    # `reuses_outputs = True` where the arrays it gives are written again by the next call.

    def describe(self) -> dict[str, str]:
        """What the engine says of itself with this model: versions, settings in force, precision, anything that explains a time."""


class Peer(Protocol):
    """An engine. `load` raises what it likes: the worker turns it into a clear message."""

    name: str
    package: str  # what pip installs

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        """Load the ONNX file `model` for `threads` threads, at the engine's best settings for a single request at a time.

        `options`: of the engine's spec. `cache`: a folder where the engine may keep what makes its next start warm, None for none.
        """


@dataclass(frozen=True)
class EngineSpec:
    """Which engine, as users write it: `name[@revision][:option=value,...]`, for example `openvino:precision=f32`,
    `hasten:isa=avx512,precision=strict` or `hasten@v0.1`."""

    peer: str
    revision: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> EngineSpec:
        """Raises InputError where the text is not of that form."""
        head, _, tail = text.partition(":")
        name, _, revision = head.partition("@")
        options = {}
        for part in filter(None, tail.split(",")):
            key, equals, value = part.partition("=")
            if not (key and equals and value):
                raise InputError(f"{text!r}: options of an engine are written option=value, parted by commas; {part!r} is not.")
            options[key.strip()] = value.strip()
        if not name:
            raise InputError(f"{text!r} names no engine; write for example onnxruntime, openvino:precision=f32 or hasten@main.")
        return cls(name, revision, options)

    def __str__(self) -> str:
        tail = ",".join(f"{k}={v}" for k, v in self.options.items())
        return self.peer + (f"@{self.revision}" if self.revision else "") + (f":{tail}" if tail else "")
