"""Operators for ONNX's reference evaluator where its own are slow, or round to float32 on the way.

Each class has the name of an operator; attributes come as keyword arguments, with the schema's defaults filled in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


class _Operator(OpRun):  # type: ignore[misc]
    op_domain = ""


class Erf(_Operator):
    """ONNX's own rounds to float32."""

    def _run(self, x: Array) -> tuple[Array]:
        from scipy.special import erf

        return (erf(x),)


class Gelu(_Operator):
    """A function by way of Erf; functions get ONNX's own operators."""

    def _run(self, x: Array, approximate: Any = None) -> tuple[Array]:
        from scipy.special import ndtr

        return (x * ndtr(x),) if approximate != "tanh" else (x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)


class BatchNormalization(_Operator):
    """With the statistics given. (ONNX's own takes those of the batch in models of opset 9 to 13.)"""

    def _run(self, x: Array, scale: Array, bias: Array, mean: Array, var: Array, epsilon: Any = None, training_mode: Any = None, **_: Any) -> tuple[Array]:
        if training_mode:
            raise NotImplementedError("BatchNormalization in training mode")
        shape = (-1,) + (1,) * (x.ndim - 2)
        slope = scale / np.sqrt(var + epsilon)
        return (x * slope.reshape(shape) + (bias - mean * slope).reshape(shape),)


class Softmax(_Operator):
    """Before opset 13 over all axes from `axis` on. (ONNX's own knows one axis, and has the later default.)"""

    def _run(self, x: Array, **_: Any) -> tuple[Array]:
        flat, back = _from_axis(self, x)
        powers = np.exp(flat - flat.max(-1, keepdims=True))
        return (back(powers / powers.sum(-1, keepdims=True)),)


class LogSoftmax(_Operator):
    """As Softmax."""

    def _run(self, x: Array, **_: Any) -> tuple[Array]:
        flat, back = _from_axis(self, x)
        less = flat - flat.max(-1, keepdims=True)
        return (back(less - np.log(np.exp(less).sum(-1, keepdims=True))),)


def _from_axis(operator: OpRun, x: Array) -> tuple[Array, Callable[[Array], Array]]:
    """x with what a softmax sums over as last axis, and the way back."""
    given = next((attribute.i for attribute in operator.onnx_node.attribute if attribute.name == "axis"), None)
    if operator.run_params["opsets"][""] >= 13:
        axis = -1 if given is None else given
        return np.moveaxis(x, axis, -1), lambda y: np.moveaxis(y, -1, axis)
    start = 1 if given is None else given % x.ndim
    return x.reshape(math.prod(x.shape[:start]), -1), lambda y: y.reshape(x.shape)


