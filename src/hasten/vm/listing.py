"""A Program as people read it: numbered instructions, sizes as formulas or for given sizes of the inputs, and what each kernel computes.

    listing = Listing.of(program, sizes={"n": 8}, notes=[...])     # notes: one for each Call, in the order of `calls`
    print(listing)

`sizes` are put into all formulas, and so are the integers that follow from them (`Let`s of sizes alone); what the run finds out stays a name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hasten.base.dims import DimLike, evaluate, substitute, symbols
from hasten.base.errors import InputError
from hasten.vm import abi
from hasten.vm.forms import arguments_text, blocks, name_text, write_line
from hasten.vm.instructions import ROW_OF, Kind
from hasten.vm.program import Call, Instruction, Program
from hasten.vm.text import to_text

_LISTS = (Kind.SHAPE, Kind.ARGUMENTS, Kind.MIXED)


@dataclass(frozen=True)
class Line:
    """One instruction: its number in the Program (nested ones after the one that holds them, functions after the main code), how deep it is nested,
    its text, and for a Call what the kernel computes."""

    number: int
    depth: int
    text: str
    instruction: Instruction
    note: str = ""
    block: str = ""  # the block of the line above that begins here

    def to_dict(self) -> dict[str, Any]:
        return {"number": self.number, "depth": self.depth, "instruction": ROW_OF[type(self.instruction)].name, "text": self.text, "note": self.note}


@dataclass
class Listing:
    """A Program: `head` has lines on inputs, outputs, constants and types; `functions` maps a function's heading to its lines."""

    head: list[str]
    code: list[Line]
    functions: dict[str, list[Line]] = field(default_factory=dict)

    @staticmethod
    def of(program: Program, sizes: Mapping[str, int] | None = None, notes: Sequence[str] = ()) -> Listing:
        """Raises InputError for a size that no input has."""
        known = known_sizes(program, sizes) if sizes else {}
        writer = _Writer(known, {id(call): note for call, note in zip(calls(program), notes, strict=False)})
        code = list(writer.lines(program.instructions, 0))
        writer.known = {}  # integers of functions are their own
        functions = {f"function {name_text(f.name)} {arguments_text(f.params)}": list(writer.lines(f.instructions, 0)) for f in program.functions}
        return Listing(_head(program, known), code, functions)

    def __str__(self) -> str:
        parts = [*self.head, *_texts(self.code)]
        for heading, lines in self.functions.items():
            parts += ["", heading, *_texts(lines)]
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        functions = {heading: [line.to_dict() for line in lines] for heading, lines in self.functions.items()}
        return {"head": self.head, "code": [line.to_dict() for line in self.code], "functions": functions}


def calls(program: Program) -> list[Call]:
    """The Calls in the order of their numbers: of the main code, then of the functions."""
    code = [program.instructions, *(f.instructions for f in program.functions)]
    return [i for part in code for i in abi.walk(part) if isinstance(i, Call)]


def known_sizes(program: Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """`sizes`, and the integers that follow from them. Raises InputError for a size that no input has."""
    bound = abi.bind(program).bound
    strange = [name for name in sizes if name not in bound]
    if strange:
        raise InputError(f"no input has a size {', '.join(map(repr, strange))}; there are: {', '.join(bound) or 'none with a name'}")
    known = dict(sizes)
    for name, value in abi.derived(program).items():
        if symbols(value) <= known.keys():
            known[name] = evaluate(value, known)
    return known


def _head(program: Program, known: Mapping[str, int]) -> list[str]:
    def fixed(spec: Any) -> Any:
        return replace(spec, shape=tuple(_put(d, known) for d in spec.shape)) if hasattr(spec, "shape") else spec

    shown = replace(
        Program(constants=program.constants, types=program.types), inputs=list(map(fixed, program.inputs)), outputs=list(map(fixed, program.outputs))
    )
    lines = to_text(shown).splitlines()
    return [*lines[1:], *(f"host op {n}: {h.op} {h.name!r}" for n, h in enumerate(program.host_ops))]


class _Writer:
    def __init__(self, known: Mapping[str, int], notes: Mapping[int, str]):
        self.known, self.notes, self.number = known, notes, 0

    def lines(self, instructions: Sequence[Instruction], depth: int) -> Iterator[Line]:
        for i in instructions:
            yield Line(self.number, depth, write_line(self.evaluated(i)), i, self.notes.get(id(i), ""))
            self.number += 1
            for name, inner in blocks(i):
                for n, line in enumerate(self.lines(inner, depth + 1)):
                    yield replace(line, block=name) if n == 0 else line

    def evaluated(self, i: Instruction) -> Instruction:
        """The instruction with what is known put into its sizes."""
        changed: dict[str, Any] = {}
        for name, kind in ROW_OF[type(i)].operands.items():
            value = getattr(i, name)
            if kind is Kind.SIZE:
                changed[name] = _put(value, self.known)
            elif kind in _LISTS:
                changed[name] = tuple(_put(v, self.known) for v in value)
        return dataclasses.replace(i, **changed) if changed and self.known else i


def _put(value: Any, known: Mapping[str, int]) -> Any:
    return substitute(value, dict[str, DimLike](known)) if symbols(value) else value


def _texts(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        if line.block == "other":
            yield " " * 6 + "  " * (line.depth - 1) + "else"
        if line.note:
            yield f"      {'  ' * line.depth}; {line.note}"
        yield f"{line.number:4}  {'  ' * line.depth}{line.text}"
