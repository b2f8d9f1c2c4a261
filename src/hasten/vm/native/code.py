"""What the main code of a Program and its functions have in common as generated code: names, failures, and most instructions.

A run's state lies in memory that every function gets a pointer to (`State`); how names are kept, how a failure ends the code, and how functions are
called is the business of `hasten.vm.native.driver` (the main code) and `hasten.vm.native.functions`. A kernel's failure is noticed before anything that
could depend on its results (Read, If, While) and at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from hasten.base.dims import DimLike, as_symbol
from hasten.base.errors import CompileError
from hasten.codegen.builder import Function, V, Var
from hasten.vm import abi
from hasten.vm.abi import Word
from hasten.vm.native import counted, memory
from hasten.vm.native.read import emit_read
from hasten.vm.native.sizes import Sizes
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
    Field,
    If,
    Instruction,
    Invoke,
    Let,
    Move,
    Operand,
    Output,
    Pack,
    Program,
    Read,
    Release,
    Retain,
    Return,
    Tag,
    Value,
    View,
    While,
)

DISPATCH = "hst_dispatch"
KINDS: dict[str, tuple[str, ...]] = {"i": ("i64",), "b": ("ptr", "ptr"), "v": ("ptr",)}
"""Words of an integer, a buffer (data and reference), a value. Names are "i:batch", "b:b7", "v:v2" here."""


class State:
    """Offsets in a run's state. The first words of kernels' arguments and results of functions follow it."""

    STATUS = 0  # what kernels report
    CODE = 8  # the failure that ends the run
    ROUNDS = 16  # of loops, and activations
    INFO = 24
    DEPTH = 32  # activations
    POOL = 40
    OUTPUTS = 48  # list of blocks for outputs
    SCRATCH = 64  # list of blocks of arenas
    BOTTOM = 128  # the frame that the main code's calls return to
    ARGUMENTS = 192


def kept_words(program: Program) -> tuple[int, int]:
    """Words of a kernel's arguments, and of a function's results: the most that there are."""
    every = list(abi.everything(program))
    arguments = max((len(i.args) + 1 for i in every if isinstance(i, Call)), default=1)
    results = max((2 * len(i.results) for i in every if isinstance(i, (Invoke, Return))), default=0)
    return arguments, results


def key_of(x: Operand) -> str:
    """The key of an operand that is assigned. Raises CompileError for an integer that is no name."""
    if isinstance(x, Value):
        return "v:" + x.name
    if isinstance(x, str):
        return "b:" + x
    name = as_symbol(x)
    if name is None:
        raise CompileError(f"the program assigns to {x}, which is no name")
    return "i:" + name


def assigned(i: Instruction) -> list[str]:
    """Keys of the names that an instruction itself assigns."""
    if isinstance(i, (Let, Read, Tag)):
        return ["i:" + i.name]
    if isinstance(i, (Arena, View, Alloc)):
        return ["b:" + i.buffer]
    if isinstance(i, (Pack, Move)):
        return ["v:" + i.value]
    if isinstance(i, Field):
        return [key_of(i.target)]
    return list(map(key_of, i.results)) if isinstance(i, Invoke) else []


class Numbers:
    """Counts Checks and Calls that have names, through all code of a Program."""

    def __init__(self) -> None:
        self.checks, self.sites = itertools.count(abi.FIRST_CHECK), itertools.count(1)

    def begin(self, code: Code, i: Instruction) -> None:
        """Called before an instruction is emitted, for drivers that note what they do (`hasten.vm.native.timed`)."""

    def end(self, code: Code, i: Instruction) -> None:
        """Called after an instruction was emitted."""


class Code:
    """Emits instructions into one LLVM function."""

    blob: V  # the constants

    def __init__(self, program: Program, numbers: Numbers, f: Function, state: V, single: frozenset[str]):
        self.program, self.numbers, self.f, self.state, self.single = program, numbers, f, state, single
        self.sizes = Sizes(f, lambda name: self.get("i:" + name)[0])
        self.values: dict[str, tuple[V, ...]] = {}
        self.variables: dict[str, tuple[Var, ...]] = {}
        self.constants = {c.buffer: c.offset for c in program.constants}
        self.functions = {function.name: number for number, function in enumerate(program.functions)}
        self.first_result = State.ARGUMENTS + 8 * kept_words(program)[0]

    # --- what the main code and functions do each in their own way ----------------------------------------------------
    def leave(self) -> None:
        """End the run, whose code is stored."""
        raise NotImplementedError

    def arena(self, i: Arena) -> None:
        raise NotImplementedError

    def output(self, i: Output) -> None:
        raise NotImplementedError

    def invoke(self, i: Invoke) -> None:
        raise NotImplementedError

    def give_back(self, i: Return) -> None:
        raise NotImplementedError

    # --- the run's state ------------------------------------------------------------------------------------------------
    def at(self, offset: int) -> V:
        return self.f.offset(self.state, offset)

    def load(self, offset: int, t: str = "i64") -> V:
        return self.f.load(t, self.at(offset))

    @property
    def pool(self) -> V:
        return self.load(State.POOL, "ptr")

    # --- names --------------------------------------------------------------------------------------------------------
    def buffer(self, name: str) -> V:
        return self.pair(name)[0]

    def pair(self, name: str) -> tuple[V, ...]:
        """Data and reference of a buffer."""
        key = "b:" + name
        if name in self.constants and key not in self.variables and key not in self.values:
            return self.f.offset(self.blob, self.constants[name]), self.f.const("ptr", 0)
        return self.get(key)

    def value(self, name: str) -> V:
        return self.get("v:" + name)[0]

    def get(self, key: str) -> tuple[V, ...]:
        if key in self.values:
            return self.values[key]
        if key in self.variables:
            return tuple(v.get() for v in self.variables[key])
        raise CompileError(f"the program uses {key[2:]!r} before anything assigns it")

    def set(self, key: str, *words: V) -> None:
        if key in self.single:
            self.values[key] = words
            return
        if key not in self.variables:
            self.variables[key] = tuple(self.f.var(w.type, w) for w in words)
        for variable, word in zip(self.variables[key], words, strict=True):
            variable.set(word)
        if key.startswith("i:"):
            self.sizes.forget([key[2:]])

    def set_buffer(self, name: str, data: V, reference: V | None = None) -> None:
        self.set("b:" + name, data, self.f.const("ptr", 0) if reference is None else reference)

    def declare(self, *blocks: Sequence[Instruction]) -> None:
        """Slots for names that nested blocks assign, so that all paths know them."""
        for instruction in abi.walk([j for b in blocks for j in b]):
            for key in assigned(instruction):
                if key not in self.variables:
                    self.variables[key] = tuple(self.f.var(t, self.f.const(t, 0)) for t in KINDS[key[0]])

    # --- operands of any kind -------------------------------------------------------------------------------------------
    def words(self, x: Operand) -> tuple[V, ...]:
        """As many as its kind has (`KINDS`)."""
        if isinstance(x, Value):
            return (self.value(x.name),)
        return self.pair(x) if isinstance(x, str) else (self.exact(x, STATUS_SHAPE),)

    def reference(self, x: str | Value) -> V:
        return self.words(x)[-1]

    # --- failures -----------------------------------------------------------------------------------------------------
    def fail_if(self, bad: V, code: int | Callable[[], V], details: Callable[[], None] | None = None) -> None:
        f = self.f
        failed, fine = f.label("fail"), f.label("ok")
        f.branch(bad, failed, fine)
        f.place(failed)
        if details is not None:
            details()
        f.store(f.coerce(code if isinstance(code, int) else code(), "i64"), self.at(State.CODE))
        self.leave()
        f.place(fine)

    def tell(self, number: int, value: V | int) -> None:
        """A number for the message of a failure."""
        self.f.store(self.f.coerce(value, "i64"), self.f.offset(self.load(State.INFO, "ptr"), 8 * number))

    def check_status(self, site: int = 0) -> None:
        status = self.load(State.STATUS)
        known = len(STATUS_MESSAGES)
        self.fail_if(status.ne(0), lambda: self.f.select(status.ult(known), status, abi.STATUS_UNKNOWN), lambda: self.tell(0, site))

    def exact(self, x: DimLike, code: int) -> V:
        """The value of x; the run fails with `code` where it does not fit into 64 bits."""
        value, overflow = self.sizes.checked(x)
        if overflow is not None:
            self.fail_if(overflow, code)
        return value

    # --- instructions -------------------------------------------------------------------------------------------------
    def block(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            self.numbers.begin(self, instruction)
            EMITTERS[type(instruction)](self, instruction)
            self.numbers.end(self, instruction)

    def nested(self, instructions: Sequence[Instruction]) -> None:
        self.sizes.enter()
        self.block(instructions)
        self.sizes.leave()

    def let(self, i: Let) -> None:
        self.set("i:" + i.name, self.exact(i.value, STATUS_SHAPE))

    def read(self, i: Read) -> None:
        self.check_status()
        element = emit_read(self.f, self.buffer(i.buffer), self.sizes.value(i.index), i.dtype)
        if i.sign < 0:
            element = 0 - self.f.smax(element, 1 - (1 << 63))
        self.set("i:" + i.name, self.f.smax(element, 0))

    def check(self, i: Check) -> None:
        number = next(self.numbers.checks)
        left, right = self.exact(i.left, STATUS_SHAPE), self.exact(i.right, STATUS_SHAPE)

        def details() -> None:
            self.tell(0, left)
            self.tell(1, right)

        self.fail_if(_OPPOSITE[i.op](left, right), number, details)

    def fresh(self, p: V, buffer: str, reference: V | None = None) -> None:
        """New memory at p for a buffer; the run fails where p is null."""
        self.fail_if(p.eq(self.f.const("ptr", 0)), STATUS_MEMORY)
        self.set_buffer(buffer, p, reference)

    def alloc(self, i: Alloc) -> None:
        size = self.exact(i.size, STATUS_MEMORY)
        if i.zone == "heap":
            p = self.f.call(counted.NEW, "ptr", [self.pool, size])
            self.fresh(p, i.buffer, p)
        else:
            self.fresh(self.f.call(memory.ALLOC, "ptr", [self.at(State.OUTPUTS), size]), i.buffer)

    def view(self, i: View) -> None:
        data, reference = self.pair(i.base)
        plain = isinstance(i.offset, int) and i.offset == 0
        self.set_buffer(i.buffer, data if plain else self.f.offset(data, self.sizes.value(i.offset)), reference)

    def call(self, i: Call) -> None:
        f, args = self.f, self.at(State.ARGUMENTS)
        for number, arg in enumerate(i.args):
            word = self.buffer(arg) if isinstance(arg, str) else self.sizes.value(arg)
            f.store(word, f.offset(args, 8 * (number + 1)))
        kernel = V(f, "ptr", f"@{i.kernel}")
        if isinstance(i.work, int) and i.work < 2 * abi.GRAIN:
            f.call_pointer(kernel, "void", [args, f.const("i64", 0), f.const("i64", 1)])
        else:
            f.call(DISPATCH, "void", [kernel, args, self.sizes.value(i.work)])
        if i.where:
            self.check_status(next(self.numbers.sites))

    def branch(self, i: If) -> None:
        self.declare(i.then, i.other)
        self.check_status()
        with self.f.either(self.exact(i.condition, STATUS_SHAPE).ne(0)) as o:
            self.nested(i.then)
            o.otherwise()
            self.nested(i.other)

    def loop(self, i: While) -> None:
        self.declare(i.body)
        self.sizes.forget(key[2:] for j in abi.walk(i.body) for key in assigned(j) if key.startswith("i:"))
        with self.f.forever() as rounds:
            self.sizes.enter()
            self.check_status()
            rounds.break_if(self.exact(i.condition, STATUS_SHAPE).eq(0))
            self.count_round()
            self.block(i.body)
            self.sizes.leave()

    def count_round(self) -> None:
        """Loops and recursion without end fail, or are interrupted."""
        f = self.f
        count = self.load(State.ROUNDS) + 1
        f.store(count, self.at(State.ROUNDS))
        self.fail_if(count > MAX_ROUNDS, STATUS_ROUNDS)
        with f.when((count & (abi.ROUNDS_PER_POLL - 1)).eq(0)):
            self.fail_if(f.call(abi.POLL, "i64", []).ne(0), abi.STATUS_INTERRUPTED)

    # --- values ---------------------------------------------------------------------------------------------------------
    def retain(self, i: Retain) -> None:
        counted.retain(self.f, self.reference(i.name))

    def release(self, i: Release) -> None:
        counted.release(self.f, self.pool, self.reference(i.name))

    def move(self, i: Move) -> None:
        self.set("v:" + i.value, self.value(i.source))

    def pack(self, i: Pack) -> None:
        f = self.f
        fields = [self.words(x) for x in i.fields]
        p = f.call(counted.NEW, "ptr", [self.pool, f.const("i64", counted.WORDS * len(fields))])
        self.fail_if(p.eq(f.const("ptr", 0)), STATUS_MEMORY)
        f.store(f.const("i64", i.tag), f.offset(p, counted.TAG))
        f.store(f.const("i64", len(fields)), f.offset(p, counted.FIELDS))
        for number, (x, words) in enumerate(zip(i.fields, fields, strict=True)):
            reference = f.const("ptr", 0) if not isinstance(x, (str, Value)) else words[-1]
            f.store(words[0], f.offset(p, counted.WORDS * number))
            f.store(reference, f.offset(p, counted.WORDS * number + 8))
        self.set("v:" + i.value, p)

    def tag(self, i: Tag) -> None:
        self.set("i:" + i.name, self.f.load("i64", self.f.offset(self.value(i.value), counted.TAG)))

    def field(self, i: Field) -> None:
        key, place = key_of(i.target), self.f.offset(self.value(i.value), counted.WORDS * i.index)
        self.set(key, *(self.f.load(t, self.f.offset(place, 8 * n)) for n, t in enumerate(KINDS[key[0]])))


def context(f: Function, word: int, t: str) -> V:
    """A word of the model's context."""
    return f.load(t, memory.context_word(f, word))


def constants_of(f: Function) -> V:
    return context(f, Word.CONSTANTS, "ptr")


_OPPOSITE: dict[str, Callable[[V, V], V]] = {
    "==": lambda a, b: a.ne(b),
    "!=": lambda a, b: a.eq(b),
    "<": lambda a, b: a >= b,
    "<=": lambda a, b: a > b,
}
EMITTERS: dict[type, Callable[[Any, Any], None]] = {
    Let: Code.let,
    Read: Code.read,
    Check: Code.check,
    Arena: lambda code, i: code.arena(i),
    View: Code.view,
    Alloc: Code.alloc,
    Call: Code.call,
    If: Code.branch,
    While: lambda code, i: code.loop(i),
    Output: lambda code, i: code.output(i),
    Retain: Code.retain,
    Release: Code.release,
    Move: Code.move,
    Pack: Code.pack,
    Tag: Code.tag,
    Field: Code.field,
    Invoke: lambda code, i: code.invoke(i),
    Return: lambda code, i: code.give_back(i),
}
