"""What is easily overlooked: values used twice, outputs that are inputs or constants, nothing at all, rank 0."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from compiling import LEVELS, check, parse  # noqa: E402

import hasten  # noqa: E402


@pytest.fixture
def r(rng: np.random.Generator) -> np.random.Generator:
    return rng


def f32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def images(rng: np.random.Generator, c: int = 4) -> list[dict[str, np.ndarray]]:
    return [{"x": f32(rng, n, c, h, w)} for n, h, w in ((1, 5, 7), (3, 9, 4), (2, 1, 1), (1, 32, 33))]


# --- values with several users ----------------------------------------------------------------------------------------
def test_swish_twice(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, c, h, w] x) => (y, z) {
        s = Sigmoid(x)  y = Mul(x, s)  t = Sigmoid(y)  z = Mul(t, y) }""")
    check(m, *images(rng), levels=LEVELS)


def test_value_read_at_two_places(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, m] x) => (y) {
        e = Exp(x)  t = Transpose <perm = [1, 0]> (e)  a = ReduceSum <keepdims = 1> (e, one)
        b = ReduceMax <keepdims = 1> (e, zero)  d = Div(e, a)  f = Sub(e, b)  g1 = Mul(d, f)  y = MatMul(g1, t) }""",
              one=np.array([1]), zero=np.array([0]))  # fmt: skip
    check(m, {"x": f32(rng, 3, 5)}, {"x": f32(rng, 17, 2)}, {"x": f32(rng, 1, 40)}, levels=LEVELS)


def test_residual_into_two_convolutions(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, 4, h, w] x) => (p, q, s) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  r = Relu(a)  s = Add(r, x)
        p = Conv <pads = [1, 1, 1, 1]> (s, w1)  q0 = Conv(s, w2)  q = Add(q0, s) }""",
              w1=f32(rng, 4, 4, 3, 3), w2=f32(rng, 4, 4, 1, 1))  # fmt: skip
    check(m, *images(rng), levels=LEVELS)


def test_conv_transpose_reshape_output(rng: np.random.Generator) -> None:
    """The head of a detector: every format change in one."""
    m = parse("""g (float[n, 4, h, w] x) => (y, z) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  t = Transpose <perm = [0, 2, 3, 1]> (a)
        y = Reshape(t, shape)  c = Sigmoid(a)  z = Reshape(c, flat) }""",
              w1=f32(rng, 6, 4, 3, 3), shape=np.array([0, -1, 3]), flat=np.array([0, 6, -1]))  # fmt: skip
    check(m, *images(rng), levels=LEVELS)


def test_two_convolutions_join(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, 4, h, w] x) => (y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  b = Conv(x, w2)  c = Concat <axis = 1> (a, x, b)
        d = Conv(c, w3)  e = Add(d, a)  f = Concat <axis = 2> (e, b)  y = Relu(f) }""",
              w1=f32(rng, 4, 4, 3, 3), w2=f32(rng, 4, 4, 1, 1), w3=f32(rng, 4, 12, 1, 1))  # fmt: skip
    check(m, *images(rng), levels=LEVELS)


def test_squeeze_and_excite(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, 8, h, w] x) => (y) {
        p = GlobalAveragePool(x)  a = Conv(p, w1)  b = Relu(a)  c = Conv(b, w2)  s = HardSigmoid(c)  y = Mul(x, s) }""",
              w1=f32(rng, 2, 8, 1, 1), w2=f32(rng, 8, 2, 1, 1))  # fmt: skip
    check(m, *images(rng, 8), levels=LEVELS)


