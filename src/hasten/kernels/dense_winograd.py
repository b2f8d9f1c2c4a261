"""Winograd convolution as a KernelSpec, and the rules that say where it may be used (accuracy) and where it is worth it (cost).

`winograd_problem` is asked after the tiles of dense_amx: it turns a precision into the tiles whose measured error the precision
allows, and takes the one that should beat the direct kernel by most; None where none does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen.isa import Isa
from hasten.kernels import conv, tile, winograd
from hasten.kernels.conv import ConvProblem
from hasten.kernels.dense import FLOPS_PER_NS, Spatial, only
from hasten.kernels.spec import Emission
from hasten.kernels.winograd import WinogradProblem

Tile = tuple[int, int]  # outputs of a tile of the algorithm

# For each filter: tiles, and from how many channels on the error of each stays within the contract of "highest": at most twice the
# error of the direct kernel, which grows with the channels. Measured by benchmarks/kernels/winograd_accuracy.py on random data of
# several kinds and on layers of trained models (docs/kernels.md has the figures). "high", at most 1e-5 of the largest output, has
# room for all of them everywhere.
TILES: dict[Tile, dict[Tile, int]] = {
    (3, 3): {(2, 2): 1, (4, 2): 8, (4, 4): 32},
    (1, 3): {(1, 2): 1, (1, 4): 24},
    (3, 1): {(2, 1): 1, (4, 1): 24},
    (1, 5): {(1, 2): 8},
    (5, 1): {(2, 1): 8},
    (5, 5): {(2, 2): 8},
}
PRECISIONS = ("highest", "high", "medium")  # "strict" has the sums of direct convolution

LARGEST_SHARE = 1 / 16  # of the filters' squares that one weight may have

UNKNOWN_SIZE = 32  # what a height or width that is not known counts as; an unknown batch counts as one
GAIN = 1.05  # by how much the direct kernel must be expected to be beaten

# Time in multiplications of whole vectors (terms: see direct_terms and winograd_terms), fitted to times of
# benchmarks/kernels/winograd_sweep.py, weights coming from memory.
DIRECT_COST = (0.882, 0.0349, 5240.0)
WINOGRAD_COST = (0.889, 3.49, 1.71, 6210.0)


def winograd_problem(
    precision: str, isa: Isa, problem: ConvProblem, weights: np.ndarray, batch: DimLike, oh: DimLike, ow: DimLike
) -> WinogradProblem | None:
    """The Winograd convolution that computes `problem`; None: the direct kernel."""
    suits = problem.strides == problem.dilations == (1, 1) and problem.group == 1 and problem.unit_channels
    if not suits or precision not in PRECISIONS or not even(weights):
        return None
    sizes = (_size(batch, 1), _size(oh, UNKNOWN_SIZE), _size(ow, UNKNOWN_SIZE))
    images, known = batch if isinstance(batch, int) else None, isinstance(oh, int) and isinstance(ow, int)
    best, least = None, _dot(DIRECT_COST, direct_terms(problem, isa, sizes)) / GAIN
    for outputs, channels in TILES.get(problem.kernel, {}).items():
        if precision == "highest" and problem.channels < channels:
            continue
        tiles = math.prod(-(-s // m) for s, m in zip(sizes[1:], outputs, strict=True))
        candidate = WinogradProblem(problem.channels, problem.outputs, problem.kernel, outputs, tiles if known else None, images)
        cost = _dot(WINOGRAD_COST, winograd_terms(candidate, isa, sizes[0] * tiles))
        if cost < least:
            best, least = candidate, cost
    return best


def even(weights: np.ndarray) -> bool:
    """Whether sums by these filters have many terms that count: where one weight is all of it, an output may be a single product, which
    the direct kernel rounds once and Winograd's algorithm adds up beside the much larger products of neighbours."""
    if not np.isfinite(weights).all():
        return False
    squares = np.square(weights.astype(np.float64))
    return float(squares.max(initial=0.0)) <= LARGEST_SHARE * max(float(squares.sum()), np.finfo(np.float64).tiny)


def _size(d: DimLike, unknown: int) -> int:
    return d if isinstance(d, int) else unknown


def _dot(cost: tuple[float, ...], terms: tuple[float, ...]) -> float:
    return sum(c * t for c, t in zip(cost, terms, strict=True))


def direct_terms(problem: ConvProblem, isa: Isa, sizes: tuple[int, int, int]) -> tuple[float, ...]:
    """What the direct kernel does for `sizes` (images, height and width of the outputs): multiplications, bytes of weights, a call."""
    n, oh, ow = sizes
    plan = tile.plan(isa, problem.outputs, ow, slack=True)
    steps = problem.taps * problem.channels
    return n * oh * steps * tile.step_cycles(isa, plan, problem.outputs, ow), steps * problem.outputs * 4.0, 1.0


def winograd_terms(problem: WinogradProblem, isa: Isa, tiles: int) -> tuple[float, ...]:
    """What a Winograd kernel does for that many tiles: multiplications, vectors of images and of filters transformed, a call."""
    of = winograd.layout(problem, isa)
    strips = -(-tiles // of.tiles)
    rows = [tiles * (i + 1) // strips - tiles * i // strips for i in range(strips)]
    products = problem.points * problem.channels * sum(tile.step_cycles(isa, of.plan, problem.outputs, r) for r in rows)
    lanes = isa.lanes(32)
    images = tiles * problem.points * sum(-(-size // lanes) for size in (problem.channels, problem.outputs))
    filters = strips * problem.points * problem.channels * -(-problem.outputs // lanes)
    return products, images, filters, 1.0


@dataclass(frozen=True)
class WinogradSpec(Spatial):
    """x [N, C, (H,) W] float32 with channels contiguous, weights of `pack_winograd_weights` -> [N, O, (OH,) OW]."""

    problem: WinogradProblem
    isa: Isa
    spatial: int
    sizes: tuple[tuple[str, DimLike], ...] = field(default=())

    @property
    def name(self) -> str:
        p = self.problem
        return f"conv{p.kernel[0]}x{p.kernel[1]}f{p.outputs_of_tile[0]}x{p.outputs_of_tile[1]}"

    def scratch(self, call: Any) -> DimLike:
        return winograd.winograd_scratch_bytes(self.problem, self.isa)

    def operations(self, call: Any) -> DimLike:
        """Those of the convolution, not the fewer that are carried out: figures of algorithms can be compared."""
        d, p = self.dims(call), self.problem
        return conv.conv_operations(ConvProblem(p.channels, p.outputs, p.kernel), d["n"], d["oh"], d["ow"])

    def work(self, call: Any) -> DimLike:
        return D.floordiv(self.operations(call), 2 * FLOPS_PER_NS)

    def describe(self) -> dict[str, str]:
        y, x = self.problem.outputs_of_tile
        return {"algorithm": f"Winograd F({y}x{x})"}

    def emit(self, k: Emission) -> None:
        winograd.emit_winograd(k.f, self.known(k.call), self.isa, self.arguments(k), k.thread, k.threads, only(k.sink, self.axes))
