"""Functions, values and closures: hand-written Programs in both drivers, which must agree and give all memory back."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from hasten.base.errors import CompileError, ExecutionError, ResourceLimit, ShapeMismatch
from hasten.lower.ownership import place
from hasten.vm.callpath import Model
from hasten.vm.program import Program
from hasten.vm.text import from_text, to_text

HEAD = """program 2
input "x" int64 (N) %x
output "out" int64 (4) %out
constant %table at 0 size 64
code
  %out = alloc output 32
  call k_put (%out, 0, 0)
  call k_put (%out, 1, 0)
  call k_put (%out, 2, 0)
  call k_put (%out, 3, 0)
"""
TAIL = "  output 0 = %out (4)\n"
TABLE = np.arange(100, 108, dtype=np.int64).tobytes()


def program(main: str, functions: str = "") -> Program:
    """A Program with input x, integers, and four integers as its output; Retain and Release are put in."""
    found = from_text(HEAD + main.strip("\n") + "\n" + TAIL + functions.lstrip("\n"))
    place(found)
    assert from_text(to_text(found)) == found
    return found


def both(toolbox: Any, main: str, functions: str = "", **options: Any) -> tuple[Model, Model]:
    return toolbox.both(program(main, functions), TABLE, **options)


def run(models: tuple[Model, Model], *x: int) -> list[int]:
    """What both give; all memory must have come back."""
    results = [model(np.array(x, np.int64)).tolist() for model in models]
    assert results[0] == results[1]
    assert [model.unreleased for model in models] == [0, 0]
    return results[0]


READ = "  read n = int64 %x [0]\n"
SUM = """
function sum (n)
  if n
    invoke sum (n - 1) -> (s)
    return (s + n)
  return (0)
"""
EVEN_ODD = """
function even (n, s)
  if n
    invoke odd (n - 1, s + 1) tail
  return (s, 1)
function odd (n, s)
  if n
    invoke even (n - 1, s + 1) tail
  return (s, 0)
"""
LIST = """
function build (n)
  &l = pack 0 ()
  let k = 0
  while n - k
    let k = k + 1
    %b = alloc heap 8
    call k_put (%b, 0, k)
    &l = pack 1 (%b, &l)
  return (&l)
function fold (&f, &l, %a)
  tag more = &l
  if more
    %b = field 0 of &l
    &rest = field 1 of &l
    invoke &f (%a, %b) -> (%c)
    invoke fold (&f, &rest, %c) tail
  return (%a)
function plus (%a, %b, &self)
  read a = int64 %a [0]
  read b = int64 %b [0]
  k = field 0 of &self
  %c = alloc heap 8
  call k_put (%c, 0, a + b*k)
  return (%c)
"""


# --- functions --------------------------------------------------------------------------------------------------------
def test_recursion(toolbox: Any) -> None:
    models = both(toolbox, READ + "  invoke sum (n) -> (s)\n  call k_put (%out, 0, s)", SUM)
    for n in (0, 1, 7, 10_000):
        assert run(models, n)[0] == n * (n + 1) // 2


def test_mutual_tail_calls(toolbox: Any) -> None:
    models = both(toolbox, READ + "  invoke even (n, 0) -> (s, e)\n  call k_put (%out, 0, s)\n  call k_put (%out, 1, e)", EVEN_ODD)
    for n in (0, 1, 2, 999):
        assert run(models, n)[:2] == [n, 1 - n % 2]


def test_a_million_tail_calls_in_constant_memory(toolbox: Any) -> None:
    functions = """
function loop (n, %a)
  if n
    %s = arena 100000
    call k_put (%s, 9999, n)
    read k = int64 %s [9999]
    read a = int64 %a [0]
    %b = alloc heap 5000
    call k_put (%b, 0, a + k)
    invoke loop (n - 1, %b) tail
  return (%a)
"""
    main = READ + "  invoke loop (n, %x) -> (%a)\n  read a = int64 %a [0]\n  call k_put (%out, 0, a)"
    model = toolbox.model(program(main, functions), TABLE, max_depth=1)
    model(np.array([10]))
    before = _resident()
    n = 1_000_000
    assert model(np.array([n]))[0] == n + n * (n + 1) // 2 and model.unreleased == 0
    assert _resident() - before < 1 << 20
    assert run(both(toolbox, main, functions, max_depth=1), 300)[0] == 300 + 300 * 301 // 2


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_results_of_all_kinds_and_returns_from_everywhere(toolbox: Any) -> None:
    functions = """
