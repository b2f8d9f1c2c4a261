"""What a call costs beside its work: a model of one Relu over 16 numbers, called from Python.

python benchmarks/overhead.py

In one process and in turns: model(x), model.run(dict), ONNX Runtime's run(None, dict), and numpy.maximum on the same array as a yardstick of
what a C function called from Python costs. Each round times many calls in a row; the table shows the median over rounds and the least.
"""

from __future__ import annotations

import argparse
import random
import statistics
import timeit
from typing import Any

import machine
import numpy as np
import onnx
from onnx import TensorProto, helper

import hasten
from hasten.bench.statistics import interval

GOALS = {"model(x)": 0.6, "model.run(dict)": 1.2}  # microseconds


def relu() -> onnx.ModelProto:
    """y[n, 16] = max(x, 0)."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one_operator", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def peer(model: onnx.ModelProto) -> Any:
    """ONNX Runtime with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=None, help="default: 30")
    parser.add_argument("--calls", type=int, default=10_000, help="in a row, in each round")
    machine.add_arguments(parser)
    args = parser.parse_args()
    quiet = machine.Quiet(args.even_if_busy)
    machine.pin(1)
    proto = relu()
    model, session = hasten.compile(proto.SerializeToString(), threads=1), peer(proto)
    x = np.linspace(-1, 1, 16, dtype=np.float32)[None]
    feeds = {"x": x}
    for y in (model(x), model.run(feeds)["y"]):
        assert np.array_equal(y, np.maximum(x, 0)) and y.shape == x.shape and y.dtype == x.dtype
    names = {"model": model, "run": model.run, "peer": session.run, "maximum": np.maximum, "x": x, "feeds": feeds}
    calls = {
        "model(x)": "model(x)",
        "model.run(dict)": "run(feeds)",
        "onnxruntime run(None, dict)": "peer(None, feeds)",
        "numpy.maximum(x, 0)": "maximum(x, 0)",
    }
    timers = {name: timeit.Timer(text, globals=names) for name, text in calls.items()}
    times = measure(timers, args.rounds or (3 if args.quick else 30), args.calls)
    figures = {}
    for name, t in times.items():
        middle = interval(t)
        figures[name] = {"median": middle.value, "low": middle.low, "high": middle.high, "least": min(t), "goal": GOALS.get(name)}
    for name, row in figures.items():
        goal = f" (goal {row['goal']} us)" if row["goal"] else ""
        print(f"{name:28} {row['median']:6.2f} us [{row['low']:.2f}, {row['high']:.2f}], least {row['least']:.2f}{goal}")
    machine.write("overhead", quiet, {"microseconds": figures}, args)


def measure(timers: dict[str, timeit.Timer], rounds: int, calls: int) -> dict[str, list[float]]:
    """Microseconds a call, for each round; the order is drawn anew in each."""
    rng = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name in rng.sample(list(timers), len(timers)):
            timers[name].timeit(calls // 10)
            times[name].append(timers[name].timeit(calls) / calls * 1e6)
    assert all(statistics.median(t) > 0 for t in times.values())
    return times


if __name__ == "__main__":
    main()
