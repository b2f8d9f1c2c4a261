"""What keeps an engine from winning by being wrong: its answers are checked before it is timed, and again after.

Before: against the reference (float64, or one of the engines where there is none). After: the same answer must still come, other inputs must change it as
they change the other engines', and a call with inputs never seen must take as long as one with inputs seen before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hasten.bench.compare import largest_difference
from hasten.bench.inputs import altered
from hasten.bench.peer import Feeds
from hasten.bench.process import EngineError
from hasten.bench.results import Subject
from hasten.bench.rounds import Design, Seat

STAND_IN = "onnxruntime"  # the reference where there is no better one
REMEMBERED = 2.0  # times as long with new inputs: the answers to old ones are remembered
SLACK_NS = 20_000  # of a clock and a cache, in that comparison
CHANGED = 1e-2  # of the largest value: an answer that rounding did not change
FROZEN = 1e-6  # less than that, where others' answers changed, is no change
PROBE_SECONDS = (0.1, 1.0)  # the second time to be sure


def before(subject: Subject, answers: Sequence[tuple[Seat, Mapping[str, Any]]], truth: Mapping[str, Any] | None, design: Design) -> Mapping[str, Any]:
    """Enter the error of each engine, and trouble for those that are wrong; gives what they were measured against."""
    if truth is None:
        seat, truth = next(((s, outputs) for s, outputs in answers if s.engine.spec.peer == STAND_IN), answers[0])
        subject.reference = seat.entry.engine
    else:
        subject.reference = "float64"
    for seat, outputs in answers:
        difference = largest_difference(outputs, truth)
        seat.entry.error, seat.entry.error_output = difference.relative, difference.output
        if difference.relative > design.tolerance:
            seat.entry.trouble = f"wrong: {difference}, against {subject.reference}"
    return truth


def after(seats: Sequence[Seat], feeds: Feeds, truth: Mapping[str, Any], design: Design) -> list[str]:
    """Enter memory, and trouble for engines whose answers turn out wrong, frozen, remembered, or computed on more CPUs than agreed; gives cautions."""
    for seat in seats:
        try:
            _usage(seat)
            _still_right(seat, truth, design)
            _anew(seat)
        except EngineError as error:
            seat.entry.trouble = f"in the check after the rounds: {error}"
    return _follow([seat for seat in seats if not seat.entry.trouble], feeds, truth, design)


def _still_right(seat: Seat, truth: Mapping[str, Any], design: Design) -> None:
    difference = largest_difference(seat.engine.outputs(), truth)
    if difference.relative > design.tolerance:
        seat.entry.trouble = f"wrong after the rounds: {difference}"


def _usage(seat: Seat) -> None:
    usage = seat.engine.usage()
    seat.entry.peak_bytes, seat.entry.model_bytes = usage.peak_bytes, usage.peak_bytes - seat.base_bytes
    if beyond := usage.cpus - seat.engine.cpus:
        seat.entry.trouble = f"its threads run on CPUs {_list(beyond)}, too; all engines are given {_list(seat.engine.cpus)}"


def _anew(seat: Seat) -> None:
    for seconds in PROBE_SECONDS:
        seen, fresh = seat.engine.probe(seconds)
        if fresh <= REMEMBERED * seen + SLACK_NS:
            break
    else:
        seat.entry.trouble = f"it remembers answers: a call with inputs it has seen takes {seen / 1e6:.3g} ms, with new ones {fresh / 1e6:.3g} ms"


def _follow(seats: Sequence[Seat], feeds: Feeds, truth: Mapping[str, Any], design: Design) -> list[str]:
    """Other inputs must change the answers of all engines alike."""
    other, found, cautions = altered(feeds), [], []
    for seat in seats:
        try:
            old, new = (_named(seat.engine.outputs(one), truth) for one in (None, other))
            found.append((seat, new, _change(new, old)))
        except EngineError as error:
            cautions.append(f"with changed inputs: {error}")
    if max((change for _, _, change in found), default=0.0) < CHANGED:
        return [*cautions, "changed inputs change no answer much: that answers follow the inputs is not checked"]
    for seat, _, change in found:
        if change < FROZEN:
            seat.entry.trouble = "its answers do not follow the inputs: those to changed inputs are the same"
    alive = [(seat, new) for seat, new, change in found if change >= FROZEN]
    best, expected = min(alive, key=lambda one: math.inf if one[0].entry.error is None else one[0].entry.error)
    for seat, new in alive:
        if (difference := largest_difference(new, expected)).relative > design.tolerance:
            cautions.append(f"with changed inputs {seat.entry.engine} is far from {best.entry.engine}: {difference}")
    return cautions


def _named(outputs: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs that were asked for: some engines give one under several names."""
    return {name: value for name, value in outputs.items() if name in truth}


def _change(new: Mapping[str, Any], old: Mapping[str, Any]) -> float:
    """Of the output that changed most; another shape, or NaN, is a change."""
    return largest_difference(new, old).relative


def _list(cpus: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(cpus)))
