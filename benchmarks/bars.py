"""The bars that the project set itself for the suite of models.py, and the figure that stands beside each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from points import BASE, Point

Select = Callable[[Point], bool]
Figure = Callable[[Sequence[Point]], float | None]


def everything(_: Point) -> bool:
    return True


def resnet50(p: Point) -> bool:
    return p.model == "resnet50"


def data_models(p: Point) -> bool:
    return p.group == "data"


def depthwise_heavy(p: Point) -> bool:
    return p.depthwise >= 0.3


def tiny(p: Point) -> bool:
    """Under a millisecond in ONNX Runtime."""
    return (p.seconds("onnxruntime") or 1.0) < 1e-3


def mean(values: Sequence[float]) -> float:
    return statistics.geometric_mean(values)


def speedups(setting: str, peer: str, reduce: Callable[[Sequence[float]], float] = mean, select: Select = everything) -> Figure:
    def figure(chosen: Sequence[Point]) -> float | None:
        found = [ratio for p in chosen if select(p) and (ratio := p.speedup(setting, peer))]
        return reduce(found) if found else None

    return figure


def slowest_start(key: str) -> Figure:
    """The longest start of the default Hasten in seconds, from the start of its process to its first answer, less one call."""

    def figure(chosen: Sequence[Point]) -> float | None:
        found = [start / 1e9 - (p.seconds(BASE) or 0.0) for p in chosen if (start := p.engines.get(BASE, {}).get(key))]
        return max(found) if found else None

    return figure


def memory(chosen: Sequence[Point]) -> float | None:
    """The largest ratio of peak memory to ONNX Runtime's, after warm starts."""
    found = [ours / theirs for p in chosen if (ours := _peak(p, BASE)) and (theirs := _peak(p, "onnxruntime"))]
    return max(found) if found else None


def _peak(p: Point, engine: str) -> int | None:
    """Of a warm start: a process that compiles needs more."""
    entry = p.engines.get(engine, {})
    return entry.get("peak_bytes") if entry.get("warm_start_ns") else None


@dataclass(frozen=True)
class Bar:
    """What a figure should be: at least (or at most) `bar`. `needs`: the best instruction set of the machine that it speaks of, "" for any."""

    what: str
    figure: Figure
    bar: float
    needs: str = ""
    at_most: bool = False
    unit: str = "x"

    def cell(self, chosen: Sequence[Point]) -> str:
        value = self.figure(chosen)
        if value is None:
            return ""
        good = value <= self.bar if self.at_most else value >= self.bar
        return self.text(value) if good else f"**{self.text(value)}**"

    def text(self, value: float) -> str:
        return f"{value:.2f}{self.unit}"


DEFAULT_OPENVINO = "openvino:precision=default"
HIGH, MEDIUM, NO_TILES, AVX2 = "hasten:precision=high", "hasten:precision=medium", "hasten:isa=avx512", "hasten:isa=avx2"
BARS = (
    Bar("default beside ONNX Runtime", speedups(BASE, "onnxruntime"), 1.7, "amx"),
    Bar("default beside the best fp32 peer", speedups(BASE, "best fp32"), 1.4, "amx"),
    Bar("default beside ONNX Runtime, ResNet-50", speedups(BASE, "onnxruntime", mean, resnet50), 2.2, "amx"),
    Bar("default beside the best fp32 peer, slowest model", speedups(BASE, "best fp32", min), 1.0, "amx"),
    Bar("`high` beside ONNX Runtime", speedups(HIGH, "onnxruntime"), 2.5, "amx"),
    Bar("`high` beside ONNX Runtime, ResNet-50", speedups(HIGH, "onnxruntime", mean, resnet50), 3.0, "amx"),
    Bar("`high` beside OpenVINO's default, trained models", speedups(HIGH, DEFAULT_OPENVINO, mean, data_models), 1.0, "amx"),
    Bar("`medium` beside the best bf16 peer", speedups(MEDIUM, "best bf16"), 1.3, "amx"),
    Bar("`medium` beside OpenVINO's default, ResNet-50", speedups(MEDIUM, DEFAULT_OPENVINO, mean, resnet50), 1.3, "amx"),
    *(
        bar
        for setting, machine in ((BASE, "avx512"), (NO_TILES, "amx"))
        for bar in (
            Bar("no tiles beside ONNX Runtime", speedups(setting, "onnxruntime"), 1.3, machine),
            Bar("no tiles beside the best fp32 peer", speedups(setting, "best fp32"), 1.1, machine),
            Bar("no tiles beside the best fp32 peer, slowest model", speedups(setting, "best fp32", min), 0.95, machine),
            Bar("no tiles beside ONNX Runtime, depthwise-heavy", speedups(setting, "onnxruntime", mean, depthwise_heavy), 1.5, machine),
            Bar("no tiles beside ONNX Runtime, under a millisecond", speedups(setting, "onnxruntime", mean, tiny), 2.0, machine),
        )
    ),
    Bar("`avx2` beside ONNX Runtime (not restricted)", speedups(AVX2, "onnxruntime"), 1.15),
    Bar("peak memory, of ONNX Runtime's, largest", memory, 1.0, at_most=True),
    Bar("cold start less one call, slowest", slowest_start("cold_start_ns"), 15.0, at_most=True, unit=" s"),
    Bar("warm start less one call, slowest", slowest_start("warm_start_ns"), 0.3, at_most=True, unit=" s"),
)


def two_threads(chosen: Sequence[Point], one_thread: Sequence[Point]) -> float | None:
    """How much faster two threads are than one, on models of more than 20 ms."""
    one = {(p.name, p.batch): p.seconds(BASE) for p in one_thread}
    found = [before / now for p in chosen if (before := one.get((p.name, p.batch))) and (now := p.seconds(BASE)) and before > 0.02]
    return mean(found) if found else None
