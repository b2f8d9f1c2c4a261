"""Memory plans: no two values that are needed at the same time lie in the same place, whatever the sizes and whichever way a run goes."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from compiling import lowered, parse, walk  # noqa: E402

import hasten  # noqa: E402
from hasten.base import dims as D  # noqa: E402
from hasten.lower import memory  # noqa: E402
from hasten.vm import program as P  # noqa: E402

KNOWN = ("n", "m")
UNKNOWN = ("d0", "d1")


class Writer:
    """Random programs that read only what was written before, on every path. A call reads its buffers but the last,
    which it writes."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.sizes: dict[str, D.DimLike] = {}
        self.over: dict[str, frozenset[str]] = {}
        self.conditions = 0

    def size(self) -> D.DimLike:
        names = KNOWN if self.rng.random() < 0.8 else UNKNOWN
        return D.symbol(self.rng.choice(names)) * self.rng.choice([4, 8, 100]) + self.rng.choice([0, 0, 64, 1])

    def block(self, ready: set[str], depth: int, length: int) -> tuple[P.Instruction, ...]:
        """Instructions that may read `ready`, to which they add what is written on all paths."""
        code: list[P.Instruction] = []
        for _ in range(length):
            kind = self.rng.random()
            if depth and kind < 0.15:
                one, two = set(ready), set(ready)
                sides = self.block(one, depth - 1, 3), self.block(two, depth - 1, 3)
                code.append(P.If(self.condition(), *sides))
                ready |= one & two
            elif depth and kind < 0.3:
                inside = set(ready)
                code.append(P.While(self.condition(), self.block(inside, depth - 1, 4)))
            else:
                code.append(self.call(ready))
        return tuple(code)

    def condition(self) -> D.DimLike:
        self.conditions += 1
        return D.symbol(f"c{self.conditions}")

    def call(self, ready: set[str]) -> P.Call:
        reads = self.rng.sample(sorted(ready), min(len(ready), self.rng.randint(0, 3)))
        if self.sizes and self.rng.random() < 0.3:
            target = self.rng.choice(sorted(self.sizes))
        else:
            target = f"b{len(self.sizes)}"
            like = reads and self.rng.random() < 0.7
            self.sizes[target] = self.sizes[self.rng.choice(reads)] if like else self.size()
            self.over[target] = frozenset(r for r in reads if self.rng.random() < 0.7)
        ready.add(target)
        return P.Call("k", (*[r for r in reads if r != target], target))


@dataclass
class Machine:
    """Runs a planned program on imaginary memory: each value written is a number in every byte of its buffer."""

    sizes: dict[str, int]
    env: dict[str, int]
    rng: random.Random
    over: dict[str, frozenset[str]]
    place: dict[str, tuple[str, int]] = field(default_factory=dict)
    zones: dict[str, np.ndarray] = field(default_factory=dict)
    holds: dict[str, int] = field(default_factory=dict)
    written: int = 0
    allocated: int = 0

    def run(self, code: tuple[P.Instruction, ...] | list[P.Instruction]) -> None:
        for i in code:
            if isinstance(i, P.If):
                self.run(i.then if self.rng.random() < 0.5 else i.other)
            elif isinstance(i, P.While):
                for _ in range(self.rng.choice([0, 1, 2, 3])):
                    self.run(i.body)
            elif isinstance(i, (P.Arena, P.Alloc)):
                self.allocated += 1
                self.zones[f"z{self.allocated}"] = np.zeros(max(1, D.evaluate(i.size, self.env)), np.int64)
                self.place[i.buffer] = (f"z{self.allocated}", 0)
            elif isinstance(i, P.View):
                zone, start = self.place[i.base]
                offset = start + D.evaluate(i.offset, self.env)
                assert offset % 64 == 0
                self.place[i.buffer] = (zone, offset)
            elif isinstance(i, P.Release):
                del self.zones[self.place.pop(str(i.name))[0]]
            elif isinstance(i, P.Call):
                self.call([a for a in i.args if isinstance(a, str)])

    def bytes(self, buffer: str) -> np.ndarray:
        zone, start = self.place[buffer]
        size = self.sizes[buffer]
        assert start + size <= self.zones[zone].size, f"{buffer} leaves its memory"
        return self.zones[zone][start : start + size]

    def call(self, buffers: list[str]) -> None:
        for b in buffers[:-1]:
            assert np.all(self.bytes(b) == self.holds[b]), f"{b} was overwritten"
        self.written += 1
        (zone, start), size = self.place[buffers[-1]], self.sizes[buffers[-1]]
        for b in buffers[:-1]:  # what is read while the result is written lies elsewhere, or is the very memory that may be written over
            there, first = self.place[b]
            apart = there != zone or first + self.sizes[b] <= start or start + size <= first
            assert apart or (first == start and b in self.over[buffers[-1]]), f"{buffers[-1]} is written over {b}"
        self.bytes(buffers[-1])[:] = self.written
        self.holds[buffers[-1]] = self.written


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 30), st.integers(2, 14))
def test_nothing_is_overwritten_too_early(seed: int, length: int) -> None:
    rng = random.Random(seed)
    writer = Writer(rng)
    program = P.Program(instructions=list(writer.block(set(), 3, length)))
    outputs = {b for b in writer.sizes if rng.random() < 0.1}
    peak = memory.plan(program, dict(writer.sizes), outputs, frozenset(KNOWN), over=writer.over)
    frees = [i.name for i in walk(program.instructions) if isinstance(i, P.Release)]
    assert not set(frees) & outputs and len(frees) == len(set(frees))
    for case in range(4):
        env = {name: random.Random(seed + case).choice([0, 1, 5, 97, 300]) for name in KNOWN + UNKNOWN}
        machine = Machine({b: D.evaluate(s, env) for b, s in writer.sizes.items()}, env, random.Random(case), writer.over)
        machine.run(program.instructions)
        arena = next((i.size for i in program.instructions if isinstance(i, P.Arena)), 0)
        assert D.evaluate(arena, env) == D.evaluate(peak, env)
        assert D.symbols(peak) <= set(KNOWN)


