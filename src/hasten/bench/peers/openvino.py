"""OpenVINO on the CPU: latency hint, one stream, shapes made those of the inputs, inputs bound once.

Option precision: "f32" (default), "bf16", or "default" for what OpenVINO takes by itself: bf16 where the CPU multiplies such
numbers (AMX, AVX-512 BF16), else f32. Option shapes: "given" (default) compiles for each set of shapes that it meets, "any" once for all that the model
allows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hasten.base.errors import InputError
from hasten.bench.peer import Feeds, Runner
from hasten.bench.peers.support import Bound, choose, contiguous, shapes_of

OPTIONS = {"precision": ("f32", "bf16", "default"), "shapes": ("given", "any")}
DEVICE = "CPU"


class OpenVino:
    name = "openvino"
    package = "openvino"

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        """The model as read; it is compiled at the first call, when the shapes are known."""
        import openvino

        chosen = choose(self.name, options, OPTIONS)
        precision = chosen["precision"]
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
        if precision != "default":
            settings["INFERENCE_PRECISION_HINT"] = precision
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
            raise InputError("openvino:precision=bf16: OpenVINO finds no bf16 instructions on this machine.")
        if cache is not None:
            settings["CACHE_DIR"] = str(cache)
        try:
            return OpenVinoRunner(core, core.read_model(str(model)), settings, chosen["shapes"] == "any")
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot read {model.name}: {_reason(error)}") from error


class OpenVinoRunner:
    """Compiles the model for each set of shapes it meets, or once for `any_shapes`. Outputs lie in the engine's memory, where the next call
    writes them again."""

    reuses_outputs = True

    def __init__(self, core: Any, model: Any, settings: dict[str, Any], any_shapes: bool):
        self._core, self._model, self._settings, self._any_shapes = core, model, settings, any_shapes
        self._requests: dict[Any, Any] = {}
        self._request: Any = None
        self._inputs: dict[str, Any] = {}  # shared memory is not kept alive by the request
        self._outputs: list[tuple[tuple[str, ...], int]] = []
        self._bound = Bound()

    def run(self, feeds: Feeds) -> dict[str, Any]:
        if self._bound.changed(feeds):
            self._bind(feeds)
        request = self._request
        request.infer()
        return {name: request.get_output_tensor(index).data for names, index in self._outputs for name in names}

    def answer(self, feeds: Feeds) -> dict[str, Any]:
        """A call with these arrays, nothing bound."""
        key = self._key(feeds)
        if key not in self._requests:
            self._requests[key] = self._compile(feeds).create_infer_request()
        self._request = self._requests[key]
        found = self._request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        return {name: found[index] for index, output in enumerate(self._request.get_compiled_model().outputs) for name in output.names}

    def _key(self, feeds: Feeds) -> Any:
        return () if self._any_shapes else shapes_of(feeds)

    def _bind(self, feeds: Feeds) -> None:
        import openvino

        key = self._key(feeds)
        if key not in self._requests:
            self._requests[key] = self._compile(feeds).create_infer_request()
        self._request = self._requests[key]
        self._inputs = {name: contiguous(array) for name, array in feeds.items()}
        for name, array in self._inputs.items():
            self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        outputs = self._request.get_compiled_model().outputs
        self._outputs = [(tuple(output.names), index) for index, output in enumerate(outputs)]

    def _compile(self, feeds: Feeds) -> Any:
        """Compiled for these shapes; for any shapes where the model cannot be given them."""
        model = self._model.clone()
        if model.is_dynamic() and not self._any_shapes:
            with contextlib.suppress(RuntimeError):
                model.reshape({name: list(array.shape) for name, array in feeds.items()})
                return self._core.compile_model(model, DEVICE, self._settings)
        try:
            return self._core.compile_model(self._model, DEVICE, self._settings)
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot compile the model: {_reason(error)}") from error

    def describe(self) -> dict[str, str]:
        import openvino

        about = {"version": openvino.__version__.partition("-")[0], "hint": "latency, one stream"}
        if self._request is not None:
            compiled = self._request.get_compiled_model()
            dynamic = any(port.get_partial_shape().is_dynamic for port in compiled.inputs)
            about["precision"] = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            about["threads"] = str(compiled.get_property("INFERENCE_NUM_THREADS"))
            about["shapes"] = "dynamic" if dynamic else "static"
        return about


def _reason(error: RuntimeError) -> str:
    """What a user needs of OpenVINO's account of a failure, which begins with places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check ", "FrontEnd API", "Model wasn't", "Summary", "While validating"))]
    return " ".join(told[:2] or lines[-1:])


PEER = OpenVino()
