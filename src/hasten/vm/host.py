"""Host ops: operators without a kernel, run by the reference implementation that comes with the onnx package (imported
at the first use).

A payload is a serialised ONNX model of one node: its opset imports say what the operator means. Operands are NumPy
arrays and Python objects as `onnx.reference` takes them: sequences are lists, an empty optional is None, string tensors
are arrays of objects.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from hasten.base.errors import ExecutionError, MissingDependency
from hasten.vm.program import HostOp


class HostRunner:
    """Runs one host op; may be called from several threads."""

    def __init__(self, site: HostOp):
        self.site = site
        self._lock = threading.Lock()
        self._ready: tuple[Any, list[str], list[str]] | None = None

    @property
    def where(self) -> str:
        """The node, for messages."""
        return f"node {self.site.name!r} ({self.site.op})"

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        """Results by position of the node's outputs (None where it leaves one out). `values` go by position of its
        inputs (None: left out), then what its subgraphs capture.

        Raises ExecutionError naming the node for whatever goes wrong inside, MissingDependency without the onnx
        package.
        """
        evaluator, inputs, outputs = self._prepared()
        feeds = {name: value for name, value in zip(inputs, values, strict=False) if name}
        try:
            results = evaluator.run([n for n in outputs if n], feeds)
        except Exception as error:
            raise ExecutionError(f"{self.where} failed on the host: {type(error).__name__}: {error}") from error
        given = iter([_texts(r) for r in results])
        return [next(given) if name else None for name in outputs]

    def _prepared(self) -> tuple[Any, list[str], list[str]]:
        with self._lock:
            if self._ready is None:
                self._ready = self._prepare()
            return self._ready

    def _prepare(self) -> tuple[Any, list[str], list[str]]:
        try:
            import onnx
            from onnx.reference import ReferenceEvaluator

            from hasten.vm.maps import OPERATORS
        except ImportError:
            raise MissingDependency(
                f"{self.where} runs on the host, which needs the onnx package: pip install onnx"
            ) from None
        try:
            model = onnx.load_model_from_string(self.site.payload)
            node = model.graph.node[0]
            captured = [i.name for i in model.graph.input if i.name not in node.input]  # what its subgraphs use from outside
            return ReferenceEvaluator(model, new_ops=OPERATORS), [*node.input, *captured], list(node.output)
        except Exception as error:
            raise ExecutionError(f"{self.where} cannot run on the host: {type(error).__name__}: {error}") from error


def _texts(value: Any) -> Any:
    """Arrays of strings as arrays of objects, as models take them."""
    return value.astype(object) if getattr(getattr(value, "dtype", None), "kind", "") in ("U", "T") else value
