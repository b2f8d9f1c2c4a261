"""The text form of Programs."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hasten.base import dims as D
from hasten.base.errors import ModelError
from hasten.vm import program as P
from hasten.vm.text import LazyProgram, from_text, to_text

WORDS = st.sampled_from(["a", "b1", "N", "batch", "x_2", "none", "output"])
NAMES = st.one_of(WORDS, st.text(max_size=8))
DTYPES = st.sampled_from(["float32", "int64", "bool", "float8_e4m3fn"])


@st.composite
def dims(draw: st.DrawFn, depth: int = 2) -> D.DimLike:
    if depth == 0 or draw(st.booleans()):
        return draw(st.one_of(st.integers(-(1 << 70), 1 << 70), st.builds(D.symbol, WORDS)))
    a, b = draw(dims(depth=depth - 1)), draw(dims(depth=depth - 1))
    op = draw(
        st.sampled_from(
            [
                lambda: a + b,
                lambda: a * b,
                lambda: a - b,
                lambda: D.floordiv(a, b),
                lambda: D.mod(a, b),
                lambda: D.maximum(a, b),
                lambda: D.minimum(a, b),
                lambda: D.if_equal(a, b, a, 3),
                lambda: D.if_less(a, b, 1, b),
                lambda: D.scale_floor(a, 0.37),
            ]
        )
    )
    return op()


SHAPES = st.lists(dims(), max_size=3).map(tuple)
OPERANDS = st.one_of(
    st.none(),
    st.builds(P.HostObject, NAMES),
    st.builds(P.HostTensor, NAMES, DTYPES, st.lists(st.one_of(dims(), NAMES), max_size=3).map(tuple)),
)
LEAVES = st.one_of(
    st.builds(P.Let, WORDS, dims()),
    st.builds(P.Read, WORDS, NAMES, dims(), DTYPES, st.sampled_from([1, -1])),
    st.builds(
        P.Check,
        dims(),
        st.sampled_from(["==", "!=", "<", "<="]),
        dims(),
        st.text(),
        st.sampled_from(["shape", "value"]),
    ),
    st.builds(P.Arena, NAMES, dims()),
    st.builds(P.View, NAMES, NAMES, dims()),
    st.builds(P.Alloc, NAMES, dims(), st.sampled_from(["heap", "output"])),
    st.builds(P.Release, NAMES),
    st.builds(P.Call, NAMES, st.lists(st.one_of(dims(), NAMES), max_size=5).map(tuple), dims()),
    st.builds(
        P.Host, st.integers(0, 9), st.lists(OPERANDS, max_size=3).map(tuple), st.lists(OPERANDS, max_size=3).map(tuple)
    ),
    st.builds(P.Output, st.integers(0, 9), NAMES, SHAPES),
)
BLOCKS = st.recursive(
    st.lists(LEAVES, max_size=4).map(tuple),
    lambda inner: st.lists(
        st.one_of(LEAVES, st.builds(P.If, dims(), inner, inner), st.builds(P.While, dims(), inner)), max_size=4
    ).map(tuple),
    max_leaves=6,
)
SPECS = st.lists(
    st.one_of(
        st.builds(P.TensorSpec, st.text(), DTYPES, SHAPES, NAMES), st.builds(P.ObjectSpec, st.text(), st.text(), NAMES)
    ),
    max_size=3,
)
PROGRAMS = st.builds(
    P.Program,
    SPECS,
    SPECS,
    st.lists(st.builds(P.Constant, NAMES, st.integers(0, 1 << 40), st.integers(0, 1 << 40)), max_size=3),
    BLOCKS.map(list),
    st.lists(st.builds(P.HostOp, st.text(), st.text(), st.binary(max_size=40)), max_size=2),
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(PROGRAMS)
def test_round_trip(program: P.Program) -> None:
    text = to_text(program)
    assert from_text(text) == program
    assert text.isascii()
    assert LazyProgram(text) == program and LazyProgram(text).host_ops == program.host_ops


def test_it_reads_well() -> None:
    n = D.symbol("n")
    program = P.Program(
        [P.TensorSpec("x", "float32", (n, 3), "b0"), P.ObjectSpec("s/1", "sequence(float32)", "h0")],
        [P.TensorSpec("y", "int64", (D.symbol("d"),), "b2")],
        [P.Constant("c1", 0, 64)],
        [
            P.Arena("arena", n * 512),
            P.View("b7", "arena", n * 256),
            P.View("b8", "b7"),
            P.Call("conv2d_3f2a", ("b0", "c1", "b7", n, n * 3 - 1), n * 3000),
            P.Check(n, "==", 32, 'Concat "c": sizes differ'),
            P.Host(0, (P.HostTensor("b7", "float32", (n, 3)), None), (P.HostTensor("b9", "int64", ("d",)),)),
            P.If(n - 1, (P.Read("k", "b9", 0, "int64"),), (P.Let("k", 0),)),
            P.While(D.symbol("k"), (P.Let("k", D.symbol("k") - 1),)),
        ],
        [P.HostOp("node 5", "NonZero", b"payload")],
    )
    assert (
        to_text(program)
        == """program 2
input "x" float32 (n, 3) %b0
input "s/1" object "sequence(float32)" $h0
output "y" int64 (d) %b2
constant %c1 at 0 size 64
code
  %arena = arena n*512
  %b7 = view %arena + n*256
  %b8 = view %b7
  call conv2d_3f2a (%b0, %c1, %b7, n, n*3 - 1) work n*3000
  check n == 32 shape "Concat \\"c\\": sizes differ"
  host 0 (float32 %b7 (n, 3), none) -> (int64 %b9 ("d"))
  if n - 1
    read k = int64 %b9 [0]
  else
    let k = 0
  while k
    let k = k - 1
host_op "node 5" "NonZero" cGF5bG9hZA==
"""
    )
    assert from_text(to_text(program)) == program


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("program 1\ncode\n", 1),
        ("program 2\n", 2),
        ("program 2\ncode\n  jump 3\n", 3),
        ("program 2\ncode\n  let a = b c\n", 3),
        ("program 2\ninput x float32 () %b\ncode\n", 2),
        ("program 2\ncode\n  let a = __import__('os')\n", 3),
        ("program 2\ncode\n    let a = 1\n", 3),
        ('program 2\ncode\nhost_op "a" "b" !\n', 3),
        ("program 2\ncode\n" + "".join("  " * n + "if a\n" for n in range(1, 200)), 103),
    ],
)
def test_errors_name_the_line(text: str, line: int) -> None:
    with pytest.raises(ModelError, match=f"line {line} "):
        from_text(text)
    with pytest.raises(ModelError):
        LazyProgram(text).instructions  # noqa: B018
