"""ncnn, from a model that pnnx converted for the inputs' shapes: Winograd, matrix products and packed layouts on.

Option precision: "f32" (default; nothing is stored or computed in 16 bits), or "default" for what ncnn takes by itself.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hasten.base.errors import InputError
from hasten.bench.peer import Feeds, Runner
from hasten.bench.peers.support import Bound, choose, contiguous, digest, kept, shapes_of, without_default_inputs

OPTIONS = {"precision": ("f32", "default")}
ON = ("use_packing_layout", "use_sgemm_convolution", "use_winograd_convolution", "use_winograd23_convolution", "use_winograd43_convolution",
      "use_winograd63_convolution")  # fmt: skip
HALVES = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")
TYPES = {"f4": "f32", "i8": "i64", "i4": "i32"}  # pnnx's names of dtypes
SILENT = subprocess.DEVNULL


class Ncnn:
    name = "ncnn"
    package = "ncnn pnnx"

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        """The model is converted and loaded at the first call, when the shapes are known; what is converted is kept in the cache folder."""
        precision = choose(self.name, options, OPTIONS)["precision"]
        return NcnnRunner(model, threads, precision, cache)


class NcnnRunner:
    """Converts and loads the model for each set of shapes it meets."""

    def __init__(self, model: Path, threads: int, precision: str, cache: Path | None):
        import onnx

        self._temporary = None if cache is not None else tempfile.TemporaryDirectory(prefix="hasten-bench-ncnn-")
        self._cache = Path(self._temporary.name) if self._temporary is not None else cache
        assert self._cache is not None
        self._name, self._threads, self._precision = model.name, threads, precision
        self._model = without_default_inputs(model, self._cache)
        graph = onnx.load(model, load_external_data=False).graph
        initial = {tensor.name for tensor in graph.initializer}
        self._inputs = [entry.name for entry in graph.input if entry.name not in initial]
        self._outputs = [(entry.name, onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)) for entry in graph.output]
        self._nets: dict[Any, tuple[Any, list[bool]]] = {}
        self._net: Any = None
        self._batched: list[bool] = []  # for each output, whether ncnn sets its first axis, of one picture, aside
        self._bound = Bound()
        self._given: list[tuple[Any, bool]] = []

    def run(self, feeds: Feeds) -> dict[str, Any]:
        import ncnn

        if self._bound.changed(feeds):
            self._bind(feeds)
        results = {}
        with self._net.create_extractor() as extractor:
            for at, (array, batched) in enumerate(self._given):
                mat = ncnn.Mat(array, batch_index=0) if batched else ncnn.Mat(array)
                extractor.input(f"in{at}", mat.clone())  # as pnnx's example has it: NumPy's memory is not aligned as ncnn's kernels want it
            for at, ((name, dtype), batched) in enumerate(zip(self._outputs, self._batched, strict=True)):
                status, mat = extractor.extract(f"out{at}")
                if status != 0:
                    raise InputError(f"ncnn cannot compute output {name!r} (status {status}).")
                array = mat.numpy(batch_index=0) if batched else mat.numpy()
                results[name] = array if array.dtype == dtype else array.astype(dtype)
        return results

    def _bind(self, feeds: Feeds) -> None:
        if (key := shapes_of(feeds)) not in self._nets:
            self._nets[key] = self._load(feeds)
        self._net, batched = self._nets[key]
        self._batched = batched[len(self._inputs) :]
        self._given = [(contiguous(feeds[name]), aside) for name, aside in zip(self._inputs, batched, strict=False)]

    def _load(self, feeds: Feeds) -> tuple[Any, list[bool]]:
        """The net for these shapes, and for each input and output whether its first axis is set aside."""
        import ncnn

        assert self._cache is not None
        shapes = [f"[{','.join(map(str, feeds[name].shape))}]{_type(feeds[name].dtype)}" for name in self._inputs]
        name = digest(self._model, shapes, importlib.metadata.version("pnnx"))
        folder = kept(self._cache / f"{name}.ncnn", lambda made: self._convert(shapes, made))
        net = ncnn.Net()
        net.opt.num_threads = self._threads
        net.opt.use_vulkan_compute = False
        for option in (*ON, *(HALVES if self._precision == "f32" else ())):
            if hasattr(net.opt, option):
                setattr(net.opt, option, option in ON)
        if net.load_param(str(folder / "m.ncnn.param")) != 0 or net.load_model(str(folder / "m.ncnn.bin")) != 0:
            raise InputError(f"ncnn cannot load {self._name} as pnnx converts it: a layer of it is unknown to ncnn.")
        return net, _set_aside((folder / "m_ncnn.py").read_text(), len(self._inputs), len(self._outputs))

    def _convert(self, shapes: list[str], made: Path) -> None:
        """Run pnnx, with the weights in float32. It writes beside its input and to the current folder, so both are `made`."""
        found = importlib.util.find_spec("pnnx")
        assert found is not None and found.submodule_search_locations
        program = Path(found.submodule_search_locations[0]) / "pnnx"
        made.mkdir()
        (made / "m.onnx").symlink_to(self._model.resolve())
        done = subprocess.run([program, "m.onnx", f"inputshape={','.join(shapes)}", "fp16=0"], cwd=made, capture_output=True, stdin=SILENT)
        said = (done.stdout + done.stderr).decode(errors="replace")
        if lost := re.search(r"^ignore (.+ param .+)$", said, re.MULTILINE):  # a layer that then computes something else, or crashes
            raise InputError(f"pnnx cannot convert {self._name}: it leaves out {lost[1].strip()}.")
        if not (made / "m.ncnn.bin").exists() or not (made / "m_ncnn.py").exists():
            how = f"was ended by signal {-done.returncode}" if done.returncode < 0 else f"ended with status {done.returncode}"
            last = said.strip().splitlines()[-1:]
            raise InputError(f"pnnx cannot convert {self._name}: it {how}" + (f"; its last words: {last[0][:200]}" if last else "") + ".")
        for unneeded in ("m.onnx", "m.pnnx.onnx", "m.pnnxsim.onnx", "m.pnnx.bin", "m.pnnx.param", "m_pnnx.py"):
            with contextlib.suppress(FileNotFoundError):
                (made / unneeded).unlink()

    def describe(self) -> dict[str, str]:
        versions = f"{importlib.metadata.version('ncnn')}, pnnx {importlib.metadata.version('pnnx')}"
        return {"version": versions, "precision": self._precision, "threads": str(self._threads), "kernels": "Winograd, sgemm, packed layouts"}


def _type(dtype: Any) -> str:
    """What pnnx calls a dtype. Raises InputError for those it has no inputs of."""
    name = TYPES.get(f"{dtype.kind}{dtype.itemsize}")
    if name is None:
        raise InputError(f"pnnx converts no models with inputs of {dtype}.")
    return name


def _set_aside(example: str, inputs: int, outputs: int) -> list[bool]:
    """From the example program that pnnx writes: for each input, then each output, whether its first axis is a batch that ncnn does not see."""
    found = []
    for pattern, count in ((r"Mat\(in{}\.numpy\(\)(.*)\)", inputs), (r"\(out{}\.numpy\((.*?)\)\)", outputs)):
        for at in range(count):
            match = re.search(pattern.format(at), example)
            if match is None:
                raise InputError("pnnx left out an input or an output of the model.")
            found.append("batch_index=0" in match[1])
    return found


PEER = Ncnn()
