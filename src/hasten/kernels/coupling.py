"""Probabilities of classes from those of pairs of classes, as support vector machines give them.

Method 2 of Wu, Lin and Weng, "Probability estimates for multi-class classification by pairwise coupling" (2004): the p that minimises
sum over i != j of (r_ji p_i - r_ij p_j)^2, by updates of one class after another until no component is off by more than 0.005 / classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base.dims import DimLike
from hasten.codegen.builder import V
from hasten.kernels.spec import Emission, KernelSpec

ROUNDS = 100


@dataclass(frozen=True)
class CouplingSpec(KernelSpec):
    """in0: float32 [n, pairs], the probability of the first class of each pair (0, 1), (0, 2), ... (1, 2), ...; out0: float32 [n, classes]."""

    classes: int

    def dims(self, call: Any) -> dict[str, DimLike]:
        return {"rows": call.operands[0].shape[0]}

    def scratch(self, call: Any) -> DimLike:
        return 4 * (2 * self.classes * self.classes + self.classes)

    def work(self, call: Any) -> DimLike:
        return call.operands[0].shape[0] * (10 * self.classes * self.classes)  # type: ignore[no-any-return]

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        c = self.classes
        out = np.zeros((len(inputs[0]), c), np.float32)
        upper = np.triu_indices(c, 1)
        for row, given in enumerate(inputs[0]):
            r = np.zeros((c, c), np.float32)
            r[upper] = given
            r.T[upper] = 1 - given
            q = -r.T * r
            np.fill_diagonal(q, (r * r).sum(0))
            p = np.full(c, 1 / c, np.float32)
            for _ in range(ROUNDS):
                qp = q @ p
                pqp = p @ qp
                if np.abs(qp - pqp).max() < np.float32(0.005) / c:
                    break
                for i in range(c):
                    d = (pqp - qp[i]) / q[i, i]
                    p[i] += d
                    pqp = (pqp + d * (d * q[i, i] + 2 * qp[i])) / (1 + d) / (1 + d)
                    qp = (qp + d * q[i]) / (1 + d)
                    p /= 1 + d
            out[row] = p
        return [out]

    def emit(self, k: Emission) -> None:
        f, c = k.f, self.classes
        r = k.arg["scratch"]
        q, qp = f.offset(r, 4 * c * c), f.offset(r, 8 * c * c)
        pairs = c * (c - 1) // 2
        begin, end = k.split(k.arg["rows"])
        with f.loop(begin, end) as row:
            source, p = f.at(k.arg["in0"], row * pairs, 4), f.at(k.arg["out0"], row * c, 4)
            self._matrix(k, source, r)
            with f.loop(0, c) as i:
                f.store(f.const("float", 1 / c), f.at(p, i, 4))
                total = f.var("float", 0.0)
                with f.loop(0, c) as j:
                    a, b = self._at(k, r, j, i), self._at(k, r, i, j)
                    total.set(total.get() + a * a)
                    f.store(-(a * b), f.at(q, i * c + j, 4))
                f.store(total.get(), f.at(q, i * c + i, 4))
            rounds = f.var("i64", 0)
            with f.forever() as loop:
                loop.break_if(rounds.get() >= ROUNDS)
                rounds.set(rounds.get() + 1)
                pqp, worst = self._errors(k, q, qp, p)
                loop.break_if(worst < float(np.float32(0.005) / c))
                self._update(k, q, qp, p, pqp)

    def _at(self, k: Emission, matrix: V, i: V, j: V) -> V:
        return k.f.load("float", k.f.at(matrix, i * self.classes + j, 4))

    def _matrix(self, k: Emission, source: V, r: V) -> None:
        """r[i, j]: the probability of i among i and j; 0 on the diagonal."""
        f, c = k.f, self.classes
        place = f.var("i64", 0)
        with f.loop(0, c) as i:
            f.store(f.const("float", 0.0), f.at(r, i * c + i, 4))
            with f.loop(i + 1, c) as j:
                value = f.load("float", f.at(source, place.get(), 4))
                place.set(place.get() + 1)
                f.store(value, f.at(r, i * c + j, 4))
                f.store(1.0 - value, f.at(r, j * c + i, 4))

    def _errors(self, k: Emission, q: V, qp: V, p: V) -> tuple[V, V]:
        """p' Q p, and how far Q p is from it at most."""
        f, c = k.f, self.classes
        pqp, worst = f.var("float", 0.0), f.var("float", 0.0)
        with f.loop(0, c) as i:
            total = f.var("float", 0.0)
            with f.loop(0, c) as j:
                total.set(total.get() + self._at(k, q, i, j) * f.load("float", f.at(p, j, 4)))
            f.store(total.get(), f.at(qp, i, 4))
            pqp.set(pqp.get() + f.load("float", f.at(p, i, 4)) * total.get())
        with f.loop(0, c) as i:
            d = f.load("float", f.at(qp, i, 4)) - pqp.get()
            worst.set(f.smax(f.select(d < 0.0, -d, d), worst.get()))
        return pqp.get(), worst.get()

    def _update(self, k: Emission, q: V, qp: V, p: V, start: V) -> None:
        f, c = k.f, self.classes
        pqp = f.var("float", start)
        with f.loop(0, c) as i:
            own, mine, place = self._at(k, q, i, i), f.load("float", f.at(qp, i, 4)), f.at(p, i, 4)
            d = (pqp.get() - mine) / own
            f.store(f.load("float", place) + d, place)
            scale = 1.0 + d
            pqp.set((pqp.get() + d * (d * own + mine * 2.0)) / scale / scale)
            with f.loop(0, c) as j:
                at, part = f.at(qp, j, 4), f.at(p, j, 4)
                f.store((f.load("float", at) + d * self._at(k, q, i, j)) / scale, at)
                f.store(f.load("float", part) / scale, part)
