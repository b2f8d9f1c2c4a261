"""Recording a run, finding roofs, and what is made of both: page, picture, trace, JSON. Times are checked for order and completeness only."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import hasten
from hasten.profile import KernelTime, Peaks, Profile, Roofline, record
from hasten.profile import peaks as machine
from hasten.profile.page import page
from hasten.profile.peaks import Level
from hasten.profile.picture import standalone
from hasten.profile.trace import chrome_trace

LEVELS = (Level("L1", 1 << 15, 200e9, 100e9, 150e9), Level("L2", 1 << 20, 100e9, 50e9, 75e9), Level("memory", None, 20e9, 10e9, 15e9))
PEAKS = Peaks("a CPU", "avx2", 1, "2026-01-01T00:00:00+00:00", 100e9, 1200e9, LEVELS)


def graph(nodes: list[onnx.NodeProto], sizes: list[object], constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    g = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()],
    )  # fmt: skip
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def network() -> onnx.ModelProto:
    w = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4), helper.make_node("Relu", ["c"], ["r"], name="relu"),
             helper.make_node("GlobalAveragePool", ["r"], ["z"], name="pool")]  # fmt: skip
    return graph(nodes, ["n", 4, 12, 12], {"w": w})


def looping() -> onnx.ModelProto:
    """z = x doubled five times, in a Loop."""
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "a"], ["b"], name="double"), helper.make_node("Identity", ["go"], ["more"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("a", TensorProto.FLOAT, [6])],
        [helper.make_tensor_value_info("more", TensorProto.BOOL, []), helper.make_tensor_value_info("b", TensorProto.FLOAT, [6])],
    )  # fmt: skip
    return graph([helper.make_node("Loop", ["m", "", "x"], ["z"], body=body)], [6], {"m": np.array(5)})


def kernel(**changes: object) -> KernelTime:
    told = KernelTime("Relu 'r'", "Relu", "map_0123", (), "generic nest", "fp32", "row-major", 1, 1, 1000, 4000, 4000, 1e-6, 9e-7)
    return replace(told, **changes)  # type: ignore[arg-type]


def profile(*kernels: KernelTime) -> Profile:
    return Profile("avx2", "highest", 1, 7, True, 1e-5, 9e-6, kernels, ())


# --- recording ----------------------------------------------------------------------------------------------------------------
def test_record_names_the_nodes() -> None:
    model = hasten.compile(network(), threads=1, isa="avx2")
    found = record(model, {"x": np.ones((2, 4, 12, 12), np.float32)}, rounds=3)
    assert found.rounds == 3 and found.replayed
    rows = {k.node: k for k in found.kernels}
    conv, pool = rows["Relu 'relu'"], rows["GlobalAveragePool 'pool'"]
    assert conv.fused == ("Conv 'conv'",) and conv.calls == 1
    assert conv.operations == 2 * 8 * 144 * (2 * 36 + 1)
    assert pool.written == 2 * 8 * 4
    assert list(found.kernels) == sorted(found.kernels, key=lambda k: -k.seconds)
    assert sum(found.share(k) for k in found.kernels) == pytest.approx(1)
    assert len(found.run) == len(found.kernels)
    assert all(a.start + a.seconds <= b.start + 1e-9 for a, b in zip(found.run, found.run[1:], strict=False))


def test_replaying_leaves_results_alone() -> None:
    """Calls of the model between the rounds, and after them, give what they gave before."""
    model = hasten.compile(network(), threads=2, isa="avx2")
    x = np.random.default_rng(1).standard_normal((2, 4, 12, 12)).astype(np.float32)
    before = model(x)
    record(model, {"x": x}, rounds=4)
    assert np.array_equal(model(x), before)


def test_record_counts_calls_in_loops() -> None:
    model = hasten.compile(looping(), threads=1, isa="avx2")
    found = record(model, {"x": np.ones(6, np.float32)}, rounds=2)
    doubling = next(k for k in found.kernels if "double" in k.node and k.operations)
    assert doubling.calls == 5 and doubling.operations == 5 * 6
    assert len(found.run) == sum(k.calls for k in found.kernels)


def test_record_with_sizes_from_data() -> None:
    """NonZero's result has a size that is read; where random numbers are what it reads, nothing is replayed."""
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Cast", ["i"], ["z"], to=TensorProto.FLOAT)]
    found = record(hasten.compile(graph(nodes, ["n"]), threads=1, isa="avx2"), {"x": np.array([1, 0, 2], np.float32)}, rounds=2)
    cast = next(k for k in found.kernels if k.op == "Cast")
    assert found.replayed and cast.written == 2 * 4
    random = [helper.make_node("Bernoulli", ["x"], ["b"]), helper.make_node("NonZero", ["b"], ["i"]), nodes[1]]
    feeds = {"x": np.full(4, 1.0, np.float32)}
    assert not record(hasten.compile(graph(random, ["n"]), threads=1, isa="avx2"), feeds, rounds=2).replayed


