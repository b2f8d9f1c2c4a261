"""A gate for continuous integration: a recorded baseline, and whether a later run is slower than it.

The baseline holds ratios to a peer of the same run, so it carries over to machines of the same kind. Whatever cannot be judged fails the gate: it is
never green because it measured nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hasten.base.errors import CorruptFile, InputError
from hasten.bench.changes import GOOD, Change, Result, compare, results
from hasten.bench.summary import Summary

FORMAT, VERSION = "hasten-bench-baseline", 1
BAND = 0.05
ROUNDS = 40  # at least, of a run that is recorded or judged: a clear winner is known after ten, a change of a few percent is not
PASSED, SLOWER, UNDECIDED, NOTHING = 0, 1, 2, 3  # exit codes


@dataclass(frozen=True)
class Baseline:
    """Where results come from, and the results."""

    run: str
    began: str
    revision: str
    machine: dict[str, Any]
    engines: dict[str, dict[str, str]]  # what each said of itself
    results: list[Result]


@dataclass(frozen=True)
class Outcome:
    """All changes, the worst that they say as an exit code, and remarks on what is not the same as in the baseline."""

    changes: list[Change]
    remarks: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        words = {change.word for change in self.changes}
        if "slower" in words:
            return SLOWER
        if "missing" in words or not words:
            return NOTHING
        return UNDECIDED if "undecided" in words else PASSED

    def says(self) -> str:
        """In a sentence."""
        counts = [(word, sum(change.word == word for change in self.changes)) for word in ("slower", "missing", "undecided")]
        passed = sum(change.word in GOOD for change in self.changes)
        parts = [*(f"{count} {word}" for word, count in counts if count), *([f"{passed} not slower"] if passed else [])]
        verdict = {PASSED: "passed", SLOWER: "failed: slower", UNDECIDED: "undecided", NOTHING: "failed: not everything was measured"}[self.code]
        return f"the gate {verdict} ({', '.join(parts) or 'nothing measured'})"


def save(summary: Summary, path: Path) -> None:
    """Record a run as the baseline. Raises InputError where the run holds nothing to compare with later."""
    found = results(summary)
    if summary.run.status != "complete":
        raise InputError(f"the run was {summary.run.status}: no baseline is made of it.")
    if len(found) < len(summary.blocks) or not found:
        lacking = ", ".join(sorted({block.name for block in summary.blocks} - {result.model for result in found})) or "everything"
        raise InputError(f"a baseline needs {summary.base} and a peer on every model, because ratios carry over and times don't; lacking: {lacking}.")
    if few := [result.model for result in found if result.deviation == float("inf")]:
        raise InputError(f"too few rounds for a baseline: {', '.join(few)}. Measure longer (--budget).")
    run = summary.run
    baseline = Baseline(run.id, run.began, run.revision, run.machine, _engines(summary), found)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, "version": VERSION, **asdict(baseline)}, indent=1, default=str) + "\n")


def load(path: Path) -> Baseline:
    """Raises CorruptFile where the file is no baseline of this version."""
    try:
        content = json.loads(path.read_text())
        if (content.pop("format"), content.pop("version")) != (FORMAT, VERSION):
            raise ValueError(f"not {FORMAT} of version {VERSION}")
        found = Baseline(**{**content, "results": [Result(**result) for result in content["results"]]})
    except FileNotFoundError:
        raise InputError(f"there is no baseline {path} yet; record one with --save-baseline {path}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{path} is no baseline that this version of Hasten can read ({error}); record it again with --save-baseline {path}.") from None
    if not found.results:
        raise CorruptFile(f"{path} is a baseline of nothing; record it again with --save-baseline {path}.")
    return found


def judge(baseline: Baseline, summary: Summary, band: float = BAND) -> Outcome:
    """Hold a run to a baseline. A run that was refused or interrupted is held to it with nothing."""
    now: list[Result] = []
    if summary.run.status == "complete":
        wanted = dict.fromkeys(result.peer for result in baseline.results)
        now = [result for peer in wanted for result in results(summary, peer)]
    return Outcome(compare(baseline.results, _matching(baseline.results, now), band), list(_remarks(baseline, summary)))


def _matching(then: Sequence[Result], now: Sequence[Result]) -> list[Result]:
    """Those of `now` with the peer of then."""
    wanted = {result.key: result.peer for result in then}
    return [result for result in now if wanted.get(result.key) == result.peer]


def _engines(summary: Summary) -> dict[str, dict[str, str]]:
    return {line.entry.engine: line.entry.about for block in reversed(summary.blocks) for line in block.lines if line.entry.about}


def _remarks(baseline: Baseline, summary: Summary) -> list[str]:
    found = []
    then, now = baseline.machine.get("cpu"), summary.run.machine.get("cpu")
    if then != now:
        found.append(f"the baseline was taken on another CPU ({then}; this is {now}): ratios may differ for that alone")
    peers = {result.peer for result in baseline.results}
    said = _engines(summary)
    for peer in sorted(peers & set(said)):
        old, new = (about.get("version", "") for about in (baseline.engines.get(peer, {}), said[peer]))
        if old != new:
            found.append(f"{peer} was {old or 'of unknown version'} then and is {new or 'of unknown version'} now: part of a change may be its own")
    known = {result.model for result in baseline.results}
    if new_ones := sorted({block.name for block in summary.blocks} - known):
        found.append(f"not in the baseline, so not judged: {', '.join(new_ones)}")
    return found
