"""Progress of a measurement: a bar on stderr, and each model's table as soon as it is done.

Nothing is drawn while an engine has its turn, and no thread draws by itself: the picture must not disturb what it shows.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hasten.bench.experiment import Progress
    from hasten.bench.results import Run

REDRAW = 0.25  # seconds between pictures
STAGES = {"check": "looking at the machine", "reference": "computing in float64", "start": "starting", "warm-up": "warming up", "rounds": "measuring",
          "verify": "checking answers again"}  # fmt: skip


class Live:
    """A context manager with the two callbacks of `measure`. `models`: how many there are; `tables`: print them; `keep`: called with the run, too."""

    def __init__(self, models: int, tables: bool, keep: Any) -> None:
        from hasten.cli.console import words

        self._models, self._tables, self._keep = models, tables, keep
        self._run: Run | None = None
        self._shown = self._begun = 0
        self._drawn = 0.0
        self._bar = _bar(words()) if words().is_terminal else None
        self._task: Any = self._bar.add_task("", total=1.0, where="") if self._bar else None

    def __enter__(self) -> Live:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def keep(self, run: Run) -> None:
        """Called whenever there is more of the run."""
        self._run = run
        self._keep(run)

    def progress(self, step: Progress) -> None:
        """Called at each step."""
        if step.stage == "reference":
            self.show_done(self._begun)
            self._begun += 1
        now = time.monotonic()
        if self._bar is None or (step.stage == "rounds" and now - self._drawn < REDRAW):
            return
        self._drawn = now
        where = f"[{self._begun}/{self._models}] {step.label}" if step.label else "hasten bench"
        what = " ".join(filter(None, (STAGES.get(step.stage, step.stage), step.engine, f"round {step.rounds}" if step.rounds else "")))
        threads = f", {step.threads} threads" if step.threads > 1 else ""
        self._bar.update(self._task, where=where, description=what + threads, completed=step.share)
        self._bar.refresh()

    def show_done(self, count: int) -> None:
        """Print the tables of the first `count` models, those that were not printed yet."""
        if not self._tables or self._run is None or count <= self._shown:
            return
        from dataclasses import replace

        from hasten.bench.summary import summarise
        from hasten.cli.bench.show import show_block

        summary = summarise(replace(self._run, subjects=self._run.subjects[self._shown : count]), base=str(self._run.design["engines"][0]))
        self._shown = count
        if self._bar:
            self._bar.stop()
        for block in summary.blocks:
            show_block(block, summary.base)
        if self._bar:
            self._bar.start()


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.fields[where]}", markup=False), BarColumn(bar_width=24), TextColumn("[dim]{task.description}[/dim]"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, auto_refresh=False)
