"""Whole measurements with engines that are wrong, dishonest, or break: each is told, and costs nobody else's result."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hasten.bench import experiment
from hasten.bench.experiment import Progress, Task, measure, workplace
from hasten.bench.machine import Check, Watch
from hasten.bench.peer import EngineSpec
from hasten.bench.reference import Reference, reference
from hasten.bench.results import Run
from hasten.bench.rounds import Design

IDLE = Check((), (), 2.0, 0.0, 1.0, 1.0)
BUSY = Check(("other work leaves nothing",), (), 0.0, 0.0, 0.5, 1.0)
SHORT = Design(seconds=0.2, warmup_seconds=0.1, limit_seconds=20, starts=False)
WORK = "fake:steps=3000"  # long enough to tell a remembered answer from a computed one

pytestmark = pytest.mark.usefixtures("fakes")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without other work, whatever this one is like, and a reference that is known."""
    monkeypatch.setattr(Watch, "check", lambda self: IDLE)
    monkeypatch.setattr(experiment, "reference", lambda model, feeds, cache: Reference({"y": 2 * feeds["x"].astype(np.float64)}))


@pytest.fixture
def run_of(doubling: Task) -> Callable[..., Run]:
    def run(*engines: str, **more: object) -> Run:
        design = more.pop("design", SHORT)
        return measure([doubling], [EngineSpec.parse(text) for text in engines], [1], design, **more)  # type: ignore[arg-type]

    return run


def test_a_measurement_is_recorded_in_full(run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "reference", reference)
    told: list[Progress] = []
    kept: list[int] = []
    run = run_of(WORK, f"{WORK},at=1", design=replace(SHORT, starts=True), progress=told.append, keep=lambda run: kept.append(len(run.subjects)))
    (subject,) = run.subjects
    assert run.status == "complete" and run.cautions == [] and run.began <= run.ended and run.design["band"] == 0.02
    assert subject.label == "doubling" and subject.inputs == {"x": "float32[4]"} and subject.reference == "float64" and len(subject.sha256) == 64
    for entry in subject.entries:
        assert not entry.trouble and entry.error == 0 and entry.threads == 1 and entry.about["starts before"] == "1"  # a cache of its own, used twice
        assert entry.cold_start_ns and entry.warm_start_ns and entry.peak_bytes and entry.model_bytes and entry.model_bytes < entry.peak_bytes
        assert len(entry.samples) >= 3 and all(s.wall_ns > 0 and s.cpu_ns > 0 for s in entry.samples)
        assert [s.round for s in entry.samples] == list(range(len(entry.samples)))
        assert entry.samples[0].loops * entry.samples[0].seconds > 0.001  # aims at 5 ms, from calls timed a moment before
    assert {step.stage for step in told} == {"check", "reference", "start", "warm-up", "rounds", "verify"}
    assert kept[0] == 0 and kept[-1] == 1


def test_faults_are_found_and_others_go_on(run_of: Callable[..., Run]) -> None:
    faults = {
        "wrong": r"wrong: 2\.0e\+00 of the largest value \(output 'y'\), against float64",
        "nan": "wrong: .*NaN",
        "shape": "wrong: .*shapes",
        "frozen": "answers do not follow the inputs",
        "remembers": r"remembers answers: .* takes [\d.e-]+ ms, with new ones",
        "crash": "ended by signal SIGABRT",
        "raises": "ArithmeticError: a bead is missing",
        "refuses": "is not to my taste",
    }
    run = run_of(WORK, *(f"{WORK}0,fault={fault}" for fault in faults), "abacus", f"{WORK},fault=imprecise", f"{WORK},fault=prints")
    first, *broken, missing, imprecise, prints = run.subjects[0].entries
    assert run.status == "complete"
    for entry, (fault, words) in zip(broken, faults.items(), strict=True):
        assert re.search(words, entry.trouble), (fault, entry.trouble)
        assert entry.samples == []
    assert "there is no peer 'abacus'" in missing.trouble
    for entry in (first, imprecise, prints):
        assert not entry.trouble and len(entry.samples) >= 3
    assert imprecise.error == pytest.approx(0.01, rel=1e-3) and first.error == 0


