"""What planning of memory gives where sizes are not known (bar N7 of the published system, docs/dynamic.md).

python benchmarks/dynamic/memory.py [planner] [peaks] [lengths]

planner  the encoder with its planned memory, and with an allocation for every temporary: allocations of a call, the time of the instructions that deal
         with memory, and of the whole call.
peaks    bytes of the arena of four convolutional networks whose batch, or batch, height and width are not known, for the sizes of their static models,
         beside those models' arenas.
lengths  resident memory of a process that runs the encoder at 1,000 lengths, each of them once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import machine  # noqa: E402
import minilm  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import zoo  # noqa: E402
from encoder import turns  # noqa: E402

import hasten  # noqa: E402
from hasten.base.dims import evaluate  # noqa: E402
from hasten.bench.statistics import interval  # noqa: E402
from hasten.bench.worker import memory as resident  # noqa: E402
from hasten.codegen import isa as isas  # noqa: E402
from hasten.frontends import load_graph  # noqa: E402
from hasten.graph import prepare  # noqa: E402
from hasten.lower import compile as stages  # noqa: E402
from hasten.lower import memory  # noqa: E402
from hasten.lower.graph import Options, trace_model  # noqa: E402
from hasten.profile.instructions import time_instructions  # noqa: E402
from hasten.vm import program as P  # noqa: E402

Data = dict[str, Any]
GOALS = {"fewer allocations": 0.47, "less time": 0.75, "peak": 1.08, "resident": 1.02}
LENGTHS = (16, 32, 64, 128, 256)  # of `planner`
NETWORKS = ("resnet50", "mobilenet_v2", "squeezenet1_1", "densenet121")
BATCHES = (1, 8)
MOST = 1000  # tokens, of `lengths`: the position embeddings begin again after 512
SAMPLES = 20  # of the resident memory


def every_temporary_alone(*given: Any) -> Any:
    """`memory.plan` without an arena."""
    program, sizes, outputs, known, lead, _, over = given
    return memory.plan(program, sizes, outputs, known, lead, False, over)


def planner(args: argparse.Namespace) -> Data:
    model = encoder()  # a ModelProto: whole models are kept by the bytes of their files, which say nothing of the plan
    planned = hasten.compile(model, threads=1)
    with mock.patch.object(stages, "memory", mock.Mock(plan=every_temporary_alone)):
        single = hasten.compile(model, threads=1)
    rows: Data = {}
    for length in LENGTHS[:2] if args.quick else LENGTHS:
        ids = np.random.default_rng(length).integers(999, 30522, (1, length))
        assert np.array_equal(planned(ids), single(ids))
        with_plan, without = (of_memory(model, ids, 0.1 if args.quick else 1.0) for model in (planned, single))
        calls = {"planned": lambda ids=ids: planned(ids), "single": lambda ids=ids: single(ids)}
        whole = ratio(calls, args.rounds or (3 if args.quick else 20))
        rows[str(length)] = {"planned": with_plan, "single": without, "fewer": 1 - with_plan["allocations"] / without["allocations"],
                             "less_time": 1 - with_plan["us"] / without["us"], "call": whole}  # fmt: skip
        print(f"length {length:4}: {without['allocations']} allocations and {without['us']:.2f} us for memory become {with_plan['allocations']} and "
              f"{with_plan['us']:.2f} us: {rows[str(length)]['fewer']:.1%} fewer, {rows[str(length)]['less_time']:.1%} less; whole calls "
              f"{whole['ratio']:.3f} times as long without a plan [{whole['low']:.3f}, {whole['high']:.3f}]")  # fmt: skip
    return {"lengths": rows}


def encoder(longest: int = 512) -> onnx.ModelProto:
    """MiniLM for sentences of up to so many tokens: positions begin again where the trained ones end."""
    with tempfile.TemporaryDirectory(prefix="hasten-memory-") as folder:
        path = Path(folder) / "minilm.onnx"
        minilm.export(path)
        model = onnx.load(path)
    for tensor in model.graph.initializer:
        if longest > 512 and list(tensor.dims) == [512, minilm.WIDTH]:
            rows = np.resize(onnx.numpy_helper.to_array(tensor), (longest, minilm.WIDTH))
            tensor.CopyFrom(onnx.numpy_helper.from_array(rows, tensor.name))
    return model


def of_memory(model: hasten.CompiledModel, ids: Any, seconds: float) -> Data:
    """Allocations of a call, and microseconds of all instructions that deal with memory."""
    model(ids)
    found = time_instructions(model, {"ids": ids}, seconds=seconds)
    assert found is not None and not found.cut_off
    return {"allocations": sum(row.calls for row in found.rows if row.name in ("Arena", "Alloc")), "us": found.groups()["memory"] * 1e6}


def ratio(calls: dict[str, Callable[[], object]], rounds: int) -> Data:
    """Of the calls' times without a plan and with it, in rounds of drawn order."""
    times: dict[str, list[int]] = {name: [] for name in calls}
    for name in turns(calls, 2 + rounds):
        began = time.perf_counter_ns()
        for _ in range(5):
            calls[name]()
        times[name].append(time.perf_counter_ns() - began)
    found = interval([a / b for a, b in zip(times["single"][2:], times["planned"][2:], strict=True)])
    return {"ratio": found.value, "low": found.low, "high": found.high}


