"""What the adapters of several engines need."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hasten.base.errors import InputError
from hasten.bench.peer import Feeds


def choose(peer: str, options: Mapping[str, str], table: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Each option's value: the given one, or the first of its row in `table` (option -> values; no values: any, "" when not given).

    Raises InputError for an option or a value that the peer does not have.
    """
    for key, value in options.items():
        if key not in table:
            has = ", ".join(table) or "none"
            raise InputError(f"the peer {peer} has no option {key!r}; it has: {has}.")
        if table[key] and value not in table[key]:
            raise InputError(f"{peer}:{key}={value}: {key} is one of {', '.join(table[key])}.")
    return {key: options.get(key, values[0] if values else "") for key, values in table.items()}


class Bound:
    """Inputs given to an engine once and kept: `changed(feeds)` says whether these arrays are others than those of the last call, or must be
    copied at each call because their elements are not in C order."""

    def __init__(self) -> None:
        self._arrays: tuple[Any, ...] = ()

    def changed(self, feeds: Feeds) -> bool:
        arrays = tuple(feeds.values())
        if len(arrays) == len(self._arrays) and all(a is b for a, b in zip(arrays, self._arrays, strict=True)):
            return False
        self._arrays = arrays if all(array.flags.c_contiguous for array in arrays) else ()
        return True


def contiguous(array: Any) -> Any:
    """The array in C order, without a copy where it is that already. (numpy.ascontiguousarray would give scalars an axis.)"""
    import numpy as np

    return np.asarray(array, order="C")


def shapes_of(feeds: Feeds) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes, as a key."""
    return tuple((name, tuple(array.shape)) for name, array in feeds.items())


def without_default_inputs(model: Path, folder: Path) -> Path:
    """The model file, or a copy of it in `folder` in which constants are no longer listed as inputs that a caller may replace.

    Models of old exporters list them, which forbids engines to fold and to fuse; their users are told to take them out.
    """
    import onnx

    proto = onnx.load(model, load_external_data=False)
    initial = {tensor.name for tensor in proto.graph.initializer}
    inputs = [entry for entry in proto.graph.input if entry.name not in initial]
    if len(inputs) == len(proto.graph.input):
        return model
    proto = onnx.load(model)
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return kept(folder / f"{digest(model, 'inputs')}.onnx", lambda made: made.write_bytes(proto.SerializeToString()))


def digest(model: Path, *more: object) -> str:
    """A name for what is made of this model file with these settings."""
    state = hashlib.sha256(model.read_bytes())
    state.update(repr(more).encode())
    return state.hexdigest()[:24]


def kept(path: Path, make: Callable[[Path], object]) -> Path:
    """`path`, made by `make(temporary path)` where it is not there yet; it appears whole."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as folder:
        made = Path(folder) / path.name
        make(made)
        if made.exists():
            try:
                os.replace(made, path)
            except OSError:  # another process was quicker, and a folder does not replace a folder
                if not path.exists():
                    raise
    return path
