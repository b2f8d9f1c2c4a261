"""The pictures of a report, as SVG: ratios model by model, speed against error, rounds in time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hasten.base.units import time_text
from hasten.bench.report.axes import LogAxis
from hasten.bench.report.markup import Markup, el, join, svg
from hasten.bench.report.words import bounded, interval_text
from hasten.bench.results import Entry
from hasten.bench.summary import Block, Line, Summary

COLOURS = 8
ROUND, SQUARE, DIAMOND, UP, DOWN = range(5)
CORNERS = {
    DIAMOND: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    UP: ((0, -1.15), (1.15, 0.95), (-1.15, 0.95)),
    DOWN: ((0, 1.15), (1.15, -0.95), (-1.15, -0.95)),
}
TRUTH = "float64"  # the reference that errors are errors against
LEAST_ERROR = 1e-9  # an error of nothing is drawn here
DRIFT_POINTS = 120  # more rounds than this are drawn in groups


def mark(engine: int, x: float, y: float, size: float = 4.5, *, hollow: bool = False, faint: bool = False, title: str = "") -> Markup:
    """The mark of the engine with this number: colour and shape, so that it can be told in grey, too."""
    kind = f"mark s{engine % COLOURS}" + (" hollow" if hollow else "") + (" faint" if faint else "")
    shape, r = (engine % COLOURS) % 5, size
    says = el("title", title) if title else None
    if shape == ROUND:
        drawn = el("circle", cx=x, cy=y, r=r)
    elif shape == SQUARE:
        drawn = el("rect", x=x - r * 0.88, y=y - r * 0.88, width=r * 1.76, height=r * 1.76, rx=0.8)
    else:
        drawn = el("polygon", points=" ".join(f"{x + dx * r:.2f},{y + dy * r:.2f}" for dx, dy in CORNERS[shape]))
    return el("g", says, drawn, class_=kind)


def legend(summary: Summary, *, base: bool = True) -> Markup:
    """Marks and names of all engines."""
    chosen = list(enumerate(summary.engines))[0 if base else 1 :]
    return el("div", [el("span", el("svg", mark(number, 6, 6), viewBox="0 0 12 12", aria_hidden="true"), name) for number, name in chosen], class_="legend")


def ratios(summary: Summary, threads: int) -> Markup:
    """One row per model, one mark with its interval per engine; the model where the base leads most comes first."""
    blocks = [block for block in summary.of_threads(threads) if any(line.ratio for line in block.lines)]
    blocks.sort(key=lambda block: min(line.ratio.value for line in block.lines if line.ratio), reverse=True)
    numbers = {name: number for number, name in enumerate(summary.engines)}
    left, width, top, step = 226.0, 1000.0, 30.0, 11.0
    found = [end for block in blocks for line in block.lines if line.ratio for end in (line.ratio.low, line.ratio.value, line.ratio.high)]
    axis = LogAxis.around([*found, 1.0], left + 6, width - 96)
    rows, y = [], top
    for index, block in enumerate(blocks):
        lines = [line for line in block.lines if line.ratio]
        height = max(26.0, step * len(lines) + 12)
        middle = y + height / 2
        stripe = el("rect", x=0, y=y, width=width, height=height, class_="stripe") if index % 2 == 0 else None
        says = el("text", _short(block.name, 31), x=left - 10, y=middle + 4, text_anchor="end", class_="strong")
        base = el("text", time_text(block.base.seconds.value) if block.base.seconds else "", x=width - 8, y=middle + 4, text_anchor="end", class_="soft")
        first = middle - (len(lines) - 1) / 2 * step
        drawn = [_ratio(line, numbers[line.entry.engine], axis, first + i * step) for i, line in enumerate(lines)]
        rows.append((stripe, [says, base, *drawn]))
        y += height
    band = float(summary.run.design.get("band") or 0)
    around = el("rect", x=axis.at(1 - band), y=top, width=axis.at(1 + band) - axis.at(1 - band), height=y - top, class_="band") if band else None
    heads = [el("text", f"{summary.base} is slower", x=axis.at(1) - 10, y=top - 14, text_anchor="end", class_="soft"),
             el("text", f"{summary.base} is faster", x=axis.at(1) + 10, y=top - 14, class_="soft"),
             el("text", f"{summary.base} takes", x=width - 8, y=top - 14, text_anchor="end", class_="soft")]  # fmt: skip
    if axis.at(1) - axis.start < 110:
        heads.pop(0)
    elif axis.end - axis.at(1) < 110:
        heads.pop(1)
    grid = [_vertical(axis.at(value), top, y, f"{value:g}x") for value in axis.ticks()]
    one = el("line", x1=axis.at(1), x2=axis.at(1), y1=top - 6, y2=y, class_="one")
    return svg(width, y + 26, f"Ratios of times, {threads} threads", [stripe for stripe, _ in rows], around, grid, one, heads, [row for _, row in rows])


def _ratio(line: Line, number: int, axis: LogAxis, y: float) -> Markup:
    assert line.ratio is not None
    ratio = line.ratio
    title = f"{line.entry.engine}: {ratio.value:.3f} ({interval_text(ratio)}), {line.says}"
    kind = "whisker" if bounded(ratio) else "whisker none"
    whisker = el("line", x1=axis.at(ratio.low), x2=axis.at(ratio.high), y1=y, y2=y, class_=f"{kind} s{number % COLOURS}")
    return join(whisker, mark(number, axis.at(ratio.value), y, 4.2, hollow=line.word in ("undecided", "withheld"), title=title))


@dataclass(frozen=True)
class _Point:
    """A model or an engine in the picture of speed and error."""

    engine: int
    speed: float
    error: float
    name: str

    @property
    def title(self) -> str:
        return f"{self.name}: {self.speed:.2f}x, error {self.error:.1e}"


def speed_and_error(summary: Summary, threads: int, width: float = 1000.0) -> Markup | None:
    """Right is faster, up is more exact: a faint mark for each model, a large one for an engine's geometric means. None without errors."""
    points = list(_points(summary, threads))
    if not points:
        return None
    height, left, top, bottom = 430.0, 62.0, 16.0, 56.0
    right = width - 20
    x = LogAxis.around([*(point.speed for point in points), 1.0], left, right, margin=0.08)
    errors = [point.error for point in points]
    y = LogAxis.around([*errors, min(errors) * 10], top, height - bottom, margin=0.08)  # small errors at the top
    grid = [_vertical(x.at(value), top, height - bottom, f"{value:g}x") for value in x.ticks(8)]
    decades = [10.0**n for n in range(math.ceil(math.log10(y.low)), math.floor(math.log10(y.high)) + 1)]
    grid += [_horizontal(y.at(value), left, right, f"1e{round(math.log10(value))}") for value in decades]
    grid.append(el("line", x1=x.at(1), x2=x.at(1), y1=top, y2=height - bottom, class_="one"))
    faint = [mark(point.engine, x.at(point.speed), y.at(point.error), 3.6, faint=True, title=point.title) for point in points]
    means = list(_mean_points(summary, points))
    large = [mark(point.engine, x.at(point.speed), y.at(point.error), 8, title=point.title) for point in means]
    upright = f"translate(13 {(top + height - bottom) / 2:.0f}) rotate(-90)"
    words = [el("text", f"speed beside {summary.base}: right is faster", x=(left + right) / 2, y=height - 12, text_anchor="middle", class_="soft"),
             el("text", "largest error: up is more exact", transform=upright, text_anchor="middle", class_="soft")]  # fmt: skip
    return svg(width, height, f"Speed against error, {threads} threads", grid, words, faint, _names(means, x, y, right), large)


