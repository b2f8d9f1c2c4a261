"""Keeping a run while it is measured, whatever becomes of the store: what the store no longer takes is written to a file in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hasten.base.errors import HastenError
from hasten.bench import export
from hasten.bench.results import Run
from hasten.bench.store import Store


class Keeper:
    """`keep` is what `measure` calls. `command`: the command line, which is entered into the run's design."""

    def __init__(self, store: Store, command: Sequence[str] = ()) -> None:
        self._store, self._command = store, list(command)
        self._begun = False
        self._trouble: HastenError | None = None

    def keep(self, run: Run) -> None:
        """Write what is new. A run without models, refused at the first look at the machine, is not entered."""
        run.design.setdefault("command", self._command)
        if not run.subjects or self._trouble:
            return
        try:
            if not self._begun:
                self._store.begin(run)
                self._begun = True
            else:
                self._store.append(run)
        except HastenError as error:
            self._trouble = error

    def finish(self, run: Run, verdicts: Sequence[Mapping[str, Any]]) -> str:
        """Write the rest; says in words where the run is, "" where there is nothing to keep."""
        if not run.subjects:
            return ""
        self.keep(run)
        if self._trouble is None:
            try:
                self._store.finish(run, verdicts)
                return f"kept as run {run.id[:8]} in {self._store.place}; a report: hasten bench report {run.id[:8]} -o report.html"
            except HastenError as error:
                self._trouble = error
        rescue = Path(f"hasten-bench-{run.id[:8]}.json")
        export.write(run, rescue)
        return f"kept in {rescue}, because of the store: {self._trouble}\na report: hasten bench report {rescue} -o report.html"
