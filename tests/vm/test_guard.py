"""Guard pages find what kernels do outside of their buffers."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

from hasten.base import dims as D
from hasten.base.errors import CompileError, InputError
from hasten.base.types import Tensor, adt
from hasten.vm import program as P
from hasten.vm.guard import Guarded, GuardedModel
from hasten.vm.values import describe

N = D.symbol("N")
SIDES = ("after", "before")


def doubling(count: D.DimLike, source: str = "x") -> P.Program:
    """y = 2 * x, of `count` elements where there are N; the constant w and the temporary t are as long."""
    return P.Program(
        [P.TensorSpec("x", "float32", (N,), "x")],
        [P.TensorSpec("y", "float32", (N,), "y")],
        [P.Constant("w", 0, 12)],
        [P.Alloc("y", N * 4, "output"), P.Alloc("t", N * 4), P.Call("k_double", ("x", "t", N)), P.Call("k_double", (source, "y", count)), P.Output(0, "y", (N,))],
    )  # fmt: skip


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HASTEN_GUARD", request.param)
    return str(request.param)


def ended(model: Any, x: Any) -> int:
    """The signal that ends a process which runs the model; 0 for none."""
    child = os.fork()
    if child == 0:
        import faulthandler

        faulthandler.disable()
        try:
            model(x)
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def test_what_is_right_runs(toolbox: Any, side: str) -> None:
    x = np.array([1, 2, 3], np.float32)
    for source, want in (("x", [2, 4, 6]), ("t", [4, 8, 12]), ("w", [0, 2, 4])):
        model = toolbox.model(doubling(N, source), np.arange(16, dtype=np.float32).tobytes(), threads=1)
        assert isinstance(model, GuardedModel) and model(x).tolist() == want


@pytest.mark.parametrize("source", ["x", "t", "w"])
def test_reading_and_writing_outside(toolbox: Any, side: str, source: str) -> None:
    x = np.array([1, 2, 3], np.float32)
    model = toolbox.model(doubling(N + 1, source), bytes(64), threads=1)
    if side == "after":
        assert ended(model, x) == signal.SIGSEGV
    else:  # one element behind the output lies in the rest of its page
        with pytest.raises(CompileError, match="k_double wrote outside of buffer 'y'"):
            model(x)


def test_the_other_side(toolbox: Any, side: str) -> None:
    program = doubling(N)
    program.instructions[3:4] = [P.View("v", "t", -8), P.Call("k_put", ("v", 0, 7)), P.Call("k_double", ("x", "y", N))]
    model = toolbox.model(program, bytes(64), threads=1)
    if side == "before":
        assert ended(model, np.ones(3, np.float32)) == signal.SIGSEGV
    else:
        with pytest.raises(CompileError, match="k_put wrote outside of buffer 'v'"):
            model(np.ones(3, np.float32))


def test_tensors_of_values(toolbox: Any, side: str) -> None:
    """t is a Leaf(float32 (n,)); y, of three elements, is twice its first ones."""
    tree = adt("Tree", Leaf=[Tensor(("n",))])
    body = [P.Field("f", "t", 0), P.Alloc("y", 12, "output"), P.Call("k_double", ("f", "y", 3)), P.Release(P.Value("t")), P.Output(0, "y", (3,))]
    program = P.Program([P.ValueSpec("t", "Tree", "t")], [P.TensorSpec("y", "float32", (3,), "y")], [], body, types=describe(tree))  # type: ignore[arg-type]
    model = toolbox.model(program, threads=1)
    assert model(tree.Leaf(np.ones(3, np.float32))).tolist() == [2, 2, 2]
    assert ended(model, tree.Leaf(np.ones(2, np.float32))) == (signal.SIGSEGV if side == "after" else 0)


@pytest.mark.parametrize("size", [0, 1, 64, 4095, 4096, 4097])
def test_places(size: int) -> None:
    for where in SIDES:
        made = Guarded(size, where)
        edge = made.address + size if where == "after" else made.address
        assert edge % 4096 == 0 and made.rest.size == -size % 4096 and made.intact()


def test_another_side_is_refused(toolbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTEN_GUARD", "around")
    with pytest.raises(InputError, match="'around' is neither 'after' nor 'before'"):
        toolbox.model(doubling(N), bytes(64))
