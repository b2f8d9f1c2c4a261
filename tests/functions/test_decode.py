"""The transformer of examples/decoding.py: greedy decoding and beam search against float64 NumPy that computes everything anew for each token."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hasten

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import decoding

Array = np.ndarray[Any, Any]
LAYERS, HEADS, WIDTH, TOKENS, CONTEXT, BEAM, MOST = 2, 2, 16, 11, 24, 3, 12


def weights(rng: np.random.Generator, ending: float) -> dict[str, Array]:
    """Random ones; `ending`: how much more likely than others END is."""
    shapes = {"words.weight": (TOKENS, WIDTH), "places.weight": (CONTEXT, WIDTH), "last.weight": (WIDTH,), "last.bias": (WIDTH,)}
    rows = {"head": (TOKENS, WIDTH)}
    for k in range(LAYERS):
        rows |= {f"layers.{k}.{name}": shape for name, shape in
                 {"qkv": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH), "up": (4 * WIDTH, WIDTH), "down": (WIDTH, 4 * WIDTH)}.items()}  # fmt: skip
        shapes |= {f"layers.{k}.{name}.{part}": (WIDTH,) for name in ("before", "middle") for part in ("weight", "bias")}
    for name, shape in rows.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    found = {name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes.items()}
    found["head.bias"][decoding.END] += ending
    return found


def log_probabilities(w: Mapping[str, Array], tokens: list[int]) -> Array:
    """Of the token that follows, float64 [TOKENS]."""

    def linear(x: Array, name: str) -> Array:
        return x @ w[name + ".weight"].T.astype(np.float64) + w[name + ".bias"]

    def normal(x: Array, name: str) -> Array:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * w[name + ".weight"] + w[name + ".bias"]

    n = len(tokens)
    x = w["words.weight"][tokens].astype(np.float64) + w["places.weight"][:n]
    for k in range(LAYERS):
        name = f"layers.{k}."
        q, keys, values = (part.reshape(n, HEADS, -1).swapaxes(0, 1) for part in np.split(linear(normal(x, name + "before"), name + "qkv"), 3, -1))
        scores = np.where(np.tri(n, dtype=bool), q @ keys.swapaxes(1, 2) / math.sqrt(WIDTH // HEADS), -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = shares / shares.sum(-1, keepdims=True) @ values
        x = x + linear(mixed.swapaxes(0, 1).reshape(n, WIDTH), name + "out")
        up = linear(normal(x, name + "middle"), name + "up")
        x = x + linear(up * (1 + np.vectorize(math.erf)(up / math.sqrt(2))) / 2, name + "down")
    logits = linear(normal(x[-1], "last"), "head")
    return logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())


def greedily(w: Mapping[str, Array], prompt: list[int]) -> list[int]:
    found: list[int] = []
    while len(found) < MOST and decoding.END not in found:
        found.append(int(log_probabilities(w, prompt + found).argmax()))
    return found


def searched(w: Mapping[str, Array], prompt: list[int]) -> list[tuple[float, list[int]]]:
    """(score, tokens), best first."""
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(MOST):
        longer = []
        for score, tokens in best:
            if decoding.END in tokens:
                longer.append((score, [*tokens, decoding.END]))
            else:
                longer += [(score + p, [*tokens, k]) for k, p in enumerate(log_probabilities(w, prompt + tokens))]
        best = sorted(longer, key=lambda row: -row[0])[:BEAM]
        if all(decoding.END in tokens for _, tokens in best):
            break
    return best


@pytest.mark.parametrize("ending", [-9.0, 1.0])
def test_decoders(rng: np.random.Generator, ending: float) -> None:
    w = weights(rng, ending)
    greedy, search = (hasten.compile(f) for f in decoding.decoders(w, LAYERS, HEADS, BEAM))
    for length in (1, 5):
        prompt = rng.integers(1, TOKENS, length)
        assert greedy(prompt, MOST) == greedily(w, prompt.tolist())
        tokens, scores = search(prompt, MOST)
        want = searched(w, prompt.tolist())
        assert tokens.tolist() == [row for _, row in want]
        np.testing.assert_allclose(scores, [score for score, _ in want], rtol=1e-4)
