"""PyTorch modules: exported, checked, and giving the same numbers; a clear error where PyTorch is missing."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from hasten.base.errors import InputError, MissingDependency, ModelError
from hasten.frontends import export_module
from hasten.graph import prepare


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install"):
        export_module(object(), (np.zeros(1),))


def test_export() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    layers = [
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(5),
    ]
    module = torch.nn.Sequential(*layers)
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 6)).astype(np.float32)
    module(torch.as_tensor(x))
    graph = export_module(module, x, ({0: "batch"},))
    assert module.training
    prepare(graph)
    assert [node.op_type for node in graph.graph if node.op_type != "Shape"][:2] == ["Conv", "Relu"]
    proto = ir.to_proto(graph)
    got = ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: x[:1]})[0]
    with torch.no_grad():
        want = module.eval()(torch.as_tensor(x[:1])).numpy()
    np.testing.assert_allclose(got, want, 1e-4, 1e-5)


def test_attention_is_exported_as_one_operator() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")

    class Attend(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, q, k, v):  # type: ignore[no-untyped-def]
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    graph = export_module(Attend(), tuple(torch.randn(1, 2, 4, 8) for _ in range(3)))
    prepare(graph)
    assert [node.op_type for node in graph.graph] == ["Attention"]


def test_what_cannot_be_exported() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")

    class Bad(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x):  # type: ignore[no-untyped-def]
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ModelError, match="cannot export this Bad"):
        export_module(Bad(), torch.ones(2))
    with pytest.raises(InputError, match="example_inputs"):
        export_module(Bad(), None)
