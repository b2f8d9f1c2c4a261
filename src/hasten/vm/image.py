"""Linked machine code: its plain description (`Image`), and mapping it into this process (`LoadedImage`).

An image is position independent and has two parts in one address space that starts at 0:

    [RX: code and read-only data][padding to a page][RW: GOT, data, zeroed data]

The GOT comes first in RW: one 8-byte slot for each import, in the order of `imports`, which the loader fills with
addresses of functions of libc, libm or libpython. `fixups` are offsets of 8-byte words in RW that hold an offset into
the image and must have the base address added. Nothing else depends on where the image lies.

Memory is never writable and executable at once. Headers are checked and imports are limited to the names below, so a
damaged file is a CorruptFile instead of a crash; still, an image is machine code: load only what you would run.
This module imports neither LLVM nor ONNX.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
import struct
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hasten.base.errors import CorruptFile, ExecutionError, HastenError

PAGE_SIZES = {"x86_64": 4096, "aarch64": 65536}
"""Alignment of RW within an image: the largest page that systems with this CPU use."""

MAX_IMAGE_SIZE = 1 << 31


@dataclass(frozen=True)
class Layout:
    """Everything about an image but its bytes. Sizes and offsets are in bytes; offsets count from the image's start.

    `rw_initialised` bytes of RW come from the file, the rest of its `rw_size` is zero at first.
    """

    machine: str
    rx_size: int
    rw_initialised: int
    rw_size: int
    imports: tuple[str, ...]
    fixups: tuple[int, ...]
    symbols: Mapping[str, int]

    @property
    def page(self) -> int:
        return PAGE_SIZES[self.machine]

    @property
    def rw_start(self) -> int:
        return _align(self.rx_size, self.page)

    @property
    def size(self) -> int:
        """Bytes of address space that the mapped image takes, without rounding to pages."""
        return self.rw_start + self.rw_size

    @property
    def body_size(self) -> int:
        """Bytes that the image takes in a file."""
        return self.rw_start + self.rw_initialised

    def to_header(self) -> dict[str, Any]:
        """Plain values for JSON, which `from_header` reads."""
        return {
            "machine": self.machine,
            "rx_size": self.rx_size,
            "rw_initialised": self.rw_initialised,
            "rw_size": self.rw_size,
            "imports": list(self.imports),
            "fixups": list(self.fixups),
            "symbols": dict(self.symbols),
        }

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Layout:
        """The layout that `header` describes. Raises CorruptFile where it contradicts itself."""
        try:
            layout = cls(
                machine=header["machine"],
                rx_size=header["rx_size"],
                rw_initialised=header["rw_initialised"],
                rw_size=header["rw_size"],
                imports=tuple(header["imports"]),
                fixups=tuple(header["fixups"]),
                symbols=dict(header["symbols"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(f"image header: {error!r}. Compile the model again.") from None
        layout.check()
        return layout

    def check(self) -> None:
        """Raises CorruptFile unless every number fits the others."""
        _require(isinstance(self.machine, str) and self.machine in PAGE_SIZES, "unknown machine")
        numbers = (self.rx_size, self.rw_initialised, self.rw_size, *self.fixups, *self.symbols.values())
        _require(all(type(n) is int and 0 <= n <= MAX_IMAGE_SIZE for n in numbers), "a size is out of range")
        _require(self.rw_initialised <= self.rw_size, "the data is larger than its room")
        _require(self.size <= MAX_IMAGE_SIZE, "the image is too large")
        _require(all(isinstance(name, str) for name in (*self.imports, *self.symbols)), "a name is not text")
        got_end = self.rw_start + 8 * len(self.imports)
        data_end = self.rw_start + self.rw_initialised
        _require(got_end <= data_end, "the imports do not fit")
        _require(all(got_end <= at <= data_end - 8 for at in self.fixups), "a fixup lies outside the data")
        _require(all(offset <= self.size for offset in self.symbols.values()), "a symbol lies outside the image")


@dataclass(frozen=True)
class Image:
    """A linked image in memory; see the module's docstring for the meaning of its parts."""

    machine: str
    rx: bytes
    rw: bytes
    rw_size: int
    imports: tuple[str, ...]
    fixups: tuple[int, ...]
    symbols: Mapping[str, int]

    @property
    def layout(self) -> Layout:
        return Layout(
            self.machine, len(self.rx), len(self.rw), self.rw_size, self.imports, self.fixups, self.symbols
        )

    def header(self) -> dict[str, Any]:
        """Plain values for JSON that describe `body()`."""
        return self.layout.to_header()

    def body(self) -> bytes:
        """RX, padding and initialised RW as they lie in a file, at an offset that is a multiple of `layout.page`."""
        return self.rx + bytes(self.layout.rw_start - len(self.rx)) + self.rw

    @classmethod
    def from_parts(cls, header: Mapping[str, Any], body: bytes) -> Image:
        """The image whose `header()` and `body()` these are. Raises CorruptFile when they do not fit."""
        layout = Layout.from_header(header)
        _require(len(body) == layout.body_size, f"{len(body)} bytes instead of {layout.body_size}")
        rx, rw = body[: layout.rx_size], body[layout.rw_start :]
        return cls(layout.machine, rx, rw, layout.rw_size, layout.imports, layout.fixups, layout.symbols)


