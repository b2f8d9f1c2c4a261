"""Places of temporaries in the arena, for all sizes at once.

The arena is a row of regions. A buffer lies in one of them, above all that it may meet there: its offset is the `max` of their ends, as an
expression, so the packing is right for any sizes and only its quality depends on those that it was made for. A result that may be written over an
operand (`Over`) may also lie just where the operand lies.

Buffers are placed from the largest to the smallest, each where its region grows least. That is done for several samples of the unknown sizes,
and the packing is taken that needs least over all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hasten.base import dims as D
from hasten.base.dims import DimLike

LINE = 64  # bytes: every place begins at a multiple

Over = Mapping[str, frozenset[str]]
"""For a buffer, those that the first call that mentions it may write it over."""


@dataclass
class Life:
    """First and last instruction (in text order) that needs a buffer; `begins`, `ends`: mentions it, and is no loop around its mentions."""

    first: int
    last: int
    begins: bool = True
    ends: bool = True


@dataclass(frozen=True)
class Place:
    """In a region by number: directly above `below`, or where `over` lies."""

    region: int
    below: frozenset[str] = frozenset()
    over: str | None = None


@dataclass
class _Region:
    size: int = 0
    tenants: list[str] = field(default_factory=list)


Places = dict[str, Place]  # in the order in which they were found: what a buffer lies above comes before it


def places(sizes: Mapping[str, DimLike], lives: Mapping[str, Life], over: Over, samples: Sequence[Mapping[str, int]]) -> Places:
    """Places for buffers of these sizes (bytes). `samples`: each gives values to all symbols of the sizes."""
    lines = {b: D.ceildiv(n, LINE) * LINE for b, n in sizes.items()}
    meetings = _meetings(lives, sizes)
    over = {b: frozenset(a for a in over.get(b, ()) if a in sizes and _replaces(b, a, lives) and D.known_equal(sizes[a], sizes[b])) for b in sizes}
    numbers = [{b: D.evaluate(n, sample) for b, n in lines.items()} for sample in samples]
    packings = [_Packing(row, lives, meetings, over).run() for row in numbers]
    totals = [[offsets(p, row)[1] for row in numbers] for p in packings]
    least = [min(column) for column in zip(*totals, strict=True)]
    return min(zip(packings, totals, strict=True), key=lambda x: sum(n / max(1, m) for n, m in zip(x[1], least, strict=True)))[0]  # type: ignore[operator]


def offsets(found: Places, sizes: Mapping[str, DimLike]) -> tuple[dict[str, DimLike], DimLike]:
    """Each buffer's offset in the arena, and the arena's size; `sizes`, in bytes, are whole lines."""
    within: dict[str, DimLike] = {}
    for b, place in found.items():
        within[b] = within[place.over] if place.over is not None else _largest(within[c] + sizes[c] for c in sorted(place.below))
    covered = frozenset[str]().union(*(p.below for p in found.values()))
    ends: dict[int, list[DimLike]] = {}
    for b, place in found.items():
        if b not in covered:
            ends.setdefault(place.region, []).append(within[b] + sizes[b])
    start: dict[int, DimLike] = {}
    total: DimLike = 0
    for region in sorted(ends):
        start[region], total = total, total + _largest(ends[region])
    return {b: start[place.region] + within[b] for b, place in found.items()}, total


def _largest(values: Iterable[DimLike]) -> DimLike:
    """The `max` of sizes; what is certainly not larger than another one is left out."""
    kept: list[DimLike] = [0]
    for v in dict.fromkeys(values):
        if not any(D.nonnegative(k - v) for k in kept):
            kept = [k for k in kept if not D.nonnegative(v - k)] + [v]
    return functools.reduce(D.maximum, kept)


def _replaces(new: str, old: str, lives: Mapping[str, Life]) -> bool:
    """Whether `old` is needed last where `new` is made, in every round of a loop."""
    return old in lives and lives[old].last == lives[new].first and lives[old].ends and lives[new].begins


def _meetings(lives: Mapping[str, Life], names: Iterable[str]) -> dict[str, set[str]]:
    """For each buffer those that are needed at the same time."""
    found: dict[str, set[str]] = {}
    alive: list[str] = []
    for b in sorted(names, key=lambda b: lives[b].first):
        alive = [c for c in alive if lives[c].last >= lives[b].first]
        found[b] = set(alive)
        for c in alive:
            found[c].add(b)
        alive.append(b)
    return found


class _Packing:
    """One packing, for sizes as numbers."""

    def __init__(self, sizes: Mapping[str, int], lives: Mapping[str, Life], meetings: Mapping[str, set[str]], over: Over):
        self.sizes, self.lives, self.meetings, self.over = sizes, lives, meetings, over
        self.regions: list[_Region] = []
        self.found: Places = {}
        self.start: dict[str, int] = {}  # offsets within the region
        self.under: dict[str, frozenset[str]] = {}  # all that a buffer lies above, for any sizes

    def run(self) -> Places:
        for b in sorted(self.sizes, key=lambda b: (-self.sizes[b], self.lives[b].first)):
            options = [option for k in range(len(self.regions)) for option in self._options(b, k)]
            growth, _, place, start = min(options, key=lambda x: x[:2], default=(self.sizes[b], 0, Place(0), 0))
            if growth >= self.sizes[b]:
                place, start = Place(len(self.regions)), 0
                self.regions.append(_Region())
            self._put(b, place, start)
        return self.found

    def _options(self, b: str, k: int) -> list[tuple[int, int, Place, int]]:
        """Places for b in a region: how much it grows, its size, the place, and the offset there."""
        region = self.regions[k]
        met = [c for c in region.tenants if c in self.meetings[b]]
        below = frozenset(met) - frozenset[str]().union(*(self.under[c] for c in met))
        start = max((self.start[c] + self.sizes[c] for c in below), default=0)
        options = [(max(0, start + self.sizes[b] - region.size), region.size, Place(k, below), start)]
        for a in met:
            if (a in self.over[b] or b in self.over[a]) and all(c == a or a in self.under[c] or c in self.under[a] for c in met):
                options.append((0, region.size, Place(k, over=a), self.start[a]))
        return options

    def _put(self, b: str, place: Place, start: int) -> None:
        region = self.regions[place.region]
        self.found[b], self.start[b] = place, start
        self.under[b] = self.under[place.over] if place.over is not None else place.below.union(*(self.under[c] for c in place.below))
        region.tenants.append(b)
        region.size = max(region.size, start + self.sizes[b])
