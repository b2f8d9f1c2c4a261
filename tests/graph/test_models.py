"""Real models and ONNX's own test models: prepared, they give the same numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from hasten.frontends import load_graph
from hasten.graph import prepare, to_text

SHAPES = {
    "audio_melspectrogram": [1, 16000],
    "face_mtcnn_pnet": [1, 3, 40, 50],
    "ocr_cls_ppocr": [1, 3, 48, 192],
    "ocr_det_ppocrv4": [1, 3, 64, 96],
    "ocr_rec_ppocrv4": [1, 3, 48, 160],
    "segment_espnet": [1, 3, 64, 128],
    "style_candy": [1, 3, 64, 96],
    "text_nnsplit_en": [2, 20],
}
FIXED = {"vad_silero": {"sr": np.array(16000, np.int64), "input": np.zeros((2, 512), np.float32)}}
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(double)": np.float64,
}


RANDOM = {"Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike"}


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options)


def for_runtime(model: ir.Model, opset: int = 23) -> bytes:
    """The model as ONNX Runtime reads it; none of the operators in these models changed after `opset`."""
    proto = ir.to_proto(model)
    proto.ir_version = 10
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = opset
    return proto.SerializeToString()


def random_feeds(runtime: Any, name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    feeds = {}
    for info in runtime.get_inputs():
        shape = SHAPES.get(name) or [dim if isinstance(dim, int) and dim > 0 else 2 for dim in info.shape]
        dtype = np.dtype(DTYPES[info.type])
        feeds[info.name] = (
            rng.random(shape).astype(dtype) if dtype.kind == "f" else rng.integers(0, 100, shape).astype(dtype)
        )
    return feeds | FIXED.get(name, {})


@pytest.mark.models
def test_prepared_models_agree(data: Path, rng: np.random.Generator) -> None:
    for path in sorted((data / "models").glob("*.onnx")):
        before = session(path.read_bytes())
        feeds = random_feeds(before, path.stem, rng)
        model = load_graph(path)
        prepare(model)
        after = session(for_runtime(model))
        for want, got in zip(before.run(None, feeds), after.run(None, feeds), strict=True):
            if isinstance(want, list):
                assert want == got, path.stem
                continue
            assert want.shape == got.shape and want.dtype == got.dtype, path.stem
            scale = max(1e-3, float(np.abs(want.astype(np.float64)).max(initial=0.0)))
            tolerance = 1e-3 if want.dtype.itemsize > 2 else 1e-2
            np.testing.assert_allclose(got / scale, want / scale, tolerance, tolerance, err_msg=path.stem)


@pytest.mark.models
def test_preparing_twice_changes_nothing(data: Path) -> None:
    for path in sorted((data / "models").glob("*.onnx")):
        model = load_graph(path)
        prepare(model)
        first = to_text(model)
        prepare(model)
        assert to_text(model) == first, path.stem


def _same(got: Any, want: Any) -> bool:
    if isinstance(want, list):
        return len(got) == len(want) and all(_same(g, w) for g, w in zip(got, want, strict=True))
    if isinstance(want, onnx.TensorProto):
        want = onnx.numpy_helper.to_array(want)
    if want is None or got is None:
        return want is got
    got, want = np.asarray(got), np.asarray(want)
    if want.dtype.kind in "OUS":
        return [str(x) for x in got.reshape(-1)] == [str(x) for x in want.reshape(-1)]
    if got.shape != want.shape:
        return False
    if want.dtype.kind in "fV":
        tolerance = 1e-3 if want.dtype.itemsize > 2 else 1e-2
        return bool(np.allclose(got.astype(np.float64), want.astype(np.float64), tolerance, tolerance, equal_nan=True))
    return bool(np.array_equal(got, want))


@pytest.mark.conformance
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_backend_cases_survive() -> None:
    """Every node case of ONNX's suite loads and prepares; none that the reference evaluator gets right goes wrong."""
    from onnx.backend.test.loader import load_model_tests

    counts: Counter[str] = Counter()
    worse = []
    for case in load_model_tests(kind="node"):
        if case.model is None or not case.data_sets or RANDOM & {node.op_type for node in case.model.graph.node}:
            continue
        model = load_graph(case.model)
        prepare(model)
        to_text(model)
        inputs, want = case.data_sets[0]
        arrays = [onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in inputs]
        feeds = {info.name: array for info, array in zip(case.model.graph.input, arrays, strict=False)}

        def right(proto: onnx.ModelProto, feeds: Any = feeds, want: Any = want) -> bool:
            try:
                return _same(list(ReferenceEvaluator(proto).run(None, feeds)), list(want))
            except Exception:
                return False

        if right(ir.to_proto(model)):
            counts["right"] += 1
        elif right(case.model):
            worse.append(case.name)
        else:
            counts["not judged"] += 1
    assert not worse
    assert counts["right"] > 1200
