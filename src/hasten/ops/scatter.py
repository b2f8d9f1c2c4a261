"""ScatterElements and ScatterND: updates written to, or combined with, computed positions of a copy of the data."""

from __future__ import annotations

from hasten.base.errors import ModelError
from hasten.kernels.scatter import REDUCTIONS, ScatterElementsSpec, ScatterNDSpec
from hasten.lower.trace import Context, Tensor
from hasten.ops.arguments import axis_of
from hasten.ops.registry import Node, operator, tensors


def _reduction(node: Node) -> str:
    name = str(node.attr("reduction", "none"))
    if name not in REDUCTIONS:
        raise ModelError(f"{node}: unknown reduction {name!r}")
    return name


@operator("ScatterElements", "Scatter")
def scatter_elements(cx: Context, node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    tensors(node, x, indices, updates)
    axis = axis_of(cx, node.attr("axis", 0), x.rank)
    if indices.rank != x.rank or updates.rank != x.rank:
        raise ModelError(f"{node}: data, indices and updates have {x.rank}, {indices.rank} and {updates.rank} axes")
    for k in range(x.rank):
        cx.require(indices.shape[k], "==", updates.shape[k], f"indices and updates must agree along axis {k}")
        if k != axis:
            cx.require(indices.shape[k], "<=", x.shape[k], f"indices must not be larger than the data along axis {k}")
    spec = ScatterElementsSpec(x.dtype, indices.dtype, _reduction(node), x.rank, axis)
    return cx.kernel(spec, [x, indices, updates], [(x.dtype, x.shape)])[0]


@operator("ScatterND")
def scatter_nd(cx: Context, node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    tensors(node, x, indices, updates)
    depth = indices.shape[-1]
    if not isinstance(depth, int):
        depth = indices.rank - 1 + x.rank - updates.rank
        cx.require(indices.shape[-1], "==", depth, "indices must select slices of the updates' shape")
    if not isinstance(depth, int) or not 0 <= depth <= x.rank:
        raise ModelError(f"{node}: the last axis of indices has size {depth}; it must be known and at most {x.rank}")
    wanted = indices.shape[:-1] + x.shape[depth:]
    if updates.rank != len(wanted):
        raise ModelError(f"{node}: updates have {updates.rank} axes instead of {len(wanted)}")
    for k, (a, b) in enumerate(zip(updates.shape, wanted, strict=True)):
        cx.require(a, "==", b, f"axis {k} of the updates must fit the indices and the data")
    spec = ScatterNDSpec(x.dtype, indices.dtype, _reduction(node), depth)
    return cx.kernel(spec, [x, indices, updates], [(x.dtype, x.shape)])[0]
