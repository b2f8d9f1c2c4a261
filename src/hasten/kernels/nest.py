"""The general kernel: a nest of parallel loops, optional reductions inside, then stores. Elementwise work, data movement, reductions, softmax,
normalisations, pooling and every generic form are this one template.

    for o in outer (split among threads):            lanes along the last outer loop ("across") ...
        for each stage: acc = identity; for r in inner: acc = combine(acc, stage.expr)     ... or along the last inner loop ("along")
        store, once per o, or once per (o, r)

The order of the loops is the order in memory of what is stored; loops that can be one loop are merged first (`merging`). Guards and limits
that hold but for the first and last rounds of a loop are left out in between (`interior`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from hasten.codegen.builder import Function, Module, V, Var
from hasten.codegen.isa import Isa
from hasten.kernels import transposing
from hasten.kernels.accumulator import Accumulator
from hasten.kernels.emit import Arguments, Emitter, Words
from hasten.kernels.expr import param
from hasten.kernels.interior import Interior, interior
from hasten.kernels.interleaving import store_all
from hasten.kernels.lanes import UNROLL, awkwardness, chains, choose, lane_count, lane_last
from hasten.kernels.merging import merge
from hasten.kernels.problem import Loop, NestProblem, StageProblem, StoreProblem

Rounds = list[tuple[dict[str, V], V]]  # inner indices and the flat inner index

FEW = 4  # vectors that are written out, where a unit has no more


@dataclass
class Text:
    """A kernel's text (with KERNEL in place of its name) and its argument words. `once`: one result, of which no element is made twice."""

    text: str
    words: Words = field(default_factory=Words)
    once: bool = True


