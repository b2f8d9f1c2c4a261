"""Small hand-made kernels, and a way from a Program to its native and its interpreted model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hasten.base.types import Data
from hasten.codegen import isa as isas
from hasten.codegen.builder import Function, Module, V
from hasten.codegen.link import link
from hasten.codegen.llvm import compile_text
from hasten.vm import abi
from hasten.vm.callpath import Model, exports, make_model
from hasten.vm.image import Image
from hasten.vm.native import emit_model, emit_runtime
from hasten.vm.program import Program


def _words(f: Function, *types: str) -> list[V]:
    return [f.load(t, f.offset(f.args[0], 8 * (n + 1))) for n, t in enumerate(types)]


def _fail(f: Function, code: V | int) -> None:
    f.store(f.coerce(code, "i64"), f.load("ptr", f.args[0]))


def _double(f: Function) -> None:
    """y[i] = 2 * x[i], float32, n elements split among the threads."""
    x, y, n = _words(f, "ptr", "ptr", "i64")
    _, thread, threads = f.args
    share = (n + threads - 1) // threads
    with f.loop(thread * share, f.smin((thread + 1) * share, n)) as i:
        f.store(f.load("float", f.at(x, i, 4)) * 2.0, f.at(y, i, 4))


def _put(f: Function) -> None:
    """buffer[index] = value, int64; fails with status 1 for a negative index."""
    buffer, index, value = _words(f, "ptr", "i64", "i64")
    with f.when(index < 0):
        _fail(f, 1)
        f.ret()
    f.store(value, f.at(buffer, index, 8))


def _status(f: Function) -> None:
    """Fails with the given status."""
    _fail(f, _words(f, "i64")[0])


def _mark(f: Function) -> None:
    """y[thread] = threads, int64."""
    (y,) = _words(f, "ptr")
    f.store(f.args[2], f.at(y, f.args[1], 8))


def _wait(f: Function) -> None:
    """Until x[0] != 0 (some seconds at most, then status 2); y[0] = x[0]. Floats."""
    x, y = _words(f, "ptr", "ptr")
    with f.loop(0, 1 << 34) as i:
        value = f.emit("float", f"load volatile float, {x}, align 4")
        with f.when(value.ne(0.0)):
            f.store(value, y)
            f.ret()
        f.cast(i, "i32")
    _fail(f, 2)


def _fill(f: Function) -> None:
    """buffer[i] = value for i < n, int64."""
    buffer, n, value = _words(f, "ptr", "i64", "i64")
    with f.loop(0, n) as i:
        f.store(value, f.at(buffer, i, 8))


def _twice(f: Function) -> None:
    """y[i] = 2 * x[i] for i < n, int64, one after the other."""
    x, y, n = _words(f, "ptr", "ptr", "i64")
    with f.loop(0, n) as i:
        f.store(f.load("i64", f.at(x, i, 8)) * 2, f.at(y, i, 8))


KERNELS: dict[str, Callable[[Function], None]] = {
    "k_double": _double, "k_put": _put, "k_status": _status, "k_mark": _mark, "k_wait": _wait,
    "k_fill": _fill, "k_twice": _twice,
}  # fmt: skip


class Toolbox:
    """Compiled kernels and run-time library, for one ISA."""

    def __init__(self) -> None:
        self.isa = isas.get("portable")
        module = Module(self.isa)
        for name, body in KERNELS.items():
            f = module.function(name, [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
            body(f)
            f.ret()
        self.kernels = compile_text(module.text(), self.isa)
        self.runtime = link([compile_text(emit_runtime(self.isa), self.isa)], abi.RUNTIME_EXPORTS)

    def image(self, program: Program, opt: int = 1) -> Image:
        objects = [self.kernels]
        if program.native:
            objects.append(compile_text(emit_model(program, self.isa), self.isa, opt))
        return link(objects, exports(program, interpreted=True))

    def model(
        self, program: Program, constants: bytes = b"", interpreted: bool = False, threads: int = 2, **options: Any
    ) -> Model:
        if interpreted:
            options["profile"] = lambda instruction, seconds: None
        options.setdefault("memory_limit", 1 << 46)
        return make_model(program, self.image(program), constants, self.runtime, threads=threads, **options)

    def both(self, program: Program, constants: bytes = b"", **options: Any) -> tuple[Model, Model]:
        """(native, interpreted)."""
        return self.model(program, constants, **options), self.model(program, constants, interpreted=True, **options)


@pytest.fixture(scope="session")
def toolbox() -> Toolbox:
    return Toolbox()


def outcome(model: Model, *inputs: Any) -> Any:
    """What a call gives, in a form that compares: values as lists, errors as type and text."""
    try:
        result = model(*inputs)
    except Exception as error:  # noqa: BLE001
        return type(error).__name__, str(error)
    several = isinstance(result, tuple) and not isinstance(result, Data)
    return [_plain(r) for r in (result if several else (result,))]


def _plain(x: Any) -> Any:
    return [type(x).__name__, *map(_plain, x)] if isinstance(x, Data) else np.asarray(x).tolist()


@pytest.fixture(scope="session")
def result_of() -> Callable[..., Any]:
    return outcome
