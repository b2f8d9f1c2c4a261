"""The order of axes in which a result lies in memory, from slowest to fastest.

What is read decides: elementwise and reducing work keeps the order of the first tensor that it reads and that isn't row-major. Else what reads
the result decides: the order in which a kernel behind it wants its operand. Else, and for outputs and all that must be row-major, row-major.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.kernels.nest import StageProblem
from hasten.lower import trace as T
from hasten.lower.formats import is_one, memory_order, symbols_behind
from hasten.lower.trace import Tensor

if TYPE_CHECKING:
    from hasten.lower.emit import Emission


def result_order(e: Emission, t: Tensor, exprs: Sequence[Expr], index: tuple[DimLike, ...]) -> list[int]:
    """The order of axes of t, whose element at `index` is made from `exprs`."""
    row = list(range(t.rank))
    if id(t) in e.schedule.plain or id(t) in e.homes or t.rank < 2:
        return row
    return _followed(e, exprs, index) or wish(e, t) or row


def _followed(e: Emission, exprs: Sequence[Expr], index: tuple[DimLike, ...]) -> list[int] | None:
    """The order of axes that follows from the first tensor read in `exprs` that isn't row-major; None if there is none."""
    for x in exprs:
        for n in E.walk(x):
            have = e.buffer(n.source) if n.kind == "load" and isinstance(n.source, Tensor) else None
            if have is None:
                continue
            order = memory_order(have, n.source.shape)
            if order == list(range(len(order))):
                continue
            axes: list[int] = []
            for k in order:
                known = symbols_behind(n, k)
                axes.extend(a for a, i in enumerate(index) if D.symbols(i) & known and a not in axes)
            if len(axes) == len(index):
                return axes
    return None


def wish(e: Emission, t: Tensor, depth: int = 8) -> list[int] | None:
    """The order of axes in which what follows wants to read t: a kernel at once, or behind elementwise work; None where nothing wants one."""
    for u in e.schedule.users.get(id(t), []) if depth else []:
        o = u.origin
        if isinstance(o, T.Kernel):
            wants = [o.spec.wants(k) for k, x in enumerate(o.operands) if x is t]
            axes = [int(w[6:]) % t.rank for w in wants if w.startswith("lanes:")]
            if axes:
                return [k for k in range(t.rank) if k != axes[0]] + [axes[0]]
        elif isinstance(o, (T.Map, T.Nest, T.Concat, T.Woven)) and u.rank == t.rank and id(u) not in e.schedule.plain and id(u) not in e.homes:
            found = wish(e, u, depth - 1)
            if found is not None:
                return found
    return None


def concat_order(e: Emission, t: Tensor, o: T.Concat | T.Woven) -> list[int]:
    """The order of axes that most parts have."""
    row = list(range(t.rank))
    if id(t) in e.schedule.plain or id(t) in e.homes:
        return row
    orders = [memory_order(have, p.shape) if (have := e.buffer(p)) is not None else row for p in o.parts]
    best = max(orders, key=lambda x: (orders.count(x), x != row))
    return best if best != row else wish(e, t) or row


def whole_order(e: Emission, whole: Tensor, o: T.Concat | T.Woven, order: list[int]) -> list[int]:
    """The order of axes of a Concat: what its convolutions write, where it has some; else `order`."""
    row = list(range(whole.rank))
    if id(whole) in e.schedule.plain:
        return row
    for p in o.parts:
        root = e.schedule.fused[id(p)].root if id(p) in e.schedule.fused else p
        spec = root.origin.spec if isinstance(root.origin, T.Kernel) else None
        if spec is not None and spec.lane_axis == "c" and root.rank == whole.rank and lane_by_lane(whole, 1):
            e.homes.discard(id(whole))
            return [0, *row[2:], 1]
    if id(whole) in e.homes:
        return row
    return order if order != row else wish(e, whole) or row


def lane_by_lane(t: Tensor, axis: int) -> bool:
    """Whether an output of the model, in row-major order, would be stored lane by lane by a kernel whose lanes run along `axis`: then it is
    stored in the kernel's order first, and turned as a whole."""
    return not is_one(t.shape[axis]) and not all(map(is_one, t.shape[axis + 1 :]))


def inner_order(e: Emission, inner: list[tuple[str | None, DimLike]], stages: list[StageProblem]) -> list[tuple[str | None, DimLike]]:
    """Inner loops by the memory of what they walk through (the arg kinds need the order as it is)."""
    if any(s.kind.startswith("arg") for s in stages) or len(inner) < 2:
        return inner
    for s in stages:
        for n in E.walk(s.expr):
            have = e.buffer(n.source) if n.kind == "load" and isinstance(n.source, Tensor) else None
            if have is None:
                continue
            order = memory_order(have, n.source.shape)
            ranks = {}
            for name, _ in inner:
                hits = [order.index(k) for k, d in enumerate(n.index) if name in D.symbols(d)]
                ranks[name] = hits[0] if hits else -1
            if all(v >= 0 for v in ranks.values()):
                return sorted(inner, key=lambda x: ranks[x[0]])
    return inner
