"""A layer builder over onnx.helper: it writes networks as exporters leave them, with random weights that keep activations of order one.

Every layer takes and gives a `Value`, which carries what is to be expected of its elements: their mean and variance over a random input. Weights
are drawn so that a layer's result has mean 0 and variance 1 again, however deep it lies: filters are centred and scaled by the variance of what
they read (scaled weight standardization: Brock et al. 2021, arXiv:2101.08692). Without that, activations grow or die out over fifty layers, and
errors relative to the largest output mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)  # integrates over a normal distribution


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, its features (axis 1 of pictures, the last of sequences), and what to expect of its elements."""

    name: str
    channels: int
    mean: float = 0.0
    variance: float = 1.0

    @property
    def power(self) -> float:
        """The expected square."""
        return self.mean**2 + self.variance


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Relu6": lambda x: np.clip(x, 0, 6),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Silu": lambda x: x * sigmoid(x),
    "Gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
}


def after(activation: str, x: Value) -> Value:
    """`x` with the mean and variance that the activation of normally distributed numbers has."""
    y = ACTIVATIONS[activation](x.mean + math.sqrt(x.variance) * NODES)
    mean, square = (float(np.average(v, weights=WEIGHTS)) for v in (y, y * y))
    return replace(x, mean=mean, variance=square - mean**2)


