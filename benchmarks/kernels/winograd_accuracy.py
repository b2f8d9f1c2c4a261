"""Errors of Winograd convolution with each tile against those of the direct kernel: what the table of kernels.dense_winograd
says is measured here.

    python benchmarks/kernels/winograd_accuracy.py [--isa avx512] [--seeds 8] [--channels 16 24 32 ...] [--filter 1 3] [--no-models]

Errors are the largest over all seeds, against float64, relative to the largest output; ratios are to the direct kernel on
the same data. The kinds of data are those of kernel_accuracy.py; besides, the 3x3 layers of the trained models (HASTEN_DATA)
with the activations that real inputs give. Last come the channels from which on a tile keeps to the contract of "highest":
at most twice the error of the direct kernel; where a few products make up an output (magnitudes 2^N), at most 1e-5 of the
largest output. Filters that the compiler does not give to the algorithm (dense_winograd.even) are left out. Nothing is timed, so a busy machine does no harm.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from harness import Kernel, aligned

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import trained
from kernel_accuracy import DATA, FEW, HIGHEST_RATIO, HIGHEST_WORST

from hasten.codegen import isa as isa_module
from hasten.codegen.isa import Isa
from hasten.kernels.conv import CONV_ARGS, ConvProblem, conv_scratch_bytes, emit_conv, pack_conv_weights
from hasten.kernels.dense_winograd import even
from hasten.kernels.winograd import WinogradProblem, emit_winograd, pack_winograd_weights, winograd_scratch_bytes

TILES = {  # by filter; a filter on its side has its tiles on their side
    (3, 3): ((2, 2), (4, 2), (4, 4)),
    (1, 3): ((1, 2), (1, 4)),
    (1, 5): ((1, 2),),
    (5, 5): ((2, 2),),
}
Pair = tuple[int, int]
CHANNELS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)
OUTPUTS, SIZE, MOST_LAYERS = 32, 14, 4
Convolve = Callable[[np.ndarray, np.ndarray], np.ndarray]  # x [1, h, w, c], w [o, c, kh, kw] -> y [1, h, w, o]


def kernel(isa: Isa, channels: int, outputs: int, taps: Pair, tile: Pair | None) -> Convolve:
    """The convolution that keeps the size, by Winograd's algorithm with that tile; None: by the direct one."""
    direct = ConvProblem(channels, outputs, taps)
    fewer = None if tile is None else WinogradProblem(channels, outputs, taps, tile)

    def emit(f, isa, arg, thread, threads):
        def sink(f, value, where, lanes, mask):
            pixel = (where["n"] * arg["oh"] + where["y"]) * arg["ow"] + where["x"]
            place = f.at(arg["y"], pixel * outputs + where["c"], 4)
            f.store(value, place) if mask is None else f.masked_store(value, place, mask)

        if fewer is None:
            emit_conv(f, direct, isa, arg, thread, threads, sink)
        else:
            emit_winograd(f, fewer, isa, arg, thread, threads, sink)

    compiled = Kernel(isa, [*CONV_ARGS, ("y", "ptr")], emit)

    def run(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        _, h, width, c = x.shape
        packed = pack_conv_weights(direct, isa, w) if fewer is None else pack_winograd_weights(fewer, isa, w)
        scratch = int(conv_scratch_bytes(direct, isa, h, width, h, width)) if fewer is None else winograd_scratch_bytes(fewer, isa)
        y, weights, image = aligned([1, h, width, outputs]), aligned(packed.shape), aligned(x.shape)
        weights[...], image[...] = packed, x
        sizes = {"n": 1, "h": h, "w": width, "oh": h, "ow": width, "pad_top": taps[0] // 2, "pad_left": taps[1] // 2}
        strides = {"xs_n": h * width * c, "xs_y": width * c, "xs_x": c, "xs_c": 1}
        compiled.bind({"x": image, "weights": weights, "scratch": aligned([scratch // 4 + 16]), "y": y, **sizes, **strides})()
        return y

    return run


def error(run: Convolve, x: np.ndarray, w: np.ndarray) -> float:
    """The largest one, relative to the largest output."""
    _, h, width, _ = x.shape
    kh, kw = w.shape[2:]
    padded = np.pad(x.astype(np.float64), ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    taps = w.astype(np.float64)
    want = sum(padded[:, ky : ky + h, kx : kx + width] @ taps[:, :, ky, kx].T for ky in range(kh) for kx in range(kw))
    return float(np.abs(run(x, w) - want).max() / max(np.abs(want).max(), 1e-30))


def drawn(channels: int, taps: Pair, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, channels])
    left, right = DATA[kind]
    x = left(rng, (1, channels, SIZE, SIZE)).astype(np.float32)
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)), right(rng, (OUTPUTS, channels, *taps)).astype(np.float32)


def layers(case: trained.Case) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, activations and weights of 3x3 convolutions of a trained model, run on its inputs."""
    import onnx
    import onnxruntime as ort
    from onnx import numpy_helper

    model = onnx.load(case.path)
    weights = {i.name: i for i in model.graph.initializer}
    found = []
    for node in model.graph.node:
        a = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
        plain = a.get("group", 1) == 1 and set(a.get("strides", [1])) == set(a.get("dilations", [1])) == {1}
        if node.op_type == "Conv" and plain and node.input[1] in weights:
            w = numpy_helper.to_array(weights[node.input[1]])
            if w.dtype == np.float32 and w.shape[2:] == (3, 3) and w.shape[1] >= min(CHANNELS):
                found.append((node.input[0], w))
    found = found[:: max(1, len(found) // MOST_LAYERS)][:MOST_LAYERS]
    if not found:
        return
    names = list(dict.fromkeys(name for name, _ in found))
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values = dict(zip(names, session.run(None, case.feeds), strict=True))
    for name, w in found:
        yield f"{case.model} {name}", np.ascontiguousarray(values[name][:1, :, :96, :96].transpose(0, 2, 3, 1)), w


def trained_models(isa: Isa) -> None:
    """Prints the ratios on real layers."""
    folder = trained.data_folder()
    cases = {case.model: case for case in (trained.load(folder) if folder else [])}
    for case in cases.values():
        for name, x, w in layers(case):
            runs = [kernel(isa, w.shape[1], w.shape[0], (3, 3), tile) for tile in (None, *TILES[3, 3])]
            strict, *others = (error(run, x, w) for run in runs)
            print(f"{name[:60]:60} {w.shape[1]:4} direct {strict:.1e} " + text(TILES[3, 3], others, strict), flush=True)


def text(tiles: Sequence[Pair], errors: list[float], strict: float) -> str:
    return "  ".join(f"F({m}x{n}) {e / strict:5.2f} ({e:.1e})" for (m, n), e in zip(tiles, errors, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS)
    parser.add_argument("--filter", type=int, nargs=2, default=(3, 3), help="height and width")
    parser.add_argument("--no-models", action="store_true", help="leave the trained models out")
    args = parser.parse_args()
    isa = isa_module.get(args.isa)
    taps = tuple(args.filter)
    tiles = TILES[taps]
    least = dict.fromkeys(tiles, 1)  # channels from which on a tile keeps to the contract
    for channels in args.channels:
        runs = [kernel(isa, channels, OUTPUTS, taps, tile) for tile in (None, *tiles)]
        for kind in DATA:
            data = [drawn(channels, taps, kind, seed) for seed in range(args.seeds)]
            used = [(x, w) for x, w in data if even(w)]
            if not used:
                print(f"{channels:4} {kind:22} direct: the filters are too uneven", flush=True)
                continue
            strict, *others = (max(error(run, x, w) for x, w in used) for run in runs)
            print(f"{channels:4} {kind:22} direct {strict:.1e}  " + text(tiles, others, strict), flush=True)
            limit = max(HIGHEST_RATIO * strict, HIGHEST_WORST if kind in FEW else 0.0)
            least.update({tile: channels + 1 for tile, e in zip(tiles, others, strict=True) if e > limit})
    print("within the contract from so many channels on:", {f"F({m}x{n})": c for (m, n), c in least.items()})
    if taps == (3, 3) and not args.no_models:
        trained_models(isa)


if __name__ == "__main__":
    main()
