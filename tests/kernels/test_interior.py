"""The interior of a nest, against counting: in its ranges every guard and limit holds, and outside of them one does not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hasten.base import dims as D
from hasten.kernels import expr as E
from hasten.kernels.interior import interior
from hasten.kernels.problem import NestProblem, StageProblem, StoreProblem


def window(n: D.DimLike, out: D.DimLike, kernel: int, stride: int, dilation: int, pad: int) -> NestProblem:
    """The sums of windows along one axis, of rows of 8."""
    o, r, c = D.symbol("o", out), D.symbol("r", kernel), D.symbol("c", 8)
    at = o * stride + r * dilation - pad
    guard = ~(E.index(at) < 0) & (E.index(at) < E.index(n))
    load = E.load("x", [at * 8 + c], "float32", guard=guard)
    return NestProblem((("o", out), ("c", 8)), (("r", kernel),), (StageProblem("s", "sum", load),),
                       (StoreProblem(E.param("s", "float32"), "float32", "y", o * 8 + c),))  # fmt: skip


def rounds(p: NestProblem, name: str, env: dict[str, int]) -> range:
    """The rounds of a loop that are inside."""
    found = interior(p)
    if found is None:
        return range(0)
    low, high = found.ranges.get(name, (0, dict(p.outer)[name]))
    return range(D.evaluate(low, env), D.evaluate(high, env))


@pytest.mark.parametrize("known", [True, False])
def test_windows(known: bool) -> None:
    for kernel, stride, dilation, pad in itertools.product((1, 2, 3, 5), (1, 2, 3), (1, 2), (0, 1, 2, 4)):
        for n in (1, 4, 9, 17):
            out = (n + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1
            if out < 1:
                continue
            sizes = (n, out) if known else (D.symbol("n"), D.symbol("out"))
            p = window(*sizes, kernel, stride, dilation, pad)
            taps = [[o * stride + r * dilation - pad for r in range(kernel)] for o in range(out)]
            whole = [o for o, at in enumerate(taps) if min(at) >= 0 and max(at) < n]
            got = [o for o in rounds(p, "o", {"n": n, "out": out}) if o < out]
            assert got == whole or (known and whole == list(range(out)) and interior(p) is None), (n, kernel, stride, dilation, pad)


def test_nothing_is_left_of_the_guards() -> None:
    found = interior(window(D.symbol("n"), D.symbol("out"), 3, 2, 1, 1))
    assert found is not None and list(found.ranges) == ["o"]
    (load,) = (n for n in E.walk(found.problem.stages[0].expr) if n.kind == "load")
    assert load.guard is None and load.args == ()


@pytest.mark.parametrize("numerator, denominator", [((2, -1), 4), ((1, 0), 3), ((4, 1), 2), ((3, -2), 1)])
def test_limits(numerator: tuple[int, int], denominator: int) -> None:
    """Positions limited to the input, as resizing has them, and the one behind."""
    n, out = D.symbol("n"), D.symbol("out")
    o = D.symbol("o", out)
    free = [D.floordiv(o * numerator[0] + numerator[1], denominator) + k for k in (0, 1)]
    taps = [D.minimum(D.maximum(at, 0), n - 1) for at in free]
    value = E.load("x", [taps[0]], "float32") + E.load("x", [taps[1]], "float32")
    p = NestProblem((("o", out),), stores=(StoreProblem(value, "float32", "y", o),))
    found = interior(p)
    assert found is not None
    loads = [x.index[0] for x in E.walk(found.problem.stores[0].value) if x.kind == "load"]
    assert set(loads) == set(free)
    for size, count in ((1, 5), (4, 16), (9, 7)):
        env = {"n": size, "out": count}
        holds = [i for i in range(count) if all(0 <= D.evaluate(at, {**env, "o": i}) < size for at in free)]
        assert [i for i in rounds(p, "o", env) if i < count] == holds


def test_counts_of_whole_windows() -> None:
    """The number of taps inside of the image is the window's size in the interior, not what it is at the edge."""
    n, out = D.symbol("n"), D.symbol("out")
    o = D.symbol("o", out)
    count = D.minimum(n - o + 1, 3) - D.maximum(1 - o, 0)
    p = NestProblem((("o", out),), stores=(StoreProblem(E.index(count), "int64", "y", o),))
    found = interior(p)
    assert found is not None and found.problem.stores[0].value.index == (3,)
    assert list(rounds(p, "o", {"n": 10, "out": 10})) == list(range(1, 9))


def test_computed_positions_are_left_alone() -> None:
    i, x = D.symbol("i", 9), D.symbol("x", 9)
    load = E.load("x", [x], "float32", binds=(("x", E.cast(E.load("at", [i], "int32"), "int64")),), guard=E.index(x) < 5)
    assert interior(NestProblem((("i", 9),), stores=(StoreProblem(load, "float32", "y", i),))) is None


def test_guards_that_exclude_each_other() -> None:
    """Of a row that is read from one of two places, the interior is at most that of one of them."""
    i = D.symbol("i", 12)
    low = E.index(i) < 5
    value = E.select(low, E.load("a", [i], "float32", guard=low), E.load("b", [i - 5], "float32", guard=~low))
    p = NestProblem((("i", 12),), stores=(StoreProblem(value, "float32", "y", i),))
    inside = set(rounds(p, "i", {}))
    assert inside <= set(range(5)) or inside <= set(range(5, 12))
    np.testing.assert_equal(len(inside) > 0, interior(p) is not None)
