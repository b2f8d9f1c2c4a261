"""The float64 reference: right (against ONNX's own operators and ONNX Runtime), in float64 all the way, and honest about what it cannot do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

pytest.importorskip("scipy", reason="needs scipy")

from hasten.bench import reference as room  # noqa: E402
from hasten.bench.compare import largest_difference  # noqa: E402
from hasten.bench.reference import Reference, reference  # noqa: E402

ROUNDING = 1e-12  # sums of some hundred float64 terms in another order

IMAGE = {"Conv": (1, 4, 9, 8), "ConvTranspose": (2, 4, 5, 6), "AveragePool": (1, 3, 9, 8), "MaxPool": (1, 3, 9, 8)}
WINDOWS: list[tuple[str, tuple[int, ...] | None, dict[str, Any]]] = [
    ("Conv", (6, 4, 3, 2), {}),
    ("Conv", (6, 4, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", (8, 2, 3, 3), {"group": 2, "dilations": [2, 1]}),
    ("Conv", (4, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (4, 4, 4, 2), {"auto_pad": "SAME_LOWER"}),
    ("Conv", (4, 4, 3, 3), {"auto_pad": "VALID"}),
    ("ConvTranspose", (4, 3, 3, 3), {}),
    ("ConvTranspose", (4, 3, 3, 2), {"strides": [2, 3], "pads": [1, 0, 1, 1], "output_padding": [1, 2]}),
    ("ConvTranspose", (4, 3, 2, 2), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("AveragePool", None, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("AveragePool", None, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", None, {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1}),
    ("AveragePool", None, {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    ("AveragePool", None, {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
    ("MaxPool", None, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("MaxPool", None, {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1}),
    ("MaxPool", None, {"kernel_shape": [2, 2], "dilations": [2, 3]}),
]
FAULTY = [  # in ONNX's own operators: compared with ONNX Runtime
    ("ConvTranspose", (4, 3, 3, 3), {"dilations": [2, 1], "group": 2}),
    ("ConvTranspose", (4, 3, 3, 3), {"strides": [3, 2], "output_shape": [14, 12]}),
    ("MaxPool", None, {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("ConvTranspose", (4, 3, 2, 2), {"strides": [3, 3], "output_shape": [15, 18], "auto_pad": "SAME_LOWER"}),
    ("ConvTranspose", (4, 3, 4, 3), {"output_shape": [5, 6], "auto_pad": "SAME_UPPER"}),
]


def model_of(nodes: list[Any], inputs: dict[str, Any], outputs: list[str], constants: dict[str, Any] | None = None, opset: int = 19) -> Any:
    """A model whose inputs have the types of these arrays; types of outputs are left to whoever asks."""
    given = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", given, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def window(operator: str, filters: tuple[int, ...] | None, attributes: dict[str, Any], dtype: Any) -> tuple[Any, dict[str, Any]]:
    """A model of the operator, and inputs."""
    random = np.random.default_rng(3)
    inputs = {"x": random.standard_normal(IMAGE[operator])}
    if filters:
        inputs["w"] = random.standard_normal(filters)
        inputs["b"] = random.standard_normal(filters[0] if operator == "Conv" else filters[1] * attributes.get("group", 1))
    inputs = {name: array.astype(dtype) for name, array in inputs.items()}
    return model_of([helper.make_node(operator, list(inputs), ["y"], **attributes)], inputs, []), inputs


@pytest.mark.parametrize(("operator", "filters", "attributes"), WINDOWS)
def test_windows_as_onnx_has_them(operator: str, filters: tuple[int, ...] | None, attributes: dict[str, Any]) -> None:
    from hasten.bench.reference.operators import OPERATORS

    model, inputs = window(operator, filters, attributes, np.float64)
    (want,) = ReferenceEvaluator(model).run(["y"], inputs)
    (got,) = ReferenceEvaluator(model, new_ops=OPERATORS).run(["y"], inputs)
    assert largest_difference({"y": got}, {"y": want}).relative < ROUNDING


@pytest.mark.parametrize(("operator", "filters", "attributes"), FAULTY)
def test_windows_as_onnxruntime_has_them(operator: str, filters: tuple[int, ...] | None, attributes: dict[str, Any]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from hasten.bench.reference.operators import OPERATORS

    model, inputs = window(operator, filters, attributes, np.float32)
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    (want,) = onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], inputs)
    (got,) = ReferenceEvaluator(model, new_ops=OPERATORS).run(["y"], {name: array.astype(np.float64) for name, array in inputs.items()})
    assert largest_difference({"y": got}, {"y": want}).relative < 1e-6  # some dozen float32 terms


FLOATING = [  # operator, shapes of inputs, attributes
    ("Erf", [(5,)], {}), ("Gelu", [(5,)], {}), ("Softmax", [(3, 5)], {}), ("Sigmoid", [(5,)], {}), ("HardSwish", [(5,)], {}), ("Elu", [(5,)], {}),
    ("MatMul", [(3, 4), (4, 2)], {}), ("Gemm", [(3, 4), (2, 4), (2,)], {"transB": 1}), ("Conv", [(1, 2, 5), (3, 2, 3)], {}),
    ("ConvTranspose", [(1, 2, 5), (2, 3, 3)], {}), ("LayerNormalization", [(3, 4), (4,), (4,)], {}), ("InstanceNormalization", [(1, 2, 9), (2,), (2,)], {}),
    ("GroupNormalization", [(1, 4, 5), (2,), (2,)], {"num_groups": 2}), ("LpNormalization", [(3, 4)], {}), ("ReduceMean", [(3, 4)], {}), ("ReduceL2", [(3, 4)], {}),
    ("LSTM", [(3, 1, 2), (1, 12, 2), (1, 12, 3)], {"hidden_size": 3}), ("GRU", [(3, 1, 2), (1, 9, 2), (1, 9, 3)], {"hidden_size": 3}),
    ("GlobalAveragePool", [(1, 2, 5)], {}), ("AveragePool", [(1, 2, 5)], {"kernel_shape": [2]}), ("Tanh", [(5,)], {}), ("Softplus", [(5,)], {}),
    ("BatchNormalization", [(2, 3, 4), (3,), (3,), (3,), (3,)], {}), ("PRelu", [(3, 4), (4,)], {}), ("Mish", [(5,)], {}), ("Einsum", [(3, 4), (4, 2)], {"equation": "ij,jk->ik"}),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "shapes", "attributes"), FLOATING)
def test_no_operator_rounds_to_float32(operator: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> None:
    """A change of the inputs by 1e-11 changes the outputs by about as much: float32 would swallow it, or make a step of 6e-8 of it."""
    from hasten.bench.reference.operators import OPERATORS

    random = np.random.default_rng(4)
    inputs = {f"i{k}": 0.1 + random.random(shape) for k, shape in enumerate(shapes)}
    evaluator = ReferenceEvaluator(model_of([helper.make_node(operator, list(inputs), ["y"], **attributes)], inputs, ["y"]), new_ops=OPERATORS)
    first, second = (evaluator.run(None, {k: v + shift * random.random(v.shape) for k, v in inputs.items()})[0] for shift in (0, 1e-11))
    assert first.dtype == np.float64
    assert 0 < np.abs(first - second).max() < 1e-9


def save(model: Any, folder: Path) -> Path:
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("opset", [8, 9, 12, 17])
def test_old_opsets_mean_what_onnxruntime_takes_them_for(opset: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    x = np.random.default_rng(5).standard_normal((2, 3, 4, 5)).astype(np.float32)
    constants = {"s": np.ones(3), "b": np.zeros(3), "m": np.full(3, 0.5), "v": np.full(3, 2.0)}
    nodes = [helper.make_node("BatchNormalization", ["x", *constants], ["n"], momentum=0.9), helper.make_node("Softmax", ["n"], ["p"])]
    nodes += [helper.make_node("LogSoftmax", ["n"], ["l"], axis=2), helper.make_node("GlobalMaxPool", ["n"], ["g"])]
    model = model_of(nodes, {"x": x}, [], {k: v.astype(np.float32) for k, v in constants.items()}, opset)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "plg")
    found = reference(save(model, tmp_path), {"x": x})
    assert found.outputs is not None and found.note == ""  # so ONNX Runtime agrees
    axes = (1, 2, 3) if opset < 13 else (3,)
    powers = np.exp((x.astype(np.float64) - 0.5) / np.sqrt(2 + np.float64(np.float32(1e-5))))
    np.testing.assert_allclose(found.outputs["p"], powers / powers.sum(axes, keepdims=True), rtol=1e-12)


def test_floats_of_every_kind_become_double(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float16[n, 2] x, bool c) => (float16[n, 2] y, float[k] z, int64[2] s)
        {
            t = own.third (x)
            w = Cast <to = 1> (t)
            k = Constant <value_float = 0.1> ()
            m = Mul (w, k)
            y = Cast <to = 10> (m)
            s = Shape (x)
            o = ConstantOfShape (s)
            p = Add (o, m)
            z = If (c) <
                then_branch = a () => (float[k] za) { e = Constant <value_floats = [1.0, 3.0]> () za = Mul (p, e) },
                else_branch = b () => (float[k] zb) { zb = Identity (p) }
            >
        }
        <domain: "own", opset_import: ["" : 17]>
        third (a) => (b) { t = Constant <value = float[1] {3.0}> () h = CastLike (t, a) b = Div (a, h) }""")
    x = np.array([[1, 2], [4, 5]], np.float16)
    found = reference(save(model, tmp_path), {"x": x, "c": np.array(True)})
    assert found.outputs is not None, found.note
    want = x.astype(np.float64) / 3 * np.float64(np.float32(0.1))
    assert found.outputs["y"].dtype == found.outputs["z"].dtype == np.float64 and found.outputs["s"].dtype == np.int64
    np.testing.assert_allclose(found.outputs["y"], want, rtol=1e-15)
    np.testing.assert_allclose(found.outputs["z"], want * [1, 3], rtol=1e-15)


