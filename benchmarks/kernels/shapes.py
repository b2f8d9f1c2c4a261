"""The shapes of the kernel sweep: small ONNX graphs, each of which is one kernel at its best.

Pictures come and go channels-last (a Transpose before and behind the layer), as they flow inside of a network, so that nothing but the layer is
measured. Weights and inputs are random with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
OPSET = 20


@dataclass(frozen=True)
class Shape:
    """`nodes()` are the graph's, from inputs of the given sizes and constants to "y"."""

    family: str
    name: str
    inputs: dict[str, tuple[int, ...]]
    constants: dict[str, tuple[int, ...]]
    nodes: Callable[[], list[onnx.NodeProto]]

    def model(self) -> onnx.ModelProto:
        random = np.random.default_rng(1)
        weights = [numpy_helper.from_array(scaled(random, size), name) for name, size in self.constants.items()]
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in self.inputs.items()]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes(), "shape", inputs, outputs, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)

    def feeds(self) -> dict[str, Array]:
        random = np.random.default_rng(2)
        return {name: random.standard_normal(size, np.float32) for name, size in self.inputs.items()}


def scaled(random: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Weights that keep sums of order one."""
    return random.standard_normal(size, np.float32) / np.float32(math.sqrt(max(1, math.prod(size[1:]))))


node = helper.make_node


# --- matrix products ----------------------------------------------------------------------------------------------------------------
def gemm(name: str, m: int, k: int, n: int, constant: bool = True) -> Shape:
    sizes = {"w": (k, n)}
    inputs = {"x": (m, k)} | ({} if constant else sizes)
    return Shape("gemm", f"{name} {m}x{k}x{n}", inputs, sizes if constant else {}, lambda: [node("MatMul", ["x", "w"], ["y"])])


GEMM = [
    gemm("square", 256, 256, 256), gemm("square", 512, 512, 512), gemm("square", 1024, 1024, 1024), gemm("run-time B", 512, 512, 512, constant=False),
    gemm("fc", 1, 2048, 1000), gemm("fc", 1, 4096, 4096), gemm("skinny", 4, 768, 3072), gemm("skinny", 8, 768, 3072), gemm("skinny", 16, 784, 128),
    gemm("encoder", 128, 768, 768), gemm("encoder", 128, 768, 3072), gemm("encoder", 128, 3072, 768), gemm("encoder", 197, 768, 768),
    gemm("odd", 37, 129, 211), gemm("odd", 101, 307, 503), gemm("tiny", 3, 10, 20),
]  # fmt: skip


# --- convolutions -------------------------------------------------------------------------------------------------------------------
def conv(family: str, name: str, channels: int, outputs: int, size: int, kernel: int = 3, stride: int = 1, group: int = 1, dilation: int = 1) -> Shape:
    """Channels-last in and out, bias and Relu."""
    pad = dilation * (kernel - 1) // 2

    def nodes() -> list[onnx.NodeProto]:
        settings = {"pads": [pad] * 4, "strides": [stride] * 2, "group": group, "dilations": [dilation] * 2}
        return last([node("Conv", ["t", "w", "b"], ["c"], **settings), node("Relu", ["c"], ["r"])])

    kernels = f"{kernel}x{kernel}" + (f"/{stride}" if stride > 1 else "") + (f" g{group}" if 1 < group < channels else "")
    title = f"{name} {kernels} {channels}-{outputs} {size}" + (f" d{dilation}" if dilation > 1 else "")
    return Shape(family, title, {"x": (1, size, size, channels)}, {"w": (outputs, channels // group, kernel, kernel), "b": (outputs,)}, nodes)


def transposed(channels: int, outputs: int, size: int, kernel: int, stride: int) -> Shape:
    pad = (kernel - stride) // 2

    def nodes() -> list[onnx.NodeProto]:
        return last([node("ConvTranspose", ["t", "w", "b"], ["r"], pads=[pad] * 4, strides=[stride] * 2)])

    return Shape("conv", f"transposed {kernel}x{kernel}/{stride} {channels}-{outputs} {size}", {"x": (1, size, size, channels)},
                 {"w": (channels, outputs, kernel, kernel), "b": (outputs,)}, nodes)  # fmt: skip


def last(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """x [N, H, W, C] to t [N, C, H, W], the nodes, r [N, C, H, W] to y [N, H, W, C]."""
    return [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), *nodes, node("Transpose", ["r"], ["y"], perm=[0, 2, 3, 1])]


CONV = [
    *(conv("conv", "resnet", c, c, s) for c, s in ((64, 56), (128, 28), (256, 14), (512, 7))),
    conv("conv", "resnet", 128, 128, 56, 3, 2), conv("conv", "yolo", 16, 32, 80), conv("conv", "yolo", 64, 64, 20), conv("conv", "unet", 32, 32, 64),
    conv("conv", "head", 64, 6, 40), conv("conv", "superres", 32, 9, 224),
    *(conv("conv", "resnet", c, o, s, 1) for c, o, s in ((64, 256, 56), (256, 64, 56), (1024, 256, 14), (512, 2048, 7))),
    conv("conv", "resnet", 256, 512, 56, 1, 2),
    *(conv("conv", "mobilenet", c, o, s, 1) for c, o, s in ((16, 96, 112), (24, 144, 56), (144, 32, 28), (64, 384, 14), (160, 960, 7), (320, 1280, 7))),
    conv("conv", "first", 3, 64, 224, 7, 2), conv("conv", "first", 3, 32, 224, 3, 2), conv("conv", "first", 1, 64, 224, 5),
    conv("conv", "large", 64, 64, 28, 7), conv("conv", "large", 32, 32, 56, 5), conv("conv", "dilated", 64, 64, 28, 3, 1, 1, 2),
    conv("conv", "grouped", 128, 128, 56, 3, 1, 32), conv("conv", "grouped", 256, 256, 28, 3, 1, 4),
    transposed(64, 32, 56, 2, 2), transposed(128, 64, 28, 4, 2),
]  # fmt: skip

DEPTHWISE = [
    conv("depthwise", "", c, c, s, k, t, c)
    for c, s, k, t in ((16, 120, 3, 1), (96, 112, 3, 2), (144, 56, 3, 1), (384, 14, 3, 1), (960, 7, 3, 1), (240, 14, 5, 1), (96, 56, 7, 1))
]


# --- attention ----------------------------------------------------------------------------------------------------------------------
def attention(heads: int, queries: int, keys: int, width: int, causal: bool = False) -> Shape:
    """softmax(q k' / sqrt(width)) v for each head, as ONNX's own operator has it from opset 23 on; here as it is exported."""

    def nodes() -> list[onnx.NodeProto]:
        scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1 / math.sqrt(width)])
        made = [node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]), node("MatMul", ["q", "kt"], ["s0"]),
                node("Constant", [], ["f"], value=scale), node("Mul", ["s0", "f"], ["s1"])]  # fmt: skip
        if causal:
            made.append(node("Add", ["s1", "mask"], ["s2"]))
        return [*made, node("Softmax", ["s2" if causal else "s1"], ["p"], axis=-1), node("MatMul", ["p", "v"], ["y"])]

    sizes = {"q": (1, heads, queries, width), "k": (1, heads, keys, width), "v": (1, heads, keys, width)}
    mask = {"mask": (queries, keys)} if causal else {}
    return Shape("attention", f"{heads} heads {queries}x{keys}x{width}" + (" masked" if causal else ""), sizes | mask, {}, nodes)


ATTENTION = [attention(12, 16, 16, 64), attention(12, 128, 128, 64), attention(12, 197, 197, 64), attention(12, 384, 384, 64, causal=True),
             attention(8, 1024, 1024, 64), attention(12, 1, 512, 64)]  # fmt: skip


# --- what moves memory ----------------------------------------------------------------------------------------------------------------
def moving(name: str, sizes: tuple[int, ...], *made: onnx.NodeProto, two: bool = False, constants: dict[str, tuple[int, ...]] | None = None) -> Shape:
    """From x (and z of the same size) to y."""
    inputs = {"x": sizes} | ({"z": sizes} if two else {})
    return Shape("memory", f"{name} {'x'.join(map(str, sizes))}", inputs, constants or {}, lambda: list(made))


def sums(sizes: tuple[int, ...], axis: int) -> Shape:
    axes = helper.make_tensor("a", TensorProto.INT64, [1], [axis])
    return moving(f"sum over axis {axis}", sizes, node("Constant", [], ["a"], value=axes), node("ReduceSum", ["x", "a"], ["y"], keepdims=0))


MEMORY = [
    *(moving("add", (n,), node("Add", ["x", "z"], ["y"]), two=True) for n in (4 << 10, 64 << 10, 1 << 20, 16 << 20)),
    *(moving("relu", (n,), node("Relu", ["x"], ["y"])) for n in (64 << 10, 1 << 20, 16 << 20)),
    sums((512, 1024), 1), sums((512, 1024), 0), sums((4096, 4096), 1),
    moving("softmax", (512, 1024), node("Softmax", ["x"], ["y"])), moving("gelu", (128, 3072), node("Gelu", ["x"], ["y"])),
    moving("layer norm", (128, 768), node("LayerNormalization", ["x", "g", "b"], ["y"]), constants={"g": (768,), "b": (768,)}),
    moving("transpose", (1024, 1024), node("Transpose", ["x"], ["y"], perm=[1, 0])),
    moving("max pool 3x3/2", (1, 112, 112, 64), *last([node("MaxPool", ["t"], ["r"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)])),
    moving("global pool", (1, 14, 14, 1024), node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), node("GlobalAveragePool", ["t"], ["y"])),
]  # fmt: skip

SHAPES: list[Shape] = [*GEMM, *CONV, *DEPTHWISE, *ATTENTION, *MEMORY]
FAMILIES = tuple(dict.fromkeys(s.family for s in SHAPES))


def chosen(families: list[str], names: list[str]) -> Iterator[Shape]:
    """Shapes of these families whose name has one of these parts; nothing said means all."""
    for shape in SHAPES:
        if (not families or shape.family in families) and (not names or any(part in f"{shape.family} {shape.name}" for part in names)):
            yield shape
