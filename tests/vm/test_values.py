"""Values of data types between Python and Programs: both drivers, exact conversions, named errors."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hasten.base.dtypes import to_numpy
from hasten.base.errors import InputError, ShapeMismatch, TypeMismatch, UnsupportedOperator
from hasten.base.types import Data, Tensor, adt, listing
from hasten.lower.ownership import place
from hasten.vm import file
from hasten.vm import program as P
from hasten.vm.callpath import Model
from hasten.vm.text import from_text, to_text
from hasten.vm.values import describe, families

Tree = adt("Tree", Leaf=[Tensor((1, 2))], Node=["Tree", "Tree"])
Mixed = adt("Mixed", Nil=[], One=[Tensor(("n", 3, "m"), "int16"), float, Tensor(("m",), "bool"), "Mixed", int, bool, lambda: Other], Two=[lambda: Other])
Other = adt("Other", Some=[Mixed, Tensor((), "bfloat16")], End=[])


def copying(family: type[Data]) -> P.Program:
    """Gives its input back."""
    return P.Program([P.ValueSpec("v", family.__name__, "v")], [P.ValueSpec("w", family.__name__, "v")], types=describe(family))


MIRROR = """program 2
input "t" value "Tree" &t
output "m" value "Tree" &m
code
  invoke mirror (&t) -> (&m)
function mirror (&t)
  tag k = &t
  if k
    &l = field 0 of &t
    &r = field 1 of &t
    invoke mirror (&l) -> (&l)
    invoke mirror (&r) -> (&r)
    &t = pack 1 (&r, &l)
    return (&t)
  %x = field 0 of &t
  %y = alloc heap 8
  call k_double (%x, %y, 2)
  &t = pack 0 (%y)
  return (&t)
