"""The recurrence of LSTM, GRU and RNN: everything that one time step needs of the step before.

The inputs' part of all pre-activations is given (one matrix product for all steps). The kernel multiplies the state
with the recurrent weights, which are packed so that the lanes of one block are hidden units, all gates of a block
beside each other: the accumulators of a block are then exactly what the cell needs, and gates never go to memory. Rows
of the batch are independent: threads share them and the directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.codegen.builder import V, vector
from hasten.codegen.convert import load_value, store_value
from hasten.codegen.math import llvm_type
from hasten.kernels import expr as E
from hasten.kernels.cells import Cell, Phase, emit_expr, numpy_expr
from hasten.kernels.spec import Emission, KernelSpec

TILE = 4  # rows of the batch that go through the weights together
CHAINS = 8  # independent sums that hide the latency of an addition
PADDING = 16  # states are padded with zeros to a multiple of this many units


def padded(hidden: int) -> int:
    return -(-hidden // PADDING) * PADDING


def pack_recurrent(weights: np.ndarray, lanes: int) -> np.ndarray:
    """[directions, gates, hidden, hidden (of the state)] -> [directions, blocks, padded state, gates, lanes]."""
    directions, gates, hidden, _ = weights.shape
    blocks, deep = -(-hidden // lanes), padded(hidden)
    out = np.zeros((directions, gates, blocks * lanes, deep), weights.dtype)
    out[:, :, :hidden, :hidden] = weights
    return np.ascontiguousarray(out.reshape(directions, gates, blocks, lanes, deep).transpose(0, 2, 4, 1, 3))


def unpack_recurrent(packed: np.ndarray, hidden: int) -> np.ndarray:
    """What `pack_recurrent` packed."""
    directions, blocks, deep, gates, lanes = packed.shape
    whole = packed.transpose(0, 3, 1, 4, 2).reshape(directions, gates, blocks * lanes, deep)
    return whole[:, :, :hidden, :hidden]


@dataclass(frozen=True)
class RecurrentSpec(KernelSpec):
    """Operands, in this order:
    inputs' part [seq, batch, directions * gates * hidden]; packed weights of each phase; initial state [directions,
    batch, hidden] for each of the cell's states; each of the cell's constants [directions, hidden]; lengths [batch]
    int32 (`lengths`). Results: outputs [seq, directions, batch, hidden], final states [directions, batch, hidden].

    cells: one for each direction; reverse: whether a direction runs from the end; wide: the batch may have TILE rows.
    """

    cells: tuple[Cell, ...]
    reverse: tuple[bool, ...]
    dtype: str
    hidden: int
    lanes: int
    lengths: bool
    wide: bool

    # --- operands -------------------------------------------------------------------------------------------------
    def operand(self, what: str) -> int:
        """The number of an operand: "x", "weightsN" of phase N, the name of a state or of a constant, "lengths"."""
        cell = self.cells[0]
        weights = [f"weights{n}" for n in range(len(cell.phases()))]
        return ["x", *weights, *cell.states, *cell.constants, "lengths"].index(what)

    def wants(self, operand: int) -> str:
        return "lanes:2" if operand == 0 else "plain"

    def dims(self, call: Any) -> dict[str, DimLike]:
        seq, batch, _ = call.operands[0].shape
        return {"seq": seq, "batch": batch}

    @property
    def deep(self) -> int:
        return padded(self.hidden)

    @property
    def row(self) -> int:
        """Bytes of one row of a state in scratch."""
        return (self.deep + self.lanes) * dtypes.dtype(self.dtype).size

    def scratch(self, call: Any) -> DimLike:
        return self.row * TILE * 5  # two of h, one of c, z and rh each

    def operations(self, call: Any) -> DimLike:
        """Those of the products: each unit of each gate takes the whole state."""
        seq, batch, wide = call.operands[0].shape
        return seq * batch * wide * self.hidden * 2  # type: ignore[no-any-return]

    def work(self, call: Any) -> DimLike:
        seq, batch, wide = call.operands[0].shape
        if len(self.cells) == 1 and (not self.wide and isinstance(batch, int) and batch == 1):
            return 0  # nothing to share
        return D.floordiv(seq * batch * wide * self.hidden, 16)

    def describe(self) -> dict[str, str]:
        return {"algorithm": "recurrence over packed weights", "format": f"{self.lanes} hidden units beside each other"}

    # --- meaning --------------------------------------------------------------------------------------------------
    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        x = inputs[0]
        seq, batch, _ = x.shape
        out = [np.zeros(shape, dtypes.to_numpy(dt)) for dt, shape in results]
        x = x.reshape(seq, batch, len(self.cells), -1, self.hidden)
        lengths = inputs[self.operand("lengths")] if self.lengths else np.full(batch, seq)
        for d, cell in enumerate(self.cells):
            for b in range(batch):
                state = {s: inputs[self.operand(s)][d, b] for s in cell.states}
                n = int(min(max(lengths[b], 0), seq))
                for t in reversed(range(n)) if self.reverse[d] else range(n):
                    state |= self._step(inputs, cell, d, x[t, b, d], state)
                    out[0][t, d, b] = state["h"]
                for k, s in enumerate(cell.states):
                    out[1 + k][d, b] = state[s]
        return out

    def _step(self, inputs: list[np.ndarray], cell: Cell, d: int, x: np.ndarray, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = dict(state) | {c: inputs[self.operand(c)][d] for c in cell.constants}
        for n, phase in enumerate(cell.phases()):
            weights = unpack_recurrent(inputs[self.operand(f"weights{n}")], self.hidden)[d]
            for gate, w in zip(phase.gates, weights, strict=True):
                part, product = x[cell.gates.index(gate)], w @ values[phase.source]
                if gate in phase.separate:
                    values |= {f"x_{gate}": part, f"u_{gate}": product}
                else:
                    values[f"x_{gate}"] = part + product
            values |= numpy_expr(phase.cell(self.params(cell, phase)), values)
        return {s: values[s] for s in cell.states}

    def params(self, cell: Cell, phase: Phase) -> dict[str, E.Expr]:
        """The values that a phase's cell may use."""
        names = [f"x_{g}" for g in phase.gates] + [f"u_{g}" for g in phase.separate]
        names += [*cell.states, *cell.constants, "z"]
        return {n: E.param(n, self.dtype) for n in names}

    # --- code -----------------------------------------------------------------------------------------------------
    def emit(self, k: Emission) -> None:
        _Recurrence(self, k).emit()


