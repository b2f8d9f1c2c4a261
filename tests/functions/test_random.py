"""Random functions with loops, choices, lists, trees and recursion against plain Python, in both drivers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain import check
from random_functions import Writer


def load(text: str, folder: Path, name: str) -> Any:
    """A text as a module that has a file."""
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree(module: Any, rng: np.random.Generator, n: int) -> Any:
    if n <= 1:
        return module.Tree.Leaf(rng.standard_normal(3).astype("f4"), int(rng.integers(-5, 6)))
    k = int(rng.integers(1, n))
    return module.Tree.Node(tree(module, rng, k), rng.standard_normal(3).astype("f4"), tree(module, rng, n - k))


def try_function(seed: int, folder: Path, runs: int) -> None:
    """Compile the function of a seed and run it on random arguments."""
    text = Writer(seed).text()
    name = f"random_function_{seed}"
    module = load(text, folder, name)
    try:
        rng = np.random.default_rng(seed)
        cases = []
        for _ in range(runs):
            x, y = rng.standard_normal((2, 3)).astype("f4")
            cases.append((x, y, tree(module, rng, int(rng.integers(1, 6))), int(rng.integers(-2, 7))))
        check(module.f, *cases, tolerance=2e-3)
    except BaseException:
        print(f"seed {seed}:\n{text}")
        raise
    finally:
        del sys.modules[name]


@pytest.mark.parametrize("k", range(3))
def test_random_functions(k: int, tmp_path: Path, rng: np.random.Generator) -> None:
    try_function(int(rng.integers(1 << 31)), tmp_path, 5)


@pytest.mark.slow
def test_many_random_functions(tmp_path: Path, rng: np.random.Generator) -> None:
    for seed in rng.integers(1 << 31, size=150):
        try_function(int(seed), tmp_path, 10)


