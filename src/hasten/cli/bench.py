"""`hasten bench`: time models, alone or against other engines on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasten.cli import options as o

if TYPE_CHECKING:
    from hasten.bench.compare import Difference
    from hasten.bench.timing import Comparison

OURS = "hasten"
SUSPICIOUS = 1e-3  # a difference, relative to the largest value, that makes times doubtful


@dataclass(frozen=True)
class Outcome:
    """What was found for one model; failed peers are told in `missing`, by name."""

    model: Path
    isa: str
    precision: str
    threads: int
    comparison: Comparison
    differences: Mapping[str, Difference]
    missing: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": str(self.model), "isa": self.isa, "precision": self.precision, "threads": self.threads,
            "engines": self.comparison.to_dict(),
            "differences": {name: difference.relative for name, difference in self.differences.items()},
            "missing": dict(self.missing),
        }  # fmt: skip


def bench_models(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", exists=True, dir_okay=False, help="One or more .onnx models.")
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            "-a",
            metavar="PEER",
            show_default=False,
            help="An engine to compare with: onnxruntime, openvino. Repeatable.",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=3, metavar="N", help="Rounds, in each of which all take a turn.")
    ] = 15,
    inputs: o.InputOption = None,
    dims: o.DimOption = None,
    seed: o.SeedOption = 0,
    resize: o.ResizeOption = None,
    scale: o.ScaleOption = None,
    mean: o.MeanOption = None,
    std: o.StdOption = None,
    layout: o.LayoutOption = None,
    bgr: o.BgrOption = False,
    isa: o.IsaOption = None,
    precision: o.PrecisionOption = None,
    threads: Annotated[
        int,
        typer.Option("--threads", min=1, metavar="N", rich_help_panel=o.COMPILING, help="Threads, of every engine."),
    ] = 1,
    host_ops: o.HostOpsOption = True,
    cache_dir: o.CacheDirOption = None,
    json: o.JsonOption = False,
) -> None:
    """Time models, and the ratio to other engines.

    The engines take turns in short rounds in an order drawn anew; a ratio is taken inside each round, and its median is
    printed with a 95% interval. Outputs are compared before anything is timed. Inputs that are not given are random.
    """  # fmt: skip
    from hasten.bench.peers import find
    from hasten.cli.console import print_json
    from hasten.cli.models import CompileOptions
    from hasten.cli.pictures import PictureOptions

    peers = list(dict.fromkeys(against or ()))
    for name in peers:
        find(name)  # refuses what is unknown or not installed
    feeding = {"sources": inputs or (), "dims": dims or (), "seed": seed, "default": "random",
               "pictures": PictureOptions.parse(resize, scale, mean, std, layout, bgr),
               "stray_dims": len(models) > 1}  # fmt: skip
    choices = CompileOptions(isa, precision, threads, host_ops, cache_dir)
    outcomes = []
    for model in models:
        outcomes.append(_bench(model, peers, choices, feeding, rounds))
        if not json:
            _print(outcomes[-1])
    if json:
        print_json([outcome.to_dict() for outcome in outcomes] if len(models) > 1 else outcomes[0].to_dict())
    elif len(models) > 1:
        _print_means(outcomes, peers)


def _bench(model: Path, peers: list[str], choices: Any, feeding: dict[str, Any], rounds: int) -> Outcome:
    """Compiles, compares, times."""
    from hasten.base.errors import InputError, MissingDependency
    from hasten.bench import timing
    from hasten.bench.compare import largest_difference
    from hasten.bench.peers import find
    from hasten.cli.console import note
    from hasten.cli.feeds import make_feeds, tensor_inputs
    from hasten.cli.models import SAVED, open_model, progress_bar

    if peers and model.suffix.lower() == SAVED:
        raise InputError(f"{model.name}: other engines cannot read {SAVED} files; give the .onnx model.")
    compiled = open_model(model, choices)
    feeds = make_feeds(tensor_inputs(compiled), **feeding)
    for remark in feeds.remarks:
        note(f"{model.name}: {remark}")
    ours = compiled.run(feeds.arrays)
    engines: dict[str, timing.Call] = {OURS: lambda: compiled.run(feeds.arrays)}
    differences, missing = {}, {}
    for name in peers:
        try:
            run = find(name).load(model, choices.threads, {}, None).run
            differences[name] = largest_difference(ours, run(feeds.arrays))
            engines[name] = lambda run=run: run(feeds.arrays)  # type: ignore[misc]
        except MissingDependency:
            raise
        except Exception as error:  # the peer's own failure with this model: told, and the others go on
            missing[name] = str(error)
    with progress_bar(f"timing {model.name}") as progress:
        show = (lambda done, total: progress("rounds", done, total)) if progress else None
        comparison = timing.paired(engines, rounds=rounds, progress=show)
    report = compiled.report()
    return Outcome(model, report.isa, report.precision, report.threads, comparison, differences, missing)


def _print(outcome: Outcome) -> None:
    from rich.text import Text

    from hasten.base.units import count_text, time_text
    from hasten.cli.console import data, note, table

    rows = []
    for timing in outcome.comparison.timings:
        seconds, ratio = timing.seconds, outcome.comparison.ratio(timing.name)
        difference = outcome.differences.get(timing.name)
        rows.append((
            timing.name, time_text(seconds.median), f"{time_text(seconds.low)} to {time_text(seconds.high)}",
            "" if difference is None else Text(f"{ratio.median:.2f}x", style="green" if ratio.low > 1 else ""),
            "" if difference is None else f"{ratio.low:.2f} to {ratio.high:.2f}",
            "" if difference is None else f"{difference.relative:.1e}", timing.calls,
        ))  # fmt: skip
    console = data()
    console.print(Text.assemble((outcome.model.name, "bold"), f"  {outcome.isa}, precision {outcome.precision}, ",
                                count_text(outcome.threads, "thread")))  # fmt: skip
    columns = ("engine", ">a call", "95% interval", ">time / hasten's", "95% interval", ">difference", ">calls")
    console.print(table(*columns, rows=rows))
    for name, difference in outcome.differences.items():
        if difference.relative > SUSPICIOUS:
            note(f"hasten and {name} disagree, {difference}: the ratio may mean little")
    for name, reason in outcome.missing.items():
        note(f"{name} left out: {reason}")


def _print_means(outcomes: list[Outcome], peers: list[str]) -> None:
    from hasten.base.units import count_text
    from hasten.bench.timing import geometric_mean
    from hasten.cli.console import data

    for name in peers:
        ratios = [outcome.comparison.ratio(name).median for outcome in outcomes if name in outcome.differences]
        if ratios:
            mean, models = geometric_mean(ratios), count_text(len(ratios), "model")
            data().print(f"{name}: time / hasten's {mean:.2f}x (geometric mean of {models}), least {min(ratios):.2f}x")
