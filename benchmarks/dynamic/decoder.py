"""A small decoder-only transformer over characters (LAYERS layers, WIDTH wide, HEADS heads, at most CONTEXT characters), trained on plays of Shakespeare from
the data folder (two minutes on two cores, once for each folder). A speech ends with END, which stands for the empty line between speeches.

`module()` is plain PyTorch, in the forms that its users give it: all characters at once (for training), behind keys and values that grow, and behind
ones that lie in memory of their full length. `export` writes the second as ONNX.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import trained

LAYERS, WIDTH, HEADS, CONTEXT, BEAM = 4, 192, 6, 256, 4
EACH = WIDTH // HEADS
STEPS, BATCH, RATE, DROPPED = 300, 8, 1.5e-3, 0.1
END = 0
Array = np.ndarray[Any, Any]


@cache
def text() -> str:
    """The plays, with END's character between speeches."""
    data = trained.data_folder()
    if data is None:
        sys.exit("the data folder is not here: set HASTEN_DATA")
    return (data / "inputs" / "text_shakespeare_200k.txt").read_text(encoding="utf-8").replace("\n\n", "\0")


@cache
def characters() -> str:
    """Token k is character k; END is the first."""
    return "".join(sorted(set(text())))


def tokens(said: str) -> Array:
    """int64 [length]."""
    number = {c: k for k, c in enumerate(characters())}
    return np.array([number[c] for c in said], np.int64)


def prompts(count: int) -> list[Array]:
    """Beginnings of speeches, int64 [length]: who speaks, and some of the first line; of many lengths."""
    speeches = [s for s in text().split("\0") if 30 < len(s)]
    chosen = speeches[:: len(speeches) // count][:count]
    return [tokens("\0" + s[: 10 + 7 * k % 50]) for k, s in enumerate(chosen)]


def module() -> Any:
    """ids int64 [batch, n] -> logits of the last [batch, characters], and keys and values of all so far."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
            self.before, self.middle, self.drop = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), nn.Dropout(DROPPED)

        def heads(self, x: Any) -> Any:
            """q, k and v [batch, HEADS, n, EACH]."""
            return self.qkv(self.before(x)).unflatten(2, (3, HEADS, EACH)).permute(2, 0, 3, 1, 4)

        def finish(self, x: Any, mixed: Any) -> Any:
            x = x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
            return x + self.drop(self.down(nn.functional.gelu(self.up(self.middle(x)))))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(len(characters()), WIDTH), nn.Embedding(CONTEXT, WIDTH)
            self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
            self.last, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(characters()))

        def forward(self, ids: Any, past: Any = ()) -> tuple[Any, ...]:
            """One token behind keys and values of `past` (for each layer two, [batch, HEADS, before, EACH]); or, without a past, all of a prompt."""
            before = past[0].shape[2] if past else 0
            x = self.words(ids) + self.places(torch.arange(ids.shape[1]) + before)
            present = []
            for k, layer in enumerate(self.layers):
                q, keys, values = layer.heads(x)
                if past:
                    keys, values = torch.cat([past[2 * k], keys], 2), torch.cat([past[2 * k + 1], values], 2)
                x = layer.finish(x, nn.functional.scaled_dot_product_attention(q, keys, values, is_causal=not past))
                present += [keys, values]
            return self.head(self.last(x[:, -1])), *present

        def within(self, ids: Any, before: int, cache: Any) -> Any:
            """The same with `cache`, for each layer keys and values [batch, HEADS, CONTEXT, EACH] of which `before` are known; the new ones are added."""
            n = ids.shape[1]
            x = self.words(ids) + self.places.weight[before : before + n]
            for layer, keys, values in zip(self.layers, cache[::2], cache[1::2], strict=True):
                q, keys[:, :, before : before + n], values[:, :, before : before + n] = layer.heads(x)
                k, v = keys[:, :, : before + n], values[:, :, : before + n]
                x = layer.finish(x, nn.functional.scaled_dot_product_attention(q, k, v, is_causal=n > 1))
            return self.head(self.last(x[:, -1]))

        def all_logits(self, ids: Any) -> Any:
            x = self.words(ids) + self.places.weight[: ids.shape[1]]
            for layer in self.layers:
                q, k, v = layer.heads(x)
                x = layer.finish(x, nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
            return self.head(self.last(x))

    torch.manual_seed(0)
    return Decoder()


def train(path: Path, tell: Callable[[str], None] = print) -> None:
    """Train and write the weights."""
    import torch

    network, data = module(), torch.from_numpy(tokens(text()))
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    generator, began = torch.Generator().manual_seed(0), time.monotonic()
    for step in range(STEPS):
        starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,), generator=generator)
        pieces = torch.stack([data[at : at + CONTEXT + 1] for at in starts])
        loss = torch.nn.functional.cross_entropy(network.all_logits(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 24:
            tell(f"step {step + 1} of {STEPS}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s")
    torch.save(network.state_dict(), path)


def load(path: Path) -> Any:
    """The trained module."""
    import torch

    network = module()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def export(network: Any, path: Path, what: str) -> None:
    """One call as ONNX, `what`: "prompt" (ids [1, n], no past), "step" (ids [1, 1], past) or "beam" (ids [BEAM, 1], parents [BEAM], past), whose past is
    that of the rows `parents`. Inputs ids, parents, past_0, ..., outputs logits, present_0, ..."""
    import torch

    class Beam(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ids: Any, parents: Any, past: Any) -> tuple[Any, ...]:
            return self.network(ids, [x.index_select(0, parents) for x in past])  # type: ignore[no-any-return]

    n, before = torch.export.Dim("n", min=2, max=CONTEXT), torch.export.Dim("before", min=2, max=CONTEXT - 1)
    rows = BEAM if what == "beam" else 1
    past = [torch.zeros(rows, HEADS, 7, EACH) for _ in range(2 * LAYERS)]
    names, presents = [f"past_{k}" for k in range(2 * LAYERS)], [f"present_{k}" for k in range(2 * LAYERS)]
    grows = [{2: before} for _ in past]
    one = torch.ones(rows, 1, dtype=torch.int64)
    kinds: dict[str, tuple[Any, tuple[Any, ...], list[str], tuple[Any, ...]]] = {
        "prompt": (network, (torch.ones(1, 9, dtype=torch.int64),), ["ids"], ({1: n},)),
        "step": (network, (one, past), ["ids", *names], ({}, grows)),
        "beam": (Beam().eval(), (one, torch.arange(rows), past), ["ids", "parents", *names], ({}, {}, grows)),
    }
    called, inputs, names, shapes = kinds[what]
    torch.onnx.export(called, inputs, str(path), input_names=names, output_names=["logits", *presents], dynamic_shapes=shapes, dynamo=True, external_data=False)
