"""Optimizer steps of ai.onnx.preview.training: Adagrad, Adam, Momentum. All elementwise.

Inputs are the learning rate, the step count, then all tensors, all gradients, and all states of each kind; outputs in
the same order
without the gradients.
"""

from __future__ import annotations

from collections.abc import Callable

from hasten.base.dtypes import compute_type
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.elementwise import scalar
from hasten.ops.registry import Node, operator, tensors

DOMAIN = "ai.onnx.preview.training"
Step = Callable[..., tuple[Expr, ...]]  # (node, rate, count, x, gradient, states...) -> new x, new states


def _adagrad(node: Node, rate: Expr, count: Expr, x: Expr, g: Expr, h: Expr) -> tuple[Expr, ...]:
    rate = rate / (1 + count * float(node.attr("decay_factor", 0.0)))
    g = x * float(node.attr("norm_coefficient", 0.0)) + g
    h = h + g * g
    return x - rate * g / (op("sqrt", h) + float(node.attr("epsilon", 1e-6))), h


def _adam(node: Node, rate: Expr, count: Expr, x: Expr, g: Expr, v: Expr, h: Expr) -> tuple[Expr, ...]:
    alpha, beta = float(node.attr("alpha", 0.9)), float(node.attr("beta", 0.999))
    g = x * float(node.attr("norm_coefficient", 0.0)) + g
    v = v * alpha + g * (1 - alpha)
    h = h * beta + g * g * (1 - beta)
    first, second = 1 - op("pow", E.lift(alpha, count.dtype), count), 1 - op("pow", E.lift(beta, count.dtype), count)
    rate = E.select(count > 0, rate * op("sqrt", second) / E.select(count > 0, first, 1), rate)
    x = x - rate * (v / (op("sqrt", h) + float(node.attr("epsilon", 1e-6))))
    return x * (1 - float(node.attr("norm_coefficient_post", 0.0))), v, h


def _momentum(node: Node, rate: Expr, count: Expr, x: Expr, g: Expr, v: Expr) -> tuple[Expr, ...]:
    alpha, beta = float(node.attr("alpha")), float(node.attr("beta"))
    g = x * float(node.attr("norm_coefficient")) + g
    v = v * alpha + g * E.select(count > 0, E.lift(beta, g.dtype), 1)
    return x - rate * (v if node.attr("mode") == "standard" else g + v * alpha), v


STEPS: dict[str, tuple[int, Step]] = {"Adagrad": (1, _adagrad), "Adam": (2, _adam), "Momentum": (1, _momentum)}


@operator(*STEPS, domain=DOMAIN)
def optimizer(cx: Context, node: Node, rate: Tensor, count: Tensor, *values: Tensor) -> list[Tensor]:
    """One step for every tensor; see the module's text for the order of inputs and outputs."""
    tensors(node, rate, count, *values)
    states, step = STEPS[node.op_type]
    n = len(values) // (2 + states)
    results: list[list[Tensor]] = []
    for k in range(n):
        own = values[k::n]
        results.append([_result(cx, node, step, rate, count, own, part) for part in range(1 + states)])
    return [r[part] for part in range(1 + states) for r in results]


def _result(
    cx: Context, node: Node, step: Step, rate: Tensor, count: Tensor, own: tuple[Tensor, ...], part: int
) -> Tensor:
    """Number `part` of a step's results: the tensor, then its states."""
    target = own[0 if part == 0 else part + 1]
    dt = compute_type(own[0].dtype)

    def element(i: Index) -> Expr:
        scalars = (E.cast(scalar(rate), dt), E.cast(scalar(count), dt))
        return E.cast(step(node, *scalars, *(E.cast(t.at(i), dt) for t in own))[part], compute_type(target.dtype))

    return cx.map(target.shape, target.dtype, element)
