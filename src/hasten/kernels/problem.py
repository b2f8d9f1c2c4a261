"""What a nest computes: loops, reductions, stores; no code yet."""

from __future__ import annotations

from dataclasses import dataclass

from hasten.base.dims import DimLike
from hasten.kernels.expr import Expr

Loop = tuple[str, DimLike]  # symbol, extent


@dataclass(frozen=True)
class StageProblem:
    """One reduction; see lower.trace.Stage. `expr` mentions earlier stages as params."""

    name: str
    kind: str
    expr: Expr


@dataclass(frozen=True)
class StoreProblem:
    """value -> element `offset` of the buffer `target`, stored as dtype `stored`."""

    value: Expr
    stored: str
    target: object
    offset: DimLike


@dataclass(frozen=True)
class NestProblem:
    """outer, inner: loops from slowest to fastest. inner_store: stores happen for every (outer, inner)."""

    outer: tuple[Loop, ...]
    inner: tuple[Loop, ...] = ()
    stages: tuple[StageProblem, ...] = ()
    stores: tuple[StoreProblem, ...] = ()
    inner_store: bool = False
    cost: int = 1

    def exprs(self) -> list[Expr]:
        return [s.expr for s in self.stages] + [s.value for s in self.stores]
