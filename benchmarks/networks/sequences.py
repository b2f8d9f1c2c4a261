"""Transformers and recurrent networks, as PyTorch's exporters write them: attention in its parts, sizes read from shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from networks.builder import Builder, Value
from networks.classifiers import Built, finish

SHARPNESS = 2.0  # standard deviation of attention's scores: a few places out of a hundred get most of the weight, as in trained networks


@dataclass(frozen=True)
class Sizes:
    """The batch and the length of a sequence, as values of the graph: integers in tensors of one element."""

    batch: Value
    length: Value

    @classmethod
    def of(cls, b: Builder, x: Value) -> Sizes:
        shape = b.op("Shape", [x])
        return cls(*(b.op("Unsqueeze", [b.op("Gather", [shape, b.constant(k, np.int64)], axis=0), b.constant([0], np.int64)]) for k in (0, 1)))


def reshape(b: Builder, x: Value, sizes: Sizes, *rest: int) -> Value:
    """To [batch, length, *rest]."""
    shape = b.op("Concat", [sizes.batch, sizes.length, *(b.constant([n], np.int64) for n in rest)], axis=0)
    return b.op("Reshape", [x, shape])


def attend(b: Builder, scores: Value, v: Value) -> Value:
    """scores [batch, heads, length, length] and v [batch, heads, length, size] to [batch, length, heads, size]."""
    y = b.op("MatMul", [b.op("Softmax", [scores], axis=-1), v], v)
    return b.op("Transpose", [y], perm=[0, 2, 1, 3])


def encoder(width: int, layers: int, heads: int, opset: int, vocabulary: int = 30522, positions: int = 512) -> Built:
    """BERT (Devlin et al. 2018, arXiv:1810.04805) as a feature extractor: normalisation after every residual add; input_ids, attention_mask,
    token_type_ids int64 [batch, sequence] -> last_hidden_state [batch, sequence, width] and pooler_output [batch, width]."""
    b = Builder(opset=opset)
    ids, mask, types = (b.input(name, ["batch", "sequence"], kind=TensorProto.INT64) for name in ("input_ids", "attention_mask", "token_type_ids"))
    sizes = Sizes.of(b, ids)
    b.scope = "embeddings"
    words, kinds, places = (b.weight(b.normal(n, width)) for n in (vocabulary, 2, positions))
    zero, one = (b.constant([n], np.int64) for n in (0, 1))
    order = b.op("Slice", [b.constant(np.arange(positions)[None], np.int64), zero, sizes.length, one])
    parts = [b.op("Gather", [table, indices], Value("", width), axis=0) for table, indices in ((words, ids), (kinds, types), (places, order))]
    x = b.layer_norm(b.add(b.add(parts[0], parts[1]), parts[2]), 1e-12)
    far = b.op("Unsqueeze", [b.op("Unsqueeze", [mask, one]), b.constant([2], np.int64)])
    far = b.op("Sub", [b.constant(1), b.op("Cast", [far], to=TensorProto.FLOAT)])
    far = b.op("Mul", [far, b.constant(np.finfo(np.float32).min)])
    for k in range(layers):
        b.scope = f"layer{k}"
        x = encoder_layer(b, x, heads, sizes, far)
    b.scope = "pooler"
    first = b.op("Gather", [x, b.constant(0, np.int64)], axis=1)
    pooled = b.op("Tanh", [b.classifier(first, width)])
    outputs = {"last_hidden_state": (x, ["batch", "sequence", width]), "pooler_output": (pooled, ["batch", width])}
    return b.model(outputs), b.parameters


def encoder_layer(b: Builder, x: Value, heads: int, sizes: Sizes, mask: Value) -> Value:
    """Attention and a dense block; normalised after each."""
    size = x.channels // heads

    def project(gain: float, perm: list[int]) -> Value:
        return b.op("Transpose", [reshape(b, b.linear(x, x.channels, gain), sizes, heads, size)], perm=perm)

    q = project(SHARPNESS, [0, 2, 1, 3])
    k = project(1.0, [0, 2, 3, 1])
    v = project(1.0, [0, 2, 1, 3])
    scores = b.op("Div", [b.op("MatMul", [q, k]), b.constant(math.sqrt(size))])
    y = reshape(b, attend(b, b.op("Add", [scores, mask]), v), sizes, x.channels)
    x = b.layer_norm(b.add(b.linear(y, x.channels), x), 1e-12)
    y = b.linear(b.activation(b.linear(x, 4 * x.channels), "Gelu"), x.channels)
    return b.layer_norm(b.add(y, x), 1e-12)


def bert_base() -> Built:
    return encoder(768, 12, 12, opset=17)


def minilm_l6() -> Built:
    """The sentence encoder all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957); opset 14, so layer normalisation comes in parts."""
    return encoder(384, 6, 12, opset=14)


def vit_s16(width: int = 384, layers: int = 12, heads: int = 6) -> Built:
    """ViT-S/16 at 224x224: Dosovitskiy et al. 2020, arXiv:2010.11929; Touvron et al. 2020, arXiv:2012.12877. Normalisation before each part, q, k
    and v from one product."""
    b = Builder()
    x = b.conv(b.input("x", ["batch", 3, 224, 224], 3), width, 16, 16, pad=0, bias=True)
    batch = b.op("Unsqueeze", [b.op("Gather", [b.op("Shape", [x]), b.constant(0, np.int64)], axis=0), b.constant([0], np.int64)])
    minus, one, wide, hidden = (b.constant([n], np.int64) for n in (-1, 1, width, width // heads))
    x = b.op("Reshape", [x, b.op("Concat", [batch, wide, minus], axis=0)])
    x = b.op("Transpose", [x], perm=[0, 2, 1])
    token = b.op("Expand", [b.weight(b.normal(1, 1, width)), b.op("Concat", [batch, one, wide], axis=0)], x)
    x = b.op("Concat", [token, x], axis=1)
    x = b.add(x, Value(b.weight(b.normal(1, 197, width, deviation=0.5)), width, 0.0, 0.25))
    places = b.constant([197], np.int64)
    for layer in range(layers):
        b.scope = f"layer{layer}"
        y = b.linear(b.layer_norm(x, 1e-6), 3 * width)
        shape = b.op("Concat", [batch, places, b.constant([3], np.int64), b.constant([heads], np.int64), hidden], axis=0)
        qkv = b.op("Transpose", [b.op("Reshape", [y, shape])], perm=[2, 0, 3, 1, 4])
        q, k, v = (b.op("Gather", [qkv, b.constant(n, np.int64)], Value("", width), axis=0) for n in range(3))
        q = b.op("Mul", [q, b.constant(SHARPNESS / math.sqrt(width // heads))])
        scores = b.op("MatMul", [q, b.op("Transpose", [k], perm=[0, 1, 3, 2])])
        y = b.op("Reshape", [attend(b, scores, v), b.op("Concat", [batch, places, wide], axis=0)])
        x = b.add(x, b.linear(y, width))
        y = b.linear(b.activation(b.linear(b.layer_norm(x, 1e-6), 4 * width), "Gelu"), width)
        x = b.add(x, y)
    b.scope = "head"
    x = b.op("Gather", [b.layer_norm(x, 1e-6), b.constant(0, np.int64)], axis=1)
    return finish(b, b.classifier(x, 1000))


def recurrent(kind: str, inputs: int = 256, width: int = 512, layers: int = 2, classes: int = 64) -> Built:
    """Layers of LSTM or GRU and a dense one: x [batch, time, inputs] -> y [batch, time, classes]. Like PyTorch's, so GRU has two biases
    ("linear before reset")."""
    b = Builder()
    gates, variance = {"LSTM": (4, 0.05), "GRU": (3, 0.2)}[kind]  # (of what comes out, as measured)
    x = b.op("Transpose", [b.input("x", ["batch", "time", inputs], inputs)], perm=[1, 0, 2])
    batch = b.op("Slice", [b.op("Shape", [x]), *(b.constant([n], np.int64) for n in (1, 2))])
    one, wide = (b.constant([n], np.int64) for n in (1, width))
    start = b.op("ConstantOfShape", [b.op("Concat", [one, batch, wide], axis=0)])
    for layer in range(layers):
        b.scope = f"layer{layer}"
        weights = [b.weight(b.normal(1, gates * width, n, deviation=1 / math.sqrt(n * power))) for n, power in ((x.channels, x.power), (width, 1.0))]
        bias = b.weight(b.normal(1, 2 * gates * width, deviation=0.1))
        states = [start] * (2 if kind == "LSTM" else 1)
        how = {} if kind == "LSTM" else {"linear_before_reset": 1}
        y = b.op(kind, [x, *weights, bias, "", *states], Value("", width, 0.0, variance), hidden_size=width, **how)
        x = b.op("Squeeze", [y, one])
    x = b.op("Transpose", [x], perm=[1, 0, 2])
    return b.model({"y": (b.linear(x, classes), ["batch", "time", classes])}), b.parameters


def lstm() -> Built:
    """Hochreiter and Schmidhuber 1997."""
    return recurrent("LSTM")


def gru() -> Built:
    """Cho et al. 2014, arXiv:1406.1078."""
    return recurrent("GRU")
