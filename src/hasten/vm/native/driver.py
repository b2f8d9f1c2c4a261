"""The native driver: a Program as generated code, `hst_run` (see `hasten.vm.abi` for its calling convention), with a function for each of its functions.

Names that are assigned once, outside of If and While, are LLVM values; all others live in stack slots that LLVM turns
into registers. Every failure jumps to one exit with its code; the exit frees what the run allocated. Scratch memory is kept for
the next run; see `hasten.vm.native.memory`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hasten.base.errors import CompileError
from hasten.codegen.builder import Module, V
from hasten.vm import abi
from hasten.vm.abi import CONTEXT, RUN, Word
from hasten.vm.native import counted, fpmode, memory
from hasten.vm.native.code import DISPATCH, Code, Numbers, State, assigned, constants_of, context, kept_words
from hasten.vm.native.functions import CODE, emit_functions, emit_invoke, emit_results
from hasten.vm.native.sizes import emit_division
from hasten.vm.program import STATUS_MEMORY, Arena, If, Invoke, Output, Program, Return, TensorSpec, ValueSpec, While


def emit_driver(module: Module, program: Program, numbers: Numbers | None = None) -> None:
    """hst_run with all that it needs but the program's kernels and `abi.POLL`, into `module`. `numbers` is told of every instruction.

    Raises CompileError for a Program with host ops or objects, or one that uses names before it assigns them.
    """
    if not program.native:
        raise CompileError("a program with host ops or Python objects is for the interpreter")
    module.global_text(
        CONTEXT, f"@{CONTEXT} = dso_local global [{abi.context_words(program)} x i64] zeroinitializer, align 64"
    )
    for kernel in abi.kernel_names(program):  # hidden: part of the same image, reached without a table
        module.global_text(kernel, f"declare hidden void @{kernel}(ptr, i64, i64)")
    numbers = numbers or Numbers()
    _Main(module, program, numbers).emit()
    memory.emit_memory(module)
    if abi.needs_pool(program):
        counted.emit_counted(module)
    memory.emit_trim(module, abi.needs_pool(program))
    emit_functions(module, program, numbers)
    emit_division(module)
    _emit_dispatch(module)


def _emit_dispatch(module: Module) -> None:
    """hst_dispatch(kernel, args, work): on as many threads as `work` nanoseconds are worth."""
    f = module.function(
        DISPATCH, [("kernel", "ptr"), ("args", "ptr"), ("work", "i64")], "void", "nounwind noinline", internal=True
    )
    kernel, args, work = f.args
    most = context(f, Word.THREADS, "i64")
    threads = f.smin(f.emit("i64", f"sdiv {work}, {abi.GRAIN}"), most)
    with f.when(threads > 1):
        f.call_pointer(context(f, Word.PARALLEL, "ptr"), "void", [kernel, args, threads])
        f.ret()
    f.call_pointer(kernel, "void", [args, f.const("i64", 0), f.const("i64", 1)])
    f.ret()


def _single_assignments(program: Program, inputs: Sequence[str]) -> frozenset[str]:
    """Names with one assignment in all, at the outermost level ("i:" integers, "b:" buffers, "v:" values)."""
    counts = Counter(inputs)
    nested: set[str] = set()
    for instruction in abi.walk(program.instructions):
        counts.update(assigned(instruction))
    for top in program.instructions:
        if isinstance(top, (If, While)):
            for instruction in abi.walk([top]):
                nested.update(assigned(instruction))
    return frozenset(n for n, c in counts.items() if c == 1 and n not in nested)


class _Main(Code):
    """Emits hst_run: the main code, with the run's state in its frame."""

    def __init__(self, module: Module, program: Program, numbers: Numbers):
        f = module.function(RUN, [("inputs", "ptr"), ("outputs", "ptr"), ("info", "ptr")], "i64")
        self.binding = abi.bind(program)
        arguments, results = kept_words(program)
        state = f.alloca(State.ARGUMENTS + 8 * (arguments + results), 64)
        first = [
            *(f"b:{s.buffer}" for s in program.inputs if isinstance(s, TensorSpec)),
            *(f"v:{s.value}" for s in program.inputs if isinstance(s, ValueSpec)),
            *(f"b:{c.buffer}" for c in program.constants),
            *(f"i:{n}" for n in self.binding.bound),
        ]
        super().__init__(program, numbers, f, state, _single_assignments(program, first))
        self.inputs, self.outputs, self.info = f.args
        self.inputs_at, self.outputs_at = abi.word_offsets(program.inputs), abi.word_offsets(program.outputs)
        self.pooled = abi.needs_pool(program)
        self.given_pool = abi.passes_values(program)

    # --- frame --------------------------------------------------------------------------------------------------------
    def emit(self) -> None:
        f = self.f
        saved = fpmode.flush_denormals(f)
        self.begin()
        self.blob = constants_of(f)
        self.bind_inputs()
        self.block(self.program.instructions)
        self.check_status()
        self.keep_outputs()
        f.place("exit")
        f.call(memory.FREE_ALL, "void", [self.at(State.OUTPUTS)])
        f.call(memory.GIVE_ALL, "void", [self.at(State.SCRATCH)])
        if self.pooled and not self.given_pool:
            with f.when(self.pool.ne(f.const("ptr", 0))):
                f.call(counted.CLOSE, "void", [self.pool])
        fpmode.restore(f, saved)
        f.ret(self.load(State.CODE))

    def begin(self) -> None:
        """The run's state at first."""
        f, zero = self.f, self.f.const("i64", 0)
        f.store(zero, self.info)
        for offset in (State.STATUS, State.CODE, State.ROUNDS, State.DEPTH):
            f.store(zero, self.at(offset))
        f.store(self.info, self.at(State.INFO))
        f.store(self.state, self.at(State.ARGUMENTS))  # where kernels report: STATUS
        for head in (State.OUTPUTS, State.SCRATCH):
            memory.empty(f, self.at(head))
        if self.program.functions:
            f.store(V(f, "ptr", "@hst_back"), self.at(State.BOTTOM + CODE))
        if self.pooled:
            pool = f.load("ptr", f.offset(self.info, 8 * abi.INFO_POOL)) if self.given_pool else f.call(counted.OPEN, "ptr", [])
            f.store(pool, self.at(State.POOL))
            self.fail_if(pool.eq(f.const("ptr", 0)), STATUS_MEMORY)

    def bind_inputs(self) -> None:
        f, words, at = self.f, self.inputs, self.inputs_at
        for number, spec in enumerate(self.program.inputs):
            pointer = f.load("ptr", f.offset(words, 8 * at[number]))
            if isinstance(spec, ValueSpec):
                self.set("v:" + spec.value, pointer)
            elif isinstance(spec, TensorSpec):
                self.set_buffer(spec.buffer, pointer)
        for buffer, offset in self.constants.items():
            if f"b:{buffer}" not in self.single:
                self.set_buffer(buffer, f.offset(self.blob, offset))
        for name, (number, axis) in self.binding.bound.items():
            self.set("i:" + name, f.load("i64", f.offset(words, 8 * (at[number] + 1 + axis))))
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
        for at, spec in zip(self.outputs_at, self.program.outputs, strict=True):
            place = f.offset(self.outputs, 8 * at)
            if isinstance(spec, ValueSpec):
                f.store(self.value(spec.value), place)
            else:
                memory.unlink(f, f.offset(f.load("ptr", place), -memory.HEADER))

    def leave(self) -> None:
        self.f.jump("exit")

    # --- instructions -------------------------------------------------------------------------------------------------
    def arena(self, i: Arena) -> None:
        size = self.exact(i.size, STATUS_MEMORY)
        self.fresh(self.f.call(memory.TAKE, "ptr", [self.at(State.SCRATCH), size]), i.buffer)

    def output(self, i: Output) -> None:
        f, at = self.f, self.outputs_at[i.index]
        f.store(self.buffer(i.buffer), f.offset(self.outputs, 8 * at))
        for axis, dim in enumerate(i.shape):
            f.store(self.sizes.value(dim), f.offset(self.outputs, 8 * (at + 1 + axis)))

    def invoke(self, i: Invoke) -> None:
        if i.tail:
            raise CompileError("the main code of a program cannot end with a tail call")
        callee = emit_invoke(self, i, self.at(State.BOTTOM))
        self.f.call_pointer(callee.code, "void", [self.state, callee.frame, self.f.const("i64", 0)])
        self.fail_if(self.load(State.CODE).ne(0), lambda: self.load(State.CODE))
        emit_results(self, i)

    def give_back(self, i: Return) -> None:
        raise CompileError("the main code of a program returns to nobody")
