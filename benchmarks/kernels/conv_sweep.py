"""Typical convolution layers on one thread: GFLOP/s, share of the FMA peak, and speed relative to ONNX Runtime (bias +
ReLU in both).

    python benchmarks/kernels/conv_sweep.py [--isa avx512] [--seconds 0.4] [name ...]

ONNX Runtime is given its own layout (NCHW in and out, a single Conv node, so its layout conversions are part of its
time where it makes them); Hasten is given channels-last activations. The figures are minima; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from harness import Kernel, aligned, fma_peak, minima, session

from hasten.base.dims import evaluate
from hasten.codegen import isa as isa_module
from hasten.codegen.isa import Isa
from hasten.kernels.conv import ConvProblem, conv_args, conv_scratch_bytes, emit_conv, pack_conv_weights
from hasten.kernels.depthwise import (
    DepthwiseProblem,
    depthwise_args,
    depthwise_scratch_bytes,
    emit_depthwise,
    pack_depthwise_weights,
)


@dataclass(frozen=True)
class Layer:
    name: str
    channels: int
    outputs: int
    size: tuple[int, int]
    kernel: int = 3
    stride: int = 1
    group: int = 1
    nchw: bool = False  # Hasten reads NCHW too

    @property
    def pad(self) -> int:
        return (self.kernel - 1) // 2

    @property
    def out(self) -> tuple[int, int]:
        return tuple((s + 2 * self.pad - self.kernel) // self.stride + 1 for s in self.size)  # type: ignore[return-value]

    @property
    def operations(self) -> int:
        return 2 * self.out[0] * self.out[1] * self.outputs * (self.channels // self.group) * self.kernel**2


LAYERS = [
    Layer("resnet first 7x7/2", 3, 64, (224, 224), 7, 2),
    Layer("resnet 64 56", 64, 64, (56, 56)),
    Layer("resnet 128 28", 128, 128, (28, 28)),
    Layer("resnet 256 14", 256, 256, (14, 14)),
    Layer("resnet 512 7", 512, 512, (7, 7)),
    Layer("resnet 128 56 /2", 128, 128, (56, 56), 3, 2),
    Layer("resnet 1x1 64-256 56", 64, 256, (56, 56), 1),
    Layer("resnet 1x1 256-64 56", 256, 64, (56, 56), 1),
    Layer("resnet 1x1 1024-256 14", 1024, 256, (14, 14), 1),
    Layer("resnet 1x1 512-2048 7", 512, 2048, (7, 7), 1),
    Layer("resnet 1x1 256-512 56 /2", 256, 512, (56, 56), 1, 2),
    Layer("mobilenet first 3x3/2", 3, 32, (224, 224), 3, 2),
    Layer("mobilenet first 3x3/2 from NCHW", 3, 32, (224, 224), 3, 2, nchw=True),
    Layer("mobilenet 1x1 16-96 112", 16, 96, (112, 112), 1),
    Layer("mobilenet 1x1 24-144 56", 24, 144, (56, 56), 1),
    Layer("mobilenet 1x1 144-32 28", 144, 32, (28, 28), 1),
    Layer("mobilenet 1x1 64-384 14", 64, 384, (14, 14), 1),
    Layer("mobilenet 1x1 160-960 7", 160, 960, (7, 7), 1),
    Layer("mobilenet 1x1 320-1280 7", 320, 1280, (7, 7), 1),
    Layer("ultraface first 3x3/2", 3, 16, (240, 320), 3, 2),
    Layer("ultraface 1x1 16-32 120x160", 16, 32, (120, 160), 1),
    Layer("ultraface 1x1 32-32 60x80", 32, 32, (60, 80), 1),
    Layer("ultraface 1x1 64-64 30x40", 64, 64, (30, 40), 1),
    Layer("ultraface 3x3 64-6 30x40", 64, 6, (30, 40)),
    Layer("yolo 3x3 16-32 80", 16, 32, (80, 80)),
    Layer("yolo 3x3 64 20", 64, 64, (20, 20)),
    Layer("unet 3x3 32 64x64", 32, 32, (64, 64)),
    Layer("sr 5x5 1-64 224", 1, 64, (224, 224), 5),
    Layer("sr 3x3 32-9 224", 32, 9, (224, 224)),
    Layer("depthwise 96 112 /2", 96, 96, (112, 112), 3, 2, 96),
    Layer("depthwise 144 56", 144, 144, (56, 56), 3, 1, 144),
    Layer("depthwise 384 14", 384, 384, (14, 14), 3, 1, 384),
    Layer("depthwise 960 7", 960, 960, (7, 7), 3, 1, 960),
    Layer("depthwise 5x5 240 14", 240, 240, (14, 14), 5, 1, 240),
    Layer("depthwise 16 120x160", 16, 16, (120, 160), 3, 1, 16),
]


class BiasReluStore:
    """The sink: y[n, y, x, c] = max(acc + bias[c], 0), y contiguous."""

    def __init__(self, arg, outputs):
        self.arg, self.outputs, self.bias = arg, outputs, {}

    def begin(self, f, column, lanes, mask):
        t, p = f"<{lanes} x float>", f.at(self.arg["bias"], column, 4)
        self.bias[column.name] = f.load(t, p) if mask is None else f.masked_load(t, p, mask)

    def __call__(self, f, acc, where, lanes, mask):
        value = acc + self.bias[where["c"].name]
        value = f.intrinsic("llvm.maxnum", acc.type, [value, f.const(acc.type, 0.0)])
        pixel = (where["n"] * self.arg["oh"] + where["y"]) * self.arg["ow"] + where["x"]
        p = f.at(self.arg["y"], pixel * self.outputs + where["c"], 4)
        if mask is None:
            f.store(value, p)
        else:
            f.masked_store(value, p, mask)


def hasten_call(layer: Layer, isa: Isa, x: np.ndarray, w: np.ndarray, bias: np.ndarray, y: np.ndarray):
    """A bound call on channels-last x, and the kernel."""
    (h, width), (oh, ow), c, o = layer.size, layer.out, layer.channels, layer.outputs
    kernel, strides = (layer.kernel,) * 2, (layer.stride,) * 2
    if layer.group == c and c > 1:
        dw = DepthwiseProblem(c, kernel=kernel, strides=strides, ow=ow)
        scratch, words = depthwise_scratch_bytes(dw, isa, h, width, oh, ow), depthwise_args(dw)
        packed = pack_depthwise_weights(dw, isa, w)

        def emit(f, isa, arg, thread, threads):
            emit_depthwise(f, dw, isa, arg, thread, threads, BiasReluStore(arg, o))
    else:
        flat = layer.kernel == 1 and layer.stride == 1
        if flat:  # a plain matrix product: all pixels are one row
            h, width, oh, ow = 1, h * width, 1, oh * ow
        pixel = 1 if layer.nchw else c
        dense = ConvProblem(
            c, o, kernel, strides, (1, 1), layer.group, ow, pixel, unit_channels=not layer.nchw, padded=not flat
        )
        scratch, words = conv_scratch_bytes(dense, isa, h, width, oh, ow), conv_args(dense)
        packed = pack_conv_weights(dense, isa, w)

        def emit(f, isa, arg, thread, threads):
            emit_conv(f, dense, isa, arg, thread, threads, BiasReluStore(arg, o))

    compiled = Kernel(isa, [*words, ("y", "ptr"), ("bias", "ptr")], emit)
    holder = aligned(packed.shape)
    holder[...] = packed
    steps = (width, 1, h * width) if layer.nchw else (width * c, c, 1)
    call = compiled.bind(
        {
            "x": x,
            "weights": holder,
            "scratch": aligned([evaluate(scratch, {}) // 4 + 16]),
            "n": 1,
            "h": h,
            "w": width,
            "oh": oh,
            "ow": ow,
            "pad_top": layer.pad,
            "pad_left": layer.pad,
            "xs_n": h * width * c,
            "xs_y": steps[0],
            "xs_x": steps[1],
            "xs_c": steps[2],
            "y": y,
            "bias": bias,
        }
    )
    return call, compiled


def measure(layer: Layer, isa: Isa, peak: float, seconds: float) -> float:
    from onnx import helper

    x = aligned([1, *layer.size, layer.channels], 1)
    w = aligned([layer.outputs, layer.channels // layer.group, layer.kernel, layer.kernel], 2) * np.float32(0.1)
    bias, y = aligned([layer.outputs], 3), aligned([1, *layer.out, layer.outputs])
    nchw = aligned([1, layer.channels, *layer.size])
    nchw[...] = x.transpose(0, 3, 1, 2)
    call, compiled = hasten_call(layer, isa, nchw if layer.nchw else x, w, bias, y)
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], pads=[layer.pad] * 4, strides=[layer.stride] * 2, group=layer.group
    )
    other = session(node, {"x": nchw}, {"w": w, "b": bias})
    mine, theirs = minima([call, other], seconds)
    want = np.maximum(other()[0], 0).transpose(0, 2, 3, 1)
    error = np.abs(y - want).max() / np.abs(want).max()
    rate = layer.operations / mine / 1e9
    speed = f"{mine * 1e3:8.3f} ms {rate:7.1f} GFLOP/s {rate / peak:5.0%} of peak  {theirs / mine:5.2f} x ort"
    size = f"compiled in {compiled.compile_seconds * 1e3:4.0f} ms, {len(compiled.object) / 1024:5.1f} KiB"
    print(f"{layer.name:31s} {speed}  error {error:.0e}  {size}", flush=True)
    return theirs / mine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of layer names")
    parser.add_argument("--isa")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each side of a layer")
    options = parser.parse_args()
    isa = isa_module.get(options.isa)
    peak = fma_peak(isa)
    print(f"{isa.name}: FMA peak {peak:.1f} GFLOP/s")
    chosen = [x for x in LAYERS if not options.names or any(n in x.name for n in options.names)]
    ratios = [measure(layer, isa, peak, options.seconds) for layer in chosen]
    print(f"geometric mean {np.exp(np.mean(np.log(ratios))):.2f} x ort")


if __name__ == "__main__":
    main()
