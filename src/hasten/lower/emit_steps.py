"""Emission of the steps that work on values of data types and call functions: Pack, Field, Invoke, Return.

Tensors that a step takes must be counted memory, which others may keep: they are listed in `Lowered.counted`, and never lie in an arena. Who gives up
which reference is decided afterwards (`lower.ownership`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.lower import trace as T
from hasten.lower.formats import Buffer, is_row_major, is_zero, row_major
from hasten.lower.trace import Datum, Tensor
from hasten.vm import program as P

if TYPE_CHECKING:
    from hasten.lower.emit import Emission


def emit_step(e: Emission, o: T.Step) -> None:
    """One instruction, and those that name what it gives."""
    if isinstance(o, T.Unpack):
        (value,) = o.operands
        assert isinstance(value, Datum)
        for k, name in enumerate(o.defines):
            e.code.append(P.Field(D.symbol(name), e.object_name(value), len(o.results) + k))
        for k, r in enumerate(o.results):
            if id(r) in e.schedule.realized:
                e.code.append(P.Field(assigned(e, r), e.object_name(value), k))
    elif isinstance(o, T.TagOf):
        e.code.append(P.Tag(o.defines[0], e.object_name(o.operands[0])))  # type: ignore[arg-type]
    elif isinstance(o, T.Pack):
        tag = o.tag if isinstance(o.tag, int) else [f.name for f in e.traced.functions].index(o.tag)
        e.code.append(P.Pack(e.object_name(o.results[0]), tag, _operands(e, o)))  # type: ignore[arg-type]
    elif isinstance(o, T.Invoke):
        args = _operands(e, o)
        results = (*(assigned(e, r) for r in o.results), *(D.symbol(name) for name in o.defines))
        e.code.append(P.Invoke(_function(e, o), args, results))
    e.defined.update(o.defines)
    e.emit_checks()  # of a tag, before the fields that it promises are read


def emit_leave(e: Emission, o: T.Invoke | T.Return) -> None:
    """The end of an activation: a jump, or what the function gives."""
    e.code.append(P.Invoke(_function(e, o), _operands(e, o), (), True) if isinstance(o, T.Invoke) else P.Return(_operands(e, o)))


def _function(e: Emission, o: T.Invoke) -> str | P.Value:
    return o.function if isinstance(o.function, str) else P.Value(e.object_name(o.function))


def _operands(e: Emission, o: T.Step) -> tuple[P.Operand, ...]:
    """What a step takes, tensors row-major in counted memory."""
    e.need(*o.sizes)
    return (*(_operand(e, u) for u in o.operands), *o.sizes)


def _operand(e: Emission, u: T.Value) -> P.Operand:
    if not isinstance(u, Tensor):
        return P.Value(e.object_name(u))
    have = e.buffer(u)
    if have is None or not is_row_major(have, u.shape) or have.name in e.changing:
        have = e.copy(u)
    e.lowered.counted.add(have.name)
    if is_zero(have.offset):
        return have.name
    e.need(have.offset)
    name = e.fresh("part")
    e.code.append(P.View(name, have.name, have.offset * dtypes.dtype(u.dtype).size))
    return name


def assigned(e: Emission, r: T.Value) -> P.Operand:
    """The name that a tensor or value gets where an instruction makes it."""
    if not isinstance(r, Tensor):
        return P.Value(e.object_name(r))
    if id(r) not in e.buffers:
        e.buffers[id(r)] = Buffer(e.fresh("t"), row_major(r.shape))
    return e.buffers[id(r)].name
