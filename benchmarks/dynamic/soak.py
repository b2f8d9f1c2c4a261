"""Many shapes, many calls, many threads: one encoder, 1,000 distinct shapes, 100,000 calls from 4 threads at once.

python benchmarks/dynamic/soak.py

A transformer's layer in float32[b, s, 64] is compiled and saved; ONNX Runtime computes the answers for a sample of shapes. Another process loads
the model and calls it, shapes in random order. What is held: nothing is compiled (that process never imports LLVM), no answer of the sample is wrong,
and the memory that the process has in RAM, looked at all the time, stays within 2% of what it was when every shape had come by once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import machine  # noqa: E402

WIDTH, HEADS = 64, 4
SHAPES = [(b, s) for b in range(1, 9) for s in range(1, 126)]  # 1,000
SAMPLE = SHAPES[::17]
TOLERANCE = 1e-4  # of the largest value
FLAT = 0.02

LAYER = """<ir_version: 10, opset_import: ["" : 20]> layer (float[b, s, 64] x) => (y) {
    q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
    q4 = Reshape(q, split)  k4 = Reshape(k, split)  v4 = Reshape(v, split)
    qh = Transpose <perm=[0, 2, 1, 3]> (q4)  kh = Transpose <perm=[0, 2, 3, 1]> (k4)  vh = Transpose <perm=[0, 2, 1, 3]> (v4)
    scores = MatMul(qh, kh)  scaled = Mul(scores, quarter)  p = Softmax(scaled)  mixed = MatMul(p, vh)
    back = Transpose <perm=[0, 2, 1, 3]> (mixed)  joined = Reshape(back, whole)  a = MatMul(joined, wo)  r = Add(a, x)
    n = LayerNormalization(r, scale, bias)  h = MatMul(n, w1)  g = Gelu(h)  f = MatMul(g, w2)  t = Add(f, n)  y = LayerNormalization(t, scale, bias) }"""


def layer() -> Any:
    """The model, with seeded weights."""
    import onnx
    from onnx import numpy_helper

    rng, d = np.random.default_rng(1), WIDTH
    shapes = {"wq": (d, d), "wk": (d, d), "wv": (d, d), "wo": (d, d), "w1": (d, 4 * d), "w2": (4 * d, d)}
    constants = {name: (rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"scale": np.ones(d, np.float32), "bias": np.zeros(d, np.float32), "quarter": np.array(0.25, np.float32)}
    constants |= {"split": np.array([0, 0, HEADS, d // HEADS]), "whole": np.array([0, 0, d])}
    model = onnx.parser.parse_model(LAYER)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items())
    return model


def feed(shape: tuple[int, int]) -> np.ndarray:
    """The input of a shape: always the same."""
    return np.random.default_rng(shape).standard_normal((*shape, WIDTH)).astype(np.float32)


def resident() -> int:
    """Bytes that this process has in RAM."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the process that calls ---------------------------------------------------------------------------------------------
class Soak:
    """Threads that call one model; what they saw."""

    def __init__(self, path: str, calls: int, threads: int):
        import hasten

        self.model, self.calls, self.threads = hasten.load(path), calls, threads
        self.inputs = {shape: feed(shape) for shape in SHAPES}
        with np.load(Path(path).with_suffix(".npz")) as answers:
            self.answers = {shape: answers[f"{shape[0]}x{shape[1]}"] for shape in SAMPLE}
        self.wrong, self.checked, self.done = 0, 0, [0] * threads
        self.lock = threading.Lock()

    def work(self, number: int) -> None:
        """One thread's part: every shape once, then at random."""
        rng = np.random.default_rng(number)
        order = list(rng.permutation(len(SHAPES)))
        for k in range(self.calls // self.threads):
            shape = SHAPES[order[k] if k < len(order) else int(rng.integers(len(SHAPES)))]
            y, want = self.model(self.inputs[shape]), self.answers.get(shape)
            self.done[number] = k + 1
            if want is not None:
                wrong = y.shape != want.shape or float(np.abs(y - want).max()) > TOLERANCE * float(np.abs(want).max())
                with self.lock:
                    self.checked, self.wrong = self.checked + 1, self.wrong + wrong

    def run(self) -> dict[str, Any]:
        workers = [threading.Thread(target=self.work, args=(n,)) for n in range(self.threads)]
        began, memory, warm = time.perf_counter(), [], 0
        for w in workers:
            w.start()
        while any(w.is_alive() for w in workers):
            time.sleep(0.05)
            if min(self.done) >= len(SHAPES):
                warm = warm or resident()
                memory.append(resident())
        memory.append(resident())
        return {"shapes": len(SHAPES), "calls": sum(self.done), "threads": self.threads, "seconds": time.perf_counter() - began,
                "compared": self.checked, "wrong": self.wrong, "compiler_loaded": "llvmlite" in sys.modules,
                "memory": {"warm": warm, "least": min(memory), "most": max(memory), "last": memory[-1], "looks": len(memory)},
                "growth": max(memory) / warm - 1 if warm else None}  # fmt: skip


def verdict(figures: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    bad = {
        "wrong answers": figures["wrong"] > 0, "nothing compared": not figures["compared"], "a compiler was loaded": figures["compiler_loaded"],
        "memory grew": figures["growth"] is None or figures["growth"] > FLAT,
    }  # fmt: skip
    return [name for name, holds in bad.items() if holds]


def prepare(folder: Path) -> Path:
    """The saved model, and beside it ONNX Runtime's answers for the sample."""
    import onnxruntime

    import hasten

    model = layer().SerializeToString()
    path = folder / "layer.hasten"
    hasten.compile(model, threads=1, host_ops=False).save(path)
    session = onnxruntime.InferenceSession(model)
    np.savez(path.with_suffix(".npz"), **{f"{b}x{s}": session.run(None, {"x": feed((b, s))})[0] for b, s in SAMPLE})  # type: ignore[arg-type]
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=4)
    machine.add_arguments(parser)
    parser.add_argument("--model", help=argparse.SUPPRESS)  # the process that calls
    args = parser.parse_args()
    if args.model:
        print(json.dumps(Soak(args.model, args.calls, args.threads).run()))
        return
    quiet = machine.Quiet(args.even_if_busy)
    with tempfile.TemporaryDirectory() as folder:
        calls = args.calls // 20 if args.quick else args.calls
        command = [sys.executable, __file__, "--model", str(prepare(Path(folder))), "--calls", str(calls), "--threads", str(args.threads)]
        figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(json.dumps(figures, indent=1))
    machine.write("dynamic/soak", quiet, figures, args)
    if found := verdict(figures):
        sys.exit(f"not as it must be: {', '.join(found)}")


if __name__ == "__main__":
    main()
