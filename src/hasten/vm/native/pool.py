"""The pool of threads, as generated code: `hst_parallel(kernel, args, threads)` runs the `threads` shares of a kernel
and returns when all are done.

The caller is thread 0. Share t belongs to worker t, which claims it from its mailbox by an atomic exchange; a caller
that is done with its own share claims what no worker has begun. So a busy machine, sleeping workers, or workers that
could not be made cost time only, and little. Consequence for kernels: shares may run in any order, also one after
another on one thread; no share may wait for another.

Workers spin for a few microseconds after their last share, then sleep in a futex. The sleepers are woken as a tree:
each woken thread wakes two more. Only one caller has the pool at a time; another runs its kernel alone, as thread 0 of
1. Workers are made when first needed (all signals blocked, denormals flushed) and stay. After fork the child starts
with an empty pool (`hst_pool_reset`).

    state: lock i32, workers i32, remaining i32 (futex), waiting i32, kernel ptr, args ptr, threads i64
    mailboxes: 64 bytes each: job i32 (futex: 1 = a share waits), asleep i32
"""

from __future__ import annotations

from hasten.codegen.builder import Function, Module, V
from hasten.vm.abi import PARALLEL, RESET, WORKERS
from hasten.vm.native import fpmode

MAX_THREADS = 256

_LOCK, _WORKERS, _REMAINING, _WAITING, _KERNEL, _ARGS, _THREADS = 0, 4, 8, 12, 16, 24, 32
_JOB, _ASLEEP = 0, 4
_FUTEX = {"x86_64": 202, "aarch64": 98}  # system calls
_FUTEX_WAIT, _FUTEX_WAKE = 128, 129  # private to the process
_SPIN = 60_000  # ticks of the time stamp counter: 20 to 30 microseconds
_SPIN_ROUNDS = 2_000  # on CPUs whose counter programs may not read
_STACK = 4 << 20
_SIG_SETMASK = 2


def emit_pool(module: Module) -> None:
    """The pool into a module: exports hst_parallel, hst_pool_reset and hst_pool_workers() -> i64."""
    module.global_text("hst_state", "@hst_state = internal global [64 x i8] zeroinitializer, align 64")
    module.global_text("hst_boxes", f"@hst_boxes = internal global [{64 * MAX_THREADS} x i8] zeroinitializer, align 64")
    _emit_wake(module)
    _emit_claim(module)
    _emit_share(module)
    _emit_worker(module)
    _emit_grow(module)
    _emit_parallel(module)
    _emit_service(module)


def _state(f: Function, offset: int) -> V:
    return f.offset(V(f, "ptr", "@hst_state"), offset)


def _box(f: Function, thread: V) -> V:
    return f.at(V(f, "ptr", "@hst_boxes"), thread, 64)


def _load(f: Function, p: V, order: str = "seq_cst") -> V:
    return f.emit("i32", f"load atomic i32, {p} {order}, align 4")


def _store(f: Function, value: int | V, p: V, order: str = "seq_cst") -> None:
    f.line(f"store atomic {f.coerce(value, 'i32')}, {p} {order}, align 4")


def _swap(f: Function, p: V, old: int, new: int) -> V:
    """Whether *p was `old`, which is then `new`."""
    both = f.emit("{i32, i1}", f"cmpxchg {p}, i32 {old}, i32 {new} seq_cst seq_cst")
    return f.emit("i1", f"extractvalue {both}, 1")


def _futex(f: Function, p: V, operation: int, value: V | int) -> None:
    number = _FUTEX.get(f.isa.architecture)
    if number is None:
        f.call("sched_yield", "i32", [])
        return
    zero = f.const("i64", 0)
    value = f.cast(f.coerce(value, "i32"), "i64")
    f.call("syscall", "i64", [f.const("i64", number), p, f.const("i64", operation), value, zero, zero, zero])


