"""Models for programs without Python: a shared library with a C header.

    build_library(model, directory, ...) -> Library      `hasten.build_library`

The objects are those that Python runs: the same kernels, the same driver (`hst_run`), the same pool. What differs is the
shell around them: `templates/shell.c` instead of the CPython call path, with tables that `tables` makes of the Program.
`cpu` says how the shell finds out whether the machine can run the code, `toolchain` which compiler builds it. Another
target is a row in `toolchain.TARGETS`; another CPU feature a row in `cpu.FEATURES`.
"""

from __future__ import annotations

from hasten.deploy.library import Library, build_library

__all__ = ["Library", "build_library"]
