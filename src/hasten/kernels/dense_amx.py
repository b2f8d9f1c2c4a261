"""Convolutions and matrix products on AMX tiles as KernelSpecs, and the rule that says when they are worth it.

`conv_products` and `gemm_products` are asked first: they turn a precision into a number of tile products ("highest": six
products of three bfloat16 parts, "high": three of two, "medium": one, "strict": none) where the tiles should beat the
float32 kernels of kernels.dense, and give None elsewhere. No kernel of this form was timed on hardware yet: the rates
are those of a prototype with the same inner loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen.isa import Isa
from hasten.kernels import amx_conv, amx_gemm, conv
from hasten.kernels.amx_block import ALGORITHM
from hasten.kernels.amx_packing import COLUMNS, STEP, split_planes
from hasten.kernels.amx_tile import ROWS
from hasten.kernels.conv import ConvProblem
from hasten.kernels.dense import Product, Spatial
from hasten.kernels.gemm import GemmProblem
from hasten.kernels.spec import Emission

PRODUCTS = {"highest": 6, "high": 3, "medium": 1}
FLOPS_PER_NS = {6: 100, 3: 200, 1: 400}  # cautious figures for one core: only used to decide whether sharing pays

# Speed of full tiles in units of the float32 kernel's (the prototype, 3 x 3 convolutions of 32 to 512 channels: 1.4 to
# 2.0, 2.9 to 3.9, 6 to 9.7), and how many columns of products (rows, for a right operand) take as long as splitting.
RATE = {6: 1.9, 3: 3.3, 1: 7.5}
SPLITTING = {6: 32, 3: 48, 1: 64}
WEIGHT_BYTES = {6: 6, 3: 4, 1: 2}  # of a packed weight; float32 has 4
FEW_ROWS = ROWS // 2  # with fewer rows reading the weights is what takes the time
UNKNOWN_ROWS = 64  # what a sequence of unknown length counts as


def conv_products(precision: str, isa: Isa, problem: ConvProblem, weights: np.ndarray, dtype: str, oh: DimLike) -> int | None:
    """Tile products for a convolution; None: the float32 kernel. `dtype`: of the activations in the model."""
    products = _products(precision, isa, dtype, weights)
    return products if products and _conv_pays(problem, products, oh) else None


def gemm_products(precision: str, isa: Isa, problem: GemmProblem, weights: np.ndarray | None, dtype: str, rows: Sequence[DimLike]) -> int | None:
    """Tile products for a matrix product; None: the float32 kernel. `rows`: the sizes that make up the rows that share a
    right operand; a first one (the batch) that is unknown counts as one, others (sequences) as UNKNOWN_ROWS."""
    products = _products(precision, isa, dtype, weights)
    known = [d if isinstance(d, int) else UNKNOWN_ROWS if k or weights is None else 1 for k, d in enumerate(rows)]
    return products if products and _gemm_pays(problem, products, int(np.prod(known))) else None


def _products(precision: str, isa: Isa, dtype: str, weights: np.ndarray | None) -> int | None:
    """By precision alone. Operands that are bfloat16 anyway have exact products, whatever the precision; weights that
    are not finite stay with float32."""
    if isa.amx is None or precision not in PRODUCTS or (weights is not None and not np.isfinite(weights).all()):
        return None
    exact = dtype == "bfloat16" and (weights is None or not split_planes(weights, 2)[1].any())
    return 1 if exact else PRODUCTS[precision]


def _conv_pays(problem: ConvProblem, products: int, oh: DimLike) -> bool:
    """Whether tiles beat the float32 kernel: what is left of their rate after the parts of tiles that hold padding
    (channels to a multiple of 32, outputs to one of 16, pixels to one of 16) and after splitting the input."""
    used = amx_conv.pixels_used(problem, oh if isinstance(oh, int) else None)
    used *= _used(problem.group_channels, STEP) * _used(problem.group_outputs, COLUMNS)
    reuse = problem.taps * problem.group_outputs
    return problem.unit_channels and RATE[products] * used * reuse / (reuse + SPLITTING[products]) > 1


def _gemm_pays(problem: GemmProblem, products: int, rows: int) -> bool:
    """The same for a product with about `rows` rows for each right operand. With few rows and constant weights the time
    is that of reading the weights."""
    k, n = problem.k or STEP, problem.n or 4 * STEP
    if rows < FEW_ROWS and problem.b == "packed":
        return WEIGHT_BYTES[products] < 4 and k >= STEP and n >= COLUMNS
    used = _used(rows, ROWS) * _used(k, STEP) * _used(n, COLUMNS) * n / (n + SPLITTING[products])
    if problem.b != "packed":
        used *= rows / (rows + SPLITTING[products])
    return RATE[products] * used > 1


def _used(size: int, unit: int) -> float:
    return size / (-(-size // unit) * unit)


@dataclass(frozen=True)
class AmxConvSpec(Spatial):
    """x [N, C, (H,) W] float32 with channels contiguous, weights of `pack_amx_conv_weights` -> [N, O, (OH,) OW]."""

    problem: ConvProblem
    products: int
    precision: str
    isa: Isa
    spatial: int
    sizes: tuple[tuple[str, DimLike], ...] = field(default=())

    @property
    def name(self) -> str:
        p = self.problem
        group = f"g{p.group}" if p.group > 1 else ""
        return f"conv{p.kernel[0]}x{p.kernel[1]}s{p.strides[0]}{group}_{ALGORITHM[self.products]}"

    def scratch(self, call: Any) -> DimLike:
        return amx_conv.amx_conv_scratch_bytes(self.problem, self.products, dict(self.sizes)["ow"])

    def operations(self, call: Any) -> DimLike:
        d = self.dims(call)
        return conv.conv_operations(self.problem, d["n"], d["oh"], d["ow"])

    def work(self, call: Any) -> DimLike:
        return D.floordiv(self.operations(call), FLOPS_PER_NS[self.products])

    def describe(self) -> dict[str, str]:
        return {"algorithm": ALGORITHM[self.products], "precision": self.precision}

    def emit(self, k: Emission) -> None:
        assert k.sink is not None
        amx_conv.emit_amx_conv(k.f, self.problem, self.products, self.isa, self.arguments(k), k.thread, k.threads, k.sink)


@dataclass(frozen=True)
class AmxGemmSpec(Product):
    """A product on tiles: A with rows contiguous, B strided or weights of `pack_amx_gemm_weights`."""

    problem: GemmProblem
    products: int
    precision: str
    isa: Isa

    @property
    def name(self) -> str:
        return f"gemm_{ALGORITHM[self.products]}"

    def scratch(self, call: Any) -> DimLike:
        d = self.dims(call)
        return amx_gemm.amx_gemm_scratch_bytes(self.problem, self.products, d["m"], d["n"], d["k"])

    def work(self, call: Any) -> DimLike:
        return D.floordiv(self.operations(call), FLOPS_PER_NS[self.products])

    def describe(self) -> dict[str, str]:
        return {"algorithm": ALGORITHM[self.products], "precision": self.precision}

    def emit(self, k: Emission) -> None:
        assert k.sink is not None
        arg = self.arguments(k)
        amx_gemm.emit_amx_gemm(k.f, self.problem, self.products, self.isa, arg, k.thread, k.threads, k.sink)
