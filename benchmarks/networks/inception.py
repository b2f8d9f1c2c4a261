"""Inception-v3: Szegedy et al. 2015, arXiv:1512.00567, without the auxiliary classifier, which only training needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from networks.builder import Builder, Value
from networks.classifiers import Built, classify

Layer = Callable[..., Value]


def chain(layer: Layer, x: Value, *steps: tuple[int, int | tuple[int, int]]) -> Value:
    """Convolutions one after the other: (channels, size)."""
    for channels, size in steps:
        x = layer(x, channels, size)
    return x


def smooth(b: Builder, x: Value) -> Value:
    """The average of every 3x3 window, borders counted as zeros."""
    return b.pool("AveragePool", x, 3, 1, 1, count_include_pad=1)


def module_a(b: Builder, layer: Layer, x: Value, pooled: int) -> Value:
    """35x35."""
    return b.concat([
        layer(x, 64),
        chain(layer, x, (48, 1), (64, 5)),
        chain(layer, x, (64, 1), (96, 3), (96, 3)),
        layer(smooth(b, x), pooled),
    ])  # fmt: skip


def module_b(b: Builder, layer: Layer, x: Value) -> Value:
    """35x35 to 17x17."""
    narrow = chain(layer, x, (64, 1), (96, 3))
    return b.concat([layer(x, 384, 3, 2, pad=0), layer(narrow, 96, 3, 2, pad=0), b.pool("MaxPool", x, 3, 2)])


def module_c(b: Builder, layer: Layer, x: Value, width: int) -> Value:
    """17x17: sevens in rows and columns."""
    return b.concat([
        layer(x, 192),
        chain(layer, x, (width, 1), (width, (1, 7)), (192, (7, 1))),
        chain(layer, x, (width, 1), (width, (7, 1)), (width, (1, 7)), (width, (7, 1)), (192, (1, 7))),
        layer(smooth(b, x), 192),
    ])  # fmt: skip


def module_d(b: Builder, layer: Layer, x: Value) -> Value:
    """17x17 to 8x8."""
    first = layer(layer(x, 192), 320, 3, 2, pad=0)
    second = layer(chain(layer, x, (192, 1), (192, (1, 7)), (192, (7, 1))), 192, 3, 2, pad=0)
    return b.concat([first, second, b.pool("MaxPool", x, 3, 2)])


def module_e(b: Builder, layer: Layer, x: Value) -> Value:
    """8x8: threes in rows beside columns."""

    def split(y: Value) -> Value:
        return b.concat([layer(y, 384, (1, 3)), layer(y, 384, (3, 1))])

    return b.concat([layer(x, 320), split(layer(x, 384)), split(chain(layer, x, (448, 1), (384, 3))), layer(smooth(b, x), 192)])


def inception_v3() -> Built:
    b = Builder()
    layer = partial(b.block, epsilon=1e-3)
    x = b.input("x", ["batch", 3, 299, 299], 3)
    x = layer(layer(x, 32, 3, 2, pad=0), 32, 3, pad=0)
    x = b.pool("MaxPool", layer(x, 64, 3), 3, 2)
    x = layer(layer(x, 80), 192, 3, pad=0)
    x = b.pool("MaxPool", x, 3, 2)
    for k, pooled in enumerate((32, 64, 64)):
        b.scope = f"a{k}"
        x = module_a(b, layer, x, pooled)
    b.scope = "b"
    x = module_b(b, layer, x)
    for k, width in enumerate((128, 160, 160, 192)):
        b.scope = f"c{k}"
        x = module_c(b, layer, x, width)
    b.scope = "d"
    x = module_d(b, layer, x)
    for k in range(2):
        b.scope = f"e{k}"
        x = module_e(b, layer, x)
    return classify(b, x)
