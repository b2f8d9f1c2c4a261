"""Commands with the real compiler, on the small models that come along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hasten.api", reason="needs the compiler")


@pytest.fixture
def digits(example_models: Path) -> Path:
    return example_models / "classify_mnist_cnn.onnx"


def test_compile_then_run(invoke: Any, digits: Path, tmp_path: Path) -> None:
    saved = tmp_path / "digits.hasten"
    compiled = invoke("compile", digits, "-o", saved)
    assert compiled.exit_code == 0, compiled.stderr
    for word in ("Input3", "Plus214_Output_0", "kernels", "host ops", "none", "peak memory", "digits.hasten"):
        assert word in compiled.stdout
    assert compiled.stderr == "" and list(tmp_path.iterdir()) == [saved]
    direct, loaded = (invoke("run", model, "-i", "random:0:255", "--json") for model in (digits, saved))
    (one,), (other,) = (json.loads(result.stdout)["outputs"] for result in (direct, loaded))
    assert one == other and one["shape"] == [1, 10]


def test_compile_json(invoke: Any, digits: Path, tmp_path: Path) -> None:
    result = json.loads(invoke("compile", digits, "-o", tmp_path / "d.hasten", "--json").stdout)
    assert result["inputs"] == [{"name": "Input3", "dtype": "float32", "shape": [1, 1, 28, 28]}]
    assert result["file_bytes"] == (tmp_path / "d.hasten").stat().st_size
    assert result["report"]["host_ops"] == [] and result["report"]["kernels"] >= 1


def test_a_face_is_found(invoke: Any, example_models: Path, example_pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="needs pillow")
    picture = f"@{example_pictures}/photo_astronaut.png"
    result = invoke("run", example_models / "face_ultraface_rfb320.onnx", "-i", picture,
                    "--resize", "auto", "--mean", 127, "--std", 128, "--save", tmp_path / "out.npz")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    with np.load(tmp_path / "out.npz") as outputs:
        best = outputs["scores"][0, :, 1].argmax()
        assert outputs["scores"][0, best, 1] > 0.9
        left, top, right, bottom = outputs["boxes"][0, best]
    assert 0.3 < (left + right) / 2 < 0.6 and 0.1 < (top + bottom) / 2 < 0.4


def test_inspect(invoke: Any, digits: Path) -> None:
    result = invoke("inspect", digits)
    assert result.exit_code == 0, result.stderr
    for word in ("Conv", "MaxPool", "peak memory", "host ops"):
        assert word in result.stdout
    for stage in ("graph", "simplified", "regions", "program", "nodes"):
        text = invoke("inspect", digits, "--stage", stage).stdout
        assert len(text.splitlines()) > 3, stage
    report = json.loads(invoke("inspect", digits, "--json").stdout)
    assert report["nodes"] and "stages" not in report


def test_a_damaged_file_is_refused(invoke: Any, digits: Path, tmp_path: Path) -> None:
    saved = tmp_path / "d.hasten"
    invoke("compile", digits, "-o", saved)
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 0x10
    saved.write_bytes(content)
    result = invoke("run", saved, "-i", "random")
    assert result.exit_code == 1 and result.stderr.startswith("CorruptFile: ")


def test_an_interrupted_compile_leaves_nothing(example_models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "hasten.cli", "compile", example_models / "face_ultraface_rfb320.onnx",
               "-o", out / "m.hasten", "--cache-dir", tmp_path / "cache"]  # fmt: skip
    process = subprocess.Popen([os.fspath(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any(out.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)  # until the command has begun to compile, which its temporary file shows
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130 and words == b"interrupted\n"
    assert list(out.iterdir()) == []


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    for package in ("PIL", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}")
    demo = Path(__file__).resolve().parents[2] / "examples" / "demo.py"
    picture = tmp_path / "face.png"
    result = subprocess.run(
        [sys.executable, demo, "--seconds", "1", "--output", picture], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "found 1 face in photo_astronaut.png" in result.stdout and "ONNX Runtime" in result.stdout
    assert picture.stat().st_size > 10_000
