"""Small models that together use what shared libraries have: dynamic sizes, several inputs and outputs, loops, checks."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from programs import parse  # noqa: E402


@pytest.fixture(scope="session")
def compiler() -> None:
    """Tests that link skip without a C compiler."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("needs a C compiler")


@pytest.fixture(scope="session")
def models() -> dict[str, Callable[[], bytes]]:
    rng = np.random.default_rng(11)
    weight = rng.standard_normal((24, 3, 3, 3)).astype("f4")
    wide = rng.standard_normal((40, 33)).astype("f4")
    return {
        # a convolution over any picture; two outputs, one with sizes that follow from the input's
        "picture": lambda: parse(
            "m (float[n, 3, h, w] x) => (float[n, 24, a, b] y, float[n, 24] z) {"
            " c = Conv<strides=[2, 2], pads=[1, 1, 1, 1]>(x, weight)  y = Relu(c)"
            " p = GlobalAveragePool(y)  z = Flatten(p) }",
            weight=weight,
        ),
        # two inputs that must agree, and a table of rows to choose from
        "rows": lambda: parse(
            "m (float[n, 40] x, int64[n] which) => (float[n, 33] y) {"
            " rows = Gather(x, which)  y = MatMul(rows, wide) }",
            wide=wide,
        ),
        # sizes that only the run knows
        "found": lambda: parse(
            "m (float[n] x) => (int64[k, m] where, bool[n] mask) {"
            " zero = Constant<value_float=0.0>()  mask = Greater(x, zero)  f = NonZero(mask)  where = Transpose(f) }"
        ),
        # a loop
        "powers": lambda: parse(
            "m (int64 times, float[n] x) => (float[n] y) {"
            " yes = Constant<value = bool {1}>()"
            " y = Loop(times, yes, x) <body = step (int64 i, bool go, float[n] v) => (bool on, float[n] w)"
            " { on = Identity(go)  w = Mul(v, two) }> }",
            two=np.float32(2),
        ),
    }  # fmt: skip
