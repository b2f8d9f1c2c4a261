"""Convolutions on (emulated) tiles against float64, with guard pages behind all buffers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from hasten.base.dims import evaluate, symbol
from hasten.codegen import isa as isa_module
from hasten.kernels.amx_conv import amx_conv_scratch_bytes, emit_amx_conv, pack_amx_conv_weights, pixels_used
from hasten.kernels.conv import ConvProblem, conv_args

LEVELS = [name for name in ("amx", "amx-emulated") if name in isa_module.available()]
# largest error relative to sum |a b|: 2^-9 of each factor, 2^-16 of each, and float32's own rounding
BOUND = {1: 2.1 * 2.0**-8, 3: 3 * 2.0**-16, 6: 8 * 2.0**-24}


@dataclass(frozen=True)
class Call:
    """A problem with its run-time sizes; pads are top, left, bottom, right; `spare`: floats between pixels."""

    problem: ConvProblem
    n: int
    h: int
    w: int
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    threads: int = 1
    spare: int = 0

    def out(self) -> tuple[int, int]:
        p, (top, left, bottom, right) = self.problem, self.pads
        sizes = ((self.h + top + bottom, 0), (self.w + left + right, 1))
        oh, ow = ((s - (p.kernel[i] - 1) * p.dilations[i] - 1) // p.strides[i] + 1 for s, i in sizes)
        return oh, ow


def reference(call: Call, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [n, h, w, c], w [o, c / group, kh, kw] -> [n, oh, ow, o] in the dtype of x."""
    p, (top, left, bottom, right), (oh, ow) = call.problem, call.pads, call.out()
    x = x[:, max(0, -top) :, max(0, -left) :]  # negative padding leaves rows and columns out
    padded = np.pad(x, ((0, 0), (max(0, top), bottom), (max(0, left), right), (0, 0)))
    y = np.zeros((call.n, oh, ow, p.outputs), x.dtype)
    cg, og = p.group_channels, p.group_outputs
    for ky in range(p.kernel[0]):
        for kx in range(p.kernel[1]):
            rows = slice(ky * p.dilations[0], ky * p.dilations[0] + (oh - 1) * p.strides[0] + 1, p.strides[0])
            columns = slice(kx * p.dilations[1], kx * p.dilations[1] + (ow - 1) * p.strides[1] + 1, p.strides[1])
            tap = padded[:, rows, columns, :]
            for g in range(p.group):
                part = np.einsum("nyxc,oc->nyxo", tap[..., g * cg : (g + 1) * cg], w[g * og : (g + 1) * og, :, ky, kx])
                y[..., g * og : (g + 1) * og] += part
    return y


