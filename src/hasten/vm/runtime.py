"""The run-time library of this process: one pool of threads for all models, entry points of NumPy's C API, and how many
threads to use.

The library's image is made where models are compiled and stored in every saved model; the first one that a process
loads serves all models (`abi.ABI` says that they fit). It is never unmapped: its threads and the destructors of outputs
live in it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hasten.base.errors import InputError
from hasten.vm import abi
from hasten.vm.image import Image, LoadedImage

MAX_THREADS = 256
_loading = threading.Lock()
_runtime: Runtime | None = None


@dataclass(frozen=True)
class Runtime:
    """The loaded run-time library: addresses of its functions, and `invoke(kernel, args, threads)` for the
    interpreter."""

    image: LoadedImage
    parallel: int
    release: int
    invoke: Any

    def checksum(self, address: int, size: int) -> bytes:
        """128 bytes that change with every byte of the memory [address, address + size), and with its order; size is a
        multiple of 64.

        With 8-byte words w[0], w[1], ...: 8 sums (modulo 2**64) of the words of equal number modulo 8, then the 8 sums
        of all partial sums.
        """
        sums = (ctypes.c_uint64 * 16)()
        self.image.function(abi.CHECKSUM, None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(
            address, size // 64, sums
        )
        return bytes(sums)

    def workers(self) -> int:
        """How many threads the pool has made so far, without the callers' own."""
        count: int = self.image.function(abi.WORKERS, ctypes.c_int64)()
        return count


def load_runtime(image: Image | LoadedImage) -> Runtime:
    """The run-time library of this process: from `image` where none is loaded yet."""
    global _runtime
    with _loading:
        if _runtime is None:
            loaded = image if isinstance(image, LoadedImage) else LoadedImage.from_memory(image)
            invoke = loaded.function(abi.INVOKE, None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
            _runtime = Runtime(loaded, loaded.address(abi.PARALLEL), loaded.address(abi.RELEASE), invoke)
            reset = loaded.function(abi.RESET, None)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=reset)
        return _runtime


def loaded_runtime() -> Runtime | None:
    """The run-time library, if a model was loaded before: whoever has it needs no image."""
    return _runtime


# --- threads ----------------------------------------------------------------------------------------------------------
def thread_count(asked: int | None = None) -> int:
    """Threads for a model: `asked`, else HASTEN_NUM_THREADS, else the CPUs that this process may use (affinity and
    cgroup quota).

    Raises InputError for a number below 1 or above 256.
    """
    if asked is None and os.environ.get("HASTEN_NUM_THREADS"):
        text = os.environ["HASTEN_NUM_THREADS"]
        if not text.isdecimal():
            raise InputError(f"HASTEN_NUM_THREADS={text!r} is not a number of threads")
        asked = int(text)
    if asked is None:
        return max(1, min(usable_cpus(), MAX_THREADS))
    if not 1 <= asked <= MAX_THREADS:
        raise InputError(f"threads={asked}: from 1 to {MAX_THREADS} threads are possible")
    return asked


def usable_cpus() -> int:
    """CPUs that the scheduler may give to this process: the smaller of its affinity and its cgroups' quota (rounded
    down, at least 1)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return count if quota is None else max(1, min(count, int(quota)))


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The CPUs that the cgroup of this process and those above it allow; None where nothing limits them."""
    quotas = []
    for directory in _cgroups(root, own):
        try:
            if (directory / "cpu.max").exists():
                limit, period = (directory / "cpu.max").read_text().split()
            else:
                limit = (directory / "cpu.cfs_quota_us").read_text().strip()
                period = (directory / "cpu.cfs_period_us").read_text()
            if limit not in ("max", "-1"):
                quotas.append(int(limit) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return min(quotas, default=None)


def _cgroups(root: Path, own: Path) -> list[Path]:
    """Folders of the cgroup hierarchies (version 2, and the cpu controller of version 1) that hold this process,
    innermost first."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        base = root if not controllers else root / "cpu" if "cpu" in controllers.split(",") else None
        if base is None:
            continue
        inner = base / path.lstrip("/")
        folders += [inner, *(p for p in inner.parents if p == base or base in p.parents)]
    return folders


# --- memory -----------------------------------------------------------------------------------------------------------
@functools.cache
def default_memory_limit() -> int:
    """Bytes that one allocation of a run may have: HASTEN_MEMORY_LIMIT (bytes, or with a suffix such as 500M, 2G), else
    half of the memory that this process may use. Raises InputError for a HASTEN_MEMORY_LIMIT that is no size."""
    text = os.environ.get("HASTEN_MEMORY_LIMIT")
    if text:
        match = re.fullmatch(r"\s*(\d+)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
        if match is None:
            raise InputError(f"HASTEN_MEMORY_LIMIT={text!r} is not a size in bytes; write for example 500M or 8G")
        return int(match[1]) << (10 * " kmgt".index(match[2] or " "))
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if "SC_PHYS_PAGES" in os.sysconf_names else []
    for directory in _cgroups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")):
        try:
            sizes.append(int((directory / "memory.max").read_text()))
        except (OSError, ValueError):
            continue
    return min(sizes, default=1 << 46) // 2


def guard_side() -> str | None:
    """Where guard pages lie (see `hasten.vm.guard`): HASTEN_GUARD, "after" or "before" every buffer; None where it is not set. Raises InputError for
    another value."""
    side = os.environ.get("HASTEN_GUARD") or None
    if side not in (None, "after", "before"):
        raise InputError(f"HASTEN_GUARD={side!r} is neither 'after' nor 'before'")
    return side


# --- NumPy ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class NumpyApi:
    """Addresses in NumPy's table of C functions."""

    array_type: int
    new_from_descr: int
    set_base_object: int


@functools.cache
def numpy_api() -> NumpyApi | None:
    """NumPy's C API, or None where objects do not have the layout that the native call path reads (the interpreter
    works everywhere)."""
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ctypes.cast(pointer, ctypes.c_void_p).value or 0
    )
    table = ctypes.cast(get(_multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    api = NumpyApi(table[2] or 0, table[94] or 0, table[282] or 0)
    return api if _layout_is_known(api) else None


def _layout_is_known(api: NumpyApi) -> bool:
    """Whether an ndarray has its fields where the call path reads them."""
    probe = np.zeros((3, 5), np.float32)
    words = (ctypes.c_int64 * 9).from_address(id(probe))
    dims = words[4]
    return (
        words[1] == id(np.ndarray) == api.array_type
        and words[2] == probe.ctypes.data
        and words[3] & 0xFFFFFFFF == 2
        and list((ctypes.c_int64 * 2).from_address(dims)) == [3, 5]
        and words[7] == id(probe.dtype)
        and words[8] & 0x101 == 0x101
    )
