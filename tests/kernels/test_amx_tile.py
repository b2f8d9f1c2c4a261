"""The emulated tile instructions against the manual's definition in NumPy, bit for bit; and real ones."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from hasten.codegen import isa as isa_module
from hasten.codegen import link, llvm
from hasten.codegen.builder import Module
from hasten.codegen.isa import Isa
from hasten.kernels.amx_tile import FULL, Tiles, tile_config
from hasten.vm.image import LoadedImage

TINY = np.float32(2.0**-126)


def levels() -> list[Isa]:
    bases = [n for n in ("portable", "avx2", "avx512") if n in isa_module.available()]
    emulated = [replace(isa_module.get(n), name=f"amx-emulated-{n}", amx="emulated") for n in bases]
    return emulated + ([isa_module.get("amx")] if "amx" in isa_module.available() else [])


def product(isa: Isa, shapes, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """C + A B by tiles 0 (C), 4 (A) and 6 (B) of the given shapes; all arrays are whole tiles (16 x 64 bytes)."""
    module = Module(isa)
    f = module.function("kernel", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
    pa, pb, pc = (f.load("ptr", f.at(f.args[0], i, 8)) for i in range(3))
    tiles = Tiles(f, isa, shapes)
    tiles.load(4, pa, 64)
    tiles.load(6, pb, 64)
    tiles.load(0, pc, 64)
    tiles.dot(0, 4, 6)
    tiles.store(0, pc, 64)
    tiles.release()
    image = LoadedImage.from_memory(link.link([llvm.compile_text(module.text(), isa)], ["kernel"]))
    arrays = [np.ascontiguousarray(x).copy() for x in (a, b, c)]
    words = (ctypes.c_int64 * 3)(*(x.ctypes.data for x in arrays))
    image.function("kernel", None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(words, 0, 1)
    return arrays[2]


def flush(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)


def definition(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a [m, k], b [k / 2, n, 2] as float32, c [m, n]: the manual's operation.

    Products of bfloat16 are exact in float64, and so are sums with a float32 whose exponent is not too far away: one
    rounding, as in the fused operation.
    """
    sums = np.zeros((2, *c.shape), np.float32)
    a, b = flush(a), flush(b)
    with np.errstate(all="ignore"):
        for k in range(b.shape[0]):
            for odd in (0, 1):
                exact = sums[odd].astype(np.float64) + np.outer(a[:, 2 * k + odd], b[k, :, odd]).astype(np.float64)
                sums[odd] = flush(exact)
        return flush(flush(c) + flush(sums[0] + sums[1]))


def bf16(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("isa", levels(), ids=lambda i: i.name)
@pytest.mark.parametrize("m,n,k", [(16, 16, 32), (7, 16, 32), (16, 3, 32), (5, 11, 14), (1, 1, 2)])
def test_dot(isa, m, n, k, rng):
    shapes = list(FULL)
    shapes[0], shapes[4], shapes[6] = (m, 4 * n), (m, 2 * k), (k // 2, 4 * n)
    a = bf16(rng.standard_normal((16, 32)) * 2.0 ** rng.integers(-8, 8, (16, 32)))
    b = bf16(rng.standard_normal((16, 16, 2)))
    c = rng.standard_normal((16, 16)).astype(np.float32)
    got = product(isa, shapes, a, b, c)
    want = c.copy()
    want[:m, :n] = definition(a[:m, :k].astype("f4"), b[: k // 2, :n].astype("f4"), c[:m, :n])
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("isa", levels(), ids=lambda i: i.name)
def test_subnormals_count_as_zero(isa):
    a, b, c = bf16(np.zeros((16, 32))), bf16(np.zeros((16, 16, 2))), np.zeros((16, 16), np.float32)
    a[0, 0], b[0, 0, 0] = 1e-39, 1e30  # a subnormal input
    a[1, 0], b[0, 1, 0] = 2.0**-100, 2.0**-30  # a product below the normal numbers
    c[2, 2] = 1e-40  # a subnormal accumulator
    got = product(isa, FULL, a, b, c)
    assert got[0, 0] == 0 and got[1, 1] == 0 and got[2, 2] == 0
    assert got[1, 0] == np.float32(2.0**-100) * np.float32(bf16(np.float32(1e30)))


@pytest.mark.parametrize("isa", levels(), ids=lambda i: i.name)
def test_infinities_and_nan(isa):
    a, b = bf16(np.ones((16, 32))), bf16(np.ones((16, 16, 2)))
    a[0, 3], a[1, 4] = np.inf, np.nan
    a[2, 0], a[2, 1] = np.inf, -np.inf
    got = product(isa, FULL, a, b, np.zeros((16, 16), np.float32))
    assert (got[0] == np.inf).all() and np.isnan(got[1]).all() and np.isnan(got[2]).all() and (got[3:] == 32).all()


def test_configuration():
    config = tile_config([(3, 20), (16, 64)])
    assert len(config) == 64 and config[0] == 1
    assert (config[16], config[17], config[18], config[48], config[49], config[50]) == (20, 0, 64, 3, 16, 0)


def test_shapes_that_do_not_fit_are_refused():
    isa = isa_module.get("amx-emulated")
    f = Module(isa).function("kernel", [])
    tiles = Tiles(f, isa, [(16, 64), (8, 64), (16, 64)])
    with pytest.raises(AssertionError, match="do not fit"):
        tiles.dot(0, 1, 2)