"""


def mirroring() -> P.Program:
    program = from_text(MIRROR)
    program.types = describe(Tree)
    place(program)
    assert from_text(to_text(program)) == program
    return program


def leaf(*x: float) -> Data:
    return Tree.Leaf(np.array([x], np.float32))


def same(a: Any, b: Any) -> bool:
    """Without recursion."""
    work = [(a, b)]
    while work:
        a, b = work.pop()
        if isinstance(a, Data):
            if type(a).__qualname__ != type(b).__qualname__ or len(a) != len(b):
                return False
            work += zip(a, b, strict=True)
        elif isinstance(a, np.ndarray):
            if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
                return False
        elif isinstance(a, list):
            if not isinstance(b, (list, tuple)) or len(a) != len(b):
                return False
            work += zip(a, b, strict=True)
        elif type(a) is not type(b) or not (a == b or a != a):
            return False
    return True


def both(toolbox: Any, program: P.Program) -> tuple[Model, Model]:
    models: tuple[Model, Model] = toolbox.both(program)
    return models


def results(models: tuple[Model, Model], *values: Any) -> Any:
    """What both give."""
    native, interpreted = (model(*values) for model in models)
    assert same(native, interpreted) and [model.unreleased for model in models] == [0, 0]
    return native


def test_trees(toolbox: Any) -> None:
    models = both(toolbox, mirroring())
    tree = Tree.Node(Tree.Node(leaf(1, 2), leaf(3, 4)), leaf(5, 6))
    found = results(models, tree)
    assert same(found, Tree.Node(leaf(10, 12), Tree.Node(leaf(6, 8), leaf(2, 4))))
    assert type(found) is Tree.Node and type(found[0]) is Tree.Leaf
    assert same(models[0].run({"t": tree})["m"], found)


def test_deep_trees(toolbox: Any) -> None:
    models = both(toolbox, mirroring())
    right, left = leaf(1, 1), leaf(2, 2)
    for k in range(10_000):
        right, left = Tree.Node(leaf(k, 0), right), Tree.Node(left, leaf(2 * k, 0))
    found = results(models, right)
    assert type(models[0](left)[1]) is Tree.Node
    depth = 0
    while type(found) is Tree.Node:
        found, depth = found[0], depth + 1
    assert depth == 10_000


# --- random values ----------------------------------------------------------------------------------------------------
def arrays(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray[Any, Any]:
    return rng.integers(0, 2, shape).astype(bool) if dtype == "bool" else (rng.normal(size=shape) * 100).astype(to_numpy(dtype))


def mixed(rng: np.random.Generator, size: int) -> Data:
    if size <= 0 or rng.random() < 0.1:
        return Mixed.Nil()
    if rng.random() < 0.2:
        return Mixed.Two(other(rng, size - 1))
    n, m = rng.integers(0, 4, 2)
    number = int(rng.integers(-(2**63), 2**63 - 1))
    real = float(rng.choice([rng.normal(), np.inf, np.nan, -0.0, 5e-324]))
    rest = mixed(rng, size // 2), other(rng, size // 2)
    return Mixed.One(arrays(rng, "int16", n, 3, m), real, arrays(rng, "bool", m), rest[0], number, bool(rng.integers(2)), rest[1])


def other(rng: np.random.Generator, size: int) -> Data:
    return Other.Some(mixed(rng, size - 1), arrays(rng, "bfloat16")) if size > 0 else Other.End()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), size=st.integers(0, 60))
def test_random_values_come_back(toolbox: Any, copies: tuple[Model, Model], seed: int, size: int) -> None:
    value = mixed(np.random.default_rng(seed), size)
    found = results(copies, value)
    assert same(found, value)


@pytest.fixture(scope="module")
def copies(toolbox: Any) -> tuple[Model, Model]:
    return both(toolbox, copying(Mixed))


def test_results_own_their_memory(toolbox: Any) -> None:
    model = toolbox.model(copying(Tree))
    x = np.ones((1, 2), np.float32)
    found = model(Tree.Leaf(x))
    x[:] = 7
    del model
    gc.collect()
    assert found[0].tolist() == [[1, 1]] and found[0].flags.writeable and found[0].ctypes.data % 64 == 0


def test_fields_are_converted_as_inputs_are(toolbox: Any) -> None:
    models = both(toolbox, copying(Tree))
    wide = np.arange(8, dtype=np.float32).reshape(2, 4)
    for x in ([[1, 2]], np.array([[1, 2]], ">f4"), wide.T[1:2, ::-1], wide[:1, ::2], memoryview(wide[:1, :2])):
        found = results(models, Tree.Node(Tree.Leaf(x), leaf(0, 0)))
        assert found[0][0].tolist() == np.asarray(x).tolist()
    numbers = adt("Numbers", N=[int, float, bool])
    models = both(toolbox, copying(numbers))
    found = results(models, numbers.N(5, 3, np.bool_(True)))
    assert tuple(found) == (5, 3.0, True) and [type(x) for x in found] == [int, float, bool]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (5, TypeMismatch, r"input 'v': 5 \(int\) cannot be used, the model takes a Tree \(Tree.Leaf, Tree.Node\)"),
        (Tree.Node(leaf(1, 2), None), TypeMismatch, "input 'v', field 1 of Tree.Node: NoneType cannot be used"),
        (Tree.Leaf("text"), TypeMismatch, "input 'v', field 0 of Tree.Leaf: 'text' .* the model takes float32"),
        (Tree.Leaf(np.zeros((1, 2))), TypeMismatch, r"field 0 of Tree.Leaf: float64 ndarray of shape \(1, 2\) .* the model takes float32"),
        (Tree.Leaf(np.zeros(2, np.float32)), ShapeMismatch, r"field 0 of Tree.Leaf: shape \(2,\) has 1 axes"),
        (Tree.Node(leaf(1, 2, 3), leaf(1, 2)), ShapeMismatch, r"field 0 of Tree.Node, field 0 of Tree.Leaf: .* axis 1 must be 2, not 3"),
        (tuple.__new__(Tree.Node, [leaf(1, 2)]), TypeMismatch, "a Tree.Node has 2 fields, this one 1"),
        (Other.End(), TypeMismatch, "input 'v': Other.End cannot be used"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(toolbox: Any, value: Any, error: type, text: str) -> None:
    for model in both(toolbox, copying(Tree)):
        with pytest.raises(error, match=text):
            model(value)
        assert same(model(leaf(1, 2)), leaf(1, 2)) and model.unreleased == 0


def test_wrong_numbers_and_sizes_are_named(toolbox: Any) -> None:
    numbers = adt("Numbers", N=[int, Tensor(("n", "n"), "int8")])
    good = np.zeros((2, 2), np.int8)
    for model in both(toolbox, copying(numbers)):
        with pytest.raises(TypeMismatch, match="field 0 of Numbers.N"):
            model(numbers.N(1.5, good))
        with pytest.raises(TypeMismatch, match="field 0 of Numbers.N"):
            model(numbers.N(1 << 63, good))
        with pytest.raises(ShapeMismatch, match=r"field 1 of Numbers.N: .* axis 1 must be n = 2, not 3"):
            model(numbers.N(1, np.zeros((2, 3), np.int8)))
        with pytest.raises(InputError, match="2 inputs were given"):
            model(1, 2)
        assert model(numbers.N(-(1 << 63), good))[0] == -(1 << 63)


# --- classes ------------------------------------------------------------------------------------------------------------
def test_classes_of_the_same_structure(toolbox: Any) -> None:
    """A model has classes of its own until the user's come in; other classes of the same structure are taken as well, those of another are not."""
    model = toolbox.model(copying(Tree))
    again = adt("Tree", Leaf=[Tensor((1, 2))], Node=["Tree", "Tree"])
    wrong = adt("Tree", Leaf=[Tensor((1, 3))], Node=["Tree", "Tree"])
    x = np.ones((1, 2), np.float32)
    assert type(model(Tree.Leaf(x))) is Tree.Leaf
    found = model(again.Node(again.Leaf(x), Tree.Leaf(x)))
    assert type(found) is Tree.Node and type(found[0]) is Tree.Leaf
    with pytest.raises(TypeMismatch, match="of another structure"):
        model(wrong.Leaf(x))
    assert type(toolbox.model(copying(Tree))(again.Leaf(x))) is again.Leaf


