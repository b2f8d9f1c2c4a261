"""Winograd convolution of channels-last float32 activations with stride 1: fewer products than outputs times taps.

Tiles of m_y x m_x outputs, F(m_y, kh) nested with F(m_x, kw) (winograd_matrices), a strip of tiles at a time:

    V[point][tile][channel]   the transformed inputs of the strip, in the thread's scratch
    U[point][channel][column] the transformed filters of a panel of outputs, for a block of channels and a few points at a time
    M[point][tile][column]    V[point] times U[point], by the register tile of all products
    outputs                   the transformed M, given to the sink

Filters are transformed where they are used, because they are smaller before: 9 numbers for each pair of channels instead of the 36 of
F(4x4, 3x3). The model needs no more memory than with direct convolution, and four times fewer bytes are read where the filters
come from memory, which costs about what the transformation does: the work of four to six tiles for each strip. The filters of the next
block are asked for while this one is multiplied.

Pixels outside the image are read from a row of zeros. Sizes, padding and strides (elements) are run-time words; what the filter
is, is static. 1-D convolution is the case h = oh = 1 of a filter with one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hasten.codegen.builder import Function, V, Var, vector
from hasten.codegen.isa import Isa
from hasten.kernels import moves, tile
from hasten.kernels.conv import CONV_ARGS, PAD
from hasten.kernels.moves import FLOAT
from hasten.kernels.packing import pack_panels
from hasten.kernels.tile import Epilogue, Plan, Rows, Shape, Sink
from hasten.kernels.winograd_matrices import Algorithm, algorithm
from hasten.kernels.winograd_transform import nested

WINOGRAD_ARGS = CONV_ARGS
INPUT_BYTES = 256 << 10  # of transformed inputs that are a share of the second level cache
STRIP_TILES = 56  # of a strip at least, where there are so many: filters are transformed once for each strip
FEW_TILES = 112  # with fewer, register tiles are chosen to fit their number
LINE = 64


@dataclass(frozen=True)
class WinogradProblem:
    """What is known when the kernel is made: filters [outputs, channels, kernel], outputs of a tile, how many tiles an image has and
    how many images a call where that is known (chooses register tiles and scratch that fit; others are correct too), and xs_x where
    known."""

    channels: int
    outputs: int
    kernel: tuple[int, int]
    outputs_of_tile: tuple[int, int]
    tiles: int | None = None
    images: int | None = None
    pixel_stride: int | None = None

    @property
    def all_tiles(self) -> int | None:
        return None if self.tiles is None or self.images is None else self.tiles * self.images

    @property
    def algorithms(self) -> tuple[Algorithm, Algorithm]:
        return algorithm(self.outputs_of_tile[0], self.kernel[0]), algorithm(self.outputs_of_tile[1], self.kernel[1])

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def block(self) -> int:
        """Channels that are added up by themselves: sums of such sums have smaller errors than one long sum. About the square root of
        the channels, and few enough for a panel's filters and their transformation to stay in the first level cache."""
        return min(self.channels, 16 if self.channels <= 128 else 32)

    @property
    def points(self) -> int:
        y, x = self.algorithms
        return y.n * x.n

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Rows of the filters' vertical transformation that are made together: those of points a and -a share their sums, those of 0 and
        infinity read one tap each."""
        n = self.algorithms[0].n
        return [(0, n - 1), *(tuple(range(k, min(k + 2, n - 1))) for k in range(1, n - 1, 2))] if n > 1 else [(0,)]

    @property
    def group_points(self) -> int:
        return max(map(len, self.groups)) * self.algorithms[1].n


@dataclass(frozen=True)
class Layout:
    """Of the scratch: tiles of a strip; bytes between the tiles of V, between its blocks of channels, between its points, between
    the points of M, and between those of U."""

    plan: Plan
    tiles: int
    row_bytes: int
    block_bytes: int
    input_bytes: int
    product_bytes: int
    filter_bytes: int


def layout(problem: WinogradProblem, isa: Isa) -> Layout:
    """How the scratch is laid out."""
    lanes = isa.lanes(32)
    plan = _plan(problem, isa)
    most, channels, block = plan.rows[0], problem.channels, problem.block
    fitting = INPUT_BYTES // (problem.points * channels * FLOAT)
    wanted = max(fitting, STRIP_TILES)
    tiles = -(-(wanted if problem.all_tiles is None else min(wanted, problem.all_tiles)) // most) * most
    products, filters = _odd_lines(tiles * plan.width * FLOAT), _odd_lines(block * plan.width * FLOAT)
    if tiles > fitting and channels % lanes == block % lanes == 0:  # what a product reads from memory is contiguous
        inputs = _odd_lines(tiles * -(-channels // block) * block * FLOAT)
        return Layout(plan, tiles, block * FLOAT, tiles * block * FLOAT, inputs, products, filters)
    pitch = channels + PAD if tile.aliases(channels * FLOAT, most) else channels
    return Layout(plan, tiles, pitch * FLOAT, block * FLOAT, _odd_lines(tiles * pitch * FLOAT), products, filters)


def _plan(problem: WinogradProblem, isa: Isa) -> Plan:
    """Register tiles: with narrow panels (see `block`), of sizes that fit few tiles, else of several, for the tiles that remain. All add up in one
    order: which one computes a tile depends on how threads share the work, and bits must not."""
    likely = None if problem.tiles is None else problem.tiles * (problem.images or 1)
    few = likely is not None and likely <= FEW_TILES
    plan = tile.plan(isa, min(problem.outputs, LINE // FLOAT), likely if few else None, slack=True)
    most = plan.rows[0]
    rows = plan.rows if few else tuple(dict.fromkeys(-(-most // part) for part in (1, 2, 4, 8)))
    return replace(plan, rows=tuple(r for r in rows if Shape(r, plan.vectors, plan.lanes).splits == plan.shapes[0].splits))


def _odd_lines(count: int) -> int:
    """Bytes rounded up to an odd number of cache lines: the points of a tile then lie in different sets."""
    return (-(-count // LINE) | 1) * LINE


def pack_winograd_weights(problem: WinogradProblem, isa: Isa, w: np.ndarray) -> np.ndarray:
    """Filters [O, C, kh, kw] float32 -> [panels, C, taps, width] float32."""
    taps = np.asarray(w, np.float32).reshape(problem.outputs, problem.channels, -1).transpose(1, 2, 0)
    return np.ascontiguousarray(pack_panels(taps, layout(problem, isa).plan.width).swapaxes(0, 1))


def winograd_scratch_bytes(problem: WinogradProblem, isa: Isa) -> int:
    """Bytes of scratch for each thread (64-byte aligned)."""
    of = layout(problem, isa)
    return problem.points * (of.input_bytes + of.product_bytes) + problem.group_points * of.filter_bytes + _odd_lines(problem.channels * FLOAT)


def emit_winograd(
    f: Function, problem: WinogradProblem, isa: Isa, arg: Mapping[str, V], thread: V, threads: V, sink: Sink
) -> None:
    """Emit the convolution into `f`, whose argument words are loaded as arg[name]. The sink sees indices n, y, x, c."""
    _Winograd(f, problem, isa, arg, sink).emit(thread, threads)


class _Winograd:
    def __init__(self, f: Function, problem: WinogradProblem, isa: Isa, arg: Mapping[str, V], sink: Sink):
        self.f, self.problem, self.isa, self.arg, self.sink = f, problem, isa, arg, sink
        self.layout = layout(problem, isa)
        self.plan = self.layout.plan
        self.inputs = arg["scratch"]
        self.products = f.offset(self.inputs, problem.points * self.layout.input_bytes)
        self.filters = f.offset(self.products, problem.points * self.layout.product_bytes)
        self.zeros = f.offset(self.filters, problem.group_points * self.layout.filter_bytes)
        self.table = self._table()
        my, mx = problem.outputs_of_tile
        self.across = (arg["ow"] + (mx - 1)) / mx
        self.of_image = self.across * ((arg["oh"] + (my - 1)) / my)

    def emit(self, thread: V, threads: V) -> None:
        """This thread's tiles of all images x panels, a strip of tiles at a time."""
        f, p = self.f, self.problem
        panels = f.const("i64", -(-p.outputs // self.plan.width))
        all_tiles = self.arg["n"] * self.of_image
        tiles, columns = tile.split_work(f, thread, threads, all_tiles, panels, all_tiles < p.outputs)  # what is transformed twice is less
        moves.zero_floats(f, self.isa, self.zeros, f.const("i64", p.channels))
        count = tiles[1] - tiles[0]
        strips = f.smax((count + (self.layout.tiles - 1)) / self.layout.tiles, 1)
        most, full = self.plan.rows[0], (count + (strips - 1)) / strips
        step = f.smax((full + (most - 1)) / most * most, 1)
        with f.loop(tiles[0], tiles[1], step) as first:
            stop = f.smin(first + step, tiles[1])
            with f.loop(first, stop) as t:
                _Patch(self, *self._position(t)).transform(f.at(self.inputs, t - first, self.layout.row_bytes))
            with f.loop(columns[0], columns[1]) as panel:
                self._multiply(panel, stop - first)
                with f.loop(first, stop) as t:
                    self._outputs(self._position(t), t - first, panel * self.plan.width)

    def _position(self, t: V) -> tuple[V, V, V]:
        """Image, first row and first column of the outputs of tile t."""
        image = t / self.of_image
        rest = t - image * self.of_image
        row = rest / self.across
        my, mx = self.problem.outputs_of_tile
        return image, row * my, (rest - row * self.across) * mx

    def _multiply(self, panel: V, count: V) -> None:
        """M of all points: the strip's `count` tiles by one panel, a block of channels at a time."""
        f, p = self.f, self.problem
        channel_bytes = p.taps * self.plan.width * FLOAT
        weights = f.at(self.arg["weights"], panel, p.channels * channel_bytes)
        x, groups = p.algorithms[1].n, p.groups
        with f.loop(0, -(-p.channels // p.block)) as block, f.loop(0, len(groups)) as group:
            channel = block * p.block
            self._filters(group, f.at(weights, channel, channel_bytes), self._channels(channel))
            first, last = (f.load("i64", f.at(self.table, group + k, 8)) for k in (0, 1))
            with f.loop(first, last) as at, f.loop(0, x) as j:
                row = f.load("i64", f.at(self.table, at + (len(groups) + 1), 8))
                self._fetch(f.at(weights, channel + p.block, channel_bytes), at * x + j)
                self._product(row * x + j, block, f.at(self.filters, (at - first) * x + j, self.layout.filter_bytes), count)

    def _fetch(self, weights: V, turn: V) -> None:
        """Have a share of the weights of a block brought into the second level cache: one share for each point."""
        f, p = self.f, self.problem
        lines = -(-p.taps * p.block * self.plan.width * FLOAT // (LINE * p.points))
        first = f.at(weights, turn, lines * LINE)
        for line in range(lines):
            f.intrinsic("llvm.prefetch", "void", [f.offset(first, line * LINE), *(f.const("i32", k) for k in (0, 2, 1))], ["ptr"])

    def _channels(self, first: V) -> V | int:
        """How many channels the block that begins with `first` has."""
        f, p = self.f, self.problem
        return p.block if p.channels % p.block == 0 else f.smin(f.const("i64", p.channels) - first, p.block)

    def _table(self) -> V:
        """In memory: where each group of rows begins in the list of all, then that list."""
        f, groups = self.f, self.problem.groups
        starts = [sum(map(len, groups[:k])) for k in range(len(groups) + 1)]
        numbers = [*starts, *(row for group in groups for row in group)]
        table = f.alloca(len(numbers) * 8)
        for k, number in enumerate(numbers):
            f.store(f.const("i64", number), f.offset(table, k * 8))
        return table

    def _filters(self, group: V, weights: V, channels: V | int) -> None:
        """The rows of U that are of `group`, for a block of channels of a panel: weights and results fit the first level cache."""
        f = self.f
        for k, rows in enumerate(self.problem.groups):
            with f.when(group.eq(k)):
                self._group(rows, weights, channels)

    def _group(self, rows: tuple[int, ...], weights: V, channels: V | int) -> None:
        f, lanes, width = self.f, self.plan.lanes, self.plan.width
        type_, (kh, kw) = vector("float", lanes), self.problem.kernel
        y, x = self.problem.algorithms
        vertical = tuple(y.filter[row] for row in rows)
        with f.loop(0, channels) as c, f.loop(0, width, lanes) as column:
            source = f.at(f.at(weights, c, kh * kw * width * FLOAT), column, FLOAT)
            target = f.at(f.at(self.filters, c, width * FLOAT), column, FLOAT)

            def load(i: int, j: int) -> V:
                return f.load(type_, f.offset(source, (i * kw + j) * width * FLOAT), lanes * FLOAT)

            def store(i: int, j: int, value: V) -> None:
                f.store(value, f.offset(target, (i * x.n + j) * self.layout.filter_bytes), lanes * FLOAT)

            nested(f, vertical, x.filter, load, store)

    def _product(self, point: V, block: V, b: V, count: V) -> None:
        """M of one point: the strip's `count` tiles of a block of channels by the block's weights `b`."""
        f, layout = self.f, self.layout
        rows = f.at(f.at(self.inputs, point, layout.input_bytes), block, layout.block_bytes)
        products = f.at(self.products, point, layout.product_bytes)
        channel, now = block * self.problem.block, f.var("i64", 0)
        with f.forever() as loop:
            loop.break_if(now.get() >= count)
            self._largest(self.plan.shapes, count - now.get(), lambda shape: self._rows(shape, now, rows, b, products, channel))

    def _largest(self, shapes: Sequence[Shape], left: V, emit: Callable[[Shape], None]) -> None:
        """`emit` for the smallest shape that has a row for each of the tiles that are left, else for the largest."""
        if len(shapes) == 1:
            return emit(shapes[0])
        with self.f.either(left > shapes[1].rows) as fewer:
            emit(shapes[0])
            fewer.otherwise()
            self._largest(shapes[1:], left, emit)

    def _rows(self, shape: Shape, now: Var, rows: V, b: V, products: V, channel: V) -> None:
        """One register tile of products, added to those of earlier channels; `now` advances by its rows."""
        f, p, pitch, first = self.f, self.problem, self.layout.row_bytes, now.get()
        now.set(first + shape.rows)
        t = tile.Tile(f, shape)
        t.multiply(Rows(f.at(rows, first, pitch), pitch), b, self._channels(channel))
        place = f.at(products, first, shape.width * FLOAT)
        if p.block == p.channels:
            t.save(place)
            return
        fresh = channel.eq(0)
        for r, row in enumerate(t.results()):
            for v, value in enumerate(row):
                here = f.offset(place, (r * shape.vectors + v) * shape.lanes * FLOAT)
                before = f.load(t.type, here, shape.lanes * FLOAT)
                f.store(value + f.select(fresh, f.const(t.type, 0.0), before), here, shape.lanes * FLOAT)

    def _outputs(self, position: tuple[V, V, V], t: V, column: V) -> None:
        """The outputs of tile t (of the strip) in the panel whose first column is `column`."""
        f, arg, lanes, width = self.f, self.arg, self.plan.lanes, self.plan.width
        (my, mx), type_ = self.problem.outputs_of_tile, vector("float", self.plan.lanes)
        y, x = self.problem.algorithms
        buffer = f.alloca(my * mx * width * FLOAT)
        source = f.at(self.products, t, width * FLOAT)
        with f.loop(0, width, lanes) as c:
            here, target = f.at(source, c, FLOAT), f.at(buffer, c, FLOAT)

            def load(i: int, j: int) -> V:
                return f.load(type_, f.offset(here, (i * x.n + j) * self.layout.product_bytes), lanes * FLOAT)

            def store(i: int, j: int, value: V) -> None:
                f.store(value, f.offset(target, (i * mx + j) * width * FLOAT), lanes * FLOAT)

            nested(f, y.output, x.output, load, store)
        image, top, left = position
        shape = Shape(mx, self.plan.vectors, lanes)
        with f.loop(0, f.smin(arg["oh"] - top, my)) as i:
            epilogue = Epilogue(f, self.sink, "x", "c", {"n": image, "y": top + i}, self.problem.outputs)
            row = f.at(buffer, i, mx * width * FLOAT)
            epilogue.looped(shape, row, left, 0, f.smin(arg["ow"] - left, mx), column)


class _Patch:
    """The input pixels of a tile and their transformation."""

    def __init__(self, kernel: _Winograd, image: V, top: V, left: V):
        self.f, self.kernel, self.arg = kernel.f, kernel, kernel.arg
        self.y, self.x = kernel.problem.algorithms
        self.top, self.left = top - self.arg["pad_top"], left - self.arg["pad_left"]
        self.image = self.f.at(self.arg["x"], image * self.arg["xs_n"], FLOAT)
        stride = kernel.problem.pixel_stride
        self.pixel: V | int = self.arg["xs_x"] * FLOAT if stride is None else stride * FLOAT

    def transform(self, target: V) -> None:
        """V of this tile: point p at target + p * input_bytes."""
        f, arg = self.f, self.arg
        last_y, last_x = arg["h"] - self.y.n, arg["w"] - self.x.n
        inside = (self.top >= 0) & (self.top <= last_y) & (self.left >= 0) & (self.left <= last_x)
        with f.either(inside) as border:
            rows = self._rows()
            self._channels(target, lambda i, j: f.offset(rows[i], j * self.pixel if j else 0))
            border.otherwise()
            table = self._table()
            self._channels(target, lambda i, j: f.load("ptr", f.offset(table, (i * self.x.n + j) * 8), 8))

    def _rows(self) -> list[V]:
        f, arg = self.f, self.arg
        first = f.offset(f.at(self.image, self.top * arg["xs_y"], FLOAT), self.left * self.pixel)
        return [f.at(first, arg["xs_y"] * i, FLOAT) if i else first for i in range(self.y.n)]

    def _table(self) -> V:
        """The addresses of all pixels; those outside the image are the row of zeros."""
        f, arg = self.f, self.arg
        table = f.alloca(self.y.n * self.x.n * 8)
        with f.loop(0, self.y.n) as i:
            y = self.top + i
            row = f.at(self.image, y * arg["xs_y"], FLOAT)
            with f.loop(0, self.x.n) as j:
                x = self.left + j
                inside = y.ult(arg["h"]) & x.ult(arg["w"])
                place = f.select(inside, f.offset(row, x * self.pixel), self.kernel.zeros)
                f.store(place, f.at(table, i * self.x.n + j, 8), 8)
        return table

    def _channels(self, target: V, pixel: Callable[[int, int], V]) -> None:
        """Vectors of channels; the last one ends with the channels and may repeat some."""
        f, problem, layout, lanes = self.f, self.kernel.problem, self.kernel.layout, self.kernel.isa.lanes(32)
        channels = problem.channels
        while lanes > channels:
            lanes //= 2
        type_ = vector("float", lanes)
        with f.loop(0, channels, lanes) as at:
            c = f.smin(at, channels - lanes) if channels % lanes else at
            block = c / problem.block
            place = f.at(f.at(target, block, layout.block_bytes), c - block * problem.block, FLOAT)

            def load(i: int, j: int) -> V:
                return f.load(type_, f.at(pixel(i, j), c, FLOAT))

            def store(i: int, j: int, value: V) -> None:
                f.store(value, f.offset(place, (i * self.x.n + j) * layout.input_bytes))

            nested(f, self.y.input, self.x.input, load, store)
