"""Depthwise convolution with the 1x1 convolution before it, behind it, or both, as one kernel: what lies between them never gets memory.

    ring    rows of the first product, [row modulo slots][column][channel], with the padding of the depthwise filter as zeros
    strip   rows of the depthwise result, [row][column][channel]: the left side of the last product

A few output rows at a time: the input rows that they need and that the ring does not hold yet are multiplied into it; depthwise rows
are made of it (or of activations in place, where there is no first product) and given to the sink, or kept in the strip, which the last
product then multiplies. Both lie in the thread's scratch: a share of the second level cache. Threads share the output rows;
the rows around the seams are computed by both neighbours.

Elementwise work between two of the convolutions is a `Middle`: it turns a vector of sums, at indices n, c, y, x of the tensor between, into the
values that the next one reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hasten.base.dims import DimLike, maximum
from hasten.codegen.builder import Function, V
from hasten.codegen.isa import Isa
from hasten.kernels import moves, tile
from hasten.kernels.conv import PAD
from hasten.kernels.depthwise import DEPTHWISE_ARGS, Depthwise, DepthwiseProblem, Row, depthwise_lanes
from hasten.kernels.moves import FLOAT
from hasten.kernels.spec import Middle
from hasten.kernels.tile import Blocks, Epilogue, Plan, Rows, Sink

RING_BYTES = 128 << 10
STRIP_BYTES = 64 << 10  # both are as large as a few rows need, at least
MANY_ROWS = 14  # of a register tile: their addresses should not collide

SEPARABLE_ARGS: tuple[tuple[str, str], ...] = (*DEPTHWISE_ARGS, ("first_weights", "ptr"), ("last_weights", "ptr"))
"""The template's argument words: those of the depthwise convolution, whose `x` is the input of all; weights of the products as
`conv.pack_conv_weights` packs them."""


@dataclass(frozen=True)
class SeparableProblem:
    """What is known when the kernel is made. depthwise: without multiplier and dilations, its `ow` where known; `pixel_stride` is that of
    the kernel's input. first: channels of the input of a 1x1 convolution before it; last: outputs of one behind it. w: width of the
    input where known."""

    depthwise: DepthwiseProblem
    first: int | None
    last: int | None
    w: int | None = None

    @property
    def outputs(self) -> int:
        return self.depthwise.outputs if self.last is None else self.last


def _pitch(problem: SeparableProblem, isa: Isa) -> int:
    """Elements between the pixels of ring and strip: whole vectors of channels."""
    lanes = depthwise_lanes(problem.depthwise, isa)
    pitch = -(-problem.depthwise.channels // lanes) * lanes
    return pitch + PAD if tile.aliases(pitch * FLOAT, MANY_ROWS) else pitch


def separable_scratch_bytes(problem: SeparableProblem, isa: Isa, w: DimLike, ow: DimLike, pad_left: DimLike) -> DimLike:
    """Bytes of scratch for each thread."""
    (kh, kw), sx = problem.depthwise.kernel, problem.depthwise.strides[1]
    pixel = _pitch(problem, isa) * FLOAT
    total: DimLike = 0
    if problem.first is not None:
        total = maximum(maximum(w + pad_left, ow * sx + kw) * (kh * pixel), RING_BYTES)
    if problem.last is not None:
        total = total + maximum(ow * pixel, STRIP_BYTES)
    return total


def emit_separable(
    f: Function, problem: SeparableProblem, isa: Isa, arg: Mapping[str, V], thread: V, threads: V, middles: Sequence[Middle], sink: Sink
) -> None:
    """Emit the kernel into `f`, whose argument words are loaded as arg[name]. `middles`: what is done behind the first product, and behind
    the depthwise convolution where a last one follows. The sink sees indices n, y, x, c."""
    _Separable(f, problem, isa, arg, middles, sink).emit(thread, threads)


class _Separable:
    def __init__(self, f: Function, problem: SeparableProblem, isa: Isa, arg: Mapping[str, V], middles: Sequence[Middle], sink: Sink):
        self.f, self.problem, self.isa, self.arg, self.sink = f, problem, isa, arg, sink
        p, ow = problem.depthwise, problem.depthwise.ow
        self.pixel = _pitch(problem, isa) * FLOAT
        self.ow = f.coerce(ow if ow is not None else arg["ow"], "i64")
        self.ring = _Ring(self, middles[0]) if problem.first is not None else None
        self.strip = f.offset(arg["scratch"], self.ring.bytes if self.ring else 0)
        if self.ring:
            p = replace(p, pixel_stride=self.pixel // FLOAT, bordered=True)
        given = sink if problem.last is None else self._keep(middles[-1])
        self.depthwise = Depthwise(f, p, isa, arg, given)

    def emit(self, thread: V, threads: V) -> None:
        """This thread's rows of all images, a few at a time."""
        f, arg = self.f, self.arg
        begin, end = tile.split_range(f, arg["n"] * arg["oh"], thread, threads)
        most = self._rows_at_once()
        position = f.var("i64", begin)
        with f.forever() as loop:
            now = position.get()
            loop.break_if(now >= end)
            image = now / arg["oh"]
            y = now - image * arg["oh"]
            count = f.smin(f.smin(arg["oh"] - y, end - now), most)
            if self.ring:
                self.ring.fill(image, y, count)
            with f.loop(0, count) as i:
                self._row(image, y + i, i)
            if self.problem.last is not None:
                self._last(image, y, count)
            position.set(now + count)

    def _rows_at_once(self) -> V:
        f, p = self.f, self.problem.depthwise
        by_strip = f.const("i64", STRIP_BYTES) / f.smax(self.ow * self.pixel, 1)
        if not self.ring:
            return f.smax(by_strip, 1)
        by_ring = (self.ring.slots - p.kernel[0]) / p.strides[0] + 1
        return by_ring if self.problem.last is None else f.smax(f.smin(by_ring, by_strip), 1)

    def _row(self, image: V, y: V, number: V) -> None:
        """One row of the depthwise convolution, the number-th of the strip."""
        f, depthwise = self.f, self.depthwise
        where = {"n": image, "y": y, "number": number}
        if self.ring is None:
            depthwise.row(image, y, where, (f.const("i64", 0), f.const("i64", depthwise.vectors)))
            return
        top, first, stop = depthwise.taps(y)
        slots = self.ring.slots
        place = self.ring.slot(top + slots), slots  # a filter that reaches the image begins less than a ring above it
        depthwise.bordered_row(Row(where, self.arg["scratch"], self.ring.row_bytes, first, stop, place))

    def _keep(self, middle: Middle) -> Sink:
        """The sink that puts depthwise results into the strip."""

        def keep(f: Function, acc: V, where: dict[str, V], lanes: int, mask: V | None) -> None:
            value = middle(f, acc, where, lanes, mask)
            pixel = f.offset(self.strip, (where["number"] * self.ow + where["x"]) * self.pixel)
            _store(f, value, f.at(pixel, where["c"], FLOAT), mask)

        return keep

    def _last(self, image: V, y: V, count: V) -> None:
        """`count` rows of the strip, output rows from y on, by all panels of the last product."""
        p = self.problem
        assert p.last is not None
        plan = tile.plan(self.isa, p.last, p.depthwise.ow, slack=False)
        rows = _Product(self.f, plan, p.depthwise.channels, p.last, self.pixel, self.arg["last_weights"])

        def line(i: V) -> tuple[V, dict[str, V]]:
            return self.f.offset(self.strip, i * self.ow * self.pixel), {"n": image, "y": y + i}

        rows.multiply((self.f.const("i64", 0), count), line, p.depthwise.ow, self.ow, self.sink)


