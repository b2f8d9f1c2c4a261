"""Pooling: windows over spatial axes reduced to their maximum, average or norm, and the global forms. RoI pooling is
in ops.roi."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.dtypes import compute_type, is_float, to_numpy
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.kernels.scatter import ScatterElementsSpec
from hasten.lower.trace import Context, Index, Stage, Tensor
from hasten.ops.elementwise import refuse_complex
from hasten.ops.geometry import Axes, Axis, both, guards, inside, positions, read_sizes, sliding_axes, spatial
from hasten.ops.registry import Node, operator, tensors


def lowest(dtype: str) -> float | int:
    """What never wins a maximum."""
    return float("-inf") if is_float(dtype) else int(np.iinfo(to_numpy(dtype)).min)


def pool_axes(cx: Context, node: Node, x: Tensor) -> Axes:
    kernel = [int(k) for k in node.attr("kernel_shape")]
    return sliding_axes(cx, node, x.shape[2:], kernel, bool(node.attr("ceil_mode", 0)))


def windows(
    cx: Context,
    x: Tensor,
    axes: Axes,
    kind: str,
    before: Callable[[Expr], Expr] | None,
    default: float | int,
    final: Callable[[Index, Expr], Expr],
    dtype: str | None = None,
) -> Tensor:
    """final(index, reduction of before(element) over the window); outside of x the element is `default`."""

    def element(o: Index, r: Index, _: dict[str, Expr]) -> Expr:
        e = cx.load(x, (*o[:2], *positions(axes, o[2:], r)), guards(axes, o[2:], r), default)
        return e if before is None else before(e)

    outer = (*x.shape[:2], *(a.out for a in axes))
    stage = Stage("r", kind, element)
    return cx.nest(dtype or x.dtype, outer, tuple(a.kernel for a in axes), [stage], lambda o, p: final(o, p["r"]))


@operator("MaxPool")
def max_pool(cx: Context, node: Node, x: Tensor) -> list[Tensor | None]:
    """The maximum of every window; where wanted, also its position as an index into the flattened x."""
    tensors(node, x)
    axes = pool_axes(cx, node, x)
    y = windows(cx, x, axes, "max", None, lowest(x.dtype), lambda o, e: e)
    return [y, _indices(cx, node, x, axes) if node.wants(1) else None]


def _indices(cx: Context, node: Node, x: Tensor, axes: Axes) -> Tensor:
    """Flat positions of the maxima: row-major over all of x; storage_order 1: column-major within an image's
    channel."""
    order = list(range(len(axes)))
    if node.attr("storage_order", 0):
        order.reverse()

    def final(o: Index, tap: Expr) -> Expr:
        taps: list[Expr] = []
        for a in reversed(axes[1:]):
            taps.append(op("floormod", tap, E.index(a.kernel)))
            tap = op("div", tap, E.index(a.kernel))
        taps = [tap, *reversed(taps)]
        flat = E.index(o[0] * x.shape[1] + o[1])
        for k in order:
            a = axes[k]
            place = taps[k] * a.dilation + E.index(o[2 + k] * a.stride - a.begin)
            flat = flat * E.index(a.size) + place
        return flat

    return windows(cx, x, axes, "argmax", None, lowest(x.dtype), final, "int64")


def _valid_taps(a: Axis, o: DimLike, padded: bool) -> DimLike:
    """How many taps of window o lie inside of the input (padded: of the padded input)."""
    start = o * a.stride - a.begin
    before: DimLike = 0 if padded or a.starts_inside else D.maximum(D.ceildiv(-start, a.dilation), 0)
    limit = a.size + a.end if padded else a.size
    last = (a.out - 1) * a.stride + a.reach - a.begin
    if (not padded and a.ends_inside) or (padded and D.nonnegative(limit - 1 - last)):
        return a.kernel - before
    return D.minimum(D.ceildiv(limit - start, a.dilation), a.kernel) - before


@operator("AveragePool")
def average_pool(cx: Context, node: Node, x: Tensor) -> Tensor:
    """The mean of every window, over the elements inside of the input or (count_include_pad) of the padded input."""
    tensors(node, x)
    axes, dt = pool_axes(cx, node, x), compute_type(x.dtype)
    padded = bool(node.attr("count_include_pad", 0))
    exact = padded and not node.attr("ceil_mode", 0)

    def final(o: Index, total: Expr) -> Expr:
        count = D.product([a.kernel if exact else _valid_taps(a, i, padded) for a, i in zip(axes, o[2:], strict=True)])
        if isinstance(count, int):
            return total / count
        return total / E.cast(E.index(count), dt)

    return windows(cx, x, axes, "sum", None, 0, final)


# p -> (applied to every element, applied to the sum)
def _norm(p: int) -> tuple[Callable[[Expr], Expr], Callable[[Expr], Expr]]:
    if p == 1:
        return lambda e: op("abs", e), lambda s: s
    if p == 2:
        return lambda e: e * e, lambda s: op("sqrt", s)
    return lambda e: op("pow", op("abs", e), float(p)), lambda s: op("pow", s, 1 / p)


@operator("LpPool")
def lp_pool(cx: Context, node: Node, x: Tensor) -> Tensor:
    """The p-norm of every window."""
    tensors(node, x)
    before, after = _norm(int(node.attr("p", 2)))
    return windows(cx, x, pool_axes(cx, node, x), "sum", before, 0, lambda o, s: after(s))


def global_pool(
    cx: Context, x: Tensor, kind: str, before: Callable[[Expr], Expr], after: Callable[[Expr], Expr]
) -> Tensor:
    """All spatial axes reduced to size 1."""
    refuse_complex(cx, x)
    outer = (*x.shape[:2], *[1] * (x.rank - 2))
    stage = Stage("r", kind, lambda o, r, p: before(x.at((*o[:2], *r))))
    return cx.nest(x.dtype, outer, x.shape[2:], [stage], lambda o, p: after(p["r"]))


@operator("GlobalMaxPool")
def global_max_pool(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    return global_pool(cx, x, "max", lambda e: e, lambda e: e)


@operator("GlobalAveragePool")
def global_average_pool(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    n, dt = D.product(x.shape[2:]), compute_type(x.dtype)
    return global_pool(cx, x, "sum", lambda e: e, lambda s: s / (n if isinstance(n, int) else E.cast(E.index(n), dt)))


@operator("GlobalLpPool")
def global_lp_pool(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    before, after = _norm(int(node.attr("p", 2)))
    return global_pool(cx, x, "sum", before, after)


@operator("MaxUnpool")
def max_unpool(cx: Context, node: Node, x: Tensor, indices: Tensor, output_shape: Tensor | None = None) -> Tensor:
    """Zeros with the elements of x at the positions that MaxPool gave; filled up with zeros to `output_shape`."""
    tensors(node, x, indices, output_shape)
    rank = x.rank - 2
    kernel, strides = spatial(node, "kernel_shape", rank), spatial(node, "strides", rank)
    pads = spatial(node, "pads", 2 * rank, 0)
    shape: tuple[DimLike, ...] = x.shape[:2] + tuple(
        (n - 1) * strides[k] + kernel[k] - pads[k] - pads[rank + k] for k, n in enumerate(x.shape[2:])
    )
    zeros = cx.map((D.product(shape),), x.dtype, lambda i: E.const(0, compute_type(x.dtype)))
    flat = [cx.reshape(t, (t.size,)) for t in (indices, x)]
    spec = ScatterElementsSpec(x.dtype, indices.dtype, "none", 1, 0)
    y = cx.reshape(cx.kernel(spec, [zeros, *flat], [(x.dtype, zeros.shape)])[0], shape)
    if output_shape is None:
        return y

    def inside_of(i: Index) -> Expr | None:
        guard: Expr | None = None
        for k, n in zip(i, shape, strict=True):
            guard = both(guard, inside(k, n, low=False))
        return guard

    return cx.map(read_sizes(cx, output_shape), x.dtype, lambda i: cx.load(y, i, inside_of(i)))
