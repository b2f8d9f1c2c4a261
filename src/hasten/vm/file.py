"""`.hasten` files: a compiled model on disk, ready to be mapped.

    0     magic (8 bytes), format (u32), CRC-32 of these 64 bytes with this field zero (u32), size of the header part
          with its padding (u64), size of the file (u64), SHA-256 of the header part (32 bytes)
    64    header: JSON that begins with {"hasten":"VERSION", padded with spaces to the next page
    ...   sections, each from a page's beginning, padded with zeros: the run-time library, the model's machine code, its
          constants

The header names each section's offset, size and checksum: SHA-256 for code, the run-time library's own sums (at the
speed of memory) for constants. All padding is covered too, so whatever is altered or cut off is found. Machine code and
constants are mapped, not read. A checksum is no signature: a file holds machine code, so load only files that you would
run.

The first 64 bytes and what follows `VERSION` do not change from format to format, so every Hasten can tell who wrote a file that it does not read.
Other formats are refused: the file holds machine code that agrees with its reader on more than its layout.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import secrets
import struct
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hasten.base.errors import CorruptFile, InputError
from hasten.base.version import VERSION
from hasten.codegen import isa as isas
from hasten.vm import abi
from hasten.vm.callpath import Constants, Model, make_model
from hasten.vm.image import Image, LoadedImage
from hasten.vm.program import Program
from hasten.vm.runtime import Runtime, load_runtime, loaded_runtime
from hasten.vm.text import LazyProgram, to_text

MAGIC = b"\x89HASTN\r\n"
FORMAT = 2
_HEAD = struct.Struct("<8sIIQQ32s")
_MAX_HEADER = 1 << 30
_WRITTEN_BY = re.compile(rb'\{"hasten":"([0-9A-Za-z.+!-]{1,40})"')
_SECTIONS = ("runtime", "image", "constants")


@dataclass(frozen=True)
class Saved:
    """A model read from a file: mapped, not yet callable. `threads` is the most that its kernels may run on (their
    scratch memory is made for so many), `report` what the writer gave."""

    program: Program
    image: LoadedImage
    runtime: Runtime
    constants: Constants
    isa: str
    threads: int
    report: dict[str, Any]

    def model(self, threads: int | None = None, **options: Any) -> Model:
        """The callable; options as for `hasten.vm.callpath.make_model`."""
        count = min(threads or self.threads, self.threads)
        return make_model(self.program, self.image, self.constants, self.runtime, threads=count, **options)


# --- writing ----------------------------------------------------------------------------------------------------------
def to_parts(
    program: Program,
    image: Image,
    runtime: Image,
    constants: Any,
    isa: isas.Isa,
    threads: int,
    report: Mapping[str, Any],
) -> list[Any]:
    """The contents of a model's file, as buffers one after the other: a model's constants may be half of the memory, and
    are not copied here where their size is a multiple of a page.

    `constants` is any buffer of bytes, `threads` the most that its kernels may run on, `report` plain values for JSON.
    """
    page = image.layout.page
    parts = {"runtime": runtime.body(), "image": image.body(), "constants": constants}
    padded = {name: _padded(parts[name], page) for name in _SECTIONS}
    offsets, end = {}, 0
    for name in _SECTIONS:
        offsets[name] = end
        end += padded[name].size
    sums = {name: _checksum(padded[name], load_runtime(runtime) if name == "constants" else None) for name in _SECTIONS}
    header = {
        "hasten": VERSION,
        "abi": abi.ABI,
        "isa": {"name": isa.name, "features": isa.llvm_features, "triple": isa.llvm_triple},
        "threads": threads,
        "images": {"runtime": runtime.header(), "image": image.header()},
        "program": to_text(program),
        "report": dict(report),
        "sections": {n: {"offset": offsets[n], "size": len(parts[n]), "checksum": sums[n]} for n in _SECTIONS},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(64 + len(text)) % page)
    rest = (len(text), 64 + len(text) + end, hashlib.sha256(text).digest())
    crc = zlib.crc32(_HEAD.pack(MAGIC, FORMAT, 0, *rest))
    return [_HEAD.pack(MAGIC, FORMAT, crc, *rest), text, *(padded[name].data for name in _SECTIONS)]


def to_bytes(*contents: Any) -> bytes:
    """The same in one piece."""
    return b"".join(to_parts(*contents))


def _padded(part: Any, page: int) -> np.ndarray[Any, Any]:
    """A section with the zeros behind it; aligned as the library's sums want it."""
    have = np.frombuffer(part, np.uint8) if len(part) else np.zeros(0, np.uint8)
    if have.size % page == 0 and have.ctypes.data % 64 == 0:
        return have
    padded = np.zeros(have.size + -have.size % page, np.uint8)
    padded[: have.size] = have
    return padded


