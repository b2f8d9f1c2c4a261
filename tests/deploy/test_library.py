"""Shared libraries against ONNX Runtime and the Python engine, as programs of their own; their errors; what is refused."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import Program, build, near, parse, reference

import hasten
from hasten.base.errors import CompileError, InputError, MissingDependency, UnsupportedOperator
from hasten.codegen import isa as isas
from hasten.deploy import build_library, cpu, library, tables, toolchain

Models = dict[str, Callable[[], bytes]]
Build = Callable[[str], Program]

BAD_ARGUMENT, BAD_SHAPE, TOO_SMALL, OUT_OF_MEMORY, RUN_FAILED, UNSUPPORTED_CPU = range(1, 7)


@pytest.fixture(scope="module")
def built(models: Models, compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Each of the small models as a library for two threads, built once."""
    found: dict[str, Program] = {}

    def one(name: str) -> Program:
        if name not in found:
            found[name] = build(models[name](), tmp_path_factory.mktemp(name), name=name, threads=2)
        return found[name]

    return one


# --- runs ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n, h, w", [(1, 9, 7), (3, 64, 65), (2, 1, 1)])
def test_dynamic_sizes_threads_and_callers(built: Build, models: Models, rng: np.random.Generator, n: int, h: int, w: int) -> None:
    x = rng.standard_normal((n, 3, h, w)).astype("f4")
    alone = built("picture").run([x], threads=1)
    crowd = built("picture").run([x], threads=2, callers=3, rounds=20)
    assert (alone.code, crowd.code) == (0, 0), alone.said + crowd.said
    near(crowd.outputs, reference(models["picture"](), {"x": x}))
    here = hasten.compile(models["picture"](), threads=2)(x)
    for mine, theirs, python in zip(alone.outputs, crowd.outputs, here, strict=True):
        assert mine.tobytes() == theirs.tobytes() == python.tobytes()  # the same kernels


def test_sizes_that_only_the_run_knows(built: Build, rng: np.random.Generator) -> None:
    x = rng.standard_normal(50).astype("f4")
    where, mask = built("found").run([x]).outputs
    np.testing.assert_array_equal(where, np.argwhere(x > 0))
    np.testing.assert_array_equal(mask, x > 0)
    assert built("found").run([x[:0]]).outputs[0].shape == (0, 1)


def test_loops(built: Build) -> None:
    x = np.arange(3, dtype="f4")
    np.testing.assert_array_equal(built("powers").run([np.array(10), x]).outputs[0], x * 1024)


def test_failures_are_told(built: Build) -> None:
    x, rows = np.zeros((4, 40), "f4"), built("rows")
    outside = rows.run([x, np.array([0, 1, 2, 4])])
    assert outside.code == 100 + RUN_FAILED and "an index is out of range" in outside.said
    uneven = rows.run([x, np.array([0])])
    assert uneven.code == 100 + BAD_SHAPE and "'which' is (1), the model takes (n)" in uneven.said
    narrow = rows.run([x[:, :39], np.array([0, 1, 2, 3])])
    assert narrow.code == 100 + BAD_SHAPE and "'x' is (4, 39), the model takes (n, 40)" in narrow.said
    flat = rows.run([x[0], np.array([0])])
    assert flat.code == 100 + BAD_ARGUMENT and "input 'x': its rank is 1, the model takes (n, 40)" in flat.said
    many = rows.run([x, np.array([0, 1, 2, 3])], threads=3)
    assert many.code == 100 + BAD_ARGUMENT and "compiled for 1 to 2" in many.said
    assert rows.run([x, np.array([0, 1, 2, 3])]).code == 0


# --- the interface, through ctypes --------------------------------------------------------------------------------------
class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("dtype", ctypes.c_int), ("rank", ctypes.c_int32),
                ("shape", ctypes.c_int64 * 8), ("owned", ctypes.c_void_p)]  # fmt: skip


class Info(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int32), ("shape", ctypes.c_int64 * 8),
                ("sizes", ctypes.c_char_p * 8)]  # fmt: skip


class Api:
    """The functions of the model "picture" in this process."""

    def __init__(self, path: Path):
        self.library = ctypes.CDLL(str(path))
        self.model = ctypes.c_void_p()
        self.input, self.output = self.call("input"), self.call("output")
        self.input.restype = self.output.restype = ctypes.POINTER(Info)

    def call(self, name: str) -> Any:
        return getattr(self.library, f"picture_{name}")

    def error(self) -> str:
        self.call("error").restype = ctypes.c_char_p
        return self.call("error")().decode()


