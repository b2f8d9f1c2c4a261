"""The public face: what may be fed, what comes out and whose it is, errors, saving, caches, threads, reports."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import hasten

SWISH = "g (float[n, 4] x, float[4] b) => (y, z) { a = Add(x, b)  s = Sigmoid(a)  y = Mul(a, s)  z = MatMul(y, w) }"
W = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def parse(text: str, opset: int = 20, **constants: Any) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items())
    return model


def swish() -> onnx.ModelProto:
    return parse(SWISH, w=W)


def meaning(x: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a = x + b
    y = a / (1 + np.exp(-a))
    return y, y @ W


@pytest.fixture(scope="module")
def model() -> hasten.CompiledModel:
    return hasten.compile(swish(), threads=2)


@pytest.fixture
def feeds(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal((5, 4)).astype(np.float32), rng.standard_normal(4).astype(np.float32)


def right(out: Any, x: Any, b: Any) -> None:
    for got, want in zip(out, meaning(np.asarray(x), np.asarray(b)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


# --- what is fed ------------------------------------------------------------------------------------------------------
def test_call_and_run(model: hasten.CompiledModel, feeds: Any) -> None:
    right(model(*feeds), *feeds)
    out = model.run({"b": feeds[1], "x": feeds[0]})
    assert list(out) == ["y", "z"]
    right(out.values(), *feeds)


def test_any_strides(model: hasten.CompiledModel, rng: np.random.Generator) -> None:
    wide = rng.standard_normal((10, 8)).astype(np.float32)
    b = wide[0, ::2]
    for x in (wide[::2, :4], wide[::-1, ::-2], np.asfortranarray(wide[:, :4]), wide[:, :4].copy()[3:3], np.broadcast_to(wide[0, :4], (6, 4)),
              wide.reshape(-1)[1:21].reshape(5, 4)):  # fmt: skip
        right(model(x, b), x, b)
    unaligned = np.frombuffer(b"\0" + wide.tobytes(), np.uint8)[1:81].view(np.float32).reshape(5, 4)
    right(model(unaligned, b), unaligned, b)
    readonly = wide[:, :4].copy()
    readonly.setflags(write=False)
    right(model(readonly, b), readonly, b)


def test_inputs_are_not_changed(model: hasten.CompiledModel, feeds: Any) -> None:
    before = [f.copy() for f in feeds]
    model(*feeds)
    for a, b in zip(feeds, before, strict=True):
        np.testing.assert_array_equal(a, b)


class Foreign:
    """An array of another library, seen only through DLPack."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_dlpack(model: hasten.CompiledModel, feeds: Any) -> None:
    right(model(Foreign(feeds[0]), Foreign(feeds[1])), *feeds)
    right(model.run({"x": Foreign(feeds[0][:, ::-1]), "b": feeds[1]}).values(), feeds[0][:, ::-1], feeds[1])


def test_torch_tensors(model: hasten.CompiledModel, feeds: Any) -> None:
    torch = pytest.importorskip("torch")
    right(model(torch.from_numpy(feeds[0]), torch.from_numpy(feeds[1])), *feeds)


def test_lists_and_other_byte_order(model: hasten.CompiledModel, feeds: Any) -> None:
    right(model(feeds[0].tolist(), feeds[1]), *feeds)
    right(model(feeds[0].astype(">f4"), feeds[1]), *feeds)


