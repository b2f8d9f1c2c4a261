"""NumPy arrays in generated code: reading their fields, and making arrays of memory that a run has allocated.

Fields of ndarray objects are read by their offsets, which belong to NumPy's ABI (its macros compile to the same); the
layout is that of interpreters with a global lock, and `hasten.vm.runtime` checks it before the first use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hasten.codegen.builder import Function, Module, V
from hasten.vm.abi import Word
from hasten.vm.native import memory
from hasten.vm.native.memory import HEADER, RAW, context_word

TYPE, DATA, RANK, DIMS, DESCRIPTOR, FLAGS = 8, 16, 24, 32, 56, 64
"""Offsets in an ndarray object."""
BYTE_ORDER, TYPE_NUMBER = 26, 28
"""Offsets in a dtype object."""
_CONTIGUOUS_ALIGNED, _FRESH = 0x101, 0x501
WRAP, WRAP_COPY = "hst_wrap", "hst_wrap_copy"


def read_array(f: Function, array: V, descriptor: V, rank: int, need: Callable[[V], None]) -> tuple[V, list[V]]:
    """Data and sizes of an object that must be exactly an ndarray of this dtype and rank, contiguous and aligned: `need` gets what must hold."""
    need(f.load("ptr", f.offset(array, TYPE)).eq(f.load("ptr", context_word(f, Word.ARRAY_TYPE))))
    good = _same_dtype(f, f.load("ptr", f.offset(array, DESCRIPTOR)), descriptor) & f.load("i32", f.offset(array, RANK)).eq(rank)
    flags = f.load("i32", f.offset(array, FLAGS)) & _CONTIGUOUS_ALIGNED
    need(good & flags.eq(_CONTIGUOUS_ALIGNED))
    data = f.load("ptr", f.offset(array, DATA))
    dims = f.load("ptr", f.offset(array, DIMS)) if rank else array
    return data, [f.load("i64", f.offset(dims, 8 * axis)) for axis in range(rank)]


def _same_dtype(f: Function, one: V, other: V) -> V:
    """Whether two dtype objects mean the same. Usually they are one; arrays that came out of a pickle or another process have their own."""
    number = f.load("i32", f.offset(one, TYPE_NUMBER)).eq(f.load("i32", f.offset(other, TYPE_NUMBER)))
    return one.eq(other) | (number & f.load("i8", f.offset(one, BYTE_ORDER)).eq(f.load("i8", f.offset(other, BYTE_ORDER))))


def wrap_copy(f: Function, descriptor: V, data: V, dims: Sequence[V], item: int) -> V:
    """An array with a copy of the elements at `data`, of `item` bytes each; null with an exception set where that fails."""
    words = f.alloca(8 * (1 + len(dims)), 16)
    size = f.const("i64", item)
    for axis, dim in enumerate(dims):
        f.store(dim, f.offset(words, 8 * (axis + 1)))
        size = size * dim
    f.store(data, words)
    return f.call(WRAP_COPY, "ptr", [descriptor, f.const("i32", len(dims)), words, size])


def emit_wrap(module: Module) -> None:
    """hst_wrap(descriptor, rank, words): an array that owns the block words[0], of the dims words[1:]; null with an
    exception set where that fails. words[0] is cleared once an object of Python owns the block."""
    f: Function = module.function(
        WRAP, [("descriptor", "ptr"), ("rank", "i32"), ("words", "ptr")], "ptr", "nounwind noinline", internal=True
    )
    descriptor, rank, words = f.args
    null = f.const("ptr", 0)
    f.call("Py_IncRef", "void", [descriptor])  # the new array takes this reference
    array_type, data = f.load("ptr", context_word(f, Word.ARRAY_TYPE)), f.load("ptr", words)
    new_array = f.load("ptr", context_word(f, Word.NEW_ARRAY))
    args = [array_type, descriptor, rank, f.offset(words, 8), null, data, f.const("i32", _FRESH), null]
    array = f.call_pointer(new_array, "ptr", args)
    with f.when(array.eq(null)):
        f.ret(null)
    capsule = f.call("PyCapsule_New", "ptr", [data, null, f.load("ptr", context_word(f, Word.RELEASE))])
    with f.when(capsule.eq(null)):
        f.call("Py_DecRef", "void", [array])
        f.ret(null)
    f.store(null, words)
    set_base = f.load("ptr", context_word(f, Word.SET_BASE))
    with f.when(f.call_pointer(set_base, "i32", [array, capsule]).ne(0)):
        f.call("Py_DecRef", "void", [array])
        f.ret(null)
    f.ret(array)


def emit_wrap_copy(module: Module) -> None:
    """hst_wrap_copy(descriptor, rank, words, size): as hst_wrap, of a block with a copy of `size` bytes at words[0]."""
    f = module.function(
        WRAP_COPY, [("descriptor", "ptr"), ("rank", "i32"), ("words", "ptr"), ("size", "i64")], "ptr", "nounwind noinline", internal=True
    )
    descriptor, rank, words, size = f.args
    null = f.const("ptr", 0)
    block = f.call(memory.BLOCK, "ptr", [f.smax(size, 1)])
    with f.when(block.eq(null)):
        f.ret(f.call("PyErr_NoMemory", "ptr", []))
    data = f.offset(block, HEADER)
    f.call("memcpy", "ptr", [data, f.load("ptr", words), size])
    f.store(data, words)
    array = f.call(WRAP, "ptr", [descriptor, rank, words])
    with f.when(f.load("ptr", words).ne(null)):
        f.call("free", "void", [f.load("ptr", f.offset(block, RAW))])
    f.ret(array)
