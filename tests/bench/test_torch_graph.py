"""ONNX models as torch modules: each operator against ONNX's own, and what has no module is said."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from hasten.base.errors import InputError  # noqa: E402
from hasten.bench.compare import largest_difference  # noqa: E402
from hasten.bench.peers.torch_graph import Untranslatable, convert  # noqa: E402

ROUNDING = 2e-6  # of float32, for sums of a few dozen terms

CASES = [  # types of inputs and outputs, body; the opset is 17 unless the case says another
    ("float[2,4,9,8] x, float[6,2,3,3] w, float[6] b", "y = Conv <group = 2, pads = [1, 0, 2, 1], strides = [2, 1]> (x, w, b)"),
    ("float[1,4,9,8] x, float[4,1,3,3] w", 'y = Conv <group = 4, auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)'),
    ("float[1,3,9] x, float[4,3,3] w", "y = Conv <dilations = [2]> (x, w)"),
    ("float[2,4,5,6] x, float[4,3,3,2] w, float[3] b", "y = ConvTranspose <strides = [2, 3], pads = [1, 0, 1, 1], output_padding = [1, 2]> (x, w, b)"),
    ("float[2,4,5,6] x, float[4,3,3,3] w", "y = ConvTranspose <strides = [2, 2], pads = [0, 0, 1, 1]> (x, w)"),
    ("float[1,3,9,8] x", "y = MaxPool <kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 0, 1]> (x)"),
    ("float[1,3,9,8] x", "y = MaxPool <kernel_shape = [2, 2], strides = [3, 3], ceil_mode = 1> (x)"),
    ("float[1,3,9,8] x", "y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 0, 1]> (x)"),
    ("float[1,3,9,8] x", "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 0, 1], count_include_pad = 1> (x)"),
    ("float[2,3,4] x, float[3] s, float[3] b, float[3] m, float[3] v", "y = BatchNormalization (x, s, b, m, v)"),
    ("float[2,3,4] x, float[4] s, float[4] b", "y = LayerNormalization (x, s, b)"),
    ("float[2,3,4] x, float[3] s, float[3] b", "y = InstanceNormalization (x, s, b)"),
    ("float[1,2,3,4] x", 'k = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> () y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , k)'),
    ("float[1,2,3,4] x", 'k = Constant <value = float[4] {1.0, 1.0, 1.5, 0.5}> () y = Resize <mode = "nearest"> (x, , k)'),
    ("float[1,2,3,4] x", 'k = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> () y = Resize <mode = "linear"> (x, , k)'),
    ("float[1,2,3,4] x", 'k = Constant <value = int64[4] {1, 2, 7, 5}> () y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , , k)'),
    ("float[1,2,5,4] x", 'k = Constant <value = int64[4] {1, 2, 7, 6}> () y = Resize <mode = "cubic"> (x, , , k)'),
    ("float[3,1,4] x, float[2,24,4] w, float[2,24,6] r, float[2,48] b", 'y, h, c = LSTM <hidden_size = 6, direction = "bidirectional"> (x, w, r, b)'),
    ("float[3,2,4] x, float[1,18,4] w, float[1,18,6] r, float[1,36] b, float[1,2,6] i", "y, h = GRU <hidden_size = 6, linear_before_reset = 1> (x, w, r, b, , i)"),
    ("float[3,4] x, float[3,5] w, float[5] b", "y = Gemm <transA = 1, alpha = 0.5, beta = 2.0> (x, w, b)"),
    ("float[2,3,4] x, float[4,5] w", "y = MatMul (x, w)"),
    ("float[4,6] x", "s = Constant <value_ints = [-1, 3]> () e = Constant <value_ints = [-9, 100]> () a = Constant <value_ints = [0, 1]> () t = Constant <value_ints = [-2, 2]> () y = Slice (x, s, e, a, t)"),
    ("float[4,6] x, int64[2,2] i", "y = Gather <axis = 1> (x, i)"),
    ("float[4,6] x", "i = Constant <value_int = -1> () y = Gather (x, i)"),
    ("float[2,3,4] x", "p = Constant <value_ints = [1, 0, 2, 0, 1, 3]> () y = Pad <mode = \"reflect\"> (x, p)"),
    ("float[1,2,4,5] x", "p = Constant <value_ints = [0, 0, 1, 2, 0, 0, 2, 1]> () y = Pad <mode = \"edge\"> (x, p)"),
    ("float[2,3,4] x", "p = Constant <value_ints = [1, 0, 1, 0, 1, 3]> () f = Constant <value_float = 7.0> () y = Pad (x, p, f)"),
    ("float[1,8,2,3] x", "y = DepthToSpace <blocksize = 2> (x)"),
    ("float[1,8,2,3] x", 'y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)'),
    ("float[1,2,4,6] x", "y = SpaceToDepth <blocksize = 2> (x)"),
    ("float[2,3,4] x", "s = Constant <value_ints = [1, 2, 1]> () y, z, v = Split <axis = 2> (x, s)"),
    ("float[2,3,4] x", "s = Shape (x) f = Gather (s, one) g = Unsqueeze (f, zero) m = Constant <value_ints = [-1]> () t = Concat <axis = 0> (g, m) y = Reshape (x, t)"),
    ("float[2,1,4] x", "a = Constant <value_ints = [1]> () z = Squeeze (x, a) b = Constant <value_ints = [0, 3]> () y = Unsqueeze (z, b)"),
    ("float[2,3,4] x", "y = Flatten <axis = -1> (x)"),
    ("float[2,3,4] x", "y = ReduceMean <axes = [0, 2], keepdims = 0> (x) z = ReduceMax (x) a = ReduceL2 <axes = [1]> (x)"),
    ("float[2,3,4] x", "y = ArgMax <axis = 1, keepdims = 0> (x)"),
    ("float[2,3,4] x, float[3,1] s", "y = PRelu (x, s)"),
    ("float[2,3,4] x, float[4] s", "y = PRelu (x, s)"),
    ("float[2,3] x", "l = Constant <value_float = -0.5> () y = Clip (x, l) z = HardSigmoid (x) a = HardSwish (x) b = LeakyRelu (x)"),
    ("float[2,3] x", "t = Constant <value_float = 2.0> () y = Pow (x, t) z = Div (t, x) a = Sub (t, x) b = Max (x, t, a)"),
    ("int64[2,3] x", "t = Constant <value_ints = [2]> () y = Div (x, t) z = Cast <to = 1> (x) a = Mod (x, t)"),
    ("float[2,3] x, float[3] w", "c = Greater (x, w) y = Where (c, x, w) z = Not (c) a = Einsum <equation = \"ij,j->i\"> (x, w)"),
    ("float[2,3] x", "s = Shape (x) o = ConstantOfShape <value = float[1] {2.0}> (s) y = Mul (o, x) z = Expand (x, e) n = Tile (x, e)"),
]  # fmt: skip
FIRST = ("x", "i")  # inputs of the model; what else a case names is a constant of it


def model_of(types: str, body: str, opset: int = 17) -> tuple[Any, dict[str, Any]]:
    """The model of a case, and feeds."""
    random = np.random.default_rng(7)
    proto = onnx.parser.parse_graph(f"g ({types}) => () {{ {body} }}")
    given = [entry for entry in proto.input if entry.name in FIRST]
    tensors = [onnx.numpy_helper.from_array(_numbers(entry, random), entry.name) for entry in proto.input if entry.name not in FIRST]
    tensors += [onnx.numpy_helper.from_array(np.array(a, np.int64), n) for n, a in {"one": 1, "zero": [0], "e": [2, 1]}.items()]
    consumed = {name for node in proto.node for name in node.input}
    outputs = [onnx.ValueInfoProto(name=name) for node in proto.node for name in node.output if name not in consumed or name in "yzab"]
    graph = onnx.helper.make_graph(list(proto.node), "g", given, outputs, tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9)
    return model, {entry.name: _numbers(entry, random) for entry in given}


def _numbers(entry: Any, random: np.random.Generator) -> Any:
    shape = [d.dim_value for d in entry.type.tensor_type.shape.dim]
    if entry.type.tensor_type.elem_type == onnx.TensorProto.INT64:
        return random.integers(-3, 4, shape)
    array = random.standard_normal(shape).astype(np.float32)
    return np.abs(array) + np.float32(0.1) if entry.name == "v" else array  # a variance


def run(model: Any, feeds: dict[str, Any]) -> dict[str, Any]:
    module = convert(model, feeds)
    with torch.inference_mode():
        outputs = module(*(torch.from_numpy(feeds[entry.name]) for entry in model.graph.input))
    return {entry.name: tensor.numpy() for entry, tensor in zip(model.graph.output, outputs, strict=True)}


@pytest.mark.parametrize(("types", "body"), CASES)
def test_operators(types: str, body: str) -> None:
    from onnx.reference import ReferenceEvaluator

    from hasten.bench.reference.operators import OPERATORS

    model, feeds = model_of(types, body)
    names = [entry.name for entry in model.graph.output]
    want = dict(zip(names, ReferenceEvaluator(model, new_ops=OPERATORS).run(names, feeds), strict=True))
    difference = largest_difference(run(model, feeds), want)
    assert difference.relative < ROUNDING, str(difference)


def test_normalisation_goes_into_the_convolution_and_shapes_are_folded() -> None:
    types = "float[1,2,5,5] x, float[3,2,3,3] w, float[3] s, float[3] b, float[3] m, float[3] v"
    model, feeds = model_of(types, "c = Conv (x, w) n = BatchNormalization (c, s, b, m, v) k = Shape (n) y = Reshape (n, k) y1 = Add (y, y)")
    calls = [node.target.__name__ for node in convert(model, feeds).graph.nodes if node.op == "call_function"]
    assert calls == ["conv2d", "reshape", "add"]
    want = model_of(types, "c = Conv (x, w) y = BatchNormalization (c, s, b, m, v)")
    shared = model_of(types, "c = Conv (x, w) y = BatchNormalization (c, s, b, m, v) z = Relu (c)")
    assert largest_difference({"y": run(*shared)["y"]}, {"y": run(*want)["y"]}).relative < ROUNDING


def test_values_of_settings_are_built_in() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]> g (float[2] x, int64 rate) => (float[2] y)
        { k = Constant <value_int = 8> () c = Equal (rate, k)
          y = If (c) < then_branch = a () => (float[2] p) { p = Neg (x) }, else_branch = b () => (float[2] q) { q = Add (x, x) } > }""")
    x = np.array([1, 2], np.float32)
    for rate, want in ((8, [-1, -2]), (16, [2, 4])):
        assert run(model, {"x": x, "rate": np.array(rate)})["y"].tolist() == want


