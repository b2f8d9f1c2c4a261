"""What the machine can do at most, measured: multiply-adds a second, bytes a second at each level of its memory.

Measured once for an instruction set and a number of threads (some ten seconds), then kept in the cache folder with the date. A figure is the best of
many short runs: other work on the machine makes some of them slow, and only if all were slow is a peak too low.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hasten.codegen import isa as isas
from hasten.codegen.cache import Cache
from hasten.codegen.isa import Isa

if TYPE_CHECKING:
    from hasten.profile.probes import Piece, Probe

FORMAT = 1
SHORTEST = 2e-4  # seconds that one run of a probe should take: long beside the clock, short beside what disturbs
TOGETHER = 8  # times that, where threads run together
MEMORY_FACTOR = 4  # a piece of memory counts as outside of the caches when it is so many times the last one
BIG, BIG_FACTOR = 4 << 20, 3  # pieces from this size on lie where others' data do, and get more time
WINDOW = 4 << 20  # bytes of memory that a run walks through
DEFAULT_CACHES = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}  # where the system does not tell


@dataclass(frozen=True)
class Level:
    """A level of memory: what all threads together can hold there (bytes; None: no limit), and bytes a second that all together read, write, or
    copy (counted twice: read and written)."""

    name: str
    capacity: int | None
    read: float
    write: float
    copy: float

    @property
    def bandwidth(self) -> float:
        """The most bytes a second of any kind but writing alone."""
        return max(self.read, self.copy)

    def seconds(self, read: float, written: float) -> float:
        """The least time for so many bytes: as much as there is of both is a copy."""
        both = min(read, written)
        return 2 * both / self.copy + (read - both) / self.read + (written - both) / self.write


@dataclass(frozen=True)
class Peaks:
    """Of one instruction set on so many threads. `fma`: float32 operations a second (a multiply-add is two); `tiles`: bfloat16 operations a second
    of matrix tiles, where there are some; `levels`: from the nearest cache to memory."""

    cpu: str
    isa: str
    threads: int
    date: str
    fma: float
    tiles: float | None
    levels: tuple[Level, ...]

    def level(self, size: int) -> Level:
        """The nearest level that holds so many bytes."""
        return next(level for level in self.levels if level.capacity is None or size <= level.capacity)

    def arithmetic(self, precision: str) -> float:
        """Operations a second for a kernel of this precision (as in the report): products of split bfloat16 cost three or six."""
        match = re.fullmatch(r"bf16(?:x(\d))?", precision)
        return self.tiles / int(match[1] or 1) if match and self.tiles else self.fma

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Peaks:
        return Peaks(**{**data, "levels": tuple(Level(**level) for level in data["levels"])})


def machine_peaks(isa: str | None = None, threads: int = 1, *, cache_dir: str | os.PathLike[str] | None = None, again: bool = False,
                  budget: float = 0.15, begin: Callable[[], None] | None = None) -> Peaks:  # fmt: skip
    """The peaks of this machine: those measured before, else measured now, with `budget` seconds for each figure. `again`: measure in any case, and
    keep the better of the old and the new figures (other work on the machine can only make them worse). `begin` is called before measuring."""
    level = isas.get(isa)
    cache = Cache(cache_dir)
    key = f"{FORMAT}|{cpu_name()}|{sorted(cache_sizes().items())}|{level.key}|{threads}"
    found = cache.get("peaks", key)
    known = None if found is None else Peaks.from_dict(json.loads(found))
    if known is not None and not again:
        return known
    if begin is not None:
        begin()
    peaks = measure(level, threads, budget)
    if known is not None:
        peaks = better(known, peaks)
    cache.put("peaks", key, json.dumps(peaks.to_dict()).encode())
    return peaks


def measure(isa: Isa, threads: int, budget: float) -> Peaks:
    """All figures, now."""
    tiles = _tiles(isa, threads, budget) if isa.amx == "native" else None
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Peaks(cpu_name(), isa.name, threads, date, _fma(isa, threads, budget), tiles, tuple(_levels(isa, threads, budget)))


def better(old: Peaks, new: Peaks) -> Peaks:
    """The larger of each figure, with the date of the new ones."""
    levels = tuple(replace(b, read=max(a.read, b.read), write=max(a.write, b.write), copy=max(a.copy, b.copy))
                   for a, b in zip(old.levels, new.levels, strict=True))  # fmt: skip
    tiles = new.tiles if old.tiles is None or new.tiles is None else max(old.tiles, new.tiles)
    return replace(new, fma=max(old.fma, new.fma), tiles=tiles, levels=levels)


def _fma(isa: Isa, threads: int, budget: float) -> float:
    from hasten.profile import probes

    memory, rounds = probes.room(4096, threads), _rounds(threads, 5_000)
    for piece in memory:
        piece.view(np.float32)[...] = 1e-3  # products stay small
    return threads * probes.fma_operations(isa, rounds) / probes.Probe(isa, probes.emit_fma).least(memory, rounds, budget)


def _tiles(isa: Isa, threads: int, budget: float) -> float:
    from hasten.profile import probes

    memory, rounds = probes.room(16 << 10, threads), _rounds(threads, 5_000)
    return threads * probes.tile_operations(rounds) / probes.Probe(isa, probes.emit_tiles).least(memory, rounds, budget)


def _rounds(threads: int, rounds: int) -> int:
    """Rounds of a probe: so many more with several threads that their starting at different times is little beside the run."""
    return rounds if threads == 1 else rounds * TOGETHER


def _levels(isa: Isa, threads: int, budget: float) -> Iterable[Level]:
    from hasten.profile import probes

    movers = {kind: [probes.Probe(isa, emit) for emit in emits] for kind, emits in probes.MOVERS.items()}
    for name, capacity, size in pieces(cache_sizes(), threads):
        memory = probes.room(size, threads)
        rates = {kind: max(_bandwidth(probe, memory, capacity is None, budget) for probe in chosen) for kind, chosen in movers.items()}
        yield Level(name, capacity, **rates)


def _bandwidth(probe: Probe, memory: list[Piece], new: bool, budget: float) -> float:
    """Bytes a second in pieces of memory, walked through again and again; `new`: by runs that each find memory in no cache."""
    size, threads = memory[0].nbytes, len(memory)
    budget *= 1 if size < BIG else BIG_FACTOR
    if new:
        return threads * WINDOW / probe.least(memory, 1, budget, WINDOW)
    once = min(probe.least(memory[:1], 1, 0) for _ in range(3))
    rounds = _rounds(threads, max(1, round(SHORTEST / once)))
    return threads * size * rounds / probe.least(memory, rounds, budget)


def pieces(caches: dict[int, tuple[int, int]], threads: int) -> Iterable[tuple[str, int | None, int]]:
    """For each level its name, what all threads together can hold there, and the bytes that one thread should walk through to measure it: half of
    what it holds (the rest is for what else lies there), and of a shared cache more than the thread's own one holds."""
    own = 0
    for level, (size, sharers) in sorted(caches.items()):
        copies = -(-threads // sharers)  # threads beyond a shared cache's CPUs have another one
        piece = max(size * copies // threads // 2, 2 * own)
        yield f"L{level}", size * copies, piece // 4096 * 4096
        own = size
    last = max(size * -(-threads // sharers) for size, sharers in caches.values())
    yield "memory", None, max(MEMORY_FACTOR * last // threads, 2 * own) // 4096 * 4096


def cache_sizes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[int, tuple[int, int]]:
    """Bytes of the data caches by level, and how many CPUs share one."""
    found = {}
    for folder in sorted(root.glob("index*")):
        try:
            kind, level = (folder / "type").read_text().strip(), int((folder / "level").read_text())
            size = re.fullmatch(r"(\d+)K", (folder / "size").read_text().strip())
            sharers = (folder / "shared_cpu_map").read_text().strip().replace(",", "")
        except (OSError, ValueError):
            continue
        if size and kind in ("Data", "Unified"):
            found[level] = (int(size[1]) << 10, max(1, int(sharers, 16).bit_count()))
    return found or {level: (size, 1 if level < 3 else 1 << 20) for level, size in DEFAULT_CACHES.items()}


def cpu_name() -> str:
    """As Linux names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
