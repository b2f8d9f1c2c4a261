"""The Program: what a model is compiled to. A few instructions over four kinds of names.

Names
    buffers   64-byte aligned memory: inputs, constants, pieces of the arena, heap allocations, outputs     "b7"
    integers  sizes and other small integers, used inside `Dim` expressions                                 "d3", "batch"
    values    tagged tuples: data types (lists, trees) and closures                                         Value("v2")
    objects   Python objects (sequences, optionals, strings, tensors of unknown rank) of host ops           "h2"
All names are variables: assigning again replaces. A Program is a list of instructions; `If` and `While` hold nested lists. The text form
(`hasten.vm.text`) round-trips. Two drivers give the same answers: the Python interpreter (the definition; also runs Programs with host ops)
and the native driver (generated code; Programs without host ops).

Functions (`Program.functions`) have names of their own, new for each activation, so they may call themselves; beside them a function sees
the constants. Buffers, integers and values go in (`Invoke`) and out (`Return`). Its arenas are given back when the activation ends.

Values and heap buffers are counted: each has a number of references, and goes when the last one is given up (`Release`), with the references
that it holds. `Alloc` (zone "heap"), `Pack` and the results of `Invoke` make a reference, which the name owns; `Pack`, `Invoke` and `Return` take
those of their operands over. `Field`, `View` and `Move` give a name to something that another reference keeps: `Retain` makes that a reference
of its own. `hasten.lower.ownership` puts Retain and Release into code without them. Constants, inputs and memory for outputs may stand where
counted memory does, since they outlive all activations; for them Retain and Release do nothing. Pieces of an arena may not.

Calling convention of kernels: `void k(ptr args, i64 thread, i64 threads)`; args is an array of 8-byte words: word 0 is a pointer to the run's
i64 status word (0 = fine; a kernel stores an index into `STATUS_MESSAGES` to fail the run), then the words of `Call.args` in order: buffers as
pointers, dims as i64. Threads split the kernel's work among themselves; every kernel may be called with threads == 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hasten.base.dims import DimLike

STATUS_MESSAGES = (
    "ok",
    "an index is out of range",
    "a value is not allowed here (division by zero in integers, negative size, ...)",
    "out of memory",
    "sizes do not fit together",
    "too many elements for the space reserved",
    "the loops of the model do not end",
)
STATUS_INDEX, STATUS_VALUE, STATUS_MEMORY, STATUS_SHAPE, STATUS_SPACE, STATUS_ROUNDS = 1, 2, 3, 4, 5, 6

MAX_ROUNDS = 1 << 30  # of all While loops of a run together, and of activations
MAX_DEPTH = 100_000  # activations that wait for another one, where the user does not say


@dataclass(frozen=True)
class TensorSpec:
    """An input or output tensor. dtype is a NumPy/ml_dtypes name; shape has ints and dims (one free symbol per unknown size)."""

    name: str
    dtype: str
    shape: tuple[DimLike, ...]
    buffer: str  # the buffer that holds it (row-major, contiguous)


@dataclass(frozen=True)
class ObjectSpec:
    """An input or output that is a Python object (sequence, optional, string tensor, tensor of unknown rank)."""

    name: str
    kind: str  # readable type, as "sequence(float32)"
    object: str


@dataclass(frozen=True)
class Value:
    """The name of a value, where an operand may also be a buffer or an integer."""

    name: str


Operand = str | DimLike | Value
"""A buffer, an integer or a value. Where it is assigned (parameters, results of calls), an integer is a plain symbol: its name."""


@dataclass(frozen=True)
class TensorField:
    """A tensor in a value that comes from Python or goes there. Sizes are ints, or names of sizes that the value brings along; a name that
    occurs twice in a variant is one size. number: in Python it is an int, float or bool (rank 0)."""

    dtype: str
    shape: tuple[int | str, ...]
    number: bool = False


@dataclass(frozen=True)
class Variant:
    """One way to make values of a data type. Fields are tensors or values of the data type with that name. A value holds them in this order,
    and behind them an integer for each of `sizes`."""

    name: str
    fields: tuple[TensorField | str, ...] = ()

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of sizes, in the order of their first mention."""
        return tuple(dict.fromkeys(d for f in self.fields if isinstance(f, TensorField) for d in f.shape if isinstance(d, str)))


@dataclass(frozen=True)
class DataType:
    """An algebraic data type: a value's tag is the number of its variant. sequence: in Python it is a list; the variants are the empty one, and one with
    the rest and the last item."""

    name: str
    variants: tuple[Variant, ...]
    sequence: bool = False


@dataclass(frozen=True)
class ValueSpec:
    """An input or output that is a value of the data type `type`."""

    name: str
    type: str
    value: str


@dataclass(frozen=True)
class Constant:
    """A buffer that exists before the run: bytes [offset, offset + size) of the constants blob; offset is a multiple of 64."""

    buffer: str
    offset: int
    size: int


@dataclass(frozen=True)
class Let:
    """integer `name` := `value`."""

    name: str
    value: DimLike


@dataclass(frozen=True)
class Read:
    """integer `name` := max(sign * element, 0) of element `index` of `buffer`, whose elements have the integer, bool or float type `dtype`
    (floats are truncated). Symbols are never negative, so a signed value is read as two: sign 1 and sign -1."""

    name: str
    buffer: str
    index: DimLike
    dtype: str
    sign: int = 1


@dataclass(frozen=True)
class Check:
    """Fail the run unless `left op right` (op: "==", "!=", "<", "<="). kind: "shape" (ShapeMismatch) or "value" (ExecutionError)."""

    left: DimLike
    op: str
    right: DimLike
    message: str
    kind: str = "shape"


