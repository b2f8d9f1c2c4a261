"""Depthwise convolutions with their 1x1 neighbours as KernelSpecs, and the rule that says where joining them is worth it.

`joined` is asked for two kernels of which the second one alone reads what the first one makes. It takes a 1x1 convolution into the depthwise
one behind it, and a depthwise one (with what was taken into it) into the 1x1 convolution behind that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen.isa import Isa
from hasten.kernels import conv, depthwise, separable
from hasten.kernels.conv import ConvProblem
from hasten.kernels.dense import FLOPS_PER_NS, ConvSpec, DepthwiseSpec, Spatial, only
from hasten.kernels.moves import FLOAT
from hasten.kernels.separable import SeparableProblem
from hasten.kernels.spec import Emission, KernelSpec

LEAST_BYTES = (512 << 10, 256 << 10)  # of one image of the tensor before, and behind the depthwise convolution: smaller ones stay in cache
LEAST_ROWS = 12  # of that before it, for each that two threads both compute
NAMES = {(False, True): "separable", (True, False): "expanded", (True, True): "bottleneck"}  # by what is before and behind


@dataclass(frozen=True)
class SeparableSpec(Spatial):
    """x [N, C, H, W] float32 with channels contiguous, packed weights of each convolution in turn -> [N, O, OH, OW]."""

    problem: SeparableProblem
    isa: Isa
    spatial: int
    sizes: tuple[tuple[str, DimLike], ...] = field(default=())

    @property
    def name(self) -> str:
        p, around = self.problem.depthwise, (self.problem.first is not None, self.problem.last is not None)
        return f"{NAMES[around]}{p.kernel[0]}x{p.kernel[1]}s{p.strides[0]}"

    def known(self, call: Any) -> SeparableProblem:
        """The problem with what the operand's memory tells."""
        stride = call.strides[0][-1]
        inner = replace(self.problem.depthwise, pixel_stride=stride if isinstance(stride, int) else None)
        return replace(self.problem, depthwise=inner)

    def scratch(self, call: Any) -> DimLike:
        d = self.dims(call)
        return separable.separable_scratch_bytes(self.problem, self.isa, d["w"], d["ow"], d["pad_left"])

    def operations(self, call: Any) -> DimLike:
        d, p = self.dims(call), self.problem
        channels = p.depthwise.channels
        total = depthwise.depthwise_operations(p.depthwise, d["n"], d["oh"], d["ow"])
        if p.first is not None:
            total = total + conv.conv_operations(ConvProblem(p.first, channels, (1, 1)), d["n"], d["h"], d["w"])
        if p.last is not None:
            total = total + conv.conv_operations(ConvProblem(channels, p.last, (1, 1)), d["n"], d["oh"], d["ow"])
        return total

    def work(self, call: Any) -> DimLike:
        return D.floordiv(self.operations(call), FLOPS_PER_NS)

    def describe(self) -> dict[str, str]:
        parts = ("1x1" if self.problem.first is not None else "", "depthwise", "1x1" if self.problem.last is not None else "")
        return {"algorithm": " + ".join(filter(None, parts)) + " convolution"}

    def emit(self, k: Emission) -> None:
        p = self.known(k.call)
        arg = self.arguments(k)
        names = [name for name, there in (("first_weights", p.first), ("weights", 0), ("last_weights", p.last)) if there is not None]
        arg |= {name: k.arg[f"in{i}"] for i, name in enumerate(names, 1)}
        separable.emit_separable(k.f, p, self.isa, arg, k.thread, k.threads, k.middles, only(k.sink, self.axes))


def joined(before: KernelSpec, after: KernelSpec, between: Sequence[DimLike]) -> KernelSpec | None:
    """The kernel that computes `before`, elementwise work on its result (a tensor of the shape `between`), and `after` of that; its operands
    are those of `before` and all but the first of `after`. None: they remain two kernels."""
    if isinstance(after, DepthwiseSpec):
        return _expanded(before, after, between) if _pointwise(before) and _plain(after) else None
    if not _pointwise(after) or not _large(between, LEAST_BYTES[1]):
        return None
    if isinstance(before, DepthwiseSpec) and _plain(before):
        before = SeparableSpec(SeparableProblem(before.problem, None, None), before.isa, 2, before.sizes)
    if isinstance(before, SeparableSpec) and before.problem.last is None:
        return replace(before, problem=replace(before.problem, last=after.problem.outputs))  # type: ignore[attr-defined]
    return None


def _expanded(before: KernelSpec, after: DepthwiseSpec, between: Sequence[DimLike]) -> KernelSpec | None:
    """A 1x1 convolution and the depthwise one behind it."""
    assert isinstance(before, ConvSpec)
    shared = after.problem.kernel[0] - after.problem.strides[0]
    if not _large(between, LEAST_BYTES[0]) or not D.nonnegative(between[2] - LEAST_ROWS * shared):
        return None
    problem = SeparableProblem(after.problem, before.problem.channels, None, before.problem.ow)
    return SeparableSpec(problem, after.isa, 2, after.sizes)


def _large(between: Sequence[DimLike], least: int) -> bool:
    return D.nonnegative(D.product(list(between[1:])) * FLOAT - least)


def _pointwise(spec: KernelSpec) -> bool:
    """Whether it is a 1x1 convolution of every pixel."""
    if not isinstance(spec, ConvSpec) or spec.spatial != 2:
        return False
    p, sizes = spec.problem, dict(spec.sizes)
    of_pixels = p.kernel == p.strides == (1, 1) and p.group == 1 and p.unit_channels
    return of_pixels and not p.padded and sizes["pad_top"] == sizes["pad_left"] == 0


def _plain(spec: DepthwiseSpec) -> bool:
    """Whether it has neither multiplier nor dilations."""
    p, sizes = spec.problem, dict(spec.sizes)
    pads = sizes["pad_top"], sizes["pad_left"]
    return spec.spatial == 2 and p.multiplier == 1 and p.dilations == (1, 1) and all(map(D.nonnegative, pads))
