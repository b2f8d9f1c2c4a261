"""Functions of a Program as generated code. Activations live in frames on the run's memory stack, not on the thread's: recursion is as deep as there is
memory, on any thread.

    hst_f0(state, frame, at)      function number 0: from its beginning (at = 0), or behind its call number `at`

A function that calls another one that must come back to it writes the number of the call into its frame, makes the callee's frame, and jumps to the callee
(a call that LLVM must turn into a jump). To return is to jump to the function of the frame below, with its number. So however deep the recursion is,
the thread's stack holds one of these functions, and a failure ends them all with one `ret`. The main code's calls have `State.BOTTOM` as the frame below,
whose function (hst_back) just returns.

A frame: + 0 the frame below    + 8 the function    + 16 where it goes on    + 24 the stack's piece before it    + 32 the words of parameters, then of all
other names. Arguments are written into the callee's frame; results pass through the run's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from hasten.base.errors import CompileError
from hasten.codegen.builder import Function as FunctionText
from hasten.codegen.builder import Module, V, Var
from hasten.vm import abi
from hasten.vm.abi import Word
from hasten.vm.native import counted
from hasten.vm.native.code import KINDS, Code, Numbers, State, assigned, constants_of, context, key_of
from hasten.vm.program import (
    MAX_ROUNDS,
    STATUS_MEMORY,
    STATUS_ROUNDS,
    Arena,
    Function,
    Instruction,
    Invoke,
    Operand,
    Output,
    Program,
    Return,
    Value,
    While,
)

BELOW, CODE, AT, PIECE, NAMES = 0, 8, 16, 24, 32
_PUSH, _TABLE = "hst_push", "hst_functions"
_HEAD = [("state", "ptr"), ("frame", "ptr"), ("at", "i64")]


class Callee(NamedTuple):
    """A function about to begin: its code, and its frame with the arguments in it."""

    code: V
    frame: V


def emit_functions(module: Module, program: Program, numbers: Numbers) -> None:
    """All functions, hst_back, and hst_push(state, below, number) -> a frame for that function, or null with the run's code stored."""
    if not program.functions:
        return
    emitted = [_Activation(module, program, numbers, number) for number in range(len(program.functions))]
    for function in emitted:
        function.emit()
    rows = ", ".join(f"{{ptr, i64}} {{ptr @hst_f{n}, i64 {function.size}}}" for n, function in enumerate(emitted))
    module.global_text(_TABLE, f"@{_TABLE} = internal constant [{len(emitted)} x {{ptr, i64}}] [{rows}], align 16")
    module.function("hst_back", _HEAD, "void", "nounwind", internal=True).ret()
    _emit_push(module)


def _emit_push(module: Module) -> None:
    f = module.function(_PUSH, [("state", "ptr"), ("below", "ptr"), ("number", "i64")], "ptr", "nounwind noinline", internal=True)
    state, below, number = f.args
    row = f.at(V(f, "ptr", f"@{_TABLE}"), number, 16)
    size = f.load("i64", f.offset(row, 8))

    def fail_if(bad: V, code: int, told: V | None = None) -> None:
        with f.when(bad):
            f.store(f.const("i64", code), f.offset(state, State.CODE))
            if told is not None:
                f.store(told, f.load("ptr", f.offset(state, State.INFO)))
            f.ret(f.const("ptr", 0))

    rounds = f.load("i64", f.offset(state, State.ROUNDS)) + 1
    f.store(rounds, f.offset(state, State.ROUNDS))
    fail_if(rounds > MAX_ROUNDS, STATUS_ROUNDS)
    with f.when((rounds & (abi.ROUNDS_PER_POLL - 1)).eq(0)):
        fail_if(f.call(abi.POLL, "i64", []).ne(0), abi.STATUS_INTERRUPTED)
    depth = f.load("i64", f.offset(state, State.DEPTH)) + 1
    f.store(depth, f.offset(state, State.DEPTH))
    fail_if(depth > context(f, Word.DEPTH, "i64"), abi.STATUS_DEPTH, number)
    pool = f.load("ptr", f.offset(state, State.POOL))
    piece = f.load("ptr", f.offset(pool, counted.LIMIT))
    frame = _room(f, pool, size, lambda bad: fail_if(bad, STATUS_MEMORY))
    f.store(below, frame)
    f.store(f.load("ptr", row), f.offset(frame, CODE))
    f.store(piece, f.offset(frame, PIECE))
    f.ret(frame)


def _room(f: FunctionText, pool: V, size: V, fail_if: Callable[[V], None]) -> V:
    """`size` bytes, a multiple of 64, on the memory stack."""
    top = f.offset(pool, counted.TOP)
    left = f.to_int(f.load("ptr", f.offset(pool, counted.LIMIT))) - f.to_int(f.load("ptr", top))
    with f.when(size > left):
        fail_if(f.call(counted.STACK_NEXT, "i64", [pool, size]).ne(0))
    start = f.load("ptr", top)
    f.store(f.offset(start, size), top)
    return start


def _kinds(operands: Iterable[Operand]) -> str:
    """One letter each: b, i, v."""
    return "".join("v" if isinstance(x, Value) else "b" if isinstance(x, str) else "i" for x in operands)


