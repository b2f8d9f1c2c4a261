"""ai.onnx.ml without trees, against ONNX Runtime."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
from native import LEVELS, check_spec  # noqa: E402
from tracing import evaluate, reference, trace_node  # noqa: E402

import hasten  # noqa: E402
from hasten.kernels.coupling import CouplingSpec  # noqa: E402

ML = "ai.onnx.ml"
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def model_of(
    op: str, inputs: list[np.ndarray], outputs: list[int], symbolic: bool = True, **attributes: Any
) -> onnx.ModelProto:
    names = [f"x{k}" for k in range(len(inputs))]
    node = helper.make_node(op, names, [f"y{k}" for k in range(len(outputs))], domain=ML, **attributes)
    infos = []
    for name, x in zip(names, inputs, strict=True):
        shape = [f"{name}_n", *x.shape[1:]] if symbolic else list(x.shape)
        infos.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), shape))
    results = [helper.make_tensor_value_info(n, dt, None) for n, dt in zip(node.output, outputs, strict=True)]
    graph = helper.make_graph([node], "g", infos, results)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid(ML, 4 if op == "LabelEncoder" else 1)], ir_version=10
    )


def check(
    op: str,
    *inputs: np.ndarray,
    outputs: tuple[int, ...] = (FLOAT,),
    expected: list[np.ndarray] | None = None,
    symbolic: bool = True,
    rtol: float = 2e-5,
    **attributes: Any,
) -> None:
    model = model_of(op, list(inputs), list(outputs), symbolic, **attributes)
    feeds = {f"x{k}": x for k, x in enumerate(inputs)}
    want = expected or reference(model, feeds)
    native = list(hasten.compile(model, threads=1, host_ops=False).run(feeds).values())
    for got in (evaluate(trace_node(model), feeds), native):
        for a, b in zip(got, want, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            if b.dtype.kind == "i":
                np.testing.assert_array_equal(a, b)
            else:
                np.testing.assert_allclose(a, b, rtol=rtol, atol=2e-6)


def table(rng: np.random.Generator, dtype: str = "float32", shape: tuple[int, ...] = (13, 6)) -> np.ndarray:
    x = rng.normal(size=shape) * 3
    x[0] = 0
    return x.astype(dtype)


TYPES = ["float32", "float64", "int64", "int32"]


# --- preparation --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [1, 6])
def test_scaler(rng: np.random.Generator, dtype: str, count: int) -> None:
    check("Scaler", table(rng, dtype), offset=rng.normal(size=count).tolist(), scale=rng.normal(size=count).tolist())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(rng: np.random.Generator, dtype: str, norm: str) -> None:
    check("Normalizer", table(rng, dtype), norm=norm)


def test_binarizer(rng: np.random.Generator) -> None:
    check("Binarizer", table(rng), threshold=0.25)


def test_imputer(rng: np.random.Generator) -> None:
    x = table(rng)
    x[rng.random(x.shape) < 0.3] = np.nan
    check("Imputer", x, imputed_value_floats=rng.normal(size=6).tolist(), replaced_value_float=float("nan"))
    check("Imputer", table(rng, "int64"), outputs=(INT64,), imputed_value_int64s=[7], replaced_value_int64=0)


def test_array_feature_extractor(rng: np.random.Generator) -> None:
    check("ArrayFeatureExtractor", table(rng), np.array([4, 0, 0]), symbolic=False)
    check("ArrayFeatureExtractor", table(rng, "int64")[3], np.array([5, 2]), outputs=(INT64,), symbolic=False)


def test_feature_vectorizer(rng: np.random.Generator) -> None:
    check("FeatureVectorizer", table(rng), table(rng, shape=(13, 2)), symbolic=False, inputdimensions=[4, 5])


@pytest.mark.parametrize("count", [3, 100])
def test_label_encoder(rng: np.random.Generator, count: int) -> None:
    keys = rng.permutation(400)[:count]
    x = rng.integers(0, 400, (20, 9))
    x[0] = keys[:9] if count > 9 else keys[0]
    check(
        "LabelEncoder", x, keys_int64s=keys.tolist(), values_floats=rng.normal(size=count).tolist(), default_float=0.5
    )
    check(
        "LabelEncoder",
        x,
        outputs=(INT64,),
        keys_int64s=keys.tolist(),
        values_int64s=rng.permutation(count).tolist(),
        default_int64=-7,
    )
    y = x.astype("f4")
    y[1, :4] = np.nan
    names = [*keys[1:].tolist(), float("nan")]
    check("LabelEncoder", y, outputs=(INT64,), keys_floats=names, values_int64s=list(range(count)))


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_one_hot_encoder(rng: np.random.Generator, dtype: str) -> None:
    x = rng.integers(0, 9, (5, 7)).astype(dtype)
    check("OneHotEncoder", x, cats_int64s=[7, 2, 3])
    everything = rng.permutation(9).tolist()
    check("OneHotEncoder", x, cats_int64s=everything, zeros=0)
    with pytest.raises(hasten.ExecutionError):
        hasten.compile(model_of("OneHotEncoder", [x], [FLOAT], cats_int64s=[70], zeros=0))(x)


# --- models -------------------------------------------------------------------------------------------------------------
TRANSFORMS = ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("targets", [1, 4])
def test_linear_regressor(rng: np.random.Generator, targets: int, transform: str) -> None:
    weights = rng.normal(size=(targets, 6)).astype("f4")
    check(
        "LinearRegressor",
        table(rng),
        targets=targets,
        coefficients=weights.reshape(-1).tolist(),
        intercepts=rng.normal(size=targets).tolist(),
        post_transform=transform,
    )


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("rows", "labels"), [(1, [4, 9]), (2, [4, 9]), (5, [0, 1, 2, 3, 4]), (3, [9, 3, 5])])
def test_linear_classifier(rng: np.random.Generator, rows: int, labels: list[int], transform: str) -> None:
    weights = rng.normal(size=(rows, 6)).astype("f4")
    for dtype in ("float32", "int64"):
        check(
            "LinearClassifier",
            table(rng, dtype),
            outputs=(INT64, FLOAT),
            classlabels_ints=labels,
            coefficients=weights.reshape(-1).tolist(),
            intercepts=rng.normal(size=rows).tolist(),
            post_transform=transform,
        )


KERNELS = {"LINEAR": [0.5, 0.0, 3.0], "POLY": [0.1, 0.5, 3.0], "RBF": [0.05, 0.0, 3.0], "SIGMOID": [0.1, 0.2, 3.0]}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_svm_regressor(rng: np.random.Generator, kernel: str, one_class: int) -> None:
    check(
        "SVMRegressor",
        table(rng),
        kernel_type=kernel,
        kernel_params=KERNELS[kernel],
        n_supports=9,
        support_vectors=table(rng, shape=(9, 6)).reshape(-1).tolist(),
        coefficients=rng.normal(size=9).tolist(),
        rho=[0.3],
        one_class=one_class,
    )


SVC = list(itertools.product(KERNELS, (2, 4), (True, False), ("NONE", "SOFTMAX", "LOGISTIC")))


@pytest.mark.parametrize(("kernel", "classes", "probabilities", "transform"), SVC)
def test_svm_classifier(
    rng: np.random.Generator, kernel: str, classes: int, probabilities: bool, transform: str
) -> None:
    counts = rng.integers(1, 5, classes)
    total, pairs = int(counts.sum()), classes * (classes - 1) // 2
    more = (
        {"prob_a": rng.normal(size=pairs).tolist(), "prob_b": rng.normal(size=pairs).tolist()} if probabilities else {}
    )
    check(
        "SVMClassifier",
        table(rng),
        outputs=(INT64, FLOAT),
        rtol=1e-3,
        kernel_type=kernel,
        kernel_params=KERNELS[kernel],
        vectors_per_class=counts.tolist(),
        support_vectors=table(rng, shape=(total, 6)).reshape(-1).tolist(),
        coefficients=rng.normal(size=(classes - 1) * total).tolist(),
        rho=rng.normal(size=pairs).tolist(),
        classlabels_ints=list(range(10, 10 + classes)),
        post_transform=transform,
        **more,
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_svm(rng: np.random.Generator, classes: int) -> None:
    for weights in (rng.normal(size=classes * 6), rng.random(classes * 6)):
        check(
            "SVMClassifier",
            table(rng),
            outputs=(INT64, FLOAT),
            coefficients=weights.tolist(),
            rho=[0.1],
            classlabels_ints=[5, 6, 7][:classes],
            kernel_params=KERNELS["LINEAR"],
        )


@pytest.mark.parametrize("isa", LEVELS)
def test_coupling(rng: np.random.Generator, isa: str) -> None:
    for classes in (2, 3, 7):
        pairs = rng.uniform(0.01, 0.99, (5, classes * (classes - 1) // 2)).astype("f4")
        check_spec(CouplingSpec(classes), [pairs], [("float32", (5, classes))], isa, rtol=1e-4, atol=1e-6)


def test_text_labels(rng: np.random.Generator) -> None:
    """Labels that are strings come from a host op; the scores stay native."""
    x = table(rng)
    attributes = {
        "classlabels_strings": ["a", "b", "c"],
        "coefficients": rng.normal(size=18).tolist(),
        "intercepts": [0.0, 0.1, 0.2],
    }
    model = model_of("LinearClassifier", [x], [STRING, FLOAT], **attributes)
    want = reference(model, {"x0": x})
    got = list(hasten.compile(model, threads=1).run({"x0": x}).values())
    assert list(got[0]) == list(want[0]) and got[0].dtype == want[0].dtype
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-5)
    with pytest.raises(hasten.UnsupportedOperator, match="strings"):
        hasten.compile(model, host_ops=False)


def test_zip_map(rng: np.random.Generator) -> None:
    """A list of dicts, as ONNX Runtime gives it."""
    x = rng.random((4, 3)).astype("f4")
    for attributes in ({"classlabels_int64s": [7, 8, 9]}, {"classlabels_strings": ["a", "b", "c"]}):
        model = model_of("ZipMap", [x], [FLOAT], **attributes)
        key = helper.make_tensor_type_proto(
            STRING if "classlabels_strings" in attributes else INT64, []
        ).tensor_type.elem_type
        value = helper.make_tensor_type_proto(FLOAT, [])
        row = onnx.TypeProto()
        row.map_type.key_type = key
        row.map_type.value_type.CopyFrom(value)
        model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(row))
        got = hasten.compile(model, threads=1)(x)
        want: Any = reference(model, {"x0": x})[0]
        assert got == want


def test_category_mapper() -> None:
    attributes = {"cats_int64s": [3, 5], "cats_strings": ["three", "five"]}
    model = model_of("CategoryMapper", [np.array([3, 4, 5])], [STRING], default_string="none", **attributes)
    assert list(hasten.compile(model, threads=1)(np.array([3, 4, 5]))) == ["three", "none", "five"]
    model.graph.input[0].type.tensor_type.elem_type = STRING
    model.graph.output[0].type.tensor_type.elem_type = INT64
    assert list(hasten.compile(model, threads=1)(np.array(["five", "x"], object))) == [5, -1]
