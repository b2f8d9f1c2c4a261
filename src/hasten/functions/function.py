"""`hasten.function`: Python functions that are read, not run. What is in the language is in docs/functions.md."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hasten.base.errors import InputError, SourceError

if TYPE_CHECKING:
    from hasten.functions.scope import Namespace
    from hasten.functions.source import Source


class Function:
    """A Python function to be compiled: `hasten.compile(f)` makes a model of it, other functions may call it. `python` is the function that was
    decorated."""

    def __init__(self, python: Callable[..., Any]):
        self.python = python
        self.__name__ = getattr(python, "__name__", "function")
        self.__doc__ = python.__doc__

    @cached_property
    def source(self) -> Source:
        """Its text. Raises SourceError where there is none."""
        from hasten.functions.source import read

        return read(self.python)

    @cached_property
    def namespace(self) -> Namespace:
        """The names that it sees outside of itself."""
        from hasten.functions.scope import Namespace

        return Namespace(self.python)

    @cached_property
    def signature(self) -> inspect.Signature:
        """Parameters and result, annotations evaluated. Raises SourceError."""
        try:
            return inspect.signature(self.python, eval_str=True)
        except (NameError, TypeError, ValueError, SyntaxError, AttributeError) as error:
            raise self.source.error(self.source.tree, f"its annotations cannot be evaluated: {error}") from None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self.__name__
        raise InputError(f"{name} is read, not run: compile it, as model = hasten.compile({name}), and call the model; {name}.python is the Python function")

    def __repr__(self) -> str:
        return f"<hasten.function {self.__name__}>"


def function(python: Callable[..., Any]) -> Function:
    """Decorator: a function of the language in docs/functions.md, which `hasten.compile` makes a model of. Nothing is read before that.
    Raises SourceError where `python` is no function made by `def`."""
    if not inspect.isfunction(python) or python.__name__ == "<lambda>":
        raise SourceError(f"hasten.function takes a function made by `def`, not {python!r}")
    return Function(python)
