"""Values of data types between Python and counted memory, as generated code; `hasten.vm.values` is the same in Python.

    hst_value_in(pool, object, type) -> p or null     a counted value of a tuple whose class is the one in the model's context; null where anything is
                                                      unusual (another class, an array of another dtype, shape or order): then the slow way says what
    hst_value_out(pool, p, type) -> object or null    the reverse; null with an exception of Python set
    hst_let_go(pool)                                  gives up what hst_value_in has kept alive

Neither recurses. On the way in, a value that waits for its turn is noted in the place where it will be: a list for each data type is linked through these
fields. On the way out a tuple is made when its value is met, and filled when its turn comes. Arrays are used where they lie on the way in (the caller
keeps them alive; of lists, which other threads may change meanwhile, a tuple is kept), and copied on the way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hasten.base.dtypes import dtype
from hasten.codegen.builder import Function, Module, V, Var
from hasten.vm import abi
from hasten.vm.abi import Word
from hasten.vm.native import counted
from hasten.vm.native.arrays import TYPE, read_array, wrap_copy
from hasten.vm.native.memory import context_word
from hasten.vm.program import Program, TensorField, Variant

VALUE_IN, VALUE_OUT, LET_GO = "hst_value_in", "hst_value_out", "hst_let_go"
SIZE = 16  # offset of the number of items in a tuple object
_INTERNAL = "nounwind noinline"
_TUPLE, _NODE_BYTES = 16, 24  # on the way out: next node, value, tuple

_NUMBERS = {"int64": 0, "float64": 1, "bool": 2}
"""dtypes of Python's numbers, in the order of `Word.CLASSES`."""
_LIST, _TUPLE_CLASS = 3, 4
_MOST = 1 << 22
"""Lists in one input: those that hold themselves have no end, and go the slow way, which finds that out."""


def emit_values(module: Module, program: Program) -> None:
    """The functions of this page, for a Program with values among its inputs or outputs."""
    _In(module, program).emit()
    _Out(module, program).emit()
    _emit_let_go(module)


