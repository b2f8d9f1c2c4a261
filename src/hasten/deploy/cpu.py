"""What a shared library asks of the CPU before it runs: rows of C tables for an instruction set level.

On x86-64 a feature is a bit that CPUID gives, and register state that the operating system must save (bits of XCR0); on
AArch64 a bit of what the kernel tells (AT_HWCAP). Numbers: Intel's Software Developer's Manual, volume 2, CPUID; Linux,
arch/arm64/include/uapi/asm/hwcap.h.
"""

from __future__ import annotations

from hasten.base.errors import CompileError
from hasten.codegen.isa import AVX2, Isa

_VECTORS, _WIDE_VECTORS, _TILES = 0x6, 0xE6, 0x600E6  # XCR0: SSE and AVX; and AVX-512; and tiles
_EAX, _EBX, _ECX, _EDX = range(4)

# LLVM's name of the feature: leaf, subleaf, register, bit, and state that the system must save.
FEATURES: dict[str, tuple[int, int, int, int, int]] = {
    "fma": (1, 0, _ECX, 12, _VECTORS),
    "movbe": (1, 0, _ECX, 22, 0),
    "popcnt": (1, 0, _ECX, 23, 0),
    "f16c": (1, 0, _ECX, 29, _VECTORS),
    "bmi": (7, 0, _EBX, 3, 0),
    "avx2": (7, 0, _EBX, 5, _VECTORS),
    "bmi2": (7, 0, _EBX, 8, 0),
    "avx512f": (7, 0, _EBX, 16, _WIDE_VECTORS),
    "avx512dq": (7, 0, _EBX, 17, _WIDE_VECTORS),
    "avx512cd": (7, 0, _EBX, 28, _WIDE_VECTORS),
    "avx512bw": (7, 0, _EBX, 30, _WIDE_VECTORS),
    "avx512vl": (7, 0, _EBX, 31, _WIDE_VECTORS),
    "avx512vbmi": (7, 0, _ECX, 1, _WIDE_VECTORS),
    "avx512vnni": (7, 0, _ECX, 11, _WIDE_VECTORS),
    "amx-bf16": (7, 0, _EDX, 22, _TILES),
    "amx-tile": (7, 0, _EDX, 24, _TILES),
    "amx-int8": (7, 0, _EDX, 25, _TILES),
    "avxvnni": (7, 1, _EAX, 4, _VECTORS),
    "avx512bf16": (7, 1, _EAX, 5, _WIDE_VECTORS),
    "lzcnt": (0x80000001, 0, _ECX, 5, 0),
}
ARM_FEATURES = {"neon": 1 << 1, "dotprod": 1 << 20}  # AT_HWCAP


def wanted(isa: Isa) -> list[str]:
    """LLVM's names of the features that code for this level may use, its CPU name's included."""
    named = [part[1:] for part in isa.llvm_features.split(",") if part.startswith("+")]
    if not isa.is_x86 or isa.level < AVX2:
        return named
    return named + ["movbe"] + (["avx512cd"] if isa.level > AVX2 else [])


def rows(isa: Isa) -> list[str]:
    """Initialisers of the C table: {"name", numbers...}. Raises CompileError for a feature without a row above."""
    try:
        if not isa.is_x86:
            return [f'{{"{name}", {ARM_FEATURES[name]:#x}}}' for name in wanted(isa)]
        return [f'{{"{name}", {", ".join(map(hex, FEATURES[name]))}}}' for name in wanted(isa)]
    except KeyError as error:
        raise CompileError(f"no row in hasten.deploy.cpu tells how to find the CPU feature {error} of {isa.name}") from None
