"""Single kernels as a share of what the machine can do: products, convolutions, depthwise ones, attention, and what moves memory.

    python benchmarks/kernels/sweep.py [--family conv] [--isa avx512] [--precision strict] [--against] [part of a name ...]

Each shape is a small ONNX graph that Hasten compiles; the time is the least of all runs of its kernels together, against the roof of its operations
and of the bytes that go in and out (`hasten.profile`). A precision whose kernels are those of the one before is left out. Convolutions by Winograd's
method count as many operations as direct ones, so their shares may exceed 100%. With --against, ONNX Runtime runs the same graph in turns. Results
of all shapes go to benchmarks/results/kernels.json.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import machine  # noqa: E402
from shapes import FAMILIES, Shape, chosen  # noqa: E402

import hasten  # noqa: E402
from hasten.codegen import isa as isas  # noqa: E402
from hasten.profile import KernelTime, Peaks, machine_peaks, record  # noqa: E402
from hasten.profile.roofline import place  # noqa: E402

PRECISIONS = {"avx2": ("strict", "highest"), "avx512": ("strict", "highest"), "amx": ("highest", "high", "medium")}
DIFFERENCES = {"strict": 2e-5, "highest": 2e-5, "high": 2e-4, "medium": 3e-2}  # beyond, a kernel is broken: sums here are a few thousand terms long


@dataclass(frozen=True)
class Row:
    """A shape at one instruction set and precision. kernels: what ran; whole: all of them as one kernel that reads the graph's inputs and constants and
    writes its result, with the least time; difference: from ONNX Runtime's result, relative to the largest output; ratio: ONNX Runtime's time over
    Hasten's."""

    family: str
    shape: str
    isa: str
    precision: str
    kernels: tuple[str, ...]
    whole: KernelTime
    difference: float
    ratio: float | None

    def to_dict(self, peaks: Peaks) -> dict[str, Any]:
        """For JSON; bound: "compute" or the memory that holds the data; share: of the roof."""
        w, placed = self.whole, place(self.whole, peaks, 1.0)
        return {"family": self.family, "shape": self.shape, "isa": self.isa, "precision": self.precision, "kernels": list(self.kernels),
                "operations": w.operations, "bytes": w.bytes, "seconds": w.seconds, "operations_per_second": placed.rate,
                "bytes_per_second": placed.bandwidth, "bound": placed.bound, "share": placed.attained, "difference": self.difference,
                "ratio": self.ratio}  # fmt: skip


def measure(shape: Shape, isa: str, precision: str, args: argparse.Namespace) -> Row:
    """Compile, check, time."""
    model, feeds = shape.model().SerializeToString(), shape.feeds()
    compiled = hasten.compile(model, isa=isa, precision=precision, threads=args.threads)
    y = compiled.run(feeds)["y"]
    difference = _difference(y, model, feeds)
    if not difference <= DIFFERENCES[precision]:
        sys.exit(f"{shape.family} {shape.name}, {isa} {precision}: {difference:.1e} from ONNX Runtime's result: this kernel is wrong")
    kernels = record(compiled, feeds, seconds=args.seconds).kernels
    read = sum(a.nbytes for a in feeds.values()) + 4 * sum(math.prod(size) for size in shape.constants.values())
    operations, least = sum(k.operations for k in kernels), sum(k.least for k in kernels)
    main = max(kernels, key=lambda k: k.operations)
    whole = replace(main, calls=1, operations=operations, read=read, written=y.nbytes, seconds=least, least=least)
    names = tuple(k.kernel.rpartition("_")[0] for k in kernels)
    ratio = _beside(compiled, model, feeds, args.threads, args.seconds) if args.against else None
    return Row(shape.family, shape.name, isa, precision, names, whole, difference, ratio)


def _difference(y: np.ndarray, model: bytes, feeds: Mapping[str, np.ndarray]) -> float:
    (want,) = _session(model, 1).run(None, dict(feeds))
    return float(np.abs(y.astype(np.float64) - want).max() / max(1e-30, np.abs(want).max()))


