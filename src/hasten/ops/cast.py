"""Conversions between dtypes: Cast, CastLike, BitCast."""

from __future__ import annotations

from hasten.base import dtypes
from hasten.base.dtypes import is_float
from hasten.kernels import expr as E
from hasten.kernels.bitcast import BitCastSpec
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Tensor
from hasten.ops.elementwise import elementwise, refuse_complex
from hasten.ops.registry import Node, NoNative, operator, tensors

SATURATING = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn")
SMALLEST_NORMAL, E8M0_MAX = 2.0**-126, 2.0**127


def convert(cx: Context, x: Tensor, to: str, saturate: bool = True, round_mode: str = "up") -> Tensor:
    """x as dtype `to` with ONNX's meaning. saturate: numbers beyond a float8's range become its largest number (else
    NaN or infinity)."""
    if to == x.dtype:
        return x
    if to == "string" or to.startswith("complex"):
        raise NoNative(f"conversion to {to}")
    refuse_complex(cx, x)
    return elementwise(cx, lambda a: convert_element(a, to, saturate, round_mode), x, dtype=to)


def convert_element(a: Expr, to: str, saturate: bool = True, round_mode: str = "up") -> Expr:
    """The value of one element after conversion, in the compute dtype of `to`."""
    if to == "float8_e8m0fnu":
        return _power_of_two(E.cast(a, "float32"), saturate, round_mode)
    if saturate and to in SATURATING:
        return E.saturate(a if is_float(a.dtype) else E.cast(a, "float32"), to)
    return E.cast(a, to)


def _power_of_two(a: Expr, saturate: bool, round_mode: str) -> Expr:
    """a rounded to a power of two in [2^-127, 2^127]: upwards, downwards, or to the nearest.

    2^-127 is a denormal float, which arithmetic may take for 0: it only comes from `saturate` and isn't computed with.
    """
    if saturate and round_mode == "up":
        return E.saturate(a, "float8_e8m0fnu")
    inner = op("min", op("max", a, SMALLEST_NORMAL), E8M0_MAX) if saturate else a
    p = E.cast(inner, "float8_e8m0fnu")
    if round_mode == "up":
        p = E.select(p < inner, p * 2, p)
    elif round_mode == "down":
        p = E.select(p > inner, p * 0.5, p)
    if not saturate:
        return p
    return E.select(a < SMALLEST_NORMAL, E.saturate(E.const(0.0, "float32"), "float8_e8m0fnu"), p)


@operator("Cast")
def cast(cx: Context, node: Node, x: Tensor) -> Tensor:
    tensors(node, x)
    row = dtypes.BY_ONNX.get(int(node.attr("to")))
    if row is None:
        raise NoNative(f"conversion to element type {node.attr('to')}")
    return convert(cx, x, row.name, bool(node.attr("saturate", 1)), node.attr("round_mode", "up"))


@operator("CastLike")
def cast_like(cx: Context, node: Node, x: Tensor, like: Tensor) -> Tensor:
    tensors(node, x, like)
    return convert(cx, x, like.dtype, bool(node.attr("saturate", 1)), node.attr("round_mode", "up"))


def _width(row: dtypes.DType) -> int:
    return 8 if row.name == "bool" else row.bits


@operator("BitCast")
def bit_cast(cx: Context, node: Node, x: Tensor) -> Tensor:
    """The same bits as another dtype of the same width."""
    tensors(node, x)
    to = dtypes.BY_ONNX[int(node.attr("to"))]
    if _width(to) != _width(dtypes.dtype(x.dtype)):
        raise NoNative(f"{x.dtype} and {to.name} differ in width")
    if to.name == x.dtype:
        return x
    return cx.kernel(BitCastSpec(dtypes.dtype(x.dtype).size, to.name), [x], [(to.name, x.shape)])[0]
