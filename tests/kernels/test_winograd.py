"""Winograd convolution against float64, at every instruction set level, with guard pages behind all buffers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

import hasten
from hasten.base.dims import symbol
from hasten.codegen import isa as isa_module
from hasten.kernels.conv import ConvProblem
from hasten.kernels.dense_winograd import winograd_problem
from hasten.kernels.winograd import WINOGRAD_ARGS, WinogradProblem, emit_winograd, layout, pack_winograd_weights, winograd_scratch_bytes
from hasten.kernels.winograd_matrices import POINTS, Algorithm, algorithm

PAIRS = [(m, r) for n in POINTS for r in range(1, n + 1) for m in [n + 1 - r]]


@pytest.mark.parametrize(("m", "r"), PAIRS, ids=lambda v: str(v))
def test_the_matrices_compute_convolution(m, r):
    """The bilinear identity, in exact arithmetic: sum over points of A[i] G[k] B[j] is 1 where j = i + k, else 0."""
    a = algorithm(m, r)
    for i in range(m):
        for k in range(r):
            for j in range(a.n):
                total = sum(a.output[i][p] * a.filter[p][k] * a.input[p][j] for p in range(a.n))
                assert total == Fraction(int(j == i + k))


@pytest.mark.parametrize(("m", "r"), PAIRS, ids=lambda v: str(v))
def test_coefficients_of_transforms_are_float32(m, r):
    a = algorithm(m, r)
    for c in (c for matrix in (a.output, a.input) for row in matrix for c in row):
        assert Fraction(float(np.float32(float(c)))) == c


def test_points_are_checked():
    with pytest.raises(ValueError, match="4 different finite points"):
        algorithm(3, 3, (Fraction(0), Fraction(1), Fraction(1), Fraction(2)))


@dataclass(frozen=True)
class Call:
    """A problem with its run-time sizes; pads are top, left, bottom, right; `gap` floats lie between pixels."""

    problem: WinogradProblem
    n: int
    h: int
    w: int
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    threads: int = 1
    gap: int = 0

    def out(self) -> tuple[int, int]:
        (top, left, bottom, right), (kh, kw) = self.pads, self.problem.kernel
        return self.h + top + bottom - kh + 1, self.w + left + right - kw + 1


def patches(call: Call, x: np.ndarray) -> np.ndarray:
    """The inputs of all tiles, [n, tiles_y, tiles_x, n_y, n_x, c], padded with zeros."""
    (top, left, _, _), (oh, ow), (y, x_) = call.pads, call.out(), call.problem.algorithms
    down, across = -(-oh // y.m), -(-ow // x_.m)
    height, width = (down - 1) * y.m + y.n, (across - 1) * x_.m + x_.n
    image = np.zeros((call.n, max(height, top + call.h), max(width, left + call.w), x.shape[-1]))
    image[:, top : top + call.h, left : left + call.w] = x
    windows = np.lib.stride_tricks.sliding_window_view(image[:, :height, :width], (y.n, x_.n), (1, 2))
    return windows[:, :: y.m, :: x_.m].transpose(0, 1, 2, 4, 5, 3)


def float64(matrix, absolute: bool) -> np.ndarray:
    values = np.array([[float(c) for c in row] for row in matrix])
    return np.abs(values) if absolute else values


def products(call: Call, x: np.ndarray, w: np.ndarray, absolute: bool) -> np.ndarray:
    """The algorithm in float64: [n, oh, ow, o]. With `absolute` every number is replaced by its magnitude: what the rounding
    errors of each step are relative to."""
    (y, x_), (oh, ow) = call.problem.algorithms, call.out()
    u = np.einsum("ia,ocab,jb->ijco", float64(y.filter, absolute), w, float64(x_.filter, absolute))
    v = np.einsum("ia,ntuabc,jb->ntuijc", float64(y.input, absolute), patches(call, x), float64(x_.input, absolute))
    m = np.einsum("ntuijc,ijco->ntuijo", v, u)
    out = np.einsum("ai,ntuijo,bj->ntuabo", float64(y.output, absolute), m, float64(x_.output, absolute))
    n, down, across = out.shape[:3]
    return out.transpose(0, 1, 3, 2, 4, 5).reshape(n, down * y.m, across * x_.m, w.shape[0])[:, :oh, :ow]


def reference(call: Call, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Direct convolution in float64."""
    (top, left, bottom, right), (oh, ow) = call.pads, call.out()
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    kh, kw = call.problem.kernel
    taps = [padded[:, ky : ky + oh, kx : kx + ow] @ w[:, :, ky, kx].T for ky in range(kh) for kx in range(kw)]
    return np.asarray(sum(taps))