def _session(model: bytes, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _beside(compiled: hasten.CompiledModel, model: bytes, feeds: Mapping[str, np.ndarray], threads: int, seconds: float) -> float:
    """ONNX Runtime's least time over Hasten's, of whole calls in turns."""
    session, best = _session(model, threads), [float("inf")] * 2
    calls = (lambda: compiled.run(feeds), lambda: session.run(None, dict(feeds)))
    stop = time.perf_counter() + 2 * seconds
    while time.perf_counter() < stop:
        for n, call in enumerate(calls):
            call()
            for _ in range(3):
                start = time.perf_counter()
                call()
                best[n] = min(best[n], time.perf_counter() - start)
    return best[1] / best[0]


def line(row: dict[str, Any]) -> str:
    """One row for the terminal."""
    rates = f"{row['operations_per_second'] / 1e9:7.1f} Gop/s {row['bytes_per_second'] / 1e9:6.1f} GB/s"
    beside = f"  {row['ratio']:5.2f}x ort" if row["ratio"] else ""
    return (f"{row['family']:10s}{row['shape']:34s} {row['isa']:7s}{row['precision']:8s} {row['seconds'] * 1e6:9.1f} us {rates} {row['share']:5.0%} of "
            f"{row['bound']:8s}{beside}  {'+'.join(row['kernels'])}")  # fmt: skip


def sweep(args: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All rows, and the peaks by instruction set. In every pass each shape is measured again and its best row kept, and so are the peaks: what
    disturbs one pass is over in another."""
    peaks: dict[str, Peaks] = {}
    best: dict[tuple[str, str, str, str], Row] = {}
    for _ in range(args.passes):
        for isa in args.isa or [name for name in PRECISIONS if name in isas.available()]:
            peaks[isa] = machine_peaks(isa, args.threads, again=True, budget=min(0.1, args.seconds))
            for shape, precision in _plan(args, isa):
                key = (shape.family, shape.name, isa, precision)
                row = measure(shape, isa, precision, args)
                if key not in best or row.whole.seconds < best[key].whole.seconds:
                    best[key] = row
                print(line(best[key].to_dict(peaks[isa])), flush=True)
    return [row.to_dict(peaks[row.isa]) for row in best.values()], {isa: p.to_dict() for isa, p in peaks.items()}


def _plan(args: argparse.Namespace, isa: str) -> Iterator[tuple[Shape, str]]:
    """Every shape with the precisions at which it has other kernels than at the one before."""
    for shape in chosen(args.family, args.names):
        known: set[tuple[str, ...]] = set()
        for precision in args.precision or PRECISIONS[isa]:
            report = hasten.compile(shape.model().SerializeToString(), isa=isa, precision=precision, threads=args.threads).report()
            regions = tuple(n.region for n in report.nodes if n.kind == "kernel")
            if regions not in known:
                known.add(regions)
                yield shape, precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of families and names of shapes")
    parser.add_argument("--family", action="append", choices=FAMILIES, default=[])
    parser.add_argument("--isa", action="append", choices=tuple(PRECISIONS))
    parser.add_argument("--precision", action="append", choices=tuple(DIFFERENCES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3, help="times that everything is measured")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each shape in each pass")
    parser.add_argument("--against", action="store_true", help="also time ONNX Runtime")
    machine.add_arguments(parser)
    args = parser.parse_args()
    args.seconds, args.passes = (0.05, 1) if args.quick else (args.seconds, args.passes)
    quiet = machine.Quiet(args.even_if_busy or args.quick)
    rows, peaks = sweep(args)
    if args.names or args.family or args.isa or args.precision:
        args.quick = True  # a part is shown, and only the whole is kept
    machine.write("kernels", quiet, {"peaks": peaks, "rows": rows}, args)


if __name__ == "__main__":
    main()