def emit(p: NestProblem, isa: Isa) -> Text:
    """The kernel's text. The problem's Exprs load from buffer keys at offsets in elements."""
    p = merge(p)
    lanes = lane_count(p, isa)
    p = lane_last(p, lanes)
    module = Module(isa)
    f = module.function("KERNEL", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
    module.global_text("!0", "!0 = !{}")
    text = Text("")
    args = Arguments(f, text.words)
    inside = interior(p)
    body = _Nest(f, isa, args, p, lanes, choose(inside.problem if inside else p, lanes), inside)
    body.emit()
    f.ret()
    f._allocas.extend(args.prologue)
    text.text, text.once = module.text(), body.cut is None and len(p.stores) == 1
    return text


class _Nest:
    """`within`: the nest without the guards and limits that hold in `ranges`; only at the edges this one's are needed."""

    def __init__(self, f: Function, isa: Isa, args: Arguments, p: NestProblem, lanes: int, mode: str, inside: Interior | None = None):
        self.f, self.isa, self.args, self.p, self.lanes, self.mode = f, isa, args, p, lanes, mode
        self.cut = transposing.squares(p, lanes) if mode == "across" else None
        self.masked = isa.vector_bytes == 64  # AVX-512 has masks for everything; elsewhere tails run lane by lane
        self.ranges = inside.ranges if inside else {}
        self.within = _Nest(f, isa, args, inside.problem, lanes, mode) if inside else None

    def emit(self) -> None:
        p, f = self.p, self.f
        thread, threads = f.args[1], f.args[2]
        across = self.mode == "across"
        if self.cut is not None:
            self._squares(self.cut)
            return
        units = p.outer[:-1] if across else p.outer
        if units:
            self._units(units)
        elif across:
            n = self.args.integer(p.outer[-1][1])
            chunks = (n + (self.lanes - 1)).udiv(self.lanes)
            begin = (chunks * thread).udiv(threads) * self.lanes
            end = f.smin((chunks * (thread + 1)).udiv(threads) * self.lanes, n)
            self._limited({}, begin, end)
        else:
            with f.when(thread.eq(0)):
                self._unit({})

    def _units(self, units: tuple[Loop, ...]) -> None:
        """This thread's units, a row of the last loop at a time: what a row has in common is computed once."""
        f, name = self.f, units[-1][0]
        total = self._product([self.args.integer(n) for _, n in units])
        at = f.var("i64", (total * f.args[1]).udiv(f.args[2]))
        end = (total * (f.args[1] + 1)).udiv(f.args[2])
        with f.forever() as rows:
            now = at.get()
            rows.break_if(now >= end)
            env = self._decompose(now, units)
            first = env[name]
            stop = f.smin(first + (end - now), self.args.integer(units[-1][1]))
            with f.loop(first, stop) as last:
                if self.mode == "across":
                    self._limited({**env, name: last}, f.const("i64", 0), self.args.integer(self.p.outer[-1][1]))
                else:
                    self._limited({**env, name: last})
            at.set(now + (stop - first))

    # --- edges and what lies within ---------------------------------------------------------------------------------------------
    def _limited(self, env: dict[str, V], begin: V | None = None, end: V | None = None) -> None:
        """One unit, without guards where they hold; across: the part [begin, end) of its lanes."""
        within = self._is_within(env)
        if begin is not None and end is not None and self.p.outer[-1][0] in self.ranges:
            self._lane_ranges(env, begin, end, within)
        elif within is None:
            self._all(env, begin, end)
        else:
            assert self.within is not None
            with self.f.either(within) as edge:
                if begin is not None and isinstance(n := self.p.outer[-1][1], int) and n <= FEW * self.lanes:
                    self.within._few_lanes(env, n)
                else:
                    self.within._all(env, begin, end)
                edge.otherwise()
                self._all(env, begin, end)

    def _all(self, env: dict[str, V], begin: V | None, end: V | None) -> None:
        if begin is not None and end is not None:
            self._lanes(env, begin, end)
        else:
            self._unit(env)

    def _is_within(self, env: dict[str, V]) -> V | None:
        """Whether the unit's loops are in their ranges; None where they have none."""
        found: V | None = None
        for name in (s for s in self.ranges if s in env):
            low, high = (self.args.integer(d) for d in self.ranges[name])
            here = (env[name] >= low) & (env[name] < high)
            found = here if found is None else found & here
        return found

    def _lane_ranges(self, env: dict[str, V], begin: V, end: V, within: V | None) -> None:
        """Vectors of lanes where nothing limits them; then both edges, in vectors only where they are loaded as such."""
        f, name = self.f, self.p.outer[-1][0]
        low, high = (self.args.integer(d) for d in self.ranges[name])
        low = f.smin(f.smax(low, begin), end)
        high = f.smax(f.smin(high, end), low)
        if within is not None:
            low, high = f.select(within, low, end), f.select(within, high, end)
        assert self.within is not None
        self.within._lanes(env, low, high)
        with f.loop(0, 2) as side:
            first, stop = f.select(side.eq(0), begin, high), f.select(side.eq(0), low, end)
            if awkwardness(self.p, name, self.lanes, self.lanes) == 0:
                self._lanes(env, first, stop)
            else:
                with f.loop(first, stop) as now:
                    self._body({**env, name: now}, 1, None, None)

    def _squares(self, cut: transposing.Squares) -> None:
        """Threads share the blocks of `cut.width` rows."""
        p, f, args = self.p, self.f, self.args
        units = tuple(x for k, x in enumerate(p.outer[:-1]) if k != cut.along)
        blocks = (args.integer(p.outer[cut.along][1]) + (cut.width - 1)).udiv(f.const("i64", cut.width))
        total = self._product([blocks, *(args.integer(n) for _, n in units)])
        with f.loop((total * f.args[1]).udiv(f.args[2]), (total * (f.args[1] + 1)).udiv(f.args[2])) as u:
            unit = u.udiv(blocks)
            transposing.emit_squares(p, cut, args, self._lanes, self._decompose(unit, units), u - unit * blocks, self.lanes)

    def _product(self, values: list[V]) -> V:
        total = values[0]
        for v in values[1:]:
            total = total * v
        return total

    def _decompose(self, u: V, loops: tuple[Loop, ...]) -> dict[str, V]:
        """Loop indices of the flat unit number."""
        env: dict[str, V] = {}
        for k in range(len(loops) - 1, -1, -1):
            name, n = loops[k]
            if k == 0:
                env[name] = u
            else:
                size = self.args.integer(n)
                q = u.udiv(size)
                env[name] = u - q * size
                u = q
        return env

    # --- lanes along the last outer loop --------------------------------------------------------------------------------------
    def _lanes(self, env: dict[str, V], begin: V, end: V) -> None:
        f, name = self.f, self.p.outer[-1][0]
        lanes = self.lanes
        i = f.var("i64", begin)
        main, tail = f.label("main"), f.label("tail")
        if (wide := lanes * chains(self.p, self.p.stages, name)) > lanes:
            self._while(i, lambda now: now + (wide - 1) < end, lambda now: self._body({**env, name: now}, wide, None, None), wide, main)
        self._while(i, lambda now: now + (lanes - 1) < end, lambda now: self._body({**env, name: now}, lanes, None, None), lanes, main)
        if self.masked:
            now = i.get()
            with f.when(now < end):
                mask = self._tail_mask(end - now, lanes)
                self._body({**env, name: now}, lanes, mask, end - 1)
        else:
            self._while(i, lambda now: now < end, lambda now: self._body({**env, name: now}, 1, None, None), 1, tail)

    def _few_lanes(self, env: dict[str, V], n: int) -> None:
        """All lanes written out, for units so small that asking for the next vector would take longer than having it."""
        f, name = self.f, self.p.outer[-1][0]
        whole = n - n % self.lanes
        for first in range(0, whole, self.lanes):
            self._body({**env, name: f.const("i64", first)}, self.lanes, None, None)
        if self.masked and n > whole:
            self._body({**env, name: f.const("i64", whole)}, self.lanes, self._tail_mask(f.const("i64", n - whole), self.lanes), f.const("i64", n - 1))
        else:
            for k in range(whole, n):
                self._body({**env, name: f.const("i64", k)}, 1, None, None)

    def _tail_mask(self, left: V, lanes: int) -> V:
        return self.f.iota("i64", lanes) < self.f.splat(left, lanes)

    def _while(self, i: Var, cond: Callable[[V], V], body: Callable[[V], None], step: int, hint: str) -> None:
        f = self.f
        with f.forever() as loop:
            now = i.get()
            loop.break_if(~cond(now))
            body(now)
            i.set(now + step)

    def _body(self, env: dict[str, V], lanes: int, mask: V | None, last: V | None) -> None:
        p, f = self.p, self.f
        lane = p.outer[-1][0]
        params: dict[str, V] = {}
        for stage in p.stages:
            acc = Accumulator(f, stage, lanes)

            def add(rounds: Rounds, stage: StageProblem = stage, acc: Accumulator = acc) -> None:
                emitters = [(Emitter(self.args, {**env, **inner}, lane, lanes, mask, params, last), flat) for inner, flat in rounds]
                acc.add_all([(f.splat(e.emit(stage.expr), lanes), flat) for e, flat in emitters])

            self._rounds(add)
            params[stage.name] = acc.result()
        with ExitStack() as stack:
            inner = self._inner(stack)[0] if p.inner_store else {}
            e = Emitter(self.args, {**env, **inner}, lane, lanes, mask, params, last)
            store_all(e, p.stores)

    def _rounds(self, work: Callable[[Rounds], None]) -> None:
        """All inner rounds: the last loops written out where they are short and known (windows), in the loops before them."""
        p, f = self.p, self.f
        cut, count = len(p.inner), 1
        while cut and isinstance(n := p.inner[cut - 1][1], int) and count * n <= UNROLL:
            cut, count = cut - 1, count * n
        written = p.inner[cut:]
        with ExitStack() as stack:
            env, flat = self._inner(stack, p.inner[:cut])
            places = itertools.product(*(range(int(n)) for _, n in written))  # type: ignore[arg-type]
            work([({**env, **{name: f.const("i64", k) for (name, _), k in zip(written, at, strict=True)}},
                   flat * count + number if written else flat) for number, at in enumerate(places)])  # fmt: skip

    def _inner(self, stack: ExitStack, loops: tuple[Loop, ...] | None = None) -> tuple[dict[str, V], V]:
        """Open the inner loops; their indices and the flat inner index."""
        env: dict[str, V] = {}
        flat: V = self.f.const("i64", 0)
        for name, n in self.p.inner if loops is None else loops:
            size = self.args.integer(n)
            env[name] = stack.enter_context(self.f.loop(0, size))
            flat = flat * size + env[name]
        return env, flat

    # --- lanes along the last inner loop --------------------------------------------------------------------------------------
    def _unit(self, env: dict[str, V]) -> None:
        p = self.p
        params: dict[str, V] = {}
        for stage in p.stages:
            params[stage.name] = self._along(env, stage, params) if self.mode == "along" else self._scalar(env, stage, params)
        if not p.inner_store or not p.inner:
            e = Emitter(self.args, env, params=params)
            for s in p.stores:
                e.store(e.emit(s.value), s.stored, s.target, s.offset)
            return
        with ExitStack() as stack:
            inner, _ = self._inner(stack, p.inner[:-1])
            name, n = p.inner[-1]

            def body(i: V, lanes: int, mask: V | None, last: V | None) -> None:
                e = Emitter(self.args, {**env, **inner, name: i}, name, lanes, mask, params, last)
                for s in p.stores:
                    e.store(e.emit(s.value), s.stored, s.target, s.offset)

            self._strip(self.args.integer(n), body)

    def _strip(self, n: V, body: Callable[[V, int, V | None, V | None], None], widest: int = 1) -> None:
        """body(first, lanes, ...) for range(n): `widest` lanes at a time, then as many as a vector has, then the rest."""
        f, lanes = self.f, self.lanes if self.mode == "along" else 1
        i = f.var("i64", 0)
        if widest > lanes:
            self._while(i, lambda now: now + (widest - 1) < n, lambda now: body(now, widest, None, None), widest, "main")
        if lanes > 1:
            self._while(i, lambda now: now + (lanes - 1) < n, lambda now: body(now, lanes, None, None), lanes, "main")
            if self.masked:
                now = i.get()
                with f.when(now < n):
                    body(now, lanes, self._tail_mask(n - now, lanes), n - 1)
                return
        self._while(i, lambda now: now < n, lambda now: body(now, 1, None, None), 1, "tail")

    def _along(self, env: dict[str, V], stage: StageProblem, params: dict[str, V]) -> V:
        p, f = self.p, self.f
        name, n = p.inner[-1]
        size = self.args.integer(n)
        several = self.lanes * chains(p, (stage,), name)
        sums = {lanes: Accumulator(f, stage, lanes) for lanes in (1, self.lanes, several)}
        with ExitStack() as stack:
            inner, flat = self._inner(stack, p.inner[:-1])

            def body(i: V, lanes: int, mask: V | None, last: V | None) -> None:
                e = Emitter(self.args, {**env, **inner, name: i}, name, lanes, mask, params, last)
                position = flat * size + i
                if lanes > 1:
                    position = f.splat(position, lanes) + f.iota("i64", lanes)
                sums[lanes].add(f.splat(e.emit(stage.expr), lanes), position, mask)

            self._strip(size, body, several)
        rest = sums.pop(1)
        for wide in sums.values():
            wide.horizontal(rest)
        return rest.result()

    def _scalar(self, env: dict[str, V], stage: StageProblem, params: dict[str, V]) -> V:
        acc = Accumulator(self.f, stage, 1)
        with ExitStack() as stack:
            inner, flat = self._inner(stack)
            acc.add(Emitter(self.args, {**env, **inner}, params=params).emit(stage.expr), flat)
        return acc.result()


__all__ = ["NestProblem", "StageProblem", "StoreProblem", "Text", "emit", "merge", "param"]
