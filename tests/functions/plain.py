"""A `hasten.function` as the plain Python function that it was, and all that it calls, too: the reference of these tests."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import hasten
from hasten.base.types import Data
from hasten.functions.function import Function
from hasten.vm.callpath import Model, NativeModel
from hasten.vm.interpreter import InterpretedModel
from hasten.vm.runtime import loaded_runtime


def plain(function: Function) -> Callable[..., Any]:
    """The function as Python runs it."""
    done: dict[int, Any] = {}
    rooms: dict[int, dict[str, Any]] = {}

    def of(x: Any) -> Any:
        if not isinstance(x, Function):
            return x
        if id(x) in done:
            return done[id(x)]
        old = x.python
        cells = tuple(types.CellType() for _ in old.__closure__ or ())
        room = rooms.setdefault(id(old.__globals__), dict(old.__globals__))
        done[id(x)] = made = types.FunctionType(old.__code__, room, old.__name__, old.__defaults__, cells)
        for cell, source in zip(cells, old.__closure__ or (), strict=True):
            cell.cell_contents = of(source.cell_contents)
        for name, value in list(room.items()):
            if isinstance(value, Function):
                room[name] = of(value)
        return made

    result: Callable[..., Any] = of(function)
    return result


def leaves(x: Any) -> list[Any]:
    """Arrays and numbers of a result, from left to right; variants by their names. Without recursion: values may be deep."""
    found: list[Any] = []
    stack = [x]
    while stack:
        y = stack.pop()
        if isinstance(y, Data):
            found.append(type(y).__name__)
        if isinstance(y, (tuple, list)):
            stack.extend(reversed(y))
        else:
            found.append(y)
    return found


def same(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """Equal structure, numbers near."""
    a, b = leaves(got), leaves(want)
    assert len(a) == len(b), f"{len(a)} leaves, not {len(b)}"
    for x, y in zip(a, b, strict=True):
        if isinstance(x, str) or isinstance(y, str):
            assert x == y
            continue
        x, y = np.asarray(x), np.asarray(y)
        assert x.shape == y.shape, f"shape {x.shape}, not {y.shape}"
        assert x.dtype.kind == y.dtype.kind, f"{x.dtype}, not {y.dtype}"
        np.testing.assert_allclose(x.astype("f8"), y.astype("f8"), rtol=tolerance, atol=tolerance)


def interpreted(compiled: hasten.CompiledModel) -> Model:
    """The same Program and kernels in the interpreter."""
    model = compiled._model
    assert isinstance(model, NativeModel)
    return InterpretedModel(model.program, model.image, model.constants, loaded_runtime(), model.threads)


def check(function: Function, *cases: Sequence[Any], tolerance: float = 1e-5, **options: Any) -> hasten.CompiledModel:
    """Compile a function and hold both drivers against plain Python for each tuple of arguments."""
    compiled = hasten.compile(function, **options)
    reference, slow = plain(function), interpreted(compiled)
    for case in cases:
        want = reference(*case)
        same(compiled(*case), want, tolerance)
        same(slow(*case), want, tolerance)
    return compiled
