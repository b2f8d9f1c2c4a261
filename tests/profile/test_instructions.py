"""Time by instruction: what a run's marks say, whom time belongs to, and the pictures of it."""

from __future__ import annotations

import collections
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import hasten
from hasten.base import dims as D
from hasten.codegen import isa as isas
from hasten.profile import Profile, flame, record
from hasten.profile.instructions import GROUPS, Instructions, InstructionTime, gather, time_instructions
from hasten.profile.timed import Marks, Timed
from hasten.profile.trace import chrome_trace
from hasten.vm import program as P
from hasten.vm.instructions import ROWS
from hasten.vm.listing import Listing

N = D.symbol("n")
SPACE = "{http://www.w3.org/2000/svg}"


def network(size: int = 64, rounds: int = 5) -> onnx.ModelProto:
    """A Loop of products, then the places of what is positive."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("MatMul", ["a", "w"], ["b"], name="step"), helper.make_node("Identity", ["go"], ["more"])], "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("a", TensorProto.FLOAT, ["n", size])],
        [info("more", TensorProto.BOOL, []), info("b", TensorProto.FLOAT, ["n", size])],
    )  # fmt: skip
    nodes = [helper.make_node("Loop", ["m", "", "x"], ["c"], body=body), helper.make_node("Relu", ["c"], ["r"], name="<last>"),
             helper.make_node("NonZero", ["r"], ["y"], name="places")]  # fmt: skip
    w = np.eye(size, dtype=np.float32)
    g = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, ["n", size])], [info("y", TensorProto.INT64, None)],
                          [helper.make_tensor("m", TensorProto.INT64, [], [rounds]), numpy_helper.from_array(w, "w")])  # fmt: skip
    return helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def model() -> hasten.CompiledModel:
    return hasten.compile(network(), threads=1, isa="avx2")


@pytest.fixture(scope="module")
def feeds() -> dict[str, np.ndarray]:
    return {"x": np.ones((8, 64), np.float32)}


@pytest.fixture(scope="module")
def found(model: hasten.CompiledModel, feeds: dict[str, np.ndarray]) -> Instructions:
    timed = time_instructions(model, feeds, rounds=5)
    assert timed is not None
    return timed


def test_every_instruction_is_for_something() -> None:
    kinds = [kind for group in GROUPS.values() for kind in group]
    assert len(kinds) == len(set(kinds)) and set(kinds) == {row.instruction for row in ROWS} - {P.Host}


# --- real runs ------------------------------------------------------------------------------------------------------------------
def test_calls_and_times(found: Instructions) -> None:
    steps = [row for row in found.rows if row.note.startswith("MatMul 'step'")]
    (loop,) = (row for row in found.rows if row.name == "While")
    assert {row.calls for row in steps} == {5} and loop.calls == 1
    assert all(row.calls == 5 for row in found.rows if row.depth == 1)
    products = max(steps, key=lambda row: row.seconds)
    assert products.kernel.startswith("gemm") and products.seconds > loop.seconds  # a While's time is its own
    assert products.seconds > 0.3 * sum(row.seconds for row in found.rows)
    assert sum(found.groups().values()) == pytest.approx(sum(row.seconds for row in found.rows)) and found.groups()["kernels"] > 0


def test_spans_are_nested(found: Instructions) -> None:
    assert not found.cut_off
    (loop,) = (s for s in found.spans if found.rows[s.number].name == "While")
    inside = [s for s in found.spans if found.rows[s.number].depth == 1]
    assert len(inside) % 5 == 0 and len(inside) >= 5
    assert all(loop.start <= s.start and s.start + s.seconds <= loop.start + loop.seconds + 1e-12 for s in inside)
    assert len(found.spans) == sum(row.calls for row in found.rows)


def test_models_of_the_interpreter_are_not_timed() -> None:
    nodes = [helper.make_node("StringNormalizer", ["s"], ["t"])]
    info = helper.make_tensor_value_info
    g = helper.make_graph(nodes, "g", [info("s", TensorProto.STRING, ["m"])], [info("t", TensorProto.STRING, None)])
    strings = hasten.compile(helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), threads=1)
    feeds = {"s": np.array(["a"], object)}
    assert time_instructions(strings, feeds) is None
    profile = record(strings, feeds, rounds=2)
    assert profile.instructions is None and profile.parts() == {} and "instructions" not in profile.to_dict()


def test_long_runs_are_cut_off() -> None:
    model = hasten.compile(network(4, 30_000), threads=1, isa="avx2")
    made = time_instructions(model, {"x": np.zeros((1, 4), np.float32)}, rounds=1)
    assert made is not None and made.cut_off and 10_000 < max(row.calls for row in made.rows) < 30_000
    assert Profile("avx2", "highest", 1, 1, True, 1e-3, 1e-3, (), (), made).parts() == {}


def test_profile_has_parts_of_a_call(model: hasten.CompiledModel, feeds: dict[str, np.ndarray]) -> None:
    profile = record(model, feeds, rounds=5)
    assert profile.instructions is not None and list(profile.parts()) == [*GROUPS, "the call itself"]
    assert sum(profile.parts().values()) >= profile.call * 0.999
    data = profile.to_dict()
    assert len(data["instructions"]) == len(model.disassemble().code) and data["parts"] == profile.parts()


def test_the_timed_driver_fails_as_the_model_does(model: hasten.CompiledModel) -> None:
    timed = Timed(model.driver, isas.get("avx2"))  # type: ignore[arg-type]
    assert timed.cost > 0 and 1e-11 < timed.tick < 1e-7
    with pytest.raises(hasten.ShapeMismatch, match="axis 1 must be 64, not 3"):
        timed.run([np.ones((2, 3), np.float32)])


# --- whom time belongs to -------------------------------------------------------------------------------------------------------
def lines(program: P.Program) -> Any:
    return Listing.of(program)


def marks(*rows: tuple[int, int, bool]) -> Marks:
    ticks, at, begins = zip(*rows, strict=True)
    return Marks(np.array(ticks), np.array(at), np.array(begins))


CLOCK = SimpleNamespace(cost=1.0, tick=0.5)  # a mark takes one tick, a tick half a second


def test_time_belongs_to_the_innermost() -> None:
    code: list[P.Instruction] = [P.While(N, (P.Let("n", N - 1), P.If(N, (P.Let("a", 1),), ()))), P.Let("b", 2)]
    listing = lines(P.Program(instructions=code))
    run = marks((0, 0, True), (11, 1, True), (21, 1, False), (31, 2, True), (33, 3, True), (36, 3, False), (40, 2, False), (41, 0, False), (44, 4, True),
                (50, 4, False))  # fmt: skip
    made = gather(CLOCK, listing, [run])  # type: ignore[arg-type]
    assert [row.seconds for row in made.rows] == [(10 + 9 + 0) / 2, 9 / 2, (1 + 3) / 2, 2 / 2, 5 / 2]
    assert [(s.number, s.start, s.seconds) for s in made.spans] == [(1, 5.5, 5), (3, 16.5, 1.5), (2, 15.5, 4.5), (0, 0, 20.5), (4, 22, 3)]


def test_functions_tail_calls_and_recursion() -> None:
    """main: Invoke f. f: If n (Invoke f tail) else Return."""
    program = P.Program(
        instructions=[P.Invoke("f", (2,), (N,))],
        functions=[P.Function("f", (N,), (P.If(N, (P.Invoke("f", (N - 1,), (), True),), (P.Return((0,)),)),))],
    )
    run = marks((0, 0, True), (3, 1, True), (5, 2, True), (9, 1, True), (12, 2, True), (20, 1, True), (24, 3, True), (30, 0, False))
    made = gather(CLOCK, lines(program), [run])  # type: ignore[arg-type]
    assert [row.calls for row in made.rows] == [1, 3, 2, 1]
    assert [row.seconds * 2 for row in made.rows] == [2, 1 + 2 + 3, 3 + 7, 5]
    ends = {(s.number, s.start * 2): s.seconds * 2 for s in made.spans}
    assert ends == {(0, 0): 30, (1, 3): 6, (2, 5): 4, (1, 9): 11, (2, 12): 8, (1, 20): 10, (3, 24): 6}
    assert [row.function for row in made.rows] == ["", *["function f (n)"] * 3]


# --- pictures -------------------------------------------------------------------------------------------------------------------
def row(number: int, text: str, seconds: float, depth: int = 0, function: str = "", note: str = "", group: str = "sizes and checks") -> InstructionTime:
    name = "Call" if text.startswith("call ") else "Let"
    return InstructionTime(number, depth, function, name, group, text, note, 3, seconds)


SHOWN = Instructions(
    (
        row(0, "while i", 1.0, group="control"), row(1, "call conv_1 (%a)", 3.0, 1, note="Conv '<c>'", group="kernels"), row(2, "let a = 1", 2.0),
        row(3, "let b = 1", 4.0, function="function f (n)"),
    ),
    (), False,
)  # fmt: skip


def test_flame_boxes_are_as_wide_as_their_time() -> None:
    root = ET.fromstring(flame.standalone(SHOWN, "m <x>"))
    boxes = {}
    for g in root.iter(f"{SPACE}g"):
        rect, title = g.find(f"{SPACE}rect"), g.find(f"{SPACE}title")
        assert rect is not None and title is not None and title.text is not None
        boxes[title.text.split("\n")[0], float(rect.get("y"))] = (float(rect.get("x")), float(rect.get("width")))  # type: ignore[arg-type]
    assert boxes["m <x>", 0] == (0, 960)
    assert boxes["main", 20] == (0, 576) and boxes["function f (n)", 20] == (576, 384)
    assert boxes["0: while i", 40] == (0, 384) and boxes["2: let a = 1", 40] == (384, 192)
    assert boxes["1: call conv_1 (%a)", 60] == boxes["1: call conv_1 (%a)", 80] == (0, 288)  # the node, and its kernel
    assert "Conv '<c>'" in {t.text for t in root.iter(f"{SPACE}text")}
    assert set(flame.COLOURS) == {*GROUPS, ""}


def test_trace_has_both_tracks(model: hasten.CompiledModel, feeds: dict[str, np.ndarray]) -> None:
    profile = record(model, feeds, rounds=3)
    events = [e for e in json.loads(chrome_trace(profile, "m"))["traceEvents"] if e["ph"] == "X"]
    assert profile.instructions is not None
    assert {e["tid"] for e in events} == {1, 2} and sum(e["tid"] == 2 for e in events) == len(profile.instructions.spans)
    assert {"Relu '<last>'"} <= {e["name"] for e in events if e["tid"] == 2} or any("Relu" in e["name"] for e in events)


def test_command(tmp_path: Path) -> None:
    from hasten.cli.app import app

    onnx.save(network(), tmp_path / "m.onnx")
    picture = tmp_path / "p.svg"
    args = ["profile", tmp_path / "m.onnx", "--threads", "1", "--rounds", "3", "--dim", "n=8", "--top", "2", "--instructions", "--flame", picture]
    said = CliRunner().invoke(app, list(map(str, args)))
    assert said.exit_code == 0, said.output
    assert "by part: kernels" in said.output and re.search(r"kernels\s+gemm_\w+: MatMul 'step'", said.output) and "other instruction" in said.output
    assert ET.parse(picture).getroot().tag == f"{SPACE}svg"


# --- functions ------------------------------------------------------------------------------------------------------------------
Tree = hasten.adt("Tree", Leaf=[hasten.Tensor((1, 8))], Node=["Tree", "Tree"])


@hasten.function
def total(t: Tree) -> hasten.Tensor((1, 8)):
    match t:
        case Tree.Leaf(x):
            return x * 2
        case Tree.Node(a, b):
            return total(a) + total(b)


def test_recursive_functions() -> None:
    """Every activation's kernels are counted, by replaying and by marks."""
    leaf = Tree.Leaf(np.ones((1, 8), np.float32))
    tree = leaf
    for _ in range(6):
        tree = Tree.Node(tree, leaf)
    model = hasten.compile(total, threads=1)
    profile = record(model, {model.inputs[0].name: tree}, rounds=3)
    made = profile.instructions
    assert made is not None
    called = collections.Counter({row.kernel + row.note: row.calls for row in made.rows if row.kernel})
    assert sum(called.values()) == sum(k.calls for k in profile.kernels) and {6, 7} <= set(called.values())
    inside = [row for row in made.rows if row.function]
    assert {row.function.split(" ")[1] for row in inside} == {"total"} and {row.calls for row in inside if row.name == "Tag"} == {13}
    assert sum(row.calls for row in made.rows if row.name == "Invoke") == 13
    picture = flame.standalone(made, "tree")
    assert ">main<" in picture and "function total" in picture
