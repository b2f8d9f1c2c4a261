"""`python -m hasten.bench.reference.evaluate MODEL FEEDS RESULT BYTES`: evaluates a model in float64 and leaves a pickled Reference."""

from __future__ import annotations

import pickle
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from hasten.bench.compare import largest_difference
from hasten.bench.reference import Reference
from hasten.bench.reference.operators import OPERATORS
from hasten.bench.reference.rewrite import in_double, nodes, remarks

FLOAT32_ROUNDING = 1e-3  # of the largest value: more is unlike float32, whatever the model
FLOAT16_ROUNDING = 2e-2
WRONG = 10  # times as much: not the same function


class Evaluator(ReferenceEvaluator):  # type: ignore[misc]
    """Lets go of a value of the main graph after its last use: in float64 all together may not fit."""

    def run(self, output_names: Any, feed_inputs: Any, *more: Any, **settings: Any) -> Any:
        if not isinstance(self.proto_, onnx.ModelProto):
            return super().run(output_names, feed_inputs, *more, **settings)
        wanted = output_names or self.output_names
        values = {"": None, **self.rt_inits_, **feed_inputs}
        for node, done in zip(self.rt_nodes_, _last_uses(self.proto_.graph, wanted), strict=True):
            given = [values[name] for name in node.input]
            outputs = node.run(*given, context=values) if node.need_context() else node.run(*given)
            values.update(zip(node.output, outputs, strict=False))
            for name in done:
                values.pop(name, None)
        return [values[name] for name in wanted]


def _last_uses(graph: Any, wanted: Any) -> list[list[str]]:
    """For each node, the values that nothing after it reads."""
    seen, result = {"", *wanted}, []
    for node in reversed(graph.node):
        inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        read = {*node.input, *(name for part in inner for deep in nodes(part) for name in deep.input), *(o.name for part in inner for o in part.output)}
        result.append(sorted((read | set(node.output)) - seen))
        seen |= read
    return result[::-1]


def evaluate(path: Path, feeds: dict[str, Any]) -> Reference:
    """The reference of a model file."""
    model = onnx.load(path)
    told = remarks(model)
    if any("random" in text for text in told):
        return Reference(None, "; ".join(told))
    names = [value.name for value in model.graph.output]
    try:
        evaluator = Evaluator(in_double(model), new_ops=OPERATORS)
        with np.errstate(all="ignore"):
            results = evaluator.run(names, {name: _double(value) for name, value in feeds.items()})
    except MemoryError:
        return Reference(None, "evaluating in float64 needs more memory than allowed")
    except Exception as error:  # whatever an operator of the reference implementation raises
        said = " ".join(str(error).split())[:300]
        return Reference(None, f"ONNX's reference implementation fails in float64: {type(error).__name__}: {said}")
    del evaluator
    return _checked(Reference(dict(zip(names, results, strict=True)), "; ".join(told)), path, model, feeds)


def _double(value: Any) -> Any:
    """Floats of any size as float64; also in lists."""
    if isinstance(value, (list, tuple)):
        return [_double(part) for part in value]
    array = np.asarray(value)
    return array.astype(np.float64) if array.dtype.kind in "fV" or array.dtype.name == "bfloat16" else array


def _checked(found: Reference, path: Path, model: Any, feeds: dict[str, Any]) -> Reference:
    """Compared with ONNX Runtime, so that a fault of the reference implementation is not taken for one of an engine."""
    assert found.outputs is not None
    try:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        difference = largest_difference(dict(zip(found.outputs, session.run(list(found.outputs), feeds), strict=True)), found.outputs)
    except ImportError:
        return Reference(found.outputs, _join(found.note, "not compared with ONNX Runtime, which is not installed"))
    except Exception as error:  # it has no common class of errors
        said = " ".join(str(error).split())[:200]
        return Reference(found.outputs, _join(found.note, f"not compared with ONNX Runtime, which does not run the model: {said}"))
    half = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    narrow = any(tensor.data_type in half for tensor in model.graph.initializer)
    rounding = FLOAT16_ROUNDING if narrow else FLOAT32_ROUNDING
    if difference.relative <= rounding:
        return found
    if difference.relative <= rounding * WRONG:
        return Reference(found.outputs, _join(found.note, f"magnifies rounding: ONNX Runtime is off by {difference}"))
    return Reference(None, _join(found.note, f"float64 and ONNX Runtime do not agree, {difference}: one of them is wrong"))


def _join(*texts: str) -> str:
    return "; ".join(filter(None, texts))


def main() -> None:
    path, feeds, result, limit = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
    found = evaluate(Path(path), pickle.loads(Path(feeds).read_bytes()))
    Path(result).write_bytes(pickle.dumps(found, 5))


if __name__ == "__main__":
    main()
