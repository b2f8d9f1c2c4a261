"""Window functions and the mel filter bank: tables made from a few scalars that the run may give."""

from __future__ import annotations

import math
from collections.abc import Callable

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dtypes import compute_type
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.elementwise import scalar
from hasten.ops.geometry import read_sizes
from hasten.ops.registry import Node, operator, tensors


def _cosines(*coefficients: float) -> Callable[[Expr], Expr]:
    """a0 - a1 cos(x) + a2 cos(2x) - ..."""

    def window(x: Expr) -> Expr:
        total: Expr | float = coefficients[0]
        for k, a in enumerate(coefficients[1:], 1):
            total = total + (a if k % 2 == 0 else -a) * op("cos", x * float(k))
        assert isinstance(total, Expr)
        return total

    return window


WINDOWS = {
    "HannWindow": _cosines(0.5, 0.5),
    "HammingWindow": _cosines(25 / 46, 21 / 46),
    "BlackmanWindow": _cosines(0.42, 0.5, 0.08),
}


@operator(*WINDOWS)
def window(cx: Context, node: Node, size: Tensor) -> Tensor:
    """The window of `size` elements; periodic: the first elements of the symmetric window with one more."""
    tensors(node, size)
    dtype = dtypes.BY_ONNX[int(node.attr("output_datatype", 1))].name
    n = read_sizes(cx, size)[0]
    period = n if node.attr("periodic", 1) else D.maximum(n - 1, 1)

    def element(i: Index) -> Expr:
        angle = E.cast(E.index(i[0]), "float64") * (2 * math.pi) / E.cast(E.index(period), "float64")
        return E.cast(WINDOWS[node.op_type](angle), compute_type(dtype))

    return cx.map((n,), dtype, element)


@operator("MelWeightMatrix")
def mel_weight_matrix(
    cx: Context, node: Node, bins: Tensor, dft_length: Tensor, rate: Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    """[dft_length // 2 + 1, bins]: triangles over the bins of a spectrum, evenly spaced on the mel scale."""
    tensors(node, bins, dft_length, rate, lower, upper)
    dtype = dtypes.BY_ONNX[int(node.attr("output_datatype", 1))].name
    count, length = read_sizes(cx, bins)[0], read_sizes(cx, dft_length)[0]

    def mel(t: Tensor) -> Expr:
        return op("log", 1 + E.cast(scalar(t), "float64") / 700) * (2595 / math.log(10))

    edges = cx.map((count + 2,), "float64", lambda i: _edge(i))

    def _edge(i: Index) -> Expr:
        """The bin of the spectrum where triangle i begins."""
        low = mel(lower)
        step = (mel(upper) - low) / E.cast(E.index(count + 2), "float64")
        hertz = 700 * op("expm1", (E.cast(E.index(i[0]), "float64") * step + low) * (math.log(10) / 2595))
        return op("floor", E.cast(E.index(length + 1), "float64") * hertz / E.cast(scalar(rate), "float64"))

    def element(i: Index) -> Expr:
        j = E.cast(E.index(i[0]), "float64")
        left, peak, right = (edges.at((i[1] + k,)) for k in range(3))
        rising = E.select(peak.eq(left), 1, (j - left) / E.select(peak.eq(left), 1, peak - left))
        falling = (right - j) / E.select(right.eq(peak), 1, right - peak)
        inner = E.select((j < left) | (peak < j), 0, rising)
        return E.cast(E.select((j < peak) | ~(j < right), inner, falling), compute_type(dtype))

    return cx.map((D.floordiv(length, 2) + 1, count), dtype, element)