class _Recurrence:
    def __init__(self, spec: RecurrentSpec, k: Emission):
        self.spec, self.k, self.f, self.arg = spec, k, k.f, k.arg
        self.size = dtypes.dtype(spec.dtype).size
        self.lanes = spec.lanes
        self.type = vector(llvm_type(spec.dtype), spec.lanes)
        self.blocks = -(-spec.hidden // spec.lanes)

    def emit(self) -> None:
        f, spec, batch = self.f, self.spec, self.arg["batch"]
        tiles = (batch + (TILE - 1)).udiv(TILE) if spec.wide else batch
        begin, end = self.k.split(tiles * len(spec.cells))
        with f.loop(begin, end) as unit:
            direction, tile = unit.udiv(tiles), unit.urem(tiles)
            if len(set(spec.cells)) == 1:  # one text for both directions
                one_way = len(set(spec.reverse)) == 1
                reverse = spec.reverse[0] if one_way else direction.eq(spec.reverse.index(True))
                self._unit(spec.cells[0], reverse, direction, tile)
            else:
                for d, cell in enumerate(spec.cells):
                    with f.when(direction.eq(d)):
                        self._unit(cell, spec.reverse[d], f.const("i64", d), tile)

    def _unit(self, cell: Cell, reverse: bool | V, direction: V, tile: V) -> None:
        """All steps of one tile of rows."""
        f = self.f
        if not self.spec.wide:
            _Rows(self, cell, reverse, direction, tile, 1).run()
            return
        first = tile * TILE
        count = f.smin(self.arg["batch"] - first, TILE)
        with f.either(count.eq(TILE)) as o:
            _Rows(self, cell, reverse, direction, first, TILE).run()
            o.otherwise()
            with f.loop(0, count) as n:
                _Rows(self, cell, reverse, direction, first + n, 1).run()


class _Rows:
    """Code for `rows` rows of the batch, from row `first`, in one direction."""

    def __init__(self, outer: _Recurrence, cell: Cell, reverse: bool | V, direction: V, first: V, rows: int):
        self.o, self.f, self.arg, self.spec = outer, outer.f, outer.arg, outer.spec
        self.cell, self.reverse, self.direction, self.first, self.rows = cell, reverse, direction, first, rows
        self.size, self.lanes = outer.size, outer.lanes
        spec = self.spec
        names = ("h0", "h1", "c", "z", "rh")
        self.state = {n: self.f.offset(self.arg["scratch"], i * TILE * spec.row) for i, n in enumerate(names)}

    def pointer(self, what: str) -> V:
        return self.arg[f"in{self.spec.operand(what)}"]

    def place(self, base: V, row: int, unit: V | int) -> V:
        """Hidden unit `unit` of a row of a state in scratch."""
        f = self.f
        return f.at(f.offset(base, row * self.spec.row), f.coerce(unit, "i64"), self.size)

    # --- all steps ------------------------------------------------------------------------------------------------
    def run(self) -> None:
        f, seq = self.f, self.arg["seq"]
        self._load_states()
        self.limits = [self._length(r) for r in range(self.rows)]
        steps = self.limits[0]
        for n in self.limits[1:]:
            steps = f.smax(steps, n)
        with f.loop(0, steps) as s:
            even = (s & 1).eq(0)
            old, new = (f.select(even, self.state[a], self.state[b]) for a, b in (("h0", "h1"), ("h1", "h0")))
            self.times = [self._time(n, s) for n in self.limits]
            self.active = [s < n for n in self.limits] if self.spec.lengths else []
            for number, phase in enumerate(self.cell.phases()):
                self._phase(number, phase, old, new)
        last = f.select((steps & 1).eq(0), self.state["h0"], self.state["h1"])
        self._store_states(last)
        if self.spec.lengths:
            self._clear(seq)

    def _length(self, row: int) -> V:
        if not self.spec.lengths:
            return self.arg["seq"]
        f = self.f
        n = f.cast(f.load("i32", f.at(self.pointer("lengths"), self.first + row, 4)), "i64")
        return f.smin(f.smax(n, 0), self.arg["seq"])

    def _time(self, length: V, s: V) -> V:
        if self.reverse is False:
            return s
        back = self.f.smax(length - 1 - s, 0)
        return back if self.reverse is True else self.f.select(self.reverse, back, s)

    def _each_block(self, body: Any) -> None:
        """body(first unit, mask) for every block of lanes; only the last one may have a mask."""
        f, hidden = self.f, self.spec.hidden
        whole, rest = divmod(hidden, self.lanes)
        with f.loop(0, whole) as block:
            body(block, None)
        if rest:
            mask = f.constants("i1", [n < rest for n in range(self.lanes)]) if self.lanes > 1 else None
            body(f.const("i64", whole), mask)

    def _load(self, p: V, mask: V | None) -> V:
        return load_value(self.f, self.spec.dtype, p, self.lanes, mask)

    def _boundary(self, state: str, row: int, unit: V) -> V:
        """The place of a unit in an initial or final state [directions, batch, hidden]."""
        f = self.f
        base = self.pointer(state) if not state.startswith("out") else self.arg[state]
        return f.at(base, (self.direction * self.arg["batch"] + self.first + row) * self.spec.hidden + unit, self.size)

    def _load_states(self) -> None:
        f = self.f
        zero = f.const(self.o.type, 0)
        with f.loop(0, f.const("i64", self.spec.deep), self.lanes) as j:
            for row in range(self.rows):
                for name in ("h0", "h1", "rh"):
                    store_value(f, self.spec.dtype, zero, self.place(self.state[name], row, j))

        def block(n: V, mask: V | None) -> None:
            for row in range(self.rows):
                for name, target in zip(self.cell.states, ("h0", "c"), strict=False):
                    value = self._load(self._boundary(name, row, n * self.lanes), mask)
                    store_value(f, self.spec.dtype, value, self.place(self.state[target], row, n * self.lanes))

        self._each_block(block)

    def _store_states(self, h: V) -> None:
        f = self.f

        def block(n: V, mask: V | None) -> None:
            for row in range(self.rows):
                for k, base in enumerate((h, self.state["c"])[: len(self.cell.states)]):
                    value = self._load(self.place(base, row, n * self.lanes), None)
                    store_value(f, self.spec.dtype, value, self._boundary(f"out{1 + k}", row, n * self.lanes), mask)

        self._each_block(block)

    def _clear(self, seq: V) -> None:
        """Outputs behind the end of a row are 0."""
        f = self.f
        zero = f.const(llvm_type(self.spec.dtype), 0)
        for row, n in enumerate(self.limits):
            with f.loop(n, seq) as t, f.loop(0, f.const("i64", self.spec.hidden)) as j:
                f.store(zero, self._output(row, t, j))

    def _output(self, row: int, t: V, unit: V) -> V:
        directions = len(self.spec.cells)
        line = (t * directions + self.direction) * self.arg["batch"] + self.first + row
        return self.f.at(self.arg["out0"], line * self.spec.hidden + unit, self.size)

    # --- one step -------------------------------------------------------------------------------------------------
    def _phase(self, n: int, phase: Phase, old: V, new: V) -> None:
        source = old if phase.source == "h" else self.state["rh"]
        outputs = phase.cell(self.spec.params(self.cell, phase))
        gates = len(phase.gates)
        bytes_of_block = self.spec.deep * gates * self.lanes * self.size
        f = self.f

        def block(b: V, mask: V | None) -> None:
            at = (self.direction * self.o.blocks + b) * bytes_of_block
            sums = self._products(f.offset(self.pointer(f"weights{n}"), at), source, gates)
            unit = b * self.lanes
            for row in range(self.rows):
                values = self._values(phase, row, unit, sums[row], old, mask)
                results = emit_expr(f, outputs, values, self.lanes)
                self._keep(results, values, row, unit, new, mask)

        self._each_block(block)

    def _products(self, weights: V, source: V, gates: int) -> list[list[V]]:
        """For every row and gate the sum over the state of state * weight."""
        f, rows = self.f, self.rows
        unroll = max(1, CHAINS // (rows * gates))
        unroll = 1 << (unroll.bit_length() - 1)
        zero = f.const(self.o.type, 0)
        sums = [[[f.var(self.o.type, zero) for _ in range(unroll)] for _ in range(gates)] for _ in range(rows)]
        bits = self.size * 8
        scalar = llvm_type(self.spec.dtype)
        with f.loop(0, f.const("i64", self.spec.deep), unroll) as k:
            line = f.at(weights, k, gates * self.lanes * self.size)
            for u in range(unroll):
                states = [f.splat(f.load(scalar, self.place(source, r, k + u)), self.lanes) for r in range(rows)]
                for g in range(gates):
                    w = f.load(self.o.type, f.offset(line, (u * gates + g) * self.lanes * self.size), bits // 8)
                    for r in range(rows):
                        chain = sums[r][g][u]
                        chain.set(f.fma(states[r], w, chain.get()))
        return [[self._total([c.get() for c in chains]) for chains in row] for row in sums]

    @staticmethod
    def _total(parts: Sequence[V]) -> V:
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def _values(self, phase: Phase, row: int, unit: V, sums: list[V], old: V, mask: V | None) -> dict[str, V]:
        f, spec, gates = self.f, self.spec, self.cell.gates
        line = self.times[row] * self.arg["in0_s0"] + (self.first + row) * self.arg["in0_s1"]
        line = line + self.direction * (len(gates) * spec.hidden) + unit
        values: dict[str, V] = {}
        for gate, product in zip(phase.gates, sums, strict=True):
            part = self._load(f.at(self.arg["in0"], line + gates.index(gate) * spec.hidden, self.size), mask)
            if gate in phase.separate:
                values |= {f"x_{gate}": part, f"u_{gate}": product}
            else:
                values[f"x_{gate}"] = part + product
        for name, base in (("h", old), ("c", self.state["c"]), ("z", self.state["z"])):
            values[name] = self._load(self.place(base, row, unit), None)
        for name in self.cell.constants:
            place = f.at(self.pointer(name), self.direction * spec.hidden + unit, self.size)
            values[name] = self._load(place, mask)
        return values

    def _keep(self, results: dict[str, V], values: dict[str, V], row: int, unit: V, new: V, mask: V | None) -> None:
        """Store the new states; rows that have ended keep the old ones, lanes behind the last unit stay 0."""
        f = self.f
        for name, value in results.items():
            if mask is not None:
                value = f.select(mask, value, 0)
            lasting = name in self.cell.states
            if lasting and self.active:
                value = f.select(self.active[row], value, values[name])
            target = new if name == "h" else self.state[name]
            store_value(f, self.spec.dtype, value, self.place(target, row, unit))
            if name == "h":
                self._emit_output(value, row, unit, mask)

    def _emit_output(self, value: V, row: int, unit: V, mask: V | None) -> None:
        f, place = self.f, self._output(row, self.times[row], unit)
        if not self.active:
            store_value(f, self.spec.dtype, value, place, mask)
            return
        with f.when(self.active[row]):
            store_value(f, self.spec.dtype, value, place, mask)
