"""The disk cache of compiled objects and whole artefacts.

    DIRECTORY/v1/ab/cdef...   one entry: the payload, then a trailer with checksum, key, length and magic

A name is the SHA-256 of a namespace and a key, so a key holds everything that decides the content (`code_version()`,
`Isa.key`, `llvm_version()`, the text). The payload comes first so that an artefact can be mapped from its own offset 0.

Many processes may share a directory: entries appear whole, by renaming, and writers of one key leave one copy. A
damaged entry is a miss and is deleted. A cache that cannot be read or written (read-only, full, unsafe) costs time,
never a failure: the logger "hasten" says so once. Entries hold machine code that will be run, so a directory that
others may write to is not used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import random
import re
import shutil
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hasten.base.errors import InputError

DEFAULT_MAX_BYTES = 1 << 30

_FORMAT = "v1"
_MAGIC = b"HastenC2"
_TRAILER = struct.Struct("<32s32sQ8s")  # sha256 of the payload, that of the key, the payload's length, magic
TRAILER_BYTES = _TRAILER.size
_TEMPORARY = ".tmp-"
_TEMPORARY_LIFETIME = 3600.0  # seconds after which a temporary file is what a dead process left
_WRITES_PER_EVICTION = 256
_EVICT_DOWN_TO = 0.75  # of the limit, so that evictions are rare
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_CODE_FOLDERS = ("base", "codegen", "frontends", "graph", "kernels", "lower", "ops", "vm")

_log = logging.getLogger("hasten")


@dataclass(frozen=True)
class CacheStats:
    """What lies in a cache. `directory` is None for a disabled one."""

    entries: int
    bytes: int
    directory: Path | None


class Cache:
    """A directory of entries found by namespace and key; threads and processes may share it."""

    def __init__(self, directory: str | os.PathLike[str] | None = None, max_bytes: int | None = None) -> None:
        """`directory` defaults to HASTEN_CACHE_DIR or ~/.cache/hasten; it is made at the first write.

        `max_bytes` defaults to HASTEN_CACHE_SIZE (bytes, or with a suffix such as 500M, 2G), or 1 GiB. When it is
        passed, the entries unused for longest are deleted. Raises InputError for a HASTEN_CACHE_SIZE that is no size.
        """
        self.directory: Path | None = Path(directory) if directory is not None else _default_directory()
        self.max_bytes = max_bytes if max_bytes is not None else _default_max_bytes()
        self._lock = threading.Lock()
        # A random start: also processes that write little evict now and then.
        self._writes_left = random.randint(1, _WRITES_PER_EVICTION)
        self._bytes_written = 0

    @classmethod
    def disabled(cls) -> Cache:
        """A cache that finds nothing and keeps nothing."""
        cache = cls(os.devnull, 0)
        cache.directory = None
        return cache

    def get(self, namespace: str, key: str) -> bytes | None:
        """The payload put under this key, or None."""
        place = self._place(namespace, key)
        if place is None:
            return None
        try:
            data = place.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn_once("read", self.directory, error)
            return None
        payload = _unpack(data, place)
        if payload is None:
            _delete(place)
            return None
        _touch(place)
        return payload

    def path(self, namespace: str, key: str) -> Path | None:
        """The file whose first bytes are the payload put under this key, or None.

        For mapping large artefacts: only the trailer is checked here, the content is left to the artefact's own
        checks. Another process may delete the file at any time, so opening it may still fail (a miss).
        """
        place = self._place(namespace, key)
        if place is None:
            return None
        try:
            with open(place, "rb") as file:
                size = file.seek(0, os.SEEK_END) - _TRAILER.size
                file.seek(max(size, 0))
                intact = _read_trailer(file.read(), place) == size
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn_once("read", self.directory, error)
            return None
        if not intact:
            _delete(place)
            return None
        _touch(place)
        return place

    def put(self, namespace: str, key: str, data: bytes | bytearray | memoryview) -> bool:
        """Stores `data`, replacing what was there; False where it could not be stored."""
        return self.put_parts(namespace, key, [data])

    def put_parts(self, namespace: str, key: str, parts: Sequence[bytes | bytearray | memoryview]) -> bool:
        """The same for a payload in pieces, one behind the other."""
        place = self._place(namespace, key)
        pieces = [memoryview(part).cast("B") for part in parts]
        size = sum(map(len, pieces)) + _TRAILER.size
        if place is None or size > self.max_bytes:
            return False
        try:
            self._make_folders(place.parent)
            _write_whole(place, pieces)
        except OSError as error:
            _warn_once("write", self.directory, error)
            return False
        if self._eviction_due(size):
            self._evict()
        return True

    def delete(self, namespace: str, key: str) -> None:
        """Deletes an entry, such as an artefact found damaged; an absent one is fine."""
        place = self._place(namespace, key)
        if place is not None:
            _delete(place)

    def stats(self) -> CacheStats:
        """Counts the entries; reads the whole directory."""
        files = list(self._files())
        return CacheStats(len(files), sum(size for _, size, _ in files), self.directory)

    def clear(self) -> None:
        """Deletes all entries, and nothing else that may lie in the directory."""
        if self.directory is not None and _safe(self.directory / _FORMAT):
            for shard in self._shards():
                shutil.rmtree(shard, ignore_errors=True)

    def _place(self, namespace: str, key: str) -> Path | None:
        if self.directory is None or not _safe(self.directory / _FORMAT):
            return None
        digest = hashlib.sha256(f"{len(namespace)}:{namespace}:{key}".encode()).hexdigest()
        return self.directory / _FORMAT / digest[:2] / digest[2:]

    def _make_folders(self, shard: Path) -> None:
        if not shard.is_dir():
            shard.parent.parent.mkdir(parents=True, exist_ok=True)
            shard.parent.mkdir(mode=0o700, exist_ok=True)
            shard.mkdir(mode=0o700, exist_ok=True)

    def _shards(self) -> Iterator[Path]:
        if self.directory is None:
            return
        with contextlib.suppress(OSError):
            for shard in (self.directory / _FORMAT).iterdir():
                if re.fullmatch("[0-9a-f]{2}", shard.name) and not shard.is_symlink():
                    yield shard

    def _files(self, temporary: bool = False) -> Iterator[tuple[Path, int, float]]:
        """Path, size and time of last use of all entries, or of all temporary files."""
        for shard in self._shards():
            with contextlib.suppress(OSError):
                for entry in os.scandir(shard):
                    if entry.name.startswith(_TEMPORARY) == temporary:
                        with contextlib.suppress(OSError):
                            status = entry.stat(follow_symlinks=False)
                            yield Path(entry.path), status.st_size, status.st_mtime

    def _eviction_due(self, size: int) -> bool:
        with self._lock:
            self._writes_left -= 1
            self._bytes_written += size
            if self._writes_left > 0 and self._bytes_written < self.max_bytes // 8:
                return False
            self._writes_left, self._bytes_written = _WRITES_PER_EVICTION, 0
            return True

    def _evict(self) -> None:
        """Deletes what dead processes left, and the entries unused for longest once the limit is passed."""
        now = time.time()
        for path, _, used in self._files(temporary=True):
            if now - used > _TEMPORARY_LIFETIME:
                _delete(path)
        files = sorted(self._files(), key=lambda file: file[2])
        total = sum(size for _, size, _ in files)
        if total <= self.max_bytes:
            return
        for path, size, _ in files:
            if total <= self.max_bytes * _EVICT_DOWN_TO:
                break
            _delete(path)
            total -= size


@functools.cache
def code_version() -> str:
    """SHA-256 of the package's own code that decides what is generated, so that a changed template is never stale."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for folder in _CODE_FOLDERS:
        for file in sorted((package / folder).rglob("*.py")):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(package).as_posix()}:{len(content)}:".encode())
            digest.update(content)
    return digest.hexdigest()


