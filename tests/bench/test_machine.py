"""The look at the machine: what is refused and what only told. Load is given, never made."""

from __future__ import annotations

import os

import pytest

from hasten.bench import machine
from hasten.bench.machine import Check, Watch, choose_cpus, describe, standing_cautions


class Machine:
    """Two CPUs that others use `busy` percent, of a hypervisor that takes `steal` percent; a loop gets `share` of the time and has `speed`."""

    def __init__(self) -> None:
        self.busy, self.steal, self.share, self.speed = (0, 0), 0, 1.0, 1e6
        self.passed = [[0] * 10, [0] * 10]

    def ticks(self, cpus: frozenset[int]) -> dict[int, list[int]]:
        return {cpu: list(self.passed[cpu]) for cpu in cpus}

    def sleep(self, seconds: float) -> None:
        for passed, busy in zip(self.passed, self.busy, strict=True):
            for column, spent in ((0, busy), (3, 100 - busy - self.steal), (7, self.steal)):
                passed[column] += spent

    def spin(self, cpu: int) -> tuple[float, float]:
        return self.share, self.speed


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Machine:
    given = Machine()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(machine.time, "sleep", given.sleep)
    monkeypatch.setattr(machine, "_ticks", given.ticks)
    monkeypatch.setattr(machine, "_spin", given.spin)
    return given


def test_an_idle_machine_is_fine(given: Machine) -> None:
    assert Watch(2).check() == Check((), (), 2.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("busy", "needed", "refused", "told"),
    [
        ((100, 100), 1, True, False),
        ((100, 100), 2, True, False),
        ((100, 0), 1, False, True),  # rounds stand one busy core of two
        ((100, 0), 2, True, False),
        ((60, 60), 1, False, True),
        ((10, 15), 2, False, False),
    ],
)
def test_load_of_others(given: Machine, busy: tuple[int, int], needed: int, refused: bool, told: bool) -> None:
    given.busy = busy
    found = Watch(needed).check()
    assert found.free_cpus == pytest.approx(2 - sum(busy) / 100)
    assert bool(found.refusals) == refused and bool(found.cautions) == told
    if refused:
        assert f"and the engines need {needed}" in found.refusals[0]


def test_what_is_only_told(given: Machine) -> None:
    given.steal = 10
    assert "the hypervisor takes 10%" in Watch(1).check().cautions[0]
    given.steal, given.share = 0, 0.5
    assert "gets 50% of the time" in Watch(1).check().cautions[0]
    given.share, watch = 1.0, Watch(1)
    assert watch.check().cautions == ()
    given.speed /= 2
    assert "50% of the speed" in watch.check().cautions[0]


def test_standing_cautions(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"governor": "powersave", "boost": "1", "clock": "hpet", "quota": "50000 100000"}
    monkeypatch.setattr(machine, "_read", lambda path: told.get(next(name for name, known in machine.FACTS.items() if known == path), ""))
    words = " ".join(standing_cautions())
    assert all(word in words for word in ("powersave", "turbo", "hpet", "0.5 CPUs"))
    told |= {"governor": "performance", "boost": "0", "clock": "tsc", "quota": "max 100000"}
    assert standing_cautions() == []


def test_this_machine() -> None:
    """Whatever it is like now, the figures are possible ones, and nothing of it is changed."""
    allowed = os.sched_getaffinity(0)
    found = Watch(1).check()
    assert 0 <= found.free_cpus <= len(allowed) and 0 <= found.steal <= 1 and 0 < found.spin_share <= 1.05 and 0 < found.spin_speed <= 1
    assert os.sched_getaffinity(0) == allowed
    facts = describe()
    assert facts["cpu"] and facts["cpus"] == os.cpu_count() and facts["allowed"] == sorted(allowed)


def test_threads_get_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four CPUs of two cores: 0 and 2 are neighbours."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "_read", lambda path: "0,2" if path.split("/")[5] in ("cpu0", "cpu2") else "1,3")
    assert choose_cpus(1) == {0} and choose_cpus(2) == {0, 1} and choose_cpus(3) == {0, 1, 2} and len(choose_cpus(9)) == 4
