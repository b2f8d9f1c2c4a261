"""Which convolutions and matrix products go to the kernels of kernels.dense (float32) and kernels.dense_amx (AMX tiles); None where only the
generic form will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen.isa import Isa
from hasten.kernels import expr as E
from hasten.kernels.amx_conv import pack_amx_conv_weights
from hasten.kernels.amx_gemm import pack_amx_gemm_weights
from hasten.kernels.conv import ConvProblem, pack_conv_weights
from hasten.kernels.dense import MOST_PLANES, ConvSpec, DepthwiseSpec, GemmSpec
from hasten.kernels.dense_amx import AmxConvSpec, AmxGemmSpec, conv_products, gemm_products
from hasten.kernels.dense_strassen import StrassenSpec, strassen_problem
from hasten.kernels.dense_winograd import WinogradSpec, winograd_problem
from hasten.kernels.depthwise import DepthwiseProblem, pack_depthwise_weights
from hasten.kernels.gemm import GemmProblem, pack_gemm_weights
from hasten.kernels.spec import KernelSpec
from hasten.kernels.strassen import pack_strassen_weights
from hasten.kernels.winograd import pack_winograd_weights
from hasten.lower.trace import Const, Context, Tensor, View
from hasten.ops.geometry import Axes, Axis

SMALL_FLOATS = ("float16", "bfloat16")


def isa_of(cx: Context) -> Isa | None:
    """The machine that is compiled for; None while only the meaning of a trace is wanted."""
    isa = getattr(cx.options, "isa", None)
    return isa if isinstance(isa, Isa) else None


def constant(t: Tensor) -> np.ndarray | None:
    """The array of a constant, seen through views of it."""
    if isinstance(t.origin, Const):
        return t.origin.array
    if isinstance(t.origin, View) and all(isinstance(d, int) for d in t.shape) and constant(t.origin.base) is not None:
        from hasten.lower.evaluate import Evaluation

        return Evaluation(t.cx, {}).of(t)
    return None


def _float32(cx: Context, x: Tensor) -> Tensor:
    return x if x.dtype == "float32" else cx.map(x.shape, "float32", lambda i: x.at(i))


def fast_conv(cx: Context, x: Tensor, w: Tensor, b: Tensor | None, axes: Axes, group: int, dtype: str) -> Tensor | None:
    """The convolution by a kernel of kernels.dense: float activations, constant weights, one or two spatial axes."""
    isa, weights = isa_of(cx), constant(w)
    if isa is None or weights is None or dtype != x.dtype or x.dtype not in ("float32", *SMALL_FLOATS) or len(axes) not in (1, 2):
        return None
    if not isinstance(x.shape[1], int) or 0 in weights.shape:
        return None
    if len(axes) == 2 and _narrow(axes[1]) and not _narrow(axes[0]):  # tiles run along rows: make the long axis the row
        turned = fast_conv(cx, cx.transpose(x, (0, 1, 3, 2)), cx.const(np.ascontiguousarray(weights.swapaxes(2, 3))), b, axes[::-1], group, dtype)
        return None if turned is None else cx.transpose(turned, (0, 1, 3, 2))
    channels, outputs = int(x.shape[1]), weights.shape[0]
    flat = len(axes) == 1
    weights = np.asarray(weights, np.float32).reshape(outputs, -1, *((1,) if flat else ()), *weights.shape[2:])
    first = axes[0]
    sizes: tuple[tuple[str, DimLike], ...] = (
        ("pad_top", 0 if flat else first.begin), ("pad_left", axes[-1].begin), ("oh", 1 if flat else first.out), ("ow", axes[-1].out),
    )  # fmt: skip
    strides = (1 if flat else first.stride, axes[-1].stride)
    dilations = (1 if flat else first.dilation, axes[-1].dilation)
    spec: KernelSpec
    if group == channels and group > 1:
        depthwise = DepthwiseProblem(channels, outputs // group, weights.shape[2:], strides, dilations, _static(axes[-1].out))
        packed = cx.const(pack_depthwise_weights(depthwise, isa, weights))
        spec = DepthwiseSpec(depthwise, isa, len(axes), sizes)
    else:
        inside = all(a.starts_inside and a.ends_inside for a in axes)
        problem = ConvProblem(channels, outputs, weights.shape[2:], strides, dilations, group, _static(axes[-1].out), None,
                              channels > MOST_PLANES or group > 1, not inside)  # fmt: skip
        spec, values = conv_kernel(cx, isa, problem, weights, x.dtype, x.shape[0], len(axes), sizes)
        packed = cx.const(values)
    shape = (x.shape[0], outputs, *(a.out for a in axes))
    y = cx.kernel(spec, [_float32(cx, x), packed], [("float32", shape)])[0]
    if b is None:
        return y if dtype == "float32" else cx.map(shape, dtype, lambda i: y.at(i))
    return cx.map(shape, dtype, lambda i: y.at(i) + b.at((i[1],)))


def fast_matmul(cx: Context, a: Tensor, b: Tensor, dtype: str) -> Tensor | None:
    """The product of matrices (rank >= 2) by the GEMM kernel: float32 (small floats are widened)."""
    isa = isa_of(cx)
    if isa is None or dtype != a.dtype or a.dtype != b.dtype or a.dtype not in ("float32", *SMALL_FLOATS):
        return None
    batch = cx.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    cx.require(k, "==", b.shape[-2], f"{cx.where()}: the columns of the first matrix are the rows of the second")
    weights = constant(b)
    if any(isinstance(d, int) and d == 0 for d in (*batch, m, k, n)):
        return None
    known: Any = {"k": _static(k), "n": _static(n)}
    if weights is not None and D.product(b.shape[:-2]) == 1:
        problem = GemmProblem(**known, m=None)
        matrix = np.asarray(weights, np.float32).reshape(weights.shape[-2:])
        spec, values = gemm_kernel(cx, isa, problem, matrix, a.dtype, a.shape[:-1])
        rows = D.product(a.shape[:-1])
        left = cx.reshape(_float32(cx, a), (1, 1, rows, k))
        y = cx.kernel(spec, [left, cx.const(values)], [("float32", (1, 1, rows, n))])[0]
        return _rounded(cx, cx.reshape(y, (*batch, m, n)), dtype)
    pair = two_axes(batch)
    left = cx.reshape(cx.broadcast_to(_float32(cx, a), (*batch, m, k)), (*pair, m, k))
    right = cx.reshape(cx.broadcast_to(_float32(cx, b), (*batch, k, n)), (*pair, k, n))
    problem = GemmProblem(**known, b="columns" if _transposed(b) else "rows", a="columns" if _transposed(a) else "rows")
    spec, _ = gemm_kernel(cx, isa, problem, None, a.dtype, (m,))
    y = cx.kernel(spec, [left, right], [("float32", (*pair, m, n))])[0]
    return _rounded(cx, cx.reshape(y, (*batch, m, n)), dtype)


def conv_kernel(cx: Context, isa: Isa, problem: ConvProblem, weights: np.ndarray, dtype: str, batch: DimLike, spatial: int,
                sizes: tuple[tuple[str, DimLike], ...]) -> tuple[KernelSpec, np.ndarray]:  # fmt: skip
    """The kernel of a convolution and its packed weights: AMX tiles where machine and precision have them and they pay, else
    Winograd's algorithm where precision allows it and it pays, else the direct one."""
    precision, outputs = cx.options.precision, dict(sizes)
    products = conv_products(precision, isa, problem, weights, dtype, outputs["oh"])
    if products is not None:
        return AmxConvSpec(problem, products, precision, isa, spatial, sizes), pack_amx_conv_weights(problem, products, weights)
    fewer = winograd_problem(precision, isa, problem, weights, batch, outputs["oh"], outputs["ow"])
    if fewer is not None:
        return WinogradSpec(fewer, isa, spatial, sizes), pack_winograd_weights(fewer, isa, weights)
    return ConvSpec(problem, isa, spatial, sizes), pack_conv_weights(problem, isa, weights)


