"""`hasten compile`: a model to a .hasten file, which loads without onnx and without LLVM, or to a shared library."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasten.cli import options as o

if TYPE_CHECKING:
    from hasten import CompiledModel
    from hasten.cli.models import CompileOptions


class Emit(StrEnum):
    """What `hasten compile` writes."""

    HASTEN = "hasten"
    SHARED_LIBRARY = "shared-library"


def compile_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL", exists=True, dir_okay=False, help="A .onnx model.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH",
                     help="Where to write: a file, or the folder of a library. [dim]Default: MODEL with .hasten, or with the target's name.[/dim]"),
    ] = None,
    emit: Annotated[
        Emit | None,
        typer.Option("--emit", show_default=False,
                     help="A .hasten file, or a shared library with a C header. [dim]Default: hasten; with --target, shared-library.[/dim]"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="TARGET",
                     help="The machine of a library: x86_64-linux, aarch64-linux. [dim]Default: this one.[/dim]"),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What a library's functions begin with. [dim]Default: made of MODEL.[/dim]"),
    ] = None,
    isa: o.IsaOption = None,
    precision: o.PrecisionOption = None,
    threads: o.ThreadsOption = None,
    dims: o.RangeOption = None,
    host_ops: o.HostOpsOption = True,
    cache_dir: o.CacheDirOption = None,
    dump: o.DumpOption = None,
    json: o.JsonOption = False,
) -> None:  # fmt: skip
    """Compile a model and save it: for Hasten, or as a shared library that needs no Python.

    Files are written whole or not at all: an interrupted compile leaves what was there before.
    """
    from hasten.base.errors import InputError
    from hasten.cli.models import SAVED, CompileOptions

    if model.suffix.lower() == SAVED:
        raise InputError(f"{model.name} is compiled already: give the .onnx model that it was made from.")
    choices = CompileOptions(isa, precision, threads, host_ops, cache_dir, dump, tuple(dims or ()))
    emit = emit or (Emit.SHARED_LIBRARY if target else Emit.HASTEN)
    if emit is Emit.SHARED_LIBRARY:
        _emit_library(model, output, target, name, choices, json)
    elif target or name:
        raise InputError("--target and --name are for shared libraries: add --emit shared-library.")
    else:
        _emit_file(model, output or model.with_suffix(SAVED), choices, json)


def _emit_file(model: Path, target: Path, choices: CompileOptions, json: bool) -> None:
    from hasten.base.errors import InputError
    from hasten.cli.files import replacing
    from hasten.cli.models import SAVED, open_model

    if target.suffix.lower() != SAVED:
        raise InputError(f"--output {target}: compiled models end in {SAVED}; try {target.with_suffix(SAVED)}.")
    with replacing(target) as temporary:  # first of all, so that a folder that cannot be written is told at once
        began = time.perf_counter()
        compiled = open_model(model, choices)
        seconds = time.perf_counter() - began
        compiled.save(temporary)
    _print(model, target, compiled, seconds, json)


def _emit_library(model: Path, output: Path | None, target: str | None, name: str | None, choices: CompileOptions, json: bool) -> None:
    import hasten
    from hasten.base.units import size_text, time_text
    from hasten.cli.console import data, facts, memory_text, print_json
    from hasten.cli.models import progress_bar
    from hasten.deploy import toolchain

    folder = output or model.with_name(f"{model.stem}-{toolchain.target(target).name}")
    options = {key: value for key, value in choices.arguments().items() if key != "host_ops"}  # a library has none anyway
    with progress_bar(model.name) as progress:
        made = hasten.build_library(model, folder, target=target, name=name, progress=progress, **options)
    report, size = made.report, made.library.stat().st_size
    if json:
        files = {"library": made.library, "header": made.header, "example": made.example, "readme": made.readme}
        print_json({"model": str(model), "name": made.name, "target": made.target, "library_bytes": size,
                    "seconds": report.compile_seconds, "report": report.to_dict(), **{key: str(path) for key, path in files.items()}})  # fmt: skip
        return
    console = data()
    for line in made.signature:
        console.print(line.strip(), markup=False, soft_wrap=True)
    rows = [
        ("kernels", f"{report.kernels} ({report.isa}, precision {report.precision}), {made.target}"),
        ("peak memory", memory_text(report.peak_memory)),
        ("constants", size_text(report.constants_bytes)),
        ("time", time_text(report.compile_seconds)),
        ("library", f"{made.library}, {size_text(size)}"),
        ("header", str(made.header)),
        ("how to build", str(made.readme)),
    ]
    console.print(facts(rows))


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
