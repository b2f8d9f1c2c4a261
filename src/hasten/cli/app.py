"""The `hasten` command: its sub-commands, and what becomes of errors.

Only typer is imported here and in the command files; everything else is imported when a command runs, so that
`hasten --help` and shell completion answer at once.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from hasten.base.errors import HastenError
from hasten.cli import cache, compile, disassemble, doctor, inspect, profile, run
from hasten.cli.bench import WithDefault, kept
from hasten.cli.bench import run as measure

FAILURE, INTERRUPTED = 1, 130

Command = TypeVar("Command", bound=Callable[..., Any])

app = typer.Typer(
    name="hasten",
    help="Compile ONNX models to native code, run them, look inside them, time them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="HASTEN_TRACEBACK=1 shows where an error came from. NO_COLOR=1 turns colours off.",
)


def guarded(command: Command) -> Command:
    """The command with its errors told in one line on stderr and turned into exit codes."""

    @functools.wraps(command)
    def call(*args: Any, **kwargs: Any) -> Any:
        previous = signal.signal(signal.SIGTERM, _terminated)  # a polite kill cleans up like Ctrl-C
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our stdout has gone (`hasten inspect m.onnx | head`)
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
            raise typer.Exit(FAILURE) from None
        except (HastenError, OSError, MemoryError) as error:
            if os.environ.get("HASTEN_TRACEBACK"):
                raise
            _say_error(error)
            raise typer.Exit(FAILURE) from None
        finally:
            signal.signal(signal.SIGTERM, previous)

    return call  # type: ignore[return-value]


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def _say_error(error: BaseException) -> None:
    from rich.text import Text

    from hasten.cli.console import words

    first, _, rest = (str(error) or "no further message").partition("\n")
    line = Text.assemble((type(error).__name__ + ":", "bold red"), " ", (first, "red"))
    words().print(line, soft_wrap=True)
    if rest:
        words().print(Text(rest), soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print("hasten", version("hasten"))
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command("compile")(guarded(compile.compile_model))
app.command("run")(guarded(run.run_model))
app.command("inspect")(guarded(inspect.inspect_model))
app.command("disassemble")(guarded(disassemble.disassemble_model))
app.command("disasm", hidden=True)(guarded(disassemble.disassemble_model))
app.command("profile")(guarded(profile.profile_model))
app.command("doctor")(guarded(doctor.show_doctor))
benches = typer.Typer(
    cls=WithDefault, no_args_is_help=True, rich_markup_mode="rich",
    help="Measure models beside other engines, look at what was measured, guard it. [bold]hasten bench MODEL...[/bold] is short for [bold]hasten bench run "
         "MODEL...[/bold].",
)  # fmt: skip
benches.command("run")(guarded(measure.measure_models))
benches.command("check")(guarded(kept.check_machine))
benches.command("list")(guarded(kept.list_runs))
benches.command("report")(guarded(kept.report_run))
benches.command("export")(guarded(kept.export_run))
benches.command("compare")(guarded(kept.compare_runs))
app.add_typer(benches, name="bench")
caches = typer.Typer(help="Show or clear the cache of compiled kernels and models.", no_args_is_help=True)
caches.command("show")(guarded(cache.show_cache))
caches.command("clear")(guarded(cache.clear_cache))
app.add_typer(caches, name="cache")
