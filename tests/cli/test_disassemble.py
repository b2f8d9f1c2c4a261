"""`hasten disassemble`: every instruction, its number, sizes as formulas and as numbers, what kernels compute, machine code."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import Result

import hasten
from hasten.vm.text import from_text

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = the running sums of Relu(-x), doubled in a Loop as often as x has rows."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "a"], ["b"], name="double"), helper.make_node("Identity", ["go"], ["more"])], "body",
        [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("a", TensorProto.FLOAT, ["n", 4])],
        [info("more", TensorProto.BOOL, []), info("b", TensorProto.FLOAT, ["n", 4])],
    )  # fmt: skip
    nodes = [
        helper.make_node("Neg", ["x"], ["m"], name="minus"), helper.make_node("Relu", ["m"], ["r"], name="relu"),
        helper.make_node("CumSum", ["r", "axis"], ["c"], name="sum"),
        helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "zero"], ["rows"]),
        helper.make_node("Loop", ["rows", "", "c"], ["y"], body=body),
    ]  # fmt: skip
    constants = [helper.make_tensor("axis", TensorProto.INT64, [], [1]), helper.make_tensor("zero", TensorProto.INT64, [], [0])]
    g = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, ["n", 4])], [info("y", TensorProto.FLOAT, None)], constants)
    path = tmp_path_factory.mktemp("disassemble") / "m.onnx"
    onnx.save(helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def instructions(text: str) -> list[str]:
    """Numbered lines without their numbers and indents."""
    return [m[2] for m in re.finditer(r"^ *(\d+)  +(.*)$", text, re.MULTILINE)]


def test_every_instruction_is_shown(model: Path, invoke: Invoke, tmp_path: Path) -> None:
    compiled = hasten.compile(model, threads=1)
    said = invoke("disassemble", model, "--threads", 1)
    assert said.exit_code == 0
    lines = compiled.program().split("\ncode\n")[1].splitlines()
    assert instructions(said.stdout) == [line.strip() for line in lines if line.strip() != "else"]
    assert said.stdout.count("; Relu 'relu' with Neg 'minus'") == 1 and "; Add 'double'" in said.stdout
    compiled.save(tmp_path / "m.hasten")
    saved = invoke("disasm", tmp_path / "m.hasten")
    assert saved.exit_code == 0 and saved.stdout.splitlines()[1:] == said.stdout.splitlines()[1:]


def test_sizes_are_put_in(model: Path, invoke: Invoke) -> None:
    formulas, numbers = invoke("disassemble", model).stdout, invoke("disassemble", model, "--dim", "n=7").stdout
    assert 'input "x" float32 (n, 4)' in formulas and 'input "x" float32 (7, 4)' in numbers
    assert re.search(r"alloc output n\*16$", formulas, re.MULTILINE) and re.search(r"alloc output 112$", numbers, re.MULTILINE)
    assert len(instructions(formulas)) == len(instructions(numbers)) and not re.search(r"\bn\b", "".join(instructions(numbers)))
    assert re.search(r"^ *\d+  while .*\bi0\b", numbers, re.MULTILINE)  # how far a loop is only the run knows
    assert str(hasten.compile(model).disassemble({"n": 7})) in numbers


def test_json(model: Path, invoke: Invoke) -> None:
    data = json.loads(invoke("disassemble", model, "--json").stdout)
    assert [line["number"] for line in data["code"]] == list(range(len(data["code"])))
    program = from_text(hasten.compile(model).program())
    assert [line["instruction"] for line in data["code"] if not line["depth"]] == [type(i).__name__ for i in program.instructions]
    noted = [line for line in data["code"] if line["note"]]
    assert {line["instruction"] for line in noted} == {"Call"} and data["kernels"] >= len({line["text"].split()[1] for line in noted})


def test_machine_code(model: Path, invoke: Invoke) -> None:
    name = re.search(r"call (\w+)", invoke("disassemble", model).stdout)[1]  # type: ignore[index]
    said = invoke("disassemble", model, "--asm", name)
    if shutil.which("objdump") is None:
        assert said.exit_code == 1 and "binutils" in said.stderr
        return
    assert said.exit_code == 0 and said.stdout.startswith(f"{name}:\n     0  ") and re.search(r"  ret$", said.stdout, re.MULTILINE)
    assert invoke("disassemble", model, "--asm", name[:-3]).stdout == said.stdout


def test_what_is_not_there_is_told(model: Path, invoke: Invoke) -> None:
    for args, words in (
        (("--dim", "m=3"), "no input has a size 'm'; there are: n"),
        (("--dim", "n"), "--dim n: wants NAME=SIZE"),
        (("--asm", "nothing"), "'nothing' names none of the model's kernels"),
        (("--asm", ""), "of the model's kernels"),
    ):
        said = invoke("disassemble", model, *args)
        assert said.exit_code == 1 and words in said.stderr.replace("\n", " ")