def convolve(kernel, guarded, level, call: Call, products: int, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    p, (oh, ow) = call.problem, call.out()
    pitch = p.channels + call.spare

    def emit(f, isa, arg, thread, count):
        def sink(f, acc, where, lanes, mask):
            pixel = (where["n"] * arg["oh"] + where["y"]) * arg["ow"] + where["x"]
            place = f.at(arg["y"], pixel * arg["outputs"] + where["c"], 4)
            if mask is None:
                f.store(acc, place)
            else:
                f.masked_store(acc, place, mask)

        emit_amx_conv(f, p, products, isa, arg, thread, count, sink)

    compiled = kernel(level, [*conv_args(p), ("y", "ptr"), ("outputs", "i64")], emit)
    memory = np.zeros((call.n, call.h, call.w, pitch), np.float32)
    memory[..., : p.channels] = x
    memory = memory.reshape(-1)[: max(0, memory.size - call.spare)]
    strides = {"xs_n": call.h * call.w * pitch, "xs_y": call.w * pitch, "xs_x": pitch, "xs_c": 1}
    scratch = guarded(int(evaluate(amx_conv_scratch_bytes(p, products, ow), {})), 64)
    scratch.array([scratch.nbytes // 4])[...] = np.nan
    y = guarded.of(np.full((call.n, oh, ow, p.outputs), 77, np.float32))
    packed = guarded.of(pack_amx_conv_weights(p, products, weights))
    sizes = {"n": call.n, "h": call.h, "w": call.w, "oh": oh, "ow": ow, "pad_top": call.pads[0], "pad_left": call.pads[1]}
    compiled.run(call.threads, x=guarded.of(memory), weights=packed, scratch=scratch, y=y, outputs=p.outputs, **sizes, **strides)
    return y.array((call.n, oh, ow, p.outputs))


def data(call: Call, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    p = call.problem
    x = rng.standard_normal((call.n, call.h, call.w, p.channels), np.float32)
    return x, rng.standard_normal((p.outputs, p.group_channels, *p.kernel), np.float32)


def check(kernel, guarded, level, call: Call, products: int, rng: np.random.Generator) -> None:
    x, weights = data(call, rng)
    got = convolve(kernel, guarded, level, call, products, x, weights)
    x64, w64 = x.astype(np.float64), weights.astype(np.float64)
    want, scale = reference(call, x64, w64), reference(call, np.abs(x64), np.abs(w64))
    if got.size:
        error = np.abs(got - want)
        limit = BOUND[products] * scale + 1e-30
        assert (error <= limit).all(), f"largest error {np.nanmax(error / limit):.3g} of the bound"


SAME = (1, 1, 1, 1)
CALLS = [
    Call(ConvProblem(16, 32, (1, 1)), 2, 5, 6, threads=2),
    Call(ConvProblem(20, 24, (1, 1), ow=17), 2, 3, 17, threads=3, spare=3),
    Call(ConvProblem(20, 17, (1, 1), (2, 2), ow=5), 1, 9, 9),
    Call(ConvProblem(40, 64, (3, 3), ow=14), 2, 4, 14, SAME, threads=3),
    Call(ConvProblem(40, 40, (3, 3), ow=7), 1, 7, 7, SAME, threads=2),
    Call(ConvProblem(64, 16, (3, 3), ow=32), 1, 5, 32, SAME),
    Call(ConvProblem(33, 40, (7, 7), (2, 2)), 1, 12, 13, (3, 3, 3, 3), threads=2),
    Call(ConvProblem(6, 10, (3, 2), (1, 3), (2, 2)), 1, 9, 12, (2, 0, 1, 1)),
    Call(ConvProblem(6, 9, (2, 2)), 1, 2, 2, (3, 4, 3, 4)),
    Call(ConvProblem(6, 9, (3, 3), (3, 4)), 1, 4, 4, (4, 5, 6, 7)),
    Call(ConvProblem(80, 72, (3, 3), group=2), 1, 6, 6, SAME, threads=3),
    Call(ConvProblem(24, 8, (1, 1), group=4), 1, 4, 4),
    Call(ConvProblem(256, 20, (3, 3), (2, 2)), 1, 5, 31, SAME),
    Call(ConvProblem(40, 40, (1, 3), ow=30), 1, 1, 32, threads=2),
    Call(ConvProblem(64, 16, (3, 3), (1, 1), (6, 6), ow=12), 1, 12, 12, (6, 6, 6, 6)),
    Call(ConvProblem(34, 40, (2, 2)), 1, 8, 9, (-2, -3, 1, 1), threads=2),
    Call(ConvProblem(34, 40, (3, 3), (2, 3)), 1, 9, 15, (-1, -2, 1, 1)),
    Call(ConvProblem(4, 4, (3, 3)), 0, 5, 5, SAME),
    Call(ConvProblem(128, 16, (3, 3), ow=60), 1, 14, 60, SAME, threads=2),
]


def describe(call: Call) -> str:
    p = call.problem
    filters = f"{p.channels}-{p.outputs}-k{p.kernel[0]}x{p.kernel[1]}-s{p.strides[0]}{p.strides[1]}-g{p.group}"
    return f"{filters}-{call.h}x{call.w}"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("call", CALLS, ids=describe)
def test_six_products(level, kernel, guarded, call, rng):
    check(kernel, guarded, level, call, 6, rng)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("products", [1, 3])
def test_fewer_products(level, kernel, guarded, products, rng):
    for call in CALLS[:9:2]:
        check(kernel, guarded, level, call, products, rng)


@pytest.mark.parametrize("ow", [1, 2, 15, 16, 17, 31, 32, 33])
def test_every_width(kernel, guarded, ow, rng):
    for known in (None, ow):
        check(kernel, guarded, LEVELS[-1], Call(ConvProblem(3, 9, (3, 3), ow=known), 1, 3, ow, SAME), 6, rng)


def test_random_problems(kernel, guarded, rng):
    for _ in range(12):
        group = int(rng.choice([1, 1, 1, 2, 3]))
        size = tuple(int(v) for v in rng.integers(1, 5, 2))
        problem = ConvProblem(
            group * int(rng.integers(1, 50)),
            group * int(rng.integers(1, 50)),
            size,
            tuple(map(int, rng.integers(1, 5, 2))),
            tuple(map(int, rng.integers(1, 5, 2))),
            group,
        )
        pads = tuple(int(v) for v in rng.integers(0, 5, 4))
        reach = [(size[i] - 1) * problem.dilations[i] + 1 for i in (0, 1)]
        h, w = reach[0] + int(rng.integers(0, 9)), reach[1] + int(rng.integers(0, 30))
        call = Call(problem, int(rng.integers(1, 3)), h, w, pads, 2, int(rng.integers(0, 3)))
        if rng.random() < 0.5:
            call = replace(call, problem=replace(problem, ow=call.out()[1]))
        check(kernel, guarded, LEVELS[-1], call, int(rng.choice([1, 3, 6])), rng)


@pytest.mark.parametrize("products", [1, 3, 6])
def test_special_values(kernel, guarded, products, rng):
    """Infinities and NaN reach the outputs that float32's would reach, and no others."""
    call = Call(ConvProblem(40, 20, (3, 3)), 2, 6, 20, SAME)
    x, weights = data(call, rng)
    x[0, 0, 0, 3], x[0, 3, 9, 39], x[0, 3, 10, 38], x[0, 5, 17, 0] = np.inf, -np.inf, np.inf, np.nan
    weights[4, 3], weights[5, 39] = 1.0, 0.0
    got = convolve(kernel, guarded, LEVELS[-1], call, products, x, weights)
    with np.errstate(all="ignore"):
        want = reference(call, x, weights)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)])
    clean = np.isfinite(want)
    scale = reference(call, np.abs(np.nan_to_num(x, posinf=0, neginf=0)), np.abs(weights))
    assert (np.abs(got[clean] - want[clean]) <= 2 * BOUND[products] * scale[clean]).all()


def test_scratch_is_a_symbolic_size():
    p, w = ConvProblem(64, 8, (3, 3)), symbol("w")
    expression = amx_conv_scratch_bytes(p, 6, w)
    assert evaluate(expression, {"w": 2000}) == amx_conv_scratch_bytes(p, 6, 2000)


def test_share_of_pixels_used():
    assert pixels_used(ConvProblem(64, 64, (3, 3), ow=32), 8) == 1.0
    assert pixels_used(ConvProblem(64, 64, (1, 1), ow=7), 7) == 49 / 64
    assert pixels_used(ConvProblem(64, 64, (1, 1), ow=1), 1) == 1 / 16
