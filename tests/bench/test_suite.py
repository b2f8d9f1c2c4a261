"""The benchmark suite's logic on results made up for it: which peer counts, what the bars say, what the tables show; batches of trained models."""

from __future__ import annotations

import argparse
import json
import sys
import xml.etree.ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import bars
import picture
import points
import tables
import trained
from points import Point

import models


def entry(engine: str, ratio: float, *, seconds: float = 0.01, error: float = 1e-6, **more: Any) -> dict[str, Any]:
    """An engine that takes `ratio` times as long as the default Hasten's `seconds`."""
    times = {"seconds": {"value": ratio * seconds}, "ratio": {"value": ratio} if engine != points.BASE else None}
    return {"engine": engine, "error": error, "trouble": "", **times, **more}


def point(model: str, *entries: dict[str, Any], batch: int = 1, threads: int = 1, group: str = "zoo", depthwise: float = 0.0, label: str = "") -> Point:
    return Point(model, label, batch, threads, group, depthwise, {e["engine"]: e for e in entries})


def made_up() -> list[Point]:
    """Two models; torch is wrong on the second, ncnn failed on it."""
    failed = {"engine": "ncnn", "trouble": "unknown operator | Loop", "seconds": None, "ratio": None, "error": None}
    return [
        point("resnet50", entry("hasten", 1, peak_bytes=90, warm_start_ns=10**8, cold_start_ns=3 * 10**9), entry("hasten:isa=avx2", 1.5),
              entry("onnxruntime", 2.0, peak_bytes=100, warm_start_ns=10**8), entry("openvino", 1.5), entry("ncnn", 4.0)),
        point("voice", entry("hasten", 1, peak_bytes=120, warm_start_ns=10**8), entry("hasten:isa=avx2", 1.5), entry("onnxruntime", 0.5, peak_bytes=100, warm_start_ns=10**8),
              entry("openvino", 0.8), entry("torch", 0.1, error=0.3), failed, group="data", depthwise=0.5),
    ]  # fmt: skip


def test_best_peer() -> None:
    """The fastest that is right: a wrong or failed one doesn't count."""
    first, second = made_up()
    assert first.peer("best fp32") == "openvino" and second.peer("best fp32") == "onnxruntime"
    assert first.speedup("hasten", "best fp32") == 1.5
    assert first.speedup("hasten:isa=avx2", "onnxruntime") == pytest.approx(2.0 / 1.5)
    assert second.speedup("hasten", "torch") is None and second.speedup("hasten", "best bf16") is None


def test_bars() -> None:
    """sqrt(2.0 * 0.5) = 1 beside ONNX Runtime, sqrt(1.5 * 0.5) beside the best; each cell says whether it is met."""
    found = {bar.what: bar.cell(made_up()) for bar in bars.BARS if bar.needs in ("", "avx512")}
    assert found["no tiles beside ONNX Runtime"] == "**1.00x**"
    assert found["no tiles beside the best fp32 peer"] == "**0.87x**"
    assert found["no tiles beside the best fp32 peer, slowest model"] == "**0.50x**"
    assert found["no tiles beside ONNX Runtime, depthwise-heavy"] == "**0.50x**"
    assert found["no tiles beside ONNX Runtime, under a millisecond"] == ""
    assert found["peak memory, of ONNX Runtime's, largest"] == "**1.20x**"
    assert found["cold start less one call, slowest"] == "2.99 s"
    assert all(not bar.cell([]) for bar in bars.BARS)


def test_two_threads() -> None:
    """Only models of more than 20 ms; the same model at the same batch."""
    one = [point("a", entry("hasten", 1, seconds=0.04)), point("b", entry("hasten", 1, seconds=0.01))]
    two = [point("a", entry("hasten", 1, seconds=0.02), threads=2), point("b", entry("hasten", 1, seconds=0.01), threads=2)]
    assert bars.two_threads(two, one) == pytest.approx(2.0)
    assert bars.two_threads(two, []) is None
    row = next(line for line in tables.bars([*one, *two], "avx512").splitlines() if "two threads" in line)
    assert row.split(" | ")[1:] == ["at least 1.80x", "", "2.00x |"]


def test_tables() -> None:
    """Every table has the same number of cells in all rows, and what failed is named with its reason."""
    found = [*made_up(), point("voice", entry("hasten", 1, seconds=0.05), entry("onnxruntime", 1.2), batch=8, group="data")]
    for text in (tables.means(found), tables.models(found), tables.starts(found), tables.absent(found), tables.bars(found, "avx512")):
        for block in text.split("\n\n"):
            widths = {line.replace("\\|", "").count("|") for line in block.splitlines() if line.startswith("|")}
            assert len(widths) <= 1, block
    absent = tables.absent(found)
    assert "`ncnn` | voice | unknown operator \\| Loop" in absent and "`torch` | voice | answers are wrong" in absent
    assert "160" in tables.starts(found)  # 8 items in 50 ms
    assert tables.precise(found) == ""
    assert tables.bars([], "amx").count("\n") == 1


