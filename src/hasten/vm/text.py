"""The text form of Programs, one instruction a line; `from_text(to_text(p)) == p`.

    program 2
    type "Tree" = ("Leaf" (float32 (1, "n"), number int64), "Node" ("Tree", "Tree"))
    sequence "list[Tree]" = ("Nil" (), "Snoc" ("list[Tree]", "Tree"))
    input "t" value "Tree" &t
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
      invoke depth (&t) -> (d4)
      release %b1
      output 0 = %b2 (N, 16)
    function depth (&t)
      tag k = &t
      ...
    host_op "node" "Op" <base64>

Buffers have a %, values a &, objects a $; names that are not words, and all text, are quoted as in JSON. Sizes are in the syntax of
`dims.parse`. In the shape of a host op's result, a quoted name is a size that the op assigns; in a data type, one that a value brings.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
from collections.abc import Iterator, Sequence

from hasten.base.errors import ModelError
from hasten.vm.forms import (
    NAME,
    TEXT,
    Syntax,
    arguments_text,
    blocks,
    masked,
    name_text,
    read_arguments,
    read_line,
    read_name,
    read_shape,
    shape_text,
    split,
    write_line,
)
from hasten.vm.program import Constant, DataType, Function, HostOp, Instruction, ObjectSpec, Program, TensorField, TensorSpec, ValueSpec, Variant

FORMAT = "program 2"


# --- writing ----------------------------------------------------------------------------------------------------------
def to_text(program: Program) -> str:
    """The program as text."""
    lines = [FORMAT]
    lines += [f"{'sequence' if t.sequence else 'type'} {json.dumps(t.name)} = ({', '.join(map(_variant, t.variants))})" for t in program.types]
    lines += [_spec("input", s) for s in program.inputs]
    lines += [_spec("output", s) for s in program.outputs]
    lines += [f"constant %{name_text(c.buffer)} at {c.offset} size {c.size}" for c in program.constants]
    lines.append("code")
    lines += _block(program.instructions, "  ")
    for f in program.functions:
        lines += [f"function {name_text(f.name)} {arguments_text(f.params)}", *_block(f.instructions, "  ")]
    lines += [f"host_op {json.dumps(h.name)} {json.dumps(h.op)} {base64.b64encode(h.payload).decode()}" for h in program.host_ops]
    return "\n".join(lines) + "\n"


def _spec(kind: str, spec: TensorSpec | ValueSpec | ObjectSpec) -> str:
    if isinstance(spec, ObjectSpec):
        return f"{kind} {json.dumps(spec.name)} object {json.dumps(spec.kind)} ${name_text(spec.object)}"
    if isinstance(spec, ValueSpec):
        return f"{kind} {json.dumps(spec.name)} value {json.dumps(spec.type)} &{name_text(spec.value)}"
    return f"{kind} {json.dumps(spec.name)} {spec.dtype} {shape_text(spec.shape)} %{name_text(spec.buffer)}"


def _variant(variant: Variant) -> str:
    return f"{json.dumps(variant.name)} ({', '.join(map(_field, variant.fields))})"


def _field(x: TensorField | str) -> str:
    if isinstance(x, str):
        return json.dumps(x)
    return f"number {x.dtype}" if x.number else f"{x.dtype} {shape_text(x.shape)}"


def _block(instructions: Sequence[Instruction], indent: str) -> Iterator[str]:
    for i in instructions:
        yield indent + write_line(i)
        for number, (_, inner) in enumerate(blocks(i)):
            if number and inner:
                yield indent + "else"
            yield from _block(inner, indent + "  ")


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
        self._text = text
        super().__init__(rest.inputs, rest.outputs, rest.constants, rest.instructions, rest.host_ops, rest.functions, rest.types)
        self._read = False

    def _all(self) -> LazyProgram:
        if not self._read:
            whole = from_text(self._text)
            self._instructions, self._functions, self._read = whole.instructions, whole.functions, True
        return self

    @property
    def instructions(self) -> list[Instruction]:
        return self._all()._instructions

    @instructions.setter
    def instructions(self, value: list[Instruction]) -> None:
        self._instructions, self._read = value, True

    @property
    def functions(self) -> list[Function]:
        return self._all()._functions

    @functions.setter
    def functions(self, value: list[Function]) -> None:
        self._functions, self._read = value, True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and to_text(self) == to_text(other)

    __hash__ = None  # type: ignore[assignment]


_TENSOR_SPEC = re.compile(rf"(input|output) {TEXT} (\w+) (\(.*\)) %{NAME}")
_OBJECT_SPEC = re.compile(rf"(input|output) {TEXT} object {TEXT} \${NAME}")
_VALUE_SPEC = re.compile(rf"(input|output) {TEXT} value {TEXT} &{NAME}")
_TYPE = re.compile(rf"(type|sequence) {TEXT} = (\(.*\))")
_FUNCTION = re.compile(rf"function {NAME} (\(.*\))")
_CONSTANT = re.compile(rf"constant %{NAME} at ([0-9]+) size ([0-9]+)")
_HOST_OP = re.compile(rf"host_op {TEXT} {TEXT} ([A-Za-z0-9+/=]*)")
_MAX_DEPTH = 100


def _read_variant(text: str) -> Variant:
    hidden = masked(text)
    name, fields = text[: hidden.find(" ")], text[hidden.find(" ") + 1 :]
    if not (fields.startswith("(") and fields.endswith(")")):
        raise Syntax
    return Variant(json.loads(name), tuple(map(_read_field, split(fields[1:-1]))))


def _read_field(text: str) -> TensorField | str:
    if text.startswith('"'):
        name: str = json.loads(text)
        return name
    kind, _, rest = text.partition(" ")
    if kind == "number":
        return TensorField(rest, (), True)
    return TensorField(kind, tuple(read_name(d) if d.startswith('"') else int(d) for d in split(rest[1:-1])))


class _Reader:
    def __init__(self, text: str):
        self.lines = text.splitlines()
        self.at = 0

    def program(self) -> Program:
        try:
            return self._program()
        except (Syntax, ValueError, RecursionError, binascii.Error) as error:
            line = self.lines[self.at].strip() if self.at < len(self.lines) else "(the end)"
            detail = f" ({error})" if str(error) else ""
            raise ModelError(f"line {self.at + 1} of the program's text cannot be read: {line:.200}{detail}") from None

    def _program(self) -> Program:
        if self._line() != FORMAT:
            raise Syntax(f"the text must begin with {FORMAT!r}")
        self.at += 1
        program = Program()
        while self.at < len(self.lines) and self.lines[self.at] != "code":
            self._header(program, self.lines[self.at])
            self.at += 1
        if self._line() != "code":
            raise Syntax
        self.at += 1
        program.instructions = self._block("  ")
        while self.at < len(self.lines) and (m := _FUNCTION.fullmatch(self._line())):
            self.at += 1
            program.functions.append(Function(read_name(m[1]), read_arguments(m[2]), tuple(self._block("  "))))
        while self.at < len(self.lines):
            m = _HOST_OP.fullmatch(self._line())
            if m is None:
                raise Syntax
            program.host_ops.append(HostOp(json.loads(m[1]), json.loads(m[2]), base64.b64decode(m[3], validate=True)))
            self.at += 1
        return program

    def _line(self) -> str:
        if self.at >= len(self.lines):
            raise Syntax("the text ends early")
        return self.lines[self.at]

    def _header(self, program: Program, line: str) -> None:
        if m := _OBJECT_SPEC.fullmatch(line):
            specs = program.inputs if m[1] == "input" else program.outputs
            specs.append(ObjectSpec(json.loads(m[2]), json.loads(m[3]), read_name(m[4])))
        elif m := _TENSOR_SPEC.fullmatch(line):
            specs = program.inputs if m[1] == "input" else program.outputs
            specs.append(TensorSpec(json.loads(m[2]), m[3], read_shape(m[4]), read_name(m[5])))
        elif m := _VALUE_SPEC.fullmatch(line):
            specs = program.inputs if m[1] == "input" else program.outputs
            specs.append(ValueSpec(json.loads(m[2]), json.loads(m[3]), read_name(m[4])))
        elif m := _TYPE.fullmatch(line):
            program.types.append(DataType(json.loads(m[2]), tuple(map(_read_variant, split(m[3][1:-1]))), m[1] == "sequence"))
        elif m := _CONSTANT.fullmatch(line):
            program.constants.append(Constant(read_name(m[1]), int(m[2]), int(m[3])))
        else:
            raise Syntax

    def _block(self, indent: str) -> list[Instruction]:
        """The lines that are indented by `indent` or more."""
        if len(indent) > 2 * _MAX_DEPTH:
            raise Syntax("nested too deeply")
        found: list[Instruction] = []
        while self.at < len(self.lines) and self.lines[self.at].startswith(indent):
            line = self.lines[self.at][len(indent) :]
            if line == "else":
                break
            instruction = read_line(line)
            self.at += 1
            found.append(self._filled(instruction, indent))
        return found

    def _filled(self, head: Instruction, indent: str) -> Instruction:
        """An instruction with the blocks below it."""
        inner: dict[str, tuple[Instruction, ...]] = {}
        for number, (field, _) in enumerate(blocks(head)):
            if number:
                if self.at >= len(self.lines) or self.lines[self.at] != indent + "else":
                    break
                self.at += 1
            inner[field] = tuple(self._block(indent + "  "))
        return dataclasses.replace(head, **inner) if inner else head  # type: ignore[arg-type]
