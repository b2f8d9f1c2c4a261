"""The engines that Hasten can be measured against: one file each, imported when it is asked for.

A file of this package has a `PEER`, an object as `hasten.bench.peer.Peer` describes it, and imports its engine inside functions. Another
package adds a peer with an entry point of the group `hasten.peers` that names such an object. The settings of each peer, with the reason
for each, are in docs/bench-peers.md.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from importlib.metadata import EntryPoint
from typing import cast

from hasten.base.errors import InputError, MissingDependency
from hasten.bench.peer import Peer

GROUP = "hasten.peers"  # of entry points

MODULES = {
    "hasten": "hasten.bench.peers.hasten",
    "onnxruntime": "hasten.bench.peers.onnxruntime",
    "openvino": "hasten.bench.peers.openvino",
    "ncnn": "hasten.bench.peers.ncnn",
    "torch": "hasten.bench.peers.torch",
    "torch_compile": "hasten.bench.peers.torch_compile",
}


def names() -> list[str]:
    """All peers there are, installed or not: Hasten's own, then those of other packages."""
    return [*MODULES, *sorted(set(_entry_points()) - set(MODULES))]


def find(name: str) -> Peer:
    """The peer called `name`; its engine is not imported yet.

    Raises InputError where there is no such peer or its package is broken, MissingDependency where its engine is not installed.
    """
    if name in MODULES:
        peer = cast(Peer, importlib.import_module(MODULES[name]).PEER)
    elif name in (others := _entry_points()):
        peer = _foreign(others[name])
    else:
        raise InputError(f"there is no peer {name!r}; there are: {', '.join(names())}.")
    if missing := [package for package in peer.package.split() if not _installed(package)]:
        everything = ", or the usual peers with pip install 'hasten[bench]'" if name in MODULES and "torch" not in missing else ""
        raise MissingDependency(f"the peer {name} needs {' and '.join(missing)}: pip install {' '.join(missing)}{everything}")
    return peer


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def _foreign(point: EntryPoint) -> Peer:
    """The peer of another package, looked at before it is trusted."""
    try:
        peer = point.load()
    except Exception as error:  # whatever the other package raises while it is imported
        raise InputError(f"the peer {point.name} ({point.value}) cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(getattr(peer, "load", None)) or not isinstance(getattr(peer, "package", None), str):
        raise InputError(f"the peer {point.name} ({point.value}) has no `load` and `package`, as hasten.bench.peer.Peer asks for.")
    return cast(Peer, peer)


def _installed(package: str) -> bool:
    """Whether there is a module or a distribution of that name: either may go by another name than the other."""
    if importlib.util.find_spec(package.replace("-", "_")) is not None:
        return True
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
