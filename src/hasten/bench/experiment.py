"""A whole measurement: models times engines times numbers of threads, from the first look at the machine to the last check of an answer.

For each model and number of threads: start every engine (cold, then warm, each in a fresh process), check the answers, warm up, play rounds, check
again. What fails is told in `Entry.trouble` and costs nobody else's result; an interruption (Ctrl-C) keeps what there is.
"""

from __future__ import annotations

import compileall
import contextlib
import datetime
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from hasten.base.errors import HastenError, InputError
from hasten.bench import checks, machine
from hasten.bench.machine import Check, Watch
from hasten.bench.peer import EngineSpec, Feeds
from hasten.bench.peers.revision import source_of
from hasten.bench.process import Engine, EngineError
from hasten.bench.reference import reference
from hasten.bench.results import Entry, Run, Subject
from hasten.bench.rounds import Design, Seat, play

OURS = "hasten"  # the peer that has revisions
FIRST_PAUSE = 1.0  # seconds between first looks at a busy machine
WORKPLACE = "hasten-bench-"  # folders of this name and a process's number hold engines' caches while it runs


@dataclass(frozen=True)
class Task:
    """A model and its inputs. `label`: what to call it, for people; the file's name without."""

    model: Path
    feeds: Feeds
    label: str = ""


@dataclass(frozen=True)
class Progress:
    """Where a measurement is: `stage` is "check", "reference", "start", "warm-up", "rounds" or "verify"; `share` of the stage is done (0 to 1)."""

    label: str
    threads: int
    stage: str
    engine: str = ""
    rounds: int = 0
    share: float = 0.0


def measure(
    tasks: Sequence[Task], engines: Sequence[EngineSpec], threads: Sequence[int] = (1,), design: Design | None = None,
    progress: Callable[[Progress], None] = lambda step: None, keep: Callable[[Run], None] = lambda run: None, references: Path | None = None,
) -> Run:  # fmt: skip
    """Measure. The first engine is the one that others are judged against.

    `progress` is told each step. `keep` is given the run when it begins, every few seconds, and after each model: whatever is there may be stored.
    `references`: a folder where float64 references are kept for the next time.
    """
    experiment = _Experiment(list(dict.fromkeys(threads)), design or Design(), progress, keep)
    return experiment.measure(tasks, list({str(spec): spec for spec in engines}.values()), references)


class _Experiment:
    """One call of `measure`."""

    def __init__(self, threads: list[int], design: Design, progress: Callable[[Progress], None], keep: Callable[[Run], None]):
        self._threads, self._design, self._progress, self._keep = threads, design, progress, keep
        self._run = Run(str(uuid.uuid4()), _now(), _revision(), machine.describe())
        self._checks: list[Check] = []

    def measure(self, tasks: Sequence[Task], engines: Sequence[EngineSpec], references: Path | None) -> Run:
        run = self._run
        run.design = {**asdict(self._design), "engines": [str(spec) for spec in engines], "threads": self._threads}
        self._progress(Progress("", max(self._threads), "check"))
        self._look(_first_look(Watch(max(self._threads))))
        self._keep(run)
        try:
            if not self._busy():
                self._all(tasks, engines, references)
            run.status = "refused" if self._busy() else "complete"
        except KeyboardInterrupt:
            run.status = "interrupted"
            self._caution("interrupted: answers were not checked again after the last rounds")
        run.ended = _now()
        self._keep(run)
        return run

    def _all(self, tasks: Sequence[Task], engines: Sequence[EngineSpec], references: Path | None) -> None:
        with workplace() as folder:
            for task in tasks:
                subject = _subject(task)
                self._run.subjects.append(subject)
                self._progress(Progress(subject.label, 0, "reference"))
                truth = reference(task.model, task.feeds, references)
                subject.reference_note = truth.note
                for threads in self._threads:
                    with _Sitting(subject, task, threads, self._design, folder, self._progress) as sitting:
                        self._sit(sitting, engines, truth.outputs)
                self._keep(self._run)
            self._look(Watch(max(self._threads)).check())

    def _sit(self, sitting: _Sitting, engines: Sequence[EngineSpec], truth: Mapping[str, Any] | None) -> None:
        """One model with one number of threads."""
        for spec in engines:
            sitting.start(spec)
        if sitting.seats:
            sitting.check(truth)
            sitting.warm_up()
            sitting.play(self._checked)
            for caution in sitting.verify():
                self._caution(caution)

    # --- the machine ------------------------------------------------------------------------------------------------------
    def _checked(self, check: Check) -> None:
        self._look(check)
        self._keep(self._run)

    def _look(self, check: Check) -> None:
        self._checks.append(check)
        for remark in (*check.refusals, *check.cautions):
            self._caution(remark)

    def _caution(self, text: str) -> None:
        """Each kind of remark once, with the figures of its first time: a kind is what stands before the colon."""
        if not any(known.partition(":")[0] == text.partition(":")[0] for known in self._run.cautions):
            self._run.cautions.append(text)

    def _busy(self) -> bool:
        """Whether most looks at the machine found too little of it free."""
        busy = sum(bool(check.refusals) for check in self._checks)
        return not self._design.even_if_busy and 2 * busy > len(self._checks)


