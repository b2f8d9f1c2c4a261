"""Values of a loop that grow: what a round has computed goes to the next round without a copy, where nothing else needs it."""

from __future__ import annotations

import numpy as np

import hasten
from hasten import Tensor

Rows = Tensor(("n", 4))


@hasten.function
def alone(x: Rows, rounds: int) -> Tensor(("m", 4)):
    total = x
    for k in range(rounds):
        total = np.concatenate([total, x * k], axis=0)
    return total


@hasten.function
def several(x: Rows, rounds: int) -> tuple[Tensor(("a", 4)), Tensor(("b", 4)), Tensor(("c", 4)), Tensor((1, 4))]:
    """Two names of one tensor, one that was there before the loop, and one that lies inside of another."""
    y = x + 1
    first, second, third, last = x, x, x[:1], x[:1]
    for k in range(rounds):
        longer = np.concatenate([first, x * k], axis=0)
        first, second, third, last = longer, longer, y, longer[-1:]
    return first, second, third, last


def test_handed_on(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4)).astype(np.float32)
    model = hasten.compile(alone)
    assert "%next" not in str(model.program())
    for rounds in (0, 1, 5):
        np.testing.assert_array_equal(model(x, rounds), np.concatenate([x, *(x * k for k in range(rounds))]))


def test_what_is_shared_is_copied(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4)).astype(np.float32)
    model = hasten.compile(several)
    for rounds in (0, 1, 4):
        longer = np.concatenate([x, *(x * k for k in range(rounds))])
        wanted = (longer, longer, x + 1 if rounds else x[:1], longer[-1:] if rounds else x[:1])
        for got, want in zip(model(x, rounds), wanted, strict=True):
            np.testing.assert_array_equal(got, want)
