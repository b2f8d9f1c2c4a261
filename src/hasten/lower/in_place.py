"""Which buffers a result may be written over by the kernel that makes it.

A kernel reads an element of such a buffer only where it makes the result's element that lies at the same offset, and only before it stores that. So
it does not matter in which order elements are made, by how many threads, or how many at a time; but each of them is made once. What the result may
be written over is only said here: whether the buffer is still needed, and whether the two get the same place, is the memory plan's affair.
"""

from __future__ import annotations

from collections.abc import Iterable

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.dtypes import dtype
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.lower.formats import is_one

Extents = Iterable[tuple[str, DimLike]]


def replaceable(exprs: Iterable[Expr], stored: str, offset: DimLike, loops: Extents) -> frozenset[str]:
    """Buffers that `exprs` (loads from buffers at offsets) read only at `offset`, where the result is stored as dtype `stored`; `loops` are
    the index symbols with their extents."""
    still = {name: 0 for name, n in loops if is_one(n)}
    here, size = D.substitute(offset, still), dtype(stored).size
    fits: dict[str, bool] = {}
    seen: set[int] = set()
    for e in exprs:
        for n in E.walk(e, seen):
            if n.kind == "load":
                same = dtype(n.stored).size == size and D.substitute(n.index[0], still) == here
                fits[n.source] = fits.get(n.source, True) and same
    return frozenset(name for name, good in fits.items() if good)
