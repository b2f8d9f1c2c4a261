"""`hasten run`: feed a model, print what comes out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hasten.cli import options as o

if TYPE_CHECKING:
    import numpy as np

FIRST = 6  # values shown of each output


def run_model(
    model: o.ModelFile,
    inputs: o.InputOption = None,
    dims: o.DimOption = None,
    seed: o.SeedOption = 0,
    resize: o.ResizeOption = None,
    scale: o.ScaleOption = None,
    mean: o.MeanOption = None,
    std: o.StdOption = None,
    layout: o.LayoutOption = None,
    bgr: o.BgrOption = False,
    top: Annotated[
        int | None, typer.Option("--top", min=1, metavar="K", help="Also the K largest values along each last axis.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE.npz", help="Write all outputs into an .npz file.")
    ] = None,
    isa: o.IsaOption = None,
    precision: o.PrecisionOption = None,
    threads: o.ThreadsOption = None,
    host_ops: o.HostOpsOption = True,
    cache_dir: o.CacheDirOption = None,
    dump: o.DumpOption = None,
    json: o.JsonOption = False,
) -> None:
    """Run a model once.

    Without --input it says what the model wants. Pictures are never resized or scaled unless asked for.
    """
    from hasten.cli.console import note
    from hasten.cli.feeds import make_feeds, tensor_inputs
    from hasten.cli.models import CompileOptions, open_model
    from hasten.cli.pictures import PictureOptions

    pictures = PictureOptions.parse(resize, scale, mean, std, layout, bgr)
    compiled = open_model(model, CompileOptions(isa, precision, threads, host_ops, cache_dir, dump))
    feeds = make_feeds(tensor_inputs(compiled), inputs or (), dims or (), pictures=pictures, seed=seed)
    for remark in feeds.remarks:
        note(remark)
    began = time.perf_counter()
    outputs = compiled.run(feeds.arrays)
    seconds = time.perf_counter() - began
    if save is not None:
        _save(save, outputs)
    if json:
        _print_json(model, outputs, top, seconds)
    else:
        _print_table(outputs, top, seconds, save)


def _save(path: Path, outputs: Mapping[str, Any]) -> None:
    """All outputs as one .npz, strings in NumPy's own string dtype, so that no pickle is needed to read it."""
    import numpy as np

    from hasten.base.errors import InputError
    from hasten.cli.files import replacing

    if path.suffix.lower() != ".npz":
        raise InputError(f"--save {path}: outputs are written as .npz; try {path.with_suffix('.npz')}.")
    arrays: dict[str, Any] = {}
    for name, value in outputs.items():
        parts = (
            {f"{name}.{i}": part for i, part in enumerate(value)} if isinstance(value, (list, tuple)) else {name: value}
        )
        arrays |= {key: _plain_array(part) for key, part in parts.items() if part is not None}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _plain_array(value: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    array = np.asarray(value)
    return array.astype(str) if array.dtype.kind == "O" else array


def _statistics(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Least, largest and mean value of the finite elements, and how many are not finite; empty for text."""
    import numpy as np

    if array.dtype.kind in "OUS" or not array.size:
        return {}
    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    found: dict[str, Any] = {"not_finite": int(values.size - finite.size)}
    if finite.size:
        found |= {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean())}
    return found


def _largest(array: np.ndarray[Any, Any], count: int) -> list[list[tuple[int, float]]]:
    """For each row along the last axis, the indices and values of its `count` largest, largest first."""
    import numpy as np

    if array.dtype.kind in "OUSb" or not array.size or not array.ndim:
        return []
    shape = [size for size in array.shape if size != 1]  # (1, 1000, 1, 1) is a row of 1000
    rows = np.asarray(array, np.float64).reshape(-1, shape[-1] if shape else 1)
    order = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    return [[(int(i), float(row[i])) for i in best] for row, best in zip(rows, order, strict=True)]


def _print_json(model: Path, outputs: Mapping[str, Any], top: int | None, seconds: float) -> None:
    from hasten.cli.console import print_json

    print_json({"model": str(model), "seconds": seconds,
                "outputs": [_json_output(name, value, top) for name, value in outputs.items()]})  # fmt: skip


def _json_output(name: str, value: Any, top: int | None) -> dict[str, Any]:
    import numpy as np

    if isinstance(value, (list, tuple)):
        return {"name": name, "sequence": [_json_output(f"{name}.{i}", part, top) for i, part in enumerate(value)]}
    if value is None:
        return {"name": name, "absent": True}
    array = np.asarray(value)
    made = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), **_statistics(array),
            "first": [_number(x) for x in array.ravel()[:FIRST]]}  # fmt: skip
    return made | ({"top": [[list(pair) for pair in row] for row in _largest(array, top)]} if top else {})


def _number(value: Any) -> Any:
    """A plain Python number or text; the small float types of ml_dtypes count as floats."""
    plain = value.item() if hasattr(value, "item") else value
    return plain if isinstance(plain, (bool, int, float, str)) else float(plain)


def _print_table(outputs: Mapping[str, Any], top: int | None, seconds: float, save: Path | None) -> None:
    from hasten.base.units import time_text
    from hasten.cli.console import data, note, table

    rows: list[tuple[str, ...]] = []
    for name, value in outputs.items():
        parts = (
            [(f"{name}.{i}", part) for i, part in enumerate(value)]
            if isinstance(value, (list, tuple))
            else [(name, value)]
        )
        rows += [_row(label, part) for label, part in parts] or [(name, "empty sequence", "", "", "", "", "")]
    data().print(table("output", "dtype", "shape", ">min", ">max", ">mean", "first values", rows=rows))
    if top:
        _print_top(outputs, top)
    if save is not None:
        note(f"outputs written to {save}")
    note(f"first run {time_text(seconds)}; `hasten bench` times properly")


def _row(name: str, value: Any) -> tuple[str, ...]:
    import numpy as np

    from hasten.cli.console import shape_text

    if value is None:
        return (name, "absent", "", "", "", "", "")
    array = np.asarray(value)
    found = _statistics(array)
    dtype = "str" if array.dtype.kind in "OUS" else array.dtype.name
    first = ", ".join(_brief(x) for x in array.ravel()[:FIRST]) + (", ..." if array.size > FIRST else "")
    if found.get("not_finite"):
        first += f"  ({found['not_finite']} not finite)"
    return (
        name,
        dtype,
        shape_text(array.shape),
        *(_brief(found.get(key, "")) for key in ("min", "max", "mean")),
        first,
    )


def _brief(value: Any) -> str:
    plain = _number(value)
    return f"{plain:.5g}" if isinstance(plain, float) else repr(plain) if isinstance(value, bytes) else str(plain)


def _print_top(outputs: Mapping[str, Any], top: int) -> None:
    import numpy as np

    from hasten.cli.console import data, note, table

    for name, value in outputs.items():
        rows = [] if value is None or isinstance(value, (list, tuple)) else _largest(np.asarray(value), top)
        shown = [(row, index, f"{score:.5g}") for row, best in enumerate(rows[:FIRST]) for index, score in best]
        if shown:
            data().print(table(">row", ">index", ">value", rows=shown, title=f"largest of {name}"))
        if len(rows) > FIRST:
            note(f"{name} has {len(rows)} rows, the first {FIRST} are shown; --json has all")
