"""Symbolic integers: the sizes of tensors, offsets into them, and loop indices.

A `Dim` is a polynomial with integer coefficients over atoms; an atom is a symbol or an operation that polynomials cannot express
(floor division, remainder, maximum, minimum, selection). Constant results are plain Python ints, so a shape is `tuple[int | Dim, ...]`.
Equal expressions of the polynomial part are equal objects in canonical form: `(a + b) * 2 == 2 * b + 2 * a`.

Symbols are non-negative, and may be known to lie in a narrower range: with `low` and `high`, or as a loop index in `[0, extent)`. What is
known simplifies: `(i * 58 + j) // 58 == i` where j's extent is 58, `max(s, 1) == s` where s has low 1. A symbol is its name: what is known of it
is no part of its identity. Text form: Python expression syntax, `parse` reads what `str` prints (and knows no ranges).
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Union

from hasten.base.errors import ModelError, ResourceLimit

DimLike = Union[int, "Dim"]
Range = tuple[int | None, int | None]  # least and largest value, both included; None: not known
Monomial = tuple["Atom", ...]

MAX_TERMS = 4096  # of a polynomial, counted before equal ones are added up: what no sane model reaches
MAX_DEGREE = 256
MAX_TEXT = 1 << 16  # letters of one operation with all that it holds
MAX_NUMBER = 1 << 256  # coefficients beyond it: sizes are only meaningful up to 64 bits, intermediate results to some more


class Atom:
    """A symbol (`kind == "sym"`, args = ()), or an operation over dims. Ordered and compared by its text."""

    __slots__ = ("kind", "name", "args", "extent", "low", "high", "key", "_hash", "_syms", "_range")

    def __init__(self, kind: str, name: str, args: tuple[DimLike | float, ...] = (), extent: DimLike | None = None, low: int = 0, high: int | None = None):
        self.kind, self.name, self.args, self.extent, self.low, self.high = kind, name, args, extent, low, high
        self._range: Range | None = None
        self.key = name if kind == "sym" else f"{kind}({', '.join(map(str, args))})"
        if len(self.key) > MAX_TEXT:
            raise ResourceLimit(f"a size became too long an expression of the model's sizes: {self.key[:80]}...")
        self._hash = hash(self.key)
        self._syms: frozenset[str] | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Atom) and self.key == other.key)

    def __lt__(self, other: Atom) -> bool:
        return self.key < other.key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return self.key

    def symbols(self) -> frozenset[str]:
        if self._syms is None:
            self._syms = frozenset([self.name]) if self.kind == "sym" else frozenset().union(*(symbols(a) for a in self.args))
        return self._syms


class Dim:
    """An integer polynomial that is not constant. Built by arithmetic on `symbol(...)`; never directly."""

    __slots__ = ("terms", "_hash")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]):
        self.terms = terms
        self._hash = hash(terms)

    # --- arithmetic -------------------------------------------------------------------------------------------------
    def __add__(self, other: DimLike) -> DimLike:
        if isinstance(other, int) and other == 0:
            return self
        acc = dict(self.terms)
        for mono, coef in _terms(other):
            acc[mono] = acc.get(mono, 0) + coef
        return _make(acc)

    def __mul__(self, other: DimLike) -> DimLike:
        if isinstance(other, int):
            if abs(other) > MAX_NUMBER:
                raise ResourceLimit("a size is too large a number")
            return 0 if other == 0 else self if other == 1 else Dim(tuple((m, c * other) for m, c in self.terms))
        acc: dict[Monomial, int] = {}
        if len(self.terms) * len(other.terms) > MAX_TERMS or len(self.terms[-1][0]) + len(other.terms[-1][0]) > MAX_DEGREE:
            raise ResourceLimit(f"a size became too long an expression of the model's sizes: {self.terms[-1][0][:4]}...")
        for m1, c1 in self.terms:
            for m2, c2 in other.terms:
                mono = tuple(sorted(m1 + m2))
                acc[mono] = acc.get(mono, 0) + c1 * c2
        return _make(acc)

    def __neg__(self) -> DimLike:
        return self * -1

    def __sub__(self, other: DimLike) -> DimLike:
        return self + (other * -1)

    def __rsub__(self, other: int) -> DimLike:
        return (self * -1) + other

    __radd__ = __add__
    __rmul__ = __mul__

    def __floordiv__(self, other: DimLike) -> DimLike:
        return floordiv(self, other)

    def __rfloordiv__(self, other: int) -> DimLike:
        return floordiv(other, self)

    def __mod__(self, other: DimLike) -> DimLike:
        return mod(self, other)

    def __rmod__(self, other: int) -> DimLike:
        return mod(other, self)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Dim) and self.terms == other.terms)

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of the symbolic size {self} is not known at compile time; use is_zero/known_equal")

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        out = ""
        for mono, coef in sorted(self.terms, key=lambda t: (len(t[0]) == 0, [a.key for a in t[0]])):
            body = "*".join([a.key for a in mono] + ([str(abs(coef))] if abs(coef) != 1 or not mono else []))
            out += (" - " if coef < 0 else " + ") + body
        return out[3:] if out.startswith(" + ") else "-" + out[3:]


def _terms(x: DimLike) -> tuple[tuple[Monomial, int], ...]:
    return x.terms if isinstance(x, Dim) else (((), x),) if x else ()


def _make(acc: Mapping[Monomial, int]) -> DimLike:
    terms = tuple(sorted(((m, c) for m, c in acc.items() if c), key=lambda t: (len(t[0]), t[0])))
    if not terms:
        return 0
    if len(terms) > MAX_TERMS or any(abs(c) > MAX_NUMBER for _, c in terms):
        raise ResourceLimit("a size became too long an expression of the model's sizes, or too large a number")
    if len(terms) == 1 and not terms[0][0]:
        return terms[0][1]
    return Dim(terms)


def _atom(atom: Atom) -> Dim:
    return Dim((((atom,), 1),))


def symbol(name: str, extent: DimLike | None = None, low: int = 0, high: int | None = None) -> Dim:
    """A non-negative unknown, from `low` to `high` where these are given; with `extent`, a loop index in [0, extent)."""
    return _atom(Atom("sym", name, (), extent, low, high))


def symbols(x: DimLike | float) -> frozenset[str]:
    """Names of all symbols in x."""
    if not isinstance(x, Dim):
        return frozenset()
    return frozenset().union(*(a.symbols() for m, _ in x.terms for a in m))


def as_symbol(x: DimLike) -> str | None:
    """The name, if x is exactly one symbol."""
    if isinstance(x, Dim) and len(x.terms) == 1 and x.terms[0][1] == 1 and len(x.terms[0][0]) == 1:
        atom = x.terms[0][0][0]
        return atom.name if atom.kind == "sym" else None
    return None


# --- what is known ------------------------------------------------------------------------------------------------------
def nonnegative(x: DimLike) -> bool:
    """True only where x >= 0 follows from what is known of the symbols (sufficient, not necessary)."""
    if isinstance(x, int):
        return x >= 0
    if all(c >= 0 and all(_atom_nonnegative(a) for a in m) for m, c in x.terms):
        return True
    low = bounds(x)[0]
    if low is not None and low >= 0:
        return True
    common = next((a for a in x.terms[-1][0] if _atom_nonnegative(a) and all(a in m for m, _ in x.terms)), None)
    return common is not None and len(x.terms) > 1 and nonnegative(_make({_divide(m, (common,)) or (): c for m, c in x.terms}))


def _atom_nonnegative(a: Atom) -> bool:
    low = a.low if a.kind == "sym" else _atom_range(a)[0]
    return low is not None and low >= 0


def bounds(x: DimLike | float) -> Range:
    """Numbers between which x certainly lies, both included; None on a side where nothing is known. Each term is taken for itself."""
    if not isinstance(x, Dim):
        return (x, x)  # type: ignore[return-value]
    low: int | None = 0
    high: int | None = 0
    for mono, coef in x.terms:
        least, most = _monomial_range(mono)
        if coef < 0:
            least, most = most, least
        low = None if low is None or least is None else low + coef * least
        high = None if high is None or most is None else high + coef * most
    return low, high


def _monomial_range(mono: Monomial) -> Range:
    low: int | None = 1
    high: int | None = 1
    for a in mono:
        least, most = _atom_range(a)
        if low is None or least is None or least < 0:
            return (least, most) if len(mono) == 1 else (None, None)
        low, high = low * least, 0 if most == 0 or high == 0 else None if high is None or most is None else high * most
    return low, high


def _atom_range(a: Atom) -> Range:
    if a._range is None:
        a._range = _RANGES[a.kind](a, *map(_range, a.args))
    return a._range


def _range(x: DimLike | float) -> Range:
    """`bounds`, with 0 where these give nothing and x is not negative all the same."""
    low, high = bounds(x)
    if (low is None or low < 0) and isinstance(x, Dim) and nonnegative(x):
        low = 0
    return low, high


def _symbol_range(a: Atom) -> Range:
    top = None if a.extent is None else bounds(a.extent)[1]
    return a.low, a.high if top is None else max(top - 1, 0)


def _floordiv_range(_: Atom, a: Range, b: Range) -> Range:
    (low, high), (least, most) = a, b
    if least is None or least < 0:
        return None, None
    least = max(least, 1)  # by zero gives a, as by one
    far = (0, -1) if most is None else None
    smallest = None if low is None else low // least if low < 0 else far[0] if far else low // max(most or 1, 1)
    largest = None if high is None else high // least if high >= 0 else far[1] if far else high // max(most or 1, 1)
    return smallest, largest


def _mod_range(_: Atom, a: Range, b: Range) -> Range:
    (low, high), (least, most) = a, b
    if least is None or least < 0:
        return None, None
    top = None if most is None else max(most - 1, 0)
    if low is None or low < 0 or high is None:
        return 0, top
    return (low, high) if high < least else (0, high if top is None else min(high, top))


def _largest(values: list[int | None]) -> int | None:
    known = [v for v in values if v is not None]
    return max(known) if len(known) == len(values) else None


def _least(values: list[int | None]) -> int | None:
    known = [v for v in values if v is not None]
    return min(known) if len(known) == len(values) else None


def _max_range(_: Atom, a: Range, b: Range) -> Range:
    return max((v for v in (a[0], b[0]) if v is not None), default=None), _largest([a[1], b[1]])


def _min_range(_: Atom, a: Range, b: Range) -> Range:
    return _least([a[0], b[0]]), min((v for v in (a[1], b[1]) if v is not None), default=None)


def _select_range(_: Atom, __: Range, ___: Range, then: Range, other: Range) -> Range:
    return _least([then[0], other[0]]), _largest([then[1], other[1]])


def _scale_range(a: Atom, x: Range, factor: Range) -> Range:
    if not factor[0] or factor[0] < 0:
        return None, None
    return tuple(None if v is None else math.floor(v * factor[0]) for v in x)  # type: ignore[return-value]


_RANGES: dict[str, Callable[..., Range]] = {
    "sym": _symbol_range, "floordiv": _floordiv_range, "mod": _mod_range, "max": _max_range, "min": _min_range,
    "if_eq": _select_range, "if_lt": _select_range, "scale": _scale_range,
}  # fmt: skip


def upper(x: DimLike) -> DimLike | None:
    """An inclusive upper bound in which loop indices are replaced by their largest value; None where a sign is unknown."""
    if isinstance(x, int):
        return x
    total: DimLike = 0
    for mono, coef in x.terms:
        part: DimLike = coef
        for a in mono:
            if coef < 0:
                if not _atom_nonnegative(a):
                    return None
                part = 0 if a.extent is not None or a.kind != "sym" else part * _atom(a)
                if isinstance(part, int) and part == 0:
                    break
            elif a.kind == "sym":
                part = part * ((a.extent - 1) if a.extent is not None else _atom(a))
            elif a.kind == "mod" and _atom_nonnegative(a):
                part = part * (a.args[1] - 1)  # type: ignore[operator,assignment]
            elif a.kind == "floordiv" and isinstance(a.args[1], int) and a.args[1] > 0 and nonnegative(a.args[0]):  # type: ignore[arg-type]
                top = upper(a.args[0])  # type: ignore[arg-type]
                if top is None:
                    return None
                part = part * floordiv(top, a.args[1])
            else:
                return None
        total = total + part
    return total


def in_range(x: DimLike, size: DimLike) -> bool:
    """True only where 0 <= x < size can be proved."""
    if not nonnegative(x):
        return False
    most, least = bounds(x)[1], bounds(size)[0]
    if most is not None and least is not None and most < least:
        return True
    top = upper(x)
    return top is not None and nonnegative(size - top - 1)


def known_equal(a: DimLike, b: DimLike) -> bool | None:
    """True / False where it is certain, None where only the run can tell."""
    if a == b:
        return True
    diff = a - b
    if isinstance(diff, int):
        return diff == 0
    if nonnegative(diff - 1) or nonnegative(-diff - 1):
        return False
    if bounds(diff) == (0, 0):
        return True
    rest = sum(c for m, c in diff.terms if not m)
    return False if rest % math.gcd(*(c for m, c in diff.terms if m)) else None


# --- operations ----------------------------------------------------------------------------------------------------------
def floordiv(a: DimLike, b: DimLike) -> DimLike:
    """Floor division; a division by zero at run time gives a."""
    if isinstance(b, int) and b == 1:
        return a
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b else a
    if a == b:
        return 1
    quotient, rest = _split(recombine(a), b)
    if (isinstance(rest, int) and rest == 0) or in_range(rest, b):
        return quotient
    if isinstance(b, int) and b > 0 and isinstance(rest, Dim):
        whole = _divided_twice(rest, b)
        if whole is not None:
            return quotient + whole
    atom = Atom("floordiv", "", (rest, b))
    low, high = _atom_range(atom)
    return quotient + (_atom(atom) if low is None or low != high else low)


def _divided_twice(x: Dim, b: int) -> DimLike | None:
    """x // b where x is y // c + d: (y + c * d) // (c * b); None for any other x."""
    shift = sum(c for m, c in x.terms if not m)
    inner = x - shift
    atom = inner.terms[0][0][0] if isinstance(inner, Dim) and len(inner.terms) == 1 and len(inner.terms[0][0]) == 1 and inner.terms[0][1] == 1 else None
    if atom is None or atom.kind != "floordiv" or not isinstance(atom.args[1], int) or atom.args[1] <= 0:
        return None
    return floordiv(atom.args[0] + atom.args[1] * shift, atom.args[1] * b)  # type: ignore[arg-type,operator]


