"""Expressions without calls and operators: names, constants, displays, attributes, choices, lambdas, comprehensions."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from hasten.base import dtypes
from hasten.functions import lists
from hasten.functions import values as v
from hasten.functions.branches import choose
from hasten.functions.operators import condition, size
from hasten.functions.scope import Scope, Unset, expression
from hasten.functions.source import stored_names
from hasten.lower.trace import Tensor


@expression(ast.Constant)
def _constant(scope: Scope, node: ast.Constant) -> Any:
    if isinstance(node.value, (complex, bytes)):
        raise scope.error(node, f"{type(node.value).__name__} is outside of the language")
    return node.value


@expression(ast.Name)
def _name(scope: Scope, node: ast.Name) -> Any:
    found = scope.names.get(node.id)
    if isinstance(found, Unset):
        raise scope.error(node, f"{node.id!r} may have no value here: {found.why}")
    if node.id in scope.names:
        return found
    if node.id in scope.stored:
        raise scope.error(node, f"{node.id!r} has no value yet: it is assigned further down only")
    try:
        return scope.namespace.find(node.id)
    except KeyError:
        raise scope.error(node, f"the name {node.id!r} is not defined") from None


@expression(ast.Tuple)
def _tuple(scope: Scope, node: ast.Tuple) -> Any:
    return tuple(_items(scope, node.elts))


@expression(ast.List)
def _list(scope: Scope, node: ast.List) -> Any:
    return _items(scope, node.elts)


def _items(scope: Scope, nodes: list[ast.expr]) -> list[Any]:
    made: list[Any] = []
    for e in nodes:
        if not isinstance(e, ast.Starred):
            made.append(scope.evaluate(e))
            continue
        inner = scope.evaluate(e.value)
        if not isinstance(inner, (tuple, list)):
            raise scope.error(e, f"* takes a tuple or list of known length, not {v.describe(inner)}")
        made.extend(inner)
    return made


TENSOR_ATTRIBUTES: dict[str, Callable[[Scope, ast.AST, Tensor], Any]] = {
    "shape": lambda scope, at, x: tuple(size(scope, d) for d in x.shape),
    "ndim": lambda scope, at, x: x.rank,
    "size": lambda scope, at, x: size(scope, x.size),
    "dtype": lambda scope, at, x: dtypes.to_numpy(x.dtype),
    "T": lambda scope, at, x: scope.apply(at, "Transpose", [x]) if x.rank > 1 else x,
}


@expression(ast.Attribute)
def _attribute(scope: Scope, node: ast.Attribute) -> Any:
    base = scope.evaluate(node.value)
    if isinstance(base, Tensor):
        from hasten.functions.calls import METHODS, Method

        if node.attr in METHODS:
            return Method(base, node.attr)
        if node.attr not in TENSOR_ATTRIBUTES:
            known = ", ".join([*TENSOR_ATTRIBUTES, *METHODS])
            raise scope.error(node, f"tensors have no {node.attr!r} here; there are {known}, and hasten.op for every operator of ONNX")
        return TENSOR_ATTRIBUTES[node.attr](scope, node, base)
    if isinstance(base, v.Scalar):
        raise scope.error(node, f"an {base.kind} has no {node.attr!r} here")
    if isinstance(base, v.Datum):
        raise scope.error(node, f"the fields of {v.describe(base)} are read by `match`")
    try:
        return getattr(base, node.attr)
    except AttributeError:
        raise scope.error(node, f"{v.describe(base)} has no attribute {node.attr!r}") from None


@expression(ast.IfExp)
def _choice(scope: Scope, node: ast.IfExp) -> Any:
    test = condition(scope, node.test, scope.evaluate(node.test))
    return choose(scope, node, test, lambda: scope.evaluate(node.body), lambda: scope.evaluate(node.orelse))


@expression(ast.BoolOp)
def _both(scope: Scope, node: ast.BoolOp) -> Any:
    """`and`, `or`: what stands right is computed where it is needed only, as it may fail."""
    first, *rest = node.values
    test = condition(scope, first, scope.evaluate(first))
    if not rest:
        return test if isinstance(test, bool) else v.Scalar("bool", _flat(scope, test))
    more = ast.copy_location(ast.BoolOp(node.op, rest), rest[0])
    if isinstance(test, bool):
        return scope.evaluate(more) if test is isinstance(node.op, ast.And) else test
    if all(_harmless(e) for e in rest):
        found = scope.evaluate(more)
        right = scope.as_tensor(node, found)
        return v.Scalar("bool", scope.apply(node, "And" if isinstance(node.op, ast.And) else "Or", [_flat(scope, test), right]))
    if isinstance(node.op, ast.And):
        return choose(scope, node, test, lambda: scope.evaluate(more), lambda: False)
    return choose(scope, node, test, lambda: True, lambda: scope.evaluate(more))


def _flat(scope: Scope, t: Tensor) -> Tensor:
    return t if not t.rank else scope.cx.reshape(t, ())


def _harmless(node: ast.expr) -> bool:
    """Whether an expression computes little and cannot fail."""
    kinds = (ast.Name, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.operator, ast.cmpop, ast.boolop, ast.unaryop, ast.expr_context)
    return all(isinstance(n, kinds) and not isinstance(n, (ast.Div, ast.FloorDiv, ast.Mod, ast.MatMult)) for n in ast.walk(node))


@expression(ast.Lambda)
def _lambda(scope: Scope, node: ast.Lambda) -> Any:
    return closure(scope, node, "<lambda>")


def closure(scope: Scope, node: ast.FunctionDef | ast.Lambda, name: str) -> v.Closure:
    """A nested function with the values that its free names have now. A name that is assigned again later would mean another value in Python."""
    body: list[ast.stmt] = node.body if isinstance(node.body, list) else [ast.Expr(node.body)]
    arguments = node.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.defaults:
        raise scope.error(node, "functions inside of functions take positional arguments without defaults")
    own = {a.arg for a in (*arguments.posonlyargs, *arguments.args)} | stored_names(body)
    read = {n.id for s in body for n in ast.walk(s) if isinstance(n, ast.Name)} - own
    captured = {n: scope.names[n] for n in sorted(read) if n in scope.names and not isinstance(scope.names[n], Unset)}
    for n in captured:
        again = _assigned_later(scope, node, n)
        if again is not None and n != name:
            raise scope.error(node, f"{n!r} is captured here and assigned again in line {scope.source.line(again)}; capture a name that stays")
    return v.Closure(node, scope.source, captured, scope.namespace, name)


def _assigned_later(scope: Scope, node: ast.AST, name: str) -> ast.AST | None:
    """Where a name is assigned after a point in the text, or in a loop around it."""
    loops = [n for loop in scope.loops for n in ast.walk(loop)]
    for n in ast.walk(scope.source.tree):
        stores = isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store)
        if stores and (n.lineno > getattr(node, "end_lineno", 0) or n in loops):  # type: ignore[attr-defined]
            return n
    return None


@expression(ast.ListComp)
def _comprehension(scope: Scope, node: ast.ListComp) -> Any:
    from hasten.functions.loops import is_range, over_known

    source = scope.evaluate(node.generators[0].iter) if len(node.generators) == 1 and not is_range(scope, node.generators[0].iter) else None
    if lists.is_list(source):
        return _of_list(scope, node, source)
    made: list[Any] = []
    saved = dict(scope.names)

    def level(k: int) -> None:
        if k == len(node.generators):
            made.append(scope.evaluate(node.elt))
            return
        generator = node.generators[k]
        for item in over_known(scope, generator.iter):
            scope.bind(generator.target, item)
            tests = [condition(scope, e, scope.evaluate(e)) for e in generator.ifs]
            if not all(isinstance(t, bool) for t in tests):
                raise scope.error(generator.ifs[0], "the filter of a comprehension must be known when the function is compiled")
            if all(tests):
                level(k + 1)

    level(0)
    scope.names = saved
    return made


def _of_list(scope: Scope, node: ast.ListComp, source: Any) -> Any:
    """A comprehension over a list whose length the run knows."""
    generator = node.generators[0]

    def element(item: Any) -> tuple[bool | Tensor, Any]:
        saved = dict(scope.names)
        scope.bind(generator.target, item)
        tests = [ast.copy_location(ast.BoolOp(ast.And(), generator.ifs), node)] if generator.ifs else []
        test = condition(scope, node, scope.evaluate(tests[0])) if tests else True
        value = scope.evaluate(node.elt)
        scope.names = saved
        return test, value

    return lists.made(scope, node, source, element)