class _Sitting:
    """One model with one number of threads: the processes of all engines, from their start to their end."""

    def __init__(self, subject: Subject, task: Task, threads: int, design: Design, folder: Path, progress: Callable[[Progress], None]):
        self._subject, self._task, self._threads, self._design, self._folder, self._progress = subject, task, threads, design, folder, progress
        self._cpus = machine.choose_cpus(threads)
        self._processes = contextlib.ExitStack()
        self._answers: dict[str, Mapping[str, Any]] = {}
        self._truth: Mapping[str, Any] = {}
        self.seats: list[Seat] = []

    def __enter__(self) -> _Sitting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._processes.__exit__(kind, error, trace)

    def start(self, spec: EngineSpec) -> None:
        """Start an engine twice: from nothing, and with what the first start left behind; the second process stays."""
        entry = Entry(str(spec), self._threads)
        self._subject.entries.append(entry)
        self._tell("start", entry)
        try:
            spec, cache = _resolved(spec, self._folder), Path(tempfile.mkdtemp(dir=self._folder))
            if self._design.starts:
                with self._engine(spec, cache) as first:
                    entry.cold_start_ns = first.load(self._task.feeds).answered_ns - first.began_ns
                    entry.about["peak bytes of the cold start"] = str(first.usage().peak_bytes)
            engine = self._processes.enter_context(self._engine(spec, cache))
            loaded = engine.load(self._task.feeds)
        except HastenError as error:
            entry.trouble = str(error)
            return
        taken = loaded.answered_ns - engine.began_ns
        if self._design.starts:
            entry.warm_start_ns = taken
        entry.about.update(loaded.about)
        self._answers[entry.engine] = loaded.outputs
        self.seats.append(Seat(engine, entry, loaded.base_bytes, taken / 1e9))

    def _engine(self, spec: EngineSpec, cache: Path) -> Engine:
        return Engine(spec, self._task.model, self._threads, self._cpus, cache, limit=self._design.limit_seconds)

    def check(self, truth: Mapping[str, Any] | None) -> None:
        """Send away what is wrong."""
        self._truth = checks.before(self._subject, [(seat, self._answers[seat.entry.engine]) for seat in self.seats], truth, self._design)
        self._drop_troubled()

    def warm_up(self) -> None:
        for seat in self.seats:
            self._tell("warm-up", seat.entry)
            try:
                seat.settle(self._design)
            except EngineError as error:
                seat.entry.trouble = f"while warming up: {error}"
        self._drop_troubled()

    def play(self, on_check: Callable[[Check], None]) -> None:
        """The rounds, in which engines that fail leave."""

        def on_round(rounds: int, share: float) -> None:
            self._progress(Progress(self._subject.label, self._threads, "rounds", "", rounds, share))

        if self.seats:
            play(self.seats, self._design, Watch(self._threads), on_round=on_round, on_check=on_check)

    def verify(self) -> list[str]:
        """The checks after the rounds; what was measured of an engine that fails them is dropped."""
        self._tell("verify")
        cautions = checks.after(self.seats, self._task.feeds, self._truth, self._design)
        for seat in self.seats:
            if seat.entry.trouble:
                seat.entry.samples.clear()
        return [f"{self._subject.label}, {self._threads} threads: {caution}" for caution in cautions]

    def _drop_troubled(self) -> None:
        self.seats = [seat for seat in self.seats if not seat.entry.trouble]

    def _tell(self, stage: str, entry: Entry | None = None) -> None:
        self._progress(Progress(self._subject.label, self._threads, stage, entry.engine if entry else ""))


def _first_look(watch: Watch) -> Check:
    """A refusal stands when three looks in a row refuse: what was started just before may still be ending."""
    for _ in range(3):
        if not (check := watch.check()).refusals:
            break
        time.sleep(FIRST_PAUSE)
    return check


def _subject(task: Task) -> Subject:
    digest = hashlib.sha256(task.model.read_bytes()).hexdigest()
    return Subject(str(task.model), digest, task.label or task.model.stem, {name: _kind(value) for name, value in task.feeds.items()})


def _kind(value: Any) -> str:
    """float32[1, 3, 224, 224]"""
    return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__


def _resolved(spec: EngineSpec, folder: Path) -> EngineSpec:
    """The spec that the engine's process is given: a revision of Hasten as its source tree, compiled to bytecode as installed packages are."""
    if not spec.revision:
        return spec
    if spec.peer != OURS:
        raise InputError(f"{spec}: only {OURS} has revisions; of other engines, the installed one is measured.")
    source = source_of(spec.revision, folder)
    compileall.compile_dir(source, quiet=2)
    return EngineSpec(spec.peer, "", {**spec.options, "source": str(source)})


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder for engines' caches, gone afterwards; those of processes that were killed are removed, too."""
    for left in Path(tempfile.gettempdir()).glob(f"{WORKPLACE}*"):
        owner = left.name.removeprefix(WORKPLACE).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{WORKPLACE}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _revision() -> str:
    """Of the checkout that this Hasten lies in, with a + where it was changed; "" outside one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no", "--", "."], capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed else "")
