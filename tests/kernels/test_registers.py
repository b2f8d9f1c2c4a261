"""Accumulators stay in registers: the innermost loop of a full tile touches memory only for its operands, at every level.

Looks at the machine code, since a spill changes no result. Levels that this machine lacks are looked at as well."""

from __future__ import annotations

import re

import pytest

from hasten.codegen import isa as isas
from hasten.codegen.builder import Module
from hasten.codegen.llvm import assembly
from hasten.kernels.gemm import GemmProblem, emit_gemm, gemm_args, gemm_plan

MULTIPLY = {"portable": r"\tmulps", "avx2": r"\tvfmadd\w+ps", "avx512": r"\tvfmadd\w+ps", "neon": r"\tfmla\tv\d+\.4s"}
# 28 accumulators and 4 vectors of B are all registers that AVX-512 has: one of them may take the way over the stack, which
# hides behind the FMAs of the others.
ALLOWED = {"avx512": 2}
STACK = re.compile(r"\(%r[sb]p|\[sp\b|\[x29\b")
BRANCH = re.compile(r"\t(?:b\.\w+|b|cbn?z\t\w+,|tbn?z\t\w+, #\d+,|j\w+)\s+(\.LBB\w+)$")


def innermost_loops(text: str) -> list[list[str]]:
    """Instructions of each loop that holds no other loop."""
    lines = [line.split("  ")[0].rstrip() for line in text.splitlines()]
    labels = {line.split(":")[0]: number for number, line in enumerate(lines) if line.startswith(".LBB")}
    back = [(labels[m[1]], n) for n, line in enumerate(lines) if (m := BRANCH.match(line)) and labels.get(m[1], n) < n]
    inner = [(a, b) for a, b in back if not any((c, d) != (a, b) and a <= c and d <= b for c, d in back)]
    return [lines[a + 1 : b + 1] for a, b in inner]


def product(isa: isas.Isa, problem: GemmProblem) -> str:
    """Assembly of a product whose results are stored as they are."""
    module = Module(isa)
    f = module.function("kernel", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
    names = [*gemm_args(problem), ("c", "ptr")]
    arg = {name: f.load(t, f.at(f.args[0], number, 8)) for number, (name, t) in enumerate(names)}

    def sink(f, acc, where, lanes, mask):  # type: ignore[no-untyped-def]
        place = f.at(arg["c"], where["m"] * arg["n"] + where["n"], 4)
        f.store(acc, place) if mask is None else f.masked_store(acc, place, mask)

    emit_gemm(f, problem, isa, arg, f.args[1], f.args[2], sink)
    return assembly(module.text(), isa)


@pytest.mark.parametrize("columns", [256, 24, 8, 4])
@pytest.mark.parametrize("level", MULTIPLY)
def test_the_innermost_loop_does_not_spill(level: str, columns: int) -> None:
    isa = isas.get(level, cross=True)
    problem = GemmProblem(256, columns, a_pitch=256)
    plan = gemm_plan(problem, isa)
    tile = plan.rows[0] * plan.vectors
    loops = [loop for loop in innermost_loops(product(isa, problem)) if sum(bool(re.match(MULTIPLY[level], i)) for i in loop) == tile]
    assert loops, "the loop of the largest tile was not found"
    for loop in loops:
        assert len([line for line in loop if STACK.search(line)]) <= ALLOWED.get(level, 0)
