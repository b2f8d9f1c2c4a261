"""Statements, and how control leaves them.

A list of statements ends with a `Completion`. Where a choice may leave early (return, break, continue), what follows it is read as part of both
sides; so code has no jumps, and each way through a function ends in one place, with what `Scope.finish` makes of the Completion.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hasten.functions import lists
from hasten.functions.branches import Side, join, join_names, side
from hasten.functions.expressions import closure
from hasten.functions.operators import ARITHMETIC, binary, condition
from hasten.functions.scope import STATEMENTS, Scope, _called, statement
from hasten.functions.source import leaves_early
from hasten.functions.types import kept, parse_type, typed
from hasten.lower.trace import Tagged, Tensor


@dataclass
class Completion:
    """How a list of statements ends: "end" (it came to its end), "return", "break", "continue", or "done": `value` is what `finish` gave for each way."""

    kind: str
    value: Any = None
    at: ast.AST | None = None


def run(scope: Scope, body: list[ast.stmt]) -> Completion:
    """Execute statements in order."""
    for k, node in enumerate(body):
        if isinstance(node, (ast.If, ast.Match)) and leaves_early([node]):
            return _split(scope, node, body[k + 1 :])
        if isinstance(node, (ast.Break, ast.Continue)):
            return Completion(type(node).__name__.lower(), None, node)
        if isinstance(node, ast.Return):
            if scope.loops:
                raise scope.error(node, "return inside of a loop is outside of the language: assign the result, break, and return it after the loop")
            scope.last = node.value if scope.top else None
            return Completion("return", None if node.value is None else scope.evaluate(node.value), node)
        execute(scope, node)
    return Completion("end", None, body[-1] if body else None)


def execute(scope: Scope, node: ast.stmt) -> None:
    handler = STATEMENTS.get(type(node))
    if handler is None:
        raise scope.error(node, f"{_called(node)} is outside of the language; see docs/functions.md for what is in it")
    handler(scope, node)


def _split(scope: Scope, node: ast.If | ast.Match, rest: list[ast.stmt]) -> Completion:
    """A choice that may leave early, with all that follows it."""
    assert scope.finish is not None
    finish = scope.finish
    known: list[Completion] = []

    def ending(body: list[ast.stmt]) -> Callable[[], Any]:
        return lambda: finish(run(scope, [*body, *rest]))

    def only(body: list[ast.stmt]) -> Any:
        known.append(run(scope, [*body, *rest]))

    def both(at: ast.AST, test: Tensor | Tagged, then: Callable[[], Any], other: Callable[[], Any]) -> Any:
        return join(scope, at, test, side(scope, then), side(scope, other), "the result")

    value = _ways(scope, node, ending, only, both)
    return known[0] if known else Completion("done", value, node)


Both = Callable[[ast.AST, Tensor | Tagged, Callable[[], Any], Callable[[], Any]], Any]


def _ways(scope: Scope, node: ast.If | ast.Match, ending: Callable[[list[ast.stmt]], Callable[[], Any]], only: Callable[[list[ast.stmt]], Any],
          both: Both) -> Any:  # fmt: skip
    """Read an If or Match: `only` where the way is known now, else `both` of two sides, which `ending` makes of their statements."""
    if isinstance(node, ast.Match):
        from hasten.functions.matching import match

        return match(scope, node, ending, only, both)
    test = condition(scope, node.test, scope.evaluate(node.test))
    if isinstance(test, bool):
        return only(node.body if test else node.orelse)
    return both(node, test, ending(node.body), ending(node.orelse))


@statement(ast.If, ast.Match)
def _choice(scope: Scope, node: ast.If | ast.Match) -> None:
    """A choice after which all ways go on: the names that they assign are joined."""

    def ending(body: list[ast.stmt]) -> Callable[[], Any]:
        def names() -> dict[str, Any]:
            run(scope, body)
            return dict(scope.names)

        return names

    def only(body: list[ast.stmt]) -> dict[str, Any]:
        run(scope, body)
        return dict(scope.names)

    def both(at: ast.AST, test: Tensor | Tagged, then: Callable[[], Any], other: Callable[[], Any]) -> dict[str, Any]:
        sides: list[Side] = [side(scope, then), side(scope, other)]
        join_names(scope, at, test, sides[0], sides[1], scope.names)
        return dict(scope.names)

    _ways(scope, node, ending, only, both)


@statement(ast.Assign)
def _assign(scope: Scope, node: ast.Assign) -> None:
    value = scope.evaluate(node.value)
    for target in node.targets:
        scope.bind(target, value)


@statement(ast.AnnAssign)
def _annotated(scope: Scope, node: ast.AnnAssign) -> None:
    if node.value is None:
        return
    value = scope.evaluate(node.value)
    wanted = parse_type(scope, node.annotation, scope.evaluate(node.annotation))
    value = kept(scope, node.value, value, wanted, "the value")
    scope.bind(node.target, typed(scope, node.value, value, wanted, {}, "the value"))


@statement(ast.AugAssign)
def _augmented(scope: Scope, node: ast.AugAssign) -> None:
    if not isinstance(node.target, ast.Name):
        raise scope.error(node.target, "values do not change: assign a name, as y = hasten.op.ScatterND(x, indices, updates)")
    name = node.target.id
    old = scope.evaluate(ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target))
    if lists.is_list(old) or isinstance(old, list):
        raise scope.error(node, f"lists do not change: make a longer one, as {name} = {name} + [x]")
    scope.bind(node.target, binary(scope, node, *ARITHMETIC[type(node.op)], old, scope.evaluate(node.value)))


@statement(ast.Expr)
def _expression(scope: Scope, node: ast.Expr) -> None:
    if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute) and node.value.func.attr in ("append", "extend", "insert"):
        name = ast.unparse(node.value.func.value)
        raise scope.error(node, f"lists do not change: make a longer one, as {name} = {name} + [x]")
    if not isinstance(node.value, ast.Constant):
        raise scope.error(node, "the result of this expression is not used, and functions have no other effects; assign it")


@statement(ast.Pass)
def _pass(scope: Scope, node: ast.Pass) -> None:
    """Nothing."""


@statement(ast.FunctionDef)
def _nested(scope: Scope, node: ast.FunctionDef) -> None:
    if node.decorator_list:
        raise scope.error(node.decorator_list[0], "functions inside of functions have no decorators")
    scope.names[node.name] = closure(scope, node, node.name)


