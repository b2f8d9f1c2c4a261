"""`match` on algebraic data types: patterns become questions for variants, and every value must have a case.

A row is a case with the patterns that are still to be checked, each beside the value that it is about. The first open pattern of the first row
decides about which value is asked next; for each of its variants those rows go on that may still fit. Rows that run out are a value without a case.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hasten.base.types import Data
from hasten.functions import data
from hasten.functions import values as v
from hasten.functions.operators import condition
from hasten.functions.scope import Scope
from hasten.lower.trace import Tagged

Pattern = ast.MatchClass


@dataclass(frozen=True)
class Row:
    """A case: patterns to be checked, names that are bound already."""

    case: ast.match_case
    open: tuple[tuple[Any, ast.pattern], ...]
    bound: tuple[tuple[str, Any], ...] = ()


@dataclass
class Matching:
    """One match statement; see `statements._ways` for the three functions."""

    scope: Scope
    node: ast.Match
    ending: Callable[[list[ast.stmt]], Callable[[], Any]]
    only: Callable[[list[ast.stmt]], Any]
    both: Callable[..., Any]
    used: set[int]

    def go(self, rows: list[Row], witness: str, nested: bool) -> Any:
        """Read what these rows do. `nested`: inside of a side, whose end is to be made by `ending`."""
        if not rows:
            raise self.scope.error(self.node, f"no case takes {witness}; add one, or `case _:` for all that is left")
        first = self._bind(rows[0])
        if not first.open:
            return self._take(first, rows[1:], witness, nested)
        value, pattern = first.open[0]
        assert isinstance(pattern, Pattern)
        rows = [first, *map(self._bind, rows[1:])]
        known = data.known_variant(value)
        variants = list(value.family.variants) if known is None else [known]
        return self._ask(value, variants, rows, witness, nested)

    def _ask(self, value: Any, variants: list[type[Data]], rows: list[Row], witness: str, nested: bool) -> Any:
        """Go on for each variant that the value may be of."""
        variant = variants[0]
        label = f"{variant.family.__name__}.{variant.__name__}"

        def here(inside: bool) -> Any:
            fields = data.fields(self.scope.cx, value, variant)
            kept = [r for row in rows if (r := self._narrow(row, value, variant, fields)) is not None]
            return self.go(kept, f"{label}({', '.join('_' * len(fields))})", inside)

        if len(variants) == 1:
            return here(nested)
        test = Tagged(value, variant.tag)
        return self.both(self.node, test, lambda: here(True), lambda: self._ask(value, variants[1:], rows, witness, True))

    def _take(self, row: Row, rest: list[Row], witness: str, nested: bool) -> Any:
        """A row without open patterns: its case, if its guard holds."""
        scope = self.scope
        saved = dict(scope.names)
        scope.names.update(row.bound)
        self.used.add(id(row.case))

        def end() -> Any:
            return self.ending(row.case.body)() if nested else self.only(row.case.body)

        if row.case.guard is None:
            return end()
        test = condition(scope, row.case.guard, scope.evaluate(row.case.guard))
        if isinstance(test, bool):
            if test:
                return end()
            scope.names = saved
            return self.go(rest, witness, nested)

        def otherwise() -> Any:
            scope.names = dict(saved)
            return self.go(rest, witness, True)

        return self.both(row.case, test, self.ending(row.case.body), otherwise)

    def _bind(self, row: Row) -> Row:
        """The row without patterns that fit everything."""
        kept: list[tuple[Any, ast.pattern]] = []
        bound = list(row.bound)
        for value, pattern in row.open:
            if isinstance(pattern, ast.MatchAs) and pattern.pattern is not None:
                bound.append((str(pattern.name), value))
                pattern = pattern.pattern
            if isinstance(pattern, ast.MatchAs):
                bound.extend([(pattern.name, value)] if pattern.name else [])
            elif isinstance(pattern, ast.MatchClass):
                self._variant(pattern, value)
                kept.append((value, pattern))
            else:
                raise self.scope.error(pattern, "patterns are variants of data types, as Tree.Node(l, r), names, and _")
        return replace(row, open=tuple(kept), bound=tuple(bound))

    def _variant(self, pattern: ast.MatchClass, value: Any) -> type[Data]:
        """The variant that a pattern names, checked against the value that it is about."""
        found = self.scope.evaluate(pattern.cls)
        if not isinstance(found, type) or not issubclass(found, Data) or found.tag < 0:
            raise self.scope.error(pattern.cls, f"expected a variant of a data type made by hasten.adt, got {v.describe(found)}")
        if not isinstance(value, v.Datum):
            raise self.scope.error(pattern, f"{found.__qualname__} is a pattern for values of {found.family.__name__}, this is {v.describe(value)}")
        if found.family is not value.family:
            raise self.scope.error(pattern, f"{found.__qualname__} is no variant of {value.family.__name__}")
        if pattern.kwd_patterns:
            raise self.scope.error(pattern, "fields have no names here: give their patterns in order")
        if len(pattern.patterns) != len(found.types):
            raise self.scope.error(pattern, f"{found.__qualname__} has {len(found.types)} fields, the pattern has {len(pattern.patterns)}")
        return found

    def _narrow(self, row: Row, value: Any, variant: type[Data], fields: list[Any]) -> Row | None:
        """The row for a value of which the variant is known; None where it does not fit."""
        kept: list[tuple[Any, ast.pattern]] = []
        for other, pattern in row.open:
            if other is not value:
                kept.append((other, pattern))
                continue
            assert isinstance(pattern, ast.MatchClass)
            if self._variant(pattern, value) is not variant:
                return None
            kept.extend(zip(fields, pattern.patterns, strict=True))
        return replace(row, open=tuple(kept))


def match(scope: Scope, node: ast.Match, ending: Any, only: Any, both: Any) -> Any:
    """Read a match statement. Raises SourceError where a value has no case, or a case no value."""
    subject = scope.evaluate(node.subject)
    subject = v.lifted(scope.cx, subject)
    if not isinstance(subject, v.Datum):
        raise scope.error(node.subject, f"match takes a value of a data type made by hasten.adt, not {v.describe(subject)}; use if")
    matching = Matching(scope, node, ending, only, both, set())
    found = matching.go([Row(case, ((subject, case.pattern),)) for case in node.cases], "a value", False)
    unused = next((c for c in node.cases if id(c) not in matching.used), None)
    if unused is not None and data.known_variant(subject) is None:
        raise scope.error(unused.pattern, "this case is never reached: the ones before it take all of its values")
    return found
