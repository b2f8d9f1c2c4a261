"""Wrong shapes when a model runs: an error that names the node or the input, or an answer as ONNX's reference gives; nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from mutated import other_sizes, other_types, refused_or_fine

import hasten

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests" / "lower"), str(ROOT / "benchmarks")]
import trained  # noqa: E402
from random_graphs import Grown, models  # noqa: E402


def check_graph(grown: Grown, seed: int) -> None:
    from onnx.reference import ReferenceEvaluator

    model, reference = hasten.compile(grown.model, threads=2, host_ops=False), ReferenceEvaluator(grown.model)
    rng = np.random.default_rng(seed)
    feeds = grown.feeds[int(rng.integers(len(grown.feeds)))]
    for name, changed in other_types(feeds):
        with pytest.raises(hasten.InputError, match=re.escape(f"input {name!r}")):
            model.run(changed)
    for what, changed in other_sizes(feeds, rng):
        got = refused_or_fine(model.run, changed, what)
        if got is None or not all(v.size for v in changed.values()):  # of what holds nothing, the reference refuses more
            continue
        try:
            with np.errstate(all="ignore"):
                want = reference.run(None, changed)
        except Exception:  # noqa: BLE001 - the reference refuses in many ways
            pytest.fail(f"{what}: the reference refuses this, and the model answers")
        for name, array in zip(got, want, strict=True):
            assert got[name].shape == np.shape(array), (what, name)


def graphs(count: int) -> None:
    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(models(dtypes=("float32",)))
    def run(grown: Grown) -> None:
        check_graph(grown, count)

    run()


def test_random_graphs() -> None:
    graphs(8)


@pytest.mark.slow
def test_many_random_graphs() -> None:
    graphs(150)


def names() -> list[str]:
    folder = trained.data_folder()
    return sorted(p.stem for p in (folder / "models").glob("*.onnx")) if folder else []


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_trained_models(name: str, data: Path, rng: np.random.Generator) -> None:
    """Every axis of every input with other sizes, every input with another rank and dtype: then, right inputs still give the same answer."""
    model = hasten.compile(data / "models" / f"{name}.onnx", threads=2)
    case = next(c for c in trained.load(data, [name]) if c.model == name)
    before = model.run(case.feeds)
    for wrong, changed in other_types(case.feeds):
        with pytest.raises(hasten.InputError, match=re.escape(f"input {wrong!r}")):
            model.run(changed)
    for what, changed in other_sizes(case.feeds, rng):
        refused_or_fine(model.run, changed, what)
    after = model.run(case.feeds)
    for key, value in before.items():
        same(value, after[key])


def same(a: Any, b: Any) -> None:
    if isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b)
    else:
        assert repr(a) == repr(b)