def test_record_names_host_ops() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("StringNormalizer", ["s"], ["t"], name="words")]
    g = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]), helper.make_tensor_value_info("s", TensorProto.STRING, ["m"])],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None), helper.make_tensor_value_info("t", TensorProto.STRING, None)],
    )  # fmt: skip
    model = hasten.compile(helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), threads=1)
    found = record(model, {"x": np.ones(3, np.float32), "s": np.array(["A", "b"], object)}, rounds=2)
    assert any("words" in k.node or k.op == "StringNormalizer" for k in found.kernels) and not found.replayed


def test_wrong_inputs_are_told() -> None:
    with pytest.raises(hasten.InputError):
        hasten.compile(network(), threads=1).profile({"y": np.ones(3)})


# --- roofs --------------------------------------------------------------------------------------------------------------------
def test_roof_of_arithmetic() -> None:
    (placed,) = Roofline.of(profile(kernel(operations=10_000_000, seconds=2e-4)), PEAKS).kernels
    assert placed.bound == "compute" and placed.roof == pytest.approx(1e-4)
    assert placed.attained == pytest.approx(0.5) and placed.saving == pytest.approx(1e-4)
    assert placed.rate == pytest.approx(50e9) and placed.intensity == 1250


def test_roof_of_moving_is_at_the_level_that_holds_a_call() -> None:
    nearest, second, far = (
        Roofline.of(profile(kernel(read=size, written=size // 2, operations=0)), PEAKS).kernels[0] for size in (1 << 14, 1 << 19, 1 << 22)
    )
    assert [k.bound for k in (nearest, second, far)] == ["L1", "L2", "memory"]
    assert nearest.roof == pytest.approx((1 << 14) / 150e9 + (1 << 13) / 200e9)  # half of what is read is copied
    in_loop = Roofline.of(profile(kernel(read=1 << 22, written=1 << 21, calls=256)), PEAKS).kernels[0]
    assert in_loop.bound == "L1"


def test_products_of_bfloat16_have_their_own_roof() -> None:
    assert [PEAKS.arithmetic(p) / 1e9 for p in ("fp32", "bf16", "bf16x3", "bf16x6")] == [100, 1200, 400, 200]
    assert replace(PEAKS, tiles=None).arithmetic("bf16x3") == 100e9


def test_where_to_look_first() -> None:
    slow, fine = kernel(operations=1_000_000, seconds=1e-4), kernel(operations=50_000_000, seconds=5.1e-4)
    roofs = Roofline.of(profile(fine, slow), PEAKS)
    assert [k.kernel for k in roofs.worth()] == [slow, fine]
    assert roofs.attained == pytest.approx(51e6 / 100e9 / 6.1e-4)


# --- peaks --------------------------------------------------------------------------------------------------------------------
def test_pieces_of_memory() -> None:
    caches = {1: (32 << 10, 1), 2: (1 << 20, 1), 3: (32 << 20, 2)}
    assert list(machine.pieces(caches, 1)) == [("L1", 32 << 10, 16 << 10), ("L2", 1 << 20, 512 << 10), ("L3", 32 << 20, 16 << 20),
                                               ("memory", None, 128 << 20)]  # fmt: skip
    assert list(machine.pieces(caches, 2))[2:] == [("L3", 32 << 20, 8 << 20), ("memory", None, 64 << 20)]
    assert list(machine.pieces(caches, 4))[2][1] == 64 << 20  # two threads a cache


def test_cache_sizes_are_read(tmp_path: Path) -> None:
    for n, (level, kind, size, shared) in enumerate([("1", "Data", "48K", "3"), ("1", "Instruction", "32K", "3"), ("2", "Unified", "2048K", "00000000,0000000f")]):
        folder = tmp_path / f"index{n}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size), ("shared_cpu_map", shared)):
            (folder / name).write_text(value + "\n")
    assert machine.cache_sizes(tmp_path) == {1: (48 << 10, 2), 2: (2 << 20, 4)}
    assert set(machine.cache_sizes(tmp_path / "none")) == {1, 2, 3}


def test_peaks_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    better = replace(PEAKS, fma=90e9, date="2026-02-02T00:00:00+00:00", levels=tuple(replace(v, read=2 * v.read) for v in LEVELS))
    answers: Iterator[Peaks] = iter([PEAKS, better])
    monkeypatch.setattr(machine, "measure", lambda *args: next(answers))
    assert machine.machine_peaks("portable", 1, cache_dir=tmp_path) == PEAKS
    assert machine.machine_peaks("portable", 1, cache_dir=tmp_path) == PEAKS  # not measured again
    again = machine.machine_peaks("portable", 1, cache_dir=tmp_path, again=True)
    assert again.fma == PEAKS.fma and again.date == better.date and again.levels[0].read == 400e9 and again.levels[0].copy == 150e9


@pytest.mark.parametrize("threads", [1, 2])
def test_probes_do_what_they_say(threads: int) -> None:
    """Copies arrive, sums are sums; the rates are positive and in order of magnitude of any machine."""
    from hasten.codegen import isa as isas
    from hasten.profile import probes

    isa = isas.get("portable")
    memory = probes.room(1 << 14, threads)
    for n, piece in enumerate(memory):
        piece[: 1 << 13] = np.random.default_rng(n).integers(0, 255, 1 << 13)
    for copy in probes.MOVERS["copy"]:
        for piece in memory:
            piece[1 << 13 :] = 0
        assert probes.Probe(isa, copy).least(memory, 1, 0) > 0
        assert all(np.array_equal(piece[: 1 << 13], piece[1 << 13 :]) for piece in memory)
    for piece in memory:
        piece.view(np.float32)[:] = 1
    probes.Probe(isa, probes.emit_fma).least(memory, 3, 0)
    lanes = isa.lanes(32) * probes.chains(isa)
    assert all((piece.view(np.float32)[:lanes] == 1 + 3 * probes.WRITTEN_OUT).all() for piece in memory)


def test_tiles_probe_counts() -> None:
    """The emulated tiles sum as many products as `tile_operations` says."""
    from hasten.codegen import isa as isas
    from hasten.profile import probes

    (piece,) = probes.room(16 << 10, 1)
    piece.view(np.uint16)[:] = 0x3F80  # one, as bfloat16
    probes.Probe(isas.get("amx-emulated"), probes.emit_tiles).least([piece], 2, 0)
    sums = piece.view(np.float32)[: probes.TILE_SUMS * 256]
    assert (sums == 2 * 32).all() and 2 * sums.sum() == probes.tile_operations(2)


# --- pictures, pages, traces --------------------------------------------------------------------------------------------------
KERNELS = (kernel(operations=10_000_000, seconds=2e-4, node="Conv '<a & b>'", op="Conv", fused=("Relu 'r'",)), kernel(seconds=5e-5),
           kernel(operations=0, seconds=1e-5, node="", op="copy"), kernel(operations=5_000_000, seconds=1e-5, precision="bf16x3"))  # fmt: skip


def test_picture() -> None:
    roofs = Roofline.of(profile(*KERNELS), PEAKS)
    root = ET.fromstring(standalone(roofs))
    space = "{http://www.w3.org/2000/svg}"
    links = root.findall(f"{space}a")
    assert [a.get("href") for a in links] == ["#k1", "#k2", "#k3", "#k4"]
    dots = [a.find(f"{space}circle") for a in links]
    radii = [float(dot.get("r")) for dot in dots]  # type: ignore[union-attr,arg-type]
    assert radii[0] ** 2 / radii[1] ** 2 == pytest.approx(4, rel=0.02)  # areas as times
    assert dots[2].get("fill") == "none"  # type: ignore[union-attr]
    assert "<a & b>" in links[0].find(f"{space}title").text  # type: ignore[union-attr,operator]
    for line in root.iter(f"{space}line"):
        assert all(-1 <= float(line.get(c)) <= limit for c, limit in (("x1", 960), ("x2", 960), ("y1", 560), ("y2", 560)))  # type: ignore[arg-type]


def test_picture_dots_lie_under_their_roofs() -> None:
    """Upwards is faster: the dot of a kernel at its roof touches the line."""
    fast = kernel(operations=10_000_000, seconds=1e-4)
    root = ET.fromstring(standalone(Roofline.of(profile(fast), PEAKS)))
    space = "{http://www.w3.org/2000/svg}"
    roofs = [line for line in root.iter(f"{space}line") if line.get("class") == "roof" and line.get("y1") == line.get("y2")]
    dot = root.find(f"{space}a/{space}circle")
    assert dot is not None and float(dot.get("cy")) == pytest.approx(max(float(line.get("y1")) for line in roofs), abs=0.11)  # type: ignore[arg-type]


def test_page() -> None:
    text = page(Roofline.of(profile(*KERNELS), PEAKS), "model <x>.onnx")
    assert "model &lt;x&gt;.onnx" in text and "<a & b>" not in text
    assert not re.search(r"(src|href)=\"?(https?:)?//", text)  # nothing from elsewhere
    assert text.count('<tr id="k') == len(KERNELS)


def test_trace() -> None:
    found = record(hasten.compile(network(), threads=1, isa="avx2"), {"x": np.ones((1, 4, 12, 12), np.float32)}, rounds=3)
    events = json.loads(chrome_trace(found, "m"))["traceEvents"]
    complete = [e for e in events if e["ph"] == "X" and e["tid"] == 1]
    assert len(complete) == len(found.run) and {e["name"] for e in complete} >= {"Relu 'relu'", "GlobalAveragePool 'pool'"}
    assert all(e["ts"] >= 0 and e["dur"] >= 0 for e in complete)


# --- the command --------------------------------------------------------------------------------------------------------------
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hasten.cli.app import app

    monkeypatch.setattr(machine, "measure", lambda isa, threads, budget: replace(PEAKS, isa=isa.name))
    onnx.save(network(), tmp_path / "m.onnx")
    said = CliRunner().invoke(app, ["profile", str(tmp_path / "m.onnx"), "--threads", "1", "--isa", "avx2", "--rounds", "3", "--roofline", "--json",
                                    "--dim", "n=2", "--cache-dir", str(tmp_path / "cache"), "--html", str(tmp_path / "p.html"),
                                    "--trace", str(tmp_path / "p.json")])  # fmt: skip
    assert said.exit_code == 0, said.output
    data = json.loads(said.stdout)
    assert data["peaks"]["fma"] == PEAKS.fma and data["rounds"] == 3
    wanted = {"node", "op", "fused", "kernel", "calls", "threads", "operations", "read", "written", "seconds", "least", "share", "intensity", "level",
              "bound", "attained", "saving_seconds", "operations_per_second", "bytes_per_second", "roof_seconds"}  # fmt: skip
    assert all(wanted <= row.keys() for row in data["kernels"])
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>") and json.loads((tmp_path / "p.json").read_text())["traceEvents"]


def test_command_prints_a_table(tmp_path: Path) -> None:
    from hasten.cli.app import app

    onnx.save(network(), tmp_path / "m.onnx")
    said = CliRunner().invoke(app, ["profile", str(tmp_path / "m.onnx"), "--threads", "1", "--rounds", "2", "--top", "1"])
    assert said.exit_code == 0, said.output
    assert "Conv + Relu" in said.output or "GlobalAveragePool" in said.output or "copy" in said.output
    assert "other kernel" in said.output