def emit_invoke(code: Code, i: Invoke, below: V, before: Callable[[], None] = lambda: None) -> Callee:
    """Make the callee's frame, on top of what `before` leaves; the caller's code goes on with the jump. Raises CompileError for arguments that do not
    fit."""
    f = code.f
    words = [w for x in i.args for w in code.words(x)]
    if isinstance(i.function, Value):
        words.append(code.value(i.function.name))
        number = f.load("i64", f.offset(words[-1], counted.TAG))
    else:
        _check_call(code.program, i)
        number = f.const("i64", code.functions[i.function])
    before()
    frame = f.call(_PUSH, "ptr", [code.state, below, number])
    begun, ended = f.label("begun"), f.label("ended")
    f.branch(frame.ne(f.const("ptr", 0)), begun, ended)
    f.place(ended)
    code.leave()
    f.place(begun)
    for n, word in enumerate(words):
        f.store(word, f.offset(frame, NAMES + 8 * n))
    known = not isinstance(i.function, Value)
    return Callee(V(f, "ptr", f"@hst_f{number.name}") if known else f.load("ptr", f.offset(frame, CODE)), frame)


def _check_call(program: Program, i: Invoke) -> None:
    callee = next((x for x in program.functions if x.name == i.function), None)
    if callee is None:
        raise CompileError(f"the program calls {i.function!r}, which is none of its functions")
    if _kinds(i.args) != _kinds(callee.params):
        raise CompileError(f"function {callee.name!r} takes {_kinds(callee.params)!r}, it is given {_kinds(i.args)!r}")
    for r in abi.walk(callee.instructions):
        if isinstance(r, Return) and not i.tail and _kinds(r.results) != _kinds(i.results):
            raise CompileError(f"function {callee.name!r} returns {_kinds(r.results)!r}, its caller takes {_kinds(i.results)!r}")


def emit_results(code: Code, i: Invoke) -> None:
    """Assign what a function has returned."""
    f, at = code.f, code.first_result
    for target in i.results:
        key = key_of(target)
        code.set(key, *(f.load(t, code.at(at + 8 * n)) for n, t in enumerate(KINDS[key[0]])))
        at += 8 * len(KINDS[key[0]])


def _suspends(instructions: Sequence[Instruction]) -> int:
    """How many calls come back to this code."""
    return sum(isinstance(i, Invoke) and not i.tail for i in abi.walk(instructions))


class _Activation(Code):
    """Emits one function. Its names lie in the frame: LLVM's registers do not outlive a call."""

    def __init__(self, module: Module, program: Program, numbers: Numbers, number: int):
        self.function: Function = program.functions[number]
        f = module.function(f"hst_f{number}", _HEAD, "void", "nounwind", internal=True)
        super().__init__(program, numbers, f, f.args[0], frozenset())
        self.frame = f.args[1]
        names = dict.fromkeys([*map(key_of, self.function.params), *(k for i in abi.walk(self.function.instructions) for k in assigned(i))])
        at = NAMES
        for key in names:
            self.variables[key] = tuple(Var(f, t, f.offset(self.frame, at + 8 * n)) for n, t in enumerate(KINDS[key[0]]))
            at += 8 * len(KINDS[key[0]])
        self.size = -(-at // 64) * 64
        self.calls = 0

    def emit(self) -> None:
        f = self.f
        self.blob = constants_of(f)
        f.switch(f.args[2], "begin", [f"back{n + 1}" for n in range(_suspends(self.function.instructions))])
        f.place("begin")
        self.block(self.function.instructions)
        self.give_back(Return())

    def leave(self) -> None:
        self.f.ret()

    def arena(self, i: Arena) -> None:
        f, size = self.f, self.exact(i.size, STATUS_MEMORY)
        self.fail_if(context(f, Word.LIMIT, "i64").ult(size), STATUS_MEMORY)
        self.set_buffer(i.buffer, _room(f, self.pool, (size + 63) & -64, lambda bad: self.fail_if(bad, STATUS_MEMORY)))

    def output(self, i: Output) -> None:
        raise CompileError(f"function {self.function.name!r} writes to an output of the program")

    def loop(self, i: While) -> None:
        if _suspends(i.body):
            self.sizes.restart()
        super().loop(i)

    def end(self) -> None:
        """Give the frame back."""
        f, pool = self.f, self.pool
        f.store(self.frame, f.offset(pool, counted.TOP))
        f.store(f.load("ptr", f.offset(self.frame, PIECE)), f.offset(pool, counted.LIMIT))
        f.store(self.load(State.DEPTH) - 1, self.at(State.DEPTH))

    def invoke(self, i: Invoke) -> None:
        f, zero = self.f, self.f.const("i64", 0)
        if i.tail:
            below = f.load("ptr", self.frame)
            callee = emit_invoke(self, i, below, self.end)
            f.jump_to(callee.code, [self.state, callee.frame, zero])
            return
        self.calls += 1
        f.store(f.const("i64", self.calls), f.offset(self.frame, AT))
        callee = emit_invoke(self, i, self.frame)
        f.jump_to(callee.code, [self.state, callee.frame, zero])
        f.place(f"back{self.calls}")
        self.sizes.restart()
        emit_results(self, i)

    def give_back(self, i: Return) -> None:
        f = self.f
        for n, word in enumerate(w for x in i.results for w in self.words(x)):
            f.store(word, self.at(self.first_result + 8 * n))
        self.end()
        below = f.load("ptr", self.frame)
        f.jump_to(f.load("ptr", f.offset(below, CODE)), [self.state, below, f.load("i64", f.offset(below, AT))])
