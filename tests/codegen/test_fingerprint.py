"""Digests of files, and when they are remembered."""

import hashlib
import os

import pytest

from hasten.codegen import fingerprint
from hasten.codegen.cache import Cache
from hasten.codegen.fingerprint import file_digest


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def old_file(path, content):
    path.write_bytes(content)
    os.utime(path, (1e9, 1e9))
    return path


def test_the_digest_is_sha256(tmp_path, cache):
    for content in (b"", b"x", bytes(range(256)) * 5000):
        path = tmp_path / f"{len(content)}"
        path.write_bytes(content)
        assert file_digest(path, cache) == hashlib.sha256(content).hexdigest()


def test_a_file_that_lies_still_is_hashed_once(tmp_path, cache, monkeypatch):
    path = old_file(tmp_path / "m.onnx", b"weights")
    monkeypatch.setattr(fingerprint, "_SETTLED", -1e12)  # its status changed just now
    first = file_digest(path, cache)
    monkeypatch.setattr(fingerprint, "_digest", lambda *_: pytest.fail("hashed again"))
    assert file_digest(path, cache) == first


def test_a_changed_file_is_hashed_again_even_with_its_old_time(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(fingerprint, "_SETTLED", -1e12)
    path = old_file(tmp_path / "m.onnx", b"weights")
    first = file_digest(path, cache)
    assert file_digest(old_file(path, b"WEIGHTS"), cache) == hashlib.sha256(b"WEIGHTS").hexdigest() != first


def test_a_fresh_file_is_not_remembered(tmp_path, cache):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"now")
    assert file_digest(path, cache) is not None
    assert cache.stats().entries == 0


def test_files_that_depend_on_others_have_none(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(fingerprint, "_SETTLED", -1e12)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"...location...")
    assert [file_digest(path, cache) for _ in range(2)] == [None, None]
    assert file_digest(tmp_path / "absent", cache) is None
    assert file_digest(tmp_path, cache) is None
