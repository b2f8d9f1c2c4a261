"""Operators on maps and strings that ONNX's reference implementation lacks: ZipMap, CategoryMapper, CastMap. Imported where a host op runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

CASTS: dict[str, Any] = {"TO_FLOAT": np.float32, "TO_INT64": np.int64, "TO_STRING": object}


class ZipMap(OpRun):  # type: ignore[misc]
    """Rows of scores as a list of dicts from label to score."""

    op_domain = "ai.onnx.ml"

    def _run(self, x: Any, classlabels_int64s: Any = None, classlabels_strings: Any = None) -> tuple[Any, ...]:
        labels = list(classlabels_strings or classlabels_int64s or [])
        rows = np.asarray(x).reshape(1 if np.ndim(x) == 1 else len(x), -1)
        if rows.shape[1] != len(labels):
            raise ValueError(f"{rows.shape[1]} scores in a row for {len(labels)} labels")
        return ([dict(zip(labels, row.tolist(), strict=True)) for row in rows],)


class CategoryMapper(OpRun):  # type: ignore[misc]
    """Strings to integers, or integers to strings."""

    op_domain = "ai.onnx.ml"

    def _run(
        self,
        x: Any,
        cats_int64s: Sequence[int] = (),
        cats_strings: Sequence[str] = (),
        default_int64: int = -1,
        default_string: str = "_Unused",
    ) -> tuple[Any, ...]:
        flat: list[Any] = np.asarray(x).reshape(-1).tolist()
        if np.asarray(x).dtype.kind in "OUS":
            numbers = dict(zip(cats_strings, cats_int64s, strict=True))
            return (np.array([numbers.get(v, default_int64) for v in flat], np.int64).reshape(np.shape(x)),)
        names = dict(zip(cats_int64s, cats_strings, strict=True))
        return (np.array([names.get(v, default_string) for v in flat], object).reshape(np.shape(x)),)


class CastMap(OpRun):  # type: ignore[misc]
    """The values of a map in the order of its keys; "SPARSE": each at the place of its key, in a row of `max_map` values."""

    op_domain = "ai.onnx.ml"

    def _run(
        self, x: Mapping[int, Any], cast_to: str = "TO_FLOAT", map_form: str = "DENSE", max_map: int = 1
    ) -> tuple[Any, ...]:
        kind = CASTS[cast_to]
        row: list[Any] = [x[k] for k in sorted(x)]
        if map_form == "SPARSE":
            row = [x.get(k, "0.f" if kind is object else 0) for k in range(max_map)]
        values = [f"{float(v):.6f}" if kind is object and not isinstance(v, str) else v for v in row]
        return (np.array([kind(float(v)) if kind is not object else v for v in values], kind).reshape(1, -1),)


OPERATORS = [ZipMap, CategoryMapper, CastMap]
