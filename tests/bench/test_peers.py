"""Peers: they run, and what goes wrong is told as a HastenError."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hasten.base.errors import InputError, MissingDependency
from hasten.bench.peers import PEERS, start


@pytest.mark.parametrize("name", PEERS)
def test_runs_a_model(name: str, example_models: Path) -> None:
    pytest.importorskip(name, reason=f"needs {name}")
    run = start(name, example_models / "rl_go1_policy.onnx", 1)
    outputs = run({"obs": np.zeros((1, 48), np.float32)})
    assert outputs["continuous_actions"].shape == (1, 12)


def test_a_missing_peer_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"pip install onnxruntime, .*hasten\[bench\]"):
        start("onnxruntime", Path("m.onnx"), 1)


def test_refusals(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    (tmp_path / "m.onnx").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="onnxruntime does not run m.onnx"):
        start("onnxruntime", tmp_path / "m.onnx", 1)
    with pytest.raises(InputError, match="there is no peer 'abacus'"):
        start("abacus", tmp_path / "m.onnx", 1)
