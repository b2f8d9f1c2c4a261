"""Python's operators on tensors and numbers, and indexing: tables of ONNX operators.

Types follow NumPy: a Python number takes the dtype of the tensor beside it (an int beside floats, a float beside ints makes float64); two tensors
must have one dtype already. `//` and `%` round downwards, `/` of integers gives float64.
"""

from __future__ import annotations

import ast
import operator as python
from collections.abc import Callable
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.functions import data, lists
from hasten.functions import values as v
from hasten.functions.scope import Scope, expression
from hasten.lower.trace import Tensor
from hasten.ops.shape import insert_axes, scalar_tensor

ARITHMETIC: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("Add", python.add), ast.Sub: ("Sub", python.sub), ast.Mult: ("Mul", python.mul), ast.Div: ("Div", python.truediv),
    ast.FloorDiv: ("FloorDiv", python.floordiv), ast.Mod: ("Mod", python.mod), ast.Pow: ("Pow", python.pow), ast.MatMult: ("MatMul", python.matmul),
    ast.BitAnd: ("And", python.and_), ast.BitOr: ("Or", python.or_), ast.BitXor: ("Xor", python.xor),
}  # fmt: skip
COMPARISONS: dict[type, tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Lt: ("Less", python.lt), ast.LtE: ("LessOrEqual", python.le), ast.Gt: ("Greater", python.gt), ast.GtE: ("GreaterOrEqual", python.ge),
    ast.Eq: ("Equal", python.eq), ast.NotEq: ("NotEqual", python.ne), ast.Is: ("", python.is_), ast.IsNot: ("", python.is_not),
}  # fmt: skip
UNARY: dict[type, tuple[str, Callable[[Any], Any]]] = {
    ast.USub: ("Neg", python.neg), ast.UAdd: ("Identity", python.pos), ast.Invert: ("Not", python.invert),
}  # fmt: skip
_BITWISE = {"And": "BitwiseAnd", "Or": "BitwiseOr", "Xor": "BitwiseXor", "Not": "BitwiseNot"}
_KINDS = {"int": 0, "float": 0.0, "bool": False}


@expression(ast.BinOp)
def _binary(scope: Scope, node: ast.BinOp) -> Any:
    if type(node.op) not in ARITHMETIC:
        raise scope.error(node, f"the operator {type(node.op).__name__} is outside of the language")
    return binary(scope, node, *ARITHMETIC[type(node.op)], scope.evaluate(node.left), scope.evaluate(node.right))


