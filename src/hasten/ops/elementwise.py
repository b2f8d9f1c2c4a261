"""Elementwise operators: unary and binary arithmetic, comparisons, logic. Tables; the meaning of each row is a row of kernels.expr.OPS."""

from __future__ import annotations

from collections.abc import Callable

from hasten.base.dtypes import is_float
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Tensor
from hasten.ops.registry import Node, operator, tensors


def elementwise(cx: Context, fn: Callable[..., Expr], *xs: Tensor, dtype: str | None = None) -> Tensor:
    """fn of the broadcast inputs, element by element; the result has dtype `dtype` (default: that of the first input)."""
    shape = cx.broadcast_shapes(*(x.shape for x in xs))
    wide = [cx.broadcast_to(x, shape) for x in xs]
    return cx.map(shape, dtype or xs[0].dtype, lambda i: fn(*(x.at(i) for x in wide)))


UNARY = {
    "Abs": "abs", "Neg": "neg", "Ceil": "ceil", "Floor": "floor", "Round": "round", "Sqrt": "sqrt", "Exp": "exp", "Log": "log", "Sin": "sin",
    "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Tanh": "tanh",
    "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "Erf": "erf", "Sign": "sign", "Not": "not", "BitwiseNot": "not",
}  # fmt: skip
BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "And": "and", "Or": "or", "Xor": "xor",
    "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor",
}  # fmt: skip
COMPARE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "Less": lambda a, b: op("lt", a, b), "LessOrEqual": lambda a, b: op("le", a, b), "Greater": lambda a, b: op("lt", b, a),
    "GreaterOrEqual": lambda a, b: op("le", b, a), "Equal": lambda a, b: op("eq", a, b),
}  # fmt: skip


@operator(*UNARY)
def unary(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    return elementwise(cx, lambda a: op(UNARY[node.op_type], a), x)


@operator(*COMPARE)
def compare(cx: Context, node: Node, a: Tensor, b: Tensor) -> Tensor:
    tensors(node, a, b)
    return elementwise(cx, COMPARE[node.op_type], a, b, dtype="bool")


@operator(*BINARY)
def binary(cx: Context, node: Node, a: Tensor, b: Tensor) -> Tensor:
    tensors(node, a, b)
    return elementwise(cx, lambda x, y: op(BINARY[node.op_type], x, y), a, b)


@operator("Relu")
def relu(cx: Context, node: Node, x: Tensor) -> Tensor:
    return elementwise(cx, lambda a: op("max", a, 0), x)


@operator("Sigmoid")
def sigmoid(cx: Context, node: Node, x: Tensor) -> Tensor:
    assert is_float(x.dtype)
    return elementwise(cx, lambda a: 1 / (1 + op("exp", -a)), x)
