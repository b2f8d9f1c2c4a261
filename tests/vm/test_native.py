"""The native driver against the interpreter, which defines what Programs mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hasten.base import dims as D
from hasten.base.errors import CompileError, ExecutionError, ResourceLimit, ShapeMismatch
from hasten.vm import program as P
from hasten.vm.native.driver import _single_assignments

N, M = D.symbol("N"), D.symbol("M")
INT64 = 1 << 64


def wrap(x: int) -> int:
    return (x + INT64 // 2) % INT64 - INT64 // 2


def encode(x: int) -> tuple[int, int, int]:
    """Three numbers that are not negative, from which `encoded` makes any 64-bit integer."""
    return (x, 0, 0) if x >= 0 else (0, min(-x, (1 << 63) - 1), int(x == -(1 << 63)))


def encoded(name: str, index: int) -> list[P.Instruction]:
    """integer `name` from three elements of x."""
    parts = [D.symbol(f"{name}{n}") for n in range(3)]
    reads = [P.Read(f"{name}{n}", "x", index + n, "int64") for n in range(3)]
    return [*reads, P.Let(name, parts[0] - parts[1] - parts[2])]


def signed(name: str, index: int, dtype: str) -> list[P.Instruction]:
    """integer `name` := an element of x of either sign."""
    plus, minus = P.Read(name + "_plus", "x", index, dtype), P.Read(name + "_minus", "x", index, dtype, -1)
    return [plus, minus, P.Let(name, D.symbol(plus.name) - D.symbol(minus.name))]


def doubling(*extra: P.Instruction, shape: tuple[Any, ...] = (N, 4)) -> P.Program:
    """y = 2 * x, with more instructions in front of the call."""
    size = D.product(shape)
    return P.Program(
        [P.TensorSpec("x", "float32", shape, "x")],
        [P.TensorSpec("y", "float32", shape, "y")],
        [],
        [P.Alloc("y", size * 4, "output"), *extra, P.Call("k_double", ("x", "y", size), size), P.Output(0, "y", shape)],
    )


def numbers(count: int, body: list[P.Instruction], values: list[D.DimLike]) -> P.Program:
    """Input "x": int64 (count,); output: the values after the body, int64."""
    stores = [P.Call("k_put", ("out", n, v)) for n, v in enumerate(values)]
    return P.Program(
        [P.TensorSpec("x", "int64", (count,), "x")],
        [P.TensorSpec("out", "int64", (len(values),), "out")],
        [],
        [P.Alloc("out", 8 * len(values), "output"), *body, *stores, P.Output(0, "out", (len(values),))],
    )


def test_one_call(toolbox: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for model in toolbox.both(doubling()):
        y = model(x)
        assert y.dtype == np.float32 and y.flags.c_contiguous and y.flags.writeable and y.ctypes.data % 64 == 0
        np.testing.assert_array_equal(y, x * 2)
        np.testing.assert_array_equal(model.run({"x": x})["y"], x * 2)


@pytest.mark.parametrize("kind", ["floordiv", "mod", "max", "min"])
def test_operations_at_the_limits(toolbox: Any, kind: str) -> None:
    a, b = D.symbol("a"), D.symbol("b")
    x = D.Dim((((D.Atom(kind, "", (a, b)),), 1),))
    native, interpreted = toolbox.both(numbers(6, [*encoded("a", 0), *encoded("b", 3)], [x]))
    edge = [0, 1, -1, 2, -2, 7, -7, 64, (1 << 63) - 1, -(1 << 63), 1 << 62]
    for p in edge:
        for q in edge:
            want = wrap(D.EVALUATORS[kind](p, q))
            given = np.array([*encode(p), *encode(q)])
            assert native(given)[0] == interpreted(given)[0] == want, (p, q)


@pytest.mark.parametrize("factor", [0.5, 0.3, -1.7, 1e-3, 2.5e10])
def test_scale_is_floor_in_doubles(toolbox: Any, factor: float) -> None:
    x = D.Dim((((D.Atom("scale", "", (D.symbol("a"), factor)),), 1),))
    native, interpreted = toolbox.both(numbers(1, signed("a", 0, "int64"), [x]))
    for value in (0, 1, -1, 3, 10, -10, 999, 12345678, -87654321):
        assert native(np.array([value]))[0] == interpreted(np.array([value]))[0] == math.floor(value * factor)


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
    ],
)
def test_read_every_type(toolbox: Any, dtype: str) -> None:
    from hasten.base.dtypes import to_numpy

    dt = to_numpy(dtype)
    values = np.array([0, 1, 100, 3, 1], np.float64)
    if dtype.startswith(("float", "bfloat")):
        values = np.array([-2.5, 1.99, 0.001, -0.0, 7, np.inf, -np.inf, np.nan, 60000.0])
    elif dtype.startswith("int"):
        values = np.array([0, -1, 100, -128, 127])
    array = values.astype(dt)
    program = numbers(
        1,
        [i for n in range(len(array)) for i in signed(f"v{n}", n, dtype)],
        [D.symbol(f"v{n}") for n in range(len(array))],
    )
    program.inputs = [P.TensorSpec("x", dtype, (len(array),), "x")]
    native, interpreted = toolbox.both(program)
    got = native(array)
    assert got.tolist() == interpreted(array).tolist()
    assert got[:5].tolist() == [int(v) for v in array[:5].astype(np.float64)]
    if len(array) > 5:
        assert got[5:8].tolist() == [(1 << 63) - 1, 1 - (1 << 63), 0]


# --- failures ---------------------------------------------------------------------------------------------------------
def test_checks(toolbox: Any) -> None:
    body = [P.Check(N, "<", 5, "too many rows", "value"), P.Check(D.mod(N, 2), "==", 0, "rows come in pairs")]
    for model in toolbox.both(doubling(*body)):
        assert model(np.ones((2, 4), np.float32)).sum() == 16
        with pytest.raises(ExecutionError, match=r"too many rows \(N < 5 does not hold: 6 and 5\)"):
            model(np.ones((6, 4), np.float32))
        with pytest.raises(ShapeMismatch, match="rows come in pairs"):
            model(np.ones((3, 4), np.float32))


def test_failed_kernels(toolbox: Any) -> None:
    for model in toolbox.both(doubling(P.Call("k_status", (N,)))):
        with pytest.raises(ExecutionError, match="index is out of range"):
            model(np.ones((1, 4), np.float32))
        with pytest.raises(ResourceLimit, match="out of memory"):
            model(np.ones((3, 4), np.float32))
        with pytest.raises(ExecutionError, match="unknown status"):
            model(np.ones((77, 4), np.float32))


def test_sizes_that_overflow_or_pass_the_limit(toolbox: Any, result_of: Any) -> None:
    x = np.empty((1 << 40, 0), np.float32)
    for size in (N * N * 4, N * N, -N, N * N * N * N):
        program = doubling(P.Alloc("h", size), shape=(N, M))
        for p in (program, doubling(P.Arena("h", size), shape=(N, M))):
            native, interpreted = toolbox.both(p)
            assert result_of(native, x)[0] == "ResourceLimit"
            assert result_of(native, x) == result_of(interpreted, x)
    native, interpreted = toolbox.both(doubling(P.Let("k", N * N), shape=(N, M)))
    assert result_of(native, x)[0] == result_of(interpreted, x)[0] == "ShapeMismatch"
    native, interpreted = toolbox.both(doubling(), memory_limit=1000)
    x = np.ones((100, 4), np.float32)
    assert result_of(native, x)[0] == result_of(interpreted, x)[0] == "ResourceLimit"


def test_failing_calls_leak_nothing(toolbox: Any) -> None:
    size = 1 << 14
    body = [
        P.Arena("s", size),
        P.Alloc("h", size),
        P.Alloc("g", size),
        P.Release("h"),
        P.Alloc("o", size, "output"),
        P.Call("k_status", (N - 1,)),
    ]
    model = toolbox.model(doubling(*body))
    good, bad, wrong = np.ones((1, 4), np.float32), np.ones((2, 4), np.float32), np.ones((2, 5), np.float32)

    def rounds(count: int) -> None:
        for _ in range(count):
            model(good)
            for x in (bad, wrong, wrong[0], "text"):
                with pytest.raises(ValueError if x is not bad else ExecutionError):
                    model(x)

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    rounds(200)
    before = resident()
    rounds(2500)
    assert resident() - before < 2 << 20


def test_outputs_outlive_their_model(toolbox: Any) -> None:
    import gc

    model = toolbox.model(doubling())
    y = model(np.ones((1000, 4), np.float32))
    del model
    gc.collect()
    assert y.sum() == 8000 and not y.flags.owndata


def test_models_come_and_go(toolbox: Any) -> None:
    import gc

    program = doubling(P.Arena("s", 1 << 20))
    image = toolbox.image(program)
    from hasten.vm.callpath import make_model

    x = np.ones((3, 4), np.float32)
    for _ in range(50):
        model = make_model(program, image, b"", toolbox.runtime)
        assert model(x).sum() == 24
        cycle = [model]
        cycle.append(cycle)  # type: ignore[arg-type]
        del model, cycle
    gc.collect()


def test_no_inputs_and_several_outputs(toolbox: Any) -> None:
    program = P.Program(
        [],
        [P.TensorSpec("a", "int64", (2,), "a"), P.TensorSpec("b", "int64", (), "b")],
        [],
        [
            P.Alloc("a", 16, "output"),
            P.Alloc("b", 8, "output"),
            P.Call("k_put", ("a", 0, 5)),
            P.Call("k_put", ("a", 1, 6)),
            P.Call("k_put", ("b", 0, 7)),
            P.Output(1, "b", ()),
            P.Output(0, "a", (2,)),
        ],
    )
    for model in toolbox.both(program):
        a, b = model()
        assert a.tolist() == [5, 6] and b.shape == () and b == 7
        assert {k: v.tolist() for k, v in model.run({}).items()} == {"a": [5, 6], "b": 7}


def test_constants(toolbox: Any) -> None:
    data = bytes(64) + np.arange(8, dtype=np.float32).tobytes() + bytes(32)
    program = doubling(P.Call("k_double", ("c", "y", 4)))
    program.instructions = [P.Alloc("y", 16, "output"), P.Call("k_double", ("c", "y", 4)), P.Output(0, "y", (1, 4))]
    program.constants = [P.Constant("zero", 0, 64), P.Constant("c", 64, 32)]
    for model in toolbox.both(program, data):
        assert model(np.ones((9, 4), np.float32)).tolist() == [[0, 2, 4, 6]]


def test_binding_of_symbols(toolbox: Any, result_of: Any) -> None:
    program = numbers(1, [], [N, M])
    program.inputs = [P.TensorSpec("p", "float32", (N * 2, N), "p"), P.TensorSpec("q", "int8", (M, 3, N), "q")]
    native, interpreted = toolbox.both(program)
    good = np.zeros((4, 2), np.float32), np.zeros((7, 3, 2), np.int8)
    assert result_of(native, *good) == result_of(interpreted, *good) == [[2, 7]]
    for p, q, text in [
        ((4, 3), (7, 3, 3), "axis 0 must be N*2 = 6, not 4"),
        ((4, 2), (7, 3, 1), r"axis 2 must be N = 2 (from input 'p'), not 1"),
        ((4, 2), (7, 4, 2), "axis 1 must be 3, not 4"),
    ]:
        given = np.zeros(p, np.float32), np.zeros(q, np.int8)
        kind, message = result_of(native, *given)
        assert kind == "ShapeMismatch" and text in message
        assert (kind, message) == result_of(interpreted, *given)


def test_bad_programs_are_refused(toolbox: Any) -> None:
    with pytest.raises(CompileError, match="before anything assigns"):
        toolbox.model(doubling(P.Let("k", D.symbol("nowhere"))))
    with pytest.raises(CompileError, match="nothing gives a value to"):
        toolbox.model(doubling(shape=(N * 2, 4)))


def test_single_assignments() -> None:
    program = doubling(P.Let("a", 1), P.Let("b", 1), P.Let("b", 2), P.If(N, (P.Let("c", 1),), ()))
    assert _single_assignments(program, ["b:x", "i:N"]) == {"b:x", "i:N", "b:y", "i:a"}


def test_a_long_program_compiles_soon(toolbox: Any) -> None:
    import time

    body: list[P.Instruction] = [P.Arena("s", N * 64 + 8192)]
    for n in range(2000):
        body += [P.View(f"v{n}", "s", n % 64 * 8), P.Call("k_put", (f"v{n}", n % 8, N * n + 3))]
    program = doubling(*body)
    start = time.process_time()
    toolbox.image(program)
    assert time.process_time() - start < 20  # about one second alone on a machine
