"""`hasten compile`: a model to a .hasten file, which loads without onnx and without LLVM."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasten.cli import options as o

if TYPE_CHECKING:
    from hasten import CompiledModel


def compile_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL", exists=True, dir_okay=False, help="A .onnx model.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write. [dim]Default: MODEL with .hasten.[/dim]"),
    ] = None,
    isa: o.IsaOption = None,
    precision: o.PrecisionOption = None,
    threads: o.ThreadsOption = None,
    host_ops: o.HostOpsOption = True,
    cache_dir: o.CacheDirOption = None,
    dump: o.DumpOption = None,
    json: o.JsonOption = False,
) -> None:
    """Compile a model and save it.

    The file is written whole or not at all: an interrupted compile leaves what was there before.
    """
    from hasten.base.errors import InputError
    from hasten.cli.files import replacing
    from hasten.cli.models import SAVED, CompileOptions, open_model

    target = output or model.with_suffix(SAVED)
    if model.suffix.lower() == SAVED:
        raise InputError(f"{model.name} is compiled already: give the .onnx model that it was made from.")
    if target.suffix.lower() != SAVED:
        raise InputError(f"--output {target}: compiled models end in {SAVED}; try {target.with_suffix(SAVED)}.")
    choices = CompileOptions(isa, precision, threads, host_ops, cache_dir, dump)
    with replacing(target) as temporary:  # first of all, so that a folder that cannot be written is told at once
        began = time.perf_counter()
        compiled = open_model(model, choices)
        seconds = time.perf_counter() - began
        compiled.save(temporary)
    _print(model, target, compiled, seconds, json)


def _print(model: Path, target: Path, compiled: CompiledModel, seconds: float, json: bool) -> None:
    from hasten.cli.console import data, print_json

    size = target.stat().st_size
    if json:
        print_json({"model": str(model), "output": str(target), "file_bytes": size, "seconds": seconds,
                    "inputs": described(compiled.inputs), "outputs": described(compiled.outputs),
                    "report": compiled.report().to_dict()})  # fmt: skip
        return
    console = data()
    console.print(signature_table(compiled))
    console.print(_summary(target, compiled, seconds, size))


def described(tensors: Any) -> list[dict[str, Any]]:
    """Inputs or outputs for JSON."""
    return [{"name": t.name, "dtype": t.dtype, "shape": None if t.shape is None else list(t.shape)} for t in tensors]


def signature_table(compiled: CompiledModel) -> Any:
    """Inputs and outputs with their types."""
    from hasten.cli.console import shape_text, table

    sides = (("input", compiled.inputs), ("output", compiled.outputs))
    rows = [(side, t.name, t.dtype, shape_text(t.shape)) for side, tensors in sides for t in tensors]
    return table("", "name", "dtype", "shape", rows=rows)


def host_ops_text(names: list[str]) -> str:
    """`none`, or the operators with how often they occur: `Loop x2, StringNormalizer`."""
    counts = {name: names.count(name) for name in names}
    return ", ".join(name + (f" x{count}" if count > 1 else "") for name, count in counts.items()) or "none"


def _summary(target: Path, compiled: CompiledModel, seconds: float, size: int) -> Any:
    from hasten.base.units import size_text, time_text
    from hasten.cli.console import facts, memory_text

    report = compiled.report()
    source = "from the cache" if report.from_cache else "cold"
    return facts(
        [
            ("kernels", f"{report.kernels} ({report.isa}, precision {report.precision})"),
            ("host ops", host_ops_text(report.host_ops)),
            ("peak memory", memory_text(report.peak_memory)),
            ("constants", size_text(report.constants_bytes)),
            ("time", f"{time_text(seconds)} ({source})"),
            ("file", f"{target}, {size_text(size)}"),
        ]
    )