def _emit_let_go(module: Module) -> None:
    f = module.function(LET_GO, [("pool", "ptr")], "void", _INTERNAL, internal=True)
    kept = f.var("ptr", f.load("ptr", f.offset(f.args[0], counted.KEPT)))
    with f.forever() as loop:
        node = kept.get()
        loop.break_if(node.eq(f.const("ptr", 0)))
        kept.set(f.load("ptr", node))
        f.call("Py_DecRef", "void", [f.load("ptr", f.offset(node, 8))])
    f.ret()


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
    count: Var  # lists so far

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
        if any(t.sequence for t in self.program.types):
            self.count = f.var("i64", 0)
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
        if self.program.types[number].sequence:
            self.count.set(self.count.get() + 1)
            self.need(self.count.get() < _MOST)
            self.sequence(place, given, cls, self.program.types[number].variants[1])
            return
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
        self.need(f.load("i64", f.offset(given, SIZE)).eq(len(variant.fields)))
        p = self.value(tag, len(variant.fields) + len(variant.sizes))
        self.put(p, p, place)
        sizes: dict[str, V] = {}
        for n, x in enumerate(variant.fields):
            self.field(x, f.call("PyTuple_GetItem", "ptr", [given, f.const("i64", n)]), f.offset(p, counted.WORDS * n), sizes)
        self.sizes(p, len(variant.fields), sizes)

    def sequence(self, place: V, given: V, cls: V, variant: Variant) -> None:
        """A list or a tuple, from its first item on."""
        f = self.f
        is_list = cls.eq(f.load("ptr", context_word(f, Word.CLASSES + _LIST)))
        self.need(is_list | cls.eq(f.load("ptr", context_word(f, Word.CLASSES + _TUPLE_CLASS))))
        items, last = f.var("ptr", given), f.var("ptr", self.value(0, 0))
        with f.when(is_list):
            items.set(self.kept(f.call("PyList_AsTuple", "ptr", [given])))
        with f.loop(0, f.load("i64", f.offset(items.get(), SIZE))) as n:
            p = self.value(1, 2 + len(variant.sizes))
            self.put(last.get(), last.get(), p)
            sizes: dict[str, V] = {}
            self.field(variant.fields[1], f.call("PyTuple_GetItem", "ptr", [items.get(), n]), f.offset(p, counted.WORDS), sizes)
            self.sizes(p, 2, sizes)
            last.set(p)
        self.put(last.get(), last.get(), place)

    def kept(self, made: V) -> V:
        """An object that lives until hst_let_go."""
        f = self.f
        with f.when(made.eq(self.null)):
            f.call("PyErr_Clear", "void", [])
            f.jump("unusual")
        node = f.call(counted.NEW, "ptr", [self.pool, f.const("i64", 16)])
        with f.when(node.eq(self.null)):
            f.call("Py_DecRef", "void", [made])
            f.jump("unusual")
        alive = f.offset(self.pool, counted.ALIVE)
        f.store(f.load("i64", alive) - 1, alive)  # not the run's
        f.store(f.load("ptr", f.offset(self.pool, counted.KEPT)), node)
        f.store(made, f.offset(node, 8))
        f.store(node, f.offset(self.pool, counted.KEPT))
        return made

    def field(self, x: TensorField | str, item: V, at: V, sizes: dict[str, V]) -> None:
        if isinstance(x, str):
            self.wait(at, item, self.types[x])
        elif x.number:
            data = self.number(x.dtype, item)
            self.put(data, data, at)
        else:
            self.put(self.tensor(x, item, sizes), self.null, at)

    def sizes(self, p: V, first: int, sizes: dict[str, V]) -> None:
        for n, size in enumerate(sizes.values(), first):
            self.put(size, self.null, self.f.offset(p, counted.WORDS * n))

    def put(self, word: V, reference: V, place: V) -> None:
        self.f.store(word, place)
        self.f.store(reference, self.f.offset(place, 8))

    def value(self, tag: int, fields: int) -> V:
        f = self.f
        p = self.new(counted.WORDS * fields)
        f.store(f.const("i64", tag), f.offset(p, counted.TAG))
        f.store(f.const("i64", fields), f.offset(p, counted.FIELDS))
        return p

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
        kind = f.load("ptr", context_word(f, Word.CLASSES + _NUMBERS[name]))
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
        """An empty tuple (a list of a sequence) for a value of this data type."""
        f = self.f
        if self.program.types[number].sequence:
            made = f.call("PyList_New", "ptr", [self.length(p)])
            self.need(made, failed)
            return made
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
        if self.program.types[number].sequence:
            self.items(self.program.types[number].variants[1], p, made)
            return
        for which, variant in enumerate(self.program.types[number].variants):
            with f.when(tag.eq(which)):
                self.fields(variant, p, made)
                f.jump(done)
        f.place(done)

    def fields(self, variant: Variant, p: V, made: V) -> None:
        sizes = self.sizes(variant, p)
        for n, x in enumerate(variant.fields):
            self.put("PyTuple_SetItem", made, self.f.const("i64", n), x, self.f.offset(p, counted.WORDS * n), sizes)

    def sizes(self, variant: Variant, p: V) -> dict[str, V]:
        f = self.f
        return {d: f.load("i64", f.offset(p, counted.WORDS * n)) for n, d in enumerate(variant.sizes, len(variant.fields))}

    def put(self, setter: str, made: V, index: V, x: TensorField | str, field: V, sizes: dict[str, V]) -> None:
        """Item number `index` of a tuple or list := a field."""
        f = self.f
        data = f.load("ptr", field)
        if isinstance(x, str):
            item = self.made(self.types[x], data)
        elif x.number:
            item = self.number(x.dtype, data)
        else:
            dims = [f.const("i64", d) if isinstance(d, int) else sizes[d] for d in x.shape]
            item = wrap_copy(f, self.descriptor(x.dtype), data, dims, dtype(x.dtype).size)
        self.need(item)
        f.call(setter, "i32", [made, index, item])
        if isinstance(x, str):
            self.wait(self.types[x], data, item)

    def length(self, p: V) -> V:
        """Of a sequence."""
        f = self.f
        node, count = f.var("ptr", p), f.var("i64", 0)
        with f.forever() as loop:
            loop.break_if(f.load("i64", f.offset(node.get(), counted.TAG)).eq(0))
            node.set(f.load("ptr", node.get()))
            count.set(count.get() + 1)
        return count.get()

    def items(self, variant: Variant, p: V, made: V) -> None:
        """The items of a sequence, from the last one on."""
        f = self.f
        node, index = f.var("ptr", p), f.var("i64", f.load("i64", f.offset(made, SIZE)))
        with f.forever() as loop:
            loop.break_if(index.get().eq(0))
            index.set(index.get() - 1)
            self.put("PyList_SetItem", made, index.get(), variant.fields[1], f.offset(node.get(), counted.WORDS), self.sizes(variant, node.get()))
            node.set(f.load("ptr", node.get()))

    def number(self, name: str, data: V) -> V:
        f = self.f
        if name == "float64":
            return f.call("PyFloat_FromDouble", "ptr", [f.load("double", data)])
        if name == "bool":
            return f.call("PyBool_FromLong", "ptr", [f.cast(f.load("i8", data), "i64")])
        return f.call("PyLong_FromLongLong", "ptr", [f.load("i64", data)])
