"""The models of the data folder as shared libraries, on their own kinds of inputs, against ONNX Runtime: for this machine, and for
64-bit ARM under qemu."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from programs import ARM_FILES, QEMU_ARM, build

from hasten.deploy import toolchain

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import trained  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.slow]


def names() -> list[str]:
    """Models of the data folder (none where there is no folder)."""
    folder = trained.data_folder()
    return sorted(p.stem for p in (folder / "models").glob("*.onnx")) if folder else []


def check(name: str, data: Path, folder: Path, target: str | None, runner: list[str]) -> None:
    """The smallest case of a model, over all its steps."""
    import onnxruntime as ort

    case = min((c for c in trained.load(data, [name]) if c.model == name), key=lambda c: sum(np.asarray(x).size for x in c.feeds.values()))
    program = build(case.path, folder, runner, target=target, threads=2)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(case.path), options)
    outputs = [o.name for o in session.get_outputs()]
    want = trained.run_steps(lambda feeds: dict(zip(outputs, session.run(None, feeds), strict=True)), case)
    case.check(trained.run_steps(program.named, case), want)


@pytest.mark.parametrize("name", names())
def test_here(name: str, data: Path, compiler: None, tmp_path: Path) -> None:
    check(name, data, tmp_path / "l", None, [])


@pytest.mark.skipif(QEMU_ARM is None, reason="needs qemu-aarch64 (Debian: qemu-user)")
@pytest.mark.skipif(not ARM_FILES.is_dir() or not any(map(shutil.which, toolchain.TARGETS["aarch64-linux"].compilers)),
                    reason="needs a cross compiler with its C library (Debian: gcc-aarch64-linux-gnu)")  # fmt: skip
@pytest.mark.parametrize("name", names())
def test_on_arm(name: str, data: Path, tmp_path: Path) -> None:
    check(name, data, tmp_path / "l", "aarch64-linux", [str(QEMU_ARM), "-L", str(ARM_FILES)])
