"""Counted memory of a native run and the memory stack of its activations, as generated functions.

A run that needs them has a *pool*: memory that it shares with nobody, so nothing here locks, and that is kept for later runs in a few slots, as
scratch memory is (`hasten.vm.native.memory`). Whatever a run leaves behind, after a failure too, goes at once when its pool is closed.

Counted memory is a block as in `memory`, with more in its header (p is 64-byte aligned):
    p - 32 count    p - 24 tag    p - 16 number of fields    p - 8 size class, 0 for a block of its own
Size classes are powers of two, header included; freed blocks of a class lie in a list, linked by their count's word. Larger blocks come from malloc and lie
in the pool's list of blocks. A value's fields have two words each: the integer, value or data, and the reference (null where there is none); a heap
buffer has no fields.

Classes and the stack take their memory from chains of *pieces*. A piece is known by its footer, where it ends: footer + 0 the next one's footer,
+ 8 where it starts, + 16 the address for free(). The stack's top moves up and down; its pieces stay, so the way down is a load.
"""

from __future__ import annotations

from hasten.codegen.builder import Function, Module, V
from hasten.vm.abi import Word
from hasten.vm.native import memory
from hasten.vm.native.memory import HEADER, context_word

COUNT, TAG, FIELDS, CLASS = -32, -24, -16, -8
WORDS = 16  # bytes of a field
OPEN, CLOSE, NEW, DROP, STACK_NEXT = "hst_pool_open", "hst_pool_close", "hst_new", "hst_drop", "hst_stack_next"

# The pool: blocks of their own, counted memory alive, the classes' piece in use, the stack's top and piece, what
# the call path keeps there (`hasten.vm.native.values`), the lists of freed blocks.
BLOCKS, ALIVE, AT, PIECE, TOP, LIMIT, KEPT, FREED = 0, 16, 24, 32, 40, 48, 56, 64
_SMALLEST, _LARGEST = 7, 16  # classes
_FIRST, _STACK_FIRST = FREED + 8 * 24, FREED + 8 * 24 + 64  # footers of empty pieces that the chains begin with
_POOL_BYTES = _STACK_FIRST + 64
_NEXT, _START, _PIECE_RAW = 0, 8, 16
_PIECE_BYTES = 256 << 10
_KEPT = 16  # pieces of each chain that wait for the next run
_SLOTS = 4
_INTERNAL = "nounwind noinline"


def emit_counted(module: Module) -> None:
    """hst_pool_open() -> pool or null, hst_pool_close(pool), hst_pool_trim(), hst_new(pool, size) -> p or null, hst_drop(pool, p), which frees what has no
    reference left, and hst_stack_next(pool, size): the stack goes on in another piece; nonzero where there is none."""
    module.global_text("hst_pools", f"@hst_pools = internal global [{_SLOTS} x ptr] zeroinitializer, align 64")
    _emit_piece(module)
    _emit_open(module)
    _emit_close(module)
    _emit_new(module)
    _emit_drop(module)
    _emit_stack_next(module)


def retain(f: Function, p: V) -> None:
    """One more reference; none where p is null."""
    with f.when(p.ne(f.const("ptr", 0))):
        count = f.offset(p, COUNT)
        f.store(f.load("i64", count) + 1, count)


def release(f: Function, pool: V, p: V) -> None:
    """One reference less; nothing where p is null."""
    with f.when(p.ne(f.const("ptr", 0))):
        count = f.offset(p, COUNT)
        left = f.load("i64", count) - 1
        f.store(left, count)
        with f.when(left.eq(0)):
            f.call(DROP, "void", [pool, p])


def _load(f: Function, p: V, offset: int, t: str = "ptr") -> V:
    return f.load(t, f.offset(p, offset))


def _store(f: Function, value: V, p: V, offset: int) -> None:
    f.store(value, f.offset(p, offset))


def _emit_piece(module: Module) -> None:
    """hst_piece(footer, need): the footer of the piece behind this one, with room for `need` bytes; null where there is no memory."""
    f = module.function("hst_piece", [("footer", "ptr"), ("need", "i64")], "ptr", _INTERNAL, internal=True)
    footer, need = f.args
    null = f.const("ptr", 0)
    following = _load(f, footer, _NEXT)
    with f.when(following.ne(null)):
        start = _load(f, following, _START)
        with f.when((f.to_int(following) - f.to_int(start)) >= need):
            f.ret(following)
    size = f.smax((need + 63) & -64, _PIECE_BYTES)
    raw = f.call("malloc", "ptr", [size + 128])
    with f.when(raw.eq(null)):
        f.ret(null)
    start = f.to_ptr((f.to_int(raw) + 63) & -64)
    made = f.offset(start, size)
    _store(f, following, made, _NEXT)
    _store(f, start, made, _START)
    _store(f, raw, made, _PIECE_RAW)
    _store(f, made, footer, _NEXT)
    f.ret(made)


