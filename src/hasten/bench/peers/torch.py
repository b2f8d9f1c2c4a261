"""PyTorch without a compiler: the model as an fx module, convolutions and matrix products by oneDNN, pictures in channels_last.

Option dtype: "f32" (default), or "bf16" for autocast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hasten.base.errors import InputError
from hasten.bench.peer import Feeds, Runner
from hasten.bench.peers.support import Bound, choose, contiguous, shapes_of

OPTIONS = {"dtype": ("f32", "bf16")}


class Torch:
    name = "torch"
    package = "torch"

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        """The model as read; it is translated at the first call, when the shapes are known."""
        import torch

        dtype = choose(self.name, options, OPTIONS)["dtype"]
        use_threads(threads)
        return TorchRunner(model, dtype, lambda module: module, {"version": torch.__version__})


def use_threads(threads: int) -> None:
    """So many within an operator, none beside it."""
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # once torch has run in parallel, the other number cannot be changed
        torch.set_num_interop_threads(1)


class TorchRunner:
    """Translates the model for each set of shapes it meets; `finish` makes what is called of the module."""

    def __init__(self, model: Path, dtype: str, finish: Callable[[Any], Any], about: dict[str, str]):
        import onnx

        self._model, self._dtype, self._finish, self._about = onnx.load(model), dtype, finish, about
        initial = {tensor.name for tensor in self._model.graph.initializer}
        self._inputs = [entry.name for entry in self._model.graph.input if entry.name not in initial]
        self._outputs = [(entry.name, _numpy_dtype(entry)) for entry in self._model.graph.output]
        self._modules: dict[Any, Any] = {}
        self._module: Any = None
        self._bound = Bound()
        self.holds: object = None  # what must live as long as this does
        self._tensors: list[Any] = []
        self._settings: list[tuple[Any, Any]] = []  # arrays whose value is built into the module, and that value

    def run(self, feeds: Feeds) -> dict[str, Any]:
        import torch

        if self._bound.changed(feeds) or any(array.item() != value for array, value in self._settings):
            self._bind(feeds)
        with torch.inference_mode():
            if self._dtype == "bf16":
                with torch.autocast("cpu", torch.bfloat16):
                    outputs = self._module(*self._tensors)
            else:
                outputs = self._module(*self._tensors)
        return {name: _array(tensor, dtype) for (name, dtype), tensor in zip(self._outputs, outputs, strict=True)}

    def _bind(self, feeds: Feeds) -> None:
        import torch

        from hasten.bench.peers.torch_graph import is_setting

        self._settings = [(array, array.item()) for array in feeds.values() if is_setting(array)]
        key = shapes_of(feeds), tuple(value for _, value in self._settings)
        if key not in self._modules:
            self._modules[key] = self._finish(self._translate(feeds))
        self._module = self._modules[key]
        self._tensors = [torch.from_numpy(contiguous(feeds[name])) for name in self._inputs]

    def _translate(self, feeds: Feeds) -> Any:
        from hasten.bench.peers.torch_graph import Untranslatable, convert

        try:
            return convert(self._model, feeds).eval()
        except Untranslatable as error:
            raise InputError(f"the model cannot be made a torch module: {error}") from None

    def describe(self) -> dict[str, str]:
        import torch

        mkldnn = "oneDNN" if torch.backends.mkldnn.is_available() else "no oneDNN"  # type: ignore[no-untyped-call]
        return {**self._about, "precision": self._dtype, "threads": str(torch.get_num_threads()), "kernels": mkldnn, "layout": "channels_last"}


def _numpy_dtype(entry: Any) -> Any:
    """That of an output, or None where the model does not say."""
    from onnx import helper

    kind = entry.type.tensor_type.elem_type
    return helper.tensor_dtype_to_np_dtype(kind) if kind else None


def _array(tensor: Any, dtype: Any) -> Any:
    """As the model's dtype: autocast leaves bfloat16, and 16-bit floats were widened."""
    import torch

    array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
    return array if dtype is None or array.dtype == dtype else array.astype(dtype)


PEER = Torch()
