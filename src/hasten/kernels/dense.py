"""Convolutions and matrix products as KernelSpecs: what operators ask for, on top of the templates conv, depthwise and gemm."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen.builder import Function, V
from hasten.codegen.isa import Isa
from hasten.kernels import conv as conv_template
from hasten.kernels import depthwise as depthwise_template
from hasten.kernels import gemm as gemm_template
from hasten.kernels.conv import ConvProblem
from hasten.kernels.depthwise import DepthwiseProblem
from hasten.kernels.gemm import GemmProblem
from hasten.kernels.spec import Emission, KernelSpec, Sink

FLOPS_PER_NS = 40  # a cautious figure for one core: only used to decide whether sharing among threads pays
MOST_PLANES = 4  # up to so many channels an image is read as planes


class Spatial(KernelSpec):
    """What every convolution shares: x [N, C, (H,) W] in, [N, O, (OH,) OW] out, lanes along the channels.

    `sizes`: "pad_top", "pad_left" and the output's "oh", "ow".
    """

    problem: Any  # of the template, with a field `pixel_stride`
    spatial: int
    sizes: tuple[tuple[str, DimLike], ...]

    @property
    def accumulates(self) -> bool:
        return True

    @property
    def axes(self) -> tuple[str, ...]:
        return ("n", "c", "y", "x") if self.spatial == 2 else ("n", "c", "x")

    @property
    def lane_axis(self) -> str:
        return "c"

    def wants(self, operand: int) -> str:
        return "plain" if operand else "lanes:1"

    def known(self, call: Any) -> Any:
        """The problem with what the operand's memory tells."""
        stride = call.strides[0][-1]
        return replace(self.problem, pixel_stride=stride if isinstance(stride, int) else None)

    def dims(self, call: Any) -> dict[str, DimLike]:
        shape = call.operands[0].shape
        return {"n": shape[0], "h": shape[2] if self.spatial == 2 else 1, "w": shape[-1], **dict(self.sizes)}

    def arguments(self, k: Emission) -> dict[str, V]:
        """The argument words of a convolution template: 1-D is the case of one row."""
        s = [k.arg[f"in0_s{a}"] for a in range(self.spatial + 2)]
        strides = {"xs_n": s[0], "xs_c": s[1], "xs_y": s[2] if self.spatial == 2 else k.f.const("i64", 0), "xs_x": s[-1]}
        return {**k.arg, **strides, "x": k.arg["in0"], "weights": k.arg["in1"], "scratch": k.arg.get("scratch", k.f.const("ptr", 0))}


@dataclass(frozen=True)
class ConvSpec(Spatial):
    """x [N, C, (H,) W] float32 with channels contiguous (or any strides for few channels), packed weights -> [N, O, (OH,) OW]."""

    problem: ConvProblem
    isa: Isa
    spatial: int
    sizes: tuple[tuple[str, DimLike], ...] = field(default=())

    @property
    def name(self) -> str:
        p = self.problem
        return f"conv{p.kernel[0]}x{p.kernel[1]}s{p.strides[0]}" + (f"g{p.group}" if p.group > 1 else "")

    def wants(self, operand: int) -> str:
        return super().wants(operand) if operand or self.problem.unit_channels else "strided"

    def scratch(self, call: Any) -> DimLike:
        d = self.dims(call)
        return conv_template.conv_scratch_bytes(self.known(call), self.isa, d["h"], d["w"], d["oh"], d["ow"])

    def operations(self, call: Any) -> DimLike:
        d = self.dims(call)
        return conv_template.conv_operations(self.problem, d["n"], d["oh"], d["ow"])

    def work(self, call: Any) -> DimLike:
        return D.floordiv(self.operations(call), FLOPS_PER_NS)

    def describe(self) -> dict[str, str]:
        return {"algorithm": "direct convolution"}

    def emit(self, k: Emission) -> None:
        conv_template.emit_conv(k.f, self.known(k.call), self.isa, self.arguments(k), k.thread, k.threads, only(k.sink, self.axes))


