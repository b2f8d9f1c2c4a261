"""Running one KernelSpec natively, on buffers that end at a page nobody may touch, beside its NumPy reference."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.codegen import isa as isa_module
from hasten.codegen import link, llvm
from hasten.codegen.builder import Module
from hasten.kernels.spec import Emission, KernelSpec
from hasten.vm.image import LoadedImage

LEVELS = [name for name in ("portable", "avx2", "avx512") if name in isa_module.available()]
_LIBC = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """`nbytes` of memory, aligned to 8 bytes or one element, whose last byte lies before a page that faults."""

    def __init__(self, nbytes: int, align: int = 1):
        page = mmap.PAGESIZE
        self.size = (nbytes + 4096 + page - 1) // page * page
        self.map = mmap.mmap(-1, self.size + page)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        assert _LIBC.mprotect(ctypes.c_void_p(self.base + self.size), page, 0) == 0
        self.offset = (self.size - nbytes) // align * align
        self.map[: self.offset] = b"\xa5" * self.offset
        self.map[self.offset : self.size] = b"\x5a" * (self.size - self.offset)

    def array(self, shape: Sequence[int], dt: Any) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self.map, dt, count, self.offset).reshape(shape)

    @property
    def pointer(self) -> int:
        return self.base + self.offset

    def intact(self) -> bool:
        return self.map[: self.offset] == b"\xa5" * self.offset


Results = Sequence[tuple[str, tuple[int, ...]]]


def run_spec(
    spec: KernelSpec, inputs: Sequence[np.ndarray], results: Results, level: str = "", threads: int = 1
) -> tuple[list[np.ndarray], int]:
    """The results and the status word."""
    isa = isa_module.get(level or LEVELS[-1])

    def tensor(dt: str, shape: Sequence[int]) -> SimpleNamespace:
        return SimpleNamespace(dtype=dt, shape=tuple(shape), size=D.product(tuple(shape)), rank=len(shape))

    call = SimpleNamespace(
        operands=[tensor(dtypes.from_numpy(x.dtype), x.shape) for x in inputs], results=[tensor(*r) for r in results]
    )
    ins = [Guarded(x.nbytes, x.dtype.itemsize) for x in inputs]
    for g, x in zip(ins, inputs, strict=True):
        g.array(x.shape, x.dtype)[...] = x
    outs = [
        Guarded(int(np.prod(s, dtype=np.int64)) * dtypes.dtype(dt).size, dtypes.dtype(dt).size) for dt, s in results
    ]
    dims = {n: D.evaluate(d, {}) for n, d in spec.dims(call).items()}
    scratch = D.evaluate(spec.scratch(call), {})
    memory = [Guarded((scratch + 63) // 64 * 64, 64) for _ in range(threads)]
    status = Guarded(8, 8)
    status.array((1,), np.int64)[0] = 0

    module = Module(isa)
    f = module.function("kernel", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
    names = ["status", *(f"in{k}" for k in range(len(ins))), *(f"out{k}" for k in range(len(outs))), "scratch"]
    arg = {n: f.load("ptr", f.at(f.args[0], i, 8)) for i, n in enumerate(names)}
    arg |= {n: f.load("i64", f.at(f.args[0], len(names) + i, 8)) for i, n in enumerate(dims)}
    for k, x in enumerate(inputs):
        if spec.wants(k) != "plain":
            for a, s in enumerate(x.strides):
                arg[f"in{k}_s{a}"] = f.const("i64", s // x.itemsize)
    spec.emit(Emission(f, isa, arg, f.args[1], f.args[2]))
    f.ret()
    image = LoadedImage.from_memory(link.link([llvm.compile_text(module.text(), isa)], ["kernel"]))
    function = image.function("kernel", None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    for thread in range(threads):
        words = [g.pointer for g in (status, *ins, *outs, memory[thread])] + list(dims.values())
        function((ctypes.c_int64 * len(words))(*words), thread, threads)
    assert all(g.intact() for g in (*ins, *outs, *memory)), "written in front of a buffer"
    arrays = [g.array(s, dtypes.to_numpy(dt)).copy() for g, (dt, s) in zip(outs, results, strict=True)]
    return arrays, int(status.array((1,), np.int64)[0])


def check_spec(
    spec: KernelSpec,
    inputs: Sequence[np.ndarray],
    results: Results,
    level: str = "",
    threads: int = 1,
    rtol: float = 0,
    atol: float = 0,
) -> list[np.ndarray]:
    """Native results against the reference; gives them."""
    got, status = run_spec(spec, inputs, results, level, threads)
    assert status == 0, f"status {status}"
    for a, b in zip(got, spec.reference(list(inputs), list(results)), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a.astype("f8"), b.astype("f8"), rtol=rtol, atol=atol)
    return got
