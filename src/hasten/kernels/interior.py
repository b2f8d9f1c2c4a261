"""Where the guards and limits of a nest are sure to hold: there it runs without them.

Windows that reach over an image's edge, padding and resizing read behind guards (`0 <= 2 * o + r - 1 < n`) and at positions limited to the
input (`max(min(p, n - 1), 0)`), which only the first and last rounds of a loop need. Each is an inequality `d >= 0`. With the inner loops at
their worst, one that depends on a single outer loop gives the rounds of that loop in which it holds; all of them together give a range of
rounds for each such loop, the interior, and a problem that has nothing of them left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hasten.base import dims as D
from hasten.base.dims import Atom, Dim, DimLike
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, walk
from hasten.kernels.problem import NestProblem

Range = tuple[DimLike, DimLike]  # first round, and the first one behind

_MAKE = {
    "floordiv": D.floordiv, "mod": D.mod, "max": D.maximum, "min": D.minimum, "if_eq": D.if_equal, "if_lt": D.if_less, "scale": D.scale_floor,
}  # fmt: skip


@dataclass(frozen=True)
class Interior:
    """`problem`: the nest without what holds in `ranges`, by the symbols of outer loops; loops without limits are left out."""

    problem: NestProblem
    ranges: dict[str, Range]


def interior(p: NestProblem) -> Interior | None:
    """The interior of a nest whose loops are merged; None where there is nothing to leave out, or no round without it."""
    found = _Inequalities(p)
    seen: set[int] = set()
    nodes = [n for e in p.exprs() for n in walk(e, seen)]
    for n in nodes:
        for d in () if n.guard is None else _literals(n.guard):
            found.holds(d)
        for d in n.index:
            found.freed(d)
    extents = dict(p.outer)
    ranges = {s: r for s, r in found.ranges.items() if not (_is(r[0], 0) and r[1] == extents[s])}
    if not ranges or any(D.nonnegative(low - high) for low, high in ranges.values()):
        return None
    memo: dict[int, Expr] = {}
    return Interior(replace(p, stages=tuple(replace(s, expr=_without(s.expr, found, memo)) for s in p.stages),
                            stores=tuple(replace(s, value=_without(s.value, found, memo)) for s in p.stores)), ranges)  # fmt: skip


class _Inequalities:
    """What holds in the interior: decided when first asked, which may make the interior smaller."""

    def __init__(self, p: NestProblem):
        self.outer, self.inner = dict(p.outer), dict(p.inner)
        self.computed = {name for e in p.exprs() for n in walk(e) for name, _ in n.binds}
        self.ranges: dict[str, Range] = {}
        self.known: dict[DimLike, bool] = {}

    def holds(self, d: DimLike) -> bool:
        """Whether d >= 0 in the interior."""
        if d not in self.known:
            self.known[d] = not self.known.get(-1 - d, False) and self._solve(d)
        return self.known[d]

    def _solve(self, d: DimLike) -> bool:
        worst = self._worst(d)
        if worst is not None and not D.symbols(worst) & self.outer.keys():
            return D.nonnegative(worst)
        bound = self._bound(d)
        if bound is None:
            return False
        name, round_, first = bound
        low, high = self.ranges.get(name, (0, self.outer[name]))
        self.ranges[name] = (D.maximum(low, round_), high) if first else (low, D.minimum(high, round_))
        return True

    def _bound(self, d: DimLike) -> tuple[str, DimLike, bool] | None:
        """The one outer loop that decides whether d >= 0, and the rounds in which it is; see `_bound`."""
        worst = self._worst(d)
        if worst is None or D.symbols(worst) & self.computed:
            return None
        names = [*(D.symbols(worst) & self.outer.keys())]
        bound = _bound(worst, names[0]) if len(names) == 1 else None
        return None if bound is None else (names[0], *bound)

    def _worst(self, d: DimLike) -> DimLike | None:
        """The smallest d of all inner rounds."""
        for name in sorted(D.symbols(d) & self.inner.keys()):
            linear = D.linear(d, name)
            if linear is None or not isinstance(linear[0], int):
                return None
            d = linear[1] + (linear[0] * (self.inner[name] - 1) if linear[0] < 0 else 0)
        return d

    def freed(self, d: DimLike | float) -> DimLike:
        """d without the limits that do nothing in the interior."""
        if not isinstance(d, Dim):
            return d  # type: ignore[return-value]
        total: DimLike = 0
        for mono, coef in d.terms:
            part: DimLike = coef
            for a in mono:
                part = part * self._freed_atom(a)
            total = total + part
        return total

    def _freed_atom(self, a: Atom) -> DimLike:
        if a.kind == "sym":
            return Dim((((a,), 1),))
        args = [self.freed(x) if isinstance(x, Dim) else x for x in a.args]
        if a.kind in ("max", "min"):  # the larger one from some round on, or the smaller one up to some round: the other is for the edge
            for one, other in (args, args[::-1]):
                d: DimLike = one - other if a.kind == "max" else other - one  # type: ignore[operator,assignment]
                bound = self._bound(d)
                if bound is not None and bound[2] == (a.kind == "max") and self.holds(d):
                    return one  # type: ignore[return-value]
        return _MAKE[a.kind](*args)  # type: ignore[operator,no-any-return]


def _is(d: DimLike, value: int) -> bool:
    return isinstance(d, int) and d == value


def _bound(d: DimLike, name: str) -> tuple[DimLike, bool] | None:
    """The rounds of loop `name` in which d >= 0: (first, True), or (first one behind, False); None where d is neither linear in the loop's
    index nor a floor division of something linear."""
    linear = D.linear(d, name)
    if linear is not None:
        step, least = linear[0], -linear[1]
    else:
        assert isinstance(d, Dim)
        around = [(m, c) for m, c in d.terms if any(name in a.symbols() for a in m)]
        (mono, sign), rest = around[0], d - Dim(tuple(around))
        quotient = mono[0]
        if len(around) > 1 or len(mono) > 1 or quotient.kind != "floordiv" or sign not in (1, -1):
            return None
        number, divisor = quotient.args
        linear = D.linear(number, name)  # type: ignore[arg-type]
        if linear is None or not isinstance(divisor, int) or divisor < 1:
            return None
        step, least = linear[0] * sign, -(rest * divisor) - linear[1] if sign > 0 else linear[1] - (rest * divisor + divisor - 1)
    if not isinstance(step, int) or step == 0:  # step * index >= least
        return None
    return (D.ceildiv(least, step), True) if step > 0 else (D.floordiv(-least, -step) + 1, False)


def _literals(guard: Expr) -> Iterator[DimLike]:
    """The inequalities d >= 0 that a guard asks for together."""
    if guard.kind == "op" and guard.name == "and":
        for a in guard.args:
            yield from _literals(a)
    turned = guard.kind == "op" and guard.name == "not"
    pair = _pair(guard.args[0] if turned else guard)
    if pair is not None:
        yield pair[0] - pair[1] if turned else pair[1] - pair[0] - 1


def _pair(e: Expr) -> tuple[DimLike, DimLike] | None:
    """(a, b) of a comparison a < b of sizes and indices."""
    if e.kind != "op" or e.name != "lt" or any(a.dtype != "int64" or a.kind not in ("index", "const") for a in e.args):
        return None
    a, b = (x.index[0] if x.kind == "index" else int(x.value) for x in e.args)
    return a, b


def _without(e: Expr, found: _Inequalities, memo: dict[int, Expr]) -> Expr:
    """e as it is in the interior."""
    if id(e) not in memo:
        memo[id(e)] = _rewritten(e, found, memo)
    return memo[id(e)]


def _rewritten(e: Expr, found: _Inequalities, memo: dict[int, Expr]) -> Expr:
    pair = _pair(e)
    if pair is not None:
        for d, truth in ((pair[1] - pair[0] - 1, True), (pair[0] - pair[1], False)):
            if found.known.get(d, False):
                return E.const(truth, "bool")
    args = tuple(_without(a, found, memo) for a in e.args)
    if e.kind == "op" and e.name == "not" and args[0].kind == "const" and args[0].dtype == "bool":
        return E.const(not args[0].value, "bool")
    if e.kind == "op" and e.name in ("and", "select"):
        return E.op(e.name, *args)
    guard = None if e.guard is None else _without(e.guard, found, memo)
    if guard is not None and guard.kind == "const" and guard.value:
        guard, args = None, ()
    binds = tuple((n, _without(b, found, memo)) for n, b in e.binds)
    return replace(e, args=args, index=tuple(found.freed(d) for d in e.index), binds=binds, guard=guard)
