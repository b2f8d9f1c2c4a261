"""Opening a model for a command: compile a .onnx file, with progress, or load a .hasten file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hasten.base.errors import InputError
from hasten.cli.options import Precision

if TYPE_CHECKING:
    from hasten import CompiledModel

SAVED = ".hasten"


@dataclass(frozen=True)
class CompileOptions:
    """The options of `hasten.compile` that the command line offers; None leaves the choice to Hasten."""

    isa: str | None = None
    precision: Precision | None = None
    threads: int | None = None
    host_ops: bool = True
    cache_dir: Path | None = None
    dump: Path | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `hasten.compile`."""
        given = {"isa": self.isa, "precision": self.precision and self.precision.value, "threads": self.threads}
        folders = {"cache_dir": self.cache_dir, "dump": self.dump}
        chosen: dict[str, Any] = {name: value for name, value in (given | folders).items() if value is not None}
        return chosen if self.host_ops else chosen | {"host_ops": False}


class Progress(Protocol):
    def __call__(self, stage: str, done: int, total: int) -> None: ...


def open_model(path: Path, options: CompileOptions) -> CompiledModel:
    """The compiled model of a .onnx or .hasten file. Options that a saved model cannot follow raise InputError."""
    import hasten

    if path.suffix.lower() != SAVED:
        with progress_bar(path.name) as progress:
            return hasten.compile(path, progress=progress, **options.arguments())
    if stray := [name for name in options.arguments() if name != "cache_dir"]:
        names = ", ".join("--" + ("no-host-ops" if name == "host_ops" else name) for name in stray)
        raise InputError(
            f"{path.name} is compiled already, so {names} cannot change it.\n"
            "Leave the option out, or compile the .onnx model again with it."
        )
    return hasten.load(path)


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Progress | None]:
    """A callback that draws a bar on stderr; None, so that no time is spent on it, where stderr is no terminal."""
    from hasten.cli.console import words

    console = words()
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.fields[title]}"), BarColumn(bar_width=24), TextColumn("[dim]{task.description}[/dim]"),
               MofNCompleteColumn(), TimeElapsedColumn())  # fmt: skip
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None, title=title)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total or None)

        yield show
