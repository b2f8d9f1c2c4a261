"""PyTorch's tensors as NumPy's arrays and back, sharing memory. PyTorch gives no array of types that NumPy lacks: these go by integers of their size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch

Array = np.ndarray[Any, Any]

_CARRIED: dict[Any, tuple[Any, Any]] = {  # dtype -> the integer that carries it, NumPy's dtype
    torch.bfloat16: (torch.int16, np.dtype(ml_dtypes.bfloat16)),
    torch.float8_e4m3fn: (torch.uint8, np.dtype(ml_dtypes.float8_e4m3fn)),
    torch.float8_e5m2: (torch.uint8, np.dtype(ml_dtypes.float8_e5m2)),
}


def to_array(tensor: Any) -> Array:
    """The array of a CPU tensor that needs no gradient. Raises TypeError for layouts and types that no array has."""
    carried = _CARRIED.get(tensor.dtype)
    if carried is None:
        found: Array = tensor.numpy()
        return found
    return tensor.view(carried[0]).numpy().view(carried[1])  # type: ignore[no-any-return]


def reader(fake: Any) -> Callable[[Any], Array]:
    """What turns arguments like `fake` (a tensor, or a number) into arrays: chosen once, so that a call decides nothing."""
    if not isinstance(fake, torch.Tensor):
        dtype = np.int64 if isinstance(fake, (int, torch.SymInt)) else np.float64
        return lambda number: np.asarray(number, dtype)
    if fake.requires_grad:
        return lambda tensor: to_array(tensor.detach())
    if fake.dtype in _CARRIED:
        return to_array
    return torch.Tensor.numpy


def writer(value: Any) -> Callable[[Array], Any]:
    """What turns the model's outputs into results like `value` (a fake tensor, or a symbolic number)."""
    if isinstance(value, (torch.SymInt, int)):
        return int
    if isinstance(value, (torch.SymFloat, float)):
        return float
    if isinstance(value, torch.SymBool):
        return bool
    carried = _CARRIED.get(value.dtype)
    if carried is None:
        return torch.from_numpy
    integer = np.dtype(str(carried[0]).removeprefix("torch."))
    return lambda array: torch.from_numpy(array.view(integer)).view(value.dtype)
