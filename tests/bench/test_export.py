"""Exports: every sample with what belongs to it, equal in all forms; the JSON is the run again."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from synthetic import make_run  # noqa: E402

from hasten.base.errors import CorruptFile, InputError, MissingDependency  # noqa: E402
from hasten.bench import export  # noqa: E402


def test_csv_has_a_row_for_each_sample(tmp_path: Path) -> None:
    run = make_run(threads=(1, 2), rounds=7)
    run.subjects[0].label = 'with, "quotes"\nand lines'
    export.write(run, tmp_path / "deep" / "s.csv")
    with (tmp_path / "deep" / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == export.COLUMNS and len(rows) == 3 * 2 * 5 * 7
    samples = [sample for subject in run.subjects for entry in subject.entries for sample in entry.samples]
    assert [int(row["wall_ns"]) for row in rows] == [sample.wall_ns for sample in samples]
    assert [float(row["seconds"]) for row in rows] == [sample.seconds for sample in samples]
    first = rows[0]
    assert (first["run"], first["engine"], first["threads"], first["model"]) == (run.id, "hasten", "1", "face_yunet_n.onnx")
    assert first["label"] == run.subjects[0].label and first["inputs"] == "image float32[1, 3, 224, 224]" and first["cpu"] == run.machine["cpu"]


def test_parquet_has_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs hasten[parquet]")
    run = make_run(rounds=7)
    run.subjects[0].entries[0].peak_bytes = None
    run.subjects[0].entries[1].error = math.inf
    export.write(run, tmp_path / "s.parquet")
    table = parquet.read_table(tmp_path / "s.parquet")
    assert tuple(table.column_names) == export.COLUMNS
    assert list(zip(*(table[name].to_pylist() for name in export.COLUMNS), strict=True)) == list(export.rows(run))
    export.write(make_run(rounds=0), tmp_path / "empty.parquet")
    assert parquet.read_table(tmp_path / "empty.parquet").schema == table.schema


def test_json_is_the_run_again(tmp_path: Path) -> None:
    run = make_run(threads=(1, 2), rounds=7)
    run.subjects[0].entries[1].error, run.subjects[0].entries[2].error = math.inf, None
    run.subjects[1].entries[0].trouble = "crashed"
    export.write(run, tmp_path / "r.json")
    json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda name: pytest.fail(name))  # plain JSON: no Infinity
    assert export.read(tmp_path / "r.json") == run


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"format": "x", "version": 1}', '{"format": "hasten-bench-run", "version": 1, "run": {"id": 1}}'])
def test_other_files_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(CorruptFile):
        export.read(tmp_path / "r.json")


def test_what_cannot_be_written_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="one of .csv, .parquet, .json"):
        export.check(tmp_path / "s.xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match=r"pip install 'hasten\[parquet\]'"):
        export.check(tmp_path / "s.parquet")
