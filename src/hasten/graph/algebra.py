"""Scalar formulas in a graph, recognized by value and not by shape: a value becomes a polynomial over named atoms.

`Formula(atoms).of(value)` follows Add, Sub, Mul, Div, Neg and Pow by constants back to the atoms, so every way of
writing 0.5 * x * (1 + t) gives the same polynomial {(x,): 0.5, (t, x): 0.5}. Patterns then compare coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from hasten.graph.edit import is_op, scalar

Monomial = tuple[str, ...]
Polynomial = dict[Monomial, float]

MAX_DEPTH = 10
MAX_DEGREE = 4


class Formula:
    """Polynomials over the given atoms; `interior` collects the nodes that were passed through."""

    def __init__(self, atoms: Mapping[ir.Value, str]) -> None:
        self._atoms = dict(atoms)
        self.interior: set[ir.Node] = set()

    def of(self, value: ir.Value | None, depth: int = 0) -> Polynomial | None:
        """The polynomial of a value; None when it is not one of these atoms (or too long)."""
        if value is None or depth > MAX_DEPTH:
            return None
        if value in self._atoms:
            return {(self._atoms[value],): 1.0}
        number = scalar(value)
        if number is not None:
            return {(): number}
        node = value.producer()
        if node is None or not is_op(node, "Add", "Sub", "Mul", "Div", "Neg", "Pow"):
            return None
        parts = [self.of(operand, depth + 1) for operand in node.inputs]
        if any(part is None for part in parts):
            return None
        self.interior.add(node)
        return _combine(node.op_type, [part for part in parts if part is not None])


def _combine(op_type: str, parts: list[Polynomial]) -> Polynomial | None:
    if op_type == "Neg":
        return _scaled(parts[0], -1.0)
    left, right = parts
    if op_type == "Add":
        return _sum(left, right)
    if op_type == "Sub":
        return _sum(left, _scaled(right, -1.0))
    if op_type == "Mul":
        return _product(left, right)
    number = right.get(()) if set(right) == {()} else None
    if number is None:
        return None
    if op_type == "Div":
        return _scaled(left, 1.0 / number) if number else None
    result: Polynomial | None = {(): 1.0}
    for _ in range(int(number) if number in (1.0, 2.0, 3.0) else 0):
        result = _product(result, left) if result is not None else None
    return result if number in (1.0, 2.0, 3.0) else None


def _scaled(p: Polynomial, factor: float) -> Polynomial:
    return {monomial: c * factor for monomial, c in p.items()}


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    return {monomial: a.get(monomial, 0.0) + b.get(monomial, 0.0) for monomial in {**a, **b}}


def _product(a: Polynomial, b: Polynomial) -> Polynomial | None:
    result: Polynomial = {}
    for first, x in a.items():
        for second, y in b.items():
            monomial = tuple(sorted(first + second))
            if len(monomial) > MAX_DEGREE:
                return None
            result[monomial] = result.get(monomial, 0.0) + x * y
    return result


def same(found: Polynomial | None, wanted: Polynomial, tolerance: float = 1e-3) -> bool:
    """Whether two polynomials agree, each coefficient within a relative tolerance (constants are stored rounded)."""
    if found is None:
        return False
    return all(
        abs(found.get(m, 0.0) - wanted.get(m, 0.0)) <= tolerance * abs(wanted.get(m, 0.0)) + 1e-9
        for m in {**found, **wanted}
    )


def operands(value: ir.Value | None, depth: int = 4) -> Iterator[ir.Value]:
    """Values that are not constant in the arithmetic that computes `value`, nearest first."""
    level, seen = [value], set()
    for _ in range(depth):
        following: list[ir.Value | None] = []
        for current in level:
            node = current.producer() if current is not None else None
            if node is None or not is_op(node, "Add", "Sub", "Mul", "Div", "Neg", "Pow"):
                continue
            for operand in node.inputs:
                if operand is not None and operand.const_value is None and operand not in seen:
                    seen.add(operand)
                    yield operand
                    following.append(operand)
        level = following


def results(value: ir.Value, depth: int = 4) -> Iterator[ir.Value]:
    """Values that arithmetic computes from `value`, nearest first."""
    level, seen = [value], {value}
    for _ in range(depth):
        following: list[ir.Value] = []
        for current in level:
            for user, _index in current.uses():
                if is_op(user, "Add", "Sub", "Mul", "Div", "Neg") and user.outputs[0] not in seen:
                    seen.add(user.outputs[0])
                    yield user.outputs[0]
                    following.append(user.outputs[0])
        level = following
