"""`hasten profile`: where a model's time goes, kernel by kernel."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasten.cli import options as o

if TYPE_CHECKING:
    from hasten import CompiledModel
    from hasten.profile import KernelTime, Placed, Profile, Roofline
    from hasten.profile.instructions import InstructionTime

BAR = 16  # characters of the longest bar
FIRST_LOOK = 3  # kernels named as the ones to look at first
KINDS = 5  # kinds of kernels that the summary names
DISTURBED = 1.3  # times the least call from which on a typical one is told to be disturbed
NAMES, OPS, TEXT = 34, 28, 80  # characters of a node's name, of its operators, and of an instruction that are shown


def profile_model(
    model: o.ModelFile,
    roofline: Annotated[
        bool,
        typer.Option("--roofline", help="Compare each kernel with the peaks of this machine (measured once, in some ten seconds)."),
    ] = False,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Kernels shown.")] = 20,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, metavar="N", help="Runs to time. [dim]Default: as many as fit in --seconds.[/dim]")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="About so long, at least five runs.")] = 2.0,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the roofline picture and the table.")] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write a typical run as a Chrome trace (chrome://tracing, Perfetto).")
    ] = None,
    instructions: Annotated[
        bool, typer.Option("--instructions", help="Also the instructions of the Program, the slowest first: what is around the kernels.")
    ] = False,
    flame: Annotated[Path | None, typer.Option("--flame", metavar="FILE", help="Write the time by instruction as a picture (.svg).")] = None,
    measure_peaks: Annotated[bool, typer.Option("--measure-peaks", help="Measure the machine's peaks again.")] = False,
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
    threads: o.ThreadsOption = None,
    host_ops: o.HostOpsOption = True,
    cache_dir: o.CacheDirOption = None,
    json: o.JsonOption = False,
) -> None:
    """Time every kernel of a model, the slowest first, and name the nodes that it computes.

    With --roofline also operations, bytes, rates, the share of what this machine can do, and where time could be saved.
    Inputs that are not given are random.
    """
    from hasten.base.errors import InputError
    from hasten.cli.console import note, print_json
    from hasten.cli.feeds import make_feeds, tensor_inputs
    from hasten.cli.files import replacing
    from hasten.cli.models import CompileOptions, open_model
    from hasten.cli.pictures import PictureOptions
    from hasten.profile import Roofline, machine_peaks, record
    from hasten.profile import flame as picture
    from hasten.profile.page import page
    from hasten.profile.trace import chrome_trace

    compiled = open_model(model, CompileOptions(isa, precision, threads, host_ops, cache_dir))
    pictures = PictureOptions.parse(resize, scale, mean, std, layout, bgr)
    feeds = make_feeds(tensor_inputs(compiled), inputs or (), dims or (), pictures=pictures, seed=seed, default="random")
    for remark in feeds.remarks:
        note(remark)
    if flame is not None and compiled.report().host_ops:
        raise InputError(f"--flame: {model.name} has host operators, so its instructions cannot be timed.")
    found = record(compiled, feeds.arrays, rounds=rounds, seconds=seconds)
    roofs = None
    if roofline or html or measure_peaks:
        peaks = machine_peaks(found.isa, found.threads, cache_dir=cache_dir, again=measure_peaks,
                              begin=lambda: note("measuring the peaks of this machine: about ten seconds, once"))  # fmt: skip
        roofs = Roofline.of(found, peaks)
    files = {trace: chrome_trace(found, model.name)} | ({html: page(roofs, model.name)} if roofs is not None else {})
    if found.instructions is not None:
        files[flame] = picture.standalone(found.instructions, model.name)
    for path, text in files.items():
        if path is not None:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            note(f"written: {path}")
    if json:
        print_json({"model": str(model)} | (roofs or found).to_dict())
    else:
        _print(compiled, model.name, found, roofs if roofline or measure_peaks else None, top)
        if instructions:
            _print_instructions(found, top)


def _print(compiled: CompiledModel, name: str, found: Profile, roofs: Roofline | None, top: int) -> None:
    from rich.text import Text

    from hasten.base.units import count_text, time_text
    from hasten.cli.console import data, note, table

    console = data()
    what = f"  {found.isa}, precision {found.precision}, {count_text(found.threads, 'thread')}"
    console.print(Text.assemble((name, "bold"), what))
    console.print(f"a call {time_text(found.call)} (least {time_text(found.least_call)}): {count_text(len(found.kernels), 'kernel')} take "
                  f"{time_text(found.busy)}, {time_text(found.around)} around them; medians of {count_text(found.rounds, 'run')}")  # fmt: skip
    console.print("by kind: " + ", ".join(f"{kind} {spent / found.busy:.0%}" + (f" (at {roofs.reached(kind):.0%})" if roofs else "")
                                           for kind, _, spent in found.kinds()[:KINDS] if found.busy))  # fmt: skip
    if parts := found.parts():
        console.print("by part: " + ", ".join(f"{name} {time_text(spent)}" for name, spent in parts.items() if spent))
    if roofs is None:
        console.print(table(*TIMES, rows=[_time_row(found, k) for k in found.kernels[:top]]))
    else:
        console.print(table(*ROOFS, rows=[_roof_row(found, k) for k in roofs.kernels[:top]]))
        _print_peaks(roofs)
    if len(found.kernels) > top:
        others = sum(k.seconds for k in found.kernels[top:])
        note(f"{count_text(len(found.kernels) - top, 'other kernel')}: {time_text(others)}; --top shows more, --json all")
    if found.call > DISTURBED * found.least_call:
        note(f"a typical call took {found.call / found.least_call:.1f}x the least: other work disturbed this, and times of several threads above all")
    if not found.replayed:
        note("this model was run step by step (host operators, or random sizes), so short kernels look slower than they are")


def _print_instructions(found: Profile, top: int) -> None:
    """The slowest instructions with their numbers in the listing of `hasten disassemble`."""
    from hasten.base.units import count_text, time_text
    from hasten.cli.console import data, note, table

    if found.instructions is None:
        note("this model has host operators, so its instructions cannot be timed")
        return
    rows = sorted((row for row in found.instructions.rows if row.calls), key=lambda row: -row.seconds)
    whole = max(1e-12, sum(row.seconds for row in rows))
    data().print(table(*INSTRUCTIONS, rows=[
        (f"{row.seconds / whole:.1%}", _bar(row.seconds, rows[0].seconds), time_text(row.seconds), row.calls, row.number, row.group, _short(row))
        for row in rows[:top]]))  # fmt: skip
    if len(rows) > top:
        note(f"{count_text(len(rows) - top, 'other instruction')}: {time_text(sum(row.seconds for row in rows[top:]))}")
    if found.instructions.cut_off:
        note("a run has more instructions than are noted: later ones are missing")


def _short(row: InstructionTime) -> str:
    text = f"{row.kernel}: {row.note}" if row.kernel else row.text
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"


TIMES = (">share", "", ">time", ">calls", ">threads", "node", "ops", "kernel")
INSTRUCTIONS = (">share", "", ">time", ">times", ">number", "for", "instruction")
ROOFS = (">share", "", ">time", "node", "ops", ">Mop", ">MB", ">Gop/s", ">GB/s", "bound by", ">of roof", ">saved at the roof")


def _bar(share: float, largest: float) -> str:
    """A bar in eighths of a character."""
    eighths = round(8 * BAR * share / max(largest, 1e-9))
    return "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")


def _name(kernel: KernelTime) -> str:
    """The node's name without its operator, which has a column of its own, cut in the middle."""
    name = kernel.node.removeprefix(kernel.op).strip().strip("'") or "(copy)"
    return name if len(name) <= NAMES else f"{name[: NAMES // 3]}…{name[-(NAMES - NAMES // 3 - 1) :]}"


