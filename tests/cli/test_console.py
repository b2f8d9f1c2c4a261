"""Shapes, JSON, tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hasten.cli import console


def test_shapes() -> None:
    assert console.shape_text(("batch", 3, None)) == "(batch, 3, ?)"
    assert console.shape_text((4,)) == "(4,)" and console.shape_text(()) == "()"


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(
        {"a": float("nan"), "b": [np.float32(1.5), np.int64(2), True], "c": Path("x"), "d": np.float64("inf")}
    )
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, 2, True], "c": "x", "d": None}


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.data().print(console.table("name", rows=[("[bold]x[1]",)]))
    assert "[bold]x[1]" in capsys.readouterr().out
