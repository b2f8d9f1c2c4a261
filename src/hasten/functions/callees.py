"""What can be called and read: `hasten.function`s and closures, seen alike."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hasten.functions import values as v
from hasten.functions.function import Function
from hasten.functions.scope import Namespace, Scope
from hasten.functions.source import Source, stored_names
from hasten.functions.types import parse_type
from hasten.lower.trace import Context

if TYPE_CHECKING:
    from hasten.functions.instances import World


@dataclass(frozen=True, eq=False)
class Callee:
    """A function that is called: its tree and text, the names around it, and what it has captured. `value`: the Function or Closure."""

    value: Function | v.Closure
    tree: ast.FunctionDef | ast.Lambda
    source: Source
    namespace: Namespace
    name: str
    captured: dict[str, Any]

    @property
    def parameters(self) -> list[ast.arg]:
        return [*self.tree.args.posonlyargs, *self.tree.args.args]

    def scope(self, world: World, cx: Context) -> Scope:
        """A scope for reading its body: what it has captured, and no arguments yet."""
        body = self.tree.body if isinstance(self.tree.body, list) else []
        stored = stored_names(body) | {a.arg for a in self.parameters}
        return Scope(world, cx, self.source, self.namespace, dict(self.captured), stored)

    def types(self, inner: Scope) -> dict[str, Any]:
        """Types of the parameters by name; None where nothing is said."""
        found: dict[str, Any] = {}
        for a in self.parameters:
            if isinstance(self.value, Function):
                annotation = self.value.signature.parameters[a.arg].annotation
                annotation = None if annotation is self.value.signature.empty else annotation
            else:
                annotation = None if a.annotation is None else inner.evaluate(a.annotation)
            found[a.arg] = parse_type(inner, a, annotation)
        return found

    def result_type(self, inner: Scope) -> Any:
        """The type of the result, None where nothing is said."""
        if isinstance(self.tree, ast.Lambda) or self.tree.returns is None:
            return None
        annotation = self.value.signature.return_annotation if isinstance(self.value, Function) else inner.evaluate(self.tree.returns)
        return parse_type(inner, self.tree.returns, annotation)

    def bind(self, scope: Scope, at: ast.AST, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by the names of parameters. Raises SourceError."""
        names = [a.arg for a in self.parameters]
        if isinstance(self.value, Function):
            if self.tree.args.vararg or self.tree.args.kwarg:
                raise self.source.error(self.tree, "*args and **kwargs are outside of the language")
            try:
                bound = self.value.signature.bind(*args, **kwargs)
            except TypeError as error:
                raise scope.error(at, f"{self.name}: {error}") from None
            bound.apply_defaults()
            return dict(bound.arguments)
        if kwargs or len(args) != len(names):
            raise scope.error(at, f"{self.name} takes {len(names)} arguments by position, got {len(args) + len(kwargs)}")
        return dict(zip(names, args, strict=True))

    def calls_itself(self) -> bool:
        """Whether it calls itself, for a Function also through others that it names."""
        if isinstance(self.value, Function):
            return self.value in _reached(self.value)
        return isinstance(self.tree, ast.FunctionDef) and any(isinstance(n, ast.Name) and n.id == self.name for s in self.tree.body for n in ast.walk(s))


def callee(value: Function | v.Closure) -> Callee:
    """A function or closure as something to be called."""
    if isinstance(value, v.Closure):
        own = {value.name: value} if isinstance(value.tree, ast.FunctionDef) else {}
        return Callee(value, value.tree, value.source, value.home, value.name, value.captured | own)
    return Callee(value, value.source.tree, value.source, value.namespace, value.source.tree.name, {})


def _reached(function: Function) -> set[Function]:
    """Functions that a function may call by name, itself only where something calls it."""
    found: set[Function] = set()
    stack = [function]
    while stack:
        f = stack.pop()
        for node in ast.walk(f.source.tree):
            target = _constant(f, node)
            if isinstance(target, Function) and target not in found:
                found.add(target)
                stack.append(target)
    return found


def _constant(f: Function, node: ast.AST) -> Any:
    """What a name, or an attribute of one, stands for outside of the function; None where nothing is known."""
    if isinstance(node, ast.Attribute):
        return getattr(_constant(f, node.value), node.attr, None)
    if not isinstance(node, ast.Name):
        return None
    try:
        return f.namespace.find(node.id)
    except KeyError:
        return None
