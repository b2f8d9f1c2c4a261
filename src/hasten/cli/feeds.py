"""From `--input NAME=SOURCE` and `--dim NAME=SIZE` to the arrays that a model is fed.

Sizes of symbolic dims are learnt from files first, then from --dim; generated inputs follow them. Nothing is cast,
resized or scaled silently, and what is missing is listed with how to give it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasten.base.errors import InputError
from hasten.base.units import count_text
from hasten.cli.console import shape_text
from hasten.cli.pictures import SUFFIXES, Input, PictureOptions, read_picture

if TYPE_CHECKING:
    import numpy as np

    from hasten import CompiledModel

    Array = np.ndarray[Any, Any]

TEXT_DTYPES = frozenset({"str", "string", "object"})
NO_NAMES = (None, "", "?", "None")  # what exporters write for sizes that have no name
HOW_TO_GIVE = """\
  --input NAME=@file.npy       an array (also @file.npz:KEY)
  --input NAME=@picture.png    a picture (see also --resize, --scale, --mean, --std, --layout, --bgr)
  --input NAME=random          seeded random values (random:LOW:HIGH for a range), also zeros, ones
  --input NAME=VALUE           a number for every element, or a JSON list"""


@dataclass
class Feeds:
    """Arrays by input name, and remarks for the user."""

    arrays: dict[str, Array] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Declared:
    """An input as a file declares it."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


def tensor_inputs(compiled: CompiledModel) -> list[Input]:
    """The inputs of a model; InputError where one is no tensor."""
    for wanted in compiled.inputs:
        if wanted.shape is None:
            raise InputError(f"input {wanted.name!r} is a {wanted.dtype}: the command line gives tensors only; use hasten.compile(...).run({{...}}) in Python.")
    return list(compiled.inputs)  # type: ignore[arg-type]


def declared_inputs(path: Path) -> list[Input]:
    """The inputs that a .onnx file declares; InputError where one is no tensor."""
    import onnx_ir as ir

    from hasten.frontends import load_graph

    found: list[Input] = []
    for value in load_graph(path).graph.inputs:
        if not isinstance(value.type, ir.TensorType) or value.shape is None:
            raise InputError(f"{path.name}: input {value.name!r} is {value.type or 'of no known type'}: the command line gives tensors of known rank only.")
        shape = tuple(size if isinstance(size, int) else None if size.value in NO_NAMES else size.value for size in value.shape)
        found.append(Declared(value.name or "", value.type.dtype.numpy().name, shape))
    return found


def make_feeds(
    inputs: Sequence[Input],
    sources: Sequence[str],
    dims: Sequence[str] = (),
    *,
    pictures: PictureOptions | None = None,
    seed: int = 0,
    default: str | None = None,
    stray_dims: bool = False,
) -> Feeds:
    """Feeds for `inputs`.

    `default` is the source of inputs that are not mentioned; without one they raise InputError with the list of what
    the model wants. `stray_dims` lets --dim name dims that this model does not have.
    """
    import numpy as np

    feeds = Feeds()
    given = dict(_split(inputs, source) for source in sources)
    missing = [wanted for wanted in inputs if wanted.name not in given]
    if missing and default is None:
        raise InputError(_missing_text(inputs, missing))
    sizes = Sizes(inputs)
    for wanted in inputs:
        source = given.get(wanted.name, "")
        if source.startswith("@"):
            array, remarks = _read(source[1:], wanted, pictures or PictureOptions())
            feeds.arrays[wanted.name] = array
            feeds.remarks += remarks
            sizes.learn(wanted, array.shape)
    for text in dims:
        sizes.set(text, stray_dims)
    generator = np.random.default_rng(seed)
    for wanted in inputs:
        if wanted.name not in feeds.arrays:
            source = given.get(wanted.name, default or "")
            feeds.arrays[wanted.name] = _generate(source, wanted, sizes, generator)
    feeds.remarks += sizes.remarks
    feeds.arrays = {wanted.name: feeds.arrays[wanted.name] for wanted in inputs}
    return feeds


