"""A transformer that writes text, the whole loop in one native call: greedily until a token ends it, or the best of several continuations (beam search).

python examples/decoding.py        with random weights: to see how it is written and how fast it is

The model has one column of weights after another as PyTorch's modules have them (`nn.Linear` weights [out, in]); benchmarks/dynamic/decoder.py trains
some. Keys and values of earlier tokens are tensors that grow by one in each round.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

import hasten

LAYERS, WIDTH, HEADS, CONTEXT, TOKENS = 4, 192, 6, 256, 65
END = 0  # the token that ends a text
BEAM = 4
Array = np.ndarray[Any, Any]
Ids = hasten.Tensor(("n",), "int64")


def decoders(weights: Mapping[str, Array], layers: int = LAYERS, heads: int = HEADS, beam: int = BEAM) -> tuple[Any, Any]:
    """Two functions to be compiled: greedy(prompt, most) -> tokens, and search(prompt, most) -> (tokens int64 [beam, length], log probabilities [beam]),
    best first; a continuation that has ended is filled up with END. `most`: how many tokens at most; prompt and they must fit into the context."""
    part = dict(weights)
    words, places = part["words.weight"], part["places.weight"]
    width = words.shape[1]
    names = [f"layers.{k}." for k in range(layers)]

    @hasten.function
    def linear(x, name):  # noqa: ANN001, ANN202
        return x @ part[name + ".weight"].T + part[name + ".bias"]

    @hasten.function
    def normal(x, name):  # noqa: ANN001, ANN202
        return hasten.op.LayerNormalization(x, part[name + ".weight"], part[name + ".bias"], axis=-1)

    @hasten.function
    def layer(x, name, past, causal):  # noqa: ANN001, ANN202
        """x [batch, n, width] behind the keys and values `past` [batch, before, width] (None: nothing is before) -> the layer's result, all keys and values."""
        qkv = linear(normal(x, name + "before"), name + "qkv")
        keys, values = qkv[:, :, width : 2 * width], qkv[:, :, 2 * width :]
        if past is not None:
            keys, values = np.concatenate([past[0], keys], axis=1), np.concatenate([past[1], values], axis=1)
        x = x + linear(hasten.op.Attention(qkv[:, :, :width], keys, values, q_num_heads=heads, kv_num_heads=heads, is_causal=causal), name + "out")
        return x + linear(hasten.op.Gelu(linear(normal(x, name + "middle"), name + "up")), name + "down"), (keys, values)

    @hasten.function
    def begin(prompt):  # noqa: ANN001, ANN202
        """prompt [n] -> logits of the token that follows [1, tokens], keys and values of every layer."""
        x, past = (words[prompt] + places[: len(prompt)])[None], []
        for name in names:
            x, known = layer(x, name, None, 1)
            past = past + [known]
        return linear(normal(x[:, -1], "last"), "head"), past

    @hasten.function
    def advance(tokens, past):  # noqa: ANN001, ANN202
        """One token [batch] more: logits [batch, tokens], and the longer past."""
        x, longer = (words[tokens] + places[past[0][0].shape[1]])[:, None], []
        for name, before in zip(names, past):  # noqa: B905
            x, known = layer(x, name, before, 0)
            longer = longer + [known]
        return linear(normal(x[:, 0], "last"), "head"), longer

    @hasten.function
    def greedy(prompt: Ids, most: int) -> list[int]:  # type: ignore[valid-type]
        logits, past = begin(prompt)
        best = np.argmax(logits, axis=1)
        tokens: list[int] = [best.item()]
        count = 1
        while tokens[-1] != END and count < most:
            logits, past = advance(best, past)
            best = np.argmax(logits, axis=1)
            tokens = tokens + [best.item()]
            count = count + 1
        return tokens

    first = np.zeros(beam, np.int64)
    ended = np.where(np.arange(len(part["head.bias"])) == END, 0, -np.inf).astype(np.float32)[None]

    @hasten.function
    def search(prompt: Ids, most: int) -> tuple[hasten.Tensor((beam, "length"), "int64"), hasten.Tensor((beam,))]:  # type: ignore[valid-type]
        logits, past = begin(prompt)
        scores, last = hasten.op.TopK(hasten.op.LogSoftmax(logits, axis=1)[0], [beam], outputs=2)
        tokens = last[:, None]
        past = [(k[first], v[first]) for k, v in past]
        while tokens.shape[1] < most and hasten.op.ReduceMax(last) != END:
            logits, past = advance(last, past)
            steps = np.where((last == END)[:, None], ended, hasten.op.LogSoftmax(logits, axis=1))
            scores, chosen = hasten.op.TopK((scores[:, None] + steps).reshape(-1), [beam], outputs=2)
            parents, last = chosen // logits.shape[1], chosen % logits.shape[1]
            past = [(k[parents], v[parents]) for k, v in past]
            tokens = np.concatenate([tokens[parents], last[:, None]], axis=1)
        return tokens, scores

    return greedy, search


def random_weights(seed: int = 0) -> dict[str, Array]:
    """Of a model with the sizes above."""
    rng = np.random.default_rng(seed)

    def linear(name: str, inputs: int, outputs: int) -> dict[str, Array]:
        return {f"{name}.weight": (rng.standard_normal((outputs, inputs)) / inputs**0.5).astype(np.float32), f"{name}.bias": np.zeros(outputs, np.float32)}

    def normal(name: str) -> dict[str, Array]:
        return {f"{name}.weight": np.ones(WIDTH, np.float32), f"{name}.bias": np.zeros(WIDTH, np.float32)}

    found = {"words.weight": rng.standard_normal((TOKENS, WIDTH)).astype(np.float32)}
    found["places.weight"] = rng.standard_normal((CONTEXT, WIDTH)).astype(np.float32)
    for k in range(LAYERS):
        name = f"layers.{k}."
        found |= normal(name + "before") | linear(name + "qkv", WIDTH, 3 * WIDTH) | linear(name + "out", WIDTH, WIDTH)
        found |= normal(name + "middle") | linear(name + "up", WIDTH, 4 * WIDTH) | linear(name + "down", 4 * WIDTH, WIDTH)
    return found | normal("last") | linear("head", WIDTH, TOKENS)


def main() -> None:
    prompt = np.arange(1, 20)
    for function in decoders(random_weights()):
        model = hasten.compile(function)
        began = time.perf_counter()
        found = model(prompt, 200)
        seconds = time.perf_counter() - began
        tokens = found if isinstance(found, list) else found[0][0]
        print(f"{function.__name__}: {len(tokens)} tokens, {len(tokens) / seconds:.0f} a second, the first: {list(map(int, tokens[:8]))}")


if __name__ == "__main__":
    main()
