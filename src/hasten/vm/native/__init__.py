"""Code that runs Programs: the emitters of a model's driver and call path, and of the run-time library that all models
of a process share.

    emit_model(program, isa)    one module (compile with opt=1); link with the kernels, exporting `abi.MODEL_EXPORTS`
    emit_runtime(isa)           the run-time library, an image of its own exporting `abi.RUNTIME_EXPORTS`; `isa` is the
                                portable level
    emit_library(program, isa)  the same driver for a shared library, with hst_shapes instead of the call path
    emit_threads(isa)           of the run-time library what a shared library needs: the pool

Everything in this package makes LLVM text and is needed only where models are compiled; what runs a compiled model is
in `hasten.vm`.
"""

from __future__ import annotations

from hasten.codegen.builder import Module
from hasten.codegen.isa import Isa
from hasten.vm.native.call import emit_call
from hasten.vm.native.driver import emit_driver
from hasten.vm.native.pool import emit_pool
from hasten.vm.native.service import emit_service
from hasten.vm.native.shapes import emit_shapes
from hasten.vm.program import Program

__all__ = ["emit_library", "emit_model", "emit_runtime", "emit_threads"]


def emit_model(program: Program, isa: Isa) -> str:
    """LLVM text of the driver and call path of a native Program. Raises CompileError for a Program that only the
    interpreter can run."""
    module = Module(isa)
    emit_driver(module, program)
    emit_call(module, program)
    return module.text()


def emit_runtime(isa: Isa) -> str:
    """LLVM text of the run-time library: the pool of threads and a few functions around Python objects and kernels."""
    module = Module(isa)
    emit_pool(module)
    emit_service(module)
    return module.text()


def emit_library(program: Program, isa: Isa) -> str:
    """LLVM text of the driver of a native Program and of hst_shapes. Raises CompileError as `emit_model`."""
    module = Module(isa)
    emit_driver(module, program)
    emit_shapes(module, program)
    return module.text()


def emit_threads(isa: Isa) -> str:
    """LLVM text of the pool of threads alone."""
    module = Module(isa)
    emit_pool(module)
    return module.text()
