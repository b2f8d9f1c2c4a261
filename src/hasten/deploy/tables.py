"""What a shared library's C text says about its model: tables, signatures, numbers. Plain text from a Program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hasten.base.dims import DimLike, symbols
from hasten.base.dtypes import DTYPES, dtype
from hasten.base.errors import UnsupportedOperator
from hasten.vm import abi
from hasten.vm.native import memory
from hasten.vm.program import MAX_DEPTH, STATUS_MEMORY, STATUS_MESSAGES, STATUS_SHAPE, ObjectSpec, Program, TensorSpec, ValueSpec

API = 1
"""Version of the C interface: raised when its types or the meaning of its functions change."""
MAX_RANK = 8

_IN_C = [d for d in DTYPES.values() if d.kind in "fiub"]


def check_host_ops(host: Sequence[tuple[str, str, str]]) -> None:
    """Raises UnsupportedOperator, naming everything at once, for nodes (name, operator, reason) that need Python."""
    if host:
        raise _refusal([f"{operator} {name!r} runs in Python: {reason}" for name, operator, reason in host])


def check_program(program: Program) -> None:
    """Raises UnsupportedOperator, naming everything at once, for inputs and outputs that C has no words for."""
    found = []
    for side, specs in (("input", program.inputs), ("output", program.outputs)):
        for spec in specs:
            if isinstance(spec, ObjectSpec):
                found.append(f"{side} {spec.name!r} is a value of Python: {spec.kind}")
            elif isinstance(spec, ValueSpec):
                found.append(f"{side} {spec.name!r} is a value of the data type {spec.type}, for which C has no words here")
            elif dtype(spec.dtype) not in _IN_C:
                found.append(f"{side} {spec.name!r}: there is no {spec.dtype} in C")
            elif len(spec.shape) > MAX_RANK:
                found.append(f"{side} {spec.name!r}: its rank is {len(spec.shape)}, above {MAX_RANK}")
    found += [f"{h.op} {h.name!r} gives a value of Python" for h in program.host_ops]
    if found:
        raise _refusal(found)


def _refusal(found: Sequence[str]) -> UnsupportedOperator:
    return UnsupportedOperator(
        f"this model cannot become a shared library, which has no Python to help: {'; '.join(found)}. "
        "Cut these parts off the model, or save it as a .hasten file."
    )


def fields(program: Program) -> dict[str, str]:
    """Values for the templates' fields that depend on the Program alone."""
    inputs, outputs = abi.tensors(program.inputs), abi.tensors(program.outputs)
    known = frozenset(abi.bind(program).bound)
    numbers = {
        "api": API, "max_rank": MAX_RANK, "input_count": len(inputs), "output_count": len(outputs),
        "inputs_room": max(1, len(inputs)), "outputs_room": max(1, len(outputs)),
        "input_words": sum(1 + len(s.shape) for s in inputs), "output_words": sum(1 + len(s.shape) for s in outputs),
        "word_constants": abi.Word.CONSTANTS, "word_parallel": abi.Word.PARALLEL, "word_threads": abi.Word.THREADS,
        "word_limit": abi.Word.LIMIT, "word_depth": abi.Word.DEPTH, "max_depth": MAX_DEPTH, "status_depth": abi.STATUS_DEPTH,
        "status_memory": STATUS_MEMORY, "status_shape": STATUS_SHAPE,
        "status_input": abi.STATUS_INPUT, "first_check": abi.FIRST_CHECK,
        "block_header": memory.HEADER, "block_raw": memory.RAW,
    }  # fmt: skip
    checks = (f"{{{_bool(c.kind == 'shape')}, {string(f'{c.message} ({c.left} {c.op} {c.right}')}}}" for c in abi.checks(program))
    return {name: str(number) for name, number in numbers.items()} | {
        "inputs": _rows(_info(s, known) for s in inputs),
        "outputs": _rows(_info(s, known) for s in outputs),
        "checks": _rows([*checks, "{false, NULL}"]),
        "sites": _rows(["NULL", *map(string, abi.sites(program))]),
        "statuses": _rows(map(string, STATUS_MESSAGES)),
        "dtypes": ",\n".join(f"    {_dtype(d.name)} = {d.onnx}" for d in _IN_C),
        "dtype_rows": _rows(f"{{{_dtype(d.name)}, {d.size}, {string(d.name)}}}" for d in _IN_C),
        "element_bytes": ", ".join(str(dtype(s.dtype).size) for s in inputs) or "0",
        "signature": comment("\n".join(signature(program))),
    }


def signature(program: Program) -> list[str]:
    """A line for each input and output."""
    known = frozenset(abi.bind(program).bound)
    sides = (("input ", program.inputs), ("output", program.outputs))
    return [
        f"   {side}  {s.name}  {s.dtype} ({', '.join(_size(d, known) for d in s.shape)})" for side, specs in sides for s in abi.tensors(specs)
    ]


def sizes(program: Program) -> list[tuple[str, int]]:
    """The sizes that the caller chooses, each with a plausible number to try: 1 for first axes, else 64."""
    known = frozenset(abi.bind(program).bound)
    found: dict[str, int] = {}
    for spec in abi.tensors(program.inputs):
        for axis, dim in enumerate(spec.shape):
            if not isinstance(dim, int):
                found.setdefault(_size(dim, known), 64 if axis else 1)
    return list(found.items())


def string(text: str) -> str:
    """A C string literal; all but plain letters as octal numbers."""
    plain = (chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode())
    return '"' + "".join(plain) + '"'


def comment(text: str) -> str:
    """Text that cannot end the C comment that it stands in."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.replace("*/", "* /").replace("/*", "/ *"))


def _rows(rows: Iterable[str]) -> str:
    return "\n".join(f"    {row}," for row in rows)


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _dtype(name: str) -> str:
    return f"HASTEN_{name.upper()}"


def _size(dim: DimLike, known: frozenset[str]) -> str:
    return str(dim) if symbols(dim) <= known else "?"


def _info(spec: TensorSpec, known: frozenset[str]) -> str:
    shape = ", ".join(str(d) if isinstance(d, int) else "-1" for d in spec.shape)
    texts = ", ".join(string(_size(d, known)) for d in spec.shape)
    return f"{{{string(spec.name)}, {_dtype(spec.dtype)}, {len(spec.shape)}, {{{shape or '0'}}}, {{{texts or 'NULL'}}}}}"
