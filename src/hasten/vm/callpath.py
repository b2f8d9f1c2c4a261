"""From a Program, its machine code and its constants to something that Python calls.

`make_model` gives a `NativeModel` (one generated function does the whole run) or, for Programs with host ops or Python
objects, an `InterpretedModel` of `hasten.vm.interpreter`. Both have
    model(*arrays)      inputs by position; one output as itself, several as a tuple
    model.call          the same as a plain function, for callers that count tenths of a microsecond
    model.run(feeds)    dict to dict, by name
and may be called from several threads at once. Outputs are fresh arrays that own their memory.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hasten.base.dtypes import to_numpy
from hasten.base.errors import ExecutionError, InputError, ResourceLimit, ShapeMismatch
from hasten.vm import abi
from hasten.vm.abi import Word
from hasten.vm.arrays import shape_text
from hasten.vm.image import Image, LoadedImage
from hasten.vm.inputs import Signature
from hasten.vm.program import MAX_DEPTH, MAX_ROUNDS, STATUS_MEMORY, STATUS_MESSAGES, STATUS_ROUNDS, STATUS_SHAPE, Check, Program, TensorSpec
from hasten.vm.runtime import NumpyApi, Runtime, default_memory_limit, guard_side, load_runtime, numpy_api, thread_count
from hasten.vm.values import Values


class Constants:
    """The constants of a model in memory: 64-byte aligned, kept alive, not copied where they are aligned already."""

    def __init__(self, data: Any):
        array = np.frombuffer(data, np.uint8) if len(memoryview(data)) else np.zeros(64, np.uint8)
        if array.ctypes.data % 64:
            room = np.empty(array.size + 64, np.uint8)
            start = -room.ctypes.data % 64
            aligned = room[start : start + array.size]
            aligned[:] = array
            array = aligned
        self.array = array
        self.address: int = array.ctypes.data


class Model:
    """What both kinds of models share: names, `run`, and errors."""

    call: Callable[..., Any]
    image: LoadedImage
    kind = ""

    unreleased: int = 0
    """Pieces of counted memory that the code of the last run did not give back before its end: 0 unless a Release lacks."""

    def __init__(self, program: Program, threads: int | None, max_depth: int = MAX_DEPTH):
        self.program, self.max_depth = program, max_depth
        self.threads = thread_count(threads)
        self.signature = Signature(program)
        self.output_names = [s.name for s in program.outputs]

    def _make_run(self) -> None:
        """`run` as the cheapest function for these names."""
        call, names, outputs, count = self.call, self.signature.names, self.output_names, len(self.signature.names)
        pick: Callable[[Any], Any] = operator.itemgetter(*names) if names else lambda feeds: ()

        def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
            try:
                values = pick(feeds)
            except Exception:  # noqa: BLE001 - whatever was fed: the slow way says what is wrong with it
                values = None
            if values is None or len(feeds) != count:
                values = self.signature.from_names(feeds)
                result = call(*values)
            else:
                result = call(values) if count == 1 else call(*values)
            return {outputs[0]: result} if len(outputs) == 1 else dict(zip(outputs, result, strict=True))

        self.run: Callable[[Mapping[str, Any]], dict[str, Any]] = run

    def __call__(self, *arrays: Any) -> Any:
        return self.call(*arrays)

    def trim(self) -> None:
        """Give memory that is kept between runs back to the system."""


def check_error(check: Check, left: int, right: int) -> Exception:
    """The exception for a Check that failed."""
    text = f"{check.message} ({check.left} {check.op} {check.right} does not hold: {left} and {right})"
    return ShapeMismatch(text) if check.kind == "shape" else ExecutionError(text)


def status_error(code: int, where: str = "") -> Exception:
    """The exception for a kernel's status; `where` is what the kernel works for, if that is known."""
    text = STATUS_MESSAGES[code] if 0 <= code < len(STATUS_MESSAGES) else "a kernel failed with an unknown status"
    text = f"{where}: {text}" if where else text
    if code == STATUS_MEMORY:
        return ResourceLimit(
            f"{text}: these inputs need a block larger than what the system gives, or than the limit of "
            f"{default_memory_limit()} bytes (half of this machine's memory, or HASTEN_MEMORY_LIMIT)"
        )
    if code == STATUS_ROUNDS:
        return ResourceLimit(f"{text}: they did more than {MAX_ROUNDS} rounds in one run")
    return ShapeMismatch(text) if code == STATUS_SHAPE else ExecutionError(text)


