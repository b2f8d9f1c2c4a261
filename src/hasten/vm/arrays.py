"""Arrays from whatever users have, where that changes neither values nor meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hasten.base.dims import DimLike
from hasten.base.dtypes import to_numpy
from hasten.base.errors import ShapeMismatch, TypeMismatch


def shape_text(shape: Sequence[DimLike]) -> str:
    """A shape as users read it: "(N, 3, 224)"."""
    return "(" + ", ".join(map(str, shape)) + (",)" if len(shape) == 1 else ")")


def is_exact(value: Any, dtype: str, rank: int) -> bool:
    """Whether native code takes a value as it is."""
    return type(value) is np.ndarray and value.dtype is to_numpy(dtype) and value.ndim == rank and value.flags.c_contiguous and value.flags.aligned


def tensor(where: str, dtype: str, shape: Sequence[DimLike], value: Any) -> np.ndarray[Any, Any]:
    """`value` as an array of that dtype and rank, in C order, aligned, exactly an ndarray. Raises TypeMismatch, ShapeMismatch, which say `where`."""
    want = to_numpy(dtype)
    wanted = f"{dtype}{shape_text(shape)}"
    found = _as_array(value, want)
    if found is None:
        raise TypeMismatch(f"{where}: {kind(value)} cannot be used, the model takes {wanted}{_hint(value, want)}")
    array = np.require(np.asarray(found), want, ["C", "A"])
    if array.ndim != len(shape):
        raise ShapeMismatch(f"{where}: shape {shape_text(array.shape)} has {array.ndim} axes, the model takes {wanted} with {len(shape)}")
    return array if array.dtype is want and type(array) is np.ndarray else array.view(want, np.ndarray)


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
        given, target = (
            array.dtype.kind,
            "f" if want.kind == "V" or want.name.startswith(("bfloat", "float")) else want.kind,
        )
        if given == "b" or target == "b":
            return array if given == target else None
        if given in "iu" and target in "iu":
            cast = array.astype(want)
            return cast if (cast == array).all() else None
        return array.astype(want) if given in "iuf" and target == "f" else None
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


def kind(value: Any) -> str:
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