class Builder:
    """Collects nodes and weights. `scope` goes before the names of nodes: set it to say which block is being written.

    `parameters` counts learned numbers as papers do: statistics of batch normalisations and constants are none.
    """

    def __init__(self, seed: int = 0, opset: int = 17) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.scope = ""
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.parameters = 0

    # --- graph ----------------------------------------------------------------------------------------------------------
    def input(self, name: str, shape: Sequence[int | str], channels: int = 0, kind: int = TensorProto.FLOAT) -> Value:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return Value(name, channels)

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        """Numbers that are not learned."""
        name = f"constant_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def weight(self, array: Array) -> str:
        """Learned numbers."""
        self.parameters += array.size
        name = f"weight_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(array.astype(np.float32, copy=False), name))
        return name

    def normal(self, *shape: int, deviation: float = 1.0, mean: float = 0.0) -> Array:
        numbers: Array = self.rng.standard_normal(shape, np.float32)
        numbers *= np.float32(deviation)
        numbers += np.float32(mean)
        return numbers

    def op(self, kind: str, inputs: Sequence[Value | str], like: Value | None = None, **attributes: Any) -> Value:
        """One node; what is to be expected of its result is as of `like`, by default the first input."""
        return self.ops(kind, inputs, 1, like, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[Value | str], outputs: int, like: Value | None = None, **attributes: Any) -> list[Value]:
        """One node with several results."""
        name = f"{self.scope}/{kind}_{len(self.nodes)}"
        names = [name + (f":{k}" if k else "") for k in range(outputs)]
        texts = [x if isinstance(x, str) else x.name for x in inputs]
        self.nodes.append(helper.make_node(kind, texts, names, name=name, **attributes))
        first = like or next((x for x in inputs if isinstance(x, Value)), Value("", 0))
        return [replace(first, name=text) for text in names]

    def model(self, outputs: dict[str, tuple[Value, Sequence[int | str]]]) -> onnx.ModelProto:
        """The finished model; `outputs`: value and shape by name."""
        infos = []
        for name, (value, shape) in outputs.items():
            producer = next(n for n in self.nodes if value.name in n.output)
            position = list(producer.output).index(value.name)
            for node in self.nodes:
                for k, text in enumerate(node.input):
                    if text == value.name:
                        node.input[k] = name
            producer.output[position] = name
            infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        graph = helper.make_graph(self.nodes, "network", self.inputs, infos, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)

    # --- layers of pictures -----------------------------------------------------------------------------------------------
    def conv(
        self, x: Value, channels: int, size: int | tuple[int, int] = 1, stride: int = 1, *,
        pad: int | tuple[int, int] | Sequence[int] | None = None, groups: int = 1, bias: bool = False,
    ) -> Value:  # fmt: skip
        """Convolution; `pad`: for height and width, or ONNX's four numbers; None is half the size, which keeps the picture's."""
        height, width = (size, size) if isinstance(size, int) else size
        inputs = x.channels // groups
        w = self.normal(channels, inputs, height, width)
        if inputs > 1:  # centred filters do away with what all channels have in common; a filter of one channel has to keep it
            w -= w.mean((1, 2, 3), keepdims=True)
        w /= np.float32(math.sqrt(inputs * height * width * (x.variance if inputs > 1 else x.power)))
        weights = [self.weight(w)]
        if bias:
            weights.append(self.weight(self.normal(channels, deviation=0.1)))
        pads = (height // 2, width // 2) if pad is None else (pad, pad) if isinstance(pad, int) else pad
        return self.op("Conv", [x, *weights], Value("", channels), dilations=[1, 1], group=groups, kernel_shape=[height, width],
                       pads=list(pads) * (2 if len(pads) == 2 else 1), strides=[stride, stride])  # fmt: skip

    def transposed(self, x: Value, channels: int, size: int, stride: int) -> Value:
        """Transposed convolution with bias: every output element reads (size / stride)² elements of each channel."""
        deviation = 1 / math.sqrt(x.channels * x.variance * (size / stride) ** 2)
        w = self.normal(x.channels, channels, size, size, deviation=deviation)
        w -= w.mean(0, keepdims=True)
        weights = [self.weight(w), self.weight(self.normal(channels, deviation=0.1))]
        return self.op("ConvTranspose", [x, *weights], Value("", channels), dilations=[1, 1], group=1, kernel_shape=[size, size],
                       pads=[0] * 4, strides=[stride, stride])  # fmt: skip

    def norm(self, x: Value, epsilon: float = 1e-5) -> Value:
        """Batch normalisation in its form for inference, with statistics as training leaves them: those of `x`, channel by channel a bit apart."""
        n = x.channels
        learned = [self.weight(self.normal(n, deviation=0.1, mean=1)), self.weight(self.normal(n, deviation=0.1))]
        mean = self.normal(n, deviation=0.1 * math.sqrt(x.variance), mean=x.mean)
        variance = x.variance * self.rng.uniform(0.75, 1.33, n)
        inputs = [x, *learned, self.constant(mean), self.constant(variance)]
        return self.op("BatchNormalization", inputs, Value("", n), epsilon=epsilon, momentum=0.9)

    def activation(self, x: Value, kind: str) -> Value:
        """One of ACTIVATIONS, written as exporters do; "" is none."""
        if not kind:
            return x
        if kind == "Relu6":
            y = self.op("Clip", [x, self.constant(0), self.constant(6)])
        elif kind == "Silu":
            y = self.op("Mul", [x, self.op("Sigmoid", [x])])
        elif kind == "Gelu":
            erf = self.op("Erf", [self.op("Div", [x, self.constant(math.sqrt(2))])])
            y = self.op("Mul", [self.op("Mul", [x, self.op("Add", [erf, self.constant(1)])]), self.constant(0.5)])
        else:
            y = self.op(kind, [x])
        return replace(after(kind, x), name=y.name)

    def block(self, x: Value, channels: int, size: int | tuple[int, int] = 1, stride: int = 1, act: str = "Relu", epsilon: float = 1e-5, **how: Any) -> Value:
        """Convolution, batch normalisation, activation."""
        return self.activation(self.norm(self.conv(x, channels, size, stride, **how), epsilon), act)

    def pool(self, kind: str, x: Value, size: int, stride: int, pad: int = 0, **attributes: Any) -> Value:
        """MaxPool or AveragePool."""
        return self.op(kind, [x], kernel_shape=[size, size], strides=[stride, stride], pads=[pad] * 4, **attributes)

    def squeeze(self, x: Value, inner: int, act: str, gate: str) -> Value:
        """Squeeze and excitation: every channel times a gate around a half, computed from all channels' averages."""
        s = self.op("GlobalAveragePool", [x])
        s = self.activation(self.conv(s, inner, bias=True), act)
        g = self.conv(s, x.channels, bias=True)
        g = self.op("HardSigmoid", [g], alpha=1 / 6, beta=0.5) if gate == "HardSigmoid" else self.op(gate, [g])
        return self.op("Mul", [x, g], replace(x, mean=x.mean / 2, variance=x.variance / 4))

    def add(self, x: Value, y: Value) -> Value:
        return self.op("Add", [x, y], replace(x, mean=x.mean + y.mean, variance=x.variance + y.variance))

    def concat(self, values: Sequence[Value], axis: int = 1) -> Value:
        """Features side by side."""
        shares = np.array([v.channels for v in values])
        mean = float(np.average([v.mean for v in values], weights=shares))
        power = float(np.average([v.power for v in values], weights=shares))
        return self.op("Concat", values, Value("", int(shares.sum()), mean, power - mean**2), axis=axis)

    # --- layers of features -----------------------------------------------------------------------------------------------
    def classifier(self, x: Value, classes: int) -> Value:
        """A dense layer of [batch, features], written as Gemm."""
        w = self.normal(classes, x.channels, deviation=1 / math.sqrt(x.channels * x.power))
        return self.op("Gemm", [x, self.weight(w), self.weight(self.normal(classes, deviation=0.1))], Value("", classes), transB=1)

    def linear(self, x: Value, channels: int, gain: float = 1.0, bias: bool = True) -> Value:
        """A dense layer of [..., features], written as MatMul and Add; its result has the standard deviation `gain`."""
        w = self.normal(x.channels, channels, deviation=gain / math.sqrt(x.channels * x.power))
        y = self.op("MatMul", [x, self.weight(w)], Value("", channels, 0.0, gain**2))
        return self.op("Add", [self.weight(self.normal(channels, deviation=0.1)), y]) if bias else y

    def layer_norm(self, x: Value, epsilon: float) -> Value:
        """Over the last axis; before opset 17, when the operator did not exist, in its parts."""
        learned = [self.weight(self.normal(x.channels, deviation=0.1, mean=1)), self.weight(self.normal(x.channels, deviation=0.1))]
        if self.opset >= 17:
            y = self.op("LayerNormalization", [x, *learned], axis=-1, epsilon=epsilon)
        else:
            apart = self.op("Sub", [x, self.op("ReduceMean", [x], axes=[-1], keepdims=1)])
            square = self.op("ReduceMean", [self.op("Pow", [apart, self.constant(2)])], axes=[-1], keepdims=1)
            root = self.op("Sqrt", [self.op("Add", [square, self.constant(epsilon)])])
            y = self.op("Add", [self.op("Mul", [self.op("Div", [apart, root]), learned[0]]), learned[1]])
        return Value(y.name, x.channels)