def _pause(f: Function) -> None:
    if f.isa.is_x86:
        f.intrinsic("llvm.x86.sse2.pause", "void", [], [])
    elif f.isa.architecture == "aarch64":
        f.intrinsic("llvm.aarch64.hint", "void", [f.const("i32", 1)], [])  # yield


def _spin_until(f: Function, p: V, wanted: int) -> None:
    """Until *p is `wanted`, or time is up."""
    timed = f.isa.is_x86
    start = f.intrinsic("llvm.x86.rdtsc", "i64", [], []) if timed else None
    rounds = f.var("i64", 0)
    with f.forever() as loop:
        loop.break_if(_load(f, p, "acquire").eq(wanted))
        _pause(f)
        if start is not None:
            loop.break_if(f.intrinsic("llvm.x86.rdtsc", "i64", [], []) - start > _SPIN)
        else:
            now = rounds.get() + 1
            rounds.set(now)
            loop.break_if(now > _SPIN_ROUNDS)


def _emit_wake(module: Module) -> None:
    """hst_wake(thread, threads): wake the sleepers among this thread's two children in the tree."""
    f = module.function("hst_wake", [("thread", "i64"), ("threads", "i64")], "void", "nounwind", internal=True)
    thread, threads = f.args
    for which in (1, 2):
        child = thread * 2 + which
        with f.when(child < threads):
            box = _box(f, child)
            with f.when(_load(f, f.offset(box, _ASLEEP)).ne(0)):
                _futex(f, f.offset(box, _JOB), _FUTEX_WAKE, 1)
    f.ret()


def _emit_claim(module: Module) -> None:
    """hst_claim(thread): whether the share of `thread` was waiting; it is the caller's now."""
    f = module.function("hst_claim", [("thread", "i64")], "i1", "nounwind", internal=True)
    job = f.offset(_box(f, f.args[0]), _JOB)
    with f.when(_load(f, job, "acquire").eq(0)):
        f.ret(f.const("i1", 0))
    f.ret(_swap(f, job, 1, 0))


def _emit_share(module: Module) -> None:
    """hst_share(thread): run a claimed share, then report it done."""
    f = module.function("hst_share", [("thread", "i64")], "void", "nounwind", internal=True)
    kernel, args = f.load("ptr", _state(f, _KERNEL)), f.load("ptr", _state(f, _ARGS))
    f.call_pointer(kernel, "void", [args, f.args[0], f.load("i64", _state(f, _THREADS))])
    remaining = _state(f, _REMAINING)
    before = f.emit("i32", f"atomicrmw sub {remaining}, i32 1 seq_cst")
    with f.when(before.eq(1)):
        with f.when(_load(f, _state(f, _WAITING)).ne(0)):
            _futex(f, remaining, _FUTEX_WAKE, 1)
    f.ret()


def _emit_worker(module: Module) -> None:
    f = module.function("hst_worker", [("self", "ptr")], "ptr", "nounwind", internal=True)
    fpmode.flush_denormals(f)
    thread = f.to_int(f.args[0])
    box = _box(f, thread)
    job, asleep = f.offset(box, _JOB), f.offset(box, _ASLEEP)
    with f.forever():
        _spin_until(f, job, 1)
        with f.when(_load(f, job).eq(0)):
            _store(f, 1, asleep)
            with f.when(_load(f, job).eq(0)):
                _futex(f, job, _FUTEX_WAIT, 0)
            _store(f, 0, asleep)
        with f.when(f.call("hst_claim", "i1", [thread])):
            f.call("hst_wake", "void", [thread, f.load("i64", _state(f, _THREADS))])
            f.call("hst_share", "void", [thread])
    f.ret(f.const("ptr", 0))


