"""A function's text: where it is, what it says, and errors that point into it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hasten.base.errors import SourceError

CALLS = 6  # places of calls that an error tells


@dataclass(frozen=True)
class Source:
    """The text of a function: `file`, `lines` (as written, the first one is number `first` of the file), `indent` taken off each, and its tree."""

    file: str
    name: str
    first: int
    indent: int
    lines: tuple[str, ...]
    tree: ast.FunctionDef

    def line(self, at: ast.AST) -> int:
        """The number in the file of the line where a part of the tree begins."""
        return self.first + getattr(at, "lineno", 1) - 1

    def error(self, at: ast.AST, message: str) -> SourceError:
        """An error with the line that a part of the tree stands on, and the part marked in it."""
        row, column = getattr(at, "lineno", 1) - 1, getattr(at, "col_offset", 0) + self.indent
        text = self.lines[row].rstrip("\n") if row < len(self.lines) else ""
        last = getattr(at, "end_lineno", row + 1) == row + 1
        end = getattr(at, "end_col_offset", column + 1) + self.indent if last else len(text)
        shown = text.lstrip()
        skipped = len(text) - len(shown)
        marks = " " * (column - skipped) + "^" * max(1, min(end, len(text)) - column)
        return SourceError(f"{self.file}:{self.line(at)} in {self.name}: {message}\n    {shown}\n    {marks}")


    def called(self, at: ast.AST, error: SourceError) -> SourceError:
        """An error in a function that is called here, with the place of the call, as long as there are few of them."""
        text = str(error)
        if at is self.tree:  # the function that is compiled is called by nothing
            return error
        return error if text.count("\n  called in ") >= CALLS else SourceError(f"{text}\n  called in {self.file}:{self.line(at)} in {self.name}")


def read(function: Callable[..., Any]) -> Source:
    """The source of a Python function made by `def`. Raises SourceError where Python does not have it."""
    name = getattr(function, "__qualname__", repr(function)).split("<locals>.")[-1]
    try:
        file = inspect.getsourcefile(function) or "?"
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise SourceError(f"{name}: its source cannot be read ({error}); hasten.function takes functions that stand in a file or a notebook's cell") from None
    text = "".join(lines)
    indent = len(lines[0]) - len(lines[0].lstrip())
    tree = ast.parse(textwrap.dedent(text)).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise SourceError(f"{file}:{first}: {name} is made by {type(tree).__name__}; hasten.function takes functions made by `def`")
    return Source(file, name, max(first, 1), indent, tuple(lines), tree)


def stored_names(nodes: list[ast.stmt]) -> set[str]:
    """Names that statements assign, functions and patterns included; not those that nested functions assign inside."""
    found: set[str] = set()
    stack: list[ast.AST] = list(nodes)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            found |= {node.name} if isinstance(node, ast.FunctionDef) else set()
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            found.add(node.name)
        if not isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            stack.extend(ast.iter_child_nodes(node))
    return found


def leaves_early(nodes: list[ast.stmt]) -> bool:
    """Whether statements may return, or break or continue the loop that they stand in."""
    for node in nodes:
        if isinstance(node, (ast.Return, ast.Break, ast.Continue)):
            return True
        inner = [*getattr(node, "body", []), *getattr(node, "orelse", [])] if isinstance(node, ast.If) else []
        if isinstance(node, ast.Match):
            inner = [s for case in node.cases for s in case.body]
        if isinstance(node, (ast.While, ast.For)):
            inner = [s for s in ast.walk(node) if isinstance(s, ast.Return)]
        if leaves_early(inner):
            return True
    return False
