"""Engines of a benchmark, found by the track's processes as those of an installed package are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def installed(folder: Path, peers: Mapping[str, str]) -> Iterator[None]:
    """`peers`: name -> module:OBJECT (hasten.bench.peer.Peer), where the module is a file in `folder`."""
    with tempfile.TemporaryDirectory() as site:
        package = Path(site) / "benchmark_engines-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: benchmark-engines\nVersion: 1.0\n")
        lines = [f"{name} = {place}" for name, place in peers.items()]
        (package / "entry_points.txt").write_text("\n".join(["[hasten.peers]", *lines, ""]))
        before = os.environ.get("PYTHONPATH", "")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), site, before]))
        try:
            yield
        finally:
            os.environ["PYTHONPATH"] = before
