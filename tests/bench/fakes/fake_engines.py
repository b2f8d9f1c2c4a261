"""Engines for tests: y = 2 x, after some work, with the faults that a harness must not fall for.

Options: `steps` of a loop in each call; `fault`, one of the names in `Runner`; `at`, the call from which on it shows (0).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Runner:
    def __init__(self, threads: int, options: Mapping[str, str], cache: Path | None):
        self.steps, self.fault, self.at = int(options.get("steps", "0")), options.get("fault", ""), int(options.get("at", "0"))
        self.calls, self.kept = 0, {}
        self.about = {"threads": str(threads), "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"], "cpus": str(sorted(os.sched_getaffinity(0)))}
        if cache is not None:
            self.about["starts before"] = str(len(list(cache.iterdir())))
            (cache / str(os.getpid())).touch()

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.calls += 1
        fault = getattr(self, self.fault, None) if self.calls > self.at else None
        if self.fault == "remembers" and (known := self.kept.get(feeds["x"].tobytes())) is not None:
            return known
        for _ in range(self.steps):
            pass
        outputs = {"y": 2 * feeds["x"]}
        if self.fault == "remembers":
            self.kept[feeds["x"].tobytes()] = outputs
        return fault(outputs) if fault else outputs

    def describe(self) -> dict[str, str]:
        return self.about

    # --- faults -----------------------------------------------------------------------------------------------------------
    def wrong(self, outputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": outputs["y"] * 3}

    def imprecise(self, outputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": outputs["y"] * np.float32(1.01)}

    def nan(self, outputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": outputs["y"] * np.nan}

    def shape(self, outputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": outputs["y"][:1]}

    def frozen(self, outputs: dict[str, Any]) -> dict[str, Any]:
        return self.kept.setdefault("first", outputs)

    def remembers(self, outputs: dict[str, Any]) -> dict[str, Any]:
        return outputs

    def crash(self, outputs: dict[str, Any]) -> dict[str, Any]:
        print("the abacus is on fire", file=sys.stderr, flush=True)
        os.abort()

    def raises(self, outputs: dict[str, Any]) -> dict[str, Any]:
        raise ArithmeticError("a bead is missing\nlook under the table")

    def hang(self, outputs: dict[str, Any]) -> dict[str, Any]:
        time.sleep(1000)
        return outputs

    def prints(self, outputs: dict[str, Any]) -> dict[str, Any]:
        print("\x00\x80 chatter " * 100, flush=True)
        os.write(1, b"\xff" * 5000)
        return outputs

    def spreads(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """A thread on all CPUs of the machine."""
        if "thread" not in self.kept:
            self.kept["thread"] = threading.Thread(target=self._elsewhere, daemon=True)
            self.kept["thread"].start()
        return outputs

    def _elsewhere(self) -> None:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        time.sleep(1000)


class Fake:
    name = "fake"
    package = "numpy"

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        if options.get("fault") == "refuses":
            raise ValueError(f"{model.name} is not to my taste")
        return Runner(threads, options, cache)


PEER = Fake()
