"""Random Programs that are valid, over all instructions: what they compute is decided by the interpreter and the native driver, which must agree.

A Program has two inputs with sizes N and M (`x`: int64 (N, 3), `w`), a list of numbers as a third one, a constant, and outputs of sizes that it computes, of which
the last is a list. Buffers hold int64 elements; the grower knows at least how many, and keeps every access inside, so what differs between the drivers is never the Program's fault.
Runs may fail: Checks that do not hold, kernels that report, sizes that overflow, memory that is refused, recursion that is too deep.

Functions take a buffer and two integers (p, n, m), and give two integers back. Those of `LIBRARY` are in every Program: recursion over lists, tail calls,
closures; further ones have random bodies, which call the ones before them. References are counted by hand, as a compiler would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.base.types import adt
from hasten.vm import program as P
from hasten.vm.values import describe

N, M = D.symbol("N"), D.symbol("M")
NUMBERS = ("a", "b", "c", "d")  # integers that are there from the beginning
ROOM = 8  # elements of the least buffer
Row = adt("Row", End=[], Number=[int, "Row"])
CONSTANT = np.arange(-4, 12, dtype=np.int64)
MESSAGES = ("ok", 'a "quoted" check', "sizes differ")
DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "bfloat16", "float32", "float64")
Step = Callable[["Grower", int], list[P.Instruction]]


@dataclass
class Grower:
    """A Program in the making. `buffers`: those that hold at least ROOM elements on every path that comes here."""

    rng: np.random.Generator
    buffers: list[str] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)  # those of them that may be arguments and fields
    sizes: tuple[D.Dim, ...] = (N, M)
    functions: list[P.Function] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)  # values that are inputs
    count: int = 0

    # --- choices ------------------------------------------------------------------------------------------------------
    def one(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def fresh(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def size(self, depth: int = 2) -> D.DimLike:
        """Any size: of any sign, and seldom beyond 64 bits."""
        if depth == 0 or self.chance(0.25):
            if self.chance(0.02):
                return int(self.one([1 << 62, -(1 << 63), (1 << 63) - 1, 1 << 40]))
            return self.one([*map(D.symbol, NUMBERS), *self.sizes, *range(-9, 10)])
        one, two = self.size(depth - 1), self.size(depth - 1)
        return self.one(OPERATIONS)(one, two)

    def small(self) -> D.DimLike:
        return D.mod(self.size(), 100)

    def place(self) -> D.DimLike:
        """The number of an element that every buffer has."""
        return D.mod(self.size(), ROOM)

    # --- blocks ---------------------------------------------------------------------------------------------------------
    def block(self, depth: int) -> list[P.Instruction]:
        """Some steps; the buffers that they make are forgotten after."""
        before = list(self.buffers), list(self.counted)
        found = [i for _ in range(int(self.rng.integers(0, 6))) for i in self.one(STEPS)(self, depth)]
        self.buffers, self.counted = before
        return found

    def function(self) -> P.Function:
        """A random body around the parameters; what it finds out goes back."""
        outer = self.buffers, self.counted, self.sizes, self.lists
        self.lists = []
        self.buffers, self.counted, self.sizes = ["p", "arena", "k"], ["p", "k"], (D.symbol("n"), D.symbol("m"))
        start: list[P.Instruction] = [P.Let(name, k + 1) for k, name in enumerate(NUMBERS)]
        start += [P.Arena("arena", 4096), self.filled("arena", 512)]
        end = [P.Release("p"), P.Return((D.mod(D.symbol("a"), 1000), self.small()))]
        made = P.Function(self.fresh("f"), ("p", *self.sizes), (*start, *self.block(1), *end))
        self.buffers, self.counted, self.sizes, self.lists = outer
        return made

    def filled(self, buffer: str, elements: D.DimLike) -> P.Call:
        return P.Call("k_fill", (buffer, elements, self.small()))

    def program(self) -> P.Program:
        self.functions = list(LIBRARY)
        for _ in range(int(self.rng.integers(0, 3))):
            self.functions.append(self.function())
        outputs = [self.fresh("out") for _ in range(int(self.rng.integers(1, 4)))]
        shapes = [tuple(D.maximum(0, D.mod(self.size(), 5)) for _ in range(int(self.rng.integers(0, 3)))) for _ in outputs]
        sizes = {o: D.product(s) for o, s in zip(outputs, shapes, strict=True)}
        start: list[P.Instruction] = [P.Let(name, k + 1) for k, name in enumerate(NUMBERS)]
        start += [P.Arena("arena", N * 64 + 4096), self.filled("arena", N * 8 + 512), P.View("m", "arena", 64)]
        self.buffers, self.counted, self.lists = ["arena", "m", "k"], ["k"], ["list"]
        body = self.block(2) + self.block(2)
        ends: list[P.Instruction] = []
        names = [self.fresh("s") for _ in outputs]
        for n, o in enumerate(outputs):  # a size that the body may change is taken once
            ends += [P.Let(names[n], sizes[o]), P.Alloc(o, D.symbol(names[n]) * 8, "output"), self.filled(o, D.symbol(names[n]))]
            ends += [P.If(D.symbol(names[n]), (P.Call("k_put", (o, 0, self.size())),), ())]
        ends += [P.Release(P.Value("list")), *self.result()]
        given = [P.Output(n, o, s) for n, (o, s) in enumerate(zip(outputs, shapes, strict=True))]
        self.rng.shuffle(given)  # type: ignore[arg-type]
        if self.chance(0.2):
            given = [P.If(self.size(), tuple(given), tuple(reversed(given)))]  # type: ignore[list-item]
        specs = [P.TensorSpec(f"y{n}", "int64", s, o) for n, (o, s) in enumerate(zip(outputs, shapes, strict=True))]
        inputs = [P.TensorSpec("x", "int64", (N, 3), "x"), P.TensorSpec("w", "int64", self.one([(M, 2), (M + N, M), (M * 2, M)]), "w")]
        listed = P.ValueSpec("list", "Row", "list"), P.ValueSpec("made", "Row", "made")
        code = [*start, *body, *ends, *given]
        return P.Program([*inputs, listed[0]], [*specs, listed[1]], [P.Constant("k", 0, CONSTANT.nbytes)], code, [], self.functions, describe(Row))

    def result(self) -> list[P.Instruction]:
        """A list that becomes an output."""
        i, number, cell = self.fresh("i"), self.fresh("h"), self.fresh("v")
        left = D.symbol(i)
        body = (P.Let(i, left - 1), P.Alloc(number, 8), P.Call("k_put", (number, 0, self.small() + left)), P.Pack(cell, 1, (number, P.Value("made"))),
                P.Move("made", cell))  # fmt: skip
        return [P.Pack("made", 0), P.Let(i, D.mod(self.size(), 6)), P.While(left, body)]


OPERATIONS: tuple[Callable[[D.DimLike, D.DimLike], D.DimLike], ...] = (
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    D.floordiv,
    D.mod,
    D.maximum,
    D.minimum,
    lambda a, b: D.if_equal(a, b, a + 1, b),
    lambda a, b: D.if_less(a, b, b, a - 2),
    lambda a, b: D.scale_floor(a, 0.75),
)


# --- steps: each gives some instructions ------------------------------------------------------------------------------
def let(g: Grower, depth: int) -> list[P.Instruction]:
    return [P.Let(g.one(NUMBERS), g.small() if g.chance(0.9) else g.size())]


def put(g: Grower, depth: int) -> list[P.Instruction]:
    """Write to memory that is not the constants'."""
    index = g.place() if g.chance(0.95) else -1 - g.place()  # the kernel refuses negative places
    where = "Put 'p'" if g.chance(0.5) else ""
    return [P.Call("k_put", (g.one([b for b in g.buffers if b != "k"]), index, g.size()), g.one([0, 0, g.sizes[0] * 9000]), where)]


