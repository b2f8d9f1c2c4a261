"""Convolutions against float64, at every instruction set level, with guard pages behind all buffers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from hasten.base.dims import evaluate, symbol
from hasten.codegen import isa as isa_module
from hasten.kernels.conv import (
    ConvProblem,
    conv_args,
    conv_operations,
    conv_scratch_bytes,
    emit_conv,
    pack_conv_weights,
)


@dataclass(frozen=True)
class Call:
    """A problem with its run-time sizes; pads are top, left, bottom, right."""

    problem: ConvProblem
    n: int
    h: int
    w: int
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    threads: int = 1

    def out(self) -> tuple[int, int]:
        p, (top, left, bottom, right) = self.problem, self.pads
        sizes = ((self.h + top + bottom, 0), (self.w + left + right, 1))
        return tuple((s - (p.kernel[i] - 1) * p.dilations[i] - 1) // p.strides[i] + 1 for s, i in sizes)  # type: ignore[return-value]


def reference(call: Call, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [n, h, w, c], w [o, c / group, kh, kw] -> [n, oh, ow, o] in the dtype of x."""
    p, (top, left, bottom, right), (oh, ow) = call.problem, call.pads, call.out()
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = np.zeros((call.n, oh, ow, p.outputs), x.dtype)
    cg, og = p.channels // p.group, p.outputs // p.group
    for ky in range(p.kernel[0]):
        for kx in range(p.kernel[1]):
            rows = slice(ky * p.dilations[0], ky * p.dilations[0] + (oh - 1) * p.strides[0] + 1, p.strides[0])
            columns = slice(kx * p.dilations[1], kx * p.dilations[1] + (ow - 1) * p.strides[1] + 1, p.strides[1])
            tap = padded[:, rows, columns, :]
            for g in range(p.group):
                part = tap[..., g * cg : (g + 1) * cg] @ w[g * og : (g + 1) * og, :, ky, kx].T
                y[..., g * og : (g + 1) * og] += part
    return y


def sink_for(arg):
    def sink(f, acc, where, lanes, mask):
        pixel = (where["n"] * arg["oh"] + where["y"]) * arg["ow"] + where["x"]
        p = f.at(arg["y"], pixel * arg["outputs"] + where["c"], 4)
        value = f.intrinsic("llvm.maxnum", acc.type, [acc * 2.0, f.const(acc.type, -1.0)])
        if mask is None:
            f.store(value, p)
        else:
            f.masked_store(value, p, mask)

    return sink


def looped_sink_for(arg):
    sink = sink_for(arg)
    sink.unroll = False
    return sink


