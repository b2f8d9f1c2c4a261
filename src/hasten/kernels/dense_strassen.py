"""Strassen products as KernelSpecs, and where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen.isa import Isa
from hasten.kernels import strassen
from hasten.kernels.dense import FLOPS_PER_NS, Product, only
from hasten.kernels.gemm import GemmProblem
from hasten.kernels.spec import Emission
from hasten.kernels.strassen import StrassenProblem

# Not "highest", though errors relative to the largest output are within its bound: rows are added up in pairs, so a row of large values
# costs the accuracy of a row of small ones, and a NaN in one row shows in another one. Users must have asked for such a bargain.
PRECISIONS = ("high",)
MOST_BYTES = 9 << 19  # of the packed matrix, which every strip reads: a share of the last level cache


@dataclass(frozen=True)
class StrassenSpec(Product):
    """A product of float32 rows by a packed constant matrix (`strassen.pack_strassen_weights`)."""

    problem: GemmProblem
    isa: Isa

    @property
    def name(self) -> str:
        return "strassen"

    @property
    def parts(self) -> StrassenProblem:
        """The sizes as the template wants them."""
        assert self.problem.k is not None and self.problem.n is not None
        return StrassenProblem(self.problem.k, self.problem.n)

    def scratch(self, call: Any) -> DimLike:
        return strassen.strassen_scratch_bytes(self.parts, self.isa)

    def work(self, call: Any) -> DimLike:
        return D.floordiv(self.operations(call), FLOPS_PER_NS)

    def describe(self) -> dict[str, str]:
        return {"algorithm": "Strassen product"}

    def emit(self, k: Emission) -> None:
        strassen.emit_strassen(k.f, self.parts, self.isa, self.arguments(k), k.thread, k.threads, only(k.sink, self.axes))


def strassen_problem(precision: str, isa: Isa, problem: GemmProblem, dtype: str, rows: Sequence[DimLike]) -> StrassenProblem | None:
    """The product if it should be a Strassen product: sizes that can be halved, a matrix that stays in the cache, and many rows, known or
    likely (more axes than one: sequences, pictures)."""
    if precision not in PRECISIONS or dtype != "float32" or problem.k is None or problem.n is None:
        return None
    count = D.product(list(rows))
    many = count >= strassen.LEAST_ROWS if isinstance(count, int) else len(rows) > 1
    parts = StrassenProblem(problem.k, problem.n)
    if not many or not strassen.applies(parts, isa):
        return None
    return parts if strassen.weight_bytes(parts) <= MOST_BYTES else None
