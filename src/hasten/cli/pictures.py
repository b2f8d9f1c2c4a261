"""Pictures as inputs: nothing is resized, scaled or reordered unless asked for, and what an input wants is said.

A pixel p of 0..255 becomes `(p * scale - mean) / std`, channels red, green, blue (or the other way round with `bgr`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hasten.base.errors import InputError, MissingDependency, ShapeMismatch

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
LAYOUTS = {"nchw": "CHW", "nhwc": "HWC"}


class Input(Protocol):
    """What is known of a model's input: name, NumPy dtype name, and a shape of sizes, symbols and None."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int | str | None, ...]: ...


@dataclass(frozen=True)
class PictureOptions:
    """What the user asked to be done to pictures; the texts of the command line, parsed."""

    resize: tuple[int, int] | str | None = None  # (width, height) or "auto"
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str | None = None
    bgr: bool = False

    @classmethod
    def parse(cls, resize: str | None, scale: str | None, mean: str | None, std: str | None, layout: str | None,
              bgr: bool) -> PictureOptions:  # fmt: skip
        """From the texts given to --resize, --scale, --mean, --std and --layout. Raises InputError."""
        scales = _numbers("--scale", scale)
        if scales and len(scales) > 1:
            raise InputError(f"--scale wants one factor, such as 1/255, not {scale!r}.")
        if layout is not None and layout.lower() not in LAYOUTS:
            raise InputError(f"--layout is nchw (channels first) or nhwc (channels last), not {layout!r}.")
        divisors = _numbers("--std", std)
        if divisors and 0.0 in divisors:
            raise InputError("--std divides by its values: none may be 0.")
        return cls(_size(resize), scales[0] if scales else None, _numbers("--mean", mean), divisors,
                   layout.lower() if layout else None, bgr)  # fmt: skip

    @property
    def changes_values(self) -> bool:
        return any(option is not None for option in (self.scale, self.mean, self.std))


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(Fraction(part.strip())) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise InputError(f"{option} wants numbers like 127, 0.5 or 1/255, parted by commas; got {text!r}.") from None


def _size(text: str | None) -> tuple[int, int] | str | None:
    if text is None or text == "auto":
        return text
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--resize wants WIDTHxHEIGHT, such as 320x240, or auto; got {text!r}.")
    return int(parts[0]), int(parts[1])


@dataclass(frozen=True)
class Place:
    """Where the channels, rows and columns of a picture are in an input; sizes are None where any will do."""

    order: str  # "CHW", "HWC" or "HW"
    channels: int
    height: int | None
    width: int | None

    @property
    def size(self) -> str:
        """As `320x240`, width first; `*` for any."""
        return f"{self.width or '*'}x{self.height or '*'}"


def place(wanted: Input, layout: str | None) -> Place:
    """How a picture lies in the input `wanted`. Raises InputError where the shape does not tell."""
    shape = wanted.shape[1:] if len(wanted.shape) == 4 else wanted.shape
    if len(wanted.shape) == 4 and (_fixed(wanted.shape[0]) or 1) != 1:
        raise InputError(f"input {wanted.name!r} wants {wanted.shape[0]} pictures at once; give it as @file.npy.")
    if len(shape) == 2:
        return Place("HW", 1, _fixed(shape[0]), _fixed(shape[1]))
    if len(shape) != 3:
        raise InputError(f"input {wanted.name!r} is {_described(wanted)}: that is no picture. Give it as @file.npy.")
    order = LAYOUTS[layout] if layout else _order(wanted, shape)
    sizes = dict(zip(order, shape, strict=True))
    channels = _fixed(sizes["C"]) or 3
    if channels not in MODES:
        raise InputError(
            f"input {wanted.name!r} is {_described(wanted)}: pictures have 1, 3 or 4 channels, not {channels}."
        )
    return Place(order, channels, _fixed(sizes["H"]), _fixed(sizes["W"]))


