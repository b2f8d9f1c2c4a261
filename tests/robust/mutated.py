"""Feeds that are almost right: one input with another size, rank or dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import hasten

Feeds = dict[str, Any]
NAMED = (hasten.InputError, hasten.ExecutionError, hasten.ResourceLimit)  # ShapeMismatch and TypeMismatch are InputErrors


def sizes(rng: np.random.Generator, size: int) -> list[int]:
    """Other sizes of an axis: none, one, neighbours, multiples, any."""
    return sorted({0, 1, max(size - 1, 0), size + 1, size * 2, size // 2, int(rng.integers(0, 2 * size + 3))} - {size})


def resized(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The array with another size along an axis, its values repeated."""
    if array.shape[axis] == 0:
        return np.zeros([*array.shape[:axis], size, *array.shape[axis + 1 :]], array.dtype)
    return np.ascontiguousarray(np.take(array, np.arange(size), axis, mode="wrap"))


def other_sizes(feeds: Mapping[str, Any], rng: np.random.Generator) -> Iterator[tuple[str, Feeds]]:
    """(what was changed, feeds): every axis of every tensor with other sizes."""
    for name, value in feeds.items():
        if isinstance(value, np.ndarray):
            for axis in range(value.ndim):
                for size in sizes(rng, value.shape[axis]):
                    yield f"{name}: axis {axis} is {size}", {**feeds, name: resized(value, axis, size)}


def other_types(feeds: Mapping[str, Any]) -> Iterator[tuple[str, Feeds]]:
    """(which input was changed, feeds): another rank or dtype, never right."""
    for name, value in feeds.items():
        if isinstance(value, np.ndarray):
            yield name, {**feeds, name: value[None]}
            if value.ndim:
                yield name, {**feeds, name: np.asarray(value.sum(0), value.dtype)}
            other = np.int16 if value.dtype != np.int16 else np.float32
            yield name, {**feeds, name: value.astype(other)}


def refused_or_fine(run: Any, feeds: Feeds, what: str) -> dict[str, Any] | None:
    """What `run` answers, or None where it raises a named error with a message that says something. Anything else fails the test."""
    try:
        return dict(run(feeds))
    except NAMED as error:
        assert len(str(error)) > 20, (what, error)
        return None
