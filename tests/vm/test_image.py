"""Mapping images: from memory and files, what is refused, and when memory is given back.

The images are written by hand for x86-64, so that these tests need neither LLVM nor the linker.
"""

import ctypes
import gc
import json
import os
import platform
import struct
import subprocess
import sys
from dataclasses import replace

import pytest

from hasten.base.errors import CorruptFile, ExecutionError
from hasten.vm.image import Image, LoadedImage, import_allowed

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the machine code here is for x86-64")

RW = 4096
IMPORT_SLOT, POINTER, COUNTER, ZEROED = RW, RW + 8, RW + 16, RW + 24


def relative(opcode: bytes, at: int, target: int) -> bytes:
    return opcode + struct.pack("<i", target - (at + len(opcode) + 4))


def image() -> Image:
    """Functions: answer() = 42; count() = ++counter; zeroed() -> word; follow() = *pointer; malloc -> import."""
    code = bytearray(128)
    code[0:6] = b"\xb8" + struct.pack("<i", 42) + b"\xc3"
    count = relative(b"\x48\xff\x05", 16, COUNTER)  # inc qword [rip + counter]
    count += relative(b"\x48\x8b\x05", 16 + len(count), COUNTER) + b"\xc3"  # mov rax, [rip + counter]; ret
    code[16 : 16 + len(count)] = count
    zeroed = relative(b"\x48\x8b\x05", 48, ZEROED) + b"\xc3"
    code[48 : 48 + len(zeroed)] = zeroed
    follow = relative(b"\x48\x8b\x05", 64, POINTER) + b"\x48\x8b\x00\xc3"  # mov rax, [rip + pointer]; mov rax, [rax]
    code[64 : 64 + len(follow)] = follow
    absolute = relative(b"\xff\x25", 96, IMPORT_SLOT)  # jmp [rip + slot]
    code[96 : 96 + len(absolute)] = absolute
    return Image(
        machine="x86_64",
        rx=bytes(code),
        rw=struct.pack("<QQQ", 0, COUNTER, 5),
        rw_size=24 + 3 * 4096,
        imports=("fabs",),
        fixups=(POINTER,),
        symbols={"answer": 0, "count": 16, "zeroed": 48, "follow": 64, "absolute": 96, "last": RW + 24 + 3 * 4096 - 8},
    )


def exercise(loaded: LoadedImage) -> None:
    assert loaded.function("answer", ctypes.c_int)() == 42
    count = loaded.function("count", ctypes.c_int64)
    assert [count(), count()] == [6, 7]
    assert loaded.function("follow", ctypes.c_int64)() == 7
    assert loaded.function("zeroed", ctypes.c_int64)() == 0
    assert loaded.function("absolute", ctypes.c_double, ctypes.c_double)(-2.5) == 2.5
    assert ctypes.c_int64.from_address(loaded.address("last")).value == 0


def saved(tmp_path, contents: Image, offset: int = 8192, behind: bytes = b"\xff" * 20000):
    path = tmp_path / "saved"
    path.write_bytes(b"\x99" * offset + contents.body() + behind)
    return path


def test_from_memory():
    exercise(LoadedImage.from_memory(image()))


def test_from_file_by_path_and_descriptor(tmp_path):
    path = saved(tmp_path, image())
    header = json.loads(json.dumps(image().header()))
    exercise(LoadedImage.from_file(path, 8192, header))
    with open(path, "rb") as file:
        exercise(LoadedImage.from_file(file.fileno(), 8192, header))


def test_loads_are_private(tmp_path):
    path = saved(tmp_path, image())
    before = path.read_bytes()
    first, second = (LoadedImage.from_file(path, 8192, image().header()) for _ in range(2))
    exercise(first)
    exercise(second)
    assert path.read_bytes() == before


