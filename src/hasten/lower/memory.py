"""Where temporaries lie: one arena whose size is an expression of the input sizes; what depends on data gets memory of its own.

Lifetimes are intervals over the instructions, nested ones counted in the order of the text; `places` lays out the arena. Where sizes aren't known,
packings are compared for a few samples: the first axis of an input is most often a batch, and small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.lower.places import LINE, Life, Over, offsets, places
from hasten.vm import program as P

SAMPLES = ((1, 97), (6, 97), (16, 97), (97, 97))  # stand for unknown sizes: of first axes, others


def plan(program: P.Program, sizes: dict[str, DimLike], outputs: set[str], known: frozenset[str], lead: int = 0, arena: bool = True,
         over: Over | None = None) -> DimLike:  # fmt: skip
    """Give every temporary its memory, in place in `program.instructions`. `sizes`: bytes of each temporary; `outputs`: those handed to the
    caller; `known`: size symbols that the inputs and the first `lead` instructions give; `over`: see `Over`. Without `arena`, every
    temporary gets memory of its own. Returns the peak size of the arena."""
    lives = _lifetimes(program.instructions, sizes)
    static = [b for b, s in sizes.items() if arena and b in lives and b not in outputs and D.symbols(s) <= known]
    found = places({b: sizes[b] for b in static}, lives, over or {}, _samples(program, lead))
    at, total = offsets(found, {b: D.ceildiv(sizes[b], LINE) * LINE for b in static})
    place = {b: P.View(b, "arena", at[b]) for b in static}
    for b in sizes:
        if b in lives and b not in place:
            place[b] = P.Alloc(b, sizes[b], "output" if b in outputs else "heap")  # type: ignore[assignment]
    views = [place.pop(b) for b in static]
    program.instructions[:] = _insert(program.instructions, place, outputs)  # type: ignore[arg-type]
    if static:
        program.instructions[lead:lead] = [P.Arena("arena", total), *views]
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


def mentions(i: P.Instruction, buffer: str) -> bool:
    """Whether an instruction, or one inside of it, uses a buffer."""
    return buffer in _mentions(i) or any(mentions(inner, buffer) for _, code in _nested(i) for inner in code)


def _lifetimes(code: list[P.Instruction], sizes: dict[str, DimLike]) -> dict[str, Life]:
    """Lives of all buffers that are mentioned. What is used in a loop and outside of it lives through all rounds."""
    lives: dict[str, Life] = {}
    loops: list[Life] = []
    clock = 0

    def walk(code: list[P.Instruction] | tuple[P.Instruction, ...]) -> None:
        nonlocal clock
        for i in code:
            clock += 1
            began = clock
            for b in _mentions(i):
                if b in sizes:
                    lives.setdefault(b, Life(clock, clock)).last = clock
            for _, inner in _nested(i):
                walk(inner)
            if isinstance(i, P.While):
                loops.append(Life(began, clock))

    walk(code)
    for loop in loops:  # inner ones come first
        for life in lives.values():
            if loop.first <= life.first <= loop.last < life.last:
                life.first, life.begins = loop.first, False
            elif life.first < loop.first <= life.last <= loop.last:
                life.last, life.ends = loop.last, False
    return lives


class _Sample(dict[str, int]):
    """Every symbol has about the same value, a different one each, so that sums compare as they usually would."""

    def __init__(self, batches: Iterable[str], batch: int, other: int):
        super().__init__(dict.fromkeys(batches, batch))
        self.other = other

    def __missing__(self, name: str) -> int:
        return self.other + hashlib.sha256(name.encode()).digest()[0] % 7


def _samples(program: P.Program, lead: int) -> list[_Sample]:
    """Values of the sizes, from those of the inputs on."""
    batches = {s for i in program.inputs if isinstance(i, P.TensorSpec) and len(i.shape) > 1 for s in D.symbols(i.shape[0])}
    samples = [_Sample(batches, *row) for row in SAMPLES]
    for sample in samples:
        for i in program.instructions[:lead]:
            if isinstance(i, P.Let):
                sample[i.name] = D.evaluate(i.value, sample)
    return samples


Path = tuple[tuple[int, str], ...]  # (position of the instruction that nests, which side) from the outermost block inwards


def _insert(code: list[P.Instruction], place: dict[str, P.Instruction], outputs: set[str]) -> list[P.Instruction]:
    """Put each buffer's placement before its first mention, and Release after the last one of heap memory: in the innermost block that holds all
    mentions (a buffer that is mentioned on both sides of an If, or in a loop and after it, is placed before that)."""
    mentions: dict[str, list[tuple[Path, int]]] = {}
    _find(code, (), place, mentions)
    before: dict[tuple[Path, int], list[P.Instruction]] = {}
    after: dict[tuple[Path, int], list[P.Instruction]] = {}
    for b, found in mentions.items():
        block = _common([path for path, _ in found])
        at = [path[len(block)][0] if len(path) > len(block) else k for path, k in found]
        before.setdefault((block, min(at)), []).append(place[b])
        if isinstance(place[b], P.Alloc) and b not in outputs:
            after.setdefault((block, max(at)), []).append(P.Release(b))
    return _rebuild(code, (), before, after)


def _find(code: list[P.Instruction] | tuple[P.Instruction, ...], path: Path, place: dict[str, P.Instruction], found: dict[str, list[tuple[Path, int]]]) -> None:
    for k, i in enumerate(code):
        for b in _mentions(i):
            if b in place:
                found.setdefault(b, []).append((path, k))
        for side, inner in _nested(i):
            _find(inner, (*path, (k, side)), place, found)


def _nested(i: P.Instruction) -> list[tuple[str, tuple[P.Instruction, ...]]]:
    if isinstance(i, P.If):
        return [("then", i.then), ("other", i.other)]
    return [("body", i.body)] if isinstance(i, P.While) else []


def _common(paths: list[Path]) -> Path:
    """The innermost block that all of these are in."""
    first = min(paths, key=len)
    length = 0
    while length < len(first) and all(p[length] == first[length] for p in paths):
        length += 1
    return first[:length]


def _rebuild(code: list[P.Instruction] | tuple[P.Instruction, ...], path: Path, before: dict[tuple[Path, int], list[P.Instruction]],
             after: dict[tuple[Path, int], list[P.Instruction]]) -> list[P.Instruction]:  # fmt: skip
    out: list[P.Instruction] = []
    for k, i in enumerate(code):
        out.extend(before.get((path, k), []))
        inner = {side: tuple(_rebuild(body, (*path, (k, side)), before, after)) for side, body in _nested(i)}
        out.append(replace(i, **inner) if inner else i)  # type: ignore[arg-type]
        out.extend(after.get((path, k), []))
    return out
