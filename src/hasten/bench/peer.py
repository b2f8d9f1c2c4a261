"""What an engine must offer to be measured: the interface of `hasten.bench.peers`, one file for each engine.

A peer lives in a process of its own (`hasten.bench.worker`), pinned to the CPUs of the measurement; nothing here may be imported with side
effects on other engines. The file of a peer is `hasten/bench/peers/<name>.py` (with _ for -) and has `PEER`, an instance of its class. Third
parties add peers through the entry-point group `hasten.peers`: `name = "package.module:PEER"`. Such files are imported by the parent too, so they
import their engine inside functions only.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys
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
class Place:
    """Where an engine's process finds its interpreter and, before all else on the module path, its code."""

    python: str = sys.executable
    path: tuple[str, ...] = ()


class RevisedPeer(Peer, Protocol):
    """An engine that has revisions. Its process may import another revision of Hasten, so the peer's file imports nothing of Hasten
    outside functions."""

    def place(self, revision: str) -> Place:
        """Make `revision` ready to be measured. Raises InputError where there is none of that name."""


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


ENTRY_POINTS = "hasten.peers"


def peer_names() -> list[str]:
    """The peers that come with Hasten, then those of installed packages."""
    return [*_own_peers(), *sorted(importlib.metadata.entry_points(group=ENTRY_POINTS).names)]


def _own_peers() -> dict[str, str]:
    """Name -> module."""
    from hasten.bench import peers

    names = [module.name for module in pkgutil.iter_modules(peers.__path__) if not module.name.startswith("_")]
    return {name.replace("_", "-"): f"{peers.__name__}.{name}" for name in names}


def peer_home(name: str) -> tuple[str, str]:
    """The module of a peer and the name that it has there. Raises InputError for an unknown name."""
    if module := _own_peers().get(name):
        return module, "PEER"
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
        return point.module, point.attr
    raise InputError(f"there is no engine {name!r}; there are: {', '.join(peer_names())}.")


def find_peer(name: str) -> Peer:
    """The peer called `name`, in this process: for what it says of itself, not to load models. Raises InputError for an unknown name."""
    module, attribute = peer_home(name)
    peer: Peer = getattr(importlib.import_module(module), attribute)
    return peer


def find_place(spec: EngineSpec) -> Place:
    """Where the process of an engine runs. Raises InputError where a revision is asked of an engine that has none."""
    if not spec.revision:
        return Place()
    place = getattr(find_peer(spec.peer), "place", None)
    if place is None:
        raise InputError(f"{spec}: {spec.peer} has no revisions to choose from; install the one that you want.")
    found: Place = place(spec.revision)
    return found
