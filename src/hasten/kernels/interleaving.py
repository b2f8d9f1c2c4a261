"""Stores of a nest that lie between one another: two values for every lane, side by side, are two whole vectors once they are shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.codegen import math as M
from hasten.kernels.emit import Emitter
from hasten.kernels.problem import StoreProblem


def store_all(e: Emitter, stores: Sequence[StoreProblem]) -> None:
    """All stores of one place of a nest."""
    for group in _groups(stores, e.lane):
        if len(group) == 2:
            _store_pair(e, *group)
        else:
            (s,) = group
            e.store(e.emit(s.value), s.stored, s.target, s.offset)


def _groups(stores: Sequence[StoreProblem], lane: str | None) -> Iterator[tuple[StoreProblem, ...]]:
    k = 0
    while k < len(stores):
        pair = tuple(stores[k : k + 2])
        size = 2 if lane is not None and len(pair) == 2 and _alternate(*pair, lane) else 1
        yield pair[:size]
        k += size


def _alternate(a: StoreProblem, b: StoreProblem, lane: str) -> bool:
    """Whether b's elements are those behind a's, and a's every second one."""
    linear = D.linear(a.offset, lane)
    return (a.target, a.stored) == (b.target, b.stored) and b.offset == a.offset + 1 and linear is not None and linear[0] == 2


def _store_pair(e: Emitter, a: StoreProblem, b: StoreProblem) -> None:
    f, lanes = e.f, e.lanes
    assert e.lane is not None
    size = dtypes.dtype(a.stored).size
    first, second = e.wide(a.value), e.wide(b.value)
    start = f.at(e.args.pointer(a.target), e.dim(a.offset, e.env), size)
    for half in range(2):
        places = range(half * lanes // 2, (half + 1) * lanes // 2)
        both = f.shuffle(first, second, [x for k in places for x in (k, lanes + k)])
        mask = None
        if e.mask is not None:
            assert e.last is not None
            mask = f.iota("i64", lanes) + half * lanes < f.splat((e.last - e.env[e.lane] + 1) * 2, lanes)
        M.store_value(f, a.stored, both, f.offset(start, half * lanes * size), mask)