def _points(summary: Summary, threads: int) -> Iterator[_Point]:
    for block in summary.of_threads(threads):
        if block.subject.reference != TRUTH:
            continue  # differences from another engine are no errors
        for number, name in enumerate(summary.engines):
            line = block.line(name)
            if line and line.seconds and (line.ratio or name == summary.base) and line.entry.error is not None and math.isfinite(line.entry.error):
                speed = 1 / line.ratio.value if line.ratio else 1.0
                yield _Point(number, speed, max(line.entry.error, LEAST_ERROR), f"{name}, {block.name}")


def _mean_points(summary: Summary, points: Sequence[_Point]) -> Iterator[_Point]:
    for number, name in enumerate(summary.engines):
        if own := [point for point in points if point.engine == number]:
            speed, error = (statistics.geometric_mean(values) for values in ([p.speed for p in own], [p.error for p in own]))
            yield _Point(number, speed, error, name)


def _names(points: Sequence[_Point], x: LogAxis, y: LogAxis, right: float) -> list[Markup]:
    """Names beside large marks; of those that would lie on each other the later ones move down."""
    made: list[Markup] = []
    taken: list[tuple[float, float, float]] = []  # from x, to x, y
    for point in sorted(points, key=lambda point: y.at(point.error)):
        length, at, down = 7.6 * len(point.name), x.at(point.speed) + 14, y.at(point.error) + 4.5
        before = at + length > right
        start = at - 28 - length if before else at
        while any(start < end and begin < start + length and abs(down - other) < 15 for begin, end, other in taken):
            down += 15
        taken.append((start, start + length, down))
        kind = f"over s{point.engine % COLOURS}"
        made.append(el("text", point.name, x=at - 28 if before else at, y=down, text_anchor="end" if before else None, class_=kind))
    return made


