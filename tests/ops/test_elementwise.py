"""Elementwise operators, activations, conversions, quantisation against onnxruntime and NumPy, with symbolic sizes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent))
from both import both  # noqa: E402

import hasten  # noqa: E402

RNG = np.random.default_rng(10)
X = RNG.standard_normal((3, 4, 5)).astype(np.float32) * 3
EDGES = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-30, 3e38, -7.5, 0.5, 2.5], np.float32)
SMALL = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn"]

ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("Relu", {}), ("Sigmoid", {}), ("Tanh", {}), ("Softplus", {}), ("Softsign", {}), ("Mish", {}), ("HardSwish", {}), ("LeakyRelu", {"alpha": 0.2}),
    ("Elu", {"alpha": 0.7}), ("Celu", {"alpha": 0.7}), ("Selu", {}), ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}), ("ThresholdedRelu", {"alpha": 0.6}),
    ("Gelu", {}), ("Gelu", {"approximate": "tanh"}), ("Shrink", {"lambd": 1.0, "bias": 0.5}), ("Erf", {}), ("Swish", {"alpha": 1.5}),
]  # fmt: skip


@pytest.mark.parametrize("row", ACTIVATIONS, ids=str)
def test_activation(row: tuple[str, dict[str, Any]]) -> None:
    both(row[0], {"x": X}, rtol=2e-6, atol=1e-6, **row[1])
    both(row[0], {"x": np.linspace(-90, 90, 77, dtype=np.float32)}, rtol=2e-6, atol=1e-6, **row[1])


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "float16", "uint8"])
def test_binary_broadcasts(op: str, dtype: str) -> None:
    a, b = RNG.integers(1, 9, (3, 1, 5)).astype(dtype), RNG.integers(1, 9, (4, 1)).astype(dtype)
    fn = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum, "Min": np.minimum}.get(op)
    quotient = np.divide if a.dtype.kind == "f" else np.floor_divide
    want = (fn or quotient)(a, b).astype(dtype)
    both(op, {"a": a, "b": b}, expected=[want], rtol=1e-3 if dtype == "float16" else 1e-6)


def test_max_min_keep_nan() -> None:
    for op in ("Max", "Min"):
        fn = np.maximum if op == "Max" else np.minimum
        both(op, {"a": EDGES, "b": EDGES[::-1].copy()}, expected=[fn(EDGES, EDGES[::-1])])


@pytest.mark.parametrize("kinds", [("float32", "float32"), ("float32", "int64"), ("int32", "float32"), ("int64", "int32"), ("float64", "float32")])
def test_pow(kinds: tuple[str, str]) -> None:
    a, b = RNG.integers(1, 6, (3, 4)).astype(kinds[0]), RNG.integers(0, 5, (4,)).astype(kinds[1])
    both("Pow", {"a": a, "b": b}, expected=[np.power(a, b).astype(kinds[0])], rtol=1e-5)
    for exponent in (2, 3, 0, 1):
        y = np.array(exponent, kinds[1])
        both("Pow", {"a": a, "b": y}, constants=["b"], expected=[np.power(a, y).astype(kinds[0])], rtol=1e-5)


def test_pow_of_constants() -> None:
    x = np.abs(X) + 0.1
    for exponent in (0.5, -1.0, -2.0, -0.5, 1.7, 4.0):
        y = np.array(exponent, np.float32)
        both("Pow", {"a": x, "b": y}, constants=["b"], expected=[np.power(x, y)], rtol=2e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64", "int8", "uint8", "float32", "float16"])
def test_mod(dtype: str) -> None:
    signed = not dtype.startswith("u")
    a = RNG.integers(-20 if signed else 0, 20, (40,)).astype(dtype)
    b = (RNG.integers(1, 7, (40,)) * (RNG.choice([-1, 1], 40) if signed else 1)).astype(dtype)
    if a.dtype.kind != "f":
        both("Mod", {"a": a, "b": b}, expected=[np.mod(a, b)])
    both("Mod", {"a": a, "b": b}, expected=[np.fmod(a, b)], fmod=1)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int8", "uint8", "float16", "int64"])
def test_clip(dtype: str) -> None:
    x = RNG.integers(0, 100, (5, 7)).astype(dtype)
    low, high = np.array(20, dtype), np.array(60, dtype)
    both("Clip", {"x": x, "l": low, "h": high}, expected=[x.clip(low, high)])
    both("Clip", {"x": x, "l": None, "h": high}, expected=[np.minimum(x, high)])
    both("Clip", {"x": x, "l": low}, constants=["l"], expected=[np.maximum(x, low)])
    both("Clip", {"x": x, "l": high, "h": low}, expected=[np.full_like(x, low)])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_bit_shift(dtype: str, direction: str) -> None:
    a, b = RNG.integers(0, 200, (30,)).astype(dtype), RNG.integers(0, 8, (30,)).astype(dtype)
    both("BitShift", {"a": a, "b": b}, expected=[a << b if direction == "LEFT" else a >> b], direction=direction)


def test_where_prelu_isinf() -> None:
    slope = RNG.random((4, 1), np.float32)
    both("PRelu", {"x": X, "s": slope})
    both("Where", {"c": X > 0, "x": X, "y": slope})
    both("IsNaN", {"x": EDGES})
    for positive, negative in ((1, 1), (1, 0), (0, 1), (0, 0)):
        both("IsInf", {"x": EDGES}, detect_positive=positive, detect_negative=negative)


# --- conversions ------------------------------------------------------------------------------------------------------
KINDS = ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "uint16", "bool", "int4", "uint4", "int2", "uint2"]  # fmt: skip


def numpy_type(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def to_attribute(name: str) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(numpy_type(name)))


@pytest.mark.parametrize("source", KINDS)
def test_cast(source: str) -> None:
    """One model with a Cast to every other dtype."""
    x = RNG.integers(0, 2, (37,)).astype(numpy_type(source))
    targets = [t for t in KINDS if t != source]
    nodes = [helper.make_node("Cast", ["x"], [t], to=to_attribute(t)) for t in targets]
    kind = helper.make_tensor_value_info("x", to_attribute(source), ["n"])
    graph = helper.make_graph(nodes, "g", [kind], [onnx.ValueInfoProto(name=t) for t in targets])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    results = hasten.compile(model, host_ops=False).run({"x": x})
    for target in targets:
        wide = x.astype(np.int8) if source.endswith(("int4", "int2")) else x
        np.testing.assert_array_equal(results[target].astype("f4"), wide.astype(numpy_type(target)).astype("f4"))


@pytest.mark.parametrize("target", SMALL)
@pytest.mark.parametrize("saturate", [0, 1])
def test_cast_to_small_floats(target: str, saturate: int) -> None:
    dt = numpy_type(target)
    x = np.concatenate([X.reshape(-1), RNG.standard_normal(200).astype(np.float32) * 300, [0.0, 1e9, -1e9, 1e-9]]).astype(np.float32)
    info = ml_dtypes.finfo(dt)
    want = (np.clip(x, float(info.min), float(info.max)) if saturate else x).astype(dt)
    both("Cast", {"x": x}, expected=[want], to=to_attribute(target), saturate=saturate)
    everything = np.arange(2 ** min(info.bits, 8), dtype=np.uint8).view(dt)
    both("Cast", {"x": everything}, expected=[everything.astype(np.float32)], to=1)


def test_bit_cast() -> None:
    both("BitCast", {"x": X}, expected=[X.view(np.int32)], to=to_attribute("int32"), opset=26)


# --- quantisation -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "int4", "uint4"])
def test_quantize(kind: str) -> None:
    dt = numpy_type(kind)
    low, high = int(ml_dtypes.iinfo(dt).min), int(ml_dtypes.iinfo(dt).max)
    scale, zero = np.array(0.1, np.float32), np.array(3).astype(dt)
    scales, zeros = RNG.random(4, np.float32) + 0.1, RNG.integers(0, 5, 4).astype(dt)
    x = RNG.integers(0, 8, (3, 4, 5)).astype(dt)
    for s, z, attributes in ((scale, zero, {}), (scales, zeros, {"axis": 1}), (scales, zeros, {"axis": -2})):
        wide, moved = (t.reshape(-1, 1) if t.ndim else t for t in (s, z.astype(np.float32)))
        quantized = np.clip(np.rint(X / wide) + moved, low, high).astype(np.int32).astype(dt)
        both("QuantizeLinear", {"x": X, "s": s, "z": z}, expected=[quantized], **attributes)
        back = ((x.astype(np.float32) - moved) * wide).astype(np.float32)
        both("DequantizeLinear", {"x": x, "s": s, "z": z}, constants=["s", "z"], expected=[back], **attributes)


def test_quantize_in_blocks() -> None:
    x = RNG.standard_normal((6, 7)).astype(np.float32)
    scales, zeros = RNG.random((6, 3), np.float32) + 0.1, RNG.integers(0, 9, (6, 3)).astype(np.uint8)
    wide, moved = (np.repeat(t, 3, 1)[:, :7] for t in (scales, zeros))
    want = np.clip(np.rint(x / wide) + moved, 0, 255).astype(np.uint8)
    both("QuantizeLinear", {"x": x, "s": scales, "z": zeros}, expected=[want], axis=1, block_size=3)
    back = ((want.astype("f4") - moved) * wide).astype(np.float32)
    both("DequantizeLinear", {"x": want, "s": scales, "z": zeros}, expected=[back], axis=1, block_size=3)


def test_dynamic_quantize() -> None:
    both("DynamicQuantizeLinear", {"x": X}, 3)
    both("DynamicQuantizeLinear", {"x": np.abs(X)}, 3)
    both("DynamicQuantizeLinear", {"x": np.zeros((4,), np.float32)}, 3)
