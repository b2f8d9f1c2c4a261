"""Networks of published architectures with seeded random weights, for which no trained file is at hand.

python benchmarks/zoo.py                             what there is
python benchmarks/zoo.py resnet50 --out resnet50.onnx

`cases_of(name, folder)` gives a `Case` (as trained.py does for real models) for each batch and length.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from networks import classifiers, inception, mobile, sequences
from networks.classifiers import Built
from trained import Case, Feeds

LENGTHS = (128, 16, 64, 384)  # of encoders' inputs, in tokens; the first one where there is to be only one
TIME = 100  # steps of recurrent networks


@dataclass(frozen=True)
class Network:
    """`build` gives the model and its number of parameters; `published` is that number in the literature (the weights that inference needs)."""

    build: Callable[[], Built]
    feeds: Callable[[np.random.Generator, int, int], Feeds]  # batch, length
    published: int
    source: str  # of that number
    lengths: Sequence[int] = (0,)  # (0: the input's length is fixed)


def picture(size: int) -> Callable[[np.random.Generator, int, int], Feeds]:
    return lambda rng, batch, _: {"x": rng.standard_normal((batch, 3, size, size), np.float32)}


def words(rng: np.random.Generator, batch: int, length: int) -> Feeds:
    """Sentences of different lengths, the longest first, padded."""
    lengths = np.linspace(length, max(1, length // 2), batch).astype(int)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    return {"input_ids": rng.integers(1, 30522, (batch, length)) * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def series(rng: np.random.Generator, batch: int, length: int) -> Feeds:
    return {"x": rng.standard_normal((batch, length, 256), np.float32)}


def spectrum(rng: np.random.Generator, batch: int, _: int) -> Feeds:
    return {"x": rng.standard_normal((batch, 1, 49, 10), np.float32)}


NETWORKS = {
    "resnet18": Network(classifiers.resnet18, picture(224), 11_689_512, "torchvision"),
    "resnet50": Network(classifiers.resnet50, picture(224), 25_557_032, "torchvision"),
    "mobilenet_v2": Network(mobile.mobilenet_v2, picture(224), 3_504_872, "torchvision"),
    "mobilenet_v3_large": Network(mobile.mobilenet_v3_large, picture(224), 5_483_032, "torchvision"),
    "efficientnet_b0": Network(mobile.efficientnet_b0, picture(224), 5_288_548, "torchvision"),
    "squeezenet1_1": Network(classifiers.squeezenet, picture(224), 1_235_496, "torchvision"),
    "inception_v3": Network(inception.inception_v3, picture(299), 23_834_568, "torchvision, without auxiliary classifier"),
    "densenet121": Network(classifiers.densenet121, picture(224), 7_978_856, "torchvision"),
    "vgg16": Network(classifiers.vgg16, picture(224), 138_357_544, "torchvision"),
    "vit_s16": Network(sequences.vit_s16, picture(224), 22_050_664, "timm"),
    "bert_base": Network(sequences.bert_base, words, 109_482_240, "transformers, bert-base-uncased", LENGTHS),
    "minilm_l6": Network(sequences.minilm_l6, words, 22_713_216, "sentence-transformers, all-MiniLM-L6-v2", LENGTHS),
    "lstm": Network(sequences.lstm, series, 3_711_040, "torch.nn.LSTM and torch.nn.Linear", (TIME,)),
    "gru": Network(sequences.gru, series, 2_791_488, "torch.nn.GRU and torch.nn.Linear", (TIME,)),
    "unet": Network(classifiers.unet, picture(128), 31_037_698, "milesial/Pytorch-UNet"),
    "ds_cnn": Network(mobile.ds_cnn, spectrum, 23_756, "MLPerf Tiny (24,908 with 1,152 statistics)"),
}


def write(name: str, path: Path) -> Path:
    """The network `name` as an ONNX file."""
    model, _ = NETWORKS[name].build()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def cases_of(name: str, folder: Path, batches: Sequence[int] = (1, 8), first_only: bool = False) -> Iterator[Case]:
    """The cases of a network: each batch with each length, or with the first length only. Its file is made in `folder`."""
    network, path = NETWORKS[name], write(name, folder / f"{name}.onnx")
    for batch in batches:
        for length in network.lengths[: 1 if first_only else None]:
            label = f"n{batch}" + (f" {length}" if len(network.lengths) > 1 else "")
            yield Case(name, label, path, network.feeds(np.random.default_rng([batch, length]), batch, length))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, help="default: NAME.onnx")
    args = parser.parse_args()
    if not args.name:
        for name, network in NETWORKS.items():
            print(f"{name:20} {network.published / 1e6:8.3f} million parameters  {network.build.__module__}")
        return
    path = write(args.name, args.out or Path(f"{args.name}.onnx"))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
