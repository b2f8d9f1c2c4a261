"""Host ops: operators that run in the reference implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from hasten.base import dims as D
from hasten.base.errors import ExecutionError
from hasten.vm import program as P

N, K = D.symbol("N"), D.symbol("K")


def site(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> P.HostOp:
    node = helper.make_node(op, inputs, outputs, **attributes)
    graph = helper.make_graph(
        [node],
        "host",
        [onnx.ValueInfoProto(name=n) for n in dict.fromkeys(inputs) if n],
        [onnx.ValueInfoProto(name=n) for n in outputs if n],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    return P.HostOp(f"my {op}", op, model.SerializeToString())


def tensor(name: str, dtype: str, *shape: Any) -> P.HostTensor:
    return P.HostTensor(name, dtype, shape)


def test_a_size_that_data_decides(toolbox: Any) -> None:
    program = P.Program(
        [P.TensorSpec("x", "float32", (N,), "x")],
        [P.TensorSpec("y", "float32", (K,), "y")],
        [],
        [
            P.Host(0, (tensor("x", "float32", N),), (tensor("u", "float32", "K"), None, None, None)),
            P.Alloc("y", K * 4, "output"),
            P.Call("k_double", ("u", "y", K), K),
            P.Output(0, "y", (K,)),
        ],
        [site("Unique", ["x"], ["u", "", "", ""])],
    )
    model = toolbox.model(program)
    assert model.kind == "interpreted"
    assert model(np.array([3, 1, 3, 2], np.float32)).tolist() == [2, 4, 6]
    assert model.run({"x": np.array([5, 5], np.float32)})["y"].tolist() == [10]


def test_sequences_and_strings(toolbox: Any) -> None:
    program = P.Program(
        [P.TensorSpec("x", "float32", (N,), "x"), P.ObjectSpec("words", "tensor(string)", "w")],
        [P.ObjectSpec("parts", "sequence(float32)", "parts"), P.ObjectSpec("joined", "tensor(string)", "joined")],
        [],
        [
            P.Alloc("z", N * 4),
            P.Call("k_double", ("x", "z", N), N),
            P.Host(0, (tensor("z", "float32", N), None), (P.HostObject("parts"),)),
            P.Call("k_double", ("z", "z", N), N),
            P.Release("z"),
            P.Host(1, (P.HostObject("w"), P.HostObject("w")), (P.HostObject("joined"),)),
        ],
        [site("SplitToSequence", ["z"], ["parts"]), site("StringConcat", ["w", "w"], ["joined"])],
    )
    parts, joined = toolbox.model(program)(np.array([1, 2, 3], np.float32), ["ab", "c"])
    assert [np.ravel(p).tolist() for p in parts] == [[2], [4], [6]], "sequences keep copies of what memory held then"
    assert joined.tolist() == ["abab", "cc"]


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (tensor("y", "int64", "K"), r"node 'my Relu' \(Relu\): result 0 is float32, the model says int64"),
        (tensor("y", "float32", "K", "L"), r"result 0 has shape \(3,\), the model says \(K, L\)"),
        (tensor("y", "float32", 4), r"result 0 has shape \(3,\), the model says \(4,\)"),
    ],
)
def test_results_are_checked(toolbox: Any, wanted: P.HostTensor, text: str) -> None:
    program = P.Program(
        [P.TensorSpec("x", "float32", (N,), "x")],
        [],
        [],
        [P.Host(0, (tensor("x", "float32", N),), (wanted,))],
        [site("Relu", ["x"], ["y"])],
    )
    with pytest.raises(ExecutionError, match=text):
        toolbox.model(program)(np.ones(3, np.float32))


def test_errors_inside_name_the_node(toolbox: Any) -> None:
    operands = (tensor("x", "float32", N), tensor("i", "int64", N))
    program = P.Program(
        [P.TensorSpec("x", "float32", (N,), "x"), P.TensorSpec("i", "int64", (N,), "i")],
        [],
        [],
        [P.Host(0, operands, (P.HostObject("y"),))],
        [site("Gather", ["x", "i"], ["y"])],
    )
    with pytest.raises(ExecutionError, match=r"node 'my Gather' \(Gather\) failed on the host: IndexError"):
        toolbox.model(program)(np.ones(2, np.float32), np.array([0, 7]))
    program.host_ops = [site("NoSuchOperator", ["x", "i"], ["y"])]
    with pytest.raises(ExecutionError, match=r"node 'my NoSuchOperator'"):
        toolbox.model(program)(np.ones(2, np.float32), np.array([0, 1]))


def test_profile(toolbox: Any) -> None:
    from hasten.vm.callpath import make_model

    body = [P.Alloc("y", N * 4, "output"), P.If(N, (P.Call("k_double", ("x", "y", N), N),), ()), P.Output(0, "y", (N,))]
    program = P.Program([P.TensorSpec("x", "float32", (N,), "x")], [P.TensorSpec("y", "float32", (N,), "y")], [], body)
    seen: list[tuple[str, float]] = []
    image = toolbox.image(program)
    model = make_model(program, image, b"", toolbox.runtime, profile=lambda i, s: seen.append((type(i).__name__, s)))
    assert model(np.ones(2, np.float32)).tolist() == [2, 2]
    assert [name for name, _ in seen] == ["Alloc", "Call", "Output"] and all(s >= 0 for _, s in seen)
