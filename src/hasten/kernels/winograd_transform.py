"""Constant matrices times vectors of values in registers, with few operations.

Interpolation at points a and -a gives rows (columns) that differ in signs alone, so that sums of even and odd terms are
shared: out = E + c O and E - c O for rows, s = x + x' and d = x - x' for columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from hasten.codegen.builder import Function, V
from hasten.kernels.winograd_matrices import Matrix

Row = dict[int, Fraction]  # coefficients by the number of the value, without zeros


def multiply(f: Function, matrix: Matrix, values: Sequence[V]) -> list[V]:
    """The rows of `matrix` times `values`."""
    rows = [{k: c for k, c in enumerate(row) if c} for row in matrix]
    terms = _fold_columns(f, rows, list(values))
    out: dict[int, V] = {}
    for i, row in enumerate(rows):
        if i in out:
            continue
        partner = next((k for k in range(i + 1, len(rows)) if _mirrors(row, rows[k])), None)
        if partner is None:
            total = _sum(f, row, terms)
            out[i] = total.value if total.scale == 1 else total.value * float(total.scale)
        else:
            out[i], out[partner] = _pair(f, row, rows[partner], terms)
    return [out[i] for i in range(len(rows))]


def nested(f: Function, rows: Matrix, columns: Matrix, load: Callable[[int, int], V], store: Callable[[int, int, V], None]) -> None:
    """rows X columns^T, where load(i, j) gives X and store(i, j, value) takes the result, row by row."""
    height, width = len(rows[0]), len(columns[0])
    first = [multiply(f, rows, [load(i, j) for i in range(height)]) for j in range(width)]
    for i in range(len(rows)):
        for j, value in enumerate(multiply(f, columns, [column[i] for column in first])):
            store(i, j, value)


@dataclass
class _Scaled:
    """scale * value."""

    scale: Fraction
    value: V


def _fold_columns(f: Function, rows: list[Row], values: list[V]) -> list[V]:
    """Replace two columns that differ in signs alone, in both ways, by their sum and difference; `rows` are changed."""
    count = len(values)
    for j in range(count):
        for k in range(j + 1, count):
            both = [(row.get(j, Fraction(0)), row.get(k, Fraction(0))) for row in rows]
            same, other = [a == b for a, b in both if a], [a == -b for a, b in both if a]
            if any(abs(a) != abs(b) for a, b in both) or not any(same) or not any(other):
                continue
            total, difference = values[j] + values[k], values[j] - values[k]
            values[j], values[k] = total, difference
            for row, (a, b) in zip(rows, both, strict=True):
                row.pop(k, None)
                if a and a == -b:
                    row[k] = row.pop(j)
            break
    return values


def _mirrors(row: Row, other: Row) -> bool:
    """Whether two rows differ in signs alone, but not in all or none."""
    if len(row) < 2 or row.keys() != other.keys():
        return False
    ratios = [other[k] / c for k, c in row.items()]
    return set(ratios) == {Fraction(1), Fraction(-1)}


def _pair(f: Function, row: Row, other: Row, values: Sequence[V]) -> tuple[V, V]:
    """Two mirrored rows: the part they share plus and minus the part in which signs differ."""
    even = _sum(f, {k: c for k, c in row.items() if other[k] == c}, values)
    odd = _sum(f, {k: c for k, c in row.items() if other[k] == -c}, values)
    if even.scale == 1:
        return _add(f, odd.scale, odd.value, even.value), _add(f, -odd.scale, odd.value, even.value)
    base = odd.value if odd.scale == 1 else odd.value * float(odd.scale)
    return _add(f, even.scale, even.value, base), _subtract(f, even.scale, even.value, base)


def _sum(f: Function, row: Row, values: Sequence[V]) -> _Scaled:
    """sum row[k] values[k], divided by its coefficient of the highest number unless one is 1 already."""
    scale = Fraction(1) if Fraction(1) in row.values() else row[max(row)]
    parts = sorted(((c / scale, k) for k, c in row.items()), key=lambda part: (part[0] != 1, part[1]))
    total = values[parts[0][1]]
    for c, k in parts[1:]:
        total = _add(f, c, values[k], total)
    return _Scaled(scale, total)


def _add(f: Function, c: Fraction, x: V, total: V) -> V:
    """c * x + total."""
    if abs(c) == 1:
        return total + x if c == 1 else total - x
    return f.fma(x, f.const(x.type, float(c)), total)


def _subtract(f: Function, c: Fraction, x: V, total: V) -> V:
    """c * x - total."""
    return x - total if c == 1 else f.fma(x, f.const(x.type, float(c)), -total)
