"""Fourier transforms: DFT and STFT.

A transform of known length is a product with a matrix of cosines and sines; long ones are split into two shorter ones
(Cooley and Tukey),
so that n points cost n * (a + b) instead of n * n for n = a * b. A length that only the run knows is summed term by
term.
"""

from __future__ import annotations

import math

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.base.dtypes import compute_type
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr, op
from hasten.lower.trace import Context, Index, Tensor
from hasten.ops.geometry import inside, read_sizes
from hasten.ops.matmul import matmul
from hasten.ops.registry import Node, operator, tensors
from hasten.ops.scans import around

LONGEST_MATRIX = 512  # points of a transform that is one matrix product


def rotation(n: int, rows: np.ndarray, columns: np.ndarray, sign: int) -> np.ndarray:
    """exp(sign * 2 pi i * rows * columns / n) with exact angles: complex128 [rows, columns]."""
    turns = np.outer(rows, columns) % n
    return np.exp(sign * 2j * np.pi * turns / n)


def real_matrix(w: np.ndarray, parts: int, inner: int = 2) -> np.ndarray:
    """The complex matrix w [n, m] as a real one [n * parts, m * inner]: parts (of the input) and inner (of the
    result) are 1 where only
    the real part is there, else 2, real and imaginary parts side by side."""
    full = np.empty((w.shape[0], 2, w.shape[1], 2))
    full[:, 0, :, 0], full[:, 0, :, 1] = w.real, w.imag
    full[:, 1, :, 0], full[:, 1, :, 1] = -w.imag, w.real
    return full[:, :parts, :, :inner].reshape(w.shape[0] * parts, w.shape[1] * inner)


def times_matrix(cx: Context, x: Tensor, w: np.ndarray, inner: int = 2) -> Tensor:
    """x [lines, n, parts] times the complex matrix w [n, m]: [lines, m, inner]."""
    parts = int(x.shape[2])  # type: ignore[arg-type]
    matrix = cx.const(real_matrix(w, parts, inner), x.dtype)
    y = matmul(cx, cx.reshape(x, (x.shape[0], w.shape[0] * parts)), matrix)
    return cx.reshape(y, (x.shape[0], w.shape[1], inner))


def transform(cx: Context, x: Tensor, n: int, m: int, sign: int) -> Tensor:
    """The first m of the n frequencies of x [lines, n, parts], unscaled: [lines, m, 2]."""
    if n <= LONGEST_MATRIX:
        return times_matrix(cx, x, rotation(n, np.arange(n), np.arange(m), sign))
    a, lines = _divisor(n), x.shape[0]
    if a == 1:
        return chirped(cx, x, n, m, sign)
    b = n // a
    # Point n1 * b + n2, frequency k1 + a * k2: over n1 first, a turn, then over n2.
    inner = cx.transpose(cx.reshape(x, (lines, a, b, x.shape[2])), (0, 2, 1, 3))
    first = transform(cx, cx.reshape(inner, (lines * b, a, x.shape[2])), a, a, sign)
    turned = times(cx, cx.reshape(first, (lines, b * a, 2)), rotation(n, np.arange(b), np.arange(a), sign).reshape(-1))
    middle = cx.transpose(cx.reshape(turned, (lines, b, a, 2)), (0, 2, 1, 3))
    second = cx.reshape(transform(cx, cx.reshape(middle, (lines * a, b, 2)), b, b, sign), (lines, a, b, 2))
    y = cx.reshape(cx.transpose(second, (0, 2, 1, 3)), (lines, n, 2))
    return y if m == n else cx.view((lines, m, 2), y, lambda i: i)


def chirped(cx: Context, x: Tensor, n: int, m: int, sign: int) -> Tensor:
    """`transform` of a prime length, as a circular convolution with a chirp of a power of two points (Bluestein)."""
    size = 1 << (2 * n - 2).bit_length()
    k = np.arange(n)
    chirp = np.exp(sign * 1j * np.pi * (k * k % (2 * n)) / n)
    filter_ = np.zeros(size, np.complex128)
    filter_[:n] = chirp.conj()
    filter_[size - n + 1 :] = chirp[:0:-1].conj()
    y = transform(cx, fitted(cx, times(cx, x, chirp), size), size, size, -1)
    y = transform(cx, times(cx, y, np.fft.fft(filter_) / size), size, m, 1)
    return times(cx, y, chirp[:m])


