"""Kernels that do one thing as fast as the machine can: multiply and add in registers, multiply tiles, read, write, copy.

Every thread works in a piece of memory of its own: `Probe(isa, emit_read).least(room(size, threads), rounds, budget)`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from hasten.codegen.builder import Function, Module, V
from hasten.codegen.isa import Isa

UNROLLS = (4, 32)  # vectors in a round: few suit the prefetchers of far memory, many the nearest cache
PAGE = 4096

Emit = Callable[[Function, Isa, V, V, V], None]
"""emit(f, isa, piece of memory, its bytes, rounds)"""
Piece = np.ndarray[Any, np.dtype[np.uint8]]


class Probe:
    """A compiled kernel, run by as many threads at once as there are pieces of memory, each pinned to a CPU of its own where there are enough."""

    def __init__(self, isa: Isa, emit: Emit):
        from hasten.codegen.link import link
        from hasten.codegen.llvm import compile_text
        from hasten.vm.image import LoadedImage

        module = Module(isa)
        f = module.function("probe", [("data", "ptr"), ("size", "i64"), ("rounds", "i64")])
        emit(f, isa, *f.args)
        f.ret()
        self.image = LoadedImage.from_memory(link([compile_text(module.text(), isa)], ["probe"]))
        self.call = self.image.function("probe", None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

    def least(self, pieces: list[Piece], rounds: int, budget: float, window: int | None = None) -> float:
        """The least seconds from the first thread's start to the last one's end, of as many runs as the budget of seconds has room for: what
        disturbs a run only makes it longer. Every thread is on a CPU of its own, so that a busy machine gives them all at once now and then.
        With `window`, each run works in the next so many bytes of the piece."""
        rally = _Rally(len(pieces), budget)
        cpus = usable_cpus()

        def work(number: int) -> list[tuple[float, float]]:
            with pinned(cpus[number % len(cpus)]) if len(pieces) > 1 else contextlib.nullcontext():
                return self._runs(pieces[number], rounds, window, rally)

        with ThreadPoolExecutor(len(pieces)) as threads:
            runs = list(threads.map(work, range(len(pieces))))
        return min(max(end for _, end in run) - min(start for start, _ in run) for run in zip(*runs, strict=True))

    def _runs(self, piece: Piece, rounds: int, window: int | None, rally: _Rally) -> list[tuple[float, float]]:
        """Start and end of each run of this thread."""
        found: list[tuple[float, float]] = []
        size = window or piece.nbytes
        places = itertools.cycle(range(piece.ctypes.data, piece.ctypes.data + piece.nbytes - size + 1, size))
        while rally.again():
            start = rally.clock()
            self.call(next(places), size, rounds)
            found.append((start, rally.clock()))
        return found


class _Rally:
    """Where threads meet before each run, and hear whether there is one more: at least one, until the budget of seconds is spent. A thread by itself
    is timed by its own time on the CPU, several together by the clock on the wall."""

    def __init__(self, threads: int, budget: float):
        self.stop, self.runs, self.going = time.perf_counter() + budget, 0, True
        self.barrier = threading.Barrier(threads, self._decide) if threads > 1 else None
        self.clock = time.perf_counter if threads > 1 else time.thread_time

    def _decide(self) -> None:
        self.going = self.runs == 0 or time.perf_counter() < self.stop
        self.runs += 1

    def again(self) -> bool:
        if self.barrier is None:
            self._decide()
        else:
            self.barrier.wait()
        return self.going


def usable_cpus() -> list[int]:
    """The CPUs that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """This thread on one CPU, where the system lets us."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)


def room(size: int, threads: int) -> list[Piece]:
    """`threads` pieces of `size` bytes: aligned, every page in place, no two of them on one page."""
    pieces = []
    for _ in range(threads):
        raw = np.ones(size + 2 * PAGE, np.uint8)
        pieces.append(raw[-raw.ctypes.data % PAGE :][:size])
    return pieces


# --- arithmetic -------------------------------------------------------------------------------------------------------------------
WRITTEN_OUT = 4  # multiply-adds of a chain in one round: the loop itself costs nothing then


def chains(isa: Isa) -> int:
    """Independent sums that fit in the registers beside two factors: enough to hide an FMA's latency."""
    return isa.registers - 4


