"""Models and feeds that go wrong or are empty, in tables; the tests and the benchmark run them in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Arrays = Mapping[str, Any]


def build(nodes: Sequence[onnx.NodeProto], feeds: Arrays, constants: Arrays | None = None, outputs: Sequence[str] = ("y",),
          shapes: Mapping[str, Sequence[int | str]] | None = None, opset: int = 20) -> onnx.ModelProto:  # fmt: skip
    """A model around some nodes. Inputs have the dtypes and ranks of the feeds; floats have sizes of their own names,
    others those of the feeds, unless `shapes` says more."""
    inputs = []
    for name, array in feeds.items():
        free = [f"{name}{k}" for k in range(np.ndim(array))]
        shape = (shapes or {}).get(name, free if np.asarray(array).dtype.kind == "f" else np.shape(array))
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype), shape))
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    results = [onnx.ValueInfoProto(name=n) for n in outputs]
    graph = helper.make_graph(nodes, "g", inputs, results, tensors)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


node = helper.make_node


@dataclass(frozen=True)
class Case:
    """One operator on feeds. `error`: the class of the error that is expected, "" for an answer (like the reference's),
    `says`: what its message must contain."""

    name: str
    model: onnx.ModelProto
    feeds: Arrays
    error: str = ""
    says: tuple[str, ...] = ()
    seconds: float = field(default=30.0)


def single(name: str, op: str, feeds: Arrays, constants: Arrays | None = None, error: str = "", says: Sequence[str] = (), inputs: Sequence[str] | None = None,
           outputs: int = 1, static: bool = False, **attributes: Any) -> Case:  # fmt: skip
    """A model of one node; its inputs are the feeds, then the constants, unless `inputs` lists them."""
    names = list(inputs) if inputs is not None else [*feeds, *(constants or {})]
    results = ["y"] if outputs == 1 else [f"y{k}" for k in range(outputs)]
    shapes = {n: np.shape(a) for n, a in feeds.items()} if static else None
    model = build([node(op, names, results, name=f"the_{op}", **attributes)], feeds, constants, results, shapes)
    return Case(name, model, feeds, error, tuple(says))


def f32(*shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape) % 7 - 3


def i64(*values: Any) -> np.ndarray:
    return np.array(values, np.int64)


# --- what only the run can tell -----------------------------------------------------------------------------------------
BIG = 1 << 40
LOW, HIGH = -(1 << 63), (1 << 63) - 1


def failing() -> list[Case]:
    """Runs that must fail with the error given."""
    x, index = f32(4, 3), ("index", "range")
    rows = [
        *(single(f"Gather {v}", "Gather", {"x": x, "i": i64(0, v)}, error="ExecutionError", says=index) for v in (4, -5, BIG, LOW, HIGH)),
        *(single(f"GatherElements {v}", "GatherElements", {"x": x, "i": i64([0, v, 0])}, error="ExecutionError", says=index) for v in (4, -5, HIGH)),
        *(single(f"GatherND {v}", "GatherND", {"x": x, "i": i64([0, v])}, error="ExecutionError", says=index) for v in (3, -4, LOW)),
        *(single(f"ScatterND {v}", "ScatterND", {"x": x, "i": i64([v]), "u": f32(1, 3)}, error="ExecutionError", says=index) for v in (4, -5, BIG)),
        *(single(f"ScatterElements {v}", "ScatterElements", {"x": x, "i": i64([v, 0, 0]), "u": f32(1, 3)}, error="ExecutionError", says=index)
          for v in (4, -5, BIG)),
        single("Reshape sizes", "Reshape", {"x": x, "s": i64(5, 2)}, error="ShapeMismatch", says=("Reshape",)),
        single("Reshape two unknown", "Reshape", {"x": x, "s": i64(-1, -1)}, error="ShapeMismatch"),
        single("Reshape negative", "Reshape", {"x": x, "s": i64(-4, -3)}, error="ShapeMismatch"),
        single("Reshape rest", "Reshape", {"x": x, "s": i64(5, -1)}, error="ShapeMismatch", says=("Reshape",)),
        single("Reshape overflow", "Reshape", {"x": x, "s": i64(1 << 62, 4)}, error="ShapeMismatch"),
        single("Expand sizes", "Expand", {"x": x, "s": i64(5, 3)}, error="ShapeMismatch"),
        single("Expand negative", "Expand", {"x": x, "s": i64(-4, 3)}, error="ShapeMismatch"),
        single("Expand huge", "Expand", {"x": x, "s": i64(BIG, 1, 1)}, error="ResourceLimit", says=("memory",)),
        single("Tile huge", "Tile", {"x": x, "s": i64(BIG, BIG)}, error="ResourceLimit"),
        single("Tile negative", "Tile", {"x": x, "s": i64(-1, 1)}, error="ShapeMismatch"),
        single("ConstantOfShape huge", "ConstantOfShape", {"s": i64(BIG, BIG)}, error="ResourceLimit", says=("memory",)),
        single("ConstantOfShape negative", "ConstantOfShape", {"s": i64(-1)}, error="ShapeMismatch"),
        single("Pad negative", "Pad", {"x": x, "p": i64(-5, 0, 0, 0)}, error="ShapeMismatch"),
        single("Pad huge", "Pad", {"x": x, "p": i64(BIG, 0, 0, BIG)}, error="ResourceLimit"),
        single("TopK beyond", "TopK", {"x": x, "k": i64(4)}, outputs=2, error="ShapeMismatch"),
        single("TopK negative", "TopK", {"x": x, "k": i64(-1)}, outputs=2, error="ShapeMismatch"),
        single("Split sizes", "Split", {"x": x, "s": i64(1, 1)}, outputs=2, error="ShapeMismatch", axis=0),
        single("Split negative", "Split", {"x": x, "s": i64(-1, 5)}, outputs=2, error="ShapeMismatch", axis=0),
        single("OneHot depth", "OneHot", {"i": i64(0, 1), "d": i64(-3), "v": f32(2)}, error="ShapeMismatch"),
        single("OneHot huge", "OneHot", {"i": i64(0, 1), "d": i64(BIG), "v": f32(2)}, error="ResourceLimit"),
        single("Range huge", "Range", {"a": np.int64(0), "b": np.int64(BIG), "c": np.int64(1)}, error="ResourceLimit"),
        single("Resize huge", "Resize", {"x": f32(1, 1, 2, 2), "s": i64(1, 1, BIG, BIG)}, inputs=["x", "", "", "s"], error="ResourceLimit"),
        single("Resize negative", "Resize", {"x": f32(1, 1, 2, 2), "s": i64(1, 1, -1, 2)}, inputs=["x", "", "", "s"], error="ShapeMismatch"),
        single("Conv small input", "Conv", {"x": f32(1, 1, 2, 2)}, {"w": f32(1, 1, 5, 5)}, error="ShapeMismatch", says=("window",)),
        single("Conv channels", "Conv", {"x": f32(1, 2, 8, 8)}, {"w": f32(1, 3, 3, 3)}, error="ShapeMismatch"),
        single("MaxPool small input", "MaxPool", {"x": f32(1, 1, 2, 2)}, kernel_shape=[5, 5], error="ShapeMismatch", says=("window",)),
        single("MatMul sizes", "MatMul", {"x": f32(2, 3), "w": f32(4, 5)}, error="ShapeMismatch", says=("the_MatMul",)),
        single("Add sizes", "Add", {"x": f32(2, 3), "w": f32(2, 4)}, error="ShapeMismatch", says=("the_Add",)),
        single("Concat sizes", "Concat", {"x": f32(2, 3), "w": f32(2, 4)}, axis=0, error="ShapeMismatch", says=("the_Concat",)),
        single("Gemm sizes", "Gemm", {"x": f32(2, 3), "w": f32(4, 5)}, error="ShapeMismatch", says=("the_Gemm",)),
        single("Squeeze size", "Squeeze", {"x": f32(2, 3)}, {"a": i64(0)}, error="ShapeMismatch", says=("the_Squeeze",)),
        single("DepthToSpace", "DepthToSpace", {"x": f32(1, 3, 2, 2)}, blocksize=2, error="ShapeMismatch"),
        single("Unsqueeze axis", "Unsqueeze", {"x": x}, {"a": i64(9)}, error="TypeInferenceError|ModelError"),
        single("Transpose perm", "Transpose", {"x": x}, perm=[0, 7], error="ModelError|TypeInferenceError"),
        single("Softmax axis", "Softmax", {"x": x}, axis=5, error="ModelError|TypeInferenceError"),
        single("ReduceSum axis", "ReduceSum", {"x": x}, {"a": i64(7)}, error="ModelError|TypeInferenceError"),
        single("Concat axis", "Concat", {"x": x, "w": x}, axis=4, error="ModelError|TypeInferenceError"),
        single("Cast to nonsense", "Cast", {"x": x}, to=999, error="ModelError"),
        single("LSTM sizes", "LSTM", {"x": f32(2, 1, 3)}, {"w": f32(1, 16, 5), "r": f32(1, 16, 4)}, hidden_size=4, error="ShapeMismatch|TypeInferenceError"),
        single("Einsum rank", "Einsum", {"x": x}, equation="abc->a", error="ModelError|TypeInferenceError"),
        single("Einsum sizes", "Einsum", {"x": f32(2, 3), "w": f32(4, 5)}, equation="ab,bc->ac", error="ShapeMismatch"),
        single("Einsum text", "Einsum", {"x": x}, equation="a b - > )", error="ModelError|TypeInferenceError"),
        single("Conv group", "Conv", {"x": f32(1, 2, 8, 8)}, {"w": f32(1, 2, 3, 3)}, group=0, error="ModelError|TypeInferenceError|ShapeMismatch"),
        single("Conv stride", "Conv", {"x": f32(1, 2, 8, 8)}, {"w": f32(1, 2, 3, 3)}, strides=[0, 0], error="ModelError|TypeInferenceError"),
    ]  # fmt: skip
    return rows


def surviving() -> list[Case]:
    """Runs on strange values that have an answer, the reference's where it has one; they must be memory-safe in any case."""
    x = f32(4, 3)
    wild = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38, 1e-30], np.float32)
    floats = "Abs Neg Ceil Floor Round Sqrt Exp Log Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh Erf Sign Relu Sigmoid Softplus Softsign Elu Selu " \
             "Celu HardSigmoid HardSwish LeakyRelu Gelu Mish ThresholdedRelu IsNaN Reciprocal Softmax LogSoftmax Hardmax LpNormalization ReduceMax ReduceMin " \
             "ReduceSum ReduceL2 ReduceLogSumExp ArgMax ArgMin CumSum".split()  # fmt: skip
    rows = [single(f"{op} of NaN and infinities", op, {"x": wild}, {"axis": np.int64(0)} if op == "CumSum" else None) for op in floats]
    rows += [single(f"Slice {a}:{b}:{s}", "Slice", {"x": x, "a": i64(a), "b": i64(b), "d": i64(0), "s": i64(s)})
             for a, b, s in [(0, HIGH, 1), (LOW, HIGH, 1), (HIGH, LOW, -1), (-1, LOW, -1), (BIG, BIG + 5, 3), (-BIG, 2, 1), (2, 1, 1), (0, HIGH, HIGH),
                             (3, LOW, LOW + 1)]]  # fmt: skip
    rows += [
        single("OneHot outside", "OneHot", {"i": i64(5, -9, LOW, HIGH, 1), "d": i64(3), "v": f32(2)}),
        single("TopK none", "TopK", {"x": x, "k": i64(0)}, outputs=2),
        single("TopK of NaN", "TopK", {"x": wild, "k": i64(3)}, outputs=2),
        single("Div by zero", "Div", {"x": np.array([1, -1, 0, -(1 << 31)], np.int32), "w": np.array([0, 0, 0, -1], np.int32)}),
        single("Div 64", "Div", {"x": i64(1, LOW), "w": i64(0, -1)}),
        single("Div 8", "Div", {"x": np.array([-128, 1], np.int8), "w": np.array([-1, 0], np.int8)}),
        single("Mod by zero", "Mod", {"x": np.array([1, LOW], np.int64), "w": np.array([0, -1], np.int64)}),
        single("fmod by zero", "Mod", {"x": np.array([1, LOW], np.int64), "w": np.array([0, -1], np.int64)}, fmod=1),
        single("Pow negative", "Pow", {"x": np.array([0, 2], np.int32), "w": np.array([-1, -2], np.int32)}),
        single("BitShift far", "BitShift", {"x": np.array([1, 2], np.uint32), "w": np.array([32, 77], np.uint32)}, direction="LEFT"),
        single("Cast wild int32", "Cast", {"x": wild}, to=onnx.TensorProto.INT32),
        single("Cast wild int64", "Cast", {"x": wild}, to=onnx.TensorProto.INT64),
        single("Cast wild uint8", "Cast", {"x": wild}, to=onnx.TensorProto.UINT8),
        single("Cast wild float16", "Cast", {"x": wild}, to=onnx.TensorProto.FLOAT16),
        single("Quantize wild", "QuantizeLinear", {"x": wild}, {"s": np.float32(0.1), "z": np.uint8(3)}),
        single("Quantize scale 0", "QuantizeLinear", {"x": wild}, {"s": np.float32(0), "z": np.uint8(3)}),
        single("Range of NaN", "Range", {"a": np.float32(0), "b": np.float32(np.nan), "c": np.float32(1)}),
        single("Range to infinity", "Range", {"a": np.float32(0), "b": np.float32(np.inf), "c": np.float32(1)}),
        single("Range step 0", "Range", {"a": np.int64(0), "b": np.int64(5), "c": np.int64(0)}),
        single("Resize scale NaN", "Resize", {"x": f32(1, 1, 2, 2), "s": np.array([1, 1, np.nan, 1], np.float32)}, inputs=["x", "", "s"]),
        single("Resize scale negative", "Resize", {"x": f32(1, 1, 2, 2), "s": np.array([1, 1, -2, 1], np.float32)}, inputs=["x", "", "s"]),
        single("Resize scale infinite", "Resize", {"x": f32(1, 1, 2, 2), "s": np.array([1, 1, np.inf, 1], np.float32)}, inputs=["x", "", "s"]),
        single("GridSample wild", "GridSample", {"x": f32(1, 1, 4, 4), "g": np.tile(wild.reshape(1, 2, 4, 1), (1, 1, 1, 2))}),
        single("GridSample border", "GridSample", {"x": f32(1, 1, 4, 4), "g": np.tile(wild.reshape(1, 2, 4, 1), (1, 1, 1, 2))}, padding_mode="border"),
        single("GridSample reflect", "GridSample", {"x": f32(1, 1, 4, 4), "g": np.tile(wild.reshape(1, 2, 4, 1), (1, 1, 1, 2))}, padding_mode="reflection"),
        single("RoiAlign wild", "RoiAlign", {"x": f32(1, 1, 4, 4), "r": np.array([[0, 0, np.nan, 2], [-1e30, 0, 1e30, 3]], np.float32), "b": i64(0, 0)},
               output_height=2, output_width=2),
        single("RoiAlign batch", "RoiAlign", {"x": f32(1, 1, 4, 4), "r": np.array([[0, 0, 2, 2]], np.float32), "b": i64(7)}, output_height=2, output_width=2),
        single("MaxRoiPool wild", "MaxRoiPool", {"x": f32(1, 1, 4, 4), "r": np.array([[0, 0, 0, np.nan, 2], [9, -1e30, 0, 1e30, 3]], np.float32)},
               pooled_shape=[2, 2]),
        single("NMS wild", "NonMaxSuppression", {"b": np.tile(wild[:4], (1, 5, 1)), "s": np.tile(wild[:5], (1, 1, 1))},
               {"m": i64(HIGH), "i": f32(1) + 3.5, "t": np.array([-np.inf], np.float32)}),
        single("NMS many", "NonMaxSuppression", {"b": f32(1, 5, 4), "s": f32(1, 1, 5)}, {"m": i64(-4)}),
        single("Unique wild", "Unique", {"x": wild}),
        single("NonZero wild", "NonZero", {"x": wild}),
        single("Compress long", "Compress", {"x": x, "c": np.array([True] * 40)}),
        single("ReverseSequence beyond", "ReverseSequence", {"x": f32(4, 2), "l": i64(99, -3)}),
        single("LSTM lengths", "LSTM", {"x": f32(2, 2, 3), "l": np.array([99, -5], np.int32)}, {"w": f32(1, 16, 3), "r": f32(1, 16, 4)}, hidden_size=4,
               inputs=["x", "w", "r", "", "l"]),
        single("MaxUnpool far", "MaxUnpool", {"x": f32(1, 1, 2, 2), "i": i64([[[[0, 999], [-4, HIGH]]]]).reshape(1, 1, 2, 2)}, kernel_shape=[2, 2], strides=[2, 2]),
        single("Trilu far", "Trilu", {"x": x, "k": np.int64(LOW)}),
        single("CumSum far axis", "CumSum", {"x": x, "a": np.int64(7)}),
        single("EyeLike far", "EyeLike", {"x": x}, k=LOW),
        single("TfIdf", "TfIdfVectorizer", {"x": i64(1, 2, HIGH)}, mode="TF", min_gram_length=1, max_gram_length=1, max_skip_count=0, ngram_counts=[0],
               ngram_indexes=[0, 1], pool_int64s=[1, 2]),
        single("Multinomial", "Multinomial", {"x": wild.reshape(1, 8)}, sample_size=4),
        single("Bernoulli", "Bernoulli", {"x": wild}),
        single("NLL outside", "NegativeLogLikelihoodLoss", {"x": x, "t": i64(0, 9, -5, HIGH)}),
        single("SoftmaxCrossEntropy outside", "SoftmaxCrossEntropyLoss", {"x": x, "t": i64(0, 9, -5, HIGH)}),
    ]  # fmt: skip
    return rows


