"""Printing: data to stdout, words to stderr, tables, shapes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from hasten.base.units import size_text

PIPE_WIDTH = 160  # columns of a table where stdout is no terminal: enough not to cut names


def data() -> Console:
    """The console for results (stdout)."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, highlight=False, width=width)


def words() -> Console:
    """The console for notes, progress and errors (stderr)."""
    return Console(file=sys.stderr, highlight=False)


def note(text: str) -> None:
    """A remark for people, on stderr."""
    from rich.text import Text

    words().print(Text.assemble(("note: ", "cyan"), text), soft_wrap=True)


def print_json(value: Any) -> None:
    """`value` as JSON on stdout; NaN and infinities, which JSON lacks, become null."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return _plain(value.item()) if hasattr(value, "item") else str(value)  # a NumPy scalar, or a path


def table(*columns: str, rows: Iterable[Sequence[Any]] = (), title: str | None = None) -> Table:
    """A plain table; a column whose name starts with ">" is aligned right."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def facts(rows: Iterable[tuple[str, Any]]) -> Table:
    """Two columns, name and value, without a head."""
    made = Table.grid(padding=(0, 3))
    made.add_column(style="dim")
    made.add_column()
    for name, value in rows:
        made.add_row(name, _cell(value))
    return made


def _cell(value: Any) -> Any:
    from rich.text import Text

    return value if isinstance(value, Text) else Text(str(value))  # plain text: "[1, 3]" is no markup


def shape_text(shape: Sequence[int | str | None] | None) -> str:
    """`(batch, 3, ?, 320)`: symbols by name, sizes that nothing names as `?`; nothing for what is no tensor."""
    if shape is None:
        return ""
    return (
        "(" + ", ".join("?" if size is None else str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"
    )


def memory_text(formula: str) -> str:
    """Bytes as a formula of the sizes: a number as a size, a long formula by its beginning (the whole is in the JSON)."""
    if formula.isdecimal():
        return size_text(int(formula))
    return f"{formula} bytes" if len(formula) <= 160 else f"{formula[:120]} ... bytes (a long formula of the sizes: whole with --json)"
