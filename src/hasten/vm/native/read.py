"""Reading one number from a buffer as an integer (`Read`), as code; `hasten.vm.elements` is the same rule in Python.

Integers and bools are taken as they are (uint64 modulo 2**64); floats are truncated towards zero, NaN gives 0, and what
lies beyond 64 bits gives the nearest 64-bit integer.
"""

from __future__ import annotations

from hasten.base.errors import CompileError
from hasten.codegen.builder import Function, V

_INTEGERS = {
    "bool": ("i8", False),
    "int8": ("i8", True),
    "uint8": ("i8", False),
    "int16": ("i16", True),
    "uint16": ("i16", False),
    "int32": ("i32", True),
    "uint32": ("i32", False),
    "int64": ("i64", True),
    "uint64": ("i64", False),
}
_FLOATS = {"float32": "float", "float64": "double"}


def emit_read(f: Function, base: V, index: V, dtype: str) -> V:
    """Element `index` of `base` as i64."""
    if dtype in _INTEGERS:
        t, signed = _INTEGERS[dtype]
        return f.cast(f.load(t, f.at(base, index, int(t[1:]) // 8)), "i64", signed)
    if dtype in _FLOATS:
        t = _FLOATS[dtype]
        return _truncated(f, f.load(t, f.at(base, index, 4 if t == "float" else 8)))
    if dtype not in ("float16", "bfloat16"):
        raise CompileError(f"Read of {dtype}: only bool, integers, bfloat16 and floats up to 64 bits work")
    bits = f.cast(f.load("i16", f.at(base, index, 2)), "i32", False)
    if dtype == "bfloat16":
        return _truncated(f, f.bitcast(bits << 16, "float"))
    # float16 without the hardware's help: scale the exponent; 31 means infinity or NaN; denormals truncate to 0 anyway
    magnitude = bits & 0x7FFF
    finite = f.bitcast(magnitude << 13, "float") * 2.0**112
    special = f.bitcast((magnitude << 13) | 0x7F800000, "float")
    size = f.select(magnitude < 0x7C00, finite, special)
    return _truncated(f, f.select((bits & 0x8000).ne(0), -size, size))


def _truncated(f: Function, x: V) -> V:
    return f.intrinsic("llvm.fptosi.sat", "i64", [x], ["i64", x.type])
