"""If, Loop and Scan against ONNX Runtime: static and dynamic, growing, nested, with sizes that only the run knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from compiling import check, kernels, lowered, parse, walk  # noqa: E402

import hasten  # noqa: E402
from hasten.vm import program as P  # noqa: E402


def f32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def yes(value: bool) -> np.ndarray:
    return np.array(value)


# --- If ---------------------------------------------------------------------------------------------------------------
IF = """g (float[n, m] x, bool c) => (y) {{ r = {condition}
    b = If <then_branch = t () => (float[n, m] u) {{ u = {then} }}, else_branch = e () => (float[n, m] v) {{ v = {other} }}> (r)
    y = Add(b, x) }}"""


def test_dynamic_if(rng: np.random.Generator) -> None:
    m = parse(IF.format(condition="Identity(c)", then="Neg(x)", other="Relu(x)"))
    x = f32(rng, 3, 5)
    check(m, {"x": x, "c": yes(True)}, {"x": x, "c": yes(False)}, {"x": f32(rng, 0, 2), "c": yes(True)})


def test_static_if_leaves_nothing() -> None:
    m = parse(IF.format(condition="Identity(k)", then="Neg(x)", other="Relu(x)"), k=yes(False))
    program, _, _ = lowered(m)
    assert not any(isinstance(i, P.If) for i in walk(program.instructions))
    assert len(kernels(program)) == 1


def test_condition_from_sizes(rng: np.random.Generator) -> None:
    """`if x.size(0) > 2`: known neither now nor from contents."""
    m = parse("""g (float[n, m] x) => (y) {
        s = Shape <start = 0, end = 1> (x)  q = Greater(s, two)  r = Reshape(q, scalar)
        y = If <then_branch = t () => (u) { u = Slice(x, zero, two) }, else_branch = e () => (v) { v = Identity(x) }> (r) }""",
              two=np.array([2]), zero=np.array([0]), scalar=np.zeros(0, np.int64))  # fmt: skip
    check(m, {"x": f32(rng, 1, 3)}, {"x": f32(rng, 2, 3)}, {"x": f32(rng, 7, 3)})


def test_branches_of_different_shapes(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, m] x, bool c) => (y, z) {
        b, d = If <then_branch = t () => (u1, u2) { u1 = Concat <axis = 0> (x, x)  u2 = ReduceSum <keepdims = 1> (x) },
                   else_branch = e () => (v1, v2) { v1 = Slice(x, zero, one)  v2 = Neg(x) }> (c)
        y = Relu(b)  w = Mul(d, two)  z = Add(w, d) }""",
              zero=np.array([0]), one=np.array([1]), two=np.float32(2))  # fmt: skip
    for x in (f32(rng, 3, 5), f32(rng, 1, 1)):
        check(m, {"x": x, "c": yes(True)}, {"x": x, "c": yes(False)})


