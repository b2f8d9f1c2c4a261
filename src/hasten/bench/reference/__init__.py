"""What a model really computes: its outputs in float64, by ONNX's reference implementation and none of Hasten's code.

    reference(model, feeds, cache) -> Reference(outputs, note)

The model is rewritten to float64 (`rewrite`), evaluated in a process of its own (`evaluate`) with limits of time and memory, and compared once
with ONNX Runtime's float32: operators whose reference is slow or rounds to float32 are computed by `operators`.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hasten
from hasten.bench.peer import Feeds

SECONDS = 300.0  # limit of the evaluation
BYTES = 8 << 30
VERSION = 1  # of what is computed: another number makes kept results old


@dataclass(frozen=True)
class Reference:
    """Outputs in float64 by name (integers, truth values and texts in their own types), or None; `note` says why there are none, or what else
    there is to know: operators that choose or round, and how far ONNX Runtime's float32 is from them."""

    outputs: dict[str, Any] | None
    note: str = ""


def reference(model: Path, feeds: Feeds, cache: Path | None = None, *, seconds: float = SECONDS, bytes: int = BYTES) -> Reference:  # noqa: A002
    """The outputs of the ONNX file for these inputs. Never raises for a model that cannot be evaluated: the note says why.

    `cache`: a folder where results are kept, by the hash of model and inputs; failures for want of time or memory are not.
    """
    if cache is not None and (known := _read(kept := cache / f"{_key(model, feeds)}.reference")):
        return known
    with tempfile.TemporaryDirectory(prefix="hasten-reference-") as folder:
        found, lasting = _evaluate(model, feeds, Path(folder), seconds, bytes)
    if cache is not None and lasting:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as file:
            pickle.dump(found, file, 5)
        os.replace(file.name, kept)
    return found


def _evaluate(model: Path, feeds: Feeds, folder: Path, seconds: float, limit: int) -> tuple[Reference, bool]:
    """The reference, and whether another try would give the same."""
    (folder / "feeds").write_bytes(pickle.dumps(dict(feeds), 5))
    command = [sys.executable, "-P", "-m", "hasten.bench.reference.evaluate", str(model), str(folder / "feeds"), str(folder / "result"), str(limit)]
    path = os.pathsep.join(filter(None, [str(Path(hasten.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, env={**os.environ, "PYTHONPATH": path})
    except subprocess.TimeoutExpired:
        return Reference(None, f"evaluating in float64 took more than {seconds:g} seconds"), False
    if (found := _read(folder / "result")) is None:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {done.returncode}"]
        return Reference(None, f"evaluating in float64 ended with {last[0][:300]}"), False
    return found, found.outputs is not None or "memory" not in found.note


def _read(path: Path) -> Reference | None:
    try:
        found = pickle.loads(path.read_bytes())
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError):
        return None
    return found if isinstance(found, Reference) else None


def _key(model: Path, feeds: Feeds) -> str:
    """Of the model file and the inputs."""
    import numpy as np

    state = hashlib.sha256(f"{VERSION} ".encode() + model.read_bytes())
    for name in sorted(feeds):
        array = np.asarray(feeds[name])
        state.update(f"{name} {array.dtype} {array.shape} ".encode())
        state.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else np.ascontiguousarray(array).tobytes())
    return state.hexdigest()
