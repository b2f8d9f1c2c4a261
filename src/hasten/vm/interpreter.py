"""The interpreter: runs a Program instruction by instruction in Python. It defines what Programs mean, and is the only
driver for Programs with host ops or Python objects.

Sizes are computed in 64 bits (`hasten.vm.arithmetic`). Those that do not fit fail the run where they are assigned, compared or allocate memory, and wrap around
elsewhere (offsets and kernel arguments), as in the native driver. Kernels run in the same pool of threads.

Blocks in progress and activations that wait lie in lists of their own, so neither nesting nor recursion needs Python's stack. References are
counted and checked (`hasten.vm.counted`).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hasten.base.dims import Dim, DimLike, as_symbol
from hasten.base.dtypes import to_numpy
from hasten.base.errors import CompileError, ExecutionError
from hasten.vm import abi
from hasten.vm.arithmetic import evaluate
from hasten.vm.arrays import shape_text
from hasten.vm.callpath import Constants, Model, check_error, depth_error, status_error
from hasten.vm.counted import Buffer, Counted, Counts, Word, handed_over, living
from hasten.vm.elements import read_element
from hasten.vm.host import HostRunner
from hasten.vm.image import LoadedImage
from hasten.vm.program import (
    MAX_DEPTH,
    MAX_ROUNDS,
    STATUS_MEMORY,
    STATUS_ROUNDS,
    STATUS_SHAPE,
    Alloc,
    Arena,
    Call,
    Check,
    Field,
    Host,
    HostObject,
    HostTensor,
    If,
    Instruction,
    Invoke,
    Let,
    Move,
    ObjectSpec,
    Operand,
    Output,
    Pack,
    Program,
    Read,
    Release,
    Retain,
    Return,
    Tag,
    TensorSpec,
    Value,
    ValueSpec,
    View,
    While,
)
from hasten.vm.runtime import Runtime, default_memory_limit
from hasten.vm.values import number_bytes

Profile = Callable[[Instruction, float], None]
"""Called after each instruction (If and While count as what they hold) with the seconds it took."""


class InterpretedModel(Model):
    """A model run by the interpreter; see `hasten.vm.callpath.make_model`."""

    kind = "interpreted"

    def __init__(
        self, program: Program, image: LoadedImage, constants: Constants, runtime: Runtime,
        threads: int | None = None, memory_limit: int | None = None, profile: Profile | None = None, max_depth: int = MAX_DEPTH,
    ):  # fmt: skip
        super().__init__(program, threads, max_depth)
        self.constants, self.runtime, self.profile = constants, runtime, profile
        self.memory_limit = default_memory_limit() if memory_limit is None else memory_limit
        self.image = image  # kept mapped
        self.kernels = {name: image.address(name) for name in abi.kernel_names(program)}
        self.hosts = [HostRunner(site) for site in program.host_ops]
        self.functions = {f.name: f for f in program.functions}
        self.call = self._run
        self.run_type: type[Run] = Run
        self._make_run()

    def _run(self, *values: Any) -> Any:
        run = self.run_type(self, self.signature.convert(values))
        outputs = run.outputs()
        self.unreleased = run.counts.alive
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


@dataclass
class _Activation:
    """Names, blocks in progress ([instructions, position], outermost first), and what the caller wants to be assigned at the end."""

    blocks: list[tuple[Sequence[Instruction], list[int]]]
    integers: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    values: dict[str, Counted] = field(default_factory=dict)
    wanted: tuple[Operand, ...] = ()


class Run:
    """The state of one run."""

    def __init__(self, model: InterpretedModel, inputs: Sequence[Any]):
        self.model, self.program = model, model.program
        self.constants = {
            c.buffer: Buffer(model.constants.address + c.offset, model.constants) for c in self.program.constants
        }
        self.counts = Counts()
        self.waiting: list[_Activation] = []
        self.objects: dict[str, Any] = {}
        self.results: dict[int, Any] = {}
        self.rounds = 0
        self.status = ctypes.c_int64(0)
        self.switch(_Activation([(self.program.instructions, [0])], dict(model.signature.sizes(inputs)), dict(self.constants)))
        for spec, value in zip(self.program.inputs, inputs, strict=True):
            if isinstance(spec, TensorSpec):
                self.buffers[spec.buffer] = Buffer(value.ctypes.data, value)
            elif isinstance(spec, ValueSpec):
                self.values[spec.value] = model.signature.values.counted(spec.type, value, self.counts, self.number)
            else:
                self.objects[spec.object] = value

    def switch(self, activation: _Activation) -> None:
        """Go on with this activation."""
        self.activation, self.blocks = activation, activation.blocks
        self.integers, self.buffers, self.values = activation.integers, activation.buffers, activation.values

    def outputs(self) -> list[Any]:
        try:
            self.execute()
            self.check_status()
            return [self.given(n, spec) for n, spec in enumerate(self.program.outputs)]
        except KeyError as error:
            raise CompileError(f"the program uses {error.args[0]!r} before anything assigns it") from None

    def given(self, number: int, spec: TensorSpec | ValueSpec | ObjectSpec) -> Any:
        """An output as the caller gets it."""
        if isinstance(spec, TensorSpec):
            return self.results[number]
        if isinstance(spec, ObjectSpec):
            return self.objects[spec.object]
        value = living(self.values[spec.value])
        assert value is not None
        made = self.model.signature.values.python(spec.type, value, self.array)
        self.counts.release(value)
        return made

    def execute(self) -> None:
        """Run until the main code comes to its end."""
        profile = self.model.profile
        while self.blocks:
            instructions, at = self.blocks[-1]
            if at[0] == len(instructions):
                self.blocks.pop()
                if not self.blocks and self.waiting:
                    self.leave(Return())
                continue
            instruction = instructions[at[0]]
            at[0] += 1
            handler = _HANDLERS[type(instruction)]
            if profile is None or isinstance(instruction, (If, While)):
                handler(self, instruction)
            else:
                start = time.perf_counter()
                handler(self, instruction)
                profile(instruction, time.perf_counter() - start)

    def block(self, instructions: Sequence[Instruction]) -> None:
        """Go on with a nested block."""
        self.blocks.append((instructions, [0]))

    def fresh(self, size: int) -> Buffer:
        """New memory. Raises MemoryError or ValueError where there is none."""
        room = np.empty(max(1, size) + 64, np.uint8)
        return Buffer(room.ctypes.data + -room.ctypes.data % 64, room)

    def number(self, dtype: str, x: Any) -> Buffer:
        """Counted memory that holds a Python number."""
        data = number_bytes(dtype, x)
        buffer = self.fresh(len(data))
        ctypes.memmove(buffer.address, data, len(data))
        return buffer._replace(counted=self.counts.new())

    # --- integers -----------------------------------------------------------------------------------------------------
    def exact(self, x: DimLike, code: int) -> int:
        """The value of x; the run fails with `code` where it, or a number on the way to it, does not fit into 64 bits."""
        value, fits = evaluate(x, self.integers)
        if not fits:
            raise status_error(code)
        return value

    def wrapped(self, x: DimLike) -> int:
        return evaluate(x, self.integers)[0]

    def check_status(self, where: str = "") -> None:
        if self.status.value:
            raise status_error(self.status.value, where)

    # --- instructions -------------------------------------------------------------------------------------------------
    def let(self, i: Let) -> None:
        self.integers[i.name] = self.exact(i.value, STATUS_SHAPE)

    def read(self, i: Read) -> None:
        self.check_status()
        element = read_element(self.buffer(i.buffer).address, self.wrapped(i.index), i.dtype)
        self.integers[i.name] = min(max(i.sign * element, 0), (1 << 63) - 1)

    def check(self, i: Check) -> None:
        left, right = self.exact(i.left, STATUS_SHAPE), self.exact(i.right, STATUS_SHAPE)
        if not _HOLDS[i.op](left, right):
            raise check_error(i, left, right)

    def allocate(self, i: Arena | Alloc) -> None:
        size = self.exact(i.size, STATUS_MEMORY)
        if not 0 <= size <= self.model.memory_limit:
            raise status_error(STATUS_MEMORY)
        try:
            buffer = self.fresh(size)
        except (MemoryError, ValueError):
            raise status_error(STATUS_MEMORY) from None
        counted = self.counts.new() if isinstance(i, Alloc) and i.zone == "heap" else None
        self.buffers[i.buffer] = buffer._replace(counted=counted, scratch=isinstance(i, Arena))

    def view(self, i: View) -> None:
        base = self.buffer(i.base)
        self.buffers[i.buffer] = base._replace(address=base.address + self.wrapped(i.offset))

    def buffer(self, name: str) -> Buffer:
        found = self.buffers[name]
        living(found.counted)
        return found

    def call(self, i: Call) -> None:
        words = (ctypes.c_int64 * (len(i.args) + 1))()
        words[0] = ctypes.addressof(self.status)
        for n, arg in enumerate(i.args):
            words[n + 1] = self.buffer(arg).address if isinstance(arg, str) else self.wrapped(arg)
        threads = max(1, min(self.model.threads, self.wrapped(i.work) // abi.GRAIN))
        self.invoke(i, words, threads)
        if i.where:
            self.check_status(i.where)

    def invoke(self, i: Call, words: ctypes.Array[ctypes.c_int64], threads: int) -> None:
        """Run the kernel of a call on its argument words."""
        self.model.runtime.invoke(self.model.kernels[i.kernel], ctypes.addressof(words), threads)

    def branch(self, i: If) -> None:
        self.check_status()
        self.block(i.then if self.exact(i.condition, STATUS_SHAPE) else i.other)

    def loop(self, i: While) -> None:
        self.check_status()
        if self.exact(i.condition, STATUS_SHAPE):
            self.count_round()
            self.blocks[-1][1][0] -= 1  # comes back here
            self.block(i.body)

    def count_round(self) -> None:
        self.rounds += 1
        if self.rounds > MAX_ROUNDS:
            raise status_error(STATUS_ROUNDS)

    def output(self, i: Output) -> None:
        spec = self.program.outputs[i.index]
        assert isinstance(spec, TensorSpec)
        self.results[i.index] = self.array(self.buffer(i.buffer), spec.dtype, tuple(map(self.wrapped, i.shape)))

    # --- values and functions -----------------------------------------------------------------------------------------
    def word(self, x: Operand) -> Word:
        """What an operand is."""
        if isinstance(x, Value):
            return self.values[x.name]
        return self.buffers[x] if isinstance(x, str) else self.exact(x, STATUS_SHAPE)

    def taken(self, operands: Sequence[Operand]) -> tuple[Word, ...]:
        """Operands whose references are taken over."""
        return tuple(handed_over(self.word(x)) for x in operands)

    def assign(self, target: Operand, word: Word) -> None:
        """Raises CompileError where the target is of another kind."""
        if isinstance(target, Value) and isinstance(word, Counted):
            self.values[target.name] = word
        elif isinstance(target, str) and isinstance(word, Buffer):
            self.buffers[target] = word
        elif isinstance(target, Dim) and isinstance(word, int):
            self.integers[as_symbol(target) or ""] = word
        else:
            raise CompileError(f"the program assigns a {type(word).__name__.lower()} to {target}, which is of another kind")

    def assign_all(self, targets: Sequence[Operand], words: Sequence[Word], what: str) -> None:
        if len(targets) != len(words):
            raise CompileError(f"{what}: {len(words)} given, {len(targets)} expected")
        for target, word in zip(targets, words, strict=True):
            self.assign(target, word)

    def retain(self, i: Retain) -> None:
        self.counts.retain(self.word(i.name))

    def release(self, i: Release) -> None:
        self.counts.release(self.values.pop(i.name.name) if isinstance(i.name, Value) else self.buffers.pop(i.name))

    def move(self, i: Move) -> None:
        self.values[i.value] = self.value(i.source)

    def value(self, name: str) -> Counted:
        found = self.values[name]
        living(found)
        return found

    def pack(self, i: Pack) -> None:
        self.values[i.value] = self.counts.new(i.tag, self.taken(i.fields))

    def tag(self, i: Tag) -> None:
        self.integers[i.name] = self.value(i.value).tag

    def get_field(self, i: Field) -> None:
        fields = self.value(i.value).fields
        if i.index >= len(fields):
            raise CompileError(f"the program asks for field {i.index} of a value with {len(fields)} fields")
        self.assign(i.target, fields[i.index])

    def enter(self, i: Invoke) -> None:
        args = self.taken(i.args)
        if isinstance(i.function, Value):
            closure = self.value(i.function.name)
            function, args = self.program.functions[closure.tag], (*args, closure)
        else:
            function = self.model.functions[i.function]
        self.count_round()
        if i.tail and not self.waiting:
            raise CompileError("the main code of a program cannot end with a tail call")
        wanted = self.activation.wanted if i.tail else i.results
        if not i.tail:
            self.waiting.append(self.activation)
        if len(self.waiting) > self.model.max_depth:
            raise depth_error(function.name, self.model.max_depth)
        self.switch(_Activation([(function.instructions, [0])], {}, dict(self.constants), {}, wanted))
        self.assign_all(function.params, args, f"arguments of function {function.name!r}")

    def leave(self, i: Return) -> None:
        results = self.taken(i.results)
        if not self.waiting:
            raise CompileError("the main code of a program returns to nobody")
        wanted = self.activation.wanted
        self.switch(self.waiting.pop())
        self.assign_all(wanted, results, "results of a function")

    # --- host ops -----------------------------------------------------------------------------------------------------
    def array(self, buffer: Buffer, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """The memory of a buffer as an array that keeps it alive."""
        dt = to_numpy(dtype)
        size = max(1, int(np.prod(shape, dtype=np.int64)) * dt.itemsize)
        memory = (ctypes.c_char * size).from_address(buffer.address)
        memory.owner = buffer.owner  # type: ignore[attr-defined]
        return np.ndarray(shape, dt, memory)  # type: ignore[arg-type]

    def host(self, i: Host) -> None:
        self.check_status()
        runner = self.model.hosts[i.site]
        results = self.on_host(i, [self.operand(x) for x in i.inputs])
        for n, (wanted, result) in enumerate(zip(i.outputs, results, strict=False)):
            if isinstance(wanted, HostTensor):
                self.keep(runner, n, wanted, result)
            elif isinstance(wanted, HostObject):
                self.objects[wanted.object] = result

    def on_host(self, i: Host, operands: list[Any]) -> Sequence[Any]:
        """Run a host op."""
        return self.model.hosts[i.site](operands)

    def operand(self, x: HostTensor | HostObject | None) -> Any:
        """What the host op gets: copies of tensors, since results and sequences may hold on to them longer than the
        buffers live."""
        if x is None:
            return None
        if isinstance(x, HostObject):
            return self.objects[x.object]
        shape = tuple(self.integers[d] if isinstance(d, str) else self.wrapped(d) for d in x.shape)
        return self.array(self.buffer(x.buffer), x.dtype, shape).copy()

    def keep(self, runner: HostRunner, number: int, wanted: HostTensor, result: Any) -> None:
        """Check a result against its declaration, assign the sizes it brings, and copy it to a heap buffer."""
        want = to_numpy(wanted.dtype)
        array = np.asarray(result)
        where = f"{runner.where}: result {number}"
        if array.dtype != want:
            if array.dtype.kind != want.kind or want.kind == "O":
                raise ExecutionError(f"{where} is {array.dtype}, the model says {wanted.dtype}")
            array = array.astype(want)
        names = [d if isinstance(d, str) else as_symbol(d) for d in wanted.shape]
        fits = array.ndim == len(names)
        if fits:
            self.integers.update((n, s) for n, s in zip(names, array.shape, strict=True) if n is not None)
            fits = all(
                n is not None or self.wrapped(d) == s for n, d, s in zip(names, wanted.shape, array.shape, strict=True)
            )
        if not fits:
            raise ExecutionError(
                f"{where} has shape {shape_text(array.shape)}, the model says {shape_text(wanted.shape)}"
            )
        buffer = self.fresh(array.nbytes)
        self.array(buffer, wanted.dtype, array.shape)[...] = array
        self.buffers[wanted.buffer] = buffer


_HOLDS: dict[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
}
_HANDLERS: dict[type, Callable[[Run, Any], None]] = {
    Let: Run.let,
    Read: Run.read,
    Check: Run.check,
    Arena: Run.allocate,
    View: Run.view,
    Alloc: Run.allocate,
    Call: Run.call,
    Host: Run.host,
    If: Run.branch,
    While: Run.loop,
    Output: Run.output,
    Retain: Run.retain,
    Release: Run.release,
    Move: Run.move,
    Pack: Run.pack,
    Tag: Run.tag,
    Field: Run.get_field,
    Invoke: Run.enter,
    Return: Run.leave,
}
