"""How tensors lie in memory: buffers with strides, the order of axes, offsets of elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.kernels import expr as E
from hasten.kernels.expr import Expr
from hasten.lower.trace import Tensor, View


@dataclass(frozen=True)
class Buffer:
    """Memory of a tensor: element (i0, i1, ...) is at offset + sum(i * stride), in elements of the dtype."""

    name: str
    strides: tuple[DimLike, ...]
    offset: DimLike = 0


def row_major(shape: Sequence[DimLike]) -> tuple[DimLike, ...]:
    """Strides of a contiguous row-major tensor."""
    strides: list[DimLike] = []
    step: DimLike = 1
    for d in reversed(shape):
        strides.append(step)
        step = step * d
    return tuple(reversed(strides))


def is_row_major(b: Buffer, shape: Sequence[DimLike]) -> bool:
    """Whether a buffer is contiguous, row-major and starts at offset 0 (sizes of 1 don't matter)."""
    want = row_major(shape)
    return is_zero(b.offset) and all(is_one(n) or have == w for n, have, w in zip(shape, b.strides, want, strict=True))


def memory_order(b: Buffer, shape: Sequence[DimLike]) -> list[int]:
    """Axes from slowest to fastest; axes of size 1 keep their place in row-major order."""
    order: list[int] = []
    real = [k for k in range(len(shape)) if not is_one(shape[k])]
    left = list(real)
    while left:  # repeatedly take the axis whose stride every other one divides
        for k in left:
            if all(j == k or not _smaller(b.strides[k], b.strides[j]) for j in left):
                order.append(k)
                left.remove(k)
                break
        else:
            order.extend(left)
            break
    if order == real:
        return list(range(len(shape)))
    ones = [k for k in range(len(shape)) if is_one(shape[k])]
    return ones + order


def _smaller(a: DimLike, b: DimLike) -> bool:
    """Whether stride a is certainly the smaller one (it divides b)."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    if isinstance(b, int):
        return False
    rest = D.mod(b, a)
    return a != b and isinstance(rest, int) and rest == 0


def seen_through(view: View, shape: Sequence[DimLike], base: Buffer) -> Buffer | None:
    """The memory of a view of that shape, whose base lies at `base`; None where it has no plain strides."""
    if view.flat and is_row_major(base, view.base.shape):
        return Buffer(base.name, row_major(shape), base.offset)
    index = tuple(D.symbol(f"v${k}", n) for k, n in enumerate(shape))
    offset = flat_offset(base, view.index(index))
    strides: list[DimLike] = []
    for i in index:
        name = D.as_symbol(i)
        lin = D.linear(offset, name) if name is not None else None
        if lin is None:
            return None
        strides.append(lin[0])
        offset = lin[1]
    return Buffer(base.name, tuple(strides), offset)


def flat_offset(b: Buffer, index: Sequence[DimLike]) -> DimLike:
    """Offset of an element in elements."""
    total = b.offset
    for i, s in zip(index, b.strides, strict=True):
        total = total + i * s
    return D.recombine(total)


def loops(idx: Sequence[DimLike], shape: Sequence[DimLike], target: Buffer) -> list[tuple[str | None, DimLike]]:
    """Loops over a tensor in the order of its memory."""
    return [(D.as_symbol(idx[k]), shape[k]) for k in memory_order(target, shape)]


def symbols_behind(load: Expr, axis: int) -> frozenset[str]:
    """The symbols that an index of a load depends on, also through computed ones."""
    found = D.symbols(load.index[axis])
    return found.union(*(E.free_symbols(e) for name, e in load.binds if name in found))


def is_one(d: DimLike) -> bool:
    return isinstance(d, int) and d == 1


def is_zero(d: DimLike) -> bool:
    return isinstance(d, int) and d == 0


def format_name(b: Buffer | None, t: Tensor) -> str:
    if b is None:
        return ""
    order = memory_order(b, t.shape)
    return f"{t.dtype} row-major" if order == list(range(t.rank)) else f"{t.dtype} axes {order}"
