"""Reports, made from a judged run (`hasten.bench.summary`) alone: a page with pictures, Markdown, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hasten.base.errors import InputError
from hasten.bench.report.markdown import markdown
from hasten.bench.report.page import html
from hasten.bench.summary import Summary


def as_json(summary: Summary) -> str:
    """The summary as JSON."""
    return json.dumps(summary.to_dict(), indent=1, ensure_ascii=False, default=str) + "\n"


FORMS: dict[str, Callable[[Summary], str]] = {".html": html, ".md": markdown, ".json": as_json}


def write(summary: Summary, path: Path) -> None:
    """Write a report in the form that the file's suffix names; InputError for another suffix."""
    check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FORMS[path.suffix.lower()](summary), encoding="utf-8")


def check(path: Path) -> None:
    """Raises InputError where the suffix names no form of a report."""
    if path.suffix.lower() not in FORMS:
        raise InputError(f"{path.name}: a report is one of {', '.join(FORMS)}, by the suffix of its file.")
