"""Small random ONNX models with their meaning in NumPy: float models in float64, integer models exactly.

A `Growing` model keeps, beside its nodes, the value of everything for several assignments of the dynamic sizes, so a
step of growth (`STEPS`) knows which axes are static, what fits together, and what a compiled model has to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

OPSET = 20
SIZES: tuple[dict[str, int], ...] = (  # p and q fit n and w, or are 1: known only at run time
    {"n": 2, "h": 5, "w": 7, "p": 2, "q": 1}, {"n": 1, "h": 9, "w": 4, "p": 1, "q": 4}, {"n": 3, "h": 6, "w": 19, "p": 1, "q": 1},
)  # fmt: skip
LIMIT = 200.0  # values beyond are dropped: errors must stay comparable


@dataclass
class Val:
    """A value of the model: its arrays, one for each assignment of sizes."""

    name: str
    arrays: list[np.ndarray]

    @property
    def rank(self) -> int:
        return self.arrays[0].ndim

    def size(self, axis: int) -> int | None:
        """The size of an axis, None where it depends on the assignment."""
        sizes = {a.shape[axis] for a in self.arrays}
        return sizes.pop() if len(sizes) == 1 else None

    def least(self, axis: int) -> int:
        return min(a.shape[axis] for a in self.arrays)

    def shapes(self) -> list[tuple[int, ...]]:
        return [a.shape for a in self.arrays]


@dataclass
class Growing:
    """A model in the making. `draw` is hypothesis's."""

    draw: Callable[[Any], Any]
    rng: np.random.Generator
    dtype: np.dtype[Any]
    values: list[Val] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    infos: list[onnx.ValueInfoProto] = field(default_factory=list)
    feeds: list[dict[str, np.ndarray]] = field(default_factory=lambda: [{} for _ in SIZES])
    count: int = 0

    @property
    def exact(self) -> bool:
        return self.dtype.kind != "f"

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def some(self, shape: Sequence[int]) -> np.ndarray:
        """Random values of the model's dtype."""
        if self.exact:
            return self.rng.integers(0 if self.dtype.kind == "u" else -9, 10, shape).astype(self.dtype)
        return self.rng.standard_normal(shape).astype(self.dtype)

    def input(self, shape: Sequence[int | str]) -> Val:
        name = f"in{len(self.infos)}"
        self.infos.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(self.dtype), shape))
        arrays = [self.some([d if isinstance(d, int) else sizes[d] for d in shape]) for sizes in SIZES]
        for feed, a in zip(self.feeds, arrays, strict=True):
            feed[name] = a
        self.values.append(Val(name, [self.wide(a) for a in arrays]))
        return self.values[-1]

    def wide(self, a: np.ndarray) -> np.ndarray:
        return a if self.exact or a.dtype.kind != "f" else a.astype(np.float64)

    def const(self, array: Any, dtype: Any = None) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype or self.dtype), name))
        return name

    def node(self, op: str, inputs: Sequence[str], count: int = 1, **attributes: Any) -> list[str]:
        outputs = [self.name() for _ in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, **attributes))
        return outputs

    def add(self, name: str, arrays: Sequence[np.ndarray]) -> Val | None:
        arrays = [np.asarray(a) for a in arrays]
        if any(a.size > 60000 or a.size == 0 for a in arrays):
            return None
        if not self.exact and any(np.abs(a).max() > LIMIT for a in arrays):
            return None
        self.values.append(Val(name, arrays))
        return self.values[-1]

    def apply(self, op: str, x: Val, fn: Callable[[np.ndarray], Any], more: Sequence[str] = (), **kw: Any) -> Val | None:
        """A node of one value (and constants), whose meaning is fn."""
        arrays = [np.asarray(fn(a)) for a in x.arrays]
        (name,) = self.node(op, [x.name, *more], **kw)
        return self.add(name, arrays)

    def pick(self, fits: Callable[[Val], bool] = lambda v: True) -> Val | None:
        """Some value, recent ones rather."""
        good = [v for v in self.values if fits(v)]
        if not good:
            return None
        k = self.draw(st.integers(0, min(len(good) - 1, 4)))
        return good[-1 - k] if self.draw(st.integers(0, 3)) else good[k]

    def choose(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        names = [onnx.ValueInfoProto(name=n) for n in outputs]
        graph = helper.make_graph(self.nodes, "random", self.infos, names, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


@dataclass(repr=False)
class Grown:
    """A finished model: feeds and wanted outputs for each assignment of sizes."""

    model: onnx.ModelProto
    feeds: list[dict[str, np.ndarray]]
    wanted: list[dict[str, np.ndarray]]
    dtype: np.dtype[Any]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How hypothesis shows a failing model."""
        printer.text(onnx.printer.to_text(self.model))

    def check(self, run: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]) -> None:
        """Hold what `run` answers against the meaning, for every assignment of sizes."""
        for feeds, wanted in zip(self.feeds, self.wanted, strict=True):
            got = run(feeds)
            assert list(got) == list(wanted)
            for name, want in wanted.items():
                check_array(got[name], want, self.dtype, name)


TOLERANCE = {"float32": 1e-4, "float64": 1e-9, "float16": 2e-2}


def check_array(got: np.ndarray, want: np.ndarray, dtype: np.dtype[Any], name: str = "") -> None:
    assert got.shape == want.shape, f"{name}: shape {got.shape}, not {want.shape}"
    if want.dtype.kind != "f":
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want, name)
        return
    assert got.dtype == dtype
    scale = max(1.0, float(np.abs(want).max(initial=0)))
    np.testing.assert_allclose(got.astype("f8"), want, rtol=0, atol=TOLERANCE[dtype.name] * scale, err_msg=name)


# --- steps of growth: each adds some nodes, or nothing where nothing fits ---------------------------------------------
Step = Callable[[Growing], "Val | None"]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


UNARY: dict[str, tuple[dict[str, Any], Callable[[np.ndarray], np.ndarray]]] = {
    "Relu": ({}, lambda x: np.maximum(x, 0)), "Sigmoid": ({}, sigmoid), "Tanh": ({}, np.tanh), "Neg": ({}, np.negative),
    "Abs": ({}, np.abs), "LeakyRelu": ({"alpha": 0.25}, lambda x: np.where(x < 0, 0.25 * x, x)),
    "HardSwish": ({}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)), "Softplus": ({}, lambda x: np.logaddexp(x, 0)),
    "Elu": ({}, lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x)),
}  # fmt: skip
BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum, "Min": np.minimum,
}  # fmt: skip


def unary(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.arrays[0].dtype.kind != "b")
    assert x is not None
    names = ["Relu", "Neg", "Abs"] if g.exact else list(UNARY)
    if g.dtype.kind == "u":
        return None
    op = g.choose(names)
    attributes, fn = UNARY[op]
    return g.apply(op, x, fn, **attributes)


def swish(g: Growing) -> Val | None:
    x = g.pick()
    if x is None or g.exact:
        return None
    (s,) = g.node("Sigmoid", [x.name])
    (y,) = g.node("Mul", [x.name, s] if g.draw(st.booleans()) else [s, x.name])
    return g.add(y, [a * sigmoid(a) for a in x.arrays])


def broadcasts(a: Val, b: Val) -> bool:
    try:
        return all(len(np.broadcast_shapes(x, y)) <= 5 for x, y in zip(a.shapes(), b.shapes(), strict=True))
    except ValueError:
        return False


def binary(g: Growing) -> Val | None:
    x = g.pick()
    assert x is not None
    y = g.pick(lambda v: broadcasts(v, x))
    op = g.choose(list(BINARY))
    if y is None:
        return None
    a, b = (x, y) if g.draw(st.booleans()) else (y, x)
    (name,) = g.node(op, [a.name, b.name])
    return g.add(name, [BINARY[op](p, q) for p, q in zip(a.arrays, b.arrays, strict=True)])


def with_constant(g: Growing) -> Val | None:
    """A scalar, or a value for each index of a static axis."""
    x = g.pick()
    assert x is not None
    axes = [k for k in range(x.rank) if x.size(k) is not None]
    shape: list[int] = []
    if axes and g.draw(st.integers(0, 2)):
        axis = g.choose(axes)
        shape = [x.size(axis) or 0] + [1] * (x.rank - axis - 1)
    c = g.some(shape)
    op = g.choose(list(BINARY))
    return g.apply(op, x, lambda a: BINARY[op](a, g.wide(c)), [g.const(c)])


def where(g: Growing) -> Val | None:
    """A choice by the sign of an input: those are exact."""
    x = g.pick()
    assert x is not None
    inputs = [v for v in g.values if v.name.startswith("in") and broadcasts(v, x)]
    if not inputs:
        return None
    i = g.choose(inputs)
    (cond,) = g.node("Greater", [i.name, g.const(1)])
    other = g.some([])
    (name,) = g.node("Where", [cond, x.name, g.const(other)])
    return g.add(name, [np.where(c > 1, a, g.wide(other)) for c, a in zip(i.arrays, x.arrays, strict=True)])


def transpose(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.rank > 1)
    if x is None:
        return None
    perm = g.draw(st.permutations(range(x.rank)))
    return g.apply("Transpose", x, lambda a: a.transpose(perm), perm=perm)


def slices(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.rank > 0 and any(v.least(k) > 2 for k in range(v.rank)))
    if x is None:
        return None
    axis = g.choose([k for k in range(x.rank) if x.least(k) > 2])
    start, end, step = g.choose([(0, -1, 1), (1, 1 << 40, 1), (1, 3, 1), (0, 1 << 40, 2), (-1, -(1 << 40), -1), (-2, -1, 1)])
    wanted = axis if g.draw(st.booleans()) else axis - x.rank
    more = [g.const([v], np.int64) for v in (start, end, wanted, step)]
    stop = None if abs(end) > 1 << 30 else end
    return g.apply("Slice", x, lambda a: a[(slice(None),) * axis + (slice(start, stop, step),)], more)


def reshape(g: Growing) -> Val | None:
    x = g.pick()
    assert x is not None
    options: list[tuple[list[int], Callable[[tuple[int, ...]], list[int]]]] = [([-1], lambda s: [-1])]
    if x.rank > 1:
        options.append(([0, -1], lambda s: [s[0], -1]))
        k = g.draw(st.integers(0, x.rank - 2))  # merge axes k and k + 1
        options.append(([0] * k + [-1] + [x.size(j) or 0 for j in range(k + 2, x.rank)] if k == 0 else [0] * k + [-1],
                        lambda s: list(s[:k]) + [-1] + (list(s[k + 2 :]) if k == 0 else [])))  # fmt: skip
        if k == 0 and any(x.size(j) is None for j in range(2, x.rank)):
            options.pop()
    for axis in range(x.rank):
        size = x.size(axis)
        if size is not None and size % 2 == 0 and all(x.size(j) is not None for j in range(axis + 1, x.rank)) and x.rank < 5:
            head, tail = [0] * axis, [x.size(j) or 0 for j in range(axis + 1, x.rank)]
            options.append((head + [2, size // 2] + tail,
                            lambda s, a=axis, n=size: [*s[:a], 2, n // 2, *s[a + 1 :]]))  # type: ignore[misc]  # fmt: skip
    target, shape = g.choose(options)
    return g.apply("Reshape", x, lambda a: a.reshape(shape(a.shape)), [g.const(target, np.int64)])


def reshape_by_shape(g: Growing) -> Val | None:
    """What exporters write for x.view(x.size(0), -1): Shape, Gather, Concat, Reshape."""
    x = g.pick(lambda v: v.rank > 1)
    if x is None:
        return None
    axis = g.draw(st.integers(0, x.rank - 1))
    (shape,) = g.node("Shape", [x.name])
    (size,) = g.node("Gather", [shape, g.const(axis, np.int64)])
    (one,) = g.node("Unsqueeze", [size, g.const([0], np.int64)])
    first = g.draw(st.booleans())
    parts = [one, g.const([-1], np.int64)]
    (target,) = g.node("Concat", parts if first else parts[::-1], axis=0)
    return g.apply("Reshape", x, lambda a: a.reshape((a.shape[axis], -1) if first else (-1, a.shape[axis])), [target])


def squeeze(g: Growing) -> Val | None:
    x = g.pick()
    assert x is not None
    ones = [k for k in range(x.rank) if x.size(k) == 1]
    if ones and g.draw(st.booleans()):
        axis = g.choose(ones)
        return g.apply("Squeeze", x, lambda a: a.squeeze(axis), [g.const([axis], np.int64)])
    if x.rank > 3:
        return None
    axis = g.draw(st.integers(-x.rank - 1, x.rank))
    return g.apply("Unsqueeze", x, lambda a: np.expand_dims(a, axis), [g.const([axis], np.int64)])


def concat(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.rank > 0)
    if x is None:
        return None
    axis = g.draw(st.integers(0, x.rank - 1))

    def fits(v: Val) -> bool:
        return v.rank == x.rank and all(p[:axis] + p[axis + 1 :] == q[:axis] + q[axis + 1 :]
                                        for p, q in zip(v.shapes(), x.shapes(), strict=True))  # fmt: skip

    parts = [p for p in (g.pick(fits) for _ in range(g.draw(st.integers(1, 2)))) if p is not None] + [x]
    (name,) = g.node("Concat", [p.name for p in parts], axis=axis)
    return g.add(name, [np.concatenate(list(a), axis) for a in zip(*(p.arrays for p in parts), strict=True)])


def split(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.rank > 0 and any(v.least(k) > 2 for k in range(v.rank)))
    if x is None:
        return None
    axis = g.choose([k for k in range(x.rank) if x.least(k) > 2])
    size = x.size(axis)
    if size is not None and g.draw(st.booleans()):
        cut = g.draw(st.integers(1, size - 1))
        names = g.node("Split", [x.name, g.const([cut, size - cut], np.int64)], 2, axis=axis)
        cuts = [cut] * len(SIZES)
    else:
        names = g.node("Split", [x.name], 2, axis=axis, num_outputs=2)
        cuts = [(a.shape[axis] + 1) // 2 for a in x.arrays]
    pairs = [np.split(a, [c], axis) for a, c in zip(x.arrays, cuts, strict=True)]
    g.add(names[0], [p[0] for p in pairs])
    return g.add(names[1], [p[1] for p in pairs])


def gather(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.rank > 0)
    if x is None:
        return None
    axis = g.draw(st.integers(0, x.rank - 1))
    low = x.least(axis)
    index = g.draw(st.one_of(st.integers(-low, low - 1), st.lists(st.integers(-low, low - 1), min_size=1, max_size=4)))
    return g.apply("Gather", x, lambda a: np.take(a, index, axis), [g.const(index, np.int64)], axis=axis)


def pad(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.rank > 0 and any(v.least(k) > 3 for k in range(v.rank)))
    if x is None:
        return None
    axis = g.choose([k for k in range(x.rank) if x.least(k) > 3])
    before, after = g.draw(st.integers(0, 2)), g.draw(st.integers(0, 2))
    mode = "constant" if g.exact else g.choose(["constant", "reflect", "edge"])
    pads = [0] * (2 * x.rank)
    pads[axis], pads[axis + x.rank] = before, after
    widths = [(before, after) if k == axis else (0, 0) for k in range(x.rank)]
    return g.apply("Pad", x, lambda a: np.pad(a, widths, mode), [g.const(pads, np.int64)], mode=mode)  # type: ignore[call-overload]


def reduce(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.rank > 0)
    if x is None or g.dtype.name not in ("float32", "float64", "float16", "int32", "int64"):
        return None
    axes = tuple(sorted(g.draw(st.sets(st.integers(0, x.rank - 1), min_size=1))))
    keep = g.draw(st.booleans())
    table: dict[str, Callable[[np.ndarray], Any]] = {
        "ReduceSum": lambda a: a.sum(axes, keepdims=keep, dtype=a.dtype), "ReduceMax": lambda a: a.max(axes, keepdims=keep),
        "ReduceMin": lambda a: a.min(axes, keepdims=keep),
    }  # fmt: skip
    if not g.exact:
        table |= {
            "ReduceMean": lambda a: a.mean(axes, keepdims=keep),
            "ReduceL2": lambda a: np.sqrt((a * a).sum(axes, keepdims=keep)),
            "ReduceLogSumExp": lambda a: np.log(np.exp(a - a.max()).sum(axes, keepdims=keep)) + a.max(),
        }
    if any(np.abs(a).max() > 20 for a in x.arrays) and not g.exact:
        return None
    op = g.choose(list(table))
    return g.apply(op, x, table[op], [g.const(axes, np.int64)], keepdims=int(keep))


def softmax(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.rank > 0)
    if x is None or g.exact:
        return None
    axis = g.draw(st.integers(-x.rank, x.rank - 1))

    def meaning(a: np.ndarray) -> np.ndarray:
        e = np.exp(a - a.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    return g.apply("Softmax", x, meaning, axis=axis)


def layer_norm(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.rank > 1 and v.size(v.rank - 1) is not None)
    if x is None or g.exact:
        return None
    scale, bias = g.some([x.size(x.rank - 1) or 0]), g.some([x.size(x.rank - 1) or 0])

    def meaning(a: np.ndarray) -> np.ndarray:
        d = a - a.mean(-1, keepdims=True)
        return d / np.sqrt((d * d).mean(-1, keepdims=True) + 0.25) * scale + bias

    return g.apply("LayerNormalization", x, meaning, [g.const(scale), g.const(bias)], axis=-1, epsilon=0.25)


def matmul(g: Growing) -> Val | None:
    x = g.pick(lambda v: v.rank > 1)
    if x is None or g.exact:
        return None
    last = x.size(x.rank - 1)
    if last is not None and g.draw(st.booleans()):
        n = g.choose([3, 16, 20])
        b = g.some([last, n]) / np.sqrt(last).astype(g.dtype)
        y = g.apply("MatMul", x, lambda a: a @ g.wide(b), [g.const(b)])
        if y is None or g.draw(st.booleans()):
            return y
        bias = g.some([n])
        return g.apply("Add", y, lambda a: a + g.wide(bias), [g.const(bias)])
    perm = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    (other,) = g.node("Transpose", [x.name], perm=perm)
    (name,) = g.node("MatMul", [x.name, other])
    return g.add(name, [a @ a.transpose(perm) for a in x.arrays])


def windows(a: np.ndarray, kernel: int, stride: int, pad: int, fill: float) -> np.ndarray:
    """[N, C, OH, OW, k, k]"""
    a = np.pad(a, [(0, 0), (0, 0), (pad, pad), (pad, pad)], constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(a, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]


def is_image(v: Val) -> bool:
    return v.rank == 4 and v.size(1) is not None and v.least(2) >= 3 and v.least(3) >= 3


def conv(g: Growing) -> Val | None:
    x = g.pick(is_image)
    if x is None or g.dtype.name != "float32":
        return None
    c = x.size(1) or 0
    kernel, stride = g.choose([(1, 1), (3, 1), (3, 2)])
    p = kernel // 2 if g.draw(st.integers(0, 3)) else 0
    group = c if g.draw(st.integers(0, 3)) == 0 else 1
    out = c * g.choose([1, 1, 2]) if group > 1 else g.choose([4, 8, 5])
    weights = g.some([out, c // group, kernel, kernel]) / np.float32(kernel * np.sqrt(c // group))
    bias = g.some([out])
    more = [g.const(weights)] + ([g.const(bias)] if g.draw(st.booleans()) else [])

    def meaning(a: np.ndarray) -> np.ndarray:
        w = windows(a, kernel, stride, p, 0.0)
        if group > 1:
            w = np.repeat(w, out // c, 1)
            y = np.einsum("nchwij,cij->nchw", w, weights[:, 0].astype("f8"))
        else:
            y = np.einsum("nchwij,ocij->nohw", w, weights.astype("f8"))
        return y + bias[:, None, None] if len(more) > 1 else y

    return g.apply("Conv", x, meaning, more, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[p] * 4, group=group)


def batch_norm(g: Growing) -> Val | None:
    x = g.pick(is_image)
    if x is None or g.dtype.name != "float32":
        return None
    c = x.size(1) or 0
    scale, bias, mean = g.some([c]), g.some([c]), g.some([c])
    var = np.abs(g.some([c])) + np.float32(0.5)
    column = [v.astype("f8")[:, None, None] for v in (scale, bias, mean, var)]

    def meaning(a: np.ndarray) -> np.ndarray:
        return (a - column[2]) / np.sqrt(column[3] + 1e-5) * column[0] + column[1]

    return g.apply("BatchNormalization", x, meaning, [g.const(v) for v in (scale, bias, mean, var)])


def conv_block(g: Growing) -> Val | None:
    """conv + bn + relu + residual + relu, the residual also going elsewhere."""
    x = g.pick(is_image)
    if x is None or g.dtype.name != "float32":
        return None
    c = x.size(1) or 0
    weights = g.some([c, c, 3, 3]) / np.float32(3 * np.sqrt(c))
    scale, bias = g.some([c]), g.some([c])
    names = [g.const(v) for v in (scale, bias, np.zeros(c), np.ones(c))]
    (y,) = g.node("Conv", [x.name, g.const(weights)], kernel_shape=[3, 3], pads=[1] * 4)
    (y,) = g.node("BatchNormalization", [y, *names], epsilon=0.0)
    (r,) = g.node("Relu", [y])
    (s,) = g.node("Add", [x.name, r])
    arrays = [np.maximum(np.einsum("nchwij,ocij->nohw", windows(a, 3, 1, 1, 0.0), weights.astype("f8"))
                         * scale[:, None, None] + bias[:, None, None], 0) for a in x.arrays]  # fmt: skip
    if g.draw(st.booleans()):
        g.add(r, arrays)
    return g.add(s, [a + b for a, b in zip(x.arrays, arrays, strict=True)])


def pool(g: Growing) -> Val | None:
    x = g.pick(is_image)
    if x is None or g.dtype.name not in ("float32", "float64"):
        return None
    kernel, stride = g.choose([(2, 2), (3, 1), (3, 2)])
    op = g.choose(["MaxPool", "AveragePool", "GlobalAveragePool"])
    if op == "GlobalAveragePool":
        return g.apply(op, x, lambda a: a.mean((2, 3), keepdims=True))
    p = 1 if kernel == 3 and op == "MaxPool" else 0
    fill, fold = (-np.inf, np.max) if op == "MaxPool" else (0.0, np.mean)
    return g.apply(op, x, lambda a: fold(windows(a, kernel, stride, p, fill), axis=(4, 5)),  # type: ignore[operator]
                   kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[p] * 4)  # fmt: skip


def expand(g: Growing) -> Val | None:
    """To the shape of another value, computed by Shape."""
    x = g.pick()
    assert x is not None
    y = g.pick(lambda v: broadcasts(v, x))
    if y is None:
        return None
    (shape,) = g.node("Shape", [y.name])
    (name,) = g.node("Expand", [x.name, shape])
    return g.add(name, [np.broadcast_to(a, np.broadcast_shapes(a.shape, b.shape)) for a, b in zip(x.arrays, y.arrays, strict=True)])


def compress(g: Growing) -> Val | None:
    """Sizes that only the run knows."""
    x = g.pick(lambda v: v.rank > 0)
    flags = [v for v in g.values if v.name.startswith("in") and v.rank == 1]
    if x is None or not flags:
        return None
    flag = g.choose(flags)
    axis = next((k for k in range(x.rank) if all(a.shape[k] == f.shape[0] for a, f in zip(x.arrays, flag.arrays, strict=True))), None)
    if axis is None:
        return None
    (cond,) = g.node("Less", [flag.name, g.const(1)])
    (name,) = g.node("Compress", [x.name, cond], axis=axis)
    return g.add(name, [np.compress(f < 1, a, axis) for f, a in zip(flag.arrays, x.arrays, strict=True)])


def arg_reduce(g: Growing) -> Val | None:
    """Of an input, whose values are exact."""
    x = g.pick(lambda v: v.rank > 0 and v.name.startswith("in"))
    if x is None or g.dtype.name not in ("float32", "float64", "int32", "int64"):
        return None
    axis, keep, last = g.draw(st.integers(0, x.rank - 1)), g.draw(st.booleans()), g.draw(st.booleans())
    op = g.choose(["ArgMax", "ArgMin"])
    (i,) = g.node(op, [x.name], axis=axis, keepdims=int(keep), select_last_index=int(last))
    (name,) = g.node("Cast", [i], to=helper.np_dtype_to_tensor_dtype(g.dtype))
    pick = np.argmax if op == "ArgMax" else np.argmin

    def meaning(a: np.ndarray) -> np.ndarray:
        found = a.shape[axis] - 1 - pick(np.flip(a, axis), axis) if last else pick(a, axis)
        return (np.expand_dims(found, axis) if keep else found).astype(a.dtype)

    return g.add(name, [meaning(a) for a in x.arrays])


STEPS: dict[str, Step] = {f.__name__: f for f in (
    unary, unary, swish, binary, binary, with_constant, where, transpose, slices, reshape, reshape_by_shape, squeeze, concat, split, gather,
    pad, reduce, softmax, layer_norm, matmul, conv, batch_norm, conv_block, pool, expand,
    compress, arg_reduce,
)}  # fmt: skip
LAYOUT_STEPS = ("compress", "transpose", "slices", "reshape", "reshape_by_shape", "concat", "split", "gather", "pad", "squeeze", "expand", "binary", "where")
IMAGE_STEPS = ("conv", "conv", "batch_norm", "unary", "swish", "conv_block", "pool", "concat", "split", "binary", "slices", "transpose", "reduce", "with_constant")
SHAPES: tuple[tuple[int | str, ...], ...] = (("n", 4, "h", "w"), ("p", 4, 1, "q"), ("p", "q", 6), ("n", "w", 6), ("h", 10), ("w",), ("n", 4, 1, 1), (4, 3, 2))


@st.composite
def models(draw: st.DrawFn, steps: Sequence[str] = tuple(STEPS), most: int = 9, dtypes: Sequence[str] = ("float32",)) -> Grown:
    """A random model of up to `most` steps over one to three inputs."""
    dtype = np.dtype(draw(st.sampled_from(list(dtypes))))
    g = Growing(draw, np.random.default_rng(draw(st.integers(0, 9))), dtype)
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    if set(steps) == set(IMAGE_STEPS):
        shapes = [("n", 4, "h", "w")]
    for shape in shapes:
        g.input(shape)
    for name in draw(st.lists(st.sampled_from(list(steps)), min_size=1, max_size=most)):
        STEPS[name](g)
    made = [v for v in g.values if not v.name.startswith("in")]
    chosen = draw(st.lists(st.sampled_from(made), max_size=2)) + made[-1:] if made else []
    chosen += [draw(st.sampled_from(g.values))]
    outputs: list[str] = []
    wanted: list[dict[str, np.ndarray]] = [{} for _ in SIZES]
    for k, v in enumerate(chosen):
        name = v.name
        if name in outputs or name.startswith("in"):  # the same value again, or an input: under another name
            (name,) = g.node("Identity", [v.name])
        outputs.append(name)
        for row, a in zip(wanted, v.arrays, strict=True):
            row[name] = a
        assert len(outputs) == k + 1
    return Grown(g.model(outputs), g.feeds, wanted, dtype)
