"""LSTM, GRU and RNN: one matrix product for the inputs of all steps, then a kernel for the recurrence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hasten.base import dtypes
from hasten.base.dims import DimLike
from hasten.base.errors import ModelError, TypeInferenceError
from hasten.kernels import expr as E
from hasten.kernels.cells import ACTIVATIONS, Activation, Cell
from hasten.kernels.expr import Expr, op
from hasten.kernels.recurrent import TILE, RecurrentSpec, pack_recurrent, padded
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.dense import constant, isa_of
from hasten.ops.matmul import matmul
from hasten.ops.registry import Node, NoNative, operator, tensors

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def _activations(node: Node, directions: int) -> list[tuple[Activation, ...]]:
    """The activations of every direction; parameters are consumed by those functions that have them, in order."""
    defaults = DEFAULTS[node.op_type]
    names = [n.decode() if isinstance(n, bytes) else n for n in node.attr("activations", None) or defaults * directions]
    if len(names) != len(defaults) * directions:
        raise ModelError(f"{node}: {len(names)} activations for {directions} directions of {len(defaults)} each")
    alphas, betas = iter(node.attr("activation_alpha", None) or ()), iter(node.attr("activation_beta", None) or ())
    out = []
    for name in names:
        row = ACTIVATIONS.get(name.lower())
        if row is None:
            raise ModelError(f"{node}: unknown activation {name!r}")
        alpha = 0.0 if row[0] is None else float(next(alphas, row[0]))
        beta = 0.0 if row[1] is None else float(next(betas, row[1]))
        out.append(Activation(name.lower(), alpha, beta))
    n = len(defaults)
    return [tuple(out[d * n : (d + 1) * n]) for d in range(directions)]


def _cells(node: Node, directions: int, peepholes: bool) -> tuple[Cell, ...]:
    clip = node.attr("clip", None)
    options = (
        None if clip is None else float(clip),
        bool(node.attr("linear_before_reset", 0)),
        bool(node.attr("input_forget", 0)),
    )
    return tuple(Cell(node.op_type, functions, *options, peepholes) for functions in _activations(node, directions))


def _cast(cx: Context, t: Tensor, dtype: str) -> Tensor:
    if t.dtype != dtype and (array := constant(t)) is not None:
        return cx.const(np.asarray(array, dtypes.to_numpy(dtype)))
    return t if t.dtype == dtype else cx.map(t.shape, dtype, lambda i: E.cast(t.at(i), dtype))


def _array(t: Tensor, dtype: str) -> np.ndarray | None:
    array = constant(t)
    return None if array is None else np.asarray(array, dtypes.to_numpy(dtype))


# --- weights ------------------------------------------------------------------------------------------------------
def _recurrent_weights(cx: Context, r: Tensor, gates: Sequence[int], hidden: int, lanes: int) -> Tensor:
    """The weights of some gates, packed for the kernel; r: [directions, gates * hidden, hidden]."""
    array = _array(r, r.dtype)
    directions = r.shape[0]
    assert isinstance(directions, int)
    if array is not None:
        whole = array.reshape(directions, -1, hidden, hidden)
        return cx.const(pack_recurrent(np.ascontiguousarray(whole[:, list(gates)]), lanes))
    blocks, deep, first = -(-hidden // lanes), padded(hidden), gates[0]

    def element(i: Index) -> Expr:
        d, block, k, gate, lane = i
        unit = block * lanes + lane
        guard = (E.index(unit) < hidden) & (E.index(k) < hidden)
        return cx.load(r, (d, (gate + first) * hidden + unit, k), guard, 0)

    return cx.map((directions, blocks, deep, len(gates), lanes), r.dtype, element)


def _input_weights(cx: Context, w: Tensor) -> Tensor:
    """[inputs, directions * gates * hidden] from [directions, gates * hidden, inputs]."""
    array = _array(w, w.dtype)
    if array is not None:
        return cx.const(np.ascontiguousarray(array.reshape(-1, array.shape[2]).T))
    return cx.transpose(cx.reshape(w, (w.shape[0] * w.shape[1], w.shape[2])), (1, 0))


def _input_bias(cx: Context, cell: Cell, b: Tensor, hidden: int) -> Tensor:
    """Both biases of every gate [directions * gates * hidden], without that of a GRU's state that r multiplies."""
    n = len(cell.gates) * hidden
    alone = 2 * hidden if "rb_h" in cell.constants else n
    array = _array(b, b.dtype)
    if array is not None:
        return cx.const((array[:, :n] + np.where(np.arange(n) < alone, array[:, n:], 0)).astype(array.dtype).reshape(-1))

    def element(i: Index) -> Expr:
        d, k = i
        second = b.at((d, k + n))
        return b.at((d, k)) + (second if alone == n else op("select", E.index(k) < alone, second, 0))

    return cx.reshape(cx.map((b.shape[0], n), b.dtype, element), (b.shape[0] * n,))


