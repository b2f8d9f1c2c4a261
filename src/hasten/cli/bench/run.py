"""`hasten bench run`, or `hasten bench MODEL...`: measure models on engines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasten.cli import options as o
from hasten.cli.bench import options as b

if TYPE_CHECKING:
    from hasten.bench.experiment import Task
    from hasten.bench.results import Run
    from hasten.bench.summary import Summary

INTERRUPTED, NOTHING = 130, 3
MEASURING = "Measuring"


def measure_models(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", exists=True, dir_okay=False, help="One or more .onnx models.")],
    peers: Annotated[
        list[str] | None,
        typer.Option("--peers", "-p", metavar="ENGINE,...", show_default=False, rich_help_panel=MEASURING,
                     help="Engines to compare with: onnxruntime, openvino, openvino:precision=f32, hasten@REVISION, ... Repeatable."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", metavar="ENGINE", show_default=False, rich_help_panel=MEASURING,
                     help="What they are compared with, such as hasten:precision=high,isa=avx512. Of several, the first. [dim]Default: hasten.[/dim]"),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", min=1, metavar="N", show_default=False, rich_help_panel=MEASURING,
                     help="Threads of every engine. Repeatable. [dim]Default: 1.[/dim]"),
    ] = None,
    budget: Annotated[
        float, typer.Option("--budget", min=0.1, metavar="SECONDS", rich_help_panel=MEASURING, help="For the rounds of a model, if verdicts take that long.")
    ] = 20.0,
    rounds: Annotated[int, typer.Option("--rounds", min=3, metavar="N", rich_help_panel=MEASURING, help="At most so many rounds.")] = 20_000,
    starts: Annotated[bool, typer.Option("--starts/--no-starts", rich_help_panel=MEASURING, help="Measure cold starts, too.")] = True,
    even_if_busy: Annotated[
        bool, typer.Option("--even-if-busy", rich_help_panel=MEASURING, help="Conclude even where other work disturbs; the report says so.")
    ] = False,
    band: Annotated[
        float, typer.Option("--band", parser=b.share, metavar="SHARE", rich_help_panel=b.JUDGING, help="Differences up to this are none.")
    ] = 0.02,
    gate: Annotated[
        Path | None,
        typer.Option("--gate", exists=True, dir_okay=False, metavar="BASELINE", show_default=False, rich_help_panel=b.JUDGING,
                     help="Fail where a model became slower than in this baseline: exit code 1; 2 undecided, 3 not measured."),
    ] = None,
    gate_band: Annotated[
        float, typer.Option("--gate-band", parser=b.share, metavar="SHARE", rich_help_panel=b.JUDGING, help="The gate lets pass what became slower by less.")
    ] = 0.05,
    save_baseline: Annotated[
        Path | None,
        typer.Option("--save-baseline", dir_okay=False, metavar="FILE", show_default=False, rich_help_panel=b.JUDGING, help="Record a baseline for --gate."),
    ] = None,
    report: b.ReportOption = None,
    export: b.ExportOption = None,
    store: b.StoreOption = None,
    inputs: o.InputOption = None,
    dims: o.DimOption = None,
    seed: o.SeedOption = 0,
    resize: o.ResizeOption = None,
    scale: o.ScaleOption = None,
    mean: o.MeanOption = None,
    std: o.StdOption = None,
    layout: o.LayoutOption = None,
    bgr: o.BgrOption = False,
    json: o.JsonOption = False,
) -> None:
    """Measure models, alone or against other engines on the same inputs.

    Every engine runs in a process of its own. Answers are checked before anything is timed; then engines take turns in an order drawn anew, until
    it is clear who is faster or the budget is spent. Raw samples are kept. Inputs that are not given are random.
    """  # fmt: skip
    from dataclasses import replace

    from hasten.bench import gate as gates
    from hasten.bench.experiment import measure
    from hasten.bench.keep import Keeper
    from hasten.bench.rounds import Design
    from hasten.bench.store import Store
    from hasten.bench.summary import summarise
    from hasten.cli.bench.live import Live
    from hasten.cli.pictures import PictureOptions

    engines = _engines([*(engine or ["hasten"]), *(peers or ())])
    _check_files(report or (), export or ())
    baseline = gates.load(gate) if gate else None
    pictures = PictureOptions.parse(resize, scale, mean, std, layout, bgr)
    feeding = {"sources": inputs or (), "dims": dims or (), "seed": seed, "default": "random", "pictures": pictures, "stray_dims": len(models) > 1}
    tasks = _tasks(models, feeding)
    design = Design(seconds=budget, most_rounds=rounds, band=band, seed=seed, starts=starts, even_if_busy=even_if_busy)
    if gate or save_baseline:
        design = replace(design, least_rounds=gates.ROUNDS)
    with Store(store) as place:
        keeper = Keeper(place, _command())
        with Live(len(tasks), not json, keeper.keep) as live:
            run = measure(tasks, engines, threads or [1], design, live.progress, live.keep, references=_references())
            live.show_done(len(run.subjects))
        summary = summarise(run, str(engines[0]))
        kept = keeper.finish(run, list(summary.verdicts()))
    _tell(summary, kept, json)
    _write(summary, report or (), export or ())
    raise typer.Exit(_conclude(summary, baseline, gate_band, save_baseline, json))


def _engines(texts: Sequence[str]) -> list[Any]:
    """Their specs; what is unknown or not installed is told before anything is measured."""
    from hasten.bench.peer import EngineSpec
    from hasten.bench.peers import find

    found = [EngineSpec.parse(text) for text in b.specs(texts)]
    for spec in found:
        find(spec.peer)
    return found


def _check_files(report: Sequence[Path], export: Sequence[Path]) -> None:
    """Before anything is measured: suffixes, and packages that they need."""
    from hasten.bench import export as samples
    from hasten.bench import report as reports

    for path in report:
        reports.check(path)
    for path in export:
        samples.check(path)


def _tasks(models: Sequence[Path], feeding: dict[str, Any]) -> list[Task]:
    """All models with their inputs; what is wrong with any of them is told at once."""
    from hasten.base.errors import HastenError, InputError

    made, troubles = [], []
    for model in models:
        try:
            made.append(_task(model, models, feeding))
        except HastenError as error:
            troubles.append((model, error))
    if len(troubles) == 1:
        raise troubles[0][1]
    if troubles:
        raise InputError(f"{len(troubles)} of {len(models)} models cannot be fed:\n" + "\n".join(f"  {model.name}: {error}" for model, error in troubles))
    return made


def _task(model: Path, models: Sequence[Path], feeding: dict[str, Any]) -> Task:
    """A model with its inputs; models whose files have the same name are told apart by their folders."""
    from hasten.base.errors import InputError
    from hasten.bench.experiment import Task
    from hasten.cli.console import note
    from hasten.cli.feeds import declared_inputs, make_feeds
    from hasten.cli.models import SAVED

    if model.suffix.lower() == SAVED:
        raise InputError(f"{model.name}: engines cannot read {SAVED} files; give the .onnx model.")
    feeds = make_feeds(declared_inputs(model), **feeding)
    for remark in feeds.remarks:
        note(f"{model.name}: {remark}")
    twins = [other for other in models if other.stem == model.stem]
    return Task(model, feeds.arrays, model.stem if len(twins) == 1 else str(model.with_suffix("")))


def _references() -> Path:
    """Where float64 references are kept for the next time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hasten-bench" / "references"


