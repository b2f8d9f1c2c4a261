"""Each instruction is described once, and everything that must know all instructions does."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from hasten.vm import instructions, interpreter
from hasten.vm import program as P
from hasten.vm.forms import FORMS, Syntax, masked, split
from hasten.vm.instructions import ROWS, Kind
from hasten.vm.native import code

PAGE = Path(__file__).resolve().parents[2] / "docs" / "vm.md"
NOT_NATIVE = {P.Host}


def test_every_instruction_has_its_row_and_both_drivers() -> None:
    every = set(typing.get_args(P.Instruction))
    assert {row.instruction for row in ROWS} == every and len(ROWS) == len(every)
    assert set(interpreter._HANDLERS) == every
    assert set(code.EMITTERS) == every - NOT_NATIVE


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_fit_their_instructions(row: instructions.Row) -> None:
    fields = [f.name for f in dataclasses.fields(row.instruction)]
    assert list(row.operands) == fields
    written = [field for field in fields if row.operands[field] is not Kind.BLOCK]
    assert sorted(re.findall(r"\{(\w+)\}", row.form)) == sorted(written)
    assert "\n" not in row.meaning + row.errors
    left_out = re.findall(r"\{(\w+)\}", "".join(re.findall(r"\[\[(.*?)\]\]", row.form)))
    assert all(FORMS[row.instruction].defaults[field] is not dataclasses.MISSING for field in left_out)


def test_the_page_has_the_table() -> None:
    """To bring the page up to date: put what `instructions.table()` returns between its markers."""
    found = re.search(r"<!-- instructions -->\n(.*?)\n<!-- /instructions -->", PAGE.read_text(), re.DOTALL)
    assert found is not None and found[1] == instructions.table()


def test_masks() -> None:
    assert masked('call k (a, "(", floordiv(b, 2)) at "x) work 3"') == 'call k (______________________) at "_________"'
    assert split('a, f(b, c), "x, \\" y", d') == ["a", "f(b, c)", '"x, \\" y"', "d"]
    assert split(" ") == []
    for wrong in ("(a", "a)", "((a)", "a]["):
        with pytest.raises(Syntax):
            masked(wrong)
