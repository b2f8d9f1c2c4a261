"""Windows that slide over spatial axes: the geometry that convolutions and pooling share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.registry import Node, NoNative


@dataclass(frozen=True)
class Axis:
    """One spatial axis. Output o and tap t of the window meet at input position o * stride + t * dilation - begin.

    begin, end: padding; `starts_inside` / `ends_inside`: no position is below 0 / beyond the last one.
    """

    size: DimLike
    kernel: DimLike
    stride: int
    dilation: int
    begin: DimLike
    end: DimLike
    out: DimLike
    starts_inside: bool
    ends_inside: bool

    @property
    def reach(self) -> DimLike:
        """Input positions from the first tap to the last."""
        return (self.kernel - 1) * self.dilation

    def position(self, o: DimLike, t: DimLike) -> DimLike:
        return o * self.stride + t * self.dilation - self.begin

    def guard(self, o: DimLike, t: DimLike) -> Expr | None:
        """Where position(o, t) is inside of the input; None: everywhere."""
        return inside(self.position(o, t), self.size, not self.starts_inside, not self.ends_inside)


Axes = tuple[Axis, ...]


def inside(position: DimLike, size: DimLike, low: bool = True, high: bool = True) -> Expr | None:
    """0 <= position < size, leaving out the halves that are known."""
    p = E.index(position)
    guard: Expr | None = None
    if low:
        guard = ~(p < 0)
    if high:
        below = p < E.index(size)
        guard = below if guard is None else guard & below
    return guard


def both(a: Expr | None, b: Expr | None) -> Expr | None:
    """a and b, None meaning always."""
    return b if a is None else a if b is None else a & b


def positions(axes: Axes, o: Sequence[DimLike], t: Sequence[DimLike]) -> Index:
    return tuple(a.position(i, k) for a, i, k in zip(axes, o, t, strict=True))


def guards(axes: Axes, o: Sequence[DimLike], t: Sequence[DimLike]) -> Expr | None:
    """Where the tap t of window o lies inside of the input."""
    guard: Expr | None = None
    for a, i, k in zip(axes, o, t, strict=True):
        guard = both(guard, a.guard(i, k))
    return guard


def read_sizes(cx: Context, t: Tensor) -> tuple[DimLike, ...]:
    """The contents of a small tensor of sizes, which aren't negative (unlike `cx.read_ints`, for which they may be):
    the run fails where they are."""
    known = cx.ints(t)
    if known is not None:
        return known
    count = D.product(t.shape)
    if not isinstance(count, int):
        raise NoNative(f"{cx.where()}: a number of sizes that only the run knows")
    return tuple(cx.read_size(t, k) for k in range(count))


def spatial(node: Node, name: str, rank: int, default: int = 1) -> list[int]:
    """An attribute with one integer per spatial axis."""
    return [int(v) for v in node.attr(name, None) or [default] * rank]


def sliding_axes(
    cx: Context, node: Node, sizes: Sequence[DimLike], kernel: Sequence[DimLike], ceil_mode: bool = False
) -> Axes:
    """The axes of a convolution or pooling node from its attributes strides, dilations, pads and auto_pad."""
    rank = len(sizes)
    strides, dilations = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    pads = spatial(node, "pads", 2 * rank, 0)
    if min([1, *strides, *dilations]) < 1:
        raise ModelError(f"{cx.where()}: strides {strides} and dilations {dilations} must be at least 1")
    auto: Any = node.attr("auto_pad", "NOTSET")
    axes = []
    for k in range(rank):
        span = (kernel[k] - 1) * dilations[k] + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            axes.append(_same_axis(sizes[k], kernel[k], strides[k], dilations[k], span, auto == "SAME_UPPER"))
        else:
            begin, end = (0, 0) if auto == "VALID" else (pads[k], pads[rank + k])
            axes.append(_padded_axis(cx, sizes[k], kernel[k], strides[k], dilations[k], span, begin, end, ceil_mode))
    return tuple(axes)


def _same_axis(size: DimLike, kernel: DimLike, stride: int, dilation: int, span: DimLike, upper: bool) -> Axis:
    out = D.ceildiv(size, stride)
    total = D.maximum((out - 1) * stride + span - size, 0)
    small = D.floordiv(total, 2)
    begin, end = (small, total - small) if upper else (total - small, small)
    return _axis(size, kernel, stride, dilation, begin, end, out, False)


def _padded_axis(
    cx: Context,
    size: DimLike,
    kernel: DimLike,
    stride: int,
    dilation: int,
    span: DimLike,
    begin: int,
    end: int,
    ceil_mode: bool,
) -> Axis:
    room = size + begin + end - span
    cx.require(0, "<=", room, "the window is larger than the padded input")
    if not ceil_mode:
        return _axis(size, kernel, stride, dilation, begin, end, D.floordiv(room, stride) + 1, False)
    out = D.ceildiv(room, stride) + 1
    # A window that would begin in the padding at the end is left out.
    out = D.if_less((out - 1) * stride, size + begin, out, out - 1)
    return _axis(size, kernel, stride, dilation, begin, end, out, True)


def _axis(
    size: DimLike,
    kernel: DimLike,
    stride: int,
    dilation: int,
    begin: DimLike,
    end: DimLike,
    out: DimLike,
    rounded_up: bool,
) -> Axis:
    last = (out - 1) * stride + (kernel - 1) * dilation - begin
    ends = (not rounded_up and D.nonnegative(end * -1)) or D.nonnegative(size - 1 - last)
    return Axis(size, kernel, stride, dilation, begin, end, out, D.nonnegative(begin * -1), ends)
