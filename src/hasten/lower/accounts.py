"""What a kernel call has to do at least, as expressions of the sizes: arithmetic operations, bytes read, bytes written. For reports and profiles.

Every element of an operand is read once, however often the kernel returns to it; of an operand that is only partly read (a slice, rows that are
looked up) at most as many elements count as there are rounds of the loops that its index follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.dtypes import dtype
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.kernels.nest import StageProblem
from hasten.lower.trace import Tensor

Held = Callable[[Tensor], DimLike]
"""Elements of a tensor's memory."""


@dataclass(frozen=True)
class Account:
    """Of one call; `operations` as `KernelSpec.operations` and `expr.operation` count them."""

    operations: DimLike = 0
    read: DimLike = 0
    written: DimLike = 0

    @property
    def bytes(self) -> DimLike:
        return self.read + self.written

    def __add__(self, other: Account) -> Account:
        return Account(self.operations + other.operations, self.read + other.read, self.written + other.written)


def of_nest(outer: Sequence[tuple[str | None, DimLike]], inner: Sequence[tuple[str | None, DimLike]], stages: Sequence[StageProblem],
            stores: Sequence[tuple[Expr, str]], inner_store: bool, held: Held) -> Account:  # fmt: skip
    """A nest as `kernels.nest` runs it: each stage once for every (outer, inner), with one operation to combine; what does not change within the
    inner loops is computed once for each outer. `stores` are values and the dtypes that they are stored as."""
    extents = {str(name): n for name, n in (*outer, *inner)}
    rounds = D.product([n for _, n in outer])
    pairs = rounds * D.product([n for _, n in inner])
    stored = pairs if inner_store else rounds
    changing = frozenset(str(name) for name, _ in inner)
    counts = [_operations(e, changing) for e in (*(s.expr for s in stages), *(value for value, _ in stores))]
    operations = pairs * (sum(within for within, _ in counts) + len(stages)) + rounds * sum(before for _, before in counts)
    written = stored * sum(dtype(kind).size for _, kind in stores)
    return Account(operations, _read([*(s.expr for s in stages), *(value for value, _ in stores)], extents, held), written)


def of_operands(operands: Iterable[Tensor], held: Held, operations: DimLike) -> Account:
    """The operands of a hand-written kernel, each read whole."""
    whole = {id(t): t for t in operands}
    return Account(operations, sum((held(t) * dtype(t.dtype).size for t in whole.values()), start=0))


def of_results(results: Iterable[Tensor]) -> Account:
    """The results of a hand-written kernel that stores them itself."""
    return Account(written=sum((t.size * dtype(t.dtype).size for t in results), start=0))


def _operations(e: Expr, changing: frozenset[str]) -> tuple[int, int]:
    """Operations of e that depend on the loops `changing`, and the others."""
    moving: set[int] = set()
    within = before = 0
    for n in E.walk(e):
        if any(id(c) in moving for c in n.children()) or any(D.symbols(d) & changing for d in n.index):
            moving.add(id(n))
            within += E.operation(n)
        else:
            before += E.operation(n)
    return within, before


def _read(exprs: Sequence[Expr], extents: Mapping[str, DimLike], held: Held) -> DimLike:
    """Bytes of the tensors that are loaded in `exprs`, within loops of these extents."""
    places: dict[int, dict[tuple[DimLike, ...], DimLike]] = {}
    sources: dict[int, Tensor] = {}
    seen: set[int] = set()
    for e in exprs:
        for n in E.walk(e, seen):
            if n.kind == "load":
                sources[id(n.source)] = n.source
                places.setdefault(id(n.source), {})[n.index] = D.product([extents[s] for s in sorted(_followed(n) & extents.keys())])
    total: DimLike = 0
    for key, t in sources.items():
        total = total + D.minimum(held(t), sum(places[key].values(), start=0)) * dtype(t.dtype).size
    return total


def _followed(load: Expr) -> set[str]:
    """The symbols that a load's index depends on, those behind computed indices too."""
    found = {s for d in load.index for s in D.symbols(d)}
    for name, bound in load.binds:
        if name in found:
            found |= {s for n in E.walk(bound) for d in n.index for s in D.symbols(d)}
    return found
