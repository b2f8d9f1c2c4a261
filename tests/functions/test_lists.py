"""Lists whose length the run knows, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from plain import check, same

import hasten
from hasten import Tensor

Row = Tensor((2,))
Rose = hasten.adt("Rose", Node=[Row, list["Rose"]])


def rows(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    return list(rng.standard_normal((n, 2)).astype("f4"))


def test_loops_over_lists(rng: np.random.Generator) -> None:
    @hasten.function
    def f(xs: list[Row], stop: float) -> tuple[Row, int]:
        total, seen = np.zeros(2, np.float32), 0
        for x in xs:
            if x[0] > stop:
                break
            if x[1] < -0.5:
                continue
            total = total * 0.5 + x
            seen += 1
        return total, seen

    check(f, *[(rows(rng, n), stop) for n in (0, 1, 2, 9) for stop in (0.7, 9.0)])


def test_lists_are_made(rng: np.random.Generator) -> None:
    @hasten.function
    def f(xs: list[Row], n: int) -> tuple[list[Row], list[int], list[Row]]:
        found: list[Row] = []
        counts: list[int] = [7]
        for i in range(n):
            if i % 2 == 0:
                found = found + [xs[0] * i]
            counts = counts + [i, len(found)]
        return found + xs, counts, [xs[-1]] + xs

    check(f, *[(rows(rng, k), n) for k in (1, 3) for n in (0, 1, 5)])


def test_items(rng: np.random.Generator) -> None:
    @hasten.function
    def f(xs: list[Row], i: int) -> tuple[Row, Row, Row, int, bool]:
        return xs[i], xs[-1], xs[1], len(xs), bool(i) if xs else False

    compiled = check(f, *[(rows(rng, 4), i) for i in (-4, -1, 0, 1, 3)])
    for i in (-5, 4, 100):
        with pytest.raises(hasten.ExecutionError, match="out of range"):
            compiled(rows(rng, 4), i)
    with pytest.raises(hasten.ExecutionError, match="out of range"):
        compiled([], 0)


def test_comprehensions(rng: np.random.Generator) -> None:
    @hasten.function
    def f(xs: list[Row], k: float) -> tuple[list[Row], list[float], list[list[Row]]]:
        return [x * k for x in xs if x[0] > 0 and x[1] < 1], [x[0].item() for x in xs], [[x, x + 1] for x in xs] if False else [xs for x in xs]

    check(f, *[(rows(rng, n), 0.5) for n in (0, 1, 6)])


def test_lists_in_values(rng: np.random.Generator) -> None:
    @hasten.function
    def total(t: Rose) -> Row:
        match t:
            case Rose.Node(x, parts):
                for p in parts:
                    x = x * 0.5 + total(p)
                return x

    @hasten.function
    def mirror(t: Rose) -> Rose:
        match t:
            case Rose.Node(x, parts):
                turned: list[Rose] = []
                for p in parts:
                    turned = [mirror(p)] + turned
                return Rose.Node(x, turned)

    def tree(depth: int) -> Rose:
        return Rose.Node(rows(rng, 1)[0], [tree(depth - 1) for _ in range(int(rng.integers(0, 4)))] if depth else [])

    trees = [(tree(d),) for d in (0, 1, 2, 3)]
    check(total, *trees)
    check(mirror, *trees)


def test_long_lists(rng: np.random.Generator) -> None:
    @hasten.function
    def f(xs: list[Row]) -> tuple[Row, list[Row]]:
        total = np.zeros(2, np.float32)
        for x in xs:
            total = total * 0.5 + x
        return total, [x + 1 for x in xs]

    xs = rows(rng, 5000)
    got, longer = hasten.compile(f)(xs)
    want = np.zeros(2, np.float32)
    for x in xs:
        want = want * np.float32(0.5) + x
    same(got, want)
    same(longer, [x + 1 for x in xs])
