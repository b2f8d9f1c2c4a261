"""Which kernels become one: a kernel that is the only reader of another one's result takes that in, where a kernel for both is there.

It is decided after epilogues: what lies between the two kernels is then the result of one and an operand of the other, with the elementwise work
in between done by the first one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hasten.base import dims as D
from hasten.kernels.dense_separable import joined
from hasten.lower import trace as T
from hasten.lower.trace import Tensor

if TYPE_CHECKING:
    from hasten.lower.schedule import Schedule


@dataclass
class Joined:
    """`kernel` computes several kernels' work; `middles` are the tensors between them, each with the result of the kernel that it is computed from
    elementwise, index by index. None of these gets memory."""

    kernel: T.Kernel
    middles: list[tuple[Tensor, Tensor]]


def join(schedule: Schedule, root: Tensor) -> None:
    """Take the kernel that makes the first operand of root's kernel into that."""
    o = root.origin
    if not isinstance(o, T.Kernel) or not o.spec.accumulates:
        return
    between = o.operands[0]
    source = _source(schedule, between)
    if source is None or schedule.users[id(between)] != [root] or sum(u is between for u in o.operands) != 1:
        return
    assert isinstance(source.origin, T.Kernel)
    before = schedule.joined.get(id(source), Joined(source.origin, []))
    spec = joined(before.kernel.spec, o.spec, between.shape)
    if spec is None:
        return
    kernel = T.Kernel(spec, [*before.kernel.operands, *o.operands[1:]], o.results)
    schedule.joined.pop(id(source), None)
    schedule.joined[id(root)] = Joined(kernel, [*before.middles, (between, source)])
    schedule.realized.discard(id(between))


def _source(schedule: Schedule, between: Tensor) -> Tensor | None:
    """The result of the accumulating kernel that stores `between`, where that has its dtype and its indices; None where there is none, or where
    `between` must be in memory."""
    if id(between) in schedule.forced or id(between) not in schedule.realized or not schedule.block_holds(between):
        return None
    fusion = schedule.fused.get(id(between))
    source = between if fusion is None else fusion.root
    if not isinstance(source.origin, T.Kernel) or not source.origin.spec.accumulates or between.dtype != source.dtype:
        return None
    probe = tuple(D.symbol(f"p${k}", n) for k, n in enumerate(source.shape))
    return source if fusion is None or tuple(fusion.own(probe)) == probe else None
