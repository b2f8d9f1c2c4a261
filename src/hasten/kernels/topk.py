"""The k largest or smallest elements of every row, best first: heaps of k pairs, so the cost is n log k at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.base.dims import DimLike, product
from hasten.codegen.builder import V, Var
from hasten.codegen.math_common import any_lane
from hasten.kernels.order import PAIR, float_keys, heapify, keys_of, load_pair, sift_down, sort_heap, sort_key, store_pair
from hasten.kernels.spec import Emission, KernelSpec


@dataclass(frozen=True)
class TopKSpec(KernelSpec):
    """in0: [..., n, ...] of `dtype`; out0: values, out1: int64 indices, [..., k, ...]. Ties: lowest index first."""

    dtype: str
    axis: int
    largest: bool

    def dims(self, call: Any) -> dict[str, DimLike]:
        shape = call.operands[0].shape
        return {
            "rows": product(shape[: self.axis]) * product(shape[self.axis + 1 :]),
            "inner": product(shape[self.axis + 1 :]),
            "n": shape[self.axis],
            "k": call.results[0].shape[self.axis],
        }

    def scratch(self, call: Any) -> DimLike:
        return call.results[0].shape[self.axis] * PAIR  # type: ignore[no-any-return]

    def work(self, call: Any) -> DimLike:
        alone = self.dims(call)["rows"] == 1
        return 0 if alone else call.operands[0].size * 2  # type: ignore[no-any-return]

    def describe(self) -> dict[str, str]:
        return {"algorithm": "selection with heaps"}

    def reference(self, inputs: list[np.ndarray], results: list[tuple[str, tuple[int, ...]]]) -> list[np.ndarray]:
        x = inputs[0]
        key = keys_of(x)
        order = np.argsort(~key if self.largest else key, self.axis, kind="stable")
        index = np.take(order, np.arange(results[0][1][self.axis]), self.axis)
        return [np.take_along_axis(x, index, self.axis), index.astype(np.int64)]

    def emit(self, k: Emission) -> None:
        f, arg = k.f, k.arg
        n, inner, count = arg["n"], arg["inner"], f.smin(arg["k"], arg["n"])
        size, heap = dtypes.dtype(self.dtype).size, arg["scratch"]
        begin, end = k.split(arg["rows"])
        some = f.select(count > 0, end, begin)
        with f.loop(begin, some) as row:
            outer, column = row.udiv(inner), row.urem(inner)
            source = f.at(arg["in0"], outer * n * inner + column, size)

            def key(j: Any) -> Any:
                raw = sort_key(f, self.dtype, f.at(source, j * inner, size))  # noqa: B023  (used in this iteration)
                return raw if self.largest else ~raw

            with f.loop(0, count) as j:
                store_pair(f, heap, j, key(j), j)
            heapify(f, heap, count)
            worst = f.var("i64", load_pair(f, heap, 0)[0])

            def consider(j: V) -> None:
                mine = key(j)  # noqa: B023
                with f.when(mine > worst.get()):  # noqa: B023
                    store_pair(f, heap, 0, mine, j)
                    sift_down(f, heap, 0, count)
                    worst.set(load_pair(f, heap, 0)[0])  # noqa: B023

            first = self._scan(k, source, count, worst, consider)
            with f.loop(first, n) as j:
                consider(j)
            sort_heap(f, heap, count)
            storage = dtypes.dtype(self.dtype).storage
            with f.loop(0, count) as j:
                index = load_pair(f, heap, j)[1]
                target = (outer * arg["k"] + j) * inner + column
                f.store(f.load(storage, f.at(source, index * inner, size)), f.at(arg["out0"], target, size))
                f.store(index, f.at(arg["out1"], target, 8))

    def _scan(self, k: Emission, source: V, count: V, worst: Var, consider: Callable[[V], None]) -> V:
        """Consider elements from `count` on, skipping vectors without a better one; gives where it stopped."""
        f, n = k.f, k.arg["n"]
        row = dtypes.dtype(self.dtype)
        if not dtypes.is_float(self.dtype):
            return count
        bits = dtypes.dtype(row.compute).bits
        lanes = k.isa.lanes(bits)
        whole = f.select(k.arg["inner"].eq(1), (n - count).udiv(lanes) * lanes, 0) + count
        with f.loop(count, whole, lanes) as j:
            keys = float_keys(f, self.dtype, f.at(source, j, row.size), lanes)
            limit = f.cast(worst.get(), f"i{bits}")
            better = keys > limit if self.largest else ~keys > limit
            with f.when(any_lane(f, better)), f.loop(j, j + lanes) as each:
                consider(each)
        return whole
