"""Opening a model for a command: compile a .onnx file, with progress, or load a .hasten file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hasten.base.errors import InputError
from hasten.base.ranges import Dim, parse
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
    dims: tuple[str, ...] = ()  # NAME=RANGE each

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `hasten.compile`."""
        given = {"isa": self.isa, "precision": self.precision and self.precision.value, "threads": self.threads}
        folders = {"cache_dir": self.cache_dir, "dump": self.dump}
        dims = {"dims": _ranges(self.dims) or None}
        chosen: dict[str, Any] = {name: value for name, value in (given | folders | dims).items() if value is not None}
        return chosen if self.host_ops else chosen | {"host_ops": False}


_OPTIONS = {"host_ops": "no-host-ops", "dims": "dim"}  # those that are not called like the argument


def _ranges(texts: Sequence[str]) -> dict[str, Dim | int]:
    """`NAME=RANGE` each. Raises InputError."""
    found: dict[str, Dim | int] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        if not name:
            raise InputError(f"--dim {text}: wants NAME=SIZE, NAME=LOW:HIGH or NAME=LOW:HIGH:MULTIPLE, such as length=1:512:8.")
        found[name] = parse(sizes)
    return found


class Progress(Protocol):
    def __call__(self, stage: str, done: int, total: int) -> None: ...


def open_model(path: Path, options: CompileOptions) -> CompiledModel:
    """The compiled model of a .onnx or .hasten file. Options that a saved model cannot follow raise InputError."""
    import hasten

    if path.suffix.lower() != SAVED:
        with progress_bar(path.name) as progress:
            return hasten.compile(path, progress=progress, **options.arguments())
    if stray := [name for name in options.arguments() if name != "cache_dir"]:
        names = ", ".join("--" + _OPTIONS.get(name, name) for name in stray)
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
