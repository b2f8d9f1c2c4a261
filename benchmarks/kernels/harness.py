"""A kernel's template compiled by itself, aligned buffers, minima of interleaved rounds: for comparing variants of one kernel. What users get,
`sweep.py` measures."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hasten.codegen import link, llvm
from hasten.codegen.builder import Module
from hasten.codegen.isa import Isa
from hasten.vm.image import LoadedImage


def aligned(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Random float32 values at a 64-byte boundary."""
    count = int(np.prod(shape))
    raw = np.zeros(count + 16, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    array = raw[start : start + count].reshape(shape)
    array[...] = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return array


class Kernel:
    """A compiled template; `bind` fixes its words and gives a call without arguments."""

    def __init__(self, isa: Isa, words: Sequence[tuple[str, str]], emit: Callable[..., None]):
        module = Module(isa)
        f = module.function("kernel", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
        args, thread, threads = f.args
        arg = {name: f.load(t, f.at(args, i, 8)) for i, (name, t) in enumerate(words)}
        emit(f, isa, arg, thread, threads)
        self.text = module.text()
        start = time.perf_counter()
        self.object = llvm.compile_text(self.text, isa)
        self.compile_seconds = time.perf_counter() - start
        self.image = LoadedImage.from_memory(link.link([self.object], ["kernel"]))
        self.words = [name for name, _ in words]
        self.call = self.image.function("kernel", None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

    def bind(self, words: Mapping[str, Any]) -> Callable[[], None]:
        values = [words.get(name, 0) for name in self.words]
        array = (ctypes.c_int64 * len(values))(*(v.ctypes.data if isinstance(v, np.ndarray) else v for v in values))
        keep = (array, words)
        return lambda: self.call(keep[0], 0, 1)


def minima(calls: Sequence[Callable[[], object]], seconds: float = 0.4) -> list[float]:
    """The least time of each call, in interleaved rounds. It is the thread's own time: what else runs disturbs less."""
    best = [float("inf")] * len(calls)
    for call in calls:
        call()
    stop = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < stop:
        for i, call in enumerate(calls):
            for _ in range(3):
                start = time.thread_time()
                call()
                best[i] = min(best[i], time.thread_time() - start)
    return best
