"""Matrix products: MatMul, Gemm, MatMulInteger, QLinearMatMul. Einsum is in ops.einsum.

`matmul(cx, a, b)` is the one entry point (attention, einsum ... use it, too): it chooses between a kernel template and `matmul_generic`,
which is right for every dtype and rank.
"""

from __future__ import annotations

from hasten.base.dtypes import is_float
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.lower.trace import Context, Index, Shape, Tensor
from hasten.ops.dense import fast_matmul
from hasten.ops.elementwise import elementwise, refuse_complex, scalar
from hasten.ops.quantize import quantized
from hasten.ops.registry import Node, operator, tensors


def matmul(cx: Context, a: Tensor, b: Tensor, dtype: str | None = None) -> Tensor:
    """NumPy's matmul: the last two axes are matrices, the others are broadcast; vectors (rank 1) are allowed.

    dtype: of the result (default: that of a). Sums are made in the compute type of a.
    """
    refuse_complex(cx, a, b)
    left, right = a.rank == 1, b.rank == 1
    a = cx.reshape(a, (1, *a.shape)) if left else a
    b = cx.reshape(b, (*b.shape, 1)) if right else b
    y = fast_matmul(cx, a, b, dtype or a.dtype)
    if y is None:
        y = matmul_generic(cx, a, b, dtype or a.dtype)
    if left or right:
        y = cx.reshape(y, (*y.shape[:-2], *(() if left else y.shape[-2:-1]), *(() if right else y.shape[-1:])))
    return y


def matmul_generic(cx: Context, a: Tensor, b: Tensor, dtype: str) -> Tensor:
    """The product as a reduction over k. Both have rank >= 2."""
    cx.require(a.shape[-1], "==", b.shape[-2], f"{cx.where()}: the columns of the first matrix are the rows of the second")
    batch = cx.broadcast_shapes(a.shape[:-2], b.shape[:-2])

    def product(o: Index, r: Index) -> Expr:
        ia = cx.broadcast_index(o[:-2], a.shape[:-2], batch) if batch else ()
        ib = cx.broadcast_index(o[:-2], b.shape[:-2], batch) if batch else ()
        return a.at((*ia, o[-2], r[0])) * b.at((*ib, r[0], o[-1]))

    return cx.reduce("sum", dtype, (*batch, a.shape[-2], b.shape[-1]), (a.shape[-1],), product)


def widened(cx: Context, x: Tensor, zero: Tensor | None, dtype: str = "int32") -> Tensor:
    """x - zero as `dtype`; zero is broadcast to x."""
    if zero is None:
        return elementwise(cx, lambda v: E.cast(v, dtype), x, dtype=dtype)
    return elementwise(cx, lambda v, z: E.cast(v, dtype) - E.cast(z, dtype), x, zero, dtype=dtype)


def per_row(cx: Context, t: Tensor | None) -> Tensor | None:
    """A vector of one value per row as a column; scalars and what has its full rank stay."""
    return cx.reshape(t, (t.shape[0], 1)) if t is not None and t.rank == 1 else t


@operator("MatMul")
def matmul_node(cx: Context, node: Node, a: Tensor, b: Tensor) -> Tensor:
    tensors(node, a, b)
    return matmul(cx, a, b)


@operator("Gemm")
def gemm(cx: Context, node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """alpha * A' B' + beta * C."""
    tensors(node, a, b, c)
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    a = cx.transpose(a, (1, 0)) if node.attr("transA", 0) else a
    b = cx.transpose(b, (1, 0)) if node.attr("transB", 0) else b
    y = matmul(cx, a, b)
    if alpha == 1.0 and (c is None or beta == 0.0):
        return y

    def element(v: Expr, *added: Expr) -> Expr:
        v = _scaled(v, alpha)
        return v + _scaled(added[0], beta) if added else v

    if c is None or beta == 0.0:
        return elementwise(cx, element, y)
    return elementwise(cx, element, y, cx.broadcast_to(c, y.shape))


def _scaled(v: Expr, factor: float) -> Expr:
    if factor == 1.0:
        return v
    return v * factor if is_float(v.dtype) else E.cast(E.cast(v, "float64") * factor, v.dtype)


def matmul_integer(cx: Context, a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    """(a - a_zero) (b - b_zero) of 8-bit integers as int32; a_zero per tensor or per row, b_zero per tensor or per column."""
    return matmul(cx, widened(cx, a, per_row(cx, a_zero)), widened(cx, b, b_zero))


@operator("MatMulInteger")
def matmul_integer_node(cx: Context, node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
    tensors(node, a, b, a_zero, b_zero)
    return matmul_integer(cx, a, b, a_zero, b_zero)


@operator("QLinearMatMul")
def qlinear_matmul(cx: Context, node: Node, a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
                   y_scale: Tensor, y_zero: Tensor) -> Tensor:  # fmt: skip
    """The product of dequantised matrices, quantised: exact sums in int32 (float8: float32), one rounding."""
    tensors(node, a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)
    if is_float(a.dtype):
        y = matmul(cx, widened(cx, a, per_row(cx, a_zero), "float32"), widened(cx, b, b_zero, "float32"))
    else:
        y = matmul_integer(cx, a, b, a_zero, b_zero)
    rows, columns = _aligned(cx, per_row(cx, a_scale), y.shape), _aligned(cx, b_scale, y.shape)

    def element(i: Index) -> Expr:
        scale = _factor(rows, i) * _factor(columns, i) / _factor(y_scale_wide, i)
        return quantized(E.cast(y.at(i), "float32") * scale, y_zero_wide.at(i), y_zero.dtype)

    y_scale_wide, y_zero_wide = _aligned(cx, per_row(cx, y_scale), y.shape), _aligned(cx, per_row(cx, y_zero), y.shape)
    return cx.map(y.shape, y_zero.dtype, element)


def _factor(t: Tensor, i: Index) -> Expr:
    return E.cast(t.at(i), "float32")


def _aligned(cx: Context, t: Tensor | None, shape: Shape) -> Tensor:
    assert t is not None
    if all(isinstance(d, int) and d == 1 for d in t.shape):
        return cx.map(shape, t.dtype, lambda i: scalar(t))
    return cx.broadcast_to(t, shape)
