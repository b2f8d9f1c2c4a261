"""Losses over classes: NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss."""

from __future__ import annotations

from hasten.base import dims as D
from hasten.base.dtypes import compute_type
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Stage, Tensor
from hasten.ops.arguments import need_elements
from hasten.ops.elementwise import scalar
from hasten.ops.reduce import REDUCTIONS, log_softmax, reduce
from hasten.ops.registry import Node, operator, tensors


class _Targets:
    """The classes of the samples [N, d...], their weights, and which samples are ignored."""

    def __init__(self, cx: Context, node: Node, scores: Tensor, target: Tensor, weight: Tensor | None):
        self.cx, self.scores, self.target, self.weight = cx, scores, target, weight
        self.ignored: int | None = node.attr("ignore_index", None)
        for k, (a, b) in enumerate(zip(target.shape, (scores.shape[0], *scores.shape[2:]), strict=True)):
            cx.require(a, "==", b, f"{cx.where()}: axis {k} of the targets against the scores")
        need_elements(cx, scores.shape[1], D.product(target.shape))
        if weight is not None:
            cx.require(weight.shape[0], "==", scores.shape[1], "the weights against the classes")

    def pick(self, i: Index) -> tuple[Expr, Expr | None, Expr | None]:
        """For sample i: the score of its class, the weight of the class, and whether the sample counts; None: always,
        1."""
        t = self.target.at(i)
        counts = None if self.ignored is None else t.ne(self.ignored)
        place = self.cx.index(t if counts is None else E.select(counts, t, 0), self.scores.shape[1])
        weight = None if self.weight is None else self.weight.at((place,))
        return self.scores.at((i[0], place, *i[1:])), weight, counts

    def weighted(self, i: Index, loss: Expr) -> Expr:
        _, weight, counts = self.pick(i)
        loss = loss if weight is None else loss * weight
        return loss if counts is None else E.select(counts, loss, 0)

    def weights(self) -> Tensor:
        """The weight of every sample, 0 where it is ignored."""
        one = E.const(1.0, compute_type(self.scores.dtype))
        return self.cx.map(self.target.shape, self.scores.dtype, lambda i: self.weighted(i, one))


def reduced(cx: Context, node: Node, losses: Tensor, targets: _Targets) -> Tensor:
    """The losses themselves, their sum, or their weighted mean."""
    kind = str(node.attr("reduction", "mean"))
    axes = range(losses.rank)
    if kind == "none":
        return losses
    if kind == "mean" and targets.weight is None and targets.ignored is None:
        return reduce(cx, REDUCTIONS["ReduceMean"], losses, axes)
    total = reduce(cx, REDUCTIONS["ReduceSum"], losses, axes)
    if kind == "sum":
        return total
    weight = reduce(cx, REDUCTIONS["ReduceSum"], targets.weights(), axes)
    return cx.map((), losses.dtype, lambda i: scalar(total) / scalar(weight))


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(cx: Context, node: Node, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """-weight[target] * x[target]."""
    tensors(node, x, target, weight)
    targets = _Targets(cx, node, x, target, weight)
    losses = cx.map(target.shape, x.dtype, lambda i: targets.weighted(i, -targets.pick(i)[0]))
    return reduced(cx, node, losses, targets)


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(
    cx: Context, node: Node, x: Tensor, target: Tensor, weight: Tensor | None = None
) -> list[Tensor | None]:
    """-weight[target] * log_softmax(x)[target]; also log_softmax(x) where wanted."""
    tensors(node, x, target, weight)
    targets = _Targets(cx, node, x, target, weight)

    def at(o: Index, r: Index) -> Expr:
        return x.at((o[0], r[0], *o[1:]))

    stages = [
        Stage("max", "max", lambda o, r, p: at(o, r)),
        Stage("sum", "sum", lambda o, r, p: op("exp", at(o, r) - p["max"])),
    ]

    def final(o: Index, p: dict[str, Expr]) -> Expr:
        return targets.weighted(o, op("log", p["sum"]) - (targets.pick(o)[0] - p["max"]))

    losses = cx.nest(x.dtype, target.shape, (x.shape[1],), stages, final)
    return [reduced(cx, node, losses, targets), log_softmax(cx, x, 1) if node.wants(1) else None]
