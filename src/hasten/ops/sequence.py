"""Sequences and optionals. Where the elements are known while tracing, as they mostly are, a sequence is nothing but a list of lazy tensors,
and these operators leave no code at all. Only a sequence or optional that leaves the model, or that a host op reads, becomes a Python object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.lower.trace import Context, HostCall, Object, Tensor, Value
from hasten.ops.arguments import axis_of, sizes_of
from hasten.ops.movement import window
from hasten.ops.registry import Node, NoNative, operator, tensors
from hasten.ops.shape import drop_axes, insert_axes

PIECES = 1024  # most parts into which SplitToSequence divides a tensor here


class Held(Object):
    """A host value whose content is known while tracing. Its origin, a host call that makes the Python object, is built when something
    asks for it."""

    def __init__(self, kind: str, op: str, operands: Sequence[Value]):
        self._origin: HostCall | None = None
        super().__init__(kind, None)  # type: ignore[arg-type]
        self.op, self.operands = op, list(operands)

    @property  # type: ignore[override]
    def origin(self) -> HostCall:
        if self._origin is None:
            call = HostCall(self.name or self.op, self.op, _payload(self.op, len(self.operands)), list(self.operands))
            call.results = [self]
            self._origin = call
        return self._origin

    @origin.setter  # type: ignore[override]
    def origin(self, value: HostCall | None) -> None:
        self._origin = value


class TracedSequence(Held):
    """A sequence with known elements."""

    def __init__(self, items: Sequence[Value], dtype: str = ""):
        self.items = list(items)
        self.element = dtype or (_element(self.items[0]) if self.items else "float32")
        super().__init__(
            f"sequence({self.element})", "SequenceConstruct" if self.items else "SequenceEmpty", self.items
        )


class TracedOptional(Held):
    """An optional that is known to have an element, or (None) not to have one."""

    def __init__(self, value: Value | None):
        self.value = value
        kind = f"optional({'' if value is None else _element(value)})"
        super().__init__(kind, "Optional" if value is None else "Identity", [] if value is None else [value])


def _element(value: Value) -> str:
    return value.dtype if isinstance(value, Tensor) else value.kind


def _payload(op: str, count: int) -> bytes:
    """A model of the one node that makes a Python object from `count` values."""
    import onnx

    names = [f"x{k}" for k in range(count)]
    node = onnx.helper.make_node(op, names, ["y"])
    graph = onnx.helper.make_graph(
        [node], "host", [onnx.ValueInfoProto(name=n) for n in names], [onnx.ValueInfoProto(name="y")]
    )
    return onnx.helper.make_model(graph).SerializeToString()


def items_of(node: Node, value: Value) -> list[Value]:
    """The elements of a sequence. Raises NoNative where only the run knows them."""
    if isinstance(value, TracedSequence):
        return value.items
    raise NoNative(
        f"{node.op_type} of {value.kind if isinstance(value, Object) else value}, whose elements are known at run time only"
    )


def _position(cx: Context, node: Node, position: Value | None, count: int, default: int) -> int:
    """A position in a sequence, counted from the end where negative."""
    if position is None:
        return default
    tensors(node, position)
    known = cx.ints(position)  # type: ignore[arg-type]
    if known is None or not isinstance(known[0], int):
        raise NoNative("the position is known at run time only")
    if not -count <= known[0] < count:
        raise ModelError(f"{node}: position {known[0]} is out of range for {count} places")
    return known[0] % count


# --- sequences ----------------------------------------------------------------------------------------------------------
@operator("SequenceConstruct")
def sequence_construct(cx: Context, node: Node, *values: Value) -> TracedSequence:
    return TracedSequence(values)


@operator("SequenceEmpty")
def sequence_empty(cx: Context, node: Node) -> TracedSequence:
    from hasten.base.dtypes import BY_ONNX

    return TracedSequence([], BY_ONNX[int(node.attr("dtype", 1))].name)


@operator("SequenceLength")
def sequence_length(cx: Context, node: Node, sequence: Value) -> Tensor:
    return cx.const(np.array(len(items_of(node, sequence)), np.int64))


@operator("SequenceAt")
def sequence_at(cx: Context, node: Node, sequence: Value, position: Tensor) -> Value:
    items = items_of(node, sequence)
    tensors(node, position)
    known = cx.ints(position)
    if known is not None and isinstance(known[0], int):
        return items[_position(cx, node, position, len(items), 0)]
    return _chosen(cx, items, position)


def _chosen(cx: Context, items: list[Value], position: Tensor) -> Tensor:
    """The element at a position that the run knows, of elements of one shape."""
    first = items[0] if items else None
    if not isinstance(first, Tensor) or any(not isinstance(t, Tensor) or t.shape != first.shape for t in items):
        raise NoNative("the position is known at run time only, and the elements differ in shape")
    stacked = cx.concat([insert_axes(cx, t, [0]) for t in items], 0)  # type: ignore[arg-type]

    def element(i: tuple[DimLike, ...]) -> E.Expr:
        at = cx.index(E.cast(position.at((0,) * position.rank), "int64"), len(items), negative=True)
        return stacked.at((at, *i))

    return cx.map(first.shape, first.dtype, element)


@operator("SequenceInsert")
def sequence_insert(
    cx: Context, node: Node, sequence: Value, value: Value, position: Value | None = None
) -> TracedSequence:
    items = list(items_of(node, sequence))
    if items and _element(items[0]) != _element(value):
        raise ModelError(f"{node}: {value} does not fit into a {sequence}")
    at = len(items)
    if position is not None:
        at = (
            _position(cx, node, position, len(items) + 1, at)
            if not _negative(cx, position)
            else _position(cx, node, position, len(items), at)
        )
    items.insert(at, value)
    return TracedSequence(items)


def _negative(cx: Context, position: Value) -> bool:
    known = cx.ints(position) if isinstance(position, Tensor) else None
    return known is not None and isinstance(known[0], int) and known[0] < 0


@operator("SequenceErase")
def sequence_erase(cx: Context, node: Node, sequence: Value, position: Value | None = None) -> TracedSequence:
    items = list(items_of(node, sequence))
    if not items:
        raise ModelError(f"{node}: the sequence is empty")
    del items[_position(cx, node, position, len(items), len(items) - 1)]
    return TracedSequence(items, sequence.element)  # type: ignore[union-attr]


@operator("ConcatFromSequence")
def concat_from_sequence(cx: Context, node: Node, sequence: Value) -> Tensor:
    items = items_of(node, sequence)
    if not items:
        raise ModelError(f"{node}: the sequence is empty")
    tensors(node, *items)
    rank = items[0].rank  # type: ignore[union-attr]
    if node.attr("new_axis", 0):
        axis = axis_of(cx, node.attr("axis"), rank + 1)
        return cx.concat([insert_axes(cx, t, [axis]) for t in items], axis)  # type: ignore[arg-type]
    return cx.concat(items, axis_of(cx, node.attr("axis"), rank))  # type: ignore[arg-type]


@operator("SplitToSequence")
def split_to_sequence(cx: Context, node: Node, x: Tensor, split: Tensor | None = None) -> TracedSequence:
    tensors(node, x, split)
    axis = axis_of(cx, node.attr("axis", 0), x.rank)
    if split is not None and split.rank == 1:
        sizes = list(sizes_of(cx, split))
        for d in sizes:
            cx.require(0, "<=", d, "sizes of parts must not be negative")
        total: DimLike = 0
        for d in sizes:
            total = total + d
        cx.require(total, "==", x.shape[axis], "the sizes of the parts add up to that of the axis")
    else:
        sizes = list(_equal_parts(cx, node, x.shape[axis], split))
    items: list[Value] = []
    start: DimLike = 0
    for d in sizes:
        part = window(cx, x, axis, start, d)
        items.append(part if split is not None or node.attr("keepdims", 1) else drop_axes(cx, part, [axis]))
        start = start + d
    return TracedSequence(items, x.dtype)


def _equal_parts(cx: Context, node: Node, size: DimLike, split: Tensor | None) -> list[int]:
    """Sizes of parts of one size, of which the last may be smaller."""
    known = (1,) if split is None else cx.ints(split)
    if known is None or not isinstance(known[0], int) or not isinstance(size, int):
        raise NoNative("the number of parts is known at run time only")
    if known[0] < 1:
        raise ModelError(f"{node}: parts of size {known[0]}")
    if size > PIECES * known[0]:
        raise NoNative(f"more than {PIECES} parts")
    return [min(known[0], size - start) for start in range(0, size, known[0])]


@operator("SequenceMap")
def sequence_map(cx: Context, node: Node, sequence: Value, *others: Value) -> list[TracedSequence]:
    """The body for every element (and for the elements at the same position of further sequences)."""
    assert node.trace_subgraph is not None
    count = len(items_of(node, sequence))
    columns = [items_of(node, v) if not isinstance(v, Tensor) else [v] * count for v in (sequence, *others)]
    if any(len(c) < count for c in columns):
        raise ModelError(f"{node}: sequences of different lengths: {', '.join(str(len(c)) for c in columns)}")
    rows = []
    for k in range(count):
        block = node.trace_subgraph(node.attr("body"), [c[k] for c in columns])
        cx.checks.extend(c for c in block.checks if c not in cx.checks)
        rows.append(list(block.values))
    return [TracedSequence([row[k] for row in rows]) for k in range(node.n_outputs)]


# --- optionals ----------------------------------------------------------------------------------------------------------
@operator("Optional")
def optional(cx: Context, node: Node, value: Value | None = None) -> TracedOptional:
    return TracedOptional(value)


@operator("OptionalHasElement")
def optional_has_element(cx: Context, node: Node, value: Value | None = None) -> Tensor:
    if isinstance(value, TracedOptional):
        value = value.value
    elif (
        isinstance(value, Object)
        and not isinstance(value, TracedSequence)
        and not value.kind.startswith(("tensor", "sequence"))
    ):
        raise NoNative("whether there is an element is known at run time only")
    return cx.const(np.array(value is not None))


@operator("OptionalGetElement")
def optional_get_element(cx: Context, node: Node, value: Value) -> Value:
    if isinstance(value, TracedOptional):
        if value.value is None:
            raise ModelError(f"{node}: the optional has no element")
        return value.value
    if isinstance(value, (Tensor, TracedSequence)) or value.kind.startswith(("tensor", "sequence")):
        return value
    raise NoNative("whether there is an element is known at run time only")
