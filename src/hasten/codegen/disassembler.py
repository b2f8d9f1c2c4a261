"""Machine code as text, by the disassembler of the system: GNU objdump or LLVM's."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile

from hasten.base.errors import ExecutionError, InputError, MissingDependency
from hasten.vm.image import LoadedImage

_MACHINES = {"x86_64": "i386:x86-64", "aarch64": "aarch64"}
_LINE = re.compile(r"\s+([0-9a-f]+):\s+(\S.*)")


def disassemble(code: bytes, machine: str) -> str:
    """One instruction a line, with its offset. `machine`: "x86_64" or "aarch64". Raises MissingDependency where the system has no disassembler for it,
    ExecutionError where that fails."""
    tool = shutil.which("objdump")
    if tool is None or machine not in _MACHINES:
        raise MissingDependency("machine code is shown by objdump, which is not installed here: it comes with GNU binutils (apt install binutils)")
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(code)
        file.flush()
        command = [tool, "-D", "-b", "binary", "-m", _MACHINES[machine], "--no-show-raw-insn", "-w", file.name]
        said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode:
        raise ExecutionError(f"objdump failed: {said.stderr.strip()[:200]}")
    found = (_LINE.match(line) for line in said.stdout.splitlines())
    return "\n".join(f"{int(m[1], 16):6x}  {m[2]}" for m in found if m)


def find_kernel(kernels: list[str], wanted: str) -> str:
    """The one of `kernels` that `wanted` names, or begins. Raises InputError where none or several do."""
    found = [wanted] if wanted in kernels else [name for name in kernels if name.startswith(wanted)]
    if len(found) != 1:
        raise InputError(f"{wanted!r} names {len(found) or 'none'} of the model's kernels: {', '.join(found or kernels)}")
    return found[0]


def kernel_code(image: LoadedImage, kernel: str) -> bytes:
    """The machine code of a kernel in a mapped image, up to what comes next there."""
    layout = image.layout
    start = layout.symbols[kernel]
    end = min((at for at in layout.symbols.values() if at > start), default=layout.rx_size)
    return ctypes.string_at(image.address(kernel), min(end, layout.rx_size) - start)
