"""Dense and grouped 2-D convolution on AMX tiles: channels-last float32 activations, results given to a sink.

A strip of output rows at a time: the input rows it needs are split into bfloat16 planes in the thread's scratch
(kernels.amx_block says how products of planes make a float32 product), with the padding as zeros. Pixels whose rows and
columns have the same remainder by the strides lie together (a "phase"), so neighbouring outputs read neighbouring pixels
whatever the stride, and a filter tap is an address offset:

    [plane][group, block of 32 channels][phase of rows][phase of columns][row][pixel][32]

A row has room for the filter's reach, so a tile may also run on from one row into the next: its outputs in between are
computed and not given ("flat" runs), which wastes less than a partial tile at the end of every row where rows are short.
1-D convolution is the case h = oh = 1. The argument words are those of kernels.conv.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hasten.base.dims import DimLike, maximum
from hasten.codegen.builder import Function, V
from hasten.codegen.isa import Isa
from hasten.kernels import amx_block, tile
from hasten.kernels.amx_block import PLANES, SLACK_BYTES, Blocks, Right, Splitter, Strip, Sum
from hasten.kernels.amx_packing import COLUMNS, STEP, pack_tiles
from hasten.kernels.amx_tile import ROW_BYTES, ROWS, Tiles
from hasten.kernels.conv import ConvProblem
from hasten.kernels.moves import FLOAT
from hasten.kernels.packing import filter_matrix
from hasten.kernels.tile import Epilogue, Sink

STRIP_BYTES = 512 << 10  # of the planes: a share of the second level cache


@dataclass(frozen=True)
class _Axis:
    """How one spatial axis of the input is cut: `phases` remainders by the stride, `reach` further rows of each."""

    kernel: int
    stride: int
    dilation: int

    @property
    def phases(self) -> int:
        return min(self.kernel, self.period)

    @property
    def period(self) -> int:
        """Taps whose positions differ by a multiple of the stride: every period-th."""
        return self.stride // math.gcd(self.dilation, self.stride)

    @property
    def reach(self) -> int:
        return (self.kernel - 1) * self.dilation // self.stride


@dataclass(frozen=True)
class _Layout:
    y: _Axis
    x: _Axis
    steps: int  # blocks of 32 channels of a group
    blocks: int  # of all groups
    columns: int  # tiles of a panel
    panels: int  # of a group
    flat: bool

    @property
    def phases(self) -> int:
        return self.y.phases * self.x.phases


def _layout(problem: ConvProblem) -> _Layout:
    y, x = (_Axis(problem.kernel[i], problem.strides[i], problem.dilations[i]) for i in (0, 1))
    steps = -(-problem.group_channels // STEP)
    columns = amx_block.column_tiles(problem.group_outputs)
    panels = -(-problem.group_outputs // (columns * COLUMNS))
    return _Layout(y, x, steps, steps * problem.group, columns, panels, _runs_on(problem.ow, x.reach))


def _runs_on(ow: int | None, reach: int) -> bool:
    """Whether tiles run on from row to row: where the pixels between rows cost less than a partial tile in each."""
    if ow is None:
        return reach <= ROWS // 4
    return ow + reach <= -(-ow // ROWS) * ROWS


def pixels_used(problem: ConvProblem, oh: int | None) -> float:
    """Share of the computed pixels that are outputs, for sizes as far as they are known."""
    if problem.ow is None:
        return 1.0
    layout = _layout(problem)
    if not layout.flat:
        return problem.ow / (-(-problem.ow // ROWS) * ROWS)
    rows = oh if oh is not None else ROWS
    run = (rows - 1) * (problem.ow + layout.x.reach) + problem.ow
    return rows * problem.ow / (-(-run // ROWS) * ROWS)


def pack_amx_conv_weights(problem: ConvProblem, products: int, w: np.ndarray) -> np.ndarray:
    """Filters [O, C / group, kh, kw] float32, finite -> [group, panels, kh * kw, steps, planes, tiles, 16, 16, 2] as
    uint16."""
    matrix = filter_matrix(np.asarray(w, np.float32), problem.group)
    taps = matrix.reshape(problem.group, problem.taps, problem.group_channels, problem.group_outputs)
    return pack_tiles(taps, PLANES[products], _layout(problem).columns)


def _row_bytes(layout: _Layout, ow: DimLike) -> DimLike:
    """Of one row of the strip in one plane, all blocks and phases."""
    return (ow + layout.x.reach) * (layout.blocks * layout.phases * ROW_BYTES)


def _plane_budget(products: int) -> int:
    return STRIP_BYTES // PLANES[products] // ROW_BYTES * ROW_BYTES


def amx_conv_scratch_bytes(problem: ConvProblem, products: int, ow: DimLike) -> DimLike:
    """Bytes of scratch for each thread (64-byte aligned)."""
    layout = _layout(problem)
    plane = maximum(_row_bytes(layout, ow) * (layout.y.reach + 1), _plane_budget(products))
    return plane * amx_block.stored_planes(products) + SLACK_BYTES


def emit_amx_conv(
    f: Function,
    problem: ConvProblem,
    products: int,
    isa: Isa,
    arg: Mapping[str, V],
    thread: V,
    threads: V,
    sink: Sink,
) -> None:
    """Emit the convolution into `f`, whose argument words (kernels.conv.CONV_ARGS) are loaded as arg[name].

    Channels of a pixel are contiguous. The sink sees indices n, y, x, c.
    """
    assert problem.unit_channels, "the tiles read the channels of a pixel as they lie"
    _Conv(f, problem, products, isa, arg, sink).emit(thread, threads)


class _Conv:
    def __init__(self, f: Function, problem: ConvProblem, products: int, isa: Isa, arg: Mapping[str, V], sink: Sink):
        self.f, self.problem, self.products, self.isa, self.arg, self.sink = f, problem, products, isa, arg, sink
        self.layout = _layout(problem)
        self.ow: int | V = problem.ow if problem.ow is not None else arg["ow"]
        self.pixels = f.coerce(self.ow + self.layout.x.reach, "i64")  # of a row of the strip

    def emit(self, thread: V, threads: V) -> None:
        """This thread's rows of all images x panels of all groups, a strip of rows at a time."""
        f, arg, layout = self.f, self.arg, self.layout
        tiles = Tiles(f, self.isa)
        self.blocks = Blocks(f, self.isa, tiles, self.products, layout.columns, Right(PLANES[self.products]))
        panels = f.const("i64", layout.panels * self.problem.group)
        rows, columns = tile.split_work(f, thread, threads, arg["n"] * arg["oh"], panels)
        row_bytes = self.pixels * (layout.blocks * layout.phases * ROW_BYTES)
        most = f.smax(_plane_budget(self.products) / f.smax(row_bytes, 1) - layout.y.reach, 1)
        most = f.smin(most, f.smax(arg["oh"], 1))
        self.height = most + layout.y.reach
        block_bytes = self.height * self.pixels * (layout.phases * ROW_BYTES)
        strip = Strip(arg["scratch"], block_bytes * layout.blocks, block_bytes)
        table = self._tap_table()
        copy = _Copy(self, strip)
        position = f.var("i64", rows[0])
        with f.forever() as loop:
            now = position.get()
            loop.break_if(now >= rows[1])
            image = now / arg["oh"]
            y = now - image * arg["oh"]
            count = f.smin(f.smin(arg["oh"] - y, rows[1] - now), most)
            copy.emit(f.at(arg["x"], image * arg["xs_n"], FLOAT), y, count)
            self._panels(strip, table, image, y, count, columns)
            position.set(now + count)
        tiles.release()

    def _tap_table(self) -> V | None:
        """Offsets of all taps in bytes, filled once a call; None for a single tap."""
        f, (kh, kw), y_axis, x_axis = self.f, self.problem.kernel, self.layout.y, self.layout.x
        if self.problem.taps == 1:
            return None
        table = f.alloca(self.problem.taps * 8)
        with f.loop(0, kh) as ky, f.loop(0, kw) as kx:
            phase = (ky % y_axis.period) * x_axis.phases + kx % x_axis.period
            row = phase * self.height + ky * y_axis.dilation / y_axis.stride
            pixel = row * self.pixels + kx * x_axis.dilation / x_axis.stride
            f.store(pixel * ROW_BYTES, f.at(table, ky * kw + kx, 8))
        return table

    def _panels(self, strip: Strip, table: V | None, image: V, y: V, count: V, columns: tuple[V, V]) -> None:
        """`count` output rows from y on by this thread's panels."""
        f, p, layout = self.f, self.problem, self.layout
        total = Sum(layout.steps, p.taps, table)
        with f.loop(columns[0], columns[1]) as unit:
            b = f.at(self.arg["weights"], unit, p.taps * layout.steps * self.blocks.step_bytes)
            group = unit / layout.panels if p.group > 1 else f.const("i64", 0)
            column = (unit - group * layout.panels) * (layout.columns * COLUMNS)
            first = f.offset(strip.base, strip.block_bytes * (group * layout.steps)) if p.group > 1 else strip.base
            here = Strip(first, strip.plane_bytes, strip.block_bytes, strip.special)
            base = group * p.group_outputs if p.group > 1 else None

            def give(buffer: V, row: V, pixel: V, start: V | int, stop: V) -> None:
                where = {"n": image, "y": y + row}
                epilogue = Epilogue(f, self.sink, "x", "c", where, p.group_outputs, base)  # noqa: B023
                epilogue.looped(self.blocks.shape, buffer, pixel - start, start, stop, column)  # noqa: B023

            self._runs(here, total, b, count, give)

    def _runs(self, strip: Strip, total: Sum, b: V, count: V, give: Callable[[V, V, V, V | int, V], None]) -> None:
        """`count` rows by one panel; `give(buffer, row, pixel, start, stop)`: pixels [start, stop) of the buffer, of which
        the first is `pixel` of output row `row`."""
        f = self.f
        if self.layout.flat:
            length = (count - 1) * self.pixels + self.ow

            def segments(buffer: V, start: V, n: V) -> None:
                done = f.var("i64", 0)
                with f.forever() as loop:
                    now = done.get()
                    loop.break_if(now >= n)
                    row = (start + now) / self.pixels
                    pixel = start + now - row * self.pixels
                    give(buffer, row, pixel, now, f.smin(now + (self.ow - pixel), n))
                    done.set(now + (self.pixels - pixel))

            self.blocks.run(strip, total, f.const("i64", 0), length, b, segments)
            return
        with f.loop(0, count) as i:

            def row_part(buffer: V, start: V, n: V) -> None:
                give(buffer, i, start, 0, n)

            self.blocks.run(strip, total, i * self.pixels, f.coerce(self.ow, "i64"), b, row_part)


