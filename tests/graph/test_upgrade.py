"""Every upgrade rule: an old model gives the same numbers in the newest opset."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from hasten.base.errors import ModelError
from hasten.frontends import load_graph
from hasten.graph import prepare

X = "g (float[2,3,4] x) => (float y)"
IMAGE = "g (float[1,3,4,4] x) => (float y)"

ATTRIBUTES_TO_INPUTS = {
    "squeeze": (11, "g (float[2,1,3] x) => (float y) { y = Squeeze<axes=[1]>(x) }", ["Squeeze"]),
    "unsqueeze": (11, f"{X} {{ y = Unsqueeze<axes=[0,3]>(x) }}", ["Unsqueeze"]),
    "reduce sum": (11, f"{X} {{ y = ReduceSum<axes=[1],keepdims=0>(x) }}", ["ReduceSum"]),
    "reduce mean": (13, f"{X} {{ y = ReduceMean<axes=[-1]>(x) }}", ["ReduceMean"]),
    "reduce all": (13, f"{X} {{ y = ReduceMax<keepdims=0>(x) }}", ["ReduceMax"]),
    "clip": (7, f"{X} {{ y = Clip<min=-0.5,max=0.5>(x) }}", ["Clip"]),
    "clip of a product": (7, f"{X} {{ a = Mul(x, x) y = Clip<min=0.25>(a) }}", ["Mul", "Clip"]),
    "slice": (9, f"{X} {{ y = Slice<starts=[0,1],ends=[9,3],axes=[1,2]>(x) }}", ["Slice"]),
    "pad": (8, f"{X} {{ y = Pad<pads=[0,1,0,0,0,2],value=1.5>(x) }}", ["Pad"]),
    "pad zero": (8, f"{X} {{ y = Pad<pads=[0,1,0,0,0,2]>(x) }}", ["Pad"]),
    "split": (11, f"{X} {{ y, z = Split<axis=2,split=[1,3]>(x) }}", ["Split"]),
    "split evenly": (13, f"{X} {{ y, z = Split<axis=2>(x) }}", ["Split"]),
    "upsample 7": (7, f"{IMAGE} {{ y = Upsample<scales=[1.0,1.0,2.0,2.0]>(x) }}", ["Resize"]),
    "dropout": (7, f"{X} {{ a = Dropout<ratio=0.3>(x) y = Relu(a) }}", ["Relu"]),
    "softmax default axis": (9, f"{X} {{ y = Softmax(x) }}", ["Shape", "Flatten", "Softmax", "Reshape"]),
    "softmax last axis": (9, f"{X} {{ y = Softmax<axis=2>(x) }}", ["Softmax"]),
    "log softmax": (9, f"{X} {{ y = LogSoftmax<axis=1>(x) }}", ["Shape", "Flatten", "LogSoftmax", "Reshape"]),
    "hardmax": (9, f"{X} {{ y = Hardmax<axis=0>(x) }}", ["Shape", "Flatten", "Hardmax", "Reshape"]),
}


@pytest.mark.parametrize("name", ATTRIBUTES_TO_INPUTS)
def test_old_forms(name, same):
    opset, text, ops = ATTRIBUTES_TO_INPUTS[name]
    if "z = " in text:
        text = text.replace("(float y)", "(float y, float z)")
    done = same(text, opset)
    assert [op for op in done.ops if op != "Shape"] == [op for op in ops if op != "Shape"]
    assert done.model.opset_imports[""] == onnx.defs.onnx_opset_version()


def test_upsample_9_and_resize_10(same):
    scales = np.array([1, 1, 1.5, 2], np.float32)
    for opset, op in ((9, "Upsample"), (10, "Resize")):
        for mode in ("nearest", "linear"):
            done = same(f'{IMAGE} {{ y = {op}<mode="{mode}">(x, scales) }}', opset, scales=scales)
            assert done.node("Resize").attributes["coordinate_transformation_mode"].value == "asymmetric"


def test_topk_k_moves_to_an_input(same):
    done = same("g (float[3,5] x) => (float[3,2] y, int64[3,2] i) { y, i = TopK<k=2>(x) }", 9)
    assert done.ops == ["TopK"]


def test_resize_with_empty_inputs(same):
    empty = np.zeros(0, np.float32)
    sizes = np.array([1, 3, 6, 8], np.int64)
    done = same(
        f'{IMAGE} {{ y = Resize<mode="linear">(x, roi, scales, sizes) }}', 11, roi=empty, scales=empty, sizes=sizes
    )
    assert [value is None for value in done.node("Resize").inputs] == [False, True, True, False]


@pytest.mark.parametrize("known", [True, False])
def test_legacy_broadcast_at_an_axis(known, same, rng):
    shape = "2,3,4" if known else "a,b,c"
    b = rng.standard_normal(3).astype(np.float32)
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    text = f"g (float[{shape}] x) => (float y) {{ r = Relu(x) y = Add<broadcast=1,axis=1>(r, b) }}"
    done = same(text, 6, b=b, x=x, expect=lambda feeds: [np.maximum(feeds["x"], 0) + b[:, None]])
    assert "Add" in done.ops


def test_legacy_broadcast_of_unknown_rank(same, rng):
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    b = rng.standard_normal(3).astype(np.float32)
    model = onnx.parser.parse_model(
        '<ir_version: 3, opset_import: ["": 6]> g (float[a,b,c] x, int64[3] s, float[3] b) => (float y) '
        "{ r = Reshape(x, s) y = Mul<broadcast=1,axis=1>(r, b) }"
    )
    same(model, x=x, b=b, s=np.array([2, 3, 4], np.int64), expect=lambda feeds: [x * b[:, None]])


def test_prelu_slope_per_channel(same, rng):
    slope = rng.standard_normal(3).astype(np.float32)
    same(
        f"{X} {{ y = PRelu(x, slope) }}",
        6,
        slope=slope,
        expect=lambda feeds: [np.where(feeds["x"] < 0, feeds["x"] * slope[:, None], feeds["x"]).astype(np.float32)],
    )


def test_group_norm_parameters_per_group(same, rng):
    scale, bias = rng.standard_normal((2, 2)).astype(np.float32)
    done = same(
        "g (float[2,6,4] x) => (float y) { y = GroupNormalization<num_groups=2>(x, scale, bias) }",
        18,
        scale=scale,
        bias=bias,
        tolerance=1e-4,
    )
    assert "GroupNormalization" in done.ops


def test_roi_align_keeps_its_coordinates(same):
    text = "g (float[1,2,8,8] x) => (float y) { y = RoiAlign<output_height=2,output_width=2>(x, rois, batch) }"
    same(text, 10, rois=np.float32([[1.2, 1.7, 6.1, 7.3]]), batch=np.array([0]))


def test_scan_8_over_a_batch(same, rng):
    body = onnx.parser.parse_graph(
        "b (float[2] s, float[2] v) => (float[2] t, float[2] o) { t = Add(s, v) o = Mul(t, t) }"
    )
    node = onnx.helper.make_node("Scan", ["", "s", "v"], ["t", "o"], body=body, num_scan_inputs=1)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [info("s", 1, [3, 2]), info("v", 1, [3, 5, 2])], [info("t", 1, [3, 2]), info("o", 1, [3, 5, 2])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 8)], ir_version=3)

    def expect(feeds):
        steps = feeds["s"][:, None] + np.cumsum(feeds["v"], 1)
        return [steps[:, -1], steps * steps]

    assert same(model, expect=expect).ops == ["Scan"]


def test_function_body_keeps_its_own_opset(same):
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "local": 1]> g (float[2,1,3] x) => (float y) { y = local.squeezed(x) }
        <domain: "local", opset_import: ["": 11]> squeezed (a) => (b) { b = Squeeze<axes=[1]>(a) }""")
    graph = load_graph(model)
    prepare(graph)
    assert [node.op_type for node in graph.graph] == ["Squeeze"] and len(graph.graph[0].inputs) == 2


def test_unknown_opset_is_refused():
    newest = onnx.defs.onnx_opset_version()
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {newest + 1}]> g (float[1] x) => (float[1] y) {{ y = Relu(x) }}'
    )
    with pytest.raises(ModelError, match=rf"opset {newest + 1}.*1 to {newest}"):
        load_graph(model)


def test_meaning_that_was_lost_is_refused():
    model = onnx.parser.parse_model(
        '<ir_version: 3, opset_import: ["": 7]> g (float[1,2,3] x, float[2] p) => (float y) '
        "{ y = BatchNormalization<spatial=0>(x, p, p, p, p) }"
    )
    with pytest.raises(ModelError, match="spatial=0"):
        prepare(load_graph(model))
