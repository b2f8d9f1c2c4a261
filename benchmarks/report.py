"""The committed results as tables: docs/benchmarks.md and docs/benchmarks-dynamic.md between their markers, and the same on the terminal.

python benchmarks/report.py            print and write
python benchmarks/report.py --check    fail where a page is not what the results say

Every table stands between <!-- NAME --> and <!-- /NAME -->; what lies outside is written by hand. A result that is missing says which program
makes it; one that was taken on a busy machine says so.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dynamic_tables
import picture
import points
import shares
import tables
from machine import RESULTS, ROOT
from tables import table

DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
Data = dict[str, Any]


def environment(data: Data, timed: bool = True) -> str:
    """One paragraph: where and when; `timed`: whether the figures are times."""
    e = data["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items())
    text = (
        f"{e['cpu']}, CPUs {', '.join(map(str, e['cpus']))}; instruction sets {', '.join(e['isa'])}. {e['date'][:10]}, commit {e['commit'] or '?'}, "
        f"Python {e['python']}, {versions}."
    )
    if not timed:
        return text
    text += (
        f" Load average {e['load_before']} before and {e['load_after']} after, {e['stolen_percent']}% of the time taken away by the hypervisor."
    )
    return text + ("\n\n**Taken on a busy machine: times are not to be trusted.**" if e["busy"] else "")


def suite(write: Callable[[list[points.Point], str], str]) -> str:
    """A section about the results of models.py: for each machine what `write` makes of its points and its name."""
    machines = sorted(path for path in (RESULTS / "models").glob("*") if path.is_dir())
    if not machines:
        return "No result is committed yet: `python benchmarks/models.py` makes it."
    texts = {machine.name: write(points.load(machine), machine.name) for machine in machines}
    return "\n\n".join(f"On {name}:\n\n{text}" for name, text in texts.items() if text) or "No machine's results say anything about this."


def taken(_: list[points.Point], machine: str) -> str:
    """One paragraph: where, when, of which revisions, and what disturbed it."""
    files = [json.loads(path.read_text()) for path in sorted((RESULTS / "models" / machine).glob("*.json"))]
    rows = [row for file in files for row in file["points"]]
    dates = sorted(row["began"][:10] for row in rows)
    revisions = ", ".join(sorted({row["revision"] for row in rows}))
    versions = ", ".join(f"{name} {version}" for name, version in files[-1]["versions"].items())
    cautious = sum(bool(row["cautions"]) for row in rows)
    facts = files[-1]["machine"]
    text = f"{facts['cpu']}, {facts['cpus']} CPUs, {facts['system']}, Python {facts['python']}, {versions}. {dates[0]} to {dates[-1]}, revision {revisions}."
    return text + (f" In {cautious} of {len(rows)} measurements the machine had other work at some time." if cautious else "")


def overhead(data: Data) -> str:
    """Microseconds a call."""
    rows = []
    for name, r in data["microseconds"].items():
        rows.append([f"`{name}`", f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]", f"{r['least']:.2f}", str(r["goal"] or "")])
    return f"{environment(data)}\n\n{table(['call', 'microseconds', 'least', 'goal'], rows)}"


def busy(data: Data) -> str:
    """Two threads beside one while other processes keep all CPUs busy."""
    rows = [[f"`{name}`", f"{r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}]", str(r["goal"])] for name, r in data["models"].items()]
    return f"{environment(data)}\n\n{table(['model', 'two threads over one', 'goal'], rows)}"


def compile_time(data: Data) -> str:
    """Seconds of starts and loads."""
    rows = []
    for name, r in data["figures"].items():
        rest = ", ".join(f"{k} {v}" for k, v in r.items() if k not in ("seconds", "least", "goal", "starts"))
        rows.append([name, f"{r['seconds']:.3f}", f"{r['least']:.3f}", str(r["goal"] or ""), str(r["starts"]), rest])
    sizes = ", ".join(f"{name} {size}" for name, size in data["sizes"].items())
    return f"{environment(data)}\n\n{table(['what', 'seconds', 'least', 'goal', 'starts', ''], rows)}\n\nSizes: {sizes}."


def accuracy(data: Data) -> str:
    """The largest error over all cases, for each kind of data; and relative to plain float32 sums."""
    rows = data["rows"]
    columns = list(dict.fromkeys((r["isa"], r["precision"]) for r in rows))
    lines = []
    for kind in dict.fromkeys(r["data"] for r in rows):
        cells = []
        for column in columns:
            mine = [r for r in rows if r["data"] == kind and (r["isa"], r["precision"]) == column]
            worst = f"{max(r['error'] for r in mine):.1e}" if mine else ""
            cells.append(worst + (f" ({max(r['ratio'] for r in mine):.2f})" if mine and column[1] == "highest" else ""))
        lines.append([kind, *cells])
    head = ["data", *(f"{level} `{precision}`" for level, precision in columns)]
    broken = sum(not r["within"] for r in rows)
    return f"{environment(data, timed=False)}\n\n{table(head, lines)}\n\n{len(rows)} figures, {broken} beyond what is promised."


def kernels(data: Data) -> str:
    """Single kernels' shares of their roofs; on one thread the times are the CPU's own, which other work leaves alone."""
    text = environment(data, timed=data["arguments"]["threads"] > 1)
    return f"{text} Load average {data['environment']['load_before']}.\n\n{shares.kernels(data)}"


def conformance(data: Data) -> str:
    """Cases of ONNX's backend suite that pass, for each way of compiling."""
    rows = []
    for run in data["runs"]:
        count = collections.Counter(o["status"] for o in run["others"])
        total = len(run["pass"]) + sum(count.values())
        others = [str(count[status]) for status in ("fail", "crash", "skip")]
        rows.append([run["isa"], "allowed" if run["host_ops"] else "forbidden", str(total), f"{len(run['pass'])} ({len(run['pass']) / total:.1%})", *others])
    return f"onnx {data['onnx']}.\n\n{table(['instruction set', 'host ops', 'cases', 'passed', 'failed', 'crashed', 'skipped'], rows)}"


