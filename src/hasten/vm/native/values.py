"""Values of data types between Python and counted memory, as generated code; `hasten.vm.values` is the same in Python.

    hst_value_in(pool, object, type) -> p or null     a counted value of a tuple whose class is the one in the model's context; null where anything is
                                                      unusual (another class, an array of another dtype, shape or order): then the slow way says what
    hst_value_out(pool, p, type) -> object or null    the reverse; null with an exception of Python set

Neither recurses. On the way in, a value that waits for its turn is noted in the place where it will be: a list for each data type is linked through these
fields. On the way out a tuple is made when its value is met, and filled when its turn comes. Arrays are used where they lie on the way in (the caller
keeps them alive), and copied on the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hasten.base.dtypes import dtype
from hasten.codegen.builder import Function, Module, V
from hasten.vm import abi
from hasten.vm.abi import Word
from hasten.vm.native import counted
from hasten.vm.native.arrays import TYPE, read_array, wrap_copy
from hasten.vm.native.memory import context_word
from hasten.vm.program import Program, TensorField, Variant

VALUE_IN, VALUE_OUT = "hst_value_in", "hst_value_out"
SIZE = 16  # offset of the number of items in a tuple object
_INTERNAL = "nounwind noinline"
_TUPLE, _NODE_BYTES = 16, 24  # on the way out: next node, value, tuple

_NUMBERS = {"int64": 0, "float64": 1, "bool": 2}
"""dtypes of Python's numbers, in the order of `Word.NUMBERS`."""


def emit_values(module: Module, program: Program) -> None:
    """hst_value_in and hst_value_out, for a Program with values among its inputs or outputs."""
    _In(module, program).emit()
    _Out(module, program).emit()


class _Way:
    """One of the two functions: work that waits, by data type."""

    def __init__(self, module: Module, program: Program, name: str):
        self.program = program
        self.f: Function = module.function(name, [("pool", "ptr"), ("given", "ptr"), ("type", "i64")], "ptr", _INTERNAL, internal=True)
        self.pool = self.f.args[0]
        self.types = {t.name: number for number, t in enumerate(program.types)}
        self.heads = self.f.alloca(8 * len(program.types), 16)
        self.dtypes = {d: n for n, d in enumerate(abi.field_dtypes(program))}
        self.null = self.f.const("ptr", 0)

    def head(self, number: int | V) -> V:
        return self.f.at(self.heads, number, 8)

    def descriptor(self, name: str) -> V:
        word = Word.DESCRIPTORS + len(self.program.inputs) + len(self.program.outputs) + self.dtypes[name]
        return self.f.load("ptr", context_word(self.f, word))

    def variants(self) -> Iterator[tuple[int, int, Variant, V]]:
        """Number of the data type, tag, variant, class of Python."""
        word = abi.first_class(self.program)
        for number, t in enumerate(self.program.types):
            for tag, variant in enumerate(t.variants):
                yield number, tag, variant, self.f.load("ptr", context_word(self.f, word))
                word += 1

    def until_done(self, take: Callable[[int], V], part: Callable[[int, V], None]) -> None:
        """`part` for everything that waits, `take` being what takes it out of its list."""
        f = self.f
        with f.forever() as loop:
            more = f.var("i1", False)
            for number in range(len(self.program.types)):
                with f.when(f.load("ptr", self.head(number)).ne(self.null)):
                    more.set(True)
                    part(number, take(number))
            loop.break_if(~more.get())


class _In(_Way):
    def __init__(self, module: Module, program: Program):
        super().__init__(module, program, VALUE_IN)

    def need(self, condition: V) -> None:
        after = self.f.label("go")
        self.f.branch(condition, after, "unusual")
        self.f.place(after)

    def emit(self) -> None:
        f = self.f
        for number in range(len(self.types)):
            f.store(self.null, self.head(number))
        root = f.alloca(counted.WORDS, 16)
        self.wait(root, f.args[1], f.args[2])
        self.until_done(self.take, self.part)
        f.ret(f.load("ptr", root))
        f.place("unusual")
        f.ret(self.null)

    def wait(self, place: V, given: V, number: int | V) -> None:
        f = self.f
        f.store(given, place)
        f.store(f.load("ptr", self.head(number)), f.offset(place, 8))
        f.store(place, self.head(number))

    def take(self, number: int) -> V:
        f = self.f
        place = f.load("ptr", self.head(number))
        f.store(f.load("ptr", f.offset(place, 8)), self.head(number))
        return place

    def part(self, number: int, place: V) -> None:
        f = self.f
        given = f.load("ptr", place)
        cls = f.load("ptr", f.offset(given, TYPE))
        done = f.label("done")
        for of, tag, variant, wanted in self.variants():
            if of == number:
                with f.when(cls.eq(wanted)):
                    self.variant(place, given, tag, variant)
                    f.jump(done)
        f.jump("unusual")
        f.place(done)

    def variant(self, place: V, given: V, tag: int, variant: Variant) -> None:
        f = self.f
        count = len(variant.fields) + len(variant.sizes)
        self.need(f.load("i64", f.offset(given, SIZE)).eq(len(variant.fields)))
        p = self.new(counted.WORDS * count)
        f.store(f.const("i64", tag), f.offset(p, counted.TAG))
        f.store(f.const("i64", count), f.offset(p, counted.FIELDS))
        f.store(p, place)
        f.store(p, f.offset(place, 8))
        sizes: dict[str, V] = {}
        for n, x in enumerate(variant.fields):
            at = f.offset(p, counted.WORDS * n)
            item = f.call("PyTuple_GetItem", "ptr", [given, f.const("i64", n)])
            if isinstance(x, str):
                self.wait(at, item, self.types[x])
            elif x.number:
                data = self.number(x.dtype, item)
                f.store(data, at)
                f.store(data, f.offset(at, 8))
            else:
                f.store(self.tensor(x, item, sizes), at)
                f.store(self.null, f.offset(at, 8))
        for n, size in enumerate(sizes.values(), len(variant.fields)):
            f.store(size, f.offset(p, counted.WORDS * n))
            f.store(self.null, f.offset(p, counted.WORDS * n + 8))

    def new(self, size: int) -> V:
        p = self.f.call(counted.NEW, "ptr", [self.pool, self.f.const("i64", size)])
        self.need(p.ne(self.null))
        return p

    def tensor(self, x: TensorField, item: V, sizes: dict[str, V]) -> V:
        data, dims = read_array(self.f, item, self.descriptor(x.dtype), len(x.shape), self.need)
        for want, got in zip(x.shape, dims, strict=True):
            if isinstance(want, int):
                self.need(got.eq(want))
            elif want in sizes:
                self.need(got.eq(sizes[want]))
            else:
                sizes[want] = got
        return data

    def number(self, name: str, item: V) -> V:
        f = self.f
        kind = f.load("ptr", context_word(f, Word.NUMBERS + _NUMBERS[name]))
        self.need(f.load("ptr", f.offset(item, TYPE)).eq(kind))
        p = self.new(8)
        if name == "float64":
            f.store(f.call("PyFloat_AsDouble", "double", [item]), p)
        elif name == "bool":
            f.store(f.cast(f.call("PyObject_IsTrue", "i32", [item]), "i8"), p)
        else:
            overflow = f.alloca(4, 4)
            f.store(f.call("PyLong_AsLongLongAndOverflow", "i64", [item, overflow]), p)
            self.need(f.load("i32", overflow).eq(0))
        return p