def depth_error(function: str, limit: int) -> Exception:
    """The exception for a recursion that is too deep."""
    return ResourceLimit(
        f"function {function!r}: the recursion is too deep: more than {limit} activations wait for each other "
        "(a call whose result is returned as it is does not wait)"
    )


class _MethodDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


_METH_FASTCALL = 0x80


class NativeModel(Model):
    """A model whose run is one generated function."""

    kind = "native"

    def __init__(
        self, program: Program, image: LoadedImage, constants: Constants, runtime: Runtime, api: NumpyApi,
        threads: int | None = None, memory_limit: int | None = None, max_depth: int = MAX_DEPTH,
    ):  # fmt: skip
        super().__init__(program, threads, max_depth)
        self.image, self.constants = image, constants
        dtypes = [to_numpy(s.dtype) if isinstance(s, TensorSpec) else None for s in (*program.inputs, *program.outputs)]
        dtypes += map(to_numpy, abi.field_dtypes(program))
        words = (ctypes.c_int64 * abi.context_words(program)).from_address(image.address(abi.CONTEXT))
        self._words = words
        words[Word.CONSTANTS] = constants.address
        words[Word.PARALLEL], words[Word.RELEASE] = runtime.parallel, runtime.release
        words[Word.THREADS], words[Word.DEPTH] = self.threads, max_depth
        words[Word.LIMIT] = default_memory_limit() if memory_limit is None else memory_limit
        words[Word.ARRAY_TYPE], words[Word.NEW_ARRAY], words[Word.SET_BASE] = (
            api.array_type,
            api.new_from_descr,
            api.set_base_object,
        )
        for number, cls in enumerate((int, float, bool, list, tuple)):
            words[Word.CLASSES + number] = id(cls)
        for number, dtype in enumerate(dtypes):
            words[Word.DESCRIPTORS + number] = id(dtype)
        kept: list[Any] = []
        adopt = functools.partial(_adopt, words, abi.first_class(program), self.signature.values, kept)
        self.signature.values.adopted = adopt
        adopt()
        _free_scratch_with(image)
        self._trim = image.function(abi.TRIM, None)
        self.call = _python_function(image, _Fallbacks(self), (constants, dtypes, kept))
        self._make_run()

    @property
    def unreleased(self) -> int:  # type: ignore[override]
        return self._words[Word.UNRELEASED]

    def trim(self) -> None:
        self._trim()


def _adopt(words: Any, first: int, values: Values, kept: list[Any]) -> None:
    """Put the classes of data types into the context. A run in progress may have read those before: they stay alive."""
    classes = [c for t in values.types for c in values.families[t].variants]
    kept.append(classes)
    for number, cls in enumerate(classes, first):
        words[number] = id(cls)


def _free_scratch_with(image: LoadedImage) -> None:
    """Free the scratch memory that the image keeps between runs when the image goes.

    Callbacks run from the last registered to the first, so this comes before the image is unmapped.
    """
    trim = ctypes.CFUNCTYPE(None)(image.address(abi.TRIM))  # does not hold the image
    weakref.finalize(image, trim).atexit = False


