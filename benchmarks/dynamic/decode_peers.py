"""The engines of decode.py: each runs the transformer of decoder.py from the file of its trained weights, greedily or as a beam search.

HASTEN     the functions of examples/decoding.py: one call
EAGER      PyTorch, keys and values written into memory of their full length
COMPILED   the same, one token's step under torch.compile(dynamic=True)
ORT        ONNX Runtime, a model of one token's step whose keys and values grow, bound to where the last step left them
OPENVINO   OpenVINO, the same model made stateful: keys and values stay inside of it

All but the first have the loop in Python (`greedy`, `beam`). An item has "prompt" (int64 [n]), "most" (tokens) and "width" (0: greedy); the answer
tokens int64 [width or 1, n] and scores float32 [width or 1], zeros for greedy decoding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import decoder
import numpy as np
from decoder import BEAM, CONTEXT, EACH, END, HEADS, LAYERS, Array

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))


class Model(Protocol):
    """What the loop in Python needs: logits [rows, characters] of a prompt, and of one more token for each row."""

    def begin(self, prompt: Array) -> Array:
        """prompt [n]; one row."""

    def step(self, last: Array, parents: Array | None) -> Array:
        """last [rows]; `parents`: the rows of the step before which they continue (None: there is one)."""


def greedy(model: Model, prompt: Array, most: int) -> tuple[Array, Array]:
    tokens = [model.begin(prompt).argmax()]
    while tokens[-1] != END and len(tokens) < most:
        tokens.append(model.step(np.array(tokens[-1:]), None).argmax())
    return np.array([tokens]), np.zeros(1, np.float32)


def beam(model: Model, prompt: Array, most: int) -> tuple[Array, Array]:
    """As in examples/decoding.py."""
    first = log_softmax(model.begin(prompt))[0]
    last = np.argsort(-first)[:BEAM]
    scores, tokens, parents = first[last], last[:, None], np.zeros(BEAM, np.int64)
    while (last != END).any() and tokens.shape[1] < most:
        steps = log_softmax(model.step(last, parents))
        ended = last == END
        steps[ended], steps[ended, END] = -np.inf, 0
        every = (scores[:, None] + steps).ravel()
        chosen = np.argsort(-every)[:BEAM]
        scores, parents, last = every[chosen], chosen // steps.shape[1], chosen % steps.shape[1]
        tokens = np.concatenate([tokens[parents], last[:, None]], 1)
    return tokens, scores


def log_softmax(x: Array) -> Array:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))  # type: ignore[no-any-return]


class Peer:
    """An engine of the track; `start` gives a call (prompt, most, width) -> (tokens, scores)."""

    def __init__(self, name: str, package: str, start: Callable[[Path, int], Callable[[Array, int, int], tuple[Array, Array]]]):
        self.name, self.package, self._start = name, package, start

    def load(self, model: Path, threads: int, options: Mapping[str, str], cache: Path | None) -> Runner:
        return Runner(self._start(model, threads))


class Runner:
    def __init__(self, call: Callable[[Array, int, int], tuple[Array, Array]]):
        self._call = call

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        tokens, scores = self._call(feeds["prompt"], int(feeds["most"]), int(feeds["width"]))
        return {"tokens": tokens, "scores": scores}

    def describe(self) -> dict[str, str]:
        return {}


def _in_python(model: Model) -> Callable[[Array, int, int], tuple[Array, Array]]:
    return lambda prompt, most, width: (beam if width else greedy)(model, prompt, most)


# --- Hasten -------------------------------------------------------------------------------------------------------------------------
def compiled(path: Path, threads: int) -> tuple[Any, Any]:
    """The models of greedy decoding and of the beam search."""
    import decoding
    import hasten

    weights = {name: t.numpy() for name, t in decoder.load(path).state_dict().items()}
    found = decoding.decoders(weights, LAYERS, HEADS, BEAM)
    return hasten.compile(found[0], threads=threads), hasten.compile(found[1], threads=threads)


def _hasten(path: Path, threads: int) -> Any:
    one, several = compiled(path, threads)

    def call(prompt: Array, most: int, width: int) -> tuple[Array, Array]:
        if width:
            tokens, scores = several(prompt, most)
            return tokens, scores
        return np.array([one(prompt, most)]), np.zeros(1, np.float32)

    return call


# --- PyTorch ------------------------------------------------------------------------------------------------------------------------
class _Torch:
    def __init__(self, path: Path, threads: int, compile_step: bool):
        import torch

        torch.set_num_threads(threads)
        self._network = decoder.load(path)
        self._step = torch.compile(self._network.within, dynamic=True) if compile_step else self._network.within
        self._one, self._several = ([torch.zeros(rows, HEADS, CONTEXT, EACH) for _ in range(2 * LAYERS)] for rows in (1, BEAM))

    def begin(self, prompt: Array) -> Array:
        import torch

        self._cache, self._before = self._one, len(prompt)
        with torch.inference_mode():
            return self._network.within(torch.from_numpy(prompt)[None], 0, self._one).numpy()  # type: ignore[no-any-return]

    def step(self, last: Array, parents: Array | None) -> Array:
        import torch

        at, self._before = self._before, self._before + 1
        with torch.inference_mode():
            if parents is not None:
                rows = torch.from_numpy(parents)
                for old, new in zip(self._cache, self._several, strict=True):
                    new[:, :, :at] = old[rows, :, :at]
                self._cache = self._several
            return self._step(torch.from_numpy(last)[:, None], at, self._cache).numpy()  # type: ignore[no-any-return]


# --- ONNX Runtime and OpenVINO --------------------------------------------------------------------------------------------------------
KINDS = ("prompt", "step", "beam")
PAST, PRESENT = ([f"{name}_{k}" for k in range(2 * LAYERS)] for name in ("past", "present"))


def exported(path: Path) -> dict[str, Path]:
    """The three models beside the weights, written when they are not there."""
    found = {kind: path.with_name(f"{path.stem}-{kind}.onnx") for kind in KINDS}
    for kind, place in found.items():
        if not place.exists():
            decoder.export(decoder.load(path), place, kind)
    return found


class _OnnxRuntime:
    def __init__(self, path: Path, threads: int):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        self._sessions = {
            kind: onnxruntime.InferenceSession(str(place), settings, providers=["CPUExecutionProvider"]) for kind, place in exported(path).items()
        }

    def begin(self, prompt: Array) -> Array:
        return self._run("prompt", {"ids": prompt[None]}, [])

    def step(self, last: Array, parents: Array | None) -> Array:
        past = self._present
        if parents is None:
            return self._run("step", {"ids": last[:, None]}, past)
        if past[0].shape()[0] != len(last):  # of the prompt
            past = [_ort_value(np.repeat(x.numpy(), len(last), 0)) for x in past]
        return self._run("beam", {"ids": last[:, None], "parents": parents}, past)

    def _run(self, kind: str, feeds: Mapping[str, Array], past: list[Any]) -> Array:
        session = self._sessions[kind]
        binding = session.io_binding()
        for name, x in feeds.items():
            binding.bind_cpu_input(name, x)
        for name, value in zip(PAST, past, strict=False):
            binding.bind_ortvalue_input(name, value)
        for name in ("logits", *PRESENT):
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        logits, *self._present = binding.get_outputs()
        return logits.numpy()  # type: ignore[no-any-return]


def _ort_value(x: Array) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(x)


class _OpenVino:
    def __init__(self, path: Path, threads: int):
        import openvino
        from openvino._offline_transformations import apply_make_stateful_transformation

        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
        }  # fmt: skip
        self._requests = {}
        for kind, place in exported(path).items():
            model = core.read_model(str(place))
            if kind != "prompt":
                apply_make_stateful_transformation(model, dict(zip(PAST, PRESENT, strict=True)))
            self._requests[kind] = core.compile_model(model, "CPU", settings).create_infer_request()

    def begin(self, prompt: Array) -> Array:
        self._fresh, request = True, self._requests["prompt"]
        request.infer({"ids": prompt[None]}, share_inputs=True, share_outputs=True)
        self._past = [request.get_tensor(name).data for name in PRESENT]
        return request.get_tensor("logits").data  # type: ignore[no-any-return]

    def step(self, last: Array, parents: Array | None) -> Array:
        import openvino

        request = self._requests["step" if parents is None else "beam"]
        if self._fresh:
            known = dict(zip(PAST, self._past, strict=True))
            for state in request.query_state():
                state.state = openvino.Tensor(np.repeat(known[_input_of(state.name)], len(last), 0))
            self._fresh = False
        feeds = {"ids": last[:, None]} | ({} if parents is None else {"parents": parents})
        request.infer(feeds, share_inputs=True, share_outputs=True)
        return request.get_tensor("logits").data  # type: ignore[no-any-return]


def _input_of(state: str) -> str:
    """The input that a state was: its name begins with it."""
    return max((name for name in PAST if state.startswith(name)), key=len)


HASTEN = Peer("decode_hasten", "hasten", _hasten)
EAGER = Peer("decode_eager", "torch", lambda path, threads: _in_python(_Torch(path, threads, False)))
COMPILED = Peer("decode_compiled", "torch", lambda path, threads: _in_python(_Torch(path, threads, True)))
ORT = Peer("decode_onnxruntime", "onnxruntime", lambda path, threads: _in_python(_OnnxRuntime(path, threads)))
OPENVINO = Peer("decode_openvino", "openvino", lambda path, threads: _in_python(_OpenVino(path, threads)))