def read(g: Grower, depth: int) -> list[P.Instruction]:
    name = g.one(NUMBERS)
    return [P.Read(name, g.one(g.buffers), g.place(), g.one(DTYPES), g.one([1, -1])), P.Let(name, D.mod(D.symbol(name), 1000))]


def check(g: Grower, depth: int) -> list[P.Instruction]:
    left, right = g.small(), 100 + g.small() if g.chance(0.9) else g.size()
    return [P.Check(left, g.one(["!=", "<=", "<", "=="]) if g.chance(0.1) else "<=", right, g.one(MESSAGES), g.one(["shape", "value"]))]


def view(g: Grower, depth: int) -> list[P.Instruction]:
    """Another name for a buffer, or for a part of the arena."""
    name = g.fresh("v")
    made = P.View(name, g.one(g.buffers)) if g.chance(0.5) else P.View(name, "arena", D.mod(g.size(), 400) * 8)
    g.buffers.append(name)
    return [made]


def heap(g: Grower, depth: int) -> list[P.Instruction]:
    """Memory of its own, used, and given back sometimes."""
    name = g.fresh("h")
    if g.chance(0.1):  # of any size, negative ones too: not used
        return [P.Alloc(name, g.size() * 8), P.Release(name)]
    g.buffers.append(name)
    g.counted.append(name)
    found: list[P.Instruction] = [P.Alloc(name, ROOM * 8 + D.maximum(g.small(), 0)), g.filled(name, ROOM), *put(g, 0), *read(g, 0)]
    if g.chance(0.5):
        g.buffers.remove(name)
        g.counted.remove(name)
        found.append(P.Release(name))
    return found


