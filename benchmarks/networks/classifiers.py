"""Networks of large convolutions: ResNet, VGG, SqueezeNet, Inception-v3, DenseNet, U-Net; pictures [batch, 3, height, width].

Each function gives the model and its number of parameters. Architectures as torchvision has them (stride in ResNet's 3x3 convolution); U-Net with
batch normalisation and padded convolutions.
"""

from __future__ import annotations

import onnx

from networks.builder import Builder, Value

Built = tuple[onnx.ModelProto, int]  # the model and how many parameters it has


def classify(b: Builder, x: Value, classes: int = 1000) -> Built:
    """The usual end: average of all places, dense layer."""
    b.scope = "head"
    x = b.op("Flatten", [b.op("GlobalAveragePool", [x])], axis=1)
    return finish(b, b.classifier(x, classes))


def finish(b: Builder, y: Value) -> Built:
    return b.model({"y": (y, ["batch", y.channels])}), b.parameters


def resnet18() -> Built:
    """He et al. 2015, arXiv:1512.03385."""
    b = Builder()
    x = b.block(b.input("x", ["batch", 3, 224, 224], 3), 64, 7, 2)
    x = b.pool("MaxPool", x, 3, 2, 1)
    for stage, width in enumerate((64, 128, 256, 512)):
        for k in range(2):
            b.scope = f"stage{stage}.{k}"
            stride = 2 if stage and not k else 1
            short = b.block(x, width, 1, stride, "") if stride > 1 else x
            y = b.block(b.block(x, width, 3, stride), width, 3, act="")
            x = b.activation(b.add(y, short), "Relu")
    return classify(b, x)


def resnet50() -> Built:
    """The same paper; bottlenecks."""
    b = Builder()
    x = b.block(b.input("x", ["batch", 3, 224, 224], 3), 64, 7, 2)
    x = b.pool("MaxPool", x, 3, 2, 1)
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for k in range(blocks):
            b.scope = f"stage{stage}.{k}"
            stride = 2 if stage and not k else 1
            short = x if k else b.block(x, 4 * width, 1, stride, "")
            y = b.block(b.block(x, width, 1), width, 3, stride)
            y = b.block(y, 4 * width, 1, act="")
            x = b.activation(b.add(y, short), "Relu")
    return classify(b, x)


def vgg16() -> Built:
    """Simonyan and Zisserman 2014, arXiv:1409.1556, without batch normalisation. (The pool of size 1 is what adaptive pooling is exported as.)"""
    b = Builder()
    x = b.input("x", ["batch", 3, 224, 224], 3)
    for stage, (layers, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
        b.scope = f"stage{stage}"
        for _ in range(layers):
            x = b.activation(b.conv(x, width, 3, bias=True), "Relu")
        x = b.pool("MaxPool", x, 2, 2)
    b.scope = "head"
    x = b.op("Flatten", [b.pool("AveragePool", x, 1, 1)], axis=1)
    x = Value(x.name, x.channels * 7 * 7, x.mean, x.variance)
    for _ in range(2):
        x = b.activation(b.classifier(x, 4096), "Relu")
    return finish(b, b.classifier(x, 1000))


def squeezenet() -> Built:
    """SqueezeNet 1.1: Iandola et al. 2016, arXiv:1602.07360. Pools round up."""
    b = Builder()
    x = b.activation(b.conv(b.input("x", ["batch", 3, 224, 224], 3), 64, 3, 2, pad=0, bias=True), "Relu")
    for k, width in enumerate((64, 64, 128, 128, 192, 192, 256, 256)):
        b.scope = f"fire{k}"
        if k in (0, 2, 4):
            x = b.pool("MaxPool", x, 3, 2, ceil_mode=1)
        x = b.activation(b.conv(x, width // 4, bias=True), "Relu")
        x = b.concat([b.activation(b.conv(x, width, size, bias=True), "Relu") for size in (1, 3)])
    b.scope = "head"
    x = b.activation(b.conv(x, 1000, bias=True), "Relu")
    return finish(b, b.op("Flatten", [b.op("GlobalAveragePool", [x])], axis=1))


def densenet121() -> Built:
    """Huang et al. 2016, arXiv:1608.06993."""
    b = Builder()
    x = b.block(b.input("x", ["batch", 3, 224, 224], 3), 64, 7, 2)
    x = b.pool("MaxPool", x, 3, 2, 1)
    for stage, layers in enumerate((6, 12, 24, 16)):
        if stage:
            b.scope = f"transition{stage}"
            x = b.conv(b.activation(b.norm(x), "Relu"), x.channels // 2)
            x = b.pool("AveragePool", x, 2, 2)
        features = [x]
        for k in range(layers):
            b.scope = f"dense{stage}.{k}"
            all_features = b.concat(features) if k else x
            y = b.conv(b.activation(b.norm(all_features), "Relu"), 128)
            features.append(b.conv(b.activation(b.norm(y), "Relu"), 32, 3))
        x = b.concat(features)
    return classify(b, b.activation(b.norm(x), "Relu"))


def unet(size: int = 128, classes: int = 2) -> Built:
    """Ronneberger et al. 2015, arXiv:1505.04597; five levels from 64 channels; y [batch, classes, size, size]."""
    b = Builder()
    x = b.input("x", ["batch", 3, size, size], 3)
    skips = []
    for level, width in enumerate((64, 128, 256, 512, 1024)):
        b.scope = f"down{level}"
        if level:
            x = b.pool("MaxPool", x, 2, 2)
        x = b.block(b.block(x, width, 3), width, 3)
        skips.append(x)
    for level in (3, 2, 1, 0):
        b.scope = f"up{level}"
        skip = skips[level]
        x = b.concat([skip, b.transposed(x, skip.channels, 2, 2)])
        x = b.block(b.block(x, skip.channels, 3), skip.channels, 3)
    y = b.conv(x, classes, bias=True)
    return b.model({"y": (y, ["batch", classes, size, size])}), b.parameters


def perceptron(width: int = 1472, layers: int = 3) -> Built:
    """`layers` square layers with Relu between them, x [batch, width] -> y [batch, width]: by default 26 MB of weights and little else."""
    b = Builder()
    x = b.input("x", ["batch", width], width)
    for layer in range(layers):
        x = b.classifier(b.activation(x, "Relu") if layer else x, width)
    return finish(b, x)