# --- empty tensors ------------------------------------------------------------------------------------------------------
def empty() -> list[Case]:
    """Operators of every family on tensors without elements."""
    e, row = f32(0, 3), f32(2, 0)
    rows: list[Case] = []
    unary = "Relu Neg Exp Sigmoid Softmax LogSoftmax Hardmax Identity Transpose Flatten Shape Size NonZero IsNaN Gelu Softplus LpNormalization Det".split()
    for op in unary:
        if op != "Det":
            rows += [single(f"{op} 0x3", op, {"x": e}), single(f"{op} 2x0", op, {"x": row})]
    for op in "Add Mul Div Less Max Min Sum Mean PRelu".split():
        rows += [single(f"{op} 0x3", op, {"x": e, "w": f32(3)}), single(f"{op} 0 with 1", op, {"x": f32(0), "w": f32(1)})]
    for op in "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare".split():
        rows += [single(f"{op} 0x3 axis 1", op, {"x": e}, {"a": i64(1)}), single(f"{op} 0x3 axis 0", op, {"x": e}, {"a": i64(0)}),
                 single(f"{op} all", op, {"x": e}, keepdims=0)]  # fmt: skip
    for op in ("ArgMax", "ArgMin"):
        rows += [single(f"{op} other axis", op, {"x": e}, axis=1), single(f"{op} empty axis", op, {"x": e}, axis=0)]
    image, weights = f32(0, 3, 8, 8), f32(4, 3, 3, 3)
    rows += [
        single("MatMul rows", "MatMul", {"x": e, "w": f32(3, 4)}), single("MatMul columns", "MatMul", {"x": f32(2, 3), "w": f32(3, 0)}),
        single("MatMul inner", "MatMul", {"x": row, "w": f32(0, 4)}), single("MatMul batch", "MatMul", {"x": f32(0, 2, 3), "w": f32(3, 4)}),
        single("MatMul constant", "MatMul", {"x": e}, {"w": f32(3, 4)}), single("Gemm rows", "Gemm", {"x": e}, {"w": f32(3, 4), "b": f32(4)}),
        single("Gemm inner", "Gemm", {"x": row, "w": f32(0, 4), "b": f32(4)}), single("Conv batch", "Conv", {"x": image}, {"w": weights}),
        single("Conv depthwise", "Conv", {"x": image}, {"w": f32(3, 1, 3, 3)}, group=3), single("Conv 1x1", "Conv", {"x": image}, {"w": f32(4, 3, 1, 1)}),
        single("ConvTranspose batch", "ConvTranspose", {"x": image}, {"w": f32(3, 4, 3, 3)}),
        single("MaxPool batch", "MaxPool", {"x": image}, kernel_shape=[2, 2]), single("AveragePool batch", "AveragePool", {"x": image}, kernel_shape=[2, 2]),
        single("GlobalAveragePool batch", "GlobalAveragePool", {"x": image}), single("GlobalAveragePool none", "GlobalAveragePool", {"x": f32(1, 3, 0, 8)}),
        single("GlobalMaxPool none", "GlobalMaxPool", {"x": f32(1, 3, 0, 8)}),
        single("BatchNormalization", "BatchNormalization", {"x": image}, {"s": f32(3), "b": f32(3), "m": f32(3), "v": f32(3) + 4}),
        single("InstanceNormalization", "InstanceNormalization", {"x": image}, {"s": f32(3), "b": f32(3)}),
        single("LayerNormalization", "LayerNormalization", {"x": e}, {"s": f32(3), "b": f32(3)}),
        single("GroupNormalization", "GroupNormalization", {"x": f32(0, 4, 2)}, {"s": f32(2), "b": f32(2)}, num_groups=2),
        single("LRN", "LRN", {"x": image}, size=3),
        single("Concat", "Concat", {"x": e, "w": f32(2, 3)}, axis=0), single("Concat empty", "Concat", {"x": e, "w": e}, axis=0),
        single("Concat inner", "Concat", {"x": e, "w": f32(0, 2)}, axis=1),
        single("Split", "Split", {"x": e}, outputs=3, axis=1, num_outputs=3), single("Split none", "Split", {"x": e}, {"s": i64(0, 0)}, outputs=2, axis=0),
        single("Slice to none", "Slice", {"x": f32(4, 3)}, {"a": i64(2), "b": i64(2)}), single("Slice of none", "Slice", {"x": e}, {"a": i64(0), "b": i64(5)}),
        single("Gather no index", "Gather", {"x": f32(4, 3), "i": i64()}), single("Gather from none", "Gather", {"x": e, "i": i64()}),
        single("Gather from none fails", "Gather", {"x": e, "i": i64(0)}, error="ExecutionError"),
        single("GatherElements from none fails", "GatherElements", {"x": e, "i": i64([0, 0, 0])}, error="ExecutionError"),
        single("GatherND from none fails", "GatherND", {"x": e, "i": i64([0, 0])}, error="ExecutionError"),
        single("RoiAlign from none fails", "RoiAlign", {"x": f32(0, 1, 4, 4), "r": f32(1, 4), "b": i64(0)}, error="ExecutionError"),
        single("RoiAlign of none fails", "RoiAlign", {"x": f32(1, 1, 0, 4), "r": f32(1, 4), "b": i64(0)}, error="ExecutionError"),
        single("MaxRoiPool from none fails", "MaxRoiPool", {"x": f32(0, 1, 4, 4), "r": f32(1, 5)}, pooled_shape=[2, 2], error="ExecutionError"),
        single("Resize of none fails", "Resize", {"x": f32(1, 1, 0, 2), "s": i64(1, 1, 4, 4)}, inputs=["x", "", "", "s"], mode="linear", error="ExecutionError"),
        single("Pad edge of none fails", "Pad", {"x": e, "p": i64(1, 0, 1, 0)}, mode="edge", error="ExecutionError"),
        single("Pad wrap of none fails", "Pad", {"x": e, "p": i64(1, 0, 1, 0)}, mode="wrap", error="ExecutionError"),
        single("NLL of no classes fails", "NegativeLogLikelihoodLoss", {"x": f32(4, 0), "t": i64(0, 0, 0, 0)}, error="ExecutionError"),
        single("NLL weights fail", "NegativeLogLikelihoodLoss", {"x": f32(4, 3), "t": i64(0, 1, 2, 0), "w": f32(0)}, error="ShapeMismatch"),
        single("GatherElements", "GatherElements", {"x": f32(4, 3), "i": np.zeros((0, 3), np.int64)}),
        single("GatherND", "GatherND", {"x": f32(4, 3), "i": np.zeros((0, 2), np.int64)}),
        single("ScatterND", "ScatterND", {"x": f32(4, 3), "i": np.zeros((0, 1), np.int64), "u": f32(0, 3)}),
        single("ScatterElements", "ScatterElements", {"x": f32(4, 3), "i": np.zeros((0, 3), np.int64), "u": f32(0, 3)}),
        single("Pad from none", "Pad", {"x": e}, {"p": i64(1, 0, 1, 0)}), single("Tile", "Tile", {"x": e}, {"r": i64(2, 2)}),
        single("Tile to none", "Tile", {"x": f32(2, 3)}, {"r": i64(0, 2)}), single("Expand", "Expand", {"x": f32(1, 3)}, {"s": i64(0, 3)}),
        single("Reshape", "Reshape", {"x": e}, {"s": i64(3, 0)}, allowzero=1), single("Reshape rest", "Reshape", {"x": e}, {"s": i64(-1, 3)}),
        single("Squeeze", "Squeeze", {"x": f32(1, 0)}, {"a": i64(0)}), single("Unsqueeze", "Unsqueeze", {"x": e}, {"a": i64(0)}),
        single("Where", "Where", {"c": np.zeros((0, 3), bool), "x": e, "w": f32(3)}), single("Clip", "Clip", {"x": e}, {"l": np.float32(0), "h": np.float32(1)}),
        single("Cast", "Cast", {"x": e}, to=onnx.TensorProto.INT64), single("CumSum", "CumSum", {"x": e}, {"a": np.int64(0)}),
        single("TopK none", "TopK", {"x": e, "k": i64(0)}, outputs=2, axis=0), single("TopK rows", "TopK", {"x": e, "k": i64(2)}, outputs=2),
        single("Unique", "Unique", {"x": f32(0)}), single("Compress", "Compress", {"x": e, "c": np.zeros(0, bool)}, axis=0),
        single("OneHot", "OneHot", {"i": i64(), "d": i64(3), "v": f32(2)}), single("OneHot depth 0", "OneHot", {"i": i64(1), "d": i64(0), "v": f32(2)}),
        single("Range", "Range", {"a": np.int64(3), "b": np.int64(3), "c": np.int64(1)}), single("ConstantOfShape", "ConstantOfShape", {"s": i64(0, 3)}),
        single("Trilu", "Trilu", {"x": f32(0, 0)}), single("EyeLike", "EyeLike", {"x": e}),
        single("DepthToSpace", "DepthToSpace", {"x": f32(0, 4, 2, 2)}, blocksize=2), single("SpaceToDepth", "SpaceToDepth", {"x": f32(0, 1, 2, 2)}, blocksize=2),
        single("Resize", "Resize", {"x": f32(0, 1, 2, 2)}, {"s": i64(0, 1, 4, 4)}, inputs=["x", "", "", "s"]),
        single("Resize to none", "Resize", {"x": f32(1, 1, 2, 2)}, {"s": i64(1, 1, 0, 4)}, inputs=["x", "", "", "s"]),
        single("GridSample", "GridSample", {"x": f32(1, 1, 4, 4), "g": f32(1, 0, 2, 2)}),
        single("RoiAlign", "RoiAlign", {"x": f32(1, 1, 4, 4), "r": f32(0, 4), "b": i64()}, output_height=2, output_width=2),
        single("NMS", "NonMaxSuppression", {"b": f32(1, 0, 4), "s": f32(1, 1, 0)}, {"m": i64(3)}),
        single("Einsum", "Einsum", {"x": e, "w": f32(3, 2)}, equation="ab,bc->ac"), single("Einsum inner", "Einsum", {"x": row, "w": f32(0, 2)}, equation="ab,bc->ac"),
        single("LSTM no steps", "LSTM", {"x": f32(0, 1, 3)}, {"w": f32(1, 16, 3), "r": f32(1, 16, 4)}, outputs=3, hidden_size=4),
        single("LSTM no batch", "LSTM", {"x": f32(2, 0, 3)}, {"w": f32(1, 16, 3), "r": f32(1, 16, 4)}, outputs=3, hidden_size=4),
        single("GRU no steps", "GRU", {"x": f32(0, 1, 3)}, {"w": f32(1, 12, 3), "r": f32(1, 12, 4)}, outputs=2, hidden_size=4),
        single("RNN no batch", "RNN", {"x": f32(2, 0, 3)}, {"w": f32(1, 4, 3), "r": f32(1, 4, 4)}, outputs=2, hidden_size=4),
        single("QuantizeLinear", "QuantizeLinear", {"x": e}, {"s": np.float32(0.1), "z": np.uint8(3)}),
        single("DynamicQuantizeLinear", "DynamicQuantizeLinear", {"x": f32(0)}, outputs=3),
        single("MatMulInteger", "MatMulInteger", {"x": np.zeros((0, 3), np.uint8), "w": np.zeros((3, 4), np.uint8)}),
        single("NLL", "NegativeLogLikelihoodLoss", {"x": e, "t": i64()}, reduction="sum"),
    ]  # fmt: skip
    return rows
