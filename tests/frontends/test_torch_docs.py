"""The examples of docs/pytorch.md run as they stand, one after the other."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pytorch.md"


@pytest.mark.slow
def test_examples() -> None:
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    if not any(e.name == "hasten" for e in importlib.metadata.entry_points(group="torch_dynamo_backends")):
        pytest.skip("needs an installed Hasten (pip install -e .)")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "bessel_j0" in done.stderr and done.stderr.count("runs eagerly") == 1
