"""Where the parts of a Concat lie: what makes a part stores it where the whole lies, and a Concat that another one begins with or contains lies in
that one's memory. What could not be stored in its place is copied when the Concat itself is emitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.lower import trace as T
from hasten.lower.emit_nests import nest_call
from hasten.lower.formats import Buffer, loops, memory_order
from hasten.lower.orders import concat_order, whole_order
from hasten.lower.schedule import symbols
from hasten.lower.trace import Tensor

if TYPE_CHECKING:
    from hasten.lower.emit import Emission

TOGETHER = 8  # most parts that one kernel copies


class Concats:
    """The places of all parts in one emission."""

    def __init__(self, e: Emission):
        self.e = e
        self.placed: set[tuple[int, str, DimLike]] = set()  # parts that are where they belong: part, memory, offset
        self.hosts: dict[int, tuple[Tensor, DimLike] | None] = {}  # Concats in the memory of larger ones

    def inside(self, t: Tensor, order: list[int]) -> Buffer | None:
        """t's place in the memory of a Concat that has it as a part: then nothing is copied later."""
        e, schedule = self.e, self.e.schedule
        if id(t) in e.homes or id(t) in schedule.plain or not isinstance(t.origin, (T.Map, T.Nest, T.Kernel)):
            return None
        if isinstance(t.origin, T.Kernel) and not t.origin.spec.accumulates:  # stores its results itself, from the beginning of their memory
            return None
        whole = next((u for u in schedule.users.get(id(t), []) if isinstance(u.origin, (T.Concat, T.Woven)) and id(u) in schedule.realized), None)
        if whole is None or not schedule.block_holds(whole):
            return None
        o = whole.origin
        assert isinstance(o, (T.Concat, T.Woven))
        position = [k for k, p in enumerate(o.parts) if p is t]
        if len(position) != 1:
            return None
        place = o.place(position[0])
        if not {s for d in (*whole.shape, *(start for start, _ in place)) for s in D.symbols(d)} <= e.defined:
            return None
        outermost = self._outermost(whole)
        if id(outermost) not in e.buffers:
            assert isinstance(outermost.origin, (T.Concat, T.Woven))
            e.allocate(outermost, whole_order(e, outermost, outermost.origin, order))
        have = self._within(whole)
        root = schedule.fused[id(t)].root if id(t) in schedule.fused else t
        if place[order[-1]][1] != 1 or (isinstance(root.origin, T.Kernel) and have.strides[order[-1]] != 1):
            return None
        part = _part(have, place)
        self.placed.add((id(t), part.name, part.offset))
        return part

    def emit(self, t: Tensor, o: T.Concat | T.Woven) -> None:
        """Copy the parts that are not in their places."""
        e = self.e
        outermost = self._outermost(t)
        if id(outermost) not in e.buffers:
            e.allocate(outermost, concat_order(e, outermost, outermost.origin))  # type: ignore[arg-type]
        target = e.buffers[id(t)] = self._within(t)
        self.placed.add((id(t), target.name, target.offset))
        for group in self._groups(t, o, target):
            idx = symbols("o", o.parts[group[0]].shape)
            stores = []
            for k in group:
                with e.evaluating():
                    value = o.parts[k].at(idx)
                place = tuple(i * step + start for i, (start, step) in zip(idx, o.place(k), strict=True))
                e.need(*o.parts[k].shape, *(start for start, _ in o.place(k)))
                stores.append((value, t.dtype, target, place))
            nest_call(e, t, loops(idx, o.parts[group[0]].shape, target), stores, "concat")

    def _groups(self, t: Tensor, o: T.Concat | T.Woven, target: Buffer) -> list[list[int]]:
        """The parts to be copied. Those of one size that lie beside each other, or between one another, along the axis that is contiguous are copied
        together: one after the other would fetch the same cache lines again."""
        groups: dict[object, list[int]] = {}
        fastest = memory_order(target, t.shape)[-1] if t.rank else 0
        for k, p in enumerate(o.parts):
            spot = (id(p), target.name, _part(target, o.place(k)).offset)
            if spot in self.placed or (isinstance(p.size, int) and p.size == 0):
                continue
            self.placed.add(spot)
            if isinstance(o, T.Concat):
                key: object = p.shape[fastest] if o.axis == fastest else (k,)
            else:
                key = (p.shape, *(x for a, x in enumerate(o.place(k)) if a != fastest)) if o.place(k)[fastest][1] > 1 else (k,)
            groups.setdefault(key, []).append(k)
        return [g[k : k + TOGETHER] for g in groups.values() for k in range(0, len(g), TOGETHER)]

    def _outermost(self, whole: Tensor) -> Tensor:
        """The tensor in whose memory a Concat lies: its own, or a larger Concat that begins with the same parts, or has it as a part."""
        while (host := self._host(whole)) is not None:
            whole = host[0]
        return whole

    def _host(self, whole: Tensor) -> tuple[Tensor, DimLike] | None:
        """The next larger Concat that holds all of a Concat, and where along the axis it begins in it. Decided when first asked."""
        if id(whole) not in self.hosts:
            self.hosts[id(whole)] = self._find_host(whole)
        return self.hosts[id(whole)]

    def _find_host(self, whole: Tensor) -> tuple[Tensor, DimLike] | None:
        o, users = whole.origin, self.e.schedule.users
        if not isinstance(o, T.Concat) or not self._may_share(whole):
            return None
        for u in (*users.get(id(whole), []), *users.get(id(o.parts[0]), [])):
            other = u.origin
            if not isinstance(other, T.Concat) or u is whole or other.axis != o.axis or not self._may_share(u):
                continue
            if not {s for d in u.shape for s in D.symbols(d)} <= self.e.defined:
                continue
            position = [k for k, p in enumerate(other.parts) if p is whole]
            if len(position) == 1:
                return u, other.starts[position[0]]
            if len(other.parts) > len(o.parts) and all(a is b for a, b in zip(o.parts, other.parts, strict=False)):
                return u, 0
        return None

    def _may_share(self, t: Tensor) -> bool:
        """Whether a Concat's memory may be part of another one's, or hold another one."""
        schedule = self.e.schedule
        return id(t) in schedule.realized and id(t) not in schedule.plain and id(t) not in self.e.homes and schedule.block_holds(t)

    def _within(self, whole: Tensor) -> Buffer:
        """Where a Concat lies, the outermost one being allocated."""
        host = self._host(whole)
        if host is None:
            return self.e.buffers[id(whole)]
        have, axis = self._within(host[0]), whole.origin.axis  # type: ignore[union-attr]
        return replace(have, offset=have.offset + host[1] * have.strides[axis])


def _part(whole: Buffer, place: Sequence[tuple[DimLike, int]]) -> Buffer:
    """A part's place in the memory of a Concat (see `Concat.place`)."""
    offset = whole.offset
    for (start, _), stride in zip(place, whole.strides, strict=True):
        offset = offset + start * stride
    return Buffer(whole.name, tuple(stride * step for (_, step), stride in zip(place, whole.strides, strict=True)), offset)
