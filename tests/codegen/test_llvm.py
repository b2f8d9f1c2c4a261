"""Compiling text: what comes out, what is refused, and that vectors keep their width."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from hasten.base.errors import CompileError
from hasten.codegen import isa, llvm

ADD16 = """
define void @add(ptr %a, ptr %b) {
  %x = load <16 x float>, ptr %a, align 4
  %y = load <16 x float>, ptr %b, align 4
  %z = fadd <16 x float> %x, %y
  store <16 x float> %z, ptr %a, align 4
  ret void
}
"""


def test_objects_are_elf_and_reproducible():
    portable = isa.get("portable", cross=True)
    first = llvm.compile_text(ADD16, portable)
    assert first[:4] == b"\x7fELF"
    assert llvm.compile_text(ADD16, portable) == first


@pytest.mark.parametrize(
    ("level", "register", "absent"),
    [("avx512", "zmm", "ymm"), ("avx2", "ymm", "zmm"), ("portable", "xmm", "ymm"), ("neon", "v0.4s", "xmm")],
)
def test_vectors_keep_the_width_of_the_level(level, register, absent):
    text = llvm.assembly(ADD16, isa.get(level, cross=True))
    assert register in text
    assert absent not in text


def test_the_vectorisers_stay_off():
    scalar_loop = """
define void @scale(ptr noalias %a, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %p = getelementptr float, ptr %a, i64 %i
  %x = load float, ptr %p
  %y = fmul float %x, 2.0
  store float %y, ptr %p
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %end
end:
  ret void
}
"""
    text = llvm.assembly(scalar_loop, isa.get("avx2", cross=True))
    assert "ymm" not in text
    assert text.count("ss\t") <= 3


def test_optimisation_levels_differ():
    wasteful = """
define i64 @f(i64 %x) {
  %a = alloca i64
  store i64 %x, ptr %a
  %y = load i64, ptr %a
  ret i64 %y
}
"""
    portable = isa.get("portable", cross=True)
    assert "rsp" in llvm.assembly(wasteful, portable, 0)
    assert "rsp" not in llvm.assembly(wasteful, portable, 2)


def test_parse_errors_show_the_line():
    with pytest.raises(CompileError, match=r"line 2, column \d+: .*\n    %x = fadd float %missing, 1.0"):
        broken = "define void @f() {\n  %x = fadd float %missing, 1.0\n  ret void\n}"
        llvm.compile_text(broken, isa.get("portable", cross=True))


def test_verifier_errors_are_compile_errors():
    unreached = "define void @f(i1 %c) {\n  br i1 %c, label %a, label %b\na:\n  %x = add i64 1, 2\n  br label %b\nb:\n"
    unreached += "  %y = add i64 %x, 1\n  ret void\n}"
    with pytest.raises(CompileError, match="dominate"):
        llvm.compile_text(unreached, isa.get("portable", cross=True))


def test_threads_compile_at_once():
    portable = isa.get("portable", cross=True)
    texts = [ADD16.replace("@add", f"@add{i}") for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        objects = list(pool.map(lambda text: llvm.compile_text(text, portable), texts))
    assert objects == [llvm.compile_text(text, portable) for text in texts]


def test_version_is_a_version():
    assert int(llvm.llvm_version().split(".")[0]) >= 15
