"""The engines that Hasten can be measured against: one function and one row of the table for each.

A peer is set to what Hasten is compared at: the same number of threads, fp32 products, all optimisations on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hasten.base.errors import InputError, MissingDependency

Feeds = Mapping[str, Any]
Run = Callable[[Feeds], dict[str, Any]]


@dataclass(frozen=True)
class Peer:
    """An engine: `start(model file, threads)` gives what runs the model."""

    name: str
    package: str
    start: Callable[[Path, int], Run]


def _onnxruntime(model: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


def _openvino(model: Path, threads: int) -> Run:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(model), "CPU", options)
    request = compiled.create_infer_request()

    def run(feeds: Feeds) -> dict[str, Any]:
        results = request.infer(feeds, share_inputs=True, share_outputs=True)
        return {name: results[output] for output in compiled.outputs for name in output.names}

    return run


PEERS = {
    peer.name: peer
    for peer in (Peer("onnxruntime", "onnxruntime", _onnxruntime), Peer("openvino", "openvino", _openvino))
}


def start(name: str, model: Path, threads: int) -> Run:
    """The peer called `name` with a model in it.

    Raises InputError for an unknown name or a model that the peer refuses, MissingDependency where the peer is not
    installed.
    """
    peer = PEERS.get(name)
    if peer is None:
        raise InputError(f"there is no peer {name!r}; there are: {', '.join(PEERS)}.")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        return peer.start(model, threads)
    except ImportError:
        raise MissingDependency(
            f"{name} is not installed: pip install {peer.package}, or all peers with pip install 'hasten[bench]'"
        ) from None
    except Exception as error:  # a peer's own errors have no common class
        first = str(error).strip().partition("\n")[0]
        raise InputError(f"{name} does not run {model.name}: {first}") from error
