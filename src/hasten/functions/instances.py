"""Calls of functions. Most are read into the caller, with the types of the arguments; what calls itself becomes a function of the Program.

Such a function is read once for each `Instance`: its typed parameters are the Program's, and what has no type, as functions given to it, is known
when it is read: another function given makes another instance, and what that one has captured makes more parameters. A call that is the last thing
such a function does is a `Jump`, where the result's type is its own: it takes no memory however often it is repeated.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.types import Tensor as TensorType
from hasten.functions import data
from hasten.functions import values as v
from hasten.functions.callees import Callee, callee
from hasten.functions.function import Function
from hasten.functions.scope import Scope
from hasten.functions.statements import Completion, run
from hasten.functions.types import build, complete, leaf_types, typed
from hasten.lower.graph import Options
from hasten.lower.trace import END, Context, Datum, Invoke, Return, Source, Tensor, TracedFunction, Value

MAX_INLINED = 60  # functions inside of each other
MAX_INSTANCES = 300


@dataclass(eq=False)
class Instance:
    """A function of the Program. `types` of the parameters by name; where there is none, the `forms` of what is given, whose leaves have the types `extra`;
    `closure`: the form of the function itself, if it has captured something; `sizes`: names of sizes in the types, which are integer parameters."""

    name: str
    callee: Callee
    types: dict[str, Any]
    forms: dict[str, v.Form]
    closure: v.Form | None
    extra: list[Any]
    result: Any
    sizes: list[str]


@dataclass(eq=False)
class Jump:
    """A call in the caller's terms: the instance, leaves, and sizes by their names."""

    instance: Instance
    leaves: list[Value]
    sizes: dict[str, DimLike]