def _slot(f: Function, number: int) -> V:
    return f.offset(V(f, "ptr", "@hst_pools"), 8 * number)


def _emit_open(module: Module) -> None:
    f = module.function(OPEN, [], "ptr", _INTERNAL, internal=True)
    null = f.const("ptr", 0)
    for number in range(_SLOTS):
        pool = f.emit("ptr", f"atomicrmw xchg {_slot(f, number)}, ptr null acq_rel")
        with f.when(pool.ne(null)):
            f.ret(pool)
    pool = f.call("aligned_alloc", "ptr", [f.const("i64", 64), f.const("i64", -(-_POOL_BYTES // 64) * 64)])
    with f.when(pool.eq(null)):
        f.ret(null)
    for first in (_FIRST, _STACK_FIRST):
        _store(f, null, pool, first + _NEXT)
        _store(f, f.offset(pool, first), pool, first + _START)
    f.call("hst_pool_empty", "void", [pool])
    f.ret(pool)


def _emit_close(module: Module) -> None:
    """The pool as it is before a run, and its end."""
    f = module.function("hst_pool_empty", [("pool", "ptr")], "void", _INTERNAL, internal=True)
    pool = f.args[0]
    null = f.const("ptr", 0)
    _store(f, pool, pool, BLOCKS + memory.NEXT)
    _store(f, pool, pool, BLOCKS + memory.PREVIOUS)
    _store(f, f.const("i64", 0), pool, ALIVE)
    _store(f, null, pool, KEPT)
    for first, at, end in ((_FIRST, AT, PIECE), (_STACK_FIRST, TOP, LIMIT)):
        _store(f, f.offset(pool, first), pool, at)
        _store(f, f.offset(pool, first), pool, end)
    for number in range(_SMALLEST, _LARGEST + 1):
        _store(f, null, pool, FREED + 8 * number)
    f.ret()

    f = module.function("hst_pieces_free", [("footer", "ptr"), ("kept", "i64")], "void", _INTERNAL, internal=True)
    last = f.var("ptr", f.args[0])
    with f.loop(0, f.args[1]):
        following = _load(f, last.get(), _NEXT)
        with f.when(following.ne(null)):
            last.set(following)
    rest = f.var("ptr", _load(f, last.get(), _NEXT))
    _store(f, f.const("ptr", 0), last.get(), _NEXT)
    with f.forever() as loop:
        piece = rest.get()
        loop.break_if(piece.eq(f.const("ptr", 0)))
        rest.set(_load(f, piece, _NEXT))
        f.call("free", "void", [_load(f, piece, _PIECE_RAW)])
    f.ret()

    f = module.function(CLOSE, [("pool", "ptr")], "void", _INTERNAL, internal=True)
    pool = f.args[0]
    f.store(_load(f, pool, ALIVE, "i64"), context_word(f, Word.UNRELEASED))
    f.call(memory.FREE_ALL, "void", [f.offset(pool, BLOCKS)])
    for first in (_FIRST, _STACK_FIRST):
        f.call("hst_pieces_free", "void", [f.offset(pool, first), f.const("i64", _KEPT)])
    f.call("hst_pool_empty", "void", [pool])
    for number in range(_SLOTS):
        both = f.emit("{ptr, i1}", f"cmpxchg {_slot(f, number)}, ptr null, {pool} acq_rel monotonic")
        with f.when(f.emit("i1", f"extractvalue {both}, 1")):
            f.ret()
    _emit_end(f, pool)
    f.ret()

    f = module.function("hst_pool_trim", [], "void", _INTERNAL, internal=True)
    for number in range(_SLOTS):
        pool = f.emit("ptr", f"atomicrmw xchg {_slot(f, number)}, ptr null acq_rel")
        with f.when(pool.ne(f.const("ptr", 0))):
            _emit_end(f, pool)
    f.ret()


def _emit_end(f: Function, pool: V) -> None:
    for first in (_FIRST, _STACK_FIRST):
        f.call("hst_pieces_free", "void", [f.offset(pool, first), f.const("i64", 0)])
    f.call("free", "void", [pool])


def _emit_new(module: Module) -> None:
    f = module.function(NEW, [("pool", "ptr"), ("size", "i64")], "ptr", _INTERNAL, internal=True)
    pool, size = f.args
    null = f.const("ptr", 0)
    node, number = f.var("ptr", null), f.var("i64", 0)
    done = f.label("done")
    with f.when((size < 0) | (size > f.load("i64", context_word(f, Word.LIMIT)))):
        f.ret(null)
    with f.when(size > (1 << _LARGEST) - HEADER):
        p = f.call(memory.ALLOC, "ptr", [f.offset(pool, BLOCKS), size])
        with f.when(p.eq(null)):
            f.ret(null)
        node.set(f.offset(p, -HEADER))
        f.jump(done)
    leading = f.intrinsic("llvm.ctlz", "i64", [f.smax(size, 1) + (HEADER - 1), f.const("i1", False)], ["i64"])
    number.set(64 - leading)
    freed = f.at(f.offset(pool, FREED), number.get(), 8)
    node.set(f.load("ptr", freed))
    with f.when(node.get().ne(null)):
        f.store(_load(f, node.get(), HEADER + COUNT), freed)
        f.jump(done)
    need = f.emit("i64", f"shl i64 1, {number.get().name}")
    with f.when((f.to_int(_load(f, pool, PIECE)) - f.to_int(_load(f, pool, AT))) < need):
        footer = f.call("hst_piece", "ptr", [_load(f, pool, PIECE), need])
        with f.when(footer.eq(null)):
            f.ret(null)
        _store(f, footer, pool, PIECE)
        _store(f, _load(f, footer, _START), pool, AT)
    node.set(_load(f, pool, AT))
    _store(f, f.offset(node.get(), need), pool, AT)
    f.place(done)
    p = f.offset(node.get(), HEADER)
    for value, at in ((f.const("i64", 1), COUNT), (f.const("i64", 0), FIELDS), (number.get(), CLASS)):
        _store(f, value, p, at)
    _store(f, _load(f, pool, ALIVE, "i64") + 1, pool, ALIVE)
    f.ret(p)


def _emit_drop(module: Module) -> None:
    """Without recursion: what must go is linked by the counts' words."""
    f = module.function(DROP, [("pool", "ptr"), ("p", "ptr")], "void", _INTERNAL, internal=True)
    pool, p = f.args
    null = f.const("ptr", 0)
    work = f.var("ptr", p)
    _store(f, null, p, COUNT)
    with f.forever() as loop:
        p = work.get()
        loop.break_if(p.eq(null))
        work.set(_load(f, p, COUNT))
        with f.loop(0, _load(f, p, FIELDS, "i64")) as field:
            q = f.load("ptr", f.offset(f.at(p, field, WORDS), 8))
            with f.when(q.ne(null)):
                left = _load(f, q, COUNT, "i64") - 1
                _store(f, left, q, COUNT)
                with f.when(left.eq(0)):
                    _store(f, work.get(), q, COUNT)
                    work.set(q)
        _store(f, _load(f, pool, ALIVE, "i64") - 1, pool, ALIVE)
        number = _load(f, p, CLASS, "i64")
        with f.either(number.eq(0)) as o:
            f.call(memory.FREE, "void", [p])
            o.otherwise()
            freed = f.at(f.offset(pool, FREED), number, 8)
            _store(f, f.load("ptr", freed), p, COUNT)
            f.store(f.offset(p, -HEADER), freed)
    f.ret()


def _emit_stack_next(module: Module) -> None:
    f = module.function(STACK_NEXT, [("pool", "ptr"), ("size", "i64")], "i64", _INTERNAL, internal=True)
    pool, size = f.args
    with f.when((size < 0) | (size > f.load("i64", context_word(f, Word.LIMIT)))):
        f.ret(f.const("i64", 1))
    footer = f.call("hst_piece", "ptr", [_load(f, pool, LIMIT), size])
    with f.when(footer.eq(f.const("ptr", 0))):
        f.ret(f.const("i64", 1))
    _store(f, footer, pool, LIMIT)
    _store(f, _load(f, footer, _START), pool, TOP)
    f.ret(f.const("i64", 0))


