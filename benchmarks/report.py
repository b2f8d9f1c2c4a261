"""The committed results as tables: docs/benchmarks.md between its markers, and the same on the terminal.

python benchmarks/report.py            print and write
python benchmarks/report.py --check    fail where docs/benchmarks.md is not what the results say

Every table stands between <!-- NAME --> and <!-- /NAME -->; what lies outside is written by hand. A result that is missing says which program
makes it; one that was taken on a busy machine says so.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
from collections.abc import Callable
from typing import Any

from machine import RESULTS, ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
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


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown; all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def _ratio(r: Data) -> str:
    return f"{r['median']:.2f}x [{r['low']:.2f}, {r['high']:.2f}]"


def means(data: Data) -> str:
    """Geometric means over models, for each setting."""
    rows = []
    for m in data["means"]:
        times = [_ratio(m["ratio"]), f"{m['least']:.2f}x", str(m["ahead"])] if "ratio" in m else ["", "", ""]
        goal = f"{m['goal']}x" if m["goal"] else ""
        rows.append([m["setting"], str(m["threads"]), f"{m['models'] - m['failed']} of {m['models']}", *times, goal])
    head = ["setting", "threads", "models right", "geometric mean", "least", "models ahead", "goal"]
    return f"{environment(data)}\n\n{table(head, rows)}"


def models(data: Data) -> str:
    """Every model under every setting: the ratio, and milliseconds at the first."""
    settings = list(dict.fromkeys((m["setting"], m["threads"]) for m in data["models"]))
    names = list(dict.fromkeys(m["model"] for m in data["models"]))
    found = {(m["model"], m["setting"], m["threads"]): m for m in data["models"]}
    rows = []
    for name in names:
        first = next((found[(name, *s)] for s in settings if "ratio" in found.get((name, *s), {})), None)
        times = [f"{first['hasten_ms']:.3g}", f"{first['onnxruntime_ms']:.3g}"] if first else ["", ""]
        worst = max((found[(name, *s)].get("difference", 0.0) for s in settings if (name, *s) in found), default=0.0)
        rows.append([f"`{name}`", *times, *(_cell(found.get((name, *s), {})) for s in settings), f"{worst:.0e}"])
    head = ["model", "ms", "ONNX Runtime ms", *(f"{name}, {count} thr" for name, count in settings), "difference"]
    return table(head, rows)


def _cell(m: Data) -> str:
    return f"{m['ratio']['median']:.2f}x" if "ratio" in m else "failed" if "trouble" in m else ""


def overhead(data: Data) -> str:
    """Microseconds a call."""
    rows = []
    for name, r in data["microseconds"].items():
        rows.append([f"`{name}`", f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]", f"{r['least']:.2f}", str(r["goal"] or "")])
    return f"{environment(data)}\n\n{table(['call', 'microseconds', 'least', 'goal'], rows)}"


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


# Marker on the page -> (result file without .json, what makes its text).
SECTIONS: dict[str, tuple[str, Callable[[Data], str]]] = {
    "means": ("models", means),
    "models": ("models", models),
    "overhead": ("overhead", overhead),
    "compile": ("compile_time", compile_time),
    "accuracy": ("kernel_accuracy", accuracy),
    "conformance": ("conformance", conformance),
    "robustness": ("robustness", robustness),
}


def section(marker: str) -> str:
    """The text of one section."""
    name, write = SECTIONS[marker]
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return f"No result is committed yet: `python benchmarks/{name}.py` makes it."
    return write(json.loads(path.read_text()))


def page(text: str) -> str:
    """The page with every section as the results say."""
    for marker in SECTIONS:
        pattern = re.compile(f"(<!-- {marker} -->\n).*?(\n<!-- /{marker} -->)", re.DOTALL)
        if not pattern.search(text):
            sys.exit(f"{PAGE.name} has no section <!-- {marker} --> ... <!-- /{marker} -->")
        new = section(marker)
        text = pattern.sub(lambda m, new=new: f"{m[1]}{new}{m[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is out of date")
    args = parser.parse_args()
    old = PAGE.read_text()
    new = page(old)
    if args.check:
        sys.exit(0 if new == old else f"{PAGE.name} is out of date: run python benchmarks/report.py")
    for marker in SECTIONS:
        print(f"== {marker}\n{section(marker)}\n")
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
