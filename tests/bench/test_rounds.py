"""Rounds: orders, records, ends. The engines are stand-ins and the clock is made of numbers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from hasten.bench import rounds
from hasten.bench.machine import Check
from hasten.bench.process import EngineError, Turn, Warm
from hasten.bench.results import Entry, Sample
from hasten.bench.rounds import Design, Seat, decided, play, sample

IDLE = Check((), (), 2.0, 0.0, 1.0, 1.0)


class Clock:
    """Moves when an engine works."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Stand:
    """An engine whose calls take `seconds`, with noise; it fails in turn `fails`."""

    def __init__(self, clock: Clock, seconds: float, fails: int = -1):
        self.cpus, self.starts = frozenset({0}), 1
        self.clock, self.seconds, self.fails, self.noise, self.turns = clock, seconds, fails, random.Random(seconds), itertools.count()

    def warm(self, seconds: float) -> Warm:
        return Warm(17, seconds > 1, round(self.seconds * 1e9))

    def restart(self) -> None:
        self.starts += 1
        self.clock.now += 0.1

    def turn(self, loops: int) -> Turn:
        if next(self.turns) == self.fails:
            raise EngineError("it broke")
        wall = round(loops * self.seconds * self.noise.uniform(0.99, 1.01) * 1e9)
        self.clock.now += wall / 1e9
        return Turn(loops, wall, wall, round(self.clock.now * 1e9), 0)


class Watch:
    def check(self) -> Check:
        return IDLE


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(rounds, "time", clock)
    yield clock


def seat(engine: Any, name: str = "e") -> Seat:
    return Seat(engine, Entry(name, 1), 0, 0.1)


def run(seats: list[Seat], **design: Any) -> tuple[list[int], list[Check]]:
    seen: list[int] = []
    checks: list[Check] = []
    made = Design(**design)
    for one in seats:
        one.settle(made)
    play(seats, made, Watch(), on_round=lambda number, share: seen.append(number), on_check=checks.append)  # type: ignore[arg-type]
    return seen, checks


def test_a_turn_lasts_at_least_as_long_as_designed(clock: Clock) -> None:
    for seconds, loops in ((1e-6, 5000), (0.0011, 5), (0.005, 1), (2.0, 1)):
        one = seat(Stand(clock, seconds))
        one.settle(Design())
        assert one.loops == loops and one.entry.warmup_calls == 17 and not one.entry.about
    one.settle(Design(warmup_seconds=0.5))
    assert "not steady" in one.entry.about["warm-up"]


def test_everybody_has_one_turn_in_each_round_in_changing_order(clock: Clock) -> None:
    seats = [seat(Stand(clock, 0.001 * k), str(k)) for k in (1, 2, 3)]
    seen, _ = run(seats, least_rounds=40, most_rounds=40)
    assert seen == list(range(1, 41))
    orders = {tuple(one.entry.samples[number].position for one in seats) for number in range(40)}
    assert all(sorted(order) == [0, 1, 2] for order in orders) and len(orders) == 6
    again = [seat(Stand(clock, 0.001 * k), str(k)) for k in (1, 2, 3)]
    run(again, least_rounds=40, most_rounds=40)
    assert [s.position for s in again[0].entry.samples] == [s.position for s in seats[0].entry.samples]  # the seed decides


def test_a_clear_difference_ends_the_rounds_early(clock: Clock) -> None:
    seen, _ = run([seat(Stand(clock, 0.001)), seat(Stand(clock, 0.002))], seconds=1000)
    assert 10 <= seen[-1] <= 12


def test_equals_go_on_until_they_are_known_to_be_equal(clock: Clock) -> None:
    seats = [seat(Stand(clock, 0.001)), seat(Stand(clock, 0.001001))]
    seen, _ = run(seats, seconds=1000)
    assert 10 <= seen[-1] < 200 and decided([one.entry for one in seats], Design())


def test_time_ends_the_rounds(clock: Clock) -> None:
    """A true ratio at the edge of the band stays undecided."""
    seats = [seat(Stand(clock, 0.001)), seat(Stand(clock, 0.00102))]
    seen, checks = run(seats, seconds=12)
    assert 12 <= clock.now < 12.1 and not decided([one.entry for one in seats], Design())
    assert len(checks) == 2  # after five and ten seconds
    slow = [seat(Stand(clock, 100.0)), seat(Stand(clock, 101.0))]
    assert run(slow, seconds=1)[0] == [1, 2, 3]


def test_one_engine_alone_is_measured_until_its_time_is_known(clock: Clock) -> None:
    seen, _ = run([seat(Stand(clock, 0.001))], seconds=1000)
    assert 10 <= seen[-1] < 300


def test_an_engine_that_fails_leaves_and_the_others_go_on(clock: Clock) -> None:
    seats = [seat(Stand(clock, 0.001), "a"), seat(Stand(clock, 0.002, fails=4), "b"), seat(Stand(clock, 0.003), "c")]
    entries = [one.entry for one in seats]
    run(seats, least_rounds=30, most_rounds=30)
    assert [len(entry.samples) for entry in entries] == [30, 4, 30]
    assert entries[1].trouble == "after 4 rounds: it broke" and [one.entry.engine for one in seats] == ["a", "c"]
    last = [seat(Stand(clock, 0.001, fails=2))]
    assert run(last)[0] == [1, 2, 3] and last == []


def test_what_other_processes_took_is_not_counted() -> None:
    turn = Turn(2, 1000, 700, 0, 250)
    assert sample(turn, 3, 1, 1) == Sample(3, 1, 2, 1000, 700, 0, 250) and sample(turn, 3, 1, 1).seconds == 375e-9
    assert sample(turn, 0, 0, 2).seconds == 500e-9  # on two CPUs threads of the engine may have waited for each other
    own_thread_ran = Turn(2, 1000, 950, 0, 250)
    assert sample(own_thread_ran, 0, 0, 1).wait_ns == 50


def test_a_small_difference_is_met_in_several_processes(clock: Clock) -> None:
    small = [Stand(clock, 0.001), Stand(clock, 0.00105)]
    seats = [seat(engine) for engine in small]
    seen, _ = run(seats, seconds=1000, least_rounds=30)
    assert [engine.starts for engine in small] == [3, 3] and 90 <= seen[-1] <= 93  # as many rounds in each
    large = [Stand(clock, 0.001), Stand(clock, 0.0012)]
    run([seat(engine) for engine in large], seconds=1000)
    assert [engine.starts for engine in large] == [1, 1]


def test_engines_start_again_now_and_then(clock: Clock) -> None:
    """At the edge of the band no verdict comes: a start takes 0.2 s for both, so there is one after each second of rounds."""
    engines = [Stand(clock, 0.001), Stand(clock, 0.00102)]
    run([seat(engine) for engine in engines], seconds=12)
    assert all(9 <= engine.starts <= 11 for engine in engines)
