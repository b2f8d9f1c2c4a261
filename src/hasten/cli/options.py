"""Options that several commands share: declared once, so that they read and mean the same everywhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Precision(StrEnum):
    """The precision contract, in PyTorch's words; docs/cli.md says what each promises."""

    STRICT = "strict"
    HIGHEST = "highest"
    HIGH = "high"
    MEDIUM = "medium"


COMPILING = "Compiling"
FEEDING = "Inputs"
PICTURES = "Pictures"

ModelFile = Annotated[
    Path, typer.Argument(metavar="MODEL", exists=True, dir_okay=False, help="A .onnx model or a compiled .hasten file.")
]
IsaOption = Annotated[
    str | None,
    typer.Option("--isa", metavar="LEVEL", rich_help_panel=COMPILING,
                 help="Instruction set: portable, avx2, avx512, amx. [dim]Default: the best of this machine.[/dim]"),
]  # fmt: skip
PrecisionOption = Annotated[
    Precision | None,
    typer.Option("--precision", rich_help_panel=COMPILING, show_default=False,
                 help="How exact products must be. [dim]Default: highest.[/dim]"),
]  # fmt: skip
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", rich_help_panel=COMPILING,
                 help="Threads of a run. [dim]Default: what `hasten doctor` shows.[/dim]"),
]  # fmt: skip
RangeOption = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=RANGE", rich_help_panel=COMPILING, show_default=False,
                 help="What an open size of the inputs may be: SIZE, which fixes it, or LOW:HIGH, or LOW:HIGH:MULTIPLE. Repeatable."),
]  # fmt: skip
HostOpsOption = Annotated[
    bool,
    typer.Option("--host-ops/--no-host-ops", rich_help_panel=COMPILING,
                 help="Let operators without a native kernel run in NumPy, or refuse them."),
]  # fmt: skip
CacheDirOption = Annotated[
    Path | None,
    typer.Option("--cache-dir", metavar="DIR", file_okay=False, rich_help_panel=COMPILING,
                 help="Where compiled kernels are kept. [dim]Default: HASTEN_CACHE_DIR.[/dim]"),
]  # fmt: skip
DumpOption = Annotated[
    Path | None,
    typer.Option("--dump", metavar="DIR", file_okay=False, rich_help_panel=COMPILING,
                 help="Write the text of every stage into this folder."),
]  # fmt: skip
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="NAME=SOURCE", rich_help_panel=FEEDING, show_default=False,
                 help="One input: @file.npy, @file.npz:KEY, @picture.png, random, random:LOW:HIGH, zeros, ones, a "
                      "number or a JSON list. The name may be left out where the model has one input. Repeatable."),
]  # fmt: skip
DimOption = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=SIZE", rich_help_panel=FEEDING, show_default=False,
                 help="The size of a symbolic dim, for inputs that are generated; INPUT:AXIS=SIZE for a nameless one. "
                      "Repeatable."),
]  # fmt: skip
SeedOption = Annotated[int, typer.Option("--seed", rich_help_panel=FEEDING, help="Seed of random inputs.")]

ResizeOption = Annotated[
    str | None,
    typer.Option("--resize", metavar="SIZE", rich_help_panel=PICTURES,
                 help="Resize pictures to WIDTHxHEIGHT, or `auto` for the size that the input wants."),
]  # fmt: skip
ScaleOption = Annotated[
    str | None,
    typer.Option("--scale", metavar="FACTOR", rich_help_panel=PICTURES,
                 help="Multiply pixels (0..255) by this, first: 1/255."),
]  # fmt: skip
MeanOption = Annotated[
    str | None,
    typer.Option("--mean", metavar="M[,M,M]", rich_help_panel=PICTURES,
                 help="Then subtract this; one, or one a channel."),
]  # fmt: skip
StdOption = Annotated[
    str | None,
    typer.Option("--std", metavar="S[,S,S]", rich_help_panel=PICTURES,
                 help="Then divide by this; one, or one a channel."),
]  # fmt: skip
LayoutOption = Annotated[
    str | None,
    typer.Option("--layout", metavar="nchw|nhwc", rich_help_panel=PICTURES,
                 help="Order of dims, where the input's shape does not tell it."),
]  # fmt: skip
BgrOption = Annotated[
    bool, typer.Option("--bgr", rich_help_panel=PICTURES, help="Channels in the order blue, green, red.")
]
