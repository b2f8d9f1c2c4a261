"""Loops of a nest that can be one loop: neighbours that everything walks through as one are merged, loops of one round dropped."""

from __future__ import annotations

from dataclasses import replace

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.kernels.expr import Expr, walk
from hasten.kernels.problem import Loop, NestProblem


def substitute(e: Expr, env: dict[str, DimLike], memo: dict[int, Expr]) -> Expr:
    """e with loop symbols replaced."""
    if id(e) not in memo:
        memo[id(e)] = replace(e, args=tuple(substitute(a, env, memo) for a in e.args), index=tuple(D.substitute(d, env) for d in e.index),
                              binds=tuple((n, substitute(b, env, memo)) for n, b in e.binds),
                              guard=None if e.guard is None else substitute(e.guard, env, memo)) if e.kind != "const" else e  # fmt: skip
    return memo[id(e)]


def _rewrite(p: NestProblem, env: dict[str, DimLike], outer: tuple[Loop, ...], inner: tuple[Loop, ...]) -> NestProblem:
    memo: dict[int, Expr] = {}
    return replace(
        p, outer=outer, inner=inner, stages=tuple(replace(s, expr=substitute(s.expr, env, memo)) for s in p.stages),
        stores=tuple(replace(s, value=substitute(s.value, env, memo), offset=D.substitute(s.offset, env)) for s in p.stores),
    )  # fmt: skip


def _dims(p: NestProblem) -> list[DimLike]:
    found: dict[DimLike, None] = {}
    seen: set[int] = set()
    for e in p.exprs():
        for n in walk(e, seen):
            found.update(dict.fromkeys(n.index))
    found.update(dict.fromkeys(s.offset for s in p.stores))
    return list(found)


def merge(p: NestProblem) -> NestProblem:
    """Drop loops of one round, then make one loop of neighbours that everything walks through as one."""
    ones = {s: 0 for s, n in (*p.outer, *p.inner) if isinstance(n, int) and n == 1}
    if ones:
        p = _rewrite(p, dict(ones), tuple(x for x in p.outer if x[0] not in ones), tuple(x for x in p.inner if x[0] not in ones))
    for level in ("outer", "inner"):
        loops: list[Loop] = list(getattr(p, level))
        k = len(loops) - 2
        while k >= 0:
            (a, n), (b, m) = loops[k], loops[k + 1]
            if _mergeable(p, a, b, m):
                loops[k : k + 2] = [(b, n * m)]
                both = D.symbol(b, n * m)
                outer, inner = (tuple(loops), p.inner) if level == "outer" else (p.outer, tuple(loops))
                p = _rewrite(p, {a: 0, b: both}, outer, inner)
                loops = list(getattr(p, level))
            k -= 1
    return p


def _mergeable(p: NestProblem, a: str, b: str, m: DimLike) -> bool:
    for d in _dims(p):
        names = D.symbols(d)
        if a not in names and b not in names:
            continue
        la, lb = D.linear(d, a), D.linear(d, b)
        if la is None or lb is None or la[0] != lb[0] * m:
            return False
    return True
