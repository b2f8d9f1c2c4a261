"""Where temporaries lie: one arena whose size is an expression of the input sizes; what depends on data gets memory of its own.

Lifetimes are intervals over the instructions, nested ones counted in the order of the text. Temporaries are laid into slots, largest first;
those whose lifetimes don't meet share a slot, and a slot is as large as the largest of them for any sizes. Where all sizes are known this is the
usual best-fit colouring; where they aren't, sizes are compared for the typical values `TYPICAL`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.vm import program as P

TYPICAL = 97  # stands for every unknown size when two memory sizes are compared


@dataclass
class Life:
    """First and last instruction (in text order) that mentions a buffer."""

    first: int
    last: int


@dataclass
class _Slot:
    size: DimLike
    typical: int
    lives: list[Life] = field(default_factory=list)


def plan(program: P.Program, sizes: dict[str, DimLike], outputs: set[str], known: frozenset[str]) -> DimLike:
    """Give every temporary its memory, in place in `program.instructions`. `sizes`: bytes of each temporary; `outputs`: those handed to the
    caller; `known`: size symbols bound by the inputs. Returns the peak size of the arena."""
    lives: dict[str, Life] = {}
    _lifetimes(program.instructions, sizes, lives, [0])
    static = {b for b, s in sizes.items() if b in lives and b not in outputs and D.symbols(s) <= known}
    slots, slot_of = _slots({b: sizes[b] for b in static}, lives)
    offsets: list[DimLike] = []
    total: DimLike = 0
    for slot in slots:
        offsets.append(total)
        total = total + D.ceildiv(slot.size, 64) * 64
    place = {b: P.View(b, "arena", offsets[k]) for b, k in slot_of.items()}
    for b in sizes:
        if b in lives and b not in place:
            place[b] = P.Alloc(b, sizes[b], "output" if b in outputs else "heap")  # type: ignore[assignment]
    views = [place.pop(b) for b in list(slot_of)]
    program.instructions[:] = _insert(program.instructions, place, lives, outputs)  # type: ignore[arg-type]
    if slots:
        program.instructions[:0] = [P.Arena("arena", total), *views]
    return total


def _mentions(i: P.Instruction) -> list[str]:
    if isinstance(i, P.Call):
        return [a for a in i.args if isinstance(a, str)]
    if isinstance(i, P.Read):
        return [i.buffer]
    if isinstance(i, P.View):
        return [i.buffer, i.base]
    if isinstance(i, P.Output):
        return [i.buffer]
    if isinstance(i, P.Host):
        return [x.buffer for x in (*i.inputs, *i.outputs) if isinstance(x, P.HostTensor)]
    return []


def _lifetimes(code: list[P.Instruction] | tuple[P.Instruction, ...], sizes: dict[str, DimLike], lives: dict[str, Life], clock: list[int]) -> None:
    for i in code:
        clock[0] += 1
        for b in _mentions(i):
            if b in sizes:
                lives.setdefault(b, Life(clock[0], clock[0])).last = clock[0]
        if isinstance(i, P.If):
            _lifetimes(i.then, sizes, lives, clock)
            _lifetimes(i.other, sizes, lives, clock)
        elif isinstance(i, P.While):
            began = clock[0]
            before = set(lives)
            _lifetimes(i.body, sizes, lives, clock)
            for b in before:  # what lived before a loop and is used in it lives through all of its rounds
                if lives[b].last > began:
                    lives[b].last = clock[0]


def _slots(sizes: dict[str, DimLike], lives: dict[str, Life]) -> tuple[list[_Slot], dict[str, int]]:
    typical = {b: D.evaluate(s, _Typical()) for b, s in sizes.items()}
    slots: list[_Slot] = []
    slot_of: dict[str, int] = {}
    for b in sorted(sizes, key=lambda b: (-typical[b], lives[b].first)):
        life = lives[b]
        free = [k for k, s in enumerate(slots) if all(x.last < life.first or life.last < x.first for x in s.lives)]
        best = min(free, key=lambda k: slots[k].typical, default=None)
        if best is None:
            slots.append(_Slot(sizes[b], typical[b]))
            best = len(slots) - 1
        slots[best].size = D.maximum(slots[best].size, sizes[b])
        slots[best].lives.append(life)
        slot_of[b] = best
    return slots, slot_of


class _Typical(dict):  # type: ignore[type-arg]
    """Every symbol has a typical value, a different one each, so that sums compare as they usually would."""

    def __missing__(self, name: str) -> int:
        return TYPICAL + hashlib.sha256(name.encode()).digest()[0] % 7


def _insert(code: list[P.Instruction] | tuple[P.Instruction, ...], place: dict[str, P.Instruction], lives: dict[str, Life],
            outputs: set[str]) -> list[P.Instruction]:  # fmt: skip
    """Put each buffer's placement before its first mention, and Free after the last one of heap memory."""
    done: set[str] = set()
    clock = [0]

    def walk(code: list[P.Instruction] | tuple[P.Instruction, ...]) -> list[P.Instruction]:
        out: list[P.Instruction] = []
        for i in code:
            clock[0] += 1
            now = clock[0]
            for b in _mentions(i):
                if b in place and b not in done:
                    done.add(b)
                    out.append(place[b])
            if isinstance(i, P.If):
                then = tuple(walk(i.then))
                out.append(replace(i, then=then, other=tuple(walk(i.other))))
            elif isinstance(i, P.While):
                out.append(replace(i, body=tuple(walk(i.body))))
            else:
                out.append(i)
            for b in dict.fromkeys(_mentions(i)):
                if b in place and isinstance(place[b], P.Alloc) and b not in outputs and lives[b].last == now:
                    out.append(P.Free(b))
        return out

    return walk(code)


