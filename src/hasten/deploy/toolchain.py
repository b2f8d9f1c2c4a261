"""The compiler that builds a shared library from objects, assembly and C: the system's, or the one in `ziglang`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hasten.base.errors import CompileError, InputError, MissingDependency
from hasten.codegen import isa as isas
from hasten.codegen.isa import Isa

_ZIG = "pip install 'hasten[deploy]'"


@dataclass(frozen=True)
class Target:
    """A kind of machine: `isas` are the levels that it may have, the first the default where this machine is of another
    kind; `compilers` are commands of cross compilers, `package` what Debian and Ubuntu call theirs."""

    name: str
    architecture: str
    isas: tuple[str, ...]
    zig: str
    compilers: tuple[str, ...]
    package: str


TARGETS = {
    target.name: target
    for target in (
        Target("x86_64-linux", "x86_64", ("avx2", "portable", "avx512", "amx"), "x86_64-linux-gnu",
               ("x86_64-linux-gnu-gcc",), "gcc-x86-64-linux-gnu"),
        Target("aarch64-linux", "aarch64", ("neon",), "aarch64-linux-gnu",
               ("aarch64-linux-gnu-gcc", "aarch64-unknown-linux-gnu-gcc"), "gcc-aarch64-linux-gnu"),
    )
}  # fmt: skip


def target(name: str | None) -> Target:
    """The target of that name, or this machine. Raises InputError where there is none."""
    here = f"{_architecture()}-linux"
    chosen = TARGETS.get(name or here)
    if chosen is None:
        raise InputError(f"target={name or here!r}: shared libraries can be built for {', '.join(TARGETS)}.")
    return chosen


def level(wanted: Target, isa: str | None) -> Isa:
    """The instruction set level for a target: `isa`, which this machine may lack, or the default. Raises InputError for
    a level of other machines."""
    if isa is not None and isa not in wanted.isas:
        raise InputError(f"isa={isa!r} is no level of {wanted.name}, which has {', '.join(wanted.isas)}.")
    foreign = wanted.architecture != _architecture()
    return isas.get(isa or (wanted.isas[0] if foreign else None), cross=True)


def _architecture() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def compiler(wanted: Target) -> list[str]:
    """The command of a C compiler for the target: CC or the system's where it is this machine, a cross compiler, or
    zig's. Raises MissingDependency where there is none."""
    native = wanted.architecture == _architecture() and sys.platform.startswith("linux")
    if native and os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for command in (("cc", "gcc", "clang") if native else wanted.compilers):
        if shutil.which(command):
            return [command]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", wanted.zig]
    package = "gcc" if native else wanted.package
    raise MissingDependency(
        f"a shared library for {wanted.name} needs a C compiler, and there is none. "
        f"Install one ({_ZIG} brings one for every target; on Debian and Ubuntu: apt install {package})."
    )


def link(command: Sequence[str], folder: Path, sources: Sequence[str], output: str) -> None:
    """Build the shared library `output` from files in `folder`, exporting what its exports.map lists.

    The library is never unloaded (`nodelete`): threads of its pool sleep in its code. Raises CompileError with what the
    compiler said.
    """
    flags = ["-shared", "-fPIC", "-O2", "-std=gnu11", "-Wl,--version-script=exports.map", "-Wl,-z,nodelete",
             "-Wl,-z,noexecstack", f"-Wl,-soname,{output}"]  # fmt: skip
    line = [*command, *flags, "-o", output, *sources, "-lm", "-lpthread"]
    try:
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(f"the C compiler {command[0]!r} could not be started: {error}") from None
    if done.returncode != 0:
        raise CompileError(f"the C compiler failed: {' '.join(line)}\n{done.stderr.strip()[-4000:]}")
