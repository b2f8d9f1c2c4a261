"""Depthwise convolutions with their 1x1 neighbours as one kernel, against float64, at every instruction set level, with guard pages behind all
buffers and scratch that is not clean."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.base.dims import evaluate
from hasten.codegen import isa as isa_module
from hasten.kernels import separable
from hasten.kernels.conv import ConvProblem, pack_conv_weights
from hasten.kernels.depthwise import DepthwiseProblem, pack_depthwise_weights
from hasten.kernels.separable import SEPARABLE_ARGS, SeparableProblem, emit_separable, separable_scratch_bytes


def depthwise(p: DepthwiseProblem, x, w, pads, out):
    """x [n, h, w, channels] by the filters w."""
    (top, left, bottom, right), (oh, ow) = pads, out
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))), p.kernel, (1, 2))
    return np.einsum("nyxcij,cij->nyxc", windows[:, :: p.strides[0], :: p.strides[1]][:, :oh, :ow], w[:, 0])


def sink_for(arg):
    def sink(f, acc, where, lanes, mask):
        pixel = (where["n"] * arg["oh"] + where["y"]) * arg["ow"] + where["x"]
        p = f.at(arg["y"], pixel * arg["outputs"] + where["c"], 4)
        if mask is None:
            f.store(acc, p)
        else:
            f.masked_store(acc, p, mask)

    return sink


def middle_for(arg, name):
    """max(sums + bias, 0), with a bias for each channel."""

    def middle(f, acc, where, lanes, mask):
        p = f.at(arg[name], where["c"], 4)
        bias = f.load(acc.type, p) if mask is None else f.masked_load(acc.type, p, mask)
        return f.smax(acc + bias, 0.0)

    return middle


def want(p: SeparableProblem, x, first, weights, last, biases, pads, out):
    """The result in float64, and the same with everything positive: the scale of its error."""
    results = []
    for magnitude in (False, True):
        x_, f_, w_, l_, (b0, b1) = (np.abs(v) if magnitude else v for v in (x, first, weights, last, np.stack(biases)))
        y = x_
        if p.first is not None:
            y = np.maximum(np.einsum("nhwk,ck->nhwc", y, f_) + b0, 0)
        y = depthwise(p.depthwise, y, w_, pads, out)
        if p.last is not None:
            y = np.einsum("nhwc,oc->nhwo", np.maximum(y + b1, 0), l_)
        results.append(y)
    return results


def check(level, kernel, guarded, bound, p: SeparableProblem, n, h, w, pads, threads) -> None:
    isa, d = isa_module.get(level), p.depthwise
    rng = np.random.default_rng(d.channels + h)
    top, left, bottom, right = pads
    oh, ow = ((s - d.kernel[i]) // d.strides[i] + 1 for i, s in enumerate((h + top + bottom, w + left + right)))
    channels = d.channels if p.first is None else p.first
    stride = d.pixel_stride or channels + 2
    x = rng.standard_normal((n, h, w, channels), np.float32)
    memory = np.full((n, h, w, stride), np.nan, np.float32)
    memory[..., :channels] = x
    memory = memory.reshape(-1)[: max(0, memory.size - (stride - channels))]
    first, last = rng.standard_normal((d.channels, channels), np.float32), rng.standard_normal((p.outputs, d.channels), np.float32)
    weights = rng.standard_normal((d.channels, 1, *d.kernel), np.float32)
    biases = rng.standard_normal((2, d.channels)).astype(np.float32)

    def emit(f, isa, arg, thread, count):
        middles = [middle_for(arg, name) for name, there in (("bias0", p.first), ("bias1", p.last)) if there is not None]
        emit_separable(f, p, isa, arg, thread, count, middles, sink_for(arg))

    words = [*SEPARABLE_ARGS, *((name, "ptr") for name in ("y", "bias0", "bias1")), ("outputs", "i64")]
    compiled = kernel(level, words, emit)
    scratch = guarded(int(evaluate(separable_scratch_bytes(p, isa, w, ow, left), {})), 4)
    scratch.array([scratch.nbytes // 4])[...] = np.nan
    y = guarded.of(np.full((n, oh, ow, p.outputs), np.nan, np.float32))
    before = ConvProblem(channels, d.channels, (1, 1), ow=p.w, padded=False)
    behind = ConvProblem(d.channels, p.outputs, (1, 1), ow=d.ow, padded=False)
    compiled.run(
        threads,
        x=guarded.of(memory), scratch=scratch, y=y, bias0=guarded.of(biases[0]), bias1=guarded.of(biases[1]),
        weights=guarded.of(pack_depthwise_weights(d, isa, weights)),
        first_weights=guarded.of(pack_conv_weights(before, isa, first[..., None, None])),
        last_weights=guarded.of(pack_conv_weights(behind, isa, last[..., None, None])),
        n=n, h=h, w=w, oh=oh, ow=ow, pad_top=top, pad_left=left, xs_n=h * w * stride, xs_y=w * stride, xs_x=stride, outputs=p.outputs,
    )  # fmt: skip
    exact, scale = want(p, *(v.astype(np.float64) for v in (x, first, weights, last)), biases.astype(np.float64), pads, (oh, ow))
    terms = (channels if p.first is not None else 1) + d.kernel[0] * d.kernel[1] + (d.channels if p.last is not None else 0) + 2
    error, limit = np.abs(y.array(exact.shape) - exact), bound(terms, scale + 1e-30)
    assert (error <= limit).all(), f"largest error {np.nanmax(error / limit, initial=0):.3g} of the bound"


D, S = DepthwiseProblem, SeparableProblem
SHAPES = [
    (D(16), 1, 6, 9, (1, 1, 1, 1), 1),
    (D(32, ow=14), 2, 5, 14, (1, 1, 1, 1), 3),
    (D(24, kernel=(5, 5)), 1, 7, 12, (2, 2, 2, 2), 2),
    (D(40, strides=(2, 2), ow=7), 1, 14, 14, (1, 1, 1, 1), 2),
    (D(7), 2, 5, 13, (1, 1, 1, 1), 2),
    (D(19, kernel=(3, 2), strides=(1, 3)), 1, 7, 30, (1, 3, 0, 2), 1),
    (D(21, kernel=(2, 3), strides=(3, 2), ow=4), 2, 9, 7, (0, 1, 0, 1), 2),
    (D(8), 1, 2, 3, (2, 2, 2, 2), 1),
    (D(48, pixel_stride=48), 1, 7, 7, (1, 1, 1, 1), 5),
    (D(16), 0, 6, 9, (1, 1, 1, 1), 1),
]
AROUND = [(5, None), (None, 6), (48, 17)]


@pytest.mark.parametrize("around", AROUND, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda c: f"{c[0].channels}-k{c[0].kernel[0]}x{c[0].kernel[1]}-{c[2]}x{c[3]}")
def test_against_float64(level, kernel, guarded, bound, monkeypatch, shape, around):
    monkeypatch.setattr(separable, "RING_BYTES", 4096)  # a few rows: they go round
    monkeypatch.setattr(separable, "STRIP_BYTES", 2048)
    d, n, h, w, pads, threads = shape
    first, last = around
    known = w if d.ow is not None else None
    check(level, kernel, guarded, bound, S(d, first, last, known), n, h, w, pads, threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_large_strips(level, kernel, guarded, bound, threads):
    check(level, kernel, guarded, bound, S(D(24, strides=(2, 2), ow=40), 9, 40, 80), 1, 33, 80, (1, 1, 1, 1), threads)
