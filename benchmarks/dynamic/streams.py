"""Trained models on streams, and on inputs of many sizes, beside engines that take any shape (docs/dynamic.md).

python benchmarks/dynamic/streams.py [MODEL ...] [--threads 1 2]

Streams carry their state from frame to frame: voice activity over a recording, both stages of a denoiser over its frames (the second stage gets what
the first one made of them). Texts are passages of a play of many lengths (even ones, as the model wants them), pictures have many sizes. Every engine has
a process of its own; in each round every engine goes through the whole sequence once, in drawn order, and ratios are taken inside a round. Answers are
compared before. The files in Hasten's cache are counted before and after: every compiled kernel is added there.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import contest  # noqa: E402
import machine  # noqa: E402
import numpy as np  # noqa: E402
import trained  # noqa: E402
from contest import BASE  # noqa: E402
from encoder import compilations  # noqa: E402

import hasten  # noqa: E402
from hasten.bench.statistics import geometric_mean  # noqa: E402

Data = dict[str, Any]
Feeds = dict[str, Any]
ENGINES = (BASE, "onnxruntime", "openvino:shapes=any")
GOALS = {"recurrent": 1.5, "sizes": 1.2}  # times as fast as the best peer, geometric mean
FRAME, HOP = 512, 128  # of the denoiser, samples at 16 kHz
CONTEXT = 64  # samples of the last frame that voice activity sees again
SIDES = (96, 128, 160, 192, 224, 256, 288, 320, 384, 448)  # of pictures


@dataclass
class Task:
    """One model and what it is called with in turn: `state` besides in the first call, after that what `trained.CARRIES` says."""

    model: str
    kind: str  # of its goal
    items: list[Feeds]
    state: Feeds = field(default_factory=dict)

    @property
    def calls(self) -> list[Feeds]:
        return [{**self.items[0], **self.state}, *self.items[1:]]

    @property
    def carry(self) -> dict[str, str]:
        return trained.CARRIES[self.model] if self.state else {}


def tasks(data: Path, quick: bool) -> list[Task]:
    inputs = trained.Inputs(data / "inputs")
    seconds, count = (1, 4) if quick else (10, 24)
    sound = inputs.speech(16000 * seconds)
    windows = frames(np.concatenate([np.zeros(CONTEXT, np.float32), sound]), 512 + CONTEXT, 512)
    rate, spectra = np.array(16000, np.int64), [np.fft.rfft(frame) for frame in frames(sound, FRAME, HOP)]
    first = [{"input_2": np.abs(spectrum).astype(np.float32)[None, None]} for spectrum in spectra]
    memory = trained.zeros(1, 2, 128, 2)
    masks = masked(data, first, memory)
    second = [{"input_4": np.fft.irfft(mask * spectrum).astype(np.float32)[None]} for mask, spectrum in zip(masks, spectra, strict=True)]
    rng = random.Random(1)
    sizes = rng.sample([(h, w) for h in SIDES for w in SIDES], count)
    widths = rng.sample(range(64, 641), count)
    texts = rng.sample([text for text in inputs.text(1, 190_000, 0)[0].tobytes().split(b"\n\n") if len(text) > 20], 5 * count)
    return [
        Task("vad_silero", "recurrent", [{"input": window[None], "sr": rate} for window in windows], {"state": trained.zeros(2, 1, 128)}),
        Task("denoise_dtln_1", "recurrent", first, {"input_3": memory}),
        Task("denoise_dtln_2", "recurrent", second, {"input_5": memory}),
        Task("text_nnsplit_en", "recurrent", [{"input": np.array([[*text[: len(text) // 2 * 2]]], np.uint8)} for text in texts]),
        Task("ocr_det_ppocrv4", "sizes", [{"x": inputs.photo(h, w, "scan_page", scale=1 / 58, shift=-2.1)} for h, w in sizes]),
        Task("ocr_rec_ppocrv4", "sizes", [{"x": inputs.photo(48, w, "scan_page", scale=1 / 128, shift=-1.0)} for w in widths]),
        Task("face_yunet_n", "sizes", [{"input": inputs.photo(h, w, scale=1.0)} for h, w in sizes]),
    ]


def frames(sound: Any, size: int, step: int) -> list[Any]:
    return [sound[at : at + size] for at in range(0, len(sound) - size + 1, step)]


def masked(data: Path, first: Sequence[Feeds], state: Any) -> list[Any]:
    """What the denoiser's first stage lets through of each frame: [1, 257]."""
    model = hasten.compile(str(data / "models" / "denoise_dtln_1.onnx"), threads=1)
    found = []
    for item in first:
        answer = model.run({**item, "input_3": state})
        state = answer["tf_op_layer_stack_2"]
        found.append(answer["activation_2"][0])
    return found


def measured(task: Task, data: Path, threads: int, args: argparse.Namespace) -> Data:
    """Microseconds of a call on each engine, and how many times as fast Hasten is."""
    model = data / "models" / f"{task.model}.onnx"
    case = trained.Case(task.model, "", model, {})
    with ExitStack() as stack:
        engines = contest.started(args.engines, model, task.calls[0], threads, args.cache, stack)
        before = compilations(BASE, engines[BASE], args.cache)
        answers = {name: engine.sequence(task.calls, task.carry, keep=True)[1] for name, engine in engines.items()}
        errors = {name: case.check(found, answers["onnxruntime"]) for name, found in answers.items()}
        times = contest.race(engines, task.calls, task.carry, args.rounds or (2 if args.quick else 12))
        after = compilations(BASE, engines[BASE], args.cache)
    rows = contest.compared(times, len(task.items), errors, f"{task.model:16} {threads} thr")
    shapes = len({tuple(np.shape(value) for value in item.values()) for item in task.items})
    print(f"{task.model:16} {threads} thr, {shapes} shapes: files in the cache {before} after the first call, {after} after all")
    best = min(row["ratio"] for name, row in rows.items() if name != BASE)
    return {"kind": task.kind, "calls": len(task.items), "shapes": shapes, "best": best, "compilations": after - before, "engines": rows}


def contested(chosen: Sequence[Task], data: Path, threads: int, args: argparse.Namespace) -> Data:
    """All tasks with so many threads, and their means."""
    rows = {task.model: measured(task, data, threads, args) for task in chosen}
    means = {kind: geometric_mean(best) for kind in GOALS if (best := [row["best"] for row in rows.values() if row["kind"] == kind])}
    for kind, mean in means.items():
        print(f"{threads} thr, {kind}: {mean:.2f} times as fast as the best peer (goal {GOALS[kind]})")
    return {"means": means, "models": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="parts of names; default: all")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--engines", nargs="*", default=ENGINES)
    parser.add_argument("--cache", type=Path, help="a folder that keeps what engines compile, for the next run")
    machine.add_arguments(parser)
    args = parser.parse_args()
    data = trained.data_folder()
    if data is None:
        sys.exit("the data folder is not here: set HASTEN_DATA")
    quiet = machine.Quiet(args.even_if_busy)
    chosen = [task for task in tasks(data, args.quick) if not args.models or any(part in task.model for part in args.models)]
    with tempfile.TemporaryDirectory(prefix="hasten-streams-") as folder:
        args.cache = args.cache or Path(folder)
        found = {str(threads): contested(chosen, data, threads, args) for threads in args.threads}
    del args.cache
    machine.write("dynamic/streams", quiet, {"goals": GOALS, "threads": found}, args)


if __name__ == "__main__":
    main()
