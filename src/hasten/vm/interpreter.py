"""The interpreter: runs a Program instruction by instruction in Python. It defines what Programs mean, and is the only
driver for Programs with host ops or Python objects.

Integers that do not fit into 64 bits fail the run where they are assigned, compared or allocate memory, and wrap around
elsewhere (offsets and kernel arguments), as in the native driver. Kernels run in the same pool of threads.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hasten.base.dims import Dim, DimLike, as_symbol, evaluate
from hasten.base.dtypes import to_numpy
from hasten.base.errors import CompileError, ExecutionError
from hasten.vm import abi
from hasten.vm.callpath import Constants, Model, check_error, status_error
from hasten.vm.elements import read_element
from hasten.vm.host import HostRunner
from hasten.vm.image import LoadedImage
from hasten.vm.inputs import shape_text
from hasten.vm.program import (
    MAX_ROUNDS,
    STATUS_MEMORY,
    STATUS_ROUNDS,
    STATUS_SHAPE,
    Alloc,
    Arena,
    Call,
    Check,
    Free,
    Host,
    HostObject,
    HostTensor,
    If,
    Instruction,
    Let,
    Output,
    Program,
    Read,
    TensorSpec,
    View,
    While,
)
from hasten.vm.runtime import Runtime, default_memory_limit

Profile = Callable[[Instruction, float], None]
"""Called after each instruction (If and While count as what they hold) with the seconds it took."""


class InterpretedModel(Model):
    """A model run by the interpreter; see `hasten.vm.callpath.make_model`."""

    kind = "interpreted"

    def __init__(
        self, program: Program, image: LoadedImage, constants: Constants, runtime: Runtime,
        threads: int | None = None, memory_limit: int | None = None, profile: Profile | None = None,
    ):  # fmt: skip
        super().__init__(program, threads)
        self.constants, self.runtime, self.profile = constants, runtime, profile
        self.memory_limit = default_memory_limit() if memory_limit is None else memory_limit
        self.image = image  # kept mapped
        self.kernels = {name: image.address(name) for name in abi.kernel_names(program)}
        self.hosts = [HostRunner(site) for site in program.host_ops]
        self.call = self._run
        self.run_type: type[Run] = Run
        self._make_run()

    def _run(self, *values: Any) -> Any:
        arrays = self.signature.convert(values)
        outputs = self.run_type(self, arrays).outputs()
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


class Buffer(NamedTuple):
    """Memory of a run."""

    address: int
    owner: object  # keeps the memory alive


class Run:
    """The state of one run."""

    def __init__(self, model: InterpretedModel, inputs: Sequence[Any]):
        self.model, self.program = model, model.program
        self.integers: dict[str, int] = dict(model.signature.sizes(inputs))
        self.buffers: dict[str, Buffer] = {}
        self.objects: dict[str, Any] = {}
        self.results: dict[int, Any] = {}
        self.rounds = 0
        self.status = ctypes.c_int64(0)
        for spec, value in zip(self.program.inputs, inputs, strict=True):
            if isinstance(spec, TensorSpec):
                self.buffers[spec.buffer] = Buffer(value.ctypes.data, value)
            else:
                self.objects[spec.object] = value
        for c in self.program.constants:
            self.buffers[c.buffer] = Buffer(model.constants.address + c.offset, model.constants)

    def outputs(self) -> list[Any]:
        try:
            self.block(self.program.instructions)
        except KeyError as error:
            raise CompileError(f"the program uses {error.args[0]!r} before anything assigns it") from None
        self.check_status()
        return [
            self.results[n] if isinstance(spec, TensorSpec) else self.objects[spec.object]
            for n, spec in enumerate(self.program.outputs)
        ]

    def block(self, instructions: Sequence[Instruction]) -> None:
        profile = self.model.profile
        for instruction in instructions:
            handler = _HANDLERS[type(instruction)]
            if profile is None or isinstance(instruction, (If, While)):
                handler(self, instruction)
            else:
                start = time.perf_counter()
                handler(self, instruction)
                profile(instruction, time.perf_counter() - start)

    def fresh(self, size: int) -> Buffer:
        """New memory. Raises MemoryError or ValueError where there is none."""
        room = np.empty(max(1, size) + 64, np.uint8)
        return Buffer(room.ctypes.data + -room.ctypes.data % 64, room)

    # --- integers -----------------------------------------------------------------------------------------------------
    def exact(self, x: DimLike, code: int) -> int:
        """The value of x; the run fails with `code` where it does not fit into 64 bits."""
        value = self._evaluate(x)
        if value is None or not -(1 << 63) <= value < 1 << 63:
            raise status_error(code)
        return value

    def wrapped(self, x: DimLike) -> int:
        return ((self._evaluate(x) or 0) + (1 << 63)) % (1 << 64) - (1 << 63)

    def _evaluate(self, x: DimLike) -> int | None:
        if not isinstance(x, Dim):
            return x
        try:
            return evaluate(x, self.integers)
        except OverflowError:  # a float that is infinite
            return None

    def check_status(self, where: str = "") -> None:
        if self.status.value:
            raise status_error(self.status.value, where)

    # --- instructions -------------------------------------------------------------------------------------------------
    def let(self, i: Let) -> None:
        self.integers[i.name] = self.exact(i.value, STATUS_SHAPE)

    def read(self, i: Read) -> None:
        self.check_status()
        element = read_element(self.buffers[i.buffer].address, self.wrapped(i.index), i.dtype)
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
            self.buffers[i.buffer] = self.fresh(size)
        except (MemoryError, ValueError):
            raise status_error(STATUS_MEMORY) from None

    def view(self, i: View) -> None:
        base = self.buffers[i.base]
        self.buffers[i.buffer] = Buffer(base.address + self.wrapped(i.offset), base.owner)

    def free(self, i: Free) -> None:
        del self.buffers[i.buffer]

    def call(self, i: Call) -> None:
        words = (ctypes.c_int64 * (len(i.args) + 1))()
        words[0] = ctypes.addressof(self.status)
        for n, arg in enumerate(i.args):
            words[n + 1] = self.buffers[arg].address if isinstance(arg, str) else self.wrapped(arg)
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
        while True:
            self.check_status()
            if not self.exact(i.condition, STATUS_SHAPE):
                return
            self.rounds += 1
            if self.rounds > MAX_ROUNDS:
                raise status_error(STATUS_ROUNDS)
            self.block(i.body)

    def output(self, i: Output) -> None:
        spec = self.program.outputs[i.index]
        assert isinstance(spec, TensorSpec)
        self.results[i.index] = self.array(self.buffers[i.buffer], spec.dtype, tuple(map(self.wrapped, i.shape)))

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
        return self.array(self.buffers[x.buffer], x.dtype, shape).copy()

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
    Free: Run.free,
    Call: Run.call,
    Host: Run.host,
    If: Run.branch,
    While: Run.loop,
    Output: Run.output,
}