def one_node(operator: str, folder: Path, **more: Any) -> tuple[Path, dict[str, Any]]:
    feeds = {"x": np.array([[1, 3, 2]], np.float32)}
    model = model_of([helper.make_node(operator, ["x"], ["y"], **more)], feeds, [])
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.INT64 if operator == "ArgMax" else TensorProto.FLOAT, None))
    return save(model, folder), feeds


def test_what_chooses_is_told(tmp_path: Path) -> None:
    found = reference(*one_node("ArgMax", tmp_path, axis=1))
    assert found.outputs is not None and found.outputs["y"].tolist() == [[1]] and "ArgMax chooses by comparing" in found.note


@pytest.mark.parametrize(("operator", "more", "note"), [("RandomNormalLike", {}, "draws random"), ("Gong", {"domain": "nobody"}, "fails in float64.*Gong")])
def test_what_has_no_reference(operator: str, more: dict[str, Any], note: str, tmp_path: Path) -> None:
    import re

    found = reference(*one_node(operator, tmp_path, **more))
    assert found.outputs is None and re.search(note, found.note)


def test_limits_of_time_and_memory(tmp_path: Path) -> None:
    path, feeds = one_node("Relu", tmp_path)
    late = reference(path, feeds, tmp_path / "cache", seconds=0.01)
    assert late.outputs is None and "more than 0.01 seconds" in late.note
    nodes = [helper.make_node("ConstantOfShape", ["x"], ["o"]), helper.make_node("ReduceSum", ["o"], ["y"])]
    path, feeds = save(model_of(nodes, (feeds := {"x": np.array([1 << 40])}), ["y"]), tmp_path), feeds
    large = reference(path, feeds, tmp_path / "cache")
    assert large.outputs is None and "memory" in large.note
    assert not list((tmp_path / "cache").glob("*.reference")), "a result for want of time or memory is not kept"