class _Copy:
    """Splits the input rows of a strip into its planes, zeros where the padding is."""

    def __init__(self, conv: _Conv, strip: Strip):
        self.f, self.conv, self.strip = conv.f, conv, strip
        self.splitter = Splitter(conv.f, conv.isa, conv.products)

    def emit(self, x: V, y: V, count: V) -> None:
        """The input rows of output rows y, y + 1, ..., y + count - 1; settles strip.special."""
        self.splitter.forget()
        self._planes(x, y, count, whole=False)
        if self.conv.products > 1:
            self.strip.special = self.splitter.special()
            with self.f.when(self.strip.special):
                self._planes(x, y, count, whole=True)

    def _planes(self, x: V, y: V, count: V, whole: bool) -> None:
        f, conv, layout, arg = self.f, self.conv, self.conv.layout, self.conv.arg
        base = self.strip.base
        if whole:
            base = f.offset(base, self.strip.plane_bytes * PLANES[conv.products])
        y_axis, x_axis = layout.y, layout.x
        row_bytes = conv.pixels * ROW_BYTES
        with f.loop(0, y_axis.phases) as py, f.loop(0, count + y_axis.reach) as j:
            iy = (y + j) * y_axis.stride + py * y_axis.dilation % y_axis.stride - arg["pad_top"]
            with f.loop(0, x_axis.phases) as px:
                row = f.offset(base, ((py * x_axis.phases + px) * conv.height + j) * row_bytes)
                with f.either(iy.ult(arg["h"])) as outside:
                    source = f.at(x, iy * arg["xs_y"], FLOAT)
                    self._row(row, source, px * x_axis.dilation % x_axis.stride, whole)
                    outside.otherwise()
                    self._blocks(lambda block, _g, _s: self._zeros(block, row, f.const("i64", 0), conv.pixels, whole))  # noqa: B023

    def _row(self, row: V, source: V, phase: V, whole: bool) -> None:
        """Pixel q of a row is input column q * stride + phase - pad_left."""
        f, arg, stride = self.f, self.conv.arg, self.conv.layout.x.stride
        shift = arg["pad_left"] - phase
        begin = f.smax(f.smin((shift + (stride - 1)) / stride, self.conv.pixels), 0)
        stop = f.smax(f.smin((arg["w"] + shift + (stride - 1)) / stride, self.conv.pixels), begin)

        def block(number: V, first: V, count: int) -> None:
            self._zeros(number, row, f.const("i64", 0), begin, whole)
            line = f.offset(row, self.strip.block_bytes * number)
            with f.loop(begin, stop) as q:
                pixel = (q * stride - shift) * arg["xs_x"] + first
                values = amx_block.load_step(f, f.at(source, pixel, FLOAT), count)
                place = f.at(line, q, ROW_BYTES)
                amx_block.store_step(f, self.splitter, values, place, self.strip.plane_bytes, whole)
            self._zeros(number, row, stop, self.conv.pixels, whole)

        self._blocks(block)

    def _blocks(self, body: Callable[[V, V, int], None]) -> None:
        """body(number of the block, its first channel, how many) for all blocks of all groups."""
        f, p, steps = self.f, self.conv.problem, self.conv.layout.steps
        full, rest = divmod(p.group_channels, STEP)
        with f.loop(0, p.group) as g:
            if full:
                with f.loop(0, full) as c:
                    body(g * steps + c, g * p.group_channels + c * STEP, STEP)
            if rest:
                body(g * steps + full, g * p.group_channels + full * STEP, rest)

    def _zeros(self, block: V, row: V, begin: V, stop: V, whole: bool) -> None:
        f = self.f
        line = f.offset(row, self.strip.block_bytes * block)
        with f.loop(begin, stop) as q:
            place = f.at(line, q, ROW_BYTES)
            for plane in range(1 if whole else PLANES[self.conv.products]):
                zero = f.const("<32 x i16>", 0)
                f.store(zero, f.offset(place, self.strip.plane_bytes * plane) if plane else place, ROW_BYTES)
