"""The roofline as an SVG: operations a byte across, operations a second upwards, both in powers; the roofs of the machine, and a dot for each kernel
whose area is its share of the time.

A dot on its roof does what the machine can do; the distance below is time lost. Kernels that only move data have no operations: they stand at the
left edge, as far below each memory's roof as their bandwidth is below that memory's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from hasten.base.units import time_text
from hasten.profile.peaks import Level
from hasten.profile.roofline import COMPUTE, Placed, Roofline

WIDTH, HEIGHT = 960, 560
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 24, 52
LARGEST, SMALLEST = 20.0, 3.0  # radius of the slowest kernel, and of the least that is drawn
NUMBERED = 10  # kernels that carry their number in the table
GAPS = 3  # kernels whose distance from the roof is drawn
COLOURS = {COMPUTE: "#3b6fd4", "L1": "#2a9d6f", "L2": "#8a9a1b", "L3": "#d98a1f", "memory": "#c8452f"}

STYLE = """
.roofline text { font: 12px system-ui, sans-serif; fill: var(--ink, #222); }
.roofline .grid { stroke: var(--line, #ddd); stroke-width: 1; }
.roofline .roof { fill: none; stroke: var(--ink, #222); stroke-width: 1.6; }
.roofline .halo { stroke: var(--paper, #fff); stroke-width: 4; paint-order: stroke; stroke-linejoin: round; }
.roofline .gap { stroke-width: 1.2; stroke-dasharray: 3 3; }
.roofline .dot { fill-opacity: .45; stroke-width: 1.2; }
.roofline a:hover .dot { fill-opacity: .95; }
.roofline .number { font-size: 11px; font-weight: 600; text-anchor: middle; }
"""


@dataclass(frozen=True)
class Frame:
    """Ranges of both axes, and where a point of them lies."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @staticmethod
    def of(r: Roofline) -> Frame:
        """Room for all dots, and for the corner where the nearest memory's roof meets the arithmetic one."""
        fastest = max(level.bandwidth for level in r.peaks.levels)
        slowest = min(level.bandwidth for level in r.peaks.levels)
        top = max(r.peaks.fma, r.peaks.tiles or 0.0)
        moving = [k.intensity for k in r.kernels if k.kernel.operations]
        x_low = _power_below(min([0.1, *(x * 0.7 for x in moving)]))
        x_high = _power_above(max([2 * top / slowest, *(x * 1.4 for x in moving)]))
        rates = [height(k, x_low) for k in r.kernels]
        y_low = _power_below(min([x_low * slowest, *(max(y, top * 1e-5) * 0.7 for y in rates)]))
        return Frame(x_low, x_high, y_low, max([top, fastest * x_low, *rates]) * 1.8)

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * _share(value, self.x_low, self.x_high)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(value, self.y_low, self.y_high)


def height(k: Placed, x_low: float) -> float:
    """Operations a second; of a kernel without any, what its bandwidth would be at the left edge."""
    return k.rate if k.kernel.operations else k.bandwidth * x_low


def draw(r: Roofline) -> str:
    """The picture; the styles that it needs are `STYLE`."""
    frame = Frame.of(r)
    parts = [*_grid(frame), *_roofs(frame, r), *_gaps(frame, r), *_dots(frame, r), *_legend(r)]
    title = "Roofline: operations a second over operations a byte"
    return (f'<svg class="roofline" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
            + "\n".join(parts) + "</svg>")  # fmt: skip


def standalone(r: Roofline) -> str:
    """The picture as a file of its own, on white."""
    paper = f'<style>{STYLE}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    head, _, rest = draw(r).partition(">")
    return f"{head}>{paper}{rest}"


def _share(value: float, low: float, high: float) -> float:
    return math.log(min(max(value, low), high) / low) / math.log(high / low)


def _power_below(value: float) -> float:
    return float(2.0 ** math.floor(math.log2(value)))


def _power_above(value: float) -> float:
    return float(2.0 ** math.ceil(math.log2(value)))


def _line(kind: str, x0: float, y0: float, x1: float, y1: float, more: str = "") -> str:
    return f'<line class="{kind}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"{more}/>'


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(words)}</text>'


def _grid(frame: Frame) -> Iterator[str]:
    left, right, bottom = frame.x(frame.x_low), frame.x(frame.x_high), frame.y(frame.y_low)
    x = frame.x_low
    while x <= frame.x_high:
        yield _line("grid", frame.x(x), TOP, frame.x(x), bottom)
        yield _text(frame.x(x), bottom + 18, f"{x:g}" if x >= 1 else f"1/{1 / x:g}", ' text-anchor="middle"')
        x *= 4 if frame.x_high / frame.x_low > 2**10 else 2
    y = 10.0 ** math.ceil(math.log10(frame.y_low))
    while y <= frame.y_high:
        yield _line("grid", left, frame.y(y), right, frame.y(y))
        yield _text(left - 8, frame.y(y) + 4, f"{y / 1e9:g}", ' text-anchor="end"')
        y *= 10
    yield _text((left + right) / 2, HEIGHT - 10, "operations a byte", ' text-anchor="middle"')
    yield _text(16, (TOP + bottom) / 2, "Gop/s", f' text-anchor="middle" transform="rotate(-90 16 {(TOP + bottom) / 2:.1f})"')


def _roofs(frame: Frame, r: Roofline) -> Iterator[str]:
    """The arithmetic roofs from where the nearest memory reaches them, and each memory's slope up to the highest of them."""
    flat = [("float32", r.peaks.fma)] + ([("bfloat16 tiles", r.peaks.tiles)] if r.peaks.tiles else [])
    fastest, top = max(level.bandwidth for level in r.peaks.levels), max(rate for _, rate in flat)
    for name, rate in flat:
        begin = max(frame.x_low, rate / fastest)
        yield _line("roof", frame.x(begin), frame.y(rate), frame.x(frame.x_high), frame.y(rate))
        words = f"{name} {rate / 1e9:.0f} Gop/s"
        yield _text(frame.x(begin) + 8, frame.y(rate) - 7, words, ' class="halo"')
    for level in r.peaks.levels:
        yield from _slope(frame, level, top)


def _slope(frame: Frame, level: Level, top: float) -> Iterator[str]:
    start = max(frame.x_low, frame.y_low / level.bandwidth)
    end = min(frame.x_high, top / level.bandwidth)
    x0, y0, x1, y1 = frame.x(start), frame.y(start * level.bandwidth), frame.x(end), frame.y(end * level.bandwidth)
    yield _line("roof", x0, y0, x1, y1, f' style="stroke:{COLOURS.get(level.name, COLOURS["memory"])}"')
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    at = (x0 + 0.16 * (x1 - x0), y0 + 0.16 * (y1 - y0) - 6)
    yield _text(*at, f"{level.name} {level.bandwidth / 1e9:.0f} GB/s", f' class="halo" transform="rotate({angle:.1f} {at[0]:.1f} {at[1]:.1f})"')


def _place(frame: Frame, k: Placed) -> tuple[float, float]:
    return frame.x(k.intensity if k.kernel.operations else frame.x_low), frame.y(height(k, frame.x_low))


def _gaps(frame: Frame, r: Roofline) -> Iterator[str]:
    """From the dots where most time would be saved up to their roofs."""
    for k in r.worth()[:GAPS]:
        if k.attained < 1:
            x, y = _place(frame, k)
            yield _line("gap", x, y, x, frame.y(height(k, frame.x_low) / k.attained), f' stroke="{COLOURS.get(k.bound, COLOURS["memory"])}"')


def _dots(frame: Frame, r: Roofline) -> Iterator[str]:
    """The largest first, so that none is hidden; the link leads to the table's row."""
    slowest = max((k.share for k in r.kernels), default=1.0)
    for number, k in enumerate(r.kernels, 1):
        x, y = _place(frame, k)
        radius, colour = max(SMALLEST, LARGEST * math.sqrt(k.share / slowest)), COLOURS.get(k.bound, COLOURS["memory"])
        fill = colour if k.kernel.operations else "none"
        yield (f'<a href="#k{number}"><title>{escape(tip(k, number))}</title><circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" '
               f'fill="{fill}" stroke="{colour}" pointer-events="all"/></a>')  # fmt: skip
    for number, k in reversed(list(enumerate(r.kernels[:NUMBERED], 1))):
        x, y = _place(frame, k)
        yield _text(x, y + 4, str(number), ' class="number halo" pointer-events="none"')


def tip(k: Placed, number: int) -> str:
    """What is said about a dot."""
    fused = f"\nwith {', '.join(k.kernel.fused)}" if k.kernel.fused else ""
    rates = f"{k.rate / 1e9:.1f} Gop/s, {k.bandwidth / 1e9:.1f} GB/s, {k.intensity:.2g} operations a byte"
    roof = f"{k.attained:.0%} of its roof ({k.bound}); {time_text(k.saving)} to save"
    return f"{number}. {k.kernel.title}{fused}\n{time_text(k.kernel.seconds)}, {k.share:.1%} of the time\n{rates}\n{roof}"


def _legend(r: Roofline) -> Iterator[str]:
    bounds = [b for b in COLOURS if any(k.bound == b for k in r.kernels)]
    x, y = WIDTH - RIGHT - 150.0, HEIGHT - BOTTOM - 18.0 * len(bounds) - 24
    yield f'<rect x="{x - 10:.0f}" y="{y - 16:.0f}" width="156" height="{18 * len(bounds) + 32}" rx="4" fill="var(--paper, #fff)" fill-opacity=".85"/>'
    yield _text(x, y, "limited by")
    for line, bound in enumerate(bounds, 1):
        yield f'<circle class="dot" cx="{x + 6:.0f}" cy="{y + 18 * line - 4:.0f}" r="6" fill="{COLOURS[bound]}" stroke="{COLOURS[bound]}"/>'
        yield _text(x + 18, y + 18 * line, "arithmetic" if bound == COMPUTE else f"moving data ({bound})")
