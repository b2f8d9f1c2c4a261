"""Calls of functions. Most are read into the caller, with the types of the arguments; what calls itself becomes a function of the Program.

Such a function is read once for each `Instance`: its typed parameters are the Program's, and what has no type, as functions given to it, is known
when it is read: another function given makes another instance, and what that one has captured makes more parameters. A call that is the last thing
such a function does is a `Jump`, where the result's type is its own: it takes no memory however often it is repeated.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.errors import SourceError
from hasten.base.types import Tensor as TensorType
from hasten.functions import data
from hasten.functions import values as v
from hasten.functions.callees import Callee, callee
from hasten.functions.function import Function
from hasten.functions.kinds import FunctionType, build, complete, leaf_types
from hasten.functions.scope import Scope
from hasten.functions.source import Source
from hasten.functions.statements import Completion, run
from hasten.functions.types import typed
from hasten.lower.graph import Options
from hasten.lower.trace import Datum, Invoke, Tensor, TracedFunction, Value

MAX_INLINED = 60  # functions inside of each other
MAX_INSTANCES = 300


@dataclass(eq=False)
class Instance:
    """A function of the Program. `types` of the parameters by name; where there is none, the `forms` of what is given, whose leaves have the types `extra`;
    `closure`: the form of the function itself, if it has captured something; `sizes`: names of sizes in the types, which are integer parameters.
    `value`: the type of the closures whose function it is: what it has captured comes in them, not in parameters."""

    name: str
    callee: Callee
    types: dict[str, Any]
    forms: dict[str, v.Form]
    closure: v.Form | None
    extra: list[Any]
    result: Any
    sizes: list[str]
    caller: tuple[Source, ast.AST]  # the first one
    value: FunctionType | None = None


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
        except SourceError as error:
            raise scope.source.called(at, error) from None
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
        return build(call.instance.result, data.results(scope.cx, step, leaf_types(call.instance.result), dict(call.sizes)))

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
            known_function = isinstance(types[name], FunctionType) and isinstance(x, (v.Closure, Function))
            if complete(types[name]) and not known_function:
                v.flatten(scope.cx, typed(scope, at, x, types[name], sizes, f"argument {name!r} of {c.name}"), leaves)
                continue
            forms[name] = v.flatten(scope.cx, x, known, False)
            if forms[name].kind not in ("closure", "static"):
                raise c.source.error(c.tree, f"{c.name} calls itself: say the type of its parameter {name!r}, which is {v.describe(x)}")
        closure = v.flatten(scope.cx, c.value, known, False) if isinstance(c.value, v.Closure) else None
        extra = [type_of(leaf, sizes) for leaf in known]
        key = (c.tree, tuple(forms.items()), closure, tuple(extra))
        if key not in self.instances:
            self.add(scope, at, key, Instance(c.name, c, types, forms, closure, extra, result, list(sizes), (scope.source, at)))
        return Jump(self.instances[key], [*leaves, *known], sizes)

    def add(self, scope: Scope, at: ast.AST, key: Any, instance: Instance) -> None:
        """One more function of the Program."""
        if len(self.instances) >= MAX_INSTANCES:
            raise scope.error(at, f"{instance.name} is needed in more than {MAX_INSTANCES} forms: a function given to it grows with each call")
        taken = {i.name for i in self.instances.values()}
        instance.name = next(n for k in range(MAX_INSTANCES + 1) if (n := f"{instance.name}{k or ''}") not in taken)
        self.instances[key] = instance
        self.waiting.append(instance)

    # --- functions that only the run knows --------------------------------------------------------------------------------------
    def closure(self, scope: Scope, at: ast.AST, value: Any, wanted: FunctionType, what: str) -> Datum:
        """A function that is known as a value of the run."""
        from hasten.functions.closures import make

        return make(self, scope, at, value, wanted, what)

    def call_closure(self, scope: Scope, at: ast.AST, target: Datum, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """What such a value gives."""
        from hasten.functions.closures import call

        return call(scope, at, target, args, kwargs)

    def finish(self) -> list[TracedFunction]:
        """Read all instances, also those that are met while doing so."""
        from hasten.functions.reading import read_instance

        traced: list[TracedFunction] = []
        while self.waiting:
            instance = self.waiting.pop()
            try:
                traced.append(read_instance(self, instance))
            except SourceError as error:
                source, at = instance.caller
                raise source.called(at, error) from None
        return traced


def type_of(leaf: Value, sizes: dict[str, DimLike]) -> Any:
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
