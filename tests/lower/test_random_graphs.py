"""Random models: compiled once, run for several sizes, against their meaning in NumPy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

sys.path.insert(0, str(Path(__file__).parent))
from random_graphs import IMAGE_STEPS, LAYOUT_STEPS, Grown, models  # noqa: E402

import hasten  # noqa: E402
from hasten.codegen import isa as isas  # noqa: E402

LEVELS = [n for n in ("portable", "avx2", "avx512") if n in isas.available()]
FLOATS = ("float32",)
OTHERS = ("float64", "float16", "int32", "int64", "int8", "uint8")


def examples(count: int) -> Any:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def check(grown: Grown, level: str) -> None:
    for threads in (1, 3):
        model = hasten.compile(grown.model, isa=level, threads=threads, host_ops=False)
        grown.check(model.run)


@pytest.mark.parametrize("level", LEVELS)
def test_mixed(level: str) -> None:
    @examples(25)
    @given(models(dtypes=FLOATS))
    def run(grown: Grown) -> None:
        check(grown, level)

    run()


def test_layouts() -> None:
    @examples(25)
    @given(models(LAYOUT_STEPS, 12, FLOATS))
    def run(grown: Grown) -> None:
        check(grown, LEVELS[-1])

    run()


def test_images() -> None:
    @examples(25)
    @given(models(IMAGE_STEPS, 10, FLOATS))
    def run(grown: Grown) -> None:
        check(grown, LEVELS[-1])

    run()


def test_other_types() -> None:
    @examples(25)
    @given(models(dtypes=OTHERS))
    def run(grown: Grown) -> None:
        check(grown, LEVELS[-1])

    run()


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["mixed", "layouts", "images", "others"])
def test_many(kind: str, level: str) -> None:
    strategy = {
        "mixed": models(dtypes=FLOATS), "layouts": models(LAYOUT_STEPS, 14, FLOATS), "images": models(IMAGE_STEPS, 12, FLOATS),
        "others": models(dtypes=OTHERS),
    }[kind]  # fmt: skip

    @examples(300)
    @given(strategy)
    def run(grown: Grown) -> None:
        check(grown, level)

    run()
