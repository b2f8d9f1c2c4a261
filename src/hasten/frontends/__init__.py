"""Foreign models in: ONNX files, bytes and protos, and PyTorch modules, all become one checked `onnx_ir.Model`.

`load_graph` and `export_module` are loaded on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hasten.frontends.onnx import load_graph
    from hasten.frontends.torch import export_module

__all__ = ["export_module", "load_graph"]

_HOME = {"load_graph": "hasten.frontends.onnx", "export_module": "hasten.frontends.torch"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hasten.frontends' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
