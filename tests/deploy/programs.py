"""Shared libraries built, linked with harness.c and run as programs of their own: here, or emulated for another CPU."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from hasten.base.dtypes import to_numpy
from hasten.deploy import Library, build_library, toolchain

HARNESS = Path(__file__).with_name("harness.c")
ARM_FILES = Path("/usr/aarch64-linux-gnu")  # where Debian puts the C library of the cross compiler
QEMU_ARM = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")


def parse(text: str, **constants: Any) -> bytes:
    """A model's bytes from ONNX's text form; constants become initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items())
    return model.SerializeToString()


@dataclass
class Outcome:
    """What a program did: its exit code, what it said, and the outputs that it wrote."""

    code: int
    said: str
    outputs: list[np.ndarray[Any, Any]]


@dataclass
class Program:
    """A compiled model beside its harness. `runner` begins the command: an emulator, valgrind."""

    library: Library
    folder: Path
    inputs: list[str]
    outputs: dict[str, str]  # name: dtype
    runner: Sequence[str] = ()

    def run(self, feeds: Sequence[np.ndarray[Any, Any]], threads: int = 1, callers: int = 1, rounds: int = 2) -> Outcome:
        arguments = []
        for number, array in enumerate(feeds):
            file = self.folder / f"in.{number}"
            np.ascontiguousarray(array).tofile(file)
            arguments.append("x".join(map(str, array.shape)) + f":{file}")
        command = [*self.runner, self.folder / "harness", threads, callers, rounds, self.folder / "out", *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
        if done.returncode:
            return Outcome(done.returncode, done.stderr, [])
        shapes = [tuple(int(size) for size in line.split("x") if size) for line in done.stdout.splitlines()]
        outputs = [
            np.fromfile(self.folder / f"out.{number}", to_numpy(dtype)).reshape(shape)
            for number, (dtype, shape) in enumerate(zip(self.outputs.values(), shapes, strict=True))
        ]
        return Outcome(0, done.stderr, outputs)

    def named(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """A run on two threads that must succeed, by names."""
        done = self.run([feeds[name] for name in self.inputs], threads=2, callers=0)
        assert done.code == 0, done.said
        return dict(zip(self.outputs, done.outputs, strict=True))


def build(model: Any, folder: Path, runner: Sequence[str] = (), **options: Any) -> Program:
    """The model as a shared library in `folder`, with the harness in a folder below."""
    library = build_library(model, folder, **options)
    place = folder / "program"
    place.mkdir()
    compiler = toolchain.compiler(toolchain.target(options.get("target")))
    define = [f'-DHEADER="{library.header.name}"', f"-DMODEL={library.name}"]
    line = [*compiler, "-O1", "-Wall", "-Wextra", "-Werror", *define, "-I..", str(HARNESS), "-o", "harness",
            "-L..", f"-l{library.name}", "-Wl,-rpath,$ORIGIN/..", "-lpthread"]  # fmt: skip
    subprocess.run(line, cwd=place, check=True, capture_output=True, text=True)
    rows = [line.split("  ") for line in (line.strip().replace("input   ", "input  ") for line in library.signature)]
    inputs = [name for side, name, _ in rows if side == "input"]
    outputs = {name: kind.split(" ")[0] for side, name, kind in rows if side == "output"}
    return Program(library, place, inputs, outputs, runner)


def reference(model: bytes | str | Path, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """What ONNX Runtime answers, without its optimisations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(model if isinstance(model, bytes) else str(model), options)
    return list(session.run(None, dict(feeds)))


def near(got: Sequence[np.ndarray[Any, Any]], want: Sequence[np.ndarray[Any, Any]], tolerance: float = 2e-5) -> None:
    """Shapes and integers equal; floats within `tolerance` of the largest value (that of plain float32 sums in another order)."""
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        if b.dtype.kind == "f":
            scale = max(1.0, float(np.abs(b).max(initial=0)))
            np.testing.assert_allclose(a.astype("f8"), b.astype("f8"), rtol=0, atol=tolerance * scale)
        else:
            np.testing.assert_array_equal(a, b)


def example_feeds(name: str, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    """Random inputs of plausible sizes for the models in examples/models."""

    def floats(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape).astype("f4")

    return {
        "classify_mnist_cnn": lambda: {"Input3": floats(1, 1, 28, 28)},
        "face_mtcnn_pnet": lambda: {"image": floats(2, 3, 47, 64)},
        "face_ultraface_rfb320": lambda: {"input": floats(1, 3, 240, 320)},
        "face_yunet_n": lambda: {"input": floats(1, 3, 96, 128) * 50 + 128},
        "rl_go1_policy": lambda: {"obs": floats(1, 48)},
        "vad_silero_16k_sequence": lambda: {"input": floats(7, 576) / 10, "h": floats(1, 1, 128), "c": floats(1, 1, 128)},
    }[name]()
