"""PyTorch modules and exported programs become graphs: `torch.export`, then `torch.onnx.export`; PyTorch itself is an optional extra."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir

from hasten.base.errors import HastenError, InputError, MissingDependency, ModelError
from hasten.base.ranges import Dim
from hasten.frontends.onnx import load_graph

_ENDLESS = 1 << 40  # a size from which on it is no limit
_OPSET = 23  # the first that has Attention and RMSNormalization, which the exporter then uses
_INSTALL = "pip install 'hasten[torch]'"


def export_module(module: Any, example_inputs: Any = None, dynamic_shapes: Any = None) -> ir.Model:
    """Export a `torch.nn.Module` (in its evaluation mode), or take a `torch.export.ExportedProgram`, and check the result like a file.

    example_inputs: a tensor, a tuple of positional arguments, or a mapping of keyword arguments; NumPy arrays are
    taken too. An exported program needs none.
    dynamic_shapes: as in `torch.export`: per argument, the dims that may change, as Dims or as names. None makes all shapes fixed.

    Errors: MissingDependency without PyTorch, InputError without example inputs, ModelError when the module cannot be
    exported for all sizes that it was asked for.
    """
    for package in ("torch", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(f"compiling a PyTorch module needs the package {package!r}; install it with {_INSTALL}")
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        return program_model(module, "exported program")
    if example_inputs is None:
        raise InputError("a PyTorch module needs example_inputs: a tensor, a tuple of arguments, or a dict of keyword arguments")
    args, kwargs = _arguments(example_inputs, torch)
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), failing(f"export this {type(module).__name__}"):
            program = _capture(module, args, kwargs, dynamic_shapes)
    finally:
        module.train(training)
    return program_model(program, type(module).__name__, dynamic_shapes)


def program_model(program: Any, what: str, dynamic_shapes: Any = None) -> ir.Model:
    """An exported program as a checked graph; `dynamic_shapes` names its sizes. Raises ModelError, naming the operator that ONNX lacks."""
    import torch

    from hasten.frontends.torch_operators import with_operators

    with torch.no_grad(), failing(f"export this {what} to ONNX"), _quiet():
        found = torch.onnx.export(with_operators(program), dynamic_shapes=dynamic_shapes, dynamo=True, opset_version=_OPSET, verbose=False)
    if found is None:
        raise ModelError(f"PyTorch exported nothing for this {what}")
    model = load_graph(found.model)
    model.meta["hasten.dims"] = dict(_ranges(dynamic_shapes))
    return model


def _ranges(shapes: Any) -> Iterator[tuple[str, Dim]]:
    """The ranges of all `torch.export.Dim`s of dynamic shapes that have some, by name."""
    if isinstance(shapes, Mapping):
        shapes = list(shapes.values())
    if isinstance(shapes, (list, tuple)):
        for part in shapes:
            yield from _ranges(part)
    elif type(shapes).__name__ == "Dim":
        high = int(shapes.max) if shapes.max < _ENDLESS else None
        if shapes.min > 0 or high is not None:
            yield shapes.__name__, Dim(int(shapes.min), high)


def _capture(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any) -> Any:
    """The module as an ExportedProgram. `torch.onnx.export` would do this, too, but makes sizes constant where it meets difficulties."""
    import torch

    from hasten.frontends.torch_recurrent import recurrent_operators

    shapes = torch.utils._pytree.tree_map(lambda d: torch.export.Dim.DYNAMIC if isinstance(d, str) else d, dynamic_shapes)
    first: Exception | None = None
    for strict in (False, True):
        try:
            # The patch lets an example have sizes 0 and 1 where sizes are dynamic.
            with recurrent_operators(), torch.fx.experimental._config.patch(backed_size_oblivious=True):
                return torch.export.export(module, args, kwargs=kwargs, dynamic_shapes=shapes, strict=strict)
        except Exception as error:
            first = first or error
    assert first is not None
    raise first


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """The exporter raises many kinds of errors of its own; all mean the same to the caller."""
    try:
        yield
    except HastenError:
        raise
    except Exception as error:
        raise ModelError(f"PyTorch cannot {what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The beginning of the cause: the outer ones say that something failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of every optional package that is not there."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


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
