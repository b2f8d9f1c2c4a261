"""`hasten.op.NAME`: every operator of ONNX inside of a `hasten.function`.

    hasten.op.Gemm(a, b, c, transB=1)          inputs by position (None where left out), attributes by name
    y, index = hasten.op.TopK(x, [3], axis=-1)
    y, h, c = hasten.op.LSTM(x, w, r, b, hidden_size=64, outputs=3)     more outputs than the operator must have
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hasten.base.errors import InputError


@dataclass(frozen=True)
class Operator:
    """An operator by its name in ONNX."""

    name: str

    def __call__(self, *args: Any, **attributes: Any) -> Any:
        raise InputError(f"hasten.op.{self.name} has a meaning inside of a @hasten.function only; compile the function with hasten.compile")


def __getattr__(name: str) -> Operator:
    if name.startswith("_"):
        raise AttributeError(name)
    return Operator(name)
