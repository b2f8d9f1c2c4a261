"""Convolutions on one thread: the direct kernel against Winograd's with each tile, and against what the cost model of
kernels.dense_winograd chooses.

    python benchmarks/kernels/winograd_sweep.py [--isa avx512] [--seconds 0.05] [--fit] [channels-outputs-size[-batch[-kh-kw]] ...]

Weights come from memory, as in a network that is larger than the caches: every call takes the next of several copies.
Figures are minima of interleaved rounds (of the thread's own time: what else runs disturbs less), as ratios to the direct
kernel; the tile that precision "high" would choose is
marked. `--fit` prints the constants of the cost model that fit the measured times best (least squares of relative errors).
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from harness import Kernel, aligned, minima
from winograd_accuracy import TILES, Pair

from hasten.codegen import isa as isa_module
from hasten.codegen.isa import Isa
from hasten.kernels import dense_winograd
from hasten.kernels.conv import CONV_ARGS, ConvProblem, conv_scratch_bytes, emit_conv, pack_conv_weights
from hasten.kernels.winograd import WinogradProblem, emit_winograd, pack_winograd_weights, winograd_scratch_bytes
from hasten.profile import machine_peaks

MEMORY = 48 << 20  # bytes of all copies of the weights of one kernel


@dataclass(frozen=True)
class Layer:
    channels: int
    outputs: int
    size: int
    batch: int = 1
    kh: int = 3
    kw: int = 3

    @property
    def taps(self) -> Pair:
        return self.kh, self.kw

    @property
    def problem(self) -> ConvProblem:
        return ConvProblem(self.channels, self.outputs, self.taps, ow=self.size, pixel_stride=self.channels)

    @property
    def winograd(self) -> list[WinogradProblem]:
        """One for each tile."""
        return [WinogradProblem(self.channels, self.outputs, self.taps, tile, self.tiles(tile), self.batch, self.channels) for tile in TILES[self.taps]]

    def tiles(self, tile: Pair) -> int:
        return math.prod(-(-self.size // m) for m in tile)

    def __str__(self) -> str:
        return f"{self.channels}-{self.outputs}-{self.size}-{self.batch} {self.kh}x{self.kw}"


LAYERS = [
    *(Layer(c, c, s) for c in (16, 32, 64) for s in (7, 14, 28, 56)),
    *(Layer(c, c, s) for c in (128, 256) for s in (4, 7, 14, 28)),
    *(Layer(512, 512, s) for s in (4, 7, 14)),
    *(Layer(c, o, 20) for c, o in ((8, 8), (8, 64), (64, 8), (16, 128), (128, 16), (24, 24), (48, 48), (96, 96), (96, 32), (320, 80))),
    *(Layer(64, 64, s) for s in (5, 6, 9, 10, 11)),
    Layer(64, 64, 7, 8),
    Layer(256, 256, 7, 4),
    *(Layer(c, c, s, 1, *taps) for taps in ((1, 3), (1, 5), (5, 5)) for c in (16, 32, 64, 256) for s in (7, 28)),
]


class Store:
    """The sink: y[n, y, x, c] = max(acc, 0), y contiguous."""

    def __init__(self, arg, outputs):
        self.arg, self.outputs = arg, outputs

    def __call__(self, f, acc, where, lanes, mask):
        value = f.intrinsic("llvm.maxnum", acc.type, [acc, f.const(acc.type, 0.0)])
        pixel = (where["n"] * self.arg["oh"] + where["y"]) * self.arg["ow"] + where["x"]
        p = f.at(self.arg["y"], pixel * self.outputs + where["c"], 4)
        f.store(value, p) if mask is None else f.masked_store(value, p, mask)


def bound(layer: Layer, isa: Isa, emit: Callable[..., None], packed: np.ndarray, scratch: int) -> Callable[[], None]:
    """A call that takes the next copy of its weights each time."""
    n, c, o, s = layer.batch, layer.channels, layer.outputs, layer.size
    kernel = Kernel(isa, [*CONV_ARGS, ("y", "ptr")], emit)
    words = {"x": aligned([n, s, s, c], 1), "y": aligned([n, s, s, o]), "scratch": aligned([scratch // 4 + 16])}
    words |= {"n": n, "h": s, "w": s, "oh": s, "ow": s, "pad_top": layer.kh // 2, "pad_left": layer.kw // 2}
    words |= {"xs_n": s * s * c, "xs_y": s * c, "xs_x": c, "xs_c": 1}
    apart = packed.size + -packed.size % 16
    copies = aligned([max(1, MEMORY // packed.nbytes), apart])
    copies[:, : packed.size] = packed.reshape(-1)
    turn = itertools.cycle([kernel.bind({**words, "weights": copy}) for copy in copies])
    return lambda: next(turn)()


def calls(layer: Layer, isa: Isa) -> list[Callable[[], None]]:
    """The direct kernel, then one for each tile."""
    p, s = layer.problem, layer.size
    w = aligned([layer.outputs, layer.channels, *layer.taps], 2) * np.float32(0.1)

    def direct(f, isa, arg, thread, threads):
        emit_conv(f, p, isa, arg, thread, threads, Store(arg, layer.outputs))

    made = [bound(layer, isa, direct, pack_conv_weights(p, isa, w), int(conv_scratch_bytes(p, isa, s, s, s, s)))]
    for problem in layer.winograd:

        def fewer(f, isa, arg, thread, threads, problem=problem):
            emit_winograd(f, problem, isa, arg, thread, threads, Store(arg, layer.outputs))

        made.append(bound(layer, isa, fewer, pack_winograd_weights(problem, isa, w), winograd_scratch_bytes(problem, isa)))
    return made


def chosen(layer: Layer, isa: Isa) -> int:
    """0 for the direct kernel, else the number of the tile, from 1."""
    size = layer.size
    problem = dense_winograd.winograd_problem("high", isa, layer.problem, np.ones(16), layer.batch, size, size)
    return 0 if problem is None else TILES[layer.taps].index(problem.outputs_of_tile) + 1


def fit(times: dict[Layer, list[float]], isa: Isa) -> None:
    """Prints the constants of the cost model, and how far it is from the times."""
    from scipy.optimize import nnls

    vector = 2 * isa.lanes(32) / machine_peaks(isa.name).fma  # seconds of one multiplication of whole vectors
    rows = {"DIRECT_COST": [], "WINOGRAD_COST": []}
    for layer, (direct, *others) in times.items():
        sizes = (layer.batch, layer.size, layer.size)
        rows["DIRECT_COST"].append([t / direct * vector for t in dense_winograd.direct_terms(layer.problem, isa, sizes)])
        for problem, seconds in zip(layer.winograd, others, strict=True):
            terms = dense_winograd.winograd_terms(problem, isa, layer.batch * layer.tiles(problem.outputs_of_tile))
            rows["WINOGRAD_COST"].append([t / seconds * vector for t in terms])
    for name, terms in rows.items():
        cost, _ = nnls(np.array(terms), np.ones(len(terms)))
        apart = np.array(terms) @ cost - 1
        print(f"{name} = {tuple(float(f'{c:.3g}') for c in cost)}  root mean square of relative errors {np.sqrt((apart**2).mean()):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", type=lambda text: Layer(*map(int, text.split("-"))), default=LAYERS)
    parser.add_argument("--isa")
    parser.add_argument("--seconds", type=float, default=0.05, help="for each kernel of a layer")
    parser.add_argument("--fit", action="store_true", help="fit the cost model")
    args = parser.parse_args()
    isa = isa_module.get(args.isa)
    times = {}
    for layer in args.layers:
        times[layer] = minima(calls(layer, isa), args.seconds)
        direct, *others = times[layer]
        marks = ["*" if k + 1 == chosen(layer, isa) else " " for k in range(len(others))]
        ratios = "  ".join(f"F({m}x{n}) {direct / t:4.2f}{mark}" for (m, n), t, mark in zip(TILES[layer.taps], others, marks, strict=True))
        print(f"{layer!s:18} direct {direct * 1e3:8.3f} ms  {ratios}", flush=True)
    gains = {str(layer): t[0] / t[chosen(layer, isa)] for layer, t in times.items()}
    worst = min(gains, key=gains.get)
    print(f"chosen kernels: {np.exp(np.mean(np.log(list(gains.values())))):.2f} times the direct one (geometric mean), {gains[worst]:.2f} at {worst}")
    if args.fit:
        fit(times, isa)


if __name__ == "__main__":
    main()
