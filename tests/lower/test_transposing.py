"""Moves between orders of axes, against NumPy: squares transposed in registers, strided reads, at every ISA level, with threads."""

import numpy as np
import onnx.parser
import pytest

import hasten
from hasten.codegen import isa

DTYPES = {"float": np.float32, "int64": np.int64, "uint8": np.uint8, "float16": np.float16, "bool": np.bool_, "double": np.float64}
LEVELS = [level for level in ("avx512", "avx2", "portable") if level in isa.available()]


def compiled(text: str, level: str, threads: int = 1):
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {text}')
    return hasten.compile(model.SerializeToString(), isa=level, threads=threads)


def values(rng, shape, dtype):
    return rng.integers(0, 2 if dtype is np.bool_ else 100, shape).astype(dtype)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("perm", [(1, 0), (0, 2, 1), (0, 2, 3, 1), (0, 3, 1, 2), (3, 2, 1, 0)], ids=str)
@pytest.mark.parametrize("name", DTYPES)
def test_transposes_of_any_shape(name, perm, level):
    rng = np.random.default_rng(len(perm))
    names = ",".join("abcd"[: len(perm)])
    model = compiled(f"g ({name}[{names}] x) => ({name}[{','.join('efgh'[: len(perm)])}] y) {{ y = Transpose<perm = {list(perm)}>(x) }}", level, 2)
    for most in (4, 18, 18, 40):
        x = values(rng, rng.integers(1, most + 1, len(perm)), DTYPES[name])
        np.testing.assert_array_equal(model(x), x.transpose(perm))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [3, 4, 6, 8, 12, 20, 31, 32, 33])
def test_squares_of_known_width(rows, level):
    rng = np.random.default_rng(rows)
    model = compiled(f"g (float[{rows}, n] x, float[n, {rows}] z) => (float[n, {rows}] y) {{ t = Transpose<perm = [1, 0]>(x)  y = Add(t, z) }}", level)
    for n in (1, 3, 15, 16, 17, 50):
        x, z = values(rng, (rows, n), np.float32), values(rng, (n, rows), np.float32)
        np.testing.assert_array_equal(model(x, z), x.T + z)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("step", [2, 3, 4, 5])
def test_strided_reads_stay_inside(step, level):
    rng = np.random.default_rng(step)
    for n in (1, step, 16 * step, 16 * step + 1, 100):
        text = f"g (float[2, {n}] x) => (float[2, m] y) <int64[1] a = {{0}}, int64[1] e = {{1000}}, int64[1] k = {{1}}, int64[1] s = {{{step}}}>"
        model = compiled(f"{text} {{ y = Slice(x, a, e, k, s) }}", level)
        x = values(rng, (2, n), np.float32)
        np.testing.assert_array_equal(model(x), x[:, ::step])


def test_outputs_of_convolutions_are_row_major():
    rng = np.random.default_rng(0)
    model = compiled("g (float[1, 8, h, w] x, float[20, 8, 1, 1] k) => (float[1, 20, h, w] y) { y = Conv(x, k) }", LEVELS[0])
    weights = rng.standard_normal((20, 8, 1, 1), np.float32)
    for h, w in ((1, 1), (3, 5), (17, 18)):
        x = rng.standard_normal((1, 8, h, w), np.float32)
        y = model(x, weights)
        assert y.flags["C_CONTIGUOUS"]
        np.testing.assert_allclose(y, np.einsum("nchw,oc->nohw", x, weights[:, :, 0, 0]), rtol=1e-5, atol=1e-5)
