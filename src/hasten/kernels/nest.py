"""The general kernel: a nest of parallel loops, optional reductions inside, then stores. Elementwise work, data movement, reductions, softmax,
normalisations, pooling and every generic form are this one template.

    for o in outer (split among threads):            lanes along the last outer loop ("across") ...
        for each stage: acc = identity; for r in inner: acc = combine(acc, stage.expr)     ... or along the last inner loop ("along")
        store, once per o, or once per (o, r)

The order of the loops is the order in memory of what is stored; loops that can be one loop are merged first (`merge`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen import math as M
from hasten.codegen.builder import Function, Module, V, Var, vector
from hasten.codegen.isa import Isa
from hasten.kernels import transposing
from hasten.kernels.emit import Arguments, Emitter, Words
from hasten.kernels.expr import OPS, Expr, param, walk
from hasten.kernels.problem import Loop, NestProblem, StageProblem, StoreProblem

UNROLL = 16  # inner rounds that are written out
CHAINS = 4  # vectors that a long, cheap reduction takes at once: each alone would wait for its last sum before the next one


@dataclass
class Text:
    """A kernel's text (with KERNEL in place of its name) and its argument words."""

    text: str
    words: Words = field(default_factory=Words)


# --- rewriting of problems -----------------------------------------------------------------------------------------------
def substitute(e: Expr, env: dict[str, DimLike], memo: dict[int, Expr]) -> Expr:
    """e with loop symbols replaced."""
    if id(e) not in memo:
        memo[id(e)] = replace(e, args=tuple(substitute(a, env, memo) for a in e.args), index=tuple(D.substitute(d, env) for d in e.index),
                              binds=tuple((n, substitute(b, env, memo)) for n, b in e.binds),
                              guard=None if e.guard is None else substitute(e.guard, env, memo)) if e.kind != "const" else e  # fmt: skip
    return memo[id(e)]


def _rewrite(p: NestProblem, env: dict[str, DimLike], outer: tuple[Loop, ...], inner: tuple[Loop, ...]) -> NestProblem:
    memo: dict[int, Expr] = {}
    return replace(
        p, outer=outer, inner=inner, stages=tuple(replace(s, expr=substitute(s.expr, env, memo)) for s in p.stages),
        stores=tuple(replace(s, value=substitute(s.value, env, memo), offset=D.substitute(s.offset, env)) for s in p.stores),
    )  # fmt: skip


def _dims(p: NestProblem) -> list[DimLike]:
    found: dict[DimLike, None] = {}
    seen: set[int] = set()
    for e in p.exprs():
        for n in walk(e, seen):
            found.update(dict.fromkeys(n.index))
    found.update(dict.fromkeys(s.offset for s in p.stores))
    return list(found)


def merge(p: NestProblem) -> NestProblem:
    """Drop loops of one round, then make one loop of neighbours that everything walks through as one."""
    ones = {s: 0 for s, n in (*p.outer, *p.inner) if isinstance(n, int) and n == 1}
    if ones:
        p = _rewrite(p, dict(ones), tuple(x for x in p.outer if x[0] not in ones), tuple(x for x in p.inner if x[0] not in ones))
    for level in ("outer", "inner"):
        loops: list[Loop] = list(getattr(p, level))
        k = len(loops) - 2
        while k >= 0:
            (a, n), (b, m) = loops[k], loops[k + 1]
            if _mergeable(p, a, b, m):
                loops[k : k + 2] = [(b, n * m)]
                both = D.symbol(b, n * m)
                outer, inner = (tuple(loops), p.inner) if level == "outer" else (p.outer, tuple(loops))
                p = _rewrite(p, {a: 0, b: both}, outer, inner)
                loops = list(getattr(p, level))
            k -= 1
    return p


def _mergeable(p: NestProblem, a: str, b: str, m: DimLike) -> bool:
    for d in _dims(p):
        names = D.symbols(d)
        if a not in names and b not in names:
            continue
        la, lb = D.linear(d, a), D.linear(d, b)
        if la is None or lb is None or la[0] != lb[0] * m:
            return False
    return True


# --- choosing lanes ----------------------------------------------------------------------------------------------------------
def _awkwardness(p: NestProblem, lane: str, extent: DimLike, lanes: int) -> float:
    """How badly memory is walked when lanes run along `lane`: 0 is ideal."""
    bad = 0.0
    seen: set[int] = set()
    loads = [(n.index[0], 1.0) for e in p.exprs() for n in walk(e, seen) if n.kind == "load"]
    for offset, weight in loads + [(s.offset, 1.0) for s in p.stores]:
        lin = D.linear(offset, lane)
        if lin is None or not (isinstance(lin[0], int) and lin[0] in (0, 1)):
            bad += weight
    if isinstance(extent, int) and extent < lanes:
        bad += 0.75 * (1 - extent / lanes) * max(1, len(loads))
    return bad


def _choose(p: NestProblem, lanes: int) -> str:
    """"across" (lanes along the last outer loop), "along" (along the last inner loop), or "scalar"."""
    if not p.stages:
        return "across" if p.outer else "scalar"
    across = _awkwardness(p, *p.outer[-1], lanes) if p.outer else 1e9
    along = _awkwardness(p, *p.inner[-1], lanes) + 0.1 if p.inner else 1e9
    if min(across, along) >= 1e9:
        return "scalar"
    return "across" if across <= along else "along"


