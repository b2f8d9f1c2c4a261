"""Making values fit what a function says about its parameters and results (see `kinds`)."""

from __future__ import annotations

import ast
from typing import Any

from hasten.base.dims import DimLike
from hasten.base.errors import TypeMismatch
from hasten.base.types import SCALARS, Data, is_list
from hasten.functions import data
from hasten.functions import values as v
from hasten.functions.function import Function
from hasten.functions.kinds import FunctionType, TupleType, field_types, meaning
from hasten.functions.scope import Scope


def parse_type(scope: Scope, at: ast.AST, annotation: Any) -> Any:
    """The type that an evaluated annotation means; None for functions and for what nothing is said about. Raises SourceError."""
    try:
        return meaning(annotation)
    except TypeMismatch as error:
        raise scope.error(at, str(error)) from None


def typed(scope: Scope, at: ast.AST, value: Any, wanted: Any, sizes: dict[str, DimLike], what: str) -> Any:
    """The value as one of type `wanted`. `sizes` has the sizes by their names and gets those that are new. Raises SourceError."""
    if wanted is None or (isinstance(wanted, FunctionType) and isinstance(value, (v.Closure, Function))):
        return value  # a function that is known stays known
    if isinstance(wanted, TupleType):
        if not isinstance(value, (tuple, list)) or len(value) != len(wanted.parts):
            raise scope.error(at, f"{what}: expected a tuple of {len(wanted.parts)} values, got {v.describe(value)}")
        return tuple(typed(scope, at, x, t, sizes, f"{what}, part {k}") for k, (x, t) in enumerate(zip(value, wanted.parts, strict=True)))
    if v.is_number(value) and isinstance(value, wanted if isinstance(wanted, type) else ()):
        return value
    if is_list(wanted) and isinstance(value, (list, tuple)) and not isinstance(value, Data):
        item = field_types(wanted.variants[1])[1]
        items = [typed(scope, at, kept(scope, at, x, item, what), item, {}, f"{what}, item {k}") for k, x in enumerate(value)]
        return scope.guarded(at, what, None, lambda: data.pack_list(scope.cx, wanted, items))
    found = v.lifted(scope.cx, value)
    if not isinstance(found, (v.Scalar, v.Datum, v.Tensor)):
        raise scope.error(at, f"{what}: expected {getattr(wanted, '__name__', wanted)}, got {v.describe(value)}")
    leaf = scope.guarded(at, what, None, lambda: data.accept(scope.cx, found, wanted, sizes, what))
    return data.Scalar(wanted.__name__, leaf) if wanted in SCALARS else leaf


def kept(scope: Scope, at: ast.AST, value: Any, wanted: Any, what: str) -> Any:
    """The value as one of type `wanted` that may be kept: a function that is known becomes a closure."""
    if isinstance(wanted, FunctionType) and not isinstance(value, v.Datum):
        return scope.world.closure(scope, at, value, wanted, what)
    if isinstance(wanted, TupleType) and isinstance(value, (tuple, list)) and len(value) == len(wanted.parts):
        return tuple(kept(scope, at, x, t, f"{what}, part {k}") for k, (x, t) in enumerate(zip(value, wanted.parts, strict=True)))
    return value
