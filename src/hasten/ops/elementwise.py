"""Elementwise operators: arithmetic, comparisons, logic, selection. Tables; the meaning of each row is a row of
kernels.expr.OPS.

Activation functions are in ops.activation, conversions in ops.cast, quantisation in ops.quantize.
"""

from __future__ import annotations

from collections.abc import Callable

from hasten.base.dtypes import compute_type, is_float
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Tensor, Value
from hasten.ops.registry import Node, NoNative, operator, tensors


def elementwise(cx: Context, fn: Callable[..., Expr], *xs: Tensor, dtype: str | None = None) -> Tensor:
    """fn of the broadcast inputs, element by element; the result has dtype `dtype` (default: that of the first
    input)."""
    refuse_complex(cx, *xs)
    shape = cx.broadcast_shapes(*(x.shape for x in xs))
    wide = [cx.broadcast_to(x, shape) for x in xs]
    return cx.map(shape, dtype or xs[0].dtype, lambda i: fn(*(x.at(i) for x in wide)))


def refuse_complex(cx: Context, *xs: Tensor | None) -> None:
    """Raise NoNative where an input has complex elements."""
    for x in xs:
        if x is not None and x.dtype.startswith("complex"):
            raise NoNative(f"{cx.where()}: elements of {x.dtype}")


def scalar(t: Tensor) -> Expr:
    """The only element of a tensor of one element (rank 0, or all sizes 1)."""
    return t.at((0,) * t.rank)


UNARY = {
    "Abs": "abs", "Neg": "neg", "Ceil": "ceil", "Floor": "floor", "Round": "round", "Sqrt": "sqrt", "Exp": "exp",
    "Log": "log", "Sin": "sin",
    "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh",
    "Tanh": "tanh",
    "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "Erf": "erf", "Sign": "sign", "Not": "not",
    "BitwiseNot": "not",
}  # fmt: skip
BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "and", "Or": "or", "Xor": "xor",
    "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor",
}  # fmt: skip
COMPARE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "Less": lambda a, b: op("lt", a, b), "LessOrEqual": lambda a, b: op("le", a, b),
    "Greater": lambda a, b: op("lt", b, a),
    "GreaterOrEqual": lambda a, b: op("le", b, a), "Equal": lambda a, b: op("eq", a, b),
}  # fmt: skip
VARIADIC = {"Sum": "add", "Mean": "add", "Max": "max", "Min": "min"}
MANY = 32  # inputs that one expression takes
SHIFTS = {"LEFT": "shl", "RIGHT": "shr"}


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


@operator(*VARIADIC)
def variadic(cx: Context, node: Node, *xs: Tensor) -> Tensor:
    """Sum, Mean, Max, Min of any number of broadcast inputs, from left to right."""
    tensors(node, *xs)

    def fold(*values: Expr) -> Expr:
        total = values[0]
        for v in values[1:]:
            total = op(VARIADIC[node.op_type], total, v)
        return total

    count, left = len(xs), list(xs)
    while len(left) > MANY:
        left[:MANY] = [elementwise(cx, fold, *left[:MANY])]
    if node.op_type != "Mean":
        return elementwise(cx, fold, *left)
    return elementwise(cx, lambda *values: fold(*values) / count, *left)


@operator("Identity")
def identity(cx: Context, node: Node, x: Value) -> Value:
    return x


@operator("Reciprocal")
def reciprocal(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    return elementwise(cx, lambda a: 1 / a, x)


@operator("Where")
def where(cx: Context, node: Node, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    tensors(node, condition, x, y)
    return elementwise(cx, E.select, condition, x, y, dtype=x.dtype)


@operator("Clip")
def clip(cx: Context, node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """min(max(x, low), high): where low > high, everything becomes high. NaN stays."""
    tensors(node, x, low, high)

    def limited(a: Expr) -> Expr:
        a = a if low is None else op("max", a, scalar(low))
        return a if high is None else op("min", a, scalar(high))

    return elementwise(cx, limited, x)


@operator("Mod")
def mod(cx: Context, node: Node, a: Tensor, b: Tensor) -> Tensor:
    """fmod=0: the remainder has the sign of the divisor; fmod=1: of the dividend."""
    tensors(node, a, b)
    name = "fmod" if node.attr("fmod", 0) else "floormod"
    return elementwise(cx, lambda x, y: op(name, x, y), a, b)


@operator("BitShift")
def bit_shift(cx: Context, node: Node, a: Tensor, b: Tensor) -> Tensor:
    tensors(node, a, b)
    direction = node.attr("direction")
    return elementwise(cx, lambda x, y: op(SHIFTS[direction], x, y), a, b)


@operator("IsNaN")
def is_nan(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    return elementwise(cx, lambda a: op("isnan", a), x, dtype="bool")


@operator("IsInf")
def is_inf(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    positive, negative = bool(node.attr("detect_positive", 1)), bool(node.attr("detect_negative", 1))
    if positive and negative:
        return elementwise(cx, lambda a: op("isinf", a), x, dtype="bool")
    if not positive and not negative:
        return cx.map(x.shape, "bool", lambda i: E.const(False, "bool"))
    return elementwise(cx, lambda a: a.eq(float("inf") if positive else float("-inf")), x, dtype="bool")


# Exponents for which products and roots replace the general power.
POWERS: dict[float, Callable[[Expr], Expr]] = {
    1.0: lambda a: a, 2.0: lambda a: a * a, 3.0: lambda a: a * a * a, 4.0: lambda a: (a * a) * (a * a),
}  # fmt: skip
FLOAT_POWERS: dict[float, Callable[[Expr], Expr]] = {
    0.5: lambda a: op("sqrt", a), -1.0: lambda a: 1 / a, -2.0: lambda a: 1 / (a * a), -0.5: lambda a: 1 / op("sqrt", a),
}  # fmt: skip


@operator("Pow")
def pow_(cx: Context, node: Node, x: Tensor, y: Tensor) -> Tensor:
    """x ** y in the dtype of x. The dtypes may differ: a float base takes the exponent as float; integers meet in
    int64, or
    in float64 where the exponent is a float."""
    tensors(node, x, y)
    refuse_complex(cx, x, y)
    common = _power_type(x.dtype, y.dtype)

    def power(a: Expr, b: Expr) -> Expr:
        if b.kind == "const":
            short = POWERS.get(float(b.value)) or (FLOAT_POWERS.get(float(b.value)) if is_float(x.dtype) else None)
            if short is not None:
                return short(a)
        return E.cast(op("pow", E.cast(a, common), E.cast(b, common)), compute_type(x.dtype))

    return elementwise(cx, power, x, y)


def _power_type(base: str, exponent: str) -> str:
    base, exponent = compute_type(base), compute_type(exponent)
    if base == exponent or is_float(base):
        return base
    return "float64" if is_float(exponent) else "int64"


@operator("PRelu")
def prelu(cx: Context, node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """x where x >= 0, else slope * x; slope is broadcast to x."""
    tensors(node, x, slope)
    return elementwise(cx, lambda a, s: E.select(a < 0, a * s, a), x, slope)
