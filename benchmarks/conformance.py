"""ONNX's backend test suite against Hasten, at several instruction sets, with host ops allowed and forbidden.

    python benchmarks/conformance.py [--isa avx2 ...] [--match REGEX] [--case-seconds 60]

Cases run in worker processes: where one dies or hangs, the case it was in counts as a crash and a fresh worker goes on. Writes
benchmarks/results/conformance.json (every case) and docs/operators.md (a table by operator). Cases of large downloaded models are left out.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "conformance.json"
TABLE = ROOT / "docs" / "operators.md"
LEVELS = ("avx512", "avx2", "portable")
BATCH = 300  # cases of one worker
REAL = "OnnxBackendRealModelTest"


@dataclass(frozen=True)
class Configuration:
    """How models are compiled."""

    isa: str
    host_ops: bool

    @property
    def name(self) -> str:
        return f"{self.isa}, {'with' if self.host_ops else 'without'} host ops"


@dataclass
class Outcome:
    """What became of a case. status: pass, fail, crash (the process died, or the case took too long), skip."""

    case: str
    status: str
    why: str = ""
    seconds: float = 0.0


# --- the worker ---------------------------------------------------------------------------------------------------------
def _tests(options: dict[str, Any]) -> dict[str, Any]:
    """All test methods by name."""
    import unittest
    import warnings

    import onnx.backend.test

    import hasten.backend as backend

    warnings.filterwarnings("ignore")

    class Device(backend.HastenBackend):
        """Hasten with the options of this run; what it can't compile counts as a failure, not as left out."""

        @classmethod
        def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
            return True

        @classmethod
        def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> Any:
            return backend.prepare(model, device, **options)

        @classmethod
        def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> Any:
            return cls.prepare(model, device).run(inputs)

    groups = onnx.backend.test.BackendTest(Device, __name__).test_cases
    found = {}
    for name, group in groups.items():
        for test in unittest.defaultTestLoader.loadTestsFromTestCase(group):
            if name != REAL and test._testMethodName.endswith("_cpu"):
                found[test._testMethodName.removesuffix("_cpu")] = test
    return found


def work() -> None:
    """Run the cases named on standard input, one line of JSON for each before and after it. Options are in the environment."""
    import faulthandler
    import unittest

    options, limit = json.loads(os.environ["CONFORMANCE_OPTIONS"]), float(os.environ["CONFORMANCE_SECONDS"])
    report = open(os.environ["CONFORMANCE_REPORT"], "a", buffering=1)  # noqa: SIM115  (lives as long as the process)
    tests = _tests(options)
    for name in sys.stdin.read().split():
        report.write(json.dumps({"start": name}) + "\n")
        faulthandler.dump_traceback_later(limit, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115
        result, began = unittest.TestResult(), time.monotonic()
        tests[name].run(result)
        faulthandler.cancel_dump_traceback_later()
        trouble = result.errors + result.failures
        status = "skip" if result.skipped else "fail" if trouble else "pass"
        why = _reason(trouble[0][1]) if trouble else result.skipped[0][1] if result.skipped else ""
        report.write(json.dumps(asdict(Outcome(name, status, why[:300], round(time.monotonic() - began, 3)))) + "\n")


def _reason(traceback: str) -> str:
    """The error of a traceback in one line."""
    lines = traceback.strip().splitlines()
    starts = [k for k, line in enumerate(lines) if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Operator|Dependency|Mismatch|Limit|File)\b", line)]
    return " ".join(" ".join(lines[starts[-1] :]).split()) if starts else lines[-1]


# --- running ------------------------------------------------------------------------------------------------------------
def case_names() -> list[str]:
    """All cases of the suite."""
    code = "print(*sorted(m._tests({})))"
    got = subprocess.run([sys.executable, "-c", _with_path(code)], capture_output=True, text=True, env=_environment())
    if got.returncode:
        raise SystemExit(f"the suite can't be listed:\n{got.stderr[-2000:]}")
    return [n for n in got.stdout.split() if n.startswith("test_")]


def _with_path(code: str) -> str:
    """Code that finds this file as the module benchmarks_conformance."""
    load = f"s = importlib.util.spec_from_file_location('benchmarks_conformance', {str(Path(__file__).resolve())!r})"
    return f"import importlib.util, sys; {load}; m = importlib.util.module_from_spec(s); sys.modules[s.name] = m; s.loader.exec_module(m); {code}"


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]), **more}


