"""Statements of the language against plain Python."""

from __future__ import annotations

import numpy as np
from plain import check

import hasten
from hasten import Tensor

Vector = Tensor(("n",))
Row = Tensor((3,))


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_if_joins_what_both_sides_assign() -> None:
    @hasten.function
    def f(x: Row, k: int) -> tuple[Row, int, float]:
        y, scale = x, 1.0
        if k > 2:
            y = x * 2
            k = k - 1
            scale = 0.5
        elif k == 1:
            y = -x
        else:
            k = k * 10
        return y, k, scale

    x = row(1, -2, 3)
    check(f, *[(x, k) for k in (0, 1, 2, 3, 7)])


def test_early_returns() -> None:
    @hasten.function
    def f(x: Row, k: int) -> Row:
        if k < 0:
            return x
        y = x + 1
        if k > 5:
            if k > 10:
                return y * 3
            y = y * 2
        elif k == 2:
            return y - 7
        return y + k

    x = row(1, 2, 3)
    check(f, *[(x, k) for k in (-1, 0, 2, 6, 11)])


def test_conditions_that_are_known_leave_no_trace() -> None:
    deep = False

    @hasten.function
    def f(x: Row) -> Row:
        if deep:
            return nothing_of_this_name(x)  # noqa: F821
        if x.shape[0] == 3 and x.ndim == 1:
            return x
        return x * 2

    assert "if" not in check(f, (row(1, 2, 3),)).program()


def test_while_with_break_and_continue() -> None:
    @hasten.function
    def f(x: Row, k: int) -> tuple[Row, int]:
        rounds = 0
        while k > 0:
            k = k - 1
            if k % 3 == 1:
                continue
            rounds += 1
            x = x * 0.5 + k
            if rounds > 4:
                break
        return x, rounds

    check(f, *[(row(1, 2, 3), k) for k in (0, 1, 2, 5, 20)])


def test_while_true() -> None:
    @hasten.function
    def collatz(n: int) -> int:
        steps = 0
        while True:
            if n == 1:
                break
            if n % 2 == 0:
                n = n // 2
            else:
                n = 3 * n + 1
            steps += 1
        return steps

    check(collatz, *[(n,) for n in (1, 2, 3, 7, 27)])


def test_ranges() -> None:
    @hasten.function
    def f(a: int, b: int) -> tuple[int, int, int, int]:
        up = down = some = fixed = 0
        for i in range(a, b):
            up = up * 3 + i
        for i in range(b, a, -2):
            down = down * 3 + i
        for i in range(a, b, 3):
            some = some * 3 + i
        for i in range(4):
            fixed += i * i
        return up, down, some, fixed

    check(f, (0, 0), (0, 5), (-3, 4), (4, -3), (2, 3), (0, 7))


def test_nested_loops_and_swaps() -> None:
    @hasten.function
    def f(x: Row, y: Row, n: int) -> tuple[Row, Row, int]:
        count = 0
        for i in range(n):
            for j in range(i):
                if (i + j) % 2 == 0:
                    continue
                x, y = y + 1, x
                count += 1
            x = x * 0.5
        return x, y, count

    check(f, *[(row(1, 2, 3), row(4, 5, 6), n) for n in (0, 1, 2, 5)])


def test_rows_of_a_tensor() -> None:
    @hasten.function
    def f(x: Tensor(("n", 3)), stop: float) -> tuple[Row, int]:
        total = np.zeros(3, np.float32)
        seen = 0
        for r in x:
            if r[0] > stop:
                break
            total = total + r
            seen += 1
        return total, seen

    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    check(f, (x, 100.0), (x, 7.0), (x, -1.0), (x[:0], 1.0))


def test_loops_over_what_is_known_are_unrolled() -> None:
    layers = [(np.full((3,), 0.5, np.float32), 1.0), (np.full((3,), 2.0, np.float32), -1.0)]

    @hasten.function
    def f(x: Row) -> Row:
        for k, (scale, shift) in enumerate(layers):
            x = x * scale + shift
            if k == 7:
                break
        parts = [x * i for i in range(3) if i != 1]
        return sum(parts)

    assert "while" not in check(f, (row(1, 2, 3),)).program()


def test_choice_and_logic() -> None:
    @hasten.function
    def f(x: Vector, i: int) -> tuple[float, bool, bool, int]:
        inside = 0 <= i < len(x)
        value = x[i].item() if inside else -1.0
        return value, inside and x[i] > 2, not inside or x[i] == 1, (1 if i > 3 else 2) if inside else 3

    x = row(1, 2, 3, 4, 5)
    check(f, *[(x, i) for i in (-7, -1, 0, 1, 4, 5, 100)])


def test_right_side_of_and_is_computed_where_it_is_asked_only() -> None:
    @hasten.function
    def f(x: Vector, i: int) -> int:
        while i < len(x) and x[i] > 0:
            i += 1
        return i

    check(f, (row(1, 2, 3), 0), (row(1, -2, 3), 0), (row(), 0), (row(1, 2), 2))


def test_starred_nested_and_chained_targets() -> None:
    @hasten.function
    def f(x: Row) -> tuple[Row, Row, Row]:
        pair = (x, (x * 2, x + 1))
        a, (b, c) = pair
        d = e = b - a
        both = [*pair[1], d]
        return both[0] + both[-1], c, e

    check(f, (row(1, 2, 3),))


def test_sizes_that_change_from_round_to_round() -> None:
    @hasten.function
    def f(x: Tensor((1, 2)), n: int) -> Tensor(("m", 2)):
        y = x
        for i in range(n):
            y = np.concatenate([y, x * i], 0)
        return y

    check(f, *[(row(1, 2).reshape(1, 2), n) for n in (0, 1, 5)])
