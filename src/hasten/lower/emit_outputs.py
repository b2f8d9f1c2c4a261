"""The outputs of a Program: memory that is handed out to the caller, in row-major order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hasten.lower import trace as T
from hasten.lower.schedule import Schedule
from hasten.lower.trace import Tensor
from hasten.vm import program as P

if TYPE_CHECKING:
    from hasten.lower.emit import Emission


def output_homes(schedule: Schedule, outputs: Sequence[Tensor]) -> dict[int, Tensor]:
    """For each output the tensor whose memory can be handed out: itself, or what it reshapes; each memory only once."""
    homes: dict[int, Tensor] = {}
    taken: set[int] = set()
    for t in outputs:
        home = t
        while isinstance(home.origin, T.View) and home.origin.flat:
            home = home.origin.base
        free = id(home) not in taken and not isinstance(home.origin, (T.Source, T.Const)) and id(home) not in homes
        if isinstance(home.origin, T.View) and id(home) not in schedule.realized:
            free = False
        homes[id(t)] = home if free else t
        if free:
            taken.add(id(home))
    return homes


def emit_output(e: Emission, k: int, name: str, value: T.Value, homes: Mapping[int, Tensor]) -> None:
    """Hand out output number k: the memory of its home, or a copy where that is no output's memory or handed out already."""
    program = e.lowered.program
    if isinstance(value, T.Datum):
        own = e.fresh("given")  # a value that is given twice has two references
        e.code.append(P.Move(own, e.object_name(value)))
        program.outputs.append(P.ValueSpec(name, value.kind, own))
        return
    if not isinstance(value, Tensor):
        program.outputs.append(P.ObjectSpec(name, value.kind, e.object_name(value)))
        return
    e.need(*value.shape)
    buffer = e.buffers.get(id(homes[id(value)]))
    temporary = e.lowered.temporaries.get(buffer.name) if buffer else None
    given = {i.buffer for i in e.code if isinstance(i, P.Output)}
    if buffer is None or temporary is None or not temporary.output or buffer.name in given:
        buffer = e.copy(value, output=True)
    shape = tuple(e.traced.sizes.whole(d) for d in value.shape)
    program.outputs.append(P.TensorSpec(name, value.dtype, shape, buffer.name))
    e.code.append(P.Output(k, buffer.name, value.shape))
