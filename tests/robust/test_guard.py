"""Nothing leaves its memory: models and tests with a page that must not be touched after, and before, every buffer (`hasten.vm.guard`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import f32, i64, single
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandbox import Sandbox

import hasten
from hasten.codegen import isa as isas

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "lower"))
from random_graphs import Grown, models  # noqa: E402

SIDES = ("after", "before")
PARTS = {  # tests of whole models; what tests/lower/test_memory.py says about arenas does not hold here, for there are none
    "operators": ["tests/ops"],
    "graphs": [f"tests/lower/test_{name}.py" for name in ("random_graphs", "edges", "concats", "control", "schedule", "transposing")],
    "bad input": ["tests/robust/test_bad_input.py"],
}
LEVELS = {"operators": ("", "portable", "amx-emulated"), "graphs": ("", "portable"), "bad input": ("",)}  # "": the best of this machine
LARGEST = 70  # of a random size


@pytest.fixture(scope="module", params=SIDES)
def guarded(request: pytest.FixtureRequest, private_cache: Path) -> Iterator[Sandbox]:
    """Attempts with guard pages on one side."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASTEN_GUARD", request.param)
        with Sandbox() as sandbox:
            yield sandbox


def test_short_operands(guarded: Sandbox) -> None:
    """Vectors of which only some lanes exist; lookups in what is empty; sizes that do not fit."""
    cases = [
        single("bias of unknown size", "Gemm", {"a": f32(3, 7), "c": f32(5)}, {"b": f32(7, 5)}, inputs=["a", "b", "c"], alpha=0.5),
        single("none", "Gather", {"x": f32(0, 3), "i": i64(0)}, error="ExecutionError"),
        single("sizes", "MatMul", {"x": f32(2, 3), "w": f32(4, 5)}, error="ShapeMismatch"),
    ]
    for case in cases:
        verdict = guarded.attempt(case.model, dict(case.feeds), isa="avx2" if "avx2" in isas.available() else "portable", threads=2)
        assert verdict.error == case.error, f"{case.name}: {verdict}"


def feeds_of(model: hasten.CompiledModel, rng: np.random.Generator, wrong: bool) -> dict[str, Any]:
    """Inputs of random sizes; `wrong`: one of them has another size than the model takes, or another rank."""
    sizes: dict[str, int] = {}
    shapes = {}
    for i in model.inputs:
        assert i.shape is not None
        shapes[i.name] = [d if isinstance(d, int) else sizes.setdefault(str(d), int(rng.integers(0, LARGEST))) for d in i.shape]
    if wrong:
        chosen = model.inputs[int(rng.integers(len(model.inputs)))]
        fixed = [k for k, d in enumerate(chosen.shape or ()) if isinstance(d, int)]
        if fixed and rng.random() < 0.8:
            shapes[chosen.name][int(rng.choice(fixed))] += int(rng.integers(1, 5))
        else:
            shapes[chosen.name].append(1)
    return {i.name: random_array(rng, shapes[i.name], i.dtype) for i in model.inputs}


def random_array(rng: np.random.Generator, shape: list[int], dtype: str) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype) if "float" in dtype else rng.integers(0, 9, shape).astype(dtype)


def alike(guarded: Sandbox, model: Any, compiled: hasten.CompiledModel, feeds: dict[str, Any]) -> None:
    """With guard pages: the same bits as without, or the same error."""
    verdict = guarded.attempt(model, feeds, threads=1, seconds=300)
    shapes = {name: a.shape for name, a in feeds.items()}
    try:
        wanted = compiled.run(feeds)
    except hasten.HastenError as error:
        assert (verdict.error, verdict.message) == (type(error).__name__, str(error)), f"{shapes}: {verdict}"
        return
    assert verdict.kind == "answer", f"{shapes}: {verdict}"
    for name, want in wanted.items():
        np.testing.assert_array_equal(verdict.outputs[name], want, f"{name} of {shapes}")


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "models").glob("*.onnx")), ids=lambda p: p.stem)
def test_models(path: Path, guarded: Sandbox, rng: np.random.Generator) -> None:
    """Trained models on random sizes, impossible ones too."""
    model = hasten.compile(path, threads=1)
    for k in range(6):
        alike(guarded, str(path), model, feeds_of(model, rng, wrong=k >= 4))


@pytest.mark.slow
def test_random_graphs_of_wrong_sizes(guarded: Sandbox) -> None:
    """Sizes that fit, and one after the other sizes that do not."""

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(models(), st.integers(0, 1 << 30))
    def run(grown: Grown, seed: int) -> None:
        rng = np.random.default_rng(seed)
        compiled = hasten.compile(grown.model, threads=1)
        feeds = grown.feeds[int(rng.integers(len(grown.feeds)))]
        alike(guarded, grown.model, compiled, feeds)
        for name, array in feeds.items():
            shape = list(array.shape) or [1]
            shape[int(rng.integers(len(shape)))] = int(rng.choice([0, 1, 2, 3, 17]))
            alike(guarded, grown.model, compiled, {**feeds, name: np.resize(array, shape)})

    run()


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("part, isa", [(part, isa) for part, levels in LEVELS.items() for isa in levels])
def test_tests(part: str, isa: str, side: str) -> None:
    """Other tests pass with guard pages; where one crashes, the kernel's name is in the traceback."""
    environment = {**os.environ, "HASTEN_GUARD": side} | ({"HASTEN_ISA": isa} if isa else {})
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not conformance and not models", *PARTS[part]]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, (said.stdout + said.stderr)[-4000:]