function pick (n, %x)
  &v = pack n ()
  &v = pack 3 (&v, n)
  while 1
    if n
      return (%x, n*2, &v)
    %t = alloc heap 64
    call k_put (%t, 1, 55)
    if 1
      %view = view %t + 8
      return (%view, 5, &v)
"""
    functions = functions.replace("pack n ()", "pack 2 ()")
    main = READ + """
  invoke pick (n, %x) -> (%a, k, &v)
  read a = int64 %a [0]
  &inner = field 0 of &v
  tag t = &inner
  m = field 1 of &v
  call k_put (%out, 0, a)
  call k_put (%out, 1, k)
  call k_put (%out, 2, t)
  call k_put (%out, 3, m)
""".strip("\n")  # fmt: skip
    models = both(toolbox, main, functions)
    assert run(models, 0) == [55, 5, 2, 0]
    assert run(models, 7) == [7, 14, 2, 7]


def test_each_activation_has_its_own_arena_and_names(toolbox: Any) -> None:
    functions = """
function deep (n)
  %s = arena n*1000 + 8
  call k_put (%s, n*125, n)
  let own = n*3
  if n
    invoke deep (n - 1) -> (below)
    read again = int64 %s [n*125]
    return (below + again*own)
  return (0)
"""
    models = both(toolbox, READ + "  invoke deep (n) -> (s)\n  call k_put (%out, 0, s)", functions)
    assert run(models, 200)[0] == sum(3 * n * n for n in range(201))


def test_constants_and_inputs_are_values_too(toolbox: Any) -> None:
    functions = """
function third (&v)
  %c = field 0 of &v
  read a = int64 %c [0]
  read b = int64 %table [2]
  return (a, b)
"""
    main = """
  %view = view %table + 24
  &v = pack 0 (%view)
  &w = pack 0 (%x)
  invoke third (&v) -> (a, b)
  call k_put (%out, 0, a)
  call k_put (%out, 1, b)
  invoke third (&w) -> (a, b)
  call k_put (%out, 2, a)
"""
    assert run(both(toolbox, main, functions), 9)[:3] == [103, 102, 9]


def test_names_are_assigned_on_both_sides_and_in_loops(toolbox: Any) -> None:
    main = READ + """
  &v = pack 0 ()
  if n
    &w = pack 1 (&v, n)
    %b = alloc heap 8
  else
    &w = &v
    %b = view %table
  let k = n
  while k
    &next = pack 1 (&w, k)
    &w = &next
    let k = k - 1
  let s = 0
  tag t = &w
  while t
    m = field 1 of &w
    &w = field 0 of &w
    tag t = &w
    let s = s + m
  call k_put (%out, 0, s)
  if n
    call k_put (%b, 0, 77)
  read b = int64 %b [0]
  call k_put (%out, 1, b)
""".strip("\n")  # fmt: skip
    models = both(toolbox, main)
    assert run(models, 0)[:2] == [0, 100]
    assert run(models, 5)[:2] == [20, 77]


def test_closures(toolbox: Any) -> None:
    main = READ + """
  invoke build (n) -> (&l)
  &f = pack 2 (10)
  invoke fold (&f, &l, %x) -> (%a)
  read a = int64 %a [0]
  call k_put (%out, 0, a)
""".strip("\n")  # fmt: skip
    models = both(toolbox, main, LIST)
    assert run(models, 5)[0] == 5 + 10 * 15
    assert run(models, 5000)[0] == 5000 + 10 * 5000 * 5001 // 2


def test_deep_values_are_freed_without_recursion(toolbox: Any) -> None:
    models = both(toolbox, READ + "  invoke build (n) -> (&l)\n  tag t = &l\n  call k_put (%out, 0, t)", LIST)
    assert run(models, 20_000)[0] == 1


def test_references_that_are_shared(toolbox: Any) -> None:
    functions = """
function twice (&v)
  &w = pack 5 (&v, &v)
  &w = pack 6 (&w, &v, &w)
  return (&w, &w)
"""
    main = READ + """
  %b = alloc heap 8
  call k_put (%b, 0, n)
  &v = pack 4 (%b, %b)
  invoke twice (&v) -> (&p, &q)
  &r = field 2 of &p
  &r = field 1 of &r
  %c = field 1 of &r
  read c = int64 %c [0]
  tag t = &q
  call k_put (%out, 0, c)
  call k_put (%out, 1, t)
