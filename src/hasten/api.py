"""The public face: `compile`, `load`, `CompiledModel`. Imports of heavy packages happen inside functions."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hasten.base.dims import DimLike, expanded, symbols
from hasten.base.errors import CompileError, CorruptFile, HastenError, InputError, ResourceLimit
from hasten.base.ranges import Dim
from hasten.functions.function import Function
from hasten.stream import Stream
from hasten.vm.abi import derived

if TYPE_CHECKING:
    from hasten.codegen.cache import Cache
    from hasten.lower.graph import Traced
    from hasten.lower.report import Report
    from hasten.vm.callpath import Model
    from hasten.vm.listing import Listing
    from hasten.vm.replay import Recording

PRECISIONS = ("strict", "highest", "high", "medium")
Progress = Callable[[str, int, int], None]
_LARGE = 64 << 20  # bytes of a compiled model


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: `dtype` is a NumPy (or ml_dtypes) name, or a readable kind for values that aren't tensors; `shape` has ints, names of
    sizes, or None for sizes that only the run knows (None as a whole: not a tensor)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


class CompiledModel:
    """A compiled model: callable, thread-safe, savable, picklable.

    model(*arrays) -> array, or a tuple for several outputs;  model.run({name: array}) -> {name: array}.
    Inputs are NumPy arrays or anything with DLPack, with any strides; outputs are fresh NumPy arrays that the caller owns.
    """

    def __init__(self, model: Model, report: Report, source: Any):
        self._model, self._report, self._source = model, report, source
        self._call = model.call
        self.run: Callable[[Mapping[str, Any]], dict[str, Any]] = model.run
        program = model.program
        known = frozenset().union(*(symbols(d) for s in program.inputs for d in getattr(s, "shape", ())))
        named = derived(program)
        self.inputs: list[TensorInfo] = [_info(s, known, named) for s in program.inputs]
        self.outputs: list[TensorInfo] = [_info(s, known, named) for s in program.outputs]

    def __call__(self, *arrays: Any) -> Any:
        return self._call(*arrays)

    def stream(self, state: Mapping[str, str] | None = None, *, initial: Mapping[str, Any] | None = None,
               fixed: Mapping[str, Any] | None = None) -> Stream:  # fmt: skip
        """A session that carries state from call to call: `with model.stream() as s: y = s(frame)`; see `hasten.Stream`.

        state: output name -> name of the input that it becomes in the next call; None: pairs whose names tell (`stateN` and `state`, `hn` and
        `h`, `present.0.key` and `past_key_values.0.key`). initial: {input: array} of the first call, zeros where nothing is given. fixed:
        {input: array} of inputs that are the same in every call. Raises InputError where no pairs are found, or a name or type does not fit.
        """
        return Stream(self._call, self.inputs, self.outputs, state, initial, fixed)

    def report(self) -> Report:
        """What became of every node, with kernels, host ops, formats, memory."""
        return self._report

    @property
    def driver(self) -> Model:
        """What runs the Program, for tools that look at runs."""
        return self._model

    @property
    def threads(self) -> int:
        """Most threads that a call uses."""
        return self._model.threads

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .hasten file (atomically): `hasten.load` needs neither onnx nor LLVM."""
        from hasten.vm.file import write_bytes

        write_bytes(path, self._source())

    def program(self) -> str:
        """The Program as text."""
        from hasten.vm.text import to_text

        return to_text(self._model.program)

    def disassemble(self, sizes: Mapping[str, int] | None = None) -> Listing:
        """The Program with numbered instructions and what each kernel computes: to print, or as plain data (`to_dict`). `sizes` of the inputs
        ({"n": 8}) are put into all formulas. Raises InputError for a size that no input has."""
        from hasten.lower.report import kernel_notes
        from hasten.vm.listing import Listing

        return Listing.of(self._model.program, sizes, kernel_notes(self._report.nodes))

    def machine_code(self, kernel: str) -> str:
        """A kernel, by its name or a beginning of it, as its machine's instructions. Raises InputError for a name that no kernel or several have,
        MissingDependency where the system has no disassembler."""
        from hasten.codegen.disassembler import disassemble, find_kernel, kernel_code
        from hasten.vm.abi import kernel_names

        image = self._model.image
        name = find_kernel(kernel_names(self._model.program), kernel)
        return f"{name}:\n{disassemble(kernel_code(image, name), image.layout.machine)}"

    def profile(self, inputs: Mapping[str, Any], *, rounds: int | None = None, seconds: float = 1.0) -> Recording:
        """Time every kernel of a run on `inputs` ({name: array}), in as many rounds or for about so many seconds. `hasten.profile.record` makes
        a table of it, with the model's nodes, operations and bytes."""
        from hasten.vm.replay import record

        return record(self._model, inputs, rounds, seconds)

    def trim(self) -> None:
        """Give cached scratch memory back to the system."""
        self._model.trim()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._source(), self.threads)

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.trim()

    def __repr__(self) -> str:
        def side(infos: list[TensorInfo]) -> str:
            return ", ".join(f"{i.name}: {i.dtype}{list(i.shape) if i.shape is not None else ''}" for i in infos)

        return f"<hasten.CompiledModel ({side(self.inputs)}) -> ({side(self.outputs)}), isa {self._report.isa}, threads {self.threads}>"