def _emit_grow(module: Module) -> None:
    """hst_grow(workers): make workers until there are that many; called with the pool's lock held."""
    f = module.function("hst_grow", [("wanted", "i64")], "void", "nounwind noinline", internal=True)
    all_signals, mask, attributes, handle = f.alloca(128), f.alloca(128), f.alloca(128), f.alloca(8)
    f.intrinsic(
        "llvm.memset", "void", [all_signals, f.const("i8", -1), f.const("i64", 128), f.const("i1", 0)], ["ptr", "i64"]
    )
    how = f.const("i32", _SIG_SETMASK)
    f.call("pthread_sigmask", "i32", [how, all_signals, mask])
    f.call("pthread_attr_init", "i32", [attributes])
    f.call("pthread_attr_setdetachstate", "i32", [attributes, f.const("i32", 1)])
    f.call("pthread_attr_setstacksize", "i32", [attributes, f.const("i64", _STACK)])
    with f.forever() as loop:
        count = _load(f, _state(f, _WORKERS))
        loop.break_if(f.cast(count, "i64") >= f.args[0])
        thread = f.to_ptr(f.cast(count + 1, "i64"))
        code = f.call("pthread_create", "i32", [handle, attributes, V(f, "ptr", "@hst_worker"), thread])
        loop.break_if(code.ne(0))
        _store(f, count + 1, _state(f, _WORKERS))
    f.call("pthread_attr_destroy", "i32", [attributes])
    f.call("pthread_sigmask", "i32", [how, mask, f.const("ptr", 0)])
    f.ret()


def _emit_parallel(module: Module) -> None:
    f = module.function(PARALLEL, [("kernel", "ptr"), ("args", "ptr"), ("wanted", "i64")])
    kernel, args, wanted = f.args
    threads = f.smin(wanted, MAX_THREADS)
    mine = f.label("mine")
    alone = f.label("alone")
    ask = f.label("ask")
    f.branch(threads > 1, ask, alone)
    f.place(ask)
    f.branch(_swap(f, _state(f, _LOCK), 0, 1), mine, alone)
    f.place(alone)
    f.call_pointer(kernel, "void", [args, f.const("i64", 0), f.const("i64", 1)])
    f.ret()
    f.place(mine)
    with f.when(f.cast(_load(f, _state(f, _WORKERS), "monotonic"), "i64") < threads - 1):
        f.call("hst_grow", "void", [threads - 1])
    f.store(kernel, _state(f, _KERNEL))
    f.store(args, _state(f, _ARGS))
    f.store(threads, _state(f, _THREADS))
    _store(f, f.cast(threads, "i32"), _state(f, _REMAINING))
    with f.loop(1, threads) as t:
        _store(f, 1, f.offset(_box(f, t), _JOB))
    f.call("hst_wake", "void", [f.const("i64", 0), threads])
    f.call("hst_share", "void", [f.const("i64", 0)])
    with f.loop(1, threads) as t:
        with f.when(f.call("hst_claim", "i1", [t])):
            f.call("hst_share", "void", [t])
    _wait_for_others(f)
    _store(f, 0, _state(f, _LOCK), "release")
    f.ret()


def _wait_for_others(f: Function) -> None:
    remaining, waiting = _state(f, _REMAINING), _state(f, _WAITING)
    _spin_until(f, remaining, 0)
    with f.when(_load(f, remaining).ne(0)):
        _store(f, 1, waiting)
        with f.forever() as loop:
            left = _load(f, remaining)
            loop.break_if(left.eq(0))
            _futex(f, remaining, _FUTEX_WAIT, left)
        _store(f, 0, waiting)


def _emit_service(module: Module) -> None:
    """hst_pool_reset(): forget all workers, in the child of a fork. hst_pool_workers(): how many there are."""
    f = module.function(RESET, [])
    for name, size in (("hst_state", 64), ("hst_boxes", 64 * MAX_THREADS)):
        args = [V(f, "ptr", f"@{name}"), f.const("i8", 0), f.const("i64", size), f.const("i1", 0)]
        f.intrinsic("llvm.memset", "void", args, ["ptr", "i64"])
    f.ret()
    f = module.function(WORKERS, [], "i64")
    f.ret(f.cast(_load(f, _state(f, _WORKERS)), "i64"))
