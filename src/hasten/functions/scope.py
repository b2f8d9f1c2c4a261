"""The state in which a function is read: its names, the trace that it is read into, and the tables of what each part of Python means.

Reading a function *is* type inference: every expression is evaluated once with lazy tensors (see `hasten.lower.trace`), so what is known now, as
sizes, numbers and Python's objects, is computed now, and what does not fit is an error at the line that is being read. `EXPRESSIONS` and
`STATEMENTS` have one entry for each kind of node of Python's syntax tree; what is in neither table is outside of the language.
"""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hasten.base.errors import HastenError, SourceError
from hasten.functions import values as v
from hasten.functions.source import Source
from hasten.lower.trace import Block, Context, Tensor, Value
from hasten.ops.registry import Node, NoNative, find

if TYPE_CHECKING:
    from hasten.functions.instances import World

EXPRESSIONS: dict[type, Callable[[Scope, Any], Any]] = {}
STATEMENTS: dict[type, Callable[[Scope, Any], None]] = {}

Handler = Callable[["Scope", Any], Any]
MAX_EXPRESSIONS = 100_000  # that are read for one model, each as often as it is


def expression(*kinds: type) -> Callable[[Handler], Handler]:
    """Register what evaluates a kind of expression."""

    def register(handler: Handler) -> Handler:
        EXPRESSIONS.update(dict.fromkeys(kinds, handler))
        return handler

    return register


def statement(*kinds: type) -> Callable[[Handler], Handler]:
    """Register what executes a kind of statement."""

    def register(handler: Handler) -> Handler:
        STATEMENTS.update(dict.fromkeys(kinds, handler))
        return handler

    return register


@dataclass(frozen=True)
class Unset:
    """What a name stands for where it has a value on some ways only; `why` says which."""

    why: str


