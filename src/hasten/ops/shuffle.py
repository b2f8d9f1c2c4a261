"""Channel shuffles: a Concat of two halves that a reshape, a transpose and a reshape back interleave is two parts woven into each other."""

from __future__ import annotations

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.lower.trace import Concat, Context, Tensor, View


def woven(cx: Context, t: Tensor) -> Tensor:
    """t, or where it is such a shuffle the same made of the two halves without the Concat. Other views, and more parts, stay what they are."""
    views: list[Tensor] = []
    base = t
    while isinstance(base.origin, View):
        views.append(base)
        base = base.origin.base
    o = base.origin
    if len(views) < 3 or not isinstance(o, Concat) or len(o.parts) != 2 or base.shape != t.shape:
        return t
    half = o.parts[0].shape[o.axis]
    if not isinstance(half, int) or o.parts[1].shape[o.axis] != half:
        return t
    place = tuple(D.symbol(f"i${k}", n) for k, n in enumerate(t.shape))
    channel = place[o.axis]
    index: tuple[DimLike, ...] = place
    for v in views:
        assert isinstance(v.origin, View)
        index = v.origin.index(index)
    want: list[DimLike] = [*place]
    want[o.axis] = D.mod(channel, 2) * half + D.floordiv(channel, 2)
    if [D.recombine(d) for d in index] != want:
        return t
    places: list[list[tuple[DimLike, int]]] = [[(k, 2) if a == o.axis else (0, 1) for a in range(t.rank)] for k in range(2)]
    return cx.weave(t.shape, o.parts, places)
