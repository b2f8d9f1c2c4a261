"""Linking real objects of LLVM and running the result; what the linker must refuse."""

import ctypes
import math
import platform
import struct

import pytest

from hasten.base.errors import CompileError
from hasten.codegen import isa
from hasten.codegen.link import link
from hasten.codegen.llvm import compile_text
from hasten.vm.image import Image, LoadedImage

native = pytest.mark.skipif(platform.machine() != "x86_64", reason="runs code for x86-64")
i64, f64 = ctypes.c_int64, ctypes.c_double


def image(*texts: str, exports: tuple[str, ...], level: str = "portable", opt: int = 2) -> Image:
    return link([compile_text(text, isa.get(level, cross=True), opt) for text in texts], exports)


@pytest.fixture(params=["memory", "file"])
def load(request, tmp_path):
    """Loads an image either way."""

    def from_file(linked: Image) -> LoadedImage:
        path = tmp_path / "image"
        path.write_bytes(bytes(4096) + linked.body() + b"\xff" * 9000)
        return LoadedImage.from_file(path, 4096, linked.header())

    return from_file if request.param == "file" else LoadedImage.from_memory


@native
@pytest.mark.parametrize("opt", [0, 2])
def test_calls_across_objects_and_shared_globals(load, opt):
    main = """
@counter = external global i64
declare i64 @twice(i64)
define i64 @main(i64 %x) {
  %y = call i64 @twice(i64 %x)
  %c = load i64, ptr @counter
  %s = add i64 %y, %c
  ret i64 %s
}
"""
    helper = """
@counter = global i64 100
@calls = global i64 0
@table = global [5000 x i64] zeroinitializer
define i64 @twice(i64 %x) {
  %c = load i64, ptr @calls
  %c1 = add i64 %c, 1
  store i64 %c1, ptr @calls
  %p = getelementptr [5000 x i64], ptr @table, i64 0, i64 4999
  %old = load i64, ptr %p
  %new = add i64 %old, %c1
  store i64 %new, ptr %p
  %y = mul i64 %x, 2
  ret i64 %y
}
define i64 @total() {
  %p = getelementptr [5000 x i64], ptr @table, i64 0, i64 4999
  %v = load i64, ptr %p
  ret i64 %v
}
"""
    linked = image(main, helper, exports=("main", "total", "calls"), opt=opt)
    assert linked.imports == ()
    assert linked.rw_size >= len(linked.rw) + 40000  # zeroed data takes no bytes
    loaded = load(linked)
    assert loaded.function("main", i64, i64)(21) == 142
    assert loaded.function("main", i64, i64)(1) == 102
    assert loaded.function("total", i64)() == 3
    assert i64.from_address(loaded.address("calls")).value == 2


@native
def test_constants_of_several_objects(load):
    text = """
define double @{name}(double %x) {{
  %y = fmul double %x, {factor}
  %z = fadd double %y, {term}
  ret double %z
}}
"""
    names = {"a": (1.5, 0.25), "b": (-3.0, 7.0), "c": (0.125, 1e10)}
    loaded = load(
        image(*(text.format(name=n, factor=f, term=t) for n, (f, t) in names.items()), exports=tuple(names))
    )
    for name, (factor, term) in names.items():
        assert loaded.function(name, f64, f64)(2.0) == 2.0 * factor + term


@native
def test_vector_constants_keep_their_alignment(load):
    text = """
define void @f(ptr %p) {
  store <4 x float> <float 1.0, float 2.0, float 3.0, float 4.0>, ptr %p, align 4
  ret void
}
"""
    odd = "@s = constant [3 x i8] c\"ab\\00\"\ndefine ptr @s_of() {\n  ret ptr @s\n}"
    loaded = load(image(odd, text, exports=("f", "s_of")))
    out = (ctypes.c_float * 4)()
    loaded.function("f", None, ctypes.c_void_p)(ctypes.addressof(out))
    assert list(out) == [1.0, 2.0, 3.0, 4.0]
    assert loaded.function("s_of", ctypes.c_char_p)() == b"ab"


