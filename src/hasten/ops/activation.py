"""Activation functions. Each is a function of one Expr and the node's attributes; `ACTIVATIONS` is used by the
recurrent operators, too."""

from __future__ import annotations

import math
from collections.abc import Callable

from hasten.base.dtypes import compute_type, is_float
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Tensor
from hasten.ops.elementwise import elementwise
from hasten.ops.registry import Node, operator, tensors

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def sigmoid(x: Expr) -> Expr:
    return 1 / (1 + op("exp", -x))


def softplus(x: Expr) -> Expr:
    """log(1 + exp(x)), without overflow for large x."""
    return op("max", x, 0) + op("log1p", op("exp", -op("abs", x)))


def limit(x: Expr, low: float, high: float) -> Expr:
    return op("min", op("max", x, low), high)


def elu(x: Expr, alpha: float) -> Expr:
    return E.select(x < 0, alpha * op("expm1", x), x)


def celu(x: Expr, alpha: float) -> Expr:
    return op("max", x, 0) + op("min", alpha * op("expm1", x / alpha), 0)


def gelu(x: Expr) -> Expr:
    return 0.5 * x * (1 + op("erf", x * math.sqrt(0.5)))


def gelu_tanh(x: Expr) -> Expr:
    """The approximation through tanh."""
    return 0.5 * x * (1 + op("tanh", math.sqrt(2 / math.pi) * x * (1 + 0.044715 * (x * x))))


def mish(x: Expr) -> Expr:
    """x * tanh(softplus(x)) = x * n / (n + 2) with n = e^x (e^x + 2); beyond 20 the factor is 1 to the last bit."""
    e = op("exp", op("min", x, 20))
    n = e * (e + 2)
    return x * (n / (n + 2))


def shrink(x: Expr, bias: float, lambd: float) -> Expr:
    return E.select(x < -lambd, x + bias, E.select(x > lambd, x - bias, 0))


# operator -> (default values of its float attributes, function of x and those attributes in this order)
ACTIVATIONS: dict[str, tuple[dict[str, float], Callable[..., Expr]]] = {
    "Relu": ({}, lambda x: op("max", x, 0)),
    "Sigmoid": ({}, sigmoid),
    "Softplus": ({}, softplus),
    "Softsign": ({}, lambda x: x / (1 + op("abs", x))),
    "Mish": ({}, mish),
    "HardSwish": ({}, lambda x: x * limit(x * (1 / 6) + 0.5, 0.0, 1.0)),
    "LeakyRelu": ({"alpha": 0.01}, lambda x, alpha: E.select(x < 0, alpha * x, x)),
    "Elu": ({"alpha": 1.0}, elu),
    "Celu": ({"alpha": 1.0}, celu),
    "Selu": ({"alpha": SELU_ALPHA, "gamma": SELU_GAMMA}, lambda x, alpha, gamma: gamma * elu(x, alpha)),
    "HardSigmoid": ({"alpha": 0.2, "beta": 0.5}, lambda x, alpha, beta: limit(alpha * x + beta, 0.0, 1.0)),
    "ThresholdedRelu": ({"alpha": 1.0}, lambda x, alpha: E.select(x > alpha, x, 0)),
    "Swish": ({"alpha": 1.0}, lambda x, alpha: x / (1 + op("exp", x * -alpha))),
    "Shrink": ({"bias": 0.0, "lambd": 0.5}, shrink),
}


@operator(*ACTIVATIONS)
def activation(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    defaults, fn = ACTIVATIONS[node.op_type]
    values = [float(node.attr(name, value)) for name, value in defaults.items()]
    if values and not is_float(x.dtype):  # Shrink of integers: the attributes are floats
        return elementwise(cx, lambda a: E.cast(fn(E.cast(a, "float64"), *values), compute_type(x.dtype)), x)
    return elementwise(cx, lambda a: fn(a, *values), x)


@operator("Gelu")
def gelu_(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    return elementwise(cx, gelu_tanh if node.attr("approximate", "none") == "tanh" else gelu, x)
