"""Dense and grouped 2-D convolution of channels-last float32 activations, results given to a sink.

A strip of output rows at a time: the input rows it needs are copied to the thread's scratch with the padding as zeros,
so that every tap of the filter is a constant address offset and all tiles are alike. Where nothing is padded,
activations are read in place. 1-D convolution is the case h = oh = 1. Sizes, padding and strides (elements) are
run-time words; what the filter is, is static.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hasten.base.dims import DimLike, maximum
from hasten.codegen.builder import Function, V, vector
from hasten.codegen.isa import Isa
from hasten.kernels import moves, tile
from hasten.kernels.moves import FLOAT
from hasten.kernels.packing import filter_matrix, pack_panels
from hasten.kernels.tile import Blocks, Epilogue, Plan, Rows, Sink

STRIP_BYTES = 256 << 10  # of input rows in scratch: a share of the second level cache
PAD = 16  # elements added to a pixel pitch that aliases
MOST_PLANES = 4  # channels of an image that are interleaved in registers
SLACK_PIXELS = 32  # behind the strip: what the last tile of a row may read


@dataclass(frozen=True)
class ConvProblem:
    """What is known when the kernel is made.

    ow: output width where known (chooses tiles that fit it); it must then be exact. pixel_stride: xs_x where known.
    unit_channels: channels of a pixel are contiguous (else the word xs_c is their stride). padded: False promises that
    no tap of any output lies outside the input.
    """

    channels: int
    outputs: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    ow: int | None = None
    pixel_stride: int | None = None
    unit_channels: bool = True
    padded: bool = True

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def group_channels(self) -> int:
        return self.channels // self.group

    @property
    def group_outputs(self) -> int:
        return self.outputs // self.group


CONV_ARGS: tuple[tuple[str, str], ...] = (
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
    ("xs_c", "i64"),
)


def conv_args(problem: ConvProblem) -> tuple[tuple[str, str], ...]:
    """The template's argument words: buffers (scratch: this thread's own), sizes, padding, strides of x in elements."""
    return CONV_ARGS


@dataclass(frozen=True)
class _Layout:
    """What the template decided. `pitch`: elements between pixels of the strip; strides of the strip are 1 where only
    needed pixels are kept.
    """

    plan: Plan
    copies: bool
    pitch: int
    step_y: int
    step_x: int

    def halo(self, problem: ConvProblem) -> tuple[int, int]:
        """Rows and pixels that a filter reaches, less one."""
        (kh, kw), (dy, dx) = problem.kernel, problem.dilations
        return (kh - 1) * dy, (kw - 1) * dx


def _layout(problem: ConvProblem, isa: Isa) -> _Layout:
    c, (sy, sx) = problem.channels, problem.strides
    in_place = not problem.padded and problem.unit_channels and problem.pixel_stride is not None
    if in_place:
        pitch = problem.pixel_stride
        assert pitch is not None
        plan = tile.plan(isa, problem.group_outputs, problem.ow, slack=False)
        if not tile.aliases(pitch * sx * FLOAT, plan.rows[0]):
            return _Layout(plan, False, pitch, sy, sx)
    plan = tile.plan(isa, problem.group_outputs, problem.ow, slack=True)
    step_y = 1 if problem.kernel[0] == 1 else sy
    step_x = 1 if problem.kernel[1] == 1 else sx
    pitch = c + PAD if tile.aliases(c * step_x * FLOAT, plan.rows[0]) else c
    return _Layout(plan, True, pitch, step_y, step_x)


def pack_conv_weights(problem: ConvProblem, isa: Isa, w: np.ndarray) -> np.ndarray:
    """Filters [O, C / group, kh, kw] float32 -> [group, panels, kh * kw * C / group, width]."""
    matrix = filter_matrix(np.asarray(w, np.float32), problem.group)
    return pack_panels(matrix, _layout(problem, isa).plan.width)


def conv_operations(problem: ConvProblem, n: DimLike, oh: DimLike, ow: DimLike) -> DimLike:
    """Floating point operations (a multiplication and an addition count as two)."""
    return n * oh * ow * (2 * problem.outputs * problem.group_channels * problem.taps)


def conv_scratch_bytes(problem: ConvProblem, isa: Isa, h: DimLike, w: DimLike, oh: DimLike, ow: DimLike) -> DimLike:
    """Bytes of scratch for each thread (64-byte aligned)."""
    layout = _layout(problem, isa)
    if not layout.copies:
        return 0
    reach_y, reach_x = layout.halo(problem)
    row = (ow * layout.step_x + reach_x) * (layout.pitch * FLOAT)
    rows = maximum(row * (reach_y + 1), STRIP_BYTES)
    return rows + _slack_bytes(layout)


def _slack_bytes(layout: _Layout) -> int:
    return (SLACK_PIXELS * layout.step_x * layout.pitch * FLOAT + 63) // 64 * 64


def emit_conv(
    f: Function, problem: ConvProblem, isa: Isa, arg: Mapping[str, V], thread: V, threads: V, sink: Sink
) -> None:
    """Emit the convolution into `f`, whose argument words are loaded as arg[name]. The sink sees indices n, y, x, c."""
    _Conv(f, problem, isa, arg, sink).emit(thread, threads)


class _Conv:
    def __init__(self, f: Function, problem: ConvProblem, isa: Isa, arg: Mapping[str, V], sink: Sink):
        self.f, self.problem, self.isa, self.arg, self.sink = f, problem, isa, arg, sink
        self.layout = _layout(problem, isa)
        self.plan = self.layout.plan
        self.panels = -(-problem.group_outputs // self.plan.width)
        self.ow: int | V = problem.ow if problem.ow is not None else arg["ow"]

    def emit(self, thread: V, threads: V) -> None:
        """This thread's rows of all images x panels of all groups, a strip of rows at a time."""
        f, arg = self.f, self.arg
        panels = f.const("i64", self.panels * self.problem.group)
        rows, columns = tile.split_work(f, thread, threads, arg["n"] * arg["oh"], panels)
        row_bytes, strip, most = self._geometry()
        position = f.var("i64", rows[0])
        with f.forever() as loop:
            now = position.get()
            loop.break_if(now >= rows[1])
            image = now / arg["oh"]
            y = now - image * arg["oh"]
            count = f.smin(arg["oh"] - y, rows[1] - now)
            if most is not None:
                count = f.smin(count, most)
            x = f.at(arg["x"], image * arg["xs_n"], FLOAT)
            if strip is None:
                source = f.at(x, y * self.problem.strides[0] * arg["xs_y"], FLOAT)
            else:
                _Strip(self, x, strip, row_bytes).copy(y, count)
                source = strip
            self._strip(source, row_bytes, image, y, count, columns)
            position.set(now + count)

    def _geometry(self) -> tuple[V, V | None, V | None]:
        """Bytes between input rows of the strip, the scratch (None: in place), the most output rows of a strip."""
        f, layout = self.f, self.layout
        if not layout.copies:
            return self.arg["xs_y"] * FLOAT, None, None
        reach_y, reach_x = layout.halo(self.problem)
        row_bytes = (f.coerce(self.ow, "i64") * layout.step_x + reach_x) * (layout.pitch * FLOAT)
        most = (STRIP_BYTES / f.smax(row_bytes, 1) - (reach_y + 1)) / layout.step_y + 1
        return row_bytes, self.arg["scratch"], f.smax(most, 1)

    def _strip(self, source: V, row_bytes: V, image: V, y: V, count: V, columns: tuple[V, V]) -> None:
        """`count` output rows from y on, whose input begins at `source`, by this thread's panels."""
        f, p = self.f, self.problem
        steps = p.taps * p.group_channels
        whole = p.ow is not None and p.ow % self.plan.rows[0] == 0
        walk = Blocks(self.plan, self.ow, not self.layout.copies, tile.unrolls(self.sink, steps), whole)
        with f.loop(columns[0], columns[1]) as unit:
            b = f.at(self.arg["weights"], unit, steps * self.plan.width * FLOAT)
            group = unit / self.panels if p.group > 1 else f.const("i64", 0)
            column = (unit - group * self.panels) * self.plan.width
            first = f.at(source, group, p.group_channels * FLOAT)
            with f.loop(0, count) as i:
                where = {"n": image, "y": y + i}
                base = group * p.group_outputs if p.group > 1 else None
                epilogue = Epilogue(f, self.sink, "x", "c", where, p.group_outputs, base)
                row = f.offset(first, i * row_bytes * self.layout.step_y)

                def compute(t: tile.Tile, start: V) -> None:
                    left = f.at(row, start, self.layout.step_x * self.layout.pitch * FLOAT)  # noqa: B023
                    self._taps(t, left, row_bytes, b)  # noqa: B023

                tile.emit_blocks(f, walk, column, compute, epilogue)

    def _taps(self, t: tile.Tile, a: V, row_bytes: V, b: V) -> None:
        """The sum over the filter: taps that are neighbours in memory make one run."""
        f, p, layout = self.f, self.problem, self.layout
        (kh, kw), (dy, dx) = p.kernel, p.dilations
        run, runs = p.group_channels, kw
        if kw == 1 or (dx == 1 and p.group == 1 and layout.pitch == p.channels):
            run, runs = run * kw, 1
        step = layout.step_x * layout.pitch * FLOAT
        for_y = f.loop(0, kh)
        with for_y as ky:
            a_row = f.offset(a, ky * row_bytes * dy)
            b_row = f.at(b, ky, kw * p.group_channels * t.shape.width * FLOAT)
            if runs == 1:
                t.multiply(Rows(a_row, step), b_row, run)
            else:
                with f.loop(0, runs) as kx:
                    a_tap = f.at(a_row, kx, dx * layout.pitch * FLOAT)
                    t.multiply(Rows(a_tap, step), f.at(b_row, kx, run * t.shape.width * FLOAT), run)