def test_descriptions_make_the_same_classes() -> None:
    for family in (Tree, Mixed, Other, Items, Forest):
        made = families(describe(family))
        assert describe(made[family.__name__]) == describe(family)


def test_models_of_values_are_saved(toolbox: Any, tmp_path: Any) -> None:
    program = mirroring()
    path = tmp_path / "mirror.hasten"
    path.write_bytes(file.to_bytes(program, toolbox.image(program), toolbox.runtime, b"", toolbox.isa, 1, {}))
    saved = file.read(path)
    assert saved.program == program
    model = saved.model()
    assert same(model(Tree.Node(leaf(1, 2), leaf(3, 4))), Tree.Node(leaf(6, 8), leaf(2, 4)))


def test_shared_libraries_refuse_values() -> None:
    from hasten.deploy import tables

    with pytest.raises(UnsupportedOperator, match="input 'v' is a value of the data type Tree"):
        tables.check_program(copying(Tree))


# --- lists --------------------------------------------------------------------------------------------------------------
Items = listing(Tensor(("n",), "float64"))
Forest = adt("Forest", Of=[list[Tree], list[int], list[list[bool]]])


def test_lists(toolbox: Any) -> None:
    models = both(toolbox, copying(Items))
    given = [np.arange(n, dtype=np.float64) for n in (3, 0, 2)]
    for value in (given, tuple(given), [], [given[0]] * 5000):
        found = results(models, value)
        assert type(found) is list and len(found) == len(value)
        assert all(same(a, b) for a, b in zip(found, value, strict=True))
    converted = results(models, [[1, 2], given[0][::-1], np.float64(1) * given[2]])
    assert [x.tolist() for x in converted] == [[1, 2], [2, 1, 0], [0, 1]]
    for model in models:
        with pytest.raises(TypeMismatch, match=r"input 'v': 5 \(int\) cannot be used, the model takes a list"):
            model(5)
        with pytest.raises(TypeMismatch, match="input 'v', item 1: 'x' .* the model takes float64"):
            model([given[0], "x"])
        assert model([]) == [] and model.unreleased == 0