def times(cx: Context, x: Tensor, factors: np.ndarray) -> Tensor:
    """x [lines, n, parts] times one complex factor for each of the n points: [lines, n, 2]."""
    w = cx.const(np.stack([factors.real, factors.imag], -1), x.dtype)

    def product(i: Index) -> Expr:
        line, k, part = i
        first = E.index(part).eq(0)
        c, s = w.at((k, 0)), w.at((k, 1))
        value = x.at((line, k, 0)) * E.select(first, c, s)
        return value if x.shape[2] == 1 else value + x.at((line, k, 1)) * E.select(first, -s, c)

    return cx.map((x.shape[0], len(factors), 2), x.dtype, product)


def _divisor(n: int) -> int:
    """The divisor of n nearest to its root from below; 1 where n is prime."""
    return next(d for d in range(math.isqrt(n), 0, -1) if n % d == 0)


def summed(cx: Context, x: Tensor, n: DimLike, m: DimLike, sign: int) -> Tensor:
    """Like `transform`, for a length that only the run knows."""
    dt, parts = compute_type(x.dtype), x.shape[2]

    def term(o: Index, r: Index) -> Expr:
        turns = E.cast(E.index(D.mod(o[1] * r[0], n)), "float64") / E.cast(E.index(n), "float64")
        angle = turns * (sign * 2 * math.pi)
        c, s = E.cast(op("cos", angle), dt), E.cast(op("sin", angle), dt)
        real = E.index(o[2]).eq(0)
        value = x.at((o[0], r[0], 0)) * E.select(real, c, s)
        return value if parts == 1 else value + x.at((o[0], r[0], 1)) * E.select(real, -s, c)

    return cx.reduce("sum", x.dtype, (x.shape[0], m, 2), (n,), term)


def with_parts(cx: Context, x: Tensor) -> Tensor:
    """x with a known number of parts: where only the run knows whether there is an imaginary part, it is filled up with 0."""
    parts = x.shape[-1]
    if isinstance(parts, int):
        return x
    cx.require(parts, "<=", 2, f"{cx.where()}: the last axis holds the real and the imaginary part")
    return cx.map((*x.shape[:-1], 2), x.dtype, lambda i: cx.load(x, i, inside(i[-1], parts, low=False)))


def fitted(cx: Context, x: Tensor, n: DimLike) -> Tensor:
    """x [lines, points, parts] with exactly n points: cut off, or filled up with zeros."""
    if D.known_equal(x.shape[1], n) is True:
        return x
    guard_free = D.nonnegative(x.shape[1] - n)
    shape = (x.shape[0], n, x.shape[2])
    if guard_free:
        return cx.view(shape, x, lambda i: i)
    return cx.map(shape, x.dtype, lambda i: cx.load(x, i, inside(i[1], x.shape[1], low=False)))


def forward(cx: Context, x: Tensor, n: DimLike, m: DimLike, sign: int) -> Tensor:
    """The first m frequencies of x [lines, points, parts], cut or filled up to n points."""
    x = fitted(cx, x, n)
    return transform(cx, x, n, m, sign) if isinstance(n, int) and isinstance(m, int) else summed(cx, x, n, m, sign)


