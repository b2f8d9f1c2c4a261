"""Raw samples for other programs: CSV and Parquet with a row for each sample and everything one needs beside it, JSON with the whole run.

The JSON can be read again: it stands wherever the name of a kept run may stand.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hasten.base.errors import CorruptFile, InputError, MissingDependency
from hasten.bench.results import Entry, Run, Sample, Subject

FORMAT, VERSION = "hasten-bench-run", 1
OF_RUN = ("id", "began", "revision", "status")
OF_SUBJECT = ("model", "sha256", "label", "reference")
OF_ENTRY = ("engine", "threads", "trouble", "error", "cold_start_ns", "warm_start_ns", "peak_bytes", "model_bytes", "warmup_calls")
OF_SAMPLE = (*(field.name for field in fields(Sample)), "seconds")
COLUMNS = ("run", *OF_RUN[1:], "cpu", *OF_SUBJECT, "inputs", *OF_ENTRY, *OF_SAMPLE)  # `seconds`: of one call
NUMBERS = frozenset({"threads", *OF_ENTRY[4:], *OF_SAMPLE[:-1]})


def rows(run: Run) -> Iterator[tuple[Any, ...]]:
    """A row for each sample, in the order of COLUMNS."""
    head = (*_values(run, OF_RUN), str(run.machine.get("cpu", "")))
    for subject in run.subjects:
        inputs = "; ".join(f"{name} {kind}" for name, kind in subject.inputs.items())
        for entry in subject.entries:
            beside = (*head, *_values(subject, OF_SUBJECT), inputs, *_values(entry, OF_ENTRY))
            for sample in entry.samples:
                yield (*beside, *_values(sample, OF_SAMPLE))


def write(run: Run, path: Path) -> None:
    """Write a run in the form that the file's suffix names: .csv, .parquet (needs pyarrow) or .json. InputError for another suffix."""
    check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FORMS[path.suffix.lower()](run, path)


def check(path: Path) -> None:
    """Raises InputError where the suffix names no form, MissingDependency where Parquet lacks its package."""
    if path.suffix.lower() not in FORMS:
        raise InputError(f"{path.name}: samples are exported as one of {', '.join(FORMS)}, by the suffix of the file.")
    if path.suffix.lower() == ".parquet":
        _pyarrow()


def _csv(run: Run, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows(run))


def _parquet(run: Run, path: Path) -> None:
    arrow, parquet = _pyarrow()
    floats = {"error", "seconds"}
    kinds = [arrow.int64() if name in NUMBERS else arrow.float64() if name in floats else arrow.string() for name in COLUMNS]
    columns = list(zip(*rows(run), strict=True)) or [()] * len(COLUMNS)
    arrays = [arrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    parquet.write_table(arrow.table(arrays, names=list(COLUMNS)), path)


def _json(run: Run, path: Path) -> None:
    content = asdict(run)
    for subject in content["subjects"]:
        for entry in subject["entries"]:
            entry["samples"] = [[sample[name] for name in OF_SAMPLE[:-1]] for sample in entry["samples"]]
            if entry["error"] is not None and not math.isfinite(entry["error"]):
                entry["error"] = str(entry["error"])  # JSON knows no infinity
    whole = {"format": FORMAT, "version": VERSION, "sample": OF_SAMPLE[:-1], "run": content}
    path.write_text(json.dumps(whole, ensure_ascii=False, default=str) + "\n", "utf-8")


FORMS: dict[str, Callable[[Run, Path], None]] = {".csv": _csv, ".parquet": _parquet, ".json": _json}


def read(path: Path) -> Run:
    """The run in an exported .json. Raises CorruptFile where it is none, or one of another version."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise CorruptFile(f"{path} is a {content['format']} of version {content['version']}; {FORMAT} of version {VERSION} is read here.")
        run = content["run"]
        subjects = [_subject(subject) for subject in run.pop("subjects")]
        return Run(**run, subjects=subjects)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{path} is no run that `hasten bench export` wrote: {type(error).__name__}: {error}") from None


def _subject(content: dict[str, Any]) -> Subject:
    entries = content.pop("entries")
    made = Subject(**content)
    for entry in entries:
        samples = [Sample(*values) for values in entry.pop("samples")]
        error = entry.pop("error")
        made.entries.append(Entry(**entry, error=None if error is None else float(error), samples=samples))
    return made


def _values(record: object, names: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in names)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingDependency("Parquet files are written by pyarrow, which is not installed: pip install 'hasten[parquet]'") from None
    return pyarrow, parquet