def run(configuration: Configuration, names: Iterable[str], seconds: float = 60, tell: Callable[[str], None] = print) -> dict[str, Outcome]:
    """The outcome of every case."""
    names = list(names)
    outcomes: dict[str, Outcome] = {}
    options = {"isa": configuration.isa, "host_ops": configuration.host_ops, "threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        environment = _environment(CONFORMANCE_OPTIONS=json.dumps(options), CONFORMANCE_SECONDS=str(seconds), CONFORMANCE_REPORT=str(report))
        todo, began, idle = names, time.monotonic(), 0
        while todo:
            report.write_text("")
            command = [sys.executable, "-c", _with_path("m.work()")]
            subprocess.run(
                command,
                input="\n".join(todo[:BATCH]),
                text=True,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            outcomes.update(_read(report))
            left = [n for n in todo if n not in outcomes]
            idle = idle + 1 if len(left) == len(todo) else 0
            if idle == 3:
                raise SystemExit("three workers did nothing: the suite can't go on")
            todo = left
            tell(f"  {configuration.name}: {len(outcomes)} of {len(names)} after {time.monotonic() - began:.0f} s")
    return outcomes


def _read(report: Path) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    current = None
    for line in report.read_text().splitlines():
        row = json.loads(line)
        current = row.get("start")
        if current is None:
            outcomes[row["case"]] = Outcome(**row)
    if current is not None:
        outcomes[current] = Outcome(current, "crash", "the process died, or the case took too long")
    return outcomes


def share(outcomes: dict[str, Outcome]) -> float:
    """The part of the cases that pass."""
    return sum(o.status == "pass" for o in outcomes.values()) / max(1, len(outcomes))


# --- the table by operator ------------------------------------------------------------------------------------------------
def operators() -> dict[str, str]:
    """The operator of each case: that of its only node; of the expanded form of a function, the function's; else "several"."""
    import onnx
    import onnx.backend.test.loader as loader

    found: dict[str, str] = {}
    for kind in ("node", "simple", "pytorch-converted", "pytorch-operator"):
        for case in loader.load_model_tests(kind=kind):
            model = case.model if case.model is not None else onnx.load(Path(case.model_dir) / "model.onnx", load_external_data=False)
            nodes = {(n.domain, n.op_type) for n in model.graph.node}
            only = next(iter(nodes)) if len(nodes) == 1 else None
            found[case.name] = "several operators" if only is None else ".".join(filter(None, only))
    for name in found:
        base = found.get(name.partition("_expanded")[0])
        if "_expanded" in name and base is not None:
            found[name] = base
    return found


def table(runs: dict[Configuration, dict[str, Outcome]], version: str) -> str:
    """docs/operators.md: for every operator, cases that pass natively, with host ops, and what fails. Of several instruction sets, a case
    passes if it does on all of them."""
    names = operators()
    native = [o for c, o in runs.items() if not c.host_ops]
    hosted = [o for c, o in runs.items() if c.host_ops]

    def passes(case: str, among: list[dict[str, Outcome]]) -> bool:
        return bool(among) and all(o[case].status == "pass" for o in among if case in o)

    rows: dict[str, list[str]] = collections.defaultdict(list)
    for case in sorted(next(iter(runs.values()))):
        rows[names.get(case, "several operators")].append(case)
    lines = [
        "# Operators",
        "",
        f"What passes of the backend test suite of onnx {version}, by operator; made by `python benchmarks/conformance.py`.",
        "",
        f"Instruction sets: {', '.join(sorted({c.isa for c in runs}))}; a case counts as passed if it passes on all of them.",
        "Native: without host ops. With host ops: some nodes run in Python, through ONNX's reference implementation.",
        "",
        "| operator | cases | native | with host ops only | failed | reasons |",
        "| --- | --: | --: | --: | --: | --- |",
    ]
    totals = [0, 0, 0, 0]
    for operator in sorted(rows, key=str.lower):
        cases = rows[operator]
        good = [c for c in cases if passes(c, native)]
        rest = [c for c in cases if c not in good and passes(c, hosted)]
        bad = [c for c in cases if c not in good and c not in rest]
        reasons = {_short(o[c]) for c in bad for o in (hosted or native) if c in o and o[c].status != "pass"}
        counts = [len(cases), len(good), len(rest), len(bad)]
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
        lines.append(f"| {operator} | {' | '.join(str(n or '') for n in counts)} | {'; '.join(sorted(reasons))[:300]} |")
    lines += [f"| **all** | {' | '.join(map(str, totals))} | |", ""]
    return "\n".join(lines)


def _short(o: Outcome) -> str:
    """A reason for the table: without names of nodes and numbers."""
    text = re.sub(r"^[\w.]*\.(\w+:)", r"\1", o.why)
    text = re.sub(r"\w+ '[^']*': ", "", text).replace("|", "\\|")
    return text[:110].rstrip()


# --- the program --------------------------------------------------------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="*", help="instruction sets (default: all that this machine has)")
    parser.add_argument("--match", default="", help="only cases whose name matches; nothing is written then")
    parser.add_argument("--case-seconds", type=float, default=60)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    import onnx

    from hasten.codegen import isa

    levels = args.isa or [level for level in LEVELS if level in isa.available()]
    names = [n for n in case_names() if re.search(args.match, n)]
    print(f"{len(names)} cases")
    runs = {} if args.match else kept(onnx.__version__)
    for level in levels:
        native: dict[str, Outcome] = {}
        for host_ops in (False, True):
            configuration = Configuration(level, host_ops)
            good = {n: o for n, o in native.items() if o.status == "pass"}  # allowing host ops changes nothing there
            native = runs[configuration] = good | run(configuration, (n for n in names if n not in good), args.case_seconds)
            count = collections.Counter(o.status for o in runs[configuration].values())
            print(f"{configuration.name}: {dict(count)}, {share(runs[configuration]):.1%} pass", flush=True)
            if not args.match:
                write(runs, onnx.__version__)
    if args.match:
        for o in (o for outcomes in runs.values() for o in outcomes.values() if o.status != "pass"):
            print(f"{o.status:5s} {o.case:60s} {o.why}")


def kept(version: str) -> dict[Configuration, dict[str, Outcome]]:
    """The results of earlier runs: those of configurations that are not run now stay."""
    if not RESULTS.exists():
        return {}
    old = json.loads(RESULTS.read_text())
    if old["onnx"] != version:
        return {}
    return {
        Configuration(r["isa"], r["host_ops"]): {n: Outcome(n, "pass") for n in r["pass"]} | {o["case"]: Outcome(**o) for o in r["others"]} for r in old["runs"]
    }


def write(runs: dict[Configuration, dict[str, Outcome]], version: str) -> None:
    """Both files."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    body = [
        {
            "isa": c.isa,
            "host_ops": c.host_ops,
            "pass": sorted(o.case for o in r.values() if o.status == "pass"),
            "others": [asdict(o) for o in sorted(r.values(), key=lambda o: o.case) if o.status != "pass"],
        }
        for c, r in runs.items()
    ]
    RESULTS.write_text(json.dumps({"onnx": version, "runs": body}, indent=1) + "\n")
    TABLE.write_text(table(runs, version))
    print(f"wrote {RESULTS.relative_to(ROOT)} and {TABLE.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
