"""Depthwise 2-D convolution of channels-last float32 activations, results given to a sink.

Vectors run over channels; several neighbouring outputs of a row share the loaded inputs. Activations are read in place:
outputs whose taps all lie within the row take the blocked path, the others (and what blocks leave over) go one by one
with their taps clipped. Taps above and below the image are clipped for whole rows. With a channel multiplier above one,
input rows are first copied to scratch with their channels repeated. 1-D convolution is the case h = oh = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hasten.base.dims import DimLike
from hasten.codegen.builder import Function, V, Var, vector
from hasten.codegen.isa import Isa
from hasten.kernels import tile
from hasten.kernels.moves import FLOAT
from hasten.kernels.packing import pack_channels
from hasten.kernels.tile import Sink

WINDOW_BYTES = 20 << 10  # of input rows: stay in the first level cache
LEAST_CHUNK = 4  # vectors of channels
EDGE_VECTORS = 2  # of channels computed together at the edges, where outputs are taken one by one


@dataclass(frozen=True)
class DepthwiseProblem:
    """What is known when the kernel is made: filters [channels * multiplier, 1, kh, kw]; output channel c reads input
    channel c // multiplier.

    ow: output width where known (chooses blocks that fit). pixel_stride: xs_x where known. Channels of a pixel are
    contiguous. bordered: the rows have their padding in memory, so that all columns of all taps exist.
    """

    channels: int
    multiplier: int = 1
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    ow: int | None = None
    pixel_stride: int | None = None
    bordered: bool = False

    @property
    def outputs(self) -> int:
        return self.channels * self.multiplier


DEPTHWISE_ARGS: tuple[tuple[str, str], ...] = (
    ("x", "ptr"),
    ("weights", "ptr"),
    ("scratch", "ptr"),
    ("n", "i64"),
    ("h", "i64"),
    ("w", "i64"),
    ("oh", "i64"),
    ("ow", "i64"),
    ("pad_top", "i64"),
    ("pad_left", "i64"),
    ("xs_n", "i64"),
    ("xs_y", "i64"),
    ("xs_x", "i64"),
)


def depthwise_args(problem: DepthwiseProblem) -> tuple[tuple[str, str], ...]:
    """The template's argument words: buffers (scratch: this thread's own), sizes, padding, strides of x in elements."""
    return DEPTHWISE_ARGS


def depthwise_lanes(problem: DepthwiseProblem, isa: Isa) -> int:
    """Channels of a vector: the widest that divides them, else the widest."""
    lanes = widest = isa.lanes(32)
    while lanes >= 4:
        if problem.outputs % lanes == 0:
            return lanes
        lanes //= 2
    return widest


def pack_depthwise_weights(problem: DepthwiseProblem, isa: Isa, w: np.ndarray) -> np.ndarray:
    """Filters [C * multiplier, 1, kh, kw] float32 -> [kh * kw, C * multiplier rounded up to vectors]."""
    return pack_channels(np.asarray(w, np.float32), depthwise_lanes(problem, isa))


def depthwise_operations(problem: DepthwiseProblem, n: DimLike, oh: DimLike, ow: DimLike) -> DimLike:
    """Floating point operations (a multiplication and an addition count as two)."""
    return n * oh * ow * (2 * problem.outputs * problem.kernel[0] * problem.kernel[1])


def depthwise_scratch_bytes(
    problem: DepthwiseProblem, isa: Isa, h: DimLike, w: DimLike, oh: DimLike, ow: DimLike
) -> DimLike:
    """Bytes of scratch for each thread: the input rows of one output row, when channels are repeated."""
    return w * (problem.kernel[0] * problem.outputs * FLOAT) if problem.multiplier > 1 else 0


def emit_depthwise(
    f: Function, problem: DepthwiseProblem, isa: Isa, arg: Mapping[str, V], thread: V, threads: V, sink: Sink
) -> None:
    """Emit the convolution into `f`, whose argument words are loaded as arg[name]. The sink sees indices n, y, x, c."""
    Depthwise(f, problem, isa, arg, sink).emit(thread, threads)


def _block_pixels(problem: DepthwiseProblem, isa: Isa) -> int:
    """Outputs of a row computed together: what leaves least over of a known width, else what registers allow.

    As many as hide the latency of FMA, although 16 registers do not hold the taps of a large filter beside them: those
    come from the cache then. With strides, outputs share few inputs.
    """
    most = 10 if problem.strides[1] == 1 else 8 if isa.registers >= 32 else 6
    reach = (problem.kernel[1] - 1) * problem.dilations[1]
    inner = (problem.ow or 0) - (reach // problem.strides[1] if problem.ow and not problem.bordered else 0)
    if inner < 2:
        return most // 2
    return max(range(2, most + 1), key=lambda p: (inner // p * p * (1 - 0.5 / p), p))


@dataclass
class Row:
    """One output row: its indices, the pointer to tap row 0 (column -pad_left), bytes between tap rows, valid taps
    [first, stop). `ring`: tap row 0 is number ring[0] of ring[1] rows, the first of which `source` points to; the row
    behind the last one is the first.
    """

    where: dict[str, V]
    source: V
    tap_bytes: V
    first: V
    stop: V
    ring: tuple[V, V] | None = None

    def line(self, f: Function, place: V, ky: V) -> V:
        """The address in tap row ky of what lies at `place` in the row of `source`."""
        if self.ring is None:
            return f.offset(place, ky * self.tap_bytes)
        number = self.ring[0] + ky
        number = f.select(number >= self.ring[1], number - self.ring[1], number)
        return f.offset(place, number * self.tap_bytes)


class Depthwise:
    """The kernel's parts: `emit` is all of it; `taps`, `row` and `bordered_row` serve kernels that take its rows in their own order."""

    def __init__(self, f: Function, problem: DepthwiseProblem, isa: Isa, arg: Mapping[str, V], sink: Sink):
        self.f, self.problem, self.isa, self.arg, self.sink = f, problem, isa, arg, sink
        self.lanes = depthwise_lanes(problem, isa)
        self.type = vector("float", self.lanes)
        self.vectors = -(-problem.outputs // self.lanes)
        self.ragged = problem.outputs % self.lanes != 0
        self.pixels = _block_pixels(problem, isa)
        self.tap_weights = self.vectors * self.lanes * FLOAT
        if problem.multiplier > 1:
            self.pixel: V | int = problem.outputs * FLOAT
        elif problem.pixel_stride is not None:
            self.pixel = problem.pixel_stride * FLOAT
        else:
            self.pixel = arg["xs_x"] * FLOAT

    def emit(self, thread: V, threads: V) -> None:
        """This thread's rows of all images x vectors of channels."""
        f, arg = self.f, self.arg
        vectors = f.const("i64", self.vectors)
        rows, channels = tile.split_work(f, thread, threads, arg["n"] * arg["oh"], vectors)
        chunk = self._chunk(channels[1] - channels[0])
        with f.loop(channels[0], channels[1], chunk) as v, f.loop(rows[0], rows[1]) as r:
            here = v, f.smin(v + chunk, channels[1])
            image = r / arg["oh"]
            y = r - image * arg["oh"]
            self.row(image, y, {"n": image, "y": y}, here)

    def taps(self, y: V) -> tuple[V, V, V]:
        """Of output row y: the input row of its first tap (which may lie outside the image), the first valid tap and the one behind
        the last.
        """
        f, p = self.f, self.problem
        dy = p.dilations[0]
        top = y * p.strides[0] - self.arg["pad_top"]
        first = f.smax((dy - 1 - top) / dy, 0)
        stop = f.smin(f.smax((self.arg["h"] - top + (dy - 1)) / dy, 0), p.kernel[0])
        return top, first, f.smax(stop, first)

    def row(self, image: V, y: V, where: dict[str, V], channels: tuple[V, V]) -> None:
        """Output row y of an image that is read in place, vectors [channels[0], channels[1]) of channels."""
        f, arg, p = self.f, self.arg, self.problem
        kw, sx, dx = p.kernel[1], p.strides[1], p.dilations[1]
        top, first, stop = self.taps(y)
        x = f.at(arg["x"], image * arg["xs_n"] + top * arg["xs_y"], FLOAT)
        tap_bytes = arg["xs_y"] * (p.dilations[0] * FLOAT)
        if p.multiplier > 1:
            x, tap_bytes = self._repeat_channels(x, tap_bytes, first, stop)
        source = f.offset(x, arg["pad_left"] * self.pixel * -1)
        inner = (
            f.smax((arg["pad_left"] + (sx - 1)) / sx, 0),
            (arg["w"] + (arg["pad_left"] - (kw - 1) * dx + sx - 1)) / sx,
        )
        self._row(Row(where, source, tap_bytes, first, stop), inner, channels)

    def bordered_row(self, row: Row) -> None:
        """All channels of an output row whose taps' columns all exist in memory, with whole vectors of channels."""
        f, ow = self.f, self.problem.ow
        size = f.coerce(ow if ow is not None else self.arg["ow"], "i64")
        rest = 1 if ow is None else ow % self.pixels
        blocked = size - size % self.pixels
        with f.loop(0, blocked, self.pixels) as x:
            self._blocks(row, x, self.pixels)
        if rest:
            with f.loop(blocked, size, rest) as x:
                self._blocks(row, x, rest)

    def _blocks(self, row: Row, x: V, pixels: int) -> None:
        f, whole = self.f, self.problem.outputs // self.lanes
        with f.loop(0, whole) as v:
            self._block(row, x, v, pixels)
        if self.ragged:
            mask = f.iota("i32", self.lanes) < f.const("i32", self.problem.outputs - whole * self.lanes)
            self._block(row, x, f.const("i64", whole), pixels, mask)

    def _chunk(self, vectors: V) -> V:
        """Vectors of channels taken through all rows before the next ones.

        Input rows that several output rows need then stay in the first level cache; where that would leave too short
        runs of memory, all vectors are taken at once.
        """
        f, p = self.f, self.problem
        if p.multiplier > 1:
            return f.smax(vectors, 1)
        line = f.smax(self.arg["w"], 1) * (p.kernel[0] * self.lanes * FLOAT)
        fit = f.const("i64", WINDOW_BYTES) / line
        return f.smax(f.select(fit >= LEAST_CHUNK, fit, vectors), 1)

    def _repeat_channels(self, x: V, tap_bytes: V, first: V, stop: V) -> tuple[V, V]:
        """The tap rows with every channel `multiplier` times, in scratch."""
        f, p, arg = self.f, self.problem, self.arg
        row_bytes = arg["w"] * (p.outputs * FLOAT)
        with f.loop(first, stop) as ky, f.loop(0, arg["w"]) as q, f.loop(0, p.channels) as c:
            value = f.load("float", f.at(f.offset(x, ky * tap_bytes), q * arg["xs_x"] + c, FLOAT))
            target = f.at(f.offset(arg["scratch"], ky * row_bytes), q * p.outputs + c * p.multiplier, FLOAT)
            for j in range(p.multiplier):
                f.store(value, f.offset(target, j * FLOAT))
        return arg["scratch"], row_bytes

    def _row(self, row: Row, inner: tuple[V, V], channels: tuple[V, V]) -> None:
        """All outputs of a row: blocks where their taps lie within it, single outputs elsewhere."""
        f, ow = self.f, self.arg["ow"]
        whole = f.smin(channels[1], self.problem.outputs // self.lanes) if self.ragged else channels[1]
        position = f.var("i64", 0)
        first_vector, end = f.var("i64", 0), f.var("i64", 0)
        with f.forever() as loop:
            x = position.get()
            loop.break_if(x >= ow)
            first_vector.set(channels[0])
            end.set(x + 1)
            done = f.label("done")
            with f.when((x >= inner[0]) & (x + self.pixels <= f.smin(inner[1], ow))):
                with f.loop(channels[0], whole) as v:
                    self._block(row, x, v, self.pixels)
                end.set(x + self.pixels)
                first_vector.set(whole)
                if not self.ragged:
                    position.set(x + self.pixels)
                    f.jump(done)
            position.set(end.get())
            with f.loop(x, end.get()) as single:
                self._single(row, single, first_vector.get(), channels[1])
            f.place(done)

    def _block(self, row: Row, x: V, v: V, pixels: int, mask: V | None = None) -> None:
        """`pixels` outputs from x on, one vector of channels; inputs are loaded once for all of them."""
        f, p = self.f, self.problem
        kw, sx, dx = p.kernel[1], p.strides[1], p.dilations[1]
        sums = [f.var(self.type, 0.0) for _ in range(pixels)]
        source = f.at(f.offset(row.source, x * (self.pixel * sx)), v, self.lanes * FLOAT)
        weights = f.at(self.arg["weights"], v, self.lanes * FLOAT)
        uses: dict[int, list[tuple[int, int]]] = {}
        for pixel in range(pixels):
            for kx in range(kw):
                uses.setdefault(pixel * sx + kx * dx, []).append((pixel, kx))
        with f.loop(row.first, row.stop) as ky:
            line = row.line(f, source, ky)
            w_line = f.at(weights, ky, kw * self.tap_weights)
            taps = [f.load(self.type, f.offset(w_line, kx * self.tap_weights)) for kx in range(kw)]
            for column in sorted(uses):
                value = f.load(self.type, self._column(line, column))
                for pixel, kx in uses[column]:
                    sums[pixel].set(f.fma(value, taps[kx], sums[pixel].get()))
        self._give(row, x, v, sums, mask)

    def _column(self, line: V, column: int) -> V:
        return self.f.offset(line, self.pixel * column if column else 0)

    def _single(self, row: Row, x: V, first: V, stop: V) -> None:
        """One output whose taps may lie outside the row, vectors [first, stop) of channels."""
        f, p, arg = self.f, self.problem, self.arg
        kw, sx, dx = p.kernel[1], p.strides[1], p.dilations[1]
        left = x * sx - arg["pad_left"]
        taps = f.smax((dx - 1 - left) / dx, 0), f.smin((arg["w"] - left + (dx - 1)) / dx, kw)
        whole = f.smin(stop, p.outputs // self.lanes) if self.ragged else stop
        rest = first + f.smax(whole - first, 0) / EDGE_VECTORS * EDGE_VECTORS
        with f.loop(first, rest, EDGE_VECTORS) as v:
            self._edge(row, x, v, EDGE_VECTORS, taps, None)
        with f.loop(rest, stop) as v:
            mask = f.iota("i32", self.lanes) < f.cast(p.outputs - v * self.lanes, "i32") if self.ragged else None
            self._edge(row, x, v, 1, taps, mask)

    def _edge(self, row: Row, x: V, v: V, vectors: int, taps: tuple[V, V], mask: V | None) -> None:
        """One output of `vectors` vectors of channels from v on: the taps [taps[0], taps[1]) of each row."""
        f, p = self.f, self.problem
        sums = [f.var(self.type, 0.0) for _ in range(vectors)]
        pixel = f.offset(row.source, x * (self.pixel * p.strides[1]))
        source, weights = f.at(pixel, v, self.lanes * FLOAT), f.at(self.arg["weights"], v, self.lanes * FLOAT)
        with f.loop(row.first, row.stop) as ky:
            line = f.offset(source, ky * row.tap_bytes)
            w_line = f.at(weights, ky, p.kernel[1] * self.tap_weights)
            with f.loop(*taps) as kx:
                place, w_place = f.offset(line, kx * (self.pixel * p.dilations[1])), f.at(w_line, kx, self.tap_weights)
                for i, total in enumerate(sums):
                    here = f.offset(place, i * self.lanes * FLOAT)
                    value = f.load(self.type, here) if mask is None else f.masked_load(self.type, here, mask)
                    total.set(f.fma(value, f.load(self.type, f.offset(w_place, i * self.lanes * FLOAT)), total.get()))
        for i, total in enumerate(sums):
            self._give(row, x, v + i if i else v, [total], mask)

    def _give(self, row: Row, x: V, v: V, sums: list[Var], mask: V | None) -> None:
        column = v * self.lanes
        hook = getattr(self.sink, "begin", None)
        if hook is not None:
            hook(self.f, column, self.lanes, mask)
        for i, value in enumerate(sums):
            self.sink(self.f, value.get(), {**row.where, "x": x + i if i else x, "c": column}, self.lanes, mask)
