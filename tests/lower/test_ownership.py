"""Retain and Release that the compiler places: random code without them gives all memory back, and nothing that was given back is used."""

from __future__ import annotations

import numpy as np
import pytest
from tests.conftest import SEED

from hasten.base import dims as D
from hasten.base.errors import HastenError
from hasten.codegen import isa as isas
from hasten.codegen.builder import Module
from hasten.codegen.link import link
from hasten.codegen.llvm import compile_text
from hasten.lower.ownership import place
from hasten.vm import abi
from hasten.vm import program as P
from hasten.vm.callpath import make_model
from hasten.vm.image import Image
from hasten.vm.native import emit_runtime
from hasten.vm.text import from_text, to_text

VALUES, BUFFERS = ["u", "v", "w"], ["a", "b", "c"]
ACC = D.symbol("acc")

LIBRARY = """
function swap (&p, &q, n)
  if n
    return (&q, &p)
  return (&p, &q)
function wrap (&p, %b, k)
  if k
    &p = pack 1 (&p, %b, k)
    invoke wrap (&p, %b, k - 1) tail
  return (&p)
function total (&p)
  tag t = &p
  if t
    %b = field 1 of &p
    read r = int64 %b [0]
    &p = field 0 of &p
    invoke total (&p) -> (s)
    return (mod(r + s*7, 1000))
  return (5)
function walk (&p, acc)
  while 1
    tag t = &p
    if t
      n = field 2 of &p
      let acc = mod(acc*3 + n, 1000)
      &p = field 0 of &p
    else
      return (acc)
function apply (n, &self)
  &p = field 0 of &self
  %b = field 1 of &self
  &q = &p
  invoke wrap (&q, %b, n) -> (&q)
  invoke total (&p) -> (s)
  invoke walk (&q, s) tail
"""


def mixed(x: D.DimLike) -> P.Let:
    return P.Let("acc", D.mod(ACC * 31 + x, 1000))


