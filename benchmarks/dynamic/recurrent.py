"""LSTMs of the sizes that the published system measured (300 inputs, 512 units), as ONNX and as PyTorch writes them.

`export` writes one or two layers with seeded weights, x float32 [length, 1, INPUTS] -> y [length, 1, UNITS], the length not known. `WHOLE` and `CELLS` are
engines for the track: torch.nn.LSTM, and a loop in Python over torch.nn.LSTMCell, with the weights of that file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INPUTS, UNITS = 300, 512
Array = np.ndarray[Any, Any]


def export(path: Path, layers: int) -> None:
    """Weights uniform in +-1/sqrt(UNITS), as torch starts them."""
    rng, limit = np.random.default_rng(layers), UNITS**-0.5
    nodes, weights, x = [], {"axis": np.array([1], np.int64)}, "x"
    for k in range(layers):
        shapes = {f"w{k}": (1, 4 * UNITS, INPUTS if k == 0 else UNITS), f"r{k}": (1, 4 * UNITS, UNITS), f"b{k}": (1, 8 * UNITS)}
        weights |= {name: rng.uniform(-limit, limit, shape).astype(np.float32) for name, shape in shapes.items()}
        y = "y" if k == layers - 1 else f"y{k}"
        nodes += [helper.make_node("LSTM", [x, *shapes], [f"all{k}"], hidden_size=UNITS), helper.make_node("Squeeze", [f"all{k}", "axis"], [y])]
        x = y
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["length", 1, size]) for name, size in (("x", INPUTS), ("y", UNITS))]
    graph = helper.make_graph(nodes, "lstm", ends[:1], ends[1:], [numpy_helper.from_array(data, name) for name, data in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def parameters(path: Path) -> list[list[Any]]:
    """Of each layer in torch's order: input weights, recurrent weights, their biases; gates i, f, g, o instead of i, o, f, g."""
    import torch

    found = {tensor.name: numpy_helper.to_array(tensor)[0] for tensor in onnx.load(path).graph.initializer if tensor.name != "axis"}

    def of_torch(data: Array) -> Any:
        i, o, f, g = np.split(data, 4)
        return torch.from_numpy(np.concatenate([i, f, g, o]))

    return [[*map(of_torch, (found[f"w{k}"], found[f"r{k}"], *np.split(found[f"b{k}"], 2)))] for k in range(len(found) // 3)]


class Recurrent:
    """An engine: `cells` for a loop over cells."""

    package = "torch"

    def __init__(self, name: str, cells: bool):
        self.name, self.cells = name, cells

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        import torch

        torch.set_num_threads(threads)
        given = parameters(model)
        if self.cells:
            found = [torch.nn.LSTMCell(INPUTS if k == 0 else UNITS, UNITS).eval() for k in range(len(given))]
            for cell, layer in zip(found, given, strict=True):
                _fill(cell.parameters(), layer)
            return Runner(lambda x: _loop(found, x))
        module = torch.nn.LSTM(INPUTS, UNITS, len(given)).eval()
        _fill(module.parameters(), [data for layer in given for data in layer])
        return Runner(lambda x: module(x)[0])


def _fill(parameters: Any, values: list[Any]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data.copy_(value)


def _loop(cells: list[Any], x: Any) -> Any:
    import torch

    states = [(torch.zeros(1, UNITS), torch.zeros(1, UNITS)) for _ in cells]
    found = []
    for step in x:
        for k, cell in enumerate(cells):
            states[k] = cell(step, states[k])
            step = states[k][0]
        found.append(step)
    return torch.stack(found)


class Runner:
    def __init__(self, call: Any):
        self._call = call

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            return {"y": self._call(torch.from_numpy(feeds["x"])).numpy()}

    def describe(self) -> dict[str, str]:
        import torch

        return {"version": torch.__version__}


WHOLE, CELLS = Recurrent("torch_lstm", False), Recurrent("torch_cells", True)
