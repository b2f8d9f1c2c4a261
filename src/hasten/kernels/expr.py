"""Scalar expressions: what one element of a result is, in terms of loads, constants and operations.

An `Expr` is a node of a DAG. Fusion is nothing but putting Exprs inside others; templates evaluate them for many lanes at once
(`kernels.emit`). Operations are rows of `OPS`; each has a NumPy meaning here (the definition) and LLVM text in `codegen.math`.

dtypes are compute types (see base.dtypes): "float32", "float64", "bool", "int8" ... "uint64". Values stored as float16, bfloat16 or float8 are
float32 here; `cast(x, "float16")` rounds, and the type of the result stays float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

from hasten.base.dims import DimLike, symbol, symbols
from hasten.base.dtypes import compute_type, dtype, to_numpy

Scalar = Union["Expr", int, float, bool]


@dataclass(frozen=True, eq=False)
class Expr:
    """kind:
    "const"  value: a Python number
    "load"   source: what is loaded (a tensor while tracing, an argument name in a kernel), index: tuple of dims (logical index, or one
             offset in elements); `binds` gives the Expr behind every symbol of the index that is itself computed (indirect loads);
             `guard`: an Expr of bool; where it is false the load isn't done and the value is `args[0]`
    "index"  index: one dim, whose value is this element's value (int64)
    "param"  name: a value that the template provides (an accumulator, the result of an earlier stage)
    "op"     name: a row of OPS, args
    """

    kind: str
    dtype: str
    name: str = ""
    args: tuple[Expr, ...] = ()
    value: Any = None
    source: Any = None
    index: tuple[DimLike, ...] = ()
    binds: tuple[tuple[str, Expr], ...] = ()
    guard: Expr | None = None
    stored: str = ""  # of a load: dtype in memory

    def children(self) -> Iterator[Expr]:
        yield from self.args
        for _, e in self.binds:
            yield e
        if self.guard is not None:
            yield self.guard

    def __add__(self, o: Scalar) -> Expr:
        return op("add", self, o)

    def __sub__(self, o: Scalar) -> Expr:
        return op("sub", self, o)

    def __mul__(self, o: Scalar) -> Expr:
        return op("mul", self, o)

    def __truediv__(self, o: Scalar) -> Expr:
        return op("div", self, o)

    def __radd__(self, o: Scalar) -> Expr:
        return op("add", o, self)

    def __rsub__(self, o: Scalar) -> Expr:
        return op("sub", o, self)

    def __rmul__(self, o: Scalar) -> Expr:
        return op("mul", o, self)

    def __rtruediv__(self, o: Scalar) -> Expr:
        return op("div", o, self)

    def __neg__(self) -> Expr:
        return op("neg", self)

    def __lt__(self, o: Scalar) -> Expr:
        return op("lt", self, o)

    def __le__(self, o: Scalar) -> Expr:
        return op("le", self, o)

    def __gt__(self, o: Scalar) -> Expr:
        return op("lt", o, self)

    def __ge__(self, o: Scalar) -> Expr:
        return op("le", o, self)

    def eq(self, o: Scalar) -> Expr:
        return op("eq", self, o)

    def ne(self, o: Scalar) -> Expr:
        return op("ne", self, o)

    def __and__(self, o: Scalar) -> Expr:
        return op("and", self, o)

    def __or__(self, o: Scalar) -> Expr:
        return op("or", self, o)

    def __xor__(self, o: Scalar) -> Expr:
        return op("xor", self, o)

    def __invert__(self) -> Expr:
        return op("not", self)


@dataclass(frozen=True)
class OpRow:
    """result: "same" (dtype of the first argument), "bool", or "second" (of the second); meaning: NumPy; cost: rough cycles a vector."""

    result: str
    meaning: Callable[..., Any]
    cost: int = 1


def _erf(x: Any) -> Any:
    import math

    return np.vectorize(math.erf, otypes=[np.asarray(x).dtype])(x)


def _shift_left(a: Any, b: Any) -> Any:
    return np.where(b < np.asarray(a).dtype.itemsize * 8, np.left_shift(a, b), 0).astype(np.asarray(a).dtype)


def _int_div(a: Any, b: Any) -> Any:
    """C division (towards zero) for integers; division by zero gives 0 (the template sets the status); IEEE for floats."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.kind == "f":
        return a / b
    safe = np.where(b == 0, 1, b)
    q = np.abs(a.astype(object)) // np.abs(safe.astype(object))
    low, count = int(np.iinfo(a.dtype).min), 1 << a.dtype.itemsize * 8
    exact = np.asarray(np.where(b == 0, 0, np.where((a < 0) != (b < 0), -q, q)), object)
    return np.asarray((exact - low) % count + low, object).astype(a.dtype)  # the smallest by -1 wraps around


