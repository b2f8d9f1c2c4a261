"""The driver that notes its instructions does what the model does, and notes each as often as the interpreter runs it."""

from __future__ import annotations

import collections
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from random_programs import CONSTANT, grown, inputs_of  # noqa: E402

from hasten.profile.timed import Timed  # noqa: E402
from hasten.vm import abi  # noqa: E402
from hasten.vm import program as P  # noqa: E402
from hasten.vm.callpath import make_model  # noqa: E402


def test_marks_of_random_programs(toolbox: Any, result_of: Any, rng: np.random.Generator) -> None:
    compared = 0
    for _ in range(12):
        program = grown(rng)
        number = {id(i): n for n, i in enumerate(abi.everything(program))}
        ran: collections.Counter[int] = collections.Counter()

        def note(i: P.Instruction, seconds: float, number: dict[int, int] = number, ran: collections.Counter[int] = ran) -> None:
            ran[number[id(i)]] += 1

        image = toolbox.image(program)
        native, interpreted = (make_model(program, image, CONSTANT.tobytes(), toolbox.runtime, threads=2, profile=profile) for profile in (None, note))
        timed = Timed(native, toolbox.isa)  # type: ignore[arg-type]
        for arrays in (inputs_of(program, rng) for _ in range(3)):
            ran.clear()
            want = result_of(interpreted, *arrays)
            assert result_of(timed.model, *arrays) == result_of(native, *arrays) == want
            if isinstance(want, tuple):
                continue
            marks = timed.run(arrays)
            begun = collections.Counter(marks.at[marks.begins].tolist())
            assert {n: c for n, c in begun.items() if n in ran} == dict(ran), program
            compared += 1
    assert compared > 5
