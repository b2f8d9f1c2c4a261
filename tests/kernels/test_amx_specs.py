"""Precision on machines with (emulated) tiles: accuracy of whole models, which kernel is chosen, the inner loop's code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import hasten
from hasten.base.dims import symbol
from hasten.codegen import isa as isa_module
from hasten.codegen import llvm
from hasten.codegen.builder import Module
from hasten.kernels.amx_conv import emit_amx_conv
from hasten.kernels.amx_gemm import emit_amx_gemm
from hasten.kernels.conv import ConvProblem, conv_args
from hasten.kernels.dense_amx import conv_products, gemm_products
from hasten.kernels.gemm import GemmProblem, gemm_args

LEVEL = "amx" if "amx" in isa_module.available() else "amx-emulated"
ALGORITHMS = {"highest": "bf16x6", "high": "bf16x3", "medium": "bf16"}


def model_of(op, shape, weights, **attributes):
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["c"], **attributes), helper.make_node("Relu", ["c"], ["y"])],
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model, x, precision, threads=1):
    compiled = hasten.compile(model, isa=LEVEL, precision=precision, threads=threads)
    return compiled.run({"x": x})["y"], {n.algorithm for n in compiled.report().nodes}


def normal(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


def uneven(rng, shape):
    return (rng.standard_normal(shape) * np.exp2(rng.normal(0, 4, shape))).astype(np.float32)


def dominated(rng, shape):
    """Sums that are one product and little else."""
    return (rng.standard_normal(shape) * np.exp2(rng.normal(0, 8, shape))).astype(np.float32)


@pytest.mark.parametrize("draw", [normal, uneven, dominated])
@pytest.mark.parametrize("k", [64, 576, 2304])
def test_accuracy_is_what_the_precision_promises(draw, k, rng):
    x, w = draw(rng, (96, k)), draw(rng, (k, 64))
    model = model_of("MatMul", [96, k], w)
    want = np.maximum(x.astype(np.float64) @ w.astype(np.float64), 0)
    errors = {}
    for precision in ("strict", "highest", "high", "medium"):
        got, used = run(model, x, precision)
        errors[precision] = np.abs(got - want).max() / np.abs(want).max()
        assert precision == "strict" or ALGORITHMS[precision] in used
    # Where one product makes an output up, "strict" rounds it once; six products leave out three parts of 2^-24 and are rounded, too.
    assert errors["highest"] <= max(2 * errors["strict"], 2.0**-22)
    assert errors["high"] <= (1e-5 if draw is normal else 2.0**-15)
    assert errors["medium"] <= 2.0**-7


@pytest.mark.parametrize("shape,kernel", [([2, 60, 9, 17], (3, 3)), ([1, 64, 50], (3,))], ids=["2-D", "1-D"])
def test_convolutions_on_threads(shape, kernel, rng):
    w = normal(rng, (48, shape[1], *kernel))
    model = model_of("Conv", shape, w, pads=[1] * 2 * len(kernel))
    x = normal(rng, shape)
    strict, used = run(model, x, "strict")
    assert not used & set(ALGORITHMS.values())
    for threads in (1, 3):
        got, used = run(model, x, "highest", threads)
        assert "bf16x6" in used
        np.testing.assert_allclose(got, strict, rtol=1e-5, atol=1e-5 * np.abs(strict).max())


def test_which_kernel():
    isa, none = isa_module.get("amx-emulated"), isa_module.get("portable")
    wide, w = ConvProblem(64, 64, (3, 3), ow=56), np.ones((64, 64, 3, 3), np.float32)
    assert [conv_products(p, isa, wide, w, "float32", 56) for p in ("highest", "high", "medium", "strict")] == [6, 3, 1, None]
    assert conv_products("highest", none, wide, w, "float32", 56) is None
    image = ConvProblem(3, 64, (7, 7), (2, 2), ow=112, unit_channels=False)
    assert conv_products("highest", isa, image, w, "float32", 112) is None
    assert conv_products("highest", isa, ConvProblem(16, 16, (1, 1), ow=56), w, "float32", 56) is None
    assert conv_products("highest", isa, ConvProblem(64, 64, (1, 1), ow=1), w, "float32", 1) is None
    assert conv_products("highest", isa, wide, w * np.inf, "float32", 56) is None
    assert conv_products("highest", isa, wide, w, "bfloat16", 56) == 1  # products of bfloat16 values are exact
    assert conv_products("highest", isa, wide, w * 1.001, "bfloat16", 56) == 6


def test_which_product():
    isa = isa_module.get("amx-emulated")
    packed, b = GemmProblem(768, 768), np.ones((768, 768), np.float32)
    assert gemm_products("highest", isa, packed, b, "float32", (1, 128)) == 6
    assert gemm_products("highest", isa, packed, b, "float32", (1,)) is None  # reads more weights than float32
    assert gemm_products("medium", isa, packed, b, "float32", (1,)) == 1
    unknown = symbol("n")
    assert gemm_products("highest", isa, packed, b, "float32", (unknown,)) is None
    assert gemm_products("highest", isa, packed, b, "float32", (unknown, unknown)) == 6
    assert gemm_products("highest", isa, GemmProblem(64, 128, "columns"), None, "float32", (128,)) == 6
    assert gemm_products("highest", isa, GemmProblem(64, 128, "columns"), None, "float32", (1,)) is None


def inner_loop(assembly: str) -> list[str]:
    """The instructions of the loop with the most tile products."""
    blocks = assembly.split(".p2align\t4")
    return max((b.splitlines() for b in blocks), key=lambda lines: sum("tdpbf16ps" in x for x in lines[: _end(lines)]))


def _end(lines: list[str]) -> int:
    return next((i for i, x in enumerate(lines) if x.startswith("\tjne") or x.startswith("\tjl")), len(lines))


@pytest.mark.parametrize("products,loads", [(6, 14), (3, 8), (1, 4)])
@pytest.mark.parametrize("what", ["conv", "gemm"])
def test_inner_loop_on_hardware(what, products, loads):
    """Compiled for real tiles: four products for each pair of planes, no tile and no register spilled in the loop."""
    isa = isa_module.get("amx", cross=True)
    isa = replace(isa, llvm_features=isa.llvm_features + ",+avx512bf16", has_bf16=True)
    module = Module(isa)
    f = module.function("kernel", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
    args, thread, threads = f.args
    conv, gemm = ConvProblem(128, 128, (3, 3), ow=28), GemmProblem(512, 256)
    words = [*(conv_args(conv) if what == "conv" else gemm_args(gemm)), ("c", "ptr")]
    arg = {name: f.load(t, f.at(args, i, 8)) for i, (name, t) in enumerate(words)}

    def sink(f, acc, where, lanes, mask):
        f.store(acc, f.at(arg["c"], where["x" if what == "conv" else "m"], 64))

    emit, problem = (emit_amx_conv, conv) if what == "conv" else (emit_amx_gemm, gemm)
    emit(f, problem, products, isa, arg, thread, threads, sink)
    text = llvm.assembly(module.text(), isa)
    assert "ldtilecfg" in text and "tilerelease" in text
    lines = inner_loop(text)
    loop = lines[: _end(lines)]
    assert sum("tdpbf16ps" in x for x in loop) == 4 * products
    assert sum("tileloadd" in x for x in loop) == loads
    assert not any("rsp" in x for x in loop), "something is spilled"
