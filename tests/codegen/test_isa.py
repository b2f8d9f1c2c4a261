"""Levels, their order, what a machine offers, and the choice between them."""

import subprocess
import sys

import pytest

from hasten.base.errors import InputError
from hasten.codegen import isa

SAPPHIRE_RAPIDS = frozenset(
    "avx avx2 fma f16c bmi1 bmi2 abm popcnt movbe xsave avx512f avx512bw avx512vl avx512dq avx512cd "
    "avx512_vnni avx512_bf16 avx512vbmi avx_vnni amx_tile amx_bf16 amx_int8".split()
)


def test_levels_follow_the_flags():
    assert list(isa._x86_levels(frozenset(), lambda: True)) == ["portable", "amx-emulated"]
    haswell = isa._x86_levels(frozenset("avx2 fma f16c bmi1 bmi2 abm popcnt movbe xsave".split()), lambda: True)
    assert list(haswell) == ["portable", "avx2", "amx-emulated"]
    assert not haswell["avx2"].has_vnni
    assert haswell["amx-emulated"].level == isa.AVX2
    full = isa._x86_levels(SAPPHIRE_RAPIDS, lambda: True)
    assert set(full) == {"portable", "avx2", "avx512", "amx", "amx-emulated"}
    assert full["avx512"].has_vnni and full["avx512"].has_bf16 and full["avx512"].amx is None
    assert full["amx"].amx == "native" and "+amx-bf16" in full["amx"].llvm_features
    assert full["amx-emulated"].amx == "emulated" and "amx" not in full["amx-emulated"].llvm_features


def test_amx_needs_permission():
    assert "amx" not in isa._x86_levels(SAPPHIRE_RAPIDS, lambda: False)


def test_a_missing_flag_costs_the_level():
    assert "avx512" not in isa._x86_levels(SAPPHIRE_RAPIDS - {"avx512dq"}, lambda: True)


def test_registers_and_lanes():
    avx512, avx2, portable = (isa.get(name, cross=True) for name in ("avx512", "avx2", "portable"))
    assert (avx512.lanes(32), avx2.lanes(32), portable.lanes(32), avx512.lanes(8)) == (16, 8, 4, 64)
    assert (avx512.registers, avx2.registers, avx512.vector_bits) == (32, 16, 512)


def test_keys_tell_levels_and_optional_features_apart():
    levels = [*isa._x86_levels(SAPPHIRE_RAPIDS, lambda: True).values(), isa.get("neon", cross=True)]
    levels.append(isa._x86_levels(SAPPHIRE_RAPIDS - {"avx512_bf16"}, lambda: True)["avx512"])
    assert len({level.key for level in levels}) == len(levels)


def test_unknown_and_absent_levels_name_what_there_is(monkeypatch):
    with pytest.raises(InputError, match="no such.*portable"):
        isa.get("sse9")
    monkeypatch.setattr(isa, "_machine_levels", lambda: isa._x86_levels(frozenset(), lambda: False))
    with pytest.raises(InputError, match="does not have it.*This machine has: portable, amx-emulated"):
        isa.get("avx512")
    assert isa.get("avx512", cross=True).level == isa.AVX512
    assert isa.get("neon", cross=True).architecture == "aarch64"


def test_environment_forces_a_level(monkeypatch):
    monkeypatch.setenv("HASTEN_ISA", "portable")
    assert isa.detect().name == "portable"
    assert isa.get(None).name == "portable"
    monkeypatch.setenv("HASTEN_ISA", "nonsense")
    with pytest.raises(InputError, match="HASTEN_ISA='nonsense'"):
        isa.detect()


def test_best_level_comes_first(monkeypatch):
    monkeypatch.delenv("HASTEN_ISA", raising=False)
    assert isa.available()[0] == isa.detect().name
    assert "portable" in isa.available()


def test_detection_does_not_import_llvm():
    program = "import sys; from hasten.codegen import isa; isa.detect(); assert 'llvmlite' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
