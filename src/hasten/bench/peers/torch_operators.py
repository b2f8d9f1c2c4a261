"""How ONNX's operators are said in torch: `OPERATORS`, a table of functions of a `Call` and the node's inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from hasten.bench.peers.torch_graph import HALVES, Call, Untranslatable, Value
from hasten.bench.peers.torch_movement import MOVEMENT, axes_of
from hasten.bench.peers.torch_windows import WINDOWS

Translate = Callable[..., Any]


# --- elementwise --------------------------------------------------------------------------------------------------------------
def _plain(function: Callable[..., Any]) -> Translate:
    """An operator that is one function of its inputs."""
    return lambda c, *inputs: c(function, *inputs)


def _binary(function: Callable[..., Any]) -> Translate:
    """With numbers in place of known tensors of one element: quicker, and easier to fuse."""

    def translate(c: Call, a: Value, b: Value) -> Any:
        return c(function, *_with_number(a, b))

    return translate


def _with_number(a: Value, b: Value) -> tuple[Any, Any]:
    def number(value: Value, other: Value) -> Any:
        simple = value.known and value.example.numel() == 1 and value.rank <= other.rank and not other.known
        return value.example.item() if simple and value.example.dtype == other.example.dtype else value

    return number(a, b), number(b, a)


def _fold(function: Callable[..., Any]) -> Translate:
    """A binary function over any number of inputs."""

    def translate(c: Call, *inputs: Value) -> Any:
        result = inputs[0]
        for value in inputs[1:]:
            result = c(function, result, value)
        return result

    return translate


def _div(c: Call, a: Value, b: Value) -> Any:
    if a.example.is_floating_point():
        return c(torch.div, *_with_number(a, b))
    return c(torch.div, a, b, rounding_mode="trunc")


def _mod(c: Call, a: Value, b: Value) -> Any:
    return c(torch.fmod if c.get("fmod", 0) else torch.remainder, a, b)


def _pow(c: Call, a: Value, b: Value) -> Any:
    result = c(torch.pow, a, b.constant() if b.known and b.example.numel() == 1 and b.rank <= a.rank else b)
    return result if result.example.dtype == a.example.dtype else c(torch.Tensor.to, result, a.example.dtype)


def _clip(c: Call, x: Value, low: Value | None = None, high: Value | None = None) -> Any:
    if c.opset < 11:
        return c(torch.clamp, x, c.get("min"), c.get("max")) if c.attributes else x
    bounds: list[Any] = [bound.constant() if bound is not None and bound.known else bound for bound in (low, high)]
    if any(isinstance(bound, Value) for bound in bounds):
        bounds = [bound if bound is None or isinstance(bound, Value) else c.builder.constant(bound, x.example.dtype) for bound in bounds]
    return c(torch.clamp, x, *bounds) if any(bound is not None for bound in bounds) else x


def _cast(c: Call, x: Value) -> Any:
    from onnx import helper

    name = helper.tensor_dtype_to_np_dtype(c.get("to")).name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise Untranslatable(f"to {name}")
    dtype = torch.float32 if dtype in HALVES else dtype
    return x if x.example.dtype == dtype else c(torch.Tensor.to, x, dtype)


def _prelu(c: Call, x: Value, slope: Value) -> Any:
    if slope.known and x.rank > 1 and slope.example.numel() in (1, x.shape[1]) and slope.rank <= x.rank:
        along = (slope.shape if slope.rank == x.rank else (1,) * (x.rank - slope.rank) + slope.shape)[1]
        if slope.example.numel() in (1, along):
            return c(F.prelu, x, c(torch.reshape, slope, (-1,)))
    return c(torch.where, c(torch.lt, x, 0), c(torch.mul, x, slope), x)


def _gelu(c: Call, x: Value) -> Any:
    return c(F.gelu, x, approximate=c.get("approximate", "none"))


def _hard_sigmoid(c: Call, x: Value) -> Any:
    alpha, beta = c.get("alpha", 0.2), c.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:  # what torch has a kernel for
        return c(F.hardsigmoid, x)
    return c(torch.clamp, c(torch.add, c(torch.mul, x, alpha), beta), 0, 1)


def _where(c: Call, condition: Value, a: Value, b: Value) -> Any:
    return c(torch.where, condition, a, b)


# --- reductions and normalisations --------------------------------------------------------------------------------------------
def _reduction(function: Callable[..., Any]) -> Translate:
    def translate(c: Call, x: Value, axes: Value | None = None) -> Any:
        over = axes_of(c, axes)
        if over == [] or over is None and c.get("noop_with_empty_axes", 0):
            return x
        return c(function, x, tuple(range(x.rank)) if over is None else tuple(over), bool(c.get("keepdims", 1)))

    return translate


def _l2(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.linalg.vector_norm(x, 2, axes, keep)


def _sum_square(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    return torch.sum(x * x, axes, keep)


def _arg(function: Callable[..., Any]) -> Translate:
    def translate(c: Call, x: Value) -> Any:
        if c.get("select_last_index", 0):
            raise Untranslatable("select_last_index")
        return c(function, x, c.get("axis", 0), bool(c.get("keepdims", 1)))

    return translate


def _softmax(function: Callable[..., Any]) -> Translate:
    """Before opset 13 over all axes from `axis` on."""

    def translate(c: Call, x: Value) -> Any:
        if c.opset >= 13:
            return c(function, x, c.get("axis", -1))
        axis = c.get("axis", 1) % x.rank
        if math.prod(x.shape[axis + 1 :]) == 1:
            return c(function, x, axis)
        flat = c(torch.reshape, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
        return c(torch.reshape, c(function, flat, 1), x.shape)

    return translate


def _layer_norm(c: Call, x: Value, scale: Value, bias: Value | None = None) -> Any:
    axis = c.get("axis", -1) % x.rank
    shape = x.shape[axis:]
    full = [None if value is None else c(torch.Tensor.expand, value, shape) for value in (scale, bias)]
    return c(F.layer_norm, x, shape, *full, c.get("epsilon", 1e-5))


def _instance_norm(c: Call, x: Value, scale: Value, bias: Value) -> Any:
    return c(F.instance_norm, x, None, None, scale, bias, True, 0.0, c.get("epsilon", 1e-5))


def _group_norm(c: Call, x: Value, scale: Value, bias: Value) -> Any:
    if c.opset < 21:
        raise Untranslatable("a scale for each group")
    return c(F.group_norm, x, c.get("num_groups"), scale, bias, c.get("epsilon", 1e-5))


# --- matrix products and recurrences ------------------------------------------------------------------------------------------
def _matmul(c: Call, a: Value, b: Value) -> Any:
    if b.known and b.rank == 2 and a.rank >= 2:
        return c(F.linear, a, c(_turned, b))
    return c(torch.matmul, a, b)


def _turned(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.t().contiguous()


def _gemm(c: Call, a: Value, b: Value, bias: Value | None = None) -> Any:
    alpha, beta = c.get("alpha", 1.0), c.get("beta", 1.0)
    if c.get("transA", 0):
        a = c(torch.t, a)
    if alpha != 1:
        b = c(torch.mul, b, alpha)
    if bias is not None and beta != 1:
        bias = c(torch.mul, bias, beta)
    columns = b if c.get("transB", 0) else c(_turned, b)
    if bias is None or bias.shape == columns.shape[:1]:
        return c(F.linear, a, columns, bias)
    return c(torch.add, c(F.linear, a, columns), bias)


def _einsum(c: Call, *inputs: Value) -> Any:
    return c(torch.einsum, c.get("equation"), list(inputs))


def _recurrent(function: Callable[..., Any], gates: Sequence[int], states: int, activations: tuple[str, ...]) -> Translate:
    """LSTM and GRU by torch's own; `gates`: where torch's gates lie among ONNX's. `activations`: torch's."""

    def translate(c: Call, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None, *more: Value | None) -> Any:
        direction, size = c.get("direction", "forward"), c.get("hidden_size")
        usual = c.get("layout", 0) == 0 and direction != "reverse" and not any(c.get(name) for name in ("clip", "input_forget"))
        usual = usual and tuple(name.decode() for name in c.get("activations", ())) in ((), activations, 2 * activations)
        if not usual or lengths is not None and not lengths.known or any(value is not None for value in more[states:]):
            raise Untranslatable("a form that torch's does not have")
        if lengths is not None and set(lengths.constant()) != {x.shape[0]}:
            raise Untranslatable("sequences of different lengths")
        if states == 1 and not c.get("linear_before_reset", 0):
            raise Untranslatable("linear_before_reset=0")
        directions = w.shape[0]
        weights = []
        for d in range(directions):
            both = c(torch.zeros, 2 * len(gates) * size) if bias is None else c(torch.select, bias, 0, d)
            halves = c(torch.split, both, len(gates) * size)
            parts = (c(torch.select, w, 0, d), c(torch.select, r, 0, d), *halves)
            weights += [c(_reordered, part, len(gates), list(gates)) for part in parts]
        zeros = c.builder.constant(torch.zeros(directions, x.shape[1], size))
        start = [(more[at] if at < len(more) else None) or zeros for at in range(states)]
        y, *last = c(function, x, start if states == 2 else start[0], weights, True, 1, 0.0, False, directions == 2, False)
        steps, batch = x.shape[:2]
        return c(torch.permute, c(torch.reshape, y, (steps, batch, directions, size)), (0, 2, 1, 3)), *last

    return translate


def _reordered(tensor: torch.Tensor, count: int, order: list[int]) -> torch.Tensor:
    return torch.cat([tensor.chunk(count)[at] for at in order]).contiguous()


def _identity(c: Call, x: Value, *_: Value | None) -> Value:
    return x


OPERATORS: dict[str, Translate] = {
    **{name: _plain(function) for name, function in {
        "Abs": torch.abs, "Acos": torch.acos, "Asin": torch.asin, "Atan": torch.atan, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf, "Exp": torch.exp,
        "Floor": torch.floor, "HardSwish": F.hardswish, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not,
        "Reciprocal": torch.reciprocal, "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
        "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tanh": torch.tanh, "And": torch.logical_and, "Or": torch.logical_or,
        "IsNaN": torch.isnan,
    }.items()},
    **{name: _binary(function) for name, function in {
        "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Equal": torch.eq, "Greater": torch.gt, "Less": torch.lt, "GreaterOrEqual": torch.ge,
        "LessOrEqual": torch.le,
    }.items()},
    **{name: _fold(function) for name, function in {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}.items()},
    **{name: _reduction(function) for name, function in {
        "ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin, "ReduceL2": _l2, "ReduceLogSumExp": torch.logsumexp,
        "ReduceSumSquare": _sum_square,
    }.items()},
    "Div": _div, "Mod": _mod, "Pow": _pow, "Clip": _clip, "Cast": _cast, "PRelu": _prelu, "Gelu": _gelu, "HardSigmoid": _hard_sigmoid, "Where": _where,
    "LeakyRelu": lambda c, x: c(F.leaky_relu, x, c.get("alpha", 0.01)), "Elu": lambda c, x: c(F.elu, x, c.get("alpha", 1.0)),
    "Selu": lambda c, x: c(F.selu, x), "Identity": _identity, "Dropout": _identity,
    "ArgMax": _arg(torch.argmax), "ArgMin": _arg(torch.argmin), "Softmax": _softmax(torch.softmax), "LogSoftmax": _softmax(torch.log_softmax),
    "LayerNormalization": _layer_norm, "InstanceNormalization": _instance_norm, "GroupNormalization": _group_norm,
    "MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum,
    "LSTM": _recurrent(torch.lstm, (0, 2, 3, 1), 2, ("Sigmoid", "Tanh", "Tanh")), "GRU": _recurrent(torch.gru, (1, 0, 2), 1, ("Sigmoid", "Tanh")),
    **MOVEMENT, **WINDOWS,
}  # fmt: skip
