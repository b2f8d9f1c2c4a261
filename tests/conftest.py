"""What all tests share: a cache of their own, the data folder, and the seed of random tests."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
SEED = int(os.environ.get("HASTEN_TEST_SEED") or random.SystemRandom().randrange(2**32))
settings.register_profile("repeatable", derandomize=True)
if os.environ.get("HASTEN_TEST_SEED"):
    settings.load_profile("repeatable")


def pytest_report_header() -> str:
    return f"hasten: HASTEN_TEST_SEED={SEED} repeats this run's random inputs"


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tests never touch the user's cache: all of a session share one in a temporary folder, subprocesses too."""
    folder = tmp_path_factory.mktemp("hasten-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASTEN_CACHE_DIR", str(folder))
        for name in ("HASTEN_DUMP", "HASTEN_CACHE_SIZE", "HASTEN_TRACEBACK", "HASTEN_NUM_THREADS"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real models and inputs: HASTEN_DATA, or beside the checkout; tests that need it skip without."""
    folder = Path(os.environ.get("HASTEN_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "models").is_dir():
        pytest.skip("needs the data folder: set HASTEN_DATA")
    return folder


@pytest.fixture(scope="session")
def example_models() -> Path:
    """The small trained models that come with the project."""
    return ROOT / "examples" / "models"


@pytest.fixture(scope="session")
def example_pictures() -> Path:
    return ROOT / "examples" / "pictures"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that differ between sessions and between tests; the seed is in the header and after a failure."""
    request.node.add_report_section("setup", "seed", f"HASTEN_TEST_SEED={SEED}")
    return np.random.default_rng([SEED, *request.node.nodeid.encode()])