def calls(*rows: str) -> list[P.Instruction]:
    return [P.Call("k", tuple(r.split())) for r in rows]


def peak_of(code: list[P.Instruction], over: dict[str, frozenset[str]] | None = None, **sizes: D.DimLike) -> D.DimLike:
    program = P.Program(instructions=code)
    return memory.plan(program, dict(sizes), set(), frozenset(KNOWN), over=over)


def test_a_chain_needs_two_buffers() -> None:
    sizes = {f"b{k}": 640 for k in range(6)}
    assert peak_of(calls("b0", "b0 b1", "b1 b2", "b2 b3", "b3 b4", "b4 b5"), **sizes) == 1280


def test_small_buffers_share_the_place_of_a_large_one() -> None:
    assert peak_of(calls("b0", "b0 b1", "b1 b2", "b1 b2 b3"), b0=1280, b1=640, b2=640, b3=640) == 1280 + 640


def test_a_chain_in_place_needs_one_buffer() -> None:
    n = D.symbol("n")
    sizes = {f"b{k}": n * 64 for k in range(4)}
    over = {f"b{k + 1}": frozenset({f"b{k}"}) for k in range(3)}
    assert peak_of(calls("b0", "b0 b1", "b1 b2", "b2 b3"), over, **sizes) == n * 64


def test_what_a_loop_still_needs_is_not_written_over() -> None:
    code = [*calls("b0"), P.While(D.symbol("c"), tuple(calls("b0 b1"))), *calls("b1")]
    assert peak_of(code, {"b1": frozenset({"b0"})}, b0=640, b1=640) == 1280


def test_sizes_of_the_same_symbols_share() -> None:
    n = D.symbol("n")
    sizes = {f"b{k}": n * 64 for k in range(4)}
    assert peak_of(calls("b0", "b0 b1", "b1 b2", "b2 b3"), **sizes) == n * 128


def test_slots_fit_the_largest_whatever_the_sizes() -> None:
    n, m = D.symbol("n"), D.symbol("m")
    peak = peak_of(calls("b0", "b0 b1", "b1 b2", "b2 b3"), b0=n * 64, b1=m * 64, b2=m * m * 64, b3=n * 64)
    for env in ({"n": 1, "m": 1}, {"n": 1000, "m": 1}, {"n": 1, "m": 70}):
        pairs = [max(env["n"], env["m"] ** 2) * 64, max(env["m"], env["n"]) * 64]
        assert D.evaluate(peak, env) <= sum(pairs)


@pytest.mark.parametrize("condition", [0, 1])
def test_data_dependent_size_on_both_sides_of_an_if(condition: int, rng: np.random.Generator) -> None:
    """Memory that both sides of an If fill, of a size that is read before it."""
    m = parse("""g (float[n] x, bool c) => (y) {
        big = Greater(x, zero)  p = Compress <axis = 0> (x, big)
        b = If <then_branch = t () => (u) { u = Neg(p) }, else_branch = e () => (v) { v = Add(p, p) }> (c)
        s = Exp(b)  q = ReduceSum <keepdims = 1> (s)  y = Div(s, q) }""", zero=np.float32(0))  # fmt: skip
    x = rng.standard_normal(40).astype(np.float32)
    p = x[x > 0]
    s = np.exp(-p if condition else p + p)
    got = hasten.compile(m, host_ops=False)(x, np.array(bool(condition)))
    np.testing.assert_allclose(got, s / s.sum(), rtol=1e-5)


def test_reported_peak_is_the_arena() -> None:
    m = parse("""g (float[n, m] x) => (y) {
        a = Exp(x)  b = ReduceSum <keepdims = 1> (a, zero)  c = Sub(a, b)  d = Transpose <perm = [1, 0]> (c)
        e = MatMul(d, c)  y = Softmax <axis = 0> (e) }""", zero=np.array([0]))  # fmt: skip
    program, low, report = lowered(m)
    arena = next(i for i in program.instructions if isinstance(i, P.Arena))
    assert str(arena.size) == report.peak_memory
    env = {"n": 10, "m": 20}
    total = sum(D.evaluate(t.size, env) + 63 for t in low.temporaries.values() if not t.output and D.symbols(t.size) <= set(env))
    assert 0 < D.evaluate(D.parse(report.peak_memory), env) <= total


def test_outputs_have_memory_of_their_own() -> None:
    m = parse("""g (float[n, m] x) => (a, b, c) { a = Exp(x)  t = Transpose <perm = [1, 0]> (a)  b = Relu(t)  c = Reshape(a, flat) }""",
              flat=np.array([-1]))  # fmt: skip
    program, _, _ = lowered(m)
    allocated = [i.buffer for i in walk(program.instructions) if isinstance(i, P.Alloc) and i.zone == "output"]
    given = [i.buffer for i in walk(program.instructions) if isinstance(i, P.Output)]
    assert sorted(allocated) == sorted(given) and len(set(given)) == 3
