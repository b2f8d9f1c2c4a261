"""`hasten inspect`: finding the texts of stages in a dump folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import hasten
from hasten.cli.app import app
from hasten.cli.inspect import TEXTS, Stage, stage_text


@pytest.mark.parametrize("name", ["graph.txt", "01-graph.txt", "3_graph.txt", "m/01.graph.txt"])
def test_texts_are_found_by_stage(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("here")
    (tmp_path / "02-subgraph.txt").write_text("not here")
    assert stage_text(tmp_path, Stage.GRAPH) == "here"
    assert stage_text(tmp_path, Stage.PROGRAM) == ""


MODEL = "<ir_version: 10, opset_import: ['': 20]> g (float[n, k] x) => (y) { a = MatMul(x, w)  y = Relu(a) }".replace("'", '"')


@pytest.fixture
def model(tmp_path: Path) -> Path:
    proto = onnx.parser.parse_model(MODEL)
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_types_and_checks(model: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(model), "--json", "--dim", "n=2:64:2"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert {v["name"]: (v["dtype"], v["shape"]) for v in found["values"]} == {"x": ("float32", ["n", 4]), "a": ("float32", ["n", 3]), "y": ("float32", ["n", 3])}
    assert [(c["node"], c["condition"], c["when"]) for c in found["checks"]] == [
        ("", "2 <= n", "entry"), ("", "n <= 64", "entry"), ("", "n == floordiv(n, 2)*2", "entry"), ("MatMul 'MatMul:a'", "k == 4", "entry")]  # fmt: skip
    tables = CliRunner().invoke(app, ["inspect", str(model), "-s", "types", "-s", "checks"])
    assert tables.exit_code == 0 and "MatMul" in tables.stdout and "entry" in tables.stdout


def test_ranges_for_compiled_models_are_refused(model: Path) -> None:
    hasten.compile(model).save(model.with_suffix(".hasten"))
    for arguments, words in (([str(model.with_suffix(".hasten")), "--dim", "n=4"], "--dim cannot change it"), ([str(model), "--dim", "n=4:2"], "no size is"),
                             ([str(model), "--dim", "4"], "NAME=LOW:HIGH"), ([str(model), "--dim", "m=4"], "no open size 'm'")):  # fmt: skip
        shown = CliRunner().invoke(app, ["inspect", *arguments])
        assert shown.exit_code == 1 and words in " ".join((shown.output + str(shown.exception)).split()), shown.output


def test_there_is_a_text_for_each_stage_of_the_compiler() -> None:
    assert [stage.value for stage in TEXTS] == ["graph", "simplified", "regions", "program"]