def tensor(array: np.ndarray[Any, Any]) -> Tensor:
    shape = (ctypes.c_int64 * 8)(*array.shape)
    return Tensor(array.ctypes.data, array.nbytes, 1, array.ndim, shape, None)


@pytest.fixture
def api(built: Build) -> Any:
    api = Api(built("picture").library.library)
    assert api.call("create")(0, ctypes.byref(api.model)) == 0
    yield api
    api.call("destroy")(api.model)


def test_what_the_library_says_of_itself(api: Api) -> None:
    api.call("version").restype = ctypes.c_char_p
    assert b"Hasten" in api.call("version")() and api.call("api")() == tables.API
    assert (api.call("input_count")(), api.call("output_count")(), api.call("threads")(api.model)) == (1, 2, 2)
    x, y = api.input(0).contents, api.output(0).contents
    assert (x.name, x.dtype, x.rank, list(x.shape[:4])) == (b"x", 1, 4, [-1, 3, -1, -1])
    assert list(x.sizes[:4]) == [b"n", b"3", b"h", b"w"]
    assert (y.name, y.rank, y.shape[1]) == (b"y", 4, 24)
    assert not api.input(1) and not api.output(2) and not api.input(-1)


def test_shapes_before_the_run(api: Api) -> None:
    x = Tensor(None, 0, 1, 4, (ctypes.c_int64 * 8)(5, 3, 11, 8), None)
    outputs = (Tensor * 2)()
    assert api.call("output_shapes")(api.model, ctypes.byref(x), outputs) == 0, api.error()
    assert list(outputs[0].shape[:4]) == [5, 24, 6, 4] and outputs[0].bytes == 5 * 24 * 6 * 4 * 4
    assert list(outputs[1].shape[:2]) == [5, 24] and not outputs[1].data


def test_memory_of_the_caller(api: Api) -> None:
    x = np.ones((1, 3, 4, 4), "f4")
    given = tensor(x)
    y, z = np.full((1, 24, 2, 2), 7, "f4"), np.full((1, 24), 7, "f4")
    outputs = (Tensor * 2)(tensor(y), tensor(z))
    assert api.call("run")(api.model, ctypes.byref(given), outputs) == 0, api.error()
    np.testing.assert_allclose(z, y.mean((2, 3)), rtol=1e-5, atol=1e-6)
    y[:], outputs[0].bytes = 7, y.nbytes - 1
    assert api.call("run")(api.model, ctypes.byref(given), outputs) == TOO_SMALL
    assert "output 'y': it has 384 bytes, the memory given for it 383" in api.error()
    assert (y == 7).all() and list(outputs[0].shape[:4]) == [1, 24, 2, 2]
    outputs[0].data = outputs[1].data = None
    assert api.call("run")(api.model, ctypes.byref(given), outputs) == 0
    assert outputs[0].bytes == y.nbytes and ctypes.string_at(outputs[1].data, z.nbytes) == z.tobytes()
    for output in outputs:
        api.call("release")(ctypes.byref(output))
        assert not output.data
        api.call("release")(ctypes.byref(output))  # does nothing


@pytest.mark.parametrize(
    "change, status, words",
    [
        ({"data": None}, BAD_ARGUMENT, "input 'x': its data is NULL"),
        ({"bytes": 191}, BAD_ARGUMENT, "its memory has 191 bytes, its shape (1, 3, 4, 4) needs 192"),
        ({"dtype": 11}, BAD_ARGUMENT, "its dtype is float64 (11), the model takes float32"),
        ({"dtype": 99}, BAD_ARGUMENT, "its dtype is unknown (99)"),
        ({"rank": 3}, BAD_ARGUMENT, "its rank is 3, the model takes (n, 3, h, w)"),
        ({"shape": (1, 3, -4, 4)}, BAD_SHAPE, "its shape (1, 3, -4, 4) is negative or too large"),
        ({"shape": (1 << 40, 3, 1 << 40, 4)}, BAD_SHAPE, "negative or too large"),
        ({"shape": (1, 2, 4, 4)}, BAD_SHAPE, "'x' is (1, 2, 4, 4), the model takes (n, 3, h, w)"),
    ],
)  # fmt: skip
def test_wrong_inputs(api: Api, change: dict[str, Any], status: int, words: str) -> None:
    x = np.ones((1, 3, 4, 4), "f4")
    given, outputs = tensor(x), (Tensor * 2)()
    for name, value in change.items():
        setattr(given, name, (ctypes.c_int64 * 8)(*value) if name == "shape" else value)
    assert api.call("run")(api.model, ctypes.byref(given), outputs) == status
    assert words in api.error() and not outputs[0].data


