"""Cook-Toom matrices of Winograd convolution in exact arithmetic, and the points they interpolate at.

F(m, r) computes m neighbouring outputs of a filter with r taps from n = m + r - 1 inputs with n products:

    y = A [ (G g) * (B d) ]      A: m x n, G: n x r, B: n x n, * element by element

The products are the values of two polynomials at n points, the last of which is infinity (A and G evaluate, B interpolates,
transposed). Two dimensions nest: A_y [(G_y g G_x^T) * (B_y d B_x^T)] A_x^T. Every matrix is one of Fractions, and all that
A and B hold are float32 numbers, so that the only roundings are those of the sums; what is no such number (the divisors of
the interpolation) lies in G, which is applied in float64 when weights are packed.

The points decide the error. Powers of two times one odd number near sqrt(2), a and 2a, keep the magnitudes of all powers
balanced: benchmarks/kernel_accuracy.py compares sets of points. (See Barabasz, Anderson, Soodhalter, Gregg, "Error analysis and
improving the accuracy of Winograd convolution for deep neural networks", 2020, for the influence of points.)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Matrix = tuple[tuple[Fraction, ...], ...]

# The finite points by how many points there are in all: the smallest error measured.
POINTS: dict[int, tuple[Fraction, ...]] = {
    1: (),
    2: (Fraction(0),),
    3: (Fraction(0), Fraction(1)),
    4: (Fraction(0), Fraction(1), Fraction(-1)),
    5: (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2)),
    6: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
}


@dataclass(frozen=True)
class Algorithm:
    """F(m, r) in one dimension."""

    m: int
    r: int
    output: Matrix  # A, m x n
    filter: Matrix  # G, n x r
    input: Matrix  # B, n x n

    @property
    def n(self) -> int:
        return self.m + self.r - 1


@functools.cache
def algorithm(m: int, r: int, points: tuple[Fraction, ...] | None = None) -> Algorithm:
    """F(m, r) with the given finite points (default: POINTS)."""
    finite = POINTS[m + r - 1] if points is None else points
    if len(set(finite)) != m + r - 2:
        raise ValueError(f"F({m}, {r}) needs {m + r - 2} different finite points")
    infinity = [Fraction(int(i == m - 1)) for i in range(m)]
    output = tuple((*(a**i for a in finite), infinity[i]) for i in range(m))
    filters, inputs = [], []
    for a in finite:
        others = [b for b in finite if b != a]
        divisor = Fraction(1)
        for b in others:
            divisor *= a - b
        filters.append(tuple(a**k / divisor for k in range(r)))
        inputs.append((*_product(others), Fraction(0)))
    filters.append(tuple(Fraction(int(k == r - 1)) for k in range(r)))
    inputs.append(_product(finite))
    return Algorithm(m, r, output, tuple(filters), tuple(inputs))


def _product(roots: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """The coefficients of prod (x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return tuple(coefficients)
