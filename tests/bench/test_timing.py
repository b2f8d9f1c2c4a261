"""Paired timing: rounds, ratios, intervals. Times of this machine are never asserted, only arithmetic and order."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.bench import timing
from hasten.bench.timing import Comparison, Timing, interval, paired


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only moves when a call moves it."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)
    return now


def test_ratio_of_two_known_engines(clock: list[float]) -> None:
    def engine(seconds: float):  # type: ignore[no-untyped-def]
        def call() -> None:
            clock[0] += seconds

        return call

    result = paired({"ours": engine(0.001), "theirs": engine(0.003)}, rounds=5, round_seconds=0.01)
    assert result.ratio("theirs").median == pytest.approx(3)
    assert result.ratio("ours").median == 1
    assert result.first.seconds.median == pytest.approx(0.001)
    assert [t.calls for t in result.timings] == pytest.approx([50, 15], abs=5)  # rounds times calls that fill a round


def test_a_disturbed_round_disturbs_both_and_cancels() -> None:
    ours, theirs = (1.0, 1.0, 10.0, 1.0), (2.0, 2.0, 20.0, 2.0)
    result = Comparison((Timing("ours", ours, 4), Timing("theirs", theirs, 4)))
    ratio = result.ratio("theirs")
    assert (ratio.median, ratio.low, ratio.high) == (2, 2, 2)


def test_all_take_their_turn_in_changing_order(clock: list[float]) -> None:
    seen: list[str] = []

    def engine(name: str):  # type: ignore[no-untyped-def]
        def call() -> None:
            clock[0] += 1.0
            seen.append(name)

        return call

    progress: list[tuple[int, int]] = []
    engines = {name: engine(name) for name in "abc"}
    paired(engines, rounds=6, progress=lambda done, total: progress.append((done, total)))
    per_turn = timing.MIN_CALLS + 1
    turns = seen[3 * per_turn :: per_turn]
    orders = ["".join(turns[i : i + 3]) for i in range(0, len(turns), 3)]
    assert len(orders) == 6 and all(sorted(order) == list("abc") for order in orders) and len(set(orders)) > 1
    assert progress[0] == (0, 6) and progress[-1] == (6, 6)


def test_intervals_cover_the_truth() -> None:
    random = np.random.default_rng(1)
    held = [interval(random.normal(5, 1, 25), resamples=300, seed=i) for i in range(100)]
    assert sum(found.low <= 5 <= found.high for found in held) >= 85
    assert all(found.low <= found.median <= found.high for found in held)


def test_to_dict() -> None:
    made = Comparison((Timing("ours", (1.0, 1.0), 2), Timing("theirs", (2.0, 2.0), 2))).to_dict()
    assert made["theirs"]["ratio"] == {"median": 2, "low": 2, "high": 2} and made["ours"]["calls"] == 2
