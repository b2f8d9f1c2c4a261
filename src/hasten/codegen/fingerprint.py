"""What a model file contains, in a word: its SHA-256, remembered for files that have not been touched.

Hashing half a gigabyte takes longer than loading what was compiled from it. As git's index does, a digest is kept under
what the file system says of the file: path, device, inode, size, times of the last change of content and of status. A
file that was touched a moment ago is hashed but not remembered: within the resolution of the clock a second change
would look the same.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time

from hasten.codegen.cache import Cache

_SETTLED = 2.0  # seconds after its last change from which a file's times tell a new change
_ALONE = b"location"  # what a file with external data has in it
_DEPENDS = "depends on other files"


def file_digest(path: str | os.PathLike[str], cache: Cache) -> str | None:
    """The SHA-256 of a model file in hexadecimal; None where it can't be read, or may depend on other files (external data)."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            key = _key(path, status)
            known = cache.get("fingerprint", key)
            if known is not None:
                return _told(known.decode())
            digest = _digest(file.fileno(), status.st_size)
            if _key(path, os.fstat(file.fileno())) != key:
                return None  # it is being written
    except (OSError, ValueError):
        return None
    if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED:
        cache.put("fingerprint", key, digest.encode())
    return _told(digest)


def _told(digest: str) -> str | None:
    return None if digest == _DEPENDS else digest


def _key(path: str | os.PathLike[str], s: os.stat_result) -> str:
    return "|".join(map(str, (os.path.realpath(path), s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)))


def _digest(descriptor: int, size: int) -> str:
    """Read through a mapping, so that a large file is never in memory twice."""
    if size == 0:
        return hashlib.sha256(b"").hexdigest()
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as view:
        if view.find(_ALONE) >= 0:
            return _DEPENDS
        with memoryview(view) as content:
            return hashlib.sha256(content).hexdigest()