def test_attention_by_hand(rng: np.random.Generator) -> None:
    m = parse("""g (float[b, s, 12] x) => (y) {
        q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)
        q1 = Reshape(q0, heads)  k1 = Reshape(k0, heads)  v1 = Reshape(v0, heads)
        q = Transpose <perm = [0, 2, 1, 3]> (q1)  k = Transpose <perm = [0, 2, 3, 1]> (k1)
        v = Transpose <perm = [0, 2, 1, 3]> (v1)
        a = MatMul(q, k)  d = Mul(a, scale)  p = Softmax <axis = -1> (d)  o = MatMul(p, v)
        t = Transpose <perm = [0, 2, 1, 3]> (o)  u = Reshape(t, join)  z = MatMul(u, wo)  y = Add(z, x) }""",
              wq=f32(rng, 12, 12), wk=f32(rng, 12, 12), wv=f32(rng, 12, 12), wo=f32(rng, 12, 12), scale=np.float32(0.5),
              heads=np.array([0, 0, 3, 4]), join=np.array([0, 0, 12]))  # fmt: skip
    check(m, {"x": f32(rng, 2, 5, 12)}, {"x": f32(rng, 1, 33, 12)}, {"x": f32(rng, 3, 1, 12)}, levels=LEVELS)


def test_split_into_three(rng: np.random.Generator) -> None:
    """As q, k, v come out of one product."""
    m = parse("""g (float[b, s, 6] x) => (y) {
        p = MatMul(x, w)  q, k, v = Split <axis = 2, num_outputs = 3> (p)  t = Transpose <perm = [0, 2, 1]> (k)
        a = MatMul(q, t)  o = MatMul(a, v)  y = Add(o, q) }""", w=f32(rng, 6, 18))  # fmt: skip
    check(m, {"x": f32(rng, 2, 5, 6)}, {"x": f32(rng, 1, 20, 6)}, levels=LEVELS)


# --- outputs ----------------------------------------------------------------------------------------------------------
def test_the_same_tensor_several_times(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, m] x) => (a, b, c, d) {
        a = Relu(x)  b = Identity(a)  c = Reshape(a, flat)  t = Transpose <perm = [1, 0]> (a)
        d = Transpose <perm = [1, 0]> (t) }""", flat=np.array([-1]))  # fmt: skip
    compiled = check(m, {"x": f32(rng, 3, 4)}, {"x": f32(rng, 1, 1)}, levels=LEVELS)
    out = compiled.run({"x": f32(rng, 3, 4)})
    arrays = list(out.values())
    for k, a in enumerate(arrays):
        assert all(not np.shares_memory(a, b) for b in arrays[k + 1 :])


def test_inputs_as_outputs(rng: np.random.Generator) -> None:
    m = parse("g (float[n, m] x, int64[k] i) => (x2, i2, x3) { x2 = Identity(x) i2 = Identity(i) x3 = Reshape(x, flat) }", flat=np.array([-1]))
    x, i = f32(rng, 3, 4), np.arange(5)
    out = check(m, {"x": x, "i": i}).run({"x": x, "i": i})
    assert not np.shares_memory(out["x2"], x) and not np.shares_memory(out["i2"], i) and not np.shares_memory(out["x3"], x)


def test_an_input_by_its_own_name(rng: np.random.Generator) -> None:
    m = parse("g (float[n] x) => (float[n] x, y) { y = Neg(x) }")
    x = f32(rng, 5)
    out = hasten.compile(m).run({"x": x})
    np.testing.assert_array_equal(out["x"], x)
    np.testing.assert_array_equal(out["y"], -x)
    assert not np.shares_memory(out["x"], x)


def test_constants_as_outputs() -> None:
    m = parse("""g (float[n] x) => (a, b, c, e) {
        a = Constant <value_floats = [1.0, 2.0]> ()  b = Add(a, a)  c = Shape(a)  e = Identity(k) }""", k=np.arange(6).reshape(2, 3))  # fmt: skip
    out = check(m, {"x": np.zeros(3, np.float32)}).run({"x": np.zeros(3, np.float32)})
    out["a"][:] = 7  # the caller's own
    again = check(m, {"x": np.zeros(3, np.float32)}).run({"x": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(again["a"], [1, 2])


def test_no_inputs() -> None:
    m = parse("g () => (y) { y = Add(a, a) }", a=np.arange(5, dtype=np.float32))
    np.testing.assert_array_equal(hasten.compile(m)(), np.arange(5) * 2)


def test_sizes_as_outputs(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, m] x) => (s, t, u) {
        s = Shape(x)  t = Size(x)  f = Cast <to = 1> (s)  u = ReduceProd <keepdims = 0> (f) }""")
    check(m, {"x": f32(rng, 3, 4)}, {"x": f32(rng, 0, 4)}, {"x": f32(rng, 1, 1)}, levels=LEVELS)


