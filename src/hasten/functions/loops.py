"""Loops. Over a range, over the rows of a tensor, and `while`: the loop of the trace, whose body is read once. Over a tuple or list, whose length is
known: the body is read once for each item."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.functions import data, lists
from hasten.functions import values as v
from hasten.functions.operators import binary, condition
from hasten.functions.scope import Scope, Unset, statement
from hasten.functions.source import leaves_early, stored_names
from hasten.functions.statements import Completion, run
from hasten.kernels import expr as E
from hasten.lower.trace import Tensor, Value
from hasten.ops.control import loop_node

MAX_ITEMS = 1000  # of a loop over what is known


@dataclass(frozen=True)
class Range:
    """range(start, stop, step) with values that the run may know; the step is known."""

    start: Any
    stop: Any
    step: int


@dataclass
class Carried:
    """Names that go from round to round, and the form of their values."""

    names: list[str]
    forms: list[v.Form]
    leaves: list[Value]

    def put(self, scope: Scope, leaves: Sequence[Value]) -> None:
        """Give the names these leaves."""
        rest: Iterator[Value] = iter(leaves)
        for name, form in zip(self.names, self.forms, strict=True):
            scope.names[name] = v.unflatten(form, rest)


def _carried(scope: Scope, node: ast.While | ast.For, own: set[str], more: Set[str] = frozenset()) -> Carried:
    found = Carried([], [], [])
    for name in sorted((stored_names(node.body) - own) | more):
        if name in scope.names and not isinstance(scope.names[name], Unset):
            found.names.append(name)
            found.forms.append(v.flatten(scope.cx, scope.names[name], found.leaves))
    return found


def _leaves(scope: Scope, node: ast.While | ast.For, carried: Carried) -> list[Value]:
    """The leaves of the names at the end of a round. Raises SourceError where a type has changed."""
    made: list[Value] = []
    for name, form in zip(carried.names, carried.forms, strict=True):
        value = scope.names[name]
        if isinstance(value, Unset):
            raise scope.error(node, f"{name!r} may have no value at the end of a round: {value.why}")
        mine: list[Value] = []
        if v.flatten(scope.cx, value, mine) != form:
            first = v.describe(v.unflatten(form, iter(_slots(carried, form))))
            raise scope.error(node, f"{name!r} is {first} before the loop and {v.describe(value)} after a round; its type must stay")
        made.extend(mine)
    for name, a, b in zip(_names_of_leaves(carried), carried.leaves, made, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor) and (a.dtype != b.dtype or a.rank != b.rank):
            raise scope.error(node, f"{name!r} is {v.describe(a)} before the loop and {v.describe(b)} after a round; its type must stay")
    return made


def _slots(carried: Carried, form: v.Form) -> list[Value]:
    start = 0
    for f in carried.forms:
        if f is form:
            break
        start += _count(f)
    return carried.leaves[start:]


def _count(form: v.Form) -> int:
    return sum(map(_count, form.parts)) if form.parts else int(form.kind not in ("static", "tuple", "list", "closure"))


def _names_of_leaves(carried: Carried) -> list[str]:
    return [name for name, form in zip(carried.names, carried.forms, strict=True) for _ in range(_count(form))]


def _loop(scope: Scope, node: ast.While | ast.For, own: set[str], trips: Tensor | None, start: Any, begin: Callable[[Tensor], None],
          test: Callable[[], Any], more: Set[str] = frozenset()) -> None:  # fmt: skip
    """A loop of the trace: `begin` gives the loop's own names their values of a round, `test` asks whether there is another one."""
    if node.orelse:
        raise scope.error(node.orelse[0], "else behind a loop is outside of the language")
    carried = _carried(scope, node, own, more)
    saved = (scope.finish, scope.top)

    def finish(end: Completion) -> tuple[Any, ...]:
        """(go on, the leaves of the names) at the end of a round."""
        if end.kind == "done":
            return end.value  # type: ignore[no-any-return]
        going = False if end.kind == "break" else test()
        on = going if isinstance(going, bool) else v.Scalar("bool", scope.cx.reshape(going, ()))
        return (on, *_leaves(scope, node, carried))

    def body(number: Tensor, going: Tensor, *leaves: Value) -> list[Value]:
        carried.put(scope, leaves)
        begin(number)
        scope.finish, scope.top = finish, False
        scope.loops.append(node)
        try:
            on, *rest = finish(run(scope, node.body))
        finally:
            scope.loops.pop()
            scope.finish, scope.top = saved
        return [scope.as_tensor(node, on), *rest]

    first = None if start is None else scope.as_tensor(node, start)
    rule = scope.node(node, "Loop", {"body": body}, 0)
    results = scope.guarded(node, "the loop", rule, lambda: loop_node(scope.cx, rule, trips, first, *carried.leaves))
    for name in stored_names(node.body) | own:
        if name not in carried.names:
            scope.names[name] = Unset(f"only the loop in line {scope.source.line(node)} assigns it, which may have no round")
    carried.put(scope, results)


@statement(ast.While)
def _while(scope: Scope, node: ast.While) -> None:
    def test() -> Any:
        return condition(scope, node.test, scope.evaluate(node.test))

    carried = _carried(scope, node, set())
    saved = dict(scope.names)
    carried.put(scope, carried.leaves)  # numbers that are known now may change: the first question is as general as the others
    start = test()
    scope.names = saved
    if start is not False:
        _loop(scope, node, set(), None, None if start is True else start, lambda number: None, test)


