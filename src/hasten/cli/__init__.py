"""The command line, one file per command: argument handling and printing, nothing else.

Data goes to stdout, words to stderr. Exit codes: 0 done, 1 a HastenError, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the `hasten` command."""
    try:
        from hasten.cli.app import app

        app(prog_name="hasten")
    except KeyboardInterrupt:  # while the command itself was being imported
        raise SystemExit(130) from None
