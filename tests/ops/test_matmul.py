"""Matrix products, Einsum and their quantised forms against onnxruntime, with symbolic sizes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from both import both  # noqa: E402

RNG = np.random.default_rng(6)


def random(*shape: int, dtype: str = "float32") -> np.ndarray:
    if dtype.startswith(("int", "uint")):
        return RNG.integers(-100 if dtype[0] == "i" else 0, 100, shape).astype(dtype)
    return RNG.standard_normal(shape).astype(dtype)


SHAPES = [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 6)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)),
          ((2, 7, 33), (2, 33, 17)), ((65, 20), (20, 40))]  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (random(*s) for s in shapes)
    both("MatMul", {"a": a, "b": b}, rtol=1e-4, atol=1e-4)
    both("MatMul", {"a": a, "b": b}, constants=["b"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint64"])
def test_matmul_of_other_dtypes(dtype: str) -> None:
    tolerance = 1e-2 if dtype == "float16" else 1e-9
    both("MatMul", {"a": random(2, 3, 9, dtype=dtype), "b": random(9, 20, dtype=dtype)}, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("transposed", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("c", [(), (5,), (3, 1), (3, 5), None], ids=str)
def test_gemm(transposed: tuple[int, int], c: tuple[int, ...] | None) -> None:
    a = random(*((7, 3) if transposed[0] else (3, 7)))
    b = random(*((5, 7) if transposed[1] else (7, 5)))
    inputs = {"a": a, "b": b, "c": None if c is None else random(*c)}
    attributes = {"transA": transposed[0], "transB": transposed[1], "alpha": 0.5, "beta": 2.0}
    both("Gemm", inputs, constants=["b"], rtol=1e-4, atol=1e-4, **attributes)


EQUATIONS = [
    ("ij,jk->ik", (3, 4), (4, 5)), ("bhid,bhjd->bhij", (2, 3, 4, 5), (2, 3, 6, 5)), ("ij->ji", (3, 4)), ("ii->i", (4, 4)), ("ij->", (3, 4)),
    ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)), ("i,j->ij", (3,), (4,)), ("bij,bij->b", (2, 3, 4), (2, 3, 4)), ("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)),
    ("abc,cd,abd->ab", (2, 3, 4), (4, 5), (2, 3, 5)), ("ij,jk", (3, 4), (4, 5)), ("bqhd,bkhd->bhqk", (2, 3, 4, 5), (2, 6, 4, 5)),
]  # fmt: skip


@pytest.mark.parametrize("row", EQUATIONS, ids=lambda r: r[0])
def test_einsum(row: tuple[str, *tuple[tuple[int, ...], ...]]) -> None:
    equation, *shapes = row
    arrays = {f"x{k}": random(*s) for k, s in enumerate(shapes)}
    both("Einsum", arrays, expected=[np.einsum(equation, *arrays.values())], rtol=1e-4, atol=1e-4, equation=equation)


@pytest.mark.parametrize("kinds", [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")])
def test_matmul_integer(kinds: tuple[str, str]) -> None:
    a, b = random(2, 3, 20, dtype=kinds[0]), random(20, 7, dtype=kinds[1])
    az, bz = np.array(5, kinds[0]), np.array(3, kinds[1])
    want = (a.astype("i4") - 5) @ (b.astype("i4") - 3)
    both("MatMulInteger", {"a": a, "b": b, "az": az, "bz": bz}, expected=[want])
    both("MatMulInteger", {"a": a, "b": b}, expected=[a.astype("i4") @ b.astype("i4")], constants=["b"])
    columns = random(7, dtype=kinds[1])
    want = (a.astype("i4") - 5) @ (b.astype("i4") - columns.astype("i4"))
    both("MatMulInteger", {"a": a, "b": b, "az": az, "bz": columns}, expected=[want], constants=["b", "bz"])


def test_qlinear_matmul() -> None:
    inputs = {
        "a": random(3, 9, dtype="uint8"), "as": np.array(0.02, np.float32), "az": np.array(50, "uint8"),
        "b": random(9, 6, dtype="uint8"), "bs": np.array(0.03, np.float32), "bz": np.array(60, "uint8"),
        "ys": np.array(0.05, np.float32), "yz": np.array(128, "uint8"),
    }  # fmt: skip
    both("QLinearMatMul", inputs, constants=["b", "bs", "bz"])
