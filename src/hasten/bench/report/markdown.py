"""A report for places where HTML does not go: pull requests, notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hasten.base.units import time_text
from hasten.bench.report import words
from hasten.bench.summary import Block, Line, Mean, Summary


def markdown(summary: Summary) -> str:
    """Means, cautions, and a table per model."""
    run = summary.run
    revision = f", revision `{run.revision}`" if run.revision else ""
    made = [f"# hasten bench: {words.title(summary)}", f"{run.began[:16].replace('T', ' ')} UTC, {run.status}, run `{run.id}`{revision}"]
    if words.STATUS[run.status]:
        made.append(f"**{words.STATUS[run.status]}**")
    if cautions := words.cautions(run):
        made.append("\n".join(f"- {_cell(caution)}" for caution in cautions))
    for threads in summary.threads:
        means = [mean for mean in summary.means if mean.threads == threads]
        if means:
            head = ("engine", "geometric mean", "95% interval", "models", "verdicts")
            made += [f"## Time beside {summary.base}, threads: {threads}", _table(head, map(_mean, means))]
    made += [part for block in summary.blocks for part in _block(block)]
    if command := words.command(run):
        made += ["## Measure it again", f"```\n{command}\n```"]
    return "\n\n".join(made) + "\n"


def _mean(mean: Mean) -> Sequence[str]:
    return (mean.engine, f"{mean.ratio.value:.2f}", words.interval_text(mean.ratio, 2), f"{mean.least:.2f} to {mean.most:.2f}", words.tally(mean))


def _block(block: Block) -> list[str]:
    head = ("engine", "a call", "ratio", "95% interval", "verdict", "error", "cold / warm start", "peak memory")
    inputs = ", ".join(f"{name} {kind}" for name, kind in block.subject.inputs.items())
    return [f"### {block.name}, threads: {block.threads}", inputs, _table(head, (_line(line) for line in block.lines)),
            *(f"{line.entry.engine}: {line.entry.trouble}" for line in block.lines if line.entry.trouble)]  # fmt: skip


def _line(line: Line) -> Sequence[str]:
    ratio = line.ratio
    return (line.entry.engine, time_text(line.seconds.value) if line.seconds else "", f"{ratio.value:.3f}" if ratio else "",
            words.interval_text(ratio), line.says, words.error_text(line), words.start_text(line), words.memory_text(line))  # fmt: skip


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (head, ["---"] * len(head), *rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
