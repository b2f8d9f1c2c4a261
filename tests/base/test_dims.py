"""Symbolic sizes: whatever construction simplifies, the value stays that of plain integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hasten.base import dims as D
from hasten.base.errors import ModelError

SIZES = ("batch", "h", "w", "s")
LOOPS = ("i", "j", "k")
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])


@dataclass(frozen=True)
class Tree:
    """An expression as written: `dim` builds the simplified form, `value` computes with ints."""

    op: str
    args: tuple[Any, ...]

    def dim(self, extents: dict[str, Any]) -> D.DimLike:
        if self.op == "int":
            return int(self.args[0])
        if self.op == "sym":
            known = extents.get(self.args[0])
            return D.symbol(self.args[0], None, *known) if isinstance(known, tuple) else D.symbol(self.args[0], known)
        return BUILD[self.op](*(a.dim(extents) if isinstance(a, Tree) else a for a in self.args))

    def value(self, env: dict[str, int]) -> int:
        if self.op == "int":
            return int(self.args[0])
        if self.op == "sym":
            return env[self.args[0]]
        values = [a.value(env) if isinstance(a, Tree) else a for a in self.args]
        if self.op in ("//", "%") and values[1] <= 0:
            raise Undefined  # sizes are divided by, and those are positive wherever anything is computed
        return int(MEANING[self.op](*values))


class Undefined(Exception):
    """A division by zero or by a negative number."""


BUILD: dict[str, Any] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "neg": lambda a: -a,
    "//": lambda a, b: D.floordiv(a, b), "%": lambda a, b: D.mod(a, b), "max": D.maximum, "min": D.minimum,
    "eq": D.if_equal, "lt": D.if_less, "scale": D.scale_floor, "ceil": D.ceildiv,
}  # fmt: skip
MEANING: dict[str, Any] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "neg": lambda a: -a,
    "//": lambda a, b: a // b, "%": lambda a, b: a % b, "max": max, "min": min,
    "eq": lambda a, b, x, y: x if a == b else y, "lt": lambda a, b, x, y: x if a < b else y,
    "scale": D.EVALUATORS["scale"],
}  # fmt: skip


def trees(names: tuple[str, ...] = SIZES + LOOPS, leaves: int = 10) -> st.SearchStrategy[Tree]:
    leaf = st.one_of(
        st.sampled_from(names).map(lambda n: Tree("sym", (n,))),
        st.integers(-6, 64).map(lambda v: Tree("int", (v,))),
    )

    def grow(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        two = [st.tuples(st.just(o), st.tuples(inner, inner)) for o in ("+", "+", "-", "*", "max", "min")]
        by = st.one_of(st.integers(1, 9).map(lambda v: Tree("int", (v,))), inner)
        split = [st.tuples(st.just(o), st.tuples(inner, by)) for o in ("//", "//", "%", "%")]
        four = [st.tuples(st.just(o), st.tuples(inner, inner, inner, inner)) for o in ("eq", "lt")]
        scale = st.tuples(st.just("scale"), st.tuples(inner, st.sampled_from([0.5, 2.0, 1.5, 0.1, 1 / 3])))
        return st.one_of(*two, *split, *four, scale).map(lambda t: Tree(*t))

    return st.recursive(leaf, grow, max_leaves=leaves)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, int]]:
    """Values for everything, ranges of sizes around their values, and extents of loop indices (numbers or sizes) beyond theirs."""
    env = {n: draw(st.one_of(st.integers(0, 4), st.integers(0, 40))) for n in SIZES}
    extents: dict[str, Any] = {}
    for name in SIZES:
        if draw(st.booleans()):
            most = draw(st.one_of(st.none(), st.integers(env[name], env[name] + 8)))
            extents[name] = (draw(st.integers(max(env[name] - 8, 0), env[name])), most)
    for name in LOOPS:
        choice = draw(st.sampled_from(["number", "size", "product", "none"]))
        if choice == "none":
            env[name] = draw(st.integers(0, 40))
            continue
        a, b = draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES))
        extent = draw(st.integers(1, 12)) if choice == "number" else D.symbol(a)
        if choice == "product":
            extent = D.symbol(a) * D.symbol(b)
        top = D.evaluate(extent, env)
        assume(top > 0)
        env[name] = draw(st.integers(0, top - 1))
        extents[name] = extent
    return extents, env


def meaning(tree: Tree, env: dict[str, int]) -> int:
    try:
        return tree.value(env)
    except Undefined:
        assume(False)
        raise


@COMMON
@given(trees(), worlds())
def test_simplification_keeps_the_value(tree: Tree, world: tuple[dict[str, Any], dict[str, int]]) -> None:
    extents, env = world
    assert D.evaluate(tree.dim(extents), env) == meaning(tree, env)


@COMMON
@given(trees(leaves=6), worlds(), st.data())
def test_division_of_flat_indices(
    tree: Tree, world: tuple[dict[str, Any], dict[str, int]], data: st.DataObject
) -> None:
    """The pattern of every reshape: (i * n + j) // n and % n, where j may or may not be known to be below n."""
    extents, env = world
    flat = Tree("+", (Tree("*", (Tree("sym", ("i",)), tree)), Tree("sym", ("j",))))
    for op in ("//", "%"):
        whole = Tree(op, (flat, tree))
        assert D.evaluate(whole.dim(extents), env) == meaning(whole, env)


