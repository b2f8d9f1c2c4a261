"""A profile as a page of its own: the roofline picture, where to look first, a table that sorts. Nothing is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from hasten.base.units import count_text, size_text, time_text
from hasten.profile import flame
from hasten.profile.picture import COLOURS, STYLE, draw
from hasten.profile.roofline import COMPUTE, Placed, Roofline

FIRST_LOOK = 5

PAGE_STYLE = """
:root { --paper: #fff; --ink: #1c2024; --soft: #667; --line: #e3e5ea; --bar: #c9d8f5; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e6e8ec; --soft: #9aa3b2; --line: #33373f; --bar: #2c426e; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.soft, .soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .55rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { cursor: pointer; position: sticky; top: 0; background: var(--paper); }
.name, .left { text-align: left; } .name { white-space: normal; overflow-wrap: anywhere; } .name small { color: var(--soft); display: block; }
.share { background: linear-gradient(to right, var(--bar) var(--part), transparent var(--part)); }
tr:target { outline: 2px solid var(--ink); } .wide { overflow-x: auto; }
.mark { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em; }
"""

SORT = """
for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => {
  const table = head.closest("table"), column = head.cellIndex, body = table.tBodies[0];
  const value = row => { const v = row.cells[column].dataset.v ?? row.cells[column].textContent; return isNaN(v) ? v : Number(v); };
  const down = head.dataset.down = head.dataset.down === "1" ? "" : "1";
  const rows = [...body.rows].sort((a, b) => { const x = value(a), y = value(b); return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1); });
  body.append(...rows);
});
"""


def page(r: Roofline, name: str) -> str:
    """The page for a model called `name`."""
    p = r.profile
    what = f"{p.isa}, precision {p.precision}, {count_text(p.threads, 'thread')}; a call takes {time_text(p.call)}, {count_text(len(p.kernels), 'kernel')}"
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="soft">{escape(what)}: {time_text(p.busy)}, {time_text(p.around)} around them. Medians of {count_text(p.rounds, "run")}.</p>',
        f"<p>All kernels together reach <b>{r.attained:.0%}</b> of what this machine can do for their operations and bytes. "
        f"Time would be saved first in:</p><ol>{''.join(_worth(r))}</ol>",
        draw(r),
        '<p class="soft">A dot is a kernel, its area its share of the time, its number its row below. On its roof it does what the machine can do; '
        "hollow dots move data without operations.</p>",
        *_instructions(r, name), "<h2>Kinds of kernels</h2>", _kinds(r), "<h2>Kernels</h2>", f'<div class="wide">{_table(r)}</div>',
        "<h2>The machine</h2>", _peaks(r), f"<script>{SORT}</script>",
    ]  # fmt: skip
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(name)}: profile</title>'
    return f"<!doctype html><html lang=en><head>{head}<style>{PAGE_STYLE}{STYLE}{flame.STYLE}</style></head><body>{''.join(parts)}</body></html>\n"


def _worth(r: Roofline) -> Iterable[str]:
    for k in r.worth()[:FIRST_LOOK]:
        number = r.kernels.index(k) + 1
        link = f'<a href="#k{number}">{escape(k.kernel.title)}</a>'
        yield f"<li>{link}: {time_text(k.saving)} of {time_text(k.kernel.seconds)}, at {k.attained:.0%} of its roof</li>"


def _instructions(r: Roofline, name: str) -> Iterable[str]:
    """The flame graph, and what is around the kernels."""
    found = r.profile.instructions
    if found is None:
        return
    parts = r.profile.parts()
    whole = max(1e-12, sum(parts.values()))
    rows = "".join(f'<tr><td class="left">{part}</td><td>{time_text(s)}</td><td>{s / whole:.1%}</td></tr>' for part, s in parts.items())
    yield "<h2>A call</h2>"
    yield f'<table style="width:auto"><thead><tr><th class="left">part</th><th>time</th><th>share</th></tr></thead><tbody>{rows}</tbody></table>'
    yield f"<h2>Instructions</h2>{flame.draw(found, name)}"
    yield '<p class="soft">Above the model, below it what its time is made of, as wide as its time. Point at a box to read it.</p>'


def _kinds(r: Roofline) -> str:
    rows = []
    for kind, count, spent in r.profile.kinds():
        share, reached = spent / max(1e-12, r.profile.busy), r.reached(kind)
        told = ((count, str(count)), (spent, time_text(spent)), (share, f"{share:.1%}"), (reached, f"{reached:.0%}"))
        cells = "".join(f'<td data-v="{value}">{text}</td>' for value, text in told)
        rows.append(f'<tr><td class="left">{escape(kind)}</td>{cells}</tr>')
    head = '<th class="left">kind</th><th>kernels</th><th>time</th><th>share</th><th>of roof</th>'
    return f'<table style="width:auto"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


COLUMNS = ("", "share", "time", "node", "operations", "bytes", "ops a byte", "Gop/s", "GB/s", "limited by", "of roof", "to save")


def _table(r: Roofline) -> str:
    largest = max((k.share for k in r.kernels), default=1.0)
    head = "".join(f'<th class="{"left" if c == "node" else ""}">{c}</th>' for c in COLUMNS)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(_row(n, k, largest) for n, k in enumerate(r.kernels, 1))}</tbody></table>"


def _row(number: int, placed: Placed, largest: float) -> str:
    k = placed.kernel
    details = [k.algorithm, k.precision, k.format, f"{k.calls} calls" if k.calls > 1 else "", f"with {', '.join(k.fused)}" if k.fused else ""]
    mark = f'<span class="mark" style="background:{COLOURS.get(placed.bound, COLOURS["memory"])}"></span>'
    bound = "arithmetic" if placed.bound == COMPUTE else placed.bound
    cells = [
        (number, str(number)),
        (k.seconds, f"{placed.share:.1%}"),
        (k.seconds, time_text(k.seconds)),
        (k.title, f"{escape(k.title)}<small>{escape('; '.join(filter(None, details)))}</small>"),
        (k.operations, f"{k.operations:,}"),
        (k.bytes, size_text(k.bytes)),
        (placed.intensity, f"{placed.intensity:.3g}"),
        (placed.rate, f"{placed.rate / 1e9:.1f}"),
        (placed.bandwidth, f"{placed.bandwidth / 1e9:.1f}"),
        (bound, f"{mark}{bound}"),
        (placed.attained, f"{placed.attained:.0%}"),
        (placed.saving, time_text(placed.saving)),
    ]
    styles = {1: f' class="share" style="--part:{placed.share / largest:.1%}"', 3: ' class="name"', 9: ' class="left"'}
    return f'<tr id="k{number}">' + "".join(f'<td data-v="{escape(str(v))}"{styles.get(n, "")}>{text}</td>' for n, (v, text) in enumerate(cells)) + "</tr>"


def _peaks(r: Roofline) -> str:
    p = r.peaks
    tiles = f", {p.tiles / 1e9:.0f} Gop/s in bfloat16 tiles" if p.tiles else ""
    rows = "".join(
        f'<tr><td class="name">{level.name}</td><td>{size_text(level.capacity) if level.capacity else ""}</td>'
        + "".join(f"<td>{rate / 1e9:.1f}</td>" for rate in (level.read, level.write, level.copy)) + "</tr>"
        for level in p.levels
    )  # fmt: skip
    return (f"<p>{escape(p.cpu)}, measured {p.date[:10]} with {p.isa} on {count_text(p.threads, 'thread')}: {p.fma / 1e9:.0f} Gop/s in float32{tiles}.</p>"
            '<table style="width:auto"><thead><tr><th class="name">level</th><th>holds</th><th>GB/s read</th><th>written</th><th>copied</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>")  # fmt: skip
