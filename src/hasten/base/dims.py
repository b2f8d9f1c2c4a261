"""Symbolic integers: the sizes of tensors, offsets into them, and loop indices.

A `Dim` is a polynomial with integer coefficients over atoms; an atom is a symbol or an operation that polynomials cannot express
(floor division, remainder, maximum, minimum, selection). Constant results are plain Python ints, so a shape is `tuple[int | Dim, ...]`.
Equal expressions of the polynomial part are equal objects in canonical form: `(a + b) * 2 == 2 * b + 2 * a`.

Symbols are non-negative. A symbol with an `extent` is a loop index in `[0, extent)`; the knowledge simplifies divisions:
`(i * 58 + j) // 58 == i` where j's extent is 58. Text form: Python expression syntax, `parse` reads what `str` prints.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Union

from hasten.base.errors import ModelError, ResourceLimit

DimLike = Union[int, "Dim"]
Monomial = tuple["Atom", ...]

MAX_TERMS = 4096  # of a polynomial, counted before equal ones are added up: what no sane model reaches
MAX_DEGREE = 256
MAX_TEXT = 1 << 16  # letters of one operation with all that it holds
MAX_NUMBER = 1 << 256  # coefficients beyond it: sizes are only meaningful up to 64 bits, intermediate results to some more


class Atom:
    """A symbol (`kind == "sym"`, args = ()), or an operation over dims. Ordered and compared by its text."""

    __slots__ = ("kind", "name", "args", "extent", "key", "_hash", "_syms")

    def __init__(self, kind: str, name: str, args: tuple[DimLike | float, ...] = (), extent: DimLike | None = None):
        self.kind, self.name, self.args, self.extent = kind, name, args, extent
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


def symbol(name: str, extent: DimLike | None = None) -> Dim:
    """A non-negative unknown; with `extent`, a loop index in [0, extent)."""
    return _atom(Atom("sym", name, (), extent))


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
    """True only where x >= 0 follows from symbols being non-negative (sufficient, not necessary)."""
    if isinstance(x, int):
        return x >= 0
    return all(c >= 0 and all(_atom_nonnegative(a) for a in m) for m, c in x.terms)


def _atom_nonnegative(a: Atom) -> bool:
    if a.kind == "sym":
        return True
    if a.kind == "mod":  # has the sign of its divisor
        return nonnegative(a.args[1])  # type: ignore[arg-type]
    if a.kind == "max":
        return any(nonnegative(v) for v in a.args)  # type: ignore[arg-type]
    if a.kind in ("floordiv", "min"):
        return all(nonnegative(v) for v in a.args)  # type: ignore[arg-type]
    if a.kind in ("if_eq", "if_lt"):
        return all(nonnegative(v) for v in a.args[2:])  # type: ignore[arg-type]
    return a.kind == "scale" and nonnegative(a.args[0])  # type: ignore[arg-type]


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
    top = upper(x)
    return top is not None and nonnegative(size - top - 1)


def known_equal(a: DimLike, b: DimLike) -> bool | None:
    """True / False where it is certain, None where only the run can tell."""
    if a == b:
        return True
    diff = a - b
    if isinstance(diff, int):
        return diff == 0
    if (nonnegative(diff - 1)) or nonnegative(-diff - 1):
        return False
    return None


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
    inner = rest.terms[0][0][0] if isinstance(rest, Dim) and len(rest.terms) == 1 and len(rest.terms[0][0]) == 1 and rest.terms[0][1] == 1 else None
    if inner is not None and inner.kind == "floordiv" and isinstance(b, int) and isinstance(inner.args[1], int):
        return quotient + floordiv(inner.args[0], inner.args[1] * b)  # type: ignore[arg-type]
    return quotient + _atom(Atom("floordiv", "", (rest, b)))


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