def test_branch_gives_what_lies_outside(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, m] x, bool c) => (y, z) {
        p = Exp(x)  q = Sigmoid(p)
        b = If <then_branch = t () => (u) { u = Identity(p) }, else_branch = e () => (v) { v = Identity(q) }> (c)
        y = Add(b, p)  z = Identity(q) }""")
    x = f32(rng, 2, 3)
    check(m, {"x": x, "c": yes(True)}, {"x": x, "c": yes(False)})


def test_branch_of_constants() -> None:
    m = parse("""g (bool c, float[n] x) => (y) {
        b = If <then_branch = t () => (float[2] u) { u = Constant <value_floats = [1.0, 2.0]> () },
                else_branch = e () => (float[3] v) { v = Constant <value_floats = [3.0, 4.0, 5.0]> () }> (c)
        y = ReduceSum <keepdims = 0> (b) }""")
    check(m, {"c": yes(True), "x": np.zeros(1, np.float32)}, {"c": yes(False), "x": np.zeros(1, np.float32)})


def test_nested_ifs(rng: np.random.Generator) -> None:
    m = parse("""g (float[n] x, bool c, bool d) => (y) {
        y = If <then_branch = t () => (u) {
                    k = Neg(x)
                    u = If <then_branch = tt () => (w) { w = Mul(k, x) }, else_branch = te () => (w2) { w2 = Add(k, k) }> (d) },
                else_branch = e () => (v) { v = If <then_branch = et () => (z) { z = Identity(x) },
                                                    else_branch = ee () => (z2) { z2 = Abs(x) }> (d) }> (c) }""")
    x = f32(rng, 6)
    check(m, *({"x": x, "c": yes(a), "d": yes(b)} for a in (True, False) for b in (True, False)))


def test_branch_with_convolution(rng: np.random.Generator) -> None:
    """Channels-last memory made inside one branch, outside of the other."""
    m = parse("""g (float[n, 4, h, w] x, bool c) => (y) {
        p = Conv <pads = [1, 1, 1, 1]> (x, w1)
        b = If <then_branch = t () => (u) { q = Conv(p, w2)  u = Relu(q) }, else_branch = e () => (v) { v = Neg(p) }> (c)
        y = Conv(b, w2) }""", w1=f32(rng, 4, 4, 3, 3), w2=f32(rng, 4, 4, 1, 1))  # fmt: skip
    x = f32(rng, 2, 4, 5, 6)
    check(m, {"x": x, "c": yes(True)}, {"x": x, "c": yes(False)})


def test_check_inside_a_branch(rng: np.random.Generator) -> None:
    """Sizes that only one side needs to fit are checked only there."""
    m = parse("""g (float[n, 4] x, float[k, 4] z, bool c) => (y) {
        y = If <then_branch = t () => (u) { a = Add(x, z)  u = ReduceSum(a) }, else_branch = e () => (v) { v = ReduceSum(x) }> (c) }""")
    good = {"x": f32(rng, 3, 4), "z": f32(rng, 3, 4)}
    bad = {"x": f32(rng, 3, 4), "z": f32(rng, 2, 4)}
    compiled = check(m, {**good, "c": yes(True)}, {**good, "c": yes(False)}, {**bad, "c": yes(False)})
    with pytest.raises(hasten.ShapeMismatch):
        compiled.run({**bad, "c": yes(True)})


# --- Loop -------------------------------------------------------------------------------------------------------------
def loop(body: str, carried: str = "a", scans: str = "", first: str = "x", trips: str = "t", start: str = "") -> str:
    """One Loop over x. The body sees i, c and the carried values with an `_in`."""
    ins = ", ".join(f"{c}_in" for c in carried.split(", ")) if carried else ""
    outs = ", ".join(x for x in ("c_out", carried, scans) if x)
    results = ", ".join(f"{n}_r" for n in (carried + (", " + scans if scans else "")).split(", ") if n)
    return f"""{results} = Loop <body = b (int64 i, bool c{', ' + ins if ins else ''}) => ({outs}) {{ {body} }}> ({trips}, {start}{', ' + first if first else ''})"""


def test_fixed_loop(rng: np.random.Generator) -> None:
    m = parse("g (float[n, m] x) => (a_r, s_r) { " + loop("c_out = Identity(c)  f = Cast <to = 1> (i)  b = Mul(a_in, k)  a = Add(b, f)  s = ReduceSum <keepdims = 0> (a, axis)",
                                                         scans="s") + " }", t=np.array(5), k=np.float32(0.5), axis=np.array([0]))  # fmt: skip
    check(m, {"x": f32(rng, 3, 4)}, {"x": f32(rng, 1, 1)}, {"x": f32(rng, 0, 2)})


def test_trip_count_is_an_input(rng: np.random.Generator) -> None:
    m = parse("g (float[n] x, int64 t) => (a_r, s_r) { " + loop("c_out = Identity(c)  a = Add(a_in, x)  s = Neg(a)", scans="s") + " }")
    x = f32(rng, 3)
    compiled = check(m, *({"x": x, "t": np.array(t)} for t in (4, 1, 40)))
    for t in (0, -3):
        out = compiled.run({"x": x, "t": np.array(t)})
        assert out["s_r"].shape == (0, 3)
        np.testing.assert_array_equal(out["a_r"], x)


def test_conditional_loop(rng: np.random.Generator) -> None:
    """Doubles until the sum is large: scan outputs of unknown number, more than memory is first made for."""
    m = parse("g (float[n] x) => (a_r, s_r) { " + loop(
        "a = Mul(a_in, k)  z = ReduceSum <keepdims = 0> (a)  c_out = Less(z, limit)  s = Identity(a)", scans="s", trips="", start="go") + " }",
        k=np.float32(1.25), limit=np.float32(1000), go=yes(True))  # fmt: skip
    check(m, {"x": np.array([1, 2], np.float32)}, {"x": np.array([500], np.float32)}, {"x": np.array([0.001], np.float32)})


def test_condition_false_at_once(rng: np.random.Generator) -> None:
    m = parse("g (float[n] x, bool go) => (a_r, s_r) { " + loop("c_out = Identity(c)  a = Neg(a_in)  s = Identity(a)", scans="s", start="go") + " }", t=np.array(3))
    x = f32(rng, 4)
    out = check(m, {"x": x, "go": yes(True)}).run({"x": x, "go": yes(False)})
    assert out["s_r"].shape == (0, 4)
    np.testing.assert_array_equal(out["a_r"], x)


def test_condition_and_limit(rng: np.random.Generator) -> None:
    m = parse("g (float[n] x, int64 t) => (a_r, s_r) { " + loop(
        "a = Add(a_in, one)  z = ReduceMax <keepdims = 0> (a)  c_out = Less(z, limit)  s = Identity(z)", scans="s", start="go") + " }",
        one=np.float32(1), limit=np.float32(6), go=yes(True))  # fmt: skip
    check(m, *({"x": np.arange(3, dtype=np.float32), "t": np.array(t)} for t in (0, 2, 100)))


def test_growing_value(rng: np.random.Generator) -> None:
    """As decoders append to what they have."""
    m = parse("g (float[n, m] x, int64 t) => (a_r) { " + loop("c_out = Identity(c)  a = Concat <axis = 0> (a_in, x)") + " }")
    check(m, *({"x": f32(rng, 2, 3), "t": np.array(t)} for t in (0, 1, 5)))


def test_growing_and_shrinking(rng: np.random.Generator) -> None:
    m = parse("g (float[n] x, float[k] z, int64 t) => (a_r, b_r) { " + loop(
        "c_out = Identity(c)  a = Concat <axis = 0> (a_in, one)  b = Slice(b_in, first, last)", carried="a, b", first="x, z") + " }",
        one=np.ones(1, np.float32), first=np.array([1]), last=np.array([1 << 40]))  # fmt: skip
    check(m, *({"x": f32(rng, 2), "z": f32(rng, 4), "t": np.array(t)} for t in (0, 1, 3, 6)))


def test_values_change_places(rng: np.random.Generator) -> None:
    """Each carried value becomes another one: nothing may be overwritten too early."""
    m = parse("g (float[n] x, float[n] y, int64 t) => (a_r, b_r, d_r) { z = Add(x, y) " + loop(
        "c_out = Identity(c)  a = Identity(b_in)  b = Identity(d_in)  d = Identity(a_in)", carried="a, b, d", first="x, y, z") + " }")  # fmt: skip
    check(m, *({"x": f32(rng, 3), "y": f32(rng, 3), "t": np.array(t)} for t in (0, 1, 2, 3, 7)))


def test_fibonacci() -> None:
    m = parse("g (int64 t) => (a_r, b_r, s_r) { " + loop("c_out = Identity(c)  a = Identity(b_in)  b = Add(a_in, b_in)  s = Identity(a_in)",
                                                        carried="a, b", scans="s", first="zero, one") + " }", zero=np.array(0), one=np.array(1))  # fmt: skip
    out = check(m, {"t": np.array(10)}, {"t": np.array(0)}).run({"t": np.array(10)})
    assert out["s_r"].tolist() == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]


def test_index_inside_a_loop(rng: np.random.Generator) -> None:
    """Row i of an outer tensor, the usual recurrent loop."""
    m = parse("g (float[n, m] x) => (a_r, s_r) { h = Shape <start = 0, end = 1> (x)  t = Squeeze(h)  z = Slice(x, zero, one)  z0 = Squeeze(z, zero) "
              + loop("c_out = Identity(c)  row = Gather <axis = 0> (x, i)  p = Mul(a_in, k)  q = Add(p, row)  a = Tanh(q)  s = Neg(a)", scans="s", first="z0")
              + " }", zero=np.array([0]), one=np.array([1]), k=np.float32(0.5))  # fmt: skip
    check(m, {"x": f32(rng, 5, 3)}, {"x": f32(rng, 1, 7)}, {"x": f32(rng, 40, 2)})


def test_matmul_inside_a_loop(rng: np.random.Generator) -> None:
    m = parse("g (float[n, 4] x, int64 t) => (a_r) { " + loop("c_out = Identity(c)  p = MatMul(a_in, w)  q = Softmax <axis = -1> (p)  a = Add(q, x)") + " }", w=f32(rng, 4, 4))
    check(m, *({"x": f32(rng, n, 4), "t": np.array(t)} for n, t in ((3, 4), (1, 1), (2, 0))))


def test_loop_in_a_loop(rng: np.random.Generator) -> None:
    inner = loop("d_out = Identity(d)  p = Add(p_in, a_in)", carried="p", first="a_in", trips="i").replace("int64 i, bool c", "int64 j, bool d").replace("c_out", "d_out")
    m = parse("g (float[n] x, int64 t) => (a_r, s_r) { " + loop(f"c_out = Identity(c)  {inner}  a = Mul(p_r, k)  s = ReduceSum <keepdims = 0> (p_r)", scans="s") + " }", k=np.float32(0.5))
    check(m, *({"x": f32(rng, 3), "t": np.array(t)} for t in (0, 1, 4)))


def test_if_in_a_loop(rng: np.random.Generator) -> None:
    body = """c_out = Identity(c)  two = Constant <value_int = 2> ()  zero = Constant <value_int = 0> ()  r = Mod(i, two)  even = Equal(r, zero)
        a = If <then_branch = tb () => (u) { u = Add(a_in, x) }, else_branch = eb () => (v) { v = Mul(a_in, x) }> (even)"""
    m = parse("g (float[n] x, int64 t) => (a_r) { " + loop(body) + " }")
    check(m, *({"x": f32(rng, 3), "t": np.array(t)} for t in (0, 1, 2, 5)))


def test_loop_in_a_branch(rng: np.random.Generator) -> None:
    inner = loop("c_out = Identity(c)  a = Add(a_in, x)  s = Neg(a)", scans="s")
    m = parse(f"""g (float[n] x, int64 t, bool go) => (y, z) {{
        y, z = If <then_branch = tb () => (a_r, s_r) {{ {inner} }},
                   else_branch = eb () => (v, w) {{ v = Neg(x)  w = Unsqueeze(x, zero) }}> (go) }}""", zero=np.array([0]))  # fmt: skip
    check(m, *({"x": f32(rng, 3), "t": np.array(t), "go": yes(g)} for t in (1, 3) for g in (True, False)))


def test_filter_with_unknown_sizes(rng: np.random.Generator) -> None:
    """Sizes that the data decide inside of a round, carried on."""
    m = parse("g (float[n] x, int64 t) => (a_r) { " + loop(
        "c_out = Identity(c)  big = Greater(a_in, zero)  p = Compress <axis = 0> (a_in, big)  a = Sub(p, step)") + " }",
        zero=np.float32(0), step=np.float32(0.4))  # fmt: skip
    check(m, *({"x": f32(rng, 30), "t": np.array(t)} for t in (0, 1, 3, 9)))


# --- Scan -------------------------------------------------------------------------------------------------------------
def scan(attributes: str = "") -> str:
    return f"""r, o = Scan <num_scan_inputs = 1, {attributes} body = b (float[m] s_in, float[m] e) => (s, out) {{
        h = Mul(s_in, k)  s = Add(h, e)  out = Tanh(s) }}> (z, x)"""


@pytest.mark.parametrize("attributes, along", [
    ("", 0), ("scan_input_directions = [1],", 0), ("scan_output_directions = [1],", 0), ("scan_input_axes = [1],", 1),
    ("scan_input_axes = [-1], scan_output_axes = [1],", 1), ("scan_input_directions = [1], scan_output_directions = [1], scan_output_axes = [-1],", 0),
])  # fmt: skip
def test_scan(attributes: str, along: int, rng: np.random.Generator) -> None:
    m = parse("g (float[" + ("m, n" if along else "n, m") + "] x, float[m] z) => (r, o) { " + scan(attributes) + " }", k=np.float32(0.5))

    def feeds(*shape: int) -> dict[str, Any]:
        return {"x": f32(rng, *shape), "z": f32(rng, shape[1 - along])}

    check(m, feeds(4, 3), feeds(1, 1), feeds(3, 17))


def test_scan_without_state(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, m] x, float[n, q] y) => (o, p) {
        o, p = Scan <num_scan_inputs = 2, body = b (float[m] e, float[q] f) => (u, v) {
            a = ReduceSum <keepdims = 1> (e)  u = Mul(f, a)  v = Concat <axis = 0> (e, f) }> (x, y) }""")
    check(m, {"x": f32(rng, 3, 2), "y": f32(rng, 3, 4)}, {"x": f32(rng, 1, 1), "y": f32(rng, 1, 1)})