@COMMON
@given(trees(), worlds())
def test_text_reads_back(tree: Tree, world: tuple[dict[str, Any], dict[str, int]]) -> None:
    extents, env = world
    x = tree.dim(extents)
    want = meaning(tree, env)
    again = D.parse(str(x))
    assert D.evaluate(again, env) == want
    assert D.evaluate(D.parse(str(again)), env) == want


@COMMON
@given(trees(), worlds(), st.sampled_from(LOOPS + SIZES))
def test_linear(tree: Tree, world: tuple[dict[str, Any], dict[str, int]], name: str) -> None:
    extents, env = world
    x = tree.dim(extents)
    meaning(tree, env)
    found = D.linear(x, name)
    if found is not None:
        coefficient, rest = found
        assert name not in D.symbols(coefficient) | D.symbols(rest)
        assert D.evaluate(coefficient, env) * env[name] + D.evaluate(rest, env) == D.evaluate(x, env)
    elif name not in D.symbols(x):
        pytest.fail(f"{x} is linear in {name}: it does not mention it")


@COMMON
@given(trees(leaves=6), trees(leaves=6), st.integers(1, 7), worlds())
def test_recombine(a: Tree, b: Tree, n: int, world: tuple[dict[str, Any], dict[str, int]]) -> None:
    """What a split index times strides adds up to."""
    extents, env = world
    x, c = a.dim(extents), b.dim(extents)
    meaning(a, env), meaning(b, env)
    mixed = D.floordiv(x, n) * n * c + D.mod(x, n) * c + c * c
    assert D.evaluate(D.recombine(mixed), env) == D.evaluate(mixed, env)
    square = D.mod(x, n) * D.mod(x, n) + D.floordiv(x, n) * n
    assert D.evaluate(D.recombine(square), env) == D.evaluate(square, env)


@COMMON
@given(trees(), trees(leaves=5), worlds(), st.sampled_from(LOOPS + SIZES))
def test_substitute(tree: Tree, by: Tree, world: tuple[dict[str, Any], dict[str, int]], name: str) -> None:
    extents, env = world
    value = meaning(by, env)
    assume(value >= 0)
    assume(name not in extents and not any(name in D.symbols(e) for e in extents.values()))
    after = {**env, name: value}
    want = meaning(tree, after)
    assert D.evaluate(D.substitute(tree.dim(extents), {name: by.dim(extents)}), env) == want


@COMMON
@given(trees(leaves=6), trees(leaves=4), worlds())
def test_what_is_known_is_true(a: Tree, b: Tree, world: tuple[dict[str, Any], dict[str, int]]) -> None:
    extents, env = world
    x, y = a.dim(extents), b.dim(extents)
    va, vb = meaning(a, env), meaning(b, env)
    if D.nonnegative(x):
        assert va >= 0
    low, high = D.bounds(x)
    assert (low is None or low <= va) and (high is None or va <= high)
    top = D.upper(x)
    if top is not None:
        assert va <= D.evaluate(top, env)
    if D.in_range(x, y):
        assert 0 <= va < vb
    known = D.known_equal(x, y)
    if known is not None:
        assert known == (va == vb)
    larger = D.larger_of(x, y)
    if larger is not None:
        assert D.evaluate(larger, env) == max(va, vb)


