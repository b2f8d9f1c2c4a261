"""`hasten bench list`, `report`, `export`, `compare`: what can be done with runs that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasten.cli import options as o
from hasten.cli.bench import options as b

if TYPE_CHECKING:
    from hasten.bench.results import Run

SHORT = 8  # characters of an id that people are shown

Output = Annotated[list[Path] | None, typer.Option("--output", "-o", metavar="FILE", dir_okay=False, show_default=False, help="Where to. Repeatable.")]


def _load(key: str, store: str | None) -> Run:
    """A run of the store, or of an exported file."""
    from hasten.bench import export
    from hasten.bench.store import Store

    if key.endswith(".json") and Path(key).is_file():
        return export.read(Path(key))
    with Store(store, create=False) as place:
        return place.load(key)


def list_runs(store: b.StoreOption = None, json: o.JsonOption = False) -> None:
    """List the runs that are kept, the newest first."""
    from hasten.bench.store import Store
    from hasten.cli.console import data, print_json, table

    with Store(store, create=False) as place:
        lines = place.list()
    if json:
        print_json([vars(line) for line in lines])
        return
    rows = [
        (line.id[:SHORT], line.began.replace("T", " ")[:16], line.status, line.models, line.samples, line.revision, ", ".join(line.engines))
        for line in lines
    ]  # fmt: skip
    data().print(table("run", "began (UTC)", "status", ">models", ">samples", "revision", "engines", rows=rows))


def report_run(run: b.RunKey = "latest", output: Output = None, base: b.BaseOption = None, store: b.StoreOption = None, json: o.JsonOption = False) -> None:
    """Show a run that was kept, or write its report: .html, .md or .json, by the file's suffix."""
    from hasten.bench import report
    from hasten.bench.summary import summarise
    from hasten.cli.bench import show
    from hasten.cli.console import note, print_json

    for path in output or ():
        report.check(path)
    summary = summarise(_load(run, store), base)
    for path in output or ():
        report.write(summary, path)
        note(f"written: {path}")
    if json:
        print_json(summary.to_dict())
    elif not output:
        for block in summary.blocks:
            show.show_block(block, summary.base)
        show.show_means(summary)
        show.show_cautions(summary)
        if summary.run.status != "complete":
            note(report.words.STATUS[summary.run.status])


def export_run(run: b.RunKey = "latest", output: Output = None, store: b.StoreOption = None) -> None:
    """Write the raw samples of a run: .csv, .parquet or .json, by the file's suffix."""
    from hasten.base.errors import InputError
    from hasten.bench import export
    from hasten.cli.console import note

    if not output:
        raise InputError("say where to: --output samples.csv (also .parquet, .json).")
    for path in output:
        export.check(path)
    found = _load(run, store)
    for path in output:
        export.write(found, path)
        note(f"written: {path}")


def compare_runs(
    then: Annotated[str, typer.Argument(metavar="RUN_A", help="The older run.")],
    now: Annotated[str, typer.Argument(metavar="RUN_B", help="The newer one, or `latest`.")],
    band: Annotated[float, typer.Option("--band", parser=b.share, metavar="SHARE", help="Differences up to this are none.")] = 0.02,
    peer: Annotated[
        str | None,
        typer.Option("--peer", metavar="ENGINE", show_default=False,
                     help="An engine in both runs; ratios to it are compared. [dim]Default: the first in both.[/dim]"),
    ] = None,
    base: b.BaseOption = None,
    store: b.StoreOption = None,
    json: o.JsonOption = False,
) -> None:
    """Compare two kept runs: exit code 0 where nothing became slower, 1 where something did, 2 undecided, 3 nothing to compare."""
    from dataclasses import asdict

    from hasten.bench.changes import compare, results
    from hasten.bench.gate import Outcome
    from hasten.bench.summary import summarise
    from hasten.cli.bench import show
    from hasten.cli.console import note, print_json

    older, newer = (summarise(_load(key, store), base) for key in (then, now))
    common = [name for name in older.engines[1:] if name in newer.engines[1:]]
    chosen = peer or (common[0] if common else "")
    changes = compare(results(older, chosen), results(newer, chosen), band)
    if json:
        print_json({"peer": chosen, "band": band, "changes": [asdict(change) for change in changes]})
    else:
        show.show_changes(changes, band)
    if not chosen:
        note("the runs have no peer in common: times are compared as they are, and whatever else changed between the runs counts as a change")
    raise typer.Exit(Outcome(changes).code)


def _described(facts: dict[str, Any]) -> list[tuple[str, str]]:
    from hasten.bench.report.words import facts as flat

    return [(name.replace("_", " "), text) for name, text in flat({key: value for key, value in facts.items() if key != "cautions"})]


def check_machine(
    threads: Annotated[int, typer.Option("--threads", min=1, metavar="N", help="How many engines will use.")] = 1, json: o.JsonOption = False
) -> None:
    """Look whether times taken on this machine now would mean anything: exit code 0, or 3 where they would not."""
    from hasten.bench import machine
    from hasten.cli.console import data, facts, note, print_json

    about, check = machine.describe(), machine.Watch(threads).check()
    if json:
        print_json({"machine": about, "check": vars(check)})
    else:
        measured = [("free CPUs", f"{check.free_cpus:.1f}"), ("stolen by the hypervisor", f"{check.steal:.1%}"),
                    ("a loop gets", f"{check.spin_share:.0%} of the time")]  # fmt: skip
        data().print(facts([*_described(about), *measured]))
        standing = about.get("cautions")
        for remark in (*check.refusals, *check.cautions, *(standing if isinstance(standing, list) else ())):
            note(str(remark))
        note("measuring would be refused" if check.refusals else "fit to measure")
    raise typer.Exit(3 if check.refusals else 0)
