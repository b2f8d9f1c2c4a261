"""Guard pages: with HASTEN_GUARD set, every buffer of a run lies beside a page that must not be touched.

    HASTEN_GUARD=after     each buffer ends where an unreadable page begins
    HASTEN_GUARD=before    each buffer begins where an unreadable page ends

A kernel that reads or writes outside of its buffer on that side then ends the process by a signal, with the kernel's name in the traceback that
Python's `faulthandler` prints. On the other side lies the rest of a page: what is written there is found after each call of a kernel and raises
CompileError. Fresh memory is filled with the bits of NaN, so results that depend on it show.

Models are compiled without an arena, so that each temporary is a buffer of its own, and the interpreter runs them, with the kernels that the native
driver calls. Inputs and constants are copied. A debugging aid: runs are slow.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hasten.base.errors import CompileError
from hasten.vm.counted import Buffer, Counted, Word
from hasten.vm.interpreter import InterpretedModel, Run
from hasten.vm.program import Call, TensorSpec

FILL = 0xFF  # in buffers, a NaN in every type of floats
REST = 0xA5  # in what is left of their pages
_PAGE = mmap.PAGESIZE
_NO_ACCESS = 0


class Guarded:
    """`size` bytes of memory between two unreadable pages, at the end or at the beginning of the pages between them."""

    def __init__(self, size: int, side: str):
        pages = -(-size // _PAGE) * _PAGE
        memory: Any = (ctypes.c_uint8 * (pages + 2 * _PAGE)).from_buffer(mmap.mmap(-1, pages + 2 * _PAGE))
        self.memory = memory
        base = ctypes.addressof(self.memory)
        for guard in (base, base + _PAGE + pages):
            if _protect()(guard, _PAGE, _NO_ACCESS):
                raise MemoryError("no guard page could be made")
        self.address = base + _PAGE + (pages - size if side == "after" else 0)
        room = np.frombuffer(memory, np.uint8, pages, _PAGE)
        room[:] = FILL
        start = self.address - base - _PAGE
        self.rest = room[:start] if side == "after" else room[start + size :]
        self.rest[:] = REST

    def intact(self) -> bool:
        """Whether nothing was written to the rest of the page."""
        return bool((self.rest == REST).all())


@functools.cache
def _protect() -> Any:
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)(("mprotect", ctypes.CDLL(None)))


class GuardedModel(InterpretedModel):
    """A model whose runs have all their memory between guard pages."""

    def __init__(self, *model: Any, side: str):
        super().__init__(*model)
        self.side = side
        self.run_type = _GuardedRun
        self.guarded = {c.buffer: _copy(self.constants.address + c.offset, c.size, side) for c in self.program.constants}


def _copy(address: int, size: int, side: str) -> Buffer:
    made = Guarded(size, side)
    ctypes.memmove(made.address, address, size)
    return Buffer(made.address, made)


class _GuardedRun(Run):
    model: GuardedModel

    def __init__(self, model: GuardedModel, inputs: Sequence[Any]):
        super().__init__(model, inputs)
        self.constants.update(model.guarded)
        self.buffers.update(model.guarded)
        for spec, value in zip(self.program.inputs, inputs, strict=True):
            if isinstance(spec, TensorSpec):
                self.buffers[spec.buffer] = _copy(value.ctypes.data, value.nbytes, model.side)
        for root in self.values.values():
            self.guard_fields(root)

    def guard_fields(self, root: Counted) -> None:
        """Copies the tensors of a value that is an input."""
        work = [root]
        while work:
            value = work.pop()
            value.fields = tuple(map(self.guarded_field, value.fields))
            work += [field for field in value.fields if isinstance(field, Counted)]

    def guarded_field(self, field: Word) -> Word:
        if not isinstance(field, Buffer) or not isinstance(field.owner, np.ndarray):
            return field
        return _copy(field.address, field.owner.nbytes, self.model.side)._replace(counted=field.counted)

    def fresh(self, size: int) -> Buffer:
        made = Guarded(size, self.model.side)
        return Buffer(made.address, made)

    def invoke(self, i: Call, words: ctypes.Array[ctypes.c_int64], threads: int) -> None:
        _named(i.kernel)(super().invoke, i, words, threads)
        for arg in i.args:
            owner = self.buffers[arg].owner if isinstance(arg, str) else None
            if isinstance(owner, Guarded) and not owner.intact():
                raise CompileError(f"kernel {i.kernel} wrote outside of buffer {arg!r} (arguments {i.args})")


def _call(function: Callable[..., None], *args: Any) -> None:
    function(*args)


@functools.lru_cache(maxsize=4096)
def _named(kernel: str) -> Callable[..., None]:
    """`_call` under the kernel's name, which a traceback then shows."""
    return types.FunctionType(_call.__code__.replace(co_name=kernel, co_qualname=kernel), globals(), kernel)
