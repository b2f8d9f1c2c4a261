"""ONNX's own backend test cases, run through tracing and the NumPy meaning of the trace: no code generation.

    python tests/ops/onnx_cases.py [regex]      prints what passes, fails, has no native kernel
"""

from __future__ import annotations

import collections
import re
import sys
import warnings
from typing import Any

import numpy as np
import onnx.backend.test.loader as loader

from hasten.base import dims as D
from hasten.base import dtypes
from hasten.frontends import load_graph
from hasten.graph import prepare
from hasten.lower.evaluate import Evaluation
from hasten.lower.graph import Options, trace_model
from hasten.lower.trace import Tensor

warnings.filterwarnings("ignore")


def cases(pattern: str) -> list[Any]:
    return [c for c in loader.load_model_tests(kind="node") + loader.load_model_tests(kind="simple")
            + loader.load_model_tests(kind="pytorch-operator") if re.search(pattern, c.name)]  # fmt: skip


def _array(x: Any) -> Any:
    from onnx import TensorProto, numpy_helper

    if isinstance(x, TensorProto):
        return numpy_helper.to_array(x)
    return x if isinstance(x, (list, dict)) else np.asarray(x)


def run_case(case: Any) -> None:
    """Raise unless every data set of the case gives the expected outputs (tolerances as in ONNX's runner)."""
    import pathlib

    import onnx
    from onnx import numpy_helper

    def read(path: pathlib.Path, kind: Any) -> Any:
        data = path.read_bytes()
        if kind.HasField("tensor_type"):
            return numpy_helper.to_array(onnx.TensorProto.FromString(data))
        raise TypeError("not a tensor")

    folder = pathlib.Path(case.model_dir) if case.model_dir else None
    model = onnx.load(folder / "model.onnx") if folder else case.model
    sets = []
    if folder:
        for d in sorted(folder.glob("test_data_set*")):
            ins = [read(d / f"input_{k}.pb", i.type) for k, i in enumerate(model.graph.input[: len(list(d.glob("input_*.pb")))])]
            outs = [read(d / f"output_{k}.pb", o.type) for k, o in enumerate(model.graph.output)]
            sets.append((ins, outs))
    else:
        sets = [([_array(x) for x in i], [_array(x) for x in o]) for i, o in case.data_sets]
    graph = load_graph(model)
    prepare(graph)
    traced = trace_model(graph, Options(host_ops=False))
    for ins, outs in sets:
        sources: dict[str, np.ndarray] = {}
        sizes: dict[str, int] = {}
        for (name, t), x in zip(traced.inputs, ins, strict=False):
            assert isinstance(t, Tensor), "not a tensor"
            sources[name] = x
            for d, n in zip(t.shape, x.shape, strict=True):
                if (symbol := D.as_symbol(d)) is not None:
                    sizes[symbol] = n
        ev = Evaluation(traced.cx, sources, sizes)
        for (name, t), want in zip(traced.outputs, outs, strict=True):
            assert isinstance(t, Tensor), f"{name} is a host object"
            got, want = ev.of(t), np.asarray(want)
            assert got.shape == want.shape, f"{name}: shape {got.shape}, not {want.shape}"
            assert dtypes.from_numpy(want.dtype) == t.dtype, f"{name}: dtype {t.dtype}, not {want.dtype}"
            if want.dtype.kind in "iub":
                np.testing.assert_array_equal(got, want)
            else:
                np.testing.assert_allclose(got.astype("f8"), want.astype("f8"), rtol=case.rtol, atol=max(case.atol, 1e-6))


def main() -> None:
    count: collections.Counter[str] = collections.Counter()
    for case in cases(sys.argv[1] if len(sys.argv) > 1 else ""):
        try:
            run_case(case)
            count["pass"] += 1
        except Exception as e:  # noqa: BLE001  (a survey: everything is counted)
            count[type(e).__name__] += 1
            print(f"{case.name:70s} {type(e).__name__}: {' '.join(str(e).split())[:200]}")
    print(dict(count))


if __name__ == "__main__":
    main()