def _fixed(size: int | str | None) -> int | None:
    """A size that is a number; None for one that may be anything."""
    return size if isinstance(size, int) else None


def _order(wanted: Input, shape: tuple[int | str | None, ...]) -> str:
    first, last = shape[0] in MODES, shape[-1] in MODES
    if first == last:
        raise InputError(
            f"input {wanted.name!r} is {_described(wanted)}: the shape does not tell where the channels are.\n"
            "Say --layout nchw (channels first) or --layout nhwc (channels last)."
        )
    return "CHW" if first else "HWC"


def _described(wanted: Input) -> str:
    from hasten.cli.console import shape_text

    return f"{wanted.dtype} {shape_text(wanted.shape)}"


def read_picture(path: Path, wanted: Input, options: PictureOptions) -> tuple[np.ndarray[Any, Any], list[str]]:
    """The picture as an array for `wanted`, and remarks on what the model may want and was not asked for.

    Raises InputError for a file that is no picture, ShapeMismatch for one of the wrong size, MissingDependency without
    Pillow.
    """
    import numpy as np

    where = place(wanted, options.layout)
    dtype = np.dtype(wanted.dtype)
    pixels = np.asarray(_open(path, where, wanted, options))
    if options.bgr and where.channels >= 3:
        pixels = pixels[..., [2, 1, 0, *range(3, where.channels)]]
    remarks = []
    if options.changes_values:
        if dtype.kind in "iub":
            raise InputError(
                f"input {wanted.name!r} is {dtype.name}: --scale, --mean and --std make fractions of its pixels."
            )
        values = pixels.astype(np.float32) * np.float32(1.0 if options.scale is None else options.scale)
        for option, numbers, apply in (("--mean", options.mean, np.subtract), ("--std", options.std, np.divide)):
            if numbers is not None:
                values = apply(values, _per_channel(option, numbers, where))
        pixels = values
    elif dtype.kind not in "iub":
        remarks.append(
            f"the pixels of {path.name} go into {wanted.name!r} as they are, 0 to 255; for another range say "
            "so: --scale 1/255 (0 to 1), --mean 127.5 --std 127.5 (-1 to 1)"
        )
    if where.order == "CHW":
        pixels = (pixels if pixels.ndim == 3 else pixels[..., None]).transpose(2, 0, 1)
    elif where.order == "HWC" and pixels.ndim == 2:
        pixels = pixels[..., None]
    if len(wanted.shape) == 4:
        pixels = pixels[None]
    return np.ascontiguousarray(pixels, dtype=dtype), remarks


def _open(path: Path, where: Place, wanted: Input, options: PictureOptions) -> Any:
    """The Pillow image, converted to the wanted channels and, if asked, size."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingDependency(f"{path.name} is a picture, and reading it needs Pillow: pip install pillow") from None
    try:
        with Image.open(path) as file:
            picture = file.convert(MODES[where.channels])
    except UnidentifiedImageError:
        raise InputError(f"{path} is no picture that Pillow can read.") from None
    if options.resize is not None:
        size = options.resize
        if isinstance(size, str):
            size = (where.width or picture.width, where.height or picture.height)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    if (where.width or picture.width, where.height or picture.height) != picture.size:
        raise ShapeMismatch(
            f"{path.name} is {picture.width}x{picture.height} (width x height), and input {wanted.name!r}, "
            f"{_described(wanted)}, wants {where.size}.\n"
            "Cut it to size, or add --resize auto to have it resized (its proportions change)."
        )
    return picture


def _per_channel(option: str, numbers: tuple[float, ...], where: Place) -> np.ndarray[Any, Any]:
    import numpy as np

    if len(numbers) not in (1, where.channels):
        raise InputError(
            f"{option} has {len(numbers)} values for {where.channels} channels: give one, or one for each."
        )
    return np.asarray(numbers if len(numbers) > 1 else numbers[0], np.float32)
