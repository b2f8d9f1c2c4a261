"""Moving float32 values: copies, fills, and rearrangements of vectors in registers."""

from __future__ import annotations

import math

from hasten.codegen.builder import Function, V, vector
from hasten.codegen.isa import Isa

FLOAT = 4  # bytes of an element


def copy_floats(f: Function, isa: Isa, target: V, source: V, count: int | V) -> None:
    """Copy `count` floats; nothing behind them is touched."""
    lanes = isa.lanes(32)
    whole = count - count % lanes
    t = vector("float", lanes)
    if not isinstance(whole, int) or whole > 4 * lanes:
        with f.loop(0, whole, lanes) as i:
            f.store(f.load(t, f.at(source, i, FLOAT)), f.at(target, i, FLOAT))
    else:
        for place in range(0, whole, lanes):
            f.store(f.load(t, f.at(source, place, FLOAT)), f.at(target, place, FLOAT))
    if not isinstance(count, int):
        with f.loop(whole, count) as i:
            f.store(f.load("float", f.at(source, i, FLOAT)), f.at(target, i, FLOAT))
        return
    done = count - count % lanes
    assert isinstance(done, int)
    while done < count:
        while lanes > count - done:
            lanes //= 2
        f.store(f.load(vector("float", lanes), f.at(source, done, FLOAT)), f.at(target, done, FLOAT))
        done += lanes


def zero_floats(f: Function, isa: Isa, target: V, count: V) -> None:
    """Set `count` floats to zero."""
    lanes = isa.lanes(32)
    whole = count - count % lanes
    with f.loop(0, whole, lanes) as i:
        f.store(f.const(vector("float", lanes), 0.0), f.at(target, i, FLOAT))
    with f.loop(whole, count) as i:
        f.store(f.const("float", 0.0), f.at(target, i, FLOAT))


def transpose(f: Function, rows: list[V]) -> list[V]:
    """A square matrix held as vectors: log2(lanes) rounds of interleaving."""
    n = len(rows)
    low = [x for i in range(n // 2) for x in (i, n + i)]
    high = [x + n // 2 for x in low]
    for _ in range(int(math.log2(n))):
        pairs = [(rows[i], rows[i + n // 2]) for i in range(n // 2)]
        rows = [f.shuffle(a, b, m) for a, b in pairs for m in (low, high)]
    return rows


def interleave(f: Function, planes: list[V]) -> list[V]:
    """Vectors of neighbouring values of some planes -> as many vectors of the same values, planes fastest."""
    lanes, count = planes[0].lanes, len(planes)
    out = []
    for j in range(count):
        elements = [divmod(j * lanes + i, count) for i in range(lanes)]  # (position, plane) of every lane
        mixed = f.shuffle(planes[0], None, [p for p, _ in elements])
        for plane in range(1, count):
            mask = [lanes + p if q == plane else i for i, (p, q) in enumerate(elements)]
            mixed = f.shuffle(mixed, planes[plane], mask)
        out.append(mixed)
    return out


def add_lanes(f: Function, rows: list[V]) -> V:
    """Lane i of the result is the sum of the lanes of vector i; as many vectors as lanes."""
    n = len(rows)
    low = [x for i in range(n // 2) for x in (i, n + i)]
    high = [x + n // 2 for x in low]
    while len(rows) > 1:
        half = len(rows) // 2
        rows = [f.shuffle(a, b, low) + f.shuffle(a, b, high) for a, b in zip(rows[:half], rows[half:], strict=True)]
    return rows[0]