""".strip("\n")  # fmt: skip
    assert run(both(toolbox, main, functions), 12)[:2] == [12, 6]


def test_large_blocks(toolbox: Any) -> None:
    main = READ + """
  &l = pack 0 ()
  let k = 0
  while n - k
    %b = alloc heap k*100000 + 1
    call k_put (%b, 0, k)
    &l = pack 1 (%b, &l)
    let k = k + 1
  let s = 0
  tag t = &l
  while t
    %b = field 0 of &l
    read b = int64 %b [0]
    &l = field 1 of &l
    tag t = &l
    let s = s + b
  call k_put (%out, 0, s)
""".strip("\n")  # fmt: skip
    assert run(both(toolbox, main), 30)[0] == 435


# --- limits and failures ----------------------------------------------------------------------------------------------
DEPTH = r"function 'sum': the recursion is too deep: more than 20 activations wait"


def test_the_depth_guard(toolbox: Any) -> None:
    models = both(toolbox, READ + "  invoke sum (n) -> (s)\n  call k_put (%out, 0, s)", SUM, max_depth=20)
    assert run(models, 19)[0] == 190
    for model in models:
        with pytest.raises(ResourceLimit, match=DEPTH):
            model(np.array([20]))
        assert model(np.array([19]))[0] == 190


FAIL = """
function fail (n, &l, %x)
  %s = arena 1000
  %h = alloc heap 100000
  &l = pack 1 (%x, &l)
  if n
    invoke fail (n - 1, &l, %x) -> (k)
    return (k)
  read why = int64 %x [0]
  check why != 2 shape "must not be two"
  check why != 3 value "must not be three"
  if if_eq(why, 4, 1, 0)
    %big = alloc heap 0 - why
    call k_put (%big, 0, 1)
  call k_status (why) at "Gather 'tokens'"
  call k_put (%x, 0 - why, 0)
  return (0)
