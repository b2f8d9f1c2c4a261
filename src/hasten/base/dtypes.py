"""Element types: names, storage, and how kernels compute with them. One table feeds everything.

Names are NumPy's and ml_dtypes' ("float32", "bfloat16", "int4", ...); "string" exists only on the host. In memory each element takes `size`
bytes (4-bit and 2-bit types take one byte an element, as in ml_dtypes). Small floats are computed in float32 and rounded when stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DType:
    """kind: b(ool) i(nt) u(nsigned) f(loat) c(omplex) s(tring); bits: width of the value; size: bytes in memory; onnx: TensorProto number."""

    name: str
    kind: str
    bits: int
    size: int
    onnx: int
    compute: str  # dtype of the value inside kernels
    storage: str  # LLVM type in memory


_ROWS = (
    ("float32", "f", 32, 4, 1, "float32", "float"), ("uint8", "u", 8, 1, 2, "uint8", "i8"), ("int8", "i", 8, 1, 3, "int8", "i8"),
    ("uint16", "u", 16, 2, 4, "uint16", "i16"), ("int16", "i", 16, 2, 5, "int16", "i16"), ("int32", "i", 32, 4, 6, "int32", "i32"),
    ("int64", "i", 64, 8, 7, "int64", "i64"), ("string", "s", 0, 8, 8, "string", ""), ("bool", "b", 1, 1, 9, "bool", "i8"),
    ("float16", "f", 16, 2, 10, "float32", "i16"), ("float64", "f", 64, 8, 11, "float64", "double"),
    ("uint32", "u", 32, 4, 12, "uint32", "i32"), ("uint64", "u", 64, 8, 13, "uint64", "i64"),
    ("complex64", "c", 64, 8, 14, "complex64", ""), ("complex128", "c", 128, 16, 15, "complex128", ""),
    ("bfloat16", "f", 16, 2, 16, "float32", "i16"), ("float8_e4m3fn", "f", 8, 1, 17, "float32", "i8"),
    ("float8_e4m3fnuz", "f", 8, 1, 18, "float32", "i8"), ("float8_e5m2", "f", 8, 1, 19, "float32", "i8"),
    ("float8_e5m2fnuz", "f", 8, 1, 20, "float32", "i8"), ("uint4", "u", 4, 1, 21, "uint8", "i8"), ("int4", "i", 4, 1, 22, "int8", "i8"),
    ("float4_e2m1fn", "f", 4, 1, 23, "float32", "i8"), ("float8_e8m0fnu", "f", 8, 1, 24, "float32", "i8"),
    ("uint2", "u", 2, 1, 25, "uint8", "i8"), ("int2", "i", 2, 1, 26, "int8", "i8"),
)  # fmt: skip

DTYPES: dict[str, DType] = {row[0]: DType(*row) for row in _ROWS}
BY_ONNX: dict[int, DType] = {d.onnx: d for d in DTYPES.values()}


def dtype(name: str) -> DType:
    """The row of a dtype name (KeyError where unknown)."""
    return DTYPES[name]


def compute_type(name: str) -> str:
    """The dtype kernels compute with for values stored as `name`: small floats in float32, 4-bit integers in 8."""
    return DTYPES[name].compute


def is_float(name: str) -> bool:
    return DTYPES[name].kind == "f"


def is_int(name: str) -> bool:
    return DTYPES[name].kind in "iu"


@cache
def to_numpy(name: str) -> np.dtype[Any]:
    """The NumPy dtype (ml_dtypes imported only where needed; strings are object arrays)."""
    if name == "string":
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


def from_numpy(dt: np.dtype[Any]) -> str:
    """The name of a NumPy dtype; object and text arrays are "string" (KeyError where Hasten has none)."""
    if dt.kind in "OUST":
        return "string"
    return DTYPES[dt.name].name
