"""Memory of a native run, as generated functions: blocks with a header, in lists, so that every way out of a run can
free them.

A block of `size` bytes at p (64-byte aligned; from 4 MiB on aligned for huge pages) has its header in front of it:
    p - 64 next    p - 56 previous    p - 48 address for free()    p - 40 size
A list is a head of two words (next, previous) that points at itself when empty. Scratch memory (`Arena`) is kept
between runs in a few slots that threads take from and give to by atomic exchange.
"""

from __future__ import annotations

from hasten.codegen.builder import Function, Module, V
from hasten.vm.abi import CONTEXT, TRIM, Word

HEADER = 64
NEXT, PREVIOUS, RAW, SIZE = 0, 8, 16, 24
SLOTS = 4
_HUGE_FROM, _HUGE_PAGE = 4 << 20, 2 << 20
_MADVISE = {"x86_64": 28, "aarch64": 233}  # the system call's number
_MADV_HUGEPAGE = 14

BLOCK, ALLOC, FREE, FREE_ALL, TAKE, GIVE_ALL = "hst_block", "hst_alloc", "hst_free", "hst_free_all", "hst_take", "hst_give_all"
_INTERNAL = "nounwind noinline"


def context_word(f: Function, word: int) -> V:
    """The address of a word of the model's context."""
    return f.offset(V(f, "ptr", f"@{CONTEXT}"), 8 * word)


def field(f: Function, node: V, which: int) -> V:
    return f.load("ptr", f.offset(node, which))


def set_field(f: Function, node: V, which: int, value: V) -> None:
    f.store(value, f.offset(node, which))


def empty(f: Function, head: V) -> None:
    """Make an empty list."""
    set_field(f, head, NEXT, head)
    set_field(f, head, PREVIOUS, head)


def emit_memory(module: Module) -> None:
    """The functions of this page: hst_alloc(list, size) -> p or null, hst_free(p), hst_free_all(list), and for scratch
    memory hst_take(list, size) -> p or null, hst_give_all(list)."""
    module.global_text("hst_slots", f"@hst_slots = internal global [{SLOTS} x ptr] zeroinitializer, align 64")
    _emit_block(module)
    _emit_alloc(module)
    _emit_free(module)
    _emit_take(module)
    _emit_give(module)


def _emit_block(module: Module) -> None:
    """hst_block(size): a new block's header, in no list; null where the size is not allowed or there is no memory."""
    f = module.function(BLOCK, [("size", "i64")], "ptr", _INTERNAL, internal=True)
    size = f.args[0]
    limit = f.load("i64", context_word(f, Word.LIMIT))
    with f.when((size < 0) | (size > limit)):
        f.ret(f.const("ptr", 0))
    huge = size >= _HUGE_FROM
    align = f.select(huge, f.const("i64", _HUGE_PAGE), 64)
    raw = f.call("malloc", "ptr", [size + align + HEADER])
    with f.when(raw.eq(f.const("ptr", 0))):
        f.ret(raw)
    start = (f.to_int(raw) + align + (HEADER - 1)) & (0 - align)
    with f.when(huge):
        number = f.const("i64", _MADVISE.get(module.isa.architecture, 0))
        if module.isa.architecture in _MADVISE:
            f.call("syscall", "i64", [number, start, size, f.const("i64", _MADV_HUGEPAGE)])
    node = f.to_ptr(start - HEADER)
    set_field(f, node, RAW, raw)
    f.store(size, f.offset(node, SIZE))
    f.ret(node)


def _link(f: Function, head: V, node: V) -> None:
    following = field(f, head, NEXT)
    set_field(f, node, NEXT, following)
    set_field(f, node, PREVIOUS, head)
    set_field(f, following, PREVIOUS, node)
    set_field(f, head, NEXT, node)


def unlink(f: Function, node: V) -> None:
    """Take a block (given by its header) out of its list."""
    following, previous = field(f, node, NEXT), field(f, node, PREVIOUS)
    set_field(f, previous, NEXT, following)
    set_field(f, following, PREVIOUS, previous)


def _emit_alloc(module: Module) -> None:
    f = module.function(ALLOC, [("list", "ptr"), ("size", "i64")], "ptr", _INTERNAL, internal=True)
    head, size = f.args
    node = f.call(BLOCK, "ptr", [size])
    with f.when(node.eq(f.const("ptr", 0))):
        f.ret(node)
    _link(f, head, node)
    f.ret(f.offset(node, HEADER))


def _emit_free(module: Module) -> None:
    f = module.function(FREE, [("p", "ptr")], "void", _INTERNAL, internal=True)
    node = f.offset(f.args[0], -HEADER)
    unlink(f, node)
    f.call("free", "void", [field(f, node, RAW)])
    f.ret()
    f = module.function(FREE_ALL, [("list", "ptr")], "void", _INTERNAL, internal=True)
    head = f.args[0]
    with f.forever() as loop:
        node = field(f, head, NEXT)
        loop.break_if(node.eq(head))
        unlink(f, node)
        f.call("free", "void", [field(f, node, RAW)])
    f.ret()


def _slot(f: Function, number: int) -> V:
    return f.offset(V(f, "ptr", "@hst_slots"), 8 * number)


def _exchange(f: Function, number: int) -> V:
    """Empty a slot; what was in it."""
    return f.emit("ptr", f"atomicrmw xchg {_slot(f, number)}, ptr null acq_rel")


def _emit_take(module: Module) -> None:
    f = module.function(TAKE, [("list", "ptr"), ("size", "i64")], "ptr", _INTERNAL, internal=True)
    head, size = f.args
    fresh = f.label("fresh")
    with f.when(size < 0):
        f.jump(fresh)
    for number in range(SLOTS):
        node = _exchange(f, number)
        with f.when(node.ne(f.const("ptr", 0))):
            with f.when(f.load("i64", f.offset(node, SIZE)) >= size):
                _link(f, head, node)
                f.ret(f.offset(node, HEADER))
            f.call("free", "void", [field(f, node, RAW)])
            f.jump(fresh)
    f.place(fresh)
    f.ret(f.call(ALLOC, "ptr", [head, size]))


def _emit_give(module: Module) -> None:
    f = module.function(GIVE_ALL, [("list", "ptr")], "void", _INTERNAL, internal=True)
    head = f.args[0]
    with f.forever() as loop:
        node = field(f, head, NEXT)
        loop.break_if(node.eq(head))
        unlink(f, node)
        kept = f.label("kept")
        for number in range(SLOTS):
            slot = _slot(f, number)
            both = f.emit("{ptr, i1}", f"cmpxchg {slot}, ptr null, {node} acq_rel monotonic")
            done, again = f.emit("i1", f"extractvalue {both}, 1"), f.label("full")
            f.branch(done, kept, again)
            f.place(again)
        f.call("free", "void", [field(f, node, RAW)])
        f.place(kept)
    f.ret()


def emit_trim(module: Module, pools: bool) -> None:
    """hst_trim(): gives scratch memory that waits for a run back to the system, and with `pools` those of `hasten.vm.native.counted`."""
    f = module.function(TRIM, [])
    for number in range(SLOTS):
        node = _exchange(f, number)
        with f.when(node.ne(f.const("ptr", 0))):
            f.call("free", "void", [field(f, node, RAW)])
    if pools:
        f.call("hst_pool_trim", "void", [])
    f.ret()