def drift(block: Block, numbers: Mapping[str, int]) -> Markup:
    """Small multiples: the time of each engine's rounds beside its own median, all on one scale."""
    lines = [line for line in block.lines if len(line.entry.samples) > 1]
    curves = [(line.entry, _curve(line.entry)) for line in lines]
    reach = max((abs(math.log(value)) for _, curve in curves for _, value in curve), default=0.0)
    reach = max(reach, math.log(1.05)) * 1.05
    return el("div", [_drift(entry, curve, numbers[entry.engine], reach) for entry, curve in curves], class_="drift")


def _curve(entry: Entry) -> list[tuple[float, float]]:
    """(round, time beside the median); of many rounds groups, each by its least and its largest."""
    samples = sorted(entry.samples, key=lambda sample: sample.round)
    middle = statistics.median(sample.seconds for sample in samples) or 1.0
    points = [(float(sample.round), sample.seconds / middle) for sample in samples]
    size = math.ceil(len(points) / DRIFT_POINTS)
    if size <= 2:
        return points
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [point for group in groups for point in sorted((min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1])))]


def _drift(entry: Entry, curve: Sequence[tuple[float, float]], number: int, reach: float) -> Markup:
    width, height, top, bottom, left = 190.0, 74.0, 16.0, 70.0, 38.0
    first, last = curve[0][0], max(curve[-1][0], curve[0][0] + 1)

    def at(point: tuple[float, float]) -> str:
        x = left + (point[0] - first) / (last - first) * (width - left - 2)
        return f"{x:.1f} {(top + bottom) / 2 - math.log(point[1]) / reach * (bottom - top) / 2:.1f}"

    scale = f"{math.expm1(reach) * 100:.0f}%"
    words = [el("text", _short(entry.engine, 30), x=0, y=10), el("text", f"+{scale}", x=left - 4, y=top + 9, text_anchor="end", class_="soft"),
             el("text", f"\N{MINUS SIGN}{-math.expm1(-reach) * 100:.0f}%", x=left - 4, y=bottom, text_anchor="end", class_="soft")]  # fmt: skip
    frame = [el("line", x1=left, x2=width - 2, y1=y, y2=y, class_="grid") for y in (top, (top + bottom) / 2, bottom)]
    path = el("path", d="M" + "L".join(map(at, curve)), class_=f"curve s{number % COLOURS}")
    return svg(width, height, f"Rounds of {entry.engine}", words, frame, path)


def _vertical(x: float, top: float, bottom: float, text: str) -> Markup:
    return join(el("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"), el("text", text, x=x, y=bottom + 17, text_anchor="middle", class_="soft"))


def _horizontal(y: float, left: float, right: float, text: str) -> Markup:
    return join(el("line", x1=left, x2=right, y1=y, y2=y, class_="grid"), el("text", text, x=left - 7, y=y + 4, text_anchor="end", class_="soft"))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