class _Fallbacks:
    """What the native function calls where something is unusual. Knows only what it needs: no cycle with the model."""

    def __init__(self, model: NativeModel):
        self.signature, self.error = model.signature, _Errors(model.program, model.max_depth)
        self.thread = threading.local()

    def slow(self, *values: Any) -> tuple[Any, ...]:
        """The inputs as the native function takes them; it tries again with these."""
        arrays = self.signature.convert(values)
        if arrays and all(a is v for a, v in zip(arrays, values, strict=True)):
            again, self.thread.given = getattr(self.thread, "given", None) == list(map(id, values)), list(map(id, values))
            if again or not self.signature.values.types:  # once it may be that the model has just taken over the classes of these values
                raise InputError("these inputs were refused although they look right; please report this")
        return tuple(arrays)

    def wrong_shape(self, *values: Any) -> None:
        self.signature.sizes(values)
        raise ShapeMismatch(f"the sizes of the inputs do not fit: {', '.join(shape_text(np.shape(v)) for v in values)}")

    def failed(self, code: int, left: int, right: int) -> None:
        raise self.error(code, left, right)


class _Errors:
    """Exceptions for a run's failure codes (see `hasten.vm.abi`)."""

    def __init__(self, program: Program, max_depth: int):
        self.program, self.max_depth = program, max_depth

    def __call__(self, code: int, left: int, right: int) -> Exception:
        if code == abi.STATUS_DEPTH:
            return depth_error(self.program.functions[left].name, self.max_depth)
        if code >= abi.FIRST_CHECK:
            return check_error(abi.checks(self.program)[code - abi.FIRST_CHECK], left, right)
        sites = abi.sites(self.program)
        return status_error(code, sites[left - 1] if 0 < left <= len(sites) else "")


def _python_function(image: LoadedImage, fallbacks: _Fallbacks, keep: object) -> Callable[..., Any]:
    """The image's `hst_call` as a Python function. Its `self` tuple holds all that the machine code needs alive, the
    image included."""
    definition = _MethodDef(
        b"call", image.address(abi.CALL), _METH_FASTCALL, b"Run the model on its inputs, by position."
    )
    owner = (fallbacks.slow, fallbacks.wrong_shape, fallbacks.failed, definition, image, keep)
    create = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
        ctypes.cast(ctypes.pythonapi.PyCFunction_NewEx, ctypes.c_void_p).value or 0
    )
    function: Callable[..., Any] = create(ctypes.addressof(definition), owner, None)
    return function


def make_model(
    program: Program, image: Image | LoadedImage, constants: Any, runtime: Image | Runtime, *,
    threads: int | None = None, memory_limit: int | None = None, profile: Any = None, max_depth: int = MAX_DEPTH,
) -> Model:  # fmt: skip
    """A callable model.

    `image` has `abi.MODEL_EXPORTS` (native Programs) or the Program's kernels (others; see `exports`), `constants` is
    any buffer (used in place if it is 64-byte aligned), `runtime` the run-time library or its image, `threads` None for
    what this process may use, `memory_limit` the bytes that one allocation may have (None: `default_memory_limit`),
    `max_depth` the activations that may wait for each other. With `profile`, or where the interpreter of Python is an
    unusual one, the Program runs in `hasten.vm.interpreter`; with HASTEN_GUARD in `hasten.vm.guard`.
    """
    loaded = LoadedImage.from_memory(image) if isinstance(image, Image) else image
    library = runtime if isinstance(runtime, Runtime) else load_runtime(runtime)
    blob = constants if isinstance(constants, Constants) else Constants(constants)
    side = guard_side()
    if side is not None:
        from hasten.vm.guard import GuardedModel

        return GuardedModel(program, loaded, blob, library, threads, memory_limit, profile, max_depth, side=side)
    api = numpy_api()
    if program.native and api is not None and profile is None:
        return NativeModel(program, loaded, blob, library, api, threads, memory_limit, max_depth)
    from hasten.vm.interpreter import InterpretedModel

    return InterpretedModel(program, loaded, blob, library, threads, memory_limit, profile, max_depth)


def exports(program: Program, interpreted: bool = False) -> list[str]:
    """Symbols that the image of a Program must export. With `interpreted`, also what the interpreter needs of a native
    one (profiling)."""
    kernels = abi.kernel_names(program)
    return [*abi.MODEL_EXPORTS, *(kernels if interpreted else ())] if program.native else kernels
