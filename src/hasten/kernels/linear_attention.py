"""LinearAttention: a recurrence over time whose state is a d_k x d_v matrix for each head.

    S = exp(g) * S;  u = v, or beta * (v - S' k);  S = S + k u';  out = scale * S' q

Threads share the heads of all batches. The state stays in scratch as float32; lanes run along d_v.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.dims import DimLike, floordiv
from hasten.codegen.builder import V, vector
from hasten.codegen.convert import load_value, store_value
from hasten.codegen.math import emit_op
from hasten.kernels.spec import Emission, KernelSpec

FLOAT = 4


@dataclass(frozen=True)
class LinearAttentionSpec(KernelSpec):
    """Operands: those named in `inputs`, of "q", "k", "v" [B, T, heads * size], "past" [B, kv_heads, d_k, d_v],
    "decay" (one for each head,
    or `decay_per_key`: for each head and key dimension) and "beta" (one for each head, or `one_beta`: for all).
    Results: out0
    [B, T, q_heads * d_v] of `dtype`, out1 the last state, of `state`. scale 0: 1 / sqrt(d_k)."""

    inputs: tuple[str, ...]
    dtype: str
    state: str
    q_heads: int
    kv_heads: int
    decay_per_key: bool
    one_beta: bool
    scale: float

    def dims(self, call: Any) -> dict[str, DimLike]:
        q, v = call.operands[0].shape, call.operands[2].shape
        return {"batch": q[0], "time": q[1], "dk": floordiv(q[2], self.q_heads), "dv": floordiv(v[2], self.kv_heads)}

    def scratch(self, call: Any) -> DimLike:
        d = self.dims(call)
        return (d["dk"] * d["dv"] + d["dk"]) * FLOAT

    def work(self, call: Any) -> DimLike:
        d = self.dims(call)
        return d["batch"] * d["time"] * d["dk"] * d["dv"] * (self.q_heads + 2 * self.kv_heads)

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        x = {n: a.astype(np.float32) for n, a in zip(self.inputs, inputs, strict=True)}
        batch, time = x["q"].shape[:2]
        q = x["q"].reshape(batch, time, self.q_heads, -1)
        k, v = (x[n].reshape(batch, time, self.kv_heads, -1) for n in "kv")
        s = x.get("past", np.zeros((batch, self.kv_heads, k.shape[3], v.shape[3]), np.float32))
        out = np.zeros((batch, time, self.q_heads, v.shape[3]), np.float32)
        for t in range(time):
            u = v[:, t]
            if "decay" in x:
                s = s * np.exp(x["decay"][:, t].reshape(batch, self.kv_heads, -1, 1))
            if "beta" in x:
                u = x["beta"][:, t].reshape(batch, -1, 1) * (u - np.einsum("bhdm,bhd->bhm", s, k[:, t]))
            s = s + k[:, t, :, :, None] * u[:, :, None, :]
            wide = np.repeat(s, self.q_heads // self.kv_heads, 1)
            out[:, t] = np.einsum("bhd,bhdm->bhm", q[:, t], wide) * (self.scale or k.shape[3] ** -0.5)
        return [out.reshape(results[0][1]), s]

    def emit(self, k: Emission) -> None:
        begin, end = k.split(k.arg["batch"] * self.kv_heads)
        with k.f.loop(begin, end) as unit:
            _Head(self, k, unit).emit()


class _Head:
    """The recurrence of one head of one batch."""

    def __init__(self, spec: LinearAttentionSpec, k: Emission, unit: V):
        self.spec, self.k, self.f, self.unit = spec, k, k.f, unit
        self.dk, self.dv, self.time = k.arg["dk"], k.arg["dv"], k.arg["time"]
        self.batch = unit.udiv(spec.kv_heads)
        self.head = unit - self.batch * spec.kv_heads
        self.s = k.arg["scratch"]
        self.gates = k.f.at(self.s, self.dk * self.dv, FLOAT)
        self.lanes = max(1, k.isa.vector_bytes // FLOAT)

    def load(self, name: str, index: V, lanes: int = 1) -> V:
        """Elements of an operand as floats."""
        pointer = self.k.arg[f"in{self.spec.inputs.index(name)}"]
        stored = self.spec.state if name == "past" else self.spec.dtype
        return load_value(self.f, stored, self.f.at(pointer, index, dtypes.dtype(stored).size), lanes)

    def state(self, d: V, m: V) -> V:
        return self.f.at(self.s, d * self.dv + m, FLOAT)

    @contextmanager
    def each(self, count: V, lanes: int, start: V | int = 0) -> Iterator[V]:
        """m = start, start + lanes ... while whole blocks fit below `count`."""
        with self.f.loop(start, count - (lanes - 1), lanes) as m:
            yield m

    def blocks(self, count: V) -> list[tuple[int, V | int]]:
        """(lanes, start) of the loop over whole vectors and of that over the rest."""
        return [(self.lanes, 0), (1, count.udiv(self.lanes) * self.lanes)] if self.lanes > 1 else [(1, 0)]

    def emit(self) -> None:
        f, spec, size = self.f, self.spec, self.dk * self.dv
        first = self.unit * size
        for lanes, start in self.blocks(size):
            with self.each(size, lanes, start) as e:
                zero = f.const(vector("float", lanes), 0.0)
                f.store(self.load("past", first + e, lanes) if "past" in spec.inputs else zero, f.at(self.s, e, FLOAT))
        with f.loop(0, self.time) as t:
            self.step(self.batch * self.time + t)
        width = dtypes.dtype(spec.state).size
        for lanes, start in self.blocks(size):
            with self.each(size, lanes, start) as e:
                value = f.load(vector("float", lanes), f.at(self.s, e, FLOAT))
                store_value(f, spec.state, value, f.at(self.k.arg["out1"], first + e, width))

    def step(self, row: V) -> None:
        """One point in time; `row` counts them over all batches."""
        f, spec = self.f, self.spec
        place = row * spec.kv_heads + self.head
        if "decay" in spec.inputs:
            with f.loop(0, self.dk) as d:
                g = self.load("decay", place * self.dk + d if spec.decay_per_key else place)
                f.store(emit_op(f, "exp", "float32", [g]), f.at(self.gates, d, FLOAT))
        beta = self.load("beta", row if spec.one_beta else place) if "beta" in spec.inputs else None
        for lanes, start in self.blocks(self.dv):
            with self.each(self.dv, lanes, start) as m:
                self.columns(row, place, m, lanes, beta)

    def columns(self, row: V, place: V, m: V, lanes: int, beta: V | None) -> None:
        """Columns [m, m + lanes) of the state, and of the results of all query heads that share it."""
        f, spec, t = self.f, self.spec, vector("float", lanes)
        seen = f.var(t, 0.0)
        if beta is not None or "decay" in spec.inputs:
            with f.loop(0, self.dk) as d:
                s = f.load(t, self.state(d, m))
                if "decay" in spec.inputs:
                    s = s * f.splat(f.load("float", f.at(self.gates, d, FLOAT)), lanes)
                    f.store(s, self.state(d, m))
                if beta is not None:
                    seen.set(f.fma(s, f.splat(self.load("k", place * self.dk + d), lanes), seen.get()))
        u = self.load("v", place * self.dv + m, lanes)
        if beta is not None:
            u = f.splat(beta, lanes) * (u - seen.get())
        with f.loop(0, self.dk) as d:
            s = f.load(t, self.state(d, m))
            f.store(f.fma(f.splat(self.load("k", place * self.dk + d), lanes), u, s), self.state(d, m))
        self.read(row, m, lanes)

    def read(self, row: V, m: V, lanes: int) -> None:
        """out = scale * S' q for the query heads of this head."""
        f, spec = self.f, self.spec
        group = spec.q_heads // spec.kv_heads
        scale: V | float = spec.scale
        if not spec.scale:
            root = f.intrinsic("llvm.sqrt", "float", [f.cast(self.dk, "float")])
            scale = f.splat(f.const("float", 1.0) / root, lanes)
        with f.loop(self.head * group, (self.head + 1) * group) as h:
            head = row * spec.q_heads + h
            total = f.var(vector("float", lanes), 0.0)
            with f.loop(0, self.dk) as d:
                q = f.splat(self.load("q", head * self.dk + d), lanes)
                total.set(f.fma(q, f.load(vector("float", lanes), self.state(d, m)), total.get()))
            target = f.at(self.k.arg["out0"], head * self.dv + m, dtypes.dtype(spec.dtype).size)
            store_value(f, spec.dtype, total.get() * scale, target)


def names(values: Sequence[tuple[str, Any]]) -> tuple[str, ...]:
    """The names of the operands that are there."""
    return tuple(n for n, v in values if v is not None)
