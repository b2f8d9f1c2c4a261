"""The instructions of Programs, each described once: what its operands are, how it is written, what it does, and how it fails.

The text form (`hasten.vm.text`), `hasten disassemble` and the table in docs/vm.md are made of `ROWS`; the dataclasses are in `hasten.vm.program`.
A form is the instruction's line, with {field} for an operand and [[...]] around what is left out where the field has its default. Instructions
that hold others (operands of kind BLOCK) have them on the lines below, indented; "else" stands before a second block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from hasten.vm import program as P


class Kind(Enum):
    """What an operand is, in the words of the documentation."""

    BUFFER = "buffer"
    NEW_BUFFER = "buffer, assigned"
    NEW_INTEGER = "integer, assigned"
    SIZE = "size"
    SHAPE = "sizes"
    VALUE = "value"
    NEW_VALUE = "value, assigned"
    COUNTED = "buffer or value"
    CALLEE = "function, or value that is a closure"
    ARGUMENTS = "buffers and sizes"
    MIXED = "buffers, sizes and values"
    NEW = "buffer, integer or value, assigned"
    NEW_MIXED = "buffers, integers and values, assigned"
    TAIL = "mark"
    OPERANDS = "tensors and objects"
    KERNEL = "kernel"
    NUMBER = "number"
    WORD = "word"
    SIGN = "sign"
    COMPARISON = "comparison"
    TEXT = "text"
    BLOCK = "instructions"


@dataclass(frozen=True)
class Row:
    """One instruction; `operands` in the order of the dataclass's fields."""

    instruction: type
    form: str
    operands: Mapping[str, Kind]
    meaning: str
    errors: str = ""

    @property
    def name(self) -> str:
        return self.instruction.__name__

    @property
    def readable(self) -> str:
        """The form as people read it: `%BUFFER = view %BASE [+ OFFSET]`."""
        text = self.form.replace("[[", " [").replace("]]", "]").replace("[ ", "[")
        for field, kind in self.operands.items():
            text = text.replace("{" + field + "}", _DRESSED.get(kind, "{}").format(field.upper()))
        return text


_DRESSED = {
    Kind.BUFFER: "%{}", Kind.NEW_BUFFER: "%{}", Kind.SIGN: "[-]", Kind.SHAPE: "({})", Kind.ARGUMENTS: "({})", Kind.OPERANDS: "({})", Kind.TEXT: '"{}"',
    Kind.VALUE: "&{}", Kind.NEW_VALUE: "&{}", Kind.MIXED: "({})", Kind.NEW_MIXED: "({})", Kind.TAIL: "tail",
}  # fmt: skip
_OVERFLOW = "ShapeMismatch where a size does not fit into 64 bits"
_MEMORY = "ResourceLimit beyond the limit of one allocation, or where there is no memory"
_STATUS = "what a kernel reported before"

