"""Inputs of a measurement: copies, changes that an honest engine must follow, writing in place as services do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def own(values: Any) -> Any:
    """A copy in memory of its own: engines write their next answer over their last."""
    import numpy as np

    if isinstance(values, Mapping):
        return {name: own(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [own(value) for value in values]
    return values if values is None or isinstance(values, (str, bytes, int, float)) else np.array(values)


def overwrite(feeds: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Put new values in place: in the arrays that engines have seen (and may have bound) where there are arrays."""
    import numpy as np

    for name, value in new.items():
        old = feeds.get(name)
        if isinstance(old, np.ndarray) and isinstance(value, np.ndarray) and old.shape == value.shape and old.dtype == value.dtype:
            np.copyto(old, value)
        else:
            feeds[name] = value


def nudged(feeds: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Feeds that no step before had and that cost the same: floats moved by some units of their last place; without floats, elements shifted by
    `step`."""
    import numpy as np

    return _changed(feeds, lambda x, unit: x * (1 + 4 * step * unit) + 4 * step * unit, lambda x: np.roll(x, step))


def altered(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Feeds of the same kind that ask for another answer: elements in reverse order, floats nine tenths as large."""
    return _changed(feeds, lambda x, unit: 0.9 * x.ravel()[::-1].reshape(x.shape) + 0.01, lambda x: x.ravel()[::-1].reshape(x.shape))


def _changed(feeds: Mapping[str, Any], floats: Callable[[Any, float], Any], others: Callable[[Any], Any]) -> dict[str, Any]:
    """`floats` gets float64 and the type's unit of the last place of 1. Integers and texts are changed only where there are no floats: beside floats they
    tend to be lengths, axes and rates."""
    import numpy as np

    arrays = {name: value for name, value in feeds.items() if isinstance(value, np.ndarray) and value.size}
    real = {name: value for name, value in arrays.items() if np.issubdtype(value.dtype, np.floating)}
    if real:
        return {**feeds, **{name: floats(value.astype(np.float64), float(np.finfo(value.dtype).eps)).astype(value.dtype) for name, value in real.items()}}
    return {**feeds, **{name: others(value) for name, value in arrays.items()}}
