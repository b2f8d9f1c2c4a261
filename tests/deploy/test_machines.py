"""Shared libraries under other conditions: valgrind, CPUs that lack instructions, zig as the only compiler, trained models."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from programs import build, example_feeds, near, reference

import hasten
from hasten.deploy import toolchain

pytestmark = pytest.mark.slow
Models = dict[str, Callable[[], bytes]]
UNSUPPORTED_CPU, RUN_FAILED = 106, 105

x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 machine")


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_no_leak_and_no_bad_access(models: Models, compiler: None, tmp_path: Path, rng: np.random.Generator) -> None:
    """Runs, failures and several callers; code that valgrind can decode."""
    checker = ["valgrind", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect", "--quiet"]
    picture = build(models["picture"](), tmp_path / "p", name="picture", threads=2, isa="portable", runner=checker)
    x = rng.standard_normal((2, 3, 17, 13)).astype("f4")
    done = picture.run([x], threads=2, callers=2, rounds=4)
    assert done.code == 0 and done.said == "", done.said
    near(done.outputs, reference(models["picture"](), {"x": x}))
    found = build(models["found"](), tmp_path / "f", name="found", threads=2, isa="portable", runner=checker).run([x.ravel()])
    assert found.code == 0 and found.said == "", found.said
    rows = build(models["rows"](), tmp_path / "r", name="rows", threads=2, isa="portable", runner=checker)
    failed = rows.run([np.ones((4, 40), "f4"), np.array([0, 1, 2, 9])])
    assert failed.code == RUN_FAILED and "==" not in failed.said, failed.said


@x86
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs qemu-user")
def test_a_cpu_that_lacks_instructions(models: Models, compiler: None, tmp_path: Path) -> None:
    x, which = np.ones((2, 40), "f4"), np.array([0, 1])
    for isa, cpu, lacks in (("avx2", "Nehalem", "fma"), ("avx512", "Haswell", "avx512f"), ("amx", "Haswell", "amx-tile")):
        rows = build(models["rows"](), tmp_path / isa, name="rows", threads=1, isa=isa, runner=["qemu-x86_64", "-cpu", cpu])
        done = rows.run([x, which])
        assert done.code == UNSUPPORTED_CPU, (done.code, done.said)
        assert f"compiled for {isa} instructions, and this machine lacks" in done.said and lacks in done.said
    for isa, cpu in (("portable", "Nehalem"), ("avx2", "Haswell")):
        rows = build(models["rows"](), tmp_path / f"{isa}-fits", name="rows", threads=1, isa=isa, runner=["qemu-x86_64", "-cpu", cpu])
        done = rows.run([x, which])
        assert done.code == 0, done.said
        near(done.outputs, reference(models["rows"](), {"x": x, "which": which}))


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs the extra `deploy`")
@pytest.mark.parametrize("target", [None, "aarch64-linux"])
def test_zig_links(models: Models, target: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(toolchain.shutil, "which", lambda command: None)
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "zig"))
    assert "ziglang" in toolchain.compiler(toolchain.target(target))
    monkeypatch.setenv("ZIG_LOCAL_CACHE_DIR", str(tmp_path / "zig"))
    picture = build(models["picture"](), tmp_path / "p", name="picture", threads=2, target=target)
    if target is not None:
        assert (tmp_path / "p" / "libpicture.so").read_bytes()[18] == 183  # EM_AARCH64
        return
    x = rng.standard_normal((2, 3, 17, 13)).astype("f4")
    near(picture.run([x], threads=2, callers=2).outputs, reference(models["picture"](), {"x": x}))


@pytest.mark.parametrize("isa", ["portable", None])
@pytest.mark.parametrize("name", ["classify_mnist_cnn", "face_mtcnn_pnet", "face_ultraface_rfb320", "face_yunet_n", "rl_go1_policy",
                                  "vad_silero_16k_sequence"])  # fmt: skip
def test_trained_models(name: str, isa: str | None, example_models: Path, compiler: None, tmp_path: Path, rng: np.random.Generator) -> None:
    model = example_models / f"{name}.onnx"
    feeds = example_feeds(name, rng)
    done = build(model, tmp_path / "l", threads=2, isa=isa).run(list(feeds.values()), threads=2, callers=2, rounds=4)
    assert done.code == 0, done.said
    near(done.outputs, reference(model, feeds), 1e-4)
    here = hasten.compile(model, threads=2, isa=isa).run(feeds)
    for mine, python in zip(done.outputs, here.values(), strict=True):
        assert mine.tobytes() == python.tobytes()


def test_a_child_after_fork(models: Models, compiler: None, tmp_path: Path) -> None:
    """The pool's threads do not exist in the child; it makes its own."""
    import ctypes

    picture = build(models["picture"](), tmp_path / "l", name="picture", threads=2)
    library, model = ctypes.CDLL(str(picture.library.library)), ctypes.c_void_p()
    assert library.picture_create(2, ctypes.byref(model)) == 0
    x = np.ones((4, 3, 200, 200), "f4")
    words = np.zeros(13, "i8")  # a hasten_tensor: data, bytes, dtype and rank, shape, owned
    words[:7] = x.ctypes.data, x.nbytes, 1 | 4 << 32, *x.shape

    def run() -> int:
        outputs = np.zeros((2, 13), "i8")
        return library.picture_run(model, ctypes.c_void_p(words.ctypes.data), ctypes.c_void_p(outputs.ctypes.data))

    assert run() == 0
    child = os.fork()
    if child == 0:
        os._exit(run() or run())
    assert os.waitpid(child, 0)[1] == 0