def test_subclasses(model: hasten.CompiledModel, feeds: Any) -> None:
    masked = np.ma.masked_array(feeds[0], feeds[0] > 100)
    out = model(masked, feeds[1])
    right(out, *feeds)
    assert all(type(o) is np.ndarray for o in out)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "dtype": (lambda x, b: (x.astype("f8"), b), hasten.TypeMismatch, r"input 'x'.*float64.*float32\(n, 4\).*astype\('float32'\)"),
    "ints": (lambda x, b: (x.astype("i4"), b), hasten.TypeMismatch, "input 'x'.*int32"),
    "none": (lambda x, b: (None, b), hasten.TypeMismatch, "input 'x'.*NoneType"),
    "text": (lambda x, b: ("hello", b), hasten.TypeMismatch, "input 'x'.*hello"),
    "object": (lambda x, b: (object(), b), hasten.TypeMismatch, "input 'x'.*object"),
    "objects": (lambda x, b: (x.astype(object), b), hasten.TypeMismatch, "input 'x'.*object"),
    "dict": (lambda x, b: ({"x": x}, b), hasten.TypeMismatch, "input 'x'.*dict"),
    "ragged list": (lambda x, b: ([[1, 2], [3]], b), hasten.TypeMismatch, "input 'x'"),
    "complex": (lambda x, b: (x.astype(complex), b), hasten.TypeMismatch, "input 'x'.*complex128"),
    "rank": (lambda x, b: (x[0], b), hasten.ShapeMismatch, r"input 'x'.*\(4,\).*1 axes.*float32\(n, 4\)"),
    "more axes": (lambda x, b: (x[None], b), hasten.ShapeMismatch, "input 'x'.*3 axes"),
    "size": (lambda x, b: (x[:, :3], b), hasten.ShapeMismatch, "input 'x'.*axis 1 must be 4, not 3"),
    "other size": (lambda x, b: (x, b[:2]), hasten.ShapeMismatch, "input 'b'.*axis 0 must be 4, not 2"),
    "too few": (lambda x, b: (x,), hasten.InputError, "1 inputs were given, the model takes 2: x: .*, b: "),
    "too many": (lambda x, b: (x, b, b), hasten.InputError, "3 inputs were given"),
    "nothing": (lambda x, b: (), hasten.InputError, "0 inputs"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs(name: str, model: hasten.CompiledModel, feeds: Any) -> None:
    make, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        model(*make(*feeds))
    right(model(*feeds), *feeds)  # and the model still works


def test_wrong_names(model: hasten.CompiledModel, feeds: Any) -> None:
    with pytest.raises(hasten.InputError, match=r"missing: b.*takes x: float32\(n, 4\), b"):
        model.run({"x": feeds[0]})
    with pytest.raises(hasten.InputError, match="unknown: q"):
        model.run({"x": feeds[0], "b": feeds[1], "q": feeds[1]})
    with pytest.raises(hasten.InputError, match="takes a dict"):
        model.run([feeds[0], feeds[1]])  # type: ignore[arg-type]


def test_sizes_must_agree_between_inputs(rng: np.random.Generator) -> None:
    compiled = hasten.compile(parse("g (float[n, m] x, float[m, n] z) => (y) { t = Transpose <perm = [1, 0]> (z)  y = Add(x, t) }"))
    compiled(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32))
    with pytest.raises(hasten.ShapeMismatch, match=r"input 'z'.*axis 1 must be n = 2 \(from input 'x'\), not 5"):
        compiled(np.zeros((2, 3), np.float32), np.zeros((3, 5), np.float32))


def test_errors_are_of_both_families() -> None:
    assert issubclass(hasten.TypeMismatch, TypeError) and issubclass(hasten.ShapeMismatch, ValueError)
    for name in ("ModelError", "UnsupportedOperator", "InputError", "TypeMismatch", "ShapeMismatch", "CorruptFile", "ResourceLimit", "ExecutionError"):
        assert issubclass(getattr(hasten, name), hasten.HastenError)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"])
def test_types_go_through(dtype: str, rng: np.random.Generator) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    text = parse("g (float[n, m] x) => (y) { y = Transpose <perm = [1, 0]> (x) }")
    text.graph.input[0].type.tensor_type.elem_type = kind
    x = rng.integers(0, 2, (3, 5)).astype(dtype)
    y = hasten.compile(text)(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x.T)


def test_bfloat16(rng: np.random.Generator) -> None:
    import ml_dtypes

    text = parse("g (bfloat16[n] x) => (y) { y = Add(x, x) }")
    x = rng.standard_normal(33).astype(ml_dtypes.bfloat16)
    y = hasten.compile(text)(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.astype("f4"), (x + x).astype("f4"))