class GlobalMaxPool(_Operator):
    """ONNX's own forgets axes of anything but pictures."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class Window:
    """The windows of a convolution or a pooling over the axes after the first two: geometry and padding.

    `sizes` of the windows, `strides`, `dilations`: a number an axis; `pads`: ONNX's, begins then ends; `ceil`: count windows that stick out.
    """

    def __init__(self, shape: Sequence[int], sizes: Sequence[int], strides: Any, dilations: Any, pads: Any, auto_pad: Any, ceil: bool = False):
        rank = len(sizes)
        self.sizes, self.strides, self.dilations = list(sizes), list(strides or [1] * rank), list(dilations or [1] * rank)
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(self.sizes, self.dilations, strict=True)]
        axes = list(zip(shape[2:], spans, self.strides, strict=True))
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            total = [max(0, (-(-n // stride) - 1) * stride + span - n) for n, span, stride in axes]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            self.begin, self.end = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        else:
            given = list(pads or [0] * 2 * rank) if auto_pad != "VALID" else [0] * 2 * rank
            self.begin, self.end = given[:rank], given[rank:]
        self.counts, self.extra = [], []
        for (n, span, stride), before, after in zip(axes, self.begin, self.end, strict=True):
            free = n + before + after - span
            count = (math.ceil if ceil else math.floor)(free / stride) + 1
            if ceil and (count - 1) * stride >= n + before:  # a window that begins in the padding at the end is none
                count -= 1
            self.counts.append(count)
            self.extra.append(max(0, (count - 1) * stride + span - n - before - after))

    def padded(self, x: Array, value: float) -> Array:
        """x with its padding, and what windows that stick out need beyond it."""
        after = [end + extra for end, extra in zip(self.end, self.extra, strict=True)]
        return np.pad(x, [(0, 0), (0, 0), *zip(self.begin, after, strict=True)], constant_values=value)

    def taps(self, padded: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        """For each place in a window, that element of all windows: [batch, channels, *counts]."""
        for tap in itertools.product(*map(range, self.sizes)):
            places = []
            for at, dilation, stride, count in zip(tap, self.dilations, self.strides, self.counts, strict=True):
                places.append(slice(at * dilation, at * dilation + (count - 1) * stride + 1, stride))
            yield tap, padded[(slice(None), slice(None), *places)]


class Conv(_Operator):
    """A matrix product for each tap of the filter."""

    def _run(self, X: Array, W: Array, B: Array | None = None, auto_pad: Any = None, dilations: Any = None, group: Any = None,
             kernel_shape: Any = None, pads: Any = None, strides: Any = None) -> tuple[Array]:  # fmt: skip
        window = Window(X.shape, W.shape[2:], strides, dilations, pads, auto_pad)
        batch, groups, outputs = X.shape[0], group or 1, W.shape[0]
        filters: Any = W.reshape(groups, outputs // groups, W.shape[1], *W.shape[2:])
        result = np.zeros((batch, groups, outputs // groups, math.prod(window.counts)))
        for tap, part in window.taps(window.padded(X, 0)):
            result += filters[:, :, :, *tap] @ part.reshape(batch, groups, W.shape[1], -1)
        if B is not None:
            result += B.reshape(groups, -1, 1)
        return (result.reshape(batch, outputs, *window.counts),)


class ConvTranspose(_Operator):
    """Each tap of the filter adds a matrix product to a strided part of the output."""

    def _run(self, X: Array, W: Array, B: Array | None = None, auto_pad: Any = None, dilations: Any = None, group: Any = None, kernel_shape: Any = None,
             output_padding: Any = None, output_shape: Any = None, pads: Any = None, strides: Any = None) -> tuple[Array]:  # fmt: skip
        rank, groups = X.ndim - 2, group or 1
        strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        more = list(output_padding or [0] * rank)
        full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(X.shape[2:], strides, W.shape[2:], dilations, strict=True)]
        begin, shape = self._place(X.shape[2:], full, strides, more, auto_pad, output_shape, pads)
        each = W.shape[1]
        filters: Any = W.reshape(groups, W.shape[0] // groups, each, *W.shape[2:])
        x = X.reshape(X.shape[0], groups, W.shape[0] // groups, -1)
        canvas = np.zeros((X.shape[0], groups * each, *[max(f, b + n) for f, b, n in zip(full, begin, shape, strict=True)]))
        for tap in itertools.product(*map(range, W.shape[2:])):
            product = filters[:, :, :, *tap].transpose(0, 2, 1) @ x
            places = [slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, dilations, X.shape[2:], strides, strict=True)]
            canvas[(slice(None), slice(None), *places)] += product.reshape(X.shape[0], groups * each, *X.shape[2:])
        result = canvas[(slice(None), slice(None), *[slice(b, b + n) for b, n in zip(begin, shape, strict=True)])]
        return (result if B is None else result + B.reshape(-1, *[1] * rank),)

    @staticmethod
    def _place(sizes: Any, full: list[int], strides: list[int], more: list[int], auto_pad: Any, output_shape: Any, pads: Any) -> tuple[list[int], list[int]]:
        """Where in the full result the output begins, and its shape."""
        rank = len(full)
        if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            shape = list(output_shape or [n * s for n, s in zip(sizes, strides, strict=True)])[-rank:]
            total = [f + m - n for f, m, n in zip(full, more, shape, strict=True)]
            return [max(0, t // 2 if auto_pad == "SAME_UPPER" else t - t // 2) for t in total], shape
        given = list(pads or [0] * 2 * rank)
        begin, end = given[:rank], given[rank:]
        return begin, [f + m - b - e for f, m, b, e in zip(full, more, begin, end, strict=True)]


class AveragePool(_Operator):
    """A sum over taps, divided by how many of them count."""

    def _run(self, x: Array, auto_pad: Any = None, ceil_mode: Any = None, count_include_pad: Any = None, dilations: Any = None,
             kernel_shape: Any = None, pads: Any = None, strides: Any = None) -> tuple[Array]:  # fmt: skip
        window = Window(x.shape, kernel_shape, strides, dilations, pads, auto_pad, bool(ceil_mode))
        ones = np.ones((1, 1, *x.shape[2:]))
        if count_include_pad:  # but not what sticks out beyond the padding
            ones = np.pad(ones, [(0, 0), (0, 0), *zip(window.begin, window.end, strict=True)], constant_values=1)
            counted = np.pad(ones, [(0, 0), (0, 0), *((0, extra) for extra in window.extra)])
        else:
            counted = window.padded(ones, 0)
        total: Any = sum(part for _, part in window.taps(window.padded(x, 0)))
        return (total / sum(part for _, part in window.taps(counted)),)


class MaxPool(_Operator):
    """The largest over taps. The places of the largest are left to ONNX's own."""

    def _run(self, x: Array, **settings: Any) -> tuple[Array, ...]:
        if len(self.onnx_node.output) > 1:
            from onnx.reference.ops.op_max_pool import MaxPool as Slow

            return Slow(self.onnx_node, self.run_params).run(x)
        settings.pop("storage_order", None)
        ceil = bool(settings.pop("ceil_mode", 0))
        window = Window(x.shape, settings.pop("kernel_shape"), ceil=ceil, **{"strides": None, "dilations": None, "pads": None, "auto_pad": None, **settings})
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        result = None
        for _, part in window.taps(window.padded(x, lowest)):
            result = part.copy() if result is None else np.maximum(result, part, out=result)
        assert result is not None
        return (result,)


OPERATORS = [Erf, Gelu, BatchNormalization, Softmax, LogSoftmax, GlobalMaxPool, Conv, ConvTranspose, AveragePool, MaxPool]
