"""Values of algebraic data types in the trace: made by `pack`, taken apart by `fields`.

A variant's tensors may have sizes that the run knows; the value holds them behind its fields, in the order of their first mention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.errors import TypeInferenceError
from hasten.base.types import SCALARS, Data
from hasten.base.types import Tensor as TensorType
from hasten.functions.kinds import field_types
from hasten.kernels import expr as E
from hasten.lower.trace import Context, Datum, Pack, Step, TagOf, Tensor, Unpack, Value
from hasten.ops.cast import convert


@dataclass(frozen=True, eq=False)
class Scalar:
    """A number that the run knows; `kind` is "int", "float" or "bool"."""

    kind: str
    tensor: Tensor


def tensor_type(t: Any) -> TensorType | None:
    """How a type's values lie in memory: its tensor, also for numbers; None for data types."""
    if isinstance(t, TensorType):
        return t
    return TensorType((), SCALARS[t]) if t in SCALARS else None


def accept(cx: Context, value: Any, wanted: Any, sizes: dict[str, DimLike], what: str) -> Value:
    """The leaf of a value that must be of a type. `sizes` has the sizes by their names and gets those that are new. Raises TypeInferenceError."""
    kind = tensor_type(wanted)
    if kind is None:
        if not isinstance(value, Datum) or value.family != wanted:
            raise TypeInferenceError(f"{what}: expected {wanted.__name__}, got {kind_of(value)}")
        return value
    leaf = value.tensor if isinstance(value, Scalar) else value
    if isinstance(value, Scalar) and (wanted is float or isinstance(wanted, TensorType)):
        leaf = convert(cx, value.tensor, kind.dtype)  # ints go where floats are expected, numbers where tensors without axes are
    fits = isinstance(leaf, Tensor) and leaf.dtype == kind.dtype and leaf.rank == len(kind.shape)
    if not fits or not isinstance(leaf, Tensor):
        raise TypeInferenceError(f"{what}: expected {getattr(wanted, '__name__', wanted)}, got {kind_of(value)}")
    for axis, (have, want) in enumerate(zip(leaf.shape, kind.shape, strict=True)):
        known = sizes.setdefault(want, have) if isinstance(want, str) else want
        cx.require(have, "==", known, f"{what}: axis {axis} of {kind_of(leaf)}, expected {kind}")
    return leaf


def kind_of(value: Any) -> str:
    """A leaf's type, for messages."""
    if isinstance(value, Scalar):
        return value.kind
    if isinstance(value, Datum):
        return str(value.kind)
    return repr(TensorType([d if isinstance(d, int) else "_" for d in value.shape], value.dtype)) if isinstance(value, Tensor) else repr(value)


def incoming(cx: Context, wanted: Any, sizes: dict[str, DimLike], origin: Any, defines: list[str] | None = None) -> Any:
    """A value of a type that comes from `origin`; names of sizes that are new become symbols, listed in `defines`."""
    kind = tensor_type(wanted)
    if kind is None:
        return Datum(wanted, origin)
    shape: list[DimLike] = []
    for d in kind.shape:
        if isinstance(d, str) and d not in sizes:
            name = cx.unknown()
            sizes[d] = D.symbol(name)
            if defines is not None:
                defines.append(name)
        shape.append(sizes[d] if isinstance(d, str) else d)
    t = Tensor(cx, kind.dtype, shape, origin)
    return Scalar(wanted.__name__, t) if wanted in SCALARS else t


def results(cx: Context, step: Step, types: Sequence[Any], sizes: dict[str, DimLike]) -> list[Any]:
    """What a step gives, of these types; it tells the sizes that `sizes` does not have."""
    found = [incoming(cx, t, sizes, step, step.defines) for t in types]
    step.results.extend(map(leaf_of, found))
    cx.makers.update(dict.fromkeys(step.defines, step.results[0]) if found else {})
    return found


def leaf_of(value: Any) -> Value:
    """The leaf of a tensor, number or value of a data type."""
    found = value.tensor if isinstance(value, Scalar) else value
    assert isinstance(found, (Tensor, Datum))
    return found


def pack(cx: Context, variant: type[Data], values: Sequence[Any]) -> Datum:
    """A value of a variant. Raises TypeInferenceError where a field is of another type."""
    sizes: dict[str, DimLike] = {}
    types = field_types(variant)
    label = f"{variant.family.__name__}.{variant.__name__}"
    if len(types) != len(values):
        raise TypeInferenceError(f"{label} has {len(types)} fields, {len(values)} are given")
    leaves = [accept(cx, x, t, sizes, f"field {k} of {label}") for k, (x, t) in enumerate(zip(values, types, strict=True))]
    step = Pack(leaves, list(sizes.values()), tag=variant.tag)
    made = Datum(variant.family, step)
    step.results.append(made)
    return made


def pack_list(cx: Context, family: type[Data], items: Sequence[Any], start: Datum | None = None) -> Datum:
    """A list of these items, behind those of `start`."""
    empty, more = family.variants
    found = pack(cx, empty, []) if start is None else start
    for x in items:
        found = pack(cx, more, [found, Scalar(type(x).__name__, cx.const(np.array(x, SCALARS[type(x)]))) if type(x) in SCALARS else x])
    return found


def has_tag(cx: Context, value: Datum, tag: int) -> Tensor:
    """Whether a value is of the variant with this tag."""
    if isinstance(value.origin, Pack):
        return cx.const(np.array(value.origin.tag == tag))
    found = tag_of(cx, value)
    return cx.map((), "bool", lambda i: E.index(found).eq(tag))


def tag_of(cx: Context, value: Datum) -> DimLike:
    """The number of a value's variant."""
    step = TagOf([value], defines=[cx.unknown()])
    step.results.append(Datum("tag", step))
    cx.makers[step.defines[0]] = step.results[0]
    return D.symbol(step.defines[0])


def fields(cx: Context, value: Datum, variant: type[Data]) -> list[Any]:
    """The fields of a value that is known to be of a variant."""
    if isinstance(value.origin, Pack) and value.origin.tag == variant.tag:
        pairs = zip(field_types(variant), value.origin.operands, strict=True)
        return [Scalar(t.__name__, x) if isinstance(x, Tensor) and t in SCALARS else x for t, x in pairs]
    return results(cx, Unpack([value]), field_types(variant), {})


def known_variant(value: Datum) -> type[Data] | None:
    """The variant of a value that was made here."""
    return value.family.variants[value.origin.tag] if isinstance(value.origin, Pack) else None


