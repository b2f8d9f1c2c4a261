"""Runs that nobody measured: what the store, reports and gates are tested on."""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Mapping, Sequence

from hasten.bench.results import Entry, Run, Sample, Subject

ENGINES = {  # the time of a call relative to Hasten's, and the error
    "hasten": (1.0, 3e-7),
    "onnxruntime": (1.6, 4e-7),
    "openvino:precision=f32": (1.3, 5e-7),
    "openvino": (0.95, 1.2e-2),
    "ncnn": (1.01, 6e-7),
}
MODELS = {"face_yunet_n.onnx": 2.1e-3, "resnet50.onnx": 31e-3, "rl_go1_policy.onnx": 11e-6}  # seconds of a call


def make_entry(engine: str, seconds: float, *, rounds: int = 20, noise: float = 0.02, threads: int = 1, error: float | None = 0.0, seed: int = 0) -> Entry:
    """One engine with lognormal times around `seconds`."""
    draw = random.Random(f"{engine} {seconds} {threads} {seed}")
    loops = max(1, round(5e-3 / seconds))
    began, samples = 10**12, []
    for number in range(rounds):
        wall = round(seconds * math.exp(draw.gauss(0, noise)) * loops * 1e9)
        samples.append(Sample(number, draw.randrange(5), loops, wall, round(wall * threads * 0.98), began))
        began += wall + 10**7
    return Entry(engine, threads, {"version": "1.2.3", "precision": "f32"}, error=error, error_output="scores",
                 cold_start_ns=round(9e8 + 2e10 * seconds), warm_start_ns=180_000_000, peak_bytes=130 << 20, model_bytes=24 << 20,
                 warmup_calls=7, samples=samples)  # fmt: skip


def make_run(
    engines: Mapping[str, tuple[float, float]] | Sequence[str] = ENGINES,
    models: Mapping[str, float] = MODELS,
    *,
    threads: Sequence[int] = (1,),
    rounds: int = 20,
    noise: float = 0.02,
    seed: int = 0,
) -> Run:
    """One subject for each model and number of threads, with all engines in it."""
    chosen = engines if isinstance(engines, Mapping) else {name: ENGINES[name] for name in engines}
    draw = random.Random(seed)
    run = Run(str(uuid.UUID(int=draw.getrandbits(128), version=4)), f"2026-05-0{1 + seed % 9}T10:00:00+00:00", "1a2b3c4d5e",
              {"cpu": "A Processor 9000 with 16 Cores", "cpus": [0, 1], "governor": "performance", "load": 0.12, "python": "3.11.2"},
              {"rounds": rounds, "seed": seed, "band": 0.02, "pause_ms": 20}, ended=f"2026-05-0{1 + seed % 9}T10:03:20+00:00")  # fmt: skip
    for model, seconds in models.items():
        subject = Subject(model, "ab" * 32, model.removesuffix(".onnx"), {"image": "float32[1, 3, 224, 224]"}, "float64")
        for count in threads:
            for name, (ratio, error) in chosen.items():
                own = ratio * math.exp(draw.gauss(0, 0.15)) if name != "hasten" else 1.0
                subject.entries.append(make_entry(name, seconds * own / count**0.9, rounds=rounds, noise=noise, threads=count, error=error, seed=seed))
        run.subjects.append(subject)
    return run