def test_unused_inputs(rng: np.random.Generator) -> None:
    m = parse("g (float[n] x, float[n, k] u) => (y) { y = Neg(x) }")
    check(m, {"x": f32(rng, 4), "u": f32(rng, 4, 2)})


# --- nothing, and one -------------------------------------------------------------------------------------------------
EMPTY = {
    "map": "y = Relu(x)",
    "sum": "y = ReduceSum <keepdims = 0> (x, last)",
    "sum_outer": "y = ReduceSum <keepdims = 0> (x, first)",
    "sum_all": "y = ReduceSum <keepdims = 0> (x)",
    "prod": "y = ReduceProd <keepdims = 1> (x, last)",
    "softmax": "y = Softmax <axis = -1> (x)",
    "matmul": "y = MatMul(x, w)",
    "matmul_inner": "t = Transpose <perm = [1, 0]> (x)  y = MatMul(t, x)",
    "concat": "y = Concat <axis = 0> (x, x)",
    "concat_other": "y = Concat <axis = 0> (x, k)",
    "transpose": "y = Transpose <perm = [1, 0]> (x)",
    "pad": "y = Pad(x, pads)",
    "gather": "y = Gather(x, none)",
    "slice": "y = Slice(x, zero, zero)",
    "reshape": "y = Reshape(x, flat)",
    "expand": "y = Expand(x, into)",
    "layer_norm": "y = LayerNormalization(x, ones)",
    "cast": "y = Cast <to = 7> (x)",
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("level", LEVELS)
def test_zero_sizes(name: str, level: str, rng: np.random.Generator) -> None:
    m = parse(f"g (float[n, 4] x) => (y) {{ {EMPTY[name]} }}", w=f32(rng, 4, 3), k=f32(rng, 2, 4), last=np.array([1]), first=np.array([0]),
              pads=np.array([1, 0, 0, 2]), none=np.zeros(0, np.int64), zero=np.array([0]), flat=np.array([-1]),
              into=np.array([3, 1, 4]), ones=np.ones(4, np.float32))  # fmt: skip
    feeds = [{"x": f32(rng, n, 4)} for n in (0, 1, 3)]
    if name == "reshape":
        feeds = feeds[1:]  # -1 says nothing about nothing
    check(m, *feeds, levels=[level])


def test_zero_sized_images(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, 4, h, w] x) => (y, z) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  y = Relu(a)  z = MaxPool <kernel_shape = [2, 2]> (x) }""",
              w1=f32(rng, 4, 4, 3, 3))  # fmt: skip
    compiled = hasten.compile(m, host_ops=False)
    out = compiled.run({"x": f32(rng, 0, 4, 5, 5)})
    assert out["y"].shape == (0, 4, 5, 5) and out["z"].shape == (0, 4, 4, 4)


def test_empty_reductions_have_identities() -> None:
    m = parse("""g (float[n, m] x) => (a, b, c, d) {
        a = ReduceMax <keepdims = 0> (x, last)  b = ReduceMin <keepdims = 0> (x, last)
        c = ReduceSum <keepdims = 0> (x, last)  d = ReduceProd <keepdims = 0> (x, last) }""", last=np.array([1]))  # fmt: skip
    out = hasten.compile(m).run({"x": np.zeros((3, 0), np.float32)})
    assert [float(v[0]) for v in out.values()] == [-np.inf, np.inf, 0, 1]


def test_rank_zero(rng: np.random.Generator) -> None:
    m = parse("""g (float x, float[n] v) => (a, b, c, d) {
        a = Add(x, x)  b = Mul(v, x)  c = ReduceSum <keepdims = 0> (b)  d = Reshape(x, one) }""", one=np.array([1, 1]))  # fmt: skip
    check(m, {"x": f32(rng).reshape(()), "v": f32(rng, 9)}, {"x": f32(rng).reshape(()), "v": f32(rng, 1)}, levels=LEVELS)


def test_sizes_of_one_broadcast_at_run_time(rng: np.random.Generator) -> None:
    m = parse("g (float[a, b] x, float[c, d] y) => (z) { s = Add(x, y)  z = Mul(s, x) }")
    shapes = [((3, 5), (3, 5)), ((3, 1), (3, 5)), ((3, 5), (1, 5)), ((1, 1), (4, 9)), ((4, 1), (1, 17)), ((1, 1), (1, 1))]
    compiled = check(m, *({"x": f32(rng, *p), "y": f32(rng, *q)} for p, q in shapes), levels=LEVELS)
    with pytest.raises(hasten.ShapeMismatch):
        compiled.run({"x": f32(rng, 3, 5), "y": f32(rng, 2, 5)})


def test_many_axes(rng: np.random.Generator) -> None:
    m = parse("""g (float[a, 2, b, 3, c, 2] x) => (y, z) {
        t = Transpose <perm = [5, 2, 0, 4, 3, 1]> (x)  y = Relu(t)  z = ReduceSum <keepdims = 0> (x, axes) }""", axes=np.array([0, 3, 4]))  # fmt: skip
    check(m, {"x": f32(rng, 2, 2, 3, 3, 4, 2)}, {"x": f32(rng, 1, 2, 5, 3, 1, 2)}, levels=LEVELS)


def test_sizes_from_contents(rng: np.random.Generator) -> None:
    """Sizes that only the run knows: a Slice whose bounds are inputs, then work on its result."""
    m = parse("""g (float[n, 4] x, int64[1] first, int64[1] last) => (y, z, s) {
        p = Slice(x, first, last)  q = Relu(p)  y = MatMul(q, w)  z = ReduceSum <keepdims = 0> (p, zero)  s = Shape(p) }""",
              w=f32(rng, 4, 3), zero=np.array([0]))  # fmt: skip
    x = f32(rng, 9, 4)
    check(m, *({"x": x, "first": np.array([a]), "last": np.array([b])} for a, b in ((0, 5), (2, -1), (-3, 100), (4, 4), (6, 2))), levels=LEVELS)


def test_negative_step_and_dynamic_axes(rng: np.random.Generator) -> None:
    m = parse("g (float[n, m] x) => (y) { t = Slice(x, start, end, axes, steps)  y = Neg(t) }",
              start=np.array([-1, 1]), end=np.array([-(1 << 62), 1 << 62]), axes=np.array([0, 1]), steps=np.array([-1, 2]))  # fmt: skip
    check(m, {"x": f32(rng, 5, 8)}, {"x": f32(rng, 1, 1)}, {"x": f32(rng, 2, 3)}, levels=LEVELS)


def test_indices_out_of_range(rng: np.random.Generator) -> None:
    m = parse("g (float[n, 4] x, int64[k] i) => (y) { y = Gather(x, i) }")
    compiled = hasten.compile(m, host_ops=False)
    np.testing.assert_array_equal(compiled(np.eye(4, dtype=np.float32), np.array([-1, 0])), np.eye(4)[[-1, 0]])
    for bad in (4, -5, 1 << 40):
        with pytest.raises(hasten.ExecutionError, match="index"):
            compiled(np.eye(4, dtype=np.float32), np.array([0, bad]))


def test_types_meet(rng: np.random.Generator) -> None:
    """Casts between all common types inside one kernel."""
    m = parse("""g (float[n] x) => (a, b, c, d, e, f) {
        a = Cast <to = 7> (x)  b = Cast <to = 10> (x)  c = Cast <to = 11> (x)  d = Cast <to = 9> (x)
        i = Cast <to = 6> (x)  e = Cast <to = 1> (i)  g1 = Cast <to = 3> (i)  f = Cast <to = 7> (g1) }""")
    check(m, {"x": (f32(rng, 37) * 5)}, {"x": np.array([-1.5, 0, 2.5], np.float32)}, levels=LEVELS)