def _chains(p: NestProblem, stages: tuple[StageProblem, ...], lane: str) -> int:
    """Vectors of lanes taken at once: several where reductions would otherwise be chains of short operations."""
    known = [n for _, n in p.inner if isinstance(n, int)]
    if not stages or (len(known) == len(p.inner) and math.prod(known) <= UNROLL) or any(s.kind.startswith("arg") for s in stages):
        return 1
    memo: dict[int, bool] = {}
    seen: set[int] = set()
    return CHAINS if all(_is_simple(n, lane, memo) for s in stages for n in walk(s.expr, seen)) else 1


def _is_simple(e: Expr, lane: str, memo: dict[int, bool]) -> bool:
    """Cheap to compute, or the same in all lanes; of loads: whole vectors or one value."""
    if e.kind == "load":
        linear = D.linear(e.index[0], lane)
        return linear is not None and isinstance(linear[0], int) and linear[0] in (0, 1) and not e.binds and e.guard is None
    return e.kind != "op" or (e.name in OPS and OPS[e.name].cost <= 1) or not _varies(e, lane, memo)


def _varies(e: Expr, lane: str, memo: dict[int, bool]) -> bool:
    """Whether lanes have different values; parameters count as the same."""
    if id(e) not in memo:
        memo[id(e)] = any(lane in D.symbols(d) for d in e.index) or any(_varies(c, lane, memo) for c in e.children())
    return memo[id(e)]


