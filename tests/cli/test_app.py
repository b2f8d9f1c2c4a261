"""Exit codes, the one-line errors, and where output goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.base.errors import CompileError, ModelError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(b"")
    return tmp_path / "m.onnx"


def test_help(invoke: Any) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for command in ("compile", "run", "inspect", "bench", "doctor", "cache"):
        assert command in result.stdout
    assert invoke("cache", "--help").exit_code == 0


@pytest.mark.parametrize("args", [["nothing"], ["run"], ["run", "nothere.onnx"], ["doctor", "--wrong"]])
def test_wrong_usage_is_2(invoke: Any, args: list[str]) -> None:
    assert invoke(*args).exit_code == 2


def test_errors_are_one_line_and_1(invoke: Any, fake_core: Any, model: Path) -> None:
    fake_core["raises"] = ModelError("node 'n' (Relu): [red]bad\nmore")
    result = invoke("run", model)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr == "ModelError: node 'n' (Relu): [red]bad\nmore\n"


def test_the_traceback_can_be_had(invoke: Any, fake_core: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTEN_TRACEBACK", "1")
    fake_core["raises"] = CompileError("no")
    with pytest.raises(CompileError):
        invoke("run", model)


def test_out_of_disk_is_told_without_traceback(invoke: Any, fake_core: Any, model: Path) -> None:
    fake_core["raises"] = OSError(28, "No space left on device")
    result = invoke("compile", model)
    assert result.exit_code == 1 and result.stderr == "OSError: [Errno 28] No space left on device\n"
    assert not model.with_suffix(".hasten").exists()


def test_interrupted_is_130_and_leaves_the_old_file(invoke: Any, fake_core: Any, model: Path) -> None:
    target = model.with_suffix(".hasten")
    target.write_bytes(b"old")
    fake_core["raises"] = KeyboardInterrupt()
    result = invoke("compile", model)
    assert result.exit_code == 130 and result.stderr == "interrupted\n"
    assert target.read_bytes() == b"old" and len(list(model.parent.iterdir())) == 2


def test_options_reach_the_compiler(invoke: Any, fake_core: Any, model: Path) -> None:
    invoke("run", model, "--isa", "avx2", "--precision", "high", "--threads", 2, "--no-host-ops", "-i", "zeros",
           "--dim", "height=2", "--dim", "width=2")  # fmt: skip
    progress = fake_core.pop("progress")
    assert progress is None  # no terminal, no bar
    assert fake_core == {"model": model, "isa": "avx2", "precision": "high", "threads": 2, "host_ops": False}


def test_what_is_not_given_is_left_to_the_compiler(invoke: Any, fake_core: Any, model: Path) -> None:
    invoke("run", model)
    assert set(fake_core) == {"model", "progress"}


def test_saved_models_refuse_compile_options(invoke: Any, fake_core: Any, model: Path) -> None:
    saved = model.rename(model.with_suffix(".hasten"))
    result = invoke("run", saved, "--isa", "avx2", "--no-host-ops")
    assert result.exit_code == 1 and "compiled already, so --isa, --no-host-ops cannot change it" in result.stderr
    assert "compiled already" in invoke("compile", saved).stderr
    assert "its graph can be shown from the .onnx model only" in invoke("inspect", saved, "--stage", "graph").stderr
    assert "engines cannot read .hasten" in invoke("bench", saved).stderr


def test_output_must_be_a_hasten_file(invoke: Any, fake_core: Any, model: Path) -> None:
    assert "compiled models end in .hasten" in invoke("compile", model, "-o", model.parent / "x.onnx").stderr
    assert "no folder" in invoke("compile", model, "-o", model.parent / "a" / "x.hasten").stderr
    assert "model" not in fake_core  # told before the compiler starts


def test_run_prints_data_on_stdout_and_words_on_stderr(
    invoke: Any, fake_core: Any, model: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.full((1, 3, 4, 4), 2, np.float32))
    result = invoke("run", model, "--input", f"@{tmp_path}/x.npy", "--top", 2, "--save", tmp_path / "out.npz")
    assert result.exit_code == 0
    assert "means" in result.stdout and "(1, 3)" in result.stdout and "note" not in result.stdout
    assert "first run" in result.stderr
    with np.load(tmp_path / "out.npz") as saved:
        assert saved["means"].tolist() == [[2, 2, 2]]


def test_run_json(invoke: Any, fake_core: Any, model: Path) -> None:
    result = invoke("run", model, "-i", "ones", "--dim", "height=2", "--dim", "width=2", "--json", "--top", 1)
    (output,) = json.loads(result.stdout)["outputs"]
    assert output["shape"] == [1, 3] and output["first"] == [1, 1, 1] and output["mean"] == 1
    assert output["top"] == [[[0, 1.0]]]
