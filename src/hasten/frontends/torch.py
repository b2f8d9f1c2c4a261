"""PyTorch modules become graphs through `torch.onnx.export(dynamo=True)`; PyTorch itself is an optional extra."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from hasten.base.errors import InputError, MissingDependency, ModelError
from hasten.frontends.onnx import load_graph

_OPSET = 23  # the first that has Attention and RMSNormalization, which the exporter then uses
_INSTALL = "pip install 'hasten[torch]'"


def export_module(module: Any, example_inputs: Any, dynamic_shapes: Any = None) -> ir.Model:
    """Export a `torch.nn.Module` (in its evaluation mode) and check the result like a file.

    example_inputs: a tensor, a tuple of positional arguments, or a mapping of keyword arguments; NumPy arrays are
    taken too.
    dynamic_shapes: as in `torch.export`: per argument, the dims that may change. None makes all shapes fixed.

    Errors: MissingDependency without PyTorch, InputError without example inputs, ModelError when the module cannot be
    exported.
    """
    for package in ("torch", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(
                f"compiling a PyTorch module needs the package {package!r}; install it with {_INSTALL}"
            )
    import torch

    if example_inputs is None:
        raise InputError(
            "a PyTorch module needs example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments"
        )
    args, kwargs = _arguments(example_inputs, torch)
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                module,
                args,
                kwargs=kwargs,
                dynamic_shapes=dynamic_shapes,
                dynamo=True,
                opset_version=_OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds of errors of its own; all mean the same to the caller
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"PyTorch cannot export this {type(module).__name__} to ONNX: {first_line}") from error
    finally:
        module.train(training)
    if program is None:
        raise ModelError(f"PyTorch exported nothing for this {type(module).__name__}")
    return load_graph(program.model)


def _arguments(example_inputs: Any, torch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments as tensors."""

    def tensor(value: Any) -> Any:
        if isinstance(value, torch.Tensor) or value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (tuple, list)):
            return type(value)(tensor(item) for item in value)
        if isinstance(value, Mapping):
            return {key: tensor(item) for key, item in value.items()}
        return torch.as_tensor(value)

    if isinstance(example_inputs, Mapping):
        return (), {str(name): tensor(value) for name, value in example_inputs.items()}
    if isinstance(example_inputs, (tuple, list)):
        return tuple(tensor(value) for value in example_inputs), {}
    return (tensor(example_inputs),), {}
