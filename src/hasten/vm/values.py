"""Values of data types between Python and a Program.

In Python a value is an instance of a class that `hasten.adt` made (`hasten.base.types`): a tuple of its fields, whose class says its variant; a
sequence is a list, or a tuple. `Values` checks and converts what users feed (`convert`), and for the interpreter makes counted values of it and the
reverse; the native call path does these two in machine code (`hasten.vm.native.values`). All of it goes without recursion: values may be deep.

A Program describes its data types itself, so a loaded model knows its variants without the user's classes. The classes of the first value that comes
in and fits take the place of its own: results are then of these.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hasten.base.errors import InputError, ShapeMismatch, TypeMismatch
from hasten.base.types import SCALARS, Data, Tensor, adt, is_list, reachable
from hasten.vm.arrays import is_exact, kind, shape_text, tensor
from hasten.vm.counted import Buffer, Counted, Counts, Word
from hasten.vm.program import DataType, TensorField, Variant

_LIMIT = 1 << 63  # of int64
NUMBERS: dict[str, type] = {dtype: number for number, dtype in SCALARS.items()}


def describe(family: type[Data]) -> list[DataType]:
    """The data types of a class that `adt` made and all that its fields mention, as a Program has them, itself first."""
    return [
        DataType(f.__name__, tuple(Variant(v.__name__, tuple(map(_field, v.fields()))) for v in f.variants), is_list(f)) for f in reachable(family)
    ]


def _field(t: Any) -> TensorField | str:
    if t in SCALARS:
        return TensorField(SCALARS[t], (), True)
    return TensorField(t.dtype, t.shape) if isinstance(t, Tensor) else t.__name__


def families(types: Sequence[DataType]) -> dict[str, type[Data]]:
    """Classes for data types, by name."""
    made: dict[str, type[Data]] = {}

    def given(owner: str, f: TensorField | str) -> Any:
        if isinstance(f, str):
            return f if f == owner else lambda: made[f]
        return NUMBERS[f.dtype] if f.number else Tensor(f.shape, f.dtype)

    for t in types:
        made[t.name] = adt(t.name, **{v.name: [given(t.name, f) for f in v.fields] for v in t.variants})
        made[t.name].sequence = t.sequence
    return made


class Values:
    """The data types of a Program, and the classes that their values have in Python."""

    def __init__(self, types: Sequence[DataType]):
        self.types = {t.name: t for t in types}
        self.families: dict[str, type[Data]] = families(types)
        self.adopted: Callable[[], None] = lambda: None  # called when the classes have changed
        self._others: dict[type[Data], bool] = {}  # classes that came in, and whether they are of the same structure
        self._taken: set[str] = set()  # data types that have the user's classes

    def fits(self, name: str, value: Any) -> bool:
        """Whether a value has the structure of this data type (its own parts apart). The classes of the first one become those of the model."""
        if isinstance(value, self.families[name]):
            return value.tag >= 0
        if not isinstance(value, Data) or value.tag < 0 or value.family.__name__ != name:
            return False
        family = value.family
        if family not in self._others:
            described = describe(family)
            self._others[family] = all(self.types.get(t.name) == t for t in described) and len({t.name for t in described}) == len(described)
            new = {f.__name__: f for f in reachable(family) if self._others[family] and f.__name__ not in self._taken}
            self._taken.update(new)
            self.families.update(new)
            self.adopted()
        return self._others[family]

    def fields(self, type_name: str, value: Any) -> Iterator[tuple[TensorField | str, Any]]:
        """The parts of a value with their types: fields, or the items of a list."""
        t = self.types[type_name]
        return zip(itertools.repeat(t.variants[1].fields[1], len(value)) if t.sequence else t.variants[value.tag].fields, value, strict=True)

    # --- what users feed ----------------------------------------------------------------------------------------------
    def convert(self, where: str, type_name: str, value: Any) -> Any:
        """The same value with fields exactly as native code takes them; the same object where they are already. Raises TypeMismatch and ShapeMismatch,
        which say where in the value."""
        return _Conversion(self, where).value(type_name, value)

    # --- for the interpreter --------------------------------------------------------------------------------------------
    def counted(self, type_name: str, value: Any, counts: Counts, number: Callable[[str, Any], Buffer]) -> Counted:
        """A counted value of a converted one; `number` gives a Python number memory."""
        root = counts.new()
        work = [(root, type_name, value)]
        while work:
            place, name, v = work.pop()
            words: list[Word] = []
            sizes: dict[str, int] = {}
            last = counts.new(0) if self.types[name].sequence and len(v) else None
            for k, (f, x) in enumerate(self.fields(name, v)):
                if isinstance(f, str):
                    made = counts.new()
                    words.append(made)
                    work.append((made, f, x))
                elif f.number:
                    words.append(number(f.dtype, x))
                else:
                    words.append(Buffer(x.ctypes.data, x))
                    sizes.update((d, s) for d, s in zip(f.shape, x.shape, strict=True) if isinstance(d, str))
                if last is not None:
                    node = place if k == len(v) - 1 else counts.new()
                    node.tag, node.fields = 1, (last, *words, *sizes.values())
                    words, sizes, last = [], {}, node
            if last is None:
                place.tag, place.fields = getattr(v, "tag", 0), (*words, *sizes.values())
        return root

    def python(self, type_name: str, value: Counted, array: Callable[[Buffer, str, tuple[int, ...]], np.ndarray[Any, Any]]) -> Any:
        """The reverse; `array` shows a buffer."""
        root: list[Any] = [None]
        work: list[tuple[list[Any], int, Any, Any]] = [(root, 0, type_name, value)]
        parts: list[tuple[list[Any], int, type[Data] | None, list[Any]]] = []
        while work:
            place, at, name, v = work.pop()
            items: list[Any] = []
            for f, x, sizes in self.words(name, v):
                if isinstance(f, str):
                    work.append((items, len(items), f, x))
                    items.append(None)
                else:
                    found = array(x, f.dtype, tuple(sizes[d] if isinstance(d, str) else d for d in f.shape))
                    items.append(found.item() if f.number else found.copy())
            parts.append((place, at, None if self.types[name].sequence else self.families[name].variants[v.tag], items))
        for place, at, cls, items in reversed(parts):
            place[at] = items if cls is None else tuple.__new__(cls, items)
        return root[0]

    def words(self, type_name: str, v: Counted) -> list[tuple[TensorField | str, Any, dict[str, Any]]]:
        """The parts of a counted value, in the order of Python: type, word, and the sizes that go with it."""
        t = self.types[type_name]
        found: list[tuple[TensorField | str, Any, dict[str, Any]]] = []
        while True:
            variant = t.variants[v.tag]
            sizes = dict(zip(variant.sizes, v.fields[len(variant.fields) :], strict=True))
            parts = [(f, x, sizes) for f, x in zip(variant.fields, v.fields, strict=False)]
            if not t.sequence:
                return parts
            if v.tag == 0:
                return found[::-1]
            found.append(parts[1])
            v = v.fields[0]  # type: ignore[assignment]


class _Conversion:
    """One value that users feed: its parts are visited twice, before and after their own parts."""

    def __init__(self, values: Values, where: str):
        self.values, self.where = values, where
        self.done: dict[tuple[str, int], Any] = {}  # by data type, and the identity of what was given
        self.above: dict[int, tuple[Any, int]] = {}  # of each part, one value that holds it, and where

    def value(self, type_name: str, given: Any) -> Any:
        work = [(type_name, given, False)]
        begun: set[tuple[str, int]] = set()
        while work:
            name, v, ready = work.pop()
            if (name, id(v)) in self.done:
                continue
            if not ready and (name, id(v)) in begun:
                raise InputError(f"{self.place(v)}: a list that holds itself cannot be used")
            begun.add((name, id(v)))
            if ready:
                self.done[name, id(v)] = self.rebuilt(name, v)
                continue
            self.check(name, v)
            work.append((name, v, True))
            for k, (f, x) in enumerate(self.values.fields(name, v)):
                if isinstance(f, str) and (f, id(x)) not in self.done:
                    if x is not given:
                        self.above.setdefault(id(x), (v, k))
                    work.append((f, x, False))
        return self.done[type_name, id(given)]

    def check(self, name: str, v: Any) -> None:
        if self.values.types[name].sequence:
            if isinstance(v, Data) or not isinstance(v, (list, tuple)):
                raise TypeMismatch(f"{self.place(v)}: {_found(v)} cannot be used, the model takes a {name}")
            return
        if not self.values.fits(name, v):
            variants = ", ".join(c.__qualname__ for c in self.values.families[name].variants)
            other = " of another structure" if isinstance(v, Data) and v.family.__name__ == name else ""
            raise TypeMismatch(f"{self.place(v)}: {_found(v)}{other} cannot be used, the model takes a {name} ({variants})")
        wanted = len(self.values.types[name].variants[v.tag].fields)
        if len(v) != wanted:
            raise TypeMismatch(f"{self.place(v)}: a {type(v).__qualname__} has {wanted} fields, this one {len(v)}")

    def rebuilt(self, name: str, v: Any) -> Any:
        sizes: dict[str, int] = {}  # each item of a list has its own
        items = [
            self.done[f, id(x)] if isinstance(f, str) else self.leaf(f, x, (v, k), sizes if isinstance(v, Data) else {})
            for k, (f, x) in enumerate(self.values.fields(name, v))
        ]
        same = all(a is b for a, b in zip(items, v, strict=True))
        if self.values.types[name].sequence:
            return v if same and type(v) in (list, tuple) else items
        cls = self.values.families[name].variants[v.tag]
        return v if same and type(v) is cls else tuple.__new__(cls, items)

    def leaf(self, f: TensorField, x: Any, at: tuple[Any, int], sizes: dict[str, int]) -> Any:
        """`at`: the value that x is a field of, and the field's number."""
        if f.number:
            number = NUMBERS[f.dtype]
            exact: bool = type(x) is number
            fits = exact and (number is not int or -_LIMIT <= x < _LIMIT)
            return x if fits else number(tensor(self.field(at), f.dtype, (), x).item())
        array = x if is_exact(x, f.dtype, len(f.shape)) else tensor(self.field(at), f.dtype, f.shape, x)  # type: ignore[arg-type]
        for axis, (want, got) in enumerate(zip(f.shape, array.shape, strict=True)):
            size = sizes.setdefault(want, got) if isinstance(want, str) else want
            if size != got:
                wanted = f"{want} = {size}" if isinstance(want, str) else str(want)
                raise ShapeMismatch(
                    f"{self.field(at)}: the model takes {f.dtype}{shape_text(f.shape)}, got shape {shape_text(array.shape)}: "  # type: ignore[arg-type]
                    f"axis {axis} must be {wanted}, not {got}"
                )
        return array

    def field(self, at: tuple[Any, int]) -> str:
        return self.place(at[0]) + _step(*at)

    def place(self, v: Any) -> str:
        """Where in the whole a part is: the way there, cut where it is long."""
        steps: list[str] = []
        while id(v) in self.above:
            v, k = self.above[id(v)]
            steps.append(_step(v, k))
        shown = steps[::-1] if len(steps) <= 8 else [*steps[:-5:-1], f", ... ({len(steps) - 8} more)", *steps[3::-1]]
        return self.where + "".join(shown)


def _found(v: Any) -> str:
    if isinstance(v, Data):
        return type(v).__qualname__
    return f"{type(v).__name__} of {len(v)}" if isinstance(v, (list, tuple)) else kind(v)


def _step(holder: Any, k: int) -> str:
    """From a value to a part of it."""
    return f", field {k} of {type(holder).__qualname__}" if isinstance(holder, Data) else f", item {k}"


def number_bytes(dtype: str, x: Any) -> bytes:
    """A Python number as a tensor of rank 0 holds it."""
    return np.asarray(x, dtype).tobytes()


