"""ONNX Runtime: all graph optimisations, inputs and outputs bound once, `threads` threads within an operator and none beside it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hasten.bench.peer import Feeds, Runner
from hasten.bench.peers.support import Bound, choose, digest, kept, without_default_inputs

PROVIDERS = ["CPUExecutionProvider"]


class OnnxRuntime:
    name = "onnxruntime"
    package = "onnxruntime"

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        """A session of the model; with a cache folder, of the optimised model that an earlier session left there."""
        import onnxruntime

        choose(self.name, options, {})
        if cache is not None:
            with contextlib.suppress(Exception):  # a model that cannot be written or read back is optimised at every start
                return OnnxRuntimeRunner(_optimised(model, threads, cache), "of the optimised file")
        with tempfile.TemporaryDirectory(prefix="hasten-bench-onnxruntime-") as folder:
            plain = without_default_inputs(model, Path(folder))
            return OnnxRuntimeRunner(_session(plain, threads, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL), "all")


def _session(model: Path, threads: int, level: Any, write: Path | None = None) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = level
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    if write is not None:
        settings.optimized_model_filepath = str(write)
    return onnxruntime.InferenceSession(str(model), settings, providers=PROVIDERS)


def _optimised(model: Path, threads: int, cache: Path) -> Any:
    """A session of the graph after all optimisations, those for this machine included, that is written where it is not there yet."""
    import onnxruntime

    levels, name = onnxruntime.GraphOptimizationLevel, digest(model, onnxruntime.__version__)
    path = cache / f"{name}.onnx"
    if not path.exists():
        plain = without_default_inputs(model, cache)
        kept(path, lambda made: _session(plain, threads, levels.ORT_ENABLE_ALL, made))
    return _session(path, threads, levels.ORT_DISABLE_ALL)


class OnnxRuntimeRunner:
    """Runs a session. Outputs lie in arrays that the next call with the same inputs writes again."""

    def __init__(self, session: Any, optimisations: str):
        self._session, self._optimisations = session, optimisations
        self._names = [output.name for output in session.get_outputs()]
        self._bound = Bound()
        self._binding: Any = None
        self._outputs: dict[str, Any] = {}

    def run(self, feeds: Feeds) -> dict[str, Any]:
        if self._bound.changed(feeds):
            return self._bind(feeds)
        if self._binding is None:
            return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        self._session.run_with_iobinding(self._binding)
        return self._outputs

    def answer(self, feeds: Feeds) -> dict[str, Any]:
        """A plain call, nothing bound."""
        return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))

    def _bind(self, feeds: Feeds) -> dict[str, Any]:
        """The outputs of a plain call, whose shapes say what to bind. Texts, sequences and 16-bit brain floats are not bound."""
        import numpy as np

        outputs = dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        self._binding = None
        arrays = (*outputs.values(), *feeds.values())
        if all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" and array.flags.c_contiguous for array in arrays):
            binding = self._session.io_binding()
            for name, array in feeds.items():
                binding.bind_cpu_input(name, array)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            self._binding = binding
        self._outputs = outputs
        return outputs

    def describe(self) -> dict[str, str]:
        import onnxruntime

        settings = self._session.get_session_options()
        return {
            "version": onnxruntime.__version__, "graph optimisations": self._optimisations, "precision": "of the model",
            "threads": f"{settings.intra_op_num_threads} in an operator, {settings.inter_op_num_threads} across operators",
            "inputs and outputs": "bound once" if self._binding is not None else "given at each call",
        }  # fmt: skip


PEER = OnnxRuntime()