class World:
    """Everything about one compilation of a function."""

    def __init__(self, options: Options):
        self.options = options
        self.instances: dict[Any, Instance] = {}
        self.waiting: list[Instance] = []
        self.inlined: list[str] = []
        self.recursive: dict[Any, bool] = {}
        self.read = 0  # expressions until now
        self.graphs: dict[Any, tuple[Any, Any]] = {}  # models that are called, and their graphs

    @staticmethod
    def is_function(x: Any) -> bool:
        return isinstance(x, Function)

    # --- calls ----------------------------------------------------------------------------------------------------------------
    def call(self, scope: Scope, at: ast.AST, target: Function | v.Closure, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The result of a call; a Jump for the call that is the scope's last."""
        c = callee(target)
        given = c.bind(scope, at, args, kwargs)
        if c.tree not in self.recursive:
            self.recursive[c.tree] = c.calls_itself()
        if not self.recursive[c.tree]:
            return self.inline(scope, at, c, given)
        jump = self.arguments(scope, at, c, given)
        return jump if at is scope.last else self.invoke(scope, jump)

    def inline(self, scope: Scope, at: ast.AST, c: Callee, given: dict[str, Any]) -> Any:
        """Read a function into its caller."""
        if len(self.inlined) >= MAX_INLINED:
            raise scope.error(at, f"more than {MAX_INLINED} functions call each other here ({' > '.join(self.inlined[-4:])}): what calls itself through a "
                                  "parameter cannot be compiled")  # fmt: skip
        sizes: dict[str, DimLike] = {}
        inner = c.scope(self, scope.cx)
        types = c.types(inner)
        inner.names |= {n: typed(scope, at, x, types[n], sizes, f"argument {n!r} of {c.name}") for n, x in given.items()}
        self.inlined.append(c.name)
        try:
            if isinstance(c.tree, ast.Lambda):
                return inner.evaluate(c.tree.body)
            wanted = c.result_type(inner)
            inner.finish = lambda end: self._result(inner, end, wanted, sizes)
            return inner.finish(run(inner, c.tree.body))
        finally:
            self.inlined.pop()

    @staticmethod
    def _result(inner: Scope, end: Completion, wanted: Any, sizes: dict[str, DimLike]) -> Any:
        """What a function gives that was read into its caller."""
        if end.kind == "done" or wanted is None:
            return end.value
        return typed(inner, end.at or inner.source.tree, end.value, wanted, dict(sizes), "the result")

    def invoke(self, scope: Scope, call: Jump) -> Any:
        """A call of a function of the Program."""
        step = Invoke(call.leaves, list(call.sizes.values()), function=call.instance.name)
        sizes = dict(call.sizes)
        found = [data.incoming(scope.cx, t, sizes, step, step.defines) for t in leaf_types(call.instance.result)]
        step.results.extend(map(data.leaf_of, found))
        scope.cx.makers.update(dict.fromkeys(step.defines, step.results[0]) if step.results else {})
        return build(call.instance.result, found)

    # --- instances ------------------------------------------------------------------------------------------------------------
    def arguments(self, scope: Scope, at: ast.AST, c: Callee, given: dict[str, Any]) -> Jump:
        """The instance of a function for these arguments, and the arguments as it takes them."""
        inner = c.scope(self, scope.cx)
        types, result = c.types(inner), c.result_type(inner)
        if result is None or not complete(result):
            raise c.source.error(c.tree, f"{c.name} calls itself: say the type of its result, as `-> hasten.Tensor((1, 150))`")
        leaves: list[Value] = []
        known: list[Value] = []
        sizes: dict[str, DimLike] = {}
        forms: dict[str, v.Form] = {}
        for name, x in given.items():
            if complete(types[name]):
                v.flatten(scope.cx, typed(scope, at, x, types[name], sizes, f"argument {name!r} of {c.name}"), leaves)
                continue
            forms[name] = v.flatten(scope.cx, x, known, False)
            if forms[name].kind not in ("closure", "static"):
                raise c.source.error(c.tree, f"{c.name} calls itself: say the type of its parameter {name!r}, which is {v.describe(x)}")
        closure = v.flatten(scope.cx, c.value, known, False) if isinstance(c.value, v.Closure) else None
        extra = [_type_of(leaf, sizes) for leaf in known]
        key = (c.tree, tuple(forms.items()), closure, tuple(extra))
        if key not in self.instances:
            self._add(scope, at, key, Instance(c.name, c, types, forms, closure, extra, result, list(sizes)))
        return Jump(self.instances[key], [*leaves, *known], sizes)

    def _add(self, scope: Scope, at: ast.AST, key: Any, instance: Instance) -> None:
        if len(self.instances) >= MAX_INSTANCES:
            raise scope.error(at, f"{instance.name} is needed in more than {MAX_INSTANCES} forms: a function given to it grows with each call")
        taken = {i.name for i in self.instances.values()}
        instance.name = next(n for k in range(MAX_INSTANCES + 1) if (n := f"{instance.name}{k or ''}") not in taken)
        self.instances[key] = instance
        self.waiting.append(instance)

    def finish(self) -> list[TracedFunction]:
        """Read all instances, also those that are met while doing so."""
        traced: list[TracedFunction] = []
        while self.waiting:
            traced.append(_read(self, self.waiting.pop()))
        return traced


def _type_of(leaf: Value, sizes: dict[str, DimLike]) -> Any:
    """The type of something captured; sizes that the run knows get names."""
    if isinstance(leaf, Datum):
        return leaf.family
    assert isinstance(leaf, Tensor)
    shape: list[int | str] = []
    for d in leaf.shape:
        if isinstance(d, D.Dim):
            name = next((n for n, known in sizes.items() if known == d), f"captured{len(sizes)}")
            sizes[name] = d
        shape.append(name if isinstance(d, D.Dim) else d)
    return TensorType(shape, leaf.dtype)


def _read(world: World, instance: Instance) -> TracedFunction:
    """The trace of an instance."""
    c = instance.callee
    cx = Context(world.options)
    sizes: dict[str, DimLike] = {}
    defines: list[str] = []
    params: list[Value] = []

    def incoming(types: Sequence[Any]) -> list[Any]:
        found = [data.incoming(cx, t, sizes, Source(cx.fresh("param")), defines) for t in types]
        params.extend(map(data.leaf_of, found))
        return found

    names = {n: build(t, incoming(leaf_types(t))) for n, t in instance.types.items() if n not in instance.forms}
    known = iter([data.leaf_of(x) for x in incoming(instance.extra)])
    names |= {n: v.unflatten(form, known) for n, form in instance.forms.items()}
    own = c if instance.closure is None else callee(v.unflatten(instance.closure, known))
    assert list(sizes) == instance.sizes and isinstance(c.tree, ast.FunctionDef)
    inner = own.scope(world, cx)
    inner.names |= names
    inner.top = True
    inner.finish = lambda end: _ending(world, inner, instance, end, sizes)
    ending = inner.finish(run(inner, c.tree.body))
    return TracedFunction(instance.name, cx, params, defines, ending)


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
            if a is not b:
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