def test_data_that_is_not_aligned(api: Api) -> None:
    memory, outputs = np.zeros(1 + 3 * 16 * 4, "u1"), (Tensor * 2)()
    given = Tensor(memory.ctypes.data + 1, 192, 1, 4, (ctypes.c_int64 * 8)(1, 3, 4, 4), None)
    assert api.call("run")(api.model, ctypes.byref(given), outputs) == BAD_ARGUMENT and "not aligned" in api.error()


def test_null_pointers(api: Api) -> None:
    assert api.call("create")(0, None) == BAD_ARGUMENT
    assert api.call("run")(None, None, None) == BAD_ARGUMENT
    assert api.call("output_shapes")(api.model, None, None) == BAD_ARGUMENT
    api.call("destroy")(None)
    api.call("release")(None)


# --- what is written ----------------------------------------------------------------------------------------------------
def test_the_folder(built: Build) -> None:
    folder = built("picture").library.library.parent
    assert {path.name for path in folder.iterdir()} == {"libpicture.so", "picture.h", "example.c", "README.md", "program"}
    dynamic = subprocess.run(["readelf", "-d", folder / "libpicture.so"], capture_output=True, text=True, check=True).stdout
    assert set(line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line) <= {
        "libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}  # fmt: skip
    symbols = subprocess.run(["nm", "-D", "--defined-only", folder / "libpicture.so"], capture_output=True, text=True, check=True).stdout
    assert all(line.split()[-1].startswith("picture_") for line in symbols.splitlines())


def test_the_example(built: Build, models: Models, tmp_path: Path) -> None:
    folder = built("picture").library.library.parent
    readme = (folder / "README.md").read_text()
    build_line = next(line for line in readme.splitlines() if line.startswith("cc "))
    run_line = next(line for line in readme.splitlines() if line.startswith("./example"))
    subprocess.run(f"{build_line} -Wall -Wextra -Werror && {run_line}", shell=True, cwd=folder, check=True, capture_output=True)
    said = subprocess.run(["./example", "n=2", "h=6", "w=5"], cwd=folder, check=True, capture_output=True, text=True).stdout
    (folder / "example").unlink()
    x = (np.arange(2 * 3 * 6 * 5) % 10 / np.float32(10)).astype("f4").reshape(2, 3, 6, 5)
    for line, want in zip(said.splitlines()[1:], reference(models["picture"](), {"x": x}), strict=True):
        shape, numbers = line.split("(")[1].split(")")
        assert shape == ", ".join(map(str, want.shape))
        np.testing.assert_allclose(np.array(numbers.split(), "f4"), want.ravel()[:8], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_header_is_cpp_too(built: Build, tmp_path: Path) -> None:
    text = '#include "picture.h"\n#include "rows.h"\nint main() { return picture_api() != rows_api(); }\n'
    (tmp_path / "two.cc").write_text(text)
    folders = [built(name).library.header.parent for name in ("picture", "rows")]
    flags = [f"-{letter}{folder}" for folder in folders for letter in "IL"] + [f"-Wl,-rpath,{folder}" for folder in folders]
    line = ["c++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic", "two.cc", "-o", "two", *flags, "-lpicture", "-lrows"]
    subprocess.run(line, cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "two"], check=True)  # two models in one program


# --- refusals -----------------------------------------------------------------------------------------------------------
def test_what_needs_python_is_refused(compiler: None, tmp_path: Path) -> None:
    words = parse("m (string[n] s) => (string[n] t) { t = StringNormalizer<case_change_action = \"UPPER\">(s) }")
    with pytest.raises(UnsupportedOperator, match="StringNormalizer.*Cut these parts off"):
        build_library(words, tmp_path / "s")
    several = parse("m (float[n] x) => (seq(float[n]) s) { s = SequenceConstruct(x, x) }")
    with pytest.raises(UnsupportedOperator, match="output 's' is a value of Python"):
        build_library(several, tmp_path / "s")
    shape = ", ".join("1" * 9)
    deep = parse(f"m (float[{shape}] x) => (float[{shape}] y) {{ y = Relu(x) }}")
    with pytest.raises(UnsupportedOperator, match="its rank is 9, above 8"):
        build_library(deep, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_wrong_choices(models: Models, tmp_path: Path) -> None:
    for options, words in (
        ({"target": "riscv64-linux"}, "x86_64-linux, aarch64-linux"),
        ({"target": "aarch64-linux", "isa": "avx2"}, "no level of aarch64-linux, which has neon"),
        ({"name": "2nd"}, "cannot begin the names of C functions"),
        ({"name": "hst"}, "neither 'hst' nor 'hasten'"),
        ({"precision": "low"}, "is not one of"),
    ):
        with pytest.raises(InputError, match=words):
            build_library(models["rows"](), tmp_path / "l", **options)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        build_library(models["rows"](), tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        build_library(models["rows"](), tmp_path / "file" / "below")


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    for target, package in ((None, "apt install gcc"), ("aarch64-linux", "apt install gcc-aarch64-linux-gnu")):
        with pytest.raises(MissingDependency, match=rf"hasten\[deploy\].*{package}"):
            toolchain.compiler(toolchain.target(target))
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: name)
    assert toolchain.compiler(toolchain.target("aarch64-linux"))[1:] == ["-m", "ziglang", "cc", "-target", "aarch64-linux-gnu"]
    monkeypatch.setenv("CC", "my-cc -m64")
    assert toolchain.compiler(toolchain.target(None)) == ["my-cc", "-m64"]


def test_levels_of_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    here, arm, intel = toolchain.target(None), toolchain.target("aarch64-linux"), toolchain.target("x86_64-linux")
    assert toolchain.level(here, None) == isas.get()
    assert toolchain.level(intel, "amx").amx == "native"
    for machine, other, name in (("x86_64", arm, "neon"), ("aarch64", intel, "avx2")):
        monkeypatch.setattr(toolchain.platform, "machine", lambda machine=machine: machine)
        assert toolchain.level(other, None).name == name and toolchain.target(None).architecture == machine


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, models: Models, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", f"{sys.executable} -c 'raise SystemExit(\"no disk\")'")
    with pytest.raises(CompileError, match="no disk"):
        build_library(models["rows"](), tmp_path / "l")
    assert not list((tmp_path / "l").iterdir())


# --- pieces -------------------------------------------------------------------------------------------------------------
def test_every_feature_has_its_row() -> None:
    levels = [isas.get(name, cross=True) for name in ("portable", "avx2", "avx512", "amx", "neon")]
    optional = [isas._with_optional(isas._TABLE[name], frozenset(flag for flag, _, _ in rows)) for name, rows in isas._OPTIONAL_FLAGS.items()]
    for level in [*levels, *optional]:
        assert len(cpu.rows(level)) == len(cpu.wanted(level))


@pytest.mark.parametrize("path, name", [("a/yolo-v8.n.onnx", "yolo_v8_n"), ("3d.onnx", "model_3d"), ("äö.onnx", "model_")])
def test_names(path: str, name: str) -> None:
    assert library.c_name(path, None) == name and library.c_name(b"", None) == "model"


def test_texts_cannot_leave_their_place() -> None:
    assert tables.string('a"\\\n?ß') == '"a\\042\\134\\012\\077\\303\\237"'
    assert "*/" not in tables.comment("x */ y") and "\x00" not in tables.comment("\x00")


def test_the_page_about_deploying(compiler: None, tmp_path: Path) -> None:
    """Its commands and its program, as they stand there."""
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "deploy.md").read_text()
    command, build_lines = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[:2]
    (program,) = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    (tmp_path / "examples").symlink_to(root / "examples")
    (tmp_path / "program.c").write_text(program)
    hasten_command = shlex.join([sys.executable, "-c", "from hasten.cli import main; main()"])
    lines = command.replace("hasten ", f"{hasten_command} ", 1) + build_lines.replace("cc ", "cc -Wall -Wextra -Wno-missing-field-initializers -Werror ")
    environment = {**os.environ, "PYTHONPATH": str(Path(hasten.__file__).resolve().parents[1])}
    said = subprocess.run("set -e\n" + lines, shell=True, cwd=tmp_path, check=True, capture_output=True, text=True, env=environment).stdout
    assert said.splitlines()[-1] == "this is a 1"
