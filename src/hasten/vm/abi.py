"""What generated code and its loader agree on: names of symbols, words of the model's context, status codes, and how
inputs bind sizes.

Every model image exports `CONTEXT`, an array of 8-byte words that the loader fills before the first run (see `Word`),
and the functions
    hst_run(ptr inputs, ptr outputs, ptr info) -> i64      the whole Program; words of `inputs`: for each input its data
                                                           pointer, then its dims; `outputs` likewise, written by the
                                                           run (the pointers lie in blocks that `hst_release` frees)
    hst_call                                               the CPython function (METH_FASTCALL) around it
    hst_trim()                                             gives cached scratch memory back to the system
hst_run asks now and then, in loops, whether to go on: `POLL`, which whoever calls it must define, returns nonzero to end
the run with STATUS_INTERRUPTED. In Python it lives beside hst_call. A shared library (`hasten.deploy`) has no hst_call; a
shell in C calls hst_run, defines `POLL`, and asks
    hst_shapes(ptr inputs, ptr outputs) -> i64             writes the dims of the outputs, as far as those of the inputs
                                                           tell them (else -1); 0 or STATUS_INPUT
The word of an input or output that is a value points to it. Whoever calls hst_run gives the run a pool for values (`hasten.vm.native.counted`) in
info[INFO_POOL] then, in which those of the inputs lie, and closes it after those of the outputs were looked at; else info has two words.

hst_run returns 0, a kernel's status (see `program.STATUS_MESSAGES`; STATUS_UNKNOWN for numbers that have no message;
info[0] is then the number of the Call that failed, counted from 1 among those that have a name, or 0), STATUS_DEPTH (a recursion is too deep;
info[0] is the number of the function that could not begin), STATUS_INPUT,
STATUS_INTERRUPTED with an exception of Python set (a signal's handler raised it), or FIRST_CHECK + the number of the
Check that failed, whose two sides are then in info[0] and info[1].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hasten.base.dims import Dim, DimLike, as_symbol, symbols
from hasten.base.errors import CompileError
from hasten.vm.program import (
    Alloc,
    Call,
    Check,
    Field,
    If,
    Instruction,
    Invoke,
    Let,
    Pack,
    Program,
    Read,
    Tag,
    TensorField,
    TensorSpec,
    ValueSpec,
    While,
)

ABI = 2
CONTEXT, RUN, CALL, TRIM = "hst_context", "hst_run", "hst_call", "hst_trim"
SHAPES, POLL = "hst_shapes", "hst_poll"
MODEL_EXPORTS = (CONTEXT, RUN, CALL, TRIM)
"""Symbols to export when linking the image of a native Program; an image for the interpreter exports its kernels
instead."""
PARALLEL, RESET, WORKERS, RELEASE, INVOKE = (
    "hst_parallel",
    "hst_pool_reset",
    "hst_pool_workers",
    "hst_release",
    "hst_invoke",
)
CHECKSUM = "hst_checksum"
RUNTIME_EXPORTS = (PARALLEL, RESET, WORKERS, RELEASE, INVOKE, CHECKSUM)
"""Symbols to export when linking the image of the run-time library."""

STATUS_DEPTH, STATUS_INTERRUPTED, STATUS_UNKNOWN, STATUS_INPUT, FIRST_CHECK = 12, 13, 14, 15, 16

INFO_POOL, INFO_WORDS = 2, 3

ROUNDS_PER_POLL = 4096
"""Rounds of loops, and activations, after which a run looks for signals (Ctrl-C)."""

GRAIN = 5000
"""Nanoseconds of work that are worth one more thread."""
RELEASE_GIL = 20000
"""Nanoseconds of work from which on a call releases Python's global lock."""
MAX_RANK = 64


class Word:
    """Numbers of the words in a model's context. Objects of Python are borrowed: the callable keeps them alive."""

    CONSTANTS = 0  # address of the constants
    PARALLEL = 1  # address of the pool's hst_parallel
    THREADS = 2  # most threads that a kernel gets
    LIMIT = 3  # most bytes that one allocation may have
    ARRAY_TYPE = 4  # NumPy's C API: ndarray, PyArray_NewFromDescr, PyArray_SetBaseObject
    NEW_ARRAY = 5
    SET_BASE = 6
    RELEASE = 7  # the run-time's destructor of capsules that own output memory
    DEPTH = 8  # most activations that may wait for each other
    UNRELEASED = 9  # written by a run with counted memory: how much of it was alive at its end
    CLASSES = 10  # int, float, bool, list, tuple of Python
    DESCRIPTORS = 15  # dtype objects of the inputs, then of the outputs (values: 0), then of the fields of data types (`field_dtypes`);
    # behind them the classes of the data types' variants


def context_words(program: Program) -> int:
    return first_class(program) + sum(len(t.variants) for t in program.types)


def field_dtypes(program: Program) -> list[str]:
    """The dtypes of tensors in values, in the order of their words in the context."""
    fields = (f for t in program.types for v in t.variants for f in v.fields)
    return list(dict.fromkeys(f.dtype for f in fields if isinstance(f, TensorField)))