@statement(ast.For)
def _for(scope: Scope, node: ast.For) -> None:
    if isinstance(node.iter, ast.Name) or not is_range(scope, node.iter):
        source = scope.evaluate(node.iter)
    else:
        source = _range(scope, node.iter)  # type: ignore[arg-type]
    own = stored_names([ast.copy_location(ast.Assign([node.target], ast.Constant(None)), node)])
    if isinstance(source, Range):
        _over_range(scope, node, own, source)
    elif lists.is_list(source):
        _over_list(scope, node, own, source)
    elif isinstance(source, Tensor):
        _over_rows(scope, node, own, source)
    else:
        _unrolled(scope, node, _items(scope, node.iter, source))


def is_range(scope: Scope, node: ast.expr) -> bool:
    """Whether an expression calls Python's range."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range" and "range" not in scope.names


def _range(scope: Scope, node: ast.Call) -> Range:
    args = [scope.evaluate(a) for a in node.args]
    for x, a in zip(args, node.args, strict=True):
        if not (isinstance(x, int) or (isinstance(x, v.Scalar) and x.kind == "int")):
            raise scope.error(a, f"range takes ints, not {v.describe(x)}")
    if not 1 <= len(args) <= 3:
        raise scope.error(node, f"range takes one to three ints, not {len(args)}")
    start, stop = (0, args[0]) if len(args) == 1 else args[:2]
    step = args[2] if len(args) == 3 else 1
    if not isinstance(step, int) or step == 0:
        raise scope.error(node, "the step of a range must be known when the function is compiled, and not 0")
    return Range(start, stop, step)


def _over_range(scope: Scope, node: ast.For, own: set[str], r: Range) -> None:
    """range: the number of rounds is known when the loop begins."""
    if isinstance(r.start, int) and isinstance(r.stop, int):
        count: Any = len(range(r.start, r.stop, r.step))
    else:
        low, high = (r.start, r.stop) if r.step > 0 else (r.stop, r.start)
        span = binary(scope, node, "Sub", lambda a, b: a - b, high, low)
        more = binary(scope, node, "Add", lambda a, b: a + b, span, abs(r.step) - 1)
        count = binary(scope, node, "FloorDiv", lambda a, b: a // b, more, abs(r.step)) if abs(r.step) != 1 else span

    def begin(number: Tensor) -> None:
        at = v.Scalar("int", number)
        scaled = at if r.step == 1 else binary(scope, node, "Mul", lambda a, b: a * b, at, r.step)
        scope.bind(node.target, scaled if r.start == 0 else binary(scope, node, "Add", lambda a, b: a + b, r.start, scaled))

    _loop(scope, node, own, scope.as_tensor(node, count), None, begin, lambda: True)


def _over_rows(scope: Scope, node: ast.For, own: set[str], x: Tensor) -> None:
    """A tensor: its rows along the first axis."""
    if not x.rank:
        raise scope.error(node.iter, "a tensor without axes has no rows")
    length = x.shape[0]
    trips = scope.cx.map((), "int64", lambda i: E.index(length))

    def begin(number: Tensor) -> None:
        known = scope.cx.ints(number)
        assert known is not None
        row = known[0]
        inside = D.symbol(str(row), length) if isinstance(row, D.Dim) else row
        scope.bind(node.target, scope.cx.view(x.shape[1:], x, lambda i: (inside, *i)))

    _loop(scope, node, own, trips, None, begin, lambda: True)


def _over_list(scope: Scope, node: ast.For, own: set[str], items: Any) -> None:
    """A list: its rest goes from round to round, under a name that no variable has."""
    rest = f"items of line {scope.source.line(node)}, {node.col_offset}"
    scope.names[rest] = lists.backwards(scope, node, items)

    def begin(number: Tensor) -> None:
        scope.names[rest], item = data.fields(scope.cx, scope.names[rest], items.family.variants[lists.SNOC])
        scope.bind(node.target, item)

    def test() -> Any:
        return condition(scope, node, v.Scalar("bool", data.has_tag(scope.cx, scope.names[rest], lists.SNOC)))

    start = test()
    if start is not False:
        _loop(scope, node, own, None, None if start is True else start, begin, test, {rest})
    del scope.names[rest]


def _unrolled(scope: Scope, node: ast.For, items: list[Any]) -> None:
    """What is known: the body once for each item. A break must be known, too."""
    if node.orelse:
        raise scope.error(node.orelse[0], "else behind a loop is outside of the language")
    early = leaves_early(node.body)
    saved = (scope.finish, scope.top)
    scope.loops.append(node)
    try:
        for item in items:
            scope.bind(node.target, item)
            scope.finish, scope.top = _refuse(scope, node), False
            end = run(scope, node.body)
            if early and end.kind == "break":
                break
    finally:
        scope.loops.pop()
        scope.finish, scope.top = saved


def _refuse(scope: Scope, node: ast.For) -> Callable[[Completion], Any]:
    def finish(end: Completion) -> Any:
        raise scope.error(end.at or node, "break and continue in a loop over what is known must not depend on values of the run")

    return finish


def over_known(scope: Scope, node: ast.expr) -> list[Any]:
    """The items that an expression gives, for comprehensions."""
    if not is_range(scope, node):
        return _items(scope, node, scope.evaluate(node))
    r = _range(scope, node)  # type: ignore[arg-type]
    if not isinstance(r.start, int) or not isinstance(r.stop, int):
        raise scope.error(node, "a comprehension goes over what is known when the function is compiled; use a loop")
    return list(range(r.start, r.stop, r.step))


def _items(scope: Scope, at: ast.AST, source: Any) -> list[Any]:
    if isinstance(source, (Tensor, v.Scalar, v.Datum, np.ndarray)) or not hasattr(source, "__iter__"):
        raise scope.error(at, f"{v.describe(source)} has no items here; loops go over ranges, tensors, tuples and lists")
    items = list(source)
    if len(items) > MAX_ITEMS:
        raise scope.error(at, f"a loop over {len(items)} known items is longer than {MAX_ITEMS}; stack them to a tensor")
    return items


