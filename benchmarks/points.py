"""The results of models.py: what each engine did with each model.

A result file (results/models/MACHINE/MODEL.json) holds `points`: one model with one input and one number of threads, and for each engine what
was measured. Times are relative to those of the default Hasten in the same rounds, so every ratio between two engines is one of the same rounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Data = dict[str, Any]
BASE = "hasten"
FP32_PEERS = ("onnxruntime", "openvino", "torch", "torch_compile", "ncnn")
BF16_PEERS = ("openvino:precision=default", "torch:dtype=bf16", "torch_compile:dtype=bf16")
WRONG = 0.01  # an fp32 peer that is further off than that, relative to the largest output, is no peer


@dataclass(frozen=True)
class Point:
    """One model with one input (`label` says which one, where there are several) and one number of threads. `depthwise`: the share of
    convolutions with one channel to a group."""

    model: str
    label: str
    batch: int
    threads: int
    group: str  # "data" or "zoo"
    depthwise: float
    engines: Mapping[str, Data]

    @property
    def name(self) -> str:
        return f"{self.model} {self.label}" if self.label else self.model

    def time(self, engine: str) -> float | None:
        """Of a call, relative to the default Hasten; None where there is none, or where an fp32 peer's answers are wrong."""
        entry = self.engines.get(engine, {})
        if engine in FP32_PEERS and (entry.get("error") or 0.0) > WRONG:
            return None
        if not entry.get("seconds"):
            return None
        return 1.0 if engine == BASE else (entry.get("ratio") or {}).get("value")

    def seconds(self, engine: str) -> float | None:
        return (self.engines.get(engine, {}).get("seconds") or {}).get("value")

    def best(self, peers: Iterable[str]) -> str | None:
        """The fastest of several engines."""
        found = {peer: time for peer in peers if (time := self.time(peer))}
        return min(found, key=lambda peer: found[peer]) if found else None

    def peer(self, name: str) -> str | None:
        """The engine that "best fp32", "best bf16" or its own name means here."""
        return self.best({"best fp32": FP32_PEERS, "best bf16": BF16_PEERS}.get(name, (name,)))

    def speedup(self, setting: str, peer: str) -> float | None:
        """How many times faster Hasten with `setting` is."""
        ours, name = self.time(setting), self.peer(peer)
        theirs = self.time(name) if name else None
        return theirs / ours if ours and theirs else None


def load(folder: Path) -> list[Point]:
    """The points of a machine's results, in the order of file names."""
    return [point for path in sorted(folder.glob("*.json")) for point in points(json.loads(path.read_text()))]


def points(data: Data) -> Iterator[Point]:
    """Those of one result file."""
    for row in data["points"]:
        engines = {entry["engine"]: entry for entry in row["engines"]}
        yield Point(data["model"], row["label"], row["batch"], row["threads"], data["group"], data["depthwise"], engines)


def grouped(all_points: Sequence[Point]) -> dict[tuple[int, int], list[Point]]:
    """By batch and threads."""
    keys = sorted({(p.batch, p.threads) for p in all_points})
    return {key: [p for p in all_points if (p.batch, p.threads) == key] for key in keys}
