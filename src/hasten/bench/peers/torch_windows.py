"""ONNX's convolutions, poolings, batch normalisation and resizing in torch: a part of the table in `torch_operators`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from hasten.bench.peers.torch_graph import Call, Untranslatable, Value

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
MAXIMA = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
MEANS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def _geometry(c: Call, x: Value, sizes: list[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, padding before and after, an entry an axis."""
    rank = len(sizes)
    strides, dilations = list(c.get("strides", [1] * rank)), list(c.get("dilations", [1] * rank))
    auto = c.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(sizes, dilations, strict=True)]
        total = [max(0, (-(-n // s) - 1) * s + span - n) for n, s, span in zip(x.shape[2:], strides, spans, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return (strides, dilations, small, large) if auto == "SAME_UPPER" else (strides, dilations, large, small)
    pads = list(c.get("pads", [0] * 2 * rank)) if auto != "VALID" else [0] * 2 * rank
    return strides, dilations, pads[:rank], pads[rank:]


def _padded(c: Call, x: Value, before: list[int], after: list[int], value: float = 0.0) -> Any:
    """x with zeros (or `value`) around it."""
    pairs = [n for pair in reversed(list(zip(before, after, strict=True))) for n in pair]
    return c(F.pad, x, pairs, "constant", value) if any(pairs) else x


def _channels_last(weights: torch.Tensor) -> torch.Tensor:
    return weights.contiguous(memory_format=torch.channels_last) if weights.ndim == 4 else weights.contiguous()


def _conv(c: Call, x: Value, w: Value, bias: Value | None = None) -> Any:
    strides, dilations, before, after = _geometry(c, x, list(w.shape[2:]))
    if before != after:  # torch pads both sides alike
        x, before = _padded(c, x, before, after), [0] * len(before)
    return c(CONVOLUTIONS[x.rank - 3], x, c(_channels_last, w), bias, strides, before, dilations, c.get("group", 1))


def _conv_transpose(c: Call, x: Value, w: Value, bias: Value | None = None) -> Any:
    strides, dilations, before, after = _geometry(c, x, list(w.shape[2:]))
    more = list(c.get("output_padding", [0] * len(strides)))
    if c.get("output_shape") or c.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        shape = list(c.get("output_shape", [n * s for n, s in zip(x.shape[2:], strides, strict=True)]))[-len(strides) :]
        full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], strides, w.shape[2:], dilations, strict=True)]
        total = [f + m - n for f, m, n in zip(full, more, shape, strict=True)]
        before = [t // 2 if c.get("auto_pad") == "SAME_UPPER" else t - t // 2 for t in total]
        after = [t - b for t, b in zip(total, before, strict=True)]
    extra = [m + b - a for m, b, a in zip(more, before, after, strict=True)]  # padded alike, the end is short or long by so much
    cut = [max(0, -e) for e in extra]
    if min(before) < 0 or any(max(0, e) >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise Untranslatable("a padding that torch's does not have")
    function = TRANSPOSED[x.rank - 3]
    y = c(function, x, c(_channels_last, w), bias, strides, before, [max(0, e) for e in extra], c.get("group", 1), dilations)
    return _padded(c, y, [0] * len(cut), [-n for n in cut])


def _max_pool(c: Call, x: Value) -> Any:
    if len(c.node.output) > 1:
        raise Untranslatable("places of the maxima")
    sizes = list(c.get("kernel_shape"))
    strides, dilations, before, after = _geometry(c, x, sizes)
    if before != after or any(2 * b > k for b, k in zip(before, sizes, strict=True)):
        x, before = _padded(c, x, before, after, -math.inf), [0] * len(before)
    return c(MAXIMA[x.rank - 3], x, sizes, strides, before, dilations, bool(c.get("ceil_mode", 0)))


def _average_pool(c: Call, x: Value) -> Any:
    sizes = list(c.get("kernel_shape"))
    strides, dilations, before, after = _geometry(c, x, sizes)
    if any(d != 1 for d in dilations):
        raise Untranslatable("dilations")
    function, ceil, all_count = MEANS[x.rank - 3], bool(c.get("ceil_mode", 0)), bool(c.get("count_include_pad", 0))
    if before == after and all(2 * b <= k for b, k in zip(before, sizes, strict=True)):
        return c(function, x, sizes, strides, before, ceil, all_count)
    mean = c(function, _padded(c, x, before, after), sizes, strides, 0, ceil)
    if all_count:
        return mean
    ones = _padded(c, Value(torch.ones(1, 1, *x.shape[2:])), before, after)
    return c(torch.div, mean, c(function, ones, sizes, strides, 0, ceil))


def _global(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda c, x: c(function, x, tuple(range(2, x.rank)), True)


def _batch_norm(c: Call, x: Value, scale: Value, bias: Value, mean: Value, var: Value) -> Any:
    """Taken into the convolution before it where nothing else reads that: what users of eager torch do with fuse_conv_bn_eval."""
    if c.get("training_mode", 0):
        raise Untranslatable("training_mode")
    epsilon = c.get("epsilon", 1e-5)
    if not all(value.known for value in (scale, bias, mean, var)):
        return c(F.batch_norm, x, mean, var, scale, bias, False, 0.0, epsilon)
    slope = scale.example.double() / torch.sqrt(var.example.double() + epsilon)
    shift = bias.example.double() - mean.example.double() * slope
    if x.node is not None and x.node.target in CONVOLUTIONS and c.builder.uses[c.node.input[0]] == 1:
        return _into_convolution(c, x, slope, shift)
    return c(F.batch_norm, x, mean, var, scale, bias, False, 0.0, epsilon)


def _into_convolution(c: Call, x: Value, slope: torch.Tensor, shift: torch.Tensor) -> Any:
    assert x.node is not None
    given, weights, bias, *rest = x.node.args
    old = [_parameter(c, node) for node in (weights, bias)]
    if old[0] is None or bias is not None and old[1] is None:
        raise Untranslatable("weights that are computed")
    dtype = old[0].dtype
    scaled = Value(_channels_last((old[0].double() * slope.reshape(-1, *[1] * (old[0].ndim - 1))).to(dtype)))
    moved = Value((shift if old[1] is None else shift + old[1].double() * slope).to(dtype))
    node = c.builder.graph.call_function(x.node.target, (given, c.builder.reference(scaled), c.builder.reference(moved), *rest))  # type: ignore[arg-type]
    shape = (-1, *[1] * (x.rank - 2))
    return Value((x.example * slope.reshape(shape) + shift.reshape(shape)).to(dtype), node)


def _parameter(c: Call, node: Any) -> torch.Tensor | None:
    """The parameter that a node of the graph stands for."""
    return getattr(c.builder.module, str(node.target)) if isinstance(node, torch.fx.Node) and node.op == "get_attr" else None


# --- resizing -----------------------------------------------------------------------------------------------------------------
def _resize(c: Call, x: Value, *given: Value | None) -> Any:
    """By F.interpolate where it has the form, else nearest neighbours by index."""
    scales, sizes = _scales(c, x, given)
    if any(scale != 1 for scale in scales[:2]) or x.rank < 3:
        raise Untranslatable("resizing of batch or channels")
    if sizes == list(x.shape):
        return x
    mode, where = c.get("mode", "nearest"), c.get("coordinate_transformation_mode", "asymmetric" if c.opset < 11 else "half_pixel")
    if mode == "nearest":
        return _nearest(c, x, scales, sizes, where)
    names = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}
    usual = c.get("cubic_coeff_a", -0.75) == -0.75 and not c.get("antialias", 0) and not c.get("exclude_outside", 0)
    lengths_one = where == "pytorch_half_pixel" and 1 in sizes[2:]
    if (mode, x.rank) not in names or where not in ("half_pixel", "pytorch_half_pixel", "align_corners") or not usual or lengths_one:
        raise Untranslatable(f"{mode} with {where}")
    exact = all(n * s == m for n, s, m in zip(x.shape, scales, sizes, strict=True))
    how: dict[str, Any] = {"size": sizes[2:]} if exact else {"scale_factor": scales[2:]}
    return c(F.interpolate, x, mode=names[mode, x.rank], align_corners=where == "align_corners", **how)


def _scales(c: Call, x: Value, given: tuple[Value | None, ...]) -> tuple[list[float], list[int]]:
    """Of all axes."""
    scales = given[0 if c.opset < 11 else 1] if len(given) > (0 if c.opset < 11 else 1) else None
    sizes = given[2] if len(given) > 2 else None
    axes = [axis % x.rank for axis in c.get("axes", range(x.rank))]
    if c.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Untranslatable("keep_aspect_ratio_policy")
    factors, lengths = [1.0] * x.rank, list(x.shape)
    if sizes is not None and sizes.example.numel():
        for axis, size in zip(axes, sizes.constant(), strict=True):
            factors[axis], lengths[axis] = size / x.shape[axis], size
    elif scales is not None and scales.example.numel():
        for axis, factor in zip(axes, scales.constant(), strict=True):
            factors[axis], lengths[axis] = factor, math.floor(x.shape[axis] * factor)
    elif c.get("scales"):  # Upsample of opset 7
        for axis, factor in zip(axes, c.get("scales"), strict=True):
            factors[axis], lengths[axis] = factor, math.floor(x.shape[axis] * factor)
    else:
        raise Untranslatable("neither scales nor sizes")
    return factors, lengths


def _nearest(c: Call, x: Value, scales: list[float], sizes: list[int], where: str) -> Any:
    rounding = c.get("nearest_mode", "floor" if c.opset < 11 else "round_prefer_floor")
    places = [_places(n, m, s, where, rounding) for n, m, s in zip(x.shape, sizes, scales, strict=True)]
    factors = [m // n for n, m in zip(x.shape, sizes, strict=True)]
    if x.rank in (3, 4, 5) and all(p == [at // f for at in range(m)] for p, f, m in zip(places, factors, sizes, strict=True) if f) and 0 not in factors:
        return c(F.interpolate, x, size=sizes[2:], mode="nearest")
    for axis, place in enumerate(places):
        if place != list(range(x.shape[axis])):
            x = c(torch.index_select, x, axis, c.builder.constant(place, torch.int64))
    return x


def _places(n: int, m: int, scale: float, where: str, rounding: str) -> list[int]:
    """Which of `n` elements is nearest to each of `m`."""
    at = torch.arange(m, dtype=torch.float64)
    if where == "align_corners":
        at = at * (n - 1) / (m - 1) if m > 1 else at * 0
    elif where == "asymmetric":
        at = at / scale
    elif where in ("half_pixel", "pytorch_half_pixel"):
        at = (at + 0.5) / scale - 0.5 if m > 1 or where == "half_pixel" else at * 0
    else:
        raise Untranslatable(f"nearest with {where}")
    rounded = {"floor": torch.floor(at), "ceil": torch.ceil(at), "round_prefer_floor": torch.ceil(at - 0.5), "round_prefer_ceil": torch.floor(at + 0.5)}
    return [int(place) for place in rounded[rounding].clamp(0, n - 1)]


WINDOWS: dict[str, Callable[..., Any]] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool, "AveragePool": _average_pool, "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax), "BatchNormalization": _batch_norm, "Resize": _resize, "Upsample": _resize,
}  # fmt: skip
