"""`python -m hasten.cli` is the `hasten` command."""

from hasten.cli import main

main()
