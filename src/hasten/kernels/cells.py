"""The cells of recurrent networks as Exprs: one step for one hidden unit, from pre-activations and the old state.

The same Exprs are the kernels' code (`emit_expr`) and their meaning (`numpy_expr`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.base import dtypes
from hasten.codegen.builder import Function, V, vector
from hasten.codegen.math import emit_op, llvm_type
from hasten.kernels import expr as E
from hasten.kernels.expr import OPS, Expr, op

Function1 = Callable[[Expr, float, float], Expr]


def sigmoid(x: Expr) -> Expr:
    return 1.0 / (op("exp", -x) + 1.0)


def _softplus(x: Expr) -> Expr:
    return op("max", x, 0.0) + op("log1p", op("exp", -op("abs", x)))


# name: (default alpha, default beta, function); None: the function has no such parameter
ACTIVATIONS: dict[str, tuple[float | None, float | None, Function1]] = {
    "relu": (None, None, lambda x, a, b: op("max", x, 0.0)),
    "tanh": (None, None, lambda x, a, b: op("tanh", x)),
    "sigmoid": (None, None, lambda x, a, b: sigmoid(x)),
    "affine": (1.0, 0.0, lambda x, a, b: x * a + b),
    "leakyrelu": (0.01, None, lambda x, a, b: op("select", x < 0.0, x * a, x)),
    "thresholdedrelu": (1.0, None, lambda x, a, b: op("select", x > a, x, 0.0)),
    "scaledtanh": (1.0, 1.0, lambda x, a, b: op("tanh", x * b) * a),
    "hardsigmoid": (0.2, 0.5, lambda x, a, b: op("min", op("max", x * a + b, 0.0), 1.0)),
    "elu": (1.0, None, lambda x, a, b: op("select", x < 0.0, (op("exp", op("min", x, 0.0)) - 1.0) * a, x)),
    "softsign": (None, None, lambda x, a, b: x / (op("abs", x) + 1.0)),
    "softplus": (None, None, lambda x, a, b: _softplus(x)),
}


@dataclass(frozen=True)
class Activation:
    """One activation with its parameters."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def __call__(self, x: Expr) -> Expr:
        return ACTIVATIONS[self.name][2](x, self.alpha, self.beta)


@dataclass(frozen=True)
class Phase:
    """Products of a state with recurrent weights, then elementwise work.

    gates: names of the gates whose weights are multiplied with the state `source`; separate: gates whose product is not
    added to the input's part but given as "u_GATE" beside it. cell: values by name -> new states by name.
    Values: "x_GATE" (pre-activation), "u_GATE", old states, constants ("p_i", "rb_h", ...).
    """

    gates: tuple[str, ...]
    source: str
    cell: Callable[[Mapping[str, Expr]], dict[str, Expr]]
    separate: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A kind of cell with its options, for one direction. functions: the activations (f), (f, g) or (f, g, h)."""

    kind: str
    functions: tuple[Activation, ...]
    clip: float | None = None
    linear_before_reset: bool = False
    input_forget: bool = False
    peepholes: bool = False

    @property
    def gates(self) -> str:
        """Names of the gates in the order of ONNX's weights."""
        return {"LSTM": "iofc", "GRU": "zrh", "RNN": "i"}[self.kind]

    @property
    def states(self) -> tuple[str, ...]:
        """States from one step to the next."""
        return ("h", "c") if self.kind == "LSTM" else ("h",)

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of vectors [hidden] that the cell uses besides."""
        if self.peepholes:
            return ("p_i", "p_o", "p_f")
        return ("rb_h",) if self.kind == "GRU" and self.linear_before_reset else ()

    def phases(self) -> list[Phase]:
        """What a step consists of."""
        if self.kind == "RNN":
            return [Phase(("i",), "h", lambda v: {"h": self._clipped(0, v["x_i"])})]
        if self.kind == "LSTM":
            return [Phase(tuple("iofc"), "h", self._lstm)]
        if self.linear_before_reset:
            return [Phase(tuple("zrh"), "h", self._gru_linear, ("h",))]
        return [Phase(tuple("zr"), "h", self._gru_gates), Phase(("h",), "rh", self._gru_state)]

    def _clipped(self, function: int, x: Expr) -> Expr:
        if self.clip is not None:
            x = op("min", op("max", x, -self.clip), self.clip)
        return self.functions[function](x)

    def _lstm(self, v: Mapping[str, Expr]) -> dict[str, Expr]:
        def pre(gate: str, state: Expr) -> Expr:
            return v[f"x_{gate}"] + v[f"p_{gate}"] * state if self.peepholes else v[f"x_{gate}"]

        taken = self._clipped(0, pre("i", v["c"]))
        kept = 1.0 - taken if self.input_forget else self._clipped(0, pre("f", v["c"]))
        c = kept * v["c"] + taken * self._clipped(1, v["x_c"])
        return {"c": c, "h": self._clipped(0, pre("o", c)) * self.functions[2](c)}

    def _gru_linear(self, v: Mapping[str, Expr]) -> dict[str, Expr]:
        z, r = self._clipped(0, v["x_z"]), self._clipped(0, v["x_r"])
        candidate = self._clipped(1, v["x_h"] + r * (v["u_h"] + v["rb_h"]))
        return {"h": candidate + z * (v["h"] - candidate)}

    def _gru_gates(self, v: Mapping[str, Expr]) -> dict[str, Expr]:
        return {"z": self._clipped(0, v["x_z"]), "rh": self._clipped(0, v["x_r"]) * v["h"]}

    def _gru_state(self, v: Mapping[str, Expr]) -> dict[str, Expr]:
        candidate = self._clipped(1, v["x_h"])
        return {"h": candidate + v["z"] * (v["h"] - candidate)}


# --- Exprs without loads ------------------------------------------------------------------------------------------
def _fold(
    roots: Mapping[str, Expr], leaf: Callable[[Expr], Any], apply: Callable[[Expr, list[Any]], Any]
) -> dict[str, Any]:
    memo: dict[int, Any] = {}
    for root in roots.values():
        for e in E.walk(root):
            if id(e) not in memo:
                memo[id(e)] = apply(e, [memo[id(a)] for a in e.args]) if e.kind == "op" else leaf(e)
    return {name: memo[id(e)] for name, e in roots.items()}


def numpy_expr(roots: Mapping[str, Expr], env: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values of Exprs over params, by NumPy."""

    def leaf(e: Expr) -> np.ndarray:
        return env[e.name] if e.kind == "param" else np.asarray(e.value, dtypes.to_numpy(e.dtype))

    with np.errstate(all="ignore"):
        return _fold(roots, leaf, lambda e, args: np.asarray(OPS[e.name].meaning(*args)))


def emit_expr(f: Function, roots: Mapping[str, Expr], env: Mapping[str, V], lanes: int) -> dict[str, V]:
    """Code for Exprs over params, `lanes` at a time."""

    def leaf(e: Expr) -> V:
        return env[e.name] if e.kind == "param" else f.const(vector(llvm_type(e.dtype), lanes), e.value)

    return _fold(roots, leaf, lambda e, args: emit_op(f, e.name, e.args[-1].dtype, args))
