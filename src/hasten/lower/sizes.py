"""The open sizes of a model's inputs: what a caller promises of them, and what the model itself forces.

A model is traced; what it then still has to check at run time tells something about the sizes of its inputs: a product of `x[n, k]` with a
128-row matrix needs k == 128, a window of 7 an image of 7 rows or more, a Concat two lengths that agree. `learn` solves such checks for one
size; the model is traced again with what was learnt (`lower.graph`), so that all of it is simpler from its first node on: sizes that are forced
to be equal are one symbol, and what follows from a range needs neither a check nor code. What was assumed is checked at the run's entry, once
for each size, with the node that asked for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.errors import InputError, ResourceLimit, TypeInferenceError
from hasten.base.ranges import Dim
from hasten.lower.origins import Check

Fact = tuple[str, str, DimLike]  # a size, "low", "high" or "is", and what


class Sizes:
    """What is known of the sizes of inputs, from trace to trace."""

    def __init__(self, promised: Mapping[str, Dim | int] | None = None, declared: Mapping[str, Dim] | None = None):
        self.promised = dict(promised or {})  # by the model's name of a size, or the symbol's
        self.declared = dict(declared or {})  # by the model itself: what holds where nothing is promised
        self.known: dict[str, Dim] = {}  # by symbol
        self.equal: dict[str, DimLike] = {}  # symbols that are another one, a number, or an expression: chains end at what stays open
        self.rows: dict[tuple[str, str], Check] = {}  # what the run checks first: by symbol and what is checked
        self.places: dict[str, str] = {}  # where a symbol's value comes from
        self.parts: dict[str, tuple[str, int]] = {}  # symbols of sizes divided by what they are multiples of
        self._met: set[str] = set()

    # --- entering a trace -----------------------------------------------------------------------------------------------------
    def enter(self, label: str, name: str, place: str) -> DimLike:
        """What an input's size called `label` by the model is bound to: the symbol `name`, or the number that is promised."""
        self._met |= {label, name}
        promise = self.promised.get(name, self.promised.get(label, self.declared.get(label)))
        if isinstance(promise, int):
            return promise
        if name not in self.known:
            self.known[name], self.places[name] = promise or Dim(), place
            if promise is not None:
                self._promise(name, promise)
        return D.symbol(name)

    def _promise(self, name: str, promise: Dim) -> None:
        message = f"{self.places[name]} ({name}) must be {promise}"
        size = D.symbol(name)
        if promise.low:
            self.rows[name, "low"] = (promise.low, "<=", size, message, "shape")
        if promise.high is not None:
            self.rows[name, "high"] = (size, "<=", promise.high, message, "shape")
        if promise.multiple_of > 1:
            whole = D.floordiv(size, promise.multiple_of) * promise.multiple_of
            self.rows[name, "multiple"] = (size, "==", whole, message, "shape")

    def unmet(self) -> None:
        """Raises InputError for promises of sizes that the model does not have."""
        strange = [repr(n) for n in self.promised if n not in self._met]
        if strange:
            raise InputError(f"dims: the model has no open size {', '.join(strange)}; it has {', '.join(sorted(self.known)) or 'none'}")

    def find(self, bound: DimLike) -> DimLike:
        """What stands for a size in the trace: itself, with its range; a multiple of a part; or what it is forced to be."""
        name = D.as_symbol(bound)
        if name is None:
            return bound
        if name in self.equal:
            value = self.equal[name]
            return D.substitute(value, {s: self.find(D.symbol(s)) for s in D.symbols(value)})
        known = self.known[name]
        if known.low == known.high:
            return known.low
        if known.multiple_of == 1:
            return D.symbol(name, None, known.low, known.high)
        step = known.multiple_of
        part = f"{name}_by_{step}"
        while part in self.known:
            part += "_"
        self.parts[part] = (name, step)
        return D.symbol(part, None, -(-known.low // step), None if known.high is None else known.high // step) * step

    def whole(self, d: DimLike) -> DimLike:
        """d with sizes for their parts again: as users know them."""
        for part, (name, step) in self.parts.items():
            if part in D.symbols(d):
                split = D.linear(d, part)
                if split is None or any(c % step for _, c in D._terms(split[0])):
                    d = D.substitute(d, {part: D.floordiv(D.symbol(name), step)})
                else:
                    d = _divided(split[0], step) * D.symbol(name) + split[1]
        return d

    # --- learning from a trace ------------------------------------------------------------------------------------------------
    def learn(self, checks: Iterable[Check], aliases: Mapping[str, DimLike]) -> bool:
        """Takes what the checks of a trace tell; whether that was anything new. Raises TypeInferenceError where no size fits them all."""
        found = False
        for check in checks:
            for name, side, value in self._facts(check, aliases):
                found |= self._take(name, side, value, check)
        return found

    def _facts(self, check: Check, aliases: Mapping[str, DimLike]) -> Iterator[Fact]:
        left, op, right, *_ = check
        try:
            rest = D.expanded(right - left, {n: d for n, d in aliases.items() if n not in self.parts})
        except ResourceLimit:  # too long an expression: it stays a check
            return
        if op == "!=" or isinstance(rest, int) or not D.symbols(rest) <= self.known.keys() | self.parts.keys():
            return
        rest = _reduced(rest)
        if op == "==":
            yield from _equal_facts(rest, [*self.parts, *self.known])
        else:
            yield from _at_least(rest, 1 if op == "<" and not isinstance(rest, int) else 0)

    def _take(self, name: str, side: str, value: DimLike, check: Check) -> bool:
        if name in self.parts:
            name, step = self.parts[name]
            value = value * step
        if name in self.equal:
            return False
        if not isinstance(value, int):
            return self._unite(name, self.whole(value), check)
        return self._fix(name, value, check) if side == "is" else self._tighten(name, side, value, check)

    def _fix(self, name: str, value: int, check: Check) -> bool:
        """`name` is the number `value` from now on."""
        known = self.known[name]
        if known.low == known.high == value:
            return False
        *_, message, kind = check
        words = f"{message}: {self.places[name]} ({name}) must be {value}"
        if value not in known:
            self._none(name, words)
        self.known[name] = Dim(value, value)
        self.rows = {key: row for key, row in self.rows.items() if key[0] != name}
        self.rows[name, "is"] = (D.symbol(name), "==", value, words, kind)
        return True

    def _unite(self, name: str, value: DimLike, check: Check) -> bool:
        """`name` is `value` from now on."""
        if name in D.symbols(D.expanded(value, self.equal)):
            return False
        known, other = self.known[name], D.as_symbol(value)
        self.equal[name] = value
        *_, message, kind = check
        self.rows[name, "is"] = (D.symbol(name), "==", value, f"{message}: {self.places[name]} ({name}) must be {value}", kind)
        if other is not None:
            self.known[other] = self._fitting(other, known, message)
        return True

    def _tighten(self, name: str, side: str, value: int, check: Check) -> bool:
        """`name` is at least, or at most, `value` from now on."""
        known = self.known[name]
        if value <= known.low if side == "low" else known.high is not None and value >= known.high:
            return False
        *_, message, kind = check
        self.known[name] = self._fitting(name, Dim(value) if side == "low" else Dim(0, value), message) if value >= 0 else self._none(name, message)
        size = D.symbol(name)
        words = f"{message}: {self.places[name]} ({name}) must be at {'least' if side == 'low' else 'most'} {value}"
        self.rows[name, side] = (value, "<=", size, words, kind) if side == "low" else (size, "<=", value, words, kind)
        return True

    def _fitting(self, name: str, also: Dim, message: str) -> Dim:
        try:
            return self.known[name].both(also)
        except InputError:
            return self._none(name, f"{message}, which needs {self.places[name]} ({name}) to be {also}")

    def _none(self, name: str, message: str) -> Dim:
        others = "; ".join(dict.fromkeys(row[3] for (n, _), row in self.rows.items() if n == name))
        raise TypeInferenceError(f"{message}: no size fits" + (f" with what else is needed: {others}" if others else ""))


def _divided(d: DimLike, by: int) -> DimLike:
    return D._make({m: c // by for m, c in D._terms(d)})


def _reduced(d: DimLike) -> DimLike:
    """d divided by numbers and sizes that are at least 1 and divide all of it: where d is 0, or at least 0, stays the same."""
    if isinstance(d, int):
        return d
    for atom in d.terms[-1][0]:
        if all(atom in m for m, _ in d.terms) and (D.bounds(D._atom(atom))[0] or 0) >= 1:
            return _reduced(D._make({D._divide(m, (atom,)) or (): c for m, c in d.terms}))
    return _divided(d, math.gcd(*(c for _, c in d.terms)))


def _single(d: DimLike) -> tuple[int, D.Atom, int] | None:
    """(c, atom, k) where d is c * atom + k."""
    rest = [(m, c) for m, c in D._terms(d) if m]
    if len(rest) != 1 or len(rest[0][0]) != 1:
        return None
    return rest[0][1], rest[0][0][0], sum(c for m, c in D._terms(d) if not m)


def _at_least(d: DimLike, value: int) -> Iterator[Fact]:
    """What d >= value tells."""
    found = _single(d)
    if found is None:
        return
    factor, atom, constant = found
    value -= constant
    if factor < 0:
        yield from _atom_at_most(atom, value // factor)
        return
    value = -(-value // factor)
    if atom.kind == "sym":
        yield atom.name, "low", value
    elif atom.kind == "floordiv" and isinstance(atom.args[1], int) and atom.args[1] > 0:
        yield from _at_least(atom.args[0], value * atom.args[1])  # type: ignore[arg-type]
    elif atom.kind in ("max", "min"):
        for one, other in (atom.args, atom.args[::-1]):
            most = D.bounds(other)[1]
            if atom.kind == "min" or (most is not None and most < value):
                yield from _at_least(one, value)  # type: ignore[arg-type]
    elif atom.kind in ("if_eq", "if_lt"):
        larger = D.larger_of(*atom.args[2:])  # type: ignore[arg-type]
        if larger is not None:
            yield from _at_least(larger, value)


def _atom_at_most(atom: D.Atom, value: int) -> Iterator[Fact]:
    """What atom <= value tells."""
    if atom.kind == "sym":
        yield atom.name, "high", value
    elif atom.kind == "floordiv" and isinstance(atom.args[1], int) and atom.args[1] > 0:
        yield from _at_least(-atom.args[0], -(value * atom.args[1] + atom.args[1] - 1))  # type: ignore[arg-type]
    elif atom.kind in ("max", "min"):
        for one, other in (atom.args, atom.args[::-1]):
            least = D.bounds(other)[0]
            if atom.kind == "max" or (least is not None and least > value):
                yield from _at_least(-one, -value)  # type: ignore[arg-type]


def _equal_facts(d: DimLike, names: list[str]) -> Iterator[Fact]:
    """What d == 0 tells. Of two sizes, the one that came later among `names` is the other."""
    found = _single(d)
    if found is not None:
        factor, atom, constant = found
        if constant % factor == 0 and atom.kind == "sym":
            yield atom.name, "is", -constant // factor
        elif constant % factor == 0:
            value = -constant // factor
            yield from _at_least(D._atom(atom), value)
            yield from _atom_at_most(atom, value)
        return
    for name in reversed(names):
        split = D.linear(d, name)
        if split is not None and split[0] in (1, -1):
            yield name, "is", split[1] * -split[0]
            return
    yield from _chosen_facts(d)


def _chosen_facts(d: DimLike) -> Iterator[Fact]:
    """What x - min(x, y) == 0 tells: x <= y; and x - max(x, y) == 0."""
    for mono, coef in D._terms(d):
        if len(mono) == 1 and mono[0].kind in ("min", "max"):
            rest = d - D._atom(mono[0]) * coef
            for one, other in (mono[0].args, mono[0].args[::-1]):
                if rest == one * -coef:
                    yield from _at_least(other - one if mono[0].kind == "min" else one - other, 0)  # type: ignore[arg-type,operator]