@pytest.mark.slow
def test_faults_that_show_late(run_of: Callable[..., Run]) -> None:
    """In the rounds (a crash there keeps the rounds that went well), and only in the last check."""
    design = replace(SHORT, seconds=0.5, least_rounds=20, limit_seconds=3)
    run = run_of(WORK, f"{WORK},fault=crash,at=600", f"{WORK},fault=hang,at=600", f"{WORK},fault=wrong,at=10", design=design)
    good, crash, hang, wrong = run.subjects[0].entries
    assert not good.trouble and len(good.samples) >= 3
    assert "SIGABRT" in crash.trouble and "was killed" in hang.trouble
    assert "wrong after the rounds" in wrong.trouble and wrong.samples == []


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs")
def test_more_cpus_than_agreed(run_of: Callable[..., Run]) -> None:
    good, spreads = run_of(WORK, f"{WORK},fault=spreads").subjects[0].entries
    assert "its threads run on CPUs" in spreads.trouble and spreads.samples == [] and not good.trouble


def test_all_engines_may_fail(run_of: Callable[..., Run]) -> None:
    run = run_of("abacus", "fake:fault=raises")
    assert run.status == "complete" and all(entry.trouble for entry in run.subjects[0].entries)


def test_an_interruption_keeps_what_there_is(run_of: Callable[..., Run]) -> None:
    def interrupt(step: Progress) -> None:
        if step.rounds == 5:
            raise KeyboardInterrupt

    before = children()
    run = run_of(WORK, f"{WORK},at=1", progress=interrupt, design=replace(SHORT, seconds=60, least_rounds=1000))
    assert run.status == "interrupted" and run.ended and "not checked again" in run.cautions[0]
    assert [len(entry.samples) for entry in run.subjects[0].entries] == [5, 5]
    assert children() == before


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_a_busy_machine_is_refused(run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "FIRST_PAUSE", 0)
    looks = iter([BUSY, BUSY, IDLE, IDLE])
    monkeypatch.setattr(Watch, "check", lambda self: next(looks))
    assert run_of("abacus").status == "complete"  # only something that ended
    monkeypatch.setattr(Watch, "check", lambda self: BUSY)
    run = run_of(WORK)
    assert run.status == "refused" and run.cautions == ["other work leaves nothing"] and run.subjects == []
    run = run_of(WORK, design=replace(SHORT, even_if_busy=True))
    assert run.status == "complete" and run.cautions and run.subjects[0].entries[0].samples


def test_a_machine_that_becomes_busy_is_refused_and_keeps_samples(run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([IDLE] + [BUSY] * 1000)
    monkeypatch.setattr(Watch, "check", lambda self: next(looks))
    monkeypatch.setattr("hasten.bench.rounds.CHECK_SECONDS", 0.01)
    run = run_of(WORK)
    assert run.status == "refused" and run.subjects[0].entries[0].samples


def test_without_a_reference_an_engine_stands_in(run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "reference", lambda model, feeds, cache: Reference(None, "too large"))
    (subject,) = run_of(WORK, f"{WORK},fault=imprecise").subjects
    assert (subject.reference, subject.reference_note) == (WORK, "too large")
    assert subject.entries[1].error == pytest.approx(0.01, rel=1e-3)


def test_revisions_are_of_hasten_alone(run_of: Callable[..., Run]) -> None:
    (entry,) = run_of("fake@v1").subjects[0].entries
    assert "only hasten has revisions" in entry.trouble


def test_constant_inputs_and_texts_can_be_changed() -> None:
    from hasten.bench.inputs import altered, nudged

    feeds = {"zeros": np.zeros((2, 3), np.float32), "length": np.array([7]), "text": np.array(["a", "b"], object)}
    for new in (altered(feeds), nudged(feeds, 1)):
        assert (new["zeros"] != 0).all() and new["zeros"].dtype == np.float32 and new["zeros"].shape == (2, 3)
        assert new["length"] is feeds["length"] and new["text"] is feeds["text"]  # beside floats they stay
    half = {"x": np.ones(3, np.float16)}
    assert len({float(nudged(half, step)["x"][0]) for step in range(10)}) == 10
    ids = {"ids": np.arange(5)}
    assert list(altered(ids)["ids"]) == [4, 3, 2, 1, 0] and list(nudged(ids, 2)["ids"]) == [3, 4, 0, 1, 2]


def test_folders_of_killed_processes_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, theirs = tmp_path / "hasten-bench-4194304-x", tmp_path / f"hasten-bench-{os.getppid()}-y"  # the first is beyond the largest process number
    left.mkdir()
    theirs.mkdir()
    with workplace() as folder:
        assert folder.is_dir() and not left.exists() and theirs.exists()
    assert not folder.exists()
