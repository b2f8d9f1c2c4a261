"""Det: determinants of square matrices."""

from __future__ import annotations

from hasten.base import dims as D
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.determinant import DeterminantSpec
from hasten.lower.trace import Context, Tensor
from hasten.ops.registry import Node, operator, tensors


@operator("Det")
def det(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    if x.rank < 2:
        raise ModelError(f"{node}: a matrix has two axes at least, the input has {x.rank}")
    cx.require(x.shape[-2], "==", x.shape[-1], "the matrices must be square")
    dtype = "float64" if x.dtype == "float64" else "float32"
    wide = x if x.dtype == dtype else cx.map(x.shape, dtype, lambda i: E.cast(x.at(i), dtype))
    matrices = cx.reshape(wide, (D.product(x.shape[:-2]), x.shape[-2], x.shape[-1]))
    values = cx.kernel(DeterminantSpec(dtype), [matrices], [(dtype, matrices.shape[:1])])[0]
    result = cx.reshape(values, x.shape[:-2])
    return result if x.dtype == dtype else cx.map(result.shape, x.dtype, lambda i: result.at(i))
