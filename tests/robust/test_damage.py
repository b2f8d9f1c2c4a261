"""Interrupted compiles, full disks, read-only and damaged caches, altered files: nothing broken is ever left behind or
taken for whole."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from damage import altered_files, command, feeds_for, finished, interrupted_compiles, same, small_files

import hasten


@pytest.fixture(scope="module")
def model(example_models: Path) -> Path:
    return example_models / "face_mtcnn_pnet.onnx"


@pytest.fixture(scope="module")
def compiled(model: Path) -> hasten.CompiledModel:
    return hasten.compile(model)


@pytest.fixture(scope="module")
def feeds(compiled: hasten.CompiledModel) -> dict[str, np.ndarray]:
    return feeds_for(compiled)


@pytest.mark.slow
def test_kills_at_random_moments(model: Path, tmp_path: Path) -> None:
    counts = interrupted_compiles(model, tmp_path, 24, random.randrange(1 << 30))
    assert not counts["broken"], counts
    assert counts["killed"] >= 12, counts


def test_output_that_does_not_fit(model: Path, tmp_path: Path) -> None:
    """The disk is full while the output is written: an error, and no file; what was there before stays."""
    output = tmp_path / "out" / "model.hasten"
    output.parent.mkdir()
    output.write_bytes(b"what was there before")
    code, errors = finished(command("compile", model, "-o", output, cache=tmp_path / "cache", preexec_fn=small_files(1 << 16)))
    assert code == 1 and "Traceback" not in errors and errors.strip(), errors
    assert output.read_bytes() == b"what was there before"
    assert [p.name for p in output.parent.iterdir()] == ["model.hasten"]
    assert not [p for p in (tmp_path / "cache").rglob(".tmp-*")]
    assert finished(command("compile", model, "-o", output, cache=tmp_path / "cache"))[0] == 0
    hasten.load(output)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk(model: Path, tiny_disk: Path, tmp_path: Path, feeds: dict[str, np.ndarray], compiled: hasten.CompiledModel) -> None:
    """A cache on a disk that is full costs time only; an output there is an error without a file."""
    (tiny_disk / "ballast").write_bytes(bytes(900 << 10))
    output = tmp_path / "model.hasten"
    code, errors = finished(command("compile", model, "-o", output, cache=tiny_disk / "cache"))
    assert code == 0, errors
    assert same(hasten.load(output).run(feeds), compiled.run(feeds))
    code, errors = finished(command("compile", model, "-o", tiny_disk / "model.hasten", cache=tmp_path / "cache"))
    assert code == 1 and "space" in errors and "Traceback" not in errors, errors
    assert not list(tiny_disk.glob("*.hasten")) and not list(tiny_disk.glob(".*"))
    assert not [p for p in tiny_disk.rglob("*") if p.is_file() and p.name.startswith(".tmp-")]
    with pytest.raises(OSError):
        compiled.save(tiny_disk / "again.hasten")
    assert not list(tiny_disk.glob("*again*"))
    (tiny_disk / "ballast").unlink()
    again = tmp_path / "again.hasten"
    assert finished(command("compile", model, "-o", again, cache=tiny_disk / "cache"))[0] == 0
    assert same(hasten.load(again).run(feeds), compiled.run(feeds))


def test_cache_that_cannot_be_written(model: Path, tmp_path: Path, feeds: dict[str, np.ndarray], compiled: hasten.CompiledModel) -> None:
    """A read-only cache (for root: a file in the place of its folder) is read where it can be, and never an error."""
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    for cache in (blocked, blocked / "inside", Path("/proc/hasten-cache")):
        assert same(hasten.compile(model, cache_dir=cache).run(feeds), compiled.run(feeds))
    cache = tmp_path / "cache"
    hasten.compile(model, cache_dir=cache)
    for path in sorted(cache.rglob("*")):
        path.chmod(0o500 if path.is_dir() else 0o400)
    cache.chmod(0o500)
    try:
        assert same(hasten.compile(model, cache_dir=cache).run(feeds), compiled.run(feeds))
        assert same(hasten.compile(model, cache_dir=cache, precision="high").run(feeds), hasten.compile(model, precision="high").run(feeds))
    finally:
        for path in [cache, *cache.rglob("*")]:
            path.chmod(0o700)


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "swap"])
def test_damaged_cache(harm: str, model: Path, tmp_path: Path, feeds: dict[str, np.ndarray], compiled: hasten.CompiledModel) -> None:
    """Every entry damaged: all are misses, are made again, and the answers are right."""
    cache = tmp_path / "cache"
    hasten.compile(model, cache_dir=cache)
    entries = [p for p in cache.rglob("*") if p.is_file()]
    assert len(entries) > 3
    whole = {p: p.read_bytes() for p in entries}
    for number, path in enumerate(entries):
        data = bytearray(whole[path])
        if harm == "truncate":
            del data[len(data) // 2 :]
        elif harm == "flip":
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        elif harm == "empty":
            data.clear()
        else:
            data[:] = whole[entries[number - 1]]
        path.write_bytes(data)
    again = hasten.compile(model, cache_dir=cache)
    assert same(again.run(feeds), compiled.run(feeds))
    if harm != "swap":
        assert {p: len(p.read_bytes()) for p in entries} == {p: len(d) for p, d in whole.items()}
    third = hasten.compile(model, cache_dir=cache)
    assert third.report().from_cache and same(third.run(feeds), compiled.run(feeds))


def test_altered_files(compiled: hasten.CompiledModel, tmp_path: Path) -> None:
    path = tmp_path / "model.hasten"
    compiled.save(path)
    found = altered_files(path, 300, random.randrange(1 << 30))
    assert found["refused"] == found["files"] and not found["accepted"] and not found["other"], found


def test_files_of_other_versions(compiled: hasten.CompiledModel, tmp_path: Path) -> None:
    """One line says who wrote the file, and what to do."""
    path, other = tmp_path / "model.hasten", b"9" * (len(hasten.__version__) - 4) + b".9.9"
    compiled.save(path)
    data = path.read_bytes().replace(b'{"hasten":"' + hasten.__version__.encode(), b'{"hasten":"' + other, 1)
    for number in (1, 77):
        head = data[:8] + number.to_bytes(4, "little") + bytes(4) + data[16:64]
        path.write_bytes(head[:12] + zlib.crc32(head).to_bytes(4, "little") + head[16:] + data[64:])
        code, errors = finished(command("run", path, cache=tmp_path))
        assert code == 1 and len(errors.strip().splitlines()) == 1, errors
        assert f"model.hasten was written by Hasten {other.decode()} with format {number}; " in errors and "Compile the model again" in errors


def test_foreign_files(tmp_path: Path) -> None:
    for name, data in {"empty": b"", "text": b"hello", "zeros": bytes(10000), "pickle": b"\x80\x04." * 100}.items():
        path = tmp_path / f"{name}.hasten"
        path.write_bytes(data)
        with pytest.raises(hasten.CorruptFile, match=name):
            hasten.load(path)
    with pytest.raises(OSError):
        hasten.load(tmp_path / "absent.hasten")
    with pytest.raises(OSError):
        hasten.load(tmp_path)


def test_file_replaced_while_mapped(compiled: hasten.CompiledModel, feeds: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Saving over, or deleting, a file that is loaded does not touch the loaded model."""
    path = tmp_path / "model.hasten"
    compiled.save(path)
    loaded = hasten.load(path)
    compiled.save(path)
    assert same(loaded.run(feeds), compiled.run(feeds))
    os.unlink(path)
    assert same(loaded.run(feeds), compiled.run(feeds))


def test_cache_deleted_while_in_use(model: Path, feeds: dict[str, np.ndarray], compiled: hasten.CompiledModel, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    hasten.compile(model, cache_dir=cache)
    warm = hasten.compile(model, cache_dir=cache)
    assert warm.report().from_cache
    shutil.rmtree(cache)
    assert same(warm.run(feeds), compiled.run(feeds))
    assert same(hasten.compile(model, cache_dir=cache).run(feeds), compiled.run(feeds))
    warm.save(tmp_path / "saved.hasten")
    assert same(hasten.load(tmp_path / "saved.hasten").run(feeds), compiled.run(feeds))