def marks(g: Grower, depth: int) -> list[P.Instruction]:
    """How many threads share a kernel is seen in memory."""
    name = g.fresh("t")
    g.buffers.append(name)
    return [P.Alloc(name, ROOM * 8), g.filled(name, ROOM), P.Call("k_mark", (name,), g.one([0, 4999, 10000, g.sizes[0] * 5000, g.sizes[1] * 2500, g.size()]))]


def double(g: Grower, depth: int) -> list[P.Instruction]:
    target = g.one([b for b in g.buffers if b != "k"])
    return [P.Call("k_twice", (g.one(g.buffers), target, g.place() + 1))]


def report(g: Grower, depth: int) -> list[P.Instruction]:
    """A kernel that may fail: with a known status, an unknown one, or not at all."""
    if g.chance(0.5):
        return []
    status = g.one([0, 0, D.if_less(g.small(), 2, 3, 0), D.mod(g.size(), 9), 77])
    return [P.Call("k_status", (status,), 0, g.one(["", "Node 'n'"]))]


def choice(g: Grower, depth: int) -> list[P.Instruction]:
    if depth == 0:
        return []
    return [P.If(g.size(), tuple(g.block(depth - 1)), tuple(g.block(depth - 1)))]


def chosen(g: Grower, depth: int) -> list[P.Instruction]:
    """A buffer and an integer that both branches assign, used after."""
    name = g.fresh("c")
    one, two = (g.one(g.buffers) for _ in range(2))
    g.buffers.append(name)
    number = g.one(NUMBERS)
    return [P.If(g.size(), (P.View(name, one), P.Let(number, g.small())), (P.Let(number, g.small()), P.View(name, two))), *read(g, 0)]


def loop(g: Grower, depth: int) -> list[P.Instruction]:
    """Some rounds, sometimes with an exit before their end."""
    if depth == 0:
        return []
    counter = g.fresh("i")
    i = D.symbol(counter)
    body = [P.Let(counter, i - 1), *g.block(depth - 1)]
    if g.chance(0.3):
        body.append(P.If(D.if_less(g.small(), 30, 1, 0), (P.Let(counter, 0),), ()))
    return [P.Let(counter, g.one([0, 1, 3, D.mod(g.size(), 4), D.mod(g.sizes[0], 7)])), P.While(i, tuple(body))]


def pack(g: Grower, depth: int) -> list[P.Instruction]:
    """A value of a buffer and an integer; the buffer outlives it, by a reference of its own."""
    v, h, taken, number = g.fresh("v"), g.fresh("h"), g.fresh("b"), g.one(NUMBERS)
    value = P.Value(v)
    found: list[P.Instruction] = [P.Alloc(h, ROOM * 8), g.filled(h, ROOM), P.Pack(v, int(g.rng.integers(0, 4)), (h, g.small())), P.Tag(number, v)]
    if g.chance(0.5):
        other = g.fresh("v")
        found += [P.Move(other, v), P.Field(D.symbol(number), other, 1)]
    if g.chance(0.5):
        outer = g.fresh("v")  # holds the first one
        found += [P.Pack(outer, 7, (value, g.small())), P.Field(value, outer, 0), P.Retain(value), P.Release(P.Value(outer))]
    found += [P.Field(taken, v, 0), P.Retain(taken), P.Release(value)]
    g.buffers.append(taken)
    g.counted.append(taken)
    return [*found, *read(g, 0)]


def listed(g: Grower, depth: int) -> list[P.Instruction]:
    """A list, summed by a function, and sometimes kept and walked through."""
    v, cell, walk, i, number = g.fresh("l"), g.fresh("l"), g.fresh("l"), g.fresh("i"), g.one(NUMBERS)
    count = D.symbol(i)
    build = P.While(count, (P.Let(i, count - 1), P.Pack(cell, 1, (D.mod(count + g.small(), 100), P.Value(v))), P.Move(v, cell)))
    found: list[P.Instruction] = [P.Pack(v, 0), P.Let(i, g.one([0, 1, 5, DEEP - 2, D.mod(g.size(), 9)])), build]
    if g.chance(0.5):
        step = (P.Field(count, walk, 0), P.Field(P.Value(walk), walk, 1), P.Tag(number, walk))
        found += [P.Move(walk, v), P.Tag(number, walk), P.While(D.symbol(number), step)]
    return [*found, P.Invoke("total", (P.Value(v),), (D.symbol(number),))]