class _Strip:
    """Copies input rows to scratch: [row][pixel][pitch], zeros where the padding is."""

    def __init__(self, conv: _Conv, x: V, scratch: V, row_bytes: V):
        self.f, self.conv, self.x, self.scratch, self.row_bytes = conv.f, conv, x, scratch, row_bytes
        p, layout = conv.problem, conv.layout
        self.every_y = p.strides[0] if layout.step_y != p.strides[0] else 1  # input rows from one kept row to the next
        self.every_x = p.strides[1] if layout.step_x != p.strides[1] else 1

    def copy(self, y: V, count: V) -> None:
        """The input rows of output rows y, y + 1, ..., y + count - 1."""
        f, arg, p, layout = self.f, self.conv.arg, self.conv.problem, self.conv.layout
        reach_y, reach_x = layout.halo(p)
        pixels = (f.coerce(self.conv.ow, "i64") - 1) * layout.step_x + reach_x + 1
        begin = f.smax(f.smin((arg["pad_left"] + (self.every_x - 1)) / self.every_x, pixels), 0)
        stop = (arg["w"] + arg["pad_left"] + (self.every_x - 1)) / self.every_x
        stop = f.smax(f.smin(stop, pixels), begin)
        top = y * p.strides[0] - arg["pad_top"]
        with f.loop(0, (count - 1) * layout.step_y + (reach_y + 1)) as j:
            iy = top + j * self.every_y
            target = f.offset(self.scratch, j * self.row_bytes)
            with f.either(iy.ult(arg["h"])) as outside:
                self._zeros(target, f.const("i64", 0), begin)
                source = f.at(self.x, iy * arg["xs_y"], FLOAT)
                self._pixels(target, source, begin, stop)
                self._zeros(target, stop, pixels)
                outside.otherwise()
                self._zeros(target, f.const("i64", 0), pixels)

    def _zeros(self, target: V, begin: V, stop: V) -> None:
        pitch = self.conv.layout.pitch
        moves.zero_floats(self.f, self.conv.isa, self.f.at(target, begin, pitch * FLOAT), (stop - begin) * pitch)

    def _pixels(self, target: V, source: V, begin: V, stop: V) -> None:
        """Pixels [begin, stop) of a row; pixel q is input column q * every_x - pad_left."""
        f, arg, p, pitch = self.f, self.conv.arg, self.conv.problem, self.conv.layout.pitch
        stride: V | int = p.pixel_stride if p.pixel_stride is not None else arg["xs_x"]
        if p.unit_channels and self.every_x == 1 and pitch == p.channels == stride:
            first = f.at(source, begin - arg["pad_left"], pitch * FLOAT)
            moves.copy_floats(f, self.conv.isa, f.at(target, begin, pitch * FLOAT), first, (stop - begin) * pitch)
            return
        if not p.unit_channels and stride == self.every_x == 1 and pitch == p.channels <= MOST_PLANES:
            begin = self._planes(target, source, begin, stop)
        with f.loop(begin, stop) as q:
            column = q * self.every_x - arg["pad_left"]
            pixel = f.at(source, column * stride, FLOAT)
            place = f.at(target, q, pitch * FLOAT)
            if p.unit_channels:
                moves.copy_floats(f, self.conv.isa, place, pixel, p.channels)
            else:
                with f.loop(0, p.channels) as c:
                    f.store(f.load("float", f.at(pixel, c * arg["xs_c"], FLOAT)), f.at(place, c, FLOAT))

    def _planes(self, target: V, source: V, begin: V, stop: V) -> V:
        """Whole vectors of pixels from channel planes (NCHW images); returns the first pixel left over."""
        f, arg, lanes, channels = self.f, self.conv.arg, self.conv.isa.lanes(32), self.conv.problem.channels
        t = vector("float", lanes)
        last = stop - (stop - begin) % lanes
        with f.loop(begin, last, lanes) as q:
            first = f.at(source, q - arg["pad_left"], FLOAT)
            planes = [f.load(t, f.at(first, arg["xs_c"] * c, FLOAT)) for c in range(channels)]
            place = f.at(target, q, channels * FLOAT)
            for i, value in enumerate(moves.interleave(f, planes)):
                f.store(value, f.offset(place, i * lanes * FLOAT))
        return last
