"""The instructions of a run as a flame graph that hangs down: the model above, below it what its time is made of, widths as times.

Rows: the model; its main code and its functions; If and While with what is in them; instructions; and below a Call its kernel. A box is as wide as
its own time and that of all below it; colours say what an instruction is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from hasten.base.units import time_text
from hasten.profile.instructions import Instructions, InstructionTime

WIDTH, ROW, LEAST = 960.0, 20, 0.4  # of the picture; of a row; of the narrowest box
LETTER = 6.4  # width of a letter
COLOURS = {"kernels": "#3b6fd4", "sizes and checks": "#2a9d6f", "memory": "#d98a1f", "values": "#8a5cc4", "control": "#c8452f", "": "#8b93a3"}

STYLE = """
.flame text { font: 11px system-ui, sans-serif; fill: #fff; pointer-events: none; }
.flame rect { stroke: var(--paper, #fff); stroke-width: .7; }
.flame rect:hover { fill-opacity: .75; }
.flame .key { fill: var(--ink, #222); }
"""


@dataclass
class Box:
    """A box of the picture: its words, what it is for (a group, or ""), its own seconds, and the boxes below it."""

    words: str
    group: str = ""
    own: float = 0.0
    tip: str = ""
    inside: list[Box] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.own + sum(b.seconds for b in self.inside)

    @property
    def depth(self) -> int:
        return 1 + max((b.depth for b in self.inside), default=0)


def boxes(found: Instructions, name: str) -> Box:
    """The model as boxes."""
    parts: dict[str, list[InstructionTime]] = {}
    for row in found.rows:
        parts.setdefault(row.function, []).append(row)
    main = list(_nested(parts.pop("", []), 0))
    functions = [Box(heading.split(" ")[1], "", 0.0, heading, list(_nested(rows, 0))) for heading, rows in parts.items()]
    return Box(name, inside=[Box("main", inside=main), *functions] if functions else main)


def _nested(rows: Sequence[InstructionTime], depth: int) -> Iterator[Box]:
    """Rows of one depth, each with the deeper ones that follow it."""
    starts = [n for n, row in enumerate(rows) if row.depth == depth]
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=bool(starts)):
        yield _box(rows[start], list(_nested(rows[start + 1 : end], depth + 1)))


def _box(row: InstructionTime, inside: list[Box]) -> Box:
    calls = f" in {row.calls:,} times" if row.calls != 1 else ""
    tip = f"{row.number}: {row.text}\n{row.note}{chr(10) if row.note else ''}{time_text(row.seconds)}{calls} ({row.group})"
    if row.kernel:
        kernel = Box(row.kernel, row.group, row.seconds, tip)
        return Box(row.note or row.kernel, row.group, 0.0, tip, [kernel])
    return Box(row.text, row.group, row.seconds, tip, inside)


def draw(found: Instructions, name: str) -> str:
    """The picture; the styles that it needs are `STYLE`."""
    root = boxes(found, name)
    height = ROW * (root.depth + 2)
    parts = [*_draw(root, 0.0, WIDTH / max(root.seconds, 1e-12), 0), *_legend(found, ROW * (root.depth + 1) + 14.0)]
    return (f'<svg class="flame" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height}" role="img" aria-label="Time by instruction">'
            + "\n".join(parts) + "</svg>")  # fmt: skip


def standalone(found: Instructions, name: str) -> str:
    """The picture as a file of its own, on white."""
    head, _, rest = draw(found, name).partition(">")
    return f'{head}><style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{rest}'


def _draw(box: Box, left: float, scale: float, level: int) -> Iterator[str]:
    width = box.seconds * scale
    if width < LEAST:
        return
    tip = f"{box.tip or box.words}\n{time_text(box.seconds)} in all" if box.inside and box.own == 0 else box.tip
    yield (f'<g><title>{escape(tip)}</title><rect x="{left:.2f}" y="{level * ROW}" width="{width:.2f}" height="{ROW}" rx="2" '
           f'fill="{COLOURS[box.group]}"/></g>')  # fmt: skip
    room = int((width - 6) / LETTER)
    if room >= 3:
        words = box.words if len(box.words) <= room else box.words[: room - 1] + "…"
        yield f'<text x="{left + 4:.2f}" y="{level * ROW + 14}">{escape(words)}</text>'
    for inner in box.inside:
        yield from _draw(inner, left, scale, level + 1)
        left += inner.seconds * scale


def _legend(found: Instructions, y: float) -> Iterator[str]:
    x = 4.0
    for group, seconds in found.groups().items():
        words = f"{group} {time_text(seconds)}"
        yield f'<circle cx="{x + 5:.0f}" cy="{y - 4:.0f}" r="5" fill="{COLOURS[group]}"/><text class="key" x="{x + 14:.0f}" y="{y:.0f}">{escape(words)}</text>'
        x += 30 + LETTER * len(words)
