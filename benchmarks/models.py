"""The suite: Hasten beside every engine that a user could pick instead, on trained models and on a zoo of published networks.

python benchmarks/models.py                                    everything: hours; what is there already is kept, so it may be interrupted
python benchmarks/models.py data --batch 1 --engines onnxruntime openvino      the trained models beside two peers: minutes
python benchmarks/models.py face bert --quick                  models whose names contain one of these, a few rounds, nothing written

`data` and `zoo` stand for all trained models (of the data folder, HASTEN_DATA) and all networks with random weights (benchmarks/zoo.py). Each
engine runs in a process of its own on the same CPUs, its answers are checked against float64, and rounds go on until there is a verdict or the
time is used up (`hasten.bench`). Results go to results/models/MACHINE/MODEL.json as they come, or to another folder with `--into`; `report.py`
makes the tables, `--report page.html` a page with pictures of what was measured now.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import machine
import onnx
import points
import tables
import trained
import zoo

from hasten.base.errors import HastenError
from hasten.bench import peers
from hasten.bench.experiment import Progress, Task, measure
from hasten.bench.peer import EngineSpec
from hasten.bench.report import check as check_report
from hasten.bench.report import write as write_report
from hasten.bench.results import Run
from hasten.bench.rounds import Design
from hasten.bench.summary import summarise
from hasten.codegen import isa

RESULTS = machine.RESULTS / "models"
SETTINGS = {  # of Hasten, and the instruction set that each needs; the first is what the others are measured against
    points.BASE: "portable", "hasten:isa=avx512": "amx", "hasten:isa=avx512,precision=strict": "avx512", "hasten:isa=avx2": "avx2",
    "hasten:precision=high": "amx", "hasten:precision=medium": "amx",
}  # fmt: skip
PEERS = {**dict.fromkeys(points.FP32_PEERS, "portable"), **dict.fromkeys(points.BF16_PEERS, "amx"), "openvino:precision=default": "portable"}
GROUPS = ("data", "zoo")
SECONDS = 1.5  # of rounds for each engine, at most


@dataclass(frozen=True)
class Work:
    """One model with one input. `label` says which one, where there are several; `first`: the one for which starts are measured."""

    group: str
    batch: int
    label: str
    first: bool
    case: trained.Case


def main() -> None:
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal; the same command goes on from here."))  # the zoo's files are large
    engines = available(args.engines)
    runs = []
    with tempfile.TemporaryDirectory(prefix="hasten-suite-") as folder:
        for work in works(args.models, args.batch, Path(folder), args.quick):
            for threads in args.threads:
                if run := run_one(work, threads, engines, Path(folder), args):
                    runs.append(run)
    if not args.quick:
        print(f"\n{tables.means(points.load(args.into))}\n\nresults: {args.into}")
    if args.report and runs:
        subjects = [subject for run in runs for subject in run.subjects]
        cautions = list(dict.fromkeys(caution for run in runs for caution in run.cautions))
        write_report(summarise(replace(runs[0], subjects=subjects, cautions=cautions, ended=runs[-1].ended)), args.report)
        print(f"report: {args.report}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="parts of names, or the groups data and zoo; default: all")
    parser.add_argument("--engines", nargs="*", help="peers and settings of Hasten (whose default always takes part); default: all there are")
    parser.add_argument("--threads", nargs="*", type=int, help="default: 1 and 2")
    parser.add_argument("--batch", nargs="*", type=int, choices=(1, 8), help="default: 1 and 8")
    parser.add_argument("--seconds", type=float, help=f"of rounds for each engine, at most; default: {SECONDS:g}")
    parser.add_argument("--into", type=Path, default=here(), help="the folder of results; default: %(default)s")
    parser.add_argument("--report", type=Path, help="also a page (.html, .md or .json) of what was measured now")
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
    parser.add_argument("--even-if-busy", action="store_true", help="measure on a busy machine, and say so in the results")
    parser.add_argument("--quick", action="store_true", help="one thread, batch 1, a few rounds: to see that it runs; results are not written")
    args = parser.parse_args()
    if args.report:
        try:
            check_report(args.report)
        except HastenError as error:
            parser.error(str(error))
    args.threads = [n for n in args.threads or ([1] if args.quick else [1, 2]) if n <= len(machine.cpus())]
    args.batch = args.batch or ([1] if args.quick else [1, 8])
    args.seconds = args.seconds or (0.3 if args.quick else SECONDS)
    return args


def available(wanted: Sequence[str] | None) -> list[EngineSpec]:
    """The engines to measure, the default Hasten first; those that are not installed, or not for this machine, are told and left out."""
    known = {**SETTINGS, **PEERS}
    found = []
    for text in dict.fromkeys([points.BASE, *(wanted or known)]):
        spec = EngineSpec.parse(text)
        if known.get(text, "portable") not in isa.available():
            if wanted:
                print(f"{text}: left out, this machine has no {known[text]}")
            continue
        try:
            peers.find(spec.peer)
        except HastenError as error:
            print(f"{text}: left out, {error}")
            continue
        found.append(spec)
    return found


def works(parts: Sequence[str], batches: Sequence[int], folder: Path, first_only: bool) -> Iterator[Work]:
    """Every model with every input: the trained ones in their first shape, the zoo's in all lengths. A zoo file lives while it is needed."""
    names = [part for part in parts if part not in GROUPS]
    data = trained.data_folder()
    if data is None and (not parts or "data" in parts):
        print("the trained models are left out: HASTEN_DATA names no folder with models/ in it")
    if data and (not parts or names or "data" in parts):
        for case in trained.load(data, () if "data" in parts else names, first_only=True):
            for batch in batches:
                if chosen := case if batch == 1 else trained.batched(case, batch):
                    yield Work("data", batch, variant(case.label), batch == batches[0], chosen)
    if not parts or names or "zoo" in parts:
        for name in zoo.NETWORKS:
            if not parts or "zoo" in parts or any(part in name for part in names):
                made = None
                for number, case in enumerate(zoo.cases_of(name, folder, batches, first_only)):
                    made = case.path
                    yield Work("zoo", int(case.label.split()[0][1:]), variant(case.label), number == 0, case)
                if made:
                    made.unlink()


