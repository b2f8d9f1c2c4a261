"""Operators that PyTorch's exporter lacks, or would unroll, as others that it has: decompositions that are applied before it.

To add one: a function of the operator's arguments, made of PyTorch's operators or of ONNX's (`torch.onnx.ops.symbolic`), and a row in the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hasten.frontends.torch_recurrent import RECURRENT


def with_operators(program: Any) -> Any:
    """An ExportedProgram without the operators of the table."""
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    if not any(node.target in _DECOMPOSED for graph in graphs for node in graph.nodes):
        return program
    return program.run_decompositions(_DECOMPOSED)


def _masked_select(x: Any, mask: Any) -> Any:
    x, mask = torch.broadcast_tensors(x, mask)
    return x[mask]


def _cdist(x: Any, y: Any, p: float = 2.0, mode: int | None = None) -> Any:
    """Distances float[..., n, m] between rows of x[..., n, k] and y[..., m, k]; `mode` chooses among algorithms for the same."""
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def _kthvalue(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    """The k-th smallest value along an axis, and its index."""
    values, indices = (t.narrow(dim, k - 1, 1) for t in torch.sort(x, dim))
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


_DECOMPOSED: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.masked_select.default: _masked_select,
    torch.ops.aten.cdist.default: _cdist,
    torch.ops.aten._cdist_forward.default: _cdist,
    torch.ops.aten.kthvalue.default: _kthvalue,
    **RECURRENT,
}
