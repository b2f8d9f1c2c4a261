"""`hasten inspect`: what became of a model: graph, simplified graph, regions, Program, nodes, memory."""

from __future__ import annotations

import re
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasten.cli import options as o

if TYPE_CHECKING:
    from hasten import CompiledModel


class Stage(StrEnum):
    """What can be looked at. The first four are texts that the compiler writes, the others come from the report."""

    GRAPH = "graph"
    SIMPLIFIED = "simplified"
    REGIONS = "regions"
    PROGRAM = "program"
    NODES = "nodes"
    SUMMARY = "summary"


TEXTS = (Stage.GRAPH, Stage.SIMPLIFIED, Stage.REGIONS, Stage.PROGRAM)
SHOWN = (Stage.GRAPH, Stage.SIMPLIFIED, Stage.REGIONS, Stage.NODES, Stage.SUMMARY)  # without --stage
TITLES = {
    Stage.GRAPH: "graph as read: inlined, one opset, typed",
    Stage.SIMPLIFIED: "graph simplified: folded, patterns found",
    Stage.REGIONS: "regions: each becomes one kernel",
    Stage.PROGRAM: "program: what runs",
    Stage.NODES: "nodes: where each went",
    Stage.SUMMARY: "summary",
}
COLUMNS = {
    "name": "node",
    "op": "op",
    "kind": "kind",
    "region": "region",
    "fused_into": "fused into",
    "format": "format",
    "algorithm": "algorithm",
    "precision": "precision",
    "bytes": ">bytes",
    "operations": ">operations",
}


def inspect_model(
    model: o.ModelFile,
    stage: Annotated[
        list[Stage] | None,
        typer.Option(
            "--stage",
            "-s",
            show_default=False,
            help="Show only this. [dim]Default: all but the program.[/dim] Repeatable.",
        ),
    ] = None,
    isa: o.IsaOption = None,
    precision: o.PrecisionOption = None,
    threads: o.ThreadsOption = None,
    host_ops: o.HostOpsOption = True,
    cache_dir: o.CacheDirOption = None,
    json: o.JsonOption = False,
) -> None:
    """Look inside a model: the typed graph before and after simplification, fused regions, host ops, memory.

    --json prints the report alone, or with --stage also the texts asked for.
    """  # fmt: skip
    from hasten.base.errors import InputError
    from hasten.cli.console import print_json
    from hasten.cli.models import SAVED, CompileOptions, open_model

    saved = model.suffix.lower() == SAVED
    if saved and (gone := [wanted.value for wanted in stage or () if wanted in TEXTS]):
        raise InputError(f"{model.name} is compiled: its {' and '.join(gone)} can be shown from the .onnx model only.")
    wanted = stage or [s for s in SHOWN if not (saved and s in TEXTS)]
    with tempfile.TemporaryDirectory(prefix="hasten-inspect-") as folder:
        dump = None if saved or not set(wanted) & set(TEXTS) or (json and not stage) else Path(folder)
        choices = CompileOptions(isa, precision, threads, host_ops, cache_dir, dump)
        compiled = open_model(model, choices)
        texts = {} if dump is None else {s.value: stage_text(dump, s) for s in wanted if s in TEXTS}
    if json:
        print_json(compiled.report().to_dict() | ({"stages": texts} if texts else {}))
        return
    for part in dict.fromkeys(wanted):
        _print_stage(part, compiled, texts, titled=len(wanted) > 1)


def stage_text(dump: Path, stage: Stage) -> str:
    """The text of a stage from a dump folder, whose files are called `graph.txt`, `01-graph.txt` or the like."""
    for path in sorted(dump.rglob("*.txt")):
        if re.sub(r"^[\d_.-]+", "", path.stem) == stage.value:
            return path.read_text(encoding="utf-8")
    return ""


def _print_stage(stage: Stage, compiled: CompiledModel, texts: dict[str, str], titled: bool) -> None:
    from rich.text import Text

    from hasten.cli.console import data

    console = data()
    if titled:
        console.rule(Text(TITLES[stage], style="bold"), align="left", style="dim")
    if stage is Stage.NODES:
        console.print(_node_table(compiled))
    elif stage is Stage.SUMMARY:
        console.print(_summary(compiled))
    else:
        print(texts.get(stage.value, "").rstrip())
    if titled:
        print()


def _node_table(compiled: CompiledModel) -> Any:
    """The report's nodes; columns that are empty everywhere are left out."""
    from hasten.cli.console import table

    nodes = compiled.report().to_dict()["nodes"]
    used = [key for key in COLUMNS if any(node[key] not in (None, "") for node in nodes)]
    rows = [["" if node[key] is None else node[key] for key in used] for node in nodes]
    return table(*(COLUMNS[key] for key in used), rows=rows)


def _summary(compiled: CompiledModel) -> Any:
    from rich.console import Group

    from hasten.base.units import count_text, size_text
    from hasten.cli.compile import host_ops_text, signature_table
    from hasten.cli.console import facts, memory_text

    report = compiled.report()
    nodes = report.to_dict()["nodes"]
    kinds = [node["kind"] for node in nodes]
    tally = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    fused = sum(bool(node["fused_into"]) for node in nodes)
    made = facts(
        [
            ("nodes", f"{len(kinds)}: {tally}; {fused} fused into another"),
            ("kernels", report.kernels),
            ("host ops", host_ops_text(report.host_ops)),
            ("compiled for", f"{report.isa}, precision {report.precision}, {count_text(report.threads, 'thread')}"),
            ("peak memory", memory_text(report.peak_memory)),
            ("constants", size_text(report.constants_bytes)),
            ("code", size_text(report.image_bytes)),
        ]
    )
    return Group(signature_table(compiled), made)