ROWS: tuple[Row, ...] = (
    Row(P.Let, "let {name} = {value}", {"name": Kind.NEW_INTEGER, "value": Kind.SIZE},
        "`name` := `value`", _OVERFLOW),
    Row(P.Read, "read {name} = {sign}{dtype} {buffer} [{index}]",
        {"name": Kind.NEW_INTEGER, "buffer": Kind.BUFFER, "index": Kind.SIZE, "dtype": Kind.WORD, "sign": Kind.SIGN},
        "`name` := max(`sign` * element `index` of `buffer`, 0), floats truncated; symbols are never negative, so a signed value is read as two", _STATUS),
    Row(P.Check, "check {left} {op} {right} {kind} {message}",
        {"left": Kind.SIZE, "op": Kind.COMPARISON, "right": Kind.SIZE, "message": Kind.TEXT, "kind": Kind.WORD},
        "end the run with `message` unless `left` `op` `right`", "kind `shape`: ShapeMismatch, kind `value`: ExecutionError, both with the two sides"),
    Row(P.Arena, "{buffer} = arena {size}", {"buffer": Kind.NEW_BUFFER, "size": Kind.SIZE},
        "`buffer` := scratch memory of `size` bytes, kept for the next run", _MEMORY),
    Row(P.View, "{buffer} = view {base}[[ + {offset}]]", {"buffer": Kind.NEW_BUFFER, "base": Kind.BUFFER, "offset": Kind.SIZE},
        "`buffer` := `base` + `offset` bytes"),
    Row(P.Alloc, "{buffer} = alloc {zone} {size}", {"buffer": Kind.NEW_BUFFER, "size": Kind.SIZE, "zone": Kind.WORD},
        "`buffer` := fresh memory of `size` bytes, for this run (zone `heap`) or for the caller (zone `output`)", _MEMORY),
    Row(P.Call, "call {kernel} {args}[[ work {work}]][[ at {where}]]",
        {"kernel": Kind.KERNEL, "args": Kind.ARGUMENTS, "work": Kind.SIZE, "where": Kind.TEXT},
        "run a kernel on `args`; `work` (nanoseconds on one core) decides on how many threads; `where` names what may fail in it",
        "what the kernel reports: at once with `where`, else before its results are looked at and at the end"),
    Row(P.Host, "host {site} {inputs} -> {outputs}", {"site": Kind.NUMBER, "inputs": Kind.OPERANDS, "outputs": Kind.OPERANDS},
        "run host op number `site`; its results get heap buffers, quoted sizes are assigned", f"ExecutionError naming the node; {_STATUS}"),
    Row(P.If, "if {condition}", {"condition": Kind.SIZE, "then": Kind.BLOCK, "other": Kind.BLOCK},
        "run `then` where `condition` is not 0, else `other`", f"{_STATUS}; {_OVERFLOW}"),
    Row(P.While, "while {condition}", {"condition": Kind.SIZE, "body": Kind.BLOCK},
        "repeat `body` as long as `condition`, tested before each round, is not 0",
        f"ResourceLimit after {P.MAX_ROUNDS} rounds of all loops of a run; {_STATUS}; {_OVERFLOW}"),
    Row(P.Output, "output {index} = {buffer} {shape}", {"index": Kind.NUMBER, "buffer": Kind.BUFFER, "shape": Kind.SHAPE},
        "output number `index` := the tensor in `buffer`, from zone `output`"),
    Row(P.Retain, "retain {name}", {"name": Kind.COUNTED},
        "one more reference to a value or to the memory of a buffer, which `name` owns"),
    Row(P.Release, "release {name}", {"name": Kind.COUNTED},
        "give up the reference that `name` owns; the last one frees the memory, and what a value refers to"),
    Row(P.Move, "{value} = {source}", {"value": Kind.NEW_VALUE, "source": Kind.VALUE},
        "`value` := `source`"),
    Row(P.Pack, "{value} = pack {tag} {fields}", {"value": Kind.NEW_VALUE, "tag": Kind.NUMBER, "fields": Kind.MIXED},
        "`value` := a new value with this tag, which takes the references of `fields` over; a closure's tag is the number of its function", _MEMORY),
    Row(P.Tag, "tag {name} = {value}", {"name": Kind.NEW_INTEGER, "value": Kind.VALUE},
        "`name` := the tag of `value`"),
    Row(P.Field, "{target} = field {index} of {value}", {"target": Kind.NEW, "value": Kind.VALUE, "index": Kind.NUMBER},
        "`target` := field number `index` of `value`"),
    Row(P.Invoke, "invoke {function} {args}[[ -> {results}]][[ {tail}]]",
        {"function": Kind.CALLEE, "args": Kind.MIXED, "results": Kind.NEW_MIXED, "tail": Kind.TAIL},
        "run a function, which takes the references of `args` over, or a closure, which is its function's last argument; `results` own what it "
        "returns; with `tail` the activation ends here and its results are the function's",
        f"ResourceLimit where more activations wait for each other than the model allows ({P.MAX_DEPTH}), or after {P.MAX_ROUNDS} in one run; {_MEMORY}"),
    Row(P.Return, "return {results}", {"results": Kind.MIXED},
        "end the activation; the caller takes the references of `results` over"),
)  # fmt: skip
ROW_OF: dict[type, Row] = {row.instruction: row for row in ROWS}


def table() -> str:
    """The instructions as a Markdown table, for docs/vm.md."""
    lines = ["| instruction | text form | operands | meaning | errors |", "|---|---|---|---|---|"]
    for row in ROWS:
        operands = ", ".join(f"`{field}` {kind.value}" for field, kind in row.operands.items())
        form = row.readable.replace("|", r"\|")
        lines.append(f"| **{row.name}** | `{form}` | {operands} | {row.meaning} | {row.errors} |")
    return "\n".join(lines)
