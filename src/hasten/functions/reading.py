"""Reading an instance: its trace, whose ways end in a Return or in a jump."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.types import Tensor as TensorType
from hasten.functions import data
from hasten.functions import values as v
from hasten.functions.callees import callee
from hasten.functions.instances import Instance, Jump, World
from hasten.functions.kinds import build, leaf_types
from hasten.functions.scope import Scope
from hasten.functions.statements import Completion, run
from hasten.functions.types import kept, typed
from hasten.lower.trace import END, Context, Datum, Invoke, Return, TracedFunction, Unpack, Value
from hasten.lower.trace import Source as Given


def read_instance(world: World, instance: Instance) -> TracedFunction:
    """The trace of an instance."""
    c = instance.callee
    cx = Context(world.options)
    sizes: dict[str, DimLike] = {}
    defines: list[str] = []
    params: list[Value] = []

    def incoming(types: Sequence[Any]) -> list[Any]:
        found = [data.incoming(cx, t, sizes, Given(cx.fresh("param")), defines) for t in types]
        params.extend(map(data.leaf_of, found))
        return found

    names = {n: build(t, incoming(leaf_types(t))) for n, t in instance.types.items() if n not in instance.forms}
    value = None if instance.value is None else Datum(instance.value, Given("closure"))
    known = iter([data.leaf_of(x) for x in (incoming(instance.extra) if value is None else data.results(cx, Unpack([value]), instance.extra, {}))])
    names |= {n: v.unflatten(form, known) for n, form in instance.forms.items()}
    own = c if instance.closure is None else callee(v.unflatten(instance.closure, known))
    inner = own.scope(world, cx)
    inner.names |= names
    inner.top = True
    inner.finish = lambda end: _ending(world, inner, instance, end, sizes)
    if isinstance(c.tree, ast.Lambda):
        end = Completion("return", inner.evaluate(c.tree.body), c.tree.body)
    else:
        end = run(inner, c.tree.body)
    return TracedFunction(instance.name, cx, params, defines, inner.finish(end), value)


def _ending(world: World, inner: Scope, instance: Instance, end: Completion, sizes: dict[str, DimLike]) -> Any:
    """The end of one way through an instance: it jumps, or it returns."""
    if end.kind == "done":
        return end.value
    value = end.value
    if isinstance(value, Jump):
        if _same_result(inner, instance, value, sizes):
            return Datum(END, Invoke(value.leaves, list(value.sizes.values()), function=value.instance.name, tail=True))
        value = world.invoke(inner, value)
    at = end.at or inner.source.tree
    leaves: list[Value] = []
    found = dict(sizes)
    value = kept(inner, at, value, instance.result, "the result")
    v.flatten(inner.cx, typed(inner, at, value, instance.result, found, "the result"), leaves)
    return Datum(END, Return(leaves, [d for name, d in found.items() if name not in sizes]))


def _same_result(inner: Scope, instance: Instance, jump: Jump, sizes: dict[str, DimLike]) -> bool:
    """Whether a function that is called last gives what this one has to give, sizes included."""
    mine, theirs = leaf_types(instance.result), leaf_types(jump.instance.result)
    pairs: dict[Any, Any] = {}
    if len(mine) != len(theirs):
        return False
    for a, b in zip(mine, theirs, strict=True):
        if not isinstance(a, TensorType) or not isinstance(b, TensorType):
            if a != b:
                return False
            continue
        if a.dtype != b.dtype or len(a.shape) != len(b.shape):
            return False
        for d, e in zip(a.shape, b.shape, strict=True):
            have, want = sizes.get(d, d) if isinstance(d, str) else d, jump.sizes.get(e, e) if isinstance(e, str) else e
            if isinstance(have, str) or isinstance(want, str):  # sizes that the callee tells
                if not (isinstance(have, str) and isinstance(want, str) and pairs.setdefault(have, want) == want):
                    return False
            elif D.known_equal(have, want) is not True:
                return False
    return len(set(pairs.values())) == len(pairs)
