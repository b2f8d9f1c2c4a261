"""`import hasten` is quick and light; what it promises to leave alone stays out."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("onnx", "onnx_ir", "onnxscript", "llvmlite", "typer", "rich", "sympy", "torch", "google.protobuf")
LIMIT = 0.2  # seconds over the import of NumPy alone


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light() -> None:
    assert python(f"import sys, hasten; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_import_is_quick() -> None:
    code = "import time, numpy; began = time.perf_counter(); import hasten; print(time.perf_counter() - began)"
    assert min(float(python(code)) for _ in range(3)) < LIMIT


def test_help_of_the_command_line_compiles_nothing() -> None:
    code = (
        "import sys; sys.argv = ['hasten', '--help']\nfrom hasten.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('onnx', 'onnx_ir', 'llvmlite', 'numpy') if name in sys.modules])"
    )
    assert python(code).splitlines()[-1] == "[]"


def test_public_names() -> None:
    import hasten

    assert list(hasten.__all__) == sorted(hasten.__all__)
    for name in hasten.__all__:
        assert getattr(hasten, name, None) is not None, name
    assert {"CompiledModel", "HastenError", "compile", "load"} <= set(hasten.__all__)
