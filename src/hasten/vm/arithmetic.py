"""Values of sizes at run time, in 64 bits: what `hasten.vm.native.sizes` is as code.

Every step of a sum or product wraps around modulo 2**64, and it is told whether one did. Divisions by zero give what `dims.EVALUATORS` says, the most
negative number divided by -1 wraps, and a product with a float that lies beyond 64 bits gives the nearest 64-bit integer; none of them counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from hasten.base.dims import EVALUATORS, Atom, Dim, DimLike

_LOW, _HIGH = -(1 << 63), (1 << 63) - 1


def evaluate(x: DimLike, env: Mapping[str, int]) -> tuple[int, bool]:
    """The value of x with symbols from env (KeyError where one is missing), and whether no step on the way wrapped around."""
    sizes = _Sizes(env)
    return sizes.value(x), sizes.fits


class _Sizes:
    def __init__(self, env: Mapping[str, int]):
        self.env, self.fits = env, True

    def wrap(self, x: int) -> int:
        if _LOW <= x <= _HIGH:
            return x
        self.fits = False
        return _wrapped(x)

    def value(self, x: DimLike) -> int:
        if not isinstance(x, Dim):
            return self.wrap(x)
        total = 0
        for mono, coef in x.terms:
            part = self.wrap(coef)
            for atom in mono:
                part = self.wrap(part * self.atom(atom))
            total = self.wrap(total + part)
        return total

    def atom(self, a: Atom) -> int:
        if a.kind == "sym":
            return self.env[a.name]
        if a.kind == "scale":
            product = self.value(a.args[0]) * float(a.args[1])  # type: ignore[arg-type]
            return 0 if math.isnan(product) else math.floor(product) if _LOW <= product < 2.0**63 else _HIGH if product > 0 else _LOW
        return _wrapped(EVALUATORS[a.kind](*map(self.value, a.args)))  # type: ignore[arg-type]


def _wrapped(x: int) -> int:
    return (x - _LOW) % (1 << 64) + _LOW