def _ops(kernel: KernelTime) -> str:
    """The operators in one kernel: those fused into it, then its own."""
    counts = collections.Counter(name.split(" ")[0] for name in kernel.fused)
    text = " + ".join([f"{op} x{count}" if count > 1 else op for op, count in counts.items()] + [kernel.op])
    return text if len(text) <= OPS else text[: OPS - 1] + "…"


def _time_row(found: Profile, k: KernelTime) -> tuple[Any, ...]:
    from hasten.base.units import time_text

    share = found.share(k)
    return (f"{share:.1%}", _bar(share, found.share(found.kernels[0])), time_text(k.seconds), k.calls, k.threads, _name(k), _ops(k), k.kind)


def _roof_row(found: Profile, p: Placed) -> tuple[Any, ...]:
    from hasten.base.units import time_text

    k = p.kernel
    return (f"{p.share:.1%}", _bar(p.share, found.share(found.kernels[0])), time_text(k.seconds), _name(k), _ops(k), f"{k.operations / 1e6:.3g}",
            f"{k.bytes / 1e6:.3g}", f"{p.rate / 1e9:.1f}", f"{p.bandwidth / 1e9:.1f}", p.bound, f"{p.attained:.0%}", time_text(p.saving))  # fmt: skip


def _print_peaks(roofs: Roofline) -> None:
    from hasten.base.units import time_text
    from hasten.cli.console import data

    p = roofs.peaks
    levels = ", ".join(f"{level.name} {level.read / 1e9:.0f}/{level.write / 1e9:.0f}/{level.copy / 1e9:.0f}" for level in p.levels)
    tiles = f"{p.tiles / 1e9:.0f} Gop/s in bfloat16 tiles, " if p.tiles else ""
    console = data()
    console.print(f"peaks of {p.cpu} ({p.date[:10]}): {p.fma / 1e9:.0f} Gop/s, {tiles}GB/s read/written/copied: {levels}")
    console.print(f"all kernels together reach {roofs.attained:.0%} of their roofs; look first at: "
                  + ", ".join(f"{_name(k.kernel)} ({time_text(k.saving)})" for k in roofs.worth()[:FIRST_LOOK]))  # fmt: skip
