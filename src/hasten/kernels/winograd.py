"""Winograd convolution of channels-last float32 activations with stride 1: fewer products than outputs times taps.

Tiles of m_y x m_x outputs, F(m_y, kh) nested with F(m_x, kw) (winograd_matrices), a strip of tiles at a time:

    V[point][tile][channel]   the transformed inputs of the strip, in the thread's scratch: a share of the second level cache
    M[point][tile][column]    V[point] times a panel of U[point], the transformed weights, by the register tile of all products
    outputs                   the transformed M, given to the sink

Pixels outside the image are read from a row of zeros. Sizes, padding and strides (elements) are run-time words; what the filter
is, is static. 1-D convolution is the case h = oh = 1 of a filter with one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
INPUT_BYTES = 256 << 10  # of transformed inputs in scratch: a share of the second level cache
LEAST_TILES = 14  # of a strip that fits the cache: every weight that is read serves so many tiles
MANY_TILES = 28  # of a strip that does not
FEW_TILES = 112  # with fewer, register tiles are chosen to fit their number
LINE = 64


@dataclass(frozen=True)
class WinogradProblem:
    """What is known when the kernel is made: filters [outputs, channels, kernel], outputs of a tile, how many tiles a call has
    where that is known (chooses register tiles that fit; others are correct too), and xs_x where known."""

    channels: int
    outputs: int
    kernel: tuple[int, int]
    outputs_of_tile: tuple[int, int]
    tiles: int | None = None
    pixel_stride: int | None = None

    @property
    def algorithms(self) -> tuple[Algorithm, Algorithm]:
        return algorithm(self.outputs_of_tile[0], self.kernel[0]), algorithm(self.outputs_of_tile[1], self.kernel[1])

    @property
    def block(self) -> int:
        """Channels that are added up by themselves: sums of such sums have smaller errors than one long sum."""
        return min(self.channels, 16 if self.channels <= 128 else 32)  # about the square root of the channels, and enough to be quick

    @property
    def points(self) -> int:
        y, x = self.algorithms
        return y.n * x.n


@dataclass(frozen=True)
class Layout:
    """Of the scratch: tiles of a strip; bytes between the tiles of V, between its blocks of channels, between its points, and between
    the points of M."""

    plan: Plan
    tiles: int
    row_bytes: int
    block_bytes: int
    input_bytes: int
    product_bytes: int


def layout(problem: WinogradProblem, isa: Isa) -> Layout:
    """How the scratch is laid out."""
    plan = tile.plan(isa, problem.outputs, _rows(problem), slack=True)
    most, channels, block = plan.rows[0], problem.channels, problem.block
    fitting = INPUT_BYTES // (problem.points * channels * FLOAT)
    fits, lanes = fitting >= LEAST_TILES, isa.lanes(32)
    wanted = fitting if fits else MANY_TILES
    tiles = -(-(wanted if problem.tiles is None else min(wanted, problem.tiles)) // most) * most
    products = _odd_lines(tiles * plan.width * FLOAT)
    if not fits and channels % lanes == block % lanes == 0:  # what a product reads from memory is contiguous
        inputs = _odd_lines(tiles * -(-channels // block) * block * FLOAT)
        return Layout(plan, tiles, block * FLOAT, tiles * block * FLOAT, inputs, products)
    pitch = channels + PAD if tile.aliases(channels * FLOAT, most) else channels
    return Layout(plan, tiles, pitch * FLOAT, block * FLOAT, _odd_lines(tiles * pitch * FLOAT), products)


def _rows(problem: WinogradProblem) -> int | None:
    """Rows of a product where the register tile should fit them: few tiles."""
    return problem.tiles if problem.tiles is not None and problem.tiles <= FEW_TILES else None


def _odd_lines(count: int) -> int:
    """Bytes rounded up to an odd number of cache lines: the points of a tile then lie in different sets."""
    return (-(-count // LINE) | 1) * LINE


def pack_winograd_weights(problem: WinogradProblem, isa: Isa, w: np.ndarray) -> np.ndarray:
    """Filters [O, C, kh, kw] float32 -> transformed in float64, [panels, points, C, width] float32."""
    y, x = (np.array([[float(c) for c in row] for row in a.filter]) for a in problem.algorithms)
    transformed = np.einsum("ia,ocab,jb->ijco", y, np.asarray(w, np.float64), x, optimize=True)
    points = transformed.reshape(problem.points, problem.channels, problem.outputs).astype(np.float32)
    return np.ascontiguousarray(pack_panels(points, layout(problem, isa).plan.width).swapaxes(0, 1))


def winograd_scratch_bytes(problem: WinogradProblem, isa: Isa) -> int:
    """Bytes of scratch for each thread (64-byte aligned)."""
    of = layout(problem, isa)
    return problem.points * (of.input_bytes + of.product_bytes) + _odd_lines(problem.channels * FLOAT)


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
        self.zeros = f.offset(self.products, problem.points * self.layout.product_bytes)
        my, mx = problem.outputs_of_tile
        self.across = (arg["ow"] + (mx - 1)) / mx
        self.of_image = self.across * ((arg["oh"] + (my - 1)) / my)

    def emit(self, thread: V, threads: V) -> None:
        """This thread's tiles of all images x panels, a strip of tiles at a time."""
        f, p = self.f, self.problem
        panels = f.const("i64", -(-p.outputs // self.plan.width))
        tiles, columns = tile.split_work(f, thread, threads, self.arg["n"] * self.of_image, panels)
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
        f, p, layout, width = self.f, self.problem, self.layout, self.plan.width
        weights = f.at(self.arg["weights"], panel, p.points * p.channels * width * FLOAT)
        with f.loop(0, p.points) as point, f.loop(0, -(-p.channels // p.block)) as block:
            channel = block * p.block
            b = f.at(f.at(weights, point, p.channels * width * FLOAT), channel, width * FLOAT)
            rows = f.at(f.at(self.inputs, point, layout.input_bytes), block, layout.block_bytes)
            products = f.at(self.products, point, layout.product_bytes)
            now = f.var("i64", 0)
            with f.forever() as loop:
                loop.break_if(now.get() >= count)
                if len(self.plan.rows) == 1:
                    self._rows(self.plan.shapes[0], now, rows, b, products, channel)
                else:
                    with f.either(count - now.get() > self.plan.rows[1]) as few:
                        self._rows(self.plan.shapes[0], now, rows, b, products, channel)
                        few.otherwise()
                        self._rows(self.plan.shapes[1], now, rows, b, products, channel)

    def _rows(self, shape: Shape, now: Var, rows: V, b: V, products: V, channel: V) -> None:
        """One register tile of products, added to those of earlier channels; `now` advances by its rows."""
        f, p, pitch, first = self.f, self.problem, self.layout.row_bytes, now.get()
        now.set(first + shape.rows)
        t = tile.Tile(f, shape)
        whole = p.channels % p.block == 0
        t.multiply(Rows(f.at(rows, first, pitch), pitch), b, p.block if whole else f.smin(f.const("i64", p.channels) - channel, p.block))
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
