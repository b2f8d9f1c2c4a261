"""Det against NumPy."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from native import LEVELS, check_spec  # noqa: E402

from hasten.kernels.determinant import DeterminantSpec  # noqa: E402


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_determinants(level: str, dtype: str) -> None:
    rng = np.random.default_rng(4)
    for n in (0, 1, 2, 3, 8):
        x = rng.standard_normal((5, n, n)).astype(dtype)
        x[0, :, :1] = 0  # singular
        if n > 1:
            x[1, 0, 0] = 0  # needs a pivot
        check_spec(DeterminantSpec(dtype), [x], [(dtype, (5,))], level, threads=2, rtol=1e-4, atol=1e-5)