def _write_whole(place: Path, pieces: Sequence[memoryview]) -> None:
    """Writes an entry that appears at `place` all at once."""
    descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=place.parent)
    digest = hashlib.sha256()
    try:
        with open(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            file.write(_TRAILER.pack(digest.digest(), _key_digest(place), sum(map(len, pieces)), _MAGIC))
        os.replace(temporary, place)
    except BaseException:
        _delete(Path(temporary))
        raise


def _key_digest(place: Path) -> bytes:
    """The SHA-256 that an entry's place is named by: an entry that lies elsewhere is another key's."""
    return bytes.fromhex(place.parent.name + place.name)


def _read_trailer(trailer: bytes, place: Path) -> int | None:
    """The length of the payload before this trailer, if it is one, and of the entry that belongs here."""
    if len(trailer) != _TRAILER.size:
        return None
    _, key, length, magic = _TRAILER.unpack(trailer)
    return int(length) if magic == _MAGIC and key == _key_digest(place) else None


def _unpack(data: bytes, place: Path) -> bytes | None:
    """The payload of an entry, or None for a damaged one."""
    payload, trailer = data[: -_TRAILER.size], data[-_TRAILER.size :]
    if _read_trailer(trailer, place) != len(payload) or hashlib.sha256(payload).digest() != trailer[:32]:
        return None
    return payload


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _touch(path: Path) -> None:
    """Marks an entry as used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _safe(directory: Path) -> bool:
    """Whether nobody but this user and root may write to `directory`; true for one that does not exist yet."""
    try:
        status = os.stat(directory)
    except OSError:
        return True  # reading or making it will tell
    if not hasattr(os, "getuid"):
        return True
    if status.st_uid in (os.getuid(), 0) and not status.st_mode & stat.S_IWOTH:
        return True
    _warn_once("use", directory, PermissionError("others may write to it"))
    return False


_warned: set[str] = set()


def _warn_once(what: str, directory: Path | None, error: OSError) -> None:
    if what not in _warned:
        _warned.add(what)
        _log.warning("cannot %s the cache in %s (%s); going on without it", what, directory, error)


def _default_directory() -> Path:
    named = os.environ.get("HASTEN_CACHE_DIR")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "hasten"


def _default_max_bytes() -> int:
    text = os.environ.get("HASTEN_CACHE_SIZE")
    if not text:
        return DEFAULT_MAX_BYTES
    match = re.fullmatch(r"\s*(\d+)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if match is None:
        raise InputError(f"HASTEN_CACHE_SIZE={text!r} is not a size in bytes; write for example 500M or 2G.")
    return int(match[1]) * _UNITS[match[2]]
