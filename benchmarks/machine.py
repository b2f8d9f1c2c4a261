"""What every benchmark says about the machine it ran on, and where its figures go.

A figure is worth what the machine was free to give: `Quiet` refuses to begin when other work keeps CPUs busy (`hasten.bench.machine` looks), notes the
load before and after and the time that a hypervisor took away, and `write` keeps all of it beside the figures in benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from hasten.bench.machine import Watch, cpu_model, standing_cautions
from hasten.codegen import isa

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "torch", "ncnn", "llvmlite")


def cpus() -> list[int]:
    """The CPUs that this process may use, in order."""
    return sorted(os.sched_getaffinity(0))


def pin(count: int) -> None:
    """Keep this process, and what it starts, on the first `count` of its CPUs."""
    os.sched_setaffinity(0, cpus()[:count])


def load() -> float:
    """Processes that ran or wanted to, on average over the last minute."""
    return os.getloadavg()[0]


def has_amx() -> bool:
    """Whether the CPU has tile instructions and Linux lets us use them."""
    return "amx" in isa.available()


class Quiet:
    """One measuring, from its beginning to its end.

    Exits with a message where the machine is busy, unless `even_if_busy`; results are then marked.
    """

    def __init__(self, even_if_busy: bool) -> None:
        self.before, self.steal = load(), _steal()
        self.count = len(cpus())
        found = Watch(self.count).check()
        self.busy, self.cautions = bool(found.refusals), [*standing_cautions(), *found.refusals, *found.cautions]
        self.began = datetime.datetime.now(datetime.UTC)
        if self.busy and not even_if_busy:
            sys.exit(
                f"the machine is busy: {found.refusals[0]}. Times would be wrong.\n"
                "Wait until it is quiet, or say --even-if-busy: results are then marked as taken on a busy machine."
            )

    def environment(self) -> dict[str, Any]:
        """Everything that figures depend on."""
        ended = datetime.datetime.now(datetime.UTC)
        ticks, stolen = (now - before for now, before in zip(_steal(), self.steal, strict=True))
        return {
            "date": self.began.isoformat(timespec="seconds"),
            "minutes": round((ended - self.began).total_seconds() / 60, 1),
            "cpu": cpu_model(),
            "cpus": cpus(),
            "isa": isa.available(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "versions": versions(),
            "hasten": _version("hasten") or "source",
            "commit": _commit(),
            "load_before": round(self.before, 2),
            "load_after": round(load(), 2),
            "stolen_percent": round(100 * stolen / max(1, ticks), 2),
            "busy": self.busy,
            "cautions": self.cautions,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all benchmarks have."""
    parser.add_argument("--even-if-busy", action="store_true", help="measure on a busy machine, and mark the results")
    parser.add_argument("--quick", action="store_true", help="a few rounds only: to see that it runs; results are not written")
    parser.add_argument("--json", type=Path, help="write the results here instead of benchmarks/results")


def write(name: str, quiet: Quiet, figures: dict[str, Any], args: argparse.Namespace) -> None:
    """Figures with their environment to results/NAME.json (or --json); a quick run is only written where --json says."""
    path: Path = args.json or RESULTS / f"{name}.json"
    if args.quick and not args.json:
        print("a quick run: nothing written")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("json", "even_if_busy")}
    data = {"environment": quiet.environment(), "arguments": told, **figures}
    path.write_text(json.dumps(data, indent=1) + "\n")
    print(f"written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


def _steal() -> tuple[int, int]:
    """Ticks of all CPUs so far, and those that the hypervisor gave to others."""
    numbers = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(numbers), numbers[7]


def versions() -> dict[str, str]:
    """Of the packages that figures depend on."""
    return {name: found for name in PACKAGES if (found := _version(name))}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit that is measured, with a + where the sources differ from it."""
    try:
        said = subprocess.run(["git", "describe", "--always", "--dirty=+", "--abbrev=10"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.stdout.strip()