OPS: dict[str, OpRow] = {
    # arithmetic; integers wrap
    "add": OpRow("same", np.add), "sub": OpRow("same", np.subtract), "mul": OpRow("same", np.multiply),
    "div": OpRow("same", _int_div, 8),
    "floormod": OpRow("same", np.mod, 12),  # sign of the divisor (Python)
    "fmod": OpRow("same", np.fmod, 20),  # sign of the dividend (C)
    "pow": OpRow("same", np.power, 40), "neg": OpRow("same", np.negative), "abs": OpRow("same", np.abs), "sign": OpRow("same", np.sign, 2),
    "max": OpRow("same", np.maximum), "min": OpRow("same", np.minimum),  # NaN wins
    # bool arguments: logical; integers: bitwise
    "and": OpRow("same", lambda a, b: a & b), "or": OpRow("same", lambda a, b: a | b), "xor": OpRow("same", lambda a, b: a ^ b),
    "not": OpRow("same", lambda a: ~a),
    "shl": OpRow("same", _shift_left), "shr": OpRow("same", np.right_shift),  # logical for unsigned, arithmetic for signed
    # comparisons: false with NaN, but "ne" is true
    "lt": OpRow("bool", np.less), "le": OpRow("bool", np.less_equal), "eq": OpRow("bool", np.equal), "ne": OpRow("bool", np.not_equal),
    "isnan": OpRow("bool", np.isnan), "isinf": OpRow("bool", np.isinf), "select": OpRow("second", np.where),
    # rounding
    "floor": OpRow("same", np.floor), "ceil": OpRow("same", np.ceil), "trunc": OpRow("same", np.trunc),
    "round": OpRow("same", np.rint),  # half to even
    # functions of floats
    "sqrt": OpRow("same", np.sqrt, 10), "exp": OpRow("same", np.exp, 12), "exp2": OpRow("same", np.exp2, 12), "expm1": OpRow("same", np.expm1, 25),
    "log": OpRow("same", np.log, 15), "log1p": OpRow("same", np.log1p, 25), "sin": OpRow("same", np.sin, 25), "cos": OpRow("same", np.cos, 25),
    "tan": OpRow("same", np.tan, 60), "asin": OpRow("same", np.arcsin, 60), "acos": OpRow("same", np.arccos, 60), "atan": OpRow("same", np.arctan, 60),
    "atan2": OpRow("same", np.arctan2, 80), "sinh": OpRow("same", np.sinh, 40), "cosh": OpRow("same", np.cosh, 40), "tanh": OpRow("same", np.tanh, 15),
    "asinh": OpRow("same", np.arcsinh, 60), "acosh": OpRow("same", np.arccosh, 60), "atanh": OpRow("same", np.arctanh, 60),
    "erf": OpRow("same", _erf, 20),
}  # fmt: skip


def const(value: Any, dt: str) -> Expr:
    return Expr("const", compute_type(dt), value=bool(value) if dt == "bool" else value)


def index(d: DimLike) -> Expr:
    """The value of a size or loop index, as int64."""
    return const(d, "int64") if isinstance(d, int) else Expr("index", "int64", index=(d,))


def param(name: str, dt: str) -> Expr:
    return Expr("param", dt, name=name)


def load(source: Any, idx: Sequence[DimLike], stored: str, binds: tuple[tuple[str, Expr], ...] = (), guard: Expr | None = None,
         default: Scalar = 0) -> Expr:  # fmt: skip
    """Element `idx` of source, stored as `stored`; where `guard` is false, `default` without touching memory."""
    dt = compute_type(stored)
    args = (lift(default, dt),) if guard is not None else ()
    return Expr("load", dt, args=args, source=source, index=tuple(idx), binds=binds, guard=guard, stored=stored)


def lift(x: Scalar, dt: str) -> Expr:
    return x if isinstance(x, Expr) else const(x, dt)


_FOLDABLE = {"add", "sub", "mul", "max", "min", "lt", "le", "eq", "ne", "and", "or", "not", "neg", "select"}