def _split(inputs: Sequence[Input], text: str) -> tuple[str, str]:
    """`NAME=SOURCE`; NAME may hold "=", and may be left out where there is one input."""
    for name in sorted((wanted.name for wanted in inputs), key=len, reverse=True):
        if text.startswith(name + "="):
            return name, text[len(name) + 1 :]
    name, equals, _ = text.partition("=")
    if len(inputs) == 1 and (not equals or text.startswith("@")):
        return inputs[0].name, text
    names = ", ".join(repr(wanted.name) for wanted in inputs)
    if not equals:
        raise InputError(f"--input {text}: which input? Say --input NAME={text}; the model has {names}.")
    raise InputError(f"--input {text}: the model has no input {name!r}; it has {names}.")


def _missing_text(inputs: Sequence[Input], missing: Sequence[Input]) -> str:
    width = max(len(wanted.name) for wanted in inputs)
    listed = "\n".join(f"  {wanted.name:{width}}  {wanted.dtype} {shape_text(wanted.shape)}" for wanted in missing)
    example = " ".join(f"--input {wanted.name}=random" for wanted in missing)
    symbols = {size: None for wanted in missing for size in wanted.shape if isinstance(size, str)}
    example += "".join(f" --dim {symbol}=1" for symbol in symbols)
    head = f"{count_text(len(missing), 'input')} not given:"
    return f"{head}\n{listed}\nGive each with one of\n{HOW_TO_GIVE}\nas in: {example}"


