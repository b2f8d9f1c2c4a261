"""Strassen products against float64, over sizes, ISA levels, threads and both ways through the packed matrix; the algebra in integers."""

import ctypes

import numpy as np
import pytest

from hasten.codegen import isa as isas
from hasten.codegen import link, llvm
from hasten.codegen.builder import Module
from hasten.kernels import strassen
from hasten.kernels.strassen import FEW_LEFT, FEW_PRODUCTS, LEAST_ROWS, LEFT, RESULT, RIGHT, StrassenProblem
from hasten.vm.image import LoadedImage

LEVELS = [level for level in ("avx512", "avx2", "portable") if level in isas.available()]
WORDS = (("a", "ptr"), ("b", "ptr"), ("scratch", "ptr"), ("c", "ptr"), ("m", "i64"), ("as_m", "i64"), ("ldc", "i64"), ("share", "i64"))


def signed_sum(values, signed):
    return sum(np.sign(s) * values[abs(s) - 1] for s in signed)


def test_the_algebra_is_exact():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-99, 99, (2, 4, 3, 3))
    products = [signed_sum(a, left) @ signed_sum(b, right) for left, right in zip(LEFT, RIGHT, strict=True)]
    got = [signed_sum(products, result) for result in RESULT]
    want = [a[2 * i] @ b[j] + a[2 * i + 1] @ b[2 + j] for i in (0, 1) for j in (0, 1)]
    assert all((x == y).all() for x, y in zip(got, want, strict=True))
    planes, operands = [signed_sum(a[:2], left) for left in FEW_LEFT], [signed_sum(b, right) for right in RIGHT]
    few = [sum(planes[p] @ operands[r] for p, r in pairs) for pairs in FEW_PRODUCTS]
    assert all((x == y).all() for x, y in zip(few, want[:2], strict=True))


class Kernel:
    def __init__(self, level, problem, threads):
        self.isa, self.problem, self.threads = isas.get(level), problem, threads
        module = Module(self.isa)
        f = module.function("kernel", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
        arg = {name: f.load(t, f.at(f.args[0], i, 8)) for i, (name, t) in enumerate(WORDS)}
        arg["scratch"] = f.offset(arg["scratch"], f.args[1] * arg["share"])

        def sink(g, value, where, lanes, mask):
            place = g.at(arg["c"], where["m"] * arg["ldc"] + where["n"], 4)
            g.store(value, place) if mask is None else g.masked_store(value, place, mask)

        strassen.emit_strassen(f, problem, self.isa, arg, f.args[1], f.args[2], sink)
        f.ret()
        self.image = LoadedImage.from_memory(link.link([llvm.compile_text(module.text(), self.isa)], ["kernel"]))
        self.call = self.image.function("kernel", None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

    def __call__(self, a, b, pitch):
        """The product; memory around the scratch and the result is watched."""
        m, p = len(a), self.problem
        share = int(strassen.strassen_scratch_bytes(p, self.isa))
        packed = aligned(strassen.pack_strassen_weights(p, self.isa, b))
        left = np.full((m, pitch), np.nan, np.float32)
        left[:, : p.k] = a
        scratch = aligned(np.full(self.threads * share // 4 + 16, 7, np.float32))
        result = np.full((m + 1, p.n + 3), 7, np.float32)
        values = [left.ctypes.data, packed.ctypes.data, scratch.ctypes.data, result.ctypes.data, m, pitch, p.n + 3, share]
        words = (ctypes.c_int64 * len(values))(*values)
        for thread in range(self.threads):
            self.call(words, thread, self.threads)
        assert (result[m] == 7).all() and (result[:, p.n :] == 7).all() and (scratch[-16:] == 7).all()
        return result[:m, : p.n]


def aligned(array):
    raw = np.empty(array.size + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    view = raw[start : start + array.size].reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("k, n", [(256, 64), (384, 192), (512, 96), (2048, 128), (1280, 64)])
def test_against_float64(level, k, n):
    problem = StrassenProblem(k, n)
    if not strassen.applies(problem, isas.get(level)):
        pytest.skip(f"{k} x {n} can't be halved into this level's tiles")
    rng = np.random.default_rng(k + n)
    b = rng.standard_normal((k, n)).astype(np.float32)
    for threads in (1, 3):
        kernel = Kernel(level, problem, threads)
        for m in (1, 2, 7, LEAST_ROWS - 1, LEAST_ROWS, LEAST_ROWS + 1, 101, int(rng.integers(130, 300))):
            a = rng.standard_normal((m, k)).astype(np.float32)
            want = a.astype(np.float64) @ b.astype(np.float64)
            got = kernel(a, b, k + int(rng.integers(0, 5)))
            # Sums of half a block's products, each of the size of sqrt(k): a few roundings of partial sums of that size.
            assert np.abs(got - want).max() <= 4e-6 * np.abs(want).max()


def test_sizes_that_do_not_fit():
    isa = isas.get(LEVELS[0])
    assert not strassen.applies(StrassenProblem(64, 256), isa)  # too few steps
    assert not strassen.applies(StrassenProblem(257, 256), isa)  # an odd number of them
    assert not strassen.applies(StrassenProblem(256, 40), isa)  # columns that are no whole tiles


def algorithms(precision, rows, columns=512):
    import onnx.parser
    from onnx import numpy_helper

    import hasten

    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[{rows}, 512] x) => (y) {{ p = MatMul(x, w)  q = Add(p, b)  y = Relu(q) }}'
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((512, columns), np.float32), rng.standard_normal(columns, np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")])
    compiled = hasten.compile(model.SerializeToString(), precision=precision)
    for count in (3, 90):
        x = rng.standard_normal((1, count, 512) if "," in rows else (count, 512)).astype(np.float32)
        want = np.maximum(x.astype(np.float64) @ w + b, 0)
        got = compiled(x) if not rows.isdigit() or count == int(rows) else None
        assert got is None or np.abs(got - want).max() <= 4e-6 * want.max()
    return {node.algorithm for node in compiled.report().nodes} & {"Strassen product", "register-tiled product"}


def test_where_it_is_used():
    assert algorithms("high", "n, length") == algorithms("high", "90") == {"Strassen product"}
    assert algorithms("high", "3") == algorithms("high", "n") == {"register-tiled product"}  # few rows, or likely few
    assert algorithms("high", "n, length", 4096) == {"register-tiled product"}  # a matrix that does not stay in the cache
    assert algorithms("highest", "n, length") == algorithms("strict", "n, length") == {"register-tiled product"}