class _Out(_Way):
    def __init__(self, module: Module, program: Program):
        super().__init__(module, program, VALUE_OUT)

    def need(self, p: V, label: str = "failed") -> None:
        after = self.f.label("go")
        self.f.branch(p.ne(self.null), after, label)
        self.f.place(after)

    def emit(self) -> None:
        f = self.f
        for number in range(len(self.types)):
            f.store(self.null, self.head(number))
        root = f.var("ptr", self.null)
        for number in range(len(self.types)):
            with f.when(f.args[2].eq(number)):
                root.set(self.made(number, f.args[1], "nothing"))
                self.wait(number, f.args[1], root.get())
        self.until_done(self.take, self.part)
        f.ret(root.get())
        f.place("failed")
        f.call("Py_DecRef", "void", [root.get()])
        f.place("nothing")
        f.ret(self.null)

    def made(self, number: int, p: V, failed: str = "failed") -> V:
        """An empty tuple for a value of this data type."""
        f = self.f
        tag, cls, count = f.load("i64", f.offset(p, counted.TAG)), f.var("ptr", self.null), f.var("i64", 0)
        for of, which, variant, wanted in self.variants():
            if of == number:
                hit = tag.eq(which)
                cls.set(f.select(hit, wanted, cls.get()))
                count.set(f.select(hit, len(variant.fields), count.get()))
        made = f.call("PyType_GenericAlloc", "ptr", [cls.get(), count.get()])
        self.need(made, failed)
        return made

    def wait(self, number: int, p: V, made: V) -> None:
        f = self.f
        node = f.call(counted.NEW, "ptr", [self.pool, f.const("i64", _NODE_BYTES)])
        with f.when(node.eq(self.null)):
            f.call("PyErr_NoMemory", "ptr", [])
            f.jump("failed")
        f.store(f.load("ptr", self.head(number)), node)
        f.store(p, f.offset(node, 8))
        f.store(made, f.offset(node, _TUPLE))
        f.store(node, self.head(number))

    def take(self, number: int) -> V:
        f = self.f
        node = f.load("ptr", self.head(number))
        f.store(f.load("ptr", node), self.head(number))
        return node

    def part(self, number: int, node: V) -> None:
        f = self.f
        p, made = f.load("ptr", f.offset(node, 8)), f.load("ptr", f.offset(node, _TUPLE))
        tag, done = f.load("i64", f.offset(p, counted.TAG)), f.label("done")
        counted.release(f, self.pool, node)
        for which, variant in enumerate(self.program.types[number].variants):
            with f.when(tag.eq(which)):
                self.fields(variant, p, made)
                f.jump(done)
        f.place(done)

    def fields(self, variant: Variant, p: V, made: V) -> None:
        f = self.f
        sizes = {d: f.load("i64", f.offset(p, counted.WORDS * n)) for n, d in enumerate(variant.sizes, len(variant.fields))}
        for n, x in enumerate(variant.fields):
            data = f.load("ptr", f.offset(p, counted.WORDS * n))
            if isinstance(x, str):
                item = self.made(self.types[x], data)
            elif x.number:
                item = self.number(x.dtype, data)
            else:
                dims = [f.const("i64", d) if isinstance(d, int) else sizes[d] for d in x.shape]
                item = wrap_copy(f, self.descriptor(x.dtype), data, dims, dtype(x.dtype).size)
            self.need(item)
            f.call("PyTuple_SetItem", "i32", [made, f.const("i64", n), item])
            if isinstance(x, str):
                self.wait(self.types[x], data, item)

    def number(self, name: str, data: V) -> V:
        f = self.f
        if name == "float64":
            return f.call("PyFloat_FromDouble", "ptr", [f.load("double", data)])
        if name == "bool":
            return f.call("PyBool_FromLong", "ptr", [f.cast(f.load("i8", data), "i64")])
        return f.call("PyLong_FromLongLong", "ptr", [f.load("i64", data)])
