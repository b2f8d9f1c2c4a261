"""A small typed builder of LLVM text: what templates are written in.

    module = Module(isa)
    f = module.function("scale", [("x", "ptr"), ("n", "i64")])
    x, n = f.args
    with f.loop(0, n) as i:                       # i64 counter, any step
        v = f.load("float", f.at(x, i, 4))        # x + 4 * i bytes
        f.store(v * 2.0, f.at(x, i, 4))
    f.ret()
    text = module.text()

Values (`V`) carry their LLVM type and overload Python's operators (integers are signed; comparisons give i1 or a vector of it; Python
numbers become constants of the other operand's type, splatted for vectors). Mutable variables (`f.var`) live in allocas that LLVM's SROA turns
into registers. The same calls give the same text: names are counters, no addresses, no hashes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hasten.codegen.isa import Isa

Number = int | float | bool

FLOATS = {"half": 16, "bfloat": 16, "float": 32, "double": 64}
_ABBREVIATION = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}


def lanes_of(t: str) -> int:
    """Number of lanes of a type; 1 for scalars."""
    return int(t[1 : t.index(" x")]) if t.startswith("<") else 1


def element_of(t: str) -> str:
    """Element type of a vector type, or the scalar type itself."""
    return t[t.index(" x ") + 3 : -1] if t.startswith("<") else t


def vector(t: str, lanes: int) -> str:
    """`t` with that many lanes (`lanes == 1`: the scalar)."""
    return t if lanes == 1 else f"<{lanes} x {t}>"


def is_float(t: str) -> bool:
    return element_of(t) in FLOATS


def bits_of(t: str) -> int:
    """Bits of one element."""
    e = element_of(t)
    return FLOATS[e] if e in FLOATS else 64 if e == "ptr" else int(e[1:])


def _mangle(t: str) -> str:
    e = element_of(t)
    name = _ABBREVIATION.get(e, e)
    return f"v{lanes_of(t)}{name}" if t.startswith("<") else name


def literal(t: str, value: Number) -> str:
    """The text of a scalar constant of element type t. Floats are exact bit patterns."""
    if t == "i1":
        return "true" if value else "false"
    if t.startswith("i"):
        return str(int(value))
    if t == "half":
        return f"0xH{struct.unpack('<H', struct.pack('<e', value))[0]:04X}"
    if t == "bfloat":
        return f"0xR{struct.unpack('<I', struct.pack('<f', value))[0] >> 16:04X}"
    if t == "float":
        value = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


class V:
    """A typed value: an LLVM register, argument or constant."""

    __slots__ = ("f", "type", "name")

    def __init__(self, f: Function, t: str, name: str):
        self.f, self.type, self.name = f, t, name

    @property
    def lanes(self) -> int:
        return lanes_of(self.type)

    def __repr__(self) -> str:
        return f"{self.type} {self.name}"

    def _binary(self, other: V | Number, int_op: str, float_op: str | None, swap: bool = False) -> V:
        a, b = self, self.f.coerce(other, self.type)
        if b.type != a.type:
            a, b = self.f.unify(a, b)
        if swap:
            a, b = b, a
        op = (float_op or "") if is_float(a.type) else int_op
        return self.f.emit(a.type, f"{op} {a.type} {a.name}, {b.name}")

    def __add__(self, o: V | Number) -> V:
        return self._binary(o, "add", "fadd")

    def __sub__(self, o: V | Number) -> V:
        return self._binary(o, "sub", "fsub")

    def __mul__(self, o: V | Number) -> V:
        return self._binary(o, "mul", "fmul")

    def __truediv__(self, o: V | Number) -> V:
        return self._binary(o, "sdiv", "fdiv")

    def __floordiv__(self, o: V | Number) -> V:
        """Truncating signed division (LLVM sdiv): the caller guarantees a nonzero divisor."""
        return self._binary(o, "sdiv", "fdiv")

    def __mod__(self, o: V | Number) -> V:
        return self._binary(o, "srem", "frem")

    def __radd__(self, o: Number) -> V:
        return self._binary(o, "add", "fadd", swap=True)

    def __rsub__(self, o: Number) -> V:
        return self._binary(o, "sub", "fsub", swap=True)

    def __rmul__(self, o: Number) -> V:
        return self._binary(o, "mul", "fmul", swap=True)

    def __rtruediv__(self, o: Number) -> V:
        return self._binary(o, "sdiv", "fdiv", swap=True)

    def __and__(self, o: V | Number) -> V:
        return self._binary(o, "and", None)

    def __or__(self, o: V | Number) -> V:
        return self._binary(o, "or", None)

    def __xor__(self, o: V | Number) -> V:
        return self._binary(o, "xor", None)

    def __lshift__(self, o: V | Number) -> V:
        return self._binary(o, "shl", None)

    def __rshift__(self, o: V | Number) -> V:
        """Arithmetic shift right; `lshr` for the logical one."""
        return self._binary(o, "ashr", None)

    def lshr(self, o: V | Number) -> V:
        return self._binary(o, "lshr", None)

    def udiv(self, o: V | Number) -> V:
        return self._binary(o, "udiv", None)

    def urem(self, o: V | Number) -> V:
        return self._binary(o, "urem", None)

    def __neg__(self) -> V:
        return self.f.emit(self.type, f"fneg {self.type} {self.name}") if is_float(self.type) else 0 - self

    def __invert__(self) -> V:
        return self ^ (1 if element_of(self.type) == "i1" else -1)

    def _compare(self, o: V | Number, int_op: str, float_op: str) -> V:
        a, b = self, self.f.coerce(o, self.type)
        if b.type != a.type:
            a, b = self.f.unify(a, b)
        op = f"fcmp {float_op}" if is_float(a.type) else f"icmp {int_op}"
        return self.f.emit(vector("i1", a.lanes), f"{op} {a.type} {a.name}, {b.name}")

    def __lt__(self, o: V | Number) -> V:
        return self._compare(o, "slt", "olt")

    def __le__(self, o: V | Number) -> V:
        return self._compare(o, "sle", "ole")

    def __gt__(self, o: V | Number) -> V:
        return self._compare(o, "sgt", "ogt")

    def __ge__(self, o: V | Number) -> V:
        return self._compare(o, "sge", "oge")

    def eq(self, o: V | Number) -> V:
        return self._compare(o, "eq", "oeq")

    def ne(self, o: V | Number) -> V:
        return self._compare(o, "ne", "une")

    def ult(self, o: V | Number) -> V:
        return self._compare(o, "ult", "ult")

    def is_nan(self) -> V:
        return self._compare(self, "ne", "uno")


class Var:
    """A mutable variable; LLVM turns it into registers."""

    __slots__ = ("f", "type", "slot")

    def __init__(self, f: Function, t: str, slot: V):
        self.f, self.type, self.slot = f, t, slot

    def get(self) -> V:
        return self.f.emit(self.type, f"load {self.type}, ptr {self.slot.name}")

    def set(self, value: V | Number) -> None:
        value = self.f.coerce(value, self.type)
        self.f.line(f"store {self.type} {value.name}, ptr {self.slot.name}")


class Function:
    """One function under construction. `args` are its argument values."""

    def __init__(self, module: Module, name: str, args: Sequence[tuple[str, str]], ret: str, attributes: str, internal: bool):
        self.module, self.isa, self.name, self.ret_type = module, module.isa, name, ret
        self._lines: list[str] = []
        self._allocas: list[str] = []
        self._count = 0
        self._labels = 0
        self._done = False  # the current block has its terminator
        self.args = [V(self, t, f"%{n}") for n, t in args]
        params = ", ".join(f"{t} %{n}" for n, t in args)
        self._head = f"define {'internal ' if internal else ''}{ret} @{name}({params}) {attributes}".rstrip() + " {"

    # --- raw text -----------------------------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        if not self._done:
            self._lines.append("  " + text)

    def emit(self, t: str, text: str) -> V:
        """Append `%vN = text` and return the register of type t."""
        name = f"%v{self._count}"
        self._count += 1
        self.line(f"{name} = {text}")
        return V(self, t, name)

    def label(self, hint: str) -> str:
        self._labels += 1
        return f"{hint}{self._labels}"

    def place(self, label: str) -> None:
        """Begin the block `label`; falls through from the current one where that has no terminator."""
        if not self._done:
            self._lines.append(f"  br label %{label}")
        self._lines.append(f"{label}:")
        self._done = False

    def jump(self, label: str) -> None:
        self.line(f"br label %{label}")
        self._done = True

    def branch(self, cond: V, then: str, other: str) -> None:
        self.line(f"br i1 {cond.name}, label %{then}, label %{other}")
        self._done = True

    def switch(self, value: V, default: str, labels: Sequence[str]) -> None:
        """To `labels[value - 1]`, or to `default` for all other values."""
        cases = " ".join(f"{value.type} {n + 1}, label %{label}" for n, label in enumerate(labels))
        self.line(f"switch {value}, label %{default} [{cases}]")
        self._done = True

    def jump_to(self, target: V, args: Sequence[V]) -> None:
        """Leave this function, which returns nothing, for another one with the same types of arguments: it returns to our caller."""
        self.line(f"musttail call void {target.name}({', '.join(map(repr, args))})")
        self.ret()

    def ret(self, value: V | None = None) -> None:
        self.line("ret void" if value is None else f"ret {value.type} {value.name}")
        self._done = True

    def text(self) -> str:
        if not self._done:
            self.ret()
        return "\n".join([self._head, "entry:", *self._allocas, *self._lines, "}"])

    # --- constants and types --------------------------------------------------------------------------------------------
    def const(self, t: str, value: Number) -> V:
        """A constant of type t; vectors are splats."""
        if not t.startswith("<"):
            return V(self, t, "null" if t == "ptr" and value == 0 else literal(t, value))
        if value == 0 and not str(value).startswith("-"):
            return V(self, t, "zeroinitializer")
        e = element_of(t)
        return V(self, t, "<" + ", ".join([f"{e} {literal(e, value)}"] * lanes_of(t)) + ">")

    def constants(self, t: str, values: Sequence[Number]) -> V:
        """A vector constant with the given element type and values."""
        return V(self, vector(t, len(values)), "<" + ", ".join(f"{t} {literal(t, v)}" for v in values) + ">")

    def iota(self, t: str, lanes: int) -> V:
        """<0, 1, 2, ...>; the scalar 0 for one lane."""
        return self.constants(t, list(range(lanes))) if lanes > 1 else self.const(t, 0)

    def coerce(self, x: V | Number, t: str) -> V:
        return x if isinstance(x, V) else self.const(t, x)

    def unify(self, a: V, b: V) -> tuple[V, V]:
        """Splat a scalar beside a vector of the same element type."""
        if element_of(a.type) == element_of(b.type) and 1 in (a.lanes, b.lanes):
            return (self.splat(a, b.lanes), b) if a.lanes == 1 else (a, self.splat(b, a.lanes))
        raise TypeError(f"operands of different types: {a} and {b}")

    def splat(self, x: V, lanes: int) -> V:
        if lanes == 1 or x.lanes == lanes:
            return x
        t = vector(x.type, lanes)
        first = self.emit(t, f"insertelement {t} poison, {x.type} {x.name}, i32 0")
        return self.emit(t, f"shufflevector {t} {first.name}, {t} poison, <{lanes} x i32> zeroinitializer")

    def extract(self, x: V, i: int | V) -> V:
        if x.lanes == 1:
            return x
        i = self.coerce(i, "i32")
        return self.emit(element_of(x.type), f"extractelement {x.type} {x.name}, {i.type} {i.name}")

    def insert(self, x: V, value: V, i: int | V) -> V:
        if x.lanes == 1:
            return value
        i = self.coerce(i, "i32")
        return self.emit(x.type, f"insertelement {x.type} {x.name}, {value.type} {value.name}, {i.type} {i.name}")

    def shuffle(self, a: V, b: V | None, mask: Sequence[int]) -> V:
        t = vector(element_of(a.type), len(mask))
        index = ", ".join(f"i32 {m}" if m >= 0 else "i32 poison" for m in mask)
        return self.emit(t, f"shufflevector {a.type} {a.name}, {a.type} {b.name if b else 'poison'}, <{len(mask)} x i32> <{index}>")

    def cast(self, x: V, t: str, signed: bool = True) -> V:
        """Numeric conversion to element type t (lanes kept): C semantics; float to int must be in range (see math for saturating)."""
        target = vector(element_of(t), x.lanes)
        if x.type == target:
            return x
        a, b = is_float(x.type), is_float(target)
        wider = bits_of(target) > bits_of(x.type)
        if a and b:
            if {element_of(x.type), element_of(target)} == {"half", "bfloat"}:
                x, wider = self.cast(x, "float"), False
            op = "fpext" if wider else "fptrunc"
        elif a:
            op = "fptosi" if signed else "fptoui"
        elif b:
            op = "sitofp" if signed and element_of(x.type) != "i1" else "uitofp"
        else:
            op = ("sext" if signed and element_of(x.type) != "i1" else "zext") if wider else "trunc"
        return self.emit(target, f"{op} {x.type} {x.name} to {target}")

    def bitcast(self, x: V, t: str) -> V:
        return x if x.type == t else self.emit(t, f"bitcast {x.type} {x.name} to {t}")

    def to_int(self, p: V) -> V:
        return self.emit("i64", f"ptrtoint ptr {p.name} to i64")

    def to_ptr(self, i: V) -> V:
        return self.emit("ptr", f"inttoptr i64 {i.name} to ptr")

    def select(self, cond: V, a: V | Number, b: V | Number) -> V:
        if not isinstance(a, V):
            assert isinstance(b, V), "select needs at least one typed value"
            a = self.const(b.type, a)
        b = self.coerce(b, a.type)
        if a.type != b.type:
            a, b = self.unify(a, b)
        if cond.lanes == 1 and a.lanes > 1:
            cond = self.splat(cond, a.lanes)
        elif cond.lanes > 1 and a.lanes == 1:
            a, b = self.splat(a, cond.lanes), self.splat(b, cond.lanes)
        return self.emit(a.type, f"select {cond.type} {cond.name}, {a.type} {a.name}, {b.type} {b.name}")

    def smin(self, a: V, b: V | Number) -> V:
        """Minimum; of floats: the ordered comparison a < b ? a : b."""
        return self.select(a < b, a, b)

    def smax(self, a: V, b: V | Number) -> V:
        return self.select(a > b, a, b)

    # --- memory ---------------------------------------------------------------------------------------------------------
    def offset(self, p: V, nbytes: V | int) -> V:
        """p + nbytes."""
        if isinstance(nbytes, int) and nbytes == 0:
            return p
        nbytes = self.coerce(nbytes, "i64")
        return self.emit("ptr", f"getelementptr i8, ptr {p.name}, i64 {nbytes.name}")

    def at(self, p: V, index: V | int, scale: int) -> V:
        """p + index * scale bytes."""
        if isinstance(index, int):
            return self.offset(p, index * scale)
        t = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}.get(scale, f"[{scale} x i8]")
        return self.emit("ptr", f"getelementptr {t}, ptr {p.name}, i64 {index.name}")

    def load(self, t: str, p: V, align: int | None = None, attributes: str = "") -> V:
        """A load; `align` in bytes defaults to the element's size (vectors: unaligned loads)."""
        align = align or max(1, bits_of(t) // 8)
        return self.emit(t, f"load {t}, ptr {p.name}, align {align}{attributes}")

    def store(self, value: V, p: V, align: int | None = None) -> None:
        align = align or max(1, bits_of(value.type) // 8)
        self.line(f"store {value.type} {value.name}, ptr {p.name}, align {align}")

    def masked_load(self, t: str, p: V, mask: V, align: int | None = None) -> V:
        """Load lanes where mask is set, zero elsewhere; memory behind clear lanes isn't touched."""
        align = align or max(1, bits_of(t) // 8)
        return self.intrinsic("llvm.masked.load", t, [p, mask, self.const(t, 0)], [t, "ptr"], {0: f"align {align}"})

    def masked_store(self, value: V, p: V, mask: V, align: int | None = None) -> None:
        align = align or max(1, bits_of(value.type) // 8)
        self.intrinsic("llvm.masked.store", "void", [value, p, mask], [value.type, "ptr"], {1: f"align {align}"})

    def gather(self, t: str, base: V, index: V, scale: int) -> V:
        """Lanes base[index * scale]; t is the vector type; index a vector of i64 or i32."""
        lanes = [self.load(element_of(t), self.at(base, self.cast(self.extract(index, i), "i64"), scale)) for i in range(lanes_of(t))]
        return self.pack(lanes)

    def pack(self, scalars: Sequence[V]) -> V:
        """A vector of the given scalars."""
        if len(scalars) == 1:
            return scalars[0]
        t = vector(scalars[0].type, len(scalars))
        v = V(self, t, "poison")
        for i, s in enumerate(scalars):
            v = self.insert(v, s, i)
        return v

    def alloca(self, nbytes: int, align: int = 64) -> V:
        """Scratch on the stack, in the entry block."""
        name = f"%s{len(self._allocas)}"
        self._allocas.append(f"  {name} = alloca [{nbytes} x i8], align {align}")
        return V(self, "ptr", name)

    def var(self, t: str, init: V | Number) -> Var:
        name = f"%s{len(self._allocas)}"
        self._allocas.append(f"  {name} = alloca {t}")
        variable = Var(self, t, V(self, "ptr", name))
        variable.set(init)
        return variable

    # --- control ----------------------------------------------------------------------------------------------------------
    @contextmanager
    def loop(self, start: V | int, stop: V | int, step: V | int = 1) -> Iterator[V]:
        """for i in range(start, stop, step), step > 0; i is i64. No iteration where start >= stop."""
        i = self.var("i64", start)
        head, body, end = self.label("loop"), self.label("body"), self.label("end")
        self.place(head)
        now = i.get()
        self.branch(now < stop, body, end)
        self.place(body)
        yield now
        i.set(now + step)
        self.jump(head)
        self.place(end)

    @contextmanager
    def when(self, cond: V) -> Iterator[None]:
        """if cond: ...   (see `either` for else)."""
        then, end = self.label("then"), self.label("end")
        self.branch(cond, then, end)
        self.place(then)
        yield
        self.jump(end)
        self.place(end)

    @contextmanager
    def either(self, cond: V) -> Iterator[Otherwise]:
        """with f.either(c) as o: (then part); o.otherwise(); (else part)."""
        then, other, end = self.label("then"), self.label("else"), self.label("end")
        self.branch(cond, then, other)
        self.place(then)
        o = Otherwise(self, other, end)
        yield o
        self.jump(end)
        if not o.used:
            self.place(other)
        self.place(end)

    @contextmanager
    def forever(self) -> Iterator[Forever]:
        """while True: leave with `with ... as l: l.break_if(cond)`."""
        head, end = self.label("loop"), self.label("end")
        self.place(head)
        yield Forever(self, end)
        self.jump(head)
        self.place(end)

    # --- calls ------------------------------------------------------------------------------------------------------------
    def call(self, name: str, ret: str, args: Sequence[V], attributes: str = "") -> V:
        """Call a function by symbol; declares it in the module where it isn't defined there."""
        self.module.declare(name, ret, [a.type for a in args])
        text = f"call {ret} @{name}({', '.join(map(repr, args))}){attributes}"
        if ret == "void":
            self.line(text)
            return V(self, "void", "")
        return self.emit(ret, text)

    def call_pointer(self, target: V, ret: str, args: Sequence[V]) -> V:
        text = f"call {ret} {target.name}({', '.join(map(repr, args))})"
        if ret == "void":
            self.line(text)
            return V(self, "void", "")
        return self.emit(ret, text)

    def intrinsic(self, name: str, ret: str, args: Sequence[V], overload: Sequence[str] | None = None,
                  param_attributes: dict[int, str] | None = None) -> V:  # fmt: skip
        """Call llvm.*; `overload` lists the types mangled into the name (default: the return type; [] for none)."""
        suffix = "".join("." + _mangle(t) for t in ([ret] if overload is None else overload))
        full = name + suffix
        self.module.declare(full, ret, [a.type for a in args])
        parts = [f"{a.type} {(param_attributes or {}).get(i, '')} {a.name}" for i, a in enumerate(args)]
        text = f"call {ret} @{full}({', '.join(parts)})"
        if ret == "void":
            self.line(text)
            return V(self, "void", "")
        return self.emit(ret, text)

    def fma(self, a: V, b: V, c: V) -> V:
        """a * b + c: one rounding where the ISA has FMA, two elsewhere (LLVM's fmuladd)."""
        return self.intrinsic("llvm.fmuladd", c.type, [a, b, c])


class Otherwise:
    """The else branch of `Function.either`."""

    def __init__(self, f: Function, other: str, end: str):
        self.f, self.other, self.end, self.used = f, other, end, False

    def otherwise(self) -> None:
        self.f.jump(self.end)
        self.f.place(self.other)
        self.used = True


class Forever:
    """Handle of `Function.forever`."""

    def __init__(self, f: Function, end: str):
        self.f, self.end = f, end

    def break_if(self, cond: V) -> None:
        after = self.f.label("go")
        self.f.branch(cond, self.end, after)
        self.f.place(after)


class Module:
    """LLVM text of one compilation unit."""

    def __init__(self, isa: Isa):
        self.isa = isa
        self._functions: list[Function] = []
        self._declared: dict[str, str] = {}
        self._globals: dict[str, str] = {}

    def function(self, name: str, args: Sequence[tuple[str, str]], ret: str = "void", attributes: str = "nounwind",
                 internal: bool = False) -> Function:  # fmt: skip
        f = Function(self, name, args, ret, attributes, internal)
        self._functions.append(f)
        return f

    def declare(self, name: str, ret: str, args: Sequence[str]) -> None:
        self._declared.setdefault(name, f"declare {ret} @{name}({', '.join(args)})")

    def data(self, name: str, values: bytes, align: int = 64) -> str:
        """A read-only table; returns its symbol for `f.symbol`."""
        body = "".join(f"\\{b:02X}" for b in values)
        self._globals.setdefault(name, f'@{name} = private unnamed_addr constant [{len(values)} x i8] c"{body}", align {align}')
        return name

    def global_text(self, name: str, text: str) -> None:
        """Any other module-level line (an external or thread-local global, attributes)."""
        self._globals.setdefault(name, text)

    def text(self) -> str:
        bodies = [f.text() for f in self._functions]
        defined = {f.name for f in self._functions}
        declared = [d for n, d in sorted(self._declared.items()) if n not in defined]
        return "\n".join([*self._globals.values(), *declared, *bodies]) + "\n"
