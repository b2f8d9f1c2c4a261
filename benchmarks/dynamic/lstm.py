"""LSTMs over sentences of all lengths, one at a time (bar N5 of the published system, docs/dynamic.md).

python benchmarks/dynamic/lstm.py

300 inputs and 512 units, one and two layers; the lengths are those of the treebank's sentences in words, the words' vectors are drawn. Every engine has a
process of its own; in each round every one goes through all sentences, in drawn order. Answers are compared with torch.nn.LSTM's.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import contest  # noqa: E402
import machine  # noqa: E402
import numpy as np  # noqa: E402
import recurrent  # noqa: E402
import treelstm  # noqa: E402
from installed import installed  # noqa: E402

Data = dict[str, Any]
ENGINES = (contest.BASE, "torch_lstm", "torch_cells", "onnxruntime", "openvino:shapes=any")
GOALS = {"torch_lstm": 1.5, "torch_cells": 2.0, "onnxruntime": 1.1}  # times as fast
CLOSE = 1e-4  # to torch's answers, relative to the largest


def sentences(count: int) -> list[Any]:
    """[length, 1, INPUTS] for sentences of the test part."""
    rng = np.random.default_rng(0)
    lengths = [sum(1 for _ in treelstm.words(tree)) for tree in random.Random(1).sample(treelstm.trees("test"), count)]
    return [rng.standard_normal((length, 1, recurrent.INPUTS), np.float32) for length in lengths]


def measured(layers: int, args: argparse.Namespace) -> Data:
    drawn = sentences(8 if args.quick else 150)
    calls, tokens = [{"x": x} for x in drawn], sum(map(len, drawn))
    with tempfile.TemporaryDirectory(prefix="hasten-lstm-") as folder, ExitStack() as stack:
        path = Path(folder) / "lstm.onnx"
        recurrent.export(path, layers)
        engines = contest.started(args.engines, path, calls[0], args.threads, Path(folder), stack)
        answers = {name: engine.sequence(calls, keep=True)[1] for name, engine in engines.items()}
        wanted = answers["torch_lstm"]
        errors = {name: max(apart(a["y"], b["y"]) for a, b in zip(found, wanted, strict=True)) for name, found in answers.items()}
        assert errors[contest.BASE] <= CLOSE, f"{errors[contest.BASE]:.1e} from torch's answers"
        times = contest.race(engines, calls, {}, args.rounds or (2 if args.quick else 12))
    rows = contest.compared(times, tokens, errors, f"{layers} layers, a token")
    return {"sentences": len(drawn), "tokens": tokens, "lengths": len(set(map(len, drawn))), "engines": rows}


def apart(a: Any, b: Any) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(2, len(machine.cpus())))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--engines", nargs="*", default=ENGINES)
    machine.add_arguments(parser)
    args = parser.parse_args()
    quiet = machine.Quiet(args.even_if_busy)
    with installed(HERE, {"torch_lstm": "recurrent:WHOLE", "torch_cells": "recurrent:CELLS"}):
        found = {str(layers): measured(layers, args) for layers in (1, 2)}
    machine.write("dynamic/lstm", quiet, {"goals": GOALS, "layers": found}, args)


if __name__ == "__main__":
    main()