def test_scan_of_nothing(rng: np.random.Generator) -> None:
    m = parse("g (float[n, m] x, float[m] z) => (r, o) { " + scan() + " }", k=np.float32(0.5))
    z = f32(rng, 3)
    out = hasten.compile(m, host_ops=False).run({"x": f32(rng, 0, 3), "z": z})
    np.testing.assert_array_equal(out["r"], z)
    assert out["o"].shape == (0, 3)


def test_scan_in_a_scan(rng: np.random.Generator) -> None:
    m = parse("""g (float[n, m] x, float z) => (r, o) {
        r, o = Scan <num_scan_inputs = 1, body = b (float s_in, float[m] e) => (s, q) {
            s, q = Scan <num_scan_inputs = 1, body = c (float t_in, float f) => (t, g) { t = Add(t_in, f)  g = Mul(t, t) }> (s_in, e) }> (z, x) }""")
    check(m, {"x": f32(rng, 3, 4), "z": f32(rng).reshape(())}, {"x": f32(rng, 1, 1), "z": f32(rng).reshape(())})


def test_rounds_do_not_leak_memory(rng: np.random.Generator) -> None:
    """Memory of a round whose size only the run knows is given back within the run."""
    m = parse("g (float[n, m] x, int64 t) => (a_r) { h = Shape <start = 0, end = 1> (x)  " + loop(
        "c_out = Identity(c)  a0 = Concat <axis = 0> (a_in, x)  a = Slice(a0, h, big)") + " }", big=np.array([1 << 40]))  # fmt: skip
    compiled = hasten.compile(m, host_ops=False, threads=1)
    import resource

    x = f32(rng, 250, 500)  # half a megabyte
    compiled.run({"x": x, "t": np.array(2)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = compiled.run({"x": x, "t": np.array(400)})
    np.testing.assert_array_equal(out["a_r"], x)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
