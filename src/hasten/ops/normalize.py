"""Normalisations: batch, instance, layer, RMS, group, mean-variance, local response.

Variances are made in a second pass over the differences from the mean: the one-pass form loses all digits where the
mean is large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.dtypes import compute_type
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Stage, Tensor
from hasten.ops.elementwise import refuse_complex
from hasten.ops.geometry import inside
from hasten.ops.quantize import normal_axis
from hasten.ops.reduce import count_of, only, split_index, without
from hasten.ops.registry import Node, operator, tensors

Params = dict[str, Expr]


@dataclass(frozen=True)
class Moments:
    """Mean and variance of x over `axes`, as stages of a Nest and as functions of their values. Computed in `work`."""

    x: Tensor
    axes: Sequence[int]
    work: str

    def at(self, o: Index, r: Index) -> Expr:
        return E.cast(self.x.at(split_index(o, r, self.axes)), self.work)

    @property
    def count(self) -> Expr:
        return count_of(self.x.shape, self.axes, self.work)

    def stages(self, variance: bool = True) -> list[Stage]:
        total = Stage("total", "sum", lambda o, r, p: self.at(o, r))
        return [total, Stage("squares", "sum", lambda o, r, p: self._square(o, r, p))] if variance else [total]

    def _square(self, o: Index, r: Index, p: Params) -> Expr:
        difference = self.at(o, r) - self.mean(p)
        return difference * difference

    def mean(self, p: Params) -> Expr:
        return p["total"] / self.count

    def variance(self, p: Params) -> Expr:
        return p["squares"] / self.count

    def inverse_deviation(self, p: Params, epsilon: float) -> Expr:
        return 1 / op("sqrt", self.variance(p) + epsilon)

    def kept(self, cx: Context, dtype: str, value: Callable[[Params], Expr], variance: bool = True) -> Tensor:
        """A tensor of one such value per outer index, the reduced axes with size 1."""
        shape = tuple(1 if k in self.axes else d for k, d in enumerate(self.x.shape))
        flat = cx.nest(
            dtype,
            without(self.x.shape, self.axes),
            only(self.x.shape, self.axes),
            self.stages(variance),
            lambda o, p: value(p),
        )
        return cx.reshape(flat, shape)


def normalized(cx: Context, m: Moments, epsilon: float, affine: Callable[[Index, Expr], Expr]) -> Tensor:
    """affine(index, (x - mean) / sqrt(variance + epsilon)) of the shape and dtype of x."""
    x, axes = m.x, m.axes

    def final(o: Index, r: Index, p: Params) -> Expr:
        return affine(split_index(o, r, axes), (m.at(o, r) - m.mean(p)) * m.inverse_deviation(p, epsilon))

    return cx.nest(
        x.dtype,
        without(x.shape, axes),
        only(x.shape, axes),
        m.stages(),
        final,
        x.shape,
        lambda o, r: split_index(o, r, axes),
    )


def stash_type(node: Node, x: Tensor) -> str:
    """The dtype of the statistics: float32 at least, double for double."""
    wanted = compute_type(dtypes.BY_ONNX[int(node.attr("stash_type", 1))].name)
    return "float64" if x.dtype == "float64" else wanted


def per_channel(scale: Tensor, bias: Tensor | None, own: str) -> Callable[[Index, Expr], Expr]:
    """value * scale[channel] + bias[channel] as the compute type `own`."""

    def affine(i: Index, value: Expr) -> Expr:
        value = E.cast(value, own) * E.cast(scale.at((i[1],)), own)
        return value if bias is None else value + E.cast(bias.at((i[1],)), own)

    return affine


@operator("BatchNormalization")
def batch_normalization(
    cx: Context, node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> list[Tensor]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias per channel; in training with the statistics of this
    batch, which also move the
    running ones (outputs 1 and 2)."""
    tensors(node, x, scale, bias, mean, variance)
    refuse_complex(cx, x)
    epsilon, own = float(node.attr("epsilon", 1e-5)), compute_type(x.dtype)
    if node.attr("training_mode", 0):
        return _trained_batch(cx, node, x, scale, bias, mean, variance)
    work = compute_type(variance.dtype)
    factor = cx.map(scale.shape, work, lambda i: E.cast(scale.at(i), work) / op("sqrt", variance.at(i) + epsilon))

    def element(i: Index) -> Expr:
        c = (i[1],) if x.rank > 1 else (0,)
        return (x.at(i) - E.cast(mean.at(c), own)) * E.cast(factor.at(c), own) + E.cast(bias.at(c), own)

    return [cx.map(x.shape, x.dtype, element)]


