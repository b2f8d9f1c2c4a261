"""Lines of a Program's text: how each kind of operand is written and read, and from an instruction's form in `instructions.ROWS` its writer and reader.

Reading goes by patterns on a line in which all that stands in quotes, parentheses or brackets is masked, so that nothing inside of them is
mistaken for a part of the form.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hasten.base.dims import DimLike, parse, symbol
from hasten.vm.instructions import ROWS, Kind, Row
from hasten.vm.program import HostObject, HostTensor, Instruction, Operand, Value


class Syntax(Exception):
    """A line is not what it should be."""


# --- names, sizes, lists ----------------------------------------------------------------------------------------------
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_BRACKETS = re.compile(r"[()\[\]]")
NAME = r'([A-Za-z_][A-Za-z0-9_.]*|"(?:[^"\\]|\\.)*")'
TEXT = r'("(?:[^"\\]|\\.)*")'


def name_text(name: str) -> str:
    """A name; quoted as in JSON if it is not a word."""
    return name if _WORD.fullmatch(name) else json.dumps(name)


def read_name(text: str) -> str:
    return json.loads(text) if text.startswith('"') else text


@functools.lru_cache(maxsize=4096)
def read_dim(text: str) -> DimLike:
    if _INTEGER.fullmatch(text):
        return int(text)
    return symbol(text) if _SYMBOL.fullmatch(text) else parse(text)


def masked(text: str) -> str:
    """The text with everything inside of quotes, parentheses and brackets replaced by as many underscores."""
    text = _QUOTED.sub(lambda m: '"' + "_" * len(m[1]) + '"', text)
    parts, depth, start, last = [], 0, 0, 0
    for m in _BRACKETS.finditer(text):
        opens = m[0] in "(["
        depth += 1 if opens else -1
        if depth < 0:
            raise Syntax("parentheses do not match")
        if opens and depth == 1:
            start = m.end()
        elif not opens and depth == 0:
            parts += [text[last:start], "_" * (m.start() - start)]
            last = m.start()
    if depth:
        raise Syntax("parentheses do not match")
    return "".join([*parts, text[last:]])


def split(text: str) -> list[str]:
    """Parts between commas outside of parentheses and quotes."""
    if not text.strip():
        return []
    if not any(c in text for c in '"(['):
        return [part.strip() for part in text.split(",")]
    ends = [m.start() for m in re.finditer(",", masked(text))]
    return [text[a:b].strip() for a, b in zip([0, *(e + 1 for e in ends)], [*ends, len(text)], strict=True)]


def shape_text(shape: Sequence[Any]) -> str:
    """Sizes in parentheses; strings (sizes that a host op assigns) are quoted."""
    return "(" + ", ".join(json.dumps(d) if isinstance(d, str) else str(d) for d in shape) + ")"


def read_shape(text: str) -> tuple[DimLike, ...]:
    return tuple(map(read_dim, split(text[1:-1])))


# --- operands of calls and host ops -------------------------------------------------------------------------------------
def _any_text(x: Operand) -> str:
    """A buffer with %, a value with &, or a size."""
    if isinstance(x, Value):
        return "&" + name_text(x.name)
    return "%" + name_text(x) if isinstance(x, str) else str(x)


def _read_any(text: str) -> Operand:
    if text.startswith("&"):
        return Value(read_name(text[1:]))
    return read_name(text[1:]) if text.startswith("%") else read_dim(text)


def arguments_text(args: Sequence[Operand]) -> str:
    return "(" + ", ".join(map(_any_text, args)) + ")"


def read_arguments(text: str) -> tuple[Operand, ...]:
    return tuple(map(_read_any, split(text[1:-1])))


_OPERAND = re.compile(rf"(\w+) %{NAME} \((.*)\)")


def _operand_text(x: HostTensor | HostObject | None) -> str:
    if x is None:
        return "none"
    return f"${name_text(x.object)}" if isinstance(x, HostObject) else f"{x.dtype} %{name_text(x.buffer)} {shape_text(x.shape)}"


def _read_operand(text: str) -> HostTensor | HostObject | None:
    if text == "none":
        return None
    if text.startswith("$"):
        return HostObject(read_name(text[1:]))
    m = _OPERAND.fullmatch(text)
    if m is None:
        raise Syntax
    return HostTensor(read_name(m[2]), m[1], tuple(read_name(d) if d.startswith('"') else read_dim(d) for d in split(m[3])))


def _operands_text(operands: Sequence[HostTensor | HostObject | None]) -> str:
    return "(" + ", ".join(map(_operand_text, operands)) + ")"


def _read_operands(text: str) -> tuple[HostTensor | HostObject | None, ...]:
    return tuple(map(_read_operand, split(text[1:-1])))


# --- kinds of operands --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Codec:
    """How a kind of operand is written, found in a masked line, and read."""

    write: Callable[[Any], str]
    pattern: str
    read: Callable[[str], Any]


_NAME = r'(?:[A-Za-z_][A-Za-z0-9_.]*|"_*")'
_INTEGER_NAME = Codec(name_text, _NAME, read_name)
_BUFFER = Codec(lambda name: "%" + name_text(name), f"%{_NAME}", lambda text: read_name(text[1:]))
_VALUE = Codec(lambda name: "&" + name_text(name), f"&{_NAME}", lambda text: read_name(text[1:]))
_ARGUMENTS = Codec(arguments_text, r"\(_*\)", read_arguments)
CODECS: dict[Kind, Codec] = {
    Kind.VALUE: _VALUE,
    Kind.NEW_VALUE: _VALUE,
    Kind.COUNTED: Codec(_any_text, f"[%&]{_NAME}", _read_any),
    Kind.NEW: Codec(_any_text, f"[%&]?{_NAME}", _read_any),
    Kind.CALLEE: Codec(lambda f: _any_text(f) if isinstance(f, Value) else name_text(f), f"&?{_NAME}",
                       lambda text: _read_any(text) if text.startswith("&") else read_name(text)),
    Kind.MIXED: _ARGUMENTS,
    Kind.NEW_MIXED: _ARGUMENTS,
    Kind.TAIL: Codec(lambda tail: "tail", "tail", lambda text: True),
    Kind.BUFFER: _BUFFER,
    Kind.NEW_BUFFER: _BUFFER,
    Kind.NEW_INTEGER: _INTEGER_NAME,
    Kind.KERNEL: _INTEGER_NAME,
    Kind.SIZE: Codec(str, ".+?", read_dim),
    Kind.SHAPE: Codec(shape_text, r"\(_*\)", read_shape),
    Kind.ARGUMENTS: _ARGUMENTS,
    Kind.OPERANDS: Codec(_operands_text, r"\(_*\)", _read_operands),
    Kind.NUMBER: Codec(str, "[0-9]+", int),
    Kind.WORD: Codec(str, r"\w+", str),
    Kind.SIGN: Codec(lambda sign: "-" if sign < 0 else "", "-?", lambda text: -1 if text else 1),
    Kind.COMPARISON: Codec(str, "==|!=|<=|<", str),
    Kind.TEXT: Codec(json.dumps, '"_*"', json.loads),
}


# --- instructions -------------------------------------------------------------------------------------------------------
_PIECES = re.compile(r"(\[\[|\]\]|\{\w+\})")


class Form:
    """An instruction's line, by its row's form; the blocks that it holds are somebody else's."""

    def __init__(self, row: Row):
        self.instruction = row.instruction
        self.codecs = {field: CODECS[kind] for field, kind in row.operands.items() if kind is not Kind.BLOCK}
        self.blocks = [field for field, kind in row.operands.items() if kind is Kind.BLOCK]
        self.defaults = {f.name: f.default for f in dataclasses.fields(row.instruction)}
        self.pieces = [p for p in _PIECES.split(row.form) if p]
        self.pattern = re.compile("".join(map(self._pattern, self.pieces)))

    def _pattern(self, piece: str) -> str:
        if piece in ("[[", "]]"):
            return "(?:" if piece == "[[" else ")?"
        return f"(?P<{piece[1:-1]}>{self.codecs[piece[1:-1]].pattern})" if piece.startswith("{") else re.escape(piece)

    def write(self, instruction: Any) -> str:
        out: list[str] = []
        start = 0
        for piece in self.pieces:
            if piece == "[[":
                start, given = len(out), False
            elif piece == "]]":
                out = out if given else out[:start]
            elif piece.startswith("{"):
                value = getattr(instruction, piece[1:-1])
                default = self.defaults[piece[1:-1]]
                given = type(value) is not type(default) or value != default
                out.append(self.codecs[piece[1:-1]].write(value))
            else:
                out.append(piece)
        return "".join(out)

    def read(self, line: str, hidden: str) -> Any:
        """The instruction of a line, `hidden` being the line masked, with empty blocks; None for a line of another form."""
        m = self.pattern.fullmatch(hidden)
        if m is None:
            return None
        found = {field: codec.read(line[m.start(field) : m.end(field)]) for field, codec in self.codecs.items() if m.start(field) >= 0}
        return self.instruction(**found, **{field: () for field in self.blocks})


FORMS: dict[type, Form] = {row.instruction: Form(row) for row in ROWS}


def write_line(instruction: Instruction) -> str:
    """The instruction's own line, without what it holds."""
    return FORMS[type(instruction)].write(instruction)


def read_line(line: str) -> Any:
    """The reverse, with empty blocks. Raises Syntax for a line of no form, and what `dims.parse` and JSON raise."""
    hidden = masked(line)
    for form in FORMS.values():
        found = form.read(line, hidden)
        if found is not None:
            return found
    raise Syntax


def blocks(instruction: Instruction) -> Iterator[tuple[str, tuple[Instruction, ...]]]:
    """The blocks that an instruction holds, by their names."""
    for field in FORMS[type(instruction)].blocks:
        yield field, getattr(instruction, field)
