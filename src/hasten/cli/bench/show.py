"""What a measurement looks like in the terminal."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from hasten.base.units import count_text, time_text
from hasten.bench.changes import Change
from hasten.bench.report import words
from hasten.bench.summary import Block, Line, Summary
from hasten.cli.console import data, note, table

STYLES = {"good": "green", "bad": "red", "even": "", "open": "yellow"}
WIDE, ESSENTIAL = 120, 6  # in narrower terminals so many columns are shown
CHANGES = {"slower": "red", "missing": "red", "undecided": "yellow", "faster": "green"}


def show_block(block: Block, base: str) -> None:
    """One model: a row for each engine, and why some have no figures."""
    console = data()
    console.print(Text.assemble((block.name, "bold"), f"  {count_text(block.threads, 'thread')}, {', '.join(block.subject.inputs.values())}"))
    columns = ("engine", ">a call", f">time / {base}'s", ">95% interval", "verdict", ">error", ">cold / warm start", ">peak memory", ">rounds")
    shown = len(columns) if console.width >= WIDE else ESSENTIAL
    console.print(table(*columns[:shown], rows=[_row(line, first=line is block.base)[:shown] for line in block.lines]))
    for line in block.lines:
        if line.entry.trouble:
            note(f"{block.name}: {line.entry.engine} has no figures: {line.entry.trouble}")
    for caution in block.cautions():
        note(f"{block.name}: {caution}")
    if block.subject.reference != "float64" and block.subject.reference:
        why = f": {block.subject.reference_note}" if block.subject.reference_note else ""
        note(f"{block.name}: errors are differences from {block.subject.reference}{why}")


def _row(line: Line, first: bool) -> tuple[Any, ...]:
    entry, style = line.entry, STYLES[words.TONE.get(line.word, "even")]
    ratio = "" if line.ratio is None else Text(f"{line.ratio.value:.2f}x", style=style)
    return (Text(entry.engine, style="bold" if first else ""), time_text(line.seconds.value) if line.seconds else "", ratio,
            words.interval_text(line.ratio, 2), Text(line.says, style="red" if entry.trouble else style), words.error_text(line), words.start_text(line),
            words.memory_text(line).partition(" (")[0], len(entry.samples) if line.seconds else "")  # fmt: skip


def show_means(summary: Summary) -> None:
    """Geometric means over models, where there is more than one."""
    for mean in summary.means:
        if mean.models > 1:
            threads = f", {count_text(mean.threads, 'thread')}" if len(summary.threads) > 1 else ""
            data().print(words.mean_says(mean, summary.base) + threads + f": {words.tally(mean)}", soft_wrap=True)


def show_cautions(summary: Summary) -> None:
    for caution in words.cautions(summary.run):
        note(caution)


def show_changes(changes: list[Change], band: float) -> None:
    """Now beside then, model by model."""
    rows = []
    for change in changes:
        ratio = change.ratio
        rows.append((change.model, change.threads, f"{ratio.value:.3f}x" if ratio else "", words.interval_text(ratio),
                     Text(change.word, style=CHANGES.get(change.word, "")), change.reason))  # fmt: skip
    data().print(table("model", ">threads", ">now / then", ">95% interval", f"verdict (band {band:.1%})", "", rows=rows))
