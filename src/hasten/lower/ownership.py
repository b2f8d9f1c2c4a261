"""Where references are made and given up: puts `Retain` and `Release` into code that was written as if memory took care of itself.

The rule that the result keeps: at every point of the code, each counted name that is needed later owns exactly one reference, and no other name owns
any. So what an instruction takes over (`Pack`, `Invoke`, `Return`) is retained before where the name is needed afterwards; what only gets a name
(`Field`, `View`, `Move`) is retained; and after its last use a name is released, on every way that the code can take. Memory lives no longer than it
is needed, and a tail call finds nothing left of the activation.

Counted names are all values, and buffers that come from zone "heap", fields, parameters and results of functions, with their views. Heap buffers that the
code releases itself are left alone (`hasten.lower.memory` does that for temporaries of the main code).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from hasten.vm import abi
from hasten.vm import program as P

Name = str | P.Value
"""A buffer or a value."""
_Code = Sequence[P.Instruction]


def place(program: P.Program) -> None:
    """Put Retain and Release into the main code and the functions, in place. Code that has them already keeps its meaning only where these are
    for heap buffers."""
    given: list[Name] = [P.Value(s.value) for s in program.inputs if isinstance(s, P.ValueSpec)]
    wanted: set[Name] = {P.Value(s.value) for s in program.outputs if isinstance(s, P.ValueSpec)}
    program.instructions[:] = _placed(program.instructions, given, wanted)
    program.functions[:] = [replace(f, instructions=tuple(_placed(f.instructions, _names(f.params), set()))) for f in program.functions]


def _placed(code: _Code, given: Sequence[Name], wanted: set[Name]) -> list[P.Instruction]:
    """`given`: names that own a reference at the beginning; `wanted`: those that must own one at the end."""
    placed, needed = _Placing(_counted(code, given)).block(code, wanted)
    return [*_releases(set(given) - needed), *placed]


def _names(operands: Iterable[P.Operand]) -> list[Name]:
    return [x for x in operands if isinstance(x, (str, P.Value))]


# --- what instructions do with names ------------------------------------------------------------------------------------
def _taken(i: P.Instruction) -> list[Name]:
    """Names whose references an instruction takes over, each as often as it does."""
    if isinstance(i, P.Pack):
        return _names(i.fields)
    if isinstance(i, P.Return):
        return _names(i.results)
    if isinstance(i, P.Invoke):
        return [*_names(i.args), *([i.function] if isinstance(i.function, P.Value) else [])]
    return []


def _looked_at(i: P.Instruction) -> list[Name]:
    """Names that an instruction uses and leaves as they are."""
    if isinstance(i, P.Call):
        return _names(i.args)
    if isinstance(i, (P.Read, P.Output)):
        return [i.buffer]
    if isinstance(i, P.View):
        return [i.base]
    if isinstance(i, (P.Tag, P.Field)):
        return [P.Value(i.value)]
    if isinstance(i, P.Host):
        return [x.buffer for x in i.inputs if isinstance(x, P.HostTensor)]
    return [P.Value(i.source)] if isinstance(i, P.Move) else []


def _made(i: P.Instruction) -> list[Name]:
    """Names that an instruction gives a reference of their own."""
    if isinstance(i, P.Alloc):
        return [i.buffer] if i.zone == "heap" else []
    if isinstance(i, P.Pack):
        return [P.Value(i.value)]
    return _names(i.results) if isinstance(i, P.Invoke) else []


def _shared(i: P.Instruction) -> list[Name]:
    """Names that an instruction gives to what another reference keeps."""
    if isinstance(i, P.View):
        return [i.buffer]
    if isinstance(i, P.Field):
        return _names([i.target])
    return [P.Value(i.value)] if isinstance(i, P.Move) else []


def _counted(code: _Code, given: Sequence[Name]) -> set[Name]:
    everything = list(abi.walk(code))
    by_hand = {i.name for i in everything if isinstance(i, P.Release)}
    counted: set[Name] = set(given)
    while True:
        known = len(counted)
        for i in everything:
            view = isinstance(i, P.View) and i.base not in counted
            counted.update(n for n in _made(i) + ([] if view else _shared(i)) if n not in by_hand)
        if len(counted) == known:
            return counted


def _releases(names: set[Name]) -> list[P.Instruction]:
    return [P.Release(n) for n in sorted(names, key=lambda n: (isinstance(n, P.Value), n.name if isinstance(n, P.Value) else n))]


# --- placing ------------------------------------------------------------------------------------------------------------
class _Placing:
    """Walks code from its end to its beginning, with the names that are needed later."""

    def __init__(self, counted: set[Name]):
        self.counted = counted

    def only(self, names: Iterable[Name]) -> list[Name]:
        return [n for n in names if n in self.counted]

    def block(self, code: _Code, needed: set[Name]) -> tuple[list[P.Instruction], set[Name]]:
        """The code with its references, and the names needed before it. `needed`: those needed after it."""
        out: list[P.Instruction] = []  # from the end
        for i in reversed(code):
            if isinstance(i, P.If):
                around, needed = self.branches(i, needed)
            elif isinstance(i, P.While):
                around, needed = self.loop(i, needed)
            else:
                ends = isinstance(i, P.Return) or (isinstance(i, P.Invoke) and i.tail)
                around, needed = self.plain(i, set() if ends else needed)
            out.extend(reversed(around))
        return out[::-1], needed

    def plain(self, i: P.Instruction, needed: set[Name]) -> tuple[list[P.Instruction], set[Name]]:
        shared, made = self.only(_shared(i)), self.only(_made(i))
        taken, looked_at = self.only(_taken(i)), self.only(_looked_at(i))
        after: list[P.Instruction] = [P.Retain(n) for n in shared if n in needed]
        after += _releases({n for n in made if n not in needed})
        still = needed - {*shared, *made}
        before: list[P.Instruction] = []
        for name, times in Counter(taken).items():
            before += [P.Retain(name)] * (times if name in still else times - 1)
        for name in dict.fromkeys(looked_at):
            if name in still:
                continue
            if name in shared:  # the name goes over to something else: its reference gets another one
                old = _old(name)
                before.append(P.Move(old.name, name.name) if isinstance(name, P.Value) and isinstance(old, P.Value) else P.View(str(old), str(name)))
                name = old
            after.append(P.Release(name))
        return [*before, i, *after], still | {*taken, *looked_at}

    def branches(self, i: P.If, needed: set[Name]) -> tuple[list[P.Instruction], set[Name]]:
        (then, for_then), (other, for_other) = self.block(i.then, needed), self.block(i.other, needed)
        then = [*_releases(for_other - for_then), *then]
        other = [*_releases(for_then - for_other), *other]
        return [replace(i, then=tuple(then), other=tuple(other))], for_then | for_other

    def loop(self, i: P.While, needed: set[Name]) -> tuple[list[P.Instruction], set[Name]]:
        head = set(needed)
        while True:
            body, for_body = self.block(i.body, head)
            if for_body <= head:
                break
            head |= for_body
        again = replace(i, body=(*_releases(head - for_body), *body))
        return [again, *_releases(head - needed)], head


def _old(name: Name) -> Name:
    return P.Value(f"{name.name}.old") if isinstance(name, P.Value) else f"{name}.old"