def robustness(data: Data) -> str:
    """One line for each question."""
    rows = []
    for name, found in data["results"].items():
        facts = {k: v for k, v in found.items() if not isinstance(v, (list, dict)) or k == "counts"}
        told = ", ".join(f"{k} {_facts(v)}" for k, v in facts.items())
        rows.append([name, "broken" if found["broken"] else "fine", told])
    return table(["what", "result", ""], rows)


def _facts(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 1 << 20:
        return f"{value / (1 << 20):.1f} MiB"
    return " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def trained(all_points: list[points.Point]) -> list[points.Point]:
    """The trained models, one input on one thread."""
    return [p for p in all_points if p.group == "data" and (p.batch, p.threads) == (1, 1)]


def precise(all_points: list[points.Point], machine: str) -> str:
    """Speed beside error, as a table where there is `high`, and as a picture, which is written to docs/images."""
    drawn = picture.speed_and_error(trained(all_points), "speed against error, trained models")
    if drawn is None:
        return ""
    PICTURES[f"speed-and-error-{machine}.svg"] = drawn
    link = f"![Speed beside ONNX Runtime against the error to float64, for each trained model](images/speed-and-error-{machine}.svg)"
    return "\n\n".join(filter(None, (link, tables.precise(all_points))))


def track(data: Data) -> str:
    """One line for each question that the track was asked."""
    found = [[words, result(data[part]), goal] for part, (words, goal, result) in TRACK.items() if part in data]
    return f"{environment(data)}\n\n{table(['what', 'result', 'goal'], found)}"


def _equals(r: Data) -> str:
    others = ", ".join(f"{name} {count}" for name, count in r["others_different"].items())
    return f"{r['different']} of {r['runs']} different ({r['same']} the same, {r['undecided']} undecided); {others} on the same samples"


TRACK: dict[str, tuple[str, str, Callable[[Data], str]]] = {  # part of the result -> what, goal, what makes its words
    "aa": ("an engine against itself, beside load that comes and goes", "at most 5% different", _equals),
    "slower": (
        "3% more work, under the same load", "found in 80% within a minute",
        lambda r: f"{r['found']} of {r['runs']} found, after {r['median_seconds']:.0f} s (at most {r['most_seconds']:.0f} s); ratio {r['median_ratio']:.3f}",
    ),
    "order": ("engines listed forwards and backwards", "ratios within their intervals", lambda r: f"{r['agree']} of {r['of']}"),
    "restless": ("beside an engine whose thread never rests", "ratios within their intervals", lambda r: f"{r['agree']} of {r['of']}"),
    "busy": ("two processes that never rest", "refused", lambda r: f"{r['refused']} of {r['of']} looks refuse; a measurement is {r['status']}"),
    "pyperf": (
        "whole programs, beside pyperf", "ratios agree within their intervals",
        lambda r: " and ".join(f"{p['ratio']:.3f} ({p['low']:.3f} to {p['high']:.3f})" for p in r["pair"]),
    ),
}  # fmt: skip
PICTURES: dict[str, str] = {}  # what sections drew, by file name
FOLDERS: dict[str, Callable[[list[points.Point], str], str]] = {  # marker on the page -> what makes a machine's text of the results of models.py
    "machines": taken,
    "means": lambda found, _: tables.means(found),
    "bars": lambda found, machine: tables.bars(found, machine.rpartition("-")[2]),
    "models": lambda found, _: tables.models(found),
    "precise": precise,
    "starts": lambda found, _: tables.starts(found),
    "absent": lambda found, _: tables.absent(found),
}
FILES: dict[str, tuple[str, Callable[[Data], str]]] = {  # marker on the page -> result file without .json, what makes its text
    "overhead": ("overhead", overhead),
    "busy": ("busy", busy),
    "compile": ("compile_time", compile_time),
    "kernels": ("kernels", kernels),
    "accuracy": ("kernel_accuracy", accuracy),
    "conformance": ("conformance", conformance),
    "robustness": ("robustness", robustness),
    "track": ("track", track),
}
PROGRAMS = {"kernels": "kernels/sweep", "track": "track/aa"}  # where the program is not called as its result


def below_environment(write: Callable[[Data], Iterable[str]]) -> Callable[[Data], str]:
    """The paragraphs that `write` makes, under the one on where and when."""
    return lambda data: "\n\n".join((environment(data), *write(data)))


DYNAMIC = {marker: (f"dynamic/{marker}", below_environment(write)) for marker, write in dynamic_tables.WRITERS.items()}
PAGES = {DOCS / "benchmarks.md": (*FOLDERS, *FILES), DOCS / "benchmarks-dynamic.md": tuple(DYNAMIC)}  # -> its markers


def section(marker: str) -> str:
    """The text of one section."""
    if marker in FOLDERS:
        return suite(FOLDERS[marker])
    name, write = (FILES | DYNAMIC)[marker]
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return f"No result is committed yet: `python benchmarks/{PROGRAMS.get(name, name)}.py` makes it."
    return write(json.loads(path.read_text()))


def page(path: Path, found: dict[str, str]) -> str:
    """The page with every section as the results say."""
    text = path.read_text()
    for marker in PAGES[path]:
        pattern = re.compile(f"(<!-- {marker} -->\n).*?(\n<!-- /{marker} -->)", re.DOTALL)
        if not pattern.search(text):
            sys.exit(f"{path.name} has no section <!-- {marker} --> ... <!-- /{marker} -->")
        text = pattern.sub(lambda m, new=found[marker]: f"{m[1]}{new}{m[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is out of date")
    args = parser.parse_args()
    found = {marker: section(marker) for markers in PAGES.values() for marker in markers}
    files = {path: page(path, found) for path in PAGES} | {IMAGES / name: text for name, text in PICTURES.items()}
    if args.check:
        old = [path.name for path, text in files.items() if not path.exists() or path.read_text() != text]
        sys.exit(f"out of date: {', '.join(old)}; run python benchmarks/report.py" if old else 0)
    for marker, text in found.items():
        print(f"== {marker}\n{text}\n")
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
