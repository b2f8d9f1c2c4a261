"""`.hasten` files: what goes in comes out, and nothing else comes out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.base import dims as D
from hasten.base.errors import CorruptFile, HastenError
from hasten.base.version import VERSION
from hasten.codegen import isa as isas
from hasten.vm import file, text
from hasten.vm import program as P

N = D.symbol("N")
WEIGHTS = np.arange(50_000, dtype=np.float32)


def program() -> P.Program:
    return P.Program(
        [P.TensorSpec("x", "float32", (N,), "x")],
        [P.TensorSpec("y", "float32", (4,), "y"), P.TensorSpec("z", "float32", (N,), "z")],
        [P.Constant("w", 128, 4 * WEIGHTS.size)],
        [
            P.Alloc("y", 16, "output"),
            P.Alloc("z", N * 4, "output"),
            P.Call("k_double", ("w", "y", 4)),
            P.Call("k_double", ("x", "z", N)),
            P.Output(0, "y", (4,)),
            P.Output(1, "z", (N,)),
        ],
    )


@pytest.fixture(scope="module")
def contents(toolbox: Any) -> bytes:
    p = program()
    return file.to_bytes(
        p, toolbox.image(p), toolbox.runtime, bytes(128) + WEIGHTS.tobytes(), toolbox.isa, 2, {"nodes": [1, "a"]}
    )


def check(saved: file.Saved) -> None:
    assert (
        saved.program == program()
        and saved.report == {"nodes": [1, "a"]}
        and saved.threads == 2
        and saved.isa == "portable"
    )
    model = saved.model()
    assert model.threads == 2
    y, z = model(np.ones(3, np.float32))
    assert y.tolist() == [0, 2, 4, 6] and z.tolist() == [2, 2, 2]


def test_round_trip(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.hasten"
    file.write_bytes(path, contents)
    saved = file.read(path)
    assert saved.constants.address % 4096 == 0
    check(saved)
    check(file.from_bytes(contents))
    path.unlink()  # what is mapped stays
    check(saved)


def test_equal_models_give_equal_files(toolbox: Any, contents: bytes) -> None:
    p = program()
    constants = bytes(128) + WEIGHTS.tobytes()
    assert contents == file.to_bytes(
        p, toolbox.image(p), toolbox.runtime, constants, toolbox.isa, 2, {"nodes": [1, "a"]}
    )


def test_every_altered_byte_is_found(contents: bytes, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    places = [*range(64), 64, 65, *random.integers(64, len(contents), 300).tolist(), len(contents) - 1]
    for start in range(4096, len(contents), 4096):
        places.append(start - 1)  # padding
    for at in places:
        damaged = bytearray(contents)
        damaged[at] ^= 1 << int(random.integers(8))
        with pytest.raises(CorruptFile):
            file.from_bytes(bytes(damaged))


def test_exchanged_words_are_found(contents: bytes) -> None:
    at = len(contents) - 100_000 - (len(contents) - 100_000) % 64
    for distance in (4, 8, 64, 4096):
        damaged = bytearray(contents)
        damaged[at : at + 4], damaged[at + distance : at + distance + 4] = (
            damaged[at + distance : at + distance + 4],
            damaged[at : at + 4],
        )
        with pytest.raises(CorruptFile, match="constants are damaged"):
            file.from_bytes(bytes(damaged))


def test_truncation_is_found(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.hasten"
    for size in [0, 1, 7, 8, 63, 64, 100, 4096, len(contents) // 2, len(contents) - 1]:
        path.write_bytes(contents[:size])
        with pytest.raises(CorruptFile, match=r"m\.hasten"):
            file.read(path)
    path.write_bytes(contents + b"\0")
    with pytest.raises(CorruptFile, match="something was added"):
        file.read(path)
    path.write_bytes(b"not a model at all" * 100)
    with pytest.raises(CorruptFile, match=r"is not a \.hasten file"):
        file.read(path)
    with pytest.raises(FileNotFoundError):
        file.read(tmp_path / "nothing")


def reformatted(contents: bytes, number: int, header: bytes | None = None) -> bytes:
    """A file of another format; the first 64 bytes are whole, the header's first bytes are others if wanted."""
    head = bytearray(contents[:64])
    head[8:12], head[12:16] = number.to_bytes(4, "little"), bytes(4)
    head[12:16] = zlib.crc32(bytes(head)).to_bytes(4, "little")
    rest = contents[64:] if header is None else header + contents[64 + len(header) :]
    return bytes(head) + rest


def refusal(data: bytes) -> str:
    with pytest.raises(CorruptFile) as caught:
        file.from_bytes(data)
    return str(caught.value)