def test_precise() -> None:
    p = point("ocr", entry("hasten", 1), entry(bars.HIGH, 0.5, error=3e-6), entry(bars.DEFAULT_OPENVINO, 0.6, error=0.2), group="data")
    assert tables.precise([p]).splitlines()[-1] == "| `ocr` | 5 | 6 | 1.20x | 3e-06 | 2e-01 |"


def test_picture() -> None:
    """Well-formed, a mark for each engine and model besides the legend's; nothing where there is only Hasten."""
    drawn = picture.speed_and_error(made_up(), "title")
    assert drawn is not None
    tree = xml.etree.ElementTree.fromstring(drawn)
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"  # without the name space, no browser shows a file of it
    assert len(tree.findall(".//{*}circle")) == 2 * 2 + 2  # hasten and openvino
    assert picture.speed_and_error([point("a", entry("hasten", 1), entry("onnxruntime", 1))], "title") is None


def network(path: Path, first: int | str, group: int = 1) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [first, 4, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [first, 4, 8, 8])
    w = onnx.numpy_helper.from_array(np.ones((4, 4 // group, 1, 1), np.float32), "w")
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], group=group)], "g", [x], [y], [w])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_batched(tmp_path: Path, rng: np.random.Generator) -> None:
    """Eight items, the first as it was and no two alike; a model that takes one item has none."""
    x = rng.standard_normal((1, 4, 8, 8), np.float32)
    many = trained.batched(trained.Case("m", "8x8", network(tmp_path / "m.onnx", "n"), {"x": x}), 8)
    assert many is not None and many.feeds["x"].shape == (8, 4, 8, 8) and many.label == "n8 8x8"
    assert np.array_equal(many.feeds["x"][:1], x) and len({row.tobytes() for row in many.feeds["x"]}) == 8
    assert trained.batched(trained.Case("m", "8x8", network(tmp_path / "m.onnx", 1), {"x": x}), 8) is None


def test_depthwise_share(tmp_path: Path) -> None:
    assert models.depthwise(network(tmp_path / "m.onnx", 1)) == 0
    assert models.depthwise(network(tmp_path / "m.onnx", 1, group=4)) == 1


def test_available(capsys: pytest.CaptureFixture[str]) -> None:
    """Hasten comes first; an engine that isn't there is told and left out."""
    assert [str(spec) for spec in models.available(["onnxruntime", "nonsense"])] == ["hasten", "onnxruntime"]
    assert "nonsense: left out" in capsys.readouterr().out


def test_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is not measured again, unless an engine is missing in it: then together with those that it has."""
    measured = []

    def measure(_: Any, engines: Any, threads: Any, *__: Any, **___: Any) -> SimpleNamespace:
        measured.append((threads, [str(engine) for engine in engines]))
        return SimpleNamespace(status="complete", cautions=[], began="2026-01-01", revision="abc", machine={"cpu": "a"})

    def summarise(_: Any) -> SimpleNamespace:
        engines = [entry(name, 2 if name == "onnxruntime" else 1) for name in measured[-1][1]]
        block = {"inputs": {}, "reference": "", "reference_note": "", "engines": engines}
        return SimpleNamespace(to_dict=lambda: {"models": [block]})

    monkeypatch.setattr(models, "measure", measure)
    monkeypatch.setattr(models, "summarise", summarise)
    case = trained.Case("m", "", network(tmp_path / "m.onnx", 1), {"x": np.zeros((1, 4, 8, 8), np.float32)})
    work = models.Work("data", 1, "", True, case)
    args = argparse.Namespace(quick=False, again=False, seconds=1.0, threads=[1, 2], even_if_busy=True, into=tmp_path / "results")
    few, more = ([models.EngineSpec.parse(name) for name in names] for names in (["hasten", "onnxruntime"], ["hasten", "openvino"]))
    for threads, engines in ((1, few), (2, few), (1, few), (2, few), (1, more), (1, more)):
        models.run_one(work, threads, engines, tmp_path, args)
    assert measured == [([1], ["hasten", "onnxruntime"]), ([2], ["hasten", "onnxruntime"]), ([1], ["hasten", "openvino", "onnxruntime"])]
    file = json.loads((tmp_path / "results" / "m.json").read_text())
    assert sorted(row["threads"] for row in file["points"]) == [1, 2]
    assert [p.speedup("hasten", "onnxruntime") for p in points.load(tmp_path / "results")] == [2.0, 2.0]
