"""A transformer that writes text, greedily and as a beam search, the loop included (the functions of examples/decoding.py; bar 2 of docs/dynamic.md).

python benchmarks/dynamic/decode.py [--threads 1 2]

The model is trained when its weights are not there (decoder.py). Every engine (decode_peers.py) has a process of its own; rounds in turn. All tokens must be
those of PyTorch, scores of the beam search within CLOSE of it. The first run also exports the model and fills torch.compile's cache; a run to be kept is a
second one.

results/dynamic/decode.json: {"threads": {"1": {"greedy": table, "beam": table}, "2": ...}, "bar": 1.5}. A table has "tokens" (of all texts), "engines", {name:
{"tokens_per_second", "ratio", "low", "high" (its time over Hasten's, with the interval), "error" (largest difference of scores from PyTorch)}},
"compilations" (objects that Hasten added to its cache after it had loaded), and for greedy decoding with one thread "not_kernels", the share of a call.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import decode_peers  # noqa: E402
import decoder  # noqa: E402
import machine  # noqa: E402
import numpy as np  # noqa: E402
from encoder import turns  # noqa: E402
from installed import installed  # noqa: E402

from hasten.bench.peer import EngineSpec  # noqa: E402
from hasten.bench.process import Engine, EngineError  # noqa: E402
from hasten.bench.statistics import interval  # noqa: E402
from hasten.profile.record import record  # noqa: E402

Data = dict[str, Any]
BASE, REFERENCE = "decode_hasten", "decode_eager"
PEERS = {"decode_hasten": "HASTEN", "decode_eager": "EAGER", "decode_compiled": "COMPILED", "decode_onnxruntime": "ORT", "decode_openvino": "OPENVINO"}
MODES = {"greedy": 0, "beam": decoder.BEAM}
BAR = 1.5  # times as fast as the best peer
CLOSE = 1e-4  # scores, relative to the larger of 1 and the score
MOST = 150  # tokens of a text
PROFILED = 40  # and of one whose instructions are timed


def contest(args: argparse.Namespace, threads: int) -> Data:
    """All engines with so many threads, both modes."""
    prompts = decoder.prompts(2 if args.quick else 4)
    items = {mode: [{"prompt": p, "most": MOST, "width": width} for p in prompts] for mode, width in MODES.items()}
    with installed(HERE, {name: f"decode_peers:{peer}" for name, peer in PEERS.items()}), ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name in args.engines:
            engine = stack.enter_context(Engine(EngineSpec.parse(name), args.weights, threads, machine.cpus()[:threads], args.cache))
            try:
                engine.load(items["greedy"][0])
            except EngineError as error:
                print(f"left out: {error}")
                continue
            engines[name] = engine
        loaded = compilations(args)
        found = {mode: table(args, engines, items[mode], f"{mode}, {threads} threads") for mode in MODES}
        for row in found.values():
            row["compilations"] = compilations(args) - loaded
    return found


def table(args: argparse.Namespace, engines: dict[str, Engine], items: list[Data], what: str) -> Data:
    answers = {name: engine.sequence(items, keep=True)[1] for name, engine in engines.items()}
    wanted = answers[REFERENCE]
    errors = {name: apart(found, wanted) for name, found in answers.items()}
    times: dict[str, list[int]] = {name: [] for name in engines}
    for name in turns(engines, args.rounds or (2 if args.quick else 9)):
        times[name].append(sum(engines[name].sequence(items)[0]))
    tokens, rows = sum(answer["tokens"].shape[1] for answer in wanted), {}
    for name, ns in times.items():
        ratio = interval([theirs / ours for theirs, ours in zip(ns, times[BASE], strict=True)])
        rows[name] = {"tokens_per_second": tokens / statistics.median(ns) * 1e9, "ratio": ratio.value, "low": ratio.low, "high": ratio.high,
                      "error": errors[name]}  # fmt: skip
        print(f"{what}: {name:20} {rows[name]['tokens_per_second']:7.0f} tokens/s, Hasten is {ratio.value:.2f} times as fast "
              f"[{ratio.low:.2f}, {ratio.high:.2f}], scores {errors[name]:.1e} from PyTorch")  # fmt: skip
    return {"tokens": tokens, "engines": rows}


def apart(found: list[Data], wanted: list[Data]) -> float:
    """The largest difference of scores; AssertionError beyond CLOSE, or where tokens differ."""
    worst = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.array_equal(ours["tokens"], theirs["tokens"]), "other tokens than PyTorch's"
        worst = max(worst, float((np.abs(ours["scores"] - theirs["scores"]) / np.maximum(1, np.abs(theirs["scores"]))).max()))
    assert worst <= CLOSE, f"scores are {worst} from PyTorch's"
    return worst


def compilations(args: argparse.Namespace) -> int:
    """Objects in Hasten's cache, to which every compiled kernel is added."""
    return sum(path.is_file() for path in args.cache.rglob("*") if "inductor" not in path.parts)


def not_kernels(args: argparse.Namespace) -> float:
    """The share of a greedy call with one thread that is not kernels, by its instructions."""
    model, _ = decode_peers.compiled(args.weights, 1)
    profile = record(model, {"prompt": decoder.prompts(1)[0], "most": np.array(PROFILED)}, seconds=2.0)
    parts = profile.parts()
    print(f"by part of {PROFILED} tokens: " + ", ".join(f"{name} {seconds * 1e6:.0f} us" for name, seconds in parts.items()))
    return 1 - parts["kernels"] / sum(parts.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--engines", nargs="*", default=list(PEERS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "hasten-decode", help="of weights and of what engines keep")
    machine.add_arguments(parser)
    args = parser.parse_args()
    args.weights, args.cache = args.folder / "decoder.pt", args.folder / "cache"
    args.cache.mkdir(parents=True, exist_ok=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(args.cache / "inductor")
    os.environ["HASTEN_CACHE_DIR"] = str(args.cache)
    if not args.weights.exists():
        decoder.train(args.weights)
    decode_peers.exported(args.weights)
    quiet = machine.Quiet(args.even_if_busy)
    found: Data = {str(threads): contest(args, threads) for threads in args.threads}
    if 1 in args.threads:
        found["1"]["greedy"]["not_kernels"] = not_kernels(args)
    machine.write("dynamic/decode", quiet, {"threads": found, "bar": BAR}, args)


if __name__ == "__main__":
    main()
