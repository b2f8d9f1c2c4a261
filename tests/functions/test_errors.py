"""What is outside of the language, or of the wrong type: an error at the line, which says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import hasten
from hasten import Tensor

Row = Tensor((3,))
COUNT = np.arange(3)
Tree = hasten.adt("Tree", Leaf=[Row], Node=["Tree", "Tree"])
Other = hasten.adt("Tree", Leaf=[])
Shape = hasten.adt("Shape", Round=[Row], Square=[Row, int])


def case_unknown_name(x: Row) -> Row:
    return nothing  # noqa: F821 # HERE: the name 'nothing' is not defined


def case_before_assignment(x: Row) -> Row:
    z = y + x  # noqa: F821 # HERE: 'y' has no value yet
    y = x
    return z + y


def case_one_side_only(x: Row, k: int) -> Row:
    if k > 0:
        y = x
    return y  # HERE: only one side of the choice in line


def case_loop_may_have_no_round(x: Row, k: int) -> Row:
    for i in range(k):
        y = x * i
    return y  # HERE: only the loop in line


def case_sides_differ(x: Row, k: int) -> Row:
    if k > 0:  # HERE: 'y' is Tensor((3,), float32) on one side and int on the other
        y = x
    else:
        y = 1
    return y


def case_results_differ(x: Row, k: int) -> Row:
    if k > 0:
        return x
    return x, x  # HERE: the result: expected Tensor((3,), float32), got tuple[Tensor((3,), float32), Tensor((3,), float32)]


def case_ranks_differ(x: Row, k: int) -> Row:
    return x if k > 0 else x[None]  # HERE: both sides must give one type


def case_type_changes_in_loop(x: Row, k: int) -> Row:
    total = 0.0
    for _ in range(k):  # HERE: 'total' is float before the loop and Tensor((3,), float32) after a round
        total = total + x
    return total


def case_result_type(x: Row) -> Tensor((4,)):
    return x  # HERE: the result: axis 0


def case_argument_type(x: Row) -> Row:
    return helper(x, x)  # HERE: argument 'k' of helper: expected int, got Tensor((3,), float32)


def case_argument_count(x: Row) -> Row:
    return helper(x)  # HERE: missing a required argument


def case_sizes_do_not_meet(x: Row) -> Row:
    return x @ np.ones((4, 2), np.float32)  # HERE: MatMul


def case_dtypes(x: Row) -> Row:
    return x + COUNT  # HERE: convert one of them, as x.astype('float32')


def case_condition(x: Row) -> Row:
    return x if x > 0 else -x  # HERE: a condition is a bool of one element, not Tensor((3,), bool)


def case_no_case(t: Tree) -> Row:
    match t:  # HERE: no case takes Tree.Node(_, _)
        case Tree.Leaf(x):
            return x


def case_no_nested_case(t: Tree) -> Row:
    match t:  # HERE: no case takes Tree.Node(_, _)
        case Tree.Leaf(x):
            return x
        case Tree.Node(Tree.Leaf(x), _):
            return x


def case_never_reached(t: Tree) -> Row:
    match t:
        case Tree.Leaf(x):
            return x
        case Tree.Node(_, _):
            return np.zeros(3, np.float32)
        case _:  # HERE: never reached
            return np.ones(3, np.float32)


def case_foreign_variant(t: Tree) -> Row:
    match t:
        case Shape.Round(x):  # HERE: Shape.Round is no variant of Tree
            return x


def case_number_of_fields(t: Tree) -> Row:
    match t:
        case Tree.Node(x):  # HERE: Tree.Node has 2 fields, the pattern has 1
            return x


def case_pattern(t: Tree) -> Row:
    match t:
        case 3:  # HERE: patterns are variants of data types
            return np.zeros(3, np.float32)


def case_match_tensor(x: Row) -> Row:
    match x:  # HERE: match takes a value of a data type
        case Tree.Leaf(y):
            return y


def case_field_type(x: Row) -> Shape:
    return Shape.Square(x, x)  # HERE: field 1 of Shape.Square: expected int, got Tensor((3,), float32)


def case_field_count(x: Row) -> Tree:
    return Tree.Leaf(x, x)  # HERE: Tree.Leaf has 1 fields, 2 are given


def case_family_is_no_variant(x: Row) -> Tree:
    return Tree(x)  # HERE: values are made by variants


def case_fields_by_name(t: Tree) -> Row:
    return t.f0  # HERE: the fields of Tree are read by `match`


def case_recursion_without_types(x: Row, k: int) -> Row:
    return untyped(x, k)


def case_operator_name(x: Row) -> Row:
    return hasten.op.Reluu(x)  # HERE: ONNX has no operator 'Reluu'


def case_attribute_name(x: Row) -> Row:
    return hasten.op.Softmax(x, dim=1)  # HERE: Softmax has no attribute 'dim'; it has axis


def case_attribute_type(x: Row) -> Row:
    return hasten.op.Softmax(x, axis="last")  # HERE: the attribute 'axis' of Softmax takes int


def case_inputs_of_operator(x: Row) -> Row:
    return hasten.op.Sub(x)  # HERE: Sub takes 2 to 2 inputs, 1 are given


def case_operator_without_kernel(x: Row) -> Row:
    return hasten.op.StringNormalizer(x)  # HERE: StringNormalizer


def case_python_function(x: Row) -> Row:
    return re.sub(x, x, x)  # HERE: sub cannot be called here


def case_print(x: Row) -> Row:
    print(x)  # HERE: the result of this expression is not used
    return x


def case_unused_expression(x: Row) -> Row:
    x + 1  # HERE: the result of this expression is not used
    return x


def case_item_assignment(x: Row) -> Row:
    x[0] = 1  # HERE: values do not change
    return x


def case_list_append(x: Row) -> Row:
    y = [x]
    y.append(x)  # HERE: lists do not change: make a longer one, as y = y + [x]
    return y[0]


def case_try(x: Row) -> Row:
    try:  # HERE: try is outside of the language
        return x
    finally:
        pass


def case_with(x: Row) -> Row:
    with x:  # HERE: with is outside of the language
        return x


def case_raise(x: Row) -> Row:
    raise ValueError  # HERE: raise is outside of the language


def case_dict(x: Row) -> Row:
    y = {"a": x}  # HERE: a dict is outside of the language
    return y["a"]


def case_text(x: Row) -> Row:
    y = f"{x}"  # HERE: an f-string is outside of the language
    return y


def case_return_in_loop(x: Row, k: int) -> Row:
    for i in range(k):
        if i > 3:
            return x  # HERE: return inside of a loop
    return x


def case_loop_else(x: Row, k: int) -> Row:
    for _ in range(k):
        x = x * 2
    else:
        x = x + 1  # HERE: else behind a loop
    return x


def case_captured_and_assigned(x: Row) -> Row:
    f = lambda y: y + x  # noqa: E731  # HERE: 'x' is captured here and assigned again in line
    x = x * 2
    return f(x)


def case_unpacking(x: Row) -> Row:
    a, b = x, x, x  # HERE: expected a tuple of 2 values, got tuple
    return a + b


def case_attribute(x: Row) -> Row:
    return x.real  # HERE: tensors have no 'real' here


def case_module_attribute(x: Row) -> Row:
    return np.there_is_no_such_thing(x)  # HERE: has no attribute 'there_is_no_such_thing'


def case_index(x: Row) -> Row:
    return x[0, 1]  # HERE: 2 indices for Tensor((3,), float32)


def case_tuple_index(x: Row, k: int) -> Row:
    return (x, -x)[k]  # HERE: indexed by what is known when the function is compiled, not by int


def case_annotation(x: Row) -> np.ndarray:  # HERE: is no type of the language
    return x


def case_returns_function(x: Row):
    return lambda y: y  # HERE: gives tensors, numbers and values of data types, not a function


def case_returns_nothing(x: Row):  # HERE: not nothing
    pass


def case_closure_that_grows(x: Row, k: int) -> Row:
    return growing(lambda y: y, x, k)


def case_two_types_of_one_name(t: Tree) -> tuple[Tree, Other]:  # HERE: two data types are named 'Tree'
    return t, Other.Leaf()


def case_functions_differ(x: Row, k: int) -> Row:
    f = (lambda y: y) if k > 0 else (lambda y: y * 2)  # HERE: for functions say it, as f: Callable
    return f(x)


def case_closure_arguments(x: Row) -> Row:
    f: Callable[[Row, int], Row] = lambda y: y  # noqa: E731 # HERE: <lambda> takes 1 arguments, expected is Callable
    return f(x, 1)


def case_closure_call(x: Row) -> Row:
    f: Callable[[Row], Row] = lambda y: y  # noqa: E731
    return f(x, x)  # HERE: takes 1 arguments by position, got 2


def case_function_as_input(f: Callable[[Row], Row], x: Row) -> Row:  # HERE: functions cannot go into a model
    return f(x)


@hasten.function
def helper(x: Row, k: int) -> Row:
    return x * k


@hasten.function
def untyped(x, k):  # HERE-untyped: untyped calls itself: say the type of its result
    return x if k == 0 else untyped(x, k - 1)


@hasten.function
def growing(f: Callable, x: Row, k: int) -> Row:
    if k == 0:
        return f(x)
    return growing(lambda y: f(y) + 1, x, k - 1)  # HERE-growing: what calls itself through a parameter cannot be compiled


CASES = {name.removeprefix("case_"): f for name, f in list(globals().items()) if name.startswith("case_")}
ELSEWHERE = {"recursion_without_types": "HERE-untyped", "closure_that_grows": "HERE-growing"}


@pytest.mark.parametrize("name", CASES)
def test_error_at_the_line(name: str) -> None:
    function = hasten.function(CASES[name])
    mark = ELSEWHERE.get(name, "HERE")
    with open(__file__) as file:
        lines = file.readlines()
    first = function.source.first if mark == "HERE" else 1
    number = next(k for k in range(first, len(lines) + 1) if f"# {mark}: " in lines[k - 1])
    text = lines[number - 1].rstrip()
    with pytest.raises(hasten.SourceError) as caught:
        hasten.compile(function)
    message = str(caught.value)
    place, shown, marks, *calls = message.splitlines()
    assert bool(calls) == (name == "closure_that_grows") and all(c.startswith(f"  called in {__file__}:") for c in calls)
    assert place.startswith(f"{__file__}:{number} in "), message
    assert shown.strip() == text.strip()
    assert text.split(f"# {mark}: ")[1] in place, message
    column = marks.index("^")
    assert marks.strip("^ ") == "" and not shown[column].isspace()


def test_parameters_need_types() -> None:
    @hasten.function
    def f(x):
        return x

    with pytest.raises(hasten.SourceError, match="the parameter 'x' of a function that is compiled needs a type"):
        hasten.compile(f)


def test_functions_only() -> None:
    with pytest.raises(hasten.SourceError, match="takes a function made by `def`"):
        hasten.function(lambda x: x)
    with pytest.raises(hasten.SourceError, match="takes a function made by `def`"):
        hasten.function(np.tanh)


def test_functions_are_not_run_by_python() -> None:
    with pytest.raises(hasten.InputError, match="compile it, as model = hasten.compile"):
        helper(np.ones(3), 1)


def test_operators_are_not_for_python() -> None:
    with pytest.raises(hasten.InputError, match="inside of a @hasten.function only"):
        hasten.op.Relu(np.ones(3))


@pytest.mark.parametrize("make", [
    lambda: hasten.adt("Empty"), lambda: hasten.adt("A", X=[str]), lambda: hasten.adt("A", X=["B"]), lambda: Tensor((-1,)), lambda: Tensor((1.5,)),
    lambda: Tensor((3,), "float31"),
])  # fmt: skip
def test_types_that_are_none(make: Callable[[], object]) -> None:
    with pytest.raises(hasten.TypeMismatch):
        make()


def test_values_are_made_by_variants() -> None:
    with pytest.raises(hasten.InputError, match="make one of Tree.Leaf, Tree.Node"):
        Tree(np.ones(3))
    with pytest.raises(hasten.InputError, match="Tree.Leaf has 1 fields, 2 were given"):
        Tree.Leaf(1, 2)
