"""Options that several commands of `hasten bench` share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

KEEPING = "Keeping"
JUDGING = "Judging"


def share(text: str) -> float:
    """`2%` or `0.02`."""
    try:
        value = float(str(text).removesuffix("%")) / (100 if str(text).endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise typer.BadParameter(f"{text!r} is no share such as 2% or 0.02.")
    return value


def specs(texts: Iterable[str]) -> list[str]:
    """Engines, parted by commas: `onnxruntime,openvino:precision=f32,threads=2` are two, because what has a "=" and no name is an option of the one before."""
    found: list[str] = []
    for text in texts:
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, _ = part.partition("=")
            if equals and ":" not in name and found:
                found[-1] += f",{part}"
            else:
                found.append(part)
    return list(dict.fromkeys(found))


RunKey = Annotated[
    str, typer.Argument(metavar="[RUN]", help="A kept run: the beginning of its id, `latest`, or a .json that was exported.", show_default="latest")
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="FILE|URL", rich_help_panel=KEEPING, show_default=False,
                 help="Where runs are kept: a file, or the SQLAlchemy URL of a database. [dim]Default: ~/.local/share/hasten/bench.sqlite.[/dim]"),
]  # fmt: skip
BaseOption = Annotated[
    str | None,
    typer.Option("--base", metavar="ENGINE", show_default=False, help="Whom to measure the others against. [dim]Default: Hasten, as it comes first.[/dim]"),
]  # fmt: skip
ReportOption = Annotated[
    list[Path] | None,
    typer.Option("--report", metavar="FILE", dir_okay=False, rich_help_panel=KEEPING, show_default=False,
                 help="Write a report: .html, .md or .json. Repeatable."),
]  # fmt: skip
ExportOption = Annotated[
    list[Path] | None,
    typer.Option("--export", metavar="FILE", dir_okay=False, rich_help_panel=KEEPING, show_default=False,
                 help="Write the raw samples: .csv, .parquet or .json. Repeatable."),
]  # fmt: skip