class _Ring:
    """The rows of the first product that the depthwise convolution still needs."""

    def __init__(self, kernel: _Separable, middle: Middle):
        self.f, self.kernel, self.arg, self.middle = kernel.f, kernel, kernel.arg, middle
        f, arg, p = self.f, self.arg, kernel.problem.depthwise
        (self.kh, kw), sx = p.kernel, p.strides[1]
        w = kernel.problem.w
        self.w = f.coerce(w if w is not None else arg["w"], "i64")
        self.columns = f.smax(self.w + arg["pad_left"], kernel.ow * sx + kw)
        self.row_bytes = self.columns * kernel.pixel
        self.slots = f.smax(f.const("i64", RING_BYTES) / f.smax(self.row_bytes, 1), self.kh)
        self.bytes = self.slots * self.row_bytes
        self.image, self.filled = f.var("i64", -1), f.var("i64", 0)
        self._borders()

    def slot(self, row: V) -> V:
        return row % self.slots

    def _borders(self) -> None:
        """Zeros where the padding is: nothing else is ever stored there."""
        f, pixel = self.f, self.kernel.pixel
        with f.loop(0, self.slots) as slot:
            row = f.offset(self.arg["scratch"], slot * self.row_bytes)
            right = self.w + self.arg["pad_left"]
            moves.zero_floats(f, self.kernel.isa, row, self.arg["pad_left"] * (pixel // FLOAT))
            moves.zero_floats(f, self.kernel.isa, f.offset(row, right * pixel), (self.columns - right) * (pixel // FLOAT))

    def fill(self, image: V, y: V, count: V) -> None:
        """The rows that output rows y, y + 1, ..., y + count - 1 of an image need and that are not there."""
        f, arg, problem = self.f, self.arg, self.kernel.problem
        assert problem.first is not None
        sy = problem.depthwise.strides[0]
        top = f.smax(y * sy - arg["pad_top"], 0)
        begin = f.select(self.image.get().eq(image), f.smax(self.filled.get(), top), top)
        stop = f.smin((y + count - 1) * sy - arg["pad_top"] + self.kh, arg["h"])
        source = f.at(arg["x"], image * arg["xs_n"], FLOAT)
        stride = problem.depthwise.pixel_stride
        pitch: int | V = arg["xs_x"] * FLOAT if stride is None else stride * FLOAT
        plan = tile.plan(self.kernel.isa, problem.depthwise.channels, problem.w, slack=False)
        rows = _Product(f, plan, problem.first, problem.depthwise.channels, pitch, arg["first_weights"])

        def line(r: V) -> tuple[V, dict[str, V]]:
            return f.at(source, r * arg["xs_y"], FLOAT), {"n": image, "y": r}

        rows.multiply((begin, stop), line, problem.w, self.w, self._keep)
        self.filled.set(stop)
        self.image.set(image)

    def _keep(self, f: Function, acc: V, where: dict[str, V], lanes: int, mask: V | None) -> None:
        """The sink that puts results into the ring."""
        value = self.middle(f, acc, where, lanes, mask)
        row = f.offset(self.arg["scratch"], self.slot(where["y"]) * self.row_bytes)
        pixel = f.offset(row, (where["x"] + self.arg["pad_left"]) * self.kernel.pixel)
        _store(f, value, f.at(pixel, where["c"], FLOAT), mask)


@dataclass
class _Product:
    """A 1x1 convolution of rows of pixels that lie `pitch` bytes apart."""

    f: Function
    plan: Plan
    steps: int
    columns: int
    pitch: int | V
    weights: V

    def multiply(self, rows: tuple[V, V], line: Callable[[V], tuple[V, dict[str, V]]], known: int | None, width: V, sink: Sink) -> None:
        """Rows [rows[0], rows[1]) of `width` pixels (`known`, where it is known); `line(r)` is where one begins and its indices."""
        f, plan = self.f, self.plan
        whole = known is not None and known % plan.rows[0] == 0
        walk = Blocks(plan, width, overlap=True, unrolled=tile.unrolls(sink, self.steps), whole=whole)
        with f.loop(0, -(-self.columns // plan.width)) as panel:
            b = f.at(self.weights, panel, self.steps * plan.width * FLOAT)
            with f.loop(*rows) as r:
                a, where = line(r)
                epilogue = Epilogue(f, sink, "x", "c", where, self.columns)

                def compute(t: tile.Tile, start: V) -> None:
                    t.multiply(Rows(f.offset(a, start * self.pitch), self.pitch), b, self.steps)  # noqa: B023

                tile.emit_blocks(f, walk, panel * plan.width, compute, epilogue)


def _store(f: Function, value: V, place: V, mask: V | None) -> None:
    if mask is None:
        f.store(value, place)
    else:
        f.masked_store(value, place, mask)