def real_inverse(cx: Context, x: Tensor, n: DimLike) -> Tensor:
    """The n real points [lines, n, 1] behind the one-sided spectrum x [lines, n // 2 + 1, 2]."""
    bins = D.floordiv(n, 2) + 1
    x = fitted(cx, x, bins)
    if isinstance(n, int) and isinstance(bins, int) and n <= LONGEST_MATRIX:
        k = np.arange(bins)
        weights = np.where((k == 0) | (2 * k == n), 1.0, 2.0) / n
        return times_matrix(cx, x, rotation(n, k, np.arange(n), 1) * weights[:, None], inner=1)

    def mirrored(i: Index) -> Expr:
        """The whole spectrum: frequency k > n / 2 is the conjugate of n - k."""
        line, k, part = i
        low = E.index(k) < E.index(bins)
        below, above = cx.load(x, (line, k, part), low), cx.load(x, (line, n - k, part), ~low)
        return E.select(low, below, E.select(E.index(part).eq(0), above, -above))

    full = forward(cx, cx.map((x.shape[0], n, 2), x.dtype, mirrored), n, n, 1)
    return cx.map((x.shape[0], n, 1), x.dtype, lambda i: full.at((i[0], i[1], 0)) / E.cast(E.index(n), compute_type(x.dtype)))


@operator("DFT")
def dft(cx: Context, node: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    """The discrete Fourier transform along an axis; the last axis holds the real part, or both parts."""
    tensors(node, x, length, axis)
    x = with_parts(cx, x)
    inverse, onesided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    where: DimLike = -2 if axis is None else cx.read_ints(axis)[0]
    signal = x.shape[:-1]
    where = where + 1 if isinstance(where, int) and where < 0 else D.if_less(where, 0, where + 1, where)
    before, here, after = around(cx, signal, where)
    default = (here - 1) * 2 if inverse and onesided else here
    n = default if length is None else read_sizes(cx, length)[0]
    lines = cx.transpose(cx.reshape(x, (before, here, after, x.shape[-1])), (0, 2, 1, 3))
    flat = cx.reshape(lines, (before * after, here, x.shape[-1]))
    if inverse and onesided:
        y = real_inverse(cx, flat, n)
    else:
        y = forward(cx, flat, n, D.floordiv(n, 2) + 1 if onesided else n, 1 if inverse else -1)
        if inverse:
            factor = E.const(1 / n, compute_type(x.dtype)) if isinstance(n, int) else 1 / E.cast(E.index(n), compute_type(x.dtype))
            y = _scaled(cx, y, factor)
    points, parts = y.shape[1], y.shape[2]
    y = cx.transpose(cx.reshape(y, (before, after, points, parts)), (0, 2, 1, 3))
    position = D.mod(where, len(signal))
    return cx.reshape(y, (*(D.if_equal(position, k, points, d) for k, d in enumerate(signal)), parts))


def _scaled(cx: Context, y: Tensor, factor: Expr) -> Tensor:
    return cx.map(y.shape, y.dtype, lambda i: y.at(i) * factor)


@operator("STFT")
def stft(cx: Context, node: Node, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
    """Transforms [batch, frames, frequencies, 2] of windows that move over the signal [batch, points, parts] by
    `step`."""
    tensors(node, x, step, window, length)
    x = with_parts(cx, x)
    hop = read_sizes(cx, step)[0]
    n: DimLike = x.shape[1]
    if length is not None:
        n = read_sizes(cx, length)[0]
    elif window is not None:
        n = window.shape[0]
    cx.require(1, "<=", hop, f"{cx.where()}: frame_step")
    frames = D.floordiv(x.shape[1] - n, hop) + 1
    cx.require(0, "<=", x.shape[1] - n, f"{cx.where()}: the signal is at least as long as a frame")
    shape = (x.shape[0], frames, n, x.shape[2])
    cut = cx.view(shape, x, lambda i: (i[0], i[1] * hop + i[2], i[3]))
    if window is not None:
        cx.require(window.shape[0], "==", n, f"{cx.where()}: the window is as long as a frame")
        plain = cut
        cut = cx.map(shape, x.dtype, lambda i: plain.at(i) * window.at((i[2],)))
    m = D.floordiv(n, 2) + 1 if node.attr("onesided", 1) else n
    y = forward(cx, cx.reshape(cut, (x.shape[0] * frames, n, x.shape[2])), n, m, -1)
    return cx.reshape(y, (x.shape[0], frames, m, 2))