def permissions(address: int) -> str:
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if start <= address < end:
                return line.split()[1]
    return "none"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_never_writable_and_executable(tmp_path):
    in_memory = LoadedImage.from_memory(image())
    from_file = LoadedImage.from_file(saved(tmp_path, image()), 8192, image().header())
    for loaded in (in_memory, from_file):
        assert permissions(loaded.base) == "r-xp"
        assert permissions(loaded.base + RW) == "rw-p"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_given_back():
    loaded = LoadedImage.from_memory(image())
    address, function = loaded.base, loaded.function("answer", ctypes.c_int)
    del loaded
    gc.collect()
    assert function() == 42  # the function keeps its image
    del function
    gc.collect()
    assert permissions(address) != "r-xp"


def test_images_outlive_the_exit_handlers():
    program = """
import atexit, ctypes, sys
sys.path.insert(0, sys.argv[1])
from test_image import LoadedImage, image
held = []
atexit.register(lambda: print(held[0](), flush=True))  # runs behind the handlers registered later
held.append(LoadedImage.from_memory(image()).function("answer", ctypes.c_int))
"""
    command = [sys.executable, "-c", program, os.path.dirname(__file__)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "42\n"


def test_close_is_final():
    loaded = LoadedImage.from_memory(image())
    loaded.close()
    loaded.close()
    with pytest.raises(ExecutionError, match="closed"):
        loaded.address("answer")


def test_parts_round_trip():
    again = Image.from_parts(json.loads(json.dumps(image().header())), image().body())
    assert again == image()
    with pytest.raises(CorruptFile, match="bytes instead of"):
        Image.from_parts(image().header(), image().body()[:-1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("machine", "z80"),
        ("rx_size", -1),
        ("rx_size", 1.5),
        ("rx_size", 1 << 40),
        ("rw_size", 8),
        ("rw_initialised", None),
        ("imports", ["fabs"] * 4),
        ("imports", [3]),
        ("fixups", [RW]),
        ("fixups", [RW + 20]),
        ("fixups", [16]),
        ("fixups", ["0"]),
        ("symbols", {"answer": 1 << 20}),
        ("symbols", {"answer": True}),
        ("symbols", 7),
    ],
)
def test_damaged_headers_are_refused(tmp_path, field, value):
    header = image().header() | {field: value}
    with pytest.raises(CorruptFile):
        LoadedImage.from_file(saved(tmp_path, image()), 8192, header)
    del header[field]
    with pytest.raises(CorruptFile, match=field):
        LoadedImage.from_file(saved(tmp_path, image()), 8192, header)


def test_files_that_end_too_soon_are_refused(tmp_path):
    path = saved(tmp_path, image(), behind=b"")
    LoadedImage.from_file(path, 8192, image().header())
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CorruptFile, match="ends at"):
        LoadedImage.from_file(path, 8192, image().header())
    with pytest.raises(CorruptFile, match="unaligned"):
        LoadedImage.from_file(path, 100, image().header())


def test_fixups_stay_inside_the_image():
    outside = replace(image(), rw=struct.pack("<QQQ", 0, 1 << 30, 5))
    with pytest.raises(CorruptFile, match="fixup points outside"):
        LoadedImage.from_memory(outside)


def test_only_known_imports_are_given():
    for name in ("system", "execve", "dlopen", "fabs2", "", "memcpy\0"):
        assert not import_allowed(name)
        with pytest.raises(CorruptFile, match="may not use"):
            LoadedImage.from_memory(replace(image(), imports=(name,)))
    with pytest.raises(CorruptFile, match="does not have"):
        LoadedImage.from_memory(replace(image(), imports=("PyNoSuchFunction",)))
    for name in ("expf", "memcpy", "pthread_create", "syscall", "aligned_alloc", "PyObject_GetBuffer"):
        LoadedImage.from_memory(replace(image(), imports=(name,)))


def test_images_of_other_machines_are_refused():
    other = replace(image(), machine="aarch64", fixups=(), symbols={})
    with pytest.raises(CorruptFile, match="for aarch64"):
        LoadedImage.from_memory(other)


def test_unknown_symbols_are_named():
    with pytest.raises(CorruptFile, match="'nothing'"):
        LoadedImage.from_memory(image()).address("nothing")


def test_loading_imports_neither_llvm_nor_onnx():
    program = "import sys, hasten.vm.image; assert not {'llvmlite', 'onnx', 'onnx_ir', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
