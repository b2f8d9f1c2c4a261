"""The command line in this process, and a compiled model that needs no compiling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

Invoke = Callable[..., Result]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Stands for TensorInfo."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@pytest.fixture
def tensor() -> type[Tensor]:
    return Tensor


@pytest.fixture
def invoke() -> Invoke:
    """Runs the command line: `invoke("run", model, "--json")`; the result has exit_code, stdout and stderr."""
    from hasten.cli.app import app

    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


class FakeModel:
    """A compiled model without compiling: one picture in, its mean over rows and columns out."""

    inputs = [Tensor("image", "float32", ("batch", 3, "height", "width"))]
    outputs = [Tensor("means", "float32", ("batch", 3))]

    def run(self, feeds: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
        return {"means": feeds["image"].mean((2, 3))}

    def save(self, path: Path) -> None:
        Path(path).write_bytes(b"compiled")


@pytest.fixture
def fake_core(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces hasten.compile and hasten.load; the dict collects the arguments of the last compile.

    For what depends on failures and interruptions at a known moment; everything else is tested with the real compiler.
    """
    import hasten

    calls: dict[str, Any] = {}

    def compile(model: Any, **options: Any) -> FakeModel:
        calls.update(options, model=model)
        if error := calls.get("raises"):
            raise error
        return FakeModel()

    monkeypatch.setattr(hasten, "compile", compile, raising=False)
    monkeypatch.setattr(hasten, "load", lambda path: FakeModel(), raising=False)
    return calls
