"""CumSum and CumProd."""

from __future__ import annotations

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.kernels.scan import ScanSpec
from hasten.lower.trace import Context, Shape, Tensor
from hasten.ops.elementwise import refuse_complex
from hasten.ops.registry import Node, operator, tensors

FUNCTIONS = {"CumSum": "add", "CumProd": "mul"}


@operator(*FUNCTIONS)
def scan(cx: Context, node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Running sums or products along an axis; `exclusive` leaves out the element itself, `reverse` runs from the
    end."""
    tensors(node, x, axis)
    refuse_complex(cx, x)
    lines = cx.reshape(x, around(cx, x.shape, cx.read_ints(axis)[0]))
    spec = ScanSpec(x.dtype, FUNCTIONS[node.op_type], bool(node.attr("exclusive", 0)), bool(node.attr("reverse", 0)))
    return cx.reshape(cx.kernel(spec, [lines], [(x.dtype, lines.shape)])[0], x.shape)


def around(cx: Context, shape: Shape, axis: DimLike) -> tuple[DimLike, DimLike, DimLike]:
    """Sizes before, of, and after an axis that may be known to the run only."""
    rank = len(shape)
    cx.require(-rank, "<=", axis, f"{cx.where()}: the axis of a tensor of rank {rank}")
    cx.require(axis, "<", rank, f"{cx.where()}: the axis of a tensor of rank {rank}")
    axis = D.mod(axis, rank)
    before: DimLike = 1
    here: DimLike = 0
    after: DimLike = 1
    for k, d in enumerate(shape):
        before = before * D.if_less(k, axis, d, 1)
        here = here + D.if_equal(axis, k, d, 0)
        after = after * D.if_less(axis, k, d, 1)
    return before, here, after
