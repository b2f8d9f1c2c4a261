"""The linker: ELF objects of LLVM to one position independent image (`hasten.vm.image.Image`).

Understands what LLVM emits for x86-64 and AArch64 with PIC and the small code model. Global symbols of all objects see
each other; what no object defines becomes an import, reached through a GOT slot (data) or a stub (calls).

    RX: all code, stubs of imported functions, read-only data
    RW: GOT slots of imports, GOT slots of own symbols, data (also LLVM's .data.rel.ro: constants with pointers), zeros

Unwind tables are dropped: nothing in an image may throw. A name defined twice is an error, unless one definition is
weak (`linkonce_odr` and the like: the strong or first one wins) or both are the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from hasten.base.errors import CompileError
from hasten.vm.image import PAGE_SIZES, Image

__all__ = ["Image", "link"]

_MACHINES = {62: "x86_64", 183: "aarch64"}
_ALLOC, _WRITE, _EXECUTE, _TLS = 0x2, 0x1, 0x4, 0x400
_SYMTAB, _RELA, _NOBITS = 2, 4, 8
_CONSTRUCTORS = (".ctors", ".dtors", ".init_array", ".fini_array", ".preinit_array")
_UNDEFINED, _ABSOLUTE, _COMMON = 0, 0xFFF1, 0xFFF2
_LOCAL, _GLOBAL, _WEAK = 0, 1, 2
_GROUPS = ("code", "constants", "data", "zeroed")


@dataclass(eq=False)
class _Section:
    """A piece of one object that is loaded; `address` is its offset in the image once laid out."""

    name: str
    group: str
    size: int
    alignment: int
    data: bytes
    relocations: list[_Relocation] = field(default_factory=list)
    address: int = -1


@dataclass(eq=False)
class _Symbol:
    name: str
    binding: int
    section: _Section | None
    value: int
    size: int

    @property
    def address(self) -> int:
        assert self.section is not None
        return self.section.address + self.value


class _Relocation(NamedTuple):
    offset: int
    type: int
    symbol: _Symbol
    addend: int


def link(objects: Sequence[bytes], exports: Sequence[str]) -> Image:
    """Links `objects` (ELF, all for one machine) to an image that exports the named global symbols.

    Raises CompileError for an export that no object defines, a name defined twice, or anything in an object that
    position independent kernels cannot have (thread-local data, absolute addresses in code, constructors).
    """
    if not objects:
        raise CompileError("nothing to link: no objects were given")
    machines = {_machine(data) for data in objects}
    if len(machines) > 1:
        raise CompileError(f"objects of different machines cannot be linked: {', '.join(sorted(machines))}")
    sections: list[_Section] = []
    symbols: dict[str, _Symbol] = {}
    for data in dict.fromkeys(objects):  # the same object given twice counts once
        own_sections, own_symbols = _read_object(data)
        sections += own_sections
        for symbol in own_symbols:
            _define(symbols, symbol)
    missing = [name for name in exports if name not in symbols]
    if missing:
        raise CompileError(f"exported symbols that no object defines: {', '.join(missing)}")
    return _Layout(machines.pop(), sections, symbols).image(exports)


def _define(symbols: dict[str, _Symbol], symbol: _Symbol) -> None:
    """Enters a global definition; settles it with an earlier one of the same name."""
    earlier = symbols.setdefault(symbol.name, symbol)
    if earlier is symbol or symbol.binding == _WEAK:
        return
    if earlier.binding == _WEAK:
        symbols[symbol.name] = symbol
    elif _content(earlier) != _content(symbol):
        raise CompileError(f"symbol {symbol.name!r} is defined twice with different content")


def _content(symbol: _Symbol) -> object:
    """What a symbol stands for, comparable across objects; unequal to all others where that cannot be told."""
    section = symbol.section
    assert section is not None
    start, end = symbol.value, symbol.value + symbol.size
    relocations = [r for r in section.relocations if start <= r.offset < end]
    if symbol.size == 0 or any(r.symbol.binding == _LOCAL for r in relocations):
        return object()
    named = [(r.offset - start, r.type, r.symbol.name, r.addend) for r in relocations]
    return section.group, symbol.size, section.data[start:end], named


# Reading an object.


def _machine(data: bytes) -> str:
    if len(data) < 64 or data[:6] != b"\x7fELF\x02\x01" or data[16:18] != b"\x01\x00":
        raise CompileError("not a relocatable 64-bit little-endian ELF object")
    (number,) = struct.unpack_from("<H", data, 18)
    if number not in _MACHINES:
        raise CompileError(f"objects of ELF machine {number} cannot be linked, only {', '.join(_MACHINES.values())}")
    return _MACHINES[number]


class _Header(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


def _read_object(data: bytes) -> tuple[list[_Section], list[_Symbol]]:
    """The loaded sections of an object with their relocations, and its global definitions."""
    try:
        table, _, _, _, _, entry_size, count, names_at = struct.unpack_from("<QIHHHHHH", data, 40)
        headers = [_Header(*struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry_size)) for i in range(count)]
        names = _contents(data, headers[names_at])
        sections = {i: s for i, h in enumerate(headers) if (s := _read_section(data, h, _text(names, h.name)))}
        symbols: list[_Symbol] = []
        for header in headers:
            if header.type == _SYMTAB:
                symbols = list(_read_symbols(data, header, headers[header.link], sections))
        for header in headers:
            if header.type == _RELA and header.info in sections:
                _read_relocations(data, header, sections[header.info], symbols)
    except (struct.error, IndexError) as error:
        raise CompileError(f"an object is malformed: {error}") from None
    return list(sections.values()), [s for s in symbols if s.section is not None and s.binding != _LOCAL]


def _read_section(data: bytes, header: _Header, name: str) -> _Section | None:
    """The section, if it is one to load."""
    if not header.flags & _ALLOC or name.startswith((".eh_frame", ".note", ".comment")):
        return None
    if header.flags & _TLS or name.startswith(_CONSTRUCTORS):
        raise CompileError(f"section {name}: kernels can have neither thread-local data nor constructors")
    if header.alignment > 4096:
        raise CompileError(f"section {name}: alignment {header.alignment} is above a page")
    if header.type == _NOBITS:
        return _Section(name, "zeroed", header.size, max(header.alignment, 1), b"")
    group = "code" if header.flags & _EXECUTE else "data" if header.flags & _WRITE else "constants"
    return _Section(name, group, header.size, max(header.alignment, 1), _contents(data, header))


def _read_symbols(
    data: bytes, header: _Header, names_header: _Header, sections: dict[int, _Section]
) -> Iterator[_Symbol]:
    names = _contents(data, names_header)
    for name_at, info, _, index, value, size in struct.iter_unpack("<IBBHQQ", _contents(data, header)):
        name, binding = _text(names, name_at), info >> 4
        if binding not in (_LOCAL, _GLOBAL):
            binding = _WEAK
        if index == _COMMON:  # zeroed data that any definition overrides; `value` is its alignment
            section = _Section(".common", "zeroed", size, max(value, 1), b"")
            sections[-1 - len(sections)] = section
            yield _Symbol(name, _WEAK, section, 0, size)
        else:
            yield _Symbol(name, binding, sections.get(index), value, size)


def _read_relocations(data: bytes, header: _Header, section: _Section, symbols: list[_Symbol]) -> None:
    for offset, info, addend in struct.iter_unpack("<QQq", _contents(data, header)):
        section.relocations.append(_Relocation(offset, info & 0xFFFFFFFF, symbols[info >> 32], addend))


def _contents(data: bytes, header: _Header) -> bytes:
    if header.offset + header.size > len(data):
        raise IndexError("a section ends behind the object")
    return data[header.offset : header.offset + header.size]


def _text(names: bytes, at: int) -> str:
    return names[at : names.index(b"\0", at)].decode() if at < len(names) else ""


# Relocations. `place` is the offset in the image of what is patched, `value` the offset of what it refers to.

_Patch = Callable[[bytearray, int, int, int], None]


class _Rule(NamedTuple):
    """How a relocation type is applied. `through` says what it refers to: the symbol, its GOT slot or its stub."""

    through: str
    patch: _Patch


def _relative(form: str) -> _Patch:
    """A signed distance of the given struct format."""

    def patch(buffer: bytearray, at: int, place: int, value: int) -> None:
        struct.pack_into(form, buffer, at, value - place)

    return patch


def _absolute(buffer: bytearray, at: int, place: int, value: int) -> None:
    struct.pack_into("<Q", buffer, at, value)


def _instruction(width: int, low_bit: int, encode: Callable[[int, int], int]) -> _Patch:
    """A signed field of an AArch64 instruction, `width` bits from `low_bit` on."""

    def patch(buffer: bytearray, at: int, place: int, value: int) -> None:
        number = encode(place, value)
        if not -(1 << (width - 1)) <= number < 1 << (width - 1):
            raise struct.error("branch target too far")
        mask = (1 << width) - 1
        (word,) = struct.unpack_from("<I", buffer, at)
        struct.pack_into("<I", buffer, at, word & ~(mask << low_bit) | (number & mask) << low_bit)

    return patch


def _page_distance(buffer: bytearray, at: int, place: int, value: int) -> None:
    """ADRP: 21 bits of pages, the lowest two apart from the rest."""
    pages = (value >> 12) - (place >> 12)
    if not -(1 << 20) <= pages < 1 << 20:
        raise struct.error("page too far")
    (word,) = struct.unpack_from("<I", buffer, at)
    struct.pack_into("<I", buffer, at, word & 0x9F00001F | (pages & 3) << 29 | ((pages >> 2) & 0x7FFFF) << 5)


def _page_offset(shift: int) -> _Patch:
    """The offset within a 4 KiB page, in units of 1 << shift, in bits 10 to 21."""

    def patch(buffer: bytearray, at: int, place: int, value: int) -> None:
        if value & ((1 << shift) - 1):
            raise struct.error("misaligned address")
        (word,) = struct.unpack_from("<I", buffer, at)
        struct.pack_into("<I", buffer, at, word & ~(0xFFF << 10) | (value & 0xFFF) >> shift << 10)

    return patch


def _words(place: int, value: int) -> int:
    return (value - place) >> 2


_RULES: dict[str, dict[int, _Rule]] = {
    "x86_64": {
        1: _Rule("pointer", _absolute),  # R_X86_64_64
        2: _Rule("symbol", _relative("<i")),  # PC32
        4: _Rule("stub", _relative("<i")),  # PLT32
        9: _Rule("got", _relative("<i")),  # GOTPCREL
        24: _Rule("symbol", _relative("<q")),  # PC64
        41: _Rule("got", _relative("<i")),  # GOTPCRELX
        42: _Rule("got", _relative("<i")),  # REX_GOTPCRELX
    },
    "aarch64": {
        257: _Rule("pointer", _absolute),  # R_AARCH64_ABS64
        260: _Rule("symbol", _relative("<q")),  # PREL64
        261: _Rule("symbol", _relative("<i")),  # PREL32
        273: _Rule("symbol", _instruction(19, 5, _words)),  # LD_PREL_LO19
        275: _Rule("symbol", _page_distance),  # ADR_PREL_PG_HI21
        277: _Rule("symbol", _page_offset(0)),  # ADD_ABS_LO12_NC
        278: _Rule("symbol", _page_offset(0)),  # LDST8_ABS_LO12_NC
        279: _Rule("stub", _instruction(14, 5, _words)),  # TSTBR14
        280: _Rule("stub", _instruction(19, 5, _words)),  # CONDBR19
        282: _Rule("stub", _instruction(26, 0, _words)),  # JUMP26
        283: _Rule("stub", _instruction(26, 0, _words)),  # CALL26
        284: _Rule("symbol", _page_offset(1)),  # LDST16_ABS_LO12_NC
        285: _Rule("symbol", _page_offset(2)),  # LDST32_ABS_LO12_NC
        286: _Rule("symbol", _page_offset(3)),  # LDST64_ABS_LO12_NC
        299: _Rule("symbol", _page_offset(4)),  # LDST128_ABS_LO12_NC
        311: _Rule("got", _page_distance),  # ADR_GOT_PAGE
        312: _Rule("got", _page_offset(3)),  # LD64_GOT_LO12_NC
        314: _Rule("stub", _relative("<i")),  # PLT32
    },
}
_STUB_SIZE = {"x86_64": 8, "aarch64": 12}


def _stub(machine: str, place: int, slot: int) -> bytes:
    """Code at `place` that jumps to the address in the GOT slot."""
    if machine == "x86_64":
        return b"\xff\x25" + struct.pack("<i", slot - (place + 6)) + b"\xcc\xcc"
    code = bytearray(struct.pack("<III", 0x90000010, 0xF9400211, 0xD61F0220))  # adrp x16; ldr x17, [x16]; br x17
    _page_distance(code, 0, place, slot)
    _page_offset(3)(code, 4, place + 4, slot)
    return bytes(code)


# Laying out and patching.


class _Layout:
    """Places everything in the address space of the image, then builds the image."""

    def __init__(self, machine: str, sections: list[_Section], symbols: dict[str, _Symbol]) -> None:
        self.machine = machine
        self.sections = [s for group in _GROUPS for s in sections if s.group == group]
        self.symbols = symbols
        self.imports: dict[str, int] = {}  # name -> number of its GOT slot
        self.own_slots: dict[_Symbol, int] = {}  # own symbol -> number of its GOT slot, behind those of the imports
        self.stubs: dict[str, int] = {}  # name -> number of its stub
        self._collect()
        self._place()

    def _collect(self) -> None:
        """Finds what needs a GOT slot or a stub."""
        for section in self.sections:
            for relocation in section.relocations:
                if relocation.type == 0:
                    continue
                rule = self._rule(section, relocation)
                symbol = self._resolve(relocation.symbol)
                if symbol.section is not None:
                    if rule.through == "got":
                        self.own_slots.setdefault(symbol, len(self.own_slots))
                elif rule.through not in ("got", "stub") or not symbol.name:
                    self._refuse(section, f"the address of external {symbol.name!r} must come from the GOT")
                else:
                    self.imports.setdefault(symbol.name, len(self.imports))
                    if rule.through == "stub":
                        self.stubs.setdefault(symbol.name, len(self.stubs))

    def _rule(self, section: _Section, relocation: _Relocation) -> _Rule:
        rule = _RULES[self.machine].get(relocation.type)
        if rule is None:
            self._refuse(section, f"relocation type {relocation.type} to {relocation.symbol.name!r} is not supported")
        if rule.through == "pointer" and section.group != "data":
            self._refuse(section, f"the absolute address of {relocation.symbol.name!r} is not position independent")
        return rule

    def _refuse(self, section: _Section, why: str) -> NoReturn:
        raise CompileError(f"section {section.name} ({self.machine}): {why}")

    def _resolve(self, symbol: _Symbol) -> _Symbol:
        """The definition that `symbol` refers to; itself, without a section, for an import."""
        return symbol if symbol.binding == _LOCAL else self.symbols.get(symbol.name, symbol)

    def _place(self) -> None:
        at = self._place_group("code", 0)
        self.stubs_start = _align(at, 16)
        at = self.stubs_start + len(self.stubs) * _STUB_SIZE[self.machine]
        self.rx_size = self._place_group("constants", at)
        self.rw_start = _align(self.rx_size, PAGE_SIZES[self.machine])
        got_size = 8 * (len(self.imports) + len(self.own_slots))
        self.data_end = self._place_group("data", self.rw_start + got_size)
        self.end = self._place_group("zeroed", self.data_end)

    def _place_group(self, group: str, at: int) -> int:
        for section in self.sections:
            if section.group == group:
                section.address = _align(at, section.alignment)
                at = section.address + section.size
        return at

    def image(self, exports: Sequence[str]) -> Image:
        memory = bytearray(self.data_end)
        for name, number in self.stubs.items():
            at = self.stubs_start + number * _STUB_SIZE[self.machine]
            stub = _stub(self.machine, at, self._slot(self.imports[name]))
            memory[at : at + len(stub)] = stub
        fixups: list[int] = []
        for symbol, number in self.own_slots.items():
            at = self._slot(len(self.imports) + number)
            struct.pack_into("<Q", memory, at, symbol.address)
            fixups.append(at)
        for section in self.sections:
            if section.data:
                memory[section.address : section.address + section.size] = section.data
            for relocation in section.relocations:
                if relocation.type != 0:
                    self._apply(memory, section, relocation, fixups)
        return Image(
            machine=self.machine,
            rx=bytes(memory[: self.rx_size]),
            rw=bytes(memory[self.rw_start :]),
            rw_size=self.end - self.rw_start,
            imports=tuple(self.imports),
            fixups=tuple(fixups),
            symbols={name: self.symbols[name].address for name in exports},
        )

    def _slot(self, number: int) -> int:
        return self.rw_start + 8 * number

    def _apply(self, memory: bytearray, section: _Section, relocation: _Relocation, fixups: list[int]) -> None:
        rule = self._rule(section, relocation)
        at = section.address + relocation.offset
        try:
            rule.patch(memory, at, at, self._target(relocation, rule) + relocation.addend)
        except struct.error as error:
            self._refuse(section, f"relocation to {relocation.symbol.name!r} cannot be applied: {error}")
        if rule.through == "pointer":
            fixups.append(at)

    def _target(self, relocation: _Relocation, rule: _Rule) -> int:
        """The offset in the image that a relocation refers to, before its addend."""
        symbol = self._resolve(relocation.symbol)
        if rule.through == "got":
            own = symbol.section is not None
            return self._slot(len(self.imports) + self.own_slots[symbol] if own else self.imports[symbol.name])
        if symbol.section is not None:
            return symbol.address
        return self.stubs_start + self.stubs[symbol.name] * _STUB_SIZE[self.machine]


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