def _command() -> list[str]:
    """The command line, as it may be given again."""
    import sys

    return ["hasten", *sys.argv[1:]]


def _tell(summary: Summary, kept: str, json: bool) -> None:
    """What is said at the end: means, cautions, where the run is kept."""
    from hasten.cli.bench import show
    from hasten.cli.console import note, print_json

    run = summary.run
    if json:
        print_json(summary.to_dict())
    else:
        show.show_means(summary)
    show.show_cautions(summary)
    if run.status == "refused":
        note(_refusal(run))
    if kept:
        note(("interrupted; what was measured is " if run.status == "interrupted" else "") + kept)


def _refusal(run: Run) -> str:
    nothing = "so nothing was measured" if not run.subjects else "so nothing is concluded from the times"
    return (f"the machine has too little to spare, {nothing}. End what else runs, or wait (`hasten bench check` looks again);\n"
            "--even-if-busy measures and concludes all the same, and the report says so.")  # fmt: skip


def _write(summary: Summary, report: Sequence[Path], export: Sequence[Path]) -> None:
    from hasten.bench import export as samples
    from hasten.bench import report as reports
    from hasten.cli.console import note

    for path in report:
        reports.write(summary, path)
    for path in export:
        samples.write(summary.run, path)
    if written := [*report, *export]:
        note(f"written: {', '.join(map(str, written))}")


def _conclude(summary: Summary, baseline: Any, band: float, save: Path | None, json: bool) -> int:
    """The exit code."""
    from hasten.bench import gate as gates
    from hasten.cli.bench import show
    from hasten.cli.console import note

    if summary.run.status == "interrupted":
        return INTERRUPTED
    if not summary.measured or summary.run.status == "refused":
        return NOTHING
    if save:
        gates.save(summary, save)
        note(f"baseline recorded: {save}")
    if baseline is None:
        return 0
    outcome = gates.judge(baseline, summary, band)
    if not json:
        show.show_changes(outcome.changes, band)
    for remark in outcome.remarks:
        note(remark)
    note(outcome.says())
    return outcome.code
