"""Threads, processes and many calls; see `endurance`."""

from __future__ import annotations

from pathlib import Path

import pytest
from endurance import MODELS, growth_of_calls, growth_of_models, many_processes, many_threads

MIB = 1 << 20


@pytest.mark.parametrize("kind", MODELS)
def test_calls_do_not_leak(kind: str) -> None:
    """Memory is flat; in `-s` runs it is printed."""
    found = growth_of_calls(kind, 10_000 if kind in ("native", "failing") else 2_000)
    print(found)
    assert found["growth"] < 2 * MIB, found
    assert found["failures"] == (found["calls"] if kind == "failing" else 0), found


def test_models_do_not_leak() -> None:
    found = growth_of_models(100)
    print(found)
    assert found["images_after"] <= found["images_before"] and found["growth"] < 8 * MIB, found


def test_eight_threads(example_models: Path) -> None:
    assert many_threads(example_models / "face_mtcnn_pnet.onnx", 8, 20) == 0
    assert many_threads(example_models / "classify_mnist_cnn.onnx", 8, 50) == 0


@pytest.mark.slow
def test_eight_processes(example_models: Path, tmp_path: Path) -> None:
    found = many_processes(example_models / "face_mtcnn_pnet.onnx", tmp_path, 8)
    assert found["failed"] == found["different"] == found["temporary"] == 0, found
    assert found["entries"] == found["entries_of_one"] > 3, found
