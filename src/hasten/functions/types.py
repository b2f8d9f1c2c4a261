"""Annotations: what a function says about its parameters and results, and making values fit.

A type is a `hasten.Tensor`, int, float, bool, a data type, or a tuple of types; None where nothing is said.
"""

from __future__ import annotations

import ast
import types
from dataclasses import dataclass
from typing import Any

from hasten.base.dims import DimLike
from hasten.base.types import SCALARS, Data
from hasten.base.types import Tensor as TensorType
from hasten.functions import data
from hasten.functions import values as v
from hasten.functions.scope import Scope


@dataclass(frozen=True)
class TupleType:
    """A tuple with a type for each part."""

    parts: tuple[Any, ...]


def parse_type(scope: Scope, at: ast.AST, annotation: Any) -> Any:
    """The type that an evaluated annotation means; None for functions and for what nothing is said about."""
    if isinstance(annotation, TensorType) or annotation in SCALARS or annotation is None:
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, Data) and not isinstance(annotation, types.GenericAlias):
        return annotation.family
    if getattr(annotation, "__origin__", None) is tuple:
        return TupleType(tuple(parse_type(scope, at, a) for a in annotation.__args__))
    if getattr(annotation, "__name__", "") == "Callable":
        return None
    allowed = "hasten.Tensor(...), int, float, bool, data types of hasten.adt, tuple[...], Callable"
    raise scope.error(at, f"{annotation!r} is no type of the language; there are {allowed}")


def typed(scope: Scope, at: ast.AST, value: Any, wanted: Any, sizes: dict[str, DimLike], what: str) -> Any:
    """The value as one of type `wanted`. `sizes` has the sizes by their names and gets those that are new. Raises SourceError."""
    if wanted is None:
        return value
    if isinstance(wanted, TupleType):
        if not isinstance(value, (tuple, list)) or len(value) != len(wanted.parts):
            raise scope.error(at, f"{what}: expected a tuple of {len(wanted.parts)} values, got {v.describe(value)}")
        return tuple(typed(scope, at, x, t, sizes, f"{what}, part {k}") for k, (x, t) in enumerate(zip(value, wanted.parts, strict=True)))
    if v.is_number(value) and isinstance(value, wanted if isinstance(wanted, type) else ()):
        return value
    found = v.lifted(scope.cx, value)
    if not isinstance(found, (v.Scalar, v.Datum, v.Tensor)):
        raise scope.error(at, f"{what}: expected {getattr(wanted, '__name__', wanted)}, got {v.describe(value)}")
    leaf = scope.guarded(at, what, None, lambda: data.accept(scope.cx, found, wanted, sizes, what))
    return data.Scalar(wanted.__name__, leaf) if wanted in SCALARS else leaf


def leaf_types(wanted: Any) -> list[Any]:
    """The types of a type's leaves."""
    return [leaf for part in wanted.parts for leaf in leaf_types(part)] if isinstance(wanted, TupleType) else [wanted]


def build(wanted: Any, leaves: list[Any]) -> Any:
    """A value of a type of values for its leaves, which are taken out of the list."""
    if isinstance(wanted, TupleType):
        return tuple(build(part, leaves) for part in wanted.parts)
    return leaves.pop(0)


def complete(wanted: Any) -> bool:
    """Whether a type says everything."""
    return all(complete(p) for p in wanted.parts) if isinstance(wanted, TupleType) else wanted is not None
