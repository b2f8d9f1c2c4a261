"""`hasten cache`: what the disk cache holds, and emptying it, which is always safe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hasten.cli import options as o

Directory = Annotated[
    Path | None,
    typer.Option("--cache-dir", metavar="DIR", file_okay=False, help="[dim]Default: HASTEN_CACHE_DIR.[/dim]"),
]


def usage(directory: Path | None) -> dict[str, Any]:
    """Where the cache is, how much it holds and may hold."""
    from hasten.codegen.cache import Cache

    cache = Cache(directory)
    found = cache.stats()
    return {
        "directory": str(found.directory),
        "entries": found.entries,
        "bytes": found.bytes,
        "limit_bytes": cache.max_bytes,
    }


def show_cache(cache_dir: Directory = None, json: o.JsonOption = False) -> None:
    """Show where compiled kernels and models are kept, and how much there is."""
    from hasten.base.units import size_text
    from hasten.cli.console import data, facts, print_json

    found = usage(cache_dir)
    if json:
        print_json(found)
        return
    size = f"{size_text(found['bytes'])} of at most {size_text(found['limit_bytes'])}"
    data().print(facts([("directory", found["directory"]), ("entries", found["entries"]), ("size", size)]))


def clear_cache(cache_dir: Directory = None, json: o.JsonOption = False) -> None:
    """Delete all compiled kernels and models. They are made again when needed."""
    from hasten.base.units import count_text, size_text
    from hasten.cli.console import note, print_json
    from hasten.codegen.cache import Cache

    before = usage(cache_dir)
    Cache(cache_dir).clear()
    after = usage(cache_dir)
    if json:
        print_json({"deleted_entries": before["entries"] - after["entries"], **after})
        return
    count = before["entries"] - after["entries"]
    entries = count_text(count, "entry") if count == 1 else f"{count} entries"
    note(f"{entries} deleted, {size_text(before['bytes'] - after['bytes'])} freed in {before['directory']}")