# --- what comes out ---------------------------------------------------------------------------------------------------
def test_outputs_are_the_callers(model: hasten.CompiledModel, feeds: Any) -> None:
    first = model(*feeds)
    kept = [o.copy() for o in first]
    for o in first:
        assert type(o) is np.ndarray and o.flags.writeable and o.flags.c_contiguous and o.flags.aligned
    second = model(feeds[0] + 1, feeds[1])
    for a, b, k in zip(first, second, kept, strict=True):
        assert not np.shares_memory(a, b)
        np.testing.assert_array_equal(a, k)
        a[...] = 0
    right(model(*feeds), *feeds)
    assert not np.shares_memory(first[0], first[1])


def test_outputs_outlive_the_model(feeds: Any) -> None:
    import gc

    compiled = hasten.compile(swish(), threads=1)
    out = compiled(*feeds)
    del compiled
    gc.collect()
    right(out, *feeds)


def test_memory_comes_back(rng: np.random.Generator) -> None:
    """Outputs are freed with their arrays, also after errors."""
    import resource

    compiled = hasten.compile(parse("g (float[n] x, int64[k] i) => (y, z) { y = Exp(x)  z = Gather(y, i) }"), threads=1)
    x = rng.standard_normal(1 << 20).astype(np.float32)
    for _ in range(5):
        compiled(x, np.array([1]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(100):
        compiled(x, np.array([1]))
        with pytest.raises(hasten.ExecutionError):
            compiled(x, np.array([1 << 30]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_information(model: hasten.CompiledModel) -> None:
    assert [(i.name, i.dtype, i.shape) for i in model.inputs] == [("x", "float32", ("n", 4)), ("b", "float32", (4,))]
    assert [(o.name, o.dtype, o.shape) for o in model.outputs] == [("y", "float32", ("n", 4)), ("z", "float32", ("n", 3))]
    assert model.threads == 2
    assert "x: float32['n', 4]" in repr(model)
    compiled = hasten.compile(parse("g (float[n] x) => (y) { y = NonZero(x) }"))
    assert compiled.outputs[0].shape == (1, None)


@pytest.mark.parametrize("names", [("d0", "d1"), ("h0", "h1"), ("x0", "n0"), ("s0", "s1"), ("go0", "taken0"), ("size0", "room0"), ("i0", "i1"), ("N", "n"),
                                   ("max", "min"), ("a b", "a_b"), ("floordiv", "1"), ("batch-size", "batch+size")])  # fmt: skip
def test_names_of_sizes_are_the_users(names: tuple[str, str], rng: np.random.Generator) -> None:
    """Whatever sizes are called: they collide neither with each other nor with names that Hasten makes."""
    proto = parse("""g (float[aa, bb] x, int64[1] first, int64[1] last, int64 t, bool c) => (y, r, s, k) {
        p = Slice(x, first, last)  q = Exp(p)
        b = If <then_branch = tb () => (u) { u = Concat <axis = 0> (q, x) }, else_branch = eb () => (v) { v = Neg(q) }> (c)
        y = Relu(b)
        r, s = Loop <body = lb (int64 i, bool d, a_in) => (d_out, a, sc) {
            d_out = Identity(d)  a = Concat <axis = 1> (a_in, x)  f = Cast <to = 1> (i)  sc = Add(f, one) }> (t, , x)
        k = Shape(x) }""", one=np.float32(1))  # fmt: skip
    for d, name in zip(proto.graph.input[0].type.tensor_type.shape.dim, names, strict=True):
        d.dim_param = name
    compiled = hasten.compile(proto, host_ops=False)
    x = rng.standard_normal((6, 3)).astype(np.float32)
    for a, e, t, c in ((1, 4, 2, True), (0, 6, 0, False), (2, -1, 3, False)):
        out = compiled.run({"x": x, "first": np.array([a]), "last": np.array([e]), "t": np.array(t), "c": np.array(c)})
        p = np.exp(x[a:e])
        np.testing.assert_allclose(out["y"], np.maximum(np.concatenate([p, x]) if c else -p, 0), rtol=1e-5)
        np.testing.assert_array_equal(out["r"], np.concatenate([x] * (t + 1), 1))
        np.testing.assert_array_equal(out["s"], np.arange(t, dtype=np.float32) + 1)
        assert out["k"].tolist() == [6, 3]
    assert compiled.inputs[0].shape is not None and all(isinstance(d, str) for d in compiled.inputs[0].shape)


# --- where models come from -------------------------------------------------------------------------------------------
def test_paths_bytes_and_protos(tmp_path: Path, feeds: Any) -> None:
    import onnx_ir

    path = tmp_path / "m.onnx"
    onnx.save(swish(), path)
    for source in (path, str(path), swish(), swish().SerializeToString(), onnx_ir.from_proto(swish())):
        right(hasten.compile(source)(*feeds), *feeds)


def test_the_model_is_not_changed() -> None:
    import onnx_ir

    proto, graph = swish(), onnx_ir.from_proto(swish())
    before = proto.SerializeToString()
    hasten.compile(proto)
    assert proto.SerializeToString() == before
    count = len(list(graph.graph))
    hasten.compile(graph)
    assert len(list(graph.graph)) == count
    hasten.compile(graph)


def test_external_data(tmp_path: Path, feeds: Any) -> None:
    path = tmp_path / "m.onnx"
    proto = swish()
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    right(hasten.compile(path)(*feeds), *feeds)
    data = bytearray((tmp_path / "m.data").read_bytes())
    data[:4] = np.float32(1000).tobytes()  # other weights behind the same file: no stale answer
    (tmp_path / "m.data").write_bytes(bytes(data))
    y, z = hasten.compile(path)(*feeds)
    assert not np.allclose(z, meaning(*feeds)[1])


BAD: dict[str, Any] = {
    "no file": lambda tmp: tmp / "absent.onnx",
    "folder": lambda tmp: tmp,
    "garbage": lambda tmp: b"\xff\xfe\x00garbage" * 10,
    "number": lambda tmp: 7,
    "none": lambda tmp: None,
    "empty": lambda tmp: onnx.ModelProto(),
}


@pytest.mark.parametrize("name", BAD)
def test_not_a_model(name: str, tmp_path: Path) -> None:
    with pytest.raises((hasten.HastenError, OSError)):
        hasten.compile(BAD[name](tmp_path))


@pytest.mark.parametrize("option", [{"precision": "low"}, {"isa": "avx9"}, {"threads": 0}, {"threads": 100000}, {"threads": -1}])
def test_wrong_options(option: dict[str, Any]) -> None:
    with pytest.raises(hasten.InputError, match=re.escape(str(next(iter(option.values()))))):
        hasten.compile(swish(), **option)


@pytest.mark.parametrize("precision", ["strict", "highest", "high", "medium"])
def test_precisions(precision: str, feeds: Any) -> None:
    compiled = hasten.compile(swish(), precision=precision)
    assert compiled.report().precision == precision
    y, z = compiled(*feeds)
    want = meaning(*feeds)
    limit = 1e-5 if precision in ("strict", "highest") else 3e-2
    np.testing.assert_allclose(z, want[1], atol=limit * max(1, np.abs(want[1]).max()))


# --- saving, pickling, forking ----------------------------------------------------------------------------------------
def test_save_and_load(tmp_path: Path, model: hasten.CompiledModel, feeds: Any) -> None:
    path = tmp_path / "m.hasten"
    model.save(path)
    loaded = hasten.load(path)
    right(loaded(*feeds), *feeds)
    assert loaded.inputs == model.inputs and loaded.outputs == model.outputs
    assert loaded.report().nodes == model.report().nodes
    again = tmp_path / "again.hasten"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".hasten"] == []  # written in one go, nothing left over


def test_load_with_other_threads(tmp_path: Path, model: hasten.CompiledModel, feeds: Any) -> None:
    model.save(tmp_path / "m.hasten")
    for threads in (1, 2):
        loaded = hasten.load(tmp_path / "m.hasten", threads=threads)
        assert loaded.threads <= threads
        right(loaded(*feeds), *feeds)


def test_load_needs_no_compiler(tmp_path: Path, model: hasten.CompiledModel, feeds: Any) -> None:
    path = tmp_path / "m.hasten"
    model.save(path)
    np.savez(tmp_path / "feeds.npz", x=feeds[0], b=feeds[1])
    script = f"""
import sys, numpy as np, hasten
feeds = np.load({str(tmp_path / "feeds.npz")!r})
y, z = hasten.load({str(path)!r})(feeds["x"], feeds["b"])
np.save({str(tmp_path / "z.npy")!r}, z)
print([m for m in ("onnx", "onnx_ir", "llvmlite", "typer") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), meaning(*feeds)[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "header"])
def test_damaged_files(damage: str, tmp_path: Path, model: hasten.CompiledModel) -> None:
    path = tmp_path / "m.hasten"
    model.save(path)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "header":
        data[3] ^= 1
    path.write_bytes({"cut": bytes(data[: len(data) // 2]), "empty": b""}.get(damage, bytes(data)))
    with pytest.raises(hasten.CorruptFile):
        hasten.load(path)


@pytest.mark.parametrize("name, dtype", [("float", "f4"), ("int64", "i8"), ("uint8", "u1"), ("float16", "f2"), ("bool", "?")])
def test_dtypes_that_are_equal_and_not_the_same(name: str, dtype: str) -> None:
    """Arrays from pickles and other processes have dtype objects of their own; another byte order or type is never read as it lies."""
    text = f'<ir_version: 9, opset_import: ["": 18]> g ({name}[n] x) => ({name}[n] y) {{ y = Identity(x) }}'
    model = hasten.compile(onnx.parser.parse_model(text).SerializeToString())
    x = np.arange(5).astype(dtype)
    for same in (x, pickle.loads(pickle.dumps(x, 5)), x.astype(x.dtype.newbyteorder()), x.view(np.dtype(dtype, metadata={"a": 1}))):
        np.testing.assert_array_equal(model(same), x)
    for other in ("f4", "u4", "i4", "i8", "u1", "f8"):
        if other != dtype:
            with pytest.raises(hasten.HastenError):
                model(np.arange(5).astype(other))


def test_pickle(model: hasten.CompiledModel, feeds: Any) -> None:
    copy = pickle.loads(pickle.dumps(model))
    right(copy(*feeds), *feeds)
    assert copy.inputs == model.inputs


def test_fork(model: hasten.CompiledModel, rng: np.random.Generator) -> None:
    """A child uses its parent's models, with threads of its own."""
    x, b = rng.standard_normal((3000, 4)).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    right(model(x, b), x, b)
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            try:
                right(model(x, b), x, b)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(pid)
    right(model(x, b), x, b)
    assert [os.waitpid(c, 0)[1] for c in children] == [0, 0, 0]


# --- several threads at once ------------------------------------------------------------------------------------------
def test_many_callers(model: hasten.CompiledModel, rng: np.random.Generator) -> None:
    """Eight threads, different sizes, some calls wrong: everybody gets their own answers."""
    b = rng.standard_normal(4).astype(np.float32)
    inputs = [rng.standard_normal((n, 4)).astype(np.float32) for n in (1, 7, 100, 3000)]
    wanted = [meaning(x, b) for x in inputs]
    problems: list[str] = []

    def work(seed: int) -> None:
        pick = np.random.default_rng(seed)
        for _ in range(150):
            k = int(pick.integers(len(inputs)))
            if pick.random() < 0.1:
                try:
                    model(inputs[k][:, :3], b)
                    problems.append("a wrong size was taken")
                except hasten.ShapeMismatch:
                    pass
            out = model(inputs[k], b)
            for got, want in zip(out, wanted[k], strict=True):
                if not np.allclose(got, want, rtol=1e-4, atol=1e-4):
                    problems.append(f"wrong answer for {inputs[k].shape}")

    workers = [threading.Thread(target=work, args=(s,)) for s in range(8)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not problems, problems[:5]


def test_many_callers_of_data_dependent_sizes(rng: np.random.Generator) -> None:
    compiled = hasten.compile(parse("g (float[n] x) => (y) { p = Greater(x, zero)  q = Compress(x, p)  r = Exp(q)  s = ReduceSum(r)  y = Div(r, s) }",
                                    zero=np.float32(0)), threads=2)  # fmt: skip
    problems: list[int] = []

    def work(seed: int) -> None:
        pick = np.random.default_rng(seed)
        for _ in range(60):
            x = pick.standard_normal(int(pick.integers(1, 5000))).astype(np.float32)
            e = np.exp(x[x > 0])
            if not np.allclose(compiled(x), e / e.sum(), rtol=1e-4):
                problems.append(x.size)

    workers = [threading.Thread(target=work, args=(s,)) for s in range(8)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not problems


def test_compiling_in_threads(tmp_path: Path, feeds: Any) -> None:
    models: list[Any] = []
    workers = [threading.Thread(target=lambda: models.append(hasten.compile(swish(), cache_dir=tmp_path))) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert len(models) == 4
    for m in models:
        right(m(*feeds), *feeds)


# --- caches -----------------------------------------------------------------------------------------------------------
def test_second_compile_is_a_load(tmp_path: Path, feeds: Any) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(swish(), path)
    first = hasten.compile(path, cache_dir=tmp_path / "cache")
    second = hasten.compile(path, cache_dir=tmp_path / "cache")
    assert not first.report().from_cache and second.report().from_cache
    right(second(*feeds), *feeds)
    assert second.report().nodes == first.report().nodes
    for other in ({"threads": 1}, {"precision": "strict"}, {"isa": "portable"}):
        assert not hasten.compile(path, cache_dir=tmp_path / "cache", **other).report().from_cache  # type: ignore[arg-type]
    proto = swish()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(W + 1, "w"))
    onnx.save(proto, path)
    changed = hasten.compile(path, cache_dir=tmp_path / "cache")
    assert not changed.report().from_cache
    assert not np.allclose(changed(*feeds)[1], meaning(*feeds)[1])


def test_protos_come_from_the_cache(tmp_path: Path) -> None:
    data = swish().SerializeToString()
    assert not hasten.compile(data, cache_dir=tmp_path).report().from_cache
    assert hasten.compile(data, cache_dir=tmp_path).report().from_cache


def test_damaged_cache_is_made_anew(tmp_path: Path, feeds: Any) -> None:
    data = swish().SerializeToString()
    hasten.compile(data, cache_dir=tmp_path)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            raw = bytearray(file.read_bytes())
            if len(raw) > 64:
                raw[len(raw) // 2] ^= 0xFF
                file.write_bytes(bytes(raw))
    right(hasten.compile(data, cache_dir=tmp_path)(*feeds), *feeds)


def test_cache_that_cannot_be_written(tmp_path: Path, feeds: Any) -> None:
    """A read-only folder, a file in its place: compiling works, only without a cache."""
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        right(hasten.compile(swish(), cache_dir=folder)(*feeds), *feeds)
        right(hasten.compile(swish(), cache_dir=folder / "deeper")(*feeds), *feeds)
    finally:
        folder.chmod(0o700)
    file = tmp_path / "file"
    file.write_text("")
    right(hasten.compile(swish(), cache_dir=file)(*feeds), *feeds)


def test_cache_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTEN_CACHE_DIR", str(tmp_path / "there"))
    hasten.compile(swish().SerializeToString())
    assert any((tmp_path / "there").rglob("*"))


# --- reports, progress, dumps -----------------------------------------------------------------------------------------
def test_report(model: hasten.CompiledModel) -> None:
    report = model.report()
    assert report.kernels >= 2 and report.host_ops == [] and report.threads == 2 and report.image_bytes > 0 and report.constants_bytes >= W.nbytes
    assert {n.kind for n in report.nodes} <= {"kernel", "host", "view", "folded", "fused", "control"}
    regions = {n.region for n in report.nodes if n.kind == "kernel"}
    assert all(n.fused_into is None or n.fused_into in regions | {m.name for m in report.nodes} for n in report.nodes)
    assert any(n.op == "MatMul" and n.kind == "kernel" for n in report.nodes)
    data = report.to_dict()
    assert json.loads(json.dumps(data)) == data


def test_report_evaluates() -> None:
    """Bytes and operations are expressions of the sizes."""
    from hasten.base import dims as D

    report = hasten.compile(swish()).report()
    for row in report.nodes:
        assert D.evaluate(D.parse(row.bytes), {"n": 7}) >= 0
        assert D.evaluate(D.parse(row.operations), {"n": 7}) >= 0
    product = next(n for n in report.nodes if n.op == "MatMul")
    assert D.evaluate(D.parse(product.written), {"n": 7}) == 7 * 3 * 4


def test_progress(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    hasten.compile(swish(), cache_dir=tmp_path, progress=lambda *row: seen.append(row))
    assert seen and all(isinstance(s, str) and 0 <= done <= total for s, done, total in seen)
    kernels = [(done, total) for s, done, total in seen if s == "kernels"]
    assert kernels and kernels[-1][0] == kernels[-1][1]


@pytest.mark.parametrize("way", ["option", "environment"])
def test_dump(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hasten.vm.text import from_text

    folder = tmp_path / "dump"
    if way == "environment":
        monkeypatch.setenv("HASTEN_DUMP", str(folder))
        hasten.compile(swish())
    else:
        hasten.compile(swish(), dump=folder)
    text = (folder / "program.txt").read_text()
    assert from_text(text).inputs[0].name == "x"
    assert any(folder.rglob("*.ll")) and "Sigmoid" in (folder / "graph.txt").read_text()


def test_program_text(model: hasten.CompiledModel) -> None:
    assert 'input "x" float32 (n, 4)' in model.program()


# --- host ops ---------------------------------------------------------------------------------------------------------
HOST = 'g (float[n] x) => (y) { s = Cast <to = 8> (x)  t = Cast <to = 1> (s)  y = Exp(t) }'  # text: no kernel


def test_host_ops_are_visible(rng: np.random.Generator) -> None:
    compiled = hasten.compile(parse(HOST))
    x = rng.standard_normal(5).astype(np.float32)
    np.testing.assert_allclose(compiled(x), np.exp(x), rtol=1e-3)
    report = compiled.report()
    assert report.host_ops and any("Cast" in row for row in report.host_ops)
    assert any(n.kind == "host" for n in report.nodes)


def test_host_ops_can_be_forbidden() -> None:
    with pytest.raises(hasten.UnsupportedOperator, match="Cast.*host ops are forbidden"):
        hasten.compile(parse(HOST), host_ops=False)


def test_unknown_operators_are_named() -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="that one")
    info = helper.make_tensor_value_info("x", 1, ["n"])
    graph = helper.make_graph([node], "g", [info], [helper.make_tensor_value_info("y", 1, ["n"])])
    bad = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(hasten.ModelError, match="Frobnicate"):
        hasten.compile(bad, host_ops=False)
    with pytest.raises(hasten.HastenError, match="Frobnicate"):
        hasten.compile(bad)(np.zeros(3, np.float32))


def test_saved_models_with_host_ops(tmp_path: Path) -> None:
    compiled = hasten.compile(parse(HOST))
    compiled.save(tmp_path / "m.hasten")
    x = np.array([0.0, 1.0], np.float32)
    np.testing.assert_array_equal(hasten.load(tmp_path / "m.hasten")(x), compiled(x))


# --- limits -----------------------------------------------------------------------------------------------------------
def test_out_of_memory_is_an_error() -> None:
    compiled = hasten.compile(parse("g (int64[2] s) => (y) { y = ConstantOfShape(s) }"))
    assert compiled(np.array([2, 3])).shape == (2, 3)
    for sizes in ([1 << 40, 1 << 10], [1 << 62, 1 << 62]):
        with pytest.raises((hasten.ResourceLimit, hasten.ShapeMismatch, MemoryError)):
            compiled(np.array(sizes))
    with pytest.raises(hasten.HastenError):
        compiled(np.array([-1, 3]))
    assert compiled(np.array([2, 3])).shape == (2, 3)


def test_context_manager_and_trim(feeds: Any) -> None:
    with hasten.compile(swish()) as compiled:
        right(compiled(*feeds), *feeds)
    compiled.trim()
    right(compiled(*feeds), *feeds)
