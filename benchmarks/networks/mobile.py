"""Networks of depthwise convolutions: MobileNetV2, MobileNetV3-Large, EfficientNet-B0, and a keyword spotter."""

from __future__ import annotations

from networks.builder import Builder, Value
from networks.classifiers import Built, classify, finish


def inverted(b: Builder, x: Value, inner: int, outputs: int, size: int, stride: int, act: str, squeeze: tuple[int, str, str] | None = None,
             epsilon: float = 1e-5) -> Value:  # fmt: skip
    """Inverted residual: widen to `inner`, depthwise convolution, squeeze and excitation, narrow; plus the input where the shapes are the same."""
    y = x if inner == x.channels else b.block(x, inner, 1, 1, act, epsilon)
    y = b.block(y, inner, size, stride, act, epsilon, groups=inner)
    if squeeze:
        y = b.squeeze(y, *squeeze)
    y = b.block(y, outputs, 1, 1, "", epsilon)
    return b.add(x, y) if stride == 1 and outputs == x.channels else y


def mobilenet_v2() -> Built:
    """Sandler et al. 2018, arXiv:1801.04381."""
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))  # widening, channels, blocks, stride
    b = Builder()
    x = b.block(b.input("x", ["batch", 3, 224, 224], 3), 32, 3, 2, "Relu6")
    for stage, (widening, channels, blocks, stride) in enumerate(stages):
        for k in range(blocks):
            b.scope = f"stage{stage}.{k}"
            x = inverted(b, x, widening * x.channels, channels, 3, 1 if k else stride, "Relu6")
    b.scope = "head"
    return classify(b, b.block(x, 1280, 1, 1, "Relu6"))


# size, inner channels, channels, squeezed channels (0: none), activation, stride
V3_LARGE = (
    (3, 16, 16, 0, "Relu", 1), (3, 64, 24, 0, "Relu", 2), (3, 72, 24, 0, "Relu", 1), (5, 72, 40, 24, "Relu", 2), (5, 120, 40, 32, "Relu", 1),
    (5, 120, 40, 32, "Relu", 1), (3, 240, 80, 0, "HardSwish", 2), (3, 200, 80, 0, "HardSwish", 1), (3, 184, 80, 0, "HardSwish", 1),
    (3, 184, 80, 0, "HardSwish", 1), (3, 480, 112, 120, "HardSwish", 1), (3, 672, 112, 168, "HardSwish", 1), (5, 672, 160, 168, "HardSwish", 2),
    (5, 960, 160, 240, "HardSwish", 1), (5, 960, 160, 240, "HardSwish", 1),
)  # fmt: skip


def mobilenet_v3_large() -> Built:
    """Howard et al. 2019, arXiv:1905.02244."""
    b = Builder()
    x = b.block(b.input("x", ["batch", 3, 224, 224], 3), 16, 3, 2, "HardSwish", 1e-3)
    for k, (size, inner, channels, squeezed, act, stride) in enumerate(V3_LARGE):
        b.scope = f"block{k}"
        x = inverted(b, x, inner, channels, size, stride, act, (squeezed, "Relu", "HardSigmoid") if squeezed else None, 1e-3)
    b.scope = "head"
    x = b.block(x, 960, 1, 1, "HardSwish", 1e-3)
    x = b.op("Flatten", [b.op("GlobalAveragePool", [x])], axis=1)
    return finish(b, b.classifier(b.activation(b.classifier(x, 1280), "HardSwish"), 1000))


def efficientnet_b0() -> Built:
    """Tan and Le 2019, arXiv:1905.11946."""
    stages = ((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1))
    b = Builder()
    x = b.block(b.input("x", ["batch", 3, 224, 224], 3), 32, 3, 2, "Silu")
    for stage, (widening, size, channels, blocks, stride) in enumerate(stages):
        for k in range(blocks):
            b.scope = f"stage{stage}.{k}"
            squeeze = (x.channels // 4, "Silu", "Sigmoid")
            x = inverted(b, x, widening * x.channels, channels, size, 1 if k else stride, "Silu", squeeze)
    b.scope = "head"
    return classify(b, b.block(x, 1280, 1, 1, "Silu"))


def ds_cnn() -> Built:
    """The keyword spotter of MLPerf Tiny (Banbury et al. 2021, arXiv:2106.07597; Zhang et al. 2017, arXiv:1711.07128): 49 frames of 10
    coefficients, 12 words."""
    b = Builder()
    x = b.block(b.input("x", ["batch", 1, 49, 10], 1), 64, (10, 4), 2, pad=[4, 1, 5, 1], bias=True)
    for k in range(4):
        b.scope = f"separable{k}"
        x = b.block(x, 64, 3, groups=64, bias=True)
        x = b.block(x, 64, bias=True)
    return classify(b, x, 12)
