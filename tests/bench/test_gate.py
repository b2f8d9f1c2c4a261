"""Changes between runs and the gate: what is slower is found, what is not is let pass, nothing measured is never green."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from synthetic import make_entry, make_run  # noqa: E402

from hasten.base.errors import CorruptFile, InputError  # noqa: E402
from hasten.bench import gate  # noqa: E402
from hasten.bench.changes import compare, results  # noqa: E402
from hasten.bench.results import Run  # noqa: E402
from hasten.bench.summary import summarise  # noqa: E402

MODELS = {f"m{number}.onnx": 1e-3 for number in range(8)}


def measured(slower: dict[str, float] | None = None, *, speed: float = 1.0, seed: int = 0, rounds: int = 40, noise: float = 0.02) -> Run:
    """Hasten beside a peer that takes 1.5 times as long; models in `slower` take that factor longer. `speed`: of the machine."""
    run = make_run(["hasten"], MODELS, rounds=rounds, noise=noise, seed=seed)
    for number, subject in enumerate(run.subjects):
        factor = (slower or {}).get(subject.label, 1.0)
        seconds = 1e-3 / speed
        subject.entries = [make_entry(name, s, rounds=rounds, noise=noise, seed=1000 * seed + number) for name, s in
                           (("hasten", seconds * factor), ("onnxruntime", 1.5 * seconds))]  # fmt: skip
    return run


def judge(tmp_path: Path, then: Run, now: Run, band: float = 0.05) -> gate.Outcome:
    gate.save(summarise(then), tmp_path / "base.json")
    return gate.judge(gate.load(tmp_path / "base.json"), summarise(now), band)


def test_the_same_passes_also_on_a_faster_machine(tmp_path: Path) -> None:
    outcome = judge(tmp_path, measured(), measured(seed=1, speed=3.0))
    assert outcome.code == gate.PASSED and {change.word for change in outcome.changes} <= {"same", "not slower"}
    assert outcome.says() == "the gate passed (8 not slower)"


def test_slower_is_found_and_named(tmp_path: Path) -> None:
    outcome = judge(tmp_path, measured(), measured({"m3": 1.15}, seed=1))
    assert outcome.code == gate.SLOWER and [change.model for change in outcome.changes if change.word == "slower"] == ["m3"]
    (found,) = (change.ratio for change in outcome.changes if change.word == "slower")
    assert found is not None and found.low < 1.15 < found.high and found.low > 1.05
    assert "failed: slower (1 slower, 7 not slower)" in outcome.says()


def test_faster_passes(tmp_path: Path) -> None:
    outcome = judge(tmp_path, measured(), measured({"m3": 0.5}, seed=1))
    assert outcome.code == gate.PASSED and outcome.changes[3].word == "faster"


def test_false_alarms_are_rare() -> None:
    """Half of the models are at the very edge of the band, where "slower" is wrong; 5% of runs may say so of any of them: 2 of 40, and with three
    deviations 7. The intervals that the gate reckons with are a little wider than need be, so fewer are seen."""
    edge = {name: 1.05 for name in ("m0", "m2", "m4", "m6")}
    then = results(summarise(measured(rounds=25)))
    alarms = sum(any(c.word == "slower" for c in compare(then, results(summarise(measured(edge, seed=seed, rounds=25))), 0.05)) for seed in range(1, 41))
    assert alarms <= 6


def test_noise_is_undecided(tmp_path: Path) -> None:
    outcome = judge(tmp_path, measured(), measured(seed=1, rounds=10, noise=0.4))
    assert outcome.code == gate.UNDECIDED and "undecided" in outcome.says()


@pytest.mark.parametrize("what", ["gone", "crashed", "peer gone", "other file", "other inputs", "refused", "interrupted", "nothing", "few rounds"])
def test_what_is_not_measured_is_never_green(tmp_path: Path, what: str) -> None:
    now = measured(seed=1)
    subject = now.subjects[2]
    match what:
        case "gone":
            del now.subjects[2]
        case "crashed":
            subject.entries[0].trouble = "crashed"
        case "peer gone":
            subject.entries[1].trouble = "not installed"
        case "other file":
            subject.sha256 = "cd" * 32
        case "other inputs":
            subject.inputs = {"image": "float32[2, 3, 224, 224]"}
        case "refused" | "interrupted":
            now = dataclasses.replace(now, status=what)
        case "nothing":
            now.subjects.clear()
        case _:
            for s in now.subjects:
                for entry in s.entries:
                    del entry.samples[3:]
    outcome = judge(tmp_path, measured(), now)
    assert outcome.code == (gate.UNDECIDED if what == "few rounds" else gate.NOTHING)
    assert all(change.reason for change in outcome.changes if change.word == "missing")


def test_slower_counts_more_than_missing(tmp_path: Path) -> None:
    now = measured({"m3": 1.3}, seed=1)
    del now.subjects[0]
    assert judge(tmp_path, measured(), now).code == gate.SLOWER


def test_what_differs_is_remarked(tmp_path: Path) -> None:
    now = measured(seed=1)
    now.machine = {**now.machine, "cpu": "Another"}
    now.subjects[0].entries[1].about = {"version": "2.0"}
    now.subjects.append(dataclasses.replace(now.subjects[0], label="new", model="new.onnx"))
    remarks = " ".join(judge(tmp_path, measured(), now).remarks)
    for words in ("another CPU (A Processor 9000 with 16 Cores; this is Another)", "onnxruntime was 1.2.3 then and is 2.0 now", "not judged: new"):
        assert words in remarks


def test_the_peer_of_the_baseline_is_used(tmp_path: Path) -> None:
    """Another engine in front of it does not change what is compared."""
    now = measured(seed=1)
    for subject in now.subjects:
        subject.entries.insert(1, make_entry("ncnn", 5e-3, rounds=40))
    assert judge(tmp_path, measured(), now).code == gate.PASSED


def test_no_baseline_without_a_peer(tmp_path: Path) -> None:
    alone = make_run(["hasten"])
    with pytest.raises(InputError, match="a baseline needs hasten and a peer on every model"):
        gate.save(summarise(alone), tmp_path / "b.json")
    one_failed = measured()
    one_failed.subjects[5].entries[1].trouble = "crashed"
    with pytest.raises(InputError, match="lacking: m5"):
        gate.save(summarise(one_failed), tmp_path / "b.json")
    with pytest.raises(InputError, match="interrupted"):
        gate.save(summarise(dataclasses.replace(measured(), status="interrupted")), tmp_path / "b.json")
    with pytest.raises(InputError, match="too few rounds"):
        gate.save(summarise(measured(rounds=4)), tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "hasten-bench-baseline", "version": 9}'])
def test_a_broken_baseline_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "b.json").write_text(content)
    with pytest.raises(CorruptFile, match="record it again with --save-baseline"):
        gate.load(tmp_path / "b.json")


def test_an_empty_baseline_is_told(tmp_path: Path) -> None:
    gate.save(summarise(measured()), tmp_path / "b.json")
    content = json.loads((tmp_path / "b.json").read_text())
    (tmp_path / "b.json").write_text(json.dumps({**content, "results": []}))
    with pytest.raises(CorruptFile, match="baseline of nothing"):
        gate.load(tmp_path / "b.json")
    with pytest.raises(InputError, match="no baseline .* yet"):
        gate.load(tmp_path / "none.json")


def test_runs_without_a_peer_are_compared_by_their_times() -> None:
    then, now = (results(summarise(make_run(["hasten"], MODELS, rounds=40, seed=seed)), "") for seed in (0, 1))
    changes = compare(then, now, 0.05)
    assert len(changes) == 8 and {change.word for change in changes} <= {"same", "not slower", "undecided"}
    slow = [dataclasses.replace(result, log=result.log + 0.2) for result in now]
    assert {change.word for change in compare(then, slow, 0.05)} == {"slower"}
