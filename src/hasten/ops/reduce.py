"""Reductions over axes: Reduce*, ArgMax, ArgMin, Hardmax, Softmax, LogSoftmax, LpNormalization. Scans are in
ops.scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.dtypes import compute_type, is_float
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.kernels.softmax import SHORTEST, SoftmaxSpec
from hasten.lower.trace import Context, Index, Shape, Stage, Tensor
from hasten.ops.dense import isa_of
from hasten.ops.elementwise import refuse_complex
from hasten.ops.quantize import normal_axis
from hasten.ops.registry import Node, NoNative, operator, tensors


def split_index(o: Index, r: Index, axes: Sequence[int]) -> Index:
    """The full index from that of the kept axes and that of the reduced ones (in the order of `axes`, which is
    ascending)."""
    outer, inner = iter(o), iter(r)
    return tuple(next(inner) if k in axes else next(outer) for k in range(len(o) + len(r)))


def without(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(d for k, d in enumerate(shape) if k not in axes)


def only(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(shape[k] for k in axes)


@dataclass(frozen=True)
class RunTimeAxes:
    """Axes to reduce that only the run knows: flags[k] is a dim, 1 where axis k is reduced, else 0; `number` of them
    are 1."""

    flags: tuple[DimLike, ...]
    number: int

    def split(self, shape: Shape) -> tuple[Shape, Shape]:
        """Sizes of the outer and the inner loops, both of full rank: an axis is in one of them and of size 1 in the
        other."""
        outer = tuple(D.if_equal(f, 1, 1, d) for f, d in zip(self.flags, shape, strict=True))
        return outer, tuple(D.if_equal(f, 1, d, 1) for f, d in zip(self.flags, shape, strict=True))

    def kept(self, shape: Shape) -> Shape:
        """The sizes of the axes that stay: place j gets the axis that has j kept ones before it."""
        result: list[DimLike] = [0] * (len(shape) - self.number)
        before: DimLike = 0
        for f, d in zip(self.flags, shape, strict=True):
            for j in range(len(result)):
                result[j] = result[j] + D.if_equal(before + f * (len(shape) + 1), j, d, 0)
            before = before + 1 - f
        return tuple(result)


AnyAxes = Sequence[int] | RunTimeAxes


def count_of(shape: Shape, axes: AnyAxes, dtype: str) -> Expr:
    """The number of elements along the axes as a number of `dtype`."""
    n = D.product(axes.split(shape)[1] if isinstance(axes, RunTimeAxes) else only(shape, axes))
    if isinstance(n, int):
        return E.const(float(n) if is_float(dtype) else n, dtype)
    return E.cast(E.index(n), dtype)


def reduce_axes(
    cx: Context,
    x: Tensor,
    axes: AnyAxes,
    stages: Callable[[Callable[[Index, Index], Expr]], list[Stage]],
    final: Callable[[dict[str, Expr]], Expr],
    dtype: str,
    keep: bool,
) -> Tensor:
    """A reduction of x over `axes` (ascending): `stages` gets a function for the element at (outer, inner)."""
    if isinstance(axes, RunTimeAxes):
        outer, inner = axes.split(x.shape)

        def moved(o: Index, r: Index) -> Expr:
            return x.at(tuple(a + b for a, b in zip(o, r, strict=True)))

        y = cx.nest(dtype, outer, inner, stages(moved), lambda o, p: final(p))
        return y if keep else cx.reshape(y, axes.kept(x.shape))

    def element(o: Index, r: Index) -> Expr:
        return x.at(split_index(tuple(d for k, d in enumerate(o) if k not in axes) if keep else o, r, axes))

    shape = tuple(1 if k in axes else d for k, d in enumerate(x.shape)) if keep else without(x.shape, axes)
    return cx.nest(dtype, shape, only(x.shape, axes), stages(element), lambda o, p: final(p))


@dataclass(frozen=True)
class Reduction:
    """kind of Stage; `before` of every element, `after` of the result and the number of elements.

    real: integers are computed as float64."""

    kind: str
    before: Callable[[Expr], Expr] = lambda e: e
    after: Callable[[Expr, Expr], Expr] = lambda e, n: e
    real: bool = False


REDUCTIONS = {
    "ReduceSum": Reduction("sum"),
    "ReduceProd": Reduction("prod"),
    "ReduceMax": Reduction("max"),
    "ReduceMin": Reduction("min"),
    "ReduceMean": Reduction("sum", after=lambda e, n: e / n),
    "ReduceL1": Reduction("sum", before=lambda e: op("abs", e)),
    "ReduceSumSquare": Reduction("sum", before=lambda e: e * e),
    "ReduceL2": Reduction("sum", before=lambda e: e * e, after=lambda e, n: op("sqrt", e), real=True),
    "ReduceLogSum": Reduction("sum", after=lambda e, n: op("log", e), real=True),
}


def chosen_axes(cx: Context, node: Node, x: Tensor, axes: Tensor | None) -> AnyAxes:
    """The axes to reduce, ascending: all of them where none are given, unless noop_with_empty_axes."""
    if axes is None or axes.shape == (0,):
        return () if node.attr("noop_with_empty_axes", 0) else tuple(range(x.rank))
    if not isinstance(axes.shape[0], int):
        return _counted_axes(cx, node, x, axes)
    known = cx.read_ints(axes)
    for a in known:
        cx.require(-x.rank, "<=", a, f"{cx.where()}: an axis of a tensor of rank {x.rank}")
        cx.require(a, "<", x.rank, f"{cx.where()}: an axis of a tensor of rank {x.rank}")
    if all(isinstance(a, int) for a in known):
        return tuple(sorted({int(a) % x.rank for a in known}))  # type: ignore[arg-type]
    flags = [D.minimum(sum((D.if_equal(D.mod(a, x.rank), k, 1, 0) for a in known), start=0), 1) for k in range(x.rank)]
    return RunTimeAxes(tuple(flags), len(known))


def _counted_axes(cx: Context, node: Node, x: Tensor, axes: Tensor) -> RunTimeAxes:
    """Axes whose number only the run knows: the flags are computed as a tensor, and read."""
    if not node.attr("keepdims", 1):
        raise NoNative(f"{node.op_type} to a rank that only the run knows")
    count = axes.shape[0]
    none = int(not node.attr("noop_with_empty_axes", 0))

    def chosen(o: Index, r: Index) -> Expr:
        """Without axes: all of them are meant, or none."""
        a = E.cast(cx.load(axes, r, E.index(r[0]) < E.index(count), 0), "int64")
        hit = E.cast(E.select(a < 0, a + x.rank, a).eq(E.index(o[0])), "int64")
        return E.select(E.index(count).eq(0), none, hit)

    found = cx.reduce("max", "int64", (x.rank,), (D.maximum(count, 1),), chosen)
    return RunTimeAxes(tuple(cx.read_int(found, k, signed=False) for k in range(x.rank)), 0)


@operator(*REDUCTIONS)
def reduce_node(cx: Context, node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    tensors(node, x, axes)
    refuse_complex(cx, x)
    return reduce(cx, REDUCTIONS[node.op_type], x, chosen_axes(cx, node, x, axes), bool(node.attr("keepdims", 1)))


def reduce(cx: Context, row: Reduction, x: Tensor, axes: AnyAxes, keep: bool = False) -> Tensor:
    """Reduce x over `axes` (ascending); no axes at all: every element is a set of its own."""
    own = compute_type(x.dtype)
    work = "float64" if row.real and not is_float(own) else "uint8" if own == "bool" else own

    def before(e: Expr) -> Expr:
        return row.before(E.cast(e, work))

    def after(e: Expr) -> Expr:
        return E.cast(row.after(e, count_of(x.shape, axes, work)), own)

    if not axes:
        return cx.map(x.shape, x.dtype, lambda i: after(before(x.at(i))))

    def stages(at: Callable[[Index, Index], Expr]) -> list[Stage]:
        return [Stage("r", row.kind, lambda o, r, p: before(at(o, r)))]

    return reduce_axes(cx, x, axes, stages, lambda p: after(p["r"]), x.dtype, keep)


@operator("ReduceLogSumExp")
def reduce_log_sum_exp(cx: Context, node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """log(sum(exp(x))), moved by the maximum so that nothing overflows."""
    tensors(node, x, axes)
    chosen = chosen_axes(cx, node, x, axes)
    own = compute_type(x.dtype)
    work = own if is_float(own) else "float64"
    if not chosen:
        return x

    def shift(p: dict[str, Expr]) -> Expr:
        return E.select(op("isinf", p["max"]), 0, p["max"])

    def stages(at: Callable[[Index, Index], Expr]) -> list[Stage]:
        return [
            Stage("max", "max", lambda o, r, p: E.cast(at(o, r), work)),
            Stage("sum", "sum", lambda o, r, p: op("exp", E.cast(at(o, r), work) - shift(p))),
        ]

    def final(p: dict[str, Expr]) -> Expr:
        return E.cast(op("log", p["sum"]) + shift(p), own)

    return reduce_axes(cx, x, chosen, stages, final, x.dtype, bool(node.attr("keepdims", 1)))


@operator("ArgMax", "ArgMin")
def arg_extreme(cx: Context, node: Node, x: Tensor) -> Tensor:
    """The int64 index along one axis of the largest or smallest element, the first or the last of equal ones."""
    tensors(node, x)
    axis = normal_axis(cx, int(node.attr("axis", 0)), x.rank)
    if not any(isinstance(d, int) and d == 0 for d in without(x.shape, (axis,))):
        cx.require(0, "<", x.shape[axis], f"{node}: there is no largest or smallest of no elements")
    kind = node.op_type.lower() + ("_last" if node.attr("select_last_index", 0) else "")

    def stages(at: Callable[[Index, Index], Expr]) -> list[Stage]:
        return [Stage("r", kind, lambda o, r, p: at(o, r))]

    return reduce_axes(cx, x, (axis,), stages, lambda p: p["r"], "int64", bool(node.attr("keepdims", 1)))


def along_axis(
    cx: Context,
    x: Tensor,
    axis: int,
    stages: Callable[[Callable[[Index, Index], Expr]], list[Stage]],
    final: Callable[[Expr, Index, dict[str, Expr]], Expr],
    dtype: str | None = None,
) -> Tensor:
    """A result of the shape of x made from the elements of each line along `axis` and the line's stages:
    final(element, inner, params)."""
    axes = (axis,)

    def at(o: Index, r: Index) -> Expr:
        return x.at(split_index(o, r, axes))

    return cx.nest(dtype or x.dtype, without(x.shape, axes), only(x.shape, axes), stages(at), lambda o, r, p:
    final(at(o, r), r, p),
                   x.shape, lambda o, r: split_index(o, r, axes))  # fmt: skip


def softmax(cx: Context, x: Tensor, axis: int) -> Tensor:
    """exp(x - max) / sum(exp(x - max)) along an axis (non-negative): by a kernel for long lines along the last axis."""
    isa, n = isa_of(cx), x.shape[axis]
    short = isinstance(n, int) and n < SHORTEST
    if isa is not None and axis == x.rank - 1 and not short and x.dtype in ("float32", "float16", "bfloat16"):
        lines = cx.reshape(x, (D.product(x.shape[:-1]), n))
        y = cx.reshape(cx.kernel(SoftmaxSpec(isa, x.dtype), [lines], [("float32", lines.shape)])[0], x.shape)
        return y if x.dtype == "float32" else cx.map(x.shape, x.dtype, lambda i: y.at(i))

    def stages(at: Callable[[Index, Index], Expr]) -> list[Stage]:
        return [
            Stage("max", "max", lambda o, r, p: at(o, r)),
            Stage("sum", "sum", lambda o, r, p: op("exp", at(o, r) - p["max"])),
        ]

    return along_axis(cx, x, axis, stages, lambda e, r, p: op("exp", e - p["max"]) * (1 / p["sum"]))


def log_softmax(cx: Context, x: Tensor, axis: int) -> Tensor:
    """x - max - log(sum(exp(x - max))) along an axis (non-negative)."""

    def stages(at: Callable[[Index, Index], Expr]) -> list[Stage]:
        return [
            Stage("max", "max", lambda o, r, p: at(o, r)),
            Stage("sum", "sum", lambda o, r, p: op("exp", at(o, r) - p["max"])),
        ]

    return along_axis(cx, x, axis, stages, lambda e, r, p: (e - p["max"]) - op("log", p["sum"]))


@operator("Softmax", "LogSoftmax")
def softmax_node(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    axis = normal_axis(cx, int(node.attr("axis", -1)), x.rank)
    return softmax(cx, x, axis) if node.op_type == "Softmax" else log_softmax(cx, x, axis)


@operator("Hardmax")
def hardmax(cx: Context, node: Node, x: Tensor) -> Tensor:
    """1 at the first maximum of each line along the axis, else 0."""
    tensors(node, x)
    axis, dt = normal_axis(cx, int(node.attr("axis", -1)), x.rank), compute_type(x.dtype)

    def stages(at: Callable[[Index, Index], Expr]) -> list[Stage]:
        return [Stage("first", "argmax", lambda o, r, p: at(o, r))]

    return along_axis(cx, x, axis, stages, lambda e, r, p: E.cast(E.index(r[0]).eq(p["first"]), dt))


@operator("LpNormalization")
def lp_normalization(cx: Context, node: Node, x: Tensor) -> Tensor:
    """x divided by the norm (p = 1 or 2) of its line along the axis; 0 where the norm is 0."""
    tensors(node, x)
    axis = normal_axis(cx, int(node.attr("axis", -1)), x.rank)
    square = int(node.attr("p", 2)) == 2

    def stages(at: Callable[[Index, Index], Expr]) -> list[Stage]:
        return [Stage("sum", "sum", lambda o, r, p: at(o, r) * at(o, r) if square else op("abs", at(o, r)))]

    def final(e: Expr, r: Index, p: dict[str, Expr]) -> Expr:
        norm = op("sqrt", p["sum"]) if square else p["sum"]
        return e / E.select(norm.eq(0), 1, norm)

    return along_axis(cx, x, axis, stages, final)