class Sizes:
    """What is known of the symbolic and nameless dims of a model's inputs."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self.inputs = inputs
        self.symbols: dict[str, int] = {}
        self.nameless: dict[tuple[str, int], int] = {}
        self.remarks: list[str] = []

    def learn(self, wanted: Input, shape: tuple[int, ...]) -> None:
        """Takes sizes from an array that was given; a wrong rank or size is left for the run to tell."""
        if len(shape) == len(wanted.shape):
            for size, symbol in zip(shape, wanted.shape, strict=True):
                if isinstance(symbol, str):
                    self.symbols.setdefault(symbol, size)

    def set(self, text: str, stray: bool) -> None:
        """Follows one --dim: `SYMBOL=SIZE` or `INPUT:AXIS=SIZE`."""
        name, _, number = text.rpartition("=")
        if not name or not number.isdigit():
            raise InputError(f"--dim {text}: wants NAME=SIZE, such as height=320.")
        size = int(number)
        known = {symbol for wanted in self.inputs for symbol in wanted.shape if isinstance(symbol, str)}
        if name in known:
            if self.symbols.setdefault(name, size) != size:
                raise InputError(f"--dim {text}: a file that was given has {name} = {self.symbols[name]}.")
            return
        owner, _, axis = name.rpartition(":")
        for wanted in self.inputs:
            if wanted.name == owner and axis.isdigit() and int(axis) < len(wanted.shape):
                self.nameless[owner, int(axis)] = size
                return
        if not stray:
            has = ", ".join(sorted(known)) or "none with a name"
            raise InputError(
                f"--dim {text}: no input has a dim {name!r}; there are: {has}. A nameless one is INPUT:AXIS=SIZE."
            )

    def shape(self, wanted: Input) -> tuple[int, ...]:
        """The shape of an input to be generated. A first axis that nothing tells is 1, and that is said."""
        made = []
        for axis, symbol in enumerate(wanted.shape):
            size = symbol if isinstance(symbol, int) else self.nameless.get((wanted.name, axis))
            if size is None and isinstance(symbol, str):
                size = self.symbols.get(symbol)
            if size is None and axis == 0:
                size = 1
                name = f"{wanted.name}:0" if symbol is None else symbol
                self.remarks.append(f"{name} = 1; another size: --dim {name}=SIZE")
                if isinstance(symbol, str):
                    self.symbols[symbol] = 1
            if size is None:
                raise InputError(self._unknown_text(wanted))
            made.append(size)
        return tuple(made)

    def _unknown_text(self, wanted: Input) -> str:
        unknown = [
            f"{wanted.name}:{axis}" if symbol is None else symbol
            for axis, symbol in enumerate(wanted.shape)
            if axis
            and not isinstance(symbol, int)
            and self.symbols.get(symbol or "", self.nameless.get((wanted.name, axis))) is None
        ]
        options = " ".join(f"--dim {name}=SIZE" for name in dict.fromkeys(unknown))
        return f"input {wanted.name!r} is {wanted.dtype} {shape_text(wanted.shape)}: to generate it, say {options}"


def _read(text: str, wanted: Input, pictures: PictureOptions) -> tuple[Array, list[str]]:
    """An array or a picture from a file."""
    from zipfile import BadZipFile

    import numpy as np

    text, _, key = text.rpartition(":") if ".npz:" in text else (text, "", "")
    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"--input {wanted.name}: there is no file {path}.")
    if path.suffix.lower() in SUFFIXES:
        return read_picture(path, wanted, pictures)
    if path.suffix.lower() not in (".npy", ".npz"):
        kinds = ", ".join(sorted(SUFFIXES))
        raise InputError(f"--input {wanted.name}: {path.name} is no .npy or .npz file and no picture ({kinds}).")
    try:
        loaded = np.load(path, allow_pickle=False)
        if path.suffix.lower() == ".npy":
            return _typed(loaded, wanted), []
        with loaded:
            return _typed(_member(loaded, key, wanted, path), wanted), []
    except (ValueError, EOFError, OSError, BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--input {wanted.name}: {path.name} cannot be read: {error}") from None


def _member(archive: Any, key: str, wanted: Input, path: Path) -> Array:
    """The array called `key`, or like the input, or the only one of an .npz file."""
    for name in (key,) if key else (wanted.name, *(archive.files if len(archive.files) == 1 else ())):
        if name in archive.files:
            return archive[name]  # type: ignore[no-any-return]
    held = ", ".join(archive.files)
    raise InputError(
        f"--input {wanted.name}: {path.name} holds {held}, no {key or wanted.name!r}; say @{path.name}:KEY."
    )


def _typed(array: Array, wanted: Input) -> Array:
    """NumPy stores bfloat16 and the like as raw bytes, and strings with a width: their own dtypes again."""
    import numpy as np

    if wanted.dtype in TEXT_DTYPES:
        return array.astype(object)
    dtype = _dtype(wanted.dtype)
    return array.view(dtype) if array.dtype.kind == "V" and array.dtype.itemsize == np.dtype(dtype).itemsize else array


def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes  # noqa: F401 - teaches NumPy bfloat16 and its kin
    import numpy as np

    try:
        return np.dtype(name)
    except TypeError:
        raise InputError(f"an input is a {name}, which the command line cannot make; feed it from Python.") from None


def _generate(source: str, wanted: Input, sizes: Sizes, generator: np.random.Generator) -> Array:
    """`random`, `random:LOW:HIGH`, `zeros`, `ones`, or a value."""
    import numpy as np

    kind, *bounds = source.split(":")
    if wanted.dtype in TEXT_DTYPES:
        constant = {"random": "hasten", "zeros": "", "ones": "1"}.get(source)
        return _value(source if constant is None else json.dumps(constant), wanted, sizes, np.dtype(object))
    dtype = _dtype(wanted.dtype)
    if source in ("zeros", "ones"):
        return np.full(sizes.shape(wanted), source == "ones", dtype)
    if kind != "random":
        return _value(source, wanted, sizes, dtype)
    try:
        low, high = map(float, bounds) if bounds else (None, None)
    except ValueError:
        raise InputError(f"--input {wanted.name}={source}: a range is random:LOW:HIGH, such as random:0:1.") from None
    return _random(dtype, sizes.shape(wanted), low, high, generator)


def _random(dtype: np.dtype[Any], shape: tuple[int, ...], low: float | None, high: float | None,
            generator: np.random.Generator) -> Array:  # fmt: skip
    """Normal floats, uint8 over its range, other integers from 0 to 9; or uniform from `low` to `high`."""
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        first, last = (
            (0 if low is None else int(low)),
            (255 if dtype.name == "uint8" else 9) if high is None else int(high),
        )
        return generator.integers(first, last, shape, endpoint=True).astype(dtype)
    if low is None or high is None:
        return generator.standard_normal(shape).astype(dtype)
    return generator.uniform(low, high, shape).astype(dtype)


def _value(text: str, wanted: Input, sizes: Sizes, dtype: np.dtype[Any]) -> Array:
    """A number for every element, or a JSON list that has the shape."""
    import numpy as np

    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        if dtype.kind != "O":
            raise InputError(
                f"--input {wanted.name}={text}: neither random, zeros, ones, a number, a JSON list, nor @file."
            ) from None
        value = text
    try:
        array = np.array(value, dtype=dtype)
        if dtype.kind in "iu" and np.array(value).dtype.kind == "f":
            raise ValueError("fractions for an integer input")
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"--input {wanted.name}={text}: does not fit {dtype.name}.") from None
    return array if array.ndim else np.full(sizes.shape(wanted), array[()], dtype)
