"""Values that depend on a condition: both sides are read as nested blocks, and what they give is joined."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hasten.functions import values as v
from hasten.functions.scope import Scope, Unset
from hasten.lower.trace import Block, Tagged, Tensor, Value
from hasten.ops.control import joined as joined_blocks

Test = bool | Tensor | Tagged


@dataclass
class Side:
    """One side of a choice: its block, and what it gives."""

    block: Block
    value: Any


def side(scope: Scope, run: Callable[[], Any]) -> Side:
    """Read one side as a block; names that it assigns are forgotten after it."""
    found: list[Any] = []

    def body() -> list[Value]:
        found.append(run())
        return []

    return Side(scope.block(body), found[0])


def choose(scope: Scope, at: ast.AST, test: Test, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """What `yes` gives where `test` holds, else what `no` gives; only one of them where that is known now."""
    if isinstance(test, bool):
        return yes() if test else no()
    return join(scope, at, test, side(scope, yes), side(scope, no))


def join(scope: Scope, at: ast.AST, test: Tensor | Tagged, then: Side, other: Side, what: str = "the value") -> Any:
    """The value of either side. Raises SourceError where their types differ."""
    return join_all(scope, at, test, then, other, [(what, then.value, other.value)])[0]


def join_all(scope: Scope, at: ast.AST, test: Tensor | Tagged, then: Side, other: Side, rows: list[tuple[str, Any, Any]]) -> list[Any]:
    """Several values of either side; each row has its name and the two."""
    forms: list[v.Form] = []
    left: list[Value] = []
    right: list[Value] = []
    for what, a, b in rows:
        forms.append(_common(scope, at, what, a, b, left, right))
    differ = [k for k, (a, b) in enumerate(zip(left, right, strict=True)) if a is not b]
    then.block.values, other.block.values = [left[k] for k in differ], [right[k] for k in differ]
    merged = list(left)
    if differ:
        results = scope.guarded(at, "If", scope.node(at, "If"), lambda: joined_blocks(scope.cx, test, then.block, other.block))
        for k, r in zip(differ, results, strict=True):
            merged[k] = r
    leaves: Iterator[Value] = iter(merged)
    return [v.unflatten(form, leaves) for form in forms]


def _common(scope: Scope, at: ast.AST, what: str, a: Any, b: Any, left: list[Value], right: list[Value]) -> v.Form:
    """The form of both values, whose leaves go to `left` and `right`."""
    for lift in (False, True):
        mine: list[Value] = []
        theirs: list[Value] = []
        form, second = v.flatten(scope.cx, a, mine, lift), v.flatten(scope.cx, b, theirs, lift)
        if form == second:
            break
    if form != second:
        raise scope.error(at, f"{what} is {v.describe(a)} on one side and {v.describe(b)} on the other; both sides must give one type{_hint(a, b)}")
    for x, y in zip(mine, theirs, strict=True):
        if isinstance(x, Tensor) and isinstance(y, Tensor) and (x.dtype != y.dtype or x.rank != y.rank):
            raise scope.error(at, f"{what} is {v.describe(x)} on one side and {v.describe(y)} on the other; both sides must give one type")
    left.extend(mine)
    right.extend(theirs)
    return form


def _hint(a: Any, b: Any) -> str:
    functions = callable(a) or isinstance(a, v.Closure)
    return "; for functions say it, as f: Callable[[hasten.Tensor((3,))], hasten.Tensor((3,))] = ..., on both sides" if functions else ""


def join_names(scope: Scope, at: ast.AST, test: Tensor | Tagged, then: Side, other: Side, before: dict[str, Any]) -> None:
    """Give the scope the names that either side has assigned; the sides' values are their names."""
    rows: list[tuple[str, Any, Any]] = []
    names: list[str] = []
    for name in sorted({*then.value, *other.value}):
        a, b = then.value.get(name), other.value.get(name)
        if name in then.value and name in other.value and a is b:
            scope.names[name] = a
            continue
        unset = next((x for x in (a, b) if isinstance(x, Unset)), None)
        if unset is None and (name not in then.value or name not in other.value):
            unset = Unset(f"only one side of the choice in line {scope.source.line(at)} assigns it")
        if unset is not None:
            scope.names[name] = unset
            continue
        names.append(name)
        rows.append((f"{name!r}", a, b))
    for name, value in zip(names, join_all(scope, at, test, then, other, rows), strict=True):
        scope.names[name] = value