def _trained_batch(
    cx: Context, node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> list[Tensor]:
    epsilon, momentum = float(node.attr("epsilon", 1e-5)), float(node.attr("momentum", 0.9))
    axes = (0, *range(2, x.rank))
    m = Moments(x, axes, compute_type(x.dtype))

    def moved(running: Tensor, value: Callable[[Params], Expr], second: bool) -> Tensor:
        own = compute_type(running.dtype)

        def final(o: Index, p: Params) -> Expr:
            return running.at(o) * momentum + E.cast(value(p), own) * (1 - momentum)

        return cx.nest(running.dtype, without(x.shape, axes), only(x.shape, axes), m.stages(second), final)

    affine = per_channel(scale, bias, compute_type(x.dtype))
    return [normalized(cx, m, epsilon, affine), moved(mean, m.mean, False), moved(variance, m.variance, True)]


@operator("InstanceNormalization")
def instance_normalization(cx: Context, node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalised over the spatial axes of every image and channel."""
    tensors(node, x, scale, bias)
    m = Moments(x, tuple(range(2, x.rank)), compute_type(x.dtype))
    return normalized(cx, m, float(node.attr("epsilon", 1e-5)), per_channel(scale, bias, compute_type(x.dtype)))


@operator("LayerNormalization")
def layer_normalization(
    cx: Context, node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> list[Tensor | None]:
    """Normalised over the axes from `axis` on; also the mean and the inverse deviation where wanted."""
    tensors(node, x, scale, bias)
    refuse_complex(cx, x)
    axis, epsilon = normal_axis(cx, int(node.attr("axis", -1)), x.rank), float(node.attr("epsilon", 1e-5))
    own, work = compute_type(x.dtype), stash_type(node, x)
    wide_scale, wide_bias = cx.broadcast_to(scale, x.shape), None if bias is None else cx.broadcast_to(bias, x.shape)

    def affine(i: Index, value: Expr) -> Expr:
        value = E.cast(value, own) * wide_scale.at(i)
        return value if wide_bias is None else value + wide_bias.at(i)

    m = Moments(x, tuple(range(axis, x.rank)), work)
    stash = dtypes.BY_ONNX[int(node.attr("stash_type", 1))].name
    mean = m.kept(cx, stash, lambda p: E.cast(m.mean(p), compute_type(stash)), False) if node.wants(1) else None
    inverse = (
        m.kept(cx, stash, lambda p: E.cast(m.inverse_deviation(p, epsilon), compute_type(stash)))
        if node.wants(2)
        else None
    )
    return [normalized(cx, m, epsilon, affine), mean, inverse]


@operator("RMSNormalization")
def rms_normalization(cx: Context, node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * scale over the axes from `axis` on."""
    tensors(node, x, scale)
    axis, epsilon = normal_axis(cx, int(node.attr("axis", -1)), x.rank), float(node.attr("epsilon", 1e-5))
    own, to = compute_type(x.dtype), compute_type(scale.dtype)
    axes, wide = tuple(range(axis, x.rank)), cx.broadcast_to(scale, x.shape)
    m = Moments(x, axes, stash_type(node, x))

    def final(o: Index, r: Index, p: Params) -> Expr:
        value = m.at(o, r) * (1 / op("sqrt", p["squares"] / m.count + epsilon))
        return E.cast(E.cast(value, own), to) * wide.at(split_index(o, r, axes))

    stage = Stage("squares", "sum", lambda o, r, p: m.at(o, r) * m.at(o, r))
    return cx.nest(
        scale.dtype,
        without(x.shape, axes),
        only(x.shape, axes),
        [stage],
        final,
        x.shape,
        lambda o, r: split_index(o, r, axes),
    )


@operator("GroupNormalization")
def group_normalization(cx: Context, node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalised over the channels of a group and the spatial axes."""
    tensors(node, x, scale, bias)
    groups, own = int(node.attr("num_groups")), compute_type(x.dtype)
    cx.require(D.mod(x.shape[1], groups), "==", 0, f"{cx.where()}: channels are a multiple of num_groups")
    size = D.floordiv(x.shape[1], groups)
    grouped = cx.reshape(x, (x.shape[0], groups, size, *x.shape[2:]))

    def affine(i: Index, value: Expr) -> Expr:
        c = (i[1] * size + i[2],)
        return E.cast(value, own) * E.cast(scale.at(c), own) + E.cast(bias.at(c), own)

    m = Moments(grouped, tuple(range(2, grouped.rank)), stash_type(node, x))
    return cx.reshape(normalized(cx, m, float(node.attr("epsilon", 1e-5)), affine), x.shape)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(cx: Context, node: Node, x: Tensor) -> Tensor:
    """(x - mean) / (deviation + 1e-9) over `axes`."""
    tensors(node, x)
    axes = tuple(sorted(normal_axis(cx, int(a), x.rank) for a in node.attr("axes", [0, 2, 3])))
    m = Moments(x, axes, compute_type(x.dtype))

    def final(o: Index, r: Index, p: Params) -> Expr:
        return (m.at(o, r) - m.mean(p)) * (1 / (op("sqrt", m.variance(p)) + 1e-9))

    return cx.nest(
        x.dtype,
        without(x.shape, axes),
        only(x.shape, axes),
        m.stages(),
        final,
        x.shape,
        lambda o, r: split_index(o, r, axes),
    )


# v ** -beta for the exponents of known networks; others take the general power.
INVERSE_POWERS: dict[float, Callable[[Expr], Expr]] = {
    0.5: lambda v: 1 / op("sqrt", v), 0.75: lambda v: 1 / (op("sqrt", v) * op("sqrt", op("sqrt", v))), 1.0: lambda v:
    1 / v,
}  # fmt: skip


@operator("LRN")
def lrn(cx: Context, node: Node, x: Tensor) -> Tensor:
    """x / (bias + alpha / size * sum of squares of `size` neighbouring channels) ^ beta."""
    tensors(node, x)
    size, alpha = int(node.attr("size")), float(node.attr("alpha", 1e-4))
    beta, bias = float(node.attr("beta", 0.75)), float(node.attr("bias", 1.0))
    channels = x.shape[1]

    def square(o: Index, r: Index, _: Params) -> Expr:
        c: DimLike = o[1] + r[0] - (size - 1) // 2
        value = cx.load(x, (o[0], c, *o[2:]), inside(c, channels))
        return value * value

    def final(o: Index, p: Params) -> Expr:
        base = p["sum"] * (alpha / size) + bias
        power = INVERSE_POWERS.get(beta) or (lambda v: op("pow", v, -beta))
        return x.at(o) * power(base)

    return cx.nest(x.dtype, x.shape, (size,), [Stage("sum", "sum", square)], final)
