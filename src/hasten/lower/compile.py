"""From a prepared graph to machine code: trace, lower, plan memory, compile kernels (or take them from the cache), link.

Everything is text until `build`; `Stages` keeps the texts for dumps and `hasten inspect`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hasten.base import dims as D
from hasten.base.dims import DimLike
from hasten.codegen import cache as cache_room
from hasten.codegen.isa import Isa
from hasten.lower import emit, memory, ownership
from hasten.lower.emit_functions import counted_memory
from hasten.lower.graph import Traced
from hasten.lower.lowered import THREADS, Lowered
from hasten.lower.report import Report, regions_text
from hasten.vm import program as P
from hasten.vm.image import Image
from hasten.vm.runtime import guard_side

Progress = Callable[[str, int, int], None]
_MUCH = 64 << 20  # bytes of constants for which it pays to look for what can be let go
_PAGE = 4096  # a multiple of this is written to a file as it is


@dataclass
class Built:
    """Machine code of a model: what `vm.callpath.make_model` and `vm.file` need."""

    program: P.Program
    image: Image
    runtime: Image
    constants: memoryview
    report: Report
    texts: dict[str, str] = field(default_factory=dict)  # stage -> text


def lower_model(traced: Traced, isa: Isa, threads: int, precision: str) -> tuple[P.Program, Lowered, Report]:
    """Trace to Program: schedule, emit, lay out constants, plan memory."""
    lowered = emit.lower(traced, isa)
    program = lowered.program
    outputs = {i.buffer for i in program.instructions if isinstance(i, P.Output)}
    peak = _placed(lowered, outputs, threads)
    for f in lowered.functions:
        assert f.function is not None
        _placed(f, set(), threads)
        f.program.instructions[:] = counted_memory(f.program.instructions, set())
        program.functions.append(replace(f.function, instructions=tuple(f.program.instructions)))
    if program.functions or program.types or lowered.counted:
        program.instructions[:] = counted_memory(program.instructions, outputs)
        ownership.place(program)
    offset = 0
    for name, data in lowered.constants.items():
        program.constants.append(P.Constant(name, offset, data.size))
        offset += (data.size + 127) // 64 * 64
    reasons = {node: reason for node, _, reason in traced.host}
    host_ops = [f"{h.op} ({h.name}): {reasons.get(h.name, 'its result is no tensor')}" for h in program.host_ops]
    report = Report(isa.name, threads, precision, peak_memory=str(peak), kernels=len(lowered.kernels), constants_bytes=offset,
                    host_ops=host_ops, nodes=lowered.report)  # fmt: skip
    return program, lowered, report


def _placed(lowered: Lowered, outputs: set[str], threads: int) -> DimLike:
    """Plan the memory of the main code or a function; the peak size of its arena."""
    per_thread = {next(iter(D.symbols(THREADS))): threads}
    sizes = {t.name: D.substitute(t.size, per_thread) for t in lowered.temporaries.values()}
    return memory.plan(lowered.program, sizes, outputs | lowered.counted, lowered.known, lowered.lead, guard_side() is None, lowered.over)


def constants_blob(program: P.Program, constants: dict[str, np.ndarray]) -> memoryview:
    """All constants at their offsets, in whole pages; each is taken out of `constants`, so that its memory can go."""
    end = program.constants[-1].offset + (program.constants[-1].size + 127) // 64 * 64 if program.constants else 0
    memory = np.zeros(end + -end % _PAGE + 64, np.uint8)
    blob = memory[-memory.ctypes.data % 64 :][: end + -end % _PAGE]
    for row in program.constants:
        blob[row.offset : row.offset + row.size] = constants.pop(row.buffer)
    return blob.data


@dataclass
class Objects:
    """A compiled but not yet linked model: ELF objects by the names of their texts, in order."""

    program: P.Program
    objects: dict[str, bytes]
    constants: memoryview
    report: Report
    texts: dict[str, str]  # stage -> text


def build(traced: Traced, isa: Isa, threads: int, precision: str, cache: cache_room.Cache, progress: Progress | None = None) -> Built:
    """Compile a traced model for this process, or one like it. Kernels are compiled on two cores at once and kept in the cache."""
    from hasten.codegen.link import link
    from hasten.vm import abi
    from hasten.vm.callpath import exports
    from hasten.vm.native import emit_model, emit_runtime

    def drivers(program: P.Program) -> dict[str, str]:
        texts = {"driver": emit_model(program, isa)} if program.native else {}
        return texts | {"runtime": emit_runtime(isa)}

    parts = compile_objects(traced, isa, threads, precision, cache, drivers, progress)
    runtime = link([parts.objects.pop("runtime")], abi.RUNTIME_EXPORTS)
    image = link(list(parts.objects.values()), exports(parts.program, interpreted=True))
    parts.report.image_bytes = len(image.rx) + image.rw_size
    return Built(parts.program, image, runtime, parts.constants, parts.report, parts.texts)


def compile_objects(traced: Traced, isa: Isa, threads: int, precision: str, cache: cache_room.Cache, drivers: Callable[[P.Program], dict[str, str]],
                    progress: Progress | None = None) -> Objects:  # fmt: skip
    """Compile a traced model's kernels, and the texts that `drivers` makes of its Program."""
    from hasten.vm.text import to_text

    program, lowered, report = lower_model(traced, isa, threads, precision)
    if report.constants_bytes > _MUCH:
        traced.release()
    kernels = {name: text.replace("KERNEL", name) for name, text in sorted(lowered.kernels.items())}
    jobs = kernels or ({} if program.native else {"empty": "define void @hst_empty() { ret void }\n"})  # an image needs some code
    jobs = jobs | drivers(program)
    objects = compile_all(jobs, isa, cache, progress)
    stages = {"regions.txt": regions_text(lowered.report), "program.txt": to_text(program)}
    stages.update({f"kernels/{n}.ll": t for n, t in kernels.items()})
    if "driver" in jobs:
        stages["driver.ll"] = jobs["driver"]
    return Objects(program, objects, constants_blob(program, lowered.constants), report, stages)


def compile_all(jobs: dict[str, str], isa: Isa, cache: cache_room.Cache, progress: Progress | None) -> dict[str, bytes]:
    """Objects of all texts: from the cache, or compiled in a few threads (LLVM works without Python's lock)."""
    from concurrent.futures import ThreadPoolExecutor

    from hasten.codegen.llvm import compile_text, llvm_version
    from hasten.vm.runtime import usable_cpus

    version = f"{llvm_version()}|{isa.key}|"
    found: dict[str, bytes] = {}
    missing: list[str] = []
    keys = {name: version + text for name, text in jobs.items()}
    for name in jobs:
        data = cache.get("object", keys[name])
        if data is None:
            missing.append(name)
        else:
            found[name] = data
    total = len(jobs)

    def make(name: str) -> tuple[str, bytes]:
        return name, compile_text(jobs[name], isa, 1 if name == "driver" else 2)

    done = len(found)
    missing.sort(key=lambda n: -len(jobs[n]))
    with ThreadPoolExecutor(max_workers=max(1, min(usable_cpus(), 8))) as pool:
        for name, data in pool.map(make, missing):
            found[name] = data
            cache.put("object", keys[name], data)
            done += 1
            if progress is not None:
                progress("kernels", done, total)
    return {name: found[name] for name in jobs}


def dump(directory: str | Path, texts: dict[str, str]) -> None:
    """Write the text of every stage under a directory."""
    for name, text in texts.items():
        path = Path(directory) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
