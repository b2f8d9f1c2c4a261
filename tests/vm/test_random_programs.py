"""The interpreter and the native driver agree on random Programs: on outputs, on errors and on their messages."""

from __future__ import annotations

import collections
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from random_programs import CONSTANT, DEEP, STEPS, Grower, grown, inputs_of  # noqa: E402

from hasten.vm import abi  # noqa: E402
from hasten.vm import program as P  # noqa: E402
from hasten.vm.callpath import make_model  # noqa: E402
from hasten.vm.instructions import ROWS  # noqa: E402
from hasten.vm.text import from_text, to_text  # noqa: E402

QUICK, SLOW, RUNS = 16, 800, 6
LIMIT = 1 << 20
SEED = int(os.environ.get("HASTEN_TEST_SEED") or 0)


def agree(toolbox: Any, result_of: Any, seed: list[int], opt: int = 1) -> list[str]:
    """Runs one Program on some inputs with both drivers, the native one compiled with `opt`; what became of the runs."""
    rng = np.random.default_rng(seed)
    program = grown(rng)
    text = to_text(program)
    assert from_text(text) == program
    image = toolbox.image(program, opt)
    native, interpreted = (make_model(program, image, CONSTANT.tobytes(), toolbox.runtime, threads=2, memory_limit=LIMIT, profile=profile, max_depth=DEEP)
                           for profile in (None, lambda instruction, seconds: None))  # fmt: skip
    ends = []
    for _ in range(RUNS):  # later runs find scratch memory of earlier ones
        arrays = inputs_of(program, rng)
        want, got = result_of(interpreted, *arrays), result_of(native, *arrays)
        assert got == want, f"seed {seed}, inputs of {[np.shape(a) for a in arrays[:2]]}:\n{text}"
        if not isinstance(want, tuple):
            assert native.unreleased == interpreted.unreleased, text
        ends.append(want[0] if isinstance(want, tuple) else "answer")
    return ends


def test_random_programs(toolbox: Any, result_of: Any, rng: np.random.Generator) -> None:
    ends = collections.Counter(end for k in range(QUICK) for end in agree(toolbox, result_of, [int(rng.integers(1 << 31)), k]))
    assert ends["answer"] >= QUICK * RUNS // 4, ends


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_many_random_programs(toolbox: Any, result_of: Any, part: int) -> None:
    """All in all some fourteen thousand runs. LLVM's passes take most of the time: every fourth Program has them."""
    ends = collections.Counter(end for k in range(SLOW) for end in agree(toolbox, result_of, [SEED, part, k], int(k % 4 == 0)))
    assert ends["answer"] > SLOW * RUNS // 4, ends
    assert {"ShapeMismatch", "ExecutionError", "ResourceLimit"} <= ends.keys(), ends


def test_all_instructions_occur() -> None:
    """No instruction is without random Programs; host ops have no native driver."""
    found = collections.Counter(type(i) for seed in range(60) for i in abi.everything(grown(np.random.default_rng(seed))))
    assert set(found) == {row.instruction for row in ROWS} - {P.Host}
    assert len(STEPS) > len({step.__name__ for step in STEPS}) and Grower(np.random.default_rng(0)).program() == Grower(np.random.default_rng(0)).program()
