"""Networks of published architectures with seeded random weights, as ONNX models: for compile times and file sizes, where weights don't matter."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks and width of each stage of ResNet-50


class Builder:
    """Collects nodes and weights; every method takes and gives names of values."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def weight(self, array: np.ndarray) -> str:
        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def conv(self, x: str, inputs: int, outputs: int, size: int, stride: int = 1, *, relu: bool = True) -> str:
        """Convolution (He's initial weights), batch normalisation, Relu."""
        scale = np.sqrt(2 / (inputs * size * size))
        w = self.weight(self.rng.standard_normal((outputs, inputs, size, size)) * scale)
        y = self.node("Conv", [x, w], kernel_shape=[size, size], strides=[stride, stride], pads=[size // 2] * 4)
        gain, shift, mean = (self.weight(self.rng.standard_normal(outputs) * 0.1 + offset) for offset in (1, 0, 0))
        variance = self.weight(self.rng.uniform(0.5, 1.5, outputs))
        y = self.node("BatchNormalization", [y, gain, shift, mean, variance])
        return self.node("Relu", [y]) if relu else y

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        w = self.weight(self.rng.standard_normal((outputs, inputs)) * np.sqrt(1 / inputs))
        return self.node("Gemm", [x, w, self.weight(np.zeros(outputs))], transB=1)

    def model(self, result: str, shape: list[str | int], classes: int) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], classes])
        self.nodes[-1].output[0] = "y" if self.nodes[-1].output[0] == result else result
        graph = helper.make_graph(self.nodes, "network", [x], [y], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def resnet50(seed: int = 0) -> onnx.ModelProto:
    """ResNet-50 (He et al. 2015; stride in the 3x3 convolution): 25.6 million weights, 53 convolutions, x [n, 3, 224, 224] -> y [n, 1000]."""
    b = Builder(seed)
    x = b.conv("x", 3, 64, 7, 2)
    x = b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (blocks, width) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            short = x if block else b.conv(x, channels, 4 * width, 1, stride, relu=False)
            y = b.conv(x, channels, width, 1)
            y = b.conv(y, width, width, 3, stride)
            y = b.conv(y, width, 4 * width, 1, relu=False)
            x = b.node("Relu", [b.node("Add", [y, short])])
            channels = 4 * width
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x])])
    return b.model(b.linear(x, channels, 1000), ["n", 3, 224, 224], 1000)


def perceptron(width: int = 1472, layers: int = 3, seed: int = 0) -> onnx.ModelProto:
    """`layers` square layers with Relu between them, x [n, width] -> y [n, width]: by default 26 MB of weights and little else."""
    b, x = Builder(seed), "x"
    for layer in range(layers):
        x = b.linear(x if layer == 0 else b.node("Relu", [x]), width, width)
    return b.model(x, ["n", width], width)
