"""Errors of the dense kernels against float64: every precision at every instruction set level of this machine.

    python benchmarks/kernel_accuracy.py [--isa amx-emulated ...] [--seeds 3] [--check]

Each case is a model of one operator, compiled like any other, on several kinds of data. Printed and written to
benchmarks/results/kernel_accuracy.json: the largest error relative to the largest output, for the precision asked and
for "strict" (float32 sums only) on the same data, their ratio, and the algorithm that the kernel used. Where tiles are
emulated the figures are the hardware's own (kernels.amx_tile says how exact the emulation is). The contract:

    highest   at most twice the error of strict; where a few products and little else make an output up (magnitudes 2^N), at
              most 1e-5 of the largest output: Winograd's algorithm adds such a product up beside larger ones of its tile
    high      at most 1e-5 of the largest output where many products of like size make it up (the first three kinds of
              data); 2^-15 where it is a few products and little else: two parts of a value hold 16 bits
    medium    bfloat16: 2^-7

With --check the exit status is 1 where a case breaks it. Nothing is timed, so a busy machine does no harm.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import machine
import numpy as np

import hasten
from hasten.codegen import isa as isa_module

PRECISIONS = ("strict", "highest", "high", "medium")
MOVES = "generic nest"  # turns the result of a convolution into row-major order
HIGHEST_RATIO, HIGHEST_WORST, HIGH_ERROR, HIGH_WORST, MEDIUM_ERROR = 2.0, 1e-5, 1e-5, 2.0**-15, 2.0**-7

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Case:
    """One operator. conv: x [1, channels, size, size] by `outputs` filters; otherwise a product of `size` rows."""

    name: str
    op: str
    channels: int
    outputs: int
    size: int
    kernel: int = 1
    group: int = 1
    constant: bool = True

    @property
    def terms(self) -> int:
        return self.channels // self.group * self.kernel**2


CASES = [
    Case("product K=64", "MatMul", 64, 64, 128),
    Case("product K=256", "MatMul", 256, 64, 128),
    Case("product K=768", "MatMul", 768, 64, 128),
    Case("product K=2304", "MatMul", 2304, 64, 128),
    Case("product of two inputs K=64", "MatMul", 64, 128, 128, constant=False),
    Case("product of two inputs K=512", "MatMul", 512, 128, 128, constant=False),
    Case("conv 1x1 K=64", "Conv", 64, 128, 14),
    Case("conv 1x1 K=1024", "Conv", 1024, 128, 14),
    Case("conv 3x3 K=144", "Conv", 16, 64, 16, 3),
    Case("conv 3x3 K=288", "Conv", 32, 64, 16, 3),
    Case("conv 3x3 K=576", "Conv", 64, 64, 14, 3),
    Case("conv 3x3 K=1152", "Conv", 128, 64, 14, 3),
    Case("conv 3x3 K=2304", "Conv", 256, 64, 14, 3),
    Case("conv 3x3 K=4608", "Conv", 512, 64, 14, 3),
    Case("depthwise 3x3 K=9", "Conv", 64, 64, 14, 3, 64),
]

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def _spread(sigma: float) -> Draw:
    """Values of very different size: few products make up a sum."""
    return lambda rng, shape: rng.standard_normal(shape) * np.exp2(rng.normal(0, sigma, shape))


def _scaled(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Channels (axis 1) of different size."""
    scale = np.exp2(rng.normal(0, 3, (1, shape[1], *[1] * (len(shape) - 2))))
    return rng.standard_normal(shape) * scale


DATA: dict[str, tuple[Draw, Draw]] = {  # activations, weights
    "N(0, 1)": (lambda r, s: r.standard_normal(s), lambda r, s: r.standard_normal(s)),
    "after a ReLU": (lambda r, s: np.maximum(r.standard_normal(s), 0), lambda r, s: r.standard_normal(s)),
    "mean 5": (lambda r, s: r.standard_normal(s) + 5, lambda r, s: r.standard_normal(s) + 0.2),
    "channels 2^N(0, 3)": (_scaled, lambda r, s: r.standard_normal(s)),
    "magnitudes 2^N(0, 4)": (_spread(4), _spread(4)),
    "magnitudes 2^N(0, 8)": (_spread(8), _spread(8)),
}
FEW = [kind for kind in DATA if kind.startswith("magnitudes")]  # a few products make up an output


@dataclass
class Row:
    """Errors are relative to the largest output; `ratio` is error / strict."""

    case: str
    terms: int
    data: str
    isa: str
    precision: str
    algorithm: str
    error: float
    strict: float
    ratio: float
    within: bool