def _info(spec: Any, known: frozenset[str], named: Mapping[str, DimLike]) -> TensorInfo:
    """`known`: names of the sizes of inputs; `named`: names of sizes made of these; sizes that depend on anything else are None."""
    if not hasattr(spec, "shape"):
        return TensorInfo(spec.name, spec.kind if hasattr(spec, "kind") else spec.type, None)
    shape = [expanded(d, named) for d in spec.shape]
    return TensorInfo(spec.name, spec.dtype, tuple(d if isinstance(d, int) else str(d) if symbols(d) <= known else None for d in shape))


def _restore(data: bytes, threads: int) -> CompiledModel:
    return _from_parts([data], threads)


def compile(  # noqa: A001
    model: Any, *, example_inputs: Sequence[Any] | None = None, dynamic_shapes: Any = None, dims: Mapping[str, Dim | int] | None = None,
    threads: int | None = None, precision: str = "highest", isa: str | None = None, host_ops: bool = True, cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None, dump: str | os.PathLike[str] | None = None,
) -> CompiledModel:  # fmt: skip
    """Compile a model to native code for this machine.

    model: path of an ONNX file, onnx.ModelProto (or its bytes), onnx_ir.Model, or a torch.nn.Module (with `example_inputs`, and
    `dynamic_shapes` as in torch.export). dims: what is known of the sizes that the model leaves open, by their names (`CompiledModel.inputs`
    shows them): a `hasten.Dim` that each call is held to, or a number, which fixes the size. threads: most threads a call uses (default: what
    this process may use, HASTEN_NUM_THREADS). precision: "strict" (IEEE float32 only), "highest" (default: float32 accuracy by any algorithm),
    "high", "medium" (bfloat16). isa: "portable", "avx2", "avx512", "amx" (default: the best of this machine). host_ops: allow operators without
    native kernel to run in Python.
    cache_dir: where compiled kernels and models are kept (default: HASTEN_CACHE_DIR or the user's cache folder). progress(stage, done, total).
    dump: directory that gets the text of every stage (also HASTEN_DUMP).
    Raises ModelError, UnsupportedOperator, InputError, ResourceLimit (CompileError: a fault of Hasten itself).
    """
    from hasten.codegen import isa as isa_room
    from hasten.codegen.cache import Cache

    started = time.perf_counter()
    check_precision(precision)
    from hasten.vm.runtime import thread_count

    target = isa_room.get(isa)
    count = thread_count(threads)
    cache = Cache(cache_dir)
    dump = dump or os.environ.get("HASTEN_DUMP") or None
    key = None if dump else _model_key(model, cache, target, count, precision, host_ops, dims)
    if key is not None:
        path = cache.path("model", key)
        if path is not None:
            found = _from_cache(path, threads)
            if found is not None:
                found._report.from_cache = True
                found._report.compile_seconds = time.perf_counter() - started
                return found
            cache.delete("model", key)
    stage = Stage(progress)
    with faults(stage):
        parts, seconds = _compile(model, example_inputs, dynamic_shapes, dims, target, count, precision, host_ops, cache, stage, dump, started)
    compiled = _keep(cache, key, parts, threads) or _from_parts(parts, threads)
    compiled._report.compile_seconds = seconds
    return compiled


def check_precision(precision: str) -> None:
    """Raises InputError for a name that is no precision."""
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} is not one of {', '.join(PRECISIONS)}")


class Stage:
    """The progress callback of a compilation; remembers the stage for errors."""

    def __init__(self, progress: Progress | None):
        self.progress, self.name = progress, "load"

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.name = stage
        if self.progress is not None:
            self.progress(stage, done, total)


@contextlib.contextmanager
def faults(stage: Stage) -> Iterator[None]:
    """Whatever escapes from a stage becomes a HastenError."""
    try:
        yield
    except HastenError:
        raise
    except (RecursionError, MemoryError) as error:
        limit = "depth of nested calls" if isinstance(error, RecursionError) else "memory"
        raise ResourceLimit(f"the {limit} of this process does not suffice for this model (at stage {stage.name!r})") from error
    except Exception as error:
        fault = f"stage {stage.name!r} failed ({type(error).__name__}: {error})"
        raise CompileError(f"{fault}; this is a fault of Hasten, please report it with the model") from error


