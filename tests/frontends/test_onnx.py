"""Reading models: what is right arrives unchanged, what is wrong is a ModelError that says where."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from hasten.base.errors import HastenError, ModelError, ResourceLimit, UnsupportedOperator
from hasten.frontends import load_graph
from hasten.graph import prepare

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{HEAD} {text}")


def relu() -> onnx.ModelProto:
    return parsed("g (float[n] x) => (float[n] y) { y = Relu(x) }")


def with_weight(tensor: TensorProto) -> onnx.ModelProto:
    model = parsed("g (float[n] x) => (float[n] y) { y = Add(x, w) }")
    model.graph.initializer.append(tensor)
    return model


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


# --- what is right -------------------------------------------------------------------------------------------------


def test_all_kinds_of_models(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(relu(), path)
    for model in (path, str(path), path.read_bytes(), relu(), ir.load(path)):
        graph = load_graph(model)
        assert ops(graph) == ["Relu"] and [v.name for v in graph.graph.inputs] == ["x"]


def test_the_given_model_is_not_changed() -> None:
    proto = with_weight(numpy_helper.from_array(np.float32([1, 2]), "w"))
    before = proto.SerializeToString(deterministic=True)
    prepare(load_graph(proto))
    assert proto.SerializeToString(deterministic=True) == before
    model = ir.from_proto(proto)
    prepare(load_graph(model))
    assert ops(model) == ["Add"] and model.opset_imports == {"": 17}


def test_initializers_repeated_as_inputs_are_constants() -> None:
    model = with_weight(numpy_helper.from_array(np.float32([1, 2]), "w"))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    graph = load_graph(model).graph
    assert [v.name for v in graph.inputs] == ["x"]
    np.testing.assert_array_equal(graph.initializers["w"].const_value.numpy(), [1, 2])


def test_unsorted_nodes_are_sorted() -> None:
    model = parsed("g (float[n] x) => (float[n] y) { a = Relu(x) b = Neg(a) y = Exp(b) }")
    model.graph.node.reverse()
    assert ops(load_graph(model)) == ["Relu", "Neg", "Exp"]


def test_sparse_tensors_become_dense() -> None:
    values, indices = numpy_helper.from_array(np.float32([5, 7]), "w"), numpy_helper.from_array(np.int64([1, 3]), "i")
    model = parsed("g (float[2,3] x) => (float[2,3] y) { y = Add(x, w) }")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 3]))
    np.testing.assert_array_equal(load_graph(model).graph.initializers["w"].const_value.numpy(), [[0, 5, 0], [7, 0, 0]])
    model.graph.sparse_initializer[0].dims[0] = 1 << 40
    with pytest.raises(ResourceLimit, match="'w'.*dense"):
        load_graph(model)


def test_body_that_returns_a_value_twice() -> None:
    model = parsed(
        "g (float[2] x, bool c) => (float[2] y, float[2] z) { y, z = If(c) "
        "<then_branch = t () => (float[2] a, float[2] a) { a = Relu(x) }, "
        "else_branch = e () => (float[2] b, float[2] d) { b = Neg(x) d = Exp(x) }> }"
    )
    branch = load_graph(model).graph[0].attributes["then_branch"].as_graph()
    assert len({id(v) for v in branch.outputs}) == 2


@pytest.mark.parametrize("dtype", [d for d in ir.DataType if d.name not in ("UNDEFINED", "STRING")])
def test_every_dtype(dtype: ir.DataType) -> None:
    raw = np.arange(96, dtype=np.uint8) % 2
    size = (6 * dtype.bitwidth + 7) // 8
    tensor = TensorProto(name="w", data_type=dtype.value, dims=[2, 3], raw_data=raw[:size].tobytes())
    model = relu()
    model.graph.initializer.append(tensor)
    found = load_graph(model).graph.initializers["w"].const_value
    assert found.dtype == dtype and found.numpy().shape == (2, 3)


def test_strings() -> None:
    model = relu()
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.STRING, [2], [b"a", b"\xc3\xa4"]))
    assert list(load_graph(model).graph.initializers["w"].const_value.string_data()) == [b"a", "ä".encode()]


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no model file"),
        (b"", "is empty"),
        (b"not a model at all" * 20, "not an ONNX model"),
        (relu().SerializeToString()[:-3], "not an ONNX model|truncated|damaged"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
    ],
)
def test_bad_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_graph(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a regular file"):
        load_graph(tmp_path)
    with pytest.raises(ModelError, match="not a regular file"):
        load_graph("/dev/zero")
    with pytest.raises(ModelError, match="not int"):
        load_graph(3)  # type: ignore[arg-type]


# --- external data ---------------------------------------------------------------------------------------------------


def external(location: str, **entries: object) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def saved(tmp_path: Path, tensor: TensorProto) -> Path:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    np.arange(12, dtype=np.float32).tofile(folder / "w.bin")
    np.arange(12, dtype=np.float32).tofile(tmp_path / "secret.bin")
    path = folder / "m.onnx"
    path.write_bytes(with_weight(tensor).SerializeToString())
    return path


def test_external_data_is_mapped(tmp_path: Path) -> None:
    path = saved(tmp_path, external("w.bin", offset=8, length=24))
    found = load_graph(path).graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(found, np.arange(2, 8).reshape(2, 3))
    assert isinstance(found.base, np.memmap) or isinstance(found, np.memmap)


@pytest.mark.parametrize(
    "tensor, message",
    [
        (external("../secret.bin"), "out of the model's folder"),
        (external("/etc/passwd"), "not a relative path"),
        (external("link.bin"), "through a link"),
        (external("missing.bin"), "missing"),
        (external(""), "not a relative path"),
        (external("."), "not a regular file"),
        (external("w.bin", offset=40), "truncated"),
        (external("w.bin", offset=-4), "truncated"),
        (external("w.bin", offset="x"), "not a number"),
        (external("w.bin", length=20), "says 20"),
    ],
)
def test_bad_external_data(tensor: TensorProto, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path, tensor)
    os.symlink(tmp_path / "secret.bin", path.parent / "link.bin")
    with pytest.raises(ModelError, match=rf"'w'.*{message}"):
        load_graph(path)


def test_external_data_needs_a_folder() -> None:
    with pytest.raises(ModelError, match="without a folder"):
        load_graph(with_weight(external("w.bin")))


# --- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor, message",
    [
        (TensorProto(name="w", data_type=1, dims=[3], raw_data=b"12345678"), "needs 12 bytes, the file holds 8"),
        (TensorProto(name="w", data_type=1, dims=[3], float_data=[1, 2]), "needs 3 entries in float_data"),
        (TensorProto(name="w", data_type=1, dims=[-3], raw_data=b"1234"), "negative"),
        (TensorProto(name="w", data_type=1, dims=[1 << 40, 1 << 40], raw_data=b"1234"), "any machine"),
        (TensorProto(name="w", data_type=1, dims=[1 << 62], raw_data=b"1234"), "passes the limit"),
        (TensorProto(name="w", data_type=1, dims=[1 << 40], raw_data=b"1234"), "the file holds 4"),
        (TensorProto(name="w", data_type=99, dims=[1], raw_data=b"1234"), "element type 99"),
        (TensorProto(name="w", data_type=0, dims=[1], raw_data=b"1234"), "not set"),
        (TensorProto(name="w", data_type=8, dims=[1], raw_data=b"1234"), "raw data"),
        (TensorProto(name="w", data_type=1, dims=[1], float_data=[1], int64_data=[1]), "another field"),
    ],
)
def test_bad_tensors(tensor: TensorProto, message: str) -> None:
    with pytest.raises((ModelError, ResourceLimit), match=rf"'w'.*{message}"):
        load_graph(with_weight(tensor))


# --- structure -------------------------------------------------------------------------------------------------------

STRUCTURE = {
    "cycle": ("g (float[n] x) => (float[n] y) { a = Add(x, y) y = Relu(a) }", "'-> (a|y)'.*cycle"),
    "undefined input": ("g (float[n] x) => (float[n] y) { y = Add(x, z) }", r"\(Add\).*'z' is not defined"),
    "output defined twice": (
        "g (float[n] x) => (float[n] y) { y = Relu(x) y = Neg(x) }",
        r"\(Neg\).*'y' is defined twice",
    ),
    "input defined twice": ("g (float[n] x, float[n] x) => (float[n] y) { y = Relu(x) }", "'x' is defined twice"),
    "output missing": ("g (float[n] x) => (float[n] z) { y = Relu(x) }", "'z' is produced by no node"),
    "output twice": ("g (float[n] x) => (float[n] y, float[n] y) { y = Relu(x) }", "two outputs"),
    "no outputs": ("g (float[n] x) => () { y = Relu(x) }", "no outputs"),
    "too few inputs": ("g (float[n] x) => (float[n] y) { y = Add(x) }", "has 1 inputs, the operator takes 2"),
    "too many outputs": ("g (float[n] x) => (float[n] y) { y, z = Relu(x) }", "has 2 outputs, the operator takes 1"),
    "required input left out": ('g (float[n] x) => (float[n] y) { y = Add(x, "") }', "must not be left out"),
    "unknown attribute": ("g (float[n] x) => (float[n] y) { y = Relu<alpha=1>(x) }", "no such attribute"),
    "wrong attribute type": ('g (float[n] x) => (float[n] y) { y = Elu<alpha="a">(x) }', "of type STRING.*takes FLOAT"),
    "missing attribute": ("g (float[n] x) => (float[n] y) { y = Concat(x) }", "'axis' is missing"),
    "input without type": ("g (x) => (float[n] y) { y = Relu(x) }", "'x'.*type is not given"),
    "huge input": ("g (float[1099511627776,4] x) => (float[n] y) { y = Relu(x) }", "'x'.*any machine"),
    "branch without output": (
        "g (bool c) => (float y) { y = If(c) <then_branch = t () => (float a) { a = Constant<value_float=1.0>() }, "
        "else_branch = e () => () { b = Constant<value_float=1.0>() }> }",
        "0 outputs, not 1",
    ),
    "loop with the wrong inputs": (
        "g (int64 m, bool c, float s) => (float y) { y = Loop(m, c, s) "
        "<body = b (int64 i, bool d) => (bool e, float t) { e = Identity(d) t = Cast<to=1>(i) }> }",
        "2 inputs, not 3",
    ),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_bad_structure(name: str) -> None:
    text, message = STRUCTURE[name]
    with pytest.raises((ModelError, ResourceLimit), match=message):
        load_graph(parsed(text.replace('""', "")) if name != "required input left out" else _left_out())


def _left_out() -> onnx.ModelProto:
    model = parsed("g (float[n] x) => (float[n] y) { y = Add(x, x) }")
    model.graph.node[0].input[1] = ""
    return model


def test_unknown_operator_and_domain() -> None:
    model = relu()
    model.graph.node[0].op_type = "Reluu"
    with pytest.raises(UnsupportedOperator, match="opset 17.*'Reluu'"):
        load_graph(model)
    model.graph.node[0].domain = "my.domain"
    with pytest.raises(ModelError, match="'my.domain'"):
        load_graph(model)


def test_versions() -> None:
    model = relu()
    model.ir_version = onnx.IR_VERSION + 1
    with pytest.raises(ModelError, match=f"IR version {onnx.IR_VERSION + 1}"):
        load_graph(model)
    model.ir_version = 8
    del model.opset_import[:]
    with pytest.raises(ModelError, match="no operator set"):
        load_graph(model)


def test_names_that_are_not_text() -> None:
    data = relu().SerializeToString().replace(b"Relu", b"R\xffl\xfe")
    with pytest.raises(ModelError, match="UTF-8"):
        load_graph(data)


def test_nesting_is_limited() -> None:
    def nested(depth: int) -> onnx.GraphProto:
        node = helper.make_node("Identity", ["c"], ["o"])
        if depth:
            branch = nested(depth - 1)
            node = helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch)
        return helper.make_graph([node], "g", [], [helper.make_tensor_value_info("o", TensorProto.BOOL, [])])

    graph = nested(1)
    current = graph
    for _ in range(28):  # one branch per level: the file grows linearly
        node = helper.make_node("If", ["c"], ["o"], then_branch=current, else_branch=nested(0))
        current = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("o", TensorProto.BOOL, [])])
    current.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    with pytest.raises((ResourceLimit, ModelError), match="nested|truncated"):
        load_graph(helper.make_model(current, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_recursive_function() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "l": 1]> g (float[1] x) => (float[1] y) { y = l.f(x) } '
        '<domain: "l", opset_import: ["": 17, "l": 1]> f (a) => (b) { b = l.f(a) }'
    )
    with pytest.raises(ModelError, match="calls itself"):
        prepare(load_graph(model))


def test_functions_that_grow_exponentially() -> None:
    functions = "".join(
        f'<domain: "l", opset_import: ["": 17, "l": 1]> f{i} (a) => (d) '
        f"{{ b = l.f{i + 1}(a) c = l.f{i + 1}(b) d = l.f{i + 1}(c) }} "
        for i in range(30)
    )
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "l": 1]> g (float[1] x) => (float[1] y) { y = l.f0(x) } '
        f'{functions} <domain: "l", opset_import: ["": 17]> f30 (a) => (b) {{ b = Relu(a) }}'
    )
    with pytest.raises(ResourceLimit, match="inlining"):
        prepare(load_graph(model))


def test_damaged_files_never_surprise(example_models: Path) -> None:
    """Flipped bits, cut files, zeroed and reversed stretches: a HastenError or a graph, quickly."""
    generator = random.Random(5)
    paths = sorted(example_models.rglob("*.onnx"), key=lambda path: path.stat().st_size)[:3]
    sources = [path.read_bytes() for path in paths] or [relu().SerializeToString()]
    for case in range(300):
        data = bytearray(sources[case % len(sources)])
        at = generator.randrange(min(len(data), 4000))
        kind = generator.choice(["flip", "cut", "zero", "reverse"])
        if kind == "flip":
            data[at] ^= 1 << generator.randrange(8)
        elif kind == "cut":
            del data[generator.randrange(len(data)) :]
        elif kind == "zero":
            data[at : at + 16] = bytes(len(data[at : at + 16]))
        else:
            data[at : at + 40] = data[at : at + 40][::-1]
        started = time.monotonic()
        try:
            prepare(load_graph(bytes(data)))
        except HastenError as error:
            assert len(str(error)) > 15
        assert time.monotonic() - started < 10
