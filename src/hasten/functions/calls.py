"""Calls: by what is called. `FUNCTIONS` are functions of NumPy and PyTorch (and methods of tensors) by name; `BUILTINS` Python's own."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.types import SCALARS, Data
from hasten.functions import data, lists, onnx_operators
from hasten.functions import values as v
from hasten.functions.function import Function
from hasten.functions.kinds import FunctionType, field_types
from hasten.functions.op import Operator
from hasten.functions.operators import ARITHMETIC, binary, size, vector
from hasten.functions.scope import Scope, expression
from hasten.functions.types import kept
from hasten.lower.trace import Tensor
from hasten.ops.shape import insert_axes


@dataclass(frozen=True)
class Method:
    """A method of a tensor."""

    base: Tensor
    name: str


@expression(ast.Call)
def call(scope: Scope, node: ast.Call) -> Any:
    """The value of a call."""
    target = scope.evaluate(node.func)
    args: list[Any] = []
    for a in node.args:
        value = scope.evaluate(a.value if isinstance(a, ast.Starred) else a)
        if isinstance(a, ast.Starred) and not isinstance(value, (tuple, list)):
            raise scope.error(a, f"* takes a tuple or list of known length, not {v.describe(value)}")
        args.extend(value if isinstance(a, ast.Starred) else [value])
    if any(k.arg is None for k in node.keywords):
        raise scope.error(node, "** in calls is outside of the language")
    return called(scope, node, target, args, {str(k.arg): scope.evaluate(k.value) for k in node.keywords})


def called(scope: Scope, node: ast.Call, target: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """What `target` gives for these arguments."""
    if isinstance(target, Operator):
        return onnx_operators.call(scope, node, target.name, args, kwargs)
    if isinstance(target, type) and issubclass(target, Data):
        if target.tag < 0 or kwargs:
            raise scope.error(node, f"values are made by variants, as {target.variants[0].__qualname__}(...), with fields in order")
        types = [*field_types(target), *[None] * len(args)]
        fields = [v.lifted(scope.cx, kept(scope, node, x, t, "a field")) for x, t in zip(args, types, strict=False)]
        return scope.guarded(node, target.__qualname__, None, lambda: data.pack(scope.cx, target, fields))
    if isinstance(target, (v.Closure, Function)):
        return scope.world.call(scope, node, target, args, kwargs)
    if isinstance(target, v.Datum) and isinstance(target.family, FunctionType):
        return scope.world.call_closure(scope, node, target, args, kwargs)
    handler = _library(target)
    if handler is not None:
        kwargs = {_RENAMED.get(k, k): x for k, x in kwargs.items()}
        if isinstance(target, Method):
            args = [target.base, *args]
        return scope.guarded(node, ast.unparse(node.func), None, lambda: handler(scope, node, *args, **kwargs))
    from hasten.functions.models import call_model, is_model

    if is_model(target):
        return call_model(scope, node, target, args, kwargs)
    name = getattr(target, "__name__", v.describe(target))
    raise scope.error(node, f"{name} cannot be called here: there are functions with @hasten.function, lambdas, torch modules, ONNX models, hasten.op, and the "
                            "functions of NumPy, PyTorch and Python in docs/functions.md")  # fmt: skip


_RENAMED = {"dim": "axis", "keepdim": "keepdims"}  # PyTorch's names


def _library(target: Any) -> Callable[..., Any] | None:
    """What a function of NumPy, PyTorch or Python means here."""
    if isinstance(target, Method):
        return METHODS[target.name]
    name = getattr(target, "__name__", "")
    if target is getattr(builtins, name, None):
        return BUILTINS.get(name)
    torch = sys.modules.get("torch")
    rooms = [torch, torch.nn.functional] if torch is not None and name in _TORCH else []
    return FUNCTIONS.get(name) if any(getattr(room, name, None) is target for room in (np, *rooms)) else None


_TORCH = frozenset((
    "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "abs", "sin", "cos", "floor", "ceil", "sign", "matmul", "maximum", "minimum", "sum", "mean", "argmax",
    "argmin", "cat", "stack", "where", "reshape", "softmax", "squeeze", "unsqueeze",
))  # fmt: skip


def _unary(op: str) -> Callable[..., Any]:
    def apply(scope: Scope, at: ast.AST, x: Any) -> Any:
        if v.is_number(x):
            return scope.as_tensor(at, x)
        found = scope.apply(at, op, [scope.as_tensor(at, x)])
        return v.Scalar(x.kind, found) if isinstance(x, v.Scalar) and op in ("Abs", "Neg") else found

    return apply


def _binary(op: str) -> Callable[..., Any]:
    return lambda scope, at, x, y: binary(scope, at, op, _KNOWN.get(op, lambda a, b: NotImplemented), x, y)


_KNOWN: dict[str, Callable[[Any, Any], Any]] = {row[0]: row[1] for row in ARITHMETIC.values()} | {"Max": np.maximum, "Min": np.minimum}


def _reduce(op: str) -> Callable[..., Any]:
    def apply(scope: Scope, at: ast.AST, x: Any, axis: Any = None, keepdims: Any = False) -> Any:
        t = scope.as_tensor(at, x)
        axes = None if axis is None else scope.cx.const([axis] if isinstance(axis, int) else list(axis), "int64")
        return scope.apply(at, op, [t, axes] if axes is not None else [t], {"keepdims": int(keepdims)})

    return apply


def _arg(op: str) -> Callable[..., Any]:
    def apply(scope: Scope, at: ast.AST, x: Any, axis: Any = None, keepdims: Any = False) -> Any:
        t = scope.as_tensor(at, x)
        flat = scope.cx.reshape(t, (t.size,)) if axis is None else t
        return scope.apply(at, op, [flat], {"axis": 0 if axis is None else axis, "keepdims": int(keepdims)})

    return apply


def _concat(scope: Scope, at: ast.AST, parts: Any, axis: Any = 0) -> Any:
    if not isinstance(parts, (list, tuple)) or not parts:
        raise scope.error(at, "expected a list of tensors")
    return scope.apply(at, "Concat", [scope.as_tensor(at, p) for p in parts], {"axis": axis})


def _stack(scope: Scope, at: ast.AST, parts: Any, axis: Any = 0) -> Any:
    tensors = [scope.as_tensor(at, p) for p in parts]
    place = axis % (tensors[0].rank + 1)
    return scope.apply(at, "Concat", [insert_axes(scope.cx, t, [place]) for t in tensors], {"axis": place})


def _where(scope: Scope, at: ast.AST, test: Any, x: Any, y: Any) -> Any:
    like = next((t.dtype for t in (v.lifted(scope.cx, x), v.lifted(scope.cx, y)) if isinstance(t, Tensor)), None)
    return scope.apply(at, "Where", [scope.as_tensor(at, test), scope.as_tensor(at, x, like), scope.as_tensor(at, y, like)])


def _filled(value: float) -> Callable[..., Any]:
    def apply(scope: Scope, at: ast.AST, shape: Any, dtype: Any = np.float64) -> Any:
        name = _dtype(scope, at, dtype)
        return scope.apply(at, "ConstantOfShape", [vector(scope, at, shape)], {"value": np.array([value]).astype(dtypes.to_numpy(name))})

    return apply


def _dtype(scope: Scope, at: ast.AST, dtype: Any) -> str:
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype).removeprefix("torch.")
    name = {"int": "int64", "float": "float64"}.get(name, name)
    if name not in dtypes.DTYPES or name == "string":
        raise scope.error(at, f"{dtype!r} is no dtype of a tensor")
    return name


def _cast(scope: Scope, at: ast.AST, x: Any, dtype: Any) -> Any:
    return scope.apply(at, "Cast", [scope.as_tensor(at, x)], {"to": _dtype(scope, at, dtype)})


def _reshape(scope: Scope, at: ast.AST, x: Any, *shape: Any) -> Any:
    wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    return scope.apply(at, "Reshape", [scope.as_tensor(at, x), vector(scope, at, list(wanted))])


def _transpose(scope: Scope, at: ast.AST, x: Any, *axes: Any) -> Any:
    t = scope.as_tensor(at, x)
    wanted = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
    perm = [a % t.rank for a in wanted] or list(range(t.rank))[::-1]
    if sorted(perm) != list(range(t.rank)):
        raise scope.error(at, f"transpose takes all {t.rank} axes in their new order, as in NumPy; got {list(wanted)}")
    return scope.apply(at, "Transpose", [t], {"perm": perm})


def _softmax(scope: Scope, at: ast.AST, x: Any, axis: Any = -1) -> Any:
    return scope.apply(at, "Softmax", [scope.as_tensor(at, x)], {"axis": axis})


def _unsqueeze(scope: Scope, at: ast.AST, x: Any, axis: Any) -> Any:
    t = scope.as_tensor(at, x)
    return insert_axes(scope.cx, t, [axis % (t.rank + 1)])


def _squeeze(scope: Scope, at: ast.AST, x: Any, axis: Any = None) -> Any:
    axes = [] if axis is None else [scope.cx.const([axis], "int64")]
    return scope.apply(at, "Squeeze", [scope.as_tensor(at, x), *axes])


def _item(scope: Scope, at: ast.AST, x: Any) -> Any:
    t = scope.as_tensor(at, x)
    kind = "bool" if t.dtype == "bool" else "float" if dtypes.is_float(t.dtype) else "int"
    return _number(kind)(scope, at, t)


def _number(kind: str) -> Callable[..., Any]:
    """int(x), float(x), bool(x)."""
    dtype = SCALARS[v.NUMBERS[kind]]

    def apply(scope: Scope, at: ast.AST, x: Any) -> Any:
        if v.is_number(x):
            return v.NUMBERS[kind](x)
        t = scope.as_tensor(at, x)
        if any(d != 1 for d in t.shape):
            raise scope.error(at, f"{kind} takes a tensor of one element, not {v.describe(t)}")
        return v.Scalar(kind, scope.apply(at, "Cast", [scope.cx.reshape(t, ())], {"to": dtype}))

    return apply


def _len(scope: Scope, at: ast.AST, x: Any) -> Any:
    if isinstance(x, Tensor):
        if not x.rank:
            raise scope.error(at, "a tensor without axes has no length")
        return size(scope, x.shape[0])
    if lists.is_list(x):
        return lists.length(scope, at, x)
    if isinstance(x, v.Datum) or not hasattr(x, "__len__"):
        raise scope.error(at, f"{v.describe(x)} has no length here")
    return len(x)


def _extreme(op: str) -> Callable[..., Any]:
    """min and max of Python, of numbers."""
    known = {"Max": max, "Min": min}[op]

    def apply(scope: Scope, at: ast.AST, *items: Any) -> Any:
        found = items[0] if len(items) == 1 else items
        if not isinstance(found, (tuple, list)) or not found:
            raise scope.error(at, "expected numbers, or a tuple or list of them; for tensors there is hasten.op.ReduceMax")
        result = found[0]
        for x in found[1:]:
            result = binary(scope, at, op, known, result, x)
        return result

    return apply


def _python(function: Callable[..., Any]) -> Callable[..., Any]:
    """What Python computes itself of items that are known."""

    def apply(scope: Scope, at: ast.AST, *items: Any) -> Any:
        for x in items:
            if not isinstance(x, (tuple, list, range, str, int, dict)) and not hasattr(x, "__iter__"):
                raise scope.error(at, f"{function.__name__} takes tuples and lists of known length, not {v.describe(x)}")
        return list(function(*items)) if function is not tuple else tuple(*items)

    return apply


def _map(scope: Scope, at: ast.Call, function: Any, *items: Any) -> Any:
    return [called(scope, at, function, list(row), {}) for row in zip(*items, strict=True)]


def _sum(scope: Scope, at: ast.AST, items: Any, start: Any = 0) -> Any:
    for x in items:
        start = binary(scope, at, "Add", lambda a, b: a + b, start, x)
    return start


BUILTINS: dict[str, Callable[..., Any]] = {
    "len": _len, "abs": _unary("Abs"), "min": _extreme("Min"), "max": _extreme("Max"), "int": _number("int"), "float": _number("float"),
    "bool": _number("bool"), "sum": _sum, "map": _map, "zip": _python(zip), "enumerate": _python(enumerate), "reversed": _python(reversed),
    "list": _python(list), "tuple": _python(tuple),
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _unary(op) for name, op in {
        "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu", "abs": "Abs", "absolute": "Abs", "sin": "Sin",
        "cos": "Cos", "floor": "Floor", "ceil": "Ceil", "sign": "Sign", "negative": "Neg", "logical_not": "Not",
    }.items()},
    **{name: _binary(op) for name, op in {
        "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "matmul": "MatMul", "maximum": "Max", "minimum": "Min", "power": "Pow",
    }.items()},
    "sum": _reduce("ReduceSum"), "mean": _reduce("ReduceMean"), "max": _reduce("ReduceMax"), "min": _reduce("ReduceMin"), "prod": _reduce("ReduceProd"),
    "argmax": _arg("ArgMax"), "argmin": _arg("ArgMin"), "concatenate": _concat, "cat": _concat, "stack": _stack, "where": _where,
    "zeros": _filled(0.0), "ones": _filled(1.0), "reshape": _reshape, "transpose": _transpose, "softmax": _softmax, "squeeze": _squeeze,
    "unsqueeze": _unsqueeze, "expand_dims": _unsqueeze,
}  # fmt: skip
METHODS: dict[str, Callable[..., Any]] = {
    name: FUNCTIONS[name] for name in ("sum", "mean", "max", "min", "prod", "argmax", "argmin", "reshape", "transpose", "squeeze", "unsqueeze", "softmax",
                                       "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "abs")
} | {"astype": _cast, "item": _item}  # fmt: skip
