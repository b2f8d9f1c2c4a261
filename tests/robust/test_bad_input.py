"""Bad input: whatever is fed or compiled, there is an answer or a HastenError that says where and why; never a crash, a
hang, or gigabytes of memory. Everything runs in a sandbox."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Case, build, empty, f32, failing, i64, node, surviving
from hostile import hostile
from sandbox import Sandbox

import hasten

WILD = {  # what other runtimes do with these is not what the standard says, or each does something else
    "Cast wild", "Pow negative", "Range", "Resize scale", "GridSample", "RoiAlign", "MaxRoiPool", "Multinomial", "Bernoulli", "LSTM lengths",
    "Compress long", "NMS", "GroupNormalization", "Quantize", "ReverseSequence", "CumSum far", "MaxUnpool", "NLL outside", "TopK of NaN",
    "SoftmaxCrossEntropy outside", "Arg", "Div", "Mod", "fmod", "BitShift", "GlobalMaxPool none", "Unique wild",
}  # fmt: skip


def answers(case: Case) -> list[list[np.ndarray]]:
    """What ONNX's reference says; none where it fails. (ONNX Runtime aborts the process on some of the empty ones.)"""
    from onnx.reference import ReferenceEvaluator

    try:
        return [[np.asarray(a) for a in ReferenceEvaluator(case.model).run(None, dict(case.feeds))]]
    except Exception:  # noqa: BLE001 - it refuses in many ways
        return []


