"""`hasten bench`: measure, look at what was measured, guard it. One file for each group of commands; the work is done in `hasten.bench`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class WithDefault(TyperGroup):
    """`hasten bench model.onnx` is short for `hasten bench run model.onnx`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)