def given_list(g: Grower, depth: int) -> list[P.Instruction]:
    """The sum of the list that is an input."""
    return [i for v in g.lists for i in (P.Retain(P.Value(v)), P.Invoke("given", (P.Value(v),), (D.symbol(g.one(NUMBERS)),)))]


def called(g: Grower, depth: int) -> list[P.Instruction]:
    """A function of this Program, or a closure of it."""
    number, other = g.rng.choice(NUMBERS, 2, replace=False)
    results = (D.symbol(str(number)), D.symbol(str(other)))
    known = [f.name for f in g.functions if f.params[0] == "p"]
    kind = g.one(["down", "count", "closure", "any"])
    if kind == "any" and known:
        buffer = g.one(g.counted)
        return [P.Retain(buffer), P.Invoke(g.one(known), (buffer, g.small(), g.small()), results)]
    if kind == "closure":
        v = g.fresh("v")
        captured = g.one(g.counted)
        tag = [f.name for f in LIBRARY].index("apply")
        return [P.Retain(captured), P.Pack(v, tag, (captured, g.small())), P.Invoke(P.Value(v), (g.small(),), results), P.Release(P.Value(v))]
    if kind == "down":
        return [P.Invoke("down", (g.one([0, 3, DEEP - 1, DEEP + 5]) if g.chance(0.1) else D.mod(g.size(), 9),), results[:1])]
    return [P.Invoke("count", (g.one([0, 4, 3 * DEEP, D.mod(g.size(), 9)]), g.small()), results[:1])]


DEEP = 40  # activations that may wait
_n, _m, _k, _s = (D.symbol(name) for name in ("n", "m", "k", "s"))
_list, _rest, _self = P.Value("list"), P.Value("rest"), P.Value("self")
LIBRARY = (
    P.Function("total", (_list,), (  # of a list's numbers, by recursion
        P.Tag("k", "list"),
        P.If(_k, (P.Field(_n, "list", 0), P.Field(_rest, "list", 1), P.Retain(_rest), P.Release(_list), P.Invoke("total", (_rest,), (_s,)),
                  P.Return((D.mod(_s + _n, 1000),))), (P.Release(_list), P.Return((0,)))),
    )),
    P.Function("given", (_list,), (  # of numbers that lie in memory; without a tail call, to the depth of its length
        P.Tag("k", "list"),
        P.If(_k, (P.Field("b", "list", 0), P.Read("n", "b", 0, "int64"), P.Field(_rest, "list", 1), P.Retain(_rest), P.Release(_list),
                  P.Invoke("given", (_rest,), (_s,)), P.Return((D.mod(_s * 7 + _n, 1000),))), (P.Release(_list), P.Return((0,)))),
    )),
    P.Function("down", (_n,), (P.If(_n, (P.Invoke("down", (_n - 1,), (_m,)), P.Return((_m + 1,))), (P.Return((0,)),)),)),
    P.Function("count", (_n, _m), (P.If(_n, (P.Invoke("count", (_n - 1, D.mod(_m * 3 + 1, 100)), (), True),), (P.Return((_m,)),)),)),
    P.Function("apply", (_n, _self), (  # a closure over a buffer and a number
        P.Field("b", "self", 0), P.Field(_k, "self", 1), P.Read("s", "b", D.mod(_n, ROOM), "int16"), P.Return((D.mod(_k + _s, 1000), D.mod(_n, 10))),
    )),
)  # fmt: skip
STEPS: tuple[Step, ...] = (
    let, let, put, put, read, read, check, view, heap, heap, marks, double, report, choice, choice, chosen, loop, loop, pack, listed, called, called, given_list,
)  # fmt: skip


def grown(rng: np.random.Generator) -> P.Program:
    return Grower(rng).program()


def inputs_of(program: P.Program, rng: np.random.Generator) -> list[Any]:
    """Arrays for a run, seldom of a wrong size, and a list, seldom a long one."""
    sizes = {"N": int(rng.integers(0, 6)), "M": int(rng.integers(0, 5))}
    shapes = [tuple(D.evaluate(d, sizes) for d in s.shape) for s in program.inputs if isinstance(s, P.TensorSpec)]
    if rng.random() < 0.05:
        k = int(rng.integers(len(shapes)))
        shapes[k] = tuple(n + int(rng.integers(0, 2)) for n in shapes[k])
    made = Row.End()
    for _ in range(int(rng.integers(0, 7)) if rng.random() < 0.97 else DEEP + 3):
        made = Row.Number(int(rng.integers(-99, 99)), made)
    return [*(rng.integers(-20, 20, s) for s in shapes), made]
