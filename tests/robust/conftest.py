"""Fixtures of the robustness tests: one sandbox for all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def box(private_cache: Path) -> Iterator[object]:
    """Runs attempts in forked processes with limits."""
    from sandbox import Sandbox

    with Sandbox() as sandbox:
        yield sandbox
