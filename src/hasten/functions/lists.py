"""Lists whose length the run knows: list[T], the data type of `base.types.listing`. The last item is the outermost, so adding one costs the same
however long the list is; what goes from the first item on turns the list around before.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from hasten.base.types import Tensor as TensorType
from hasten.base.types import listing
from hasten.functions import data
from hasten.functions import values as v
from hasten.functions.branches import choose
from hasten.functions.kinds import field_types
from hasten.functions.scope import Scope
from hasten.functions.types import kept
from hasten.lower.trace import Datum, Tensor, Value
from hasten.ops.control import loop_node

SNOC = 1  # the tag of a list that is not empty


def is_list(x: Any) -> bool:
    """Whether a value is a list whose length the run knows."""
    return isinstance(x, Datum) and bool(getattr(x.family, "sequence", False))


def joined(scope: Scope, at: ast.AST, a: Any, b: Any) -> Datum:
    """a + b, one of which may be a list of known length."""
    if isinstance(b, (list, tuple)):
        known = _items(scope, at, a.family, b)
        return scope.guarded(at, "+", None, lambda: data.pack_list(scope.cx, a.family, known, a))  # type: ignore[no-any-return]
    if not is_list(b) or not (isinstance(a, (list, tuple)) or (is_list(a) and a.family is b.family)):
        raise scope.error(at, f"+ of {v.describe(a)} and {v.describe(b)}: both must be lists of one type")
    family = b.family
    if isinstance(a, (list, tuple)):
        items = _items(scope, at, family, a)
        a = scope.guarded(at, "+", None, lambda: data.pack_list(scope.cx, family, items))
    return walk(scope, at, backwards(scope, at, b), [a], lambda item, done: [data.pack(scope.cx, family.variants[SNOC], [done, item])])[0]  # type: ignore[return-value]


def _items(scope: Scope, at: ast.AST, family: Any, items: Sequence[Any]) -> list[Any]:
    """Items as a list of this type may keep them."""
    wanted = field_types(family.variants[SNOC])[1]
    return [v.lifted(scope.cx, kept(scope, at, x, wanted, "an item")) for x in items]


def backwards(scope: Scope, at: ast.AST, items: Datum) -> Datum:
    """The list turned around."""
    family = items.family
    empty = data.pack_list(scope.cx, family, [])
    if data.known_variant(items) is family.variants[0]:
        return items
    return walk(scope, at, items, [empty], lambda item, done: [data.pack(scope.cx, family.variants[SNOC], [done, item])])[0]  # type: ignore[return-value]


def length(scope: Scope, at: ast.AST, items: Datum) -> v.Scalar:
    """How many items there are: counted, as nothing keeps the number."""
    one = scope.cx.const(1, "int64")
    zero = scope.cx.const(0, "int64")
    found = walk(scope, at, items, [zero], lambda item, count: [scope.apply(at, "Add", [count, one])])[0]
    assert isinstance(found, Tensor)
    return v.Scalar("int", found)


def item(scope: Scope, at: ast.AST, items: Datum, index: Any) -> Any:
    """The item at an index; the run fails where there is none. The way to it goes from the end."""
    if not isinstance(index, int) and not (isinstance(index, v.Scalar) and index.kind == "int"):
        raise scope.error(at, f"a list is indexed by an int, not {v.describe(index)}")
    if isinstance(index, int) and index < 0:
        steps: Any = -index - 1
    else:
        place, count = scope.as_tensor(at, index), length(scope, at, items).tensor
        zero = scope.cx.const(0, "int64")
        from_end = scope.apply(at, "Sub", [scope.cx.const(-1, "int64"), place])
        from_start = scope.apply(at, "Add", [from_end, count])
        steps = scope.apply(at, "Where", [scope.apply(at, "Less", [place, zero]), from_end, from_start])
        scope.cx.require(0, "<=", scope.cx.read_int(steps), "an index of a list is out of range", "value")
    rest = items if isinstance(steps, int) and steps == 0 else _dropped(scope, at, items, steps)
    return _last(scope, at, rest)[1]


def _last(scope: Scope, at: ast.AST, items: Datum) -> list[Any]:
    """What is before the last item, and that item; the run fails where there is none."""
    if data.known_variant(items) is None:
        scope.guarded(at, "item", scope.node(at, "item"), lambda: scope.cx.require(
            data.tag_of(scope.cx, items), "==", SNOC, f"{scope.source.name}:{scope.source.line(at)}: an index of a list is out of range", "value"))  # fmt: skip
    elif data.known_variant(items) is items.family.variants[0]:
        raise scope.error(at, "an index of a list is out of range: the list is empty")
    return data.fields(scope.cx, items, items.family.variants[SNOC])


def _dropped(scope: Scope, at: ast.AST, items: Datum, steps: Any) -> Datum:
    """The list without so many items of its end."""

    def body(number: Tensor, going: Tensor, rest: Value) -> list[Value]:
        assert isinstance(rest, Datum)
        return [scope.cx.const(True, "bool"), _last(scope, at, rest)[0]]

    rule = scope.node(at, "Loop", {"body": body}, 0)
    trips = scope.cx.const(steps, "int64") if isinstance(steps, int) else steps
    return scope.guarded(at, "item", rule, lambda: loop_node(scope.cx, rule, trips, None, items))[0]  # type: ignore[no-any-return]


def walk(scope: Scope, at: ast.AST, items: Datum, first: list[Value], body: Callable[..., list[Value]]) -> list[Value]:
    """What a loop over the items, the last one first, makes of `first`: `body(item, *before)` gives the next ones."""
    more = items.family.variants[SNOC]

    def round_(number: Tensor, going: Tensor, rest: Value, *carried: Value) -> list[Value]:
        assert isinstance(rest, Datum)
        left, last = data.fields(scope.cx, rest, more)
        after = body(last, *carried)
        return [data.has_tag(scope.cx, left, SNOC), left, *after]

    rule = scope.node(at, "Loop", {"body": round_}, 0)
    start = data.has_tag(scope.cx, items, SNOC)
    found: list[Value] = scope.guarded(at, "the list", rule, lambda: loop_node(scope.cx, rule, None, start, items, *first))
    return found[1:]


def made(scope: Scope, at: ast.AST, items: Datum, element: Callable[[Any], tuple[bool | Tensor, Any]]) -> Datum:
    """A list of what `element` makes of each item, where the condition that it gives beside it holds: a comprehension."""
    sample: list[Any] = []
    more = items.family.variants[SNOC]

    def probe() -> list[Value]:
        sample.append(_type_of(scope, at, element(data.fields(scope.cx, items, more)[1])[1]))
        return []

    scope.block(probe)
    family = listing(sample[0])

    def body(x: Any, done: Value) -> list[Value]:
        test, value = element(x)
        longer = scope.guarded(at, "the list", None, lambda: data.pack(scope.cx, family.variants[SNOC], [done, v.lifted(scope.cx, value)]))
        return [choose(scope, at, test, lambda: longer, lambda: done)]

    return walk(scope, at, backwards(scope, at, items), [data.pack_list(scope.cx, family, [])], body)[0]  # type: ignore[return-value]


def _type_of(scope: Scope, at: ast.AST, x: Any) -> Any:
    """The type of an item."""
    value = v.lifted(scope.cx, x)
    if isinstance(value, v.Scalar):
        return v.NUMBERS[value.kind]
    if isinstance(value, Datum):
        return value.family
    if not isinstance(value, Tensor):
        raise scope.error(at, f"the items of a list are tensors, numbers, values of data types or lists, not {v.describe(x)}")
    names: dict[Any, str] = {}
    return TensorType([d if isinstance(d, int) else names.setdefault(d, f"d{len(names)}") for d in value.shape], value.dtype)

