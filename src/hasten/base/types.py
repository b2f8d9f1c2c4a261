"""Types as users write them: `Tensor` (a tensor's type), and `adt`, which makes algebraic data types.

    Tree = hasten.adt("Tree", Leaf=[hasten.Tensor((1, 300))], Node=["Tree", "Tree"])
    tree = Tree.Node(Tree.Leaf(x), Tree.Leaf(y))

A value of an algebraic data type is a tuple of its fields; its class says which variant it is. Fields are typed by `Tensor`, int, float, bool,
another data type, this one's name in quotes, a function of no arguments that gives a data type which is defined later, list[...] of one of these, or a
function (collections.abc.Callable[[...], ...]) in values that stay inside of functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hasten.base.errors import InputError, TypeMismatch

_SHORT = {"f": "float", "i": "int", "u": "uint", "bf": "bfloat"}
SCALARS: dict[type, str] = {int: "int64", float: "float64", bool: "bool"}  # Python's numbers and how they are stored


@dataclass(frozen=True)
class Tensor:
    """The type of a tensor: `shape` has ints, and names (or objects with a `name`) for sizes that the run knows; a name that occurs twice is one size.
    `dtype` is NumPy's name or a short one ("f32", "i64"). Raises TypeMismatch."""

    shape: tuple[int | str, ...] = ()
    dtype: str = "float32"

    def __init__(self, shape: Sequence[Any] = (), dtype: Any = "float32"):
        from hasten.base import dtypes  # NumPy is not loaded with the package

        name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype)
        kind = name.rstrip("0123456789")
        name = _SHORT.get(kind, kind) + name[len(kind) :]
        if name not in dtypes.DTYPES or name == "string":
            raise TypeMismatch(f"{dtype!r} is no dtype of a tensor; NumPy's names are taken, as 'float32', 'int64', 'bool'")
        object.__setattr__(self, "shape", tuple(_size(d) for d in shape))
        object.__setattr__(self, "dtype", name)

    def __repr__(self) -> str:
        return f"Tensor(({', '.join(map(str, self.shape))}{',' * (len(self.shape) == 1)}), {self.dtype})"


def _size(d: Any) -> int | str:
    d = getattr(d, "name", d)
    if isinstance(d, str) and d.isidentifier():
        return d
    if isinstance(d, bool) or not isinstance(d, int) or d < 0:
        raise TypeMismatch(f"{d!r} is no size; sizes are ints from 0 on, or names")
    return d


class Data(tuple):  # type: ignore[type-arg]
    """A value of an algebraic data type: the base of all classes that `adt` makes."""

    __slots__ = ()
    variants: ClassVar[tuple[type[Data], ...]] = ()  # of the data type, in the order of their tags
    tag: ClassVar[int] = -1
    types: ClassVar[tuple[Any, ...]] = ()  # as given to `adt`
    family: ClassVar[type[Data]]
    sequence: ClassVar[bool] = False  # in Python its values are lists; see `listing`

    def __new__(cls, *fields: Any) -> Data:
        if cls.tag < 0:
            raise InputError(f"{cls.__name__} has variants: make one of {', '.join(v.__qualname__ for v in cls.variants)}")
        if len(fields) != len(cls.types):
            raise InputError(f"{cls.__qualname__} has {len(cls.types)} fields, {len(fields)} were given")
        return tuple.__new__(cls, fields)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple.__eq__(self, other)  # type: ignore[arg-type]

    __hash__ = tuple.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}({', '.join(map(repr, self))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self)

    @classmethod
    def fields(cls) -> tuple[Any, ...]:
        """The types of a variant's fields, names and functions resolved."""
        return tuple(_resolved(cls.family, t) for t in cls.types)


def _resolved(family: type[Data], t: Any) -> Any:
    if isinstance(t, str):
        return family
    if getattr(t, "__origin__", None) is list:
        return listing(_resolved(family, t.__args__[0]))
    return t() if not isinstance(t, type) and callable(t) and not hasattr(t, "__origin__") else t


def adt(name: str, /, **variants: Sequence[Any]) -> type[Data]:
    """An algebraic data type: a class with one class for each variant, as `Tree.Leaf`. Each variant is given the list of its fields' types; see
    this module's text. Raises TypeMismatch."""
    if not variants:
        raise TypeMismatch(f"the data type {name!r} needs at least one variant, as adt({name!r}, Leaf=[hasten.Tensor((1, 300))])")
    family: type[Data] = type(name, (Data,), {"__slots__": ()})
    family.family = family
    made: list[type[Data]] = []
    for tag, (label, types) in enumerate(variants.items()):
        for t in types:
            _check_field(name, label, t)
        names = tuple(f"f{k}" for k in range(len(types)))
        getters: dict[str, Any] = {field: property(_getter(k)) for k, field in enumerate(names)}
        body = {"__slots__": (), "tag": tag, "types": tuple(types), "__match_args__": names, "__qualname__": f"{name}.{label}", **getters}
        made.append(type(label, (family,), body))
        setattr(family, label, made[-1])
    family.variants = tuple(made)
    return family


def _getter(k: int) -> Callable[[Any], Any]:
    return lambda value: value[k]


def _check_field(name: str, label: str, t: Any) -> None:
    if getattr(t, "__origin__", None) is list:
        return _check_field(name, label, t.__args__[0])
    if getattr(t, "__origin__", None) is Callable:
        return
    fine = isinstance(t, Tensor) or t in SCALARS or t == name or (isinstance(t, type) and issubclass(t, Data))
    if not fine and (isinstance(t, (str, type)) or not callable(t)):
        allowed = f"hasten.Tensor(...), int, float, bool, data types, {name!r}, list[...], Callable[[...], ...]"
        raise TypeMismatch(f"{name}.{label}: {t!r} is no type of a field; allowed are {allowed}")


_lists: dict[Any, type[Data]] = {}


def listing(item: Any) -> type[Data]:
    """The data type of a list[item]: empty, or a list with one item more at its end, so that adding an item shares the rest. In Python such
    values are lists."""
    if item not in _lists:
        name = f"list[{item.__name__ if isinstance(item, type) else item}]"
        _lists[item] = adt(name, Nil=[], Snoc=[name, item])
        _lists[item].sequence = True
    return _lists[item]


def is_list(family: Any) -> bool:
    """Whether a data type was made by `listing`."""
    return bool(getattr(family, "sequence", False))


def reachable(family: type[Data]) -> Iterator[type[Data]]:
    """A data type and all that its fields mention, each once."""
    seen = [family]
    for f in seen:
        yield f
        for variant in f.variants:
            seen.extend(t for t in dict.fromkeys(variant.fields()) if isinstance(t, type) and issubclass(t, Data) and t not in seen)