@dataclass(frozen=True)
class Arena:
    """`buffer` := scratch memory of `size` bytes; content undefined; given back at the end of the run, in a function at the end of the activation."""

    buffer: str
    size: DimLike


@dataclass(frozen=True)
class View:
    """`buffer` := `base` + `offset` bytes. offset 0 is a plain move."""

    buffer: str
    base: str
    offset: DimLike = 0


@dataclass(frozen=True)
class Alloc:
    """`buffer` := fresh memory of at least max(1, size) bytes. zone "heap": counted; what nobody released goes at the end of the run; "output":
    handed to the caller by `Output` (freed if the run fails; not in functions). A size beyond the run's limit fails with STATUS_MEMORY."""

    buffer: str
    size: DimLike
    zone: str = "heap"


@dataclass(frozen=True)
class Call:
    """Run a kernel. `work` estimates its cost in nanoseconds of one core: small calls stay on the calling thread. `where`
    names what a kernel works for that may fail: a failure is then noticed at once, and the message says where."""

    kernel: str
    args: tuple[str | DimLike, ...]  # str: buffer
    work: DimLike = 0
    where: str = ""


@dataclass(frozen=True)
class HostTensor:
    """A tensor operand of a host op. As a result, `shape` has integer names (strings) that the host op assigns, or known ints."""

    buffer: str
    dtype: str
    shape: tuple[Any, ...]


@dataclass(frozen=True)
class HostObject:
    """A Python object operand of a host op."""

    object: str


@dataclass(frozen=True)
class Host:
    """Run host op number `site` of `Program.host_ops` on NumPy views of the operands; tensor results get heap buffers."""

    site: int
    inputs: tuple[HostTensor | HostObject | None, ...]
    outputs: tuple[HostTensor | HostObject | None, ...]


@dataclass(frozen=True)
class If:
    """Run `then` where `condition` != 0, else `other`. What follows may use names that both assign."""

    condition: DimLike
    then: tuple[Instruction, ...]
    other: tuple[Instruction, ...]


@dataclass(frozen=True)
class While:
    """Repeat `body` as long as `condition` != 0 (tested before each round)."""

    condition: DimLike
    body: tuple[Instruction, ...]


@dataclass(frozen=True)
class Output:
    """Output number `index` := the tensor in `buffer` (allocated in zone "output", each such buffer given once) with this shape."""

    index: int
    buffer: str
    shape: tuple[DimLike, ...]


@dataclass(frozen=True)
class Retain:
    """One more reference to the memory that a buffer (str) lies in, or to a value: the name owns it."""

    name: str | Value


@dataclass(frozen=True)
class Release:
    """Give up the reference that a name owns; the last one frees the buffer's memory, or the value with the references in it. The name may not
    be used until it is assigned again."""

    name: str | Value


@dataclass(frozen=True)
class Move:
    """value `value` := `source`: both name the same value."""

    value: str
    source: str


@dataclass(frozen=True)
class Pack:
    """`value` := a new value. Takes the references of buffers and values in `fields` over. A closure is a value whose tag is the number of its
    function in `Program.functions`; its fields are what it has captured."""

    value: str
    tag: int
    fields: tuple[Operand, ...] = ()


@dataclass(frozen=True)
class Tag:
    """integer `name` := the tag of `value`."""

    name: str
    value: str


@dataclass(frozen=True)
class Field:
    """`target` := field number `index` of `value`, which must be of the target's kind."""

    target: Operand
    value: str
    index: int


@dataclass(frozen=True)
class Invoke:
    """Run a function, which takes the references of `args` over; `results`, all different, are assigned what it returns and own it. `function`: a name, or a
    closure: its function gets the closure itself as one more argument, the last one. With `tail` the activation ends here (the results are
    those of the function, `results` is empty): however many such calls follow each other, they take no more memory than one. A run fails
    where more activations wait for each other than the model allows. Not in the main code: `tail`."""

    function: str | Value
    args: tuple[Operand, ...] = ()
    results: tuple[Operand, ...] = ()
    tail: bool = False


@dataclass(frozen=True)
class Return:
    """End the activation of a function. The caller takes the references over. A function that comes to its end returns nothing."""

    results: tuple[Operand, ...] = ()


Instruction = (
    Let | Read | Check | Arena | View | Alloc | Call | Host | If | While | Output
    | Retain | Release | Move | Pack | Tag | Field | Invoke | Return
)  # fmt: skip


@dataclass(frozen=True)
class Function:
    """Code with names of its own. No Host, Output or objects in it."""

    name: str
    params: tuple[Operand, ...]
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class HostOp:
    """What a host op needs to run: a readable name, and a payload for the op's runner (a serialised ONNX node for `hasten.vm.host`)."""

    name: str
    op: str
    payload: bytes


@dataclass
class Program:
    """A compiled model without its code: see the module's text. Calls name kernels by their symbols in the image. `types`: the data types of inputs and
    outputs, and all that their fields mention."""

    inputs: list[TensorSpec | ValueSpec | ObjectSpec] = field(default_factory=list)
    outputs: list[TensorSpec | ValueSpec | ObjectSpec] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    host_ops: list[HostOp] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    types: list[DataType] = field(default_factory=list)

    @property
    def native(self) -> bool:
        """Whether the native driver can run it: no host ops, no objects."""
        return not self.host_ops and not any(isinstance(s, ObjectSpec) for s in [*self.inputs, *self.outputs])
