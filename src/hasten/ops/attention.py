"""Attention and RotaryEmbedding.

Attention of floats is one kernel (kernels.attention) that never stores the matrix of all scores. Where that matrix is
an output, in double precision, and on AMX tiles, attention is two matrix products with a softmax between them; scale,
soft cap, bias and masks are elementwise and fuse with the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.dtypes import compute_type
from hasten.kernels import expr as E
from hasten.kernels.attention import AttentionSpec
from hasten.kernels.attention_scores import Window
from hasten.kernels.dense_amx import gemm_products
from hasten.kernels.expr import Expr, op
from hasten.kernels.gemm import GemmProblem
from hasten.lower.trace import Context, Index, Stage, Tensor
from hasten.ops.cast import convert
from hasten.ops.dense import isa_of
from hasten.ops.geometry import both
from hasten.ops.matmul import matmul
from hasten.ops.reduce import along_axis
from hasten.ops.registry import Node, operator, tensors

MINUS_INFINITY = -math.inf
FLOATS = ("float32", "float16", "bfloat16")  # what the kernel reads
RAW, CAPPED, BIASED, PROBABILITIES = range(4)  # qk_matmul_output_mode


def heads(cx: Context, x: Tensor, number: int) -> Tensor:
    """[batch, sequence, hidden] as [batch, heads, sequence, head size]; rank 4 stays."""
    if x.rank == 4:
        return x
    split = cx.reshape(x, (*x.shape[:2], number, D.floordiv(x.shape[2], number)))
    return cx.transpose(split, (0, 2, 1, 3))


class _Bias:
    """What is added to the products, and which of them count, by index (batch, head, query, key)."""

    def __init__(
        self,
        cx: Context,
        node: Node,
        q: Tensor,
        k: Tensor,
        mask: Tensor | None,
        past: Tensor | None,
        valid: Tensor | None,
    ):
        self.cx, self.mask, self.valid = cx, mask, valid
        self.causal = bool(node.attr("is_causal", 0))
        self.left, self.right = int(node.attr("left_window_size", -1)), int(node.attr("right_window_size", -1))
        self.queries = q.shape[2]
        self.before: DimLike = 0 if past is None else past.shape[2]
        self.shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        if mask is not None:
            cx.broadcast_shapes(mask.shape[:-1], self.shape[:-1])
            self.shorter = D.known_equal(mask.shape[-1], k.shape[2]) is not True

    @property
    def needed(self) -> bool:
        """Whether any key may not count."""
        return self.causal or max(self.left, self.right) >= 0 or self.mask is not None or self.valid is not None

    def _offset(self, i: Index) -> Expr:
        """Keys that precede the first query."""
        if self.valid is None or not isinstance(self.before, int) or self.before != 0:
            return E.index(self.before)
        return self.valid.at((i[0],)) - E.index(self.queries)

    def window(self) -> Window | None:
        """Which keys count by position; None: all."""
        right = 0 if self.causal else self.right
        if max(self.left, right) < 0:
            return None
        at_end = self.valid is not None and isinstance(self.before, int) and self.before == 0
        return Window(self.left, right, self.before, at_end)

    def _mask_at(self, i: Index) -> Expr:
        """The mask's element; keys beyond its end don't count."""
        mask = self.mask
        assert mask is not None
        lead = self.cx.broadcast_index(i[:-1], mask.shape[:-1], self.shape[:-1])
        guard = E.index(i[3]) < E.index(mask.shape[-1]) if self.shorter else None
        return self.cx.load(mask, (*lead, i[3]), guard, False if mask.dtype == "bool" else MINUS_INFINITY)

    def allowed(self, i: Index) -> Expr | None:
        """Whether a key counts for a query; None: all do."""
        ok: Expr | None = None
        if self.mask is not None and self.mask.dtype == "bool":
            ok = self._mask_at(i)
        if self.causal or max(self.left, self.right) >= 0:
            position, key = E.index(i[2]) + self._offset(i), E.index(i[3])
            if self.causal or self.right >= 0:
                ok = both(ok, key <= position + (0 if self.causal else self.right))
            if self.left >= 0:
                ok = both(ok, ~(key < position - self.left))
        if self.valid is not None:
            ok = both(ok, E.index(i[3]) < self.valid.at((i[0],)))
        return ok

    def apply(self, i: Index, value: Expr) -> Expr:
        if self.mask is not None and self.mask.dtype != "bool":
            value = value + E.cast(self._mask_at(i), value.dtype)
        ok = self.allowed(i)
        return value if ok is None else E.select(ok, value, MINUS_INFINITY)


def masked_softmax(cx: Context, x: Tensor, dtype: str, precision: str, masked: bool) -> Tensor:
    """Softmax along the last axis, computed in `precision`; masked: a row of nothing but -inf gives zeros."""

    def top(p: dict[str, Expr]) -> Expr:
        return E.select(p["max"].eq(MINUS_INFINITY), 0, p["max"]) if masked else p["max"]

    def stages(at: Callable[[Index, Index], Expr]) -> list[Stage]:
        return [
            Stage("max", "max", lambda o, r, p: E.cast(at(o, r), precision)),
            Stage("sum", "sum", lambda o, r, p: op("exp", E.cast(at(o, r), precision) - top(p))),
        ]

    def final(e: Expr, r: Index, p: dict[str, Expr]) -> Expr:
        total = E.select(p["sum"].eq(0), 1, p["sum"]) if masked else p["sum"]
        return E.cast(op("exp", E.cast(e, precision) - top(p)) * (1 / total), compute_type(dtype))

    return along_axis(cx, x, x.rank - 1, stages, final, dtype)


def grouped_matmul(cx: Context, a: Tensor, b: Tensor, dtype: str) -> Tensor:
    """a [B, H, M, K] times b [B, G, K, N], each of the G heads of b serving H / G neighbouring heads of a: as more
    rows."""
    if D.known_equal(a.shape[1], b.shape[1]) is True:
        return matmul(cx, a, b, dtype)
    groups = D.floordiv(a.shape[1], b.shape[1])
    cx.require(groups * b.shape[1], "==", a.shape[1], f"{cx.where()}: query heads are a multiple of key heads")
    rows = cx.reshape(a, (a.shape[0], b.shape[1], groups * a.shape[2], a.shape[3]))
    y = matmul(cx, rows, b, dtype)
    return cx.reshape(y, (*a.shape[:3], b.shape[3]))


@operator("Attention")
def attention(
    cx: Context,
    node: Node,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    valid: Tensor | None = None,
) -> list[Tensor | None]:
    """softmax(scale * q k' + bias) v; also the keys and values with the past ones, and a stage of the product."""
    tensors(node, q, k, v, mask, past_key, past_value, valid)
    flat, own = q.rank == 3, compute_type(q.dtype)
    q = heads(cx, q, int(node.attr("q_num_heads", 0)))
    k, v = (heads(cx, t, int(node.attr("kv_num_heads", 0))) for t in (k, v))
    k = k if past_key is None else cx.concat([past_key, k], 2)
    v = v if past_value is None else cx.concat([past_value, v], 2)
    bias = _Bias(cx, node, q, k, mask, past_key, valid)
    wanted = node.attr("softmax_precision", None)
    precision = own if wanted is None else compute_type(dtypes.BY_ONNX[int(wanted)].name)
    shown, y = None, _streamed(cx, node, q, k, v, bias, precision)
    if y is None:
        raw, biased = _logits(cx, node, q, k, bias)
        weights = masked_softmax(cx, biased, q.dtype, precision, bias.needed)
        y = grouped_matmul(cx, weights, convert(cx, v, q.dtype), q.dtype)
        mode = int(node.attr("qk_matmul_output_mode", RAW))
        shown = weights if mode == PROBABILITIES else biased if mode == BIASED else raw
    if flat:
        y = cx.transpose(y, (0, 2, 1, 3))
        y = cx.reshape(y, (*y.shape[:2], y.shape[2] * y.shape[3]))
    return [y, k if node.wants(1) else None, v if node.wants(2) else None, shown if node.wants(3) else None]


def _streamed(cx: Context, node: Node, q: Tensor, k: Tensor, v: Tensor, bias: _Bias, precision: str) -> Tensor | None:
    """Attention by the kernel; None where it doesn't serve."""
    isa, mask = isa_of(cx), bias.mask
    given = [q, k, v] if mask is None else [q, k, v, mask]
    floats = all(t.dtype in FLOATS for t in given[:3])
    if isa is None or not floats or precision != "float32" or node.wants(3) or any(d == 0 for t in given for d in t.shape):
        return None
    if mask is not None and mask.dtype not in ("bool", *FLOATS):
        return None
    size, keys = (d if isinstance(d, int) else None for d in (q.shape[3], k.shape[2]))
    products = GemmProblem(size, keys, "columns")
    if gemm_products(cx.options.precision, isa, products, None, q.dtype, q.shape[2:3]) is not None:
        return None
    cx.require(q.shape[3], "==", k.shape[3], f"{cx.where()}: keys have the size of queries")
    cx.require(k.shape[2], "==", v.shape[2], f"{cx.where()}: there are as many values as keys")
    cx.require(k.shape[1], "==", v.shape[1], f"{cx.where()}: keys and values have as many heads")
    cx.require(D.mod(q.shape[1], k.shape[1]), "==", 0, f"{cx.where()}: query heads are a multiple of key heads")
    operands = [q, *(cx.broadcast_to(t, (q.shape[0], *t.shape[1:])) for t in (k, v))]
    if mask is not None:
        operands.append(cx.broadcast_to(mask, (*bias.shape[:3], mask.shape[-1])))
    if bias.valid is not None:
        operands.append(bias.valid)
    scale = node.attr("scale", None)
    spec = AttentionSpec(
        isa,
        (q.dtype, k.dtype, v.dtype),
        size,
        v.shape[3] if isinstance(v.shape[3], int) else None,
        None if scale is None else float(scale),
        float(node.attr("softcap", 0.0)),
        "" if mask is None else mask.dtype,
        bias.valid is not None,
        bias.window(),
    )
    y = cx.kernel(spec, operands, [("float32", (*q.shape[:3], v.shape[3]))])[0]
    return y if q.dtype == "float32" else cx.map(y.shape, q.dtype, lambda i: y.at(i))


def _logits(cx: Context, node: Node, q: Tensor, k: Tensor, bias: _Bias) -> tuple[Tensor, Tensor]:
    """The scaled products (capped, where the mode asks for that stage), and those with cap and bias."""
    scale, cap = node.attr("scale", None), float(node.attr("softcap", 0.0))
    own = compute_type(q.dtype)
    product = grouped_matmul(cx, q, cx.transpose(k, (0, 1, 3, 2)), own)

    def scaled(i: Index) -> Expr:
        size = q.shape[3]
        if scale is not None:
            return product.at(i) * float(scale)
        if isinstance(size, int):
            return product.at(i) * (1 / math.sqrt(size))
        return product.at(i) * (1 / op("sqrt", E.cast(E.index(size), own)))

    def capped(i: Index) -> Expr:
        return op("tanh", scaled(i) / cap) * cap if cap > 0 else scaled(i)

    stage = capped if int(node.attr("qk_matmul_output_mode", RAW)) == CAPPED else scaled
    raw = cx.map(product.shape, q.dtype, stage)
    return raw, cx.map(
        product.shape, own if q.dtype != own and not node.wants(3) else q.dtype, lambda i: bias.apply(i, capped(i))
    )


@operator("RotaryEmbedding")
def rotary_embedding(
    cx: Context, node: Node, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None = None
) -> Tensor:
    """Pairs of elements of every head rotated by the angle of their token's position."""
    tensors(node, x, cos, sin, positions)
    wide = heads(cx, x, int(node.attr("num_heads", 0)))
    size: DimLike = int(node.attr("rotary_embedding_dim", 0)) or wide.shape[3]
    half = D.floordiv(size, 2)
    interleaved = bool(node.attr("interleaved", 0))
    lead = wide.shape[:3]

    def factor(table: Tensor, i: Index, pair: DimLike) -> Expr:
        if positions is None:
            return table.at((i[0], i[2], pair))
        return table.at((cx.index(positions.at((i[0], i[2])), table.shape[0]), pair))

    def rotated(i: Index, pair: DimLike, first: DimLike, second: DimLike) -> tuple[Expr, Expr, Expr, Expr]:
        return wide.at((*i[:3], first)), wide.at((*i[:3], second)), factor(cos, i, pair), factor(sin, i, pair)

    def real(i: Index, pair: DimLike, first: DimLike, second: DimLike) -> Expr:
        a, b, c, s = rotated(i, pair, first, second)
        return a * c - b * s

    def imaginary(i: Index, pair: DimLike, first: DimLike, second: DimLike) -> Expr:
        a, b, c, s = rotated(i, pair, first, second)
        return a * s + b * c

    if interleaved:
        pairs = [
            cx.map((*lead, half, 1), x.dtype, lambda i, fn=fn: fn(i, i[3], i[3] * 2, i[3] * 2 + 1))  # type: ignore[misc]
            for fn in (real, imaginary)
        ]
        turned = cx.reshape(cx.concat(pairs, 4), (*lead, half * 2))
    else:
        halves = [
            cx.map((*lead, half), x.dtype, lambda i, fn=fn: fn(i, i[3], i[3], i[3] + half))  # type: ignore[misc]
            for fn in (real, imaginary)
        ]
        turned = cx.concat(halves, 3)
    if size != wide.shape[3]:
        rest = cx.view((*lead, wide.shape[3] - size), wide, lambda i: (*i[:3], i[3] + size))
        turned = cx.concat([turned, rest], 3)
    return turned if x.rank == 4 else cx.reshape(cx.transpose(turned, (0, 2, 1, 3)), x.shape)