class LoadedImage:
    """An image mapped into this process. It is unmapped by `close()` or when garbage collected, never at exit.

    The owner must stop every thread that runs inside the image before that.
    """

    def __init__(self, layout: Layout, base: int, mapped: int) -> None:
        self.layout = layout
        self.base = base
        self._unmap = weakref.finalize(self, _munmap, base, mapped)
        self._unmap.atexit = False  # threads of the image's own pool may still be inside it

    @classmethod
    def from_memory(cls, image: Image) -> LoadedImage:
        """Maps an image that is in memory. Raises CorruptFile for a bad description or an import not allowed."""
        layout = image.layout
        layout.check()

        def place_code(base: int) -> None:
            _place_copy(base, image.rx)

        return cls._load(layout, place_code, image.rw)

    @classmethod
    def from_file(cls, file: str | os.PathLike[str] | int, offset: int, header: Mapping[str, Any]) -> LoadedImage:
        """Maps the `Image.body()` that lies in `file` at `offset`, described by `header` (`Image.header()`).

        `file` is a path or an open descriptor, which stays open and in place. `offset` is a multiple of the page
        size. Code is mapped straight from the file, which must not be truncated while the image lives.
        Raises CorruptFile when the image does not lie within the file, and OSError when it cannot be read.
        """
        layout = Layout.from_header(header)
        if not isinstance(file, int):
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return cls.from_file(descriptor, offset, header)
            finally:
                os.close(descriptor)
        descriptor = file
        _require(type(offset) is int and offset >= 0 and offset % mmap.PAGESIZE == 0, f"offset {offset} is unaligned")
        size = os.fstat(descriptor).st_size
        _require(offset + layout.body_size <= size, f"the file ends at {size}, within the image")
        data = os.pread(descriptor, layout.rw_initialised, offset + layout.rw_start)
        _require(len(data) == layout.rw_initialised, "the file is truncated")

        def place_code(base: int) -> None:
            try:
                _mmap(base, layout.rx_size, _READ_EXECUTE, mmap.MAP_PRIVATE | _MAP_FIXED, descriptor, offset)
            except ExecutionError:  # a file system mounted noexec: run a copy
                _place_copy(base, os.pread(descriptor, layout.rx_size, offset))

        return cls._load(layout, place_code, data)

    @classmethod
    def _load(cls, layout: Layout, place_code: Callable[[int], None], data: bytes) -> LoadedImage:
        machine = _this_machine()
        _require(layout.machine == machine, f"it is for {layout.machine}, this machine is {machine}")
        got = struct.pack(f"<{len(layout.imports)}Q", *_resolve_all(layout.imports))
        mapped = _align(max(layout.size, 1), mmap.PAGESIZE)
        base = _mmap(None, mapped, _NO_ACCESS, _PRIVATE_MEMORY)
        loaded = cls(layout, base, mapped)
        if layout.rx_size:
            place_code(base)
        if layout.rw_size:
            rw = base + layout.rw_start
            _mmap(rw, layout.rw_size, mmap.PROT_READ | mmap.PROT_WRITE, _PRIVATE_MEMORY | _MAP_FIXED)
            ctypes.memmove(rw, _with_fixups(layout, got + data[len(got) :], base), len(data))
        return loaded

    def address(self, symbol: str) -> int:
        """Where `symbol` lies in this process. Raises CorruptFile for a name that the image does not export."""
        if not self._unmap.alive:
            raise ExecutionError("this image is closed")
        try:
            return self.base + self.layout.symbols[symbol]
        except KeyError:
            raise CorruptFile(f"the image does not export {symbol!r}. Compile the model again.") from None

    def function(self, symbol: str, restype: Any, *argtypes: Any, holds_gil: bool = False) -> Any:
        """`symbol` as a ctypes function, which keeps the image mapped. With `holds_gil` it may call Python's C API."""
        prototype = (ctypes.PYFUNCTYPE if holds_gil else ctypes.CFUNCTYPE)(restype, *argtypes)
        function: Any = prototype(self.address(symbol))
        function.image = self
        return function

    def close(self) -> None:
        """Unmaps the image; a second call does nothing. Its functions must not be called any more."""
        self._unmap()