def check(call: Call, level, kernel, guarded, bound, make_sink=sink_for) -> None:
    p, isa = call.problem, isa_module.get(level)
    rng = np.random.default_rng(p.channels + p.outputs + call.h)
    oh, ow = call.out()
    stride = p.pixel_stride if p.unit_channels and p.pixel_stride else p.channels
    x = rng.standard_normal((call.n, call.h, call.w, p.channels), np.float32)
    weights = rng.standard_normal((p.outputs, p.channels // p.group, *p.kernel), np.float32)
    packed = pack_conv_weights(p, isa, weights)
    if p.unit_channels:
        memory = np.zeros((call.n, call.h, call.w, stride), np.float32)
        memory[..., : p.channels] = x
        strides = {"xs_n": call.h * call.w * stride, "xs_y": call.w * stride, "xs_x": stride, "xs_c": 1}
        memory = memory.reshape(-1)[: max(0, memory.size - (stride - p.channels))]
    else:
        memory = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        strides = {"xs_n": call.h * call.w * stride, "xs_y": call.w, "xs_x": 1, "xs_c": call.h * call.w}

    def emit(f, isa, arg, thread, count):
        emit_conv(f, p, isa, arg, thread, count, make_sink(arg))

    compiled = kernel(level, [*conv_args(p), ("y", "ptr"), ("outputs", "i64")], emit)
    scratch = guarded(int(evaluate(conv_scratch_bytes(p, isa, call.h, call.w, oh, ow), {})), 64)
    scratch.array([scratch.nbytes // 4])[...] = np.nan
    y = guarded.of(np.full((call.n, oh, ow, p.outputs), np.nan, np.float32))
    compiled.run(
        call.threads,
        x=guarded.of(memory),
        weights=guarded.of(packed),
        scratch=scratch,
        n=call.n,
        h=call.h,
        w=call.w,
        oh=oh,
        ow=ow,
        pad_top=call.pads[0],
        pad_left=call.pads[1],
        y=y,
        outputs=p.outputs,
        **strides,
    )
    x64, w64 = x.astype(np.float64), weights.astype(np.float64)
    want, scale = reference(call, x64, w64), reference(call, np.abs(x64), np.abs(w64))
    got = y.array(want.shape)
    if got.size:
        error = np.abs(got - np.maximum(want * 2.0, -1.0))
        limit = bound(p.taps * p.channels // p.group, scale * 2.0 + 1e-30)
        assert (error <= limit).all(), f"largest error {np.nanmax(error / limit):.3g} of the bound"


SAME = (1, 1, 1, 1)
CALLS = [
    Call(ConvProblem(3, 16, (3, 3), (2, 2)), 1, 9, 11, SAME),
    Call(ConvProblem(16, 32, (1, 1)), 2, 5, 6, threads=2),
    Call(ConvProblem(16, 32, (1, 1), padded=False, pixel_stride=16), 1, 3, 16),
    Call(ConvProblem(20, 24, (1, 1), padded=False, pixel_stride=23, ow=17), 2, 3, 17, threads=3),
    Call(ConvProblem(20, 17, (1, 1), (2, 2), ow=5), 1, 9, 9),
    Call(ConvProblem(8, 64, (3, 3), ow=14), 2, 4, 14, SAME, threads=3),
    Call(ConvProblem(5, 7, (3, 3), ow=7), 1, 7, 7, SAME, threads=2),
    Call(ConvProblem(1, 1, (5, 5)), 1, 6, 5, (2, 2, 2, 2)),
    Call(ConvProblem(4, 40, (7, 7), (2, 2)), 1, 12, 13, (3, 3, 3, 3), threads=2),
    Call(ConvProblem(6, 10, (3, 2), (1, 3), (2, 2)), 1, 9, 12, (2, 0, 1, 1)),
    Call(ConvProblem(6, 9, (2, 2)), 1, 2, 2, (3, 4, 3, 4)),
    Call(ConvProblem(6, 9, (3, 3), (3, 4)), 1, 4, 4, (4, 5, 6, 7)),
    Call(ConvProblem(8, 12, (3, 3), group=2), 1, 6, 6, SAME, threads=3),
    Call(ConvProblem(24, 8, (1, 1), group=4, padded=False, pixel_stride=24), 1, 4, 4),
    Call(ConvProblem(512, 20, (1, 1), padded=False, pixel_stride=512), 1, 2, 30),
    Call(ConvProblem(256, 20, (3, 3), (2, 2)), 1, 5, 31, SAME),
    Call(ConvProblem(3, 16, (3, 3), (2, 2), unit_channels=False), 2, 9, 11, SAME),
    Call(ConvProblem(3, 16, (3, 3), (2, 2), unit_channels=False, pixel_stride=1), 2, 9, 61, SAME),
    Call(ConvProblem(1, 5, (3, 3), unit_channels=False, pixel_stride=1), 1, 5, 23, SAME),
    Call(ConvProblem(4, 5, (2, 3), unit_channels=False, pixel_stride=1, ow=40), 1, 5, 40, SAME),
    Call(ConvProblem(33, 4, (3, 3), unit_channels=False, ow=20), 1, 3, 20, SAME),
    Call(ConvProblem(40, 40, (1, 3), padded=False, pixel_stride=40, ow=30), 1, 1, 32, threads=2),
    Call(ConvProblem(64, 16, (3, 3)), 1, 40, 100, SAME),
    Call(ConvProblem(4, 4, (3, 3)), 0, 5, 5, SAME),
]


def describe(call: Call) -> str:
    p = call.problem
    filters = f"{p.channels}-{p.outputs}-k{p.kernel[0]}x{p.kernel[1]}-s{p.strides[0]}{p.strides[1]}-g{p.group}"
    return f"{filters}-{call.h}x{call.w}"


@pytest.mark.parametrize("call", CALLS, ids=describe)
def test_against_float64(level, kernel, guarded, bound, call):
    check(call, level, kernel, guarded, bound)


@pytest.mark.parametrize("ow", range(1, 33, 3))
def test_every_width(kernel, guarded, bound, ow):
    """Rows shorter, as long and longer than tiles, with the width known and not, copied and in place."""
    level = "avx2" if "avx2" in isa_module.available() else "portable"
    for known in (None, ow):
        check(Call(ConvProblem(3, 9, (3, 3), ow=known), 1, 3, ow, SAME), level, kernel, guarded, bound)
        place = ConvProblem(6, 24, (2, 2), ow=known, padded=False, pixel_stride=6)
        check(Call(place, 1, 4, ow + 1), level, kernel, guarded, bound)


def test_sink_that_is_not_unrolled(level, kernel, guarded, bound):
    for call in CALLS[:6]:
        check(call, level, kernel, guarded, bound, looped_sink_for)


def test_random_problems(kernel, guarded, bound, level):
    rng = np.random.default_rng(11)
    for _ in range(12):
        group = int(rng.choice([1, 1, 1, 2, 3]))
        kernel_size = tuple(int(v) for v in rng.integers(1, 5, 2))
        problem = ConvProblem(
            group * int(rng.integers(1, 20)),
            group * int(rng.integers(1, 40)),
            kernel_size,
            tuple(map(int, rng.integers(1, 4, 2))),
            tuple(map(int, rng.integers(1, 3, 2))),
            group,
        )
        pads = tuple(int(v) for v in rng.integers(0, 5, 4))
        reach = [(kernel_size[i] - 1) * problem.dilations[i] + 1 for i in (0, 1)]
        call = Call(
            problem,
            int(rng.integers(1, 3)),
            reach[0] + int(rng.integers(0, 9)),
            reach[1] + int(rng.integers(0, 30)),
            pads,
            2,
        )
        check(call, level, kernel, guarded, bound)
        if rng.random() < 0.5:
            check(replace(call, problem=replace(problem, ow=call.out()[1])), level, kernel, guarded, bound)


def test_scratch_is_a_symbolic_size():
    isa = isa_module.get("portable")
    p = ConvProblem(8, 8, (3, 3))
    h, w = symbol("h"), symbol("w")
    expression = conv_scratch_bytes(p, isa, h, w, h, w)
    assert evaluate(expression, {"h": 5, "w": 6}) == conv_scratch_bytes(p, isa, 5, 6, 5, 6)
    assert conv_operations(p, 1, 2, 3) == 2 * 6 * 8 * 8 * 9
