"""Rearrangements: Split, Slice, Transpose, Tile, Pad, DepthToSpace and their kin: views or guarded loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.arguments import as_int64, axes_of, axis_of, between, from_run, need_elements, replace, sizes_of
from hasten.ops.registry import Node, operator, tensors

BEYOND = 1 << 48  # more than any axis has
FAR = 2**31 - 1  # starts and ends from here on mean "to the end", whatever the size


@operator("Transpose")
def transpose(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    perm = node.attr("perm", None) or list(range(x.rank))[::-1]
    if sorted(perm) != list(range(x.rank)):
        raise ModelError(f"{node}: perm {list(perm)} is no permutation of {x.rank} axes")
    return cx.transpose(x, perm)


# --- Slice, Split -----------------------------------------------------------------------------------------------------
def window(cx: Context, x: Tensor, axis: int, start: DimLike, count: DimLike, step: DimLike = 1) -> Tensor:
    """x[start + step * i] along one axis for i < count, all of it inside of x."""
    if isinstance(start, int) and start == 0 and count == x.shape[axis] and step == 1:
        return x
    return cx.view(replace(x.shape, axis, count), x, lambda i: replace(i, axis, start + i[axis] * step))


def slice_bounds(n: DimLike, start: DimLike, end: DimLike, step: DimLike) -> tuple[DimLike, DimLike]:
    """(first index, number of elements) of Slice along an axis of size n; of no elements, the index may be anything."""
    if isinstance(step, int):
        return _slice_up(n, start, end, step) if step > 0 else _slice_down(n, start, end, step)
    up, down = _slice_up(n, start, end, step), _slice_down(n, start, end, step)
    return D.if_less(0, step, up[0], down[0]), D.if_less(0, step, up[1], down[1])


def _from_end(n: DimLike, d: DimLike) -> DimLike:
    """Negative positions count from the end; a size with a minus is taken as negative (`slice_` checks that)."""
    return d + n if _below_zero(d) else D.if_less(d, 0, d + n, d)


def _below_zero(d: DimLike) -> bool:
    return d < 0 if isinstance(d, int) else D.nonnegative(-d)


def _limited(d: DimLike, n: DimLike) -> DimLike:
    """min(d, n), also of what is known by the extents of loops."""
    top = D.upper(d)
    return d if top is not None and D.nonnegative(n - top) else D.minimum(n, d)


def _slice_up(n: DimLike, start: DimLike, end: DimLike, step: DimLike) -> tuple[DimLike, DimLike]:
    if isinstance(end, int) and end >= FAR:
        stop = n
    else:  # a negative stop gives 0 elements, no need to clamp it
        stop = _from_end(n, end) if _below_zero(end) else _limited(_from_end(n, end), n)
    if _below_zero(start):
        if stop == n and step == 1:  # the last elements, as many as there are
            count = D.minimum(n, -start)
            return n - count, count
        first = D.maximum(0, n + start)
    else:
        first = n if isinstance(start, int) and start >= FAR else D.maximum(0, _from_end(n, start))
    return first, D.maximum(0, D.ceildiv(stop - first, step))


def _slice_down(n: DimLike, start: DimLike, end: DimLike, step: DimLike) -> tuple[DimLike, DimLike]:
    last = n - 1
    if isinstance(start, int) and (start == -1 or start >= FAR):
        first = last
    else:
        first = D.maximum(0, D.minimum(last, _from_end(n, start)))
    stop = -1 if isinstance(end, int) and end <= -FAR else D.maximum(-1, _from_end(n, end))
    count = D.maximum(0, D.ceildiv(first - stop, -step))
    return first, count if first == last else D.minimum(n, count)


def _tame(cx: Context, d: DimLike) -> DimLike:
    """A position or step that only the run knows, without values so far out (the largest integer) that sums overflow."""
    wild = from_run(cx, d) and not (D.nonnegative(d) or D.nonnegative(-d))
    return D.maximum(D.minimum(d, BEYOND), -BEYOND) if wild else d


@operator("Slice")
def slice_(
    cx: Context,
    node: Node,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    tensors(node, x, starts, ends, axes, steps)
    first, last = sizes_of(cx, starts, signed=True), sizes_of(cx, ends, signed=True)
    by: Sequence[DimLike] = (1,) * len(first) if steps is None else sizes_of(cx, steps, signed=True)
    rows = per_axis(cx, axes, x.rank, [first, last, by], [0, FAR, 1])
    for axis, (a, b, s) in enumerate(rows):
        if isinstance(s, int) and s == 0:
            raise ModelError(f"{node}: a step of Slice is 0")
        for d in (a, b):
            if not isinstance(d, int) and D.nonnegative(-d):
                cx.require(1, "<=", -d, "a position from the end must not be 0")
        start, count = slice_bounds(x.shape[axis], _tame(cx, a), _tame(cx, b), _tame(cx, s))
        x = window(cx, x, axis, start, count, s)
    return x


@operator("Split")
def split(cx: Context, node: Node, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    tensors(node, x, sizes)
    axis = axis_of(cx, node.attr("axis", 0), x.rank)
    total = x.shape[axis]
    parts: Sequence[DimLike]
    if sizes is not None:
        parts = sizes_of(cx, sizes, node.n_outputs)
        for d in parts:
            cx.require(0, "<=", d, "sizes of Split must not be negative")
        cx.require(D.product(()) * 0 + sum(parts), "==", total, "sizes of Split must add up to the size of the axis")
    else:
        n = node.attr("num_outputs", node.n_outputs)
        chunk = D.ceildiv(total, n)
        parts = [chunk] * (n - 1) + [total - chunk * (n - 1)]
        cx.require(0, "<=", parts[-1], f"an axis of size {total} can't be split into {n} parts")
    out: list[Tensor] = []
    start: DimLike = 0
    for d in parts:
        out.append(window(cx, x, axis, start, d))
        start = start + d
    return out


@operator("Tile")
def tile(cx: Context, node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    tensors(node, x, repeats)
    times = sizes_of(cx, repeats, x.rank)
    for r in times:
        cx.require(0, "<=", r, "repeats must not be negative")
    shape = [d * r for d, r in zip(x.shape, times, strict=True)]
    return cx.view(
        shape,
        x,
        lambda i: [k if isinstance(r, int) and r == 1 else D.mod(k, d) for k, d, r in zip(i, x.shape, times, strict=True)],
    )


def per_axis(cx: Context, axes: Tensor | None, rank: int, rows: Sequence[Sequence[DimLike]], defaults: Sequence[int]) -> list[list[DimLike]]:
    """For every axis its entry of each row, where entry n of a row is about axis number axes[n] (default: n).

    `axes` may be known at run time only."""
    out: list[list[DimLike]] = [list(defaults) for _ in range(rank)]
    given = range(len(rows[0])) if axes is None else sizes_of(cx, axes, signed=True)
    if len(given) > rank or any(len(r) != len(given) for r in rows):
        raise ModelError(f"{cx.where()}: {len(given)} axes and {[len(r) for r in rows]} values for a tensor of {rank} axes")
    for n, a in enumerate(given):
        if isinstance(a, int):
            out[axis_of(cx, a, rank)] = [r[n] for r in rows]
            continue
        cx.require(a, "<", rank, "an axis is out of range")
        cx.require(-rank, "<=", a, "an axis is out of range")
        for k in range(rank):
            out[k] = [D.if_equal(a, k, r[n], D.if_equal(a, k - rank, r[n], o)) for r, o in zip(rows, out[k], strict=True)]
    return out


# --- Pad --------------------------------------------------------------------------------------------------------------
def _reflect(cx: Context, d: DimLike, before: DimLike, after: DimLike) -> Callable[[DimLike], DimLike]:
    last = d - 1
    if isinstance(d, int) and isinstance(before, int) and isinstance(after, int) and max(before, after) > d - 1:
        period = 2 * (d - 1)  # back and forth, several times

        def far(j: DimLike) -> DimLike:
            m = D.mod(j, period)
            return D.if_less(m, d, m, period - m)

        return far
    for pad in (before, after):
        cx.require(pad, "<=", D.maximum(last, 0), "reflection needs a padding smaller than the size")

    def near(j: DimLike) -> DimLike:
        a = D.maximum(j, -j)
        return D.minimum(a, last * 2 - a)

    return near


_PAD_MODES: dict[str, Callable[[Context, DimLike, DimLike, DimLike], Callable[[DimLike], DimLike]]] = {
    "edge": lambda cx, d, b, a: lambda j: D.minimum(D.maximum(j, 0), d - 1),
    "wrap": lambda cx, d, b, a: lambda j: D.mod(j, d),
    "reflect": _reflect,
}


def pad_with(
    cx: Context,
    x: Tensor,
    before: Sequence[DimLike],
    after: Sequence[DimLike],
    value: Callable[[], Expr] | None = None,
    mode: str = "constant",
) -> Tensor:
    """x with `before` and `after` more elements (negative: fewer) on every axis: `value()` or 0, or made from x."""
    shape = tuple(d + b + a for d, b, a in zip(x.shape, before, after, strict=True))
    for d in shape:
        cx.require(0, "<=", d, "padding must leave no negative size")
    touched = [k for k, (b, a) in enumerate(zip(before, after, strict=True)) if not (isinstance(b, int) and isinstance(a, int) and b <= 0 and a <= 0)]
    if mode != "constant":  # what is cut off isn't seen by the padding
        lows, highs = ([D.minimum(d, 0) for d in side] for side in (before, after))
        for k in range(x.rank):
            x = window(cx, x, k, -lows[k], x.shape[k] + lows[k] + highs[k])
        before, after = ([D.maximum(d, 0) for d in side] for side in (before, after))
        for k in touched:
            need_elements(cx, x.shape[k], shape[k])
        fold = {k: _PAD_MODES[mode](cx, x.shape[k], before[k], after[k]) for k in touched}
        return cx.view(shape, x, lambda i: [fold[k](j - before[k]) if k in fold else j - before[k] for k, j in enumerate(i)])
    if not touched:
        return cx.view(shape, x, lambda i: [j - b for j, b in zip(i, before, strict=True)])

    def element(i: Index) -> Expr:
        inner = [j - b for j, b in zip(i, before, strict=True)]
        guard = E.const(True, "bool")
        for k in touched:
            guard = guard & between(inner[k], 0, x.shape[k])
        return cx.load(x, inner, guard, value() if value is not None else 0)

    return cx.map(shape, x.dtype, element)


@operator("Pad")
def pad(cx: Context, node: Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    tensors(node, x, pads, value, axes)
    mode = node.attr("mode", "constant")
    if mode != "constant" and mode not in _PAD_MODES:
        raise ModelError(f"{node}: unknown mode {mode!r}")
    given = sizes_of(cx, pads, 2 * x.rank if axes is None else None, signed=True)
    half = len(given) // 2
    if len(given) % 2 or half != (x.rank if axes is None else axes.shape[0]):
        raise ModelError(f"{node}: {len(given)} pads for {'all' if axes is None else axes.shape[0]} of {x.rank} axes")
    rows = per_axis(cx, axes, x.rank, [given[:half], given[half:]], [0, 0])
    before, after = [r[0] for r in rows], [r[1] for r in rows]
    fill = None if value is None else lambda: value.at((0,) * value.rank)
    return pad_with(cx, x, before, after, fill, mode)


@operator("CenterCropPad")
def center_crop_pad(cx: Context, node: Node, x: Tensor, target: Tensor) -> Tensor:
    tensors(node, x, target)
    axes = axes_of(cx, node.attr("axes", None) or range(x.rank), x.rank)
    wanted = sizes_of(cx, target, len(axes))
    before: list[DimLike] = [0] * x.rank
    after: list[DimLike] = [0] * x.rank
    for k, t in zip(axes, wanted, strict=True):
        d = x.shape[k]
        before[k] = D.if_less(t, d, -D.floordiv(d - t, 2), D.floordiv(t - d, 2))
        after[k] = t - d - before[k]
    return pad_with(cx, x, before, after)


# --- blocks of pixels -------------------------------------------------------------------------------------------------
@operator("DepthToSpace")
def depth_to_space(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    n, c, h, w = x.shape
    b = node.attr("blocksize")
    out = D.floordiv(c, b * b)
    cx.require(out * (b * b), "==", c, "channels must be a multiple of blocksize squared")
    mode = node.attr("mode", "DCR")

    def index(i: Index) -> Index:
        inside = D.mod(i[2], b) * b + D.mod(i[3], b)
        channel = inside * out + i[1] if mode == "DCR" else i[1] * (b * b) + inside
        return (i[0], channel, D.floordiv(i[2], b), D.floordiv(i[3], b))

    return cx.view((n, out, h * b, w * b), x, index)


@operator("SpaceToDepth")
def space_to_depth(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    n, c, h, w = x.shape
    b = node.attr("blocksize")
    mode = node.attr("mode", "DCR")
    rows, columns = D.floordiv(h, b), D.floordiv(w, b)
    cx.require(rows * b, "==", h, "the height must be a multiple of blocksize")
    cx.require(columns * b, "==", w, "the width must be a multiple of blocksize")

    def index(i: Index) -> Index:
        channel, block = (D.mod(i[1], c), D.floordiv(i[1], c)) if mode == "DCR" else (D.floordiv(i[1], b * b), D.mod(i[1], b * b))
        return (i[0], channel, i[2] * b + D.floordiv(block, b), i[3] * b + D.mod(block, b))

    return cx.view((n, c * (b * b), rows, columns), x, index)


@operator("ReverseSequence")
def reverse_sequence(cx: Context, node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    tensors(node, x, lengths)
    time, batch = node.attr("time_axis", 0), node.attr("batch_axis", 1)
    lengths = as_int64(cx, lengths)

    def element(i: Index) -> Expr:
        n, t = lengths.at((i[batch],)), E.index(i[time])
        source = op("select", t < n, n - 1 - t, t)
        return x.at(replace(i, time, cx.index(source, x.shape[time])))

    return cx.map(x.shape, x.dtype, element)
