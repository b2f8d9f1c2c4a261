"""Along which loop a nest's lanes run, and how many there are: chosen by how its loads and stores walk through memory."""

from __future__ import annotations

import math
from dataclasses import replace

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen import math as M
from hasten.codegen.isa import Isa
from hasten.kernels.emit import MOST_SPREAD
from hasten.kernels.expr import OPS, Expr, walk
from hasten.kernels.problem import Loop, NestProblem, StageProblem

UNROLL = 16  # inner rounds that are written out
SHUFFLED = 0.3  # of a load that is neither a vector nor one value: what it takes where whole vectors are loaded and lanes picked
CHAINS = 4  # vectors that a long, cheap reduction takes at once: each alone would wait for its last sum before the next one


def awkwardness(p: NestProblem, lane: str, extent: DimLike, lanes: int) -> float:
    """How badly memory is walked when lanes run along `lane`: 0 is ideal."""
    bad = 0.0
    seen: set[int] = set()
    loads = [n for e in p.exprs() for n in walk(e, seen) if n.kind == "load"]
    for n in loads:
        step = _step(n.index[0], lane)
        near = n.guard is None and not n.binds and step is not None and step <= MOST_SPREAD
        bad += 0 if step in (0, 1) else SHUFFLED if near else 1
    bad += sum(_step(s.offset, lane) not in (0, 1) for s in p.stores)
    if isinstance(extent, int) and extent < lanes:
        bad += 0.75 * (1 - extent / lanes) * max(1, len(loads))
    return bad


def _step(offset: DimLike, lane: str) -> int | None:
    """Elements from one lane to the next one; None where that isn't the same number everywhere, or negative."""
    linear = D.linear(offset, lane)
    return linear[0] if linear is not None and isinstance(linear[0], int) and linear[0] >= 0 else None


def choose(p: NestProblem, lanes: int) -> str:
    """Lanes "across" (along the last outer loop), "along" (along the last inner loop), or none ("scalar")."""
    if not p.stages:
        return "across" if p.outer else "scalar"
    across = awkwardness(p, *p.outer[-1], lanes) if p.outer else 1e9
    along = awkwardness(p, *p.inner[-1], lanes) + 0.1 if p.inner else 1e9
    if min(across, along) >= 1e9:
        return "scalar"
    return "across" if across <= along else "along"


def lane_last(p: NestProblem, lanes: int) -> NestProblem:
    """p with the outer loop last along which lanes pay most, where a reduction's last one is too short for them: windows over an image of three
    channels that is stored with its channels last run along its rows, and elements are stored one by one."""
    if not p.stages or len(p.outer) < 2 or not isinstance(p.outer[-1][1], int) or p.outer[-1][1] > lanes // 2:
        return p
    rounds = math.prod(n if isinstance(n, int) else UNROLL for _, n in p.inner)
    seen: set[int] = set()
    loads = [n for s in p.stages for n in walk(s.expr, seen) if n.kind == "load"]

    def cost(loop: Loop) -> float:
        """Of an element: of a vector of them, by how many there are."""
        name, n = loop
        reads = [_step(x.index[0], name) for x in loads]
        each = sum(1 if step in (0, 1) else 3 if step is not None and step <= MOST_SPREAD else lanes for step in reads)
        stores = sum(1 if _step(s.offset, name) in (0, 1) else lanes for s in p.stores)
        return (each * rounds + stores) / (max(1, min(n, lanes)) if isinstance(n, int) else lanes)

    best = min(reversed(p.outer), key=cost)
    return replace(p, outer=(*(x for x in p.outer if x is not best), best))


def chains(p: NestProblem, stages: tuple[StageProblem, ...], lane: str) -> int:
    """Vectors of lanes taken at once: several where reductions would otherwise be chains of short operations."""
    known = [n for _, n in p.inner if isinstance(n, int)]
    if not stages or (len(known) == len(p.inner) and math.prod(known) <= UNROLL) or any(s.kind.startswith("arg") for s in stages):
        return 1
    memo: dict[int, bool] = {}
    seen: set[int] = set()
    return CHAINS if all(_is_simple(n, lane, memo) for s in stages for n in walk(s.expr, seen)) else 1


def _is_simple(e: Expr, lane: str, memo: dict[int, bool]) -> bool:
    """Cheap to compute, or the same in all lanes; of loads: whole vectors or one value."""
    if e.kind == "load":
        linear = D.linear(e.index[0], lane)
        return linear is not None and isinstance(linear[0], int) and linear[0] in (0, 1) and not e.binds and e.guard is None
    return e.kind != "op" or (e.name in OPS and OPS[e.name].cost <= 1) or not _varies(e, lane, memo)


def _varies(e: Expr, lane: str, memo: dict[int, bool]) -> bool:
    """Whether lanes have different values; parameters count as the same."""
    if id(e) not in memo:
        memo[id(e)] = any(lane in D.symbols(d) for d in e.index) or any(_varies(c, lane, memo) for c in e.children())
    return memo[id(e)]


def lane_count(p: NestProblem, isa: Isa) -> int:
    """Lanes of the widest common element type: 32 bits, more where all values are bytes."""
    widths = {M.llvm_type(n.dtype) for e in p.exprs() for n in walk(e)}
    narrow = widths <= {"i1", "i8"} and all(s.stored in ("int8", "uint8", "bool") for s in p.stores)
    return isa.lanes(32) * (2 if narrow else 1)
