"""The disk cache: what is found again, what damage and other processes do to it, and its bound."""

import logging
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hasten.base.errors import InputError
from hasten.codegen import cache as module
from hasten.codegen.cache import Cache, code_version


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch):
    monkeypatch.setattr(module, "_warned", set())


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def entries(cache: Cache) -> list[Path]:
    return [path for path in cache.directory.rglob("*") if path.is_file()]


def test_what_is_put_is_found(cache, tmp_path):
    assert cache.get("object", "k") is None
    assert cache.put("object", "k", b"content")
    assert cache.get("object", "k") == b"content"
    assert Cache(tmp_path / "cache").get("object", "k") == b"content"
    assert cache.put("object", "k", b"")
    assert cache.get("object", "k") == b""
    assert cache.stats() == module.CacheStats(1, module._TRAILER.size, tmp_path / "cache")


def test_namespaces_and_keys_do_not_mix(cache):
    cache.put("a", "b:c", b"1")
    cache.put("a:b", "c", b"2")
    assert (cache.get("a", "b:c"), cache.get("a:b", "c"), cache.get("a", "c")) == (b"1", b"2", None)


def test_path_starts_with_the_payload(cache):
    assert cache.path("artefact", "k") is None
    payload = bytes(range(256)) * 50
    cache.put("artefact", "k", memoryview(payload))
    with open(cache.path("artefact", "k"), "rb") as file:
        assert file.read(len(payload)) == payload


def test_any_damage_is_a_miss_and_is_deleted(cache):
    cache.put("object", "k", b"content")
    (place,) = entries(cache)
    good = place.read_bytes()
    damaged = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
    damaged += [good[:length] for length in range(len(good))] + [good + b"x", b"x" + good]
    for bad in damaged:
        place.write_bytes(bad)
        assert cache.get("object", "k") is None
        assert not place.exists()
    assert cache.put("object", "k", b"new")
    assert cache.get("object", "k") == b"new"


def test_path_of_a_truncated_entry_is_a_miss(cache):
    cache.put("artefact", "k", b"content" * 100)
    (place,) = entries(cache)
    for length in (600, 20, 0):
        place.write_bytes((b"content" * 100)[:length])
        assert cache.path("artefact", "k") is None
        assert not place.exists()


def test_delete_and_clear_leave_other_files_alone(cache):
    foreign = cache.directory / "keep.txt"
    cache.put("a", "1", b"x")
    cache.put("a", "2", b"y")
    foreign.write_text("mine")
    cache.delete("a", "1")
    cache.delete("a", "1")
    assert (cache.get("a", "1"), cache.get("a", "2")) == (None, b"y")
    cache.clear()
    assert cache.stats().entries == 0
    assert foreign.read_text() == "mine"
    assert cache.put("a", "1", b"x")


def test_unusable_directories_cost_nothing_but_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("not a directory")
    cache = Cache(tmp_path / "file" / "cache")
    with caplog.at_level(logging.WARNING, "hasten"):
        for _ in range(3):
            assert not cache.put("a", "1", b"x")
            assert cache.get("a", "1") is None
            assert cache.path("a", "1") is None
    assert sum("cannot write the cache" in message for message in caplog.messages) == 1
    assert cache.stats().entries == 0
    cache.clear()


def test_a_full_disk_leaves_no_rest(cache, monkeypatch):
    cache.put("a", "1", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    assert not cache.put("a", "1", b"new")
    assert cache.get("a", "1") == b"old"
    assert len(entries(cache)) == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
def test_directories_others_can_write_to_are_not_used(cache, caplog):
    cache.put("a", "1", b"x")
    root = cache.directory / "v1"
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    root.chmod(0o777)
    assert cache.get("a", "1") is None
    assert not cache.put("a", "1", b"y")
    assert "others may write" in caplog.text


def test_disabled(tmp_path, monkeypatch):
    monkeypatch.setenv("HASTEN_CACHE_DIR", str(tmp_path))
    cache = Cache.disabled()
    assert not cache.put("a", "1", b"x")
    assert cache.get("a", "1") is None
    assert cache.stats() == module.CacheStats(0, 0, None)
    cache.clear()
    assert list(tmp_path.iterdir()) == []


def test_the_environment_chooses_place_and_size(tmp_path, monkeypatch):
    monkeypatch.setenv("HASTEN_CACHE_DIR", str(tmp_path / "here"))
    for text, size in (("5000", 5000), ("3k", 3072), ("2 GiB", 2 << 30), ("1MB", 1 << 20)):
        monkeypatch.setenv("HASTEN_CACHE_SIZE", text)
        assert (Cache().directory, Cache().max_bytes) == (tmp_path / "here", size)
    monkeypatch.setenv("HASTEN_CACHE_SIZE", "much")
    with pytest.raises(InputError, match="'much'.*500M"):
        Cache()
    monkeypatch.delenv("HASTEN_CACHE_SIZE")
    monkeypatch.delenv("HASTEN_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (Cache().directory, Cache().max_bytes) == (tmp_path / ".cache" / "hasten", 1 << 30)


def test_the_least_recently_used_go_first(tmp_path):
    cache = Cache(tmp_path, max_bytes=10_000)
    cache._writes_left = 1000
    for i in range(5):
        cache.put("a", str(i), bytes(1000))
        past = time.time() - 1000 + i
        os.utime(cache.path("a", str(i)), (past, past))
    assert cache.get("a", "0") is not None  # used now, so younger than 1 to 4
    cache.max_bytes = 4000
    cache._evict()
    assert [i for i in range(5) if cache.get("a", str(i))] == [0, 4]


def test_the_bound_holds_while_writing(tmp_path):
    cache = Cache(tmp_path, max_bytes=100_000)
    for i in range(300):
        cache.put("a", str(i), bytes(2000))
    assert cache.stats().bytes <= 100_000 + 100_000 // 8 + 3000
    assert cache.get("a", "299") is not None
    assert not cache.put("a", "large", bytes(100_000))


def test_temporary_files_of_dead_processes_are_removed(cache):
    cache.put("a", "1", b"x")
    shard = entries(cache)[0].parent
    old, new = shard / ".tmp-old", shard / ".tmp-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert cache.stats().entries == 1
    cache._evict()
    assert (old.exists(), new.exists()) == (False, True)


def test_eight_processes_leave_one_copy(tmp_path):
    program = (
        "import sys; from hasten.codegen.cache import Cache\n"
        "cache = Cache(sys.argv[1])\n"
        "for key in '0123456789':\n"
        "    if cache.get('object', key) is None:\n"
        "        cache.put('object', key, key.encode() * 50_000)\n"
        "    assert cache.get('object', key) == key.encode() * 50_000\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    assert len(entries(Cache(tmp_path))) == 10


def test_code_version_follows_the_templates(tmp_path, monkeypatch):
    assert len(code_version()) == 64
    assert code_version() == code_version.__wrapped__()
    for folder in ("kernels", "vm", "cli"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("x = 1")
    (tmp_path / "codegen").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "codegen" / "cache.py"))
    versions = [code_version.__wrapped__()]
    (tmp_path / "kernels" / "a.py").write_text("x = 2")
    versions.append(code_version.__wrapped__())
    (tmp_path / "kernels" / "a.py").rename(tmp_path / "kernels" / "b.py")
    versions.append(code_version.__wrapped__())
    assert len(set(versions)) == 3
    (tmp_path / "cli" / "a.py").write_text("x = 2")
    assert code_version.__wrapped__() == versions[-1]
