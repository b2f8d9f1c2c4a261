"""Runs kernel templates by themselves, on buffers that end at a page nobody may touch."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from hasten.codegen import isa as isa_module
from hasten.codegen import link, llvm
from hasten.codegen.builder import Function, Module, V
from hasten.codegen.isa import Isa
from hasten.vm.image import LoadedImage

LEVELS = [name for name in ("portable", "avx2", "avx512") if name in isa_module.available()]
Emit = Callable[[Function, Isa, Mapping[str, V], V, V], None]


class Guarded:
    """Memory whose last byte is the last of its page; the page behind it faults. `before` canary bytes lie in front."""

    def __init__(self, nbytes: int, align: int = 4):
        self._libc = ctypes.CDLL(None, use_errno=True)
        page = mmap.PAGESIZE
        self.size = (nbytes + 4096 + page - 1) // page * page
        self._map = mmap.mmap(-1, self.size + page)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        assert self._libc.mprotect(ctypes.c_void_p(self._address + self.size), page, 0) == 0
        self.offset = (self.size - nbytes) // align * align
        self.nbytes = nbytes
        self._map[: self.offset] = b"\xa5" * self.offset

    @property
    def pointer(self) -> int:
        return self._address + self.offset

    def array(self, shape: Sequence[int], dtype: type = np.float32) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self._map, dtype, count, self.offset).reshape(shape)

    def intact(self) -> bool:
        return self._map[: self.offset] == b"\xa5" * self.offset

    @classmethod
    def of(cls, values: np.ndarray) -> Guarded:
        memory = cls(values.nbytes)
        memory.array(values.shape, values.dtype.type)[...] = values
        return memory


class Kernel:
    """A compiled template: `words` are its argument words in order; call with buffers (Guarded) and integers."""

    def __init__(self, level: str, words: Sequence[tuple[str, str]], emit: Emit):
        isa = isa_module.get(level)
        module = Module(isa)
        f = module.function("kernel", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
        args, thread, threads = f.args
        arg = {name: f.load(t, f.at(args, i, 8)) for i, (name, t) in enumerate(words)}
        emit(f, isa, arg, thread, threads)
        self.image = LoadedImage.from_memory(link.link([llvm.compile_text(module.text(), isa)], ["kernel"]))
        self.words = [name for name, _ in words]
        self.call = self.image.function("kernel", None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

    def run(self, threads: int, **words: Guarded | int) -> None:
        """Each thread's part in turn; checks the canaries of all buffers."""
        values = [words.get(name, 0) for name in self.words]
        array = (ctypes.c_int64 * len(values))(*(v.pointer if isinstance(v, Guarded) else v for v in values))
        for thread in range(threads):
            self.call(array, thread, threads)
        assert all(v.intact() for v in words.values() if isinstance(v, Guarded)), "written in front of a buffer"


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kernel() -> type[Kernel]:
    return Kernel


@pytest.fixture
def guarded() -> type[Guarded]:
    return Guarded


def error_bound(terms: int, scale: np.ndarray | float) -> np.ndarray | float:
    """Of a float32 sum of products in any order: terms * eps * sum |a b|, which is given as `scale`."""
    return (terms + 2) * float(np.finfo(np.float32).eps) / 2 * scale


@pytest.fixture
def bound() -> Callable[[int, np.ndarray], np.ndarray]:
    return error_bound  # type: ignore[return-value]
