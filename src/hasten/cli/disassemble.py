"""`hasten disassemble`: a model's Program, instruction by instruction, and the machine code of its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasten.cli import options as o

if TYPE_CHECKING:
    from hasten import CompiledModel


def disassemble_model(
    model: o.ModelFile,
    dims: Annotated[
        list[str] | None,
        typer.Option("--dim", metavar="NAME=SIZE", show_default=False, help="Put this size of the inputs into all formulas. Repeatable."),
    ] = None,
    asm: Annotated[
        str | None,
        typer.Option("--asm", metavar="KERNEL", help="Show the machine code of a kernel instead: its name, or a beginning of it. Needs objdump."),
    ] = None,
    isa: o.IsaOption = None,
    precision: o.PrecisionOption = None,
    threads: o.ThreadsOption = None,
    host_ops: o.HostOpsOption = True,
    cache_dir: o.CacheDirOption = None,
    json: o.JsonOption = False,
) -> None:
    """Show what a compiled model does: numbered instructions, sizes as formulas, and the nodes that each kernel computes.

    A .onnx model is compiled, or taken from the cache.
    """
    from hasten.cli.console import print_json
    from hasten.cli.models import CompileOptions, open_model

    compiled = open_model(model, CompileOptions(isa, precision, threads, host_ops, cache_dir))
    if asm is not None:
        code = compiled.machine_code(asm)
        print_json({"model": str(model), "machine_code": code.splitlines()}) if json else print(code)
        return
    listing = compiled.disassemble(sizes_of(dims or []))
    if json:
        print_json({"model": str(model)} | _facts(compiled) | listing.to_dict())
        return
    print("; " + _title(model.name, compiled, listing))
    print(listing)


def sizes_of(texts: list[str]) -> dict[str, int]:
    """`NAME=SIZE` each. Raises InputError for anything else."""
    from hasten.base.errors import InputError

    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdigit():
            raise InputError(f"--dim {text}: wants NAME=SIZE, such as height=320.")
        found[name] = int(number)
    return found


def _facts(compiled: CompiledModel) -> dict[str, Any]:
    report = compiled.report()
    return {"isa": report.isa, "precision": report.precision, "threads": report.threads, "kernels": report.kernels}


def _title(name: str, compiled: CompiledModel, listing: Any) -> str:
    from hasten.base.units import count_text

    report = compiled.report()
    count = len(listing.code) + sum(map(len, listing.functions.values()))
    return (f"{name}: {report.isa}, precision {report.precision}, {count_text(report.threads, 'thread')}; "
            f"{count_text(count, 'instruction')}, {count_text(report.kernels, 'kernel')}")  # fmt: skip
