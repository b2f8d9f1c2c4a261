"""Values of data types between Python and a Program.

In Python a value is an instance of a class that `hasten.adt` made (`hasten.base.types`): a tuple of its fields, whose class says its variant. `Values`
checks and converts what users feed (`convert`), and for the interpreter makes counted values of it and the reverse; the native call path does these
two in machine code (`hasten.vm.native.values`). All of it goes without recursion: values may be deep.

A Program describes its data types itself, so a loaded model knows its variants without the user's classes. The classes of the first value that comes
in and fits take the place of its own: results are then of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hasten.base.errors import ShapeMismatch, TypeMismatch
from hasten.base.types import SCALARS, Data, Tensor, adt, reachable
from hasten.vm.arrays import is_exact, kind, shape_text, tensor
from hasten.vm.counted import Buffer, Counted, Counts
from hasten.vm.program import DataType, TensorField, Variant

_LIMIT = 1 << 63  # of int64
NUMBERS: dict[str, type] = {dtype: number for number, dtype in SCALARS.items()}


def describe(family: type[Data]) -> list[DataType]:
    """The data types of a class that `adt` made and all that its fields mention, as a Program has them, itself first."""
    return [DataType(f.__name__, tuple(Variant(v.__name__, tuple(map(_field, v.fields()))) for v in f.variants)) for f in reachable(family)]


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
    return made


class Values:
    """The data types of a Program, and the classes that their values have in Python."""

    def __init__(self, types: Sequence[DataType]):
        self.types = {t.name: t for t in types}
        self.families: dict[str, type[Data]] = families(types)
        self.adopted: Callable[[], None] = lambda: None  # called when the classes have changed
        self._others: dict[type[Data], bool] = {}  # classes that came in, and whether they are of the same structure

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
            if self._others[family] and len(self._others) == 1:
                self.families.update({f.__name__: f for f in reachable(family)})
                self.adopted()
        return self._others[family]

    def fields(self, type_name: str, value: Any) -> tuple[TensorField | str, ...]:
        return self.types[type_name].variants[value.tag].fields

    # --- what users feed ----------------------------------------------------------------------------------------------
    def convert(self, where: str, type_name: str, value: Any) -> Data:
        """The same value with fields exactly as native code takes them; the same object where they are already. Raises TypeMismatch and ShapeMismatch,
        which say where in the value."""
        return _Conversion(self, where).value(type_name, value)

    # --- for the interpreter --------------------------------------------------------------------------------------------
    def counted(self, type_name: str, value: Data, counts: Counts, number: Callable[[str, Any], Buffer]) -> Counted:
        """A counted value of a converted one; `number` gives a Python number memory."""
        root = counts.new()
        work = [(root, type_name, value)]
        while work:
            place, name, v = work.pop()
            words: list[Any] = []
            sizes: dict[str, int] = {}
            for f, x in zip(self.fields(name, v), v, strict=True):
                if isinstance(f, str):
                    words.append(counts.new())
                    work.append((words[-1], f, x))
                elif f.number:
                    words.append(number(f.dtype, x))
                else:
                    words.append(Buffer(x.ctypes.data, x))
                    sizes.update((d, s) for d, s in zip(f.shape, x.shape, strict=True) if isinstance(d, str))
            place.tag, place.fields = v.tag, (*words, *sizes.values())
        return root

    def python(self, type_name: str, value: Counted, array: Callable[[Buffer, str, tuple[int, ...]], np.ndarray[Any, Any]]) -> Data:
        """The reverse; `array` shows a buffer."""
        root: list[Any] = [None]
        work: list[tuple[list[Any], int, Any, Any]] = [(root, 0, type_name, value)]
        parts: list[tuple[list[Any], int, type[Data], list[Any]]] = []
        while work:
            place, at, name, v = work.pop()
            variant = self.types[name].variants[v.tag]
            sizes = dict(zip(variant.sizes, v.fields[len(variant.fields) :], strict=True))
            items: list[Any] = []
            for k, (f, x) in enumerate(zip(variant.fields, v.fields, strict=False)):
                if isinstance(f, str):
                    items.append(None)
                    work.append((items, k, f, x))
                else:
                    found = array(x, f.dtype, tuple(sizes[d] if isinstance(d, str) else d for d in f.shape))
                    items.append(found.item() if f.number else found.copy())
            parts.append((place, at, self.families[name].variants[v.tag], items))
        for place, at, cls, items in reversed(parts):
            place[at] = tuple.__new__(cls, items)
        return root[0]  # type: ignore[no-any-return]


class _Conversion:
    """One value that users feed: its parts are visited twice, before and after their own parts."""

    def __init__(self, values: Values, where: str):
        self.values, self.where = values, where
        self.done: dict[tuple[str, int], Any] = {}  # by data type, and the identity of what was given
        self.above: dict[int, tuple[Any, int]] = {}  # of each part, one value that holds it, and where

    def value(self, type_name: str, given: Any) -> Data:
        work = [(type_name, given, False)]
        while work:
            name, v, ready = work.pop()
            if (name, id(v)) in self.done:
                continue
            if ready:
                self.done[name, id(v)] = self.rebuilt(name, v)
                continue
            self.check(name, v)
            work.append((name, v, True))
            for k, (f, x) in enumerate(zip(self.values.fields(name, v), v, strict=True)):
                if isinstance(f, str) and (f, id(x)) not in self.done:
                    self.above.setdefault(id(x), (v, k))
                    work.append((f, x, False))
        return self.done[type_name, id(given)]  # type: ignore[no-any-return]

    def check(self, name: str, v: Any) -> None:
        if not self.values.fits(name, v):
            variants = ", ".join(c.__qualname__ for c in self.values.families[name].variants)
            found = type(v).__qualname__ if isinstance(v, Data) else kind(v)
            other = " of another structure" if isinstance(v, Data) and v.family.__name__ == name else ""
            raise TypeMismatch(f"{self.place(v)}: {found}{other} cannot be used, the model takes a {name} ({variants})")
        wanted = len(self.values.fields(name, v))
        if len(v) != wanted:
            raise TypeMismatch(f"{self.place(v)}: a {type(v).__qualname__} has {wanted} fields, this one {len(v)}")

    def rebuilt(self, name: str, v: Any) -> Any:
        sizes: dict[str, int] = {}
        items = [
            self.done[f, id(x)] if isinstance(f, str) else self.leaf(f, x, (v, k), sizes)
            for k, (f, x) in enumerate(zip(self.values.fields(name, v), v, strict=True))
        ]
        cls = self.values.families[name].variants[v.tag]
        same = type(v) is cls and all(a is b for a, b in zip(items, v, strict=True))
        return v if same else tuple.__new__(cls, items)

    def leaf(self, f: TensorField, x: Any, at: tuple[Any, int], sizes: dict[str, int]) -> Any:
        """`at`: the value that x is a field of, and the field's number."""
        if f.number:
            exact = NUMBERS[f.dtype]
            return x if type(x) is exact and (exact is not int or -_LIMIT <= x < _LIMIT) else exact(tensor(self.field(at), f.dtype, (), x).item())
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
        return f"{self.place(at[0])}, field {at[1]} of {type(at[0]).__qualname__}"

    def place(self, v: Any) -> str:
        """Where in the whole a part is: the way there, cut where it is long."""
        steps: list[str] = []
        while id(v) in self.above:
            v, k = self.above[id(v)]
            steps.append(f", field {k} of {type(v).__qualname__}")
        shown = steps[::-1] if len(steps) <= 8 else [*steps[:-5:-1], f", ... ({len(steps) - 8} more)", *steps[3::-1]]
        return self.where + "".join(shown)


def number_bytes(dtype: str, x: Any) -> bytes:
    """A Python number as a tensor of rank 0 holds it."""
    return np.asarray(x, dtype).tobytes()


