"""Functions that only the run knows: in fields of data types, in lists, chosen by a condition, given by a function of the Program. Such a value is a closure:
the number of a function of the Program, and what it has captured. Its type says what it takes and gives."""

from __future__ import annotations

import ast
from typing import Any

from hasten.base.dims import DimLike
from hasten.functions import data
from hasten.functions import values as v
from hasten.functions.callees import callee
from hasten.functions.function import Function
from hasten.functions.instances import Instance, World, type_of
from hasten.functions.kinds import FunctionType, build, complete, leaf_types
from hasten.functions.scope import Scope
from hasten.functions.types import kept, typed
from hasten.lower.trace import Datum, Invoke, Pack, Value


def make(world: World, scope: Scope, at: ast.AST, value: Any, wanted: FunctionType, what: str) -> Datum:
    """A function that is known as a closure of type `wanted`. Raises SourceError where it takes another number of arguments."""
    if not isinstance(value, (v.Closure, Function)):
        raise scope.error(at, f"{what}: expected {wanted.__name__}, got {v.describe(value)}")
    c = callee(value)
    names = [a.arg for a in c.parameters]
    if len(names) != len(wanted.params):
        raise scope.error(at, f"{what}: {c.name} takes {len(names)} arguments, expected is {wanted.__name__}")
    if not complete(wanted.result) or not all(map(complete, wanted.params)):
        raise scope.error(at, f"{what}: the types in {wanted.__name__} must say everything")
    known: list[Value] = []
    form = v.flatten(scope.cx, value, known, False) if isinstance(value, v.Closure) else None
    sizes: dict[str, DimLike] = {}
    extra = [type_of(leaf, sizes) for leaf in known]
    key = (c.tree, form, tuple(extra), wanted)
    if key not in world.instances:
        types = dict(zip(names, wanted.params, strict=True))
        world.add(scope, at, key, Instance(c.name.strip("<>"), c, types, {}, form, extra, wanted.result, [], (scope.source, at), wanted))
    step = Pack(known, list(sizes.values()), tag=world.instances[key].name)
    made = Datum(wanted, step)
    step.results.append(made)
    return made


def call(scope: Scope, at: ast.AST, target: Datum, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """What a closure gives for these arguments. Raises SourceError."""
    wanted: FunctionType = target.family
    if kwargs or len(args) != len(wanted.params):
        raise scope.error(at, f"{wanted.__name__} takes {len(wanted.params)} arguments by position, got {len(args) + len(kwargs)}")
    sizes: dict[str, DimLike] = {}
    leaves: list[Value] = []
    for k, (x, t) in enumerate(zip(args, wanted.params, strict=True)):
        v.flatten(scope.cx, typed(scope, at, kept(scope, at, x, t, f"argument {k}"), t, sizes, f"argument {k}"), leaves)
    step = Invoke(leaves, list(sizes.values()), function=target)
    return build(wanted.result, data.results(scope.cx, step, leaf_types(wanted.result), sizes))