def test_results_are_kept_by_model_and_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, feeds = one_node("Relu", tmp_path)
    first = reference(path, feeds, tmp_path / "cache")
    assert first.outputs is not None and first.outputs["y"].tolist() == [[1, 3, 2]]
    monkeypatch.setattr(room, "_evaluate", lambda *_: (Reference(None, "evaluated"), True))
    kept = reference(path, feeds, tmp_path / "cache")
    assert kept.outputs is not None and kept.outputs["y"].tolist() == [[1, 3, 2]]
    assert reference(path, {"x": feeds["x"] + 1}, tmp_path / "cache").note == "evaluated"
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(b"damaged")
    assert reference(path, feeds, tmp_path / "cache").note == "evaluated"


def test_a_result_unlike_onnxruntime_is_none(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from hasten.bench.reference.evaluate import _checked

    path, feeds = one_node("Relu", tmp_path)
    for off, given, note in ((1e-6, True, ""), (0.01, True, "magnifies rounding"), (0.5, False, "one of them is wrong")):
        found = _checked(Reference({"y": feeds["x"] + off}), path, onnx.load(path), feeds)
        assert (found.outputs is not None) == given and note in found.note


@pytest.mark.slow
@pytest.mark.models
def test_all_models_have_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small errors of ONNX Runtime are its own: most models come out to float32 rounding, magnified by at most a few hundred."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    cases = Path(__file__).parents[2] / "benchmarks" / "trained.py"
    specification = importlib.util.spec_from_file_location("cases", cases)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "cases", module)
    specification.loader.exec_module(module)
    for case in module.load(data, first_only=True):
        found = reference(case.path, case.feeds)
        assert found.outputs is not None, f"{case.model}: {found.note}"
        assert "magnifies" not in found.note, f"{case.model}: {found.note}"
