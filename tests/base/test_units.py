"""Sizes and times in words."""

from __future__ import annotations

import pytest

from hasten.base.units import count_text, size_text, time_text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB")])
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(3e-8, "30 ns"), (3.14e-5, "31.4 us"), (9.997e-4, "1 ms"), (0.00527, "5.27 ms"), (2.1, "2.1 s"), (1234.5, "1234 s")]
)
def test_times(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_counts() -> None:
    assert count_text(1, "kernel") == "1 kernel" and count_text(0, "kernel") == "0 kernels"
