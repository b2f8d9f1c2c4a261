"""Transposed convolution and Col2Im: what a convolution spreads over its windows, gathered for every output position.

With q = o + begin, output o gets input a through tap t where a * stride + t * dilation == q. Without dilation the
taps that can meet o are
t = q mod stride + j * stride, with a = q // stride - j: no divisibility test is left, and the inner loop is `stride`
times shorter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.lower.trace import Context, Index, Stage, Tensor
from hasten.ops.dense import constant, fast_conv, isa_of
from hasten.ops.elementwise import refuse_complex
from hasten.ops.geometry import Axis, both, inside, read_sizes, spatial
from hasten.ops.registry import Node, operator, tensors


@dataclass(frozen=True)
class Spread:
    """One axis of a transposed convolution: input `size` -> output `out`; `begin` output positions are cropped in
    front."""

    size: DimLike
    kernel: DimLike
    stride: int
    dilation: int
    begin: DimLike
    out: DimLike

    @property
    def phased(self) -> bool:
        """Taps are counted within a phase (see the module's text)."""
        return self.dilation == 1

    @property
    def taps(self) -> DimLike:
        return D.ceildiv(self.kernel, self.stride) if self.phased else self.kernel

    def meet(self, o: DimLike, j: DimLike) -> tuple[DimLike, DimLike, Expr | None]:
        """For output o and the inner index j: the input position, the tap, and where both exist."""
        q = o + self.begin
        if self.phased:
            phase, a = D.mod(q, self.stride), D.floordiv(q, self.stride) - j
            tap = phase + j * self.stride
            whole = self.stride == 1 or (isinstance(self.kernel, int) and self.kernel % self.stride == 0)
            return a, tap, both(inside(a, self.size), None if whole else inside(tap, self.kernel, low=False))
        rest = q - j * self.dilation
        a = D.floordiv(rest, self.stride)
        fits = None if self.stride == 1 else E.index(D.mod(rest, self.stride)).eq(0)
        return a, j, both(inside(a, self.size), fits)


def meetings(axes: Sequence[Spread], o: Sequence[DimLike], r: Sequence[DimLike]) -> tuple[Index, Index, Expr | None]:
    """Input positions, taps and the guard of all axes."""
    guard: Expr | None = None
    at: list[DimLike] = []
    taps: list[DimLike] = []
    for axis, i, j in zip(axes, o, r, strict=True):
        a, t, g = axis.meet(i, j)
        at.append(a)
        taps.append(t)
        guard = both(guard, g)
    return tuple(at), tuple(taps), guard


def conv_transpose(
    cx: Context, x: Tensor, w: Tensor, b: Tensor | None, axes: Sequence[Spread], group: int = 1
) -> Tensor:
    """Transposed convolution of x [N, C, spatial...] with w [C, M / group, taps...], plus b [M]; result [N, M,
    axis.out...]."""
    refuse_complex(cx, x, w)
    cx.require(x.shape[1], "==", w.shape[0], f"{cx.where()}: channels of the input against those of the filter")
    fast = by_phases(cx, x, w, b, axes, group)
    if fast is not None:
        return fast
    per_group = w.shape[1]
    channels = D.floordiv(x.shape[1], group)

    def product(o: Index, r: Index, _: dict[str, Expr]) -> Expr:
        at, taps, guard = meetings(axes, o[2:], r[1:])
        c, m = (r[0], o[1]) if group == 1 else (D.floordiv(o[1], per_group) * channels + r[0], D.mod(o[1], per_group))
        return cx.load(x, (o[0], c, *at), guard) * cx.load(w, (c, m, *taps), guard)

    def final(o: Index, p: dict[str, Expr]) -> Expr:
        return p["sum"] if b is None else p["sum"] + b.at((o[1],))

    outer = (x.shape[0], per_group * group, *(a.out for a in axes))
    return cx.nest(x.dtype, outer, (channels, *(a.taps for a in axes)), [Stage("sum", "sum", product)], final)


def by_phases(cx: Context, x: Tensor, w: Tensor, b: Tensor | None, axes: Sequence[Spread], group: int) -> Tensor | None:
    """The transposed convolution as one ordinary convolution for each residue of the output position by the stride: each takes only the taps
    that meet it, and writes its outputs between those of the others. None where the kernels of ops.dense don't serve."""
    weights = constant(w)
    fixed = all(a.dilation == 1 and isinstance(a.begin, int) and isinstance(a.kernel, int) for a in axes)
    if weights is None or not fixed or isa_of(cx) is None or x.dtype != "float32" or not 1 <= len(axes) <= 2 or not isinstance(x.shape[1], int):
        return None
    grouped = weights.reshape(group, -1, *weights.shape[1:]).swapaxes(1, 2).reshape(-1, weights.shape[0] // group, *weights.shape[2:])
    parts, places = [], []
    for phase in np.ndindex(*(a.stride for a in axes)):
        plans = [_phase(a, p) for a, p in zip(axes, phase, strict=True)]
        if any(p is None for p in plans):
            return None
        taps = tuple(p.taps for p in plans if p is not None)
        part = grouped[(slice(None), slice(None), *taps)]
        sizes = [p.axis for p in plans if p is not None]
        y = fast_conv(cx, x, cx.const(np.ascontiguousarray(part)), b, tuple(sizes), group, x.dtype)
        if y is None:
            return None
        parts.append(y)
        places.append([(0, 1), (0, 1), *((p, a.stride) for p, a in zip(phase, axes, strict=True))])
    if len(parts) == 1:
        return parts[0]
    return cx.weave((x.shape[0], weights.shape[1] * group, *(a.out for a in axes)), parts, places)


@dataclass(frozen=True)
class _Phase:
    axis: Axis
    taps: slice


def _phase(a: Spread, phase: int) -> _Phase | None:
    """Outputs phase, phase + stride, ... of one axis as an ordinary convolution: with the taps first, first + stride, ... in reverse order, output t
    begins at input t + meet - (taps - 1)."""
    assert isinstance(a.begin, int) and isinstance(a.kernel, int)
    first = (phase + a.begin) % a.stride
    count = len(range(first, a.kernel, a.stride))
    if count == 0:
        return None
    meet = (phase + a.begin - first) // a.stride
    last = first + (count - 1) * a.stride
    taps = slice(last, first - a.stride if first >= a.stride else None, -a.stride)
    out = D.ceildiv(a.out - phase, a.stride)
    return _Phase(Axis(a.size, count, 1, 1, count - 1 - meet, 0, out, False, False), taps)


def spread_axes(node: Node, sizes: Sequence[DimLike], kernel: Sequence[DimLike]) -> list[Spread]:
    """The axes of a ConvTranspose node from its attributes."""
    rank = len(sizes)
    strides, dilations = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    pads, extra = spatial(node, "pads", 2 * rank, 0), spatial(node, "output_padding", rank, 0)
    auto, wanted = node.attr("auto_pad", "NOTSET"), node.attr("output_shape", None)
    axes = []
    for k in range(rank):
        full = strides[k] * (sizes[k] - 1) + extra[k] + (kernel[k] - 1) * dilations[k] + 1
        begin: DimLike = pads[k]
        out: DimLike = full - pads[k] - pads[rank + k]
        if wanted:
            out = int(wanted[len(wanted) - rank + k])
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            out = sizes[k] * strides[k]
        elif auto == "VALID":
            begin, out = 0, full
        if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
            total = D.maximum(full - out, 0)
            begin = D.floordiv(total, 2) if auto == "SAME_UPPER" else total - D.floordiv(total, 2)
        axes.append(Spread(sizes[k], kernel[k], strides[k], dilations[k], begin, out))
    return axes


@operator("ConvTranspose")
def conv_transpose_node(cx: Context, node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    tensors(node, x, w, b)
    return conv_transpose(cx, x, w, b, spread_axes(node, x.shape[2:], w.shape[2:]), int(node.attr("group", 1)))


@operator("Col2Im")
def col2im(cx: Context, node: Node, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    """Sums columns [N, C * taps, blocks] back into an image [N, C, spatial...]."""
    tensors(node, x, image, block)
    refuse_complex(cx, x)
    sizes, kernel = read_sizes(cx, image), read_sizes(cx, block)
    rank = len(sizes)
    strides, dilations, pads = (
        spatial(node, "strides", rank),
        spatial(node, "dilations", rank),
        spatial(node, "pads", 2 * rank, 0),
    )
    axes = []
    for k in range(rank):
        blocks = D.floordiv(sizes[k] + pads[k] + pads[rank + k] - (kernel[k] - 1) * dilations[k] - 1, strides[k]) + 1
        axes.append(Spread(blocks, kernel[k], strides[k], dilations[k], pads[k], sizes[k]))
    channels = D.floordiv(x.shape[1], D.product(kernel))
    wide = cx.reshape(x, (x.shape[0], channels, *kernel, *(a.size for a in axes)))

    def element(o: Index, r: Index) -> Expr:
        at, taps, guard = meetings(axes, o[2:], r)
        return cx.load(wide, (o[0], o[1], *taps, *at), guard)

    return cx.reduce("sum", x.dtype, (x.shape[0], channels, *sizes), tuple(a.taps for a in axes), element)
