"""Emission of control flow and host ops: nested blocks become nested instructions.

Results of an If are copied into memory that both sides fill; carried values of a loop live in a buffer of their own that each round replaces, and
scan outputs are written in place, into memory that grows where the number of rounds isn't known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.lower import trace as T
from hasten.lower.emit_nests import nest_call
from hasten.lower.emit_steps import emit_leave
from hasten.lower.folding import is_static
from hasten.lower.formats import Buffer, is_row_major, row_major
from hasten.lower.memory import mentions
from hasten.lower.schedule import Schedule, symbols
from hasten.lower.trace import Block, Datum, Tensor
from hasten.vm import program as P

if TYPE_CHECKING:
    from hasten.lower.emit import Emission

FIRST_ROUNDS = 16  # rounds that memory of scan outputs has room for at first


def emit_block(e: Emission, schedule: Schedule, block: Block, finish: Callable[[], None]) -> tuple[P.Instruction, ...]:
    """The instructions of a nested block; `finish` adds what is done with its results."""
    saved = (e.code, e.schedule, e.defined, e.buffers, e.converted, e.checks)
    e.code, e.schedule = [], schedule
    e.defined, e.buffers, e.converted, e.checks = set(e.defined), dict(e.buffers), dict(e.converted), list(block.checks)
    try:
        e.emit_checks()
        for t in schedule.order:
            is_static(e, t)
            if id(t) in schedule.realized:
                e.realize(t)
        e.emit_checks(last=True)
        finish()
        return tuple(e.code)
    finally:
        e.code, e.schedule, e.defined, e.buffers, e.converted, e.checks = saved


def copy_to(e: Emission, value: Tensor, target: Buffer, what: str = "copy", prefix: tuple[DimLike, ...] = ()) -> None:
    """Copy a tensor into memory, at index (*prefix, ...)."""
    e.need(*value.shape, *prefix)
    idx = symbols("o", value.shape)
    with e.evaluating():
        element = value.at(idx)
    nest_call(e, value, [(D.as_symbol(i), n) for i, n in zip(idx, value.shape, strict=True)], [(element, value.dtype, target, (*prefix, *idx))], what)


def bytes_of(t: Tensor) -> DimLike:
    return t.size * dtypes.dtype(t.dtype).size


def emit_branch(e: Emission, o: T.Branch) -> None:
    """If. What ends a function ends on either side."""
    condition = _asked(e, o.condition)
    for r, sizes in zip(o.results, o.sizes, strict=True):
        if not isinstance(r, Tensor):
            continue
        if not sizes:
            e.allocate(r)
        else:
            e.buffers[id(r)] = Buffer(e.fresh("joined"), row_major(r.shape))

    def side(block: Block) -> tuple[P.Instruction, ...]:
        def finish() -> None:
            for r, sizes, value in zip(o.results, o.sizes, block.values, strict=True):
                if isinstance(r, Datum):
                    emit_end(e, value) if r.family == T.END else e.code.append(P.Move(e.object_name(r), _name(e, value)))
                    continue
                assert isinstance(value, Tensor)
                e.need(*value.shape)
                for axis, name in sizes.items():
                    e.code.append(P.Let(name, value.shape[axis]))
                    e.defined.add(name)
                target = e.buffers[id(r)]
                if sizes:
                    e.code.append(P.Alloc(target.name, bytes_of(value)))
                copy_to(e, value, Buffer(target.name, row_major(value.shape)))

        return emit_block(e, e.schedule.inner[id(block)], block, finish)

    e.code.append(P.If(condition, side(o.then), side(o.other)))
    e.defined |= {name for sizes in o.sizes for name in sizes.values()}


def _asked(e: Emission, condition: Tensor | T.Tagged) -> DimLike:
    """A condition as an integer that is not 0 where it holds."""
    name = e.fresh("taken")
    e.defined.add(name)
    if isinstance(condition, T.Tagged):
        e.code.append(P.Tag(name, e.object_name(condition.value)))
        return D.if_equal(D.symbol(name), condition.tag, 1, 0)
    e.code.append(P.Read(name, e.operand(condition, "plain").name, 0, condition.dtype))
    return D.symbol(name)


def emit_end(e: Emission, end: T.Value) -> None:
    """What ends a function: a Return, a jump, or a choice between such."""
    o = end.origin
    if isinstance(o, T.Branch):
        emit_branch(e, o)
    else:
        assert isinstance(o, (T.Invoke, T.Return))
        emit_leave(e, o)


def _name(e: Emission, value: T.Value) -> str:
    assert isinstance(value, Datum)
    return e.object_name(value)


def emit_loop(e: Emission, o: T.Loop) -> None:
    """Loop and Scan."""
    _Loop(e, o).emit()


class _Loop:
    def __init__(self, e: Emission, o: T.Loop):
        self.e, self.o = e, o
        self.homes: dict[int, Buffer] = {}  # of the carried tensors, by their place
        self.go = e.fresh("go")
        self.outer: set[str] = set()  # temporaries of enclosing blocks

    def emit(self) -> None:
        e, o = self.e, self.o
        if o.trips is not None:
            e.need(o.trips)
        self._begin()
        e.define(o.round, 0)
        start: DimLike = 1
        if o.start is not None:
            start = _asked(e, o.start)
        e.define(self.go, start)
        self.outer = set(e.lowered.temporaries)
        body = emit_block(e, e.schedule.inner[id(o.body)], o.body, self._finish)
        going: DimLike = D.symbol(self.go)
        if o.trips is not None:
            going = D._atom(D.Atom("if_lt", "", (D.symbol(o.round), o.trips, going, 0)))
        e.code.append(P.While(going, body))
        if o.count is not None:
            e.define(o.count, D.symbol(o.round))
        for c, r in zip(o.carried, o.results, strict=False):
            for axis, name in c.sizes.items():
                assert isinstance(r, Tensor)
                e.define(str(r.shape[axis]), D.symbol(name))

    def _begin(self) -> None:
        """Memory of carried values with their first contents, and of scan outputs."""
        e, o = self.e, self.o
        for k, (c, r) in enumerate(zip(o.carried, o.results, strict=False)):
            if isinstance(c.first, Datum):
                e.code.append(P.Move(_name(e, r), e.object_name(c.first)))
                e.objects[id(c.seen)] = _name(e, r)
                continue
            assert isinstance(c.first, Tensor) and isinstance(c.seen, Tensor) and isinstance(r, Tensor)
            e.need(*c.first.shape)
            for axis, name in c.sizes.items():
                e.define(name, c.first.shape[axis])
            if c.sizes:
                home = Buffer(e.fresh("carried"), row_major(r.shape))
                e.code.append(P.Alloc(home.name, bytes_of(c.first)))
                e.buffers[id(r)] = home
            else:
                home = e.allocate(r)
            e.changing.add(home.name)
            copy_to(e, c.first, Buffer(home.name, row_major(c.first.shape)))
            e.buffers[id(c.seen)] = Buffer(home.name, row_major(c.seen.shape))
            self.homes[k] = home
        self.room = e.fresh("room")
        for t, r in zip(o.stacked, o.results[len(o.carried) :], strict=True):
            assert isinstance(r, Tensor)
            if o.count is None:
                e.allocate(r)
                continue
            e.buffers[id(r)] = Buffer(e.fresh("stacked"), row_major(r.shape))
            e.need(*t.shape)
            e.code.append(P.Alloc(e.buffers[id(r)].name, bytes_of(t) * FIRST_ROUNDS))
        if o.count is not None and o.stacked:
            e.define(self.room, FIRST_ROUNDS)

    def _finish(self) -> None:
        """End of a round: keep scan outputs, replace carried values, count."""
        e, o = self.e, self.o
        at = D.symbol(o.round)
        if o.count is not None and o.stacked:
            self._grow(at)
        for t, r in zip(o.stacked, o.results[len(o.carried) :], strict=True):
            copy_to(e, t, e.buffers[id(r)], "stack", (at,))
        fresh = {k: self._next(o.carried[k]) for k in self.homes}
        self._move()
        self._replace(fresh)
        if o.go_on is not None:
            e.define(self.go, _asked(e, o.go_on))
        e.define(o.round, at + 1)

    def _move(self) -> None:
        """Carried values of data types: by way of names of their own, since one's next value may be another one's last."""
        e = self.e
        moved = [(e.fresh("next"), _name(e, c.seen), _name(e, c.next)) for c in self.o.carried if isinstance(c.first, Datum)]
        e.code.extend(P.Move(new, value) for new, _, value in moved)
        e.code.extend(P.Move(seen, new) for new, seen, _ in moved)

    def _next(self, c: T.Carried) -> Buffer:
        """The next value in memory that no round writes over: another carried value may still be read from there."""
        e = self.e
        assert isinstance(c.next, Tensor)
        if not c.sizes:
            have = e.buffer(c.next)
            if have is None or have.name in e.changing:
                return e.copy(c.next)
            e.need(have.offset, *have.strides)
            return have
        taken = self._taken(c.next)
        if taken is not None:
            return taken
        target = Buffer(e.fresh("next"), row_major(c.next.shape))
        e.need(*c.next.shape)
        e.code.append(P.Alloc(target.name, bytes_of(c.next)))
        copy_to(e, c.next, target)
        return target

    def _taken(self, t: Tensor) -> Buffer | None:
        """The memory that t was computed in, where that is a temporary of this block and t is all that lies there: it is handed on, not copied."""
        e = self.e
        have = e.buffer(t)
        temporary = None if have is None else e.lowered.temporaries.get(have.name)
        if have is None or temporary is None or temporary.output or have.name in self.outer:
            return None
        if not is_row_major(have, t.shape) or temporary.size != bytes_of(t):
            return None
        first = next(k for k, i in enumerate(e.code) if mentions(i, have.name))
        del e.lowered.temporaries[have.name]
        e.code.insert(first, P.Alloc(have.name, temporary.size))
        return have

    def _replace(self, fresh: dict[int, Buffer]) -> None:
        """What keeps its sizes is copied first: where the next values lie, and how large they are, is told by sizes of this round."""
        e = self.e
        sizes: list[tuple[str, str, DimLike]] = []
        for k, new in sorted(fresh.items(), key=lambda row: bool(self.o.carried[row[0]].sizes)):
            c, home = self.o.carried[k], self.homes[k]
            assert isinstance(c.next, Tensor)
            if c.sizes:
                e.code.extend((P.Release(home.name), P.View(home.name, new.name, 0)))
                sizes += [(name, e.fresh("size"), c.next.shape[axis]) for axis, name in c.sizes.items()]
                continue
            stand_in = Tensor(e.cx, c.next.dtype, c.next.shape, T.Source("next"))
            e.buffers[id(stand_in)] = new
            e.keep.append(stand_in)
            copy_to(e, stand_in, Buffer(home.name, row_major(c.next.shape)))
        for _, size, value in sizes:
            e.define(size, value)
        for name, size, _ in sizes:
            e.define(name, D.symbol(size))

    def _grow(self, at: DimLike) -> None:
        """Double the memory of scan outputs when it is full."""
        e, o = self.e, self.o
        room = D.symbol(self.room)
        saved, e.code = e.code, []
        for t, r in zip(o.stacked, o.results[len(o.carried) :], strict=True):
            old = e.buffers[id(r)]
            new = e.fresh("grown")
            e.need(*t.shape)
            e.code.append(P.Alloc(new, bytes_of(t) * room * 2))
            stand_in = Tensor(e.cx, t.dtype, (at * t.size,), T.Source("stacked"))
            e.buffers[id(stand_in)] = Buffer(old.name, (1,))
            e.keep.append(stand_in)
            copy_to(e, stand_in, Buffer(new, (1,)))
            e.code.append(P.Release(old.name))
            e.code.append(P.View(old.name, new, 0))
        e.code.append(P.Let(self.room, room * 2))
        grown, e.code = tuple(e.code), saved
        e.code.append(P.If(D.if_equal(at, room, 1, 0), grown, ()))


def emit_host(e: Emission, o: T.HostCall) -> None:
    """A host op."""
    inputs: list[P.HostTensor | P.HostObject | None] = []
    for v in o.operands:
        if isinstance(v, Tensor):
            e.need(*v.shape)
            inputs.append(P.HostTensor(e.operand(v, "plain").name, v.dtype, v.shape))
        else:
            inputs.append(None if v is None else P.HostObject(e.object_name(v)))
    outputs: list[P.HostTensor | P.HostObject | None] = []
    for r in o.results:
        if isinstance(r, Tensor):
            e.buffers[id(r)] = Buffer(e.fresh("host"), row_major(r.shape))
            outputs.append(P.HostTensor(e.buffers[id(r)].name, r.dtype, tuple(d if isinstance(d, int) else str(d) for d in r.shape)))
            e.defined |= {s for d in r.shape for s in D.symbols(d)}
        else:
            outputs.append(None if r is None else P.HostObject(e.object_name(r)))
    program = e.lowered.program
    program.host_ops.append(P.HostOp(o.name, o.op, o.payload))
    e.code.append(P.Host(len(program.host_ops) - 1, tuple(inputs), tuple(outputs)))
    e.note(o.name, o.op, "host")
