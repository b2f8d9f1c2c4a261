"""Runs of a model with the time of every instruction: a driver that notes when each begins and ends (`hasten.vm.native.timed`), compiled for this.

    timed = Timed(model.driver, isa)
    marks = timed.run(arrays)                   # of one run, in order

A mark takes some nanoseconds, of which `Timed.cost` is known and can be taken off.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.codegen.isa import Isa
from hasten.codegen.link import link
from hasten.codegen.llvm import compile_text
from hasten.vm import abi
from hasten.vm.callpath import NativeModel
from hasten.vm.image import LoadedImage
from hasten.vm.native import timed as native
from hasten.vm.runtime import loaded_runtime, numpy_api


@dataclass(frozen=True)
class Marks:
    """`ticks[k]`: when mark k was made, where the instruction `at[k]` begins, or ends if `begins[k]` is False (its number among all of the Program, as
    in `abi.everything`). A Return and a tail call do not end: the Invoke does that brought the run there."""

    ticks: np.ndarray[Any, Any]
    at: np.ndarray[Any, Any]
    begins: np.ndarray[Any, Any]

    @property
    def cut_off(self) -> bool:
        """Whether the run went on after the last mark that there was room for."""
        return len(self.ticks) == native.CAPACITY


class Timed:
    """A model whose runs are noted. `cost`: ticks that a mark itself takes; `tick`: seconds."""

    def __init__(self, model: NativeModel, isa: Isa):
        kernels = {name: model.image.address(name) for name in abi.kernel_names(model.program)}
        text = native.emit_timed(model.program, isa, kernels)
        self.image = LoadedImage.from_memory(link([compile_text(text, isa, 1)], native.EXPORTS))
        runtime, api = loaded_runtime(), numpy_api()
        assert runtime is not None and api is not None  # the model has them
        self.model = NativeModel(model.program, self.image, model.constants, runtime, api, model.threads)
        self.kernels = model.image  # kept mapped
        self._position = ctypes.c_int64.from_address(self.image.address(native.POSITION))
        self._ticks, self._codes = (self._array(name) for name in (native.TICKS, native.CODES))
        self.tick = self._seconds()
        self.cost = self._cost()

    def _array(self, name: str) -> np.ndarray[Any, Any]:
        memory: Any = (ctypes.c_int64 * native.CAPACITY).from_address(self.image.address(name))
        return np.frombuffer(memory, np.int64)

    def _marked(self) -> int:
        """Marks since the last call."""
        count, self._position.value = self._position.value, 0
        return count

    def _cost(self) -> float:
        calibrate = self.image.function(native.CALIBRATE, None)
        least = np.inf
        for _ in range(20):
            calibrate()
            least = min(least, float(np.diff(self._ticks[: self._marked()]).mean()))
        return float(least)

    def _seconds(self) -> float:
        """Of a tick: of the counter against the clock, over two hundredths of a second."""
        calibrate = self.image.function(native.CALIBRATE, None)
        stamps = []
        for pause in (0.02, 0.0):
            self._marked()
            began = time.perf_counter()
            calibrate()
            stamps.append((self._ticks[0], began))
            time.sleep(pause)
        self._marked()
        return float((stamps[1][1] - stamps[0][1]) / (stamps[1][0] - stamps[0][0]))

    def run(self, arrays: Sequence[Any]) -> Marks:
        """Raises as a call of the model does."""
        self._marked()
        self.model.call(*arrays)
        count = self._marked()
        codes = self._codes[:count].copy()
        return Marks(self._ticks[:count].copy(), codes >> 1, codes & 1 == 0)
