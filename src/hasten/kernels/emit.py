"""Evaluating Exprs in a kernel: one lane or many at once.

`Words` collects what a kernel takes as arguments: buffers, and every size expression that doesn't depend on a loop index (so that texts of
kernels that differ only in sizes are equal). `Emitter` turns Exprs into instructions inside a loop nest: `env` maps loop symbols to i64 values;
one of them may be the lane symbol, whose value is that of lane 0. Loads whose offset is `lane + rest` become vector loads, loads that don't
depend on the lane scalar ones, anything else per-lane loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import Atom, Dim, DimLike
from hasten.codegen import math as M
from hasten.codegen.builder import Function, V, lanes_of, vector
from hasten.kernels.expr import Expr

LITERAL_LIMIT = 8  # integers up to this are part of the text, larger ones are arguments
MOST_SPREAD = 4  # elements between lanes up to which all elements are loaded and the wanted ones picked
_STATUS_INDEX = 1  # vm.program.STATUS_INDEX


@dataclass
class Words:
    """The arguments of a kernel in order: ("ptr", buffer key) or ("int", dim)."""

    rows: list[tuple[str, object]] = field(default_factory=list)
    names: dict[tuple[str, object], str] = field(default_factory=dict)

    def add(self, kind: str, what: object) -> str:
        """The name of the argument that holds `what`."""
        key = (kind, what)
        if key not in self.names:
            self.names[key] = f"w{len(self.rows)}"
            self.rows.append(key)
        return self.names[key]


class Arguments:
    """The kernel function with its argument words, loaded at its entry on first use."""

    def __init__(self, f: Function, words: Words):
        self.f, self.words = f, words
        self.values: dict[str, V] = {}
        self.prologue: list[str] = []

    def _load(self, name: str, t: str) -> V:
        if name not in self.values:
            slot = int(name[1:]) + 1
            self.prologue.append(f"  %{name}p = getelementptr i64, ptr %args, i64 {slot}")
            self.prologue.append(f"  %{name} = load {t}, ptr %{name}p, align 8, !invariant.load !0")
            self.values[name] = V(self.f, t, f"%{name}")
        return self.values[name]

    def pointer(self, key: object) -> V:
        return self._load(self.words.add("ptr", key), "ptr")

    def integer(self, d: DimLike) -> V:
        if isinstance(d, int) and abs(d) <= LITERAL_LIMIT:
            return self.f.const("i64", d)
        return self._load(self.words.add("int", d), "i64")

    def status(self) -> V:
        if "status" not in self.values:
            self.prologue.append("  %status = load ptr, ptr %args, align 8, !invariant.load !0")
            self.values["status"] = V(self.f, "ptr", "%status")
        return self.values["status"]


class Emitter:
    """Evaluates Exprs at one place of a loop nest. Make a new one for every body (values are remembered by Expr)."""

    def __init__(self, args: Arguments, env: Mapping[str, V], lane: str | None = None, lanes: int = 1, mask: V | None = None,
                 params: Mapping[str, V] | None = None, last: V | None = None):  # fmt: skip
        self.args, self.f = args, args.f
        self.env, self.lane, self.lanes, self.mask = dict(env), lane if lanes > 1 else None, lanes, mask
        self.params = dict(params or {})
        self.last = last  # largest valid value of the lane symbol: lanes beyond it repeat it (they're masked)
        self.memo: dict[int, V] = {}

    # --- expressions ----------------------------------------------------------------------------------------------------
    def emit(self, e: Expr) -> V:
        """The value of e: a scalar where it is the same in all lanes, else a vector of `lanes`."""
        if id(e) not in self.memo:
            self.memo[id(e)] = self._emit(e)
        return self.memo[id(e)]

    def wide(self, e: Expr) -> V:
        """The value of e in every lane."""
        return self.f.splat(self.emit(e), self.lanes)

    def _emit(self, e: Expr) -> V:
        f = self.f
        if e.kind == "const":
            return f.const(M.llvm_type(e.dtype), e.value)
        if e.kind == "param":
            return self.params[e.name]
        if e.kind == "index":
            return self.dim(e.index[0])
        if e.kind == "load":
            return self._load(e)
        args = [self.emit(a) for a in e.args]
        width = max((a.lanes for a in args), default=1)
        args = [f.splat(a, width) for a in args]
        if e.name == "bounds":
            return self._bounds(args[0], args[1])
        if e.name in ("cast", "saturate"):
            return M.emit_op(f, e.name, e.args[0].dtype, args, to=e.value)
        dtype = e.args[1].dtype if e.name == "select" else e.args[0].dtype
        return M.emit_op(f, e.name, dtype, args)

    def _bounds(self, value: V, extent: V) -> V:
        """value where 0 <= value < extent; else the run's status is set and some index inside is used."""
        f = self.f
        bad = f.emit(vector("i1", value.lanes), f"icmp uge {value.type} {value.name}, {f.splat(extent, value.lanes).name}")
        if self.mask is not None and bad.lanes > 1:
            bad = bad & self.mask
        some = bad if bad.lanes == 1 else f.intrinsic("llvm.vector.reduce.or", "i1", [bad], [bad.type])
        with f.when(some):
            f.store(f.const("i64", _STATUS_INDEX), self.args.status())
        return f.smax(f.smin(value, extent - 1), 0)

    # --- dims -----------------------------------------------------------------------------------------------------------
    def dim(self, d: DimLike, env: Mapping[str, V] | None = None) -> V:
        """The value of a dim: a vector where it depends on the lane."""
        if env is None:
            env = self.env
            if self.lane is not None and self.lane in D.symbols(d):
                env = {**env, self.lane: self.lane_indices()}
        return self._dim(d, env)

    def lane_indices(self) -> V:
        """The lane symbol's value in each lane."""
        assert self.lane is not None
        v = self.f.splat(self.env[self.lane], self.lanes) + self.f.iota("i64", self.lanes)
        return v if self.last is None else self.f.smin(v, self.f.splat(self.last, self.lanes))

    def _dim(self, d: DimLike | float, env: Mapping[str, V]) -> V:
        f = self.f
        if not isinstance(d, Dim):
            return self.args.integer(int(d))
        if not any(s in env for s in D.symbols(d)):
            return self.args.integer(d)
        parts: dict[tuple[Atom, ...], DimLike] = {}
        for mono, coef in d.terms:
            loop = tuple(a for a in mono if any(s in env for s in a.symbols()))
            free = tuple(a for a in mono if a not in loop)
            parts[loop] = parts.get(loop, 0) + Dim(((free, coef),)) if free else parts.get(loop, 0) + coef
        total: V | None = None
        for loop, factor in parts.items():
            term: V | None = None
            for a in loop:
                v = self._atom(a, env)
                term = v if term is None else term * v
            if term is None:
                term = self.args.integer(factor)
            elif not (isinstance(factor, int) and factor == 1):
                term = term * self.args.integer(factor)
            total = term if total is None else total + term
        return total if total is not None else f.const("i64", 0)

    def _atom(self, a: Atom, env: Mapping[str, V]) -> V:
        if a.kind == "sym":
            return env[a.name] if a.name in env else self.args.integer(D.symbol(a.name))
        if a.kind == "scale":
            x = self._dim(a.args[0], env)
            scaled = self.f.cast(x, "double") * float(a.args[1])  # type: ignore[arg-type]
            floor = self.f.intrinsic("llvm.floor", scaled.type, [scaled])
            return self.f.cast(floor, "i64")
        args = [self._dim(v, env) for v in a.args]
        width = max(v.lanes for v in args)
        args = [self.f.splat(v, width) for v in args]
        return _DIM_OPS[a.kind](self.f, *args)

    # --- memory ---------------------------------------------------------------------------------------------------------
    def _load(self, e: Expr) -> V:
        env = dict(self.env)
        wide = False
        for name, bound in e.binds:
            env[name] = self.emit(bound)
            wide = wide or env[name].lanes > 1
        guard = self.emit(e.guard) if e.guard is not None else None
        default = self.emit(e.args[0]) if e.guard is not None else None
        if guard is not None and guard.lanes == 1:
            return self._branch(e, env, wide, guard, default)  # type: ignore[arg-type]
        return self._fetch(e, env, wide, guard, default)

    def _branch(self, e: Expr, env: dict[str, V], wide: bool, guard: V, default: V) -> V:
        """A load behind a condition that is the same for all lanes: jump around it."""
        f = self.f
        outer = self.memo
        self.memo = dict(outer)
        vectorial = wide or (self.lane is not None and self.lane in D.symbols(e.index[0]))
        width = self.lanes if vectorial else 1
        default = f.splat(default, width)
        result = f.var(vector(M.llvm_type(e.dtype), width), default)
        with f.when(guard):
            result.set(f.splat(self._fetch(e, env, wide, None, None), width))
        self.memo = outer
        return result.get()

    def _fetch(self, e: Expr, env: dict[str, V], wide: bool, guard: V | None, default: V | None) -> V:
        f, offset = self.f, e.index[0]
        base = self.args.pointer(e.source)
        size = dtypes.dtype(e.stored).size
        lin = D.linear(offset, self.lane) if self.lane is not None and not wide else None
        mask = guard if self.mask is None or guard is None else guard & self.mask
        if self.lane is None or (lin is not None and lin[0] == 0):
            if guard is not None:  # lanes differ only in the guard: load when any of them wants it
                some = f.intrinsic("llvm.vector.reduce.or", "i1", [mask or guard], [guard.type]) if guard.lanes > 1 else guard
                value = self._branch(e, env, False, some, f.extract(default, 0) if default is not None else f.const(M.llvm_type(e.dtype), 0))
                return f.select(guard, f.splat(value, guard.lanes), f.splat(default, guard.lanes)) if default is not None else value
            return M.load_value(f, e.stored, f.at(base, self._dim(offset, env), size), 1)
        if lin is not None and lin[0] == 1:
            p = f.at(base, self._dim(offset, env), size)
            value = M.load_value(f, e.stored, p, self.lanes, mask if guard is not None else self.mask)
        elif lin is not None and guard is None and isinstance(lin[0], int) and 1 < lin[0] <= MOST_SPREAD:
            value = self._spread(e.stored, f.at(base, self._dim(offset, env), size), lin[0], size)
        else:
            assert self.lane is not None
            index = self._dim(offset, {**env, self.lane: self.lane_indices()})
            index = f.splat(index, self.lanes)
            here = mask if guard is not None else self.mask if self.last is None else None
            if here is not None:  # nothing is read for the other lanes
                index = f.select(here, index, 0)
            value = self._gather(e.stored, base, index, size)
        if guard is not None and default is not None:
            value = f.select(guard, value, f.splat(default, self.lanes))
        return value

    def _spread(self, stored: str, first: V, step: int, size: int) -> V:
        """Every step-th element from `first` on: whole vectors are loaded, and no element behind the last one."""
        f, lanes = self.f, self.lanes
        behind = (lanes - 1) * step + 1  # elements from the first to the last one
        if self.mask is None:
            starts = [min(j * lanes, behind - lanes) for j in range(step)]
            parts = [M.load_value(f, stored, f.offset(first, s * size), lanes) for s in starts]
        else:
            assert self.last is not None and self.lane is not None
            left = f.splat((self.last - self.env[self.lane]) * step, lanes)
            starts = [j * lanes for j in range(step)]
            parts = [M.load_value(f, stored, f.offset(first, s * size), lanes, f.iota("i64", lanes) + s <= left) for s in starts]
        places = [max(j for j in range(step) if starts[j] <= k * step < starts[j] + lanes) for k in range(lanes)]
        value = f.shuffle(parts[0], None, [k * step - starts[0] if places[k] == 0 else -1 for k in range(lanes)])
        for j in range(1, step):
            value = f.shuffle(value, parts[j], [lanes + k * step - starts[j] if places[k] == j else k for k in range(lanes)])
        return value

    def _gather(self, stored: str, base: V, index: V, size: int) -> V:
        f = self.f
        lanes = [M.load_value(f, stored, f.at(base, f.extract(index, k), size), 1) for k in range(self.lanes)]
        return f.pack(lanes)

    def store(self, value: V, stored: str, target: object, offset: DimLike) -> None:
        """Store a value (scalar or vector) at an offset in elements."""
        f = self.f
        base = self.args.pointer(target)
        size = dtypes.dtype(stored).size
        lin = D.linear(offset, self.lane) if self.lane is not None else None
        if self.lane is None or (lin is not None and lin[0] == 0):
            M.store_value(f, stored, f.extract(value, 0), f.at(base, self._dim(offset, self.env), size))
            return
        value = f.splat(value, self.lanes)
        if lin is not None and lin[0] == 1:
            M.store_value(f, stored, value, f.at(base, self._dim(offset, self.env), size), self.mask)
            return
        index = f.splat(self.dim(offset), self.lanes)
        for k in range(self.lanes):
            p = f.at(base, f.extract(index, k), size)
            if self.mask is None:
                M.store_value(f, stored, f.extract(value, k), p)
            else:
                with f.when(f.extract(self.mask, k)):
                    M.store_value(f, stored, f.extract(value, k), p)


def _floordiv(f: Function, a: V, b: V) -> V:
    """Floor division, a where b == 0."""
    zero = b.eq(0)
    safe = f.select(zero, f.const(b.type, 1), b)
    q = a / safe
    r = a - q * safe
    off = (r.ne(0)) & ((r ^ safe) < 0)
    q = f.select(off, q - 1, q)
    return f.select(zero, a, q)


def _mod(f: Function, a: V, b: V) -> V:
    zero = b.eq(0)
    safe = f.select(zero, f.const(b.type, 1), b)
    r = a % safe
    r = f.select(r.ne(0) & ((r ^ safe) < 0), r + safe, r)
    return f.select(zero, f.const(a.type, 0), r)


_DIM_OPS: dict[str, Callable[..., V]] = {
    "floordiv": _floordiv, "mod": _mod, "max": lambda f, a, b: f.smax(a, b), "min": lambda f, a, b: f.smin(a, b),
    "if_eq": lambda f, a, b, x, y: f.select(a.eq(b), x, y), "if_lt": lambda f, a, b, x, y: f.select(a < b, x, y),
}  # fmt: skip

__all__ = ["Arguments", "Emitter", "Words", "lanes_of"]
