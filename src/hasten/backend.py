"""ONNX's backend interface: `hasten.backend.prepare(model, device="CPU", **options)`, so that ONNX's own test runner can drive Hasten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

import hasten
from hasten.base.dtypes import BY_ONNX


class HastenRep(BackendRep):  # type: ignore[misc]
    """A prepared model. `run(inputs)` takes a sequence in the model's order (or a dict) and gives a named tuple of outputs."""

    def __init__(self, model: hasten.CompiledModel):
        super().__init__()
        self.model = model

    def run(self, inputs: Any, **kwargs: Any) -> Any:
        """Outputs as a named tuple (plain sequence access works, too)."""
        names = [i.name for i in self.model.inputs]
        feeds = dict(inputs) if isinstance(inputs, dict) else dict(zip(names, inputs if isinstance(inputs, (list, tuple)) else [inputs], strict=False))
        outputs = self.model.run(feeds)
        return namedtupledict("Outputs", list(outputs))(*outputs.values())


class HastenBackend(Backend):  # type: ignore[misc]
    """Hasten on the CPU."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the model compiles with the given options."""
        try:
            cls.prepare(model, device, **kwargs)
        except hasten.HastenError:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> HastenRep:
        """Compile; keyword arguments are those of `hasten.compile`."""
        if not cls.supports_device(device):
            raise hasten.InputError(f"device {device!r}: Hasten runs on CPU")
        return HastenRep(hasten.compile(model, **kwargs))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> Any:
        """Compile and run once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Sequence[Any], device: str = "CPU", outputs_info: Any = None, **kwargs: Any) -> Any:
        """Run one operator on arrays."""
        arrays = [np.asarray(x) for x in inputs]
        by_name = {d.name: n for n, d in BY_ONNX.items()}
        infos = [onnx.helper.make_tensor_value_info(n, by_name[a.dtype.name], a.shape) for n, a in zip([i for i in node.input if i], arrays, strict=True)]
        graph = onnx.helper.make_graph([node], "node", infos, [onnx.ValueInfoProto(name=n) for n in node.output])
        return cls.run_model(onnx.helper.make_model(graph), arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPU only."""
        return device.split(":")[0] == "CPU"


is_compatible = HastenBackend.is_compatible
prepare = HastenBackend.prepare
run_model = HastenBackend.run_model
run_node = HastenBackend.run_node
supports_device = HastenBackend.supports_device

__all__ = ["HastenBackend", "HastenRep", "is_compatible", "prepare", "run_model", "run_node", "supports_device"]
