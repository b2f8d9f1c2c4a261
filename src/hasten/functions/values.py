"""What expressions of a function stand for while it is read.

    Tensor          a lazy tensor of the trace
    Scalar          an int, float or bool that the run knows: a lazy tensor without axes, of int64, float64 or bool
    Datum           a value of an algebraic data type
    Closure         a lambda or nested function with the values that it captured
    tuple, list     of such values; their length is known
    anything else   a Python object, known now: numbers, arrays, modules, other functions

Control flow and calls see a value as its `leaves`, tensors and data, and a `Form` that says how they were put together.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hasten.base.types import SCALARS, Data
from hasten.functions import data
from hasten.functions.data import Scalar
from hasten.functions.source import Source
from hasten.lower.trace import Context, Datum, Tensor, Value

NUMBERS = {"int": int, "float": float, "bool": bool}


@dataclass(frozen=True, eq=False)
class Closure:
    """A function that is a value: its tree and text, the values captured, and the function whose globals it sees."""

    tree: ast.FunctionDef | ast.Lambda
    source: Source
    captured: dict[str, Any]
    home: Any
    name: str


@dataclass(frozen=True)
class Form:
    """How leaves make a value: `kind` is "tensor", "int", "float", "bool" or "data" (one leaf), "tuple", "list" or "closure" (of parts), or "static" (no leaf).
    `what`: the data type, the closure's tree, or the object itself. Equal forms take each other's leaves."""

    kind: str
    what: Any = None
    parts: tuple[Form, ...] = ()
    sample: Any = field(default=None, compare=False)  # a closure of this form


def is_number(x: Any) -> bool:
    return isinstance(x, (bool, int, float)) and not isinstance(x, np.generic)


def constant(cx: Context, x: Any) -> Tensor | None:
    """An array of NumPy or PyTorch as a constant of the trace, one for each array; None for anything else."""
    if hasattr(x, "detach") and hasattr(x, "numpy"):
        x = x.detach().cpu().numpy()
    if not isinstance(x, (np.ndarray, np.generic)):
        return None
    return cx.const(np.asarray(x))


def lifted(cx: Context, x: Any) -> Any:
    """Numbers and arrays that are known now as values of the run; everything else as it is."""
    if is_number(x):
        return Scalar(type(x).__name__, cx.const(np.array(x, SCALARS[type(x)])))
    if isinstance(x, Data):
        return data.pack(cx, type(x), [lifted(cx, field) for field in x])
    found = constant(cx, x)
    return x if found is None else found


def flatten(cx: Context, value: Any, leaves: list[Value], lift: bool = True) -> Form:
    """Append a value's leaves and give its form. `lift`: numbers and arrays become leaves, too."""
    if lift:
        value = lifted(cx, value)
    if isinstance(value, Scalar):
        leaves.append(value.tensor)
        return Form(value.kind)
    if isinstance(value, Datum):
        leaves.append(value)
        return Form("data", value.family)
    if isinstance(value, Tensor):
        leaves.append(value)
        return Form("tensor")
    if isinstance(value, (tuple, list)) and not isinstance(value, Data):
        return Form(type(value).__name__, None, tuple(flatten(cx, v, leaves, lift) for v in value))
    if isinstance(value, Closure):
        parts = tuple(flatten(cx, v, leaves, False) for v in value.captured.values())
        return Form("closure", value.tree, parts, value)
    return Form("static", Known(value))


@dataclass(frozen=True, eq=False)
class Known:
    """A Python object compared by identity, numbers and text by value."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Known) and (self._key() == other._key())

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        plain = is_number(self.value) or isinstance(self.value, str) or self.value is None
        return (type(self.value), self.value) if plain else (object, id(self.value))


def unflatten(form: Form, leaves: Iterator[Value]) -> Any:
    """The value of a form with these leaves."""
    if form.kind in NUMBERS:
        leaf = next(leaves)
        assert isinstance(leaf, Tensor)
        return Scalar(form.kind, leaf)
    if form.kind in ("tensor", "data"):
        return next(leaves)
    if form.kind in ("tuple", "list"):
        made = [unflatten(p, leaves) for p in form.parts]
        return made if form.kind == "list" else tuple(made)
    if form.kind == "closure":
        old: Closure = form.sample
        captured = {n: unflatten(p, leaves) for n, p in zip(old.captured, form.parts, strict=True)}
        return Closure(old.tree, old.source, captured, old.home, old.name)
    return form.what.value


def describe(x: Any) -> str:
    """A value's type, for messages."""
    if isinstance(x, Scalar):
        return x.kind
    if isinstance(x, Datum):
        return x.family.__name__
    if isinstance(x, Tensor):
        return f"Tensor(({', '.join(map(str, x.shape))}{',' * (x.rank == 1)}), {x.dtype})"
    if isinstance(x, tuple) and not isinstance(x, Data):
        return f"tuple[{', '.join(map(describe, x))}]"
    if isinstance(x, list):
        return f"a list of {len(x)}"
    if isinstance(x, Closure):
        return f"the function {x.name}"
    if is_number(x):
        return type(x).__name__
    return "None" if x is None else f"a {type(x).__name__} of Python"


__all__ = ["Closure", "Datum", "Form", "Scalar", "Tensor", "constant", "describe", "flatten", "is_number", "lifted", "unflatten"]
