"""Emission of functions: like a model's, with buffers and names of their own; kernels and constants are those of the whole Program."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hasten.base import dims as D
from hasten.lower.emit_control import emit_end
from hasten.lower.emit_steps import assigned
from hasten.lower.folding import is_static
from hasten.lower.lowered import Lowered
from hasten.lower.schedule import Schedule
from hasten.lower.trace import TracedFunction
from hasten.vm import program as P

if TYPE_CHECKING:
    from hasten.lower.emit import Emission


def emit_function(e: Emission, f: TracedFunction) -> Lowered:
    """A function's code, in `program.instructions` of what is given. `e`: an emission of its own."""
    params = [assigned(e, p) for p in f.params]
    closure = [] if f.closure is None else [assigned(e, f.closure)]
    e.defined = set(f.sizes)
    e.begin()
    e.schedule = Schedule(e.cx, [f.end]).run()  # type: ignore[list-item]
    e.homes = set()
    for t in e.schedule.order:
        is_static(e, t)
        if id(t) in e.schedule.realized:
            e.realize(t)
    e.emit_checks(last=True)
    emit_end(e, f.end)
    e.lowered.function = P.Function(f.name, (*params, *(D.symbol(name) for name in f.sizes), *closure), ())
    return e.lowered


def own_lowered(whole: Lowered) -> Lowered:
    """What emission of one more function makes: kernels, constants and report are the whole's."""
    return replace(whole, program=P.Program(), temporaries={}, known=frozenset(), lead=0, over={}, counted=set(), functions=[])


def counted_memory(code: list[P.Instruction], handed: set[str]) -> list[P.Instruction]:
    """Code as `lower.ownership` takes it: all memory that is no arena's and not handed out is counted, and nothing is freed by name."""
    made: list[P.Instruction] = []
    for i in code:
        if isinstance(i, P.Release):
            continue
        if isinstance(i, P.Alloc) and i.buffer not in handed:
            i = replace(i, zone="heap")
        elif isinstance(i, P.If):
            i = replace(i, then=tuple(counted_memory(list(i.then), handed)), other=tuple(counted_memory(list(i.other), handed)))
        elif isinstance(i, P.While):
            i = replace(i, body=tuple(counted_memory(list(i.body), handed)))
        made.append(i)
    return made