# --- emission ------------------------------------------------------------------------------------------------------------------
def emit(p: NestProblem, isa: Isa) -> Text:
    """The kernel's text. The problem's Exprs load from buffer keys at offsets in elements."""
    p = merge(p)
    module = Module(isa)
    f = module.function("KERNEL", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
    module.global_text("!0", "!0 = !{}")
    text = Text("")
    args = Arguments(f, text.words)
    lanes = _lane_count(p, isa)
    _Nest(f, isa, args, p, lanes, _choose(p, lanes)).emit()
    f.ret()
    f._allocas.extend(args.prologue)
    text.text = module.text()
    return text


def _lane_count(p: NestProblem, isa: Isa) -> int:
    """Lanes of the widest common element type: 32 bits, more where all values are bytes."""
    widths = {M.llvm_type(n.dtype) for e in p.exprs() for n in walk(e)}
    narrow = widths <= {"i1", "i8"} and all(s.stored in ("int8", "uint8", "bool") for s in p.stores)
    return isa.lanes(32) * (2 if narrow else 1)


class _Nest:
    def __init__(self, f: Function, isa: Isa, args: Arguments, p: NestProblem, lanes: int, mode: str):
        self.f, self.isa, self.args, self.p, self.lanes, self.mode = f, isa, args, p, lanes, mode
        self.masked = isa.vector_bytes == 64  # AVX-512 has masks for everything; elsewhere tails run lane by lane

    def emit(self) -> None:
        p, f = self.p, self.f
        thread, threads = f.args[1], f.args[2]
        across = self.mode == "across"
        if across and (cut := transposing.squares(p, self.lanes)) is not None:
            self._squares(cut)
            return
        units = p.outer[:-1] if across else p.outer
        if units:
            total = self._product([self.args.integer(n) for _, n in units])
            begin, end = (total * thread).udiv(threads), (total * (thread + 1)).udiv(threads)
            with f.loop(begin, end) as u:
                env = self._decompose(u, units)
                if across:
                    self._lanes(env, f.const("i64", 0), self.args.integer(p.outer[-1][1]))
                else:
                    self._unit(env)
        elif across:
            n = self.args.integer(p.outer[-1][1])
            chunks = (n + (self.lanes - 1)).udiv(self.lanes)
            begin = (chunks * thread).udiv(threads) * self.lanes
            end = f.smin((chunks * (thread + 1)).udiv(threads) * self.lanes, n)
            self._lanes({}, begin, end)
        else:
            with f.when(thread.eq(0)):
                self._unit({})

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
        if (wide := lanes * _chains(self.p, self.p.stages, name)) > lanes:
            self._while(i, lambda now: now + (wide - 1) < end, lambda now: self._body({**env, name: now}, wide, None, None), wide, main)
        self._while(i, lambda now: now + (lanes - 1) < end, lambda now: self._body({**env, name: now}, lanes, None, None), lanes, main)
        if self.masked:
            now = i.get()
            with f.when(now < end):
                mask = self._tail_mask(end - now, lanes)
                self._body({**env, name: now}, lanes, mask, end - 1)
        else:
            self._while(i, lambda now: now < end, lambda now: self._body({**env, name: now}, 1, None, None), 1, tail)

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
            acc = _Accumulator(f, stage, lanes)

            def add(inner: dict[str, V], flat: V, stage: StageProblem = stage, acc: _Accumulator = acc) -> None:
                e = Emitter(self.args, {**env, **inner}, lane, lanes, mask, params, last)
                acc.add(f.splat(e.emit(stage.expr), lanes), flat)

            self._rounds(add)
            params[stage.name] = acc.result()
        with ExitStack() as stack:
            inner = self._inner(stack)[0] if p.inner_store else {}
            e = Emitter(self.args, {**env, **inner}, lane, lanes, mask, params, last)
            for s in p.stores:
                e.store(e.emit(s.value), s.stored, s.target, s.offset)

    def _rounds(self, work: Callable[[dict[str, V], V], None]) -> None:
        """work(inner indices, flat inner index) for each of them: in loops, or one after another where they are few and known (windows)."""
        sizes = [n for _, n in self.p.inner]
        if sizes and all(isinstance(n, int) for n in sizes) and math.prod(n for n in sizes if isinstance(n, int)) <= UNROLL:
            for flat, at in enumerate(itertools.product(*(range(n) for n in sizes))):  # type: ignore[arg-type]
                values = {name: self.f.const("i64", k) for (name, _), k in zip(self.p.inner, at, strict=True)}
                work(values, self.f.const("i64", flat))
            return
        with ExitStack() as stack:
            work(*self._inner(stack))

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
        several = self.lanes * _chains(p, (stage,), name)
        sums = {lanes: _Accumulator(f, stage, lanes) for lanes in (1, self.lanes, several)}
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
        acc = _Accumulator(self.f, stage, 1)
        with ExitStack() as stack:
            inner, flat = self._inner(stack)
            acc.add(Emitter(self.args, {**env, **inner}, params=params).emit(stage.expr), flat)
        return acc.result()


class _Accumulator:
    """Running value of one stage: a number, or for the arg kinds the best value and where it was."""

    def __init__(self, f: Function, stage: StageProblem, lanes: int):
        self.f, self.lanes, self.dtype = f, lanes, stage.expr.dtype
        self.arg = stage.kind.startswith("arg")
        self.kind = ("max" if "max" in stage.kind else "min") if self.arg else {"sum": "add", "prod": "mul"}.get(stage.kind, stage.kind)
        self.latest = stage.kind.endswith("last")
        t = vector(M.llvm_type(self.dtype), lanes)
        self.value = f.var(t, f.const(t, M.identity(self.kind, self.dtype)))
        self.where = f.var(vector("i64", lanes), f.const(vector("i64", lanes), -1)) if self.arg else None

    def add(self, x: V, position: V, mask: V | None = None) -> None:
        f = self.f
        if self.where is None:
            old = self.value.get()
            new = M.emit_op(f, self.kind, self.dtype, [old, x])
            self.value.set(new if mask is None else f.select(mask, new, old))
            return
        better = self._better(x, self.value.get(), self.where.get())
        if mask is not None:
            better = better & mask
        self.value.set(f.select(better, x, self.value.get()))
        self.where.set(f.select(better, f.splat(position, self.lanes), self.where.get()))

    def _better(self, x: V, old: V, where: V) -> V:
        """x wins: larger (smaller), or equal where the last one counts, or NaN, or the first of all."""
        f = self.f
        pair = [old, x] if self.kind == "max" else [x, old]
        wins = M.emit_op(f, "le" if self.latest else "lt", self.dtype, pair)
        if self.dtype.startswith("float"):
            nan = M.emit_op(f, "isnan", self.dtype, [x])
            wins = wins | (nan if self.latest else nan & ~M.emit_op(f, "isnan", self.dtype, [old]))
        return wins | (where < 0)

    def result(self) -> V:
        return self.value.get() if self.where is None else self.where.get()

    def horizontal(self, rest: _Accumulator) -> None:
        """Add all lanes to the scalar `rest`."""
        f = self.f
        if self.where is None:
            lanes = M.reduce_lanes(f, self.kind, self.dtype, self.value.get())
            rest.value.set(M.emit_op(f, self.kind, self.dtype, [lanes, rest.value.get()]))
            return
        values, wheres = self.value.get(), self.where.get()
        for k in range(self.lanes):
            x, position = f.extract(values, k), f.extract(wheres, k)
            best, where = rest.value.get(), rest.where.get()  # type: ignore[union-attr]
            wins = (position >= 0) & ((where < 0) | self._before(x, position, best, where))
            rest.value.set(f.select(wins, x, best))
            rest.where.set(f.select(wins, position, where))  # type: ignore[union-attr]

    def _before(self, x: V, position: V, best: V, where: V) -> V:
        f = self.f
        pair = [best, x] if self.kind == "max" else [x, best]
        strictly = M.emit_op(f, "lt", self.dtype, pair)
        same = M.emit_op(f, "eq", self.dtype, pair)
        if self.dtype.startswith("float"):
            nan_x, nan_best = M.emit_op(f, "isnan", self.dtype, [x]), M.emit_op(f, "isnan", self.dtype, [best])
            strictly = strictly | (nan_x & ~nan_best)
            same = same | (nan_x & nan_best)
        return strictly | (same & (position > where if self.latest else position < where))


__all__ = ["NestProblem", "StageProblem", "StoreProblem", "Text", "emit", "merge", "param"]
