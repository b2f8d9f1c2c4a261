"""Denormals: flush them to zero inside generated code, restore the caller's mode after. Emitted into drivers and pool
threads."""

from __future__ import annotations

from hasten.codegen.builder import Function, V

_FLUSH_X86 = 0x8040  # MXCSR: flush to zero, denormals are zero
_FLUSH_ARM = 1 << 24  # FPCR.FZ


def flush_denormals(f: Function) -> V | None:
    """Set the mode; the mode before, for `restore`. None on CPUs without one."""
    if f.isa.is_x86:
        saved, changed = f.alloca(4, 4), f.alloca(4, 4)
        f.intrinsic("llvm.x86.sse.stmxcsr", "void", [saved], [])
        f.store(f.load("i32", saved) | _FLUSH_X86, changed)
        f.intrinsic("llvm.x86.sse.ldmxcsr", "void", [changed], [])
        return saved
    if f.isa.architecture == "aarch64":
        before = f.intrinsic("llvm.aarch64.get.fpcr", "i64", [], [])
        f.intrinsic("llvm.aarch64.set.fpcr", "void", [before | _FLUSH_ARM], [])
        return before
    return None


def restore(f: Function, saved: V | None) -> None:
    """Back to the mode that `flush_denormals` found."""
    if saved is not None:
        name = "llvm.x86.sse.ldmxcsr" if saved.type == "ptr" else "llvm.aarch64.set.fpcr"
        f.intrinsic(name, "void", [saved], [])
