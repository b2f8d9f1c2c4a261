"""CausalConvWithState: a depthwise 1-D convolution over the past and the present of a signal."""

from __future__ import annotations

from hasten.kernels.expr import Expr
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.activation import ACTIVATIONS
from hasten.ops.conv import conv
from hasten.ops.elementwise import elementwise
from hasten.ops.geometry import Axis, inside
from hasten.ops.registry import Node, NoNative, operator, tensors


@operator("CausalConvWithState")
def causal_conv(
    cx: Context, node: Node, x: Tensor, w: Tensor, bias: Tensor | None = None, past: Tensor | None = None
) -> list[Tensor | None]:
    """Every output sees its own and the k - 1 positions before it, which begin in `past` (else zeros).

    Also the last k - 1 positions, as the past of the next call, where wanted."""
    tensors(node, x, w, bias, past)
    channels, length, taps = x.shape[1], x.shape[2], w.shape[2]
    if not isinstance(channels, int):
        raise NoNative("a number of channels that only the run knows")
    history = taps - 1
    signal = x if past is None else cx.concat([past, x], 2)
    padding = history if past is None else 0
    axis = Axis(signal.shape[2], taps, 1, 1, padding, 0, length, past is not None, True)
    y = conv(cx, signal, w, bias, (axis,), channels)
    activation = str(node.attr("activation", "none")).lower()
    if activation != "none":
        y = elementwise(cx, lambda e: ACTIVATIONS["Swish"][1](e, 1.0), y)

    def last(i: Index) -> Expr:
        position = i[2] + (length - padding)
        return cx.load(signal, (i[0], i[1], position), None if past is not None else inside(position, length, high=False))

    state = cx.map((x.shape[0], channels, history), x.dtype, last) if node.wants(1) else None
    return [y, state]
