"""`hasten inspect`: what became of a model: graph, types, checks, simplified graph, regions, Program, nodes, memory."""

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
    """What can be looked at. Some are what the compiler writes (`DUMPED`), the others come from the report and the Program."""

    GRAPH = "graph"
    SIMPLIFIED = "simplified"
    TYPES = "types"
    REGIONS = "regions"
    PROGRAM = "program"
    CHECKS = "checks"
    NODES = "nodes"
    SUMMARY = "summary"


TEXTS = (Stage.GRAPH, Stage.SIMPLIFIED, Stage.REGIONS, Stage.PROGRAM)
DUMPED = (*TEXTS, Stage.TYPES)  # what only compiling tells
SHOWN = (Stage.GRAPH, Stage.SIMPLIFIED, Stage.REGIONS, Stage.CHECKS, Stage.NODES, Stage.SUMMARY)  # without --stage
TITLES = {
    Stage.GRAPH: "graph as read: inlined, one opset, typed",
    Stage.SIMPLIFIED: "graph simplified: folded, patterns found",
    Stage.TYPES: "types: every value's, with sizes as expressions of the inputs' sizes",
    Stage.REGIONS: "regions: each becomes one kernel",
    Stage.PROGRAM: "program: what runs",
    Stage.CHECKS: "checks: what is left to each run",
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
            help="Show only this. [dim]Default: all but types and program.[/dim] Repeatable.",
        ),
    ] = None,
    isa: o.IsaOption = None,
    precision: o.PrecisionOption = None,
    threads: o.ThreadsOption = None,
    dims: o.RangeOption = None,
    host_ops: o.HostOpsOption = True,
    cache_dir: o.CacheDirOption = None,
    json: o.JsonOption = False,
) -> None:
    """Look inside a model: the typed graph before and after simplification, fused regions, checks of a run, host ops, memory.

    --json prints the report with the types and checks, and with --stage also the texts asked for.
    """  # fmt: skip
    from hasten.base.errors import InputError
    from hasten.cli.console import print_json
    from hasten.cli.models import SAVED, CompileOptions, open_model
    from hasten.vm.checks import run_checks

    saved = model.suffix.lower() == SAVED
    if saved and (gone := [wanted.value for wanted in stage or () if wanted in DUMPED]):
        raise InputError(f"{model.name} is compiled: its {' and '.join(gone)} can be shown from the .onnx model only.")
    wanted = stage or [s for s in SHOWN if not (saved and s in DUMPED)]
    with tempfile.TemporaryDirectory(prefix="hasten-inspect-") as folder:
        dump = None if saved or not (json or set(wanted) & set(DUMPED)) else Path(folder)
        choices = CompileOptions(isa, precision, threads, host_ops, cache_dir, dump, tuple(dims or ()))
        compiled = open_model(model, choices)
        texts = {} if dump is None else {s.value: stage_text(dump, s) for s in wanted if s in TEXTS}
        types = _read_json(dump / "types.json") if dump is not None else {}
    if json:
        checks = {"checks": [c.to_dict() for c in run_checks(compiled.disassemble())]}
        print_json(compiled.report().to_dict() | checks | types | ({"stages": texts} if stage and texts else {}))
        return
    for part in dict.fromkeys(wanted):
        _print_stage(part, compiled, texts, types, titled=len(wanted) > 1)


def stage_text(dump: Path, stage: Stage) -> str:
    """The text of a stage from a dump folder, whose files are called `graph.txt`, `01-graph.txt` or the like."""
    for path in sorted(dump.rglob("*.txt")):
        if re.sub(r"^[\d_.-]+", "", path.stem) == stage.value:
            return path.read_text(encoding="utf-8")
    return ""


def _read_json(path: Path) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _print_stage(stage: Stage, compiled: CompiledModel, texts: dict[str, str], types: dict[str, Any], titled: bool) -> None:
    from rich.text import Text

    from hasten.cli.console import data

    console = data()
    if titled:
        console.rule(Text(TITLES[stage], style="bold"), align="left", style="dim")
    if stage is Stage.NODES:
        console.print(_node_table(compiled))
    elif stage is Stage.TYPES:
        console.print(_types_table(types))
    elif stage is Stage.CHECKS:
        console.print(_checks_table(compiled))
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


def _types_table(types: dict[str, Any]) -> Any:
    """A row for each value; what names of long sizes stand for comes last."""
    from hasten.cli.console import shape_text, table

    rows = [(v["name"], v["dtype"], "" if v["shape"] is None else shape_text(v["shape"]), v["node"]) for v in types["values"]]
    rows += [(name, "size", value, "") for name, value in types["sizes"].items()]
    return table("value", "dtype", "shape", "made by", rows=rows)


def _checks_table(compiled: CompiledModel) -> Any:
    from hasten.cli.console import table
    from hasten.vm.checks import run_checks

    rows = [(c.number, c.when, c.condition, c.message) for c in run_checks(compiled.disassemble())]
    return table(">instruction", "when", "must hold", "because of", rows=rows)


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
