"""Peers: they run right, more than once and with changed inputs, and what goes wrong is told as a HastenError."""

from __future__ import annotations

import subprocess
import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from hasten.base.errors import InputError, MissingDependency
from hasten.bench import peers
from hasten.bench.compare import largest_difference
from hasten.bench.peer import EngineSpec, Peer, Runner
from hasten.bench.peers.revision import source_of
from hasten.bench.peers.support import without_default_inputs

BFLOAT16 = 2e-2  # three or so roundings of 2^-9 in a row
FLOAT32 = 1e-5  # sums of a few dozen terms

SPECS = ["hasten", "hasten:isa=avx2,precision=strict", "onnxruntime", "openvino", "openvino:precision=bf16", "torch", "torch:dtype=bf16", "ncnn", "ncnn:precision=default"]


def engine(text: str) -> tuple[EngineSpec, Peer]:
    """The engine, or a skip that says what is missing."""
    spec = EngineSpec.parse(text)
    try:
        return spec, peers.find(spec.peer)
    except MissingDependency as missing:
        pytest.skip(str(missing))


def start(text: str, model: Path, cache: Path | None = None) -> Runner:
    spec, peer = engine(text)
    try:
        return peer.load(model, 1, spec.options, cache)
    except InputError as error:
        if "this machine" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolution, a residual sum, pooling, a matrix product; the batch is dynamic, and there are two outputs."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        small (float[n, 4, 8, 8] x, float[1] s) => (float[n, 3] y, float[n, 4, 8, 8] r)
        <float[4, 4, 3, 3] w, float[4, 3] m>
        {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            a = Add (c, x)
            r = Relu (a)
            g = GlobalAveragePool (r)
            f = Flatten (g)
            z = MatMul (f, m)
            y = Mul (z, s)
        }""")
    random = np.random.default_rng(1)
    weights = {"w": random.standard_normal((4, 4, 3, 3)), "m": random.standard_normal((4, 3))}
    del model.graph.initializer[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items())
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    onnx.save(model, path)
    return path


def feeds(batch: int = 2, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {"x": random.standard_normal((batch, 4, 8, 8)).astype(np.float32), "s": np.array([2], np.float32)}


def expected(model: Path, given: dict[str, Any]) -> dict[str, Any]:
    """By ONNX's reference implementation."""
    from onnx.reference import ReferenceEvaluator

    return dict(zip(("y", "r"), ReferenceEvaluator(str(model)).run(["y", "r"], given), strict=True))


def check(got: dict[str, Any], want: dict[str, Any], spec: str) -> None:
    difference = largest_difference(got, want)
    assert difference.relative < (BFLOAT16 if "bf16" in spec or "default" in spec else FLOAT32), str(difference)


@pytest.mark.parametrize("spec", SPECS)
def test_computes_anew_at_every_call(spec: str, small: Path) -> None:
    run, first = start(spec, small).run, feeds()
    want = expected(small, first)
    check(run(first), want, spec)
    check(run(first), want, spec)  # inputs may be bound by now
    first["x"] *= -2  # the same array with other values
    check(run(first), expected(small, first), spec)
    other = feeds(seed=5)
    check(run(other), expected(small, other), spec)
    wider = feeds(batch=3)
    check(run(wider), expected(small, wider), spec)
    strided = {**other, "x": np.asfortranarray(other["x"])}
    check(run(strided), expected(small, other), spec)
    check(run(strided), expected(small, other), spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["torch_compile", "torch_compile:dtype=bf16"])
def test_compiled_by_torch(spec: str, small: Path, tmp_path: Path) -> None:
    for _ in range(2):
        run, first = start(spec, small, tmp_path / "cache").run, feeds()
        check(run(first), expected(small, first), spec)
        first["x"] *= -2
        check(run(first), expected(small, first), spec)
    from torch._dynamo.utils import counters

    assert any((tmp_path / "cache").iterdir())
    assert counters["inductor"]["mkldnn_conv_weight_pack_matcher_count"], "weights are not frozen"


def test_torch_compile_says_that_it_needs_a_compiler(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependency, match="needs a C\\+\\+ compiler, and there is no no-such-compiler"):
        start("torch_compile", small)


@pytest.mark.parametrize("spec", SPECS)
def test_a_warm_start_computes_the_same(spec: str, small: Path, tmp_path: Path) -> None:
    want = expected(small, feeds())
    for _ in range(2):
        runner = start(spec, small, tmp_path / "cache")
        check(runner.run(feeds()), want, spec)
    about = runner.describe()
    assert "version" in about and all(isinstance(text, str) for text in about.values())


def test_onnxruntime_keeps_the_optimised_model(small: Path, tmp_path: Path) -> None:
    start("onnxruntime", small, tmp_path)
    assert len(list(tmp_path.glob("*.onnx"))) == 1
    assert start("onnxruntime", small, tmp_path).describe()["graph optimisations"] == "of the optimised file"


