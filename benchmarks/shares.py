"""The table of kernels/sweep.py's results, in Markdown: every shape's share of its roof. A figure under its bar is bold."""

from __future__ import annotations

import math
from typing import Any

from tables import table

BARS = {"compute": 0.92, "memory": 0.85}  # shares that strict kernels should reach where arithmetic, or moving bytes, bounds them
Data = dict[str, Any]


def kernels(data: Data) -> str:
    """Peaks, the families' means, then every shape; columns are instruction sets and precisions."""
    columns = list(dict.fromkeys((r["isa"], r["precision"]) for r in data["rows"]))
    found = {(r["family"], r["shape"], r["isa"], r["precision"]): r for r in data["rows"]}
    names = [f"{isa} `{precision}`" for isa, precision in columns]
    parts = [_peaks(data["peaks"]), table(["family", "shapes", *names], _families(found, columns))]
    shapes = list(dict.fromkeys((r["family"], r["shape"]) for r in data["rows"]))
    rows = []
    for family, shape in shapes:
        here = [found.get((family, shape, *column)) for column in columns]
        first = next(r for r in here if r)
        rows.append([f"{family} {shape}", _rate(first), first["bound"], *(_cell(r) for r in here)])
    return "\n\n".join([*parts, table(["shape", "", "bound by", *names], rows)])


def _peaks(peaks: dict[str, Data]) -> str:
    lines = []
    for isa, p in peaks.items():
        levels = ", ".join(f"{v['name']} {v['read'] / 1e9:.0f} / {v['write'] / 1e9:.0f} / {v['copy'] / 1e9:.0f}" for v in p["levels"])
        tiles = f", {p['tiles'] / 1e9:.0f} Gop/s in tiles" if p["tiles"] else ""
        lines.append(f"{isa}: {p['fma'] / 1e9:.0f} Gop/s{tiles}; GB/s read / written / copied: {levels}.")
    return "\n".join(f"- {line}" for line in lines)


def _families(found: dict[tuple[str, ...], Data], columns: list[tuple[str, str]]) -> list[list[str]]:
    """Geometric means of the shares, and how many reach their bar."""
    rows = []
    for family in dict.fromkeys(key[0] for key in found):
        cells = []
        for column in columns:
            mine = [r for (name, _, *rest), r in found.items() if name == family and tuple(rest) == column]
            mean = math.exp(sum(math.log(r["share"]) for r in mine) / len(mine)) if mine else 0.0
            cells.append(f"{mean:.0%}, {sum(r['share'] >= _bar(r) for r in mine)} of {len(mine)} at the bar" if mine else "")
        rows.append([family, str(len({key[1] for key in found if key[0] == family})), *cells])
    return rows


def _bar(row: Data) -> float:
    return BARS["compute" if row["bound"] == "compute" else "memory"]


def _rate(row: Data) -> str:
    """What bounds it, in its unit."""
    return f"{row['operations_per_second'] / 1e9:.0f} Gop/s" if row["bound"] == "compute" else f"{row['bytes_per_second'] / 1e9:.0f} GB/s"


def _cell(row: Data | None) -> str:
    if row is None:
        return ""
    text = f"{row['share']:.0%}"
    return text if row["share"] >= _bar(row) else f"**{text}**"
