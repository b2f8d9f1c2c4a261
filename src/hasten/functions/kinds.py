"""What annotations mean: a type is a `hasten.Tensor`, int, float, bool, a data type, a `TupleType` or a `FunctionType`; None where nothing is said."""

from __future__ import annotations

import collections.abc
from dataclasses import dataclass
from typing import Any

from hasten.base.errors import TypeMismatch
from hasten.base.types import SCALARS, Data, listing
from hasten.base.types import Tensor as TensorType

_ALLOWED = "hasten.Tensor(...), int, float, bool, data types of hasten.adt, tuple[...], list[...], Callable, Callable[[...], ...]"


@dataclass(frozen=True)
class TupleType:
    """A tuple with a type for each part."""

    parts: tuple[Any, ...]


@dataclass(frozen=True)
class FunctionType:
    """A function that only the run knows: a closure in the Program."""

    params: tuple[Any, ...]
    result: Any

    @property
    def __name__(self) -> str:
        def name(t: Any) -> str:
            return f"tuple[{', '.join(map(name, t.parts))}]" if isinstance(t, TupleType) else getattr(t, "__name__", str(t))

        return f"Callable[[{', '.join(map(name, self.params))}], {name(self.result)}]"


def meaning(annotation: Any) -> Any:
    """The type that an evaluated annotation means. Raises TypeMismatch."""
    if isinstance(annotation, (TensorType, FunctionType)) or annotation is None or (isinstance(annotation, type) and annotation in SCALARS):
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, Data):
        return annotation.family
    origin = getattr(annotation, "__origin__", None)
    args: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if origin is tuple:
        return TupleType(tuple(map(meaning, args)))
    if origin is list and len(args) == 1:
        item = meaning(args[0])
        if item is None or isinstance(item, TupleType):
            raise TypeMismatch("the items of a list are tensors, numbers, values of data types, functions or lists; for several make a data type")
        return listing(args[0] if isinstance(item, FunctionType) else item)
    if origin is collections.abc.Callable and args:
        return FunctionType(tuple(map(meaning, args[:-1])), meaning(args[-1]))
    if getattr(annotation, "__name__", "") == "Callable":
        return None
    raise TypeMismatch(f"{annotation!r} is no type of the language; there are {_ALLOWED}")


def field_types(variant: type[Data]) -> list[Any]:
    """The types of a variant's fields."""
    return [meaning(t) for t in variant.fields()]


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
