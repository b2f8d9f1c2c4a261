"""What an operator says when it wants a hand-written kernel: a `KernelSpec`.

A spec is a frozen description of one call: it knows the integers the kernel needs at run time (`dims`), what it asks of its operands' memory
(`wants`), its scratch memory and cost, and how to emit its loop nest into a function whose arguments are already loaded:

    @dataclass(frozen=True)
    class CumSumSpec(KernelSpec):
        dtype: str
        def emit(self, k: Emission) -> None:
            with k.f.loop(0, k.arg["rows"]) as r: ...

`k.arg` has pointers "in0", "in1", ... "out0", ... (None operands are left out), the integers of `dims` by name, for every operand wanted as
"strided" or "lanes:AXIS" the element strides "in0_s0", "in0_s1", ..., and "scratch" (this thread's own). Same spec fields, same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hasten.base.dims import DimLike
from hasten.codegen.builder import Function, V

if TYPE_CHECKING:
    from hasten.codegen.isa import Isa

Sink = Callable[[Function, V, dict[str, V], int, "V | None"], None]
Middle = Callable[[Function, V, dict[str, V], int, "V | None"], V]


@dataclass
class Emission:
    """Everything `KernelSpec.emit` works with. `sink(f, value, where, lanes, mask)`: see `KernelSpec.accumulates`. `middles`: of a kernel that
    does the work of several, what is done elementwise between them: they take what a sink takes and give the values that the next part reads."""

    f: Function
    isa: Isa
    arg: Mapping[str, V]
    thread: V
    threads: V
    sink: Sink | None = None
    call: Any = None  # what `dims` gets: .operands, .results, .strides
    middles: Sequence[Middle] = ()

    def fail(self, status: int) -> None:
        """Report a status (vm.program.STATUS_*); the kernel goes on and must stay within its memory."""
        self.f.store(self.f.const("i64", status), self.arg["status"])

    def split(self, total: V) -> tuple[V, V]:
        """This thread's part [begin, end) of `total` units."""
        begin = (total * self.thread).udiv(self.threads)
        return begin, (total * (self.thread + 1)).udiv(self.threads)


@dataclass(frozen=True)
class KernelSpec:
    """Base of all specs. Subclasses add fields that change the code; sizes go through `dims` so that one kernel serves all shapes."""

    @property
    def name(self) -> str:
        """Readable prefix of the kernel's name."""
        return type(self).__name__.removesuffix("Spec").lower()

    def dims(self, call: Any) -> dict[str, DimLike]:
        """Run-time integers by name; `call` has .operands and .results (tensors with shape and dtype) and .strides (of each operand's memory, in
        elements)."""
        return {}

    def wants(self, operand: int) -> str:
        """How operand number `operand` must lie in memory:
        "plain": row-major, contiguous;  "strided": any strides, given as words;  "lanes:AXIS": any strides, but 1 along AXIS."""
        return "plain"

    def scratch(self, call: Any) -> DimLike:
        """Bytes of scratch memory per thread."""
        return 0

    def work(self, call: Any) -> DimLike:
        """Estimated nanoseconds on one core; 0: too small to share."""
        return 0

    def operations(self, call: Any) -> DimLike:
        """Arithmetic operations of the plain method, a multiply-add counting two (a faster algorithm counts no less), for reports and profiles."""
        return 0

    @property
    def accumulates(self) -> bool:
        """True: the kernel never stores its (single) result: it hands each finished vector, once, to `sink(f, value, where, lanes, mask)`, where
        `where` maps the names in `axes` to the i64 index of lane 0 and lanes run along the last-named axis; elementwise work that follows
        is then fused into the kernel."""
        return False

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the result's axes, in the order of its shape, as used in `where`. The axis along which lanes run is `lane_axis`."""
        return ()

    @property
    def lane_axis(self) -> str:
        return ""

    def describe(self) -> dict[str, str]:
        """For reports: algorithm, format, precision."""
        return {}

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        """The meaning in NumPy, slow and obvious: arrays for the results given as (dtype, shape)."""
        raise AssertionError(f"{type(self).__name__} has no reference")

    def emit(self, k: Emission) -> None:
        """Emit the loop nest; the caller adds `ret`."""
        raise AssertionError(f"{type(self).__name__} has no emit")
