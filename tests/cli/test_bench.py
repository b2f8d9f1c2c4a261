"""`hasten bench`: what its options mean, what it prints and keeps, its exit codes. Measurements are synthetic but for those marked slow."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
pytest.importorskip("sqlalchemy", reason="needs hasten[bench]")

from synthetic import ENGINES, make_entry, make_run  # noqa: E402

import hasten  # noqa: E402
from hasten.base.errors import CorruptFile, InputError  # noqa: E402
from hasten.bench.export import read  # noqa: E402
from hasten.bench.results import Run  # noqa: E402
from hasten.bench.store import Store  # noqa: E402
from hasten.cli.bench.options import share, specs  # noqa: E402


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's is touched."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def digits(example_models: Path) -> Path:
    return example_models / "classify_mnist_cnn.onnx"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces `measure` by one that gives a synthetic run of the engines that were asked for; the dict collects its arguments, and may hold `change`,
    which is done to the run."""
    from hasten.bench import experiment, peers

    calls: dict[str, Any] = {"seed": 0}

    def measure(tasks: Any, engines: Any, threads: Any, design: Any, progress: Any, keep: Any, references: Any = None) -> Run:
        calls.update(tasks=tasks, engines=[str(spec) for spec in engines], threads=threads, design=design, references=references)
        known = {name: ENGINES.get(name, (1.2, 1e-6)) for name in calls["engines"]}
        run = make_run(known, {task.label: 1e-3 for task in tasks}, threads=threads, seed=calls["seed"])
        calls["seed"] += 1
        run.design = {"band": design.band, "engines": calls["engines"]}
        change: Callable[[Run], None] = calls.get("change", lambda run: None)
        change(run)
        whole, run.subjects = run.subjects, []
        keep(run)
        for subject in whole:
            progress(experiment.Progress(subject.label, 0, "reference"))
            run.subjects.append(subject)
            progress(experiment.Progress(subject.label, 1, "rounds", "", 3, 0.5))
            keep(run)
        return run

    monkeypatch.setattr(experiment, "measure", measure)
    monkeypatch.setattr(peers, "find", lambda name: None)
    return calls


def test_engines_are_parted_by_commas() -> None:
    assert specs(["onnxruntime,openvino:precision=f32,threads=2, ncnn", "hasten@v1"]) == ["onnxruntime", "openvino:precision=f32,threads=2", "ncnn", "hasten@v1"]
    assert specs(["a,,b,a"]) == ["a", "b"]


@pytest.mark.parametrize(("text", "value"), [("2%", 0.02), ("0.05", 0.05), ("12.5%", 0.125)])
def test_shares(text: str, value: float) -> None:
    assert share(text) == pytest.approx(value)


def test_options_reach_the_measurement(invoke: Any, fake: dict[str, Any], digits: Path) -> None:
    result = invoke("bench", digits, "-p", "onnxruntime,openvino:precision=f32", "-e", "hasten:precision=high,isa=avx2", "--threads", 1, "--threads", 2,
                    "--budget", 3, "--rounds", 50, "--band", "5%", "--no-starts", "--even-if-busy", "--seed", 7, "-i", "random:0:255")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert fake["engines"] == ["hasten:precision=high,isa=avx2", "onnxruntime", "openvino:precision=f32"] and fake["threads"] == [1, 2]
    design = fake["design"]
    assert (design.seconds, design.most_rounds, design.band, design.starts, design.even_if_busy, design.seed) == (3, 50, 0.05, False, True, 7)
    (task,) = fake["tasks"]
    assert task.label == "classify_mnist_cnn" and task.feeds["Input3"].shape == (1, 1, 28, 28) and 100 < task.feeds["Input3"].mean() < 155


def test_tables_words_and_where_it_is_kept(invoke: Any, fake: dict[str, Any], digits: Path, example_models: Path, tmp_path: Path) -> None:
    result = invoke("bench", "run", digits, example_models / "rl_go1_policy.onnx", "-p", "onnxruntime,openvino")
    assert result.exit_code == 0
    for words in ("classify_mnist_cnn  1 thread", "rl_go1_policy  1 thread", "time / hasten's", "cold / warm start", "onnxruntime takes", "2 models"):
        assert words in result.stdout, words
    kept = Store(create=False).load()
    assert f"kept as run {kept.id[:8]} in {tmp_path}/data/hasten/bench.sqlite" in result.stderr
    assert f"hasten bench report {kept.id[:8]} -o report.html" in result.stderr
    assert len(kept.subjects) == 2 and kept.status == "complete" and kept.design["command"][0] == "hasten"
    verdicts = sqlite3.connect(tmp_path / "data/hasten/bench.sqlite").execute("SELECT count(*) FROM verdict").fetchone()
    assert verdicts == (4,)