def variant(label: str) -> str:
    """A case's label without its batch."""
    return re.sub(r"^n\d+ ?", "", label)


def here() -> Path:
    """The folder of this machine's results: its CPU, and its best instruction set."""
    return RESULTS / re.sub(r"[^a-z0-9]+", "-", f"{machine.cpu_model()} {isa.available()[0]}".lower()).strip("-")


def run_one(work: Work, threads: int, engines: Sequence[EngineSpec], folder: Path, args: argparse.Namespace) -> Run | None:
    """Measure one model with one input and number of threads, and write it unless the run is a quick one; None where it is there already.

    Engines that a kept point has are measured again together with new ones: only times of the same rounds are compared.
    """
    path: Path = args.into / f"{work.case.model}.json"
    rows = [] if args.quick or not path.exists() else json.loads(path.read_text())["points"]
    key = {"label": work.label, "batch": work.batch, "threads": threads}
    kept = next((row for row in rows if all(row[k] == v for k, v in key.items())), None)
    had = [entry["engine"] for entry in kept["engines"]] if kept else []
    wanted = list(dict.fromkeys([*map(str, engines), *had]))
    if kept and not args.again and len(wanted) == len(had):
        return None
    design = Design(
        seconds=args.seconds * len(wanted), least_rounds=3 if args.quick else Design.least_rounds, starts=work.first and threads == args.threads[0],
        even_if_busy=args.even_if_busy,
    )  # fmt: skip
    name = f"{work.case.model} {work.label}".strip() + (f", batch {work.batch}" if work.batch > 1 else "")
    specs = [EngineSpec.parse(text) for text in wanted]
    run = measure([Task(work.case.path, work.case.feeds, name)], specs, [threads], design, progress, references=folder / "references")
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if run.status != "complete":
        sys.exit(f"{run.status}: {'; '.join(run.cautions)}\n{name} is not written; the same command goes on from here.")
    (block,) = summarise(run).to_dict()["models"]
    row = {**key, "began": run.began, "revision": run.revision, "cautions": run.cautions,
           **{k: block[k] for k in ("inputs", "reference", "reference_note", "engines")}}  # fmt: skip
    about = {"model": work.case.model, "group": work.group, "depthwise": depthwise(work.case.path), "machine": run.machine}
    say(next(points.points({**about, "points": [row]})))
    if not args.quick:
        write(path, {**about, "versions": machine.versions(), "points": [*(r for r in rows if r is not kept), row]})
    return run


def write(path: Path, data: dict[str, Any]) -> None:
    """All at once, so that an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(data, indent=1, default=str) + "\n")
    new.replace(path)


def depthwise(path: Path) -> float:
    """The share of a model's convolutions whose groups have one channel each."""
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    groups = [next((a.i for a in node.attribute if a.name == "group"), 1) for node in convs]
    many = sum(group > 1 and shapes.get(node.input[1], [0, 0])[1] == 1 for node, group in zip(convs, groups, strict=True))
    return round(many / len(convs), 3) if convs else 0.0


def progress(step: Progress) -> None:
    """One line on the terminal that changes."""
    if sys.stderr.isatty():
        text = f"{step.label}, {step.threads} thr: {step.stage} {step.engine}" + (f" {step.rounds} ({step.share:.0%})" if step.rounds else "")
        print(f"\r\033[K{text[:150]}", end="", file=sys.stderr, flush=True)


def say(point: points.Point) -> None:
    """A line about what was measured, and one for each engine that failed."""
    best = point.peer("best fp32")
    times = [f"{name} {ratio:.2f}x" for name in point.engines if (ratio := point.speedup(points.BASE, name)) and name != points.BASE]
    seconds = point.seconds(points.BASE)
    ours = f"{seconds * 1e3:.3g} ms" if seconds else "failed"
    print(f"{point.name}, batch {point.batch}, {point.threads} thr: {ours}; beside {', '.join(times)}" + (f"; best {best}" if best else ""), flush=True)
    for name, entry in point.engines.items():
        if entry.get("trouble"):
            print(f"    {name}: {entry['trouble']}", flush=True)


if __name__ == "__main__":
    main()