def test_constants_listed_as_inputs_are_folded(small: Path, tmp_path: Path) -> None:
    """As old exporters list them; onnxruntime then neither folds nor fuses, and ncnn counts them as inputs."""
    model = onnx.load(small)
    model.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer)
    onnx.save(model, tmp_path / "old.onnx")
    plain = without_default_inputs(tmp_path / "old.onnx", tmp_path / "cache")
    assert [entry.name for entry in onnx.load(plain).graph.input] == ["x", "s"]
    assert without_default_inputs(small, tmp_path / "cache") == small
    for name in ("onnxruntime", "ncnn", "torch"):
        check(start(name, tmp_path / "old.onnx").run(feeds()), expected(small, feeds()), name)


def test_ncnn_refuses_what_pnnx_cannot_say(tmp_path: Path) -> None:
    """A halving Split loses its axis and its sizes on the way, and ncnn would crash."""
    onnx.save(onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 11]> m (float[1, 8] x) => (float[1, 4] y) { a, b = Split <axis = -1> (x) y = Tanh (a) }"""), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"pnnx cannot convert m.onnx: it leaves out Slice"):
        start("ncnn", tmp_path / "m.onnx").run({"x": np.zeros((1, 8), np.float32)})
    with pytest.raises(InputError, match="no models with inputs of float16"):
        start("ncnn", tmp_path / "m.onnx").run({"x": np.zeros((1, 8), np.float16)})


@pytest.mark.parametrize("name", peers.names())
def test_adapters_import_no_engine(name: str) -> None:
    engines = ("onnxruntime", "openvino", "torch", "ncnn", "pnnx", "numpy", "onnx")
    code = f"import sys, hasten.bench.peers as p; p.importlib.import_module(p.MODULES[{name!r}]); print([m for m in {engines} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_a_missing_peer_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_installed", lambda package: False)
    with pytest.raises(MissingDependency, match=r"needs onnxruntime: pip install onnxruntime, .*hasten\[bench\]"):
        peers.find("onnxruntime")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_broken_model_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"rubbish")
    with pytest.raises(Exception):  # noqa: B017 - an engine's errors have no common class
        start(name, tmp_path / "m.onnx", tmp_path / "cache")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("openvino:speed=11", r"no option 'speed'; it has: precision"),
        ("openvino:precision=f8", r"precision is one of f32, bf16, default"),
        ("onnxruntime:precision=f32", r"no option 'precision'; it has: none"),
        ("torch:dtype=f16", r"dtype is one of f32, bf16"),
        ("hasten:source=/nowhere", r"/nowhere has no package `hasten`"),
    ],
)
def test_refused_options(text: str, message: str, small: Path) -> None:
    with pytest.raises(InputError, match=message):
        start(text, small)


def test_every_peer_has_a_row_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bench-peers.md").read_text()
    assert [name for name in peers.MODULES if f"\n| `{name}` |" not in text] == []


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="there is no peer 'abacus'; there are: hasten, onnxruntime, openvino"):
        peers.find("abacus")


def test_peers_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("abacus_peer")
    module.PEER = types.SimpleNamespace(name="abacus", package="numpy", load=lambda *_: None)  # type: ignore[attr-defined]
    module.NONE = object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "abacus_peer", module)
    points = {name: EntryPoint(name, value, peers.GROUP) for name, value in
              {"abacus": "abacus_peer:PEER", "nothing": "abacus_peer:NONE", "gone": "no_such_module:PEER"}.items()}  # fmt: skip
    monkeypatch.setattr(peers, "_entry_points", lambda: points)
    assert peers.find("abacus") is module.PEER and "abacus" in peers.names()
    with pytest.raises(InputError, match="has no `load`"):
        peers.find("nothing")
    with pytest.raises(InputError, match="cannot be imported: ModuleNotFoundError"):
        peers.find("gone")


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout of a package `hasten` that only multiplies: by 2 in its first revision, by 3 in its second."""
    package = tmp_path / "checkout" / "src" / "hasten"
    package.mkdir(parents=True)
    git(tmp_path / "checkout", "init", "-q")
    for factor in (2, 3):
        (package / "__init__.py").write_text(
            f"import types\n"
            f"def compile(model, **settings):\n"
            f"    from hasten.late import report\n"
            f"    return types.SimpleNamespace(run=lambda feeds: {{k: v * {factor} for k, v in feeds.items()}}, report=report)\n"
        )
        (package / "late.py").write_text("def report(): return None\n")
        git(tmp_path / "checkout", "add", "-A")
        git(tmp_path / "checkout", "commit", "-q", "-m", f"times {factor}")
    return tmp_path / "checkout"


def test_another_revision_runs_in_a_process(checkout: Path, tmp_path: Path) -> None:
    for revision, factor in (("HEAD~1", 2), ("HEAD", 3)):
        source = source_of(revision, tmp_path / "cache", checkout)
        assert source == source_of(revision, tmp_path / "cache", checkout)
        code = (
            "import pathlib, hasten.bench.peers as p\n"
            f"runner = p.find('hasten').load(pathlib.Path('m.onnx'), 1, {{'source': {str(source)!r}}}, None)\n"
            "print(runner.run({'x': 7}))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout == f"{{'x': {7 * factor}}}\n"


def test_refused_revisions(checkout: Path, tmp_path: Path) -> None:
    for bad in ("no-such-branch", "--all"):
        with pytest.raises(InputError, match=f"hasten@{bad}: "):
            source_of(bad, tmp_path, checkout)
