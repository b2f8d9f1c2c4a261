"""`hasten doctor` and `hasten cache`: true facts, advice that follows from them."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from hasten.cli import doctor
from hasten.codegen import isa
from hasten.codegen.cache import Cache


def test_doctor_prints_what_a_bug_report_needs(invoke: Any) -> None:
    result = invoke("doctor")
    assert result.exit_code == 0
    for word in ("instruction sets", "AMX", "threads", "cache", "llvmlite", "numpy", "LLVM"):
        assert word in result.stdout


def test_doctor_json(invoke: Any, private_cache: Path) -> None:
    found = json.loads(invoke("doctor", "--json").stdout)
    assert found["instruction_sets"]["available"] == isa.available()
    assert found["cache"]["directory"] == str(private_cache) and found["cache"]["writable"]
    assert found["threads"]["default"] >= 1
    assert found["versions"]["numpy"] and found["versions"]["LLVM"]
    assert found["environment"]["HASTEN_CACHE_DIR"] == str(private_cache)


@pytest.fixture(scope="module")
def well() -> dict[str, Any]:
    """The facts of a machine with nothing to complain of."""
    found = doctor.examine()
    found["machine"]["architecture"] = "x86_64"
    found["instruction_sets"] = {"available": ["avx2", "portable"], "chosen": "avx2", "amx": "not in this CPU"}
    found["threads"] = {"affinity": 4, "cgroup_quota": None, "HASTEN_NUM_THREADS": None, "default": 4, "cpus": 4}
    return found


@pytest.mark.parametrize(
    ("group", "change", "words"),
    [
        ("instruction_sets", {"amx": doctor.REFUSED}, "arch_prctl"),
        ("instruction_sets", {"available": ["portable"]}, "virtual machine"),
        ("instruction_sets", {"problem": "HASTEN_ISA='x'"}, "Correct HASTEN_ISA"),
        ("threads", {"problem": "HASTEN_NUM_THREADS='x'"}, "Correct HASTEN_NUM_THREADS"),
        ("threads", {"cgroup_quota": 1.5}, "quota of 1.5 CPUs"),
        ("threads", {"HASTEN_NUM_THREADS": "9"}, "HASTEN_NUM_THREADS=9"),
        ("cache", {"writable": False}, "cannot be written"),
        ("cache", {"problem": "HASTEN_CACHE_SIZE='x'"}, "Correct HASTEN_CACHE_SIZE"),
        ("versions", {"llvmlite": None}, "llvmlite is missing"),
        ("machine", {"architecture": "riscv64"}, "untested"),
    ],
)
def test_advice(well: dict[str, Any], group: str, change: dict[str, Any], words: str) -> None:
    assert doctor.advice(well) == []
    found = copy.deepcopy(well)
    found[group] |= change
    (line,) = doctor.advice(found)
    assert words in line


@pytest.mark.parametrize(
    ("name", "value"), [("HASTEN_ISA", "abacus"), ("HASTEN_CACHE_SIZE", "much"), ("HASTEN_NUM_THREADS", "all")]
)
def test_wrong_settings_are_diagnosed(invoke: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    result = invoke("doctor")
    assert result.exit_code == 0 and f"Correct {name}" in result.stderr


def test_cache_show_and_clear(invoke: Any, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("object", "a", b"x" * 1000)
    (tmp_path / "mine.txt").write_text("stays")
    shown = json.loads(invoke("cache", "show", "--cache-dir", tmp_path, "--json").stdout)
    assert shown["entries"] == 1 and shown["bytes"] >= 1000 and shown["directory"] == str(tmp_path)
    assert str(tmp_path) in invoke("cache", "show", "--cache-dir", tmp_path).stdout.replace("\n", "")
    cleared = invoke("cache", "clear", "--cache-dir", tmp_path)
    assert cleared.exit_code == 0 and "1 entry deleted" in cleared.stderr and cleared.stdout == ""
    assert cache.stats().entries == 0 and (tmp_path / "mine.txt").exists()


def test_doctor_in_a_folder_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HASTEN_CACHE_DIR", os.fspath(tmp_path / "a" / "b"))
    assert doctor.cache()["writable"] is True
    assert not (tmp_path / "a").exists()
