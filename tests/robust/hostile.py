"""Models that are well-formed and meant to hurt: absurd sizes, expressions that double at every node, long chains, deep
nesting. Each must give an answer or a HastenError, soon and in little memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from cases import BIG, Case, build, f32, i64, node
from onnx import helper

X = f32(2, 3)


def chain(operators: Sequence[str], count: int, constants: Sequence[str] = ()) -> list[onnx.NodeProto]:
    """x -> operators in turn -> y; `constants`: their further inputs, in turn ("" for none)."""
    names = ["x", *(f"t{k}" for k in range(count - 1)), "y"]
    nodes = []
    for k in range(count):
        more = constants[k % len(constants)] if constants else ""
        nodes.append(node(operators[k % len(operators)], [names[k], *([more] if more else [])], [names[k + 1]]))
    return nodes


def doubling(operators: Sequence[str], count: int, **attributes: int) -> list[onnx.NodeProto]:
    """Every node uses the result before it twice."""
    names = ["x", *(f"t{k}" for k in range(count - 1)), "y"]
    return [node(operators[k % len(operators)], [names[k]] * 2, [names[k + 1]], **attributes) for k in range(count)]


def _sizes(count: int) -> list[onnx.NodeProto]:
    """Sizes that are polynomials of twice the degree after every step."""
    nodes = [node("Shape", ["x"], ["s0"])]
    for k in range(count):
        nodes += [node("Add", [f"s{k}", "one"], [f"a{k}"]), node("Mul", [f"a{k}"] * 2, [f"s{k + 1}"])]
    return [*nodes, node("ConstantOfShape", [f"s{count}"], ["y"])]


def _divisions(count: int) -> list[onnx.NodeProto]:
    """Sizes with divisions inside of divisions."""
    nodes = [node("Shape", ["x"], ["s0"])]
    for k in range(count):
        nodes += [
            node("ReduceSum", [f"s{k}"], [f"p{k}"], keepdims=1), node("Div", [f"p{k}", "three"], [f"q{k}"]),
            node("Add", [f"s{k}", f"q{k}"], [f"m{k}"]), node("Mul", [f"m{k}", f"s{k}"], [f"s{k + 1}"]),
        ]  # fmt: skip
    return [*nodes, node("ConstantOfShape", [f"s{count}"], ["y"])]


def _deep_if(depth: int) -> onnx.GraphProto:
    info = onnx.ValueInfoProto
    if depth == 0:
        return helper.make_graph([node("Add", ["x", "x"], ["o0"])], "g0", [], [info(name="o0")])
    other = helper.make_graph([node("Neg", ["x"], [f"e{depth}"])], f"e{depth}", [], [info(name=f"e{depth}")])
    both = node("If", ["c"], [f"o{depth}"], then_branch=_deep_if(depth - 1), else_branch=other)
    return helper.make_graph([both], f"g{depth}", [], [info(name=f"o{depth}")])


def _stacking() -> onnx.GraphProto:
    info = helper.make_tensor_value_info
    nodes = [node("Identity", ["go"], ["on"]), node("Identity", ["v"], ["w"]), node("Identity", ["v"], ["z"])]
    return helper.make_graph(
        nodes, "body", [info("i", 7, []), info("go", 9, []), onnx.ValueInfoProto(name="v")],
        [info("on", 9, []), onnx.ValueInfoProto(name="w"), onnx.ValueInfoProto(name="z")],
    )  # fmt: skip


def hostile() -> list[Case]:
    x = {"x": X}

    def of(name: str, nodes: list[onnx.NodeProto], constants: dict | None = None, feeds: dict | None = None, error: str = "",
           outputs: Sequence[str] = ("y",)) -> Case:  # fmt: skip
        fed = x if feeds is None else feeds
        return Case(name, build(nodes, fed, constants, outputs), fed, error)

    filled = [node("ConstantOfShape", ["s"], ["t"])]
    condition = {**x, "c": np.array(True)}
    return [
        of("constant of 2**40 elements", [node("ConstantOfShape", ["s"], ["y"])], {"s": i64(BIG)}, {}, "ResourceLimit"),
        of("constant of 2**64 elements", [node("ConstantOfShape", ["s"], ["y"])], {"s": i64(1 << 62, 4)}, {}, "ResourceLimit"),
        of("sum of 2**33 constants", [*filled, node("ReduceSum", ["t"], ["y"], keepdims=0)], {"s": i64(1 << 33)}, {}),
        of("expand to 2**40", [node("Expand", ["x", "s"], ["y"])], {"s": i64(BIG, 1, 1)}, None, "ResourceLimit"),
        of("tile to 2**40", [node("Tile", ["x", "s"], ["y"])], {"s": i64(BIG, 1)}, None, "ResourceLimit"),
        of("pad to 2**40", [node("Pad", ["x", "s"], ["y"])], {"s": i64(BIG, 0, 0, 0)}, None, "ResourceLimit"),
        of("resize to 2**40", [node("Resize", ["x", "", "", "s"], ["y"])], {"s": i64(BIG, 3)}, None, "ResourceLimit"),
        of("resize by 1e30", [node("Resize", ["x", "", "s"], ["y"])], {"s": np.array([1e30, 1], np.float32)}, None, "ResourceLimit"),
        of("random 2**40", [node("RandomNormal", [], ["y"], shape=[1 << 20, 1 << 20])], None, {}, "ResourceLimit"),
        of("window of 2**40", [node("HannWindow", ["n"], ["y"])], {"n": np.int64(BIG)}, {}, "ResourceLimit"),
        of("transform of 2**40", [node("DFT", ["x", "n"], ["y"])], {"n": np.int64(BIG)}, {"x": f32(1, 8, 1)}, "ResourceLimit|ModelError"),
        of("convolution with pads of 2**30", [node("Conv", ["x", "w"], ["y"], pads=[1 << 30] * 4)], {"w": f32(1, 1, 3, 3)}, {"x": f32(1, 1, 4, 4)},
           "ResourceLimit"),
        of("doubling sums", doubling(["Add"], 100)), of("doubling, mixed", doubling(["Add", "Mul", "Sub", "Max"], 300)),
        of("doubling by Concat", doubling(["Concat"], 60, axis=0), None, None, "ResourceLimit"),
        of("degree of sizes", _sizes(30)), of("divisions of sizes", _divisions(14)),
        of("10,000 negations", chain(["Neg"], 10_000)), of("10,000 sums", chain(["Add"], 10_000, ["c"]), {"c": np.float32(1)}),
        of("1,000 softmaxes", chain(["Softmax"], 1000)), of("2,000 transposes", chain(["Transpose", "Flatten"], 2000)),
        of("500 reshapes", chain(["Transpose", "Reshape"], 500, ["", "t"]), {"t": i64(2, -1)}),
        of("1,000 concatenations", [node("Concat", [f"t{k}" if k else "x", "x"], [f"t{k + 1}" if k < 999 else "y"], axis=0)
                                                               for k in range(1000)]),
        of("sum of 5,000", [node("Sum", ["x"] * 5000, ["y"])]),
        of("3,000 sums of sizes", [node("Shape", ["x"], ["s0"]), *(node("Add", [f"s{k}", "o"], [f"s{k + 1}"]) for k in range(3000)),
                                   node("Cast", ["s3000"], ["y"], to=1)], {"o": i64(1)}),
        of("If, 20 deep", [node("If", ["c"], ["y"], then_branch=_deep_if(20), else_branch=_deep_if(0))], None, condition),
        of("If, 28 deep", [node("If", ["c"], ["y"], then_branch=_deep_if(28), else_branch=_deep_if(0))], None, condition, "ResourceLimit"),
        of("outputs of 2**36 rounds", [node("Loop", ["m", "", "x"], ["y", "z"], body=_stacking())], {"m": np.int64(1 << 36)}, None, "ResourceLimit", ("y", "z")),
        of("56 axes", [node("Unsqueeze", ["x", "a"], ["t"]), node("Add", ["t", "t"], ["y"])], {"a": np.arange(54)}),
        of("window larger than anything", [node("MaxPool", ["x"], ["y"], kernel_shape=[1 << 50, 1 << 50])], None, {"x": f32(1, 1, 4, 4)},
           "ShapeMismatch|ResourceLimit|TypeInferenceError"),
    ]  # fmt: skip
