"""Sorting inside kernels: keys that order like values, and heaps of (key, index) pairs.

Keys are signed 64-bit integers; NaNs are equal to each other and above all numbers, zeros of both signs are equal.
All orders here are total (equal keys are ordered by index), so that results never depend on the algorithm.
"""

from __future__ import annotations

import numpy as np

from hasten.base import dtypes
from hasten.codegen.builder import Function, V, bits_of, vector
from hasten.codegen.convert import load_value

PAIR = 16  # bytes of a pair: key, index


def sort_key(f: Function, stored: str, p: V) -> V:
    """The key of the element of dtype `stored` at p."""
    compute = dtypes.compute_type(stored)
    if dtypes.is_float(compute):
        return f.cast(float_keys(f, stored, p, 1), "i64")
    key = f.cast(load_value(f, stored, p, 1), "i64", signed=not compute.startswith("u") and compute != "bool")
    return key ^ -(1 << 63) if compute == "uint64" else key


def float_keys(f: Function, stored: str, p: V, lanes: int) -> V:
    """The keys of consecutive floats at p, in integers of the width of their compute type."""
    value = load_value(f, stored, p, lanes)
    bits = bits_of(value.type)
    code = f.bitcast(value, vector(f"i{bits}", lanes))
    low = (1 << (bits - 1)) - 1
    key = f.select((code & low).eq(0), 0, code ^ ((code >> (bits - 1)) & low))
    return f.select(value.is_nan(), low, key)


def keys_of(x: np.ndarray) -> np.ndarray:
    """The meaning of `sort_key` in NumPy: int64 keys of an array."""
    compute = dtypes.to_numpy(dtypes.compute_type(dtypes.from_numpy(x.dtype)))
    x = x.astype(compute)
    if x.dtype.kind == "f":
        code = (x + 0).view(f"i{x.dtype.itemsize}").astype(np.int64)
        low = (1 << (8 * x.dtype.itemsize - 1)) - 1
        key = np.where(x == 0, 0, np.where(code < 0, code ^ low, code))
        return np.where(np.isnan(x), low, key)
    return (x ^ np.uint64(1 << 63)).view(np.int64) if x.dtype == np.uint64 else x.astype(np.int64)


def load_pair(f: Function, heap: V, i: V | int) -> tuple[V, V]:
    p = f.at(heap, i, PAIR)
    return f.load("i64", p), f.load("i64", f.offset(p, 8))


def store_pair(f: Function, heap: V, i: V | int, key: V, index: V) -> None:
    p = f.at(heap, i, PAIR)
    f.store(key, p)
    f.store(index, f.offset(p, 8))


def _worse(f: Function, a: tuple[V, V], b: tuple[V, V]) -> V:
    """Whether pair a comes after pair b: smaller key, or larger index of the same key."""
    return (a[0] < b[0]) | (a[0].eq(b[0]) & (a[1] > b[1]))


def sift_down(f: Function, heap: V, start: V | int, count: V) -> None:
    """Restore the heap (worst pair at the root) below `start`, whose pair may be out of place."""
    name = "sift_down"
    if all(g.name != name for g in f.module._functions):
        _define_sift_down(f, name)
    f.call(name, "void", [heap, f.coerce(start, "i64"), count])


def _define_sift_down(f: Function, name: str) -> None:
    g = f.module.function(name, [("heap", "ptr"), ("start", "i64"), ("count", "i64")], internal=True)
    heap, start, count = g.args
    moving = load_pair(g, heap, start)
    place = g.var("i64", start)
    with g.forever() as loop:
        left = place.get() * 2 + 1
        loop.break_if(left >= count)
        right = g.select(left + 1 < count, left + 1, left)
        a, b = load_pair(g, heap, left), load_pair(g, heap, right)
        pick = _worse(g, b, a)
        child = g.select(pick, right, left)
        worst = g.select(pick, b[0], a[0]), g.select(pick, b[1], a[1])
        loop.break_if(~_worse(g, worst, moving))
        store_pair(g, heap, place.get(), *worst)
        place.set(child)
    store_pair(g, heap, place.get(), *moving)
    g.ret()


def heapify(f: Function, heap: V, count: V) -> None:
    """Make `count` pairs in any order a heap."""
    half = count.lshr(1)
    with f.loop(0, half) as t:
        sift_down(f, heap, half - 1 - t, count)


def sort_heap(f: Function, heap: V, count: V) -> None:
    """Turn a heap into pairs from best (largest key, then smallest index) to worst."""
    with f.loop(1, count) as t:
        last = count - t
        root, other = load_pair(f, heap, 0), load_pair(f, heap, last)
        store_pair(f, heap, 0, *other)
        store_pair(f, heap, last, *root)
        sift_down(f, heap, 0, last)
