"""ONNX's backend interface, as ONNX's own test runner uses it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import hasten
import hasten.backend as backend


def model() -> onnx.ModelProto:
    return onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]> g (float[n] a, float[n] b) => (float[n] s, float[n] p) {
        s = Add(a, b)  p = Mul(a, b) }""")


A, B = np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)


def test_prepare_and_run() -> None:
    prepared = backend.prepare(model(), device="CPU")
    for out in (prepared.run([A, B]), prepared.run((A, B)), prepared.run({"b": B, "a": A})):
        np.testing.assert_array_equal(out[0], A + B)
        np.testing.assert_array_equal(out.p, A * B)
        assert out._fields == ("s", "p")


def test_options_are_those_of_compile() -> None:
    prepared = backend.prepare(model(), isa="portable", threads=1, precision="strict")
    assert (prepared.model.report().isa, prepared.model.threads) == ("portable", 1)
    with pytest.raises(TypeError):
        backend.prepare(model(), colour="blue")


def test_run_model() -> None:
    np.testing.assert_array_equal(backend.run_model(model(), [A, B]).s, A + B)


def test_run_node() -> None:
    node = helper.make_node("Gemm", ["a", "b", "c"], ["y"], alpha=2.0, transB=1)
    a, b, c = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), np.zeros(4, np.float32)
    np.testing.assert_array_equal(backend.run_node(node, [a, b, c])[0], np.full((2, 4), 6))
    clip = helper.make_node("Clip", ["x", "", "top"], ["y"])
    np.testing.assert_array_equal(backend.run_node(clip, [A, np.float32(2)])[0], [1, 2, 2])


def test_devices() -> None:
    assert backend.supports_device("CPU") and backend.supports_device("CPU:0") and not backend.supports_device("CUDA")
    with pytest.raises(hasten.InputError, match="CUDA"):
        backend.prepare(model(), device="CUDA:0")


def test_compatibility() -> None:
    assert backend.is_compatible(model())
    info = helper.make_tensor_value_info("x", 1, ["n"])
    strange = helper.make_graph([helper.make_node("Frobnicate", ["x"], ["y"])], "g", [info], [helper.make_tensor_value_info("y", 1, ["n"])])
    assert not backend.is_compatible(helper.make_model(strange), host_ops=False)


def test_wrong_inputs() -> None:
    prepared = backend.prepare(model())
    with pytest.raises(hasten.InputError, match="missing: b"):
        prepared.run([A])
    with pytest.raises(hasten.TypeMismatch, match="input 'b'"):
        prepared.run([A, B.astype("f8")])


def test_sequences() -> None:
    node = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 20]> g (float[n] a, float[n] b) => (seq(float[n]) s) {
        s = SequenceConstruct(a, b) }""")
    (out,) = backend.run_model(node, [A, B])
    assert isinstance(out, list)
    np.testing.assert_array_equal(np.stack(out), [A, B])
