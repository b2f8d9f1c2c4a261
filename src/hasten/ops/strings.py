"""N-grams (TfIdfVectorizer). Tensors of strings exist on the host only: operators on them have no rule and run as host ops."""

from __future__ import annotations

import numpy as np

from hasten.base.dims import DimLike
from hasten.base.errors import ModelError
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.registry import Node, NoNative, operator, tensors
from hasten.ops.scores import text

MODES = ("TF", "IDF", "TFIDF")


@operator("TfIdfVectorizer")
def tf_idf_vectorizer(cx: Context, node: Node, x: Tensor) -> Tensor:
    """How often each n-gram of a pool occurs in a row of integers, its elements at equal distances of 1 to max_skip_count + 1."""
    tensors(node, x)
    pool = _Pool(node)
    rows = cx.reshape(x, (1, *x.shape)) if x.rank == 1 else x
    if rows.rank != 2:
        raise ModelError(f"{node}: the input has {x.rank} axes; it must be a row or a table of rows")
    counts = pool.counts(cx, rows)
    mode = text(node.attr("mode"))
    if mode not in MODES:
        raise ModelError(f"{node}: unknown mode {mode!r}")
    weights = node.attr("weights", None)
    if weights and len(weights) != len(pool.columns):
        raise ModelError(f"{node}: {len(weights)} weights for {len(pool.columns)} n-grams")
    by_column = np.zeros(pool.width, np.float32)
    by_column[pool.columns] = weights or 1.0
    table = cx.const(by_column)

    def element(i: Index) -> Expr:
        count = counts.at(i)
        if mode == "TF":
            return count
        weight = table.at(i[1:])
        return count * weight if mode == "TFIDF" else E.select(0.0 < count, weight, 0.0)

    y = cx.map((rows.shape[0], pool.width), "float32", element)
    return cx.reshape(y, (pool.width,)) if x.rank == 1 else y


class _Pool:
    """The n-grams of a node as tables: one row for each column of the result."""

    def __init__(self, node: Node):
        values, starts = node.attr("pool_int64s", None), [int(v) for v in node.attr("ngram_counts")]
        if not values:
            raise NoNative("n-grams of strings")
        columns = [int(v) for v in node.attr("ngram_indexes")]
        least, most, skips = (int(node.attr(n)) for n in ("min_gram_length", "max_gram_length", "max_skip_count"))
        if sorted(starts) != starts or (starts and not 0 <= starts[0] <= starts[-1] <= len(values)):
            raise ModelError(f"{node}: ngram_counts is {starts} for a pool of {len(values)}")
        grams: list[tuple[int, ...]] = []
        for n, (begin, end) in enumerate(zip(starts, [*starts[1:], len(values)], strict=True), 1):
            if (end - begin) % n:
                raise ModelError(f"{node}: the pool has {end - begin} numbers for n-grams of {n}")
            grams += [tuple(values[k : k + n]) for k in range(begin, end, n)]
        if len(grams) != len(columns) or not columns or min(columns) < 0 or skips < 0:
            raise ModelError(f"{node}: ngram_indexes has {len(columns)} values for {len(grams)} n-grams")
        if len(set(columns)) != len(columns) or len(set(grams)) != len(grams):
            raise NoNative("several n-grams are counted together")
        self.columns, self.width, self.skips = columns, max(columns) + 1, skips
        if self.width > 16 * len(columns) + 64:
            raise NoNative("most columns of the result belong to no n-gram")
        self.longest = max(len(g) for g in grams)
        self.length = np.zeros(self.width, np.int64)
        self.gram = np.zeros((self.width, self.longest), np.int64)
        for column, g in zip(columns, grams, strict=True):
            if least <= len(g) <= most:
                self.length[column] = len(g)
                self.gram[column, : len(g)] = g

    def counts(self, cx: Context, rows: Tensor) -> Tensor:
        """float32 [rows, width]. A single element counts once, whatever the distance."""
        length, gram = cx.const(self.length), cx.const(self.gram)
        size: DimLike = rows.shape[1]

        def hit(o: Index, r: Index) -> Expr:
            n = length.at(o[1:])
            skip, start = r
            single = n.eq(1)
            step = E.index(skip) + 1
            fits = (E.index(start) + (n - 1) * step < E.index(size)) & (0 < n) & (~single | E.index(skip).eq(0))
            for k in range(self.longest):
                wanted = (E.index(k) < n) & fits
                value = E.cast(
                    cx.load(
                        rows, (o[0], start + k * (skip + 1)), wanted & (E.index(start + k * (skip + 1)) < E.index(size))
                    ),
                    "int64",
                )
                fits = fits & (~(E.index(k) < n) | value.eq(gram.at((o[1], k))))
            return E.cast(fits, "float32")

        return cx.reduce("sum", "float32", (rows.shape[0], self.width), (self.skips + 1, size), hit)