class Grower:
    """Random code over three values, three heap buffers and an integer, all of which exist from the beginning."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.count = rng, 0

    def one(self, options: list[str]) -> str:
        return str(self.rng.choice(options))

    def value(self) -> P.Value:
        return P.Value(self.one(VALUES))

    def block(self, depth: int) -> list[P.Instruction]:
        return [i for _ in range(int(self.rng.integers(0, 6))) for i in self.step(depth)]

    def step(self, depth: int) -> list[P.Instruction]:
        makers = [self.pack, self.move, self.view, self.alloc, self.read, self.field, self.swap, self.wrap, self.total, self.closure]
        makers += [self.choice, self.loop] * (depth > 0)
        return makers[int(self.rng.integers(len(makers)))](depth)

    def fresh(self) -> str:
        self.count += 1
        return f"k{self.count}"

    def pack(self, depth: int) -> list[P.Instruction]:
        return [P.Pack(self.one(VALUES), 1, (self.value(), self.one(BUFFERS), ACC))]

    def move(self, depth: int) -> list[P.Instruction]:
        return [P.Move(self.one(VALUES), self.one(VALUES))]

    def view(self, depth: int) -> list[P.Instruction]:
        return [P.View(self.one(BUFFERS), self.one(BUFFERS))]

    def alloc(self, depth: int) -> list[P.Instruction]:
        b = self.one(BUFFERS)
        return [P.Alloc(b, 8), P.Call("k_put", (b, 0, ACC))]

    def read(self, depth: int) -> list[P.Instruction]:
        return [P.Read("r", self.one(BUFFERS), 0, "int64"), mixed(D.symbol("r"))]

    def field(self, depth: int) -> list[P.Instruction]:
        v, k = self.one(VALUES), self.fresh()
        inner: list[P.Instruction] = [P.Field(P.Value(self.one(VALUES)), v, 0)]
        if self.rng.random() < 0.5:
            inner.insert(0, P.Field(self.one(BUFFERS), v, 1))
        return [P.Tag(k, v), P.If(D.symbol(k), tuple(inner), (mixed(3),))]

    def swap(self, depth: int) -> list[P.Instruction]:
        p, q = self.rng.permutation(VALUES)[:2]
        return [P.Invoke("swap", (self.value(), self.value(), D.mod(ACC, 2)), (P.Value(str(p)), P.Value(str(q))))]

    def wrap(self, depth: int) -> list[P.Instruction]:
        return [P.Invoke("wrap", (self.value(), self.one(BUFFERS), D.mod(ACC, 5)), (self.value(),))]

    def total(self, depth: int) -> list[P.Instruction]:
        name = "total" if self.rng.random() < 0.5 else "walk"
        args: tuple[P.Operand, ...] = (self.value(),) if name == "total" else (self.value(), ACC)
        return [P.Invoke(name, args, (D.symbol("r"),)), mixed(D.symbol("r"))]

    def closure(self, depth: int) -> list[P.Instruction]:
        return [P.Pack("f", 4, (self.value(), self.one(BUFFERS))), P.Invoke(P.Value("f"), (D.mod(ACC, 4),), (D.symbol("r"),)), mixed(D.symbol("r"))]

    def choice(self, depth: int) -> list[P.Instruction]:
        return [P.If(D.mod(ACC, 2), tuple(self.block(depth - 1)), tuple(self.block(depth - 1)))]

    def loop(self, depth: int) -> list[P.Instruction]:
        k = self.fresh()
        body = [P.Let(k, D.symbol(k) - 1), *self.block(depth - 1)]
        return [P.Let(k, int(self.rng.integers(0, 4))), P.While(D.symbol(k), tuple(body))]

    def program(self) -> P.Program:
        body = "".join(f"  &{v} = pack 0 ()\n" for v in VALUES) + "".join(f"  %{b} = alloc heap 8\n  call k_put (%{b}, 0, {n})\n" for n, b in enumerate(BUFFERS))
        text = f'program 2\noutput "out" int64 (1) %out\ncode\n  %out = alloc output 8\n  let acc = 1\n  let r = 0\n{body}  call k_put (%out, 0, acc)\n'
        found = from_text(text + "  output 0 = %out (1)" + LIBRARY)
        found.instructions[-2:-2] = self.block(3)
        inside = tuple(self.block(2))  # the same in a function
        names = (*map(P.Value, VALUES), *BUFFERS, ACC)
        found.functions.append(P.Function("inside", names, (P.Let("r", 0), *inside, P.Return((P.Value("u"), "a", ACC)))))
        found.instructions[-2:-2] = [P.Invoke("inside", names, (P.Value("u"), "a", ACC))]
        return found


@pytest.fixture(scope="module")
def kernels() -> tuple[bytes, Image]:
    """k_put, and the run-time library."""
    isa = isas.get("portable")
    module = Module(isa)
    f = module.function("k_put", [("args", "ptr"), ("thread", "i64"), ("threads", "i64")])
    p, index, value = (f.load(t, f.offset(f.args[0], 8 * n)) for n, t in ((1, "ptr"), (2, "i64"), (3, "i64")))
    f.store(value, f.at(p, index, 8))
    f.ret()
    return compile_text(module.text(), isa), link([compile_text(emit_runtime(isa), isa)], abi.RUNTIME_EXPORTS)


@pytest.mark.parametrize("seed", range(60))
def test_random_code(kernels: tuple[bytes, Image], seed: int) -> None:
    """The interpreter checks every use of a reference."""
    program = Grower(np.random.default_rng([SEED, seed])).program()
    place(program)
    model = make_model(program, link([kernels[0]], ["k_put"]), b"", kernels[1], threads=1, profile=lambda i, s: None)
    try:
        model.call()
    except HastenError as error:
        raise AssertionError(f"{error}\n{to_text(program)}") from error
    assert model.unreleased == 0, to_text(program)


def placed(main: str) -> list[str]:
    program = from_text(f"program 2\ncode\n{main}")
    place(program)
    return [line.strip() for line in to_text(program).splitlines()[2:]]


def test_last_uses_hand_over_and_others_retain() -> None:
    assert placed("  &a = pack 0 ()\n  &b = pack 1 (&a, &a)\n  invoke f (&b, &a)\n") == [
        "&a = pack 0 ()", "retain &a", "retain &a", "&b = pack 1 (&a, &a)", "invoke f (&b, &a)",
    ]  # fmt: skip
    assert placed("  %a = alloc heap 8\n  %b = view %a + 4\n  call k (%b)\n  call k (%a)\n") == [
        "%a = alloc heap 8", "%b = view %a + 4", "retain %b", "call k (%b)", "release %b", "call k (%a)", "release %a",
    ]  # fmt: skip


def test_what_is_never_used_goes_at_once() -> None:
    assert placed("  &a = pack 0 ()\n  invoke f () -> (&x, %y, n)\n") == ["&a = pack 0 ()", "release &a", "invoke f () -> (&x, %y, n)", "release %y", "release &x"]


def test_each_branch_gives_up_what_only_the_other_one_needs() -> None:
    assert placed("  &a = pack 0 ()\n  &b = pack 0 ()\n  if n\n    invoke f (&a)\n  else\n    invoke f (&b)\n")[2:] == [
        "if n", "release &b", "invoke f (&a)", "else", "release &a", "invoke f (&b)",
    ]  # fmt: skip


def test_a_name_that_walks_down_a_list_keeps_one_reference() -> None:
    assert placed("  &l = pack 0 ()\n  while n\n    &l = field 1 of &l\n")[1:] == [
        "while n", "&l.old = &l", "&l = field 1 of &l", "retain &l", "release &l.old", "release &l",
    ]  # fmt: skip


def test_temporaries_that_are_released_by_hand_are_left_alone() -> None:
    text = "  %h = alloc heap 8\n  call k (%h)\n  release %h\n  %arena = arena 64\n  %t = view %arena\n  call k (%t)\n"
    assert placed(text) == [line.strip() for line in text.splitlines()]