@native
def test_imports_by_call_and_by_address(load):
    text = """
declare double @cbrt(double)
declare double @hypot(double, double)
define double @f(double %x) {
  %y = call double @cbrt(double %x)
  %z = call double @hypot(double %y, double 4.0)
  %w = call double @cbrt(double %z)
  ret double %w
}
define ptr @address() {
  ret ptr @cbrt
}
"""
    linked = image(text, exports=("f", "address"))
    assert sorted(linked.imports) == ["cbrt", "hypot"]
    loaded = load(linked)
    assert loaded.function("f", f64, f64)(27.0) == pytest.approx(5 ** (1 / 3))
    cbrt = ctypes.CFUNCTYPE(f64, f64)(loaded.function("address", ctypes.c_void_p)())
    assert cbrt(8.0) == pytest.approx(2.0)


@native
def test_python_objects_are_reached(load):
    text = "@PyExc_ValueError = external global ptr\n"
    text += "define ptr @f() {\n  %p = load ptr, ptr @PyExc_ValueError\n  ret ptr %p\n}"
    loaded = load(image(text, exports=("f",)))
    assert loaded.function("f", ctypes.py_object, holds_gil=True)() is ValueError


@native
@pytest.mark.parametrize("opt", [0, 2])
def test_jump_table_of_a_switch(load, opt):
    cases = range(12)
    arms = "\n".join(f"    i64 {i}, label %c{i}" for i in cases)
    blocks = "\n".join(f"c{i}:\n  store volatile i64 {i}, ptr %p\n  ret i64 {i * i + 7}" for i in cases)
    text = f"""
define i64 @f(i64 %x, ptr %p) {{
  switch i64 %x, label %other [
{arms}
  ]
other:
  ret i64 -1
{blocks}
}}
"""
    loaded = load(image(text, exports=("f",), opt=opt))
    place = i64(0)
    f = loaded.function("f", i64, i64, ctypes.c_void_p)
    assert [f(i, ctypes.addressof(place)) for i in range(-1, 13)] == [-1, *(i * i + 7 for i in cases), -1]
    assert place.value == 11


@native
def test_tables_of_pointers(load):
    table = """
declare i64 @two(i64)
define internal i64 @one(i64 %x) {
  ret i64 1
}
@name = private constant [3 x i8] c"hi\\00"
@functions = constant [3 x ptr] [ptr @one, ptr @two, ptr @one]
@writable = global { i64, ptr, ptr } { i64 9, ptr @name, ptr getelementptr ([3 x ptr], ptr @functions, i64 0, i64 1) }
define i64 @call(i64 %which, i64 %x) {
  %p = getelementptr [3 x ptr], ptr @functions, i64 0, i64 %which
  %f = load ptr, ptr %p
  %r = call i64 %f(i64 %x)
  ret i64 %r
}
"""
    two = "define i64 @two(i64 %x) {\n  %y = add i64 %x, 2\n  ret i64 %y\n}"
    linked = image(table, two, exports=("call", "writable", "functions"))
    assert len(linked.fixups) >= 5
    loaded = load(linked)
    call = loaded.function("call", i64, i64, i64)
    assert [call(i, 40) for i in range(3)] == [1, 42, 1]
    nine, name, second = (i64 * 3).from_address(loaded.address("writable"))
    assert (nine, ctypes.string_at(name)) == (9, b"hi")
    assert second == loaded.address("functions") + 8