def test_progress_is_drawn_on_terminals_only(invoke: Any, fake: dict[str, Any], digits: Path, monkeypatch: Any) -> None:
    assert "measuring" not in invoke("bench", digits).stderr
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes that for a terminal
    monkeypatch.setattr("hasten.cli.bench.live.REDRAW", 0.0)
    drawn = invoke("bench", digits).stderr
    assert "[1/1] classify_mnist_cnn" in drawn and "computing in float64" in drawn and "measuring round 3" in drawn


def test_models_of_one_name_are_told_apart(invoke: Any, fake: dict[str, Any], digits: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.onnx").write_bytes(digits.read_bytes())
    invoke("bench", "a/m.onnx", "b/m.onnx", digits)
    assert [task.label for task in fake["tasks"]] == ["a/m", "b/m", "classify_mnist_cnn"]


def test_all_models_that_cannot_be_fed_are_told_at_once(invoke: Any, fake: dict[str, Any], example_models: Path) -> None:
    result = invoke("bench", *(example_models / f"face_{name}.onnx" for name in ("mtcnn_pnet", "yunet_n", "ultraface_rfb320")))
    assert result.exit_code == 1 and "2 of 3 models cannot be fed" in result.stderr and "tasks" not in fake
    assert "face_mtcnn_pnet.onnx: input" in result.stderr and "face_yunet_n.onnx: input" in result.stderr and "--dim height=SIZE" in result.stderr


def test_json_alone_on_stdout(invoke: Any, fake: dict[str, Any], digits: Path) -> None:
    found = json.loads(invoke("bench", digits, "-p", "ncnn", "--json").stdout)
    assert [engine["engine"] for engine in found["models"][0]["engines"]] == ["hasten", "ncnn"] and found["status"] == "complete"


def test_reports_and_exports(invoke: Any, fake: dict[str, Any], digits: Path, tmp_path: Path) -> None:
    result = invoke("bench", digits, "-p", "ncnn", "--report", "r.html", "--report", "r.md", "--export", "s.csv", "--export", "s.json", "--store", "my.sqlite")
    assert result.exit_code == 0 and "written: r.html, r.md, s.csv, s.json" in result.stderr.replace("\n", " ")
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>") and not (tmp_path / "data").exists()
    assert len(list(csv.reader((tmp_path / "s.csv").open()))) == 41
    run = Store("my.sqlite", create=False).load()
    assert read(tmp_path / "s.json") == run


@pytest.mark.parametrize("wrong", [["--report", "r.pdf"], ["--export", "s.xlsx"], ["-e", ":x=1"], ["-p", "openvino:f32"], ["-i", "nothing=1"]])
def test_what_is_wrong_is_told_before_measuring(invoke: Any, fake: dict[str, Any], digits: Path, wrong: list[str]) -> None:
    result = invoke("bench", digits, *wrong)
    assert result.exit_code == 1 and result.stderr.startswith("InputError") and "tasks" not in fake


def test_unknown_engines_are_told(invoke: Any, digits: Path) -> None:
    result = invoke("bench", digits, "-p", "abacus")
    assert result.exit_code == 1 and "there is no peer 'abacus'; there are: hasten, onnxruntime" in result.stderr


def test_wrong_shares_and_no_models_are_wrong_usage(invoke: Any, digits: Path) -> None:
    assert invoke("bench", digits, "--band", "much").exit_code == invoke("bench", "nothere.onnx").exit_code == 2


def test_a_broken_store_is_told_before_measuring(invoke: Any, fake: dict[str, Any], digits: Path, tmp_path: Path) -> None:
    (tmp_path / "s.sqlite").write_text("something else")
    result = invoke("bench", digits, "--store", "s.sqlite")
    assert result.exit_code == 1 and "CorruptFile" in result.stderr and "--store" in result.stderr and "tasks" not in fake
    assert (tmp_path / "s.sqlite").read_text() == "something else"


def test_a_store_that_breaks_meanwhile_loses_nothing(invoke: Any, fake: dict[str, Any], digits: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def full(self: Store, run: Run) -> None:
        raise InputError("the store s cannot be used: database or disk is full.")

    monkeypatch.setattr(Store, "append", full)
    result = invoke("bench", digits, "-p", "ncnn")
    (rescue,) = tmp_path.glob("hasten-bench-*.json")
    assert result.exit_code == 0 and f"kept in {rescue.name}, because of the store" in result.stderr and "disk is full" in result.stderr
    shown = invoke("bench", "report", rescue.name)
    assert shown.exit_code == 0 and "ncnn" in shown.stdout


def test_a_refusal_says_why_and_how_to_go_on(invoke: Any, fake: dict[str, Any], digits: Path) -> None:
    def refuse(run: Run) -> None:
        run.status, run.subjects, run.cautions = "refused", [], ["other work leaves 0.1 of 2 CPUs free, and the engines need 1"]

    fake["change"] = refuse
    result = invoke("bench", digits, "-p", "ncnn")
    assert result.exit_code == 3 and result.stdout == ""
    for words in ("0.1 of 2 CPUs free", "nothing was measured", "--even-if-busy", "hasten bench check"):
        assert words in result.stderr
    assert "kept" not in result.stderr and Store().list() == []


def test_a_refusal_after_measuring_concludes_nothing(invoke: Any, fake: dict[str, Any], digits: Path) -> None:
    fake["change"] = lambda run: setattr(run, "status", "refused")
    result = invoke("bench", digits, "-p", "onnxruntime", "--save-baseline", "b.json")
    assert result.exit_code == 3 and "nothing is concluded" in result.stderr and "kept as run" in result.stderr and not Path("b.json").exists()


def test_nothing_measured_is_3(invoke: Any, fake: dict[str, Any], digits: Path) -> None:
    def fail(run: Run) -> None:
        for entry in run.subjects[0].entries:
            entry.trouble, entry.samples = "crashed", []

    fake["change"] = fail
    result = invoke("bench", digits, "-p", "ncnn")
    assert result.exit_code == 3 and "has no figures: crashed" in result.stderr


def test_an_interruption_keeps_what_there_is(invoke: Any, fake: dict[str, Any], digits: Path) -> None:
    fake["change"] = lambda run: setattr(run, "status", "interrupted")
    result = invoke("bench", digits, "-p", "ncnn", "--report", "r.html")
    assert result.exit_code == 130 and "interrupted; what was measured is kept as run" in result.stderr and "-o report.html" in result.stderr
    assert Store().load().status == "interrupted" and "Interrupted: what follows" in Path("r.html").read_text()


# -- the gate ------------------------------------------------------------------------------------------------------------------------------


def slower(factor: float, noise: float = 0.02) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        for subject in run.subjects:
            subject.entries = [make_entry("hasten", factor * 1e-3, noise=noise, seed=3), make_entry("onnxruntime", 1.5e-3, noise=noise, seed=4)]

    return change


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [(slower(1.0), 0, "the gate passed"), (slower(1.3), 1, "failed: slower"), (slower(1.05, 0.3), 2, "the gate undecided"),
     (lambda run: setattr(run.subjects[0].entries[0], "trouble", "crashed"), 3, "not everything was measured")],
)  # fmt: skip
def test_the_gate(invoke: Any, fake: dict[str, Any], digits: Path, change: Any, code: int, words: str) -> None:
    fake["change"] = slower(1.0)
    assert invoke("bench", digits, "-p", "onnxruntime", "--save-baseline", "b.json").exit_code == 0
    assert fake["design"].least_rounds == 40
    fake["change"] = change
    result = invoke("bench", digits, "-p", "onnxruntime", "--gate", "b.json")
    assert result.exit_code == code and words in result.stderr


def test_a_gate_without_its_baseline(invoke: Any, fake: dict[str, Any], digits: Path) -> None:
    assert invoke("bench", digits, "--gate", "none.json").exit_code == 2
    Path("b.json").write_text("{}")
    result = invoke("bench", digits, "--gate", "b.json")
    assert result.exit_code == 1 and CorruptFile.__name__ in result.stderr and "tasks" not in fake


# -- kept runs -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept() -> list[Run]:
    """Two runs in the store, the second after Hasten became slower on one model."""
    runs = [make_run(["hasten", "onnxruntime"], rounds=40, noise=0.01, seed=0)]
    runs.append(dataclasses.replace(make_run(rounds=1, seed=1), subjects=[dataclasses.replace(subject) for subject in runs[0].subjects]))
    late = runs[1].subjects[0]
    late.entries = [dataclasses.replace(late.entries[0], samples=[dataclasses.replace(s, wall_ns=s.wall_ns * 5 // 4) for s in late.entries[0].samples]), late.entries[1]]
    with Store() as store:
        for run in runs:
            store.begin(run)
            store.finish(run)
    return runs


def test_list(invoke: Any, kept: list[Run]) -> None:
    result = invoke("bench", "list")
    assert result.exit_code == 0 and result.stdout.index(kept[1].id[:8]) < result.stdout.index(kept[0].id[:8])
    lines = json.loads(invoke("bench", "list", "--json").stdout)
    assert [line["id"] for line in lines] == [kept[1].id, kept[0].id] and lines[0]["engines"] == ["hasten", "onnxruntime"]


def test_report_and_export_of_kept_runs(invoke: Any, kept: list[Run]) -> None:
    assert "face_yunet_n" in invoke("bench", "report").stdout
    assert json.loads(invoke("bench", "report", kept[0].id[:6], "--json").stdout)["run"] == kept[0].id
    assert "time / onnxruntime's" in invoke("bench", "report", "latest", "--base", "onnxruntime").stdout
    result = invoke("bench", "report", kept[0].id, "-o", "deep/r.html", "-o", "r.md")
    assert result.exit_code == 0 and result.stdout == "" and kept[0].id in Path("deep/r.html").read_text() and Path("r.md").exists()
    assert invoke("bench", "export", kept[0].id, "-o", "s.json").exit_code == 0 and read(Path("s.json")) == kept[0]
    assert invoke("bench", "export").exit_code == invoke("bench", "report", "zzz").exit_code == invoke("bench", "report", "-o", "r.pdf").exit_code == 1


def test_compare(invoke: Any, kept: list[Run]) -> None:
    older, newer = (run.id[:8] for run in kept)
    assert invoke("bench", "compare", older, older).exit_code == 0
    result = invoke("bench", "compare", older, "latest")
    assert result.exit_code == 1 and "1.25" in result.stdout and "slower" in result.stdout
    found = json.loads(invoke("bench", "compare", older, newer, "--json", "--band", "1%").stdout)
    assert found["peer"] == "onnxruntime" and [change["word"] for change in found["changes"]] == ["slower", "same", "same"]
    assert invoke("bench", "compare", older, newer, "--peer", "ncnn").exit_code == 3


def test_no_store_yet(invoke: Any) -> None:
    for command in (["list"], ["report"], ["export", "-o", "s.csv"], ["compare", "a", "b"]):
        result = invoke("bench", *command)
        assert result.exit_code == 1 and "there is no store" in result.stderr and "hasten bench MODEL" in result.stderr


@pytest.mark.parametrize("busy", [False, True])
def test_check(invoke: Any, monkeypatch: Any, busy: bool) -> None:
    from hasten.bench import machine

    found = machine.Check(("other work leaves nothing",) if busy else (), ("the hypervisor takes 3%",), 1.5, 0.03, 0.99, 1.0)
    monkeypatch.setattr(machine.Watch, "check", lambda self: found)
    result = invoke("bench", "check")
    assert result.exit_code == (3 if busy else 0) and "the hypervisor takes 3%" in result.stderr and "free CPUs" in result.stdout
    assert ("would be refused" if busy else "fit to measure") in result.stderr
    assert json.loads(invoke("bench", "check", "--json").stdout)["check"]["free_cpus"] == 1.5


# -- the real thing ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_measurement(invoke: Any, digits: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    result = invoke("bench", digits, "-p", "onnxruntime", "--budget", 1, "--no-starts", "--even-if-busy", "--json", "--report", "r.html")
    assert result.exit_code == 0, result.stderr
    ours, theirs = json.loads(result.stdout)["models"][0]["engines"]
    assert ours["error"] < 1e-4 and theirs["error"] < 1e-4 and ours["rounds"] == theirs["rounds"] >= 3
    assert Store().load().status == "complete"


@pytest.mark.slow
def test_a_real_interruption(digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    command = [sys.executable, "-m", "hasten.cli", "bench", digits, "-p", "onnxruntime", "--budget", "60", "--band", "0.01%", "--no-starts", "--even-if-busy",
               "--store", tmp_path / "s.sqlite"]  # fmt: skip
    here = {**os.environ, "PYTHONPATH": str(Path(hasten.__file__).parents[1])}
    process = subprocess.Popen([os.fspath(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=here)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not _samples(tmp_path / "s.sqlite"):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; what was measured is kept as run" in stderr and "classify_mnist_cnn" in stdout, stderr
    run = Store(tmp_path / "s.sqlite", create=False).load()
    assert run.status == "interrupted" and all(len(entry.samples) >= 3 for entry in run.subjects[0].entries)


def _samples(place: Path) -> int:
    try:
        return sqlite3.connect(place).execute("SELECT count(*) FROM sample").fetchone()[0] if place.exists() else 0
    except sqlite3.OperationalError:
        return 0
