"""A model as a shared library: objects and C text in, a folder with library, header, example and README out.

Part of the public face: what is heavy is imported inside functions."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from hasten.api import Progress, Stage, check_precision, faults, trace
from hasten.base.errors import InputError, ResourceLimit
from hasten.base.ranges import Dim

if TYPE_CHECKING:
    from hasten.codegen.isa import Isa
    from hasten.deploy.toolchain import Target
    from hasten.lower.compile import Objects
    from hasten.lower.report import Report
    from hasten.vm.program import Program

MAX_CONSTANTS = (1 << 31) - (1 << 27)
"""Bytes of weights: code reaches what lies within 2 GiB."""

# The weights, for every assembler.
_CONSTANTS = """\
    .section .rodata
    .balign 64
    .globl hst_constants
hst_constants:
    .incbin "constants.bin"
    .section .note.GNU-stack,"",%progbits
"""


@dataclass(frozen=True)
class Library:
    """A shared library that was written, with all that belongs to it. `signature` has a line for each input and output."""

    name: str
    target: str
    library: Path
    header: Path
    example: Path
    readme: Path
    report: Report
    signature: tuple[str, ...]


def build_library(
    model: Any, directory: str | os.PathLike[str], *, name: str | None = None, target: str | None = None, example_inputs: Sequence[Any] | None = None,
    dynamic_shapes: Any = None, dims: Mapping[str, Dim | int] | None = None, threads: int | None = None, precision: str = "highest",
    isa: str | None = None, cache_dir: str | os.PathLike[str] | None = None, progress: Progress | None = None, dump: str | os.PathLike[str] | None = None,
) -> Library:  # fmt: skip
    """Compile a model to a shared library with a C header, which needs neither Python nor LLVM; returns where everything is.

    Writes lib`name`.so, `name`.h, example.c and README.md into `directory`, which is made. name: what the C functions begin with (default:
    made of the model's file name). target: "x86_64-linux" or "aarch64-linux" (default: this machine). isa: a level of the target, also one
    that this machine lacks. All else as for `compile`. Linking takes a C compiler of the system, or the extra `deploy`.
    Raises what `compile` raises, UnsupportedOperator for what needs Python at run time, MissingDependency where there is no C compiler,
    ResourceLimit for 2 GiB of weights, OSError where the folder cannot be written.
    """
    from hasten.codegen.cache import Cache
    from hasten.deploy import tables, toolchain
    from hasten.lower import compile as stages
    from hasten.vm.runtime import thread_count

    started = time.perf_counter()
    check_precision(precision)
    place = toolchain.target(target)
    order = _Order(c_name(model, name), _title(model), place, toolchain.level(place, isa), thread_count(threads), toolchain.compiler(place))
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give the name of a folder for the library and what belongs to it.")
    stage, dump = Stage(progress), dump or os.environ.get("HASTEN_DUMP") or None
    with faults(stage):
        traced, texts = trace(model, example_inputs, dynamic_shapes, dims, order.isa, precision, True, stage, dump)
        tables.check_host_ops(traced.host)
        parts = stages.compile_objects(traced, order.isa, order.threads, precision, Cache(cache_dir), order.drivers, stage)
        if dump:
            stages.dump(Path(dump), {**texts, **parts.texts})
    _write(order, parts, folder)
    parts.report.compile_seconds = time.perf_counter() - started
    library, header, example, readme = (folder / file for file in (f"lib{order.name}.so", *_files(order.name)))
    return Library(order.name, place.name, library, header, example, readme, parts.report, tuple(tables.signature(parts.program)))


def c_name(model: object, asked: str | None) -> str:
    """What the library's functions begin with: `asked`, or made of the model's file name. Raises InputError for a name
    that C does not allow."""
    stem = Path(model).stem if isinstance(model, (str, os.PathLike)) else "model"
    name = re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_") if asked is None else asked
    if asked is None and not name[:1].isalpha():
        name = f"model_{name}"
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in ("hst", "hasten"):
        raise InputError(f"name={name!r} cannot begin the names of C functions: use letters, digits and _, and neither 'hst' nor 'hasten'.")
    return name


def _title(model: object) -> str:
    return Path(model).name if isinstance(model, (str, os.PathLike)) else "a model"


@dataclass(frozen=True)
class _Order:
    """What is to be built, of which model (`title`), for which machine, by which compiler."""

    name: str
    title: str
    target: Target
    isa: Isa
    threads: int
    compiler: Sequence[str]

    def drivers(self, program: Program) -> dict[str, str]:
        """LLVM texts beside the kernels."""
        from hasten.deploy import tables
        from hasten.vm.native import emit_library, emit_threads

        tables.check_program(program)
        return {"driver": emit_library(program, self.isa), "threads": emit_threads(self.isa)}

    def fields(self, program: Program) -> dict[str, str]:
        """Values for the templates."""
        from hasten.base.version import VERSION
        from hasten.deploy import cpu, tables

        command = ["python", *self.compiler[1:]] if "ziglang" in self.compiler else self.compiler
        sizes = (shlex.quote(f"{size}={number}") for size, number in tables.sizes(program))
        version = f"Hasten {VERSION}: {self.title}, for {self.isa.name} instructions ({self.target.name}), up to {self.threads} thread(s)"
        return tables.fields(program) | {
            "name": self.name,
            "title": tables.comment(self.title),
            "version": VERSION,
            "version_text": tables.string(version),
            "isa": self.isa.name,
            "target": self.target.name,
            "threads": str(self.threads),
            "features": "\n".join(f"    {row}," for row in cpu.rows(self.isa)),
            "uses_tiles": "true" if self.isa.amx == "native" else "false",
            "build": f"{shlex.join(command)} -O2 example.c -o example -L. -l{self.name} -Wl,-rpath,'$ORIGIN'",
            "run": tables.comment(" ".join(["./example", *sizes])),
        }


def _files(name: str) -> dict[str, str]:
    """The text files beside the library, and their templates."""
    return {f"{name}.h": "header.h", "example.c": "example.c", "README.md": "README.md"}


def _write(order: _Order, parts: Objects, folder: Path) -> None:
    """Build everything in a hidden folder within `folder`, then put it into its place."""
    import tempfile

    from hasten.deploy import toolchain

    if len(parts.constants) > MAX_CONSTANTS:
        raise ResourceLimit(f"{len(parts.constants)} bytes of weights: shared libraries hold up to {MAX_CONSTANTS}. Save a .hasten file.")
    values = order.fields(parts.program)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as hidden:
        building = Path(hidden)
        for number, data in enumerate(parts.objects.values()):
            (building / f"{number}.o").write_bytes(data)
        (building / "constants.bin").write_bytes(parts.constants)
        (building / "constants.s").write_text(_CONSTANTS)
        (building / "exports.map").write_text(f"{{ global: {order.name}_*; local: *; }};\n")
        for file, template in {"shell.c": "shell.c", **_files(order.name)}.items():
            (building / file).write_text(_filled(template, values))
        sources = ["shell.c", "constants.s", *(f"{number}.o" for number in range(len(parts.objects)))]
        library = f"lib{order.name}.so"
        toolchain.link(order.compiler, building, sources, library)
        for file in (library, *_files(order.name)):
            os.replace(building / file, folder / file)


def _filled(template: str, values: dict[str, str]) -> str:
    from importlib.resources import files

    return Template((files("hasten.deploy") / "templates" / template).read_text()).substitute(values)
