"""LSTM, GRU and RNN: compiled models and the meaning of their traces against onnxruntime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent))
from native import LEVELS  # noqa: E402
from tracing import evaluate, model_of, reference, trace_node  # noqa: E402

import hasten  # noqa: E402

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def case(
    op: str,
    hidden: int,
    batch: int,
    seq: int = 6,
    features: int = 3,
    direction: str = "forward",
    optional: bool = True,
    lengths: bool = False,
    peepholes: bool = False,
    **attributes: Any,
) -> tuple[Any, dict[str, np.ndarray]]:
    rng = np.random.default_rng(hidden * 100 + batch)
    d, n = 2 if direction == "bidirectional" else 1, GATES[op] * hidden

    def array(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.5).astype(np.float32)

    given: dict[str, np.ndarray | None] = {"x": array(seq, batch, features), "w": array(d, n, features)}
    given |= {"r": array(d, n, hidden), "b": array(d, 2 * n) if optional else None, "lens": None}
    given["h"] = array(d, batch, hidden) if optional else None
    if lengths:
        given["lens"] = rng.integers(1, seq + 1, batch).astype(np.int32)
        given["lens"][0] = seq
    if op == "LSTM":
        given["c"] = array(d, batch, hidden) if optional else None
        given["p"] = array(d, 3 * hidden) if peepholes else None
    outputs = ["y", "y_h", "y_c"][: 3 if op == "LSTM" else 2]
    names = [k if v is not None else "" for k, v in given.items()]
    node = helper.make_node(op, names, outputs, hidden_size=hidden, direction=direction, **attributes)
    return node, {k: v for k, v in given.items() if v is not None}


def compare(
    node: Any, given: dict[str, np.ndarray], level: str | None = None, constants: tuple[str, ...] = ("w", "r", "b", "p")
) -> None:
    model = model_of(node, given, [c for c in constants if c in given], static=False)
    # onnxruntime wants weights of known shapes
    known = model_of(node, given, [c for c in constants if c in given], static=True)
    want = reference(known, given)
    if not constants:
        model = known
    got = evaluate(trace_node(model), given)
    compiled = hasten.compile(model, isa=level, host_ops=False, threads=2)
    native = compiled.run({i.name: given[i.name] for i in compiled.inputs})
    for a, b, c in zip(got, native.values(), want, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(b, c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_directions(op: str, direction: str) -> None:
    compare(*case(op, 5, 2, direction=direction))
    compare(*case(op, 32, 1, direction=direction, optional=False))
    compare(*case(op, 7, 6, direction=direction, lengths=True))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("op", GATES)
def test_levels(op: str, level: str) -> None:
    compare(*case(op, 20, 5, seq=3, lengths=True), level=level)


def test_options() -> None:
    compare(*case("LSTM", 6, 3, peepholes=True, clip=0.4))
    compare(*case("LSTM", 16, 4, peepholes=True, input_forget=1))
    compare(*case("GRU", 6, 3, linear_before_reset=1, direction="bidirectional"))
    compare(*case("GRU", 16, 4, linear_before_reset=1, clip=0.3, optional=False))


def test_activations() -> None:
    compare(
        *case(
            "LSTM", 6, 3, activations=["HardSigmoid", "Relu", "Softsign"], activation_alpha=[0.3], activation_beta=[0.4]
        )
    )
    names = ["HardSigmoid", "LeakyRelu", "Sigmoid", "ScaledTanh"]
    values = {"activation_alpha": [0.25, 0.1, 0.9], "activation_beta": [0.45, 0.8]}
    compare(*case("GRU", 6, 3, direction="bidirectional", activations=names, **values))
    for name, alpha in (("Elu", 0.7), ("ThresholdedRelu", 0.2), ("Softplus", None), ("Affine", 0.5)):
        extra = {} if alpha is None else {"activation_alpha": [alpha]}
        compare(
            *case("RNN", 6, 3, activations=[name], **extra, **({"activation_beta": [0.1]} if name == "Affine" else {}))
        )


def test_weights_of_the_run() -> None:
    for op in GATES:
        compare(*case(op, 6, 2, direction="bidirectional"), constants=())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_dtypes(dtype: type) -> None:
    node, given = case("LSTM", 6, 2)
    want = reference(model_of(node, given, ["w", "r", "b"], True), given)
    cast = {k: v.astype(dtype) for k, v in given.items()}
    model = model_of(node, cast, ["w", "r", "b"])
    compiled = hasten.compile(model, host_ops=False)
    for a, b in zip(compiled.run({i.name: cast[i.name] for i in compiled.inputs}).values(), want, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(
            a, b, rtol=1e-2 if dtype == np.float16 else 1e-4, atol=1e-2 if dtype == np.float16 else 1e-4
        )