def mod(a: DimLike, b: DimLike) -> DimLike:
    """Remainder with the sign of b (floor semantics)."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b if b else 0
    if a == b or (isinstance(b, int) and b == 1):
        return 0
    _, rest = _split(recombine(a), b)
    if isinstance(rest, int) and (rest == 0 or isinstance(b, int)):
        return rest % b if isinstance(b, int) else rest
    if in_range(rest, b):
        return rest
    return _atom(Atom("mod", "", (rest, b)))


def _split(a: DimLike, b: DimLike) -> tuple[DimLike, DimLike]:
    """a = quotient * b + rest, taking whole terms only, and of a number as much as goes: (h - 1) // 2 + 1 is (h + 1) // 2."""
    if isinstance(b, int):
        if b == 0:
            return 0, a
        quotient = _make({m: c // b for m, c in _terms(a) if c % b == 0 or not m})
        return quotient, _make({m: c if m else c % b for m, c in _terms(a) if c % b})
    if len(b.terms) != 1:  # a sum as divisor: only whole multiples of it
        for k in _multiples(a, b):
            rest = a - b * k
            if (isinstance(rest, int) and rest == 0) or in_range(rest, b):
                return k, rest
        return 0, a
    mono_b, coef_b = b.terms[0]
    quot: dict[Monomial, int] = {}
    rest_terms: dict[Monomial, int] = {}
    for mono, coef in _terms(a):
        left = _divide(mono, mono_b)
        if left is None or coef % coef_b:
            rest_terms[mono] = coef
        else:
            quot[left] = quot.get(left, 0) + coef // coef_b
    return _make(quot), _make(rest_terms)


def _multiples(a: DimLike, b: Dim) -> list[DimLike]:
    """Candidate quotients of a by a sum b: from each of a's terms divided by b's leading term."""
    lead_mono, lead_coef = b.terms[-1]
    acc: dict[Monomial, int] = {}
    for mono, coef in _terms(a):
        left = _divide(mono, lead_mono)
        if left is not None and coef % lead_coef == 0:
            acc[left] = acc.get(left, 0) + coef // lead_coef
    return [_make(acc)] if acc else []


def _divide(mono: Monomial, by: Monomial) -> Monomial | None:
    left = list(mono)
    for a in by:
        if a not in left:
            return None
        left.remove(a)
    return tuple(left)


def recombine(x: DimLike) -> DimLike:
    """x with (a // b) * b * c + (a % b) * c written as a * c: what a flat index is after it was split and multiplied by strides."""
    if not isinstance(x, Dim):
        return x
    for mono, coef in x.terms:
        for a in mono:
            if a.kind == "mod":
                left = list(mono)
                left.remove(a)
                rest = _make({tuple(left): coef})
                number, divisor = a.args
                whole = floordiv(number, divisor) * divisor * rest  # type: ignore[operator,arg-type]
                if isinstance(whole, Dim) and all((m, c) in x.terms for m, c in _terms(whole)):
                    return recombine(x - whole - _make({mono: coef}) + number * rest)  # type: ignore[operator,arg-type]
    return x


def weight(x: DimLike | float) -> int:
    """How long an expression is: its atoms, counted through."""
    if not isinstance(x, Dim):
        return 1
    return sum(1 + sum(1 if a.kind == "sym" else 1 + sum(weight(v) for v in a.args) for a in m) for m, _ in x.terms)


def ceildiv(a: DimLike, b: DimLike) -> DimLike:
    return floordiv(a + b - 1, b)


def maximum(a: DimLike, b: DimLike) -> DimLike:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    if a == b or nonnegative(a - b):
        return a
    if nonnegative(b - a):
        return b
    first, second = sorted((a, b), key=str)
    return _atom(Atom("max", "", (first, second)))


def minimum(a: DimLike, b: DimLike) -> DimLike:
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    if a == b or nonnegative(b - a):
        return a
    if nonnegative(a - b):
        return b
    first, second = sorted((a, b), key=str)
    return _atom(Atom("min", "", (first, second)))


def larger_of(a: DimLike, b: DimLike) -> DimLike | None:
    """The one of the two that is certainly not smaller than the other; None where that isn't known."""
    for x, y in ((a, b), (b, a)):
        if nonnegative(y - x) or (isinstance(x, Dim) and _is_min_with(x, y)):
            return y
    return None


def _is_min_with(x: Dim, y: DimLike) -> bool:
    """Whether x is min(y, ...)."""
    atom = x.terms[0][0][0] if len(x.terms) == 1 and len(x.terms[0][0]) == 1 and x.terms[0][1] == 1 else None
    return atom is not None and atom.kind == "min" and y in atom.args


def if_equal(a: DimLike, b: DimLike, then: DimLike, other: DimLike) -> DimLike:
    """`then` where a == b, else `other`."""
    known = known_equal(a, b)
    if known is not None:
        return then if known else other
    return then if then == other else _atom(Atom("if_eq", "", (a, b, then, other)))


def if_less(a: DimLike, b: DimLike, then: DimLike, other: DimLike) -> DimLike:
    """`then` where a < b, else `other`."""
    diff = b - a
    if nonnegative(diff - 1):
        return then
    if nonnegative(-diff if isinstance(diff, Dim) else -diff):
        return other
    return then if then == other else _atom(Atom("if_lt", "", (a, b, then, other)))


def scale_floor(a: DimLike, factor: float) -> DimLike:
    """floor(a * factor) in float64, as Resize and its kin define sizes."""
    if isinstance(a, int):
        return math.floor(a * factor)
    if factor == int(factor):
        return a * int(factor)
    return _atom(Atom("scale", "", (a, float(factor))))


def product(dims: tuple[DimLike, ...] | list[DimLike]) -> DimLike:
    total: DimLike = 1
    for d in dims:
        total = total * d
    return total


EVALUATORS: dict[str, Callable[..., int]] = {
    "floordiv": lambda a, b: a // b if b else a,
    "mod": lambda a, b: a % b if b else 0,
    "max": max,
    "min": min,
    "if_eq": lambda a, b, x, y: x if a == b else y,
    "if_lt": lambda a, b, x, y: x if a < b else y,
    "scale": lambda a, f: math.floor(a * f),
}
_SIMPLIFIERS: dict[str, Callable[..., DimLike]] = {
    "floordiv": floordiv, "mod": mod, "max": maximum, "min": minimum, "if_eq": if_equal, "if_lt": if_less, "scale": scale_floor,
}  # fmt: skip


def evaluate(x: DimLike | float, env: Mapping[str, int]) -> int:
    """The value of x with every symbol taken from env (KeyError where one is missing)."""
    if not isinstance(x, Dim):
        return x  # type: ignore[return-value]
    total = 0
    for mono, coef in x.terms:
        for a in mono:
            coef *= env[a.name] if a.kind == "sym" else EVALUATORS[a.kind](*(evaluate(v, env) for v in a.args))
        total += coef
    return total


def substitute(x: DimLike, env: Mapping[str, DimLike]) -> DimLike:
    """x with symbols replaced, simplified again."""
    if not isinstance(x, Dim) or not any(s in env for s in symbols(x)):
        return x
    total: DimLike = 0
    for mono, coef in x.terms:
        part: DimLike = coef
        for a in mono:
            if a.kind == "sym":
                value = env.get(a.name)
                part = part * (_atom(a) if value is None else value)
            else:
                args = [substitute(v, env) if isinstance(v, Dim) else v for v in a.args]
                part = part * _SIMPLIFIERS[a.kind](*args)
        total = total + part
    return total


def expanded(x: DimLike, names: Mapping[str, DimLike]) -> DimLike:
    """x with names of expressions replaced by these until none is left."""
    while found := {n: names[n] for n in symbols(x) if n in names}:
        x = substitute(x, found)
    return x


def linear(x: DimLike, name: str) -> tuple[DimLike, DimLike] | None:
    """(coefficient, rest) with x = coefficient * name + rest, both free of the symbol; None where x is not linear in it."""
    if not isinstance(x, Dim):
        return 0, x
    coef_terms: dict[Monomial, int] = {}
    rest_terms: dict[Monomial, int] = {}
    for mono, coef in x.terms:
        hits = [a for a in mono if name in a.symbols()]
        if not hits:
            rest_terms[mono] = coef
        elif len(hits) == 1 and hits[0].kind == "sym":
            left = tuple(a for a in mono if a is not hits[0])
            coef_terms[left] = coef_terms.get(left, 0) + coef
        else:
            return None
    return _make(coef_terms), _make(rest_terms)


def parse(text: str) -> DimLike:
    """Read what str() prints. Raises ModelError on anything else."""

    def build(node: ast.expr) -> DimLike:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            return node.value  # type: ignore[return-value]
        if isinstance(node, ast.Name):
            return symbol(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -build(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in (ast.Add, ast.Sub, ast.Mult):
            a, b = build(node.left), build(node.right)
            return a + b if isinstance(node.op, ast.Add) else a - b if isinstance(node.op, ast.Sub) else a * b
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SIMPLIFIERS:
            return _SIMPLIFIERS[node.func.id](*(build(a) for a in node.args))
        raise ModelError(f"not an expression over sizes: {text!r}")

    try:
        return build(ast.parse(text, mode="eval").body)
    except (SyntaxError, RecursionError, TypeError) as e:
        raise ModelError(f"not an expression over sizes: {text!r}") from e
