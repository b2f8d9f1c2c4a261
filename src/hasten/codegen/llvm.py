"""LLVM text to relocatable ELF objects, through llvmlite (imported on first use only).

Objects are position independent, use the small code model and one .text section, and are the same bytes for the same
text, ISA, level and LLVM version, so they can be cached. The text is expected to be vectorised and unrolled already:
LLVM's own vectorisers and unroller stay off (a loop marked with `llvm.loop.unroll.full` is still unrolled).

One module is compiled on one thread; different threads compile in parallel, each in an LLVM context of its own.

LLVM aborts the process when an intrinsic does not exist on the target (`Cannot select`): templates must ask the Isa
before they use one. Operations without an instruction become calls of libm or of the compiler's run-time library.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hasten.base.errors import CompileError
from hasten.codegen.isa import Isa

_initialising = threading.Lock()


def compile_text(text: str, isa: Isa, opt: int = 2) -> bytes:
    """Compiles one module of LLVM text to an ELF object for `isa`.

    `opt` is 0 to 3; 0 runs no passes over the text at all. Raises CompileError naming the line that LLVM refused.
    """
    return _emit(text, isa, opt, as_object=True)


def assembly(text: str, isa: Isa, opt: int = 2) -> str:
    """The assembly that `compile_text` would have encoded, for dumps."""
    return _emit(text, isa, opt, as_object=False).decode("utf-8", "replace")


def llvm_version() -> str:
    """Version of LLVM and of its binding, such as "22.1.0/0.50.0": part of every cache key."""
    import llvmlite

    return ".".join(map(str, _binding().llvm_version_info)) + "/" + str(llvmlite.__version__)


def _emit(text: str, isa: Isa, opt: int, *, as_object: bool) -> bytes:
    binding = _binding()
    target = _target(isa.llvm_triple)
    machine = target.create_target_machine(
        cpu=isa.llvm_cpu, features=isa.llvm_features, opt=opt, reloc="pic", codemodel="small"
    )
    with binding.create_context() as context, _parsed(text, context) as module, machine:
        module.triple = isa.llvm_triple
        module.data_layout = str(machine.target_data)
        if opt > 0:
            _optimise(binding, module, machine, opt)
        return _encode(binding, module, machine, as_object)


@contextmanager
def _parsed(text: str, context: Any) -> Iterator[Any]:
    """The verified module that `text` spells, in `context`."""
    try:
        module = _binding().parse_assembly(text, context)
    except RuntimeError as error:
        raise CompileError(_located(text, str(error))) from None
    with module:
        try:
            module.verify()
        except RuntimeError as error:
            raise CompileError(f"LLVM refused the module:\n{error}") from None
        yield module


def _optimise(binding: Any, module: Any, machine: Any, opt: int) -> None:
    tuning = binding.create_pipeline_tuning_options(speed_level=opt)
    tuning.loop_vectorization = False
    tuning.loop_interleaving = False
    tuning.slp_vectorization = False
    tuning.loop_unrolling = False
    with tuning, binding.create_pass_builder(machine, tuning) as builder, builder.getModulePassManager() as passes:
        _unlocked("LLVMPY_RunNewModulePassManager")(passes, module, builder)


def _encode(binding: Any, module: Any, machine: Any, as_object: bool) -> bytes:
    """What TargetMachine.emit_object and emit_assembly do, without the binding's global lock."""
    import ctypes

    ffi = binding.ffi
    with ffi.OutputString() as message:
        buffer = _unlocked("LLVMPY_TargetMachineEmitToMemory")(machine, module, int(as_object), message)
        if not buffer:
            raise CompileError(f"LLVM could not encode the module: {message}")
    try:
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


@functools.cache
def _unlocked(name: str) -> Any:
    """The C function `name` of the binding, without its lock where the binding lets us.

    llvmlite holds one lock around every call. That is needed for objects shared by threads; our context, module and
    machine belong to one thread, which is all that LLVM asks for.
    """
    function = getattr(_binding().ffi.lib, name)
    return getattr(function, "_cfn", function)


@functools.cache
def _binding() -> Any:
    """llvmlite.binding with the host's code generator ready."""
    import llvmlite.binding as binding

    with _initialising:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
    return binding


@functools.cache
def _target(triple: str) -> Any:
    binding = _binding()
    with _initialising:  # also to look: another thread's targets are known to LLVM before all their parts are there
        try:
            return binding.Target.from_triple(triple)
        except RuntimeError:  # not the host's architecture: bring in the others
            binding.initialize_all_targets()
            binding.initialize_all_asmprinters()
        return binding.Target.from_triple(triple)


def _located(text: str, message: str) -> str:
    """LLVM's parse error with the offending line of the text."""
    place = re.search(r":(\d+):(\d+): error: (.*)", message)
    if place is None:
        return f"LLVM could not read the text: {message}"
    number = int(place[1])
    lines = text.splitlines()
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    return f"LLVM could not read line {number}, column {place[2]}: {place[3]}\n    {line.strip()}"