"""


def failing() -> Program:
    """Fails in a way that the input says, with much memory around it; not for 0."""
    main = "  invoke build (40) -> (&l)\n  invoke fail (30, &l, %x) -> (k)\n  call k_put (%out, 0, k)"
    return program(main, LIST.strip("\n") + FAIL)


def test_failures_in_functions(toolbox: Any) -> None:
    for model in toolbox.both(failing(), TABLE):
        assert model(np.array([0]))[0] == 0 and model.unreleased == 0
        with pytest.raises(ExecutionError, match=r"^Gather 'tokens': an index is out of range"):
            model(np.array([1]))
        with pytest.raises(ShapeMismatch, match=r"must not be two \(why != 2 does not hold: 2 and 2\)"):
            model(np.array([2]))
        with pytest.raises(ExecutionError, match=r"must not be three \(why != 3 does not hold: 3 and 3\)"):
            model(np.array([3]))
        with pytest.raises(ResourceLimit, match="out of memory"):
            model(np.array([4]))
        with pytest.raises(ExecutionError, match="unknown status"):
            model(np.array([12]))
        assert model(np.array([0]))[0] == 0 and model.unreleased == 0


def test_failing_runs_leak_nothing(toolbox: Any) -> None:
    model = toolbox.model(failing(), TABLE)

    def rounds(count: int) -> None:
        for n in range(count):
            with pytest.raises((ExecutionError, ShapeMismatch, ResourceLimit)):
                model(np.array([1 + n % 4]))

    rounds(100)
    before = _resident()
    rounds(1000)
    assert _resident() - before < 2 << 20


def test_what_a_run_forgets_is_counted_and_goes(toolbox: Any) -> None:
    """Without Release nothing is given back before the end; then all is."""
    found = from_text(HEAD + READ + "  invoke build (n) -> (&l)\n" + TAIL + LIST.lstrip("\n"))
    for model in toolbox.both(found, TABLE):
        model(np.array([10]))
        assert model.unreleased == 21
    model = toolbox.model(found, TABLE)
    model(np.array([10_000]))
    before = _resident()
    for _ in range(30):
        model(np.array([10_000]))
    assert _resident() - before < 1 << 20
    model.trim()
    assert model(np.array([3]))[0] == 0


@pytest.mark.parametrize(
    ("main", "functions", "text"),
    [
        ("  invoke nothing (1)", "", "none of its functions"),
        ("  invoke sum (%x) -> (s)", SUM, "takes 'i', it is given 'b'"),
        ("  invoke sum (1) -> (&s)", SUM, "returns 'i', its caller takes 'v'"),
        ("  invoke sum (1) tail", SUM, "main code"),
        ("  return ()", "", "main code"),
        ("  invoke f ()", "function f ()\n  output 0 = %table (4)\n", "output of the program"),
        ("  invoke f ()", "function f ()\n  let k = m\n", "before anything assigns it"),
    ],
)
def test_programs_that_make_no_sense(toolbox: Any, main: str, functions: str, text: str) -> None:
    with pytest.raises(CompileError, match=text):
        toolbox.model(program(main, functions), TABLE)


@pytest.mark.parametrize(
    ("main", "text"),
    [
        ("  &v = pack 1 ()\n  release &v\n  tag k = &v", "uses 'v' before"),
        ("  &v = pack 1 ()\n  &w = &v\n  release &v\n  tag k = &w", "after its last reference"),
        ("  &v = pack 1 ()\n  &w = &v\n  release &v\n  release &w", "after its last reference"),
        ("  %b = alloc heap 8\n  %c = view %b\n  release %b\n  call k_put (%c, 0, 1)", "after its last reference"),
        ("  %s = arena 64\n  &v = pack 0 (%s)", "memory of an arena"),
        ("  &v = pack 0 (7)\n  %b = field 0 of &v", "of another kind"),
        ("  &v = pack 0 (7)\n  k = field 1 of &v", "field 1 of a value with 1 fields"),
    ],
)  # fmt: skip
def test_the_interpreter_finds_faults_of_references(toolbox: Any, main: str, text: str) -> None:
    found = from_text(HEAD + main + "\n" + TAIL)
    with pytest.raises(CompileError, match=text):
        toolbox.model(found, TABLE, interpreted=True)(np.array([1]))


# --- threads, stacks, signals -------------------------------------------------------------------------------------------
DEEP = READ + "  invoke sum (n) -> (s)\n  call k_put (%out, 0, s)"


@pytest.mark.parametrize("stack", [0, 32 << 10])
def test_deep_recursion_needs_no_stack(toolbox: Any, stack: int) -> None:
    """In many threads at once, with stacks of the usual size and of the smallest one that Python makes."""
    model = toolbox.model(program(DEEP, SUM), TABLE)
    found: list[int] = []
    old = threading.stack_size(stack)
    try:
        threads = [threading.Thread(target=lambda n=n: found.append(int(model(np.array([n]))[0]))) for n in range(90_000, 90_008)]
        for t in threads:
            t.start()
    finally:
        threading.stack_size(old)
    for t in threads:
        t.join()
    assert sorted(found) == [n * (n + 1) // 2 for n in range(90_000, 90_008)]


def test_one_model_in_many_threads(toolbox: Any) -> None:
    main = READ + "  invoke build (n) -> (&l)\n  &f = pack 2 (2)\n  invoke fold (&f, &l, %x) -> (%a)\n  read a = int64 %a [0]\n  call k_put (%out, 0, a)"
    model = toolbox.model(program(main, LIST), TABLE)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for k in range(200):
            n = (seed * 37 + k * 11) % 300
            if model(np.array([n]))[0] != n + n * (n + 1):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


_SMALL_STACK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_STACK, (256 << 10, 256 << 10))
import os
if len(sys.argv) == 1:
    os.execv(sys.executable, [sys.executable, sys.argv[0], "again"])
import numpy as np
from hasten.vm import file
model = file.read({path!r}).model()
print(int(model(np.array([99_000]))[0]))
"""


def test_deep_recursion_in_a_main_thread_with_a_small_stack(toolbox: Any, tmp_path: Any) -> None:
    from hasten.vm import file

    found = program(DEEP, SUM)
    path = tmp_path / "deep.hasten"
    path.write_bytes(file.to_bytes(found, toolbox.image(found), toolbox.runtime, TABLE, toolbox.isa, 1, {}))
    script = tmp_path / "small.py"
    script.write_text(_SMALL_STACK.format(path=str(path)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(99_000 * 99_001 // 2), done.stderr
    assert resource.getrlimit(resource.RLIMIT_STACK)[0] != 256 << 10


def test_signals_end_a_recursion(toolbox: Any) -> None:
    class Stop(Exception):
        pass

    def handler(*_: object) -> None:
        raise Stop

    endless = "function loop (n, &v)\n  &w = pack 1 (n)\n  invoke loop (n + 1, &w) tail\n"
    main = "  &v = pack 0 ()\n  read n = int64 %x [0]\n  if n\n    invoke loop (0, &v)\n"
    model = toolbox.model(program(main, endless), TABLE)
    old = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(3):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Stop):
                model(np.array([1]))
            assert model(np.array([0]))[0] == 0 and model.unreleased == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
