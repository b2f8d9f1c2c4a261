"""`hasten inspect`: finding the texts of stages in a dump folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hasten.cli.inspect import TEXTS, Stage, stage_text


@pytest.mark.parametrize("name", ["graph.txt", "01-graph.txt", "3_graph.txt", "m/01.graph.txt"])
def test_texts_are_found_by_stage(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("here")
    (tmp_path / "02-subgraph.txt").write_text("not here")
    assert stage_text(tmp_path, Stage.GRAPH) == "here"
    assert stage_text(tmp_path, Stage.PROGRAM) == ""


def test_there_is_a_text_for_each_stage_of_the_compiler() -> None:
    assert [stage.value for stage in TEXTS] == ["graph", "simplified", "regions", "program"]