class Namespace:
    """Names of a Python function that it does not assign: of enclosing functions, its module, and Python itself."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def find(self, name: str) -> Any:
        """What a name stands for now. Raises KeyError."""
        function = inspect.unwrap(self.function)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        if name in cells:
            try:
                return cells[name].cell_contents
            except ValueError:
                raise KeyError(name) from None
        found = function.__globals__
        return found[name] if name in found else vars(builtins)[name]


@dataclass
class Scope:
    """One activation of a function while it is read. `stored`: names that the function assigns itself."""

    world: World
    cx: Context
    source: Source
    namespace: Namespace
    names: dict[str, Any]
    stored: set[str]
    finish: Callable[[Any], Any] | None = None  # makes what a block ends with of a Completion; see `statements`
    loops: list[ast.stmt] = field(default_factory=list)  # that enclose what is being read
    top: bool = False  # reading what is no loop of a function of the Program: returns end its activation
    last: ast.AST | None = None  # the call that is the last thing the function does

    # --- errors -------------------------------------------------------------------------------------------------------------
    def error(self, at: ast.AST, message: str) -> SourceError:
        return self.source.error(at, message)

    # --- evaluation ---------------------------------------------------------------------------------------------------------
    def evaluate(self, node: ast.expr) -> Any:
        """The value of an expression. Raises SourceError."""
        self.world.read += 1
        if self.world.read > MAX_EXPRESSIONS:
            raise self.error(node, f"more than {MAX_EXPRESSIONS} expressions were read: loops over what is known, calls, or early returns grow too large")
        handler = EXPRESSIONS.get(type(node))
        if handler is None:
            raise self.error(node, f"{_called(node)} is outside of the language; see docs/functions.md for what is in it")
        return handler(self, node)

    def bind(self, target: ast.expr, value: Any) -> None:
        """Assign a value to a name, or its parts to a tuple of names."""
        if isinstance(target, ast.Name):
            self.names[target.id] = value
            return
        if not isinstance(target, (ast.Tuple, ast.List)):
            raise self.error(target, "values do not change: assign a name, as y = hasten.op.ScatterND(x, indices, updates)")
        if not isinstance(value, (tuple, list)) or len(value) != len(target.elts):
            raise self.error(target, f"expected a tuple of {len(target.elts)} values, got {v.describe(value)}")
        for part, item in zip(target.elts, value, strict=True):
            self.bind(part, item)

    def as_tensor(self, at: ast.AST, value: Any, like: str | None = None) -> Tensor:
        """A value as a tensor; numbers take the dtype `like`."""
        value = v.lifted(self.cx, value)
        if isinstance(value, v.Scalar):
            return value.tensor if like is None or like == value.tensor.dtype else self.apply(at, "Cast", [value.tensor], {"to": like})
        if not isinstance(value, Tensor):
            raise self.error(at, f"expected a tensor, got {v.describe(value)}")
        return value

    def apply(self, at: ast.AST, op: str, inputs: Sequence[Value | None], attributes: dict[str, Any] | None = None, outputs: int = 1) -> Any:
        """An ONNX operator on lazy tensors: its result, a list for several outputs."""
        attributes = dict(attributes or {})
        if isinstance(attributes.get("to"), str):
            from hasten.base import dtypes

            attributes["to"] = dtypes.dtype(attributes["to"]).onnx
        node = self.node(at, op, attributes, outputs)
        rule = find("", op)
        if rule is None:
            raise self.error(at, f"the operator {op} has no rule of its own")

        def run() -> Any:
            return rule(self.cx, node, *inputs)

        got = self.guarded(at, op, node, run)
        got = list(got) if isinstance(got, (list, tuple)) else [got]
        return got[:outputs] if outputs > 1 else got[0]

    def node(self, at: ast.AST, op: str, attributes: dict[str, Any] | None = None, outputs: int = 1) -> Node:
        """A node for an operator's rule; its name tells the line."""
        names = tuple(f"{op}{k}" for k in range(outputs))
        return Node(op, "", f"{self.source.name}:{self.source.line(at)}", attributes or {}, outputs, names, self.block)

    def guarded(self, at: ast.AST, what: str, node: Node | None, run: Callable[[], Any]) -> Any:
        """What `run` gives, with errors of operators as errors at the line."""
        before, self.cx.node = self.cx.node, node or self.cx.node
        try:
            return run()
        except SourceError:
            raise
        except NoNative as error:
            raise self.error(at, f"{what}: {error}; no kernel does that, and functions have no host operators") from error
        except HastenError as error:
            raise self.error(at, str(error)) from error
        except (TypeError, ValueError, AttributeError, KeyError, IndexError, AssertionError) as error:
            raise self.error(at, f"{what} cannot take these operands ({type(error).__name__}: {error})") from error
        finally:
            self.cx.node = before

    # --- blocks -------------------------------------------------------------------------------------------------------------
    def block(self, body: Callable[..., Sequence[Value]], inputs: Sequence[Value] | Callable[[], Sequence[Value]] = ()) -> Block:
        """What `body` makes of the inputs, as a nested block. A function makes inputs that belong to the block."""
        checks, self.cx.checks = self.cx.checks, []
        names, self.names = self.names, dict(self.names)
        first = self.cx.const(0, "int64").order
        try:
            values = list(body(*(inputs() if callable(inputs) else inputs)))
            return Block(values, first, self.cx.const(0, "int64").order, self.cx.checks)
        finally:
            self.names, self.cx.checks = names, checks

    def known(self, condition: Tensor) -> bool | None:
        """The truth of a condition, where it is known now."""
        found = self.cx.ints(condition)
        return bool(found[0]) if found is not None and len(found) == 1 and isinstance(found[0], int) else None


def _called(node: ast.AST) -> str:
    """A part of Python's syntax as its users call it."""
    words = {
        "Await": "await", "Yield": "yield", "YieldFrom": "yield from", "Dict": "a dict", "Set": "a set", "DictComp": "a comprehension of a dict",
        "SetComp": "a comprehension of a set", "GeneratorExp": "a generator", "JoinedStr": "an f-string", "NamedExpr": "the operator :=",
        "Try": "try", "With": "with", "Raise": "raise", "Delete": "del", "Import": "import", "ImportFrom": "import", "Global": "global",
        "Nonlocal": "nonlocal", "ClassDef": "a class", "AsyncFunctionDef": "async def", "Starred": "* in front of a value", "Assert": "assert",
    }  # fmt: skip
    name = type(node).__name__
    return words.get(name, name)
