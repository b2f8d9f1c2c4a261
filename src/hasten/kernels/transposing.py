"""Nests that read along one loop and store along another: squares of the matrix are transposed in registers.

Where lanes run along the loop L that is contiguous in what is stored, but a load is contiguous along another loop B,
every lane would be fetched alone. Instead W vectors of W neighbours along B are loaded for W neighbours along L,
transposed, and each of the W results is one vector along L for one value of B. The last square of a row is moved back
to end with it, so that some elements are stored twice, with the same values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.codegen import math as M
from hasten.codegen.builder import V
from hasten.kernels import moves
from hasten.kernels.emit import Arguments, Emitter
from hasten.kernels.expr import Expr, walk
from hasten.kernels.problem import NestProblem

LONGEST = 48  # nodes of an expression that is written out once for every vector of a square
NARROWEST = 4  # neighbours along B that are worth a square


@dataclass(frozen=True)
class Squares:
    """`along`: the loop B, as its place among the outer loops; `width`: of a square; `loads`: what is read along B."""

    along: int
    width: int
    loads: tuple[Expr, ...]


def squares(p: NestProblem, lanes: int) -> Squares | None:
    """How a nest without reductions is cut into squares; None where that gains nothing."""
    if p.stages or p.inner or len(p.outer) < 2 or lanes < NARROWEST:
        return None
    seen: set[int] = set()
    nodes = [n for e in p.exprs() for n in walk(e, seen)]
    if len(nodes) > LONGEST:
        return None
    lane, extent = p.outer[-1]
    if isinstance(extent, int) and extent < lanes:
        return None
    found: list[Squares] = []
    for k, (name, n) in enumerate(p.outer[:-1]):
        width = _width(n, lanes)
        loads = tuple(x for x in nodes if x.kind == "load" and _crosses(x, lane, name))
        if width and loads:
            found.append(Squares(k, width, loads))
    return max(found, key=lambda s: len(s.loads), default=None)


def _width(n: DimLike, lanes: int) -> int:
    """The side of the squares: all lanes, or for few neighbours a power of two that divides n where there is one, else one that n has room for."""
    if not isinstance(n, int) or n >= 2 * lanes:
        return lanes
    fits = [w for w in (lanes, lanes // 2, lanes // 4) if NARROWEST <= w <= n]
    return next((w for w in fits if n % w == 0), fits[0] if fits else 0)


def _crosses(load: Expr, lane: str, name: str) -> bool:
    """Whether a load is contiguous along the loop `name` and not along `lane`."""
    if load.guard is not None or load.binds:
        return False
    along, across = D.linear(load.index[0], name), D.linear(load.index[0], lane)
    if along is None or across is None or not (isinstance(along[0], int) and along[0] == 1):
        return False
    return not (isinstance(across[0], int) and across[0] in (0, 1)) and name not in D.symbols(across[0])


Plain = Callable[[dict[str, V], V, V], None]  # stores a row without squares: env without the lane loop, first, stop


def emit_squares(p: NestProblem, cut: Squares, args: Arguments, plain: Plain, env: dict[str, V], block: V, lanes: int) -> None:
    """The rows of one block of `cut.width` values of B, for all of the lane loop."""
    lane, n = p.outer[-1]
    name, m = p.outer[cut.along]
    f = args.f
    width, height = args.integer(n), args.integer(m)
    first = block * cut.width
    with f.either((width >= lanes) & (height >= cut.width)) as other:
        b = f.smin(first, height - cut.width)
        with f.loop(0, (width + (lanes - 1)).udiv(f.const("i64", lanes))) as tile:
            _square(p, cut, args, {**env, name: b, lane: f.smin(tile * lanes, width - lanes)}, lanes)
        other.otherwise()
        with f.loop(first, f.smin(first + cut.width, height)) as b:
            plain({**env, name: b}, f.const("i64", 0), width)


def _square(p: NestProblem, cut: Squares, args: Arguments, env: dict[str, V], lanes: int) -> None:
    """`lanes` neighbours along L by `cut.width` along B."""
    lane, name = p.outer[-1][0], p.outer[cut.along][0]
    turned = {id(load): _turned(load, Emitter(args, env), lane, cut.width, lanes) for load in cut.loads}
    for k in range(cut.width):
        e = Emitter(args, {**env, name: env[name] + k}, lane, lanes)
        e.memo.update({load: vectors[k] for load, vectors in turned.items()})
        for s in p.stores:
            e.store(e.emit(s.value), s.stored, s.target, s.offset)


def _turned(load: Expr, at: Emitter, lane: str, width: int, lanes: int) -> list[V]:
    """`width` vectors along L of what `load` reads, one for each neighbour along B."""
    f, size = at.f, dtypes.dtype(load.stored).size
    linear = D.linear(load.index[0], lane)
    assert linear is not None
    first = f.at(at.args.pointer(load.source), at.dim(load.index[0]), size)
    step = at.dim(linear[0])
    groups = []
    for g in range(0, lanes, width):
        rows = [M.load_value(f, load.stored, f.at(first, step * (g + r) if g + r else 0, size), width) for r in range(width)]
        groups.append(moves.transpose(f, rows))
    while len(groups) > 1:
        groups = [[f.shuffle(a, b, range(2 * a.lanes)) for a, b in zip(*pair, strict=True)] for pair in zip(groups[::2], groups[1::2], strict=True)]
    return groups[0]

