"""Convolutions: Conv, ConvInteger, QLinearConv. The transposed and deformable ones are in ops.conv_transpose and ops.conv_deform.

`conv(cx, x, w, b, geometry, group)` is the one entry point: it chooses between a kernel template and `conv_generic`, which is right for
every dtype, rank, group and padding.
"""

from __future__ import annotations

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.lower.trace import Context, Index, Stage, Tensor
from hasten.ops.dense import fast_conv
from hasten.ops.elementwise import refuse_complex, scalar
from hasten.ops.geometry import Axes, guards, positions, sliding_axes
from hasten.ops.matmul import widened
from hasten.ops.quantize import quantized
from hasten.ops.registry import Node, operator, tensors


def conv(cx: Context, x: Tensor, w: Tensor, b: Tensor | None, axes: Axes, group: int = 1, dtype: str | None = None) -> Tensor:
    """Cross-correlation of x [N, C, spatial...] with w [M, C / group, taps...], plus b [M]; result [N, M, axis.out...].

    dtype: of the result (default: that of x). Sums are made in the compute type of x.
    """
    refuse_complex(cx, x, w)
    cx.require(x.shape[1], "==", w.shape[1] * group, f"{cx.where()}: channels of the input against those of the filter")
    cx.require(D.mod(w.shape[0], group), "==", 0, f"{cx.where()}: output channels are a multiple of the groups")
    y = fast_conv(cx, x, w, b, axes, group, dtype or x.dtype)
    return conv_generic(cx, x, w, b, axes, group, dtype or x.dtype) if y is None else y


def conv_generic(cx: Context, x: Tensor, w: Tensor, b: Tensor | None, axes: Axes, group: int, dtype: str) -> Tensor:
    """The convolution as a reduction over channels and taps with guarded loads."""
    channels, per_group = w.shape[1], D.floordiv(w.shape[0], group)

    def product(o: Index, r: Index, _: dict[str, Expr]) -> Expr:
        c = r[0] if group == 1 else D.floordiv(o[1], per_group) * channels + r[0]
        value = cx.load(x, (o[0], c, *positions(axes, o[2:], r[1:])), guards(axes, o[2:], r[1:]))
        return value * w.at((o[1], *r))

    def final(o: Index, p: dict[str, Expr]) -> Expr:
        return p["sum"] if b is None else p["sum"] + b.at((o[1],))

    outer = (x.shape[0], w.shape[0], *(a.out for a in axes))
    return cx.nest(dtype, outer, (channels, *(a.kernel for a in axes)), [Stage("sum", "sum", product)], final)


def conv_axes(cx: Context, node: Node, x: Tensor, w: Tensor) -> Axes:
    """The spatial axes of a convolution node; its kernel_shape, where given, is that of w."""
    kernel: list[DimLike] = list(w.shape[2:])
    for given, size in zip(node.attr("kernel_shape", None) or kernel, kernel, strict=True):
        cx.require(given, "==", size, f"{cx.where()}: kernel_shape is the shape of the filter")
    return sliding_axes(cx, node, x.shape[2:], kernel)


@operator("Conv")
def conv_node(cx: Context, node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    tensors(node, x, w, b)
    return conv(cx, x, w, b, conv_axes(cx, node, x, w), int(node.attr("group", 1)))


def conv_integer(cx: Context, x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, axes: Axes, group: int,
                 b: Tensor | None = None) -> Tensor:  # fmt: skip
    """Convolution of (x - x_zero) with (w - w_zero), 8-bit integers, as int32; w_zero per tensor or per output channel."""
    if w_zero is not None and w_zero.rank == 1:
        w_zero = cx.reshape(w_zero, (w_zero.shape[0], *[1] * (w.rank - 1)))
    return conv(cx, widened(cx, x, _one(cx, x_zero)), widened(cx, w, w_zero), b, axes, group)


def _one(cx: Context, t: Tensor | None) -> Tensor | None:
    return cx.reshape(t, ()) if t is not None and t.rank else t


@operator("ConvInteger")
def conv_integer_node(cx: Context, node: Node, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Tensor:
    tensors(node, x, w, x_zero, w_zero)
    return conv_integer(cx, x, w, x_zero, w_zero, conv_axes(cx, node, x, w), int(node.attr("group", 1)))


@operator("QLinearConv")
def qlinear_conv(cx: Context, node: Node, x: Tensor, x_scale: Tensor, x_zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor,
                 y_scale: Tensor, y_zero: Tensor, b: Tensor | None = None) -> Tensor:  # fmt: skip
    """The convolution of dequantised tensors, quantised: exact sums in int32, one rounding. The bias is int32 in units of the product."""
    tensors(node, x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b)
    y = conv_integer(cx, x, w, x_zero, w_zero, conv_axes(cx, node, x, w), int(node.attr("group", 1)), b)
    per_channel = w_scale.rank == 1 and not (isinstance(w_scale.shape[0], int) and w_scale.shape[0] == 1)

    def element(i: Index) -> Expr:
        channel = w_scale.at((i[1],)) if per_channel else scalar(w_scale)
        scale = scalar(x_scale) * channel / scalar(y_scale)
        return quantized(E.cast(y.at(i), "float32") * scale, scalar(y_zero), y_zero.dtype)

    return cx.map(y.shape, y_zero.dtype, element)
