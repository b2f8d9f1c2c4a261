"""The backend of `torch.compile(module, backend="hasten")`, for inference.

PyTorch's compiler finds it by the entry point group `torch_dynamo_backends`; nothing of Hasten needs to be imported. It comes here with each graph
that it traced. AOTAutograd makes it functional (mutations and aliases of arguments are put back around what we return), `frontends.torch_graph`
makes it a model with the module's parameters as constants, and a `Graph` runs it on the arguments' memory. What cannot be done so runs eagerly,
with one warning of the logger "hasten.torch" for each graph, or is an error under `options={"fallback": False}`.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter, call, is_
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import TensorifyScalarRestartAnalysis
from torch._guards import TracingContext
from torch.utils._python_dispatch import _disable_current_modes

from hasten import api
from hasten.base.errors import HastenError, InputError, UnsupportedOperator
from hasten.codegen import isa
from hasten.frontends.torch_arrays import reader, writer
from hasten.frontends.torch_graph import AtenGraph, aten_graph
from hasten.frontends.torch_recurrent import recurrent_operators
from hasten.vm.runtime import thread_count

MOST_BINDINGS = 16  # sets of parameters for which a graph is kept compiled
log = logging.getLogger("hasten.torch")


@dataclass(frozen=True)
class Options:
    """`torch.compile(..., options={...})`. precision, isa, threads: see `hasten.compile`; threads None: as many as PyTorch uses. fallback: whether
    a graph that Hasten cannot compile runs eagerly (else it is an error)."""

    precision: str = "highest"
    threads: int | None = None
    isa: str | None = None
    fallback: bool = True

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Options:
        """Raises InputError for an unknown name or value."""
        unknown = set(given or {}) - set(cls.__dataclass_fields__)
        if unknown:
            raise InputError(f"options of the backend 'hasten' are {', '.join(cls.__dataclass_fields__)}; not {', '.join(map(repr, sorted(unknown)))}")
        options = cls(**(given or {}))
        api.check_precision(options.precision)
        isa.get(options.isa)
        thread_count(options.threads)
        return options


def backend(module: Any, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """Compile one traced graph (a `torch.fx.GraphModule`) for arguments like the examples; PyTorch calls this.

    Raises InputError for wrong options; under `fallback: False` also UnsupportedOperator, ModelError and the other errors of `hasten.compile`.
    """
    chosen = Options.of(options)
    try:
        _refuse(example_inputs)
        with recurrent_operators():
            return aot_autograd(fw_compiler=functools.partial(_compile, chosen, example_inputs))(module, example_inputs)
    except TensorifyScalarRestartAnalysis:  # PyTorch will come again, with numbers in the place of tensors
        raise
    except (HastenError, NotImplementedError) as error:
        if not chosen.fallback:
            raise
        log.warning("a graph of %d operators runs eagerly: %s", sum(n.op.startswith("call") for n in module.graph.nodes), error)
        return module.forward


def _refuse(arguments: Sequence[Any]) -> None:
    """Raises UnsupportedOperator where gradients or another device are wanted."""
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        raise UnsupportedOperator("its results need gradients, and Hasten is for inference; call it under torch.no_grad() or torch.inference_mode()")
    for t in tensors:
        if t.device.type != "cpu" or t.layout != torch.strided:
            raise UnsupportedOperator(f"it takes a {t.layout} tensor on {t.device}, and Hasten strided ones on the CPU")


def _compile(options: Options, arguments: Sequence[Any], module: Any, fakes: Sequence[Any]) -> Graph:
    """AOTAutograd's compiler of functional graphs. arguments: those of the traced graph, of which parameters are the real ones."""
    weights = _constant(arguments, fakes)
    with _disable_current_modes():  # parameters are real
        return Graph(options, aten_graph(module, weights), fakes, weights)


