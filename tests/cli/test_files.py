"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasten.base.errors import InputError
from hasten.cli.files import replacing


def test_takes_the_place_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out.hasten"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old" and temporary.suffix == ".hasten"
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.hasten"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), SystemExit])
def test_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out.hasten"
    target.write_text("old")
    with pytest.raises(BaseException), replacing(target) as temporary:  # noqa: B017 - whatever it is
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.hasten"]


def test_permissions_are_ordinary(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "out") as temporary:
        temporary.touch()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"), replacing(tmp_path / "a" / "b"):
        pass
    with pytest.raises(InputError, match="is a folder"), replacing(tmp_path):
        pass
