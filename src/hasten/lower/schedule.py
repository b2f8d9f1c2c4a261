"""Which tensors get memory, and what is fused into what.

Contract: `Schedule(traced)` looks at the trace and decides, without changing any meaning:
    realized   tensors with memory of their own, in the order in which they are computed
    inlined    Maps and Views evaluated inside whatever reads them (prologue fusion)
    absorbed   a kernel's or reduction's result T whose elementwise successors are computed in its epilogue: `fused[last] = Fusion(T, own)`
    joined     kernels that are computed as one (lower.joining): `joined[result of the last one] = Joined(kernel, tensors between)`
Rules: what is cheap or read once is inlined; what would be computed repeatedly and isn't cheap, or must lie in memory (operands of hand-written
kernels, outputs, sizes read at run time), is realized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.lower import trace as T
from hasten.lower.formats import Buffer, row_major, seen_through
from hasten.lower.joining import Joined, join
from hasten.lower.trace import Block, Context, Tensor

CHEAP = 6  # cycles a vector below which computing again beats storing, where memory isn't read twice
TOO_LONG = 400  # an inlined expression beyond this cost is cut
TOO_DEEP = 100  # and so is one with more operations inside each other; index arithmetic counts by its length:
TANGLE = 64  # so many letters as one operation
MEMBERS = 24  # most elementwise tensors in one epilogue


@dataclass
class Shallow:
    """A tensor's definition in terms of the tensors it reads: index symbols, Exprs, and (source, index) of every load."""

    index: tuple[DimLike, ...]
    exprs: list[Expr]
    loads: list[tuple[Tensor, tuple[DimLike, ...]]]
    points: DimLike  # how often it is evaluated


Inverse = Callable[[tuple[DimLike, ...]], tuple[DimLike, ...]]


@dataclass
class Fusion:
    """`last` is computed by the kernel of `root`; `own(root index)` is the index of last that belongs to it."""

    root: Tensor
    own: Inverse


