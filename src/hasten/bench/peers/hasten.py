"""Hasten itself: this one, or another source tree of it.

Options: `isa` and `precision` as in hasten.compile (empty: its defaults), `source` the folder in which another tree's package `hasten` lies
(`hasten.bench.peers.revision` makes one of a git revision).
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hasten.base.errors import InputError
from hasten.bench.peer import Feeds, Runner
from hasten.bench.peers.support import choose

OPTIONS: dict[str, tuple[str, ...]] = {"isa": (), "precision": (), "source": ()}


class Hasten:
    name = "hasten"
    package = "hasten"

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        """The compiled model. Without a cache folder it is compiled anew, kernels too."""
        chosen = choose(self.name, options, OPTIONS)
        source = chosen.pop("source")
        hasten = package_in(Path(source)) if source else importlib.import_module("hasten")
        settings = {key: value for key, value in chosen.items() if value}
        if cache is not None:
            return HastenRunner(hasten.compile(model, threads=threads, cache_dir=cache, **settings))
        with tempfile.TemporaryDirectory(prefix="hasten-bench-") as empty:
            return HastenRunner(hasten.compile(model, threads=threads, cache_dir=empty, **settings))


class HastenRunner:
    """A compiled model; `run` is the model's own, so that a call is the one that users make."""

    def __init__(self, model: Any):
        self._model = model
        self.run: Callable[[Feeds], dict[str, Any]] = model.run

    def describe(self) -> dict[str, str]:
        report = self._model.report()
        return {
            "version": importlib.import_module("hasten").__version__, "isa": report.isa, "precision": report.precision, "threads": str(report.threads),
            "kernels": str(report.kernels), "operators in Python": str(report.host_ops), "compiled": "before" if report.from_cache else "now",
        }  # fmt: skip


def package_in(source: Path) -> Any:
    """The package `hasten` that lies in the folder `source`, in place of this one: from here on, whatever is imported as `hasten` in this
    process is of that tree. What was imported before goes on working, as long as it imports nothing of `hasten` late.

    Raises InputError where there is no such package.
    """
    if not (source / "hasten" / "__init__.py").is_file():
        raise InputError(f"{source} has no package `hasten` in it; give the folder that it lies in, for example checkout/src.")
    for name in [name for name in sys.modules if name.partition(".")[0] == "hasten"]:
        del sys.modules[name]
    sys.path.insert(0, str(source))
    return importlib.import_module("hasten")


PEER = Hasten()