def model_of(case: Case, weights: Array) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    conv = case.op == "Conv"
    shape = [1, case.channels, case.size, case.size] if conv else [case.size, case.channels]
    attributes = {"pads": [case.kernel // 2] * 4, "group": case.group} if conv else {}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    constants = []
    if case.constant:
        constants.append(numpy_helper.from_array(weights, "w"))
    else:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, weights.shape))
    node = helper.make_node(case.op, ["x", "w"], ["y"], **attributes)
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "case", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def draw(case: Case, data: str, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng([seed, case.terms])
    left, right = DATA[data]
    if case.op == "Conv":
        shape = (case.outputs, case.channels // case.group, case.kernel, case.kernel)
        x = left(rng, (1, case.channels, case.size, case.size))
        return x.astype(np.float32), right(rng, shape).astype(np.float32)
    x = left(rng, (case.size, case.channels)).astype(np.float32)
    return x, right(rng, (case.channels, case.outputs)).astype(np.float32)


def exact(case: Case, x: Array, w: Array) -> Array:
    """In float64."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    if case.op != "Conv":
        return np.asarray(x @ w)
    pad, size = case.kernel // 2, case.size
    padded = np.pad(x[0], ((0, 0), (pad, pad), (pad, pad)))
    y = np.zeros((case.outputs, size * size))
    for ky in range(case.kernel):
        for kx in range(case.kernel):
            tap = padded[:, ky : ky + size, kx : kx + size].reshape(case.channels, -1)
            weights = w[:, :, ky, kx]
            y += tap * weights if case.group > 1 else weights @ tap
    return y.reshape(1, case.outputs, size, size)


def measure(case: Case, data: str, level: str, seeds: int, cache_dir: str | None) -> list[Row]:
    """One row for each precision: the largest error over all seeds. Without tiles "medium" is the kernel of
    "high" and is left out."""
    tiles = isa_module.get(level).amx is not None
    _, w = draw(case, data, 0)
    model = model_of(case, w)
    errors: dict[str, float] = {}
    algorithms: dict[str, str] = {}
    compiled = {
        precision: hasten.compile(model, isa=level, precision=precision, threads=1, cache_dir=cache_dir) for precision in PRECISIONS[: None if tiles else 3]
    }
    for seed in range(seeds):
        x, other = draw(case, data, seed)
        right = w if case.constant else other
        want = exact(case, x, right)
        feeds = {"x": x} if case.constant else {"x": x, "w": right}
        for precision, run in compiled.items():
            error = float(np.abs(run.run(feeds)["y"] - want).max() / np.abs(want).max())
            errors[precision] = max(errors.get(precision, 0.0), error)
            kernels = [n.algorithm for n in run.report().nodes if n.op == case.op and n.kind == "kernel"]
            algorithms[precision] = next((name for name in kernels if name != MOVES), kernels[-1])
    rows = []
    for precision, error in errors.items():
        strict = errors["strict"]
        ratio = error / strict if strict else 1.0
        high = HIGH_WORST if "2^N" in data else HIGH_ERROR
        limits = {"strict": True, "highest": error <= max(HIGHEST_RATIO * strict, HIGHEST_WORST if data in FEW else 0.0), "high": error <= high}
        within = limits.get(precision, error <= MEDIUM_ERROR)
        rows.append(Row(case.name, case.terms, data, level, precision, algorithms[precision], error, strict, ratio, within))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_arguments(parser)
    parser.add_argument("--isa", nargs="+", default=isa_module.available(), help="levels (default: all of this machine)")
    parser.add_argument("--seeds", type=int, default=3, help="random data sets of each kind")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--check", action="store_true", help="exit with 1 where an error is larger than promised")
    args = parser.parse_args()
    quiet = machine.Quiet(even_if_busy=True)
    rows: list[Row] = []
    kinds = list(DATA)[: 1 if args.quick else None]
    head = f"{'case':28} {'data':21} {'level':13} {'precision':9} {'algorithm':24} {'error':>8} {'strict':>8} {'ratio':>7}"
    print(head)
    for case in (c for c in CASES if args.case in c.name):
        for data in kinds:
            for level in args.isa:
                for row in measure(case, data, level, 1 if args.quick else args.seeds, None):
                    rows.append(row)
                    print(
                        f"{row.case:28} {row.data:21} {row.isa:13} {row.precision:9} {row.algorithm:24} {row.error:8.1e} "
                        f"{row.strict:8.1e} {row.ratio:7.2f}{'' if row.within else '  BROKEN'}",
                        flush=True,
                    )
    broken = [r for r in rows if not r.within]
    print(f"{len(rows)} figures, {len(broken)} beyond what is promised")
    machine.write("kernel_accuracy", quiet, {"rows": [asdict(r) for r in rows]}, args)
    return 1 if args.check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