@pytest.mark.parametrize(
    ("types", "body", "message"),
    [
        ("float[3] x", "y = NonZero (x)", "operator NonZero"),
        ("float[3] x, int64[2] i", "y = Reshape (x, i)", "Reshape '': a shape or an index depends on the elements"),
        ("float[3,1,4] x, float[1,18,4] w, float[1,18,6] r", "y = GRU <hidden_size = 6> (x, w, r)", "GRU '': linear_before_reset=0"),
        ("float[1,2,3,4] x", 'k = Constant <value = int64[4] {1, 2, 7, 5}> () y = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (x, , , k)', "linear with asymmetric"),
    ],
)  # fmt: skip
def test_what_cannot_be_translated(types: str, body: str, message: str) -> None:
    with pytest.raises(Untranslatable, match=message):
        convert(*model_of(types, body))


@pytest.mark.slow
@pytest.mark.models
def test_all_models_but_forests(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from hasten.bench.peers import find

    specification = importlib.util.spec_from_file_location("trained", Path(__file__).parents[2] / "benchmarks" / "trained.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "trained", module)
    specification.loader.exec_module(module)
    refused = []
    for case in module.load(data, first_only=True):
        session = onnxruntime.InferenceSession(str(case.path))
        names = [output.name for output in session.get_outputs()]
        try:
            got = find("torch").load(case.path, 1, {}, None).run(case.feeds)
        except InputError:
            refused.append(case.model)
            continue
        difference = largest_difference(got, dict(zip(names, session.run(names, case.feeds), strict=True)))
        assert difference.relative < 1e-4, f"{case.model}: {difference}"  # two float32 roundings, magnified by some of the models
    assert refused == ["tab_rf_digits", "tab_xgb_movielens"]
