"""Lazy tensors: what operators are written in.

Tracing a graph runs every operator once with symbolic tensors. An operator says what an element of its result *is* (`cx.map`), how its
result is a rearrangement of another tensor (`cx.view`), how it is a reduction (`cx.nest`), or which kernel template makes it (`cx.kernel`).
Nothing is computed here and nothing is emitted: the trace is a DAG of `Tensor`s with dtype and symbolic shape, so tracing is type inference,
too. Fusion, formats and memory come later (`lower.schedule`, `lower.emit`) and only decide which tensors get memory.

    def relu(cx, node, x):
        return cx.map(x.shape, x.dtype, lambda i: op("max", x.at(i), 0))

Contents of small integer tensors are followed symbolically: `cx.ints(t)` gives them as dims where they are known (so Shape, Gather, Concat,
Mul ... need no code for it), and `cx.read_ints(t)` always gives dims, reading the tensor at run time where it must.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError, ResourceLimit, TypeInferenceError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, Fresh
from hasten.kernels.spec import KernelSpec
from hasten.lower.origins import (
    Block,
    Branch,
    Carried,
    Check,
    Concat,
    Const,
    HostCall,
    Index,
    Invoke,
    Kernel,
    Loop,
    Map,
    Nest,
    Origin,
    Pack,
    Return,
    Shape,
    Source,
    Stage,
    Step,
    Tagged,
    TagOf,
    Through,
    Unpack,
    View,
    Woven,
)

MAX_BYTES = 1 << 40  # of one tensor, in memory or not
MAX_HOPS = 8  # views of views, until one is an element by element copy: index expressions grow with every hop
MAX_NESTING = 48  # tensors in a row that are followed at once; what lies before was followed when it was made

LONG_SIZE = 8  # weight from which on a size gets a name
_ORDER = itertools.count()  # of making: whatever a tensor needs was made before it


class Object:
    """A host value: sequence, optional, string tensor, or a tensor whose rank isn't known. `kind` is readable, as "sequence(float32)"."""

    shape: Shape = ()
    dtype = "object"
    size = 1
    node: Any = None

    def __init__(self, kind: str, origin: HostCall | Source):
        self.kind, self.origin = kind, origin
        self.name = ""
        self.order = next(_ORDER)

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class Datum(Object):
    """A value of an algebraic data type (`family`, see base.types); unlike other objects native code has them. `END` instead of a family: nothing,
    the end of a function (`Return`, or what comes to that)."""

    def __init__(self, family: Any, origin: Origin):
        super().__init__(getattr(family, "__name__", str(family)), origin)  # type: ignore[arg-type]
        self.family = family


END = "end"


class Tensor:
    """A typed value: dtype name, shape of ints and dims, and where it comes from."""

    __slots__ = ("cx", "dtype", "shape", "origin", "order", "name", "_ints", "_shallow", "node")

    def __init__(self, cx: Context, dtype: str, shape: Sequence[DimLike], origin: Origin):
        self.cx, self.dtype, self.shape, self.origin = cx, dtype, tuple(cx.named(d) for d in shape), origin
        cx.check_shape(dtype, self.shape)
        self.order = next(_ORDER)
        self.name = ""
        self.node = cx.node  # the model's node that is being traced: for reports
        self._ints: Any = False
        self._shallow: Any = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> DimLike:
        """Number of elements."""
        return D.product(self.shape)

    @property
    def array(self) -> np.ndarray | None:
        """The constant's array, or None."""
        return self.origin.array if isinstance(self.origin, Const) else None

    def at(self, index: Sequence[DimLike]) -> Expr:
        """The element at an index (one dim per axis) as an Expr of the compute dtype."""
        return self.cx.element(self, tuple(index))

    def __repr__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


Value = Tensor | Object


