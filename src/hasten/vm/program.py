"""The Program: what a model is compiled to. A few instructions over three kinds of names.

Names
    buffers   64-byte aligned memory: inputs, constants, pieces of the arena, heap allocations, outputs     "b7"
    integers  sizes and other small integers, used inside `Dim` expressions                                 "d3", "batch"
    objects   Python objects (sequences, optionals, strings, tensors of unknown rank) of host ops           "h2"
All names are variables: assigning again replaces. A Program is a list of instructions; `If` and `While` hold nested lists. The text form
(`hasten.vm.text`) round-trips. Two drivers give the same answers: the Python interpreter (the definition; also runs Programs with host ops)
and the native driver (one LLVM function; Programs without host ops).

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

MAX_ROUNDS = 1 << 30  # of all While loops of a run together


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
    """`buffer` := scratch memory of `size` bytes for this run; content undefined; given back at the end of the run."""

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
    """`buffer` := fresh memory of at least max(1, size) bytes. zone "heap": freed by `Free` or at the end of the run; "output": handed to the
    caller by `Output` (freed if the run fails). A size beyond the run's limit fails with STATUS_MEMORY."""

    buffer: str
    size: DimLike
    zone: str = "heap"


@dataclass(frozen=True)
class Free:
    """Give a heap buffer back."""

    buffer: str


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


Instruction = Let | Read | Check | Arena | View | Alloc | Free | Call | Host | If | While | Output


@dataclass(frozen=True)
class HostOp:
    """What a host op needs to run: a readable name, and a payload for the op's runner (a serialised ONNX node for `hasten.vm.host`)."""

    name: str
    op: str
    payload: bytes


@dataclass
class Program:
    """A compiled model without its code: see the module's text. `kernels` maps kernel names used by Call to symbols of the image."""

    inputs: list[TensorSpec | ObjectSpec] = field(default_factory=list)
    outputs: list[TensorSpec | ObjectSpec] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    host_ops: list[HostOp] = field(default_factory=list)

    @property
    def native(self) -> bool:
        """Whether the native driver can run it: no host ops, no objects."""
        return not self.host_ops and all(isinstance(s, TensorSpec) for s in [*self.inputs, *self.outputs])