def test_other_formats_are_refused_and_tell_who_wrote_them(contents: bytes) -> None:
    newer = reformatted(contents, 9, b'{"hasten":"12.3.0rc1","abi":[5]')
    assert refusal(newer) == (
        f"these bytes was written by Hasten 12.3.0rc1 with format 9; this is Hasten {VERSION}, which reads format {file.FORMAT}. "
        "Compile the model again with this Hasten, or load it with Hasten 12.3.0rc1."
    )
    for header in (b'{"abi":1,"isa":{"name":', b"\xff" * 64, b'{"hasten":"' + b"9" * 500):  # the first format; and whatever comes
        assert "was written by another Hasten with format 1; " in refusal(reformatted(contents, 1, header))
    assert "written by another Hasten with format 3" in refusal(reformatted(contents[:64], 3))
    assert "first 64 bytes are damaged" in refusal(contents[:8] + b"\x09" + contents[9:])


def test_another_run_time_interface_is_refused(contents: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = file.abi.ABI
    monkeypatch.setattr(file.abi, "ABI", 99)
    assert f"written by another Hasten with run-time interface {ours}; this is Hasten {VERSION}, which has 99. Compile" in refusal(contents)
    monkeypatch.setattr(file, "VERSION", "77.0")
    assert f"written by Hasten {VERSION} with run-time interface {ours}; this is Hasten 77.0" in refusal(contents)


def test_the_page_describes_the_file(contents: bytes) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "vm.md").read_text()
    part = page[page.index("## The file") :]
    header = json.loads(contents[64 : 64 + int.from_bytes(contents[16:24], "little")])
    assert set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == header.keys()
    rows = re.findall(r"^\| (\d+) \| `(.+?)` \| (\d+) \|", part, re.MULTILINE)
    assert rows[-1] == (str(file.FORMAT), text.FORMAT, str(file.abi.ABI))  # whoever changes one adds a row


def test_instructions_that_this_machine_lacks(toolbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    p = program()
    image = toolbox.image(p)
    best = isas.get("avx2") if "avx2" in isas.available() else pytest.skip("needs AVX2")
    data = file.to_bytes(p, image, toolbox.runtime, bytes(128) + WEIGHTS.tobytes(), best, 1, {})
    monkeypatch.setattr(isas, "available", lambda: ["portable"])
    with pytest.raises(
        HastenError, match=r"compiled for avx2 instructions, and this machine lacks avx2 \(it has portable\)"
    ) as caught:
        file.from_bytes(data)
    assert not isinstance(caught.value, CorruptFile)


def test_writing_is_all_or_nothing(contents: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.hasten"
    path.write_bytes(b"the old one")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                file.write_bytes(path, contents)
        assert path.read_bytes() == b"the old one" and [p.name for p in tmp_path.iterdir()] == ["m.hasten"]
    file.write_bytes(path, contents)
    assert path.read_bytes() == contents and [p.name for p in tmp_path.iterdir()] == ["m.hasten"]


def test_a_fresh_process_needs_neither_llvm_nor_onnx(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.hasten"
    file.write_bytes(path, contents)
    code = (
        "import sys, numpy as np\n"
        "from hasten.vm import file\n"
        "model = file.read(sys.argv[1]).model()\n"
        "print(model(np.ones(3, np.float32))[1].tolist())\n"
        "print([m for m in ('llvmlite', 'onnx', 'onnx_ir', 'typer', 'hasten.vm.native') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[2.0, 2.0, 2.0]\n[]\n", done.stderr


def test_no_constants(toolbox: Any) -> None:
    p = program()
    p.constants = []
    p.instructions[2] = P.Call("k_double", ("x", "y", 0))
    data = file.to_bytes(p, toolbox.image(p), toolbox.runtime, b"", toolbox.isa, 1, {})
    y, z = file.from_bytes(data).model()(np.ones(2, np.float32))
    assert z.tolist() == [2, 2]


def test_a_constant_outside_its_section(toolbox: Any) -> None:
    p = program()
    data = file.to_bytes(p, toolbox.image(p), toolbox.runtime, WEIGHTS.tobytes(), toolbox.isa, 1, {})
    with pytest.raises(CorruptFile, match="lies outside its section"):
        file.from_bytes(data)


def test_checksum_by_its_definition(toolbox: Any) -> None:
    from hasten.vm.runtime import load_runtime

    words = np.random.default_rng(1).integers(0, 1 << 63, (40, 8)).astype(np.uint64)
    want = np.concatenate([words.sum(0, np.uint64), words.cumsum(0, np.uint64).sum(0, np.uint64)])
    assert load_runtime(toolbox.runtime).checksum(words.ctypes.data, words.nbytes) == want.tobytes()