@dataclass(frozen=True)
class DepthwiseSpec(Spatial):
    """Depthwise convolution: x [N, C, (H,) W] float32 with channels contiguous, packed weights -> [N, C * multiplier, (OH,) OW]."""

    problem: DepthwiseProblem
    isa: Isa
    spatial: int
    sizes: tuple[tuple[str, DimLike], ...] = field(default=())

    @property
    def name(self) -> str:
        p = self.problem
        return f"depthwise{p.kernel[0]}x{p.kernel[1]}s{p.strides[0]}"

    def scratch(self, call: Any) -> DimLike:
        d = self.dims(call)
        return depthwise_template.depthwise_scratch_bytes(self.known(call), self.isa, d["h"], d["w"], d["oh"], d["ow"])

    def operations(self, call: Any) -> DimLike:
        d = self.dims(call)
        return depthwise_template.depthwise_operations(self.problem, d["n"], d["oh"], d["ow"])

    def work(self, call: Any) -> DimLike:
        return D.floordiv(self.operations(call), FLOPS_PER_NS // 2)

    def describe(self) -> dict[str, str]:
        return {"algorithm": "depthwise convolution"}

    def emit(self, k: Emission) -> None:
        depthwise_template.emit_depthwise(k.f, self.known(k.call), self.isa, self.arguments(k), k.thread, k.threads, only(k.sink, self.axes))


class Product(KernelSpec):
    """What every matrix product shares: A [G, B, M, K] (strided) times B [G, B, K, N] (strided, or packed: one matrix for
    all) -> [G, B, M, N], float32, lanes along N."""

    problem: GemmProblem

    @property
    def accumulates(self) -> bool:
        return True

    @property
    def axes(self) -> tuple[str, ...]:
        return ("g", "b", "m", "n")

    @property
    def lane_axis(self) -> str:
        return "n"

    def wants(self, operand: int) -> str:
        if operand == 0:
            return "lanes:3" if self.problem.a == "rows" else "lanes:2"
        return {"packed": "plain", "rows": "lanes:3", "columns": "lanes:2"}[self.problem.b]

    def dims(self, call: Any) -> dict[str, DimLike]:
        groups, batch, m, n = call.results[0].shape
        return {"groups": groups, "batch": batch, "m": m, "n": n, "k": call.operands[0].shape[3]}

    def operations(self, call: Any) -> DimLike:
        d = self.dims(call)
        return d["groups"] * gemm_template.gemm_operations(self.problem, d["batch"], d["m"], d["n"], d["k"])

    def arguments(self, k: Emission) -> dict[str, V]:
        """The argument words of a product's template."""
        zero = k.f.const("i64", 0)
        strides = {f"as_{axis}": k.arg[f"in0_s{i}"] for i, axis in enumerate("gbmk")}
        strides |= {f"bs_{axis}": zero if self.problem.b == "packed" else k.arg[f"in1_s{i}"] for i, axis in enumerate("gbkn")}
        return {**k.arg, **strides, "a": k.arg["in0"], "b": k.arg["in1"], "scratch": k.arg.get("scratch", k.f.const("ptr", 0))}


@dataclass(frozen=True)
class GemmSpec(Product):
    """A product by the register tile."""

    problem: GemmProblem
    isa: Isa

    def known(self, call: Any) -> GemmProblem:
        """The problem with what the operand's memory tells."""
        pitch = call.strides[0][2]
        return replace(self.problem, a_pitch=pitch if self.problem.a == "rows" and isinstance(pitch, int) else None)

    def scratch(self, call: Any) -> DimLike:
        d = self.dims(call)
        return gemm_template.gemm_scratch_bytes(self.known(call), self.isa, d["m"], d["n"], d["k"])

    def work(self, call: Any) -> DimLike:
        return D.floordiv(self.operations(call), FLOPS_PER_NS)

    def describe(self) -> dict[str, str]:
        return {"algorithm": "register-tiled product"}

    def emit(self, k: Emission) -> None:
        gemm_template.emit_gemm(k.f, self.known(k.call), self.isa, self.arguments(k), k.thread, k.threads, only(k.sink, self.axes))


def only(sink: Sink | None, axes: tuple[str, ...]) -> Sink:
    """The sink, given only the axes that the result has."""
    assert sink is not None

    def give(f: Function, value: V, where: dict[str, V], lanes: int, mask: V | None) -> None:
        sink(f, value, {a: where[a] for a in axes}, lanes, mask)

    return give

