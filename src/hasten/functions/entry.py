"""From a `hasten.function` to a traced model: parameters become inputs, the parts of the result outputs, functions that call themselves functions."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.types import Data, reachable
from hasten.base.types import Tensor as TensorType
from hasten.functions import calls, data, expressions, loops, operators, statements
from hasten.functions import values as v
from hasten.functions.callees import callee
from hasten.functions.function import Function
from hasten.functions.instances import World
from hasten.functions.kinds import FunctionType, TupleType, build, complete, field_types
from hasten.functions.scope import Scope
from hasten.lower.graph import Options, Traced
from hasten.lower.sizes import Sizes
from hasten.lower.trace import Context, Datum, Source, Tensor, Value

LANGUAGE = (calls, expressions, loops, operators, statements)  # imported for what they register


def trace_function(function: Function, options: Options) -> Traced:
    """Read a function and all that it calls. Raises SourceError."""
    options = replace(options, host_ops=False)
    world = World(options)
    cx = Context(options)
    c = callee(function)
    scope = c.scope(world, cx)
    types = c.types(scope)
    traced = Traced(cx, sizes=Sizes(options.dims))
    sizes: dict[str, DimLike] = {}
    given: dict[str, Any] = {}
    for name, wanted in types.items():
        if not complete(wanted):
            message = f"the parameter {name!r} of a function that is compiled needs a type, as {name}: hasten.Tensor((1, 300))"
            raise function.source.error(function.source.tree, message)
        given[name] = build(wanted, [_input(traced, scope, label, t, sizes) for label, t in _labels(name, wanted)])
    traced.sizes.unmet()
    at = function.source.tree
    result = world.call(scope, at, function, list(given.values()), {})
    leaves: list[Value] = []
    form = v.flatten(cx, result, leaves)
    _check_result(scope, form)
    for label, leaf in zip(_names(form, "result"), leaves, strict=True):
        if not leaf.name:
            leaf.name = label
        traced.outputs.append((label, leaf))
    traced.functions = world.finish()
    _check_names(scope, [leaf for _, leaf in (*traced.inputs, *traced.outputs)])
    return traced


def _check_names(scope: Scope, leaves: list[Value]) -> None:
    """A Program knows data types by their names: those that go in and out must have different ones."""
    found: dict[str, type[Data]] = {}
    for leaf in leaves:
        families = list(reachable(leaf.family)) if isinstance(leaf, Datum) and not isinstance(leaf.family, FunctionType) else []
        kinds = [t for family in families for variant in family.variants for t in field_types(variant)]
        if any(isinstance(t, FunctionType) for t in [*kinds, getattr(leaf, "family", None)]):
            raise scope.error(scope.source.tree, "functions cannot go into a model or come out of it, also not in values")
        for family in families:
            if found.setdefault(family.__name__, family) is not family:
                raise scope.error(scope.source.tree, f"two data types are named {family.__name__!r}: give one of them another name")


def _labels(name: str, wanted: Any) -> list[tuple[str, Any]]:
    """Names and types of the inputs that a parameter becomes."""
    if not isinstance(wanted, TupleType):
        return [(name, wanted)]
    return [row for k, part in enumerate(wanted.parts) for row in _labels(f"{name}.{k}", part)]


def _input(traced: Traced, scope: Scope, label: str, wanted: Any, sizes: dict[str, DimLike]) -> Any:
    """A parameter's leaf as an input; its sizes keep their names."""
    cx = traced.cx
    kind = data.tensor_type(wanted)
    for axis, d in enumerate(kind.shape if kind is not None else ()):
        if isinstance(d, str) and d not in sizes:
            cx.fresh.taken.add(d)
            sizes[d] = traced.sizes.enter(d, d, f"input {label!r}, axis {axis}")
    known = {name: traced.sizes.find(d) for name, d in sizes.items()}
    for part, (size, step) in traced.sizes.parts.items():
        cx.fresh.taken.add(part)
        cx.aliases[part] = D.floordiv(D.symbol(size), step)
    value = data.incoming(cx, wanted, known, Source(label))
    leaf = data.leaf_of(value)
    if isinstance(leaf, Tensor):
        assert isinstance(kind, TensorType)
        traced.bound[label] = tuple(sizes[d] if isinstance(d, str) else d for d in kind.shape)
    traced.inputs.append((label, leaf))
    return value


def _check_result(scope: Scope, form: v.Form) -> None:
    if form.kind in ("closure", "static"):
        what = "nothing" if form.kind == "static" and form.what.value is None else "a function" if form.kind == "closure" else "an object of Python"
        raise scope.error(_last_return(scope.source.tree), f"a function that is compiled gives tensors, numbers and values of data types, not {what}")
    for part in form.parts:
        _check_result(scope, part)


def _last_return(tree: ast.FunctionDef) -> ast.AST:
    return next((n for n in reversed(list(ast.walk(tree))) if isinstance(n, ast.Return)), tree)


def _names(form: v.Form, label: str) -> list[str]:
    """Names of the outputs."""
    if not form.parts:
        return [label] if form.kind not in ("tuple", "list") else []
    return [name for k, part in enumerate(form.parts) for name in _names(part, f"{label}.{k}")]