def test_ranges_decide() -> None:
    """What a range of a size makes known."""
    s, t = D.symbol("s", low=2, high=512), D.symbol("t", low=3)
    assert D.maximum(s, 1) is s and D.minimum(s, 512) is s
    assert D.known_equal(s, 1) is False and D.known_equal(s, 600) is False and D.known_equal(s, 5) is None
    assert D.if_equal(s, 1, 0, 1) == 1
    assert D.nonnegative(t - 3) and not D.nonnegative(t - 4)
    assert D.nonnegative(s * t - s * 3)
    assert D.floordiv(s, 513) == 0 and D.floordiv(s + 1022, 1024) == D.floordiv(s + 1022, 1024)
    assert D.floordiv(D.symbol("u", low=8, high=11), 4) == 2
    assert D.mod(s, 600) == s
    assert D.bounds(D.floordiv(s, 8)) == (0, 64) and D.bounds(D.mod(t, 7)) == (0, 6) and D.bounds(s - t) == (None, 509)


def test_divisors_decide() -> None:
    """Multiples are never equal to what their divisor doesn't divide."""
    k, n = D.symbol("k"), D.symbol("n")
    assert D.known_equal(k * 8, 12) is False and D.known_equal(k * 8 + n * 4, 2) is False
    assert D.known_equal(k * 8, 16) is None and D.known_equal(k * 8 + n, 12) is None


def test_divisions_of_divisions() -> None:
    """Each stride of 2 halves a size: one division is left."""
    h: D.DimLike = D.symbol("h")
    for _ in range(5):
        h = D.floordiv(h + 1, 2)
    assert h == D.floordiv(D.symbol("h") + 31, 32)
    assert D.substitute(h, {"h": D.symbol("k") * 32}) == D.symbol("k")


# --- the simplifications that the compiler counts on ------------------------------------------------------------------
def test_polynomials_are_canonical() -> None:
    a, b = D.symbol("a"), D.symbol("b")
    assert (a + b) * 2 == 2 * b + a * 2
    assert (a + b) * (a - b) == a * a - b * b
    assert a - a == 0 and isinstance(a - a, int)
    assert hash((a + 1) * b) == hash(b + b * a)
    assert str(a * 2 + 3 - b) == "a*2 - b + 3"


def test_flat_indices_split_again() -> None:
    n, h, w = D.symbol("n"), D.symbol("h"), D.symbol("w")
    i, y, x = D.symbol("i", n), D.symbol("y", h), D.symbol("x", w)
    flat = (i * h + y) * w + x
    assert D.mod(flat, w) == x
    assert D.mod(D.floordiv(flat, w), h) == y
    assert D.floordiv(D.floordiv(flat, w), h) == i
    assert D.floordiv(flat, h * w) == i
    j = D.symbol("j", 58)
    assert (i * 58 + j) // 58 == i and (i * 58 + j) % 58 == j
    k = D.symbol("k", h * w)
    assert D.recombine((k // w) * w + k % w) == k


@pytest.mark.parametrize("pad, kernel", [(1, 3), (2, 5), (0, 1), (3, 7)])
def test_same_convolutions_keep_sizes(pad: int, kernel: int) -> None:
    """A stride of 2 gives the same size whatever the (odd) kernel: both sides of a sum after it must be known equal."""
    h = D.symbol("h")
    size = D.floordiv(h + 2 * pad - kernel, 2) + 1
    assert D.known_equal(size, D.floordiv(h + 1, 2)) is True
    assert D.floordiv(h + 2 * pad - kernel, 1) + 1 == h


def test_known_equal() -> None:
    a, b = D.symbol("a"), D.symbol("b")
    assert D.known_equal(a + 1, a) is False
    assert D.known_equal(a, 0) is None
    assert D.known_equal(a, b) is None
    assert D.known_equal(3, 3) is True and D.known_equal(3, 4) is False


def test_truth_is_refused() -> None:
    with pytest.raises(TypeError, match="not known at compile time"):
        bool(D.symbol("a") + 1)


@pytest.mark.parametrize("text", ["a +", "open('x')", "a.b", "a ** 2", "[1]", "lambda: 1", "__import__('os')", "f(a)"])
def test_parse_refuses_other_text(text: str) -> None:
    with pytest.raises(ModelError, match="not an expression over sizes"):
        D.parse(text)


def test_wrong_number_of_arguments() -> None:
    with pytest.raises(ModelError):
        D.parse("max(a)")


def test_missing_symbol() -> None:
    with pytest.raises(KeyError):
        D.evaluate(D.symbol("a") + 1, {})


def test_remainders_have_the_sign_of_the_divisor() -> None:
    n = D.symbol("n")
    assert D.nonnegative(D.mod(n, 3)) and not D.nonnegative(D.mod(n, -3))
    inner = D.mod(n, -3)
    for value in range(7):
        assert D.evaluate(D.mod(inner, 8), {"n": value}) == (value % -3) % 8
