"""The largest difference between outputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hasten.bench.compare import largest_difference


def test_relative_to_the_largest_value() -> None:
    want = {"a": np.array([1.0, 100.0]), "b": np.array([3, 4])}
    found = largest_difference({"a": np.array([1.0, 101.0]), "b": np.array([3, 4])}, want)
    assert found.relative == pytest.approx(0.01) and found.output == "a"
    assert str(found) == "1.0e-02 of the largest value (output 'a')"
    assert largest_difference(want, want).relative == 0


@pytest.mark.parametrize(
    ("got", "want", "reason"),
    [
        ([1.0], [1.0, 2.0], "shapes"),
        ([math.nan, 1.0], [1.0, math.nan], "NaN or infinity"),
        ([math.inf], [1.0], "NaN or infinity"),
        ([math.inf], [-math.inf], "NaN or infinity"),
        (["a"], ["b"], "texts"),
    ],
)
def test_what_cannot_be_compared(got: Any, want: Any, reason: str) -> None:
    found = largest_difference({"a": np.array(got)}, {"a": np.array(want)})
    assert found.relative == math.inf and reason in str(found)


def test_what_is_missing_or_absent() -> None:
    assert largest_difference({}, {"a": np.ones(1)}).reason == "missing"
    assert largest_difference({"a": None}, {"a": None}).relative == 0
    assert largest_difference({"a": None}, {"a": np.ones(1)}).relative == math.inf


def test_sequences_and_equal_infinities() -> None:
    want = {"s": [np.array([1.0]), np.array([math.inf, 2.0])]}
    assert largest_difference({"s": [np.array([1.0]), np.array([math.inf, 2.2])]}, want).relative == pytest.approx(0.1)
    assert largest_difference({"s": []}, want).relative == math.inf
    assert largest_difference({"z": np.zeros(0)}, {"z": np.zeros(0)}).relative == 0
