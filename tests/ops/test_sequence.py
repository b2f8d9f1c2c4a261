"""Sequences and optionals: without code where their elements are known, as Python objects where they enter or leave the model. N-grams."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent))
from tracing import evaluate, reference, trace_node  # noqa: E402

import hasten  # noqa: E402

HEAD = '<ir_version: 10, opset_import: ["" : 21]> g '


def native(text: str, **feeds: np.ndarray) -> list[Any]:
    """Outputs of a model without host ops, after comparing them with ONNX Runtime."""
    model = onnx.parser.parse_model(HEAD + text)
    compiled = hasten.compile(model, threads=1, host_ops=False)
    got, want = list(compiled.run(feeds).values()), reference(model, feeds)
    for a, b in zip(got, want, strict=True):
        for x, y in zip(a, b, strict=True) if isinstance(b, list) else [(a, b)]:
            assert np.shape(x) == np.shape(y) and np.asarray(x).dtype == np.asarray(y).dtype
            np.testing.assert_allclose(x, y, rtol=1e-6)
    return got


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype="f4").reshape(shape)


# --- sequences ----------------------------------------------------------------------------------------------------------
def test_construct_insert_erase() -> None:
    native(
        """(float[N, 3] a, float[N, 3] b) => (float[M, 3] y, int64 n) {
            s = SequenceConstruct (a, b, a)
            last = Constant <value = int64 {-1}> ()
            first = Constant <value = int64 {0}> ()
            t = SequenceErase (s, last)
            u = SequenceInsert (t, b, first)
            v = SequenceInsert (u, a, last)
            w = SequenceErase (v)
            x = SequenceInsert (w, b)
            n = SequenceLength (x)
            y = ConcatFromSequence <axis = 0> (x)
        }""",
        a=numbers(2, 3),
        b=-numbers(2, 3),
    )


def test_new_axis() -> None:
    native(
        "(float[N, 3] a) => (float[N, 2, 3] y) { s = SequenceConstruct (a, a) y = ConcatFromSequence <axis = 1, new_axis = 1> (s) }",
        a=numbers(4, 3),
    )


@pytest.mark.parametrize("position", [0, 2, -1, -3])
def test_position_of_the_run(position: int) -> None:
    """Elements of one shape are chosen among by a computed index."""
    text = "(float[N] a, int64 k) => (float[M] y) { b = Neg (a) c = Exp (a) s = SequenceConstruct (a, b, c) y = SequenceAt (s, k) }"
    native(text, a=numbers(5), k=np.array(position))


def test_position_out_of_range() -> None:
    text = (
        HEAD
        + "(float[N] a, int64 k) => (float[M] y) { b = Neg (a) s = SequenceConstruct (a, b) y = SequenceAt (s, k) }"
    )
    compiled = hasten.compile(onnx.parser.parse_model(text), threads=1, host_ops=False)
    with pytest.raises(hasten.ExecutionError):
        compiled(numbers(3), np.array(2))
    with pytest.raises(hasten.ModelError, match="out of range"):
        hasten.compile(
            onnx.parser.parse_model(
                text.replace(", int64 k)", ")").replace("{ b", "{ k = Constant <value = int64 {5}> () b")
            )
        )


def test_split() -> None:
    text = """(float[6, N] a, int64[2] sizes) => (float[K, N] y, float[N] z, float[2, N] u) {
        s = SplitToSequence <axis = 0> (a, sizes)
        zero = Constant <value = int64 {0}> ()
        y = SequenceAt (s, zero)
        t = SplitToSequence <axis = 0, keepdims = 0> (a)
        three = Constant <value = int64 {3}> ()
        z = SequenceAt (t, three)
        four = Constant <value = int64 {4}> ()
        v = SplitToSequence <axis = 0> (a, four)
        one = Constant <value = int64 {1}> ()
        u = SequenceAt (v, one)
    }"""
    native(text, a=numbers(6, 2), sizes=np.array([2, 4]))
    compiled = hasten.compile(onnx.parser.parse_model(HEAD + text), threads=1, host_ops=False)
    with pytest.raises(hasten.ShapeMismatch):
        compiled(numbers(6, 2), np.array([2, 5]))


def test_map() -> None:
    text = """(float[4, N] a, float[N] b) => (float[4, N] y) {
        s = SplitToSequence <axis = 0> (a)
        t = SequenceMap (s, b) <body = inner (float[1, N] x, float[N] w) => (float[1, N] z) { z = Mul (x, w) }>
        y = ConcatFromSequence <axis = 0> (t)
    }"""
    native(text, a=numbers(4, 3), b=numbers(3))


def test_loop_over_a_list() -> None:
    """A list that grows in a loop of known length, as TorchScript makes it: no host op, no loop."""
    native(
        """(float[N] a) => (float[K] y, float[3, N] all) {
            s = SequenceEmpty ()
            trips = Constant <value = int64 {3}> ()
            yes = Constant <value = bool {1}> ()
            t, last, all = Loop (trips, yes, s, a) <body = inner (int64 k, bool c, seq(float[N]) u, float[N] x)
                    => (bool d, seq(float[N]) v, float[N] z, float[N] w) {
                d = Identity (c)
                f = Cast <to = 1> (k)
                w = Add (x, f)
                z = Mul (w, x)
                v = SequenceInsert (u, w)
            }>
            y = ConcatFromSequence <axis = 0> (t)
        }""",
        a=numbers(4),
    )


def test_sequence_as_output() -> None:
    """Nothing is computed on the host; it only makes the list."""
    got = native(
        "(float[N] a) => (seq(float[N]) y, float[N] b) { b = Exp (a) y = SequenceConstruct (a, b) }", a=numbers(4)
    )
    assert isinstance(got[0], list) and len(got[0]) == 2


def test_sequence_as_input() -> None:
    text = HEAD + """(seq(float[N]) s, int64 k) => (float[N] y) { x = SequenceAt (s, k) y = Neg (x) }"""
    compiled = hasten.compile(onnx.parser.parse_model(text), threads=1)
    np.testing.assert_array_equal(compiled([numbers(2), numbers(3)], np.array(1)), -numbers(3))
    with pytest.raises(hasten.UnsupportedOperator):
        hasten.compile(onnx.parser.parse_model(text), host_ops=False)


# --- optionals ----------------------------------------------------------------------------------------------------------
def test_optionals() -> None:
    text = """(float[N] a) => (float[N] y, bool has, bool none) {
        o = Optional (a)
        y = OptionalGetElement (o)
        has = OptionalHasElement (o)
        e = Optional <type = float[N]> ()
        none = OptionalHasElement (e)
    }"""
    model = onnx.parser.parse_model(HEAD + text)
    y, has, none = hasten.compile(model, threads=1, host_ops=False)(numbers(3))
    np.testing.assert_array_equal(y, numbers(3))
    assert has and not none and has.shape == () and has.dtype == bool


# --- n-grams ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("rank", [1, 2])
def test_tf_idf(rng: np.random.Generator, mode: str, rank: int) -> None:
    for skips, dtype in ((0, "int64"), (2, "int32")):
        singles = rng.permutation(6)[:4].tolist()
        doubles = [divmod(int(v), 6) for v in rng.permutation(36)[:9]]
        triples = [(1, 2, 3), (3, 3, 3)]
        pool = [*singles, *(int(v) for d in doubles for v in d), *(v for t in triples for v in t)]
        count = len(singles) + len(doubles) + len(triples)
        x = rng.integers(0, 6, (5, 12) if rank == 2 else (12,)).astype(dtype)
        node = helper.make_node(
            "TfIdfVectorizer",
            ["x"],
            ["y"],
            mode=mode,
            min_gram_length=int(rng.integers(1, 3)),
            max_gram_length=int(rng.integers(2, 4)),
            max_skip_count=skips,
            pool_int64s=pool,
            ngram_counts=[0, 4, 4 + 18],
            ngram_indexes=rng.permutation(count).tolist(),
            weights=rng.random(count).tolist(),
        )
        info = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), ["N", "C"][2 - rank :])
        graph = helper.make_graph(
            [node], "g", [info], [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        want = reference(model, {"x": x})[0]
        for got in (evaluate(trace_node(model), {"x": x})[0], hasten.compile(model, threads=1, host_ops=False)(x)):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-6)
