"""The typed graph: an `onnx_ir.Model` is brought to one normal form here; there is no second graph IR.

`prepare(model)` runs the passes of `hasten.graph.pipeline` in place and returns a PassLog.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hasten.graph.functions import expand_schema_function
    from hasten.graph.pipeline import PassLog, prepare
    from hasten.graph.text import to_text

__all__ = ["PassLog", "expand_schema_function", "to_text", "prepare"]

_HOME = {
    "PassLog": "hasten.graph.pipeline",
    "expand_schema_function": "hasten.graph.functions",
    "to_text": "hasten.graph.text",
    "prepare": "hasten.graph.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hasten.graph' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
