"""Speed against error as a picture: how much faster than ONNX Runtime each engine is on each model, and how far its answers are from float64."""

from __future__ import annotations

from collections.abc import Sequence

from points import BASE, Point
from tables import SHORT

from hasten.bench.report.axes import LogAxis
from hasten.bench.report.markup import Markup, el, join

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 70, 20, 50, 50
SHOWN = {  # engine -> its colour; those that a machine has no times of are left out
    BASE: "#1f6feb", "hasten:precision=high": "#0a8f5b", "hasten:precision=medium": "#8a5cf6", "openvino:precision=default": "#d9480f",
    "openvino": "#999999",
}  # fmt: skip
NAMES = {**SHORT, BASE: "Hasten", "hasten:precision=high": "Hasten high", "hasten:precision=medium": "Hasten medium"}
REFERENCE = "onnxruntime"
LEAST_ERROR = 1e-8  # drawn for what is smaller


def speed_and_error(points: Sequence[Point], title: str) -> Markup | None:
    """One mark for each engine and point; None where nothing beside Hasten has both."""
    found = {}
    for engine in SHOWN:
        marks = [(speed, max(LEAST_ERROR, error), p.name) for p in points if (speed := _speed(p, engine)) and (error := _error(p, engine)) is not None]
        if marks:
            found[engine] = marks
    if len(found) < 2:
        return None
    every = [mark for marks in found.values() for mark in marks]
    across = LogAxis.around([1.0, *(speed for speed, _, _ in every)], LEFT, WIDTH - RIGHT)
    down = LogAxis.around([error for _, error, _ in every], HEIGHT - BOTTOM, TOP)
    dots = [
        el("circle", el("title", f"{NAMES.get(engine, engine)}, {name}: {speed:.2f}x, {error:.0e}"), cx=across.at(speed), cy=down.at(error), r=4.5,
           fill=SHOWN[engine], fill_opacity=0.75)
        for engine, marks in found.items()
        for speed, error, name in marks
    ]  # fmt: skip
    paper = el("rect", width=WIDTH, height=HEIGHT, fill="#ffffff")
    drawn = [el("title", title), paper, _grid(across, down), dots, _legend(list(found))]
    return el("svg", drawn, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", width=WIDTH, height=HEIGHT, role="img")


def _speed(p: Point, engine: str) -> float | None:
    """Relative to ONNX Runtime."""
    ours, theirs = p.time(engine), p.time(REFERENCE)
    return theirs / ours if ours and theirs else None


def _error(p: Point, engine: str) -> float | None:
    return p.engines.get(engine, {}).get("error")


def _grid(across: LogAxis, down: LogAxis) -> Markup:
    """Lines, their values, and what the axes are."""
    style = {"font_family": "sans-serif", "font_size": 12, "fill": "#555555"}
    parts = []
    for value in across.ticks():
        x = across.at(value)
        parts.append(el("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, stroke="#333333" if value == 1 else "#dddddd"))
        parts.append(el("text", f"{value:g}x", x=x, y=HEIGHT - BOTTOM + 16, text_anchor="middle", **style))
    for value in down.ticks():
        y = down.at(value)
        parts.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, stroke="#dddddd"))
        parts.append(el("text", f"{value:.0e}", x=LEFT - 8, y=y + 4, text_anchor="end", **style))
    parts.append(el("text", "speed beside ONNX Runtime: right is faster", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 12, text_anchor="middle", **style))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(el("text", "error: down is more exact", x=16, y=middle, text_anchor="middle", transform=f"rotate(-90 16 {middle:g})", **style))
    return join(*parts)


def _legend(engines: Sequence[str]) -> Markup:
    parts = []
    for k, engine in enumerate(engines):
        x = LEFT + k * 135
        parts.append(el("circle", cx=x + 6, cy=26, r=4.5, fill=SHOWN[engine]))
        parts.append(el("text", NAMES.get(engine, engine), x=x + 16, y=30, font_family="sans-serif", font_size=13, fill="#333333"))
    return join(*parts)