@native
def test_memory_functions_that_llvm_inserts(load):
    text = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define void @f(ptr %to, ptr %from, i64 %n) {
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %n, i1 false)
  ret void
}
"""
    linked = image(text, exports=("f",))
    assert linked.imports == ("memcpy",)
    to, source = ctypes.create_string_buffer(8), ctypes.create_string_buffer(b"1234567")
    load(linked).function("f", None, ctypes.c_void_p, ctypes.c_void_p, i64)(
        ctypes.addressof(to), ctypes.addressof(source), 8
    )
    assert to.value == b"1234567"


RETURN = "define {linkage} i64 @{name}() {{\n  ret i64 {value}\n}}\n"


@native
@pytest.mark.parametrize("linkage", ["linkonce_odr", "weak", "weak_odr"])
def test_weak_definitions_yield(linkage):
    weak = [RETURN.format(linkage=linkage, name="f", value=v) for v in (1, 2)]
    user = "\ndeclare i64 @f()\ndefine i64 @g() {\n  %x = call i64 @f()\n  ret i64 %x\n}"
    used = "\n@keep{i} = global ptr @f"
    weak = [text + used.format(i=i) for i, text in enumerate(weak)]
    strong = RETURN.format(linkage="", name="f", value=3)

    def result(*texts: str) -> int:
        return LoadedImage.from_memory(image(user, *texts, exports=("g",))).function("g", i64)()

    assert result(*weak) == 1
    assert result(*weak, strong) == 3
    assert result(strong, *weak) == 3


def test_strong_definitions_must_agree():
    other = "\ndefine i64 @other{i}() {{\n  ret i64 0\n}}"
    texts = [RETURN.format(linkage="", name="f", value=1) + other.format(i=i) for i in range(2)]
    assert image(*texts, exports=("f",)).symbols["f"] >= 0
    assert image(texts[0], texts[0], exports=("f",)).rx == image(texts[0], exports=("f",)).rx
    with pytest.raises(CompileError, match="'f' is defined twice"):
        image(texts[0], RETURN.format(linkage="", name="f", value=2), exports=("f",))
    # The same bytes, but a constant of each object's own behind them: not the same function.
    scale = "define double @s(double %x) {{\n  %y = fmul double %x, {v}\n  ret double %y\n}}"
    with pytest.raises(CompileError, match="'s' is defined twice"):
        image(scale.format(v=2.5), scale.format(v=3.5), exports=("s",))


def test_internal_names_do_not_meet():
    text = RETURN.format(linkage="internal", name="f", value="{v}").replace("{\n", "{{\n").replace("\n}", "\n}}")
    text += "define i64 @g{v}() {{\n  %x = call i64 @f()\n  ret i64 %x\n}}"
    linked = image(text.format(v=1), text.format(v=2), exports=("g1", "g2"), opt=0)
    assert set(linked.symbols) == {"g1", "g2"}


def test_linking_is_reproducible():
    text = "declare double @exp(double)\n"
    text += "define double @f(double %x) {\n  %y = call double @exp(double %x)\n  ret double %y\n}"
    assert image(text, exports=("f",)) == image(text, exports=("f",))


def test_missing_exports_are_named():
    with pytest.raises(CompileError, match="g, h"):
        image(RETURN.format(linkage="", name="f", value=1), exports=("f", "g", "h"))
    with pytest.raises(CompileError, match="no object defines: f"):
        image(RETURN.format(linkage="internal", name="f", value=1) + "@k = global ptr @f", exports=("f",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@t = thread_local global i64 5\ndefine i64 @f() {\n  ret i64 0\n}", "thread-local"),
        (
            "@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }]"
            " [{ i32, ptr, ptr } { i32 1, ptr @f, ptr null }]\n"
            "@g = global i64 0\ndefine void @f() {\n  store volatile i64 1, ptr @g\n  ret void\n}",
            "constructors",
        ),
        ("declare void @ext()\n@t = global ptr @ext\ndefine void @f() {\n  ret void\n}", "must come from the GOT"),
        ("@t = global i64 0, align 65536\ndefine void @f() {\n  ret void\n}", "above a page"),
    ],
)
def test_what_images_cannot_have(text, message):
    with pytest.raises(CompileError, match=message):
        image(text, exports=("f",))


def test_damaged_objects_are_refused():
    good = compile_text(RETURN.format(linkage="", name="f", value=1), isa.get("portable", cross=True))
    for bad in (b"", b"\x7fELF", b"x" * 500, good[:100], good[:-40]):
        with pytest.raises(CompileError):
            link([bad], ["f"])
    other = compile_text(RETURN.format(linkage="", name="g", value=1), isa.get("neon", cross=True))
    with pytest.raises(CompileError, match="different machines"):
        link([good, other], ["f"])
    with pytest.raises(CompileError, match="nothing to link"):
        link([], [])
    with pytest.raises(CompileError, match="machine 40 "):
        link([good[:18] + struct.pack("<H", 40) + good[20:]], ["f"])


@native
@pytest.mark.skipif("avx512" not in isa.available(), reason="needs AVX-512")
def test_wide_vectors_run(load):
    text = """
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)
define void @f(ptr %p) {
  %x = load <16 x float>, ptr %p, align 4
  %y = call <16 x float> @llvm.fma.v16f32(<16 x float> %x, <16 x float> %x, <16 x float> splat (float 0.5))
  store <16 x float> %y, ptr %p, align 4
  ret void
}
"""
    values = (ctypes.c_float * 16)(*range(16))
    load(image(text, exports=("f",), level="avx512")).function("f", None, ctypes.c_void_p)(ctypes.addressof(values))
    assert list(values) == [i * i + 0.5 for i in range(16)]
    assert math.isclose(values[15], 225.5)
