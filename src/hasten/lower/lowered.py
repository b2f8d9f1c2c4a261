"""What emission makes: a Program still without places for its temporaries, and all it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.lower.report import NodeReport
from hasten.vm import program as P

THREADS = D.symbol("threads$")  # replaced by the number of threads when memory is planned


@dataclass
class Temporary:
    """A buffer to be placed by the memory plan."""

    name: str
    size: DimLike  # bytes
    output: bool = False


@dataclass
class Lowered:
    """A Program still without places for its temporaries, and all it needs."""

    program: P.Program
    kernels: dict[str, str] = field(default_factory=dict)  # name -> text
    temporaries: dict[str, Temporary] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)  # buffer -> bytes
    report: list[NodeReport] = field(default_factory=list)
    known: frozenset[str] = frozenset()  # sizes that follow from the inputs
    lead: int = 0  # instructions that compute them, at the beginning
    over: dict[str, frozenset[str]] = field(default_factory=dict)  # see places.Over
    counted: set[str] = field(default_factory=set)  # buffers that values, functions or results of functions may keep
    functions: list[Lowered] = field(default_factory=list)  # of the Program, each with its `function`
    function: P.Function | None = None  # its head: the code is the program's
    twins: dict[tuple[int, bytes], list[str]] = field(default_factory=dict)  # size and first bytes -> names of constants

    def constant(self, array: np.ndarray, fresh: Callable[[str], str]) -> str:
        """The name of the constant with these contents; `fresh(prefix)` gives new names."""
        data = np.ascontiguousarray(array)
        raw = data.reshape(-1).view(np.uint8) if data.size else np.zeros(0, np.uint8)
        twins = self.twins.setdefault((raw.size, raw[:256].tobytes()), [])
        name = next((n for n in twins if np.array_equal(self.constants[n], raw)), None)
        if name is None:
            name = fresh("c")
            twins.append(name)
            self.constants[name] = raw
        return name
