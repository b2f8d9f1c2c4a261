"""Reading one number from a buffer as an integer (`Read`), at run time; `hasten.vm.native.read` is the same rule as
code.

Integers and bools are taken as they are (uint64 modulo 2**64); floats are truncated towards zero, NaN gives 0, and what
lies beyond 64 bits gives the nearest 64-bit integer.
"""

from __future__ import annotations

import ctypes
import math
import struct
from typing import Any

from hasten.base.errors import CompileError

_LARGEST = (1 << 63) - 1
_CTYPES: dict[str, Any] = {
    "bool": ctypes.c_uint8,
    "int8": ctypes.c_int8,
    "uint8": ctypes.c_uint8,
    "int16": ctypes.c_int16,
    "uint16": ctypes.c_uint16,
    "int32": ctypes.c_int32,
    "uint32": ctypes.c_uint32,
    "int64": ctypes.c_int64,
    "uint64": ctypes.c_int64,
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
    "float16": ctypes.c_uint16,
    "bfloat16": ctypes.c_uint16,
}


def read_element(address: int, index: int, dtype: str) -> int:
    """Element `index` of the memory at `address`."""
    try:
        t = _CTYPES[dtype]
    except KeyError:
        raise CompileError(f"Read of {dtype}: only bool, integers, bfloat16 and floats up to 64 bits work") from None
    value: float = t.from_address(address + index * ctypes.sizeof(t)).value
    if dtype == "float16":
        (value,) = struct.unpack("<e", struct.pack("<H", value))
    elif dtype == "bfloat16":
        (value,) = struct.unpack("<f", struct.pack("<I", int(value) << 16))
    if math.isnan(value):
        return 0
    if math.isinf(value) or abs(value) >= 2.0**63:
        return max(
            -_LARGEST - 1, min(_LARGEST, value if isinstance(value, int) else _LARGEST if value > 0 else -_LARGEST - 1)
        )
    return math.trunc(value)
