"""Size expressions (`Dim`) as code: LLVM values for the native driver, with the meaning that `dims.EVALUATORS` defines.

Arithmetic is in 64 bits. `Sizes.value` wraps around; `Sizes.checked` also tells whether an intermediate result did not
fit. Divisions never trap: by zero they give what the evaluators say, and the most negative number by -1 wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hasten.base.dims import Atom, Dim, DimLike, symbols
from hasten.codegen.builder import Function, Module, V

_FLOORDIV, _MOD, _SCALE = "hst_floordiv", "hst_mod", "hst_scale"
_Key = tuple[object, bool]


class Sizes:
    """Emits dims into one function; remembers what is computed already. `integer(name)` gives the value of a symbol.

    Values are remembered by block: `enter` before a nested block and `leave` after it, `forget` names that were (or, at
    the head of a loop, will be) assigned.
    """

    def __init__(self, f: Function, integer: Callable[[str], V]):
        self.f, self.integer = f, integer
        self._known: list[dict[_Key, V]] = [{}]
        self._flags: list[V] = []

    def enter(self) -> None:
        self._known.append({})

    def leave(self) -> None:
        self._known.pop()

    def restart(self) -> None:
        """Nothing is known here that was computed before."""
        for known in self._known:
            known.clear()

    def forget(self, names: Iterable[str]) -> None:
        gone = set(names)
        for known in self._known:
            for key in [k for k in known if not gone.isdisjoint(_names(k[0]))]:
                del known[key]

    def value(self, x: DimLike) -> V:
        """x modulo 2**64."""
        return self._any(x, False)

    def checked(self, x: DimLike) -> tuple[V, V | None]:
        """x, and an i1 that is set where it did not fit into 64 bits (None: it always fits). The caller ends the run
        where it is set."""
        self._flags = []
        result = self._any(x, True)
        flag: V | None = None
        for one in self._flags:
            flag = one if flag is None else flag | one
        return result, flag

    def _any(self, x: DimLike | float, checked: bool) -> V:
        if not isinstance(x, Dim):
            return self._number(int(x), checked)
        return self._remember((x, checked), lambda: self._sum(x, checked))

    def _number(self, x: int, checked: bool) -> V:
        if checked and x != _wrapped(x):
            self._flags.append(self.f.const("i1", True))
        return self.f.const("i64", _wrapped(x))

    def _remember(self, key: _Key, compute: Callable[[], V]) -> V:
        for known in reversed(self._known):
            if key in known:
                return known[key]
        self._known[-1][key] = result = compute()
        return result

    def _sum(self, x: Dim, checked: bool) -> V:
        total: V | None = None
        for mono, coef in x.terms:
            part: V | None = None if coef == 1 and mono else self._number(coef, checked)
            for atom in mono:
                value = self._remember((atom, checked), lambda a=atom: self._atom(a, checked))  # type: ignore[misc]
                part = value if part is None else self._arithmetic("mul", value, part, checked)
            assert part is not None
            total = part if total is None else self._arithmetic("add", total, part, checked)
        assert total is not None
        return total

    def _arithmetic(self, op: str, a: V, b: V, checked: bool) -> V:
        if not checked:
            return a * b if op == "mul" else a + b
        f = self.f
        name = f"llvm.s{op}.with.overflow.i64"
        f.module.declare(name, "{i64, i1}", ["i64", "i64"])
        both = f.emit("{i64, i1}", f"call {{i64, i1}} @{name}({a}, {b})")
        self._flags.append(f.emit("i1", f"extractvalue {both}, 1"))
        return f.emit("i64", f"extractvalue {both}, 0")

    def _atom(self, atom: Atom, checked: bool) -> V:
        if atom.kind == "sym":
            return self.integer(atom.name)
        f = self.f
        if atom.kind == "scale":
            factor = f.const("double", float(atom.args[1]))  # type: ignore[arg-type]
            return f.call(_SCALE, "i64", [self._any(atom.args[0], checked), factor])
        args = [self._any(a, checked) for a in atom.args]
        if atom.kind in ("floordiv", "mod"):
            return self._division(atom.kind, args[0], args[1], atom.args[1])
        if atom.kind in ("max", "min"):
            return f.smax(args[0], args[1]) if atom.kind == "max" else f.smin(args[0], args[1])
        a, b, then, other = args
        return f.select(a.eq(b) if atom.kind == "if_eq" else a < b, then, other)

    def _division(self, kind: str, a: V, b: V, divisor: DimLike | float) -> V:
        if isinstance(divisor, int) and divisor > 0 and divisor & (divisor - 1) == 0:
            return a >> (divisor.bit_length() - 1) if kind == "floordiv" else a & (divisor - 1)
        return self.f.call(_FLOORDIV if kind == "floordiv" else _MOD, "i64", [a, b])


def _names(x: object) -> frozenset[str]:
    return x.symbols() if isinstance(x, Atom) else symbols(x)  # type: ignore[arg-type]


def _wrapped(x: int) -> int:
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


def emit_division(module: Module) -> None:
    """The functions that `Sizes` calls, into its module."""
    for name, quotient_wanted in ((_FLOORDIV, True), (_MOD, False)):
        f = module.function(name, [("a", "i64"), ("b", "i64")], "i64", "nounwind", internal=True)
        a, b = f.args
        odd = b.eq(0) | b.eq(-1)  # what the machine's division would trap on
        safe = f.select(odd, 1, b)
        quotient = a // safe
        rest = a - quotient * safe
        adjust = rest.ne(0) & ((rest ^ safe) < 0)
        if quotient_wanted:
            usual = f.select(adjust, quotient - 1, quotient)
            f.ret(f.select(b.eq(0), a, f.select(b.eq(-1), 0 - a, usual)))
        else:
            f.ret(f.select(odd, 0, f.select(adjust, rest + safe, rest)))
    f = module.function(_SCALE, [("a", "i64"), ("factor", "double")], "i64", "nounwind", internal=True)
    a, factor = f.args
    product = f.cast(a, "double") * factor
    whole = f.intrinsic("llvm.fptosi.sat", "i64", [product], ["i64", "double"])
    below = (f.cast(whole, "double") > product) & whole.ne(-(1 << 63))  # truncated, not limited
    f.ret(f.select(below, whole - 1, whole))
