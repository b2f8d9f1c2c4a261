"""Depthwise convolutions against float64, at every instruction set level, with guard pages behind all buffers."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.base.dims import evaluate
from hasten.codegen import isa as isa_module
from hasten.kernels.depthwise import (
    DepthwiseProblem,
    depthwise_args,
    depthwise_operations,
    depthwise_scratch_bytes,
    emit_depthwise,
    pack_depthwise_weights,
)


def reference(p: DepthwiseProblem, x: np.ndarray, w: np.ndarray, pads, out) -> np.ndarray:
    (top, left, bottom, right), (oh, ow) = pads, out
    padded = np.repeat(np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))), p.multiplier, axis=3)
    y = np.zeros((x.shape[0], oh, ow, p.outputs), x.dtype)
    for ky in range(p.kernel[0]):
        for kx in range(p.kernel[1]):
            rows = slice(ky * p.dilations[0], ky * p.dilations[0] + (oh - 1) * p.strides[0] + 1, p.strides[0])
            columns = slice(kx * p.dilations[1], kx * p.dilations[1] + (ow - 1) * p.strides[1] + 1, p.strides[1])
            y += padded[:, rows, columns] * w[:, 0, ky, kx]
    return y


def sink_for(arg):
    def sink(f, acc, where, lanes, mask):
        pixel = (where["n"] * arg["oh"] + where["y"]) * arg["ow"] + where["x"]
        p = f.at(arg["y"], pixel * arg["outputs"] + where["c"], 4)
        if mask is None:
            f.store(acc, p)
        else:
            f.masked_store(acc, p, mask)

    return sink


def check(level, kernel, guarded, bound, p: DepthwiseProblem, n, h, w, pads, threads) -> None:
    isa = isa_module.get(level)
    rng = np.random.default_rng(p.channels + h)
    (top, left, bottom, right) = pads
    sizes = (h + top + bottom, w + left + right)
    oh, ow = ((s - (p.kernel[i] - 1) * p.dilations[i] - 1) // p.strides[i] + 1 for i, s in enumerate(sizes))
    stride = p.pixel_stride or p.channels + 2
    x = rng.standard_normal((n, h, w, p.channels), np.float32)
    weights = rng.standard_normal((p.outputs, 1, *p.kernel), np.float32)
    memory = np.full((n, h, w, stride), np.nan, np.float32)
    memory[..., : p.channels] = x
    memory = memory.reshape(-1)[: max(0, memory.size - (stride - p.channels))]

    def emit(f, isa, arg, thread, count):
        emit_depthwise(f, p, isa, arg, thread, count, sink_for(arg))

    compiled = kernel(level, [*depthwise_args(p), ("y", "ptr"), ("outputs", "i64")], emit)
    y = guarded.of(np.full((n, oh, ow, p.outputs), np.nan, np.float32))
    compiled.run(
        threads,
        x=guarded.of(memory),
        weights=guarded.of(pack_depthwise_weights(p, isa, weights)),
        scratch=guarded(int(evaluate(depthwise_scratch_bytes(p, isa, h, w, oh, ow), {})), 4),
        n=n,
        h=h,
        w=w,
        oh=oh,
        ow=ow,
        pad_top=top,
        pad_left=left,
        xs_n=h * w * stride,
        xs_y=w * stride,
        xs_x=stride,
        y=y,
        outputs=p.outputs,
    )
    x64, w64 = x.astype(np.float64), weights.astype(np.float64)
    want, scale = reference(p, x64, w64, pads, (oh, ow)), reference(p, np.abs(x64), np.abs(w64), pads, (oh, ow))
    error, limit = np.abs(y.array(want.shape) - want), bound(p.kernel[0] * p.kernel[1], scale + 1e-30)
    assert (error <= limit).all(), f"largest error {np.nanmax(error / limit, initial=0):.3g} of the bound"


D = DepthwiseProblem
CASES = [
    (D(16), 1, 6, 9, (1, 1, 1, 1), 1),
    (D(32, ow=14), 2, 3, 14, (1, 1, 1, 1), 3),
    (D(24, kernel=(5, 5)), 1, 4, 12, (2, 2, 2, 2), 2),
    (D(40, strides=(2, 2), ow=7), 1, 14, 14, (1, 1, 1, 1), 1),
    (D(7), 2, 5, 13, (1, 1, 1, 1), 2),
    (D(1), 1, 5, 5, (0, 0, 0, 0), 1),
    (D(19, kernel=(3, 2), strides=(1, 3), dilations=(2, 2)), 1, 7, 30, (1, 3, 0, 2), 1),
    (D(33, kernel=(1, 7)), 1, 1, 40, (0, 3, 0, 3), 3),
    (D(8, kernel=(3, 3)), 1, 1, 1, (2, 2, 2, 2), 1),
    (D(8, kernel=(3, 3)), 1, 2, 3, (5, 5, 4, 6), 2),
    (D(6, multiplier=3), 2, 5, 12, (1, 1, 1, 1), 1),
    (D(16, multiplier=2, strides=(2, 1)), 1, 6, 20, (0, 1, 1, 0), 1),
    (D(48, pixel_stride=48), 1, 7, 7, (1, 1, 1, 1), 5),
    (D(16), 0, 6, 9, (1, 1, 1, 1), 1),
]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c[0].channels}-k{c[0].kernel[0]}x{c[0].kernel[1]}-{c[2]}x{c[3]}"
)
def test_against_float64(level, kernel, guarded, bound, case):
    check(level, kernel, guarded, bound, *case)


def test_operations():
    assert depthwise_operations(D(4), 1, 2, 3) == 2 * 6 * 4 * 9
