"""What a model takes: turning what users feed into the arrays that a Program reads, or saying precisely what is wrong
with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hasten.base.dims import DimLike, evaluate
from hasten.base.errors import InputError, ShapeMismatch, TypeMismatch
from hasten.vm.abi import bind
from hasten.vm.arrays import kind, shape_text, tensor
from hasten.vm.program import ObjectSpec, Program, TensorSpec, ValueSpec
from hasten.vm.values import Values


class Signature:
    """The inputs of a Program."""

    def __init__(self, program: Program):
        self.specs = program.inputs
        self.names = [s.name for s in program.inputs]
        self.binding = bind(program)
        self.values = Values(program.types)

    def describe(self) -> str:
        """All inputs in one line."""
        return ", ".join(f"{s.name}: {self.wanted(s)}" for s in self.specs) or "no inputs"

    def wanted(self, spec: TensorSpec | ValueSpec | ObjectSpec) -> str:
        if isinstance(spec, ValueSpec):
            return spec.type
        return f"{spec.dtype}{shape_text(spec.shape)}" if isinstance(spec, TensorSpec) else spec.kind

    def from_names(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The values of `feeds` by position. Raises InputError for a missing or unknown name."""
        if not isinstance(feeds, Mapping):
            raise InputError(
                f"run() takes a dict from input names to arrays, not {type(feeds).__name__}; "
                f"the model takes {self.describe()}"
            )
        missing = [n for n in self.names if n not in feeds]
        extra = [str(n) for n in feeds if n not in self.names]
        if missing or extra:
            parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(extra)}"] * bool(extra)
            raise InputError(f"the inputs do not fit ({'; '.join(parts)}); the model takes {self.describe()}")
        return [feeds[n] for n in self.names]

    def convert(self, values: Sequence[Any]) -> list[Any]:
        """Arrays as the Program reads them (exactly ndarray, right dtype, C order, aligned), values of data types with such arrays in them, objects
        unchanged.

        Raises InputError (the number of inputs), TypeMismatch, ShapeMismatch.
        """
        if len(values) != len(self.specs):
            raise InputError(f"{len(values)} inputs were given, the model takes {len(self.specs)}: {self.describe()}")
        arrays = [self._value(s, v) for s, v in zip(self.specs, values, strict=True)]
        self.sizes(arrays)
        return arrays

    def _value(self, spec: TensorSpec | ValueSpec | ObjectSpec, value: Any) -> Any:
        where = f"input {spec.name!r}"
        if isinstance(spec, TensorSpec):
            return tensor(where, spec.dtype, spec.shape, value)
        return self.values.convert(where, spec.type, value) if isinstance(spec, ValueSpec) else _object(spec, value)

    def sizes(self, arrays: Sequence[Any]) -> dict[str, int]:
        """Values of the symbols in the inputs' shapes. Raises ShapeMismatch where a size contradicts the model or
        another input."""
        env = {name: arrays[number].shape[axis] for name, (number, axis) in self.binding.bound.items()}
        for number, axis, dim in self.binding.checked:
            got, want = arrays[number].shape[axis], evaluate(dim, env)
            if got != want:
                spec = self.specs[number]
                why = f"{want}" if isinstance(dim, int) else f"{dim} = {want}{self._origin(dim)}"
                raise ShapeMismatch(
                    f"input {spec.name!r}: the model takes {self.wanted(spec)}, "
                    f"got shape {shape_text(arrays[number].shape)}: "
                    f"axis {axis} must be {why}, not {got}"
                )
        return env

    def _origin(self, dim: DimLike) -> str:
        """Which input gave the value of a dim that is one symbol."""
        place = self.binding.bound.get(str(dim))
        return "" if place is None else f" (from input {self.specs[place[0]].name!r})"


def _object(spec: ObjectSpec, value: Any) -> Any:
    """Python objects as host ops take them: string tensors and tensors of unknown rank as arrays, sequences as lists of
    such."""
    if spec.kind.startswith("sequence"):
        if not isinstance(value, (list, tuple)):
            raise TypeMismatch(
                f"input {spec.name!r}: {kind(value)} cannot be used, the model takes a list: {spec.kind}"
            )
        return [v if isinstance(v, dict) else np.asarray(v) for v in value]
    if spec.kind.startswith("tensor"):
        array = np.asarray(value)
        return array.astype(object) if array.dtype.kind in "UT" else array
    return value
