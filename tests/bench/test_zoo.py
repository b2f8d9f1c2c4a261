"""Networks of benchmarks/zoo.py: as large as published, of order one at all depths, and what Hasten makes of them against ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import hasten

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import zoo
from networks.builder import ACTIVATIONS, Value, after

SMALL = ["ds_cnn", "squeezenet1_1", "mobilenet_v2"]
TOLERANCE = 1e-4  # of the largest output: float32 roundings of up to 120 layers are some 1e-5
LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm", "BatchNormalization", "LayerNormalization", "Add", "Concat", "LSTM", "GRU")


def peer(model: Path | bytes, optimized: bool = True) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options)


def slow(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in SMALL else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", slow(list(zoo.NETWORKS)))
def test_parameters(name: str) -> None:
    """As many as published; the model is valid, and the same seed gives the same weights."""
    network = zoo.NETWORKS[name]
    model, parameters = network.build()
    assert parameters == network.published
    onnx.checker.check_model(model, full_check=True)
    if name in SMALL:
        assert network.build()[0] == model


@pytest.mark.parametrize("name", slow(list(zoo.NETWORKS)))
def test_order_one(name: str) -> None:
    """No layer's values die out or grow: standard deviations stay between 1/10 and 10, and outputs depend on inputs."""
    network = zoo.NETWORKS[name]
    model, _ = network.build()
    outputs = [o.name for o in model.graph.output]
    weights = {t.name for t in model.graph.initializer}
    scores = {n.input[0] for n in model.graph.node if n.op_type == "Div"}  # attention's, before they are scaled
    inner = [n.output[0] for n in model.graph.node if n.op_type in LAYERS and n.output[0] not in {*outputs, *weights, *scores}]
    model.graph.output.extend(onnx.ValueInfoProto(name=text) for text in inner)
    session = peer(model.SerializeToString(), optimized=False)
    first, second = (session.run(None, network.feeds(np.random.default_rng(seed), 1, 16)) for seed in (0, 1))
    for info, value, other in zip(session.get_outputs(), first, second, strict=True):
        if value.dtype != np.float32 or value.size < 64 or np.abs(value).max() > 1e30:  # shapes, masks
            continue
        assert 0.1 < value.std() < 10, f"{info.name}: standard deviation {value.std():.2g}"
        if info.name in outputs:
            assert np.abs(value - other).std() > 0.03 * value.std(), f"{info.name} hardly depends on the input"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_after_activation(activation: str, rng: np.random.Generator) -> None:
    """Mean and variance as expected, against a million draws (their own error is 2e-3)."""
    x = Value("x", 1, 0.3, 2.0)
    numbers = ACTIVATIONS[activation](rng.normal(x.mean, np.sqrt(x.variance), 10**6))
    y = after(activation, x)
    np.testing.assert_allclose([y.mean, y.variance], [numbers.mean(), numbers.var()], atol=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("zoo")


@pytest.mark.parametrize("name", slow(list(zoo.NETWORKS)))
def test_against_onnxruntime(name: str, folder: Path) -> None:
    """The same outputs for batches of 1 and 8 and every length, from one compiled model."""
    cases = list(zoo.cases_of(name, folder))
    path = cases[0].path
    session, compiled = peer(path), hasten.compile(path, threads=2, host_ops=False)
    for case in cases:
        got = compiled.run(case.feeds)
        for info, want in zip(session.get_outputs(), session.run(None, case.feeds), strict=True):
            apart = np.abs(got[info.name] - want).max() / np.abs(want).max()
            assert got[info.name].shape == want.shape and apart < TOLERANCE, f"{name} {case.label} {info.name}: {apart:.1e}"
    path.unlink()  # (VGG-16 is 550 MB)