def agree(got: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return all(
        a.shape == b.shape and a.dtype == b.dtype and np.allclose(a.astype(np.float64), b.astype(np.float64), 1e-3, 1e-5, equal_nan=True)
        for a, b in zip(got, wanted, strict=True)
    )


@pytest.mark.parametrize("case", failing(), ids=lambda c: c.name.replace(" ", "-"))
def test_failing(case: Case, box: Sandbox) -> None:
    verdict = box.attempt(case.model, dict(case.feeds))
    assert verdict.kind == "refused" and verdict.fine, verdict
    assert verdict.error in case.error.split("|"), verdict
    for words in case.says:
        assert words in verdict.message, verdict


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [*empty(), *surviving()], ids=lambda c: c.name.replace(" ", "-"))
def test_strange_values(case: Case, box: Sandbox) -> None:
    """Empty tensors, NaN, infinities, bounds far out: the reference's answer; where it refuses, or runtimes
    differ, anything that is safe."""
    verdict = box.attempt(case.model, dict(case.feeds))
    assert verdict.fine, verdict
    if case.error:
        assert verdict.error == case.error, verdict
    elif not any(case.name.startswith(name) for name in WILD):
        assert verdict.kind == "answer", verdict
        wanted = answers(case)
        got = [np.asarray(a) for a in verdict.outputs.values()]
        assert not wanted or any(agree(got, w) for w in wanted), (got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("case", hostile(), ids=lambda c: c.name.replace(" ", "-"))
def test_hostile(case: Case, box: Sandbox) -> None:
    verdict = box.attempt(case.model, dict(case.feeds), keep=False)
    assert verdict.fine, verdict
    if case.error:
        assert verdict.error in case.error.split("|"), verdict


# --- feeds --------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def two_inputs() -> hasten.CompiledModel:
    feeds = {"x": f32(2, 3), "w": f32(3, 4)}
    model = build([node("MatMul", ["x", "w"], ["y"])], feeds, shapes={"x": ["batch", 3], "w": [3, "wide"]})
    return hasten.compile(model.SerializeToString())


FEEDS: list[tuple[str, Any, type[Exception], str]] = [
    ("missing", {"x": f32(2, 3)}, hasten.InputError, "missing: w"),
    ("extra", {"x": f32(2, 3), "w": f32(3, 4), "more": 1}, hasten.InputError, "unknown: more"),
    ("no dict", [f32(2, 3)], hasten.InputError, "dict"),
    ("None", {"x": None, "w": f32(3, 4)}, hasten.TypeMismatch, "input 'x'"),
    ("object", {"x": object(), "w": f32(3, 4)}, hasten.TypeMismatch, "input 'x'"),
    ("objects", {"x": [object()], "w": f32(3, 4)}, hasten.TypeMismatch, "input 'x'"),
    ("text", {"x": "abc", "w": f32(3, 4)}, hasten.TypeMismatch, "input 'x'"),
    ("ragged", {"x": [[1.0], [1.0, 2.0]], "w": f32(3, 4)}, hasten.TypeMismatch, "input 'x'"),
    ("float64", {"x": f32(2, 3).astype("float64"), "w": f32(3, 4)}, hasten.TypeMismatch, "input 'x'.*astype"),
    ("complex", {"x": f32(2, 3).astype("complex64"), "w": f32(3, 4)}, hasten.TypeMismatch, "input 'x'"),
    ("strings", {"x": np.array([["a"] * 3]), "w": f32(3, 4)}, hasten.TypeMismatch, "input 'x'"),
    ("records", {"x": np.zeros((2, 3), [("a", "f4")]), "w": f32(3, 4)}, hasten.TypeMismatch, "input 'x'"),
    ("rank", {"x": f32(1, 2, 3), "w": f32(3, 4)}, hasten.ShapeMismatch, "input 'x'.*3 axes"),
    ("scalar", {"x": np.float32(1), "w": f32(3, 4)}, hasten.ShapeMismatch, "input 'x'"),
    ("size", {"x": f32(2, 5), "w": f32(3, 4)}, hasten.ShapeMismatch, "input 'x'.*axis 1 must be 3, not 5"),
    ("size of none", {"x": f32(2, 0), "w": f32(3, 4)}, hasten.ShapeMismatch, "input 'x'.*not 0"),
]  # fmt: skip


@pytest.mark.parametrize("name, feeds, error, says", FEEDS, ids=[row[0] for row in FEEDS])
def test_feeds(name: str, feeds: Any, error: type[Exception], says: str, two_inputs: hasten.CompiledModel) -> None:
    with pytest.raises(error, match=says):
        two_inputs.run(feeds)
    if isinstance(feeds, dict) and name not in ("missing", "extra"):
        with pytest.raises(error, match=says):
            two_inputs(*feeds.values())
    assert two_inputs.run({"x": f32(2, 3), "w": f32(3, 4)})["y"].shape == (2, 4)


def test_number_of_arguments(two_inputs: hasten.CompiledModel) -> None:
    for arrays in ((), (f32(2, 3),), (f32(2, 3),) * 3):
        with pytest.raises(hasten.InputError, match=f"{len(arrays)} inputs were given, the model takes 2"):
            two_inputs(*arrays)


def test_no_elements_and_any_strides(two_inputs: hasten.CompiledModel) -> None:
    assert two_inputs(f32(0, 3), f32(3, 4)).shape == (0, 4) and two_inputs(f32(2, 3), f32(3, 0)).shape == (2, 0)
    x, w = f32(5, 4, 3)[::2, 1], f32(4, 3).T
    assert np.array_equal(two_inputs(x, w), x @ w)
    wide = np.frombuffer(bytes(1) + f32(2, 3).tobytes() + bytes(3), np.uint8)[1:25].view(np.float32).reshape(2, 3)  # not aligned
    assert np.array_equal(two_inputs(wide, w), wide @ w)


# --- models -------------------------------------------------------------------------------------------------------------
def graph(*nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None, **options: Any) -> onnx.ModelProto:
    return build(list(nodes), {"x": f32(2, 3)}, constants, **options)


MODELS: list[tuple[str, onnx.ModelProto, type[Exception], str]] = [
    ("operator", graph(node("Frobnicate", ["x"], ["y"], name="n1")), hasten.UnsupportedOperator, "'n1'.*Frobnicate"),
    ("domain", graph(node("Op", ["x"], ["y"], name="n1", domain="my.own")), hasten.ModelError, "'n1'.*my.own"),
    ("cycle", graph(node("Add", ["x", "b"], ["a"], name="n1"), node("Neg", ["a"], ["b"]), node("Neg", ["b"], ["y"])), hasten.ModelError, "cycle"),
    ("itself", graph(node("Add", ["x", "y"], ["y"], name="n1")), hasten.ModelError, "'n1'"),
    ("undefined", graph(node("Add", ["x", "nothing"], ["y"], name="n1")), hasten.ModelError, "'n1'.*'nothing'"),
    ("twice", graph(node("Neg", ["x"], ["y"], name="n1"), node("Abs", ["x"], ["y"], name="n2")), hasten.ModelError, "'n2'.*'y'.*twice"),
    ("arity", graph(node("Add", ["x"], ["y"], name="n1")), hasten.ModelError, "'n1'.*1 inputs"),
    ("attribute", graph(node("Neg", ["x"], ["y"], name="n1", alpha=3)), hasten.ModelError, "'n1'.*'alpha'"),
    ("attribute type", graph(node("Softmax", ["x"], ["y"], name="n1", axis=1.5)), hasten.ModelError, "'n1'.*'axis'"),
    ("types", graph(node("Add", ["x", "c"], ["y"], name="n1"), constants={"c": i64(1)}), hasten.ModelError, "n1"),
    ("shapes", graph(node("Add", ["x", "c"], ["y"], name="n1"), constants={"c": f32(7)}, shapes={"x": [2, 3]}), hasten.ModelError, "n1.*3 and 7"),
    ("absurd input", graph(node("Neg", ["x"], ["y"]), shapes={"x": [1 << 40, 1 << 40]}), hasten.ResourceLimit, "'x'"),
    ("large input", graph(node("Neg", ["x"], ["y"]), shapes={"x": [1 << 20, 1 << 19]}), hasten.ResourceLimit, "bytes"),
    ("opset", graph(node("Neg", ["x"], ["y"]), opset=9999), hasten.ModelError, "9999"),
]  # fmt: skip


@pytest.mark.parametrize("name, model, error, says", MODELS, ids=[row[0] for row in MODELS])
def test_models(name: str, model: onnx.ModelProto, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        hasten.compile(model)


def test_negative_dims_are_unknown() -> None:
    model = hasten.compile(graph(node("Neg", ["x"], ["y"]), shapes={"x": [-1, 3]}))
    assert model.inputs[0].shape[1] == 3 and model(f32(5, 3)).shape == (5, 3)


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model at all, just words")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for what in (tmp_path / "absent.onnx", tmp_path, tmp_path / "text.onnx", tmp_path / "empty.onnx", b"", b"\xff" * 100, 42, None):
        with pytest.raises(hasten.ModelError):
            hasten.compile(what)


# --- external data ------------------------------------------------------------------------------------------------------
def external(location: str, offset: int = 0, length: int | None = None) -> onnx.ModelProto:
    model = graph(node("Add", ["x", "c"], ["y"]), constants={"c": f32(3)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": str(offset), "length": str(12 if length is None else length)}.items():
        tensor.external_data.add(key=key, value=value)
    return model


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../outside.bin", "a/../../outside.bin", "link.bin", "folder/link", "", "nul\0", "C:\\x", "absent.bin", ".", "fifo"]
)
def test_external_data_outside(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(f32(3).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "folder" / "link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "fifo")
    (folder / "m.onnx").write_bytes(external(location).SerializeToString())
    with pytest.raises(hasten.ModelError, match="'c'"):
        hasten.compile(folder / "m.onnx")


@pytest.mark.parametrize("offset, length", [(4, 12), (-4, 12), (0, 13), (0, -12), (1 << 62, 12), (0, 1 << 62)])
def test_external_data_bounds(offset: int, length: int, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(f32(3).tobytes())
    (tmp_path / "m.onnx").write_bytes(external("data.bin", offset, length).SerializeToString())
    with pytest.raises(hasten.ModelError, match="'c'"):
        hasten.compile(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(external("data.bin").SerializeToString())
    assert np.array_equal(hasten.compile(tmp_path / "m.onnx")(f32(2, 3)), f32(2, 3) + f32(3))


# --- loops without end --------------------------------------------------------------------------------------------------
def test_endless_loop_is_interrupted() -> None:
    """Ctrl-C ends a run that would not end."""
    import signal
    import threading

    info = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Neg", ["v"], ["w"])], "body",
        [info("i", 7, []), info("go", 9, []), onnx.ValueInfoProto(name="v")], [info("on", 9, []), onnx.ValueInfoProto(name="w")],
    )  # fmt: skip
    model = hasten.compile(graph(node("Loop", ["", "", "x"], ["y"], body=body)))
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model(f32(2, 3))
    timer.join()
