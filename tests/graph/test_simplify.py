"""Passes that fold weights, recognize operators, and remove what computes nothing: before and after give the same
numbers.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from hasten.frontends import load_graph
from hasten.graph import prepare

IMAGE = "g (float[1,4,6,6] x) => (float y)"
BN = "n = BatchNormalization(c, gamma, beta, mean, variance)"


def bn_parameters(rng, channels):
    return {
        "gamma": rng.standard_normal(channels).astype(np.float32),
        "beta": rng.standard_normal(channels).astype(np.float32),
        "mean": rng.standard_normal(channels).astype(np.float32),
        "variance": rng.random(channels).astype(np.float32) + 0.1,
    }


def weight(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_into_conv(groups, bias, same, rng):
    arrays = {
        "w": weight(rng, 6, 4 // groups, 3, 3),
        **bn_parameters(rng, 6),
        **({"b": weight(rng, 6)} if bias else {}),
    }
    inputs = "x, w, b" if bias else "x, w"
    text = f"{IMAGE} {{ c = Conv<group={groups},pads=[1,1,1,1]>({inputs}) {BN} y = Relu(n) }}"
    assert same(text, tolerance=1e-4, **arrays).ops == ["Conv", "Relu"]


def test_batch_norm_into_grouped_conv_transpose(same, rng):
    text = f"{IMAGE} {{ c = ConvTranspose<group=2,strides=[2,2]>(x, w) {BN} y = Relu(n) }}"
    assert same(text, tolerance=1e-4, w=weight(rng, 4, 3, 2, 2), **bn_parameters(rng, 6)).ops == [
        "ConvTranspose",
        "Relu",
    ]


@pytest.mark.parametrize("transposed", [0, 1])
def test_batch_norm_into_gemm(transposed, same, rng):
    text = f"g (float[2,4] x) => (float y) {{ c = Gemm<transB={transposed}>(x, w, b) {BN} y = Relu(n) }}"
    w = weight(rng, 5, 4) if transposed else weight(rng, 4, 5)
    assert same(text, tolerance=1e-4, w=w, b=weight(rng, 5), **bn_parameters(rng, 5)).ops == ["Gemm", "Relu"]


def test_batch_norm_stays_when_the_conv_is_used_twice(same, rng):
    text = f"{IMAGE} {{ c = Conv(x, w) {BN} y = Add(n, c) }}"
    assert "BatchNormalization" in same(text, tolerance=1e-4, w=weight(rng, 6, 4, 3, 3), **bn_parameters(rng, 6)).ops


def test_batch_norm_that_would_overflow_stays(rng):
    parameters = bn_parameters(rng, 6) | {"gamma": np.full(6, 3e38, np.float32)}
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> {IMAGE} {{ c = Conv(x, w) {BN} y = Relu(n) }}'
    )
    for name, array in {"w": 10 * weight(rng, 6, 4, 3, 3), **parameters}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = load_graph(model)
    prepare(graph)
    assert [node.op_type for node in graph.graph] == ["Conv", "BatchNormalization", "Relu"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1,), ()])
def test_channel_arithmetic_into_conv(op, shape, same, rng):
    k = np.asarray(rng.random(shape) + 0.5, np.float32)
    text = f"{IMAGE} {{ c = Conv<pads=[1,1,1,1]>(x, w) d = {op}(c, k) y = Relu(d) }}"
    assert same(text, tolerance=1e-4, w=weight(rng, 6, 4, 3, 3), k=k).ops == ["Conv", "Relu"]


def test_arithmetic_along_another_axis_stays(same, rng):
    text = f"{IMAGE} {{ c = Conv<pads=[1,1,1,1]>(x, w) y = Mul(c, k) }}"
    assert same(text, w=weight(rng, 6, 4, 3, 3), k=weight(rng, 6)).ops == ["Conv", "Mul"]


def test_constant_minus_conv_stays(same, rng):
    text = f"{IMAGE} {{ c = Conv(x, w) y = Sub(k, c) }}"
    assert same(text, w=weight(rng, 6, 4, 3, 3), k=np.float32([1.0])).ops == ["Conv", "Sub"]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_scale_before_padded_conv(groups, same, rng):
    text = f"{IMAGE} {{ s = Mul(x, k) y = Conv<group={groups},pads=[1,1,1,1]>(s, w) }}"
    assert same(text, tolerance=1e-4, w=weight(rng, 8, 4 // groups, 3, 3), k=weight(rng, 4, 1, 1)).ops == ["Conv"]


def test_shift_before_padded_conv_stays(same, rng):
    text = f"{IMAGE} {{ s = Add(x, k) y = Conv<pads=[1,1,1,1]>(s, w) }}"
    assert same(text, tolerance=1e-4, w=weight(rng, 8, 4, 3, 3), k=weight(rng, 4, 1, 1)).ops == ["Add", "Conv"]


@pytest.mark.parametrize("channel, ops", [(0, ["Conv"]), (1, ["Pad", "Conv"])])
def test_pad_into_conv(channel, ops, same, rng):
    pads = np.array([0, channel, 1, 2, 0, 0, 3, 0], np.int64)
    text = f"{IMAGE} {{ p = Pad(x, pads) y = Conv<pads=[1,0,0,1]>(p, w) }}"
    assert same(text, tolerance=1e-4, pads=pads, w=weight(rng, 5, 4 + channel, 3, 3)).ops == ops


@pytest.mark.parametrize(
    "attributes, ops", [("count_include_pad=1", ["AveragePool"]), ("ceil_mode=1", ["Pad", "AveragePool"])]
)
def test_pad_into_average_pool(attributes, ops, same):
    text = f"{IMAGE} {{ p = Pad(x, pads) y = AveragePool<kernel_shape=[3,3],{attributes}>(p) }}"
    assert same(text, pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)).ops == ops


def test_pad_of_ones_stays(same, rng):
    text = f"{IMAGE} {{ p = Pad(x, pads, one) y = Conv(p, w) }}"
    assert same(
        text,
        tolerance=1e-4,
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        one=np.float32(1),
        w=weight(rng, 5, 4, 3, 3),
    ).ops == ["Pad", "Conv"]


X = "g (float[2,3,8] x) => (float y)"
NORM = (
    "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) s = Mul(d, d) v = ReduceMean<axes=[-1]>(s) e = Add(v, eps) r = Sqrt(e) "
    "n = Div(d, r) "
)
PATTERNS = {
    "gelu": ("a = Div(x, r2) t = Erf(a) u = Add(t, one) m = Mul(x, u) y = Mul(m, half)", ["Gelu"]),
    "gelu, halved first": ("h = Mul(half, x) a = Mul(x, ir2) t = Erf(a) u = Add(one, t) y = Mul(h, u)", ["Gelu"]),
    "gelu, spread out": ("h = Mul(x, half) a = Div(x, r2) t = Erf(a) m = Mul(h, t) y = Add(h, m)", ["Gelu"]),
    "gelu, used inside": (
        "a = Div(x, r2) t = Erf(a) u = Add(t, one) m = Mul(x, u) w = Mul(m, half) y = Add(w, t)",
        None,
    ),
    "gelu tanh": (
        "p = Pow(x, three) q = Mul(p, k) i = Add(x, q) a = Mul(i, c) t = Tanh(a) u = Add(t, one) m = Mul(x, u) "
        "y = Mul(m, half)",
        ["Gelu"],
    ),
    "gelu tanh, factored": (
        "s = Mul(x, x) q = Mul(s, k) o = Add(q, one) z = Mul(x, o) a = Mul(z, c) t = Tanh(a) "
        "u = Add(t, one) h = Mul(x, half) y = Mul(h, u)",
        ["Gelu"],
    ),
    "hard swish": ("p = Add(x, three) c6 = Clip(p, zero, six) m = Mul(x, c6) y = Div(m, six)", ["HardSwish"]),
    "hard swish, divided first": (
        "p = Add(x, three) c6 = Clip(p, zero, six) h = Div(c6, six) y = Mul(h, x)",
        ["HardSwish"],
    ),
    "hard swish, hard sigmoid": ("h = HardSigmoid<alpha=0.16666667,beta=0.5>(x) y = Mul(h, x)", ["HardSwish"]),
    "not hard swish": (
        "p = Add(x, three) c6 = Clip(p, zero, six) m = Mul(x, c6) y = Div(m, three)",
        ["Add", "Clip", "Mul", "Div"],
    ),
    "layer norm": (f"{NORM} g = Mul(n, scale) y = Add(g, bias)", ["LayerNormalization"]),
    "layer norm without bias": (f"{NORM} y = Mul(n, scale)", ["LayerNormalization"]),
    "layer norm with Pow": (
        NORM.replace("Mul(d, d)", "Pow(d, two)") + "g = Mul(n, scale) y = Add(g, bias)",
        ["LayerNormalization"],
    ),
    "layer norm with Reciprocal": (
        NORM.replace("n = Div(d, r)", "i = Reciprocal(r) n = Mul(d, i)") + "g = Mul(scale, n) y = Add(g, bias)",
        ["LayerNormalization"],
    ),
    "norm over another axis": (NORM.replace("[-1]", "[1]") + "y = Mul(n, scale)", None),
    "rms norm": (
        "s = Mul(x, x) v = ReduceMean<axes=[2]>(s) e = Add(v, eps) r = Sqrt(e) n = Div(x, r) y = Mul(n, scale)",
        ["RMSNormalization"],
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name, same, rng):
    body, ops = PATTERNS[name]
    numbers = {
        "one": 1,
        "half": 0.5,
        "two": 2,
        "three": 3,
        "six": 6,
        "zero": 0,
        "r2": 2**0.5,
        "ir2": 0.5**0.5,
        "k": 0.044715,
        "c": (2 / np.pi) ** 0.5,
        "eps": 1e-5,
    }
    arrays = {name: np.float32(value) for name, value in numbers.items()}
    arrays |= {"scale": weight(rng, 8), "bias": weight(rng, 8)}
    used = {
        name: array
        for name, array in arrays.items()
        if f"({name}," in body or f", {name})" in body or f" {name}," in body
    }
    done = same(f"{X} {{ {body} }}", tolerance=1e-4, **used)
    if ops is None:
        assert not {"Gelu", "LayerNormalization", "RMSNormalization"} & set(done.ops)
    else:
        assert done.ops == ops


@pytest.mark.parametrize("mask", [True, False])
def test_attention(mask, same, rng):
    scores = "b = Add(s, mask)" if mask else "b = Identity(s)"
    text = (
        "g (float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v) => (float y) { kt = Transpose<perm=[0,1,3,2]>(k) "
        f"p = MatMul(q, kt) s = Div(p, two) {scores} a = Softmax<axis=-1>(b) y = MatMul(a, v) }}"
    )
    arrays = {"mask": weight(rng, 1, 1, 5, 7)} if mask else {}
    assert same(text, tolerance=1e-4, two=np.float32(2), **arrays).ops == ["Attention"]


ATTENTIONS = {
    "scaled on both sides": ("qs = Mul(q, two) ks = Mul(kt, two) p = MatMul(qs, ks) a = Softmax<axis=-1>(p) y = MatMul(a, v)", []),
    "rows without keys": (
        "p = MatMul(q, kt) s = Add(p, mask) a = Softmax<axis=-1>(s) n = IsNaN(a) w = Where(n, zero, a) y = MatMul(w, v)", [],
    ),
    "a bias and a mask": ("p = MatMul(q, kt) s = Add(p, bias) t = Add(mask, s) a = Softmax<axis=-1>(t) y = MatMul(a, v)", []),
    "nobody else may use the weights": ("p = MatMul(q, kt) a = Softmax<axis=-1>(p) b = MatMul(a, v) y = Concat<axis=3>(b, a)", None),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTENTIONS)
def test_forms_of_attention(name, same, rng):
    body, others = ATTENTIONS[name]
    arrays = {"mask": weight(rng, 2, 1, 5, 7), "bias": weight(rng, 1, 3, 5, 7), "two": np.float32(2), "zero": np.float32(0)}
    used = {n: x for n, x in arrays.items() if f"({n}," in body or f", {n})" in body or f" {n}," in body}
    head = "g (float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v) => (float y) { kt = Transpose<perm=[0,1,3,2]>(k) "
    ops = same(f"{head} {body} }}", tolerance=1e-4, **used).ops
    assert ("Attention" in ops) == (others is not None)
    assert others is None or not {"MatMul", "Softmax"} & set(ops)


def test_attention_of_rank_3(same):
    text = (
        "g (float[6,5,4] q, float[6,7,4] k, float[6,7,6] v) => (float y) { kt = Transpose<perm=[0,2,1]>(k) "
        "p = MatMul(q, kt) a = Softmax<axis=-1>(p) y = MatMul(a, v) }"
    )
    assert "Attention" in same(text, tolerance=1e-4).ops


REMOVED = {
    "identities": ("a = Identity(x) b = Dropout(a) y = Relu(b)", ["Relu"]),
    "a cast to the same type": ("a = Cast<to=1>(x) y = Relu(a)", ["Relu"]),
    "transposes that cancel": ("a = Transpose<perm=[2,0,1]>(x) b = Transpose<perm=[1,2,0]>(a) y = Relu(b)", ["Relu"]),
    "two transposes": ("a = Transpose<perm=[2,0,1]>(x) y = Transpose<perm=[0,2,1]>(a)", ["Transpose"]),
    "reshape of reshape": ("a = Reshape(x, s1) y = Reshape(a, s2)", ["Reshape"]),
    "adding zero": ("a = Add(x, zero) b = Mul(a, one) y = Relu(b)", ["Relu"]),
    "a full slice": ("a = Slice(x, i0, big) y = Relu(a)", ["Relu"]),
    "concat of one": ("a = Concat<axis=0>(x) y = Relu(a)", ["Relu"]),
    "the same work twice": ("a = Exp(x) b = Exp(x) y = Add(a, b)", ["Exp", "Add"]),
    "work for nobody": ("a = Exp(x) b = Exp(a) y = Relu(x)", ["Relu"]),
    "arithmetic of constants": ("a = Add(one, one) b = Exp(a) y = Mul(x, b)", ["Mul"]),
}


@pytest.mark.parametrize("name", REMOVED)
def test_removed(name, same):
    body, ops = REMOVED[name]
    arrays = {
        "zero": np.float32(0),
        "one": np.float32(1),
        "s1": np.array([6, 8]),
        "s2": np.array([4, -1]),
        "i0": np.array([0]),
        "big": np.array([2**63 - 1]),
    }
    used = {name: array for name, array in arrays.items() if f"({name}," in body or f", {name}" in body}
    assert same(f"{X} {{ {body} }}", **used).ops == ops


def test_adding_zero_that_broadens_stays(same):
    assert same("g (float[3] x) => (float y) { y = Add(x, z) }", z=np.zeros((1, 1), np.float32)).ops == ["Add"]


def test_output_names_survive(same):
    text = (
        "g (float[2] x) => (float[2] y, float[2] z, float[2] k, float[2] w) { r = Relu(x) y = Identity(r) "
        "z = Identity(r) k = Identity(c) w = Identity(x) }"
    )
    done = same(text, c=np.ones(2, np.float32))
    assert sorted(done.ops) == ["Identity", "Identity", "Identity", "Relu"]


def test_constant_if_is_inlined(same):
    text = """g (float[2] x) => (float[2] y) {
        y = If(cond) <then_branch = t () => (float[2] a) { k = Constant<value_float=2.0>() a = Mul(x, k) },
                      else_branch = e () => (float[2] b) { b = Neg(x) }> }"""
    assert same(text, cond=np.array(True)).ops == ["Mul"]
    assert same(text, cond=np.array(False)).ops == ["Neg"]


def test_body_constants_move_out_and_names_become_unique(same):
    text = """g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] a) { k = Constant<value_floats=[2.0,3.0]>() a = Mul(x, k) },
                   else_branch = e () => (float[2] a) { k = Constant<value_floats=[4.0,5.0]>() a = Mul(x, k) }> }"""
    done = same(text, c=np.array(True))
    graphs = list(done.model.graphs())
    names = [v.name for graph in graphs for node in graph for v in node.outputs]
    assert len(names) == len(set(names)) and all(not graph.initializers for graph in graphs[1:])


def test_folding_stays_within_its_limit():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1] x) => (float y) '
        "<int64[2] s = {1048576, 1048576}> { c = ConstantOfShape(s) y = Add(c, x) }"
    )
    graph = load_graph(model)
    prepare(graph)
    assert [node.op_type for node in graph.graph] == ["ConstantOfShape", "Add"]


def test_random_numbers_are_not_shared():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g () => (float[2] y) '
        "{ a = RandomNormal<shape=[2]>() b = RandomNormal<shape=[2]>() y = Sub(a, b) }"
    )
    graph = load_graph(model)
    prepare(graph)
    assert [node.op_type for node in graph.graph] == ["RandomNormal", "RandomNormal", "Sub"]
