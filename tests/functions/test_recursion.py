"""Functions that call themselves, each other, and functions that are values, against plain Python."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from plain import check

import hasten
from hasten import Tensor

Row = Tensor((2,))


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@hasten.function
def power(x: Row, n: int) -> Row:
    if n == 0:
        return np.ones(2, np.float32)
    half = power(x, n // 2)
    if n % 2 == 1:
        return half * half * x
    return half * half


@hasten.function
def even(n: int) -> bool:
    if n == 0:
        return True
    return odd(n - 1)


@hasten.function
def odd(n: int) -> bool:
    if n == 0:
        return False
    return even(n - 1)


@hasten.function
def countdown(n: int, x: Row) -> Row:
    if n <= 0:
        return x
    return countdown(n - 1, x * 0.5 + n)


@hasten.function
def repeat(f: Callable, n: int, x: Row) -> Row:
    if n == 0:
        return x
    return repeat(f, n - 1, f(x))


def test_recursion() -> None:
    check(power, *[(row(1.5, -0.5), n) for n in (0, 1, 2, 7, 13)])


def test_mutual_recursion() -> None:
    check(even, *[(n,) for n in (0, 1, 2, 7, 40)])


def test_tail_calls_take_no_memory() -> None:
    compiled = check(countdown, *[(n, row(1, 2)) for n in (0, 1, 5)])
    assert "tail" in compiled.program()
    assert np.isfinite(compiled(300_000, row(1, 2))).all()


def test_mutual_tail_calls_take_no_memory() -> None:
    compiled = hasten.compile(even)
    assert compiled(200_000) and not compiled(200_001)


def test_functions_that_are_given() -> None:
    @hasten.function
    def f(x: Row, scale: float, n: int) -> Row:
        shift = x * 0.25
        return repeat(lambda y: y * scale + shift, n, x) + repeat(lambda y: y + 1, n, x)

    check(f, *[(row(1, 2), 0.5, n) for n in (0, 1, 4)])


def test_closures_see_what_they_captured() -> None:
    @hasten.function
    def f(x: Row, k: float) -> Row:
        def scaled(y, by):
            return y * by + k

        def twice(g):
            return lambda y: g(g(y))

        z = twice(lambda y: scaled(y, 2.0))(x)
        return twice(twice(lambda y: y + z))(x)

    check(f, (row(1, 2), 0.5))


def test_recursion_inside_of_a_function() -> None:
    @hasten.function
    def f(x: Row, n: int) -> Row:
        step = x * 0.5

        def go(y: Row, k: int) -> Row:
            if k == 0:
                return y
            return go(y + step, k - 1)

        return go(x, n)

    check(f, *[(row(1, 2), n) for n in (0, 1, 6)])


def test_two_functions_given_make_two_instances() -> None:
    @hasten.function
    def f(x: Row, n: int) -> Row:
        return repeat(lambda y: y * 2, n, x) - repeat(lambda y: y * 3, n, x)

    text = check(f, (row(1, 2), 3)).program()
    assert text.count("function ") == 2


def test_sizes_of_arguments_and_results() -> None:
    @hasten.function
    def halves(x: Tensor(("n",))) -> Tensor(("m",)):
        if x.shape[0] <= 1:
            return x
        middle = x.shape[0] // 2
        return np.concatenate([halves(x[middle:]), halves(x[:middle])], 0)

    check(halves, *[(np.arange(n, dtype=np.float32),) for n in (1, 2, 5, 16)])


def test_sizes_that_stay() -> None:
    @hasten.function
    def smooth(x: Tensor(("n",)), k: int) -> Tensor(("n",)):
        if k == 0:
            return x
        return smooth(np.concatenate([x[1:], x[:1]], 0) * 0.5 + x, k - 1)

    check(smooth, *[(np.arange(n, dtype=np.float32), k) for n in (1, 4) for k in (0, 3)])


# --- functions that only the run knows ----------------------------------------------------------------------------------------
Step = Callable[[Row], Row]
Plan = hasten.adt("Plan", Done=[], Do=[Step, "Plan"])


@hasten.function
def plan(x: Row, n: int) -> Plan:
    if n == 0:
        return Plan.Done()
    if n % 2 == 0:
        return Plan.Do(lambda y: y * x + n, plan(x, n - 1))
    return Plan.Do(shrink, plan(x + 1, n - 1))


@hasten.function
def shrink(y):
    return y * 0.5


@hasten.function
def done(p: Plan, y: Row) -> Row:
    match p:
        case Plan.Done():
            return y
        case Plan.Do(step, rest):
            return done(rest, step(y))


def test_functions_in_values() -> None:
    @hasten.function
    def f(x: Row, n: int) -> Row:
        return done(plan(x, n), x)

    check(f, *[(row(1, 0.5), n) for n in (0, 1, 2, 5)])


def test_functions_that_a_condition_chooses() -> None:
    @hasten.function
    def f(x: Row, n: int) -> Row:
        scale = x * 0.25
        if n > 2:
            g: Step = lambda y: y + scale  # noqa: E731
        else:
            g: Step = shrink  # noqa: F811
        total = x
        for i in range(n):
            total = total + g(g(x)) * i
        steps: list[Step] = [g, shrink, lambda y: y - n]
        for s in steps:
            total = s(total)
        return total

    check(f, *[(row(1, 2), n) for n in (0, 2, 3, 5)])


def test_functions_given_by_functions_and_sizes_that_they_captured() -> None:
    @hasten.function
    def chain(n: int, x: Tensor(("k",))) -> Callable[[Tensor(("m",))], Tensor(("l",))]:
        if n == 0:
            return lambda y: y
        rest = chain(n - 1, x * 2)
        return lambda y: np.concatenate([rest(y), x], 0)

    @hasten.function
    def f(x: Tensor(("k",)), y: Tensor(("m",)), n: int) -> Tensor(("l",)):
        return chain(n, x)(y)

    check(f, *[(np.arange(k, dtype=np.float32), np.ones(m, np.float32), n) for k in (1, 3) for m in (1, 4) for n in (0, 1, 3)])
