"""`hasten doctor`: what this machine offers and what Hasten makes of it, with advice: what a bug report needs."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from hasten.cli import options as o

PACKAGES = ("hasten", "numpy", "ml_dtypes", "onnx", "onnx_ir", "onnxscript", "llvmlite")
OPTIONAL = ("torch", "onnxruntime", "openvino", "pillow")
VARIABLES = (
    "HASTEN_NUM_THREADS",
    "HASTEN_CACHE_DIR",
    "HASTEN_CACHE_SIZE",
    "HASTEN_ISA",
    "HASTEN_DUMP",
    "HASTEN_TRACEBACK",
)

REFUSED = "refused by the kernel"


def show_doctor(json: o.JsonOption = False) -> None:
    """Show instruction sets, AMX permission, threads, cache, versions, and advice."""
    from hasten.cli.console import print_json

    found = examine()
    found["advice"] = advice(found)
    if json:
        print_json(found)
    else:
        _print(found)


def examine() -> dict[str, Any]:
    """All facts, JSON-ready."""
    return {
        "machine": machine(),
        "instruction_sets": instruction_sets(),
        "threads": threads(),
        "cache": cache(),
        "versions": versions(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def machine() -> dict[str, Any]:
    """CPU, operating system, memory in bytes."""
    info = _first_cpu()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {"cpu": info.get("model name", platform.processor() or platform.machine()),
            "architecture": platform.machine(), "system": f"{platform.system()} {platform.release()}",
            "memory_bytes": memory}  # fmt: skip


def _first_cpu() -> dict[str, str]:
    """The first block of /proc/cpuinfo; empty elsewhere than on Linux."""
    try:
        block = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def instruction_sets() -> dict[str, Any]:
    """Levels that run here, the one chosen by default, and whether AMX is there and permitted."""
    from hasten.base.errors import InputError
    from hasten.codegen import isa

    available = isa.available()
    amx_in_cpu = {"amx_tile", "amx_bf16", "amx_int8"} <= set(_first_cpu().get("flags", "").split())
    try:
        chosen = isa.detect().name
    except InputError as error:  # HASTEN_ISA names one that is not there
        return {"available": available, "chosen": None, "problem": str(error), "amx": _amx_state(amx_in_cpu, available)}
    return {"available": available, "chosen": chosen, "amx": _amx_state(amx_in_cpu, available)}


def _amx_state(in_cpu: bool, available: list[str]) -> str:
    return "permitted" if "amx" in available else REFUSED if in_cpu else "not in this CPU"


def threads() -> dict[str, Any]:
    """How many threads a run takes by default, and what bounds them."""
    from hasten.base.errors import InputError
    from hasten.vm.runtime import cgroup_quota, thread_count

    cpus = os.cpu_count() or 1
    found: dict[str, Any] = {
        "cpus": cpus,
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpus,
        "cgroup_quota": cgroup_quota(),
        "HASTEN_NUM_THREADS": os.environ.get("HASTEN_NUM_THREADS"),
    }
    try:
        return {"default": thread_count(None), **found}
    except InputError as error:  # HASTEN_NUM_THREADS is no number
        return {"default": None, "problem": str(error), **found}


def cache() -> dict[str, Any]:
    """Where compiled kernels are kept, how much is there, whether it can be written."""
    from hasten.base.errors import InputError
    from hasten.cli.cache import usage

    try:
        found = usage(None)
    except InputError as error:  # HASTEN_CACHE_SIZE is no size
        return {"problem": str(error)}
    folder = Path(found["directory"])
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return {**found, "writable": os.access(nearest, os.W_OK)}


def versions() -> dict[str, str | None]:
    """Python, LLVM and the packages; None for one that is not installed."""
    from importlib import metadata

    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    try:
        from llvmlite import binding

        found["LLVM"] = ".".join(map(str, binding.llvm_version_info))
    except (ImportError, OSError):
        found["LLVM"] = None
    return found


def advice(found: dict[str, Any]) -> list[str]:
    """What could be better, one line each; empty when all is well."""
    sets, pool, store, installed = found["instruction_sets"], found["threads"], found["cache"], found["versions"]
    quota, affinity, wish = pool["cgroup_quota"], pool["affinity"], str(pool["HASTEN_NUM_THREADS"] or "")
    linux_x86 = sys.platform.startswith("linux") and found["machine"]["architecture"] == "x86_64"
    table = [
        (not linux_x86, "Hasten is developed and tested on Linux on x86-64; other systems are untested."),
        ("problem" in sets, f"Correct HASTEN_ISA. {sets.get('problem')}"),
        ("problem" in pool, f"Correct HASTEN_NUM_THREADS. {pool.get('problem')}"),
        ("problem" in store, f"Correct HASTEN_CACHE_SIZE. {store.get('problem')}"),
        (
            sets["amx"] == REFUSED,
            "The CPU has AMX but it may not be used: that needs Linux 5.16 and a sandbox that allows arch_prctl.",
        ),
        (
            sets["available"][0] == "portable",
            "Neither AVX2 nor better is there: in a virtual machine, pass the host's CPU model through.",
        ),
        (
            quota is not None and quota < affinity,
            f"A cgroup quota of {quota or 0:g} CPUs holds the threads below the {affinity} of the affinity mask.",
        ),
        (
            wish.isdigit() and int(wish) > affinity,
            f"HASTEN_NUM_THREADS={wish} is more than the {affinity} CPUs that this process may use.",
        ),
        (
            not store.get("writable", True),
            f"The cache {store.get('directory')} cannot be written, so every start compiles: set HASTEN_CACHE_DIR.",
        ),
        (
            installed["llvmlite"] is None or installed["onnx"] is None,
            "onnx or llvmlite is missing: saved .hasten files run, compiling needs both (pip install hasten).",
        ),
    ]
    return [text for holds, text in table if holds]


def _print(found: dict[str, Any]) -> None:
    from rich.text import Text

    from hasten.base.units import size_text
    from hasten.cli.console import data, facts, note

    computer, sets, pool = found["machine"], found["instruction_sets"], found["threads"]
    memory = size_text(computer["memory_bytes"]) if computer["memory_bytes"] else "memory unknown"
    levels = Text(" ").join(Text(n, style="bold green" if n == sets["chosen"] else "") for n in sets["available"])
    quota = "no cgroup quota" if pool["cgroup_quota"] is None else f"cgroup quota {pool['cgroup_quota']:g}"
    wish = pool["HASTEN_NUM_THREADS"] or "not set"
    bounds = f"{pool['cpus']} CPUs, {pool['affinity']} in the affinity mask, {quota}, HASTEN_NUM_THREADS {wish}"
    rows = [
        ("machine", f"{computer['cpu']}, {computer['architecture']}, {memory}, {computer['system']}"),
        ("instruction sets", levels + Text(f"  (default: {sets['chosen'] or 'none'})")),
        ("AMX", sets["amx"]),
        ("threads", f"{pool['default'] or 'none'}  ({bounds})"),
        ("cache", _cache_text(found["cache"])),
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)),
        ("environment", ", ".join(f"{name}={value}" for name, value in found["environment"].items()) or "nothing set"),
    ]
    data().print(facts(rows))
    for line in found["advice"]:
        note(line)
    if not found["advice"]:
        note("all is well")


def _cache_text(store: dict[str, Any]) -> str:
    from hasten.base.units import size_text

    if "problem" in store:
        return f"unusable: {store['problem']}"
    size, limit = size_text(store["bytes"]), size_text(store["limit_bytes"])
    return f"{store['directory']}, {size} of at most {limit}, {store['entries']} entries"