def _constant(arguments: Sequence[Any], fakes: Sequence[Any]) -> dict[int, Any]:
    """The arguments that are parameters and buffers of modules and never written to, by position."""
    context = TracingContext.try_get()
    metadata = None if context is None else context.fw_metadata
    if metadata is None or len(arguments) != len(fakes):  # AOTAutograd has rearranged them, as it does for arguments that overlap
        return {}
    static = [k for k in metadata.static_input_indices if not metadata.input_info[k].mutates_data]
    return {k: arguments[k] for k in static if isinstance(arguments[k], torch.Tensor)}


class Graph:
    """A compiled graph: takes PyTorch's tensors and numbers, in a list that it empties, and gives a list of such.

    Parameters are constants of the model. A call with others, or with changed ones, compiles the graph once more for these: as when one
    graph serves several layers of a network, or after `load_state_dict`.
    """

    _boxed_call = True  # tells AOTAutograd that arguments are wanted in a list

    def __init__(self, options: Options, graph: AtenGraph, fakes: Sequence[Any], weights: Mapping[int, Any]):
        self.options, self.graph = options, graph
        self.constant = list(graph.weights.values())
        self.feeds = [(k, reader(fakes[k])) for k in graph.feeds]
        self.writers = [writer(value) for value in graph.values]
        self.lock = threading.Lock()
        self.bindings: list[_Binding] = []
        self.last = self._bind([weights[k] for k in self.constant])

    def __call__(self, args: list[Any]) -> list[Any]:
        weights = [args[k] for k in self.constant]
        binding = self.last
        if not binding.fits(weights):
            binding = self._find(weights)
        found = binding.model(*[read(args[k]) for k, read in self.feeds])
        outputs = [write(y) for write, y in zip(self.writers, found if len(self.writers) > 1 else (found,), strict=True)]
        results = [outputs[v] if kind == "model" else args[v] if kind == "argument" else v for kind, v in self.graph.results]
        args.clear()
        return results

    def _find(self, weights: list[Any]) -> _Binding:
        with self.lock:
            found = next((b for b in self.bindings if b.fits(weights)), None)
            self.last = found or self._bind(weights)
            return self.last

    def _bind(self, weights: list[Any]) -> _Binding:
        """Compile for these parameters."""
        started = time.perf_counter()
        source = self.graph.with_weights(dict(zip(self.constant, weights, strict=True)))
        options = self.options
        model = api.compile(source, threads=options.threads or torch.get_num_threads(), precision=options.precision, isa=options.isa, host_ops=False)
        self._check(model)
        log.info("compiled a graph of %d nodes in %.2f s: %r", len(model.report().nodes), time.perf_counter() - started, model)
        binding = _Binding(model, weights)
        self.bindings = [b for b in self.bindings if b.alive()][-MOST_BINDINGS + 1 :] + [binding]
        return binding

    def _check(self, model: api.CompiledModel) -> None:
        """Raises UnsupportedOperator where the exporter and PyTorch disagree on a result's type."""
        for info, value in zip(model.outputs, self.graph.values, strict=True):
            if isinstance(value, torch.Tensor) and (info.dtype != str(value.dtype).removeprefix("torch.") or len(info.shape or ()) != value.ndim):
                raise UnsupportedOperator(f"the exported {info.name} is {info.dtype} of shape {info.shape}, PyTorch's {value.dtype} with {value.ndim} axes")


class _Binding:
    """A model, and the parameters that are its constants: their identities and versions."""

    def __init__(self, model: api.CompiledModel, weights: list[Any]):
        self.model = model
        self.references = [weakref.ref(w) for w in weights]
        self.counted = [not w.is_inference() for w in weights]
        self.state = self._state(weights)

    def fits(self, weights: list[Any]) -> bool:
        return all(map(is_, map(call, self.references), weights)) and self._state(weights) == self.state

    def alive(self) -> bool:
        return all(reference() is not None for reference in self.references)

    def _state(self, weights: list[Any]) -> list[int]:
        """What changes with every write that PyTorch counts, and with new memory. Inference tensors have no counter."""
        return [*map(_version, compress(weights, self.counted)), *map(torch.Tensor.data_ptr, weights)]


_version = attrgetter("_version")