def test_lists_in_values(toolbox: Any) -> None:
    models = both(toolbox, copying(Forest))
    value = Forest.Of([leaf(1, 2), Tree.Node(leaf(3, 4), leaf(5, 6))], list(range(-3, 300)), [[True], [], [False, True]])
    found = results(models, value)
    assert type(found) is Forest.Of and found[1] == value[1] and found[2] == value[2]
    assert all(same(a, b) for a, b in zip(found[0], value[0], strict=True))
    for model in models:
        with pytest.raises(TypeMismatch, match="input 'v', field 2 of Forest.Of, item 1: 7 .* list"):
            model(Forest.Of([], [], [[], 7]))
        with pytest.raises(TypeMismatch, match="input 'v', field 0 of Forest.Of, item 0: list of 0 cannot be used, the model takes a Tree"):
            model(Forest.Of([[]], [], []))


def test_a_list_that_holds_itself(toolbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hasten.vm.native.values._MOST", 1000)
    nested = adt("Nested", Of=[lambda: listing(nested)])
    again: list[Any] = []
    again.append(nested.Of(again))
    for model in both(toolbox, copying(nested)):
        with pytest.raises(InputError, match="input 'v', field 0 of Nested.Of.*: a list that holds itself"):
            model(nested.Of(again))
        shared = [nested.Of([])]
        assert model(nested.Of([nested.Of(shared), nested.Of(shared)])) == nested.Of([nested.Of([nested.Of([])])] * 2)


def test_a_list_may_be_changed_while_a_model_runs(toolbox: Any) -> None:
    """Another thread empties the list: what was in it stays alive until the run ends."""
    text = """program 2
input "go" float32 (1) %go
input "v" value "list[...]" &v
output "w" value "list[...]" &v
code
  %t = alloc heap 4
  call k_wait (%go, %t) work 1000000
"""
    program = from_text(text.replace("list[...]", Items.__name__))
    program.types = describe(Items)
    place(program)
    model = toolbox.model(program)
    given = [np.full(100_000, n, np.float64) for n in range(5)]
    go, found = np.zeros(1, np.float32), []
    thread = threading.Thread(target=lambda: found.append(model(go, given)))
    thread.start()
    while model.unreleased == 0 and sys.getrefcount(given[-1]) < 3:
        pass
    given.clear()
    gc.collect()
    go[0] = 1
    thread.join()
    assert [x.mean() for x in found[0]] == [0, 1, 2, 3, 4]


# --- leaks and threads --------------------------------------------------------------------------------------------------
def test_references_of_python_are_kept_right(toolbox: Any) -> None:
    model = toolbox.model(mirroring())
    x = np.ones((1, 2), np.float32)
    tree = Tree.Node(Tree.Leaf(x), Tree.Leaf(x))
    model(tree)
    gc.collect()
    before = [sys.getrefcount(o) for o in (x, tree, Tree.Node, Tree.Leaf, x.dtype)]
    for _ in range(100):
        model(tree)
        with pytest.raises(TypeMismatch):
            model(Tree.Node(tree, 3))
    gc.collect()
    after = [sys.getrefcount(o) for o in (x, tree, Tree.Node, Tree.Leaf, x.dtype)]
    assert all(a - b <= 1 for a, b in zip(after, before, strict=True))


def test_one_model_in_many_threads(toolbox: Any) -> None:
    model = toolbox.model(mirroring())
    wrong: list[int] = []

    def work(seed: int) -> None:
        for k in range(100):
            tree = leaf(seed, k)
            for n in range(k % 9):
                tree = Tree.Node(leaf(n, n), tree)
            if not same(model(tree), _mirror(tree)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def _mirror(tree: Any) -> Data:
    return Tree.Leaf(tree[0] * 2) if type(tree) is Tree.Leaf else Tree.Node(_mirror(tree[1]), _mirror(tree[0]))
