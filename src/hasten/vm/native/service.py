"""The run-time library beside the pool: what all models of a process use, and what may outlive a model.

hst_release(capsule)                 destructor of capsules that own the memory of an output (outputs may outlive their
model)
hst_invoke(kernel, args, threads)    one kernel for the interpreter, denormals flushed
hst_checksum(data, blocks, sums)     of `blocks` times 64 bytes, see `hasten.vm.file`: 8 sums of words, then 8 sums of
these sums
"""

from __future__ import annotations

from hasten.codegen.builder import Module
from hasten.vm.abi import CHECKSUM, INVOKE, PARALLEL, RELEASE
from hasten.vm.native import fpmode, memory


def emit_service(module: Module) -> None:
    f = module.function(RELEASE, [("capsule", "ptr")])
    p = f.call("PyCapsule_GetPointer", "ptr", [f.args[0], f.const("ptr", 0)])
    f.call("free", "void", [memory.field(f, f.offset(p, -memory.HEADER), memory.RAW)])
    f.ret()

    f = module.function(INVOKE, [("kernel", "ptr"), ("args", "ptr"), ("threads", "i64")])
    saved = fpmode.flush_denormals(f)
    f.call(PARALLEL, "void", f.args)
    fpmode.restore(f, saved)
    f.ret()

    f = module.function(CHECKSUM, [("data", "ptr"), ("blocks", "i64"), ("sums", "ptr")])
    data, blocks, sums = f.args
    t = "<8 x i64>"
    first, second = f.var(t, 0), f.var(t, 0)
    with f.loop(0, blocks) as block:
        first.set(first.get() + f.load(t, f.at(data, block, 64)))
        second.set(second.get() + first.get())
    f.store(first.get(), sums)
    f.store(second.get(), f.offset(sums, 64))
    f.ret()