def first_class(program: Program) -> int:
    """The word of the first data type's first variant."""
    return Word.DESCRIPTORS + len(program.inputs) + len(program.outputs) + len(field_dtypes(program))


def needs_pool(program: Program) -> bool:
    """Whether runs have counted memory or functions."""
    made = (Pack, Invoke)
    return passes_values(program) or any(isinstance(i, made) or (isinstance(i, Alloc) and i.zone == "heap") for i in everything(program))


def passes_values(program: Program) -> bool:
    """Whether inputs or outputs are values: then whoever calls hst_run opens and closes the pool that they lie in."""
    return any(isinstance(s, ValueSpec) for s in (*program.inputs, *program.outputs))


def tensors(specs: Sequence[object]) -> list[TensorSpec]:
    """The specs, which a native Program promises to be tensors."""
    for spec in specs:
        if not isinstance(spec, TensorSpec):
            raise CompileError(f"{spec} is not a tensor: only the interpreter can run this program")
    return list(specs)  # type: ignore[arg-type]


def word_offsets(specs: Sequence[object]) -> list[int]:
    """Where the words of each input or output begin: a pointer, and the dims of a tensor."""
    return [words_of(specs[:n]) for n in range(len(specs))]


def words_of(specs: Sequence[object]) -> int:
    return sum(1 + len(getattr(spec, "shape", ())) for spec in specs)


@dataclass(frozen=True)
class Binding:
    """How shapes of inputs give values to symbols: `bound` maps a symbol to (input, axis); `checked` lists the axes
    whose size must equal a dim; all others need no check. Only inputs that are tensors count."""

    bound: dict[str, tuple[int, int]]
    checked: tuple[tuple[int, int, DimLike], ...]


def bind(program: Program) -> Binding:
    """Raises CompileError where a shape has a symbol that no input's size gives."""
    bound: dict[str, tuple[int, int]] = {}
    axes = [
        (number, axis, dim)
        for number, spec in enumerate(program.inputs)
        if isinstance(spec, TensorSpec)
        for axis, dim in enumerate(spec.shape)
    ]
    for number, axis, dim in axes:
        name = as_symbol(dim)
        if name is not None:
            bound.setdefault(name, (number, axis))
    checked = []
    for number, axis, dim in axes:
        name = as_symbol(dim)
        if name is not None and bound[name] == (number, axis):
            continue
        missing = symbols(dim) - bound.keys()
        if missing:
            raise CompileError(
                f"input {program.inputs[number].name!r}: nothing gives a value to {', '.join(sorted(missing))}"
            )
        checked.append((number, axis, dim))
    return Binding(bound, tuple(checked))


def derived(program: Program) -> dict[str, DimLike]:
    """Names that the Program itself computes from the sizes of inputs alone, before anything runs, in order: each from
    bound symbols and earlier names. Names that are assigned more than once do not count."""
    times = Counter(name for i in walk(program.instructions) for name in assigned_integers(i))
    known, found = set(bind(program).bound), {}
    for i in program.instructions:
        if isinstance(i, Let) and times[i.name] == 1 and symbols(i.value) <= known:
            known.add(i.name)
            found[i.name] = i.value
    return found


def assigned_integers(i: Instruction) -> list[str]:
    """Names of the integers that an instruction assigns."""
    if isinstance(i, (Let, Read, Tag)):
        return [i.name]
    targets = i.results if isinstance(i, Invoke) else [i.target] if isinstance(i, Field) else []
    return [name for t in targets if isinstance(t, Dim) and (name := as_symbol(t)) is not None]


def walk(instructions: Sequence[Instruction]) -> Iterator[Instruction]:
    """All instructions in the order of the text, nested ones after the one that holds them."""
    for instruction in instructions:
        yield instruction
        if isinstance(instruction, If):
            yield from walk(instruction.then)
            yield from walk(instruction.other)
        elif isinstance(instruction, While):
            yield from walk(instruction.body)


def everything(program: Program) -> Iterator[Instruction]:
    """All instructions: the main code, then the functions in order."""
    yield from walk(program.instructions)
    for function in program.functions:
        yield from walk(function.instructions)


def checks(program: Program) -> list[Check]:
    """The Checks by their number."""
    return [i for i in everything(program) if isinstance(i, Check)]


def sites(program: Program) -> list[str]:
    """What the Calls that may fail work for, by their number."""
    return [i.where for i in everything(program) if isinstance(i, Call) and i.where]


def kernel_names(program: Program) -> list[str]:
    """Symbols of the kernels that the Program calls, in order of first use: the exports of an image for the
    interpreter."""
    return list(dict.fromkeys(i.kernel for i in everything(program) if isinstance(i, Call)))


def total_work(program: Program) -> DimLike | None:
    """Nanoseconds of one run where sizes of inputs tell it; None where only the run can tell."""
    total: DimLike = 0
    for instruction in program.instructions:
        if isinstance(instruction, (If, While, Invoke)):
            return None
        if isinstance(instruction, Call):
            total = total + instruction.work
    if isinstance(total, Dim) and not symbols(total) <= bind(program).bound.keys():
        return None
    return total
