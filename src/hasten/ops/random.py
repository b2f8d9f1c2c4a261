"""Random operators: every element is a function of its position and the seed, so they fuse and share threads like any
Map.

The generator is SplitMix64: the output function of a Weyl sequence, which passes BigCrush. With a `seed` attribute
every run gives the same
numbers; without, every run gives others.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.dtypes import compute_type
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.kernels.seed import SeedSpec
from hasten.lower.trace import Context, Index, Shape, Stage, Tensor
from hasten.ops.elementwise import refuse_complex, scalar
from hasten.ops.registry import Node, operator, tensors

WEYL, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Generator:
    """Random bits of one node: `bits(position)` is a uint64 Expr."""

    def __init__(self, cx: Context, node: Node):
        seed = node.attr("seed", None)
        if seed is None:
            self.key = scalar(cx.kernel(SeedSpec(int(cx.fresh("seed").removeprefix("seed"))), [], [("uint64", ())])[0])
        else:
            whole = int.from_bytes(struct.pack("<d", float(seed)), "little")
            self.key = E.const((whole * MIX_1 + MIX_2) % 2**64, "uint64")

    def bits(self, position: DimLike) -> Expr:
        z = E.cast(E.index(position + 1), "uint64") * WEYL + self.key
        z = (z ^ op("shr", z, 30)) * MIX_1
        z = (z ^ op("shr", z, 27)) * MIX_2
        return z ^ op("shr", z, 31)

    def uniform(self, position: DimLike, dtype: str, open_ends: bool = False) -> Expr:
        """Uniform in [0, 1), with all bits of the dtype's significand; open_ends: in (0, 1), one bit less."""
        return _fraction(self.bits(position), compute_type(dtype), open_ends)

    def normal(self, position: DimLike, dtype: str) -> Expr:
        """Standard normal numbers: Box and Muller's transform of two uniform ones."""
        dt = compute_type(dtype)
        if dt == "float64":
            first, second = self.bits(position * 2), self.bits(position * 2 + 1)
        else:
            first = self.bits(position)
            second = op("shl", first, 32)
        radius = op("sqrt", -2.0 * op("log", _fraction(first, dt, True)))
        return radius * op("cos", (2 * math.pi) * _fraction(second, dt, False))


def _fraction(bits: Expr, dtype: str, open_ends: bool) -> Expr:
    digits = (53 if dtype == "float64" else 24) - open_ends
    whole = E.cast(E.cast(op("shr", bits, 64 - digits), "int64" if dtype == "float64" else "int32"), dtype)
    return (whole + 0.5 if open_ends else whole) * 2.0**-digits


def position_of(index: Sequence[DimLike], shape: Shape) -> DimLike:
    """The row-major position of an index."""
    flat: DimLike = 0
    for i, n in zip(index, shape, strict=True):
        flat = flat * n + i
    return flat


def _uniform(node: Node, g: Generator, dtype: str) -> Callable[[DimLike], Expr]:
    low, high = float(node.attr("low", 0.0)), float(node.attr("high", 1.0))
    return lambda p: g.uniform(p, dtype) * (high - low) + low


def _normal(node: Node, g: Generator, dtype: str) -> Callable[[DimLike], Expr]:
    mean, scale = float(node.attr("mean", 0.0)), float(node.attr("scale", 1.0))
    return lambda p: g.normal(p, dtype) * scale + mean


DISTRIBUTIONS = {"RandomUniform": _uniform, "RandomNormal": _normal}


def _filled(cx: Context, node: Node, kind: str, shape: Shape, dtype: str) -> Tensor:
    number = DISTRIBUTIONS[kind](node, Generator(cx, node), dtype)
    return cx.map(shape, dtype, lambda i: number(position_of(i, shape)))


@operator("RandomUniform", "RandomNormal")
def random(cx: Context, node: Node) -> Tensor:
    dtype = dtypes.BY_ONNX[int(node.attr("dtype", 1))].name
    return _filled(cx, node, node.op_type, tuple(int(d) for d in node.attr("shape")), dtype)


@operator("RandomUniformLike", "RandomNormalLike")
def random_like(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    dtype = dtypes.BY_ONNX[int(node.attr("dtype", dtypes.dtype(x.dtype).onnx))].name
    return _filled(cx, node, node.op_type.removesuffix("Like"), x.shape, dtype)


@operator("Bernoulli")
def bernoulli(cx: Context, node: Node, p: Tensor) -> Tensor:
    """1 with the probability given by the input's element, else 0."""
    tensors(node, p)
    dtype = dtypes.BY_ONNX[int(node.attr("dtype", dtypes.dtype(p.dtype).onnx))].name
    g = Generator(cx, node)
    return cx.map(
        p.shape, dtype, lambda i: E.cast(g.uniform(position_of(i, p.shape), p.dtype) < p.at(i), compute_type(dtype))
    )


@operator("Multinomial")
def multinomial(cx: Context, node: Node, logits: Tensor) -> Tensor:
    """Classes drawn with probabilities softmax(logits): the class whose logit plus Gumbel noise is the largest."""
    tensors(node, logits)
    dtype = dtypes.BY_ONNX[int(node.attr("dtype", 6))].name
    g, (batch, classes), samples = Generator(cx, node), logits.shape, int(node.attr("sample_size", 1))

    def noisy(o: Index, r: Index, _: dict[str, Expr]) -> Expr:
        u = g.uniform(position_of((*o, *r), (batch, samples, classes)), logits.dtype, open_ends=True)
        return logits.at((o[0], r[0])) - op("log", -op("log", u))

    stage = Stage("choice", "argmax", noisy)
    return cx.nest(dtype, (batch, samples), (classes,), [stage], lambda o, p: E.cast(p["choice"], compute_type(dtype)))


@operator("Dropout")
def dropout(
    cx: Context, node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None
) -> list[Tensor]:
    """The data and the mask. In training, elements are zero with probability `ratio` and the others are scaled by 1 /
    (1 - ratio)."""
    tensors(node, x, ratio, training)
    refuse_complex(cx, x)
    known = None if training is None else cx.ints(training)
    if training is None or known == (0,):
        return [x, cx.map(x.shape, "bool", lambda i: E.const(True, "bool"))]
    g, dt = Generator(cx, node), compute_type(x.dtype)

    def rate() -> Expr:
        return E.const(0.5, dt) if ratio is None else E.cast(scalar(ratio), dt)

    def kept(i: Index) -> Expr:
        return ~(g.uniform(position_of(i, x.shape), x.dtype) < rate()) | ~scalar(training)

    mask = cx.map(x.shape, "bool", kept)

    def element(i: Index) -> Expr:
        scaled = E.select(mask.at(i), x.at(i) / (1 - rate()), 0)
        return E.select(scalar(training), scaled, x.at(i))

    return [cx.map(x.shape, x.dtype, element), mask]
