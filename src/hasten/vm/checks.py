"""What of a model's types is left to check when it runs: each check with its node, and the point at which it is done."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from hasten.vm.listing import Line, Listing
from hasten.vm.program import Alloc, Arena, Call, Check, Host

_NODE = re.compile(r"[A-Z]\w* '[^']*'")


@dataclass(frozen=True)
class RunCheck:
    """A check of a run. node: the model's node that needs it ("" where it is the caller's promise); number: of its instruction, as `hasten
    disassemble` shows it; when: "entry", where it comes before anything is allocated or computed, or the instruction after which it is done."""

    number: int
    node: str
    condition: str
    message: str
    when: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_checks(listing: Listing) -> list[RunCheck]:
    """All checks of a Program in their order, those of functions too."""
    found: list[RunCheck] = []
    for lines in (listing.code, *listing.functions.values()):
        when = "entry" if lines is listing.code else "entry of a function"
        for line in lines:
            i = line.instruction
            if isinstance(i, Check):
                node = _NODE.match(i.message)
                found.append(RunCheck(line.number, node.group() if node else "", f"{i.left} {i.op} {i.right}", i.message, when))
            elif isinstance(i, (Alloc, Arena, Call, Host)):
                when = f"after {line.number}: {_what(line)}"
    return found


def _what(line: Line) -> str:
    i = line.instruction
    return line.note or (i.kernel if isinstance(i, Call) else type(i).__name__.lower())