class Context:
    """The trace of one model (all blocks). Operators get it as `cx`."""

    def __init__(self, options: Any = None):
        self.options = options  # precision, isa, host_ops ...
        self.fresh = Fresh()
        self.bound: dict[str, Expr] = {}  # index symbols with a computed value
        self.defined: dict[str, tuple[Tensor, int, int]] = {}  # size symbols read at run time: tensor, element, sign
        self.aliases: dict[str, DimLike] = {}  # names of long sizes
        self.alias_of: dict[DimLike, str] = {}
        self.makers: dict[str, Value] = {}  # size symbols that steps define: one of the step's results
        self.joined: dict[str, int] = {}  # size symbols that host ops and control flow define, with the order of their making
        self.assumed: dict[str, bool] = {}  # nodes whose condition is assumed to hold, or not to
        self.checks: list[Check] = []
        self.node: Any = None
        self.inline: Callable[[Tensor], bool] | None = None  # set while emitting: which tensors are evaluated in place
        self._memo: dict[tuple[int, Index], Expr] = {}
        self._provided: tuple[Any, Index, Any] = (None, (), None)
        self._nesting = 0  # Maps being evaluated inside of each other

    # --- making tensors ---------------------------------------------------------------------------------------------------
    def const(self, array: Any, dtype: str | None = None) -> Tensor:
        """A constant from a NumPy array (or nested numbers with `dtype`)."""
        given = np.asarray(array) if dtype is None else np.asarray(array).astype(dtypes.to_numpy(dtype))
        array = np.ascontiguousarray(given).reshape(given.shape)  # which makes vectors of scalars
        return Tensor(self, dtype or dtypes.from_numpy(given.dtype), given.shape, Const(array))

    def check_shape(self, dtype: str, shape: Shape) -> None:
        """No size is negative (checked at run time where unknown), and what is known now is of a sane size."""
        count = dtypes.dtype(dtype).size
        for d in shape:
            if not isinstance(d, int):
                if not D.nonnegative(d):
                    self.require(0, "<=", d, f"{self.where()}: a result's size")
            elif d < 0:
                raise TypeInferenceError(f"{self.where()}: the sizes {list(shape)} of its result are impossible")
            else:
                count *= d
        if count > MAX_BYTES:
            raise ResourceLimit(f"{self.where()}: a tensor of shape {list(shape)} needs {count} bytes, the limit is {MAX_BYTES}")

    def map(self, shape: Sequence[DimLike], dtype: str, fn: Callable[[Index], Expr]) -> Tensor:
        """result[i] = fn(i): an Expr of the compute dtype of `dtype` (rounded to `dtype` where it is stored)."""
        return Tensor(self, dtype, shape, Map(fn))

    def view(self, shape: Sequence[DimLike], base: Tensor, index: Callable[[Index], Sequence[DimLike]], flat: bool = False) -> Tensor:
        """result[i] = base[index(i)], index being arithmetic on dims only."""
        hops, behind = 0, base
        while hops < MAX_HOPS and isinstance(behind.origin, View):
            hops, behind = hops + 1, behind.origin.base
        if hops == MAX_HOPS:
            whole = base
            base = Tensor(self, whole.dtype, whole.shape, Through(whole.at))
        return Tensor(self, base.dtype, shape, View(base, lambda i: tuple(index(i)), flat))

    def reshape(self, base: Tensor, shape: Sequence[DimLike]) -> Tensor:
        """Same elements in row-major order; the number of elements must agree (checked at run time where unknown)."""
        shape = tuple(shape)
        if shape == base.shape:
            return base
        self.require(base.size, "==", D.product(shape), "Reshape keeps the number of elements")
        old = base.shape
        pairs = _groups(old, shape)

        def index(i: Index) -> Index:
            out: list[DimLike] = []
            for olds, news in pairs:
                if len(olds) == 1 and len(news) == 1:
                    out.append(i[news[0]])
                    continue
                flat: DimLike = 0
                for k in news:
                    flat = flat * shape[k] + i[k]
                rest: DimLike = flat
                part: list[DimLike] = []
                for k in reversed(olds[1:]):
                    part.append(D.mod(rest, old[k]))
                    rest = D.floordiv(rest, old[k])
                out.extend([rest] * bool(olds) + part[::-1])
            return tuple(out)

        return self.view(shape, base, index, flat=True)

    def transpose(self, base: Tensor, perm: Sequence[int]) -> Tensor:
        inverse = [list(perm).index(k) for k in range(base.rank)]
        return self.view([base.shape[p] for p in perm], base, lambda i: [i[k] for k in inverse])

    def broadcast_to(self, base: Tensor, shape: Sequence[DimLike]) -> Tensor:
        """NumPy broadcasting to `shape`."""
        shape = tuple(shape)
        if shape == base.shape:
            return base
        return self.view(shape, base, lambda i: self.broadcast_index(i, base.shape, shape))

    def broadcast_index(self, i: Index, shape: Shape, out: Shape) -> Index:
        """The index into a tensor of `shape` for index i of the broadcast result `out`."""
        skip = len(i) - len(shape)
        result: list[DimLike] = []
        for k, d in enumerate(shape):
            o = out[skip + k]
            if isinstance(d, int) and d == 1 and not (isinstance(o, int) and o == 1):
                result.append(0)
            elif d == o or isinstance(d, int):
                result.append(i[skip + k])
            else:  # d may be 1 at run time: stride 0 then
                result.append(i[skip + k] * D.if_equal(d, 1, 0, 1) if not (isinstance(o, int) and o == 1) else i[skip + k])
        return tuple(result)

    def broadcast_shapes(self, *shapes: Shape) -> Shape:
        """The common shape under NumPy's rules; unknown pairs are checked at run time."""
        rank = max(map(len, shapes), default=0)
        out: list[DimLike] = []
        for axis in range(rank):
            ds = [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
            out.append(self._broadcast_dim(ds))
        return tuple(out)

    def _broadcast_dim(self, ds: list[DimLike]) -> DimLike:
        result: DimLike = 1
        for d in ds:
            if d == result or (isinstance(d, int) and d == 1):
                continue
            if isinstance(result, int) and result == 1:
                result = d
            elif isinstance(d, int) and isinstance(result, int):
                raise TypeInferenceError(f"{self.where()}: sizes {result} and {d} can't be broadcast")
            elif isinstance(d, int) or isinstance(result, int):
                known, sym = (d, result) if isinstance(d, int) else (result, d)
                self.require(D.if_equal(sym, 1, known, sym), "==", known, f"{self.where()}: broadcasting needs {sym} to be 1 or {known}")
                result = known
            elif (larger := D.larger_of(d, result)) is not None:  # min(s, 512) beside s: then it must be s or 1
                smaller = d if larger == result else result
                self.require(D.if_equal(smaller, 1, larger, smaller), "==", larger, f"{self.where()}: broadcasting {result} with {d}")
                result = larger
            else:
                both = D.if_equal(d, 1, result, d)
                self.require(D.if_equal(result, 1, both, result), "==", both, f"{self.where()}: broadcasting {result} with {d}")
                result = both
        return result

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        starts: list[DimLike] = []
        total: DimLike = 0
        for p in parts:
            starts.append(total)
            total = total + p.shape[axis]
            for k, (a, b) in enumerate(zip(p.shape, parts[0].shape, strict=True)):
                if k != axis:
                    self.require(a, "==", b, f"{self.where()}: sizes of axis {k} must agree")
        shape = list(parts[0].shape)
        shape[axis] = total
        return Tensor(self, parts[0].dtype, shape, Concat(parts, axis, starts))

    def weave(self, shape: Sequence[DimLike], parts: Sequence[Tensor], places: Sequence[list[tuple[DimLike, int]]]) -> Tensor:
        """See `Woven`."""
        return Tensor(self, parts[0].dtype, shape, Woven(list(parts), list(places)))

    def nest(self, dtype: str, outer: Sequence[DimLike], inner: Sequence[DimLike], stages: Sequence[Stage], final: Callable[..., Expr],
             shape: Sequence[DimLike] | None = None, place: Callable[[Index, Index], Index] | None = None) -> Tensor:  # fmt: skip
        """See `Nest`. `shape` is the result's shape where `place` is given (default: outer)."""
        return Tensor(self, dtype, outer if shape is None else shape, Nest(tuple(outer), tuple(inner), list(stages), final, place))

    def reduce(self, kind: str, dtype: str, outer: Sequence[DimLike], inner: Sequence[DimLike], fn: Callable[[Index, Index], Expr]) -> Tensor:
        """result[o] = kind over r of fn(o, r)."""
        stage = Stage("r", kind, lambda o, r, p: fn(o, r))
        return self.nest(dtype, outer, inner, [stage], lambda o, p: p["r"])

    def kernel(self, spec: KernelSpec, operands: Sequence[Tensor], results: Sequence[tuple[str, Sequence[DimLike]]]) -> list[Tensor]:
        """Results of a hand-written kernel, given as (dtype, shape)."""
        k = Kernel(spec, list(operands))
        k.results = [Tensor(self, dt, shape, k) for dt, shape in results]
        return k.results

    # --- values and sizes -------------------------------------------------------------------------------------------------
    def named(self, d: DimLike) -> DimLike:
        """d, or a name for it where it is long: products of sizes would grow without bound."""
        if not isinstance(d, D.Dim) or D.weight(d) <= LONG_SIZE:
            return d
        name = self.alias_of.get(d)
        if name is None:
            name = self.alias_of[d] = self.fresh("s")
            self.aliases[name] = d
        self.require(0, "<=", d, "a result's size")
        low, high = D.bounds(d)
        return D.symbol(name, None, max(low or 0, 0), None if high is None else max(high, 0))

    def base_symbols(self, d: DimLike | float) -> set[str]:
        """Symbols of d, those behind names of long sizes included."""
        found: set[str] = set()
        stack = list(D.symbols(d))
        while stack:
            name = stack.pop()
            if name not in found:
                found.add(name)
                stack.extend(D.symbols(self.aliases[name]) if name in self.aliases else ())
        return found

    def unknown(self) -> str:
        """A new size symbol that host ops or control flow will define."""
        name = self.fresh("h")
        self.joined[name] = next(_ORDER)
        return name

    def made_in(self, block: Block) -> set[str]:
        """Size symbols that control flow inside a block defines."""
        return {n for n, order in self.joined.items() if block.first < order < block.last}

    def where(self) -> str:
        """The node being traced, for messages."""
        return str(self.node) if self.node is not None else "model"

    def require(self, left: DimLike, op: str, right: DimLike, message: str, kind: str = "shape") -> None:
        """Fail now if `left op right` is known false, at run time if it turns out false. op: ==, !=, <, <=."""
        where = self.where()
        message = message if message.startswith(where) else f"{where}: {message}"
        diff = right - left
        if op == "==":
            known = D.known_equal(left, right)
        elif op == "!=":
            equal = D.known_equal(left, right)
            known = None if equal is None else not equal
        else:
            slack = diff - (op == "<")
            known = True if D.nonnegative(slack) else (False if isinstance(slack, int) else None)
        if known is False:
            raise TypeInferenceError(f"{message} (needs {left} {op} {right})")
        if known is None:
            self._keep_check((left, op, right, message, kind))

    def _keep_check(self, check: Check) -> None:
        left, op, right, *_ = check
        if not any(_follows(op, right - left, c) for c in self.checks):
            self.checks.append(check)

    def require_common(self, checks: Iterable[Check], *blocks: Block) -> None:
        """Those checks that succeed where a run of any of the blocks does: they are checked before it is known which one runs."""
        for check in checks:
            left, op, right, *_ = check
            if all(any(_follows(op, right - left, c) for c in block.checks) for block in blocks):
                self._keep_check(check)

    def index(self, e: Expr, extent: DimLike, negative: bool = False) -> DimLike:
        """A dim whose value is the computed integer `e`, proven or forced into [0, extent): outside of it the run fails with an index
        error. `negative`: values in [-extent, 0) count from the end."""
        if e.kind == "const":
            value = int(e.value)
            return extent + value if negative and value < 0 else value
        if e.kind == "index" and D.in_range(e.index[0], extent):
            return e.index[0]
        e = E.cast(e, "int64")
        if negative:
            e = E.select(e < 0, e + E.index(extent), e)
        name = self.fresh("x")
        self.bound[name] = Expr("op", "int64", name="bounds", args=(e, E.index(extent)))
        return D.symbol(name, extent)

    def load(self, source: Tensor, index: Sequence[DimLike], guard: Expr | None = None, default: E.Scalar = 0) -> Expr:
        """Like `source.at(index)`; where `guard` is false nothing is loaded and `default` is the value (padding)."""
        if guard is None or (guard.kind == "const" and guard.value):
            return source.at(index)
        inner = source.at(index)
        return _guarded(inner, guard, E.lift(default, inner.dtype))

    def element(self, t: Tensor, index: Index) -> Expr:
        """`t.at(index)`: the inlined Expr where t is evaluated in place, a load otherwise."""
        if t is self._provided[0] and self._is_provided(t, index):
            return self._provided[2]
        key = (id(t), index)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._element(t, index)
        return found

    def _element(self, t: Tensor, index: Index) -> Expr:
        origin = t.origin
        if len(index) != t.rank:
            raise ModelError(f"{self.where()}: index {index} into {t}")
        if isinstance(origin, Const) and (origin.array.size == 1 or all(isinstance(i, int) for i in index)):
            if origin.array.size == 1:
                index = (0,) * t.rank
            element = origin.array[tuple(map(int, index))]  # type: ignore[arg-type]
            return E.const(element.item() if t.dtype not in _SMALL else float(element), t.dtype)
        if t._ints and all(isinstance(i, int) for i in index) and dtypes.is_int(t.dtype) and dtypes.compute_type(t.dtype) == "int64":
            return E.index(t._ints[_flat_position(t.shape, index)])
        if isinstance(origin, View) and (self.inline is None or self.inline(t)):
            return self.element(origin.base, origin.index(index))
        if isinstance(origin, Map) and self.inline is not None and self.inline(t):
            self._nesting += 1
            try:
                return origin.fn(index)
            finally:
                self._nesting -= 1
        if isinstance(origin, Concat) and self.inline is not None and self.inline(t):
            return self._concat_element(origin, index)
        names = {s for d in index for s in D.symbols(d)} & self.bound.keys()
        return E.load(t, index, t.dtype, tuple((n, self.bound[n]) for n in sorted(names)))

    def _concat_element(self, c: Concat, index: Index) -> Expr:
        def part(k: int) -> Expr:
            return c.parts[k].at((*index[: c.axis], index[c.axis] - c.starts[k], *index[c.axis + 1 :]))

        position = index[c.axis]
        if isinstance(position, int) and all(isinstance(s, int) for s in c.starts):
            k = max(k for k, s in enumerate(c.starts) if s <= position)  # type: ignore[operator]
            return part(k)
        e = part(len(c.parts) - 1)
        last = E.index(position) < E.index(c.starts[-1])
        e = _guarded(e, ~last, E.lift(0, e.dtype))
        for k in reversed(range(len(c.parts) - 1)):
            below = E.index(position) < E.index(c.starts[k] + c.parts[k].shape[c.axis])
            inside = below & ~(E.index(position) < E.index(c.starts[k])) if k else below
            mine = _guarded(part(k), inside, E.lift(0, e.dtype))
            e = E.select(below, mine, e)
        return e

    def provide(self, t: Tensor | None, index: Index, value: Expr | None) -> None:
        """While emitting an epilogue: t's element at `index` is `value`."""
        self._provided = (t, index, value)

    def _is_provided(self, t: Tensor, index: Index) -> bool:
        """Whether `index` is where the provided element lies (an axis of size 1 has only one place)."""
        pairs = zip(t.shape, index, self._provided[1], strict=True)
        return all((isinstance(n, int) and n == 1) or D.recombine(a) == b for n, a, b in pairs)

    def evaluating(self, inline: Callable[[Tensor], bool] | None) -> _Evaluating:
        """While emitting: `with cx.evaluating(inline):` elements of tensors for which inline(t) holds are computed in place."""
        return _Evaluating(self, inline)

    def ints(self, t: Tensor) -> tuple[DimLike, ...] | None:
        """The contents of a small integer (or bool, or float with whole values) tensor as dims in row-major order, where known now."""
        if t._ints is False:
            t._ints = None
            with contextlib.suppress(ResourceLimit):  # too long an expression: the run reads it
                t._ints = self._follow(t)
        return t._ints

    def _follow(self, t: Tensor) -> tuple[DimLike, ...] | None:
        if not all(isinstance(d, int) for d in t.shape) or t.rank > 2:
            return None
        count = int(np.prod([int(d) for d in t.shape], dtype=np.int64))  # type: ignore[arg-type]
        if count > 64 or t.dtype not in ("int64", "int32", "float32", "bool", "uint8", "float64"):
            return None
        if t.array is not None:
            flat = t.array.reshape(-1).tolist()
            return tuple(int(v) for v in flat) if all(np.isfinite(v) and v == int(v) for v in flat) else None
        if not isinstance(t.origin, (Map, View, Concat)):
            return None
        from hasten.lower.follow import to_dim

        with self.evaluating(lambda u: isinstance(u.origin, (Map, View, Concat)) and self._small(u) and self._nesting < MAX_NESTING):
            values = [to_dim(self, self.element(t, i)) for i in np.ndindex(*map(int, t.shape))]  # type: ignore[arg-type]
        return None if any(v is None for v in values) else tuple(values)  # type: ignore[arg-type]

    @staticmethod
    def _small(t: Tensor) -> bool:
        return all(isinstance(d, int) for d in t.shape) and D.product(t.shape) <= 64  # type: ignore[operator]

    def read_ints(self, t: Tensor, count: int | None = None) -> tuple[DimLike, ...]:
        """The contents of an integer tensor as dims, read at run time where not known; its number of elements must be static."""
        known = self.ints(t)
        if known is not None:
            return known
        if not all(isinstance(d, int) for d in t.shape):
            raise ModelError(f"{self.where()}: the number of values in a tensor that gives sizes must be known; it has shape {t.shape}")
        n = int(np.prod([int(d) for d in t.shape], dtype=np.int64))  # type: ignore[arg-type]
        if n > 256:
            raise ModelError(f"{self.where()}: {n} sizes read from one tensor is beyond the limit of 256")
        return tuple(self.read_int(t, k) for k in range(n))

    def read_size(self, t: Tensor, element: int = 0) -> DimLike:
        """Element `element` (row-major) as a dim that is not negative: the run fails where it is."""
        self.require(0, "<=", self.read_int(t, element), "a size must not be negative")
        return self.read_int(t, element, signed=False)

    def read_int(self, t: Tensor, element: int = 0, signed: bool = True) -> DimLike:
        """Element `element` (row-major) as a dim read at run time. signed=False: known not to be negative."""
        names = []
        for sign in (1, -1) if signed else (1,):
            key = next((n for n, d in self.defined.items() if d[0] is t and d[1:] == (element, sign)), None)
            if key is None:
                key = self.fresh("d")
                self.defined[key] = (t, element, sign)
            names.append(D.symbol(key))
        return names[0] - names[1] if signed else names[0]


_SMALL = {
    "bfloat16", "float16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz",
    "float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2",
}  # fmt: skip


class _Evaluating:
    def __init__(self, cx: Context, inline: Callable[[Tensor], bool] | None):
        self.cx, self.inline = cx, inline

    def __enter__(self) -> None:
        self.saved = (self.cx.inline, self.cx._memo)
        self.cx.inline, self.cx._memo = self.inline, {}

    def __exit__(self, *_: object) -> None:
        self.cx.inline, self.cx._memo = self.saved


def _follows(op: str, diff: DimLike, check: Check) -> bool:
    """Whether a check of the difference of two sizes succeeds where an earlier check does."""
    left, earlier, right, *_ = check
    had = right - left
    if op != earlier:
        return False
    return diff in (had, -had) if op in ("==", "!=") else D.nonnegative(diff - had)


def _flat_position(shape: Shape, index: Index) -> int:
    position = 0
    for d, i in zip(shape, index, strict=True):
        position = position * int(d) + int(i)  # type: ignore[arg-type]
    return position


def _guarded(e: Expr, guard: Expr, default: Expr) -> Expr:
    """e with all of its loads done only where guard holds, and `default` elsewhere."""
    memo: dict[int, Expr] = {}

    def visit(n: Expr) -> Expr:
        if id(n) not in memo:
            if n.kind == "load":
                g = guard if n.guard is None else n.guard & guard
                memo[id(n)] = Expr("load", n.dtype, args=n.args or (E.const(0, n.dtype),), source=n.source, index=n.index,
                                   binds=tuple((s, visit(b)) for s, b in n.binds), guard=g, stored=n.stored)  # fmt: skip
            elif n.args:
                memo[id(n)] = Expr(n.kind, n.dtype, n.name, tuple(visit(a) for a in n.args), n.value, n.source, n.index)
            else:
                memo[id(n)] = n
        return memo[id(n)]

    if e.kind == "load" and e.guard is None:
        return Expr("load", e.dtype, args=(default,), source=e.source, index=e.index, binds=e.binds, guard=guard, stored=e.stored)
    return E.select(guard, visit(e), default)


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Split the axes of a reshape into runs whose products agree, as short as they can be shown to be."""
    pairs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        olds, news = ([i], [j]) if i < len(old) and j < len(new) else (list(range(i, len(old))), list(range(j, len(new))))
        if not (i < len(old) and j < len(new)):
            pairs.append((olds, news))
            break
        i, j = i + 1, j + 1
        a, b = old[olds[0]], new[news[0]]
        while D.known_equal(a, b) is not True:
            grow_old = _divides(a, b) and i < len(old) or j >= len(new)
            if grow_old and i < len(old):
                a = a * old[i]
                olds.append(i)
                i += 1
            elif j < len(new):
                b = b * new[j]
                news.append(j)
                j += 1
            else:
                break
        if D.known_equal(a, b) is not True:
            olds, news = [*olds, *range(i, len(old))], [*news, *range(j, len(new))]
            i, j = len(old), len(new)
        pairs.append((olds, news))
    return [(o, n) for o, n in pairs if o or n]


def _divides(a: DimLike, b: DimLike) -> bool:
    """Whether a looks like a proper factor of b (so the old side has to grow)."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    rest = D.mod(b, a)
    return isinstance(rest, int) and rest == 0


@dataclass
class TracedFunction:
    """A function of the Program: its parameters (tensors and values of data types, then the integers `sizes`, then the closure that it belongs to, if it does),
    and how it ends: see END."""

    name: str
    cx: Context
    params: list[Value]
    sizes: list[str]
    end: Datum
    closure: Datum | None = None


def numel(shape: Iterable[DimLike]) -> DimLike:
    return D.product(list(shape))


__all__ = [  # with the origins: what reads a trace needs no second import
    "END", "Block", "Branch", "Carried", "Check", "Concat", "Const", "Context", "Datum", "HostCall", "Index", "Invoke", "Kernel", "Loop",
    "Map", "Nest", "Object", "Origin", "Pack", "Return", "Shape", "Source", "Stage", "Step", "TagOf", "Tagged", "Tensor", "Through", "TracedFunction",
    "Unpack", "Value", "View", "Woven",
    "numel",
]