def _with_fixups(layout: Layout, rw: bytes, base: int) -> bytes:
    """The initialised part of RW for an image at `base`."""
    data = bytearray(rw)
    for offset in layout.fixups:
        at = offset - layout.rw_start
        (target,) = struct.unpack_from("<Q", data, at)
        _require(target <= layout.size, "a fixup points outside the image")
        struct.pack_into("<Q", data, at, base + target)
    return bytes(data)


# Imports: the names an image may ask for.

_ALLOWED_PREFIXES = ("pthread_", "Py", "_Py")
_C_FUNCTIONS = (
    "memcpy memmove memset memcmp bcmp strlen malloc calloc realloc free aligned_alloc posix_memalign "
    "syscall sched_yield clock_gettime abort"
)
_MATH_FUNCTIONS = (
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp10 exp2 expm1 fabs floor fma "
    "fmax fmaximum fmaximum_num fmin fminimum fminimum_num fmod frexp hypot ldexp lgamma llrint llround log log10 "
    "log1p log2 lrint lround modf nearbyint pow remainder rint round roundeven sin sincos sinh sqrt tan tanh tgamma "
    "trunc"
)
# What LLVM calls for operations that an instruction set lacks (half precision, 128-bit integers); from libgcc.
_RUNTIME_FUNCTIONS = (
    "__extendhfsf2 __extendhfdf2 __truncsfhf2 __truncdfhf2 __truncsfbf2 __truncdfbf2 __divti3 __modti3 __udivti3 "
    "__umodti3 __multi3 __popcountdi2"
)
_ALLOWED = frozenset(
    [*_C_FUNCTIONS.split(), *_RUNTIME_FUNCTIONS.split()]
    + [name + suffix for name in _MATH_FUNCTIONS.split() for suffix in ("", "f")]
)
_LIBRARIES = (None, "libm.so.6", "libgcc_s.so.1")


def import_allowed(name: str) -> bool:
    """Whether images may import `name`."""
    return name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES)


def _resolve_all(names: Iterable[str]) -> list[int]:
    return [_resolve(name) for name in names]


@functools.lru_cache(maxsize=1024)
def _resolve(name: str) -> int:
    """The address of an imported function or object in this process."""
    _require(import_allowed(name), f"it asks for {name!r}, which images may not use")
    for library in _LIBRARIES:
        try:
            symbol = getattr(_open(library), name)
        except (AttributeError, OSError, ValueError):
            continue
        address = ctypes.cast(symbol, ctypes.c_void_p).value
        if address:
            return address
    raise CorruptFile(f"image: it needs {name!r}, which this system does not have. Compile the model on this system.")


@functools.cache
def _open(library: str | None) -> ctypes.CDLL:
    return ctypes.CDLL(library, use_errno=True)


# Memory: a few system calls. Python's mmap objects can neither reserve address space nor map at a fixed place.

_NO_ACCESS = 0
_READ_EXECUTE = mmap.PROT_READ | mmap.PROT_EXEC
_MAP_FIXED = 0x10
_PRIVATE_MEMORY = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@functools.cache
def _memory_functions() -> tuple[Any, Any, Any]:
    libc = _open(None)
    size, pointer, integer = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    map_prototype = ctypes.CFUNCTYPE(pointer, pointer, size, integer, integer, integer, ctypes.c_long, use_errno=True)
    protect_prototype = ctypes.CFUNCTYPE(integer, pointer, size, integer, use_errno=True)
    unmap_prototype = ctypes.CFUNCTYPE(integer, pointer, size, use_errno=True)
    return map_prototype(("mmap", libc)), protect_prototype(("mprotect", libc)), unmap_prototype(("munmap", libc))


def _mmap(address: int | None, size: int, protection: int, flags: int, descriptor: int = -1, offset: int = 0) -> int:
    result: int | None = _memory_functions()[0](address, size, protection, flags, descriptor, offset)
    if result is None or result == ctypes.c_void_p(-1).value:
        raise _memory_error("map", size)
    return result


def _place_copy(base: int, code: bytes) -> None:
    """Puts a copy of `code` at `base`, writable first, executable after."""
    _mmap(base, len(code), mmap.PROT_READ | mmap.PROT_WRITE, _PRIVATE_MEMORY | _MAP_FIXED)
    ctypes.memmove(base, code, len(code))
    if _memory_functions()[1](base, len(code), _READ_EXECUTE) != 0:
        raise _memory_error("make executable", len(code))


def _munmap(base: int, size: int) -> None:
    _memory_functions()[2](base, size)


def _memory_error(what: str, size: int) -> HastenError:
    return ExecutionError(f"could not {what} {size} bytes for machine code: {os.strerror(ctypes.get_errno())}")


@functools.cache
def _this_machine() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise CorruptFile(f"image: {what}. The file is damaged or from another machine; compile the model again.")