def fma_operations(isa: Isa, rounds: int) -> int:
    return 2 * isa.lanes(32) * chains(isa) * WRITTEN_OUT * rounds


def emit_fma(f: Function, isa: Isa, data: V, size: V, rounds: V) -> None:
    """In every round, WRITTEN_OUT times `chains` independent multiply-adds of float32 vectors."""
    t, step = f"<{isa.lanes(32)} x float>", isa.vector_bytes
    x, y = f.load(t, data), f.load(t, f.offset(data, step))
    sums = [f.var(t, 0.0) for _ in range(chains(isa))]
    for i, s in enumerate(sums):
        s.set(f.load(t, f.offset(data, i * step)))
    with f.loop(0, rounds):
        for s in sums * WRITTEN_OUT:
            s.set(f.fma(x, y, s.get()))
    for i, s in enumerate(sums):
        f.store(s.get(), f.offset(data, i * step))


TILE_SUMS = 4


def tile_operations(rounds: int) -> int:
    return 2 * 16 * 16 * 32 * TILE_SUMS * rounds


def emit_tiles(f: Function, isa: Isa, data: V, size: V, rounds: V) -> None:
    """rounds x four products of bfloat16 tiles, 2 by 2."""
    from hasten.kernels.amx_tile import TILE_BYTES, Tiles

    tiles = Tiles(f, isa)
    for t in range(TILE_SUMS):
        tiles.zero(t)
    for t in range(4, 8):
        tiles.load(t, f.offset(data, t * TILE_BYTES), 64)
    with f.loop(0, rounds):
        for t in range(TILE_SUMS):
            tiles.dot(t, 4 + t // 2, 6 + t % 2)
    for t in range(TILE_SUMS):
        tiles.store(t, f.offset(data, t * TILE_BYTES), 64)
    tiles.release()


# --- memory -----------------------------------------------------------------------------------------------------------------------
def emit_read(unroll: int, f: Function, isa: Isa, data: V, size: V, rounds: V) -> None:
    """Read the piece again and again."""
    t, step = f"<{isa.lanes(32)} x i32>", isa.vector_bytes
    sums = [f.var(t, 0) for _ in range(min(unroll, 8))]
    with f.loop(0, rounds), f.loop(0, size, unroll * step) as i:
        for k in range(unroll):
            s = sums[k % len(sums)]
            s.set(s.get() ^ f.load(t, f.offset(f.offset(data, i), k * step), step))
    for k, s in enumerate(sums):
        f.store(s.get(), f.offset(data, k * step), step)


def emit_write(unroll: int, f: Function, isa: Isa, data: V, size: V, rounds: V) -> None:
    """Write the piece again and again."""
    t, step = f"<{isa.lanes(32)} x float>", isa.vector_bytes
    value = f.load(t, data)
    with f.loop(0, rounds), f.loop(0, size, unroll * step) as i:
        for k in range(unroll):
            f.store(value, f.offset(f.offset(data, i), k * step), step)


def emit_copy(unroll: int, f: Function, isa: Isa, data: V, size: V, rounds: V) -> None:
    """Copy the first half of the piece to the second, again and again."""
    t, step = f"<{isa.lanes(32)} x float>", isa.vector_bytes
    half = size / 2
    target = f.offset(data, half)
    with f.loop(0, rounds), f.loop(0, half, unroll * step) as i:
        for k in range(0, unroll, 4):
            places = [i + j * step for j in range(k, k + 4)]
            values = [f.load(t, f.at(data, place, 1), step) for place in places]
            for place, value in zip(places, values, strict=True):
                f.store(value, f.at(target, place, 1), step)


MOVERS: dict[str, list[Emit]] = {
    name: [functools.partial(emit, unroll) for unroll in UNROLLS] for name, emit in (("read", emit_read), ("write", emit_write), ("copy", emit_copy))
}
