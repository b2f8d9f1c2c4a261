"""Emission of nests: elementwise work, reductions, copies, all by the one template `kernels.nest`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels import nest
from hasten.kernels.expr import Expr
from hasten.kernels.nest import NestProblem, StageProblem, StoreProblem
from hasten.lower import accounts
from hasten.lower import trace as T
from hasten.lower.formats import Buffer, flat_offset, loops, memory_order
from hasten.lower.in_place import replaceable
from hasten.lower.orders import inner_order, result_order
from hasten.lower.schedule import Inverse, symbols
from hasten.lower.trace import Tensor

if TYPE_CHECKING:
    from hasten.lower.emit import Emission

Loops = Sequence[tuple[str | None, DimLike]]
Store = tuple[Expr, str, Buffer, tuple[DimLike, ...]]  # a value, the dtype that it is stored as, where, at which index


def emit_map(e: Emission, t: Tensor) -> None:
    """An elementwise result, or a view that gets memory."""
    idx = symbols("o", t.shape)
    with e.evaluating():
        value = t.origin.fn(idx) if isinstance(t.origin, T.Map) else t.origin.base.at(t.origin.index(idx))  # type: ignore[union-attr]
    target = e.allocate(t, result_order(e, t, [value], idx))
    nest_call(e, t, loops(idx, t.shape, target), [(value, t.dtype, target, idx)], "map")


def emit_nest(e: Emission, last: Tensor, root: Tensor, o: T.Nest, own: Inverse) -> None:
    """The reductions of `root`, with the elementwise work up to `last` as their epilogue."""
    i, r = symbols("o", o.outer), symbols("r", o.inner)
    stages: list[StageProblem] = []
    params: dict[str, Expr] = {}
    with e.evaluating():
        for s in o.stages:
            x = s.fn(i, r, params)
            stages.append(StageProblem(s.name, s.kind, x))
            params[s.name] = E.param(s.name, "int64" if s.kind.startswith("arg") else x.dtype)
        value = o.final(i, params) if o.place is None else o.final(i, r, params)
    if o.place is None:
        value, index = epilogue(e, last, root, own, i, value)
    else:
        index = o.place(i, r)
    target = e.allocate(last, result_order(e, last, [s.expr for s in stages], index))
    outer = [(D.as_symbol(x), n) for x, n in zip(i, o.outer, strict=True)]
    rank_of = {axis: k for k, axis in enumerate(memory_order(target, last.shape))}
    position = {str(x): rank_of[k] for k, x in enumerate(index)}
    outer.sort(key=lambda x: position.get(str(x[0]), 99))
    inner = inner_order(e, [(D.as_symbol(x), n) for x, n in zip(r, o.inner, strict=True)], stages)
    nest_call(e, last, outer, [(value, last.dtype, target, index)], "reduce" if o.place is None else "rows",
              inner=inner, stages=stages, inner_store=o.place is not None)  # fmt: skip


def epilogue(e: Emission, last: Tensor, root: Tensor, own_of: Inverse, idx: tuple[DimLike, ...], value: Expr) -> tuple[Expr, tuple[DimLike, ...]]:
    """last's element in terms of root's element `value` at root index idx; and last's index."""
    if last is root:
        return value, idx
    own = own_of(idx)
    with e.evaluating():
        e.cx.provide(root, idx, value)
        try:
            o = last.origin
            result = o.fn(own) if isinstance(o, T.Map) else o.base.at(o.index(own))  # type: ignore[union-attr]
        finally:
            e.cx.provide(None, (), value)
    return result, own


def nest_call(e: Emission, t: Tensor, outer: Loops, stores: Sequence[Store], what: str, inner: Loops = (), stages: Sequence[StageProblem] = (),
              inner_store: bool = False) -> None:  # fmt: skip
    """Emit one nest and call it; t is the tensor that it makes, or makes a part of."""
    memo: dict[int, Expr] = {}
    problem = NestProblem(
        tuple((str(s), n) for s, n in outer), tuple((str(s), n) for s, n in inner),
        tuple(replace(s, expr=resolve(e, s.expr, memo)) for s in stages),
        tuple(StoreProblem(resolve(e, v, memo), stored, b.name, flat_offset(b, idx)) for v, stored, b, idx in stores), inner_store,
    )  # fmt: skip
    points = D.product([n for _, n in (*outer, *inner)])
    cycles = sum(E.cost(x) for x in problem.exprs()) + 1
    text = nest.emit(problem, e.isa)
    if text.once:
        (store,) = problem.stores
        e.written_over(stores[0][2], replaceable(problem.exprs(), store.stored, store.offset, (*problem.outer, *problem.inner)))
    work = D.floordiv(points * cycles, 2 * e.isa.lanes(32))
    account = accounts.of_nest(outer, inner, stages, [(value, stored) for value, stored, *_ in stores], inner_store, e.held)
    e.call(text.text, text.words, work, what, t, account, "generic nest")


def resolve(e: Emission, x: Expr, memo: dict[int, Expr]) -> Expr:
    """x with loads of buffers at offsets in place of loads of tensors."""
    if id(x) not in memo:
        binds = tuple((n, resolve(e, b, memo)) for n, b in x.binds)
        guard = None if x.guard is None else resolve(e, x.guard, memo)
        args = tuple(resolve(e, a, memo) for a in x.args)
        if x.kind == "load":
            have = e.buffer(x.source)
            if have is None:
                raise ModelError(f"{x.source.node}: {x.source} has no memory where it is read")
            memo[id(x)] = replace(x, source=have.name, index=(flat_offset(have, x.index),), binds=binds, guard=guard, args=args)
        else:
            memo[id(x)] = replace(x, args=args) if args else x
    return memo[id(x)]
