"""Where lazy tensors come from: the kinds of origins of a trace. `lower.trace` makes them, `lower.schedule` and `lower.emit` read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hasten.base.dims import DimLike
from hasten.kernels.expr import Expr
from hasten.kernels.spec import KernelSpec

if TYPE_CHECKING:
    from hasten.lower.trace import Datum, Tensor, Value

Index = tuple[DimLike, ...]
Shape = tuple[DimLike, ...]


@dataclass(eq=False)
class Source:
    """Memory that exists before: an input of the program, or a value of an enclosing block."""

    name: str


@dataclass(eq=False)
class Const:
    """A constant array (row-major, in the dtype's storage form)."""

    array: np.ndarray


@dataclass(eq=False)
class Map:
    """One element as an Expr of its index."""

    fn: Callable[[Index], Expr]


@dataclass(eq=False)
class Through(Map):
    """An element read through MAX_HOPS views of views."""


@dataclass(eq=False)
class View:
    """Element i is element `index(i)` of base: transposes, slices, broadcasts, reshapes."""

    base: Tensor
    index: Callable[[Index], Index]
    flat: bool = False  # a reshape: same elements in the same row-major order


@dataclass(eq=False)
class Concat:
    """Parts laid side by side along an axis."""

    parts: list[Tensor]
    axis: int
    starts: list[DimLike]

    def place(self, part: int) -> list[tuple[DimLike, int]]:
        """Start and step of a part's elements on every axis."""
        return [(self.starts[part] if k == self.axis else 0, 1) for k in range(self.parts[part].rank)]


@dataclass(eq=False)
class Woven:
    """Parts that lie between one another: element i of a part is element start + i * step of the whole, on every axis; together they
    cover it exactly once."""

    parts: list[Tensor]
    places: list[list[tuple[DimLike, int]]]

    def place(self, part: int) -> list[tuple[DimLike, int]]:
        """Start and step of a part's elements on every axis."""
        return self.places[part]


@dataclass(frozen=True, eq=False)
class Stage:
    """One reduction over the inner dims: kind "sum", "prod", "max", "min", "argmax", "argmin" (first occurrence), "argmax_last",
    "argmin_last"; fn(outer index, inner index, values of earlier stages) -> Expr. Its value is later known as params[name]; of the arg kinds
    the value is the flat inner index as int64."""

    name: str
    kind: str
    fn: Callable[[Index, Index, dict[str, Expr]], Expr]


@dataclass(eq=False)
class Nest:
    """For every outer index: the stages over the inner dims in turn, then the result.

    final(outer, params) -> Expr: one element per outer index; result shape == outer.
    or final(outer, inner, params) with `place(outer, inner) -> index into the result`: one element per pair (softmax, normalisations).
    """

    outer: Shape
    inner: Shape
    stages: list[Stage]
    final: Callable[..., Expr]
    place: Callable[[Index, Index], Index] | None = None


@dataclass(eq=False)
class Kernel:
    """Made by a hand-written kernel (conv, gemm, sort, ...): `results` tensors at once, from `operands` in memory (see kernels.spec)."""

    spec: KernelSpec
    operands: list[Tensor]
    results: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class HostCall:
    """A host op: runs outside of native code. Operands and results may be Objects."""

    name: str
    op: str
    payload: bytes
    operands: list[Value | None]
    results: list[Value | None] = field(default_factory=list)


Check = tuple[DimLike, str, DimLike, str, str]  # left, op, right, message, kind


@dataclass(eq=False)
class Block:
    """A traced subgraph: `values` are its results. Tensors made before `first` or after `last` belong to enclosing blocks, which it may use
    freely; `checks` are run only when the block is."""

    values: list[Value]
    first: int
    last: int
    checks: list[Check]

    def holds(self, t: Value) -> bool:
        """Whether t was made inside."""
        return self.first < t.order < self.last


@dataclass(frozen=True, eq=False)
class Tagged:
    """A condition: whether `value` is of the variant with this tag."""

    value: Datum
    tag: int


@dataclass(eq=False)
class Step:
    """One instruction over tensors in memory and values of data types. It takes `operands`, and after them the integers `sizes`; it gives
    `results`, and after them the integers `defines` (names of symbols)."""

    operands: list[Value]
    sizes: list[DimLike] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)
    defines: list[str] = field(default_factory=list)

    def inputs(self) -> list[Value]:
        """All that must be there before."""
        return self.operands


@dataclass(eq=False)
class Pack(Step):
    """A new value of the variant `tag`, or a closure of the function with this name; the operands are its fields."""

    tag: int | str = 0


@dataclass(eq=False)
class Unpack(Step):
    """The fields of a value, the only operand."""


@dataclass(eq=False)
class TagOf(Step):
    """The tag of a value, the only operand."""


@dataclass(eq=False)
class Invoke(Step):
    """A call of a function of the Program, or of a closure. `tail`: the last thing that the caller does; it gives nothing then."""

    function: str | Datum = ""
    tail: bool = False

    def inputs(self) -> list[Value]:
        return [*self.operands, *([] if isinstance(self.function, str) else [self.function])]


@dataclass(eq=False)
class Return(Step):
    """The end of a function, which gives the operands."""


@dataclass(eq=False)
class Branch:
    """If: `condition` (a tensor of one element, or a question for a variant); one block per side gives the results. Sizes of results that
    differ between the sides are the symbols in `sizes`: for each result, {axis: symbol}."""

    condition: Tensor | Tagged
    then: Block
    other: Block
    results: list[Value] = field(default_factory=list)
    sizes: list[dict[int, str]] = field(default_factory=list)


@dataclass(eq=False)
class Carried:
    """A value that goes from round to round: its first value, how the body sees it, what the body makes of it; `sizes`: {axis: symbol} of
    sizes that may change from round to round."""

    first: Value
    seen: Value
    next: Value
    sizes: dict[int, str]


@dataclass(eq=False)
class Loop:
    """Loop and Scan: at most `trips` rounds (None: no limit), as long as `go_on` holds. `round` is the symbol of the round's number in the body.
    `stacked`: for each scan output the body's tensor, whose elements of all rounds are laid one after another; `count`: the symbol of the number
    of rounds done, unless that is `trips`. Results: the carried values, then the scan outputs in the order of rounds."""

    trips: DimLike | None
    start: Tensor | None
    go_on: Tensor | None
    round: str
    body: Block
    carried: list[Carried]
    stacked: list[Tensor]
    count: str | None
    results: list[Value] = field(default_factory=list)


Origin = Source | Const | Map | View | Concat | Woven | Nest | Kernel | HostCall | Branch | Loop | Step
