"""A model of one multiplication, and engines with faults, installed as another package installs its own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hasten.bench.experiment import Task


@pytest.fixture
def doubling(tmp_path: Path) -> Task:
    """y = 2 x of four numbers."""
    value = helper.make_tensor_value_info
    two = numpy_helper.from_array(np.float32(2), "two")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])], "doubling", [value("x", TensorProto.FLOAT, [4])], [value("y", TensorProto.FLOAT, [4])], [two]
    )
    path = tmp_path / "doubling.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return Task(path, {"x": np.array([1, -2, 3, 4], np.float32)})


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer `fake`, in the processes of engines."""
    folder = Path(__file__).parent / "fakes"
    package = tmp_path / "site" / "fake_engines-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-engines\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[hasten.peers]\nfake = fake_engines:PEER\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(package.parent)]))
