"""The page's examples run, and its tables name what there is."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from hasten.functions.calls import _TORCH, BUILTINS, FUNCTIONS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "functions.md").read_text()


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "page.py"
    program.write_text("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))
    names = runpy.run_path(str(program))
    assert names["y"].shape == names["same"].shape == (1, 300)
    assert names["h"].shape == names["c"].shape == (1, 150)
    assert names["tokens"][0] == 1 and 1 < len(names["tokens"]) <= 21
    np.testing.assert_allclose(names["mean"], 1.75)


def test_the_tables_name_what_there_is() -> None:
    def row(label: str) -> set[str]:
        return set(re.search(rf"^\| {label}: `([^`]*)`", PAGE, re.MULTILINE).group(1).split())  # type: ignore[union-attr]

    assert row("Python") == set(BUILTINS) | {"range"}
    assert row("PyTorch") == _TORCH
    assert row("NumPy") == {name for name in FUNCTIONS if hasattr(np, name)} - {"absolute"} - {"cat", "relu", "sigmoid", "softmax", "unsqueeze"}
