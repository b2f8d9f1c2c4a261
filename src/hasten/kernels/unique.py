"""Distinct elements, or slices along an axis: a permutation is sorted by heap sort, equal neighbours are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.dims import DimLike, product
from hasten.codegen.builder import Function, V
from hasten.kernels.order import keys_of, sort_key
from hasten.kernels.spec import Emission, KernelSpec


@dataclass(frozen=True)
class UniqueSpec(KernelSpec):
    """in0: [outer, m, inner]: m items. Results: out0: the distinct items [outer, m, inner], the first `count` of which
    are valid; int64 [m]: out1 where each occurs first, out2 (for every item) which distinct one it is, out3 how often
    each occurs; out4: int64 [1], count. Distinct items are in ascending order (`sorted`), or as they first occur."""

    dtype: str
    sorted: bool

    def dims(self, call: Any) -> dict[str, DimLike]:
        outer, m, inner = call.operands[0].shape
        return {"outer": outer, "m": m, "inner": inner}

    def scratch(self, call: Any) -> DimLike:
        return product([call.operands[0].shape[1], 32])

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        x = inputs[0]
        outer, m, inner = x.shape
        items = keys_of(x).transpose(1, 0, 2).reshape(m, outer * inner)
        order = sorted(range(m), key=lambda a: (tuple(items[a]), a))
        groups: list[list[int]] = []
        for a in order:
            if groups and tuple(items[groups[-1][0]]) == tuple(items[a]):
                groups[-1].append(a)
            else:
                groups.append([a])
        if not self.sorted:
            groups.sort(key=lambda g: g[0])
        first, inverse, counts = (np.zeros(m, np.int64) for _ in range(3))
        out = np.zeros_like(x)
        for n, g in enumerate(groups):
            first[n], counts[n] = g[0], len(g)
            inverse[g] = n
            out[:, n] = x[:, g[0]]
        return [out, first, inverse, counts, np.array([len(groups)], np.int64)]

    # --- code -----------------------------------------------------------------------------------------------------
    def emit(self, k: Emission) -> None:
        f, arg = k.f, k.arg
        compare = self._comparison(k)
        with f.when(k.thread.eq(0)):
            m, perm = arg["m"], arg["scratch"]
            self._sort(k, perm, m)
            count = f.var("i64", 0)
            with f.loop(0, m) as p:
                item = f.load("i64", f.at(perm, p, 8))
                before = f.load("i64", f.at(perm, f.smax(p - 1, 0), 8))
                fresh = p.eq(0) | f.call(compare, "i64", self._call_args(k, before, item)).ne(0)
                with f.when(fresh):
                    f.store(item, f.at(arg["out1"], count.get(), 8))
                    f.store(f.const("i64", 0), f.at(arg["out3"], count.get(), 8))
                    count.set(count.get() + 1)
                group = count.get() - 1
                tally = f.at(arg["out3"], group, 8)
                f.store(f.load("i64", tally) + 1, tally)
                f.store(group, f.at(arg["out2"], item, 8))
            if not self.sorted:
                self._by_occurrence(k, count.get())
            self._copy(k, count.get())
            f.store(count.get(), arg["out4"])

    def _call_args(self, k: Emission, a: V, b: V) -> list[V]:
        return [k.arg["in0"], k.arg["outer"], k.arg["m"], k.arg["inner"], a, b]

    def _comparison(self, k: Emission) -> str:
        """Defines i64 compare(x, outer, m, inner, a, b): the sign of item a minus item b; gives its name."""
        words = [("x", "ptr"), *((n, "i64") for n in ("outer", "m", "inner", "a", "b"))]
        g = k.f.module.function("compare", words, "i64", internal=True)
        x, outer, m, inner, a, b = g.args
        size = dtypes.dtype(self.dtype).size
        done = g.label("done")
        sign = g.var("i64", 0)
        with g.loop(0, outer) as o, g.loop(0, inner) as i:
            left, right = (sort_key(g, self.dtype, g.at(x, (o * m + item) * inner + i, size)) for item in (a, b))
            differs, go = g.label("differs"), g.label("go")
            sign.set(g.select(left < right, g.const("i64", -1), g.cast(left > right, "i64", signed=False)))
            g.branch(left.eq(right), go, differs)
            g.place(differs)
            g.jump(done)
            g.place(go)
        g.place(done)
        g.ret(sign.get())
        return "compare"

    def _after(self, k: Emission, f: Function, a: V, b: V, args: list[V]) -> V:
        """Whether item a belongs behind item b."""
        c = f.call("compare", "i64", [*args, a, b])
        return (c > 0) | (c.eq(0) & (a > b))

    def _sift(self, k: Emission) -> None:
        """Defines sift(perm, start, count, x, outer, m, inner): the heap's root is the item that belongs last."""
        words = [("perm", "ptr"), ("start", "i64"), ("count", "i64"), ("x", "ptr")]
        g = k.f.module.function("sift", [*words, ("outer", "i64"), ("m", "i64"), ("inner", "i64")], internal=True)
        perm, start, count, *args = g.args
        moving = g.load("i64", g.at(perm, start, 8))
        place = g.var("i64", start)
        with g.forever() as loop:
            left = place.get() * 2 + 1
            loop.break_if(left >= count)
            right = g.select(left + 1 < count, left + 1, left)
            a, b = (g.load("i64", g.at(perm, c, 8)) for c in (left, right))
            pick = self._after(k, g, b, a, args)
            last = g.select(pick, b, a)
            loop.break_if(~self._after(k, g, last, moving, args))
            g.store(last, g.at(perm, place.get(), 8))
            place.set(g.select(pick, right, left))
        g.store(moving, g.at(perm, place.get(), 8))
        g.ret()

    def _sort(self, k: Emission, perm: V, m: V) -> None:
        f = k.f
        self._sift(k)
        args = [k.arg["in0"], k.arg["outer"], m, k.arg["inner"]]
        with f.loop(0, m) as i:
            f.store(i, f.at(perm, i, 8))
        half = m.lshr(1)
        with f.loop(0, half) as t:
            f.call("sift", "void", [perm, half - 1 - t, m, *args])
        with f.loop(1, m) as t:
            last = f.at(perm, m - t, 8)
            root, other = f.load("i64", perm), f.load("i64", last)
            f.store(other, perm)
            f.store(root, last)
            f.call("sift", "void", [perm, f.const("i64", 0), m - t, *args])

    def _by_occurrence(self, k: Emission, count: V) -> None:
        """Renumber the distinct items in the order in which they occur."""
        f, arg, m = k.f, k.arg, k.arg["m"]
        number, first, tally = (f.at(arg["scratch"], m * part, 8) for part in (1, 2, 3))
        seen = f.var("i64", 0)
        with f.loop(0, m) as i:
            group = f.load("i64", f.at(arg["out2"], i, 8))
            with f.when(f.load("i64", f.at(arg["out1"], group, 8)).eq(i)):
                f.store(seen.get(), f.at(number, group, 8))
                seen.set(seen.get() + 1)
        with f.loop(0, count) as g:
            f.store(f.load("i64", f.at(arg["out1"], g, 8)), f.at(first, g, 8))
            f.store(f.load("i64", f.at(arg["out3"], g, 8)), f.at(tally, g, 8))
        with f.loop(0, count) as g:
            target = f.load("i64", f.at(number, g, 8))
            f.store(f.load("i64", f.at(first, g, 8)), f.at(arg["out1"], target, 8))
            f.store(f.load("i64", f.at(tally, g, 8)), f.at(arg["out3"], target, 8))
        with f.loop(0, m) as i:
            place = f.at(arg["out2"], i, 8)
            f.store(f.load("i64", f.at(number, f.load("i64", place), 8)), place)

    def _copy(self, k: Emission, count: V) -> None:
        f, arg, row = k.f, k.arg, dtypes.dtype(self.dtype)
        m, inner = arg["m"], arg["inner"]
        with f.loop(0, arg["outer"]) as o, f.loop(0, count) as g:
            item = f.load("i64", f.at(arg["out1"], g, 8))
            with f.loop(0, inner) as i:
                value = f.load(row.storage, f.at(arg["in0"], (o * m + item) * inner + i, row.size))
                f.store(value, f.at(arg["out0"], (o * m + g) * inner + i, row.size))
