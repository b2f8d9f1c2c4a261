"""Counted memory in the interpreter: what values and heap buffers are there, with the checks that the native driver leaves out.

A reference may be given up once for each time that it was made; code that uses memory after the last reference to it was given up is a fault of
whoever made the Program, and gets a CompileError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from hasten.base.errors import CompileError


@dataclass(eq=False)
class Counted:
    """The memory of a heap buffer (no fields), or a value. `count` references to it exist."""

    count: int = 1
    tag: int = -1
    fields: tuple[Word, ...] = ()


class Buffer(NamedTuple):
    """Memory of a run."""

    address: int
    owner: object  # keeps the memory alive
    counted: Counted | None = None  # None: it outlives all activations, or ...
    scratch: bool = False  # ... lies in an arena


Word = Buffer | Counted | int


class Counts:
    """The references of a run."""

    def __init__(self) -> None:
        self.alive = 0  # pieces of counted memory

    def new(self, tag: int = -1, fields: tuple[Word, ...] = ()) -> Counted:
        self.alive += 1
        return Counted(1, tag, fields)

    def retain(self, word: Word) -> None:
        counted = _counted(word)
        if counted is not None:
            counted.count += 1

    def release(self, word: Word) -> None:
        """Without recursion: values may be deep."""
        work = [word]
        while work:
            counted = _counted(work.pop())
            if counted is None:
                continue
            counted.count -= 1
            if counted.count == 0:
                self.alive -= 1
                work += counted.fields
                counted.fields = ()


def _counted(word: Word) -> Counted | None:
    if isinstance(word, int):
        return None
    return living(word if isinstance(word, Counted) else word.counted)


def living(counted: Counted | None) -> Counted | None:
    """The same. Raises CompileError where its last reference was given up."""
    if counted is not None and counted.count <= 0:
        raise CompileError("the program uses a value or a heap buffer after its last reference was given up")
    return counted


def handed_over(word: Word) -> Word:
    """What an instruction takes over. Raises CompileError for memory that an arena takes back, and for what is gone."""
    if isinstance(word, Buffer) and word.scratch:
        raise CompileError("the program hands memory of an arena to a value or a function: it would be gone before them")
    _counted(word)
    return word
