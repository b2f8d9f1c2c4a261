"""ONNX's backend test suite through hasten.backend, in worker processes; benchmarks/conformance.py makes the full table."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hasten.codegen import isa

PROGRAM = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "conformance.py"
LEAST = {True: 0.97, False: 0.95}  # part of the cases that must pass with host ops, and without

pytestmark = [pytest.mark.conformance, pytest.mark.slow]


@pytest.fixture(scope="module")
def suite() -> ModuleType:
    """benchmarks/conformance.py as a module."""
    spec = importlib.util.spec_from_file_location("benchmarks_conformance", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("host_ops", [True, False], ids=["host-ops", "native"])
@pytest.mark.parametrize("level", [level for level in ("avx512", "avx2", "portable") if level in isa.available()])
def test_backend_suite(suite: ModuleType, level: str, host_ops: bool) -> None:
    """No case crashes, and most pass."""
    outcomes = suite.run(suite.Configuration(level, host_ops), suite.case_names())
    assert not [o.case for o in outcomes.values() if o.status == "crash"]
    failed = [f"{o.case}: {o.why}" for o in outcomes.values() if o.status != "pass"]
    assert suite.share(outcomes) >= LEAST[host_ops], "\n".join(failed)