def _checksum(section: np.ndarray[Any, Any], library: Runtime | None) -> str:
    """Of a section with its padding: SHA-256, or the library's sums."""
    if library is None:
        return hashlib.sha256(section.data).hexdigest()
    return library.checksum(section.ctypes.data, section.size).hex()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file at once: there is the whole file, or what was there before."""
    _replace(Path(path), [data])


def _replace(path: Path, parts: list[Any]) -> None:
    """Write a file beside `path`, then put it in its place."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


# --- reading ----------------------------------------------------------------------------------------------------------
def read(path: str | os.PathLike[str]) -> Saved:
    """Map a model's file.

    Raises CorruptFile when it is no such file, of another format, cut off or altered; InputError when it was compiled
    for an instruction set that this machine lacks; OSError when it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        return _File(os.fspath(path), descriptor).read()
    finally:
        os.close(descriptor)


def from_bytes(data: bytes) -> Saved:
    """The same from the contents of a file, by way of a file in memory."""
    with memory_file([data]) as file:
        return read_open(file)


def read_open(file: IO[bytes], name: str = "these bytes", trailing: int = 0) -> Saved:
    """The same from an open file, which may then be closed; its last `trailing` bytes belong to somebody else (the cache)."""
    return _File(name, file.fileno(), trailing).read()


def memory_file(parts: Iterable[Any]) -> IO[bytes]:
    """An open file without a name, in memory where the system has such, with `parts` in it."""
    file = _unnamed()
    for part in parts:
        file.write(part)
    file.flush()
    return file


def _unnamed() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return os.fdopen(os.memfd_create("hasten-model"), "w+b")
    return tempfile.TemporaryFile()


class _File:
    def __init__(self, name: str, descriptor: int, trailing: int = 0):
        self.name, self.descriptor = name, descriptor
        self.size = os.fstat(descriptor).st_size - trailing

    def corrupt(self, why: str) -> CorruptFile:
        return CorruptFile(f"{self.name}: {why}. Compile the model again.")

    def other_version(self, its: str, ours: str) -> CorruptFile:
        found = _WRITTEN_BY.match(os.pread(self.descriptor, 64, 64))
        version = found[1].decode() if found else VERSION
        writer = "another Hasten" if version == VERSION else f"Hasten {version}"
        return CorruptFile(f"{self.name} was written by {writer} with {its}; this is Hasten {VERSION}, which {ours}. "
                           f"Compile the model again with this Hasten, or load it with {writer}.")  # fmt: skip

    def read(self) -> Saved:
        header, start = self.header()
        try:
            if header["abi"] != abi.ABI:
                raise self.other_version(f"run-time interface {header['abi']}", f"has {abi.ABI}")
            self.check_machine(header["isa"])
            with mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ) as view:
                places = self.places(header["sections"], start)
                self.check_code(view, places, header["sections"])
            runtime = loaded_runtime() or load_runtime(self.load(places, header, "runtime"))
            constants = self.constants(runtime, places["constants"], header["sections"]["constants"])
            program = LazyProgram(header["program"])
            self.check_constants(program, header["sections"]["constants"]["size"])
            image = self.load(places, header, "image")
            return Saved(program, image, runtime, constants, header["isa"]["name"], header["threads"], header["report"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise self.corrupt(f"its header is malformed ({error!r:.200})") from None

    def header(self) -> tuple[dict[str, Any], int]:
        """The header, and where the sections begin."""
        head = os.pread(self.descriptor, 64, 0)
        if head[:8] != MAGIC[: len(head)] or not head:
            raise CorruptFile(f"{self.name} is not a .hasten file")
        if len(head) < 64:
            raise self.corrupt("the file is cut off within its first 64 bytes")
        _, version, crc, length, total, digest = _HEAD.unpack(head)
        if zlib.crc32(head[:12] + bytes(4) + head[16:]) != crc:
            raise self.corrupt("its first 64 bytes are damaged")
        if version != FORMAT:
            raise self.other_version(f"format {version}", f"reads format {FORMAT}")
        if self.size != total:
            raise self.corrupt(
                f"the file has {self.size} bytes instead of {total}: it is cut off or something was added"
            )
        if length > min(_MAX_HEADER, total):
            raise self.corrupt("its header does not fit")
        text = os.pread(self.descriptor, length, 64)
        if len(text) != length or hashlib.sha256(text).digest() != digest:
            raise self.corrupt("its header is damaged")
        try:
            header = json.loads(text)
        except (ValueError, RecursionError):
            raise self.corrupt("its header cannot be read") from None
        if not isinstance(header, dict):
            raise self.corrupt("its header is malformed")
        return header, 64 + length

    def check_machine(self, wanted: Mapping[str, str]) -> None:
        """Raises InputError unless this machine has all the instructions that the code may use."""
        missing: set[str] = set()
        if wanted["name"] not in isas.available():
            missing = {wanted["name"]}
        else:
            here = isas.get(wanted["name"])
            missing = set(wanted["features"].split(",")) - set(here.llvm_features.split(",")) - {""}
            if here.architecture != wanted["triple"].split("-")[0]:
                missing = {wanted["triple"]}
        if missing:
            lacks = ", ".join(sorted(m.lstrip("+") for m in missing))
            raise InputError(
                f"{self.name} was compiled for {wanted['name']} instructions, and this machine lacks {lacks} "
                f"(it has {', '.join(isas.available())}). Compile the model again here, or with isa='portable'."
            )

    def places(self, sections: Mapping[str, Any], start: int) -> dict[str, tuple[int, int]]:
        """Offset and padded size of each section: one behind the other, the last one to the end of the file."""
        offsets = [sections[name]["offset"] for name in _SECTIONS]
        ends = [*offsets[1:], self.size - start]
        for name, offset, end in zip(_SECTIONS, offsets, ends, strict=True):
            size = sections[name]["size"]
            numbers = (offset, end, size)
            if (
                not all(type(n) is int for n in numbers)
                or not 0 <= offset <= offset + size <= end <= self.size - start
                or end % 64
            ):
                raise self.corrupt(f"its section {name!r} lies outside the file")
        return {
            name: (start + offset, end - offset) for name, offset, end in zip(_SECTIONS, offsets, ends, strict=True)
        }

    def check_code(self, view: mmap.mmap, places: Mapping[str, tuple[int, int]], sections: Mapping[str, Any]) -> None:
        with memoryview(view) as memory:
            for name in ("runtime", "image"):
                offset, size = places[name]
                with memory[offset : offset + size] as part:
                    if hashlib.sha256(part).hexdigest() != sections[name]["checksum"]:
                        raise self.corrupt("its machine code is damaged")

    def load(self, places: Mapping[str, tuple[int, int]], header: Mapping[str, Any], name: str) -> LoadedImage:
        layout = header["images"][name]
        return LoadedImage.from_file(self.descriptor, places[name][0], layout)

    def constants(self, runtime: Runtime, place: tuple[int, int], section: Mapping[str, Any]) -> Constants:
        """The constants, mapped and checked."""
        offset, size = place
        if size == 0:
            return Constants(b"")
        base = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self.descriptor, offset - base + size, access=mmap.ACCESS_READ, offset=base)
        array = np.frombuffer(mapped, np.uint8, size, offset - base)
        if runtime.checksum(array.ctypes.data, size).hex() != section["checksum"]:
            raise self.corrupt("its constants are damaged")
        return Constants(array)

    def check_constants(self, program: Program, size: int) -> None:
        for c in program.constants:
            if c.offset % 64 or not 0 <= c.offset <= c.offset + c.size <= size:
                raise self.corrupt(f"constant {c.buffer!r} lies outside its section")
