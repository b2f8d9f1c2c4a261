"""Open sizes: what is promised of them, what a model forces, what is checked and when, and what broadcasting does with them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import hasten
from hasten.base import dims as D
from hasten.lower.graph import Options
from hasten.lower.sizes import Sizes
from hasten.lower.trace import Context
from hasten.vm.abi import checks
from hasten.vm.program import Arena, Call, Check


def parse(text: str, **constants: Any) -> bytes:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items())
    return model.SerializeToString()


def f32(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def program(model: hasten.CompiledModel) -> Any:
    return model._model.program


# --- promises -----------------------------------------------------------------------------------------------------------
WINDOWS = parse("g (float[n, 1, h, w] x) => (y) { y = MaxPool <kernel_shape=[3, 3], strides=[2, 2]> (x) }")


def test_a_promise_is_kept() -> None:
    model = hasten.compile(WINDOWS, dims={"h": hasten.Dim(8, 64, multiple_of=8), "n": hasten.Dim(1)})
    assert model(f32(1, 1, 16, 20)).shape == (1, 1, 7, 9)
    for shape, words in (((1, 1, 12, 20), "(height|h).*multiple of 8.*12"), ((1, 1, 72, 20), "from 8 to 64.*72"), ((0, 1, 16, 20), "axis 0.*at least 1.*0"),
                         ((1, 1, 0, 20), "input 'x', axis 2.*from 8 to 64.*0"), ((1, 1, 16, 2), "window.*axis 3.*at least 3.*2")):  # fmt: skip
        with pytest.raises(hasten.ShapeMismatch, match=words):
            model(np.zeros(shape, np.float32))


def test_a_number_fixes_a_size() -> None:
    model = hasten.compile(WINDOWS, dims={"h": 9, "w": 11})
    assert model.inputs[0].shape == ("n", 1, 9, 11) and model.outputs[0].shape == ("n", 1, 4, 5)
    with pytest.raises(hasten.ShapeMismatch, match="axis 3 must be 11, not 12"):
        model(f32(1, 1, 9, 12))


def test_promises_that_cannot_be() -> None:
    with pytest.raises(hasten.InputError, match="no open size 'height'; it has h, n, w"):
        hasten.compile(WINDOWS, dims={"height": 5})
    with pytest.raises(hasten.TypeInferenceError, match="MaxPool.*window"):
        hasten.compile(WINDOWS, dims={"h": hasten.Dim(1, 2)})
    with pytest.raises(hasten.TypeInferenceError, match="window"):
        hasten.compile(WINDOWS, dims={"h": 2})
    for bad in ((-1, None, 1), (5, 4, 1), (9, 12, 8), (1, 2, 0)):
        with pytest.raises(hasten.InputError):
            hasten.Dim(bad[0], bad[1], multiple_of=bad[2])


def test_multiples_make_sizes_meet() -> None:
    """Down by 4 in halves and up again: equal only where the size is a multiple, and then nothing is left to check or to broadcast."""
    text = parse(
        """g (float[1, 1, h, 8] x) => (y) {
        a = MaxPool <kernel_shape=[2, 1], strides=[2, 1]> (x)  b = MaxPool <kernel_shape=[2, 1], strides=[2, 1]> (a)
        c = Resize <mode="nearest"> (b, , scales)  y = Add(x, c) }""",
        scales=np.array([1, 1, 4, 1], np.float32),
    )
    plain, divided = hasten.compile(text), hasten.compile(text, dims={"h": hasten.Dim(4, multiple_of=4)})
    x = f32(1, 1, 12, 8)
    np.testing.assert_array_equal(plain(x), divided(x))
    assert "floordiv" in plain.program() and [c.left for c in checks(program(divided))] == [4, D.symbol("h")]
    assert divided.outputs[0].shape == (1, 1, "h", 8)
    with pytest.raises(hasten.ShapeMismatch, match="Add"):
        plain(f32(1, 1, 10, 8))


# --- what a model forces ------------------------------------------------------------------------------------------------
def test_forced_equal_sizes_are_one() -> None:
    """A Concat behind the Add forces both lengths to agree: the Add broadcasts nothing, the check comes first and names the Concat."""
    text = parse("g (float[n, 4] x, float[m, 4] y, float[m, k] z) => (s, c) { q = Mul(y, y)  s = Add(x, q)  c = Concat <axis=1> (x, z) }")
    model = hasten.compile(text)
    code = program(model).instructions
    assert "if_eq" not in model.program()
    assert isinstance(code[0], Check) and code[0].message.startswith("Concat") and {str(code[0].left), str(code[0].right)} == {"n", "m"}
    x, y, z = f32(3, 4), f32(3, 4), f32(3, 2)
    s, c = model(x, y, z)
    np.testing.assert_allclose(s, x + y * y, rtol=1e-6)
    np.testing.assert_array_equal(c, np.concatenate([x, z], 1))
    with pytest.raises(hasten.ShapeMismatch, match=r"Concat.*axis 0.*m.*must be n.*(1 and 3|3 and 1)"):
        model(x, y[:1], z[:1])


@pytest.mark.parametrize("node, constant", [("MatMul(x, w)", (6, 5)), ("Gemm(x, w)", (6, 5)), ("Conv(u, w)", (2, 6, 1, 1))])
def test_forced_numbers(node: str, constant: tuple[int, ...]) -> None:
    rank = "n, k" if len(constant) == 2 else "n, k, 3, 3"
    text = parse(f"g (float[{rank}] x) => (y) {{ u = Relu(x) y = {node.replace('x', 'u')} }}", w=f32(*constant))
    model = hasten.compile(text)
    good = (3, 6) if len(constant) == 2 else (3, 6, 3, 3)
    assert model(f32(*good)).shape[0] == 3
    assert isinstance(program(model).instructions[0], Check) and str(program(model).instructions[0].left) == "k"
    with pytest.raises(hasten.ShapeMismatch, match=rf"{node.partition('(')[0]}.*axis 1 of|input 'x', axis 1 \(k\) must be 6.*7 and 6"):
        model(f32(*[7 if d == 6 else d for d in good]))


def test_checks_come_before_memory() -> None:
    """Whatever inputs tell is checked before anything is allocated or called."""
    text = parse("g (float[n, k] x, float[j, m] y) => (z) { a = MatMul(x, y)  b = Relu(a)  z = Softmax(b) }")
    code = program(hasten.compile(text)).instructions
    late = [k for k, i in enumerate(code) if isinstance(i, (Arena, Call))]
    assert late and all(k < late[0] for k, i in enumerate(code) if isinstance(i, Check)) and any(isinstance(i, Check) for i in code)


def test_contradictions_name_both_sides() -> None:
    text = parse("g (float[n, k] x) => (y, z) { y = MatMul(x, v)  z = MatMul(x, w) }", v=f32(4, 2), w=f32(5, 2))
    with pytest.raises(hasten.TypeInferenceError, match="MatMul"):
        hasten.compile(text)
    with pytest.raises(hasten.TypeInferenceError, match="MatMul.*needs k == 4"):
        hasten.compile(parse("g (float[n, k] x) => (y) { y = MatMul(x, v) }", v=f32(4, 2)), dims={"k": hasten.Dim(1, 3)})


def test_what_both_sides_of_an_if_need() -> None:
    """Is needed whichever is taken: a window of 2 at least, and equal rows."""
    text = parse("""g (bool c, float[1, 1, h, 4] x, float[1, 1, i, 4] t) => (y) {
        y = If (c) <then_branch = a () => (float[1, 1, p, 4] u) { u1 = MaxPool <kernel_shape=[3, 1]> (x)  u2 = Concat <axis=3> (x, t)  u = Identity(u1) },
                    else_branch = b () => (float[1, 1, q, 4] v) { v1 = MaxPool <kernel_shape=[2, 1]> (x)  v2 = Concat <axis=3> (x, t)  v = Identity(v1) }> }""")
    model = hasten.compile(text)
    x, no = f32(1, 1, 2, 4), np.array(False)
    assert model(no, x, x).shape == (1, 1, 1, 4)
    with pytest.raises(hasten.ShapeMismatch, match="axis 2.*at least 2"):
        model(no, x[:, :, :1], x[:, :, :1])
    with pytest.raises(hasten.ShapeMismatch, match="window"):
        model(np.array(True), x, x)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_learnt_facts_are_necessary(data: st.DataObject) -> None:
    """Whatever `learn` takes from checks holds for all sizes that pass them."""
    names = ("a", "b", "c")
    size = st.sampled_from(names).map(D.symbol)

    def grown(x: Any) -> Any:
        return st.one_of(
            st.builds(lambda a, k: a + k, x, st.integers(-4, 4)), st.builds(lambda a, k: a * k, x, st.integers(1, 3)), st.builds(D.floordiv, x, st.integers(1, 4)),
            st.builds(D.maximum, x, x), st.builds(D.minimum, x, st.one_of(x, st.integers(0, 9))), st.builds(lambda a, b: a + b, x, x),
            st.builds(lambda a, b, c: D.if_less(a, b, a, c), x, x, x),
        )  # fmt: skip

    expression = st.recursive(size, grown, max_leaves=4)
    rows = data.draw(st.lists(st.tuples(expression, st.sampled_from(["==", "<=", "<"]), st.one_of(expression, st.integers(0, 9))), min_size=1, max_size=4))
    sizes = Sizes()
    for name in names:
        sizes.enter(name, name, f"input {name}")
    holds = {"==": int.__eq__, "<=": int.__le__, "<": int.__lt__}
    fitting = [
        env for values in itertools.product(range(8), repeat=3)
        if all(holds[op](D.evaluate(x, env), D.evaluate(y, env)) for env in [dict(zip(names, values, strict=True))] for x, op, y in rows)
        for env in [dict(zip(names, values, strict=True))]
    ]  # fmt: skip
    try:
        sizes.learn([(x, op, y, "node", "shape") for x, op, y in rows], {})
    except hasten.TypeInferenceError:
        assert not fitting
        return
    for env in fitting:
        for left, op, right, *_ in sizes.rows.values():
            assert holds[op](D.evaluate(left, env), D.evaluate(right, env)), (env, sizes.rows)
        for name in names:
            assert D.evaluate(sizes.find(D.symbol(name)), env) == env[name]


# --- broadcasting -------------------------------------------------------------------------------------------------------
def test_type_relations() -> None:
    cx, s, t = Context(Options()), D.symbol("s"), D.symbol("t")
    assert cx.broadcast_shapes((s,), (1,)) == (s,) == cx.broadcast_shapes((1,), (s,)) == cx.broadcast_shapes((s,), ())
    assert cx.broadcast_shapes((s,), (s,)) == (s,) and not cx.checks
    assert cx.broadcast_shapes((s,), (5,)) == (5,) and len(cx.checks) == 1
    both = cx.broadcast_shapes((s,), (t,))[0]
    for a, b in itertools.product((1, 4), repeat=2):
        assert D.evaluate(both, {"s": a, "t": b}) == max(a, b)
    wide, long = D.symbol("wide", low=2), D.symbol("long", low=2)
    assert cx.broadcast_shapes((wide,), (long,)) in ((wide,), (long,))
    with pytest.raises(hasten.TypeInferenceError, match="3 and 5"):
        cx.broadcast_shapes((3,), (5,))


FLOATS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Max": np.maximum, "Min": np.minimum, "Pow": np.power,
          "Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Equal": np.equal,
          "Mean": lambda a, b: (a + b) / 2, "Sum": np.add}  # fmt: skip
INTS = {"Add": np.add, "Mod": np.mod, "BitwiseAnd": np.bitwise_and, "BitwiseOr": np.bitwise_or, "BitwiseXor": np.bitwise_xor, "Mul": np.multiply}
BOOLS = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}


@pytest.mark.parametrize("dtype, table", [("float", FLOATS), ("int64", INTS), ("bool", BOOLS)], ids=["float", "int", "bool"])
def test_every_pair_of_ones(dtype: str, table: dict[str, Any], rng: np.random.Generator) -> None:
    """x[a, b] with y[c, d] and z[e], each size 1 or n when it runs: NumPy's answer, and where NumPy refuses an error that names the node."""
    nodes = " ".join(f"y{k} = {op}(x, y) z{k} = {op}(x, z)" for k, op in enumerate(table))
    outputs = ", ".join(f"y{k}, z{k}" for k in range(len(table)))
    model = hasten.compile(parse(f"g ({dtype}[a, b] x, {dtype}[c, d] y, {dtype}[e] z) => ({outputs}) {{ {nodes} }}"), host_ops=False)
    kind = {"float": np.float32, "int64": np.int64, "bool": np.bool_}[dtype]

    def some(*shape: int) -> np.ndarray:
        return (rng.integers(1, 9, shape) if dtype != "bool" else rng.integers(0, 2, shape)).astype(kind)

    for a, b, c, d, e in itertools.product((1, 3), (1, 4), (1, 3), (1, 4), (1, 4)):
        x, y, z = some(a, b), some(c, d), some(e)
        got = model(x, y, z)
        for k, meaning in enumerate(table.values()):
            for g, other in zip(got[2 * k : 2 * k + 2], (y, z), strict=True):
                want = meaning(x, other)
                np.testing.assert_allclose(g, want, rtol=1e-5)
                assert g.shape == want.shape
    for shapes in (((3, 4), (2, 4), (4,)), ((3, 4), (3, 5), (4,)), ((3, 4), (3, 4), (5,)), ((3, 0), (3, 4), (1,)), ((3, 2), (1, 1), (0,))):
        with pytest.raises(hasten.ShapeMismatch, match="|".join(table)):
            model(*(some(*s) for s in shapes))


def test_ranges_of_exported_modules() -> None:
    """What `torch.export.Dim` says of a size is held to as well."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    length = torch.export.Dim("length", min=2, max=16)
    model = hasten.compile(torch.nn.Linear(4, 3), example_inputs=torch.ones(5, 4), dynamic_shapes=({0: length},))
    assert model(f32(16, 4)).shape == (16, 3)
    with pytest.raises(hasten.ShapeMismatch, match=r"axis 0 \(length\) must be from 2 to 16.*17 and 16"):
        model(f32(17, 4))
