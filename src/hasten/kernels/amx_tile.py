"""AMX tile instructions for bfloat16 products, on hardware or played in software.

    tiles = Tiles(f, isa)              # ldtilecfg: eight tiles of 16 rows of 64 bytes
    tiles.zero(0)
    tiles.load(4, p, 64)               # rows at p, p + 64, ...
    tiles.dot(0, 4, 6)                 # tile 0 += tile 4 (16 x 32 bfloat16) times tile 6 (16 pairs of k x 16 columns)
    tiles.store(0, q, 128)
    tiles.release()                    # at the end of the kernel

With `isa.amx == "native"` each call is one instruction. With "emulated" it is a call of an internal function of the
same module that does to a block of the kernel's stack what the instruction does to the tile registers, as Intel's manual
defines it: rows and bytes per row that the configuration leaves out are zeroed, `dot` sums even and odd k apart with
fused multiplications and adds their sum to the accumulator, subnormal inputs count as zero and subnormal results become
zero (always: no mode of the CPU changes that). So what is tested with the emulation is the kernel that the hardware
runs, bit for bit (on levels without FMA: up to products that underflow).

Memory of the emulated state: 64 bytes of configuration (palette, bytes per row at 16 + 2 t, rows at 48 + t), then eight
tiles of 16 rows of 64 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hasten.codegen.builder import Function, Module, V
from hasten.codegen.isa import Isa

TILES, ROWS, ROW_BYTES = 8, 16, 64
TILE_BYTES = ROWS * ROW_BYTES
FULL = ((ROWS, ROW_BYTES),) * TILES

_STATE_BYTES = 64 + TILES * TILE_BYTES
_LANES = ROW_BYTES // 4
_FLOATS, _INTS = f"<{_LANES} x float>", f"<{_LANES} x i32>"
_EXPONENT, _SIGN, _HIGH_HALF = 0x7F800000, -0x80000000, -0x10000


def tile_config(shapes: Sequence[tuple[int, int]]) -> bytes:
    """The 64 bytes that ldtilecfg reads, for tiles of (rows, bytes per row); palette 1."""
    assert len(shapes) <= TILES and all(0 < r <= ROWS and 0 < b <= ROW_BYTES and b % 4 == 0 for r, b in shapes)
    config = bytearray(64)
    config[0] = 1
    for t, (rows, row_bytes) in enumerate(shapes):
        config[16 + 2 * t] = row_bytes
        config[48 + t] = rows
    return bytes(config)


class Tiles:
    """The tile registers of one kernel, the only one of its module; configured where this is made."""

    def __init__(self, f: Function, isa: Isa, shapes: Sequence[tuple[int, int]] = FULL):
        assert isa.amx is not None, f"the level {isa.name} has no tiles"
        self.f, self.shapes = f, tuple(shapes)
        self._state = None
        if isa.amx == "emulated":
            self._state = f.alloca(_STATE_BYTES)
            _define_routines(f.module)
        config = f.module.data("amx_config", tile_config(shapes))
        self._do("ldtilecfg", V(f, "ptr", f"@{config}"))

    def zero(self, tile: int) -> None:
        self._do("tilezero", self._number(tile))

    def load(self, tile: int, p: V, row_bytes: int) -> None:
        """Rows at p + i * row_bytes. A row that crosses a cache line costs twice."""
        self._do("tileloadd64", self._number(tile), p, self.f.const("i64", row_bytes))

    def store(self, tile: int, p: V, row_bytes: int) -> None:
        self._do("tilestored64", self._number(tile), p, self.f.const("i64", row_bytes))

    def dot(self, into: int, a: int, b: int) -> None:
        """into[m, n] += sum over k of a[m, k] * b[k, n]; b holds pairs of k: row k / 2, column n, k % 2."""
        (m, n), (rows_a, k), (rows_b, columns) = self.shapes[into], self.shapes[a], self.shapes[b]
        assert (m, n, k) == (rows_a, columns, rows_b * 4), "shapes of the tiles do not fit"
        self._do("tdpbf16ps", self._number(into), self._number(a), self._number(b))

    def release(self) -> None:
        """Give the registers back: a context switch need not save them."""
        if self._state is None:
            self.f.intrinsic("llvm.x86.tilerelease", "void", [], [])

    def _number(self, tile: int) -> V:
        assert 0 <= tile < len(self.shapes)
        return self.f.const("i8", tile)

    def _do(self, name: str, *args: V) -> None:
        if self._state is None:
            self.f.intrinsic(f"llvm.x86.{name}", "void", list(args), [])
            return
        numbers = [self.f.const("i64", int(a.name)) if a.type == "i8" else a for a in args]
        self.f.call(_symbol(name), "void", [self._state, *numbers])


# --- the emulation ----------------------------------------------------------------------------------------------------
def _symbol(name: str) -> str:
    return f"emulated_{name}"


def _define_routines(module: Module) -> None:
    for name, (emit, args) in _ROUTINES.items():
        g = module.function(_symbol(name), [("state", "ptr"), *args], attributes="nounwind noinline", internal=True)
        emit(g, *g.args)
        g.ret()


def _rows(g: Function, state: V, tile: V) -> V:
    return g.cast(g.load("i8", g.offset(g.offset(state, 48), tile)), "i64", signed=False)


def _row_bytes(g: Function, state: V, tile: V) -> V:
    return g.cast(g.load("i16", g.at(g.offset(state, 16), tile, 2)), "i64", signed=False)


def _row(g: Function, state: V, tile: V, row: V | int) -> V:
    return g.at(g.at(g.offset(state, 64), tile, TILE_BYTES), row, ROW_BYTES)


def _present(g: Function, row_bytes: V) -> V:
    """Which 4-byte elements of a row exist."""
    return g.iota("i32", _LANES) * 4 < g.cast(row_bytes, "i32")


def _zero_rows(g: Function, state: V, tile: V, first: V | int) -> None:
    with g.loop(first, ROWS) as row:
        g.store(g.const(_INTS, 0), _row(g, state, tile, row), 64)


def _emit_config(g: Function, state: V, config: V) -> None:
    for part in range(0, 64, 8):
        g.store(g.load("i64", g.offset(config, part)), g.offset(state, part))
    with g.loop(0, TILES) as tile:
        _zero_rows(g, state, tile, 0)


def _emit_zero(g: Function, state: V, tile: V) -> None:
    _zero_rows(g, state, tile, 0)


def _emit_load(g: Function, state: V, tile: V, p: V, pitch: V) -> None:
    rows, mask = _rows(g, state, tile), _present(g, _row_bytes(g, state, tile))
    with g.loop(0, rows) as row:
        g.store(g.masked_load(_INTS, g.offset(p, row * pitch), mask, 1), _row(g, state, tile, row), 64)
    _zero_rows(g, state, tile, rows)


def _emit_store(g: Function, state: V, tile: V, p: V, pitch: V) -> None:
    rows, mask = _rows(g, state, tile), _present(g, _row_bytes(g, state, tile))
    with g.loop(0, rows) as row:
        g.masked_store(g.load(_INTS, _row(g, state, tile, row), 64), g.offset(p, row * pitch), mask, 1)


def _flushed(g: Function, value: V) -> V:
    """Subnormals as zeros of the same sign."""
    bits = g.bitcast(value, _INTS)
    return g.bitcast(g.select((bits & _EXPONENT).eq(0), bits & _SIGN, bits), _FLOATS)


def _emit_dot(g: Function, state: V, into: V, a: V, b: V) -> None:
    rows, mask = _rows(g, state, into), _present(g, _row_bytes(g, state, into))
    pairs = _row_bytes(g, state, a) / 4
    with g.loop(0, rows) as m:
        sums = [g.var(_FLOATS, 0.0), g.var(_FLOATS, 0.0)]
        with g.loop(0, pairs) as k:
            left = g.splat(g.load("i32", g.at(_row(g, state, a, m), k, 4)), _LANES)
            right = g.load(_INTS, _row(g, state, b, k), 64)
            even, odd = (left << 16, right << 16), (left & _HIGH_HALF, right & _HIGH_HALF)
            for total, pair in zip(sums, (even, odd), strict=True):
                x, y = (_flushed(g, g.bitcast(part, _FLOATS)) for part in pair)
                total.set(_flushed(g, g.fma(x, y, total.get())))
        place = _row(g, state, into, m)
        new = _flushed(g, g.load(_FLOATS, place, 64)) + _flushed(g, sums[0].get() + sums[1].get())
        g.store(g.select(mask, _flushed(g, new), 0.0), place, 64)
    _zero_rows(g, state, into, rows)


_TILE, _PLACE = ("tile", "i64"), (("p", "ptr"), ("pitch", "i64"))
_ROUTINES: dict[str, tuple[Callable[..., None], tuple[tuple[str, str], ...]]] = {
    "ldtilecfg": (_emit_config, (("config", "ptr"),)),
    "tilezero": (_emit_zero, (_TILE,)),
    "tileloadd64": (_emit_load, (_TILE, *_PLACE)),
    "tilestored64": (_emit_store, (_TILE, *_PLACE)),
    "tdpbf16ps": (_emit_dot, (("into", "i64"), ("a", "i64"), ("b", "i64"))),
}