def trace(model: Any, example_inputs: Any, dynamic_shapes: Any, dims: Mapping[str, Dim | int] | None, target: Any, precision: str,
          host_ops: bool, step: Stage, dump: Any) -> tuple[Traced, dict[str, str]]:  # fmt: skip
    """The stages that know the model's format: the traced model, and the texts of these stages where a dump is wanted."""
    from hasten.frontends import load_graph
    from hasten.graph import prepare
    from hasten.graph.text import to_text
    from hasten.lower.graph import Options, trace_model, types_json

    step("load", 0, 4)
    if isinstance(model, Function):
        from hasten.functions.entry import trace_function

        step("trace", 2, 4)
        options = Options(host_ops, precision, target, dims or {})
        return trace_function(model, options), {"source.txt": "".join(model.source.lines)} if dump else {}
    if _is_module(model):
        from hasten.frontends.torch import export_module

        graph = export_module(model, example_inputs, dynamic_shapes)
    else:
        graph = load_graph(model)
    texts = {"graph.txt": to_text(graph)} if dump else {}
    step("simplify", 1, 4)
    prepare(graph)
    step("trace", 2, 4)
    traced = trace_model(graph, Options(host_ops, precision, target, dims or {}))
    if dump:
        texts["simplified.txt"], texts["types.json"] = to_text(graph), types_json(graph, traced)
    step("lower", 3, 4)
    return traced, texts


def _compile(model: Any, example_inputs: Any, dynamic_shapes: Any, dims: Mapping[str, Dim | int] | None, target: Any, threads: int,
             precision: str, host_ops: bool, cache: Any, step: Stage, dump: Any, started: float) -> tuple[list[Any], float]:  # fmt: skip
    """All stages, to the contents of a .hasten file."""
    from hasten.lower import compile as stages
    from hasten.vm.file import to_parts

    traced, texts = trace(model, example_inputs, dynamic_shapes, dims, target, precision, host_ops, step, dump)
    built = stages.build(traced, target, threads, precision, cache, step)
    if dump:
        stages.dump(dump, {**texts, **built.texts})
    built.report.compile_seconds = time.perf_counter() - started
    parts = to_parts(built.program, built.image, built.runtime, built.constants, target, threads, built.report.to_dict())
    return parts, built.report.compile_seconds


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> CompiledModel:
    """Load a saved model. Weights and code are mapped from the file, not copied. Raises CorruptFile, InputError (wrong machine)."""
    from hasten.vm.file import read

    return _wrap(read(path), threads, lambda: Path(path).read_bytes())


def _keep(cache: Cache, key: str | None, parts: list[Any], threads: int | None) -> CompiledModel | None:
    """Puts a new model into the cache. A large one is taken from there, so that it is in memory once; None for others, and where it can't be kept."""
    if key is None or not cache.put_parts("model", key, parts) or sum(map(len, parts)) < _LARGE:
        return None
    place = cache.path("model", key)
    try:
        file = open(place, "rb") if place is not None else None
    except OSError:  # another process made room
        return None
    if place is None or file is None:
        return None
    with file:
        parts.clear()
        return _mapped(file, place, threads)


def _from_cache(path: Path, threads: int | None) -> CompiledModel | None:
    """A model from the cache; None where the entry can't be used."""
    try:
        with open(path, "rb") as file:
            return _mapped(file, path, threads)
    except (CorruptFile, OSError):
        return None


def _mapped(file: IO[bytes], path: Path, threads: int | None) -> CompiledModel:
    """A model from an entry of the cache."""
    from hasten.codegen.cache import TRAILER_BYTES
    from hasten.vm.file import read_open

    def source() -> bytes:
        try:
            return path.read_bytes()[:-TRAILER_BYTES]
        except OSError as error:
            raise CorruptFile(f"this model came from the cache, and its entry is gone ({error}); compile it again to save it") from None

    return _wrap(read_open(file, str(path), TRAILER_BYTES), threads, source)


def _from_parts(parts: Sequence[Any], threads: int | None) -> CompiledModel:
    """A model from the contents of its file, which stay in a file without a name."""
    from hasten.vm.file import memory_file, read_open

    file = memory_file(parts)

    def source() -> bytes:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return view[:]

    return _wrap(read_open(file), threads, source)


def _wrap(saved: Any, threads: int | None, source: Callable[[], bytes]) -> CompiledModel:
    from hasten.lower.report import Report

    return CompiledModel(saved.model(threads), Report.from_dict(saved.report), source)


def _is_module(model: Any) -> bool:
    return any(c.__module__.startswith("torch.") and c.__name__ in ("Module", "ExportedProgram") for c in type(model).__mro__)


def _model_key(model: Any, cache: Cache, target: Any, threads: int, precision: str, host_ops: bool,
               dims: Mapping[str, Dim | int] | None) -> str | None:  # fmt: skip
    """What a whole compiled model depends on; None where its bytes can't be told cheaply (external data, modules, graphs)."""
    import hashlib

    from hasten.base.version import VERSION
    from hasten.codegen.cache import code_version
    from hasten.codegen.fingerprint import file_digest
    from hasten.vm.runtime import guard_side

    if isinstance(model, (str, os.PathLike)):
        digest = file_digest(model, cache)
    else:
        digest = hashlib.sha256(model).hexdigest() if isinstance(model, bytes) else None
    if digest is None:
        return None
    choices = f"{threads}|{precision}|{host_ops}|{sorted((dims or {}).items())}"
    return f"{digest}|{target.key}|{choices}|{guard_side()}|{VERSION}|{code_version()}"
