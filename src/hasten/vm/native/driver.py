"""The native driver: a Program as one generated function, `hst_run` (see `hasten.vm.abi` for its calling convention).

Names that are assigned once, outside of If and While, are LLVM values; all others live in stack slots that LLVM turns
into registers. Every failure jumps to one exit with its code; the exit frees what the run allocated. A kernel's failure
is noticed before anything that could depend on its results (Read, If, While) and at the end. Scratch memory is kept for
the next run; see `hasten.vm.native.memory`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hasten.base.dims import DimLike
from hasten.base.errors import CompileError
from hasten.codegen.builder import Function, Module, V, Var
from hasten.vm import abi
from hasten.vm.abi import CONTEXT, RUN, Word
from hasten.vm.native import fpmode, memory
from hasten.vm.native.read import emit_read
from hasten.vm.native.sizes import Sizes, emit_division
from hasten.vm.program import (
    MAX_ROUNDS,
    STATUS_MEMORY,
    STATUS_MESSAGES,
    STATUS_ROUNDS,
    STATUS_SHAPE,
    Alloc,
    Arena,
    Call,
    Check,
    Free,
    If,
    Instruction,
    Let,
    Output,
    Program,
    Read,
    View,
    While,
)

_DISPATCH = "hst_dispatch"


def emit_driver(module: Module, program: Program) -> None:
    """hst_run with all that it needs but the program's kernels and `abi.POLL`, into `module`.

    Raises CompileError for a Program with host ops or objects, or one that uses names before it assigns them.
    """
    if not program.native:
        raise CompileError("a program with host ops or Python objects is for the interpreter")
    module.global_text(
        CONTEXT, f"@{CONTEXT} = dso_local global [{abi.context_words(program)} x i64] zeroinitializer, align 64"
    )
    for kernel in abi.kernel_names(program):  # hidden: part of the same image, reached without a table
        module.global_text(kernel, f"declare hidden void @{kernel}(ptr, i64, i64)")
    _Driver(module, program).emit()
    memory.emit_memory(module)
    emit_division(module)
    _emit_dispatch(module)


def _emit_dispatch(module: Module) -> None:
    """hst_dispatch(kernel, args, work): on as many threads as `work` nanoseconds are worth."""
    f = module.function(
        _DISPATCH, [("kernel", "ptr"), ("args", "ptr"), ("work", "i64")], "void", "nounwind noinline", internal=True
    )
    kernel, args, work = f.args
    most = f.load("i64", memory.context_word(f, Word.THREADS))
    threads = f.smin(f.emit("i64", f"sdiv {work}, {abi.GRAIN}"), most)
    with f.when(threads > 1):
        parallel = f.load("ptr", memory.context_word(f, Word.PARALLEL))
        f.call_pointer(parallel, "void", [kernel, args, threads])
        f.ret()
    f.call_pointer(kernel, "void", [args, f.const("i64", 0), f.const("i64", 1)])
    f.ret()


def _assigned(instruction: Instruction) -> list[str]:
    """Names that an instruction itself assigns."""
    if isinstance(instruction, (Let, Read)):
        return ["i:" + instruction.name]
    return ["b:" + instruction.buffer] if isinstance(instruction, (Arena, View, Alloc)) else []


def _single_assignments(program: Program, inputs: Sequence[str]) -> frozenset[str]:
    """Names with one assignment in all, at the outermost level ("i:" integers, "b:" buffers)."""
    counts = Counter(inputs)
    nested: set[str] = set()
    for instruction in abi.walk(program.instructions):
        counts.update(_assigned(instruction))
    for top in program.instructions:
        if isinstance(top, (If, While)):
            for instruction in abi.walk([top]):
                nested.update(_assigned(instruction))
    return frozenset(n for n, c in counts.items() if c == 1 and n not in nested)


class _Driver:
    """Emits hst_run."""

    def __init__(self, module: Module, program: Program):
        self.program = program
        self.specs = abi.tensors(program.inputs)
        self.binding = abi.bind(program)
        self.f: Function = module.function(RUN, [("inputs", "ptr"), ("outputs", "ptr"), ("info", "ptr")], "i64")
        self.sizes = Sizes(self.f, self.integer)
        first = [
            *(f"b:{s.buffer}" for s in self.specs),
            *(f"b:{c.buffer}" for c in program.constants),
            *(f"i:{n}" for n in self.binding.bound),
        ]
        self.single = _single_assignments(program, first)
        self.values: dict[str, V] = {}
        self.variables: dict[str, Var] = {}
        self.constants = {c.buffer: c.offset for c in program.constants}
        self.outputs_at = abi.word_offsets(program.outputs)
        self.next_check = self.next_site = 0
        self.exit = "exit"

    # --- frame --------------------------------------------------------------------------------------------------------
    def emit(self) -> None:
        f = self.f
        self.inputs, self.outputs, self.info = f.args
        f.store(f.const("i64", 0), self.info)
        saved = fpmode.flush_denormals(f)
        self.status, self.code, self.rounds = f.var("i64", 0), f.var("i64", 0), f.var("i64", 0)
        most = max((len(i.args) for i in abi.walk(self.program.instructions) if isinstance(i, Call)), default=0)
        self.args = f.alloca(8 * (most + 1), 64)
        f.store(self.status.slot, self.args)
        self.heap, self.scratch = memory.empty_list(f), memory.empty_list(f)
        self.blob = f.load("ptr", memory.context_word(f, Word.CONSTANTS))
        self.bind_inputs()
        self.block(self.program.instructions)
        self.check_status()
        self.keep_outputs()
        f.place(self.exit)
        f.call(memory.FREE_ALL, "void", [self.heap])
        f.call(memory.GIVE_ALL, "void", [self.scratch])
        fpmode.restore(f, saved)
        f.ret(self.code.get())

    def bind_inputs(self) -> None:
        f, words = self.f, self.inputs
        at = abi.word_offsets(self.specs)
        for number, spec in enumerate(self.specs):
            self.set_buffer(spec.buffer, f.load("ptr", f.offset(words, 8 * at[number])))
        for buffer, offset in self.constants.items():
            if f"b:{buffer}" not in self.single:
                self.set_buffer(buffer, f.offset(self.blob, offset))
        for name, (number, axis) in self.binding.bound.items():
            self.set_integer(name, f.load("i64", f.offset(words, 8 * (at[number] + 1 + axis))))
        wrong: V | None = None
        for number, axis, dim in self.binding.checked:
            got = f.load("i64", f.offset(words, 8 * (at[number] + 1 + axis)))
            want, overflow = self.sizes.checked(dim)
            bad = got.ne(want) if overflow is None else got.ne(want) | overflow
            wrong = bad if wrong is None else wrong | bad
        if wrong is not None:
            self.fail_if(wrong, abi.STATUS_INPUT)

    def keep_outputs(self) -> None:
        """Success: output blocks leave the list of what is freed."""
        f = self.f
        for at in self.outputs_at:
            memory.unlink(f, f.offset(f.load("ptr", f.offset(self.outputs, 8 * at)), -memory.HEADER))

    # --- names --------------------------------------------------------------------------------------------------------
    def integer(self, name: str) -> V:
        return self.get("i:" + name)

    def buffer(self, name: str) -> V:
        key = "b:" + name
        if name in self.constants and key in self.single:
            return self.f.offset(self.blob, self.constants[name])
        return self.get(key)

    def get(self, key: str) -> V:
        if key in self.values:
            return self.values[key]
        if key in self.variables:
            return self.variables[key].get()
        raise CompileError(f"the program uses {key[2:]!r} before anything assigns it")

    def set(self, key: str, value: V) -> None:
        if key in self.single:
            self.values[key] = value
        elif key in self.variables:
            self.variables[key].set(value)
        else:
            variable = self.f.var(value.type, value)
            self.variables[key] = variable

    def set_integer(self, name: str, value: V) -> None:
        self.set("i:" + name, value)
        if "i:" + name not in self.single:
            self.sizes.forget([name])

    def set_buffer(self, name: str, value: V) -> None:
        self.set("b:" + name, value)

    # --- failures -----------------------------------------------------------------------------------------------------
    def fail_if(self, bad: V, code: int | Callable[[], V], details: Callable[[], None] | None = None) -> None:
        f = self.f
        failed, fine = f.label("fail"), f.label("ok")
        f.branch(bad, failed, fine)
        f.place(failed)
        if details is not None:
            details()
        self.code.set(code if isinstance(code, int) else code())
        f.jump(self.exit)
        f.place(fine)

    def check_status(self, site: int = 0) -> None:
        status = self.status.get()
        known = len(STATUS_MESSAGES)
        self.fail_if(status.ne(0), lambda: self.f.select(status.ult(known), status, abi.STATUS_UNKNOWN),
                     lambda: self.f.store(self.f.const("i64", site), self.info))  # fmt: skip

    def exact(self, x: DimLike, code: int) -> V:
        """The value of x; the run fails with `code` where it does not fit into 64 bits."""
        value, overflow = self.sizes.checked(x)
        if overflow is not None:
            self.fail_if(overflow, code)
        return value

    # --- instructions -------------------------------------------------------------------------------------------------
    def block(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            _EMITTERS[type(instruction)](self, instruction)

    def nested(self, instructions: Sequence[Instruction]) -> None:
        self.sizes.enter()
        self.block(instructions)
        self.sizes.leave()

    def let(self, i: Let) -> None:
        self.set_integer(i.name, self.exact(i.value, STATUS_SHAPE))

    def read(self, i: Read) -> None:
        self.check_status()
        element = emit_read(self.f, self.buffer(i.buffer), self.sizes.value(i.index), i.dtype)
        if i.sign < 0:
            element = 0 - self.f.smax(element, 1 - (1 << 63))
        self.set_integer(i.name, self.f.smax(element, 0))

    def check(self, i: Check) -> None:
        number, self.next_check = self.next_check, self.next_check + 1
        left, right = self.exact(i.left, STATUS_SHAPE), self.exact(i.right, STATUS_SHAPE)

        def details() -> None:
            self.f.store(left, self.info)
            self.f.store(right, self.f.offset(self.info, 8))

        self.fail_if(_OPPOSITE[i.op](left, right), abi.FIRST_CHECK + number, details)

    def allocate(self, function: str, blocks: V, i: Arena | Alloc) -> None:
        size = self.exact(i.size, STATUS_MEMORY)
        p = self.f.call(function, "ptr", [blocks, size])
        self.fail_if(p.eq(self.f.const("ptr", 0)), STATUS_MEMORY)
        self.set_buffer(i.buffer, p)

    def arena(self, i: Arena) -> None:
        self.allocate(memory.TAKE, self.scratch, i)

    def alloc(self, i: Alloc) -> None:
        self.allocate(memory.ALLOC, self.heap, i)

    def view(self, i: View) -> None:
        base = self.buffer(i.base)
        plain = isinstance(i.offset, int) and i.offset == 0
        self.set_buffer(i.buffer, base if plain else self.f.offset(base, self.sizes.value(i.offset)))

    def free(self, i: Free) -> None:
        self.f.call(memory.FREE, "void", [self.buffer(i.buffer)])

    def call(self, i: Call) -> None:
        f = self.f
        for number, arg in enumerate(i.args):
            word = self.buffer(arg) if isinstance(arg, str) else self.sizes.value(arg)
            f.store(word, f.offset(self.args, 8 * (number + 1)))
        kernel = V(f, "ptr", f"@{i.kernel}")
        if isinstance(i.work, int) and i.work < 2 * abi.GRAIN:
            f.call_pointer(kernel, "void", [self.args, f.const("i64", 0), f.const("i64", 1)])
        else:
            f.call(_DISPATCH, "void", [kernel, self.args, self.sizes.value(i.work)])
        if i.where:
            self.next_site += 1
            self.check_status(self.next_site)

    def branch(self, i: If) -> None:
        self.declare(i.then, i.other)
        self.check_status()
        with self.f.either(self.exact(i.condition, STATUS_SHAPE).ne(0)) as o:
            self.nested(i.then)
            o.otherwise()
            self.nested(i.other)

    def loop(self, i: While) -> None:
        self.declare(i.body)
        self.sizes.forget(n[2:] for j in abi.walk(i.body) for n in _assigned(j))
        with self.f.forever() as rounds:
            self.sizes.enter()
            self.check_status()
            rounds.break_if(self.exact(i.condition, STATUS_SHAPE).eq(0))
            self.count_round()
            self.block(i.body)
            self.sizes.leave()

    def count_round(self) -> None:
        """A loop without end fails, or is interrupted."""
        f = self.f
        count = self.rounds.get() + 1
        self.rounds.set(count)
        self.fail_if(count > MAX_ROUNDS, STATUS_ROUNDS)
        with f.when((count & (abi.ROUNDS_PER_POLL - 1)).eq(0)):
            self.fail_if(f.call(abi.POLL, "i64", []).ne(0), abi.STATUS_INTERRUPTED)

    def declare(self, *blocks: Sequence[Instruction]) -> None:
        """Slots for names that nested blocks assign, so that all paths know them."""
        for instruction in abi.walk([j for b in blocks for j in b]):
            for key in _assigned(instruction):
                if key not in self.variables:
                    kind = "i64" if key.startswith("i:") else "ptr"
                    self.variables[key] = self.f.var(kind, self.f.const(kind, 0))

    def output(self, i: Output) -> None:
        f, at = self.f, self.outputs_at[i.index]
        f.store(self.buffer(i.buffer), f.offset(self.outputs, 8 * at))
        for axis, dim in enumerate(i.shape):
            f.store(self.sizes.value(dim), f.offset(self.outputs, 8 * (at + 1 + axis)))


_OPPOSITE: dict[str, Callable[[V, V], V]] = {
    "==": lambda a, b: a.ne(b),
    "!=": lambda a, b: a.eq(b),
    "<": lambda a, b: a >= b,
    "<=": lambda a, b: a > b,
}
_EMITTERS: dict[type, Callable[[_Driver, Any], None]] = {
    Let: _Driver.let,
    Read: _Driver.read,
    Check: _Driver.check,
    Arena: _Driver.arena,
    View: _Driver.view,
    Alloc: _Driver.alloc,
    Free: _Driver.free,
    Call: _Driver.call,
    If: _Driver.branch,
    While: _Driver.loop,
    Output: _Driver.output,
}