def binary(scope: Scope, at: ast.AST, op: str, known: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """An operator of two operands; `known` is its meaning for what is known now."""
    if _static(a) and _static(b):
        return scope.guarded(at, op, None, lambda: known(a, b))
    if op == "Add" and (isinstance(a, tuple) and isinstance(b, tuple) or isinstance(a, list) and isinstance(b, list)):
        return known(a, b)
    if op == "Add" and (lists.is_list(a) or lists.is_list(b)):
        return lists.joined(scope, at, a, b)
    x, y = v.lifted(scope.cx, a), v.lifted(scope.cx, b)
    for side in (x, y):
        if not isinstance(side, (Tensor, v.Scalar)):
            raise scope.error(at, f"{_symbol(op)} takes tensors and numbers, not {v.describe(a)} and {v.describe(b)}")
    dtype = _common(scope, at, op, x, y)
    scalar = isinstance(x, v.Scalar) and isinstance(y, v.Scalar)
    left, right = (scope.as_tensor(at, s, dtype) if isinstance(s, v.Scalar) else s for s in (x, y))
    left, right = (t if t.dtype == dtype else scope.apply(at, "Cast", [t], {"to": dtype}) for t in (left, right))
    return _result(_METHODS.get(op, _plain)(scope, at, op, left, right), scalar)


def _static(x: Any) -> bool:
    """Whether Python itself can compute with x."""
    return v.is_number(x) or isinstance(x, (str, type(None), np.ndarray, np.generic))


def _symbol(op: str) -> str:
    return op if op else "is"


def _result(t: Tensor, scalar: bool) -> Any:
    kinds = {"int64": "int", "float64": "float", "bool": "bool"}
    return v.Scalar(kinds[t.dtype], t) if scalar else t


def _common(scope: Scope, at: ast.AST, op: str, x: Any, y: Any) -> str:
    """The dtype in which an operator computes."""
    strong = [s.dtype for s in (x, y) if isinstance(s, Tensor)]
    weak = [_KINDS[s.kind] for s in (x, y) if isinstance(s, v.Scalar)]
    if len(set(strong)) > 1:
        raise scope.error(at, f"{_symbol(op)} of {strong[0]} and {strong[1]}: convert one of them, as x.astype({strong[0]!r})")
    if op == "Div" and (not strong or not dtypes.is_float(strong[0])):
        return "float64"
    if strong and (dtypes.is_float(strong[0]) or not weak):
        return strong[0]
    kinds = [np.dtype(strong[0])] if strong else [np.dtype(bool)]
    found = np.result_type(*kinds, *weak)
    return "int64" if found.kind == "b" and op in ("Add", "Sub", "Mul", "FloorDiv", "Mod", "Pow") else str(found)


def _plain(scope: Scope, at: ast.AST, op: str, a: Tensor, b: Tensor) -> Tensor:
    return scope.apply(at, op, [a, b])


def _bits(scope: Scope, at: ast.AST, op: str, a: Tensor, b: Tensor) -> Tensor:
    return scope.apply(at, op if a.dtype == "bool" else _BITWISE[op], [a, b])


def _not_equal(scope: Scope, at: ast.AST, op: str, a: Tensor, b: Tensor) -> Tensor:
    return scope.apply(at, "Not", [scope.apply(at, "Equal", [a, b])])


def _modulo(scope: Scope, at: ast.AST, op: str, a: Tensor, b: Tensor) -> Tensor:
    if not dtypes.is_float(a.dtype):
        return scope.apply(at, "Mod", [a, b])
    return scope.apply(at, "Sub", [a, scope.apply(at, "Mul", [_floor_div(scope, at, op, a, b), b])])


def _floor_div(scope: Scope, at: ast.AST, op: str, a: Tensor, b: Tensor) -> Tensor:
    if dtypes.is_float(a.dtype):
        return scope.apply(at, "Floor", [scope.apply(at, "Div", [a, b])])
    return scope.apply(at, "Div", [scope.apply(at, "Sub", [a, scope.apply(at, "Mod", [a, b])]), b])


_METHODS: dict[str, Callable[[Scope, ast.AST, str, Tensor, Tensor], Tensor]] = {
    "And": _bits, "Or": _bits, "Xor": _bits, "NotEqual": _not_equal, "Mod": _modulo, "FloorDiv": _floor_div,
}  # fmt: skip


@expression(ast.UnaryOp)
def _unary(scope: Scope, node: ast.UnaryOp) -> Any:
    x = scope.evaluate(node.operand)
    if isinstance(node.op, ast.Not):
        truth = condition(scope, node.operand, x)
        return not truth if isinstance(truth, bool) else v.Scalar("bool", scope.apply(node, "Not", [truth]))
    op, known = UNARY[type(node.op)]
    if _static(x):
        return scope.guarded(node, op, None, lambda: known(x))
    t = scope.as_tensor(node, x)
    if op == "Not" and t.dtype != "bool":
        op = _BITWISE[op]
    return _result(scope.apply(node, op, [t]), isinstance(x, v.Scalar))


@expression(ast.Compare)
def _compare(scope: Scope, node: ast.Compare) -> Any:
    sides = [scope.evaluate(e) for e in (node.left, *node.comparators)]
    result: Any = None
    for op, a, b in zip(node.ops, sides, sides[1:], strict=False):
        if type(op) not in COMPARISONS:
            raise scope.error(node, f"the comparison {type(op).__name__} is outside of the language")
        name, known = COMPARISONS[type(op)]
        if not name and not (_static(a) or _static(b) or callable(a)):
            raise scope.error(node, "`is` compares what is known when the function is compiled; use == for values")
        found = known(a, b) if not name or (_static(a) and _static(b)) else binary(scope, node, name, known, a, b)
        result = found if result is None else binary(scope, node, "And", python.and_, result, found)
    return result


def condition(scope: Scope, at: ast.AST, value: Any) -> bool | Tensor:
    """What `if` and `while` ask: a bool that is known now, or a bool tensor of one element."""
    if v.is_number(value) or value is None or isinstance(value, (str, np.bool_)):
        return bool(value)
    if isinstance(value, v.Scalar) and value.kind != "bool":
        value = binary(scope, at, "NotEqual", python.ne, value, 0)
    t = value.tensor if isinstance(value, v.Scalar) else data.has_tag(scope.cx, value, lists.SNOC) if lists.is_list(value) else value
    if isinstance(t, np.ndarray):
        t = scope.as_tensor(at, t)
    if not isinstance(t, Tensor) or t.dtype != "bool" or any(d != 1 for d in t.shape):
        raise scope.error(at, f"a condition is a bool of one element, not {v.describe(value)}; compare it, or use hasten.op.ReduceMax and the like")
    known = scope.known(t)
    return t if known is None else known


# --- indexing -------------------------------------------------------------------------------------------------------------------
@expression(ast.Subscript)
def _subscript(scope: Scope, node: ast.Subscript) -> Any:
    base = scope.evaluate(node.value)
    if lists.is_list(base):
        return lists.item(scope, node, base, scope.evaluate(node.slice))
    index = [scope.evaluate(e) for e in node.slice.elts] if isinstance(node.slice, ast.Tuple) else [scope.evaluate(node.slice)]
    if isinstance(base, (Tensor, np.ndarray)):
        if isinstance(base, np.ndarray) and all(map(_known_index, index)):
            return base[tuple(index)]
        return _indexed(scope, node, scope.as_tensor(node, base), index)
    if isinstance(base, type) and hasattr(base, "__class_getitem__"):  # an annotation, as list[int]
        return scope.guarded(node, "indexing", None, lambda: base.__class_getitem__(tuple(index) if len(index) > 1 else index[0]))
    if isinstance(base, (tuple, list, dict, str)) or hasattr(base, "__getitem__"):
        if len(index) != 1 or isinstance(index[0], (v.Scalar, Tensor)):
            kind = "tuples and Python's own lists are indexed by what is known when the function is compiled"
            raise scope.error(node, f"{kind}, not by {', '.join(map(v.describe, index))}")
        return scope.guarded(node, "indexing", None, lambda: base[index[0]])
    raise scope.error(node, f"{v.describe(base)} cannot be indexed")


def _known_index(i: Any) -> bool:
    return all(map(_static, (i.start, i.stop, i.step))) if isinstance(i, slice) else i is Ellipsis or _static(i)


@expression(ast.Slice)
def _slice(scope: Scope, node: ast.Slice) -> slice:
    return slice(*(None if e is None else scope.evaluate(e) for e in (node.lower, node.upper, node.step)))


def _indexed(scope: Scope, at: ast.AST, x: Tensor, index: list[Any]) -> Tensor:
    """NumPy's basic indexing, and at most one index tensor."""
    named = sum(1 for i in index if i is not None and i is not Ellipsis)
    if named > x.rank or sum(1 for i in index if i is Ellipsis) > 1:
        raise scope.error(at, f"{named} indices for {v.describe(x)}")
    where = next((k for k, i in enumerate(index) if i is Ellipsis), len(index))
    index = [*index[:where], *[slice(None)] * (x.rank - named), *index[where + 1 :]]
    if sum(1 for i in index if isinstance(i, Tensor) and i.rank) > 1:
        raise scope.error(at, "at most one index may be a tensor; use hasten.op.GatherND")
    axis = 0
    for i in index:
        if i is None:
            x, axis = insert_axes(scope.cx, x, [axis]), axis + 1
        elif isinstance(i, slice):
            x, axis = _cut(scope, at, x, axis, i), axis + 1
        else:
            t = scope.as_tensor(at, i)
            if not dtypes.is_int(t.dtype):
                raise scope.error(at, f"an index is an integer, not {v.describe(i)}")
            x, axis = scope.apply(at, "Gather", [x, t], {"axis": axis}), axis + t.rank
    return x


def _cut(scope: Scope, at: ast.AST, x: Tensor, axis: int, s: slice) -> Tensor:
    if s == slice(None):
        return x
    backwards = isinstance(s.step, int) and s.step < 0
    limits = [(s.start, (1 << 62) if backwards else 0), (s.stop, -(1 << 62) if backwards else 1 << 62), (s.step, 1)]
    ends = [vector(scope, at, default if e is None else e) for e, default in limits]
    return scope.apply(at, "Slice", [x, ends[0], ends[1], scope.cx.const([axis], "int64"), ends[2]])


def vector(scope: Scope, at: ast.AST, value: Any) -> Tensor:
    """An integer, or several in a list, as a tensor of one axis."""
    if isinstance(value, (list, tuple)):
        if all(isinstance(x, int) for x in value):
            return scope.cx.const(np.array(value, np.int64))
        return scope.cx.concat([vector(scope, at, x) for x in value], 0)
    t = scope.as_tensor(at, value)
    if not dtypes.is_int(t.dtype) or t.rank > 1:
        raise scope.error(at, f"expected an int, got {v.describe(value)}")
    return t if t.rank else insert_axes(scope.cx, t, [0])


def size(scope: Scope, d: Any) -> Any:
    """A size of a shape as a value: an int that is known, or one that the run knows."""
    return d if isinstance(d, int) else v.Scalar("int", scalar_tensor(scope.cx, d))