def _constants(cx: Context, cell: Cell, b: Tensor | None, p: Tensor | None, directions: int, hidden: int, dtype: str) -> list[Tensor]:
    out = []
    for n, name in enumerate(cell.constants):
        shape = (directions, hidden)
        if name == "rb_h":
            zero = cx.broadcast_to(cx.const(np.zeros((), dtypes.to_numpy(dtype))), shape)
            out.append(zero if b is None else cx.view(shape, b, lambda i: (i[0], i[1] + 5 * hidden)))
        else:
            assert p is not None
            out.append(cx.view(shape, p, lambda i, n=n: (i[0], i[1] + n * hidden)))  # type: ignore[misc]
    return out


# --- the operators --------------------------------------------------------------------------------------------------
@operator("LSTM", "GRU", "RNN")
def recurrent(
    cx: Context,
    node: Node,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    p: Tensor | None = None,
) -> list[Tensor]:
    """Outputs: Y, Y_h and (LSTM) Y_c."""
    tensors(node, x, w, r, b, lengths, h0, c0, p)
    directions, hidden = r.shape[0], r.shape[2]
    if not isinstance(directions, int) or not isinstance(hidden, int):
        raise NoNative("the number of directions and the hidden size must be known")
    given, dtype = x.dtype, "float64" if x.dtype == "float64" else "float32"
    x, w, r, b, h0, c0, p = (None if t is None else _cast(cx, t, dtype) for t in (x, w, r, b, h0, c0, p))  # type: ignore[assignment]
    cells = _cells(node, directions, p is not None)
    batch_first = bool(node.attr("layout", 0))
    seq, batch = (x.shape[1], x.shape[0]) if batch_first else x.shape[:2]
    rows = len(cells[0].gates) * hidden
    _fit(cx, "W", w, (directions, rows, x.shape[2]))
    _fit(cx, "R", r, (directions, rows, hidden))
    _fit(cx, "B", b, (directions, rows * 2))
    _fit(cx, "P", p, (directions, len(cells[0].constants) * hidden))
    _fit(cx, "sequence_lens", lengths, (batch,))
    isa = isa_of(cx)
    lanes = isa.lanes(64 if dtype == "float64" else 32) if isa is not None else 4
    gates = len(cells[0].gates)
    wide = not isinstance(batch, int) or batch >= TILE
    spec = RecurrentSpec(cells, _reversed(node, directions), dtype, hidden, lanes, lengths is not None, wide)

    part = matmul(cx, cx.reshape(x, (x.shape[0] * x.shape[1], x.shape[2])), _input_weights(cx, w))
    part = cx.reshape(part, (*x.shape[:2], directions * gates * hidden))
    if b is not None:
        bias, product = _input_bias(cx, cells[0], b, hidden), part
        part = cx.map(product.shape, dtype, lambda i: product.at(i) + bias.at(i[2:]))
    if batch_first:
        part = cx.transpose(part, (1, 0, 2))
    weights = [_recurrent_weights(cx, r, [cells[0].gates.index(g) for g in phase.gates], hidden, lanes) for phase in cells[0].phases()]
    state = (directions, batch, hidden)
    for name, t in (("initial_h", h0), ("initial_c", c0)):
        _fit(cx, name, t, (batch, directions, hidden) if batch_first else state)
    states = [_initial(cx, t, state, dtype, batch_first) for t in (h0, c0)[: len(cells[0].states)]]
    operands = [part, *weights, *states, *_constants(cx, cells[0], b, p, directions, hidden, dtype)]
    if lengths is not None:
        operands.append(_cast(cx, lengths, "int32"))
    shapes = [(dtype, (seq, directions, batch, hidden)), *[(dtype, state)] * len(states)]
    y, *last = cx.kernel(spec, operands, shapes)
    if batch_first:
        y, last = cx.transpose(y, (2, 0, 1, 3)), [cx.transpose(t, (1, 0, 2)) for t in last]
    return [_cast(cx, t, given) for t in (y, *last)]


def _fit(cx: Context, name: str, t: Tensor | None, shape: Sequence[DimLike]) -> None:
    """The run fails where an operand does not have its shape."""
    if t is not None:
        if t.rank != len(shape):
            raise TypeInferenceError(f"{cx.where()}: {name} has shape {list(t.shape)}, it must be {list(shape)}")
        for k, (had, wanted) in enumerate(zip(t.shape, shape, strict=True)):
            cx.require(had, "==", wanted, f"axis {k} of {name}")


def _reversed(node: Node, directions: int) -> tuple[bool, ...]:
    direction = node.attr("direction", "forward")
    direction = direction.decode() if isinstance(direction, bytes) else direction
    rows = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    if direction not in rows or len(rows[direction]) != directions:
        raise ModelError(f"{node}: direction {direction!r} with weights of {directions} directions")
    return rows[direction]


def _initial(cx: Context, t: Tensor | None, shape: tuple[object, ...], dtype: str, batch_first: bool) -> Tensor:
    if t is None:
        return cx.broadcast_to(cx.const(np.zeros((), dtypes.to_numpy(dtype))), shape)  # type: ignore[arg-type]
    return cx.transpose(t, (1, 0, 2)) if batch_first else t
