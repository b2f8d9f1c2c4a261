"""The meaning of a trace, in NumPy: slow, obvious, without any code generation. Tests hold operators and fusions against it.

    values = Evaluation(cx, {source_name: array}, {"batch": 3})
    values.of(tensor) -> ndarray
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.base.dims import Dim, DimLike
from hasten.base.errors import ExecutionError
from hasten.kernels.expr import OPS, Expr
from hasten.lower import trace as T

_VECTOR: dict[str, Callable[..., Any]] = {
    "floordiv": lambda a, b: np.where(b == 0, a, a // np.where(b == 0, 1, b)), "mod": lambda a, b: np.where(b == 0, 0, a % np.where(b == 0, 1, b)),
    "max": np.maximum, "min": np.minimum, "if_eq": lambda a, b, x, y: np.where(a == b, x, y),
    "if_lt": lambda a, b, x, y: np.where(a < b, x, y), "scale": lambda a, f: np.floor(a * f).astype(np.int64),
}  # fmt: skip
_INITIAL = {"sum": 0, "prod": 1}


class Evaluation:
    """Evaluates tensors of one trace for concrete inputs and sizes."""

    def __init__(self, cx: T.Context, sources: Mapping[str, np.ndarray], sizes: Mapping[str, int] | None = None):
        self.cx, self.sources, self.sizes = cx, sources, dict(sizes or {})
        self.memo: dict[int, np.ndarray] = {}
        self.kernels: dict[int, list[np.ndarray]] = {}

    def size(self, d: DimLike) -> int:
        for name in D.symbols(d):
            if name not in self.sizes and name in self.cx.aliases:
                self.sizes[name] = self.size(self.cx.aliases[name])
            if name not in self.sizes and name in self.cx.defined:
                t, element, sign = self.cx.defined[name]
                self.sizes[name] = max(sign * int(self.of(t).reshape(-1)[element]), 0)
        return D.evaluate(d, self.sizes)

    def shape(self, shape: T.Shape) -> tuple[int, ...]:
        return tuple(self.size(d) for d in shape)

    def of(self, t: T.Tensor) -> np.ndarray:
        """The value as an array of the tensor's dtype."""
        if id(t) not in self.memo:
            self.memo[id(t)] = self._compute(t)
        return self.memo[id(t)]

    def _compute(self, t: T.Tensor) -> np.ndarray:
        o = t.origin
        if isinstance(o, T.Const):
            return o.array
        if isinstance(o, T.Source):
            return self.sources[o.name]
        shape = self.shape(t.shape)
        dt = dtypes.to_numpy(t.dtype)
        if isinstance(o, T.Concat):
            return np.concatenate([self.of(p) for p in o.parts], o.axis)
        if isinstance(o, T.Woven):
            whole = np.zeros(shape, dt)
            for k, p in enumerate(o.parts):
                whole[tuple(slice(self.size(start), None, step) for start, step in o.place(k))] = self.of(p)
            return whole
        if isinstance(o, T.Kernel):
            if id(o) not in self.kernels:
                results = [(r.dtype, self.shape(r.shape)) for r in o.results]
                self.kernels[id(o)] = o.spec.reference([self.of(x) for x in o.operands], results)
            return self.kernels[id(o)][o.results.index(t)].astype(dt, copy=False).reshape(shape)
        if isinstance(o, T.Branch):
            assert isinstance(o.condition, T.Tensor)
            block = o.then if self.of(o.condition).reshape(-1)[0] else o.other
            return self.of(block.values[o.results.index(t)])  # type: ignore[arg-type]
        if isinstance(o, T.Nest):
            return self._nest(t, o, shape).astype(dt)
        idx, env = self._symbols("i", shape)
        e = t.at(idx) if isinstance(o, T.View) else o.fn(idx)  # type: ignore[union-attr]
        return np.broadcast_to(self.expr(e, env), shape).astype(dt)

    def _symbols(self, prefix: str, shape: tuple[int, ...], before: int = 0, after: int = 0) -> tuple[T.Index, dict[str, Any]]:
        idx = tuple(D.symbol(f"${prefix}{k}", n) for k, n in enumerate(shape))
        rank = before + len(shape) + after
        env = {}
        for k, n in enumerate(shape):
            view = [1] * rank
            view[before + k] = n
            env[f"${prefix}{k}"] = np.arange(n, dtype=np.int64).reshape(view)
        return idx, env

    def _nest(self, t: T.Tensor, o: T.Nest, shape: tuple[int, ...]) -> np.ndarray:
        outer, inner = self.shape(o.outer), self.shape(o.inner)
        i, env_i = self._symbols("i", outer, 0, len(inner))
        r, env_r = self._symbols("r", inner, len(outer), 0)
        env = env_i | env_r
        axes = tuple(range(len(outer), len(outer) + len(inner)))
        params: dict[str, Expr] = {}
        for stage in o.stages:
            e = stage.fn(i, r, params)
            value = np.broadcast_to(self.expr(e, env), outer + inner)
            env["@" + stage.name] = self._reduce(stage.kind, value, axes, inner)
            dt = "int64" if stage.kind.startswith("arg") else e.dtype
            params[stage.name] = Expr("param", dt, name="@" + stage.name)
        if o.place is None:
            return np.broadcast_to(self.expr(o.final(i, params), env), outer + (1,) * len(inner)).reshape(outer)
        value = np.broadcast_to(self.expr(o.final(i, r, params), env), outer + inner)
        result = np.zeros(shape, value.dtype)
        place = tuple(np.broadcast_to(self.dim(d, env), outer + inner) for d in o.place(i, r))
        result[place] = value
        return result

    @staticmethod
    def _reduce(kind: str, value: np.ndarray, axes: tuple[int, ...], inner: tuple[int, ...]) -> np.ndarray:
        keep = value.shape[: axes[0]] if axes else value.shape
        flat = value.reshape(*keep, int(np.prod(inner, dtype=np.int64)))
        if kind in _INITIAL:
            out = flat.sum(-1, dtype=value.dtype) if kind == "sum" else flat.prod(-1, dtype=value.dtype)
        elif kind in ("max", "min"):
            if flat.shape[-1] == 0:
                lowest = -np.inf if value.dtype.kind == "f" else np.iinfo(value.dtype).min if value.dtype.kind in "iu" else False
                highest = np.inf if value.dtype.kind == "f" else np.iinfo(value.dtype).max if value.dtype.kind in "iu" else True
                out = np.full(keep, lowest if kind == "max" else highest, value.dtype)
            else:
                out = flat.max(-1) if kind == "max" else flat.min(-1)
        else:
            pick = np.argmax if "max" in kind else np.argmin
            out = flat.shape[-1] - 1 - pick(flat[..., ::-1], -1) if kind.endswith("last") else pick(flat, -1)
        return np.asarray(out).reshape(keep + (1,) * len(axes))

    # --- expressions --------------------------------------------------------------------------------------------------------
    def dim(self, d: DimLike | float, env: Mapping[str, Any]) -> Any:
        if not isinstance(d, Dim):
            return d
        total: Any = 0
        for mono, coef in d.terms:
            part: Any = coef
            for a in mono:
                if a.kind == "sym":
                    part = part * (env[a.name] if a.name in env else self.size(D.symbol(a.name)))
                else:
                    part = part * _VECTOR[a.kind](*(self.dim(v, env) for v in a.args))
            total = total + part
        return total

    def expr(self, e: Expr, env: Mapping[str, Any], memo: dict[int, Any] | None = None) -> Any:
        memo = {} if memo is None else memo
        if id(e) not in memo:
            with np.errstate(all="ignore"):
                memo[id(e)] = self._expr(e, env, memo)
        return memo[id(e)]

    def _expr(self, e: Expr, env: Mapping[str, Any], memo: dict[int, Any]) -> Any:
        dt = dtypes.to_numpy(e.dtype)
        if e.kind == "const":
            return np.asarray(e.value).astype(dt)
        if e.kind == "param":
            return env[e.name]
        if e.kind == "index":
            return np.asarray(self.dim(e.index[0], env), np.int64)
        if e.kind == "load":
            return self._load(e, env, memo).astype(dt)
        args = [self.expr(a, env, memo) for a in e.args]
        if e.name == "bounds":
            if np.any((args[0] < 0) | (args[0] >= args[1])):
                raise ExecutionError("an index is out of range")
            return args[0]
        if e.name in ("cast", "saturate"):
            return self._cast(args[0], e.value, e.name == "saturate").astype(dt)
        return np.asarray(OPS[e.name].meaning(*args)).astype(dt)

    @staticmethod
    def _cast(x: np.ndarray, to: str, clip: bool) -> np.ndarray:
        target = dtypes.to_numpy(to)
        if clip and dtypes.is_int(to):
            bits = dtypes.dtype(to).bits
            low, high = (0, 2**bits - 1) if to.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            x = np.clip(np.nan_to_num(x, nan=0.0), low, high)
        elif clip and to == "float8_e8m0fnu":  # the next power of two above the magnitude
            fraction, exponent = np.frexp(np.abs(x.astype(np.float64)))
            power = np.ldexp(1.0, np.clip(exponent - (fraction == 0.5), -127, 127))
            x = np.where(np.isfinite(x), np.where(x == 0, 2.0**-127, power), np.nan)
        elif clip:
            import ml_dtypes

            info = ml_dtypes.finfo(target)
            x = np.where(np.isnan(x), x, np.clip(x, float(info.min), float(info.max)))
        return x.astype(target)

    def _load(self, e: Expr, env: Mapping[str, Any], memo: dict[int, Any]) -> np.ndarray:
        inner = dict(env)
        for name, bound in e.binds:
            inner[name] = self.expr(bound, inner, memo)
        array = self.of(e.source)
        idx = [np.asarray(self.dim(d, inner)) for d in e.index]
        if e.guard is None:
            if array.size == 0 and 0 in array.shape:  # nothing is loaded: the result is empty, too
                return np.zeros(np.broadcast_shapes(*(i.shape for i in idx)), array.dtype)
            for k, i in enumerate(idx):
                assert i.size == 0 or (i.min() >= 0 and i.max() < array.shape[k]), f"index {e.index} leaves {array.shape}"
            return np.asarray(array[tuple(idx)]) if idx else array
        guard = np.asarray(self.expr(e.guard, inner, memo))
        default = self.expr(e.args[0], inner, memo)
        full = np.broadcast_shapes(guard.shape, *(i.shape for i in idx))
        ok = np.broadcast_to(guard, full)
        safe = [np.where(ok, np.broadcast_to(i, full), 0) for i in idx]
        if array.size == 0:
            return np.broadcast_to(default, full)
        for k, i in enumerate(safe):
            assert i.size == 0 or (i.min() >= 0 and i.max() < array.shape[k]), f"guarded index {e.index} leaves {array.shape}"
        return np.where(ok, np.asarray(array[tuple(safe)]).astype(dtypes.to_numpy(e.dtype)), default)