def peaks(args: argparse.Namespace) -> Data:
    rows: Data = {}
    for name in NETWORKS[2:3] if args.quick else NETWORKS:
        model, _ = zoo.NETWORKS[name].build()
        side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
        programs = {"batch": lowered(sized(model, ("batch", side, side))), "all": lowered(sized(model, ("batch", "height", "width")))}
        rows[name] = {}
        for batch in BATCHES:
            fixed = arena(lowered(sized(model, (batch, side, side))), {})
            found = {unknown: arena(program, {"batch": batch, "height": side, "width": side}) for unknown, program in programs.items()}
            rows[name][str(batch)] = {"static": fixed, "dynamic": found, "ratios": {unknown: size / fixed for unknown, size in found.items()}}
            told = ", ".join(f"{unknown} unknown {size / fixed:.3f} times as much" for unknown, size in found.items())
            print(f"{name:16} batch {batch}: static {fixed / 1e6:8.2f} MB, {told} (goal {GOALS['peak']})")
    return {"networks": rows}


def sized(model: onnx.ModelProto, sizes: Sequence[int | str]) -> onnx.ModelProto:
    """The model for inputs of these sizes: batch, height, width."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.value_info[:]
    entries = [*zip((0, 2, 3), sizes, strict=True)]
    for value, dims in ((found.graph.input[0], entries), (found.graph.output[0], entries[:1])):
        for axis, size in dims:
            dim = value.type.tensor_type.shape.dim[axis]
            dim.Clear()
            setattr(dim, "dim_value" if isinstance(size, int) else "dim_param", size)
    return found


def lowered(model: onnx.ModelProto) -> P.Program:
    """The Program; its kernels are not compiled."""
    target = isas.get(None)
    graph = load_graph(model)
    prepare(graph)
    return stages.lower_model(trace_model(graph, Options(True, "highest", target)), target, 1, "highest")[0]


def arena(program: P.Program, sizes: dict[str, int]) -> int:
    """Bytes of the arena for these sizes of the inputs."""
    known, total = dict(sizes), 0
    for i in program.instructions:
        if isinstance(i, P.Let):
            known[i.name] = evaluate(i.value, known)
        elif isinstance(i, P.Arena):
            total += evaluate(i.size, known)
    return total


def lengths(args: argparse.Namespace) -> Data:
    count = 40 if args.quick else MOST
    sizes = random.Random(6).sample(range(1, MOST + 1), count)
    with tempfile.TemporaryDirectory(prefix="hasten-memory-") as folder:
        path = Path(folder) / "minilm.hasten"
        hasten.compile(encoder(MOST), threads=args.threads).save(path)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(residents, path, sizes, args.threads).result()
    growth = max(found) / found[0]
    print(f"{count} lengths: {found[0] / 1e6:.1f} MB after the first {count // SAMPLES}, at most {max(found) / 1e6:.1f} MB later, {growth:.4f} times as much "
          f"(goal {GOALS['resident']})")  # fmt: skip
    return {"lengths": count, "bytes": found, "growth": growth}


def residents(path: Path, sizes: Sequence[int], threads: int) -> list[int]:
    """Resident bytes after each twentieth of these lengths; before, the longest one was run."""
    model, rng, found = hasten.load(path, threads=threads), np.random.default_rng(7), []
    model(rng.integers(999, 30522, (1, MOST)))
    for k, size in enumerate(sizes, 1):
        model(rng.integers(999, 30522, (1, size)))
        if k % (len(sizes) // SAMPLES) == 0:
            found.append(resident("VmRSS"))
    return found


PARTS: dict[str, Callable[[argparse.Namespace], Data]] = {"planner": planner, "peaks": peaks, "lengths": lengths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--threads", type=int, default=min(2, len(machine.cpus())), help="of `lengths`")
    parser.add_argument("--rounds", type=int)
    machine.add_arguments(parser)
    args = parser.parse_args()
    quiet = machine.Quiet(args.even_if_busy)
    found = {part: PARTS[part](args) for part in args.parts or PARTS}
    machine.write("dynamic/memory", quiet, {"goals": GOALS, **found}, args)


if __name__ == "__main__":
    main()
