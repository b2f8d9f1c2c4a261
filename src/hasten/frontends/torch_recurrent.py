"""Recurrent layers as the ONNX operators LSTM, GRU and RNN.

PyTorch unrolls a recurrent layer over the example's length when it traces one (or makes a loop of small operators of it), so that an exported
layer would know one length only. Within `recurrent_operators()` lengths stay open while a module is traced; the decompositions `RECURRENT` then
put one ONNX operator in the place of each level, with `torch.onnx.ops.symbolic_multi_out`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


@dataclass(frozen=True)
class _Kind:
    """A recurrent operator of ONNX: `gates[k]` is PyTorch's number of ONNX's gate k, `states` how many tensors go from step to step."""

    op_type: str
    gates: tuple[int, ...]
    states: int = 1
    activation: str | None = None
    after_reset: bool = False


_KINDS = {
    torch.ops.aten.lstm.input: _Kind("LSTM", (0, 3, 1, 2), states=2),  # input, forget, cell, output -> input, output, forget, cell
    torch.ops.aten.gru.input: _Kind("GRU", (1, 0, 2), after_reset=True),  # reset, update, new -> update, reset, hidden
    torch.ops.aten.rnn_tanh.input: _Kind("RNN", (0,), activation="Tanh"),
    torch.ops.aten.rnn_relu.input: _Kind("RNN", (0,), activation="Relu"),
}
_DIRECTIONS = {1: "forward", 2: "bidirectional"}


@contextlib.contextmanager
def recurrent_operators() -> Iterator[None]:
    """While this lasts, recurrent layers are ONNX operators to all tracing. For the whole process: PyTorch's tables are."""
    before = {op: op.py_kernels.get(_COMPOSITE) for op in _KINDS}
    for op in _KINDS:
        op.py_kernels[_COMPOSITE] = RECURRENT[op]
    try:
        yield
    finally:
        for op, kernel in before.items():
            if kernel is None:
                del op.py_kernels[_COMPOSITE]
            else:
                op.py_kernels[_COMPOSITE] = kernel


def _layers(kind: _Kind, x: Any, hx: Any, params: Sequence[Any], biased: bool, layers: int, dropout: float, train: bool, bidirectional: bool,
            batch_first: bool) -> tuple[Any, ...]:  # fmt: skip
    """aten::lstm, gru, rnn_tanh, rnn_relu: results float[seq, batch, directions * hidden] and the last state(s), float[layers * directions, ...]."""
    if train and dropout:
        raise NotImplementedError(f"{kind.op_type} with dropout in training mode draws random numbers; call eval() first")
    states = list(hx) if kind.states == 2 else [hx]
    if len({int(s.shape[2]) for s in states}) > 1:
        raise NotImplementedError(f"{kind.op_type} with a projected state (proj_size) has no ONNX operator")
    directions = 1 + bidirectional
    each = 4 if biased else 2
    x = x.transpose(0, 1) if batch_first else x
    last: list[list[Any]] = [[] for _ in states]
    for layer in range(layers):
        levels = range(layer * directions, (layer + 1) * directions)
        weights = [[_reordered(w, kind.gates) for w in params[n * each : (n + 1) * each]] for n in levels]
        x, *after = _layer(kind, x, weights, [s[levels.start : levels.stop] for s in states], _DIRECTIONS[directions])
        for found, state in zip(last, after, strict=True):
            found.append(state)
    return (x.transpose(0, 1) if batch_first else x, *(torch.cat(found) for found in last))


def _onednn(x: Any, w: Any, r: Any, wb: Any, rb: Any, h: Any, c: Any, reverse: bool, batch_sizes: Sequence[int], mode: int, hidden: int, layers: int,
            biased: bool, bidirectional: bool, batch_first: bool, train: bool) -> tuple[Any, ...]:  # fmt: skip
    """aten::mkldnn_rnn_layer, which is what PyTorch's compiler makes of one direction of one level of an LSTM on the CPU."""
    kind = _KINDS[torch.ops.aten.lstm.input]
    weights = [_reordered(v, kind.gates) for v in ((w, r, wb, rb) if biased else (w, r))]
    y, *after = _layer(kind, x, [weights], [h, c], "reverse" if reverse else "forward")
    return (y, *after, x.new_empty(0))


def _layer(kind: _Kind, x: Any, weights: list[list[Any]], states: list[Any], direction: str) -> tuple[Any, ...]:
    """One level in all its directions. x: float[seq, batch, input]; weights of a direction: [gates * hidden, input], [gates * hidden, hidden], biases."""
    length, batch, hidden = x.shape[0], x.shape[1], states[0].shape[2]
    directions = len(weights)
    bias = torch.stack([torch.cat(w[2:]) for w in weights]) if len(weights[0]) == 4 else None
    attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction}
    if kind.activation:
        attributes["activations"] = [kind.activation] * directions
    if kind.after_reset:
        attributes["linear_before_reset"] = 1
    inputs = [x, torch.stack([w[0] for w in weights]), torch.stack([w[1] for w in weights]), bias, None, *states]
    shapes = [[length, directions, batch, hidden], *([directions, batch, hidden] for _ in states)]
    y, *after = torch.onnx.ops.symbolic_multi_out(kind.op_type, inputs, attributes, dtypes=[x.dtype] * len(shapes), shapes=shapes)
    return (torch.cat([y[:, k] for k in range(directions)], 2), *after)  # not a reshape, which would ask how sizes relate


def _reordered(weight: Any, gates: tuple[int, ...]) -> Any:
    hidden = weight.shape[0] // len(gates)
    return torch.cat([weight[k * hidden : (k + 1) * hidden] for k in gates])


RECURRENT: dict[Any, Callable[..., Any]] = {op: functools.partial(_layers, kind) for op, kind in _KINDS.items()}
RECURRENT[torch.ops.aten.mkldnn_rnn_layer.default] = _onednn
