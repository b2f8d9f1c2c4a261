"""A trained face detector compiled to native code, run on a photograph, drawn, and timed against ONNX Runtime.

make demo                                    the photograph that comes along
python examples/demo.py --picture me.jpg     one of yours
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

import hasten
from hasten.bench.experiment import Task, measure
from hasten.bench.peer import EngineSpec
from hasten.bench.rounds import Design
from hasten.bench.verdict import compare, seconds_interval

HERE = Path(__file__).parent
MODEL = HERE / "models" / "face_ultraface_rfb320.onnx"
WIDTH, HEIGHT = 320, 240  # of the picture that the network sees
SURE = 0.7  # least score of a face
OVERLAP = 0.3  # of two boxes that are one face: intersection over union

Floats = NDArray[np.float32]
console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=HERE / "pictures" / "photo_astronaut.png")
    parser.add_argument("--output", type=Path, default=Path("demo/face-annotated.png"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5, help="for timing")
    args = parser.parse_args()

    model = compile_with_bar(args.threads)
    picture = crop(Image.open(args.picture).convert("RGB"))
    x = preprocess(picture)
    outputs = model.run({"input": x})
    faces = find_faces(outputs["scores"][0], outputs["boxes"][0])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    annotate(picture, faces).save(args.output)
    noun = "face" if len(faces) == 1 else "faces"
    console.print(f" found [bold]{len(faces)} {noun}[/] in {args.picture.name} -> [bold]{args.output}[/]")
    size = f"{picture.width}x{picture.height}"
    for score, left, top, right, bottom in faces * np.array([1, *picture.size, *picture.size]):
        console.print(f"   score {score:.3f}, x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f} of {size}")
    time_against_peer(x, args.threads, args.seconds)


def compile_with_bar(threads: int) -> hasten.CompiledModel:
    """The detector, compiled with a progress bar."""
    began = time.perf_counter()
    columns = (TextColumn(f" compile {MODEL.name}"), BarColumn(bar_width=20), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        model = hasten.compile(
            MODEL,
            threads=threads,
            progress=lambda stage, done, total: bar.update(
                task, description=stage, completed=done, total=total or None
            ),
        )
    report = model.report()
    how = "from the cache" if report.from_cache else "cold"
    seconds = time.perf_counter() - began
    console.print(f" compile {MODEL.name}  [bold]{report.kernels} kernels[/] ({how}, {report.isa}) {seconds:.2f} s")
    return model


def crop(picture: Image.Image) -> Image.Image:
    """The largest part of the network's proportions, from the top, where faces are."""
    width = min(picture.width, picture.height * WIDTH // HEIGHT)
    left = (picture.width - width) // 2
    return picture.crop((left, 0, left + width, width * HEIGHT // WIDTH))


def preprocess(picture: Image.Image) -> Floats:
    """Float32 (1, 3, 240, 320), values -1 to 1."""
    pixels = np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    return np.ascontiguousarray(((pixels - 127) / 128).transpose(2, 0, 1)[None])


def find_faces(scores: Floats, boxes: Floats) -> Floats:
    """Rows of (score, left, top, right, bottom), relative to the picture, best first.

    `scores` (4420, 2) are the probabilities of background and face, `boxes` (4420, 4) corners. Of boxes that overlap
    much only the best is kept (greedy non-maximum suppression).
    """
    sure = scores[:, 1] > SURE
    found = np.column_stack([scores[sure, 1], boxes[sure].clip(0, 1)])
    left = found[np.argsort(-found[:, 0], kind="stable")]
    kept = []
    while len(left):
        kept.append(left[0])
        left = left[1:][overlap(left[0, 1:], left[1:, 1:]) < OVERLAP]
    return np.array(kept, np.float32).reshape(-1, 5)


def overlap(box: Floats, others: Floats) -> Floats:
    """Intersection over union of one box with many."""
    corner = np.maximum(box[:2], others[:, :2])
    common = (np.minimum(box[2:], others[:, 2:]) - corner).clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return np.asarray(common / np.maximum(areas - common, 1e-9), np.float32)


def annotate(picture: Image.Image, faces: Floats) -> Image.Image:
    """The picture with a frame and the score around each face."""
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    for score, *box in faces:
        left, top, right, bottom = np.array(box) * [*picture.size, *picture.size]
        pen.rectangle((left, top, right, bottom), outline=(60, 255, 120), width=3)
        label = f"face {score:.2f}"
        pen.rectangle((left, top - 14, left + pen.textlength(label) + 6, top), fill=(60, 255, 120))
        pen.text((left + 3, top - 13), label, fill=(0, 0, 0))
    return drawn


def time_against_peer(x: Floats, threads: int, seconds: float) -> None:
    """Prints both times, their ratio, and how far each engine's answer is from float64."""
    engines = [EngineSpec("hasten"), EngineSpec("onnxruntime")]
    with console.status("timing ..."):
        run = measure([Task(MODEL, {"input": x})], engines, [threads], Design(seconds=seconds, starts=False, even_if_busy=True))
    ours, theirs = run.subjects[0].entries
    if trouble := ours.trouble or theirs.trouble:
        console.print(f" [dim]not compared: {trouble}[/]")
        return
    verdict = compare(theirs.samples, ours.samples)
    console.print(
        f" {threads} thread{'s' * (threads > 1)}: [bold]{verdict.ratio.value:.2f}x[/] ONNX Runtime "
        f"(95% interval {verdict.ratio.low:.2f} to {verdict.ratio.high:.2f}, {verdict.rounds} rounds)"
    )
    for name, entry in (("hasten", ours), ("ONNX Runtime", theirs)):
        console.print(f"   {name} {seconds_interval(entry.samples).value * 1e3:.2f} ms a picture, error {entry.error:.0e} of the largest value")
    for caution in run.cautions:
        console.print(f"   [dim]{caution}[/]")


if __name__ == "__main__":
    main()
