"""The text form of Programs, one instruction a line; `from_text(to_text(p)) == p`.

    program 1
    input "x" float32 (N, 16) %b0
    output "y" float32 (N, 16) %b2
    constant %c0 at 0 size 64
    code
      %scratch = arena N*64
      %b1 = view %scratch + N*32
      %b2 = alloc output N*64
      let d1 = N*2
      read d2 = int64 %b0 [d1 - 1]
      read d3 = -int64 %b0 [0]
      check d2 <= N value "..."
      call relu_3f2a (%b0, %b2, d1) work N*12
      call gather_11c0 (%b0, %b2, d1) work N*12 at "Gather 'tokens'"
      host 0 (float32 %b2 (N, 16), $h1, none) -> (int64 %b4 ("d4", 3))
      if d2
        ...
      else
        ...
      while d2
        ...
      free %b1
      output 0 = %b2 (N, 16)
    host_op "node" "Op" <base64>

Buffers have a %, objects a $; names that are not words, and all text, are quoted as in JSON. Sizes are in the syntax of
`dims.parse`. In the shape of a host op's result, a quoted name is a size that the op assigns.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hasten.base.dims import DimLike, parse, symbol
from hasten.base.errors import ModelError
from hasten.vm.program import (
    Alloc,
    Arena,
    Call,
    Check,
    Constant,
    Free,
    Host,
    HostObject,
    HostOp,
    HostTensor,
    If,
    Instruction,
    Let,
    ObjectSpec,
    Output,
    Program,
    Read,
    TensorSpec,
    View,
    While,
)

FORMAT = "program 1"
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*", re.ASCII)


# --- writing ----------------------------------------------------------------------------------------------------------
def to_text(program: Program) -> str:
    """The program as text."""
    lines = [FORMAT]
    lines += [_spec("input", s) for s in program.inputs]
    lines += [_spec("output", s) for s in program.outputs]
    lines += [f"constant %{_name(c.buffer)} at {c.offset} size {c.size}" for c in program.constants]
    lines.append("code")
    lines += _block(program.instructions, "  ")
    lines += [
        f"host_op {json.dumps(h.name)} {json.dumps(h.op)} {base64.b64encode(h.payload).decode()}"
        for h in program.host_ops
    ]
    return "\n".join(lines) + "\n"


def _name(name: str) -> str:
    return name if _WORD.fullmatch(name) else json.dumps(name)


def _shape(shape: Sequence[Any]) -> str:
    return "(" + ", ".join(json.dumps(d) if isinstance(d, str) else str(d) for d in shape) + ")"


def _spec(kind: str, spec: TensorSpec | ObjectSpec) -> str:
    if isinstance(spec, ObjectSpec):
        return f"{kind} {json.dumps(spec.name)} object {json.dumps(spec.kind)} ${_name(spec.object)}"
    return f"{kind} {json.dumps(spec.name)} {spec.dtype} {_shape(spec.shape)} %{_name(spec.buffer)}"


def _block(instructions: Sequence[Instruction], indent: str) -> Iterator[str]:
    for i in instructions:
        yield indent + _WRITERS[type(i)](i)
        if isinstance(i, If):
            yield from _block(i.then, indent + "  ")
            if i.other:
                yield indent + "else"
                yield from _block(i.other, indent + "  ")
        elif isinstance(i, While):
            yield from _block(i.body, indent + "  ")


def _operand(x: HostTensor | HostObject | None) -> str:
    if x is None:
        return "none"
    return f"${_name(x.object)}" if isinstance(x, HostObject) else f"{x.dtype} %{_name(x.buffer)} {_shape(x.shape)}"


def _arguments(args: Sequence[str | DimLike]) -> str:
    return "(" + ", ".join(f"%{_name(a)}" if isinstance(a, str) else str(a) for a in args) + ")"


def _operands(operands: Sequence[HostTensor | HostObject | None]) -> str:
    return "(" + ", ".join(map(_operand, operands)) + ")"


_WRITERS: dict[type, Callable[[Any], str]] = {
    Let: lambda i: f"let {_name(i.name)} = {i.value}",
    Read: lambda i: f"read {_name(i.name)} = {'-' if i.sign < 0 else ''}{i.dtype} %{_name(i.buffer)} [{i.index}]",
    Check: lambda i: f"check {i.left} {i.op} {i.right} {i.kind} {json.dumps(i.message)}",
    Arena: lambda i: f"%{_name(i.buffer)} = arena {i.size}",
    View: lambda i: f"%{_name(i.buffer)} = view %{_name(i.base)}" + ("" if _is_zero(i.offset) else f" + {i.offset}"),
    Alloc: lambda i: f"%{_name(i.buffer)} = alloc {i.zone} {i.size}",
    Free: lambda i: f"free %{_name(i.buffer)}",
    Call: lambda i: f"call {_name(i.kernel)} {_arguments(i.args)}" + ("" if _is_zero(i.work) else f" work {i.work}")
    + (f" at {json.dumps(i.where)}" if i.where else ""),
    Host: lambda i: f"host {i.site} {_operands(i.inputs)} -> {_operands(i.outputs)}",
    If: lambda i: f"if {i.condition}",
    While: lambda i: f"while {i.condition}",
    Output: lambda i: f"output {i.index} = %{_name(i.buffer)} {_shape(i.shape)}",
}


def _is_zero(x: DimLike) -> bool:
    return isinstance(x, int) and x == 0


# --- reading ----------------------------------------------------------------------------------------------------------
def from_text(text: str) -> Program:
    """The program that a text describes. Raises ModelError naming the line that is wrong."""
    return _Reader(text).program()


class LazyProgram(Program):
    """The program that a text describes; its instructions are read when something asks for them, as the native driver
    does not. Raises ModelError at once for the other parts, and later for the instructions."""

    def __init__(self, text: str):
        code = text.find("\ncode\n") + len("\ncode\n")
        end = text.find("\nhost_op ", code - 1) + 1
        rest = from_text(text[:code] + (text[end:] if end else ""))
        self._text, self._instructions = text, rest.instructions
        super().__init__(rest.inputs, rest.outputs, rest.constants, rest.instructions, rest.host_ops)
        self._read = False

    @property
    def instructions(self) -> list[Instruction]:
        if not self._read:
            self._instructions, self._read = from_text(self._text).instructions, True
        return self._instructions

    @instructions.setter
    def instructions(self, value: list[Instruction]) -> None:
        self._instructions, self._read = value, True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and to_text(self) == to_text(other)

    __hash__ = None  # type: ignore[assignment]


class _Syntax(Exception):
    """A line is not what it should be."""


_NAME = r'([A-Za-z_][A-Za-z0-9_.]*|"(?:[^"\\]|\\.)*")'
_TEXT = r'("(?:[^"\\]|\\.)*")'
_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


@functools.lru_cache(maxsize=4096)
def _dim(text: str) -> DimLike:
    if _INTEGER.fullmatch(text):
        return int(text)
    return symbol(text) if _SYMBOL.fullmatch(text) else parse(text)


def _unquote(text: str) -> str:
    return json.loads(text) if text.startswith('"') else text


def _scan(text: str) -> Iterator[tuple[int, str, int]]:
    """Position, character and depth in parentheses of all that is not quoted."""
    depth, quoted, escaped = 0, False, False
    for at, c in enumerate(text):
        if quoted:
            quoted, escaped = c != '"' or escaped, c == "\\" and not escaped
            continue
        quoted = c == '"'
        depth -= c in ")]"
        yield at, c, depth
        depth += c in "(["


def _split(text: str) -> list[str]:
    """Parts between commas outside of parentheses and quotes."""
    parts, start = [], 0
    for at, c, depth in _scan(text):
        if c == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    parts.append(text[start:].strip())
    return parts if parts != [""] else []


def _group(text: str) -> tuple[str, str]:
    """What is inside of the parentheses that the text begins with, and what follows them."""
    if text.startswith("("):
        for at, c, depth in _scan(text):
            if c == ")" and depth == 0:
                return text[1:at], text[at + 1 :]
    raise _Syntax("parentheses do not match")


def _dims(text: str) -> tuple[DimLike, ...]:
    return tuple(map(_dim, _split(text)))


def _read_operand(text: str) -> HostTensor | HostObject | None:
    if text == "none":
        return None
    if text.startswith("$"):
        return HostObject(_unquote(text[1:]))
    m = _OPERAND.fullmatch(text)
    if m is None:
        raise _Syntax
    shape = tuple(_unquote(d) if d.startswith('"') else _dim(d) for d in _split(m[3]))
    return HostTensor(_unquote(m[2]), m[1], shape)


def _read_operands(text: str) -> tuple[HostTensor | HostObject | None, ...]:
    return tuple(map(_read_operand, _split(text)))


def _read_arguments(text: str) -> tuple[str | DimLike, ...]:
    return tuple(_unquote(a[1:]) if a.startswith("%") else _dim(a) for a in _split(text))


def _read_call(m: re.Match[str]) -> Call:
    args, rest = _group(m[2])
    rest, _, where = rest.partition(' at "')
    if rest and not rest.startswith(" work "):
        raise _Syntax
    name = _unquote(f'"{where}') if where else ""
    return Call(_unquote(m[1]), _read_arguments(args), _dim(rest.removeprefix(" work ") or "0"), name)


def _read_read(m: re.Match[str]) -> Read:
    return Read(_unquote(m[1]), _unquote(m[4]), _dim(m[5]), m[3], -1 if m[2] else 1)


def _read_host(m: re.Match[str]) -> Host:
    inputs, rest = _group(m[2])
    outputs, end = _group(rest.removeprefix(" -> "))
    if end or not rest.startswith(" -> "):
        raise _Syntax
    return Host(int(m[1]), _read_operands(inputs), _read_operands(outputs))


_OPERAND = re.compile(rf"(\w+) %{_NAME} \((.*)\)")
_LINES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Instruction]], ...] = tuple(
    (re.compile(pattern), build)
    for pattern, build in (
        (rf"call {_NAME} (\(.+)", _read_call),
        (rf"%{_NAME} = view %{_NAME}(?: \+ (.+))?", lambda m: View(_unquote(m[1]), _unquote(m[2]), _dim(m[3] or "0"))),
        (rf"let {_NAME} = (.+)", lambda m: Let(_unquote(m[1]), _dim(m[2]))),
        (rf"%{_NAME} = alloc (\w+) (.+)", lambda m: Alloc(_unquote(m[1]), _dim(m[3]), m[2])),
        (rf"free %{_NAME}", lambda m: Free(_unquote(m[1]))),
        (
            rf"check (.+?) (==|!=|<=|<) (.+?) (\w+) {_TEXT}",
            lambda m: Check(_dim(m[1]), m[2], _dim(m[3]), json.loads(m[5]), m[4]),
        ),
        (rf"read {_NAME} = (-?)(\w+) %{_NAME} \[(.+)\]", _read_read),
        (rf"%{_NAME} = arena (.+)", lambda m: Arena(_unquote(m[1]), _dim(m[2]))),
        (rf"output ([0-9]+) = %{_NAME} \((.*)\)", lambda m: Output(int(m[1]), _unquote(m[2]), _dims(m[3]))),
        (r"host ([0-9]+) (\(.+)", _read_host),
        (r"if (.+)", lambda m: If(_dim(m[1]), (), ())),
        (r"while (.+)", lambda m: While(_dim(m[1]), ())),
    )
)
_TENSOR_SPEC = re.compile(rf"(input|output) {_TEXT} (\w+) \((.*)\) %{_NAME}")
_OBJECT_SPEC = re.compile(rf"(input|output) {_TEXT} object {_TEXT} \${_NAME}")
_CONSTANT = re.compile(rf"constant %{_NAME} at ([0-9]+) size ([0-9]+)")
_HOST_OP = re.compile(rf"host_op {_TEXT} {_TEXT} ([A-Za-z0-9+/=]*)")
_MAX_DEPTH = 100


class _Reader:
    def __init__(self, text: str):
        self.lines = text.splitlines()
        self.at = 0

    def program(self) -> Program:
        try:
            return self._program()
        except (_Syntax, ValueError, RecursionError, binascii.Error) as error:
            line = self.lines[self.at].strip() if self.at < len(self.lines) else "(the end)"
            detail = f" ({error})" if str(error) else ""
            raise ModelError(f"line {self.at + 1} of the program's text cannot be read: {line:.200}{detail}") from None

    def _program(self) -> Program:
        if self._line() != FORMAT:
            raise _Syntax(f"the text must begin with {FORMAT!r}")
        self.at += 1
        program = Program()
        while self.at < len(self.lines) and self.lines[self.at] != "code":
            self._header(program, self.lines[self.at])
            self.at += 1
        if self._line() != "code":
            raise _Syntax
        self.at += 1
        program.instructions = self._block("  ")
        while self.at < len(self.lines):
            m = _HOST_OP.fullmatch(self._line())
            if m is None:
                raise _Syntax
            program.host_ops.append(HostOp(json.loads(m[1]), json.loads(m[2]), base64.b64decode(m[3], validate=True)))
            self.at += 1
        return program

    def _line(self) -> str:
        if self.at >= len(self.lines):
            raise _Syntax("the text ends early")
        return self.lines[self.at]

    def _header(self, program: Program, line: str) -> None:
        if m := _OBJECT_SPEC.fullmatch(line):
            specs = program.inputs if m[1] == "input" else program.outputs
            specs.append(ObjectSpec(json.loads(m[2]), json.loads(m[3]), _unquote(m[4])))
        elif m := _TENSOR_SPEC.fullmatch(line):
            specs = program.inputs if m[1] == "input" else program.outputs
            specs.append(TensorSpec(json.loads(m[2]), m[3], _dims(m[4]), _unquote(m[5])))
        elif m := _CONSTANT.fullmatch(line):
            program.constants.append(Constant(_unquote(m[1]), int(m[2]), int(m[3])))
        else:
            raise _Syntax

    def _block(self, indent: str) -> list[Instruction]:
        """The lines that are indented by `indent` or more."""
        if len(indent) > 2 * _MAX_DEPTH:
            raise _Syntax("nested too deeply")
        found: list[Instruction] = []
        while self.at < len(self.lines) and self.lines[self.at].startswith(indent):
            line = self.lines[self.at][len(indent) :]
            if line == "else":
                break
            instruction = self._instruction(line)
            self.at += 1
            if isinstance(instruction, If):
                instruction = self._branches(instruction, indent)
            elif isinstance(instruction, While):
                instruction = While(instruction.condition, tuple(self._block(indent + "  ")))
            found.append(instruction)
        return found

    def _branches(self, head: If, indent: str) -> If:
        then = tuple(self._block(indent + "  "))
        other: tuple[Instruction, ...] = ()
        if self.at < len(self.lines) and self.lines[self.at] == indent + "else":
            self.at += 1
            other = tuple(self._block(indent + "  "))
        return If(head.condition, then, other)

    def _instruction(self, line: str) -> Instruction:
        for pattern, build in _LINES:
            m = pattern.fullmatch(line)
            if m is not None:
                return build(m)
        raise _Syntax
