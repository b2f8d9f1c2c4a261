"""What models accept as inputs, and what they say about the rest."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hasten.base import dims as D
from hasten.base.errors import InputError, ShapeMismatch, TypeMismatch
from hasten.vm import program as P
from hasten.vm.inputs import Signature

N = D.symbol("N")


@pytest.fixture(scope="module")
def model(toolbox: Any) -> Any:
    body = [P.Alloc("y", N * 8, "output"), P.Call("k_double", ("x", "y", N * 2), N), P.Output(0, "y", (N, 2))]
    return toolbox.model(
        P.Program([P.TensorSpec("x", "float32", (N, 2), "x")], [P.TensorSpec("y", "float32", (N, 2), "y")], [], body)
    )


class Subclass(np.ndarray[Any, Any]):
    pass


class Exchange:
    """Something that knows DLPack only."""

    def __init__(self, array: np.ndarray[Any, Any]):
        self.array = array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


BASE = np.arange(8, dtype=np.float32).reshape(4, 2)
UNALIGNED = np.frombuffer(b"\0" + BASE.tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 2)


@pytest.mark.parametrize(
    "value",
    [
        BASE,
        np.asfortranarray(BASE),
        BASE[::-1][::-1],
        np.repeat(BASE, 2, axis=0)[::2],
        BASE.view(Subclass),
        BASE.astype(">f4"),
        UNALIGNED,
        Exchange(BASE),
        BASE.tolist(),
        [[int(v) for v in row] for row in BASE],
        BASE.copy(),
    ],
    ids=lambda v: type(v).__name__,
)
def test_accepted(model: Any, value: Any) -> None:
    np.testing.assert_array_equal(model(value), BASE * 2)
    np.testing.assert_array_equal(model.run({"x": value})["y"], BASE * 2)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (
            BASE.astype(np.float64),
            TypeMismatch,
            "float64 ndarray of shape (4, 2) cannot be used, the model takes float32(N, 2); "
            "convert it with .astype('float32')",
        ),
        (BASE.astype(np.int32), TypeMismatch, "int32"),
        ("text", TypeMismatch, "'text' (str)"),
        (None, TypeMismatch, "NoneType"),
        (object(), TypeMismatch, "object"),
        ([["a", "b"]], TypeMismatch, "list"),
        ([[True, False]], TypeMismatch, "list"),
        ([[1.0], [1.0, 2.0]], TypeMismatch, "list"),
        (BASE[0], ShapeMismatch, "shape (2,) has 1 axes, the model takes float32(N, 2) with 2"),
        (BASE.reshape(2, 4), ShapeMismatch, "the model takes float32(N, 2), got shape (2, 4): axis 1 must be 2, not 4"),
        (3.5, ShapeMismatch, "0 axes"),
    ],
)
def test_refused(model: Any, value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        model(value)
    assert text in str(caught.value) and "'x'" in str(caught.value)


def test_number_and_names(model: Any) -> None:
    for args in [(), (BASE, BASE)]:
        with pytest.raises(InputError, match=f"{len(args)} inputs were given, the model takes 1: x: float32"):
            model(*args)
    for feeds, text in [
        ({}, "missing: x"),
        ({"x": BASE, "z": 1}, "unknown: z"),
        ({"y": BASE}, "missing: x; unknown: y"),
        ([BASE], "takes a dict"),
    ]:
        with pytest.raises(InputError, match=text):
            model.run(feeds)


@pytest.mark.parametrize(
    ("dtype", "good", "bad"),
    [
        ("int8", [1, -128, 127], [128]),
        ("uint8", [0, 255], [-1]),
        ("int64", [1 << 40], [1.5]),
        ("bool", [True, False], [1]),
        ("bfloat16", [1.5, 2], ["x"]),
        ("float64", [1, 2.5], [1j]),
    ],
)
def test_python_numbers(dtype: str, good: list[Any], bad: list[Any]) -> None:
    signature = Signature(P.Program([P.TensorSpec("x", dtype, (N,), "x")]))
    (array,) = signature.convert([good])
    assert array.dtype.name == dtype and array.tolist() == good
    with pytest.raises(TypeMismatch):
        signature.convert([bad])


def test_small_floats_pass_natively(toolbox: Any) -> None:
    body = [P.Alloc("y", 8, "output"), P.Call("k_double", ("x", "y", 2)), P.Output(0, "y", (4,))]
    program = P.Program(
        [P.TensorSpec("x", "bfloat16", (4,), "x")], [P.TensorSpec("y", "bfloat16", (4,), "y")], [], body
    )
    x = np.ones(4, ml_dtypes.bfloat16)
    y = toolbox.model(program)(x)
    assert y.dtype == ml_dtypes.bfloat16 and y.shape == (4,)


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    for dtype, name in [(torch.float32, "float32"), (torch.bfloat16, "bfloat16"), (torch.int64, "int64")]:
        signature = Signature(P.Program([P.TensorSpec("x", name, (N,), "x")]))
        (array,) = signature.convert([torch.tensor([1, 2, 3], dtype=dtype, requires_grad=dtype.is_floating_point)])
        assert array.dtype.name == name and array.astype(np.float64).tolist() == [1, 2, 3]


def test_objects() -> None:
    specs = [
        P.ObjectSpec("s", "tensor(string)", "s"),
        P.ObjectSpec("q", "sequence(float32)", "q"),
        P.ObjectSpec("o", "optional(float32)", "o"),
    ]
    signature = Signature(P.Program(list(specs)))
    s, q, o = signature.convert([["a", "bc"], (BASE, [1.0]), None])
    assert (
        s.dtype == object and s.tolist() == ["a", "bc"] and len(q) == 2 and isinstance(q[1], np.ndarray) and o is None
    )
    with pytest.raises(TypeMismatch, match="takes a list"):
        signature.convert([["a"], BASE, None])
