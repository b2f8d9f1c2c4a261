"""Calls of `hasten.op.NAME`, by ONNX's own schemas: attributes, types of numbers, how many outputs. No operator is named here."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.functions import values as v
from hasten.functions.operators import vector
from hasten.functions.scope import Scope
from hasten.lower.trace import Tensor, Value
from hasten.ops.registry import find


def call(scope: Scope, at: ast.Call, name: str, args: Sequence[Any], given: dict[str, Any]) -> Any:
    """The result of an operator, a tuple for several outputs. Raises SourceError."""
    import onnx.defs

    if not onnx.defs.has(name):
        raise scope.error(at, f"ONNX has no operator {name!r}")
    schema = onnx.defs.get_schema(name)
    attributes = dict(given)
    outputs = _count(scope, at, schema, attributes)
    known = {key: _attribute(scope, at, schema, key, x) for key, x in attributes.items()}
    if not schema.min_input <= len(args) <= schema.max_input:
        raise scope.error(at, f"{name} takes {schema.min_input} to {schema.max_input} inputs, {len(args)} are given")
    inputs = _inputs(scope, at, schema, args)
    if find("", name) is None:
        from hasten.functions.models import call_operator

        found = call_operator(scope, at, name, inputs, known, outputs)
    else:
        found = scope.apply(at, name, inputs, known, outputs)
    return tuple(found) if outputs > 1 else found


def _count(scope: Scope, at: ast.AST, schema: Any, attributes: dict[str, Any]) -> int:
    """How many outputs are wanted."""
    if "outputs" in attributes:
        count = attributes.pop("outputs")
        if not isinstance(count, int) or not 1 <= count <= schema.max_output:
            raise scope.error(at, f"outputs={count!r}: {schema.name} has 1 to {schema.max_output}")
        return count
    return int(attributes.get("num_outputs", max(1, schema.min_output)))


def _attribute(scope: Scope, at: ast.AST, schema: Any, key: str, x: Any) -> Any:
    """An attribute's value as the operator's rule reads it."""
    if key not in schema.attributes:
        raise scope.error(at, f"{schema.name} has no attribute {key!r}; it has {', '.join(sorted(schema.attributes)) or 'none'}")
    kind = str(schema.attributes[key].type).rsplit(".", 1)[-1]
    plain: Any = x if isinstance(x, (str, bool, int, float, np.ndarray, list, tuple)) else getattr(x, "__name__", None) or str(x)
    if kind == "INT" and isinstance(plain, str) and plain in dtypes.DTYPES:
        return dtypes.dtype(plain).onnx
    takes = _TAKES.get(kind)
    if takes is None or not takes(plain):
        raise scope.error(at, f"the attribute {key!r} of {schema.name} takes {kind.lower()}, got {v.describe(x)}")
    return list(plain) if kind.endswith("S") else float(plain) if kind == "FLOAT" else int(plain) if kind == "INT" else plain


def _all(*kinds: type) -> Any:
    return lambda x: isinstance(x, (list, tuple)) and all(isinstance(y, kinds) for y in x)


_TAKES: dict[str, Any] = {
    "INT": lambda x: isinstance(x, (int, bool)), "FLOAT": lambda x: isinstance(x, (int, float)), "STRING": lambda x: isinstance(x, str),
    "INTS": _all(int), "FLOATS": _all(int, float), "STRINGS": _all(str), "TENSOR": lambda x: isinstance(x, np.ndarray),
}  # fmt: skip


def _inputs(scope: Scope, at: ast.Call, schema: Any, args: Sequence[Any]) -> list[Value | None]:
    """Operands as tensors. A number takes the dtype of a tensor whose type ONNX says is the same."""
    formals = list(schema.inputs)
    names = [formals[min(k, len(formals) - 1)].type_str for k in range(len(args))]
    types: dict[str, str] = {}
    for x, name in zip(args, names, strict=True):
        if isinstance(x, Tensor):
            types.setdefault(name, x.dtype)
        elif isinstance(x, np.ndarray):
            types.setdefault(name, dtypes.from_numpy(x.dtype))
    made: list[Value | None] = []
    for x, name in zip(args, names, strict=True):
        if x is None:
            made.append(None)
        elif isinstance(x, (list, tuple)):
            made.append(vector(scope, at, x))
        else:
            like = types.get(name) if v.is_number(x) or isinstance(x, v.Scalar) else None
            made.append(scope.as_tensor(at, x, like or ("float32" if isinstance(x, float) else None)))
    _same_types(scope, at, schema.name, made, names)
    return made


def _same_types(scope: Scope, at: ast.Call, op: str, made: Sequence[Value | None], names: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for x, name in zip(made, names, strict=True):
        if isinstance(x, Tensor) and first.setdefault(name, x.dtype) != x.dtype:
            raise scope.error(at, f"{op} takes inputs of one type here, not {first[name]} and {x.dtype}; convert one of them, as x.astype({first[name]!r})")
