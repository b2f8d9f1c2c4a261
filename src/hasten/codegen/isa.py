"""Instruction set levels: what a kernel template may use, and what LLVM is told to compile for.

A level is a named, cumulative set of CPU features (`portable` < `avx2` < `avx512` < `amx`). `detect()` gives the best
level of this machine, `get(name)` a named one, refusing what this machine cannot run unless asked for cross compiling.
Nothing here imports LLVM: Linux says in /proc/cpuinfo what the CPU has and the kernel allows; other systems get
`portable`. The environment variable HASTEN_ISA overrides the choice made for `isa=None`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from hasten.base.errors import InputError

PORTABLE, AVX2, AVX512 = 0, 1, 2

Amx = Literal["native", "emulated"]


@dataclass(frozen=True)
class Isa:
    """One instruction set level.

    `level` orders the vector instructions (PORTABLE < AVX2 < AVX512; NEON counts as PORTABLE); tile instructions are
    told by `amx` alone. `vector_bytes` is the widest vector register, `registers` how many of them there are.
    `has_vnni` and `has_bf16` mean the dot product instructions (vpdpbusd, vdpbf16ps), `has_f16c` conversions between
    half and float in hardware.
    """

    name: str
    level: int
    vector_bytes: int
    registers: int
    llvm_triple: str
    llvm_cpu: str
    llvm_features: str
    has_fma: bool = False
    has_f16c: bool = False
    has_vnni: bool = False
    has_bf16: bool = False
    amx: Amx | None = None

    def lanes(self, bits: int) -> int:
        """Elements of `bits` bits in one vector register: `lanes(32)` is 16 with AVX-512."""
        return self.vector_bytes * 8 // bits

    @property
    def vector_bits(self) -> int:
        return self.vector_bytes * 8

    @property
    def architecture(self) -> str:
        """The first part of the triple: "x86_64" or "aarch64"."""
        return self.llvm_triple.split("-", 1)[0]

    @property
    def is_x86(self) -> bool:
        return self.architecture == "x86_64"

    @property
    def key(self) -> str:
        """Everything that decides which code is generated, as a stable string for cache keys."""
        return f"{self.name}:{self.amx}:{self.vector_bytes}:{self.llvm_triple}:{self.llvm_cpu}:{self.llvm_features}"


_X86 = "x86_64-unknown-linux-gnu"
_ARM = "aarch64-unknown-linux-gnu"

# The feature lists are spelled out although the CPU names imply most of them: they are the contract.
# -prefer-256-bit: some CPU names ask LLVM to split 512-bit vectors.
_AVX2_FEATURES = "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt"
_AVX512_FEATURES = "+avx512f,+avx512bw,+avx512vl,+avx512dq," + _AVX2_FEATURES + ",-prefer-256-bit"
_AMX_FEATURES = ",+amx-tile,+amx-bf16,+amx-int8"

_TABLE = {
    isa.name: isa
    for isa in (
        Isa("portable", PORTABLE, 16, 16, _X86, "x86-64", ""),
        Isa("avx2", AVX2, 32, 16, _X86, "x86-64-v3", _AVX2_FEATURES, has_fma=True, has_f16c=True),
        Isa("avx512", AVX512, 64, 32, _X86, "x86-64-v4", _AVX512_FEATURES, has_fma=True, has_f16c=True),
        Isa("neon", PORTABLE, 16, 32, _ARM, "generic", "+neon", has_fma=True, has_f16c=True),
    )
}

# Flags of /proc/cpuinfo that a level needs. LLVM's names for these CPUs also imply movbe, xsave and the like.
_NEEDED_FLAGS = {
    "avx2": "avx2 fma f16c bmi1 bmi2 abm popcnt movbe xsave",
    "avx512": "avx512f avx512bw avx512vl avx512dq avx512cd avx2 fma f16c bmi1 bmi2 abm popcnt movbe xsave",
    "amx": "amx_tile amx_bf16 amx_int8",
}

# Used when the machine has them: cpuinfo flag, LLVM feature, field of Isa that tells templates.
_OPTIONAL_FLAGS: dict[str, tuple[tuple[str, str, str | None], ...]] = {
    "avx2": (("avx_vnni", "+avxvnni", "has_vnni"),),
    "avx512": (
        ("avx512_vnni", "+avx512vnni", "has_vnni"),
        ("avx512_bf16", "+avx512bf16", "has_bf16"),
        ("avx512vbmi", "+avx512vbmi", None),
    ),
}

_LEVELS_BEST_FIRST = ("amx", "avx512", "avx2", "neon", "portable")


def detect() -> Isa:
    """The best level of this machine, or the one named by HASTEN_ISA.

    Raises InputError when HASTEN_ISA names a level that this machine lacks.
    """
    forced = os.environ.get("HASTEN_ISA")
    if forced:
        return _lookup(forced, "HASTEN_ISA")
    return _machine_levels()[available()[0]]


def get(name: str | None = None, *, cross: bool = False) -> Isa:
    """The level called `name`, or `detect()` for None.

    With `cross`, levels that this machine cannot run are given too, with their guaranteed features only.
    Raises InputError for an unknown level, or one that this machine lacks.
    """
    if name is None:
        return detect()
    if cross and name not in _machine_levels():
        if name in _TABLE:
            return _TABLE[name]
        if name == "amx":
            return _with_amx(_TABLE["avx512"], "native")
    return _lookup(name, "isa")


def available() -> list[str]:
    """Names of the levels that this machine runs, best first; emulated levels come last."""
    levels = _machine_levels()
    return [name for name in _LEVELS_BEST_FIRST if name in levels] + [n for n in levels if n.endswith("-emulated")]


def _lookup(name: str, source: str) -> Isa:
    levels = _machine_levels()
    if name not in levels:
        known = name in _TABLE or name in ("amx", "amx-emulated")
        reason = "this machine does not have it" if known else "there is no such instruction set level"
        raise InputError(f"{source}={name!r}: {reason}. This machine has: {', '.join(available())}.")
    return levels[name]


@functools.cache
def _machine_levels() -> dict[str, Isa]:
    """Every level this machine runs, with the optional features it has."""
    machine = platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        neon = _TABLE["neon"]
        return {"neon": neon, "portable": replace(neon, name="portable")}
    return _x86_levels(_cpu_flags(), _amx_permitted)


def _x86_levels(flags: frozenset[str], amx_permitted: Callable[[], bool]) -> dict[str, Isa]:
    levels = {"portable": _TABLE["portable"]}
    for name in ("avx2", "avx512"):
        if flags.issuperset(_NEEDED_FLAGS[name].split()):
            levels[name] = _with_optional(_TABLE[name], flags)
    best = list(levels.values())[-1]
    if "avx512" in levels and flags.issuperset(_NEEDED_FLAGS["amx"].split()) and amx_permitted():
        levels["amx"] = _with_amx(levels["avx512"], "native")
    levels["amx-emulated"] = _with_amx(best, "emulated")
    return levels


def _with_optional(isa: Isa, flags: frozenset[str]) -> Isa:
    for flag, feature, field in _OPTIONAL_FLAGS.get(isa.name, ()):
        if flag in flags:
            told = {field: True} if field else {}
            isa = replace(isa, llvm_features=f"{isa.llvm_features},{feature}", **told)  # type: ignore[arg-type]
    return isa


def _with_amx(base: Isa, how: Amx) -> Isa:
    """The level `base` with tiles: real ones, or tiles played by the software routines of the kernels."""
    if how == "emulated":
        return replace(base, name="amx-emulated", amx=how)
    return replace(base, name="amx", amx=how, llvm_features=base.llvm_features + _AMX_FEATURES)


def _cpu_flags() -> frozenset[str]:
    """The flags of the first CPU, as Linux names them; empty where they cannot be read."""
    if not sys.platform.startswith("linux"):
        return frozenset()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


@functools.cache
def _amx_permitted() -> bool:
    """Asks Linux, once for this process and the threads it makes later, for the use of the tile registers."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)
