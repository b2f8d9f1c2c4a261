"""Algebraic data types: made, taken apart, carried, given in and out, against plain Python."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from plain import check, plain, same

import hasten
from hasten import Tensor
from hasten.codegen import isa

Row = Tensor((2,))
Tree = hasten.adt("Tree", Leaf=[Row], Node=["Tree", "Tree"])
List = hasten.adt("List", Nil=[], Cons=[Row, "List"])
Number = hasten.adt("Number", Int=[int], Real=[float], Pair=["Number", "Number"], Flag=[bool])
Words = hasten.adt("Words", End=[], Word=[Tensor(("n",)), Tensor(("n", "m")), "Words"])
Even = hasten.adt("Even", Stop=[], More=[Row, lambda: Odd])
Odd = hasten.adt("Odd", Go=[Row, Even])


def tree(rng: np.random.Generator, n: int) -> Tree:
    """A random tree of n leaves."""
    if n == 1:
        return Tree.Leaf(rng.standard_normal(2).astype("f4"))
    k = int(rng.integers(1, n))
    return Tree.Node(tree(rng, k), tree(rng, n - k))


def listed(rows: np.ndarray) -> List:
    found = List.Nil()
    for r in rows[::-1]:
        found = List.Cons(np.ascontiguousarray(r), found)
    return found


@hasten.function
def total(t: Tree) -> Row:
    match t:
        case Tree.Leaf(x):
            return x * 2
        case Tree.Node(left, right):
            return total(left) - 0.5 * total(right)


@hasten.function
def mapped(f: Callable, items: List) -> List:
    match items:
        case List.Nil():
            return items
        case List.Cons(head, rest):
            return List.Cons(f(head), mapped(f, rest))


@hasten.function
def folded(f: Callable, start: Row, items: List) -> Row:
    match items:
        case List.Nil():
            return start
        case List.Cons(head, rest):
            return folded(f, f(start, head), rest)


@hasten.function
def reversed_list(items: List, done: List) -> List:
    match items:
        case List.Cons(head, rest):
            return reversed_list(rest, List.Cons(head, done))
        case _:
            return done


@pytest.mark.parametrize("level", [n for n in ("portable", "avx2", "avx512") if n in isa.available()])
def test_random_trees(level: str, rng: np.random.Generator) -> None:
    for threads in (1, 3):
        check(total, *[(tree(rng, n),) for n in (1, 2, 3, 7, 30)], isa=level, threads=threads)


def test_fold_and_map(rng: np.random.Generator) -> None:
    @hasten.function
    def f(items: List, scale: float) -> tuple[Row, List]:
        moved = mapped(lambda x: x * scale + 1, items)
        return folded(lambda a, x: a * 0.5 + x, np.zeros(2, np.float32), moved), moved

    check(f, *[(listed(rng.standard_normal((n, 2)).astype("f4")), 0.5) for n in (0, 1, 5)])


def test_nested_patterns_guards_and_names(rng: np.random.Generator) -> None:
    @hasten.function
    def f(t: Tree, k: int) -> tuple[Row, int]:
        match t:
            case Tree.Node(Tree.Leaf(a), Tree.Leaf(b)) if k > 1:
                return a - b, 0
            case Tree.Node(Tree.Leaf(a), other) if a[0] > 0:
                return a + total(other), 1
            case Tree.Node(Tree.Node(Tree.Leaf(a), _) as inner, Tree.Node(b, _)):
                return a * total(inner) + total(b), 2
            case Tree.Node(left, right):
                return total(left) * total(right), 3
            case whole:
                return total(whole), 4

    cases = [tree(rng, n) for n in (1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 6, 7)]
    check(f, *[(t, k) for t in cases for k in (1, 2)])


def test_a_match_that_goes_on() -> None:
    @hasten.function
    def f(x: Number, k: int) -> tuple[float, int]:
        y = 0.5
        match x:
            case Number.Int(n):
                y = n * 1.5
            case Number.Real(r):
                y = r
                k += 1
            case Number.Flag(True_) if True_:
                k = 100
            case _:
                pass
        return y, k

    check(f, *[(x, 3) for x in (Number.Int(-4), Number.Real(2.5), Number.Flag(True), Number.Flag(False), Number.Pair(Number.Int(1), Number.Int(2)))])


def test_numbers_in_values() -> None:
    @hasten.function
    def twice(a: Number) -> Number:
        match a:
            case Number.Int(x):
                return Number.Int(x * 2)
            case Number.Real(x):
                return Number.Real(x + 0.5)
            case Number.Flag(x):
                return Number.Flag(not x)
            case Number.Pair(x, y):
                return Number.Pair(twice(y), twice(x))

    pair = Number.Pair(Number.Pair(Number.Int(-(2**40)), Number.Real(1.25)), Number.Flag(True))
    check(twice, (pair,), (Number.Int(3),))


def test_sizes_in_values(rng: np.random.Generator) -> None:
    @hasten.function
    def longest(w: Words, best: Tensor(("k",))) -> tuple[Tensor(("l",)), int]:
        match w:
            case Words.End():
                return best, best.shape[0] * 2
            case Words.Word(x, y, rest):
                product = x @ y
                if product.shape[0] > best.shape[0]:
                    return longest(rest, product)
                return longest(rest, best)

    def words(*sizes: tuple[int, int]) -> Words:
        found = Words.End()
        for n, m in sizes:
            found = Words.Word(rng.standard_normal(n).astype("f4"), rng.standard_normal((n, m)).astype("f4"), found)
        return found

    start = np.ones(2, np.float32)
    check(longest, (words(), start), (words((3, 5)), start), (words((2, 9), (4, 1), (3, 4)), start))


def test_types_that_mention_each_other(rng: np.random.Generator) -> None:
    @hasten.function
    def even(e: Even) -> Row:
        match e:
            case Even.Stop():
                return np.zeros(2, np.float32)
            case Even.More(x, o):
                return x + odd(o)

    @hasten.function
    def odd(o: Odd) -> Row:
        match o:
            case Odd.Go(x, e):
                return x * even(e)

    r = [rng.standard_normal(2).astype("f4") for _ in range(4)]
    check(even, (Even.Stop(),), (Even.More(r[0], Odd.Go(r[1], Even.More(r[2], Odd.Go(r[3], Even.Stop())))),))


def test_values_in_loops_and_choices(rng: np.random.Generator) -> None:
    @hasten.function
    def f(x: Row, n: int) -> tuple[List, List]:
        a = List.Nil()
        b = List.Cons(x, a)
        for i in range(n):
            if i % 3 == 0:
                a = List.Cons(x * i, a)
            else:
                a, b = b, List.Cons(x + i, a)
        return a, b

    check(f, *[(rng.standard_normal(2).astype("f4"), n) for n in (0, 1, 2, 7)])


def test_values_that_carried_tensors_are_packed_into() -> None:
    @hasten.function
    def f(x: Row, n: int) -> List:
        kept = List.Nil()
        for i in range(n):
            kept = List.Cons(x, kept)
            x = x * 2
            if i == 3:
                break
        return kept

    check(f, *[(np.ones(2, np.float32), n) for n in (0, 1, 3, 9)])


def test_values_that_are_known() -> None:
    empty = List.Nil()
    one = List.Cons(np.ones(2, np.float32), empty)

    @hasten.function
    def f(x: Row) -> List:
        match one:
            case List.Cons(y, rest):
                return List.Cons(x + y, rest)
            case List.Nil():
                return empty

    assert "tag" not in check(f, (np.ones(2, np.float32),)).program()


def test_a_part_that_is_shared(rng: np.random.Generator) -> None:
    leaf = tree(rng, 3)
    shared = Tree.Node(leaf, Tree.Node(leaf, leaf))

    @hasten.function
    def double(t: Tree) -> tuple[Tree, Tree, Tree]:
        twice = Tree.Node(t, Tree.Node(t, t))
        return twice, t, twice

    check(double, (leaf,), (shared,))


def test_deep_lists(rng: np.random.Generator) -> None:
    @hasten.function
    def f(items: List) -> tuple[Row, List]:
        there = reversed_list(items, List.Nil())
        return folded(lambda a, x: a * 0.5 + x, np.zeros(2, np.float32), there), mapped(lambda x: x + 1, there)

    rows = rng.standard_normal((5000, 2)).astype("f4")
    got, values = hasten.compile(f)(listed(rows))
    want = np.zeros(2, np.float32)
    for r in rows[::-1]:
        want = want * np.float32(0.5) + r
    same(got, want)
    same(values, listed(rows[::-1] + 1))


def test_right_linear_trees(rng: np.random.Generator) -> None:
    @hasten.function
    def depth(t: Tree) -> int:
        match t:
            case Tree.Leaf(_):
                return 1
            case Tree.Node(_, right):
                return depth(right) + 1

    leaf = tree(rng, 1)
    deep = leaf
    for _ in range(10_000):
        deep = Tree.Node(leaf, deep)
    assert hasten.compile(depth)(deep) == 10_001


def test_recursion_too_deep_says_so() -> None:
    @hasten.function
    def forever(n: int) -> int:
        return forever(n + 1) + 1

    with pytest.raises(hasten.ResourceLimit, match="forever"):
        hasten.compile(forever)(0)


def test_save_and_load(tmp_path: object, rng: np.random.Generator) -> None:
    t = tree(rng, 9)
    compiled = hasten.compile(total)
    compiled.save(f"{tmp_path}/total.hasten")
    loaded = hasten.load(f"{tmp_path}/total.hasten")
    same(loaded(t), plain(total)(t))
    assert loaded.program() == compiled.program()


@pytest.mark.slow
def test_many_random_trees(rng: np.random.Generator) -> None:
    compiled, reference = hasten.compile(total), plain(total)
    for n in rng.integers(1, 200, 300):
        t = tree(rng, int(n))
        same(compiled(t), reference(t), 1e-4)


def test_sizes_of_inputs_are_promised() -> None:
    @hasten.function
    def f(x: Tensor(("n", 3)), y: Tensor(("n",))) -> Tensor(("n",)):
        return x.sum(axis=1) + y

    x, y = np.ones((4, 3), np.float32), np.zeros(4, np.float32)
    compiled = hasten.compile(f, dims={"n": 4})
    same(compiled(x, y), np.full(4, 3, np.float32))
    with pytest.raises(hasten.ShapeMismatch):
        compiled(x[:2], y[:2])
    with pytest.raises(hasten.InputError, match="'m'"):
        hasten.compile(f, dims={"m": 4})
