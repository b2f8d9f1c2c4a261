"""The design of a measurement, and its rounds.

In a round each engine has one turn, in an order drawn anew: that makes the sign of a difference between equals a fair coin (see
`hasten.bench.statistics`). A turn is one request to the engine's process, which sleeps otherwise: calls that are not timed wake threads and fill
caches, then enough calls for `turn_seconds` are timed together. Rounds go on until the first engine has a verdict against each other one, or the time is
used up; because the intervals hold at any time of looking, that adds no false verdicts.

Two processes of one program may differ by a percent or two for as long as they live, by where their memory lies. So engines are started again now and
then, and a small difference is believed when it was met in several processes.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hasten.bench.machine import Check, Watch
from hasten.bench.process import Engine, EngineError, Turn
from hasten.bench.results import Entry, Sample
from hasten.bench.verdict import compare, seconds_interval

CHECK_SECONDS = 5.0  # between looks at the machine
RESTART_AFTER = 5.0  # times what it takes to start all engines
CLEAR = 1.1  # a ratio beyond which it doesn't matter which process was met


@dataclass(frozen=True)
class Design:
    """How to measure: whatever another run needs to be the same. Seconds are wall time."""

    seconds: float = 20.0  # for the rounds of one model with one number of threads
    least_rounds: int = 10  # before verdicts may end it (three, where the time is up)
    most_rounds: int = 20_000
    least_starts: int = 3  # of all engines, before a verdict on a small difference may end the rounds
    turn_seconds: float = 0.005  # timed together, at least
    warmup_seconds: float = 2.0  # at most, for each engine
    limit_seconds: float = 300.0  # for one answer of an engine, loading included
    band: float = 0.02  # ratios within it are the same
    gamma: float = 0.75
    alpha: float = 0.05
    tolerance: float = 0.5  # an output further from the reference, relative to its largest value, is wrong
    starts: bool = True  # measure cold starts, too
    seed: int = 0  # of the order in rounds
    even_if_busy: bool = False  # conclude all the same on a busy machine


@dataclass
class Seat:
    """An engine that takes part: its process, its record, the bytes that the process had before it loaded the model, seconds of a (warm) start, calls in
    a turn."""

    engine: Engine
    entry: Entry
    base_bytes: int
    start_seconds: float
    loops: int = 1

    def settle(self, design: Design) -> None:
        """Warm up; then a turn has as many calls as `design.turn_seconds` hold. Raises EngineError."""
        warm = self.engine.warm(design.warmup_seconds)
        self.entry.warmup_calls = warm.calls
        if not warm.steady:
            self.entry.about["warm-up"] = f"times were not steady after {design.warmup_seconds:g} s"
        self.loops = max(1, math.ceil(design.turn_seconds * 1e9 / warm.call_ns))

    def restart(self, design: Design) -> None:
        """Go on in a fresh process. Raises EngineError."""
        self.engine.restart()
        self.engine.warm(design.warmup_seconds / 4)


def play(
    seats: list[Seat], design: Design, watch: Watch, *, on_round: Callable[[int, float], None], on_check: Callable[[Check], None],
) -> None:  # fmt: skip
    """Rounds; their samples are appended to the entries as they come. An engine that fails has `trouble` and leaves (`seats` loses it).

    `on_round`: called after each with the number of rounds and the share of the time that is used. `on_check`: after each look at the machine.
    """
    order, began, looked = random.Random(design.seed), time.monotonic(), time.monotonic()
    judged, starts, started = design.least_rounds, 1, began
    for number in range(design.most_rounds):
        shuffled = order.sample(seats, len(seats))
        for position, seat in enumerate(shuffled):
            with _leaving(seats, seat, f"after {number} rounds"):
                turn = seat.engine.turn(seat.loops)
                seat.entry.samples.append(sample(turn, number, position, len(seat.engine.cpus)))
        now = time.monotonic()
        used = (now - began) / design.seconds
        on_round(number + 1, min(1.0, used))
        if not seats or (used >= 1 and number + 1 >= min(3, design.least_rounds)):
            return
        renew = now - started > RESTART_AFTER * sum(seat.start_seconds for seat in seats)
        if number + 1 >= judged:
            if decided([seat.entry for seat in seats], design):
                if starts >= design.least_starts or clear([seat.entry for seat in seats]):
                    return
                renew, judged = True, number + 1 + (number + 1) // starts  # as many rounds in the next processes
            else:
                judged = number + 1 + max(1, number // 20)  # a look costs time in proportion to the rounds
        if renew:
            for seat in shuffled:
                with _leaving(seats, seat, f"starting again after {number + 1} rounds"):
                    seat.restart(design)
            starts, started = starts + 1, time.monotonic()
        if now - looked > CHECK_SECONDS:
            on_check(watch.check())
            looked = time.monotonic()


@contextmanager
def _leaving(seats: list[Seat], seat: Seat, when: str) -> Iterator[None]:
    """An engine that fails leaves, and the others go on."""
    try:
        yield
    except EngineError as error:
        seat.entry.trouble = f"{when}: {error}"
        seats[:] = [other for other in seats if other is not seat]


def sample(turn: Turn, number: int, position: int, cpus: int) -> Sample:
    """The record of a turn on so many CPUs.

    On one CPU, the time in which threads of the engine were ready and none of them ran was taken by other processes. On several CPUs that cannot be told
    from threads of the engine that wait for each other.
    """
    waited = min(turn.wait_ns, max(0, turn.wall_ns - turn.cpu_ns)) if cpus == 1 else 0
    return Sample(number, position, turn.loops, turn.wall_ns, turn.cpu_ns, turn.began_ns, waited)


def decided(entries: list[Entry], design: Design) -> bool:
    """Whether the first engine has a verdict against each other; alone it has none to wait for, but rounds until its time is known to the band."""
    first, *others = entries
    if not others:
        seconds = seconds_interval(first.samples, design.alpha)
        return seconds.high - seconds.low <= design.band * seconds.value
    return all(compare(first.samples, other.samples, band=design.band, gamma=design.gamma, alpha=design.alpha).word != "undecided" for other in others)


def clear(entries: list[Entry]) -> bool:
    """Whether all differences are larger than the luck of a process can make them."""
    first, *others = entries
    ratios = [compare(first.samples, other.samples).ratio for other in others]
    return all(ratio.high < 1 / CLEAR or ratio.low > CLEAR for ratio in ratios)
