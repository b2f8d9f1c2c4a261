"""Depthwise convolutions with the 1x1 convolutions around them on one thread: one kernel against one for each convolution.

    python benchmarks/kernels/separable.py [--isa avx512] [--seconds 0.3] [in-channels-out-size-kernel-stride ...]

`in` or `out` is 0 where there is no 1x1 convolution before or behind. Every convolution has a bias and a ReLU. Figures are medians of interleaved
rounds; both ways take the buffers as the round before left them in the caches, which is kinder than a network is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
from harness import Kernel, aligned

from hasten.codegen import isa as isa_module
from hasten.codegen.isa import Isa
from hasten.kernels.conv import CONV_ARGS, ConvProblem, conv_scratch_bytes, emit_conv, pack_conv_weights
from hasten.kernels.depthwise import DepthwiseProblem, emit_depthwise, pack_depthwise_weights
from hasten.kernels.separable import SEPARABLE_ARGS, SeparableProblem, emit_separable, separable_scratch_bytes


@dataclass(frozen=True)
class Block:
    first: int  # channels of the input, or 0
    channels: int
    last: int  # channels of the result, or 0
    size: int
    kernel: int
    stride: int

    @property
    def out(self) -> int:
        return -(-self.size // self.stride)

    @property
    def depthwise(self) -> DepthwiseProblem:
        return DepthwiseProblem(self.channels, 1, (self.kernel,) * 2, (self.stride,) * 2, ow=self.out, pixel_stride=self.first or self.channels)

    def pointwise(self, channels: int, outputs: int, size: int) -> ConvProblem:
        return ConvProblem(channels, outputs, (1, 1), ow=size, pixel_stride=channels, padded=False)

    @property
    def operations(self) -> int:
        taps = self.out**2 * (self.kernel**2 + self.last)
        return 2 * self.channels * (self.size**2 * self.first + taps)

    def __str__(self) -> str:
        return f"{self.first}-{self.channels}-{self.last} {self.size}x{self.size} {self.kernel}x{self.kernel} stride {self.stride}"


BLOCKS = [
    # MobileNetV2
    Block(0, 32, 16, 112, 3, 1), Block(16, 96, 24, 112, 3, 2), Block(24, 144, 24, 56, 3, 1), Block(24, 144, 32, 56, 3, 2),
    Block(32, 192, 32, 28, 3, 1), Block(64, 384, 64, 14, 3, 1), Block(96, 576, 96, 14, 3, 1), Block(160, 960, 160, 7, 3, 1),
    # MobileNetV3
    Block(0, 16, 16, 112, 3, 1), Block(16, 64, 24, 112, 3, 2), Block(24, 72, 24, 56, 3, 1), Block(24, 72, 0, 56, 5, 2),
    Block(40, 120, 0, 28, 5, 1), Block(40, 240, 80, 28, 3, 2),
    # EfficientNet
    Block(16, 96, 0, 112, 3, 2), Block(24, 144, 0, 56, 3, 1), Block(24, 144, 0, 56, 5, 2), Block(40, 240, 0, 28, 5, 1), Block(80, 480, 0, 14, 3, 1),
    # detectors, keywords
    Block(0, 16, 16, 160, 3, 1), Block(0, 32, 32, 80, 3, 1), Block(0, 64, 64, 40, 3, 1), Block(0, 64, 64, 25, 3, 1),
]  # fmt: skip


def activated(f, acc, bias, c, mask):
    """max(acc + bias[c], 0)"""
    place = f.at(bias, c, 4)
    value = acc + (f.load(acc.type, place) if mask is None else f.masked_load(acc.type, place, mask))
    return f.intrinsic("llvm.maxnum", value.type, [value, f.const(value.type, 0.0)])


def store(arg, bias: str, outputs: int):
    """The sink: y[n, y, x, c], contiguous."""

    def sink(f, acc, where, lanes, mask):
        pixel = (where["n"] * arg["oh"] + where["y"]) * arg["ow"] + where["x"]
        p, value = f.at(arg["y"], pixel * outputs + where["c"], 4), activated(f, acc, arg[bias], where["c"], mask)
        f.store(value, p) if mask is None else f.masked_store(value, p, mask)

    return sink


def sizes(size: int, out: int, channels: int, pad: int) -> dict[str, int]:
    of_input = {"n": 1, "h": size, "w": size, "xs_n": size * size * channels, "xs_y": size * channels, "xs_x": channels, "xs_c": 1}
    return of_input | {"oh": out, "ow": out, "pad_top": pad, "pad_left": pad}


def calls(block: Block, isa: Isa) -> tuple[Callable[[], None], list[Callable[[], None]]]:
    """The block as one kernel, and as one for each convolution; they have the same result."""
    c, s, out, pad, d = block.channels, block.size, block.out, (block.kernel - 1) // 2, block.depthwise
    before, behind = block.pointwise(block.first, c, s), block.pointwise(c, block.last, out)
    packed = [packed_weights(pack_depthwise_weights(d, isa, aligned([c, 1, block.kernel, block.kernel], 2)))]
    biases = {"bias0": aligned([c], 4), "bias1": aligned([c], 5), "bias2": aligned([block.last or 1], 6)}
    x, results = aligned([s, s, block.first or c], 1), [aligned([out, out, block.last or c]) for _ in range(2)]
    apart, source = [], x

    def pointwise(problem: ConvProblem, size: int, bias: str, target: np.ndarray) -> None:
        def emit(f, isa, arg, thread, threads):
            emit_conv(f, problem, isa, arg, thread, threads, store(arg, bias, problem.outputs))

        w = packed_weights(pack_conv_weights(problem, isa, aligned([problem.outputs, problem.channels, 1, 1], 3)))
        packed.append(w)
        scratch = aligned([int(conv_scratch_bytes(problem, isa, size, size, size, size)) // 4 + 16])
        kernel = Kernel(isa, [*CONV_ARGS, ("y", "ptr"), (bias, "ptr")], emit)
        apart.append(kernel.bind({**sizes(size, size, problem.channels, 0), **biases, "x": source, "weights": w, "scratch": scratch, "y": target}))

    def depthwise(f, isa, arg, thread, threads):
        problem = DepthwiseProblem(c, 1, d.kernel, d.strides, ow=out, pixel_stride=c)
        emit_depthwise(f, problem, isa, arg, thread, threads, store(arg, "bias1", c))

    def whole(f, isa, arg, thread, threads):
        names = [name for name, there in (("bias0", block.first), ("bias1", block.last)) if there]
        middles = [lambda f, acc, where, lanes, mask, name=name: activated(f, acc, arg[name], where["c"], mask) for name in names]
        emit_separable(f, problem, isa, arg, thread, threads, middles, store(arg, "bias2" if block.last else "bias1", block.last or c))

    if block.first:
        target = aligned([s, s, c])
        pointwise(before, s, "bias0", target)
        source = target
    target = aligned([out, out, c]) if block.last else results[0]
    words = {**sizes(s, out, c, pad), **biases, "x": source, "weights": packed[0], "y": target}
    apart.append(Kernel(isa, [*CONV_ARGS, ("y", "ptr"), ("bias1", "ptr")], depthwise).bind(words))
    if block.last:
        source = target
        pointwise(behind, out, "bias2", results[0])
    problem = SeparableProblem(d, block.first or None, block.last or None, s if block.first else None)
    kernel = Kernel(isa, [*SEPARABLE_ARGS, ("y", "ptr"), *((name, "ptr") for name in biases)], whole)
    words = {**sizes(s, out, block.first or c, pad), **biases, "x": x, "y": results[1], "weights": packed[0]}
    words |= {"first_weights": packed[min(1, len(packed) - 1)], "last_weights": packed[-1]}
    words["scratch"] = aligned([int(separable_scratch_bytes(problem, isa, s, out, pad)) // 4 + 16])
    one = kernel.bind(words)
    for call in (*apart, one):
        call()
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-4 * np.abs(results[0]).max())
    return one, apart


def packed_weights(w: np.ndarray) -> np.ndarray:
    copy = aligned(w.shape)
    copy[...] = w
    return copy


def medians(one: Callable[[], None], apart: list[Callable[[], None]], seconds: float) -> tuple[float, float]:
    """Seconds of the one kernel, and of the others one after another."""
    times: tuple[list[float], list[float]] = [], []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        for calls_, taken in zip(([one], apart), times, strict=True):
            for _ in range(3):
                start = time.perf_counter()
                for call in calls_:
                    call()
                taken.append(time.perf_counter() - start)
    return median(times[0]), median(times[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("blocks", nargs="*", type=lambda text: Block(*map(int, text.split("-"))), default=BLOCKS)
    parser.add_argument("--isa")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each block")
    args = parser.parse_args()
    isa = isa_module.get(args.isa)
    for block in args.blocks:
        one, apart = medians(*calls(block, isa), args.seconds)
        rates = f"{block.operations / apart / 1e9:6.1f} -> {block.operations / one / 1e9:6.1f} Gop/s"
        print(f"{block!s:36} {apart * 1e6:8.1f} us -> {one * 1e6:8.1f} us  {rates}  {apart / one:5.2f}", flush=True)


if __name__ == "__main__":
    main()
