"""What a model takes: turning what users feed into the arrays that a Program reads, or saying precisely what is wrong
with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hasten.base.dims import DimLike, evaluate
from hasten.base.dtypes import to_numpy
from hasten.base.errors import InputError, ShapeMismatch, TypeMismatch
from hasten.vm.abi import bind
from hasten.vm.program import ObjectSpec, Program, TensorSpec


def shape_text(shape: Sequence[DimLike]) -> str:
    """A shape as users read it: "(N, 3, 224)"."""
    return "(" + ", ".join(map(str, shape)) + (",)" if len(shape) == 1 else ")")


class Signature:
    """The inputs of a Program."""

    def __init__(self, program: Program):
        self.specs = program.inputs
        self.names = [s.name for s in program.inputs]
        self.binding = bind(program)

    def describe(self) -> str:
        """All inputs in one line."""
        return ", ".join(f"{s.name}: {self.wanted(s)}" for s in self.specs) or "no inputs"

    def wanted(self, spec: TensorSpec | ObjectSpec) -> str:
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
        """Arrays as the Program reads them (exactly ndarray, right dtype, C order, aligned), objects unchanged.

        Raises InputError (the number of inputs), TypeMismatch, ShapeMismatch.
        """
        if len(values) != len(self.specs):
            raise InputError(f"{len(values)} inputs were given, the model takes {len(self.specs)}: {self.describe()}")
        arrays = [
            self._array(s, v) if isinstance(s, TensorSpec) else _object(s, v)
            for s, v in zip(self.specs, values, strict=True)
        ]
        self.sizes(arrays)
        return arrays

    def _array(self, spec: TensorSpec, value: Any) -> np.ndarray[Any, Any]:
        want = to_numpy(spec.dtype)
        found = _as_array(value, want)
        if found is None:
            raise TypeMismatch(
                f"input {spec.name!r}: {_kind(value)} cannot be used, "
                f"the model takes {self.wanted(spec)}{_hint(value, want)}"
            )
        array = np.require(np.asarray(found), want, ["C", "A"])
        if array.ndim != len(spec.shape):
            raise ShapeMismatch(
                f"input {spec.name!r}: shape {shape_text(array.shape)} has {array.ndim} axes, the model takes "
                f"{self.wanted(spec)} with {len(spec.shape)}"
            )
        return array if array.dtype is want and type(array) is np.ndarray else array.view(want, np.ndarray)

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
                f"input {spec.name!r}: {_kind(value)} cannot be used, the model takes a list: {spec.kind}"
            )
        return [v if isinstance(v, dict) else np.asarray(v) for v in value]
    if spec.kind.startswith("tensor"):
        array = np.asarray(value)
        return array.astype(object) if array.dtype.kind in "UT" else array
    return value


def _as_array(value: Any, want: np.dtype[Any]) -> np.ndarray[Any, Any] | None:
    """`value` as an array of the wanted dtype (any order), or None where that would change values or meaning."""
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        same = array.dtype == want or array.dtype.newbyteorder("=") == want
        return array if same else None
    if isinstance(value, (bool, int, float, list, tuple)):
        return _from_python(value, want)
    if (
        hasattr(value, "__dlpack__")
        or hasattr(value, "__array__")
        or hasattr(value, "__buffer__")
        or isinstance(value, (bytes, memoryview))
    ):
        other = _from_other(value, want)
        return other if other is not None and other.dtype == want else None
    return None


def _from_python(value: Any, want: np.dtype[Any]) -> np.ndarray[Any, Any] | None:
    """Lists and numbers: ints for integers (in range), floats or ints for floats, bools for bools."""
    try:
        array = np.asarray(value)
        if array.size == 0:
            return array.astype(want)
        kind, target = (
            array.dtype.kind,
            "f" if want.kind == "V" or want.name.startswith(("bfloat", "float")) else want.kind,
        )
        if kind == "b" or target == "b":
            return array if kind == target else None
        if kind in "iu" and target in "iu":
            cast = array.astype(want)
            return cast if (cast == array).all() else None
        return array.astype(want) if kind in "iuf" and target == "f" else None
    except (ValueError, TypeError, OverflowError):
        return None


def _from_other(value: Any, want: np.dtype[Any]) -> np.ndarray[Any, Any] | None:
    """Arrays of other libraries: DLPack, then the array protocol. Types that NumPy lacks come as their bits
    (PyTorch)."""
    try:
        return np.from_dlpack(value)
    except Exception:  # noqa: BLE001 - any library's refusal (device, gradient, dtype) means: try the next protocol
        pass
    try:
        if want.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2") and want.name in str(getattr(value, "dtype", "")):
            torch = __import__("torch")
            bits = value.detach().cpu().contiguous().view(torch.int16 if want.itemsize == 2 else torch.uint8)
            return np.asarray(bits.numpy()).view(want)
        return np.asarray(value.detach() if hasattr(value, "detach") else value)
    except Exception:  # noqa: BLE001
        return None


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        return f"{dtype} {type(value).__name__} of shape {shape_text(tuple(getattr(value, 'shape', ())))}"
    return (
        f"{value!r:.40} ({type(value).__name__})"
        if isinstance(value, (bool, int, float, list, tuple, str))
        else type(value).__name__
    )


def _hint(value: Any, want: np.dtype[Any]) -> str:
    return (
        f"; convert it with .astype({want.name!r})"
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufV"
        else ""
    )
