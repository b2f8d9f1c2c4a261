"""Non-maximum suppression: per class and image the best boxes, those leaving out that overlap a better one too much.

Two kernels: the first selects for each pair of image and class (pairs are independent: threads share them), the second
packs the selections of all pairs into one list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base.dims import DimLike, product
from hasten.codegen.builder import V
from hasten.kernels.order import PAIR, heapify, keys_of, load_pair, sift_down, sort_key, store_pair
from hasten.kernels.spec import Emission, KernelSpec


def _corners_array(box: np.ndarray, center: bool) -> tuple[np.float32, ...]:
    a, b, c, d = (np.float32(v) for v in box)
    if center:
        half_w, half_h = c / np.float32(2), d / np.float32(2)
        return a - half_w, b - half_h, a + half_w, b + half_h
    return min(a, c), min(b, d), max(a, c), max(b, d)


def _overlap_array(p: tuple[np.float32, ...], q: tuple[np.float32, ...], limit: np.float32) -> bool:
    width = min(p[2], q[2]) - max(p[0], q[0])
    height = min(p[3], q[3]) - max(p[1], q[1])
    if not (width > 0 and height > 0):
        return False
    shared = width * height
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (p, q)]
    return all(a > 0 for a in areas) and bool(shared / (areas[0] + areas[1] - shared) > limit)


@dataclass(frozen=True)
class SelectBoxesSpec(KernelSpec):
    """in0: boxes [n, m, 4], in1: scores [n, c, m], in2: overlap limit [1], in3 (`has_threshold`): score limit [1], all
    float32; out0: int64 [n * c, most], the selected boxes of every pair, best first; out1: int64 [n * c], how many."""

    center: bool
    has_threshold: bool

    def dims(self, call: Any) -> dict[str, DimLike]:
        _, classes, boxes = call.operands[1].shape
        pairs, most = call.results[0].shape
        return {"classes": classes, "boxes": boxes, "pairs": pairs, "most": most}

    def scratch(self, call: Any) -> DimLike:
        return product([call.operands[1].shape[2], PAIR])

    def work(self, call: Any) -> DimLike:
        return call.operands[1].size * 10  # type: ignore[no-any-return]

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        boxes, scores, limit = inputs[:3]
        (_, (pairs, most)), _ = results
        out, counts = np.zeros((pairs, most), np.int64), np.zeros(pairs, np.int64)
        classes = scores.shape[1]
        for pair in range(pairs):
            image, row = pair // classes, scores[pair // classes, pair % classes]
            least = inputs[3].reshape(-1)[0] if self.has_threshold else -np.inf
            order = [j for j in np.argsort(~keys_of(row), kind="stable") if not self.has_threshold or row[j] > least]
            picked: list[int] = []
            for j in order:
                mine = _corners_array(boxes[image, j], self.center)
                others = (_corners_array(boxes[image, i], self.center) for i in picked)
                if len(picked) < most and not any(_overlap_array(mine, o, limit.reshape(-1)[0]) for o in others):
                    picked.append(int(j))
            out[pair, : len(picked)], counts[pair] = picked, len(picked)
        return [out, counts]

    # --- code -----------------------------------------------------------------------------------------------------
    def emit(self, k: Emission) -> None:
        f, arg = k.f, k.arg
        begin, end = k.split(arg["pairs"])
        limit = f.load("float", arg["in2"])
        with f.loop(begin, end) as pair:
            heap, count = arg["scratch"], self._candidates(k, pair)
            heapify(f, heap, count)
            left, picked = f.var("i64", count), f.var("i64", 0)
            out = f.at(arg["out0"], pair * arg["most"], 8)
            boxes = f.at(arg["in0"], pair.udiv(arg["classes"]) * arg["boxes"], 16)
            with f.forever() as loop:
                loop.break_if(left.get().eq(0) | (picked.get() >= arg["most"]))
                best = self._pop_best(k, heap, left)
                with f.when(~self._suppressed(k, boxes, best, out, picked.get(), limit)):
                    f.store(best, f.at(out, picked.get(), 8))
                    picked.set(picked.get() + 1)
            f.store(picked.get(), f.at(arg["out1"], pair, 8))

    def _candidates(self, k: Emission, pair: V) -> V:
        """Fills scratch with the pairs of (inverted) key and index of boxes above the score limit; gives their number.

        Heaps have the worst pair at the root; keys and indices are inverted here, so that the best one is there."""
        f, arg = k.f, k.arg
        scores = f.at(arg["in1"], pair * arg["boxes"], 4)
        count = f.var("i64", 0)
        with f.loop(0, arg["boxes"]) as j:
            p = f.at(scores, j, 4)
            good = f.load("float", p) > f.load("float", arg["in3"]) if self.has_threshold else f.const("i1", 1)
            with f.when(good):
                store_pair(f, arg["scratch"], count.get(), ~sort_key(f, "float32", p), ~j)
                count.set(count.get() + 1)
        return count.get()

    def _pop_best(self, k: Emission, heap: V, left: Any) -> V:
        f = k.f
        best = ~load_pair(f, heap, 0)[1]
        last = left.get() - 1
        store_pair(f, heap, 0, *load_pair(f, heap, last))
        left.set(last)
        sift_down(f, heap, 0, f.smax(last, 1))
        return best

    def _corners(self, k: Emission, boxes: V, j: V) -> tuple[V, V, V, V]:
        f = k.f
        p = f.at(boxes, j, 16)
        a, b, c, d = (f.load("float", f.offset(p, 4 * i)) for i in range(4))
        if self.center:
            half_w, half_h = c / 2.0, d / 2.0
            return a - half_w, b - half_h, a + half_w, b + half_h
        return f.smin(a, c), f.smin(b, d), f.smax(a, c), f.smax(b, d)

    def _suppressed(self, k: Emission, boxes: V, best: V, out: V, picked: V, limit: V) -> V:
        """Whether box `best` overlaps one of those already picked too much."""
        f = k.f
        mine = self._corners(k, boxes, best)
        area = (mine[2] - mine[0]) * (mine[3] - mine[1])
        hit, n = f.var("i1", 0), f.var("i64", 0)
        with f.forever() as loop:
            loop.break_if(hit.get() | (n.get() >= picked))
            other = self._corners(k, boxes, f.load("i64", f.at(out, n.get(), 8)))
            width = f.smin(mine[2], other[2]) - f.smax(mine[0], other[0])
            height = f.smin(mine[3], other[3]) - f.smax(mine[1], other[1])
            area2 = (other[2] - other[0]) * (other[3] - other[1])
            shared = width * height
            real = (width > 0.0) & (height > 0.0) & (area > 0.0) & (area2 > 0.0)
            hit.set(real & (shared / (area + area2 - shared) > limit))
            n.set(n.get() + 1)
        return hit.get()


@dataclass(frozen=True)
class PackBoxesSpec(KernelSpec):
    """in0: selections [pairs, most], in1: counts [pairs], int64; out0: int64 [total, 3]: image, class, box."""

    def dims(self, call: Any) -> dict[str, DimLike]:
        pairs, most = call.operands[0].shape
        return {"pairs": pairs, "most": most, "classes": call.operands[2].shape[1], "total": call.results[0].shape[0]}

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        picked, counts, scores = inputs
        classes = scores.shape[1]
        rows = [(p // classes, p % classes, b) for p, n in enumerate(counts) for b in picked[p, :n]]
        return [np.array(rows, np.int64).reshape(-1, 3)]

    def emit(self, k: Emission) -> None:
        f, arg = k.f, k.arg
        row = f.var("i64", 0)
        pairs = f.select(k.thread.eq(0), arg["pairs"], 0)
        with f.loop(0, pairs) as pair:
            count = f.smin(f.load("i64", f.at(arg["in1"], pair, 8)), arg["total"] - row.get())
            with f.loop(0, count) as n:
                target = f.at(arg["out0"], row.get() * 3, 8)
                box = f.load("i64", f.at(arg["in0"], pair * arg["most"] + n, 8))
                for place, value in enumerate((pair.udiv(arg["classes"]), pair.urem(arg["classes"]), box)):
                    f.store(value, f.offset(target, 8 * place))
                row.set(row.get() + 1)