@dataclass
class Schedule:
    """Decisions for one block of a trace (nested blocks have schedules of their own)."""

    cx: Context
    outputs: list[Tensor]
    block: Block | None = None
    parent: Schedule | None = None
    externals: dict[int, Tensor] = field(default_factory=dict)  # of enclosing blocks, to be in memory before this one runs
    inner: dict[int, Schedule] = field(default_factory=dict)  # of nested blocks, by id
    forced: set[int] = field(default_factory=set)
    order: list[Tensor] = field(default_factory=list)  # everything reached, in the order of the trace
    users: dict[int, list[Tensor]] = field(default_factory=dict)
    shallow: dict[int, Shallow] = field(default_factory=dict)
    realized: set[int] = field(default_factory=set)
    fused: dict[int, Fusion] = field(default_factory=dict)
    absorbed: set[int] = field(default_factory=set)
    joined: dict[int, Joined] = field(default_factory=dict)
    plain: set[int] = field(default_factory=set)  # must be row-major
    cost: dict[int, int] = field(default_factory=dict)
    depth: dict[int, int] = field(default_factory=dict)

    def run(self) -> Schedule:
        """Decide everything."""
        self._reach()
        for t in self.order:
            self._decide(t)
        for t in self.order:
            if self._is_root(t):
                self._grow(t)
        for t in self.order:
            join(self, t)
        return self

    def inline(self, t: Tensor) -> bool:
        """Whether reading t computes it in place."""
        if self.parent is not None and self.block is not None and not self.block.holds(t):
            return self.parent.inline(t)
        return isinstance(t.origin, (T.Map, T.View, T.Concat)) and id(t) not in self.realized

    def block_holds(self, t: Tensor) -> bool:
        """Whether t belongs to this block."""
        return self.block is None or self.block.holds(t)

    # --- what is read by what -------------------------------------------------------------------------------------------------
    def _reach(self) -> None:
        seen: dict[int, Tensor] = {}
        stack = list(self.outputs)
        for t in self.outputs:
            self._force(t)
        for left, _, right, *_ in self.cx.checks if self.block is None else self.block.checks:
            for d in (left, right):  # what only a check needs is read, too
                stack.extend(self.sizes(d))
        while stack:
            t = stack.pop()
            if id(t) in seen:
                continue
            if self.block is not None and not self.block.holds(t):
                if not isinstance(t.origin, (T.Const, T.Source)):  # those are in memory anyway
                    self.externals[id(t)] = t
                continue
            seen[id(t)] = t
            for u in self._dependencies(t):
                stack.append(u)
        self.order = sorted(seen.values(), key=lambda t: t.order)
        for t in self.order:
            for u in {id(u): u for u in self._direct(t)}.values():
                self.users.setdefault(id(u), []).append(t)

    def _force(self, t: Tensor) -> None:
        """t must have memory; of a reshape it is the tensor behind it."""
        self.forced.add(id(t))
        while isinstance(t.origin, T.View) and t.origin.flat:
            t = t.origin.base
            self.forced.add(id(t))
            self.plain.add(id(t))

    def _lay_out(self, t: Tensor) -> None:
        """Where operand t is a reshape of a transpose that no strides can express, the transpose gets memory: then what makes the tensor
        behind it (attention's heads, say) stores it in that order, and nothing is copied."""
        views: list[Tensor] = []
        while isinstance(t.origin, T.View):
            views.append(t)
            t = t.origin.base
        memory = Buffer("", row_major(t.shape))
        for v in reversed(views):
            assert isinstance(v.origin, T.View)
            seen = seen_through(v.origin, v.shape, memory)
            if seen is None:
                if v.origin.flat and isinstance(v.origin.base.origin, T.View):
                    self._force(v.origin.base)
                    self.plain.add(id(v.origin.base))
                return
            memory = seen

    def _dependencies(self, t: Tensor) -> Iterator[Tensor]:
        """Tensors needed for t, also through the sizes in its shape, its loops and its indices."""
        yield from self._direct(t)
        o = t.origin
        loops = (*o.outer, *o.inner) if isinstance(o, T.Nest) else tuple(o.spec.dims(o).values()) if isinstance(o, T.Kernel) else ()
        loops = tuple(o.sizes) if isinstance(o, T.Step) else loops
        for d in (*t.shape, *loops):
            yield from self.sizes(d)
        if isinstance(o, (T.Map, T.View, T.Nest)) and (self.cx.defined or self.cx.makers):
            mentioned = frozenset[str]().union(*map(E.free_symbols, self.look(t).exprs))
            for name in sorted(mentioned & (self.cx.defined.keys() | self.cx.makers.keys())):
                yield from self.sizes(D.symbol(name))

    def sizes(self, d: DimLike) -> Iterator[Tensor]:
        """Tensors whose contents a size is read from."""
        for name in sorted(self.cx.base_symbols(d)):
            if name in self.cx.defined:
                u = self.cx.defined[name][0]
                self._force(u)
                yield u
            elif name in self.cx.makers:
                yield self.cx.makers[name]  # type: ignore[misc]

    def _direct(self, t: Tensor) -> list[Tensor]:
        o = t.origin
        if isinstance(o, (T.Source, T.Const)):
            return []
        if isinstance(o, T.Kernel):
            for u, want in ((u, o.spec.wants(k)) for k, u in enumerate(o.operands)):
                if want == "plain":
                    self._force(u)
                    self.plain.add(id(u))
                else:
                    self._lay_out(u)
            return [self._behind(u) for u in o.operands]
        if isinstance(o, (T.HostCall, T.Step)):
            operands = o.inputs() if isinstance(o, T.Step) else o.operands
            for value in operands:
                if isinstance(value, Tensor):
                    self._force(value)
                    self.plain.add(id(value))
            return [u for u in operands if u is not None]  # type: ignore[misc]
        if isinstance(o, (T.Branch, T.Loop)):
            return self._control(o)
        if isinstance(o, T.View) and id(t) in self.forced and o.flat:
            return [o.base]
        if isinstance(o, (T.Concat, T.Woven)):
            return list(o.parts)
        return [u for u, _ in self.look(t).loads]

    def _control(self, o: T.Branch | T.Loop) -> list[Tensor]:
        """What control flow needs of this block: its operands, and what its blocks use from outside."""
        if isinstance(o, T.Branch):
            asked = o.condition.value if isinstance(o.condition, T.Tagged) else o.condition
            found: list[Tensor] = [asked]  # type: ignore[list-item]
            blocks = [o.then, o.other]
            wanted = {id(o.then): o.then.values, id(o.other): o.other.values}
        else:
            found = [*(c.first for c in o.carried), *([o.start] if o.start is not None else [])]  # type: ignore[list-item]
            blocks = [o.body]
            wanted = {id(o.body): [*(c.next for c in o.carried), *o.stacked, *([o.go_on] if o.go_on is not None else [])]}
        for u in found:
            self._force(u)
            self.plain.add(id(u))
        for b in blocks:
            if id(b) not in self.inner:
                self.inner[id(b)] = Schedule(self.cx, wanted[id(b)], b, self).run()  # type: ignore[arg-type]
            for u in self.inner[id(b)].externals.values():
                if isinstance(u.origin, T.Map):
                    self._force(u)
                found.append(self._behind(u))
        if isinstance(o, T.Loop) and isinstance(o.trips, D.Dim):
            found.extend(self.sizes(o.trips))
        return found

    def _behind(self, u: Tensor) -> Tensor:
        """The tensor whose memory serves operand u, if u is only another view of it."""
        while isinstance(u.origin, T.View) and id(u) not in self.forced:
            u = u.origin.base
        return u

    def look(self, t: Tensor) -> Shallow:
        """The shallow definition of a Map, View or Nest."""
        if id(t) not in self.shallow:
            with self.cx.evaluating(None):
                self.shallow[id(t)] = self._look(t)
        return self.shallow[id(t)]

    def _look(self, t: Tensor) -> Shallow:
        o = t.origin
        if isinstance(o, T.Nest):
            i, r = symbols("o", o.outer), symbols("r", o.inner)
            exprs: list[Expr] = []
            params: dict[str, Expr] = {}
            for s in o.stages:
                e = s.fn(i, r, params)
                exprs.append(e)
                params[s.name] = E.param(s.name, "int64" if s.kind.startswith("arg") else e.dtype)
            exprs.append(o.final(i, params) if o.place is None else o.final(i, r, params))
            points, index = D.product(o.outer) * D.product(o.inner), i
        else:
            index = symbols("o", t.shape)
            exprs = [o.fn(index) if isinstance(o, T.Map) else t.at(index)]
            points = t.size
        loads: list[tuple[Tensor, tuple[DimLike, ...]]] = []
        seen: set[int] = set()
        for e in exprs:
            for n in E.walk(e, seen):
                if n.kind == "load":
                    loads.append((n.source, n.index))
        return Shallow(index, exprs, loads, points)

    # --- memory or not ------------------------------------------------------------------------------------------------------
    def _decide(self, t: Tensor) -> None:
        o = t.origin
        if not isinstance(o, (T.Map, T.View)):
            if not (isinstance(o, T.Concat) and self._known(t)):
                self.realized.add(id(t))
            return
        self.cost[id(t)] = self._inline_cost(t)
        self.depth[id(t)] = self._inline_depth(t)
        if id(t) in self.forced or (isinstance(o, T.Map) and self._worth_memory(t)):
            self.realized.add(id(t))

    def _known(self, t: Tensor) -> bool:
        return id(t) not in self.forced and self.cx.ints(t) is not None

    def _inline_cost(self, t: Tensor) -> int:
        look = self.look(t)
        own = sum(E.cost(e) for e in look.exprs)
        return own + sum(self.cost.get(id(u), 0) for u, _ in look.loads if self.inline(u))

    def _inline_depth(self, t: Tensor) -> int:
        """How deep operations lie inside each other in t's expression, with long index arithmetic counted in."""
        look = self.look(t)
        own: dict[int, int] = {}
        for e in look.exprs:
            for n in E.walk(e):
                own[id(n)] = 1 + max((own.get(id(c), 0) for c in n.children()), default=0)
        behind = 0
        for u, index in look.loads:
            letters = sum(len(a.key) for d in index if isinstance(d, D.Dim) for mono, _ in d.terms for a in mono)
            behind = max(behind, letters // TANGLE + (self.depth.get(id(u), 0) if self.inline(u) else 0))
        hops = 2 * T.MAX_HOPS if isinstance(t.origin, T.Through) else 0
        return max(own.values()) + behind + hops

    def _worth_memory(self, t: Tensor) -> bool:
        users = self.users.get(id(t), [])
        cost = self.cost[id(t)]
        reads = sum(1 for u, _ in self.look(t).loads if not (isinstance(u.origin, T.Const) and u.origin.array.size == 1))
        if cost > TOO_LONG or self.depth[id(t)] > TOO_DEEP:
            return True
        if len(users) > 1 and (cost >= CHEAP or reads > 1) and reads:
            return True
        return any(self._repeats(t, u, cost) for u in users)

    def _repeats(self, t: Tensor, user: Tensor, cost: int) -> bool:
        """Whether `user` would compute t again and again, at a price."""
        if not isinstance(user.origin, (T.Map, T.Nest, T.View)):
            return False
        look = self.look(user)
        times = sum(1 for e in look.exprs if any(n.kind == "load" and n.source is t for n in E.walk(e)))
        more = look.points - t.size
        if not (D.nonnegative(-more) if not isinstance(more, int) else more <= 0):
            return cost >= CHEAP
        return times > 1 and cost > 20

    # --- epilogues ------------------------------------------------------------------------------------------------------------
    def _is_root(self, t: Tensor) -> bool:
        o = t.origin
        if id(t) in self.forced or id(t) in self.absorbed:
            return False
        return (isinstance(o, T.Kernel) and o.spec.accumulates) or (isinstance(o, T.Nest) and o.place is None)

    def _grow(self, root: Tensor) -> None:
        """Follow root's elementwise users as far as they close up again into one tensor; that one is computed by root's kernel."""
        inverses: dict[int, Inverse] = {id(root): lambda i: i}
        members: dict[int, Tensor] = {id(root): root}
        best: tuple[Tensor, set[int]] | None = None
        while len(members) < MEMBERS:
            ahead = [u for m in list(members.values()) for u in self.users.get(id(m), []) if id(u) not in members]
            if not ahead:
                break
            u = min(ahead, key=lambda x: x.order)
            own = self._follows(u, members, inverses, root)
            if own is None or id(u) in self.fused or id(u) in self.absorbed:
                break
            members[id(u)], inverses[id(u)] = u, own
            open_ends = [m for m in members.values() if id(m) in self.forced or any(id(x) not in members for x in self.users.get(id(m), []))]
            if len(open_ends) == 1 and open_ends[0] is u:
                best = (u, set(members))
            elif id(u) in self.forced or not self.users.get(id(u)):
                break
        if best is None:
            return
        last, inside = best
        self.fused[id(last)] = Fusion(root, inverses[id(last)])
        self.realized.add(id(last))
        for key in inside - {id(last)}:
            self.realized.discard(key)
            self.absorbed.add(key)

    def _follows(self, u: Tensor, members: dict[int, Tensor], inverses: dict[int, Inverse], root: Tensor) -> Inverse | None:
        """u's index as a function of root's, if u has one element for each of root's and reads the members just there."""
        if not isinstance(u.origin, (T.Map, T.View)) or (isinstance(u.origin, T.View) and (id(u) not in self.forced or u.origin.flat)):
            return None
        if D.known_equal(u.size, root.size) is not True:
            return None
        look = self.look(u)
        probe = symbols("p", root.shape)
        found: Inverse | None = None
        for source, index in look.loads:
            if id(source) not in members:
                continue
            back = invert(index, look.index, u.shape, source.shape)
            if back is None:
                return None
            own = _compose(back, inverses[id(source)])
            if found is not None and own(probe) != found(probe):
                return None
            found = own
        return found


def _compose(back: Inverse, before: Inverse) -> Inverse:
    return lambda i: back(before(i))


def invert(index: Sequence[DimLike], mine: Sequence[DimLike], shape: Sequence[DimLike], source: Sequence[DimLike]) -> Inverse | None:
    """The function from an index into `source` (of that shape) to the index symbols `mine` (with extents `shape`) that read it at `index`; None
    where `index` isn't a one-to-one rearrangement: each entry must be a symbol, a row-major mix of several, or 0 for an axis of size 1."""
    where: dict[int, tuple[int, DimLike, DimLike | None]] = {}  # own axis -> (source axis, divisor, modulus)
    for k, e in enumerate(index):
        axes = [a for a, m in enumerate(mine) if D.symbols(e) & D.symbols(m)]
        if not axes:
            if e != 0 or source[k] != 1:
                return None
            continue
        rest: DimLike = e
        parts: list[tuple[int, DimLike]] = []
        for a in axes:
            name = D.as_symbol(mine[a])
            lin = D.linear(rest, name) if name is not None else None
            if lin is None or a in where:
                return None
            parts.append((a, lin[0]))
            rest = lin[1]
        if rest != 0:
            return None
        parts = _by_stride(parts, shape)
        step: DimLike = 1
        for position, (a, stride) in enumerate(reversed(parts)):
            if stride != step:
                return None
            where[a] = (k, step, None if position == len(parts) - 1 else shape[a])
            step = step * shape[a]
        if D.known_equal(step, source[k]) is not True:
            return None
    if any(a not in where and shape[a] != 1 for a in range(len(mine))):
        return None

    def own(i: tuple[DimLike, ...]) -> tuple[DimLike, ...]:
        out: list[DimLike] = []
        for a in range(len(mine)):
            if a not in where:
                out.append(0)
                continue
            k, divisor, modulus = where[a]
            value = D.floordiv(i[k], divisor)
            out.append(value if modulus is None else D.mod(value, modulus))
        return tuple(out)

    return own


def _by_stride(parts: list[tuple[int, DimLike]], shape: Sequence[DimLike]) -> list[tuple[int, DimLike]]:
    """Parts of a row-major mix from slowest to fastest: the one with stride 1 is last, its left neighbour's stride is its extent, ..."""
    left = list(parts)
    ordered: list[tuple[int, DimLike]] = []
    step: DimLike = 1
    while left:
        hit = next((p for p in left if p[1] == step), None)
        if hit is None:
            return parts
        left.remove(hit)
        ordered.append(hit)
        step = step * shape[hit[0]]
    return ordered[::-1]


def symbols(prefix: str, extents: Sequence[DimLike]) -> tuple[DimLike, ...]:
    """Index symbols for a shape."""
    return tuple(D.symbol(f"{prefix}${k}", n) for k, n in enumerate(extents))

