"""Linear quantisation: QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear.

Scales and zero points apply to the whole tensor, to slices along an axis, or to blocks along an axis.
"""

from __future__ import annotations

from collections.abc import Callable

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dtypes import compute_type, is_float, is_int
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.elementwise import scalar
from hasten.ops.registry import Node, operator, tensors


def normal_axis(cx: Context, axis: int, rank: int) -> int:
    """A possibly negative axis as one in [0, rank)."""
    cx.require(-rank, "<=", axis, f"axis {axis} of a tensor of rank {rank}")
    cx.require(axis, "<", max(rank, 1), f"axis {axis} of a tensor of rank {rank}")
    return axis + rank if axis < 0 else axis


def granular(cx: Context, node: Node, x: Tensor, t: Tensor) -> Callable[[Index], Expr]:
    """How element i of x finds its scale or zero point in t."""
    block = int(node.attr("block_size", 0))
    if t.rank == 0 or (all(isinstance(d, int) and d == 1 for d in t.shape) and (not block or t.rank != x.rank)):
        return lambda i: scalar(t)
    axis = normal_axis(cx, int(node.attr("axis", 1)), x.rank)
    if block:
        for k, (n, m) in enumerate(zip(t.shape, x.shape, strict=True)):
            cx.require(
                n, "==", D.ceildiv(m, block) if k == axis else m, f"{cx.where()}: the shape of the blocks' scales"
            )
        return lambda i: t.at((*i[:axis], D.floordiv(i[axis], block), *i[axis + 1 :]))
    cx.require(t.shape[0], "==", x.shape[axis], f"{cx.where()}: one scale for every index of axis {axis}")
    return lambda i: t.at((i[axis],))


def quantized(value: Expr, zero: Expr | None, to: str) -> Expr:
    """A quotient x / scale as an element of the quantised dtype: rounded half to even, moved by the zero point,
    saturated."""
    if is_int(to):
        value = op("round", value)
    if zero is not None and not (zero.kind == "const" and zero.value == 0):
        value = value + E.cast(zero, value.dtype)
    return E.saturate(value, to)


@operator("QuantizeLinear")
def quantize_linear(cx: Context, node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    tensors(node, x, scale, zero)
    wanted = int(node.attr("output_dtype", 0))
    to = zero.dtype if zero is not None else dtypes.BY_ONNX[wanted].name if wanted else "uint8"
    precision = dtypes.BY_ONNX[int(node.attr("precision", 0) or dtypes.dtype(scale.dtype).onnx)].name
    compute = compute_type(precision) if is_float(precision) and precision != "float8_e8m0fnu" else "float32"
    scale_at = granular(cx, node, x, scale)
    zero_at = None if zero is None else granular(cx, node, x, zero)

    def element(i: Index) -> Expr:
        quotient = E.cast(x.at(i), compute) / E.cast(scale_at(i), compute)
        if precision in ("float16", "bfloat16"):
            quotient = E.cast(quotient, precision)
        return quantized(quotient, None if zero_at is None else zero_at(i), to)

    return cx.map(x.shape, to, element)


@operator("DequantizeLinear")
def dequantize_linear(cx: Context, node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(x - zero) * scale; the difference is exact for all dtypes of up to 16 bits, and int32 has no zero point."""
    tensors(node, x, scale, zero)
    wanted = int(node.attr("output_dtype", 0))
    to = dtypes.BY_ONNX[wanted].name if wanted else scale.dtype
    compute = compute_type(to)
    scale_at = granular(cx, node, x, scale)
    zero_at = None if zero is None else granular(cx, node, x, zero)

    def element(i: Index) -> Expr:
        value = E.cast(x.at(i), compute)
        z = None if zero_at is None else zero_at(i)
        if z is not None and not (z.kind == "const" and z.value == 0):
            value = value - E.cast(z, compute)
        return value * E.cast(scale_at(i), compute)

    return cx.map(x.shape, to, element)


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(cx: Context, node: Node, x: Tensor) -> list[Tensor]:
    """uint8 values, the scale and the zero point that make the range of x (widened to hold 0) fit."""
    tensors(node, x)
    low = cx.reduce("min", x.dtype, (), x.shape, lambda o, r: op("min", x.at(r), 0))
    high = cx.reduce("max", x.dtype, (), x.shape, lambda o, r: op("max", x.at(r), 0))

    def scale_of(_: Index) -> Expr:
        span = op("max", scalar(high), 0) - op("min", scalar(low), 0)
        return E.select(span.eq(0), 1, span / 255)

    scale = cx.map((), x.dtype, scale_of)

    def zero_of(_: Index) -> Expr:
        return E.saturate(op("round", -op("min", scalar(low), 0) / scalar(scale)), "uint8")

    zero = cx.map((), "uint8", zero_of)
    y = cx.map(x.shape, "uint8", lambda i: quantized(x.at(i) / scalar(scale), scalar(zero), "uint8"))
    return [y, scale, zero]