def roundings(y: Algorithm, x: Algorithm, channels: int) -> int:
    """Roundings that one product and its operands go through at most: transforms of n and n terms each, the rounding of the
    weights, a sum over the channels."""
    return 2 * (y.n + x.n) + 1 + channels


def sink_for(arg, unroll):
    def sink(f, acc, where, lanes, mask):
        pixel = (where["n"] * arg["oh"] + where["y"]) * arg["ow"] + where["x"]
        p = f.at(arg["y"], pixel * arg["outputs"] + where["c"], 4)
        value = f.intrinsic("llvm.maxnum", acc.type, [acc * 2.0, f.const(acc.type, -1.0)])
        if mask is None:
            f.store(value, p)
        else:
            f.masked_store(value, p, mask)

    sink.unroll = unroll
    return sink


def check(call: Call, level, kernel, guarded, unroll=True) -> None:
    p, isa = call.problem, isa_module.get(level)
    rng = np.random.default_rng(p.channels + p.outputs + call.h)
    (oh, ow), stride = call.out(), p.channels + call.gap
    x = rng.standard_normal((call.n, call.h, call.w, p.channels), np.float32)
    weights = rng.standard_normal((p.outputs, p.channels, *p.kernel), np.float32)
    memory = np.full((call.n, call.h, call.w, stride), np.nan, np.float32)
    memory[..., : p.channels] = x
    memory = memory.reshape(-1)[: max(0, memory.size - call.gap)]
    compiled = kernel(
        level,
        [*WINOGRAD_ARGS, ("y", "ptr"), ("outputs", "i64")],
        lambda f, isa, arg, thread, threads: emit_winograd(f, p, isa, arg, thread, threads, sink_for(arg, unroll)),
    )
    scratch = guarded(winograd_scratch_bytes(p, isa), 64)
    scratch.array([scratch.nbytes // 4])[...] = np.nan
    y = guarded.of(np.full((call.n, oh, ow, p.outputs), np.nan, np.float32))
    sizes = {"n": call.n, "h": call.h, "w": call.w, "oh": oh, "ow": ow, "pad_top": call.pads[0], "pad_left": call.pads[1]}
    strides = {"xs_n": call.h * call.w * stride, "xs_y": call.w * stride, "xs_x": stride, "xs_c": 1}
    buffers = {"x": guarded.of(memory), "weights": guarded.of(pack_winograd_weights(p, isa, weights)), "scratch": scratch, "y": y}
    compiled.run(call.threads, **buffers, **sizes, **strides, outputs=p.outputs)
    x64, w64 = x.astype(np.float64), weights.astype(np.float64)
    want, scale = reference(call, x64, w64), products(call, np.abs(x64), np.abs(w64), True)
    got = y.array(want.shape)
    if got.size:
        error = np.abs(got - np.maximum(want * 2.0, -1.0))
        limit = (roundings(*p.algorithms, p.channels) * np.finfo(np.float32).eps / 2) * scale * 2.0 + 1e-30
        assert (error <= limit).all(), f"largest error {np.nanmax(error / limit):.3g} of the bound"
        strict = 64 * np.finfo(np.float32).eps * max(p.channels, 8) ** 0.5 * np.abs(want).max() * 2.0
        assert error.max() <= strict, f"largest error {error.max() / strict:.3g} of what random roundings come to"


TWO, FOUR = (2, 2), (4, 4)
CALLS = [
    Call(WinogradProblem(16, 32, (3, 3), TWO), 1, 8, 8),
    Call(WinogradProblem(16, 32, (3, 3), FOUR), 1, 8, 8),
    Call(WinogradProblem(20, 24, (3, 3), FOUR), 2, 13, 11, threads=2, gap=3),
    Call(WinogradProblem(7, 5, (3, 3), TWO, pixel_stride=9), 2, 7, 9, threads=3, gap=2),
    Call(WinogradProblem(3, 17, (3, 3), FOUR), 1, 2, 1),
    Call(WinogradProblem(33, 70, (3, 3), FOUR, tiles=3), 3, 1, 2, threads=2),
    Call(WinogradProblem(16, 16, (3, 3), TWO), 1, 3, 3, (0, 0, 0, 0)),
    Call(WinogradProblem(8, 16, (3, 3), FOUR), 1, 6, 6, (4, 5, 3, 2)),
    Call(WinogradProblem(8, 40, (3, 3), (4, 2)), 2, 9, 9),
    Call(WinogradProblem(8, 40, (3, 3), (2, 4)), 1, 9, 9, threads=4),
    Call(WinogradProblem(8, 12, (3, 3), (3, 3)), 1, 9, 7),
    Call(WinogradProblem(64, 16, (3, 3), TWO), 1, 30, 50, threads=2),
    Call(WinogradProblem(256, 20, (3, 3), FOUR, tiles=35), 1, 20, 26),
    Call(WinogradProblem(272, 20, (3, 3), FOUR), 1, 9, 50),
    Call(WinogradProblem(12, 24, (1, 3), (1, 4)), 1, 1, 30, (0, 1, 0, 1), threads=2),
    Call(WinogradProblem(12, 24, (1, 5), (1, 2)), 1, 1, 11, (0, 2, 0, 2)),
    Call(WinogradProblem(12, 24, (3, 1), (4, 1)), 1, 11, 5, (1, 0, 1, 0)),
    Call(WinogradProblem(12, 24, (5, 5), (2, 2)), 1, 11, 5, (2, 2, 2, 2)),
    Call(WinogradProblem(4, 4, (3, 3), TWO), 0, 5, 5),
]


def describe(call: Call) -> str:
    p = call.problem
    return f"{p.channels}-{p.outputs}-k{p.kernel[0]}x{p.kernel[1]}-F{p.outputs_of_tile[0]}x{p.outputs_of_tile[1]}-{call.h}x{call.w}"


@pytest.mark.parametrize("call", CALLS, ids=describe)
def test_against_float64(level, kernel, guarded, call):
    check(call, level, kernel, guarded)


def test_sink_that_is_not_unrolled(level, kernel, guarded):
    for call in CALLS[:3]:
        check(call, level, kernel, guarded, unroll=False)


@pytest.mark.slow
def test_random_problems(level, kernel, guarded):
    rng = np.random.default_rng(5)
    for _ in range(10):
        kernel_size = tuple(map(int, rng.choice([1, 2, 3, 3, 3], 2)))
        tile = tuple(int(rng.integers(1, 8 - r)) if r > 1 else 1 for r in kernel_size)
        tile = tuple(min(m, 4) for m in tile)
        known = int(rng.integers(1, 60)) if rng.random() < 0.5 else None
        problem = WinogradProblem(int(rng.integers(1, 70)), int(rng.integers(1, 70)), kernel_size, tile, known, 1 if rng.random() < 0.5 else None)
        pads = tuple(map(int, rng.integers(0, 4, 4)))
        h, w = (r + int(rng.integers(0, 20)) for r in kernel_size)
        check(Call(problem, int(rng.integers(1, 4)), h, w, pads, int(rng.integers(1, 5)), int(rng.integers(0, 3))), level, kernel, guarded)


def test_the_float64_algorithm_is_the_convolution():
    """What the tolerance is derived from computes the same thing."""
    call = CALLS[8]
    p, rng = call.problem, np.random.default_rng(0)
    x = rng.standard_normal((call.n, call.h, call.w, p.channels))
    w = rng.standard_normal((p.outputs, p.channels, *p.kernel))
    assert np.allclose(products(call, x, w, False), reference(call, x, w), rtol=0, atol=1e-11)


def choice(problem: ConvProblem, size, precision="highest", batch=1):
    """The outputs of a tile that would be used; None: the direct kernel."""
    weights = np.ones((problem.outputs, problem.channels, *problem.kernel), np.float32)
    chosen = winograd_problem(precision, isa_module.get("avx512", cross=True), problem, weights, batch, size, size)
    return None if chosen is None else chosen.outputs_of_tile


def test_precision_decides_what_is_allowed():
    for channels, tile in ((6, (2, 2)), (24, (4, 2)), (64, (4, 4))):
        problem = ConvProblem(channels, 64, (3, 3))
        assert choice(problem, 64, "strict") is None
        assert choice(problem, 64, "highest") == tile
        assert choice(problem, 64, "high") == choice(problem, 64, "medium") == (4, 4)


def test_only_plain_convolutions_are_suitable():
    assert choice(ConvProblem(64, 64, (3, 3)), 32) == (4, 4)
    others = [
        ConvProblem(64, 64, (3, 3), strides=(2, 2)),
        ConvProblem(64, 64, (3, 3), dilations=(2, 2)),
        ConvProblem(64, 64, (3, 3), group=2),
        ConvProblem(64, 64, (3, 3), unit_channels=False),
        ConvProblem(64, 64, (1, 1)),
        ConvProblem(64, 64, (2, 2)),
    ]
    assert [choice(problem, 32) for problem in others] == [None] * len(others)
    weights = np.full((64, 64, 3, 3), np.inf, np.float32)
    assert winograd_problem("highest", isa_module.get("portable"), ConvProblem(64, 64, (3, 3)), weights, 1, 32, 32) is None


def test_filters_with_one_large_weight_are_direct():
    problem, rng = ConvProblem(64, 64, (3, 3)), np.random.default_rng(1)
    weights = rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
    target = isa_module.get("avx512", cross=True)
    assert winograd_problem("highest", target, problem, weights, 1, 32, 32) is not None
    weights[3, 5, 1, 2] = 100.0  # a fifth of all squares
    assert winograd_problem("highest", target, problem, weights, 1, 32, 32) is None
    assert winograd_problem("highest", target, problem, np.zeros_like(weights), 1, 32, 32) is not None


@pytest.mark.parametrize("name", ["portable", "avx2", "avx512"])
def test_all_register_tiles_of_a_kernel_add_up_in_one_order(name):
    """Which tile computes an output depends on how threads share the work; its bits must not."""
    isa = isa_module.get(name, cross=True)
    for outputs, tiles, images in itertools.product((4, 16, 40), (None, 1, 3, 16, 35, 500), (None, 1, 8)):
        shapes = layout(WinogradProblem(32, outputs, (3, 3), FOUR, tiles, images), isa).plan.shapes
        assert len({shape.splits for shape in shapes}) == 1 and shapes == sorted(shapes, key=lambda shape: -shape.rows)


def test_cost_decides_what_is_used():
    assert choice(ConvProblem(256, 256, (3, 3)), 4) == (2, 2)  # one tile of 4x4 is not worth transforming the filters for 36 points
    assert choice(ConvProblem(64, 64, (3, 3)), 2) is None
    assert choice(ConvProblem(64, 64, (3, 3)), symbol("size"), batch=symbol("n")) == (4, 4)


@pytest.mark.parametrize("dims", [1, 2])
def test_in_a_model_with_sizes_of_the_call(dims):
    """The same compiled model at several sizes: bias, residual and ReLU in the kernel's epilogue."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    w = rng.standard_normal((24, 24, *[3] * dims)).astype(np.float32)
    b = rng.standard_normal(24).astype(np.float32)
    shape = ["n", 24, *["h", "w"][-dims:]]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * (2 * dims)),
        helper.make_node("Add", ["c", "x"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    compiled = hasten.compile(model, isa="portable", threads=2)
    assert any("Winograd" in node.algorithm for node in compiled.report().nodes)
    for n, size in ((1, 1), (2, 9), (1, 40)):
        x = rng.standard_normal((n, 24, *[size] * dims)).astype(np.float32)
        call = Call(WinogradProblem(24, 24, (3, 3), TWO), n, size if dims == 2 else 1, size)
        taps = w if dims == 2 else np.pad(w[:, :, None], ((0, 0), (0, 0), (1, 1), (0, 0)))
        image = x.reshape(n, 24, -1, size).transpose(0, 2, 3, 1).astype(np.float64)
        want = np.maximum(reference(call, image, taps.astype(np.float64)) + b + image, 0)
        got = compiled.run({"x": x})["y"].reshape(n, 24, -1, size).transpose(0, 2, 3, 1)
        # 216 products: 2^-24 * 216 of the sum of magnitudes at worst, and the largest output is about a tenth of that sum
        assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()