def op(name: str, *args: Scalar) -> Expr:
    """Apply a row of OPS; Python numbers take the dtype of the Expr beside them. Arguments of "select": condition, then, else."""
    row = OPS[name]
    typed = next((a.dtype for a in (args[1:] if name == "select" else args) if isinstance(a, Expr)), None)
    assert typed is not None, f"{name} of Python numbers only"
    exprs = tuple(lift(a, "bool" if name == "select" and i == 0 else typed) for i, a in enumerate(args))
    check = exprs[1:] if name == "select" else exprs
    if any(e.dtype != typed for e in check):
        raise TypeError(f"{name} of {[e.dtype for e in exprs]}")
    folded = _fold(name, exprs)
    if folded is not None:
        return folded
    return Expr("op", "bool" if row.result == "bool" else typed, name=name, args=exprs)


def _fold(name: str, args: tuple[Expr, ...]) -> Expr | None:
    if name == "select" and args[0].kind == "const":
        return args[1] if args[0].value else args[2]
    if name in ("and", "or") and args[0].dtype == "bool":
        for a, b in (args, args[::-1]):
            if a.kind == "const":
                return (b if a.value else a) if name == "and" else (a if a.value else b)
    return None


def select(cond: Expr, a: Scalar, b: Scalar) -> Expr:
    return op("select", cond, a, b)


def cast(x: Expr, dt: str) -> Expr:
    """Convert to dtype `dt` with ONNX's meaning (floats to integers truncate; to small floats round; to bool: x != 0)."""
    if dt == x.dtype and compute_type(dt) == dt:
        return x
    if x.kind == "const" and dtype(dt).kind in "fb" and dt in ("float32", "float64", "bool"):
        return const(bool(x.value) if dt == "bool" else float(x.value), dt)
    if x.kind == "const" and dtype(dt).kind in "iu" and isinstance(x.value, int) and dtype(dt).bits >= 8:
        return const(int(np.array(x.value).astype(to_numpy(dt))), dt)
    return Expr("op", compute_type(dt), name="cast", args=(x,), value=dt)


def saturate(x: Expr, dt: str) -> Expr:
    """Cast with clipping to the range of dt (quantisation; float8 saturation)."""
    return Expr("op", compute_type(dt), name="saturate", args=(x,), value=dt)


def walk(e: Expr, seen: set[int] | None = None) -> Iterator[Expr]:
    """Every node once, children first."""
    seen = set() if seen is None else seen
    stack: list[tuple[Expr, bool]] = [(e, False)]
    while stack:
        node, done = stack.pop()
        if done:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((c, False) for c in node.children())


def cost(e: Expr) -> int:
    """Rough cycles per vector of evaluating e: for choices between recomputing and storing."""
    return sum(OPS[n.name].cost if n.name in OPS else 2 for n in walk(e) if n.kind == "op") + sum(1 for n in walk(e) if n.kind == "load")


def operation(n: Expr) -> int:
    """Arithmetic instructions of one node: a row of OPS counts as its cost (a function such as exp is many), a conversion as one; index arithmetic
    and loads aren't counted."""
    return 0 if n.kind != "op" else OPS[n.name].cost if n.name in OPS else 1


def free_symbols(e: Expr) -> frozenset[str]:
    """Symbols that the loads and indices of e mention, without those it binds itself."""
    found: set[str] = set()
    for n in walk(e):
        if n.kind in ("load", "index"):
            own = {name for name, _ in n.binds}
            found |= {s for d in n.index for s in symbols(d)} - own
    return frozenset(found)


class Fresh:
    """Names that don't repeat within one trace, nor are among `taken` (the model's own names of sizes)."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}
        self.taken: set[str] = set()

    def __call__(self, prefix: str) -> str:
        while True:
            n = self.count.get(prefix, 0)
            self.count[prefix] = n + 1
            name = f"{prefix}{n}"
            if name not in self.taken:
                return name


@dataclass
class Binder:
    """Makes index symbols for computed indices: `dim = binder(expr, extent)` is a dim whose value is expr."""

    fresh: Fresh = field(default_factory=Fresh)

    def __call__(self, e: Expr, extent: DimLike | None = None) -> tuple[DimLike, tuple[str, Expr] | None]:
        if e.kind == "const":
            return int(e.value), None
        if e.kind == "index":
            return e.index[0], None
        name = self.fresh("x")
        return symbol(name, extent), (name, e)
