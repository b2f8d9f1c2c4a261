"""What the kernel benchmarks share: a template compiled by itself, aligned buffers, ONNX Runtime beside it, minima of
interleaved rounds.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hasten.codegen import link, llvm
from hasten.codegen.builder import Module
from hasten.codegen.isa import Isa
from hasten.vm.image import LoadedImage


def aligned(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Random float32 values at a 64-byte boundary."""
    count = int(np.prod(shape))
    raw = np.zeros(count + 16, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    array = raw[start : start + count].reshape(shape)
    array[...] = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return array


class Kernel:
    """A compiled template; `bind` fixes its words and gives a call without arguments."""

    def __init__(self, isa: Isa, words: Sequence[tuple[str, str]], emit: Callable[..., None]):
        module = Module(isa)
        f = module.function("kernel", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
        args, thread, threads = f.args
        arg = {name: f.load(t, f.at(args, i, 8)) for i, (name, t) in enumerate(words)}
        emit(f, isa, arg, thread, threads)
        self.text = module.text()
        start = time.perf_counter()
        self.object = llvm.compile_text(self.text, isa)
        self.compile_seconds = time.perf_counter() - start
        self.image = LoadedImage.from_memory(link.link([self.object], ["kernel"]))
        self.words = [name for name, _ in words]
        self.call = self.image.function("kernel", None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

    def bind(self, words: Mapping[str, Any]) -> Callable[[], None]:
        values = [words.get(name, 0) for name in self.words]
        array = (ctypes.c_int64 * len(values))(*(v.ctypes.data if isinstance(v, np.ndarray) else v for v in values))
        keep = (array, words)
        return lambda: self.call(keep[0], 0, 1)


def minima(calls: Sequence[Callable[[], object]], seconds: float = 0.4) -> list[float]:
    """The least time of each call, in interleaved rounds with short pauses."""
    best = [float("inf")] * len(calls)
    for call in calls:
        call()
    stop = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < stop:
        for i, call in enumerate(calls):
            time.sleep(0.002)
            call()
            for _ in range(3):
                start = time.perf_counter()
                call()
                best[i] = min(best[i], time.perf_counter() - start)
    return best


def session(node: Any, inputs: Mapping[str, np.ndarray], constants: Mapping[str, np.ndarray]) -> Callable[[], object]:
    """One ONNX node in ONNX Runtime on one thread."""

    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in inputs.items()],
        [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=9
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    running = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = dict(inputs)
    return lambda: running.run(None, feed)


def fma_peak(isa: Isa, seconds: float = 0.3) -> float:
    """GFLOP/s of independent FMAs in registers."""
    lanes, chains, rounds = isa.lanes(32), isa.registers - 4, 100_000  # all registers but x, y and two spare

    def emit(f: Any, isa: Isa, arg: Mapping[str, Any], thread: Any, threads: Any) -> None:
        t = f"<{lanes} x float>"
        x, y = f.load(t, arg["data"]), f.load(t, f.offset(arg["data"], lanes * 4))
        sums = [f.var(t, float(i)) for i in range(chains)]
        with f.loop(0, rounds):
            for s in sums:
                s.set(f.fma(x, y, s.get()))
        for i, s in enumerate(sums):
            f.store(s.get(), f.offset(arg["data"], i * lanes * 4))

    run = Kernel(isa, [("data", "ptr")], emit).bind({"data": aligned([chains * lanes]) * 1e-6})
    return 2 * lanes * chains * rounds / minima([run], seconds)[0] / 1e9