def gemm_kernel(cx: Context, isa: Isa, problem: GemmProblem, matrix: np.ndarray | None, dtype: str,
                rows: Sequence[DimLike]) -> tuple[KernelSpec, np.ndarray | None]:  # fmt: skip
    """The same for a matrix product by a constant `matrix`, or by a run-time one (None); an eighth of the operations is saved by Strassen's
    algorithm where precision allows it and it pays."""
    precision = cx.options.precision
    products = gemm_products(precision, isa, problem, matrix, dtype, rows)
    if products is None:
        fewer = None if matrix is None else strassen_problem(precision, isa, problem, dtype, rows)
        if fewer is not None and matrix is not None:
            return StrassenSpec(problem, isa), pack_strassen_weights(fewer, isa, matrix)
        packed = None if matrix is None else np.ascontiguousarray(pack_gemm_weights(problem, isa, matrix))
        return GemmSpec(problem, isa), packed
    packed = None if matrix is None else pack_amx_gemm_weights(problem, products, matrix)
    return AmxGemmSpec(replace(problem, a="rows"), products, precision, isa), packed


def _narrow(axis: Axis) -> bool:
    return isinstance(axis.out, int) and axis.out < 4


def _static(d: DimLike) -> int | None:
    return d if isinstance(d, int) else None


def two_axes(batch: tuple[DimLike, ...]) -> tuple[DimLike, DimLike]:
    """Batch axes as the two that products have: the last one, and those before it as one."""
    return (D.product(batch[:-1]), batch[-1]) if batch else (1, 1)


def _rounded(cx: Context, y: Tensor, dtype: str) -> Tensor:
    return y if dtype == "float32" else cx.map(y.shape, dtype, lambda i: E.cast(y.at(i), "float32"))


def _transposed(t: Tensor) -> bool:
    """Whether t is a view whose last two axes are swapped against memory."""
    if not isinstance(t.origin, View) or t.origin.flat or t.rank < 2 or t.origin.base.rank < 2:
        return False
    i = tuple(D.symbol(f"t${k}", n) for k, n in enumerate(t.shape))
    at = t.origin.index(i)
    return len(at) >= 2 and at[-1] == i[-2]
