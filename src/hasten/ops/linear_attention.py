"""LinearAttention: attention as a recurrence over time (linear, gated, delta, gated delta)."""

from __future__ import annotations

from hasten.base import dims as D
from hasten.base.errors import ModelError
from hasten.kernels.linear_attention import LinearAttentionSpec, names
from hasten.lower.trace import Context, Tensor
from hasten.ops.registry import Node, NoNative, operator, tensors

RULES = {"linear": (), "gated": ("decay",), "delta": ("beta",), "gated_delta": ("decay", "beta")}


@operator("LinearAttention")
def linear_attention(
    cx: Context,
    node: Node,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
) -> list[Tensor]:
    """The outputs for all points in time, and the last state."""
    tensors(node, q, k, v, past, decay, beta)
    rule = str(node.attr("update_rule", "gated_delta"))
    q_heads, kv_heads = int(node.attr("q_num_heads")), int(node.attr("kv_num_heads"))
    if rule not in RULES or kv_heads < 1 or q_heads % kv_heads:
        raise ModelError(f"{cx.where()}: update_rule {rule!r} with {q_heads} query heads and {kv_heads} key heads")
    for name, t in (("decay", decay), ("beta", beta)):
        if (name in RULES[rule]) != (t is not None):
            wanted = " and ".join(RULES[rule]) or "neither decay nor beta"
            raise ModelError(f"{cx.where()}: update_rule {rule!r} needs {wanted}")
    if q.dtype == "float64":
        raise NoNative("LinearAttention of float64")
    for t in (k, v, decay, beta):
        if t is not None:
            cx.require(t.shape[0], "==", q.shape[0], f"{cx.where()}: batch sizes must agree")
            cx.require(t.shape[1], "==", q.shape[1], f"{cx.where()}: lengths must agree")
    dk, dv = D.floordiv(q.shape[2], q_heads), D.floordiv(v.shape[2], kv_heads)
    cx.require(k.shape[2], "==", dk * kv_heads, f"{cx.where()}: keys have the size of queries")
    cx.require(v.shape[2], "==", dv * kv_heads, f"{cx.where()}: the values' size is a multiple of the heads")
    state = (q.shape[0], kv_heads, dk, dv)
    for a, b in zip(state if past is None else past.shape, state, strict=True):
        cx.require(a, "==", b, f"{cx.where()}: past_state has shape (batch, heads, key size, value size)")
    per_key = decay is not None and D.known_equal(decay.shape[2], kv_heads) is not True
    one_beta = beta is not None and D.known_equal(beta.shape[2], kv_heads) is not True
    for name, t, size in (
        ("decay", decay, dk * kv_heads if per_key else kv_heads),
        ("beta", beta, 1 if one_beta else kv_heads),
    ):
        if t is not None:
            cx.require(t.shape[2], "==", size, f"{cx.where()}: the last axis of {name}")
    given = [("q", q), ("k", k), ("v", v), ("past", past), ("decay", decay), ("beta", beta)]
    kept = q.dtype if past is None else past.dtype
    scale = float(node.attr("scale", 0.0))
    spec = LinearAttentionSpec(names(given), q.dtype, kept, q_heads, kv_heads, per_key, one_beta, scale)
    operands = [t for _, t in given if t is not None]
    return cx.kernel(spec, operands, [(q.dtype, (*q.shape[:2], dv * q_heads)), (kept, state)])
