"""Reading the arguments of operators: axes, sizes, scalars given as attributes or as small tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.lower.follow import to_dim
from hasten.lower.trace import Concat, Context, Map, Tensor, View
from hasten.ops.registry import NoNative


def axis_of(cx: Context, axis: int, rank: int) -> int:
    """An axis counted from the end where negative. Raises ModelError where it is out of range."""
    if not -rank <= axis < rank:
        raise ModelError(f"{cx.where()}: axis {axis} is out of range for a tensor of {rank} axes")
    return axis % rank if rank else 0


def axes_of(cx: Context, axes: Sequence[DimLike], rank: int) -> list[int]:
    """Distinct axes in the order given. Raises NoNative where one is known at run time only."""
    out = []
    for a in axes:
        if not isinstance(a, int):
            raise NoNative("axes are known at run time only")
        out.append(axis_of(cx, a, rank))
    if len(set(out)) != len(out):
        raise ModelError(f"{cx.where()}: an axis is given twice: {list(axes)}")
    return out


def known_axes(cx: Context, t: Tensor | None, rank: int) -> list[int] | None:
    """The axes that an optional input gives, None where omitted. Raises NoNative where only the run knows them."""
    if t is None:
        return None
    values = cx.ints(t)
    if values is None:
        raise NoNative("axes are known at run time only")
    return axes_of(cx, values, rank)


def sizes_of(cx: Context, t: Tensor, count: int | None = None, signed: bool = False) -> tuple[DimLike, ...]:
    """The values of a tensor of sizes as dims. count: how many there must be, where that is known otherwise.

    Not `signed`: what only the run knows is not negative; the run fails if it turns out to be.
    Raises NoNative where even their number is unknown."""
    if count is not None and t.rank == 1 and not isinstance(t.shape[0], int):
        t = resized(cx, t, count)
    if not all(isinstance(d, int) for d in t.shape):
        raise NoNative("the number of values in a tensor of sizes is known at run time only")
    known = cx.ints(t)
    return known if known is not None else tuple(_read(cx, t, i, signed) for i in np.ndindex(*map(int, t.shape)))  # type: ignore[arg-type]


def _read(cx: Context, t: Tensor, index: tuple[int, ...], signed: bool) -> DimLike:
    """One element as a dim; where only the run knows it, it is read where it comes from, through views and concatenations."""
    with cx.evaluating(lambda u: isinstance(u.origin, (Map, View, Concat))):
        e = t.at(index)
        known = to_dim(cx, e)
    if known is not None:
        return known
    if e.kind == "op" and e.name == "cast" and dtypes.is_int(e.value) and dtypes.is_int(e.args[0].dtype):
        e = e.args[0]
    static = e.kind == "load" and e.guard is None and not e.binds and all(isinstance(i, int) for i in e.index)
    if static and dtypes.is_int(e.source.dtype) and all(isinstance(d, int) for d in e.source.shape):
        where = _position(e.source.shape, e.index)
        return cx.read_int(e.source, where) if signed else cx.read_size(e.source, where)
    whole = cx.map((1,), "int64", lambda i: E.cast(t.at(index), "int64"))
    return cx.read_int(whole) if signed else cx.read_size(whole)


def _position(shape: tuple[DimLike, ...], index: tuple[DimLike, ...]) -> int:
    at = 0
    for d, i in zip(shape, index, strict=True):
        assert isinstance(d, int) and isinstance(i, int)
        at = at * d + i
    return at


def resized(cx: Context, t: Tensor, count: int) -> Tensor:
    """A tensor of one axis, whose size must turn out to be `count`."""
    cx.require(t.shape[0], "==", count, f"there must be {count} values")
    return cx.view((count,), t, lambda i: i)


def scalar_of(cx: Context, t: Tensor, signed: bool = False) -> DimLike:
    """The value of a tensor of one element as a dim; see `sizes_of`."""
    known = cx.ints(t)
    return known[0] if known is not None and len(known) == 1 else _read(cx, t, (0,) * t.rank, signed)


def as_int64(cx: Context, t: Tensor) -> Tensor:
    """t converted to int64, the dtype in which sizes are read."""
    return t if t.dtype == "int64" or cx.ints(t) is not None else cx.map(t.shape, "int64", lambda i: E.cast(t.at(i), "int64"))


def from_run(cx: Context, d: DimLike) -> bool:
    """Whether a dim depends on values read at run time (and so may be anything, also negative)."""
    return not D.symbols(d).isdisjoint(cx.defined)


def need_elements(cx: Context, axis: DimLike, count: DimLike) -> None:
    """The run fails where an axis is empty and `count` results are to be taken from it: there is no element to read in place of a wrong one."""
    name = D.as_symbol(axis)
    left = count if name is None else D.substitute(count, {name: 0})  # of an empty axis
    cx.require(D.if_equal(axis, 0, left, 0), "==", 0, "an index is out of range, for nothing is there", kind="index")


def between(position: DimLike, low: DimLike, high: DimLike) -> E.Expr:
    """low <= position < high as an Expr, leaving out what is certain."""
    cond = E.const(True, "bool")
    if not D.nonnegative(position - low):
        cond = cond & (E.index(low) <= E.index(position))
    top = D.upper(position)
    if top is None or not D.nonnegative(high - top - 1):
        cond = cond & (E.index(position) < E.index(high))
    return cond


def replace(index: Sequence[DimLike], axis: int, value: DimLike) -> tuple[DimLike, ...]:
    """index with one entry replaced."""
    return (*index[:axis], value, *index[axis + 1 :])
